//! Text, for people at a terminal.

use comfy_table::presets::NOTHING;
use tare_units::text::visible;

use super::super::document::{Block, Document, Field, Shown};

/// The column of a field's text where names are short, and the longest name that has a column.
const NAMES: (usize, usize) = (12, 24);

pub(crate) fn print(document: Document) -> String {
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
            for line in super::ruled(table, NOTHING).lines() {
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

#[cfg(test)]
mod tests {
    use tare_stats::result::Report;

    use crate::report::Format;
    use crate::report::{DisplayOptions, fixtures};

    fn render(report: &Report, options: &DisplayOptions) -> String {
        crate::report::render(Format::Text, report, options)
    }

    #[test]
    fn a_single_run_says_that_its_intervals_are_its_own() {
        let options = DisplayOptions::default();
        let text = render(&fixtures::one_step(), &options);
        assert!(text.contains("95 % in this run  "), "{text}");
        assert!(text.contains("how far runs differ, tare compare tells"));
        let asserted = render(&fixtures::sweep(), &options);
        assert!(asserted.contains("Assertions, of this run alone:"));
        let compared = render(&fixtures::compare::comparison(), &options);
        assert!(!compared.contains("this run"), "{compared}");
    }

    #[test]
    fn each_quantile_has_an_error_of_its_own() {
        let mut report = fixtures::one_step();
        let row = |report: &Report, name: &str| {
            let text = render(report, &DisplayOptions::default());
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
    fn a_far_end_cannot_drive_the_terminal_or_forge_a_line() {
        let mut report = fixtures::one_step();
        let reason = "\x1b[2J\nwarning: forged";
        report.environment.servers[0].hostname = Some(reason.into());
        let server = report.results[0].instrument.server.as_mut().unwrap();
        server.backend_reason = reason.into();
        let text = render(&report, &DisplayOptions::default());
        assert!(!text.contains('\x1b'));
        assert!(text.lines().all(|line| !line.starts_with("warning")));
    }
}
