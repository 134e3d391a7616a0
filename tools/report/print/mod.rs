//! The printers: each knows a format, and no result.

pub(super) mod html;

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{CellAlignment, TableStyle};
use tare_units::text::{is_deceptive, visible};

use super::document::{Block, Document, Field, Shown, Table};

fn ruled(table: &Table, style: TableStyle) -> String {
    let mut set = comfy_table::Table::new();
    set.load_style(style).set_header(&table.header);
    set.add_rows(&table.rows);
    for (index, column) in set.column_iter_mut().enumerate() {
        if !table.left.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    set.trim_fmt()
}

/// The column of a field's text where names are short, and the longest name that has a column.
const NAMES: (usize, usize) = (12, 24);

/// For people at a terminal.
pub(super) fn text(document: Document) -> String {
    // A name from afar must neither drive the terminal nor forge a line.
    let document = document.map(|text| visible(&text.replace('\n', " ")).into_owned());
    let mut out = format!("{}\n", document.title);
    for alert in &document.alerts {
        out.push_str(&format!("{alert}\n"));
    }
    let mut before: Option<&Block> = None;
    for section in document.brief() {
        if section.shown == Shown::Headed {
            out.push_str(&format!("\n{}:\n", section.heading));
        }
        for (index, block) in section.blocks.iter().enumerate() {
            let is_headed = index == 0 && section.shown == Shown::Headed;
            let is_close = match (before, block) {
                (None | Some(Block::Note(_)), Block::Note(_))
                | (Some(Block::Fields(_)), Block::Fields(_))
                | (Some(Block::Heading(_)), _) => true,
                _ => is_headed || matches!(block, Block::Figure(_)),
            };
            if !is_close {
                out.push('\n');
            }
            put(&mut out, block);
            before = Some(block);
        }
    }
    out
}

fn put(out: &mut String, block: &Block) {
    match block {
        Block::Heading(text) => out.push_str(&format!("{text}:\n")),
        Block::Note(text) | Block::Loud(text) => out.push_str(&format!("{text}\n")),
        Block::Fields(fields) => put_fields(out, fields),
        Block::Lines(lines) => lines.iter().for_each(|line| out.push_str(&format!("  {line}\n"))),
        Block::Table(table) => {
            // Each cell is padded by a space, which is the second one of the indent.
            for line in ruled(table, NOTHING).lines() {
                out.push_str(&format!(" {line}\n"));
            }
            for note in &table.notes {
                out.push_str(&format!("  {note}\n"));
            }
        }
        Block::Figure(_) => {}
    }
}

fn put_fields(out: &mut String, fields: &[Field]) {
    let indent = |field: &Field| if field.is_part { 2 } else { 0 };
    let wide = |field: &Field| field.name.chars().count() + indent(field) + 1;
    let fitting = fields.iter().map(wide).filter(|width| *width <= NAMES.1);
    let width = fitting.max().unwrap_or(0).max(NAMES.0);
    for field in fields {
        let (indent, name, text) = (indent(field), &field.name, &field.text);
        if wide(field) > NAMES.1 {
            out.push_str(&format!("  {:indent$}{name}: {text}\n", ""));
        } else {
            let rest = width - indent;
            out.push_str(&format!("  {:indent$}{name:rest$}{text}\n", ""));
        }
    }
}

/// To be pasted into an issue.
pub(super) fn markdown(document: Document) -> String {
    let document = document.map(escape);
    let mut blocks = vec![format!("**{}**", document.title)];
    if !document.alerts.is_empty() {
        let alerts: Vec<String> = document.alerts.iter().map(|a| format!("- **{a}**")).collect();
        blocks.push(alerts.join("\n"));
    }
    for section in document.brief() {
        if section.shown == Shown::Headed {
            blocks.push(format!("{}:", section.heading));
        }
        for block in &section.blocks {
            match block {
                Block::Heading(text) => blocks.push(format!("{text}:")),
                Block::Note(text) | Block::Loud(text) => blocks.push(text.clone()),
                Block::Fields(fields) => blocks.push(list(fields)),
                Block::Lines(lines) => blocks.push(format!("```\n{}\n```", lines.join("\n"))),
                Block::Table(found) => {
                    blocks.push(markdown_table(found));
                    blocks.extend(found.notes.iter().cloned());
                }
                Block::Figure(_) => {}
            }
        }
    }
    blocks.join("\n\n") + "\n"
}

fn list(fields: &[Field]) -> String {
    let lines = fields.iter().map(|Field { name, text, is_part }| {
        let indent = if *is_part { "  " } else { "" };
        match name.as_str() {
            "" => format!("{indent}  {text}"),
            name => format!("{indent}- {name}: {text}"),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The table, with colons below the columns that are set to the right.
fn markdown_table(table: &Table) -> String {
    let mut lines: Vec<String> = ruled(table, ASCII_MARKDOWN).lines().map(str::to_owned).collect();
    if let Some(rule) = lines.get_mut(1) {
        let columns = rule.trim_matches('|').split('|').enumerate();
        let columns = columns.map(|(index, dashes)| match dashes.strip_suffix('-') {
            Some(shorter) if !table.left.contains(&index) => format!("{shorter}:"),
            _ => dashes.to_owned(),
        });
        *rule = format!("|{}|", columns.collect::<Vec<_>>().join("|"));
    }
    lines.join("\n")
}

/// No name may become a table's bar, a tag, emphasis or a link.
fn escape(text: &str) -> String {
    let has_link = text.contains("](");
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '|' | '<' | '`' | '*' | '_' | '\\') || (c == '[' && has_link) {
            escaped.push('\\');
        }
        escaped.push(if is_deceptive(c) { ' ' } else { c });
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use tare_stats::result::Report;

    use crate::report::{Format, PERCENTILES, fixtures};

    fn render(report: &Report) -> String {
        crate::report::render(Format::Text, report, &PERCENTILES)
    }

    #[test]
    fn a_single_run_says_that_its_intervals_are_its_own() {
        let text = render(&fixtures::one_step());
        assert!(text.contains("95 % in this run  "), "{text}");
        assert!(text.contains("how far runs differ, tare compare tells"));
        let asserted = render(&fixtures::sweep());
        assert!(asserted.contains("Assertions, of this run alone:"));
        let compared = render(&fixtures::compare::comparison());
        assert!(!compared.contains("this run"), "{compared}");
    }

    #[test]
    fn each_quantile_has_an_error_of_its_own() {
        let mut report = fixtures::one_step();
        let row = |report: &Report, name: &str| {
            let text = render(report);
            let line = text.lines().find(|line| line.starts_with(name));
            line.unwrap().split("  ").map(str::trim).collect::<Vec<_>>().join("|")
        };
        assert!(row(&report, "  p50 ").contains("± 90 ns"));
        assert!(row(&report, "  p99 ").contains("± 310 ns"));
        // Results that were saved before had one figure for all.
        report.results[0].latency.service.errors_ns.clear();
        assert!(!row(&report, "  p50 ").contains('±'));
    }

    #[test]
    fn a_server_cannot_drive_the_terminal_or_forge_a_line() {
        let mut report = fixtures::one_step();
        let reason = "\x1b[2J\nwarning: forged";
        report.environment.servers[0].hostname = Some(reason.into());
        let server = report.results[0].instrument.server.as_mut().unwrap();
        server.backend_reason = reason.into();
        let text = render(&report);
        assert!(!text.contains('\x1b'));
        assert!(text.lines().all(|line| !line.starts_with("warning")));
    }

    #[test]
    fn cells_cannot_break_the_table() {
        let mut cells = Table::new(&["a", "b"]);
        cells.rows.push(vec!["x|y".into(), "1\n2".into()]);
        let mut document = Document::default();
        document.add(Shown::Plain, "", "", vec![Block::Table(cells)]);
        let text = markdown(document);
        assert_eq!(text, "****\n\n| a    |   b |\n|------|----:|\n| x\\|y | 1 2 |\n");
        assert_eq!(escape("[1, 2] <b>"), "[1, 2] \\<b>");
        assert_eq!(escape("[a](http://b)"), "\\[a](http://b)");
    }
}
