//! HTML: a page that stands alone. It loads nothing and runs nothing, so it can be mailed, archived
//! and opened anywhere. Whatever comes from a file is escaped by the template.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use tare_units::text::is_deceptive;

use super::super::document::{Block, Document, Field, Figure, Section, Table};
use super::super::plot::key;

pub(crate) const STYLE: &str = include_str!("style.css");
/// Nothing is loaded and nothing is run; a page that was tampered with does not either.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
/// Plots that are narrower stand beside each other.
const NARROW: u32 = 1_000;

pub(crate) fn print(documents: Vec<(String, Document)>) -> String {
    let clean = |text: &str| -> String {
        let chars = text.chars();
        chars.map(|c| if is_deceptive(c) { ' ' } else { c }).collect()
    };
    let documents = documents.into_iter();
    let documents: Vec<(String, Document)> =
        documents.map(|(name, document)| (clean(&name), document.map(clean))).collect();
    let id = |index: usize| format!("r{}", index + 1);
    let (title, nav) = match documents.as_slice() {
        [(_, document)] => (document.title.clone(), {
            let sections = document.sections.iter();
            let sections =
                sections.map(|part| (format!("{}-{}", id(0), part.id), part.heading.clone()));
            sections.collect()
        }),
        several => (format!("tare: {} results", several.len()), {
            let names = several.iter().enumerate();
            names.map(|(index, (name, _))| (id(index), name.clone())).collect::<Vec<_>>()
        }),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "To the results" }
                header {
                    h1 { (title) }
                    nav aria-label="Contents" {
                        ul { @for (id, name) in &nav { li { a href={ "#" (id) } { (name) } } } }
                    }
                }
                main #main tabindex="-1" {
                    @for (index, (name, document)) in documents.iter().enumerate() {
                        @let inner = inner(&id(index), document);
                        @if documents.len() > 1 { (section(&id(index), name, &inner)) }
                        @else { (inner) }
                    }
                }
            }
        }
    };
    page.into_string() + "\n"
}

fn inner(id: &str, document: &Document) -> Markup {
    let mut figures = 0;
    html! {
        @if !document.alerts.is_empty() {
            div.loud role="note" { @for alert in &document.alerts { p { (alert) } } }
        }
        @for part in &document.sections {
            (section(&format!("{id}-{}", part.id), &part.heading, &blocks(id, part, &mut figures)))
        }
    }
}

fn section(id: &str, heading: &str, inner: &Markup) -> Markup {
    html! {
        section id=(id) tabindex="-1" aria-labelledby={ (id) "-h" } {
            h2 id={ (id) "-h" } { (heading) }
            (inner)
        }
    }
}

fn blocks(id: &str, section: &Section, figures: &mut usize) -> Markup {
    let is_narrow = |block: &Block| match block {
        Block::Figure(figure) => figure.plot.size.0 < NARROW,
        _ => false,
    };
    let groups = section.blocks.chunk_by(|a, b| is_narrow(a) && is_narrow(b));
    html! {
        @for group in groups {
            @let drawn = html! { @for one in group { (block(id, one, figures)) } };
            @if is_narrow(&group[0]) { div.beside { (drawn) } } @else { (drawn) }
        }
    }
}

fn block(id: &str, block: &Block, figures: &mut usize) -> Markup {
    match block {
        Block::Heading(text) => html! { h3 { (text) } },
        Block::Note(text) => html! { p.note { (text) } },
        Block::Loud(text) => html! { div.loud role="note" { p { (text) } } },
        Block::Fields(fields) => html! {
            dl {
                @for Field { name, text, is_part } in fields {
                    dt { @if *is_part { "· " } (name) } dd { (text) }
                }
            }
        },
        Block::Lines(lines) => html! { pre { (lines.join("\n")) } },
        Block::Table(found) if found.folded => {
            html! { details { summary { (found.caption) } (table(found)) } }
        }
        Block::Table(found) => table(found),
        Block::Figure(drawn) => {
            *figures += 1;
            figure(&format!("{id}-f{figures}"), drawn)
        }
    }
}

fn table(table: &Table) -> Markup {
    let class = |column: usize| table.left.contains(&column).then_some("l");
    html! {
        div.scroll tabindex="0" role="region" aria-label=(table.caption) {
            table {
                caption { (table.caption) }
                thead {
                    tr {
                        @for (column, cell) in table.header.iter().enumerate() {
                            th scope="col" class=[class(column)] { (cell) }
                        }
                    }
                }
                tbody {
                    @for (index, row) in table.rows.iter().enumerate() {
                        tr class=[table.marked.contains(&index).then_some("differs")] {
                            @for (column, cell) in row.iter().enumerate() {
                                @if column == 0 { th scope="row" class=[class(0)] { (cell) } }
                                @else { td class=[class(column)] { (cell) } }
                            }
                        }
                    }
                }
            }
        }
        @for note in &table.notes { p.note { (note) } }
    }
}

/// A plot that cannot be drawn leaves its numbers.
fn figure(id: &str, figure: &Figure) -> Markup {
    let named = figure.plot.lines.iter().filter(|line| !line.name.is_empty());
    html! {
        figure tabindex="0" aria-label=(figure.title) {
            figcaption { (figure.title) }
            @if named.clone().next().is_some() {
                ul.keys { @for line in named { li { (key(line.role)) (line.name) } } }
            }
            (figure.plot.svg(id, &figure.title, &figure.about))
            details { summary { "The numbers" } (table(&figure.table)) }
        }
    }
}
