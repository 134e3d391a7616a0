//! Markdown, to be pasted into an issue.

use comfy_table::presets::ASCII_MARKDOWN;
use tare_units::text::is_deceptive;

use super::super::document::{Block, Document, Field, Shown, Table};

pub(crate) fn print(document: Document) -> String {
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
                    blocks.push(table(found));
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
fn table(table: &Table) -> String {
    let text = super::ruled(table, ASCII_MARKDOWN);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
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

    #[test]
    fn cells_cannot_break_the_table() {
        let mut cells = Table::new(&["a", "b"]);
        cells.row(vec!["x|y".into(), "1\n2".into()]);
        let mut document = Document::default();
        document.add(Shown::Plain, "", "", vec![Block::Table(cells)]);
        let text = print(document);
        assert_eq!(text, "****\n\n| a    |   b |\n|------|----:|\n| x\\|y | 1 2 |\n");
        assert_eq!(escape("[1, 2] <b>"), "[1, 2] \\<b>");
        assert_eq!(escape("[a](http://b)"), "\\[a](http://b)");
    }
}
