//! Pieces of a page: text that stays text, tables, figures with their numbers beside them.

use tare_engine::proto::text::is_deceptive;

use super::super::Cells;
use super::plot::{Plot, key};

/// The styles of every page.
const STYLE: &str = include_str!("style.css");
/// Nothing is loaded and nothing is run; a page that was tampered with does not either.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Text of a file, which may hold anything, as text of the page.
pub(super) fn text(from: &str) -> String {
    let mut safe = String::with_capacity(from.len());
    for c in from.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if is_deceptive(c) => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// A whole page. `nav` are its parts: the id and the name of each.
pub(super) fn page(title: &str, nav: &[(String, String)], body: &str) -> String {
    let links: String = nav
        .iter()
        .map(|(id, name)| format!("<li><a href=\"#{id}\">{}</a></li>\n", text(name)))
        .collect();
    let title = text(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#main\">To the results</a>\n\
         <header>\n<h1>{title}</h1>\n<nav aria-label=\"Contents\">\n<ul>\n{links}</ul>\n</nav>\n</header>\n\
         <main id=\"main\" tabindex=\"-1\">\n{body}</main>\n</body>\n</html>\n"
    )
}

/// A section with its heading, as a place that links lead to.
pub(super) fn section(id: &str, level: u8, heading: &str, body: &str) -> String {
    format!(
        "<section id=\"{id}\" tabindex=\"-1\" aria-labelledby=\"{id}-h\">\n<h{level} id=\"{id}-h\">{}</h{level}>\n{body}</section>\n",
        text(heading)
    )
}

pub(super) fn paragraph(words: &str) -> String {
    format!("<p>{}</p>\n", text(words))
}

pub(super) fn note(words: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", text(words))
}

/// What must not be overlooked.
pub(super) fn loud(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let lines: String = lines
        .iter()
        .map(|line| format!("<p>{}</p>\n", text(line)))
        .collect();
    format!("<div class=\"loud\" role=\"note\">\n{lines}</div>\n")
}

/// Names and what they stand for; what is empty is left out.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let told = facts.iter().filter(|(_, fact)| !fact.is_empty());
    let rows: String = told
        .map(|(name, fact)| format!("<dt>{}</dt><dd>{}</dd>\n", text(name), text(fact)))
        .collect();
    format!("<dl>\n{rows}</dl>\n")
}

/// A table, its first `left` columns set to the left.
pub(super) fn table(caption: &str, cells: &Cells, left: usize) -> String {
    marked_table(caption, cells, left, &[])
}

/// A table some of whose rows are marked, by their number from zero.
pub(super) fn marked_table(caption: &str, cells: &Cells, left: usize, marked: &[usize]) -> String {
    let class = |column: usize| if column < left { " class=\"l\"" } else { "" };
    let mut out = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\">\n<table>\n<caption>{0}</caption>\n<thead><tr>",
        text(caption)
    );
    for (column, cell) in cells.header.iter().enumerate() {
        out.push_str(&format!(
            "<th scope=\"col\"{}>{}</th>",
            class(column),
            text(cell)
        ));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (index, row) in cells.rows.iter().enumerate() {
        let mark = if marked.contains(&index) {
            " class=\"differs\""
        } else {
            ""
        };
        out.push_str(&format!("<tr{mark}>"));
        for (column, cell) in row.iter().enumerate() {
            let (open, close) = if column == 0 {
                ("th scope=\"row\"", "th")
            } else {
                ("td", "td")
            };
            out.push_str(&format!(
                "<{open}{}>{}</{close}>",
                class(column),
                text(cell)
            ));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
    out
}

/// What can be folded away.
pub(super) fn details(summary: &str, body: &str) -> String {
    format!(
        "<details>\n<summary>{}</summary>\n{body}</details>\n",
        text(summary)
    )
}

/// Numbers the figures of a page: their titles are referred to by ids.
#[derive(Debug, Default)]
pub(super) struct Figures(u32);

impl Figures {
    /// A figure: its title, what the lines are, the plot, and its numbers. A plot that cannot be drawn leaves its numbers.
    pub(super) fn figure(
        &mut self,
        title: &str,
        about: &str,
        plot: &Plot,
        keys: &[(usize, &str)],
        numbers: &str,
    ) -> String {
        self.0 += 1;
        let id = format!("f{}", self.0);
        let drawn = plot
            .svg(&id, &text(title), &text(about))
            .unwrap_or_default();
        let keys: String = keys
            .iter()
            .map(|(role, name)| format!("<li>{}{}</li>\n", key(*role), text(name)))
            .collect();
        let keys = if keys.is_empty() {
            keys
        } else {
            format!("<ul class=\"keys\">\n{keys}</ul>\n")
        };
        format!(
            "<figure tabindex=\"0\" aria-label=\"{0}\">\n<figcaption>{0}</figcaption>\n{keys}{drawn}{1}</figure>\n",
            text(title),
            details("The numbers", numbers)
        )
    }
}
