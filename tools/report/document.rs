//! What a report says, before it has a format. One builder per kind of result makes a [`Document`];
//! text, Markdown and HTML are printers of it, and know nothing of results.

use super::plot::Plot;

/// A report for people.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// What was asked, in a line.
    pub(super) title: String,
    /// What spoils the figures: it is printed before all of them.
    pub(super) alerts: Vec<String>,
    pub(super) sections: Vec<Section>,
}

/// Where a section is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Everywhere; its heading on pages only.
    Plain,
    /// Everywhere, under its heading.
    Headed,
    /// On pages only, which have the room.
    Page,
}

/// A part of a report.
#[derive(Debug)]
pub(super) struct Section {
    /// The end of its address within a page.
    pub(super) id: &'static str,
    pub(super) heading: String,
    pub(super) shown: Shown,
    pub(super) blocks: Vec<Block>,
}

#[derive(Debug)]
pub(super) enum Block {
    Heading(String),
    Note(String),
    /// What must not be overlooked.
    Loud(String),
    Facts(Vec<Fact>),
    Table(Table),
    /// Lines whose spaces count.
    Lines(Vec<String>),
    /// Drawn on pages; its table is there too.
    Figure(Box<Figure>),
}

/// A name and its meaning.
#[derive(Debug)]
pub(super) struct Fact {
    /// Empty where it continues the fact before it.
    pub(super) name: String,
    pub(super) text: String,
    /// It belongs to the last fact that is no part.
    pub(super) is_part: bool,
}

/// A table: its header, its rows, and what has to be below it.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name on pages.
    pub(super) caption: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// Columns of words, which are set to the left.
    pub(super) left: Vec<usize>,
    /// Rows that are marked on pages.
    pub(super) marked: Vec<usize>,
    pub(super) notes: Vec<String>,
    /// On pages it can be folded away.
    pub(super) folded: bool,
}

/// A plot with its numbers beside it.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) title: String,
    /// What it shows, for those who do not see it.
    pub(super) about: String,
    pub(super) plot: Plot,
    /// The lines by their roles, and their names.
    pub(super) keys: Vec<(usize, String)>,
    pub(super) table: Table,
}

impl Document {
    /// Adds a section, unless it would be empty.
    pub(super) fn add(
        &mut self,
        shown: Shown,
        id: &'static str,
        heading: impl Into<String>,
        blocks: Vec<Block>,
    ) {
        if !blocks.is_empty() {
            self.sections.push(Section { id, heading: heading.into(), shown, blocks });
        }
    }

    /// Passes every string through `change`: no printer can forget one.
    pub(super) fn map(mut self, change: impl Fn(&str) -> String) -> Self {
        let table = |table: &mut Table| {
            let cells = table.header.iter_mut().chain(table.rows.iter_mut().flatten());
            for text in cells.chain(&mut table.notes).chain([&mut table.caption]) {
                *text = change(text);
            }
        };
        for text in self.alerts.iter_mut().chain([&mut self.title]) {
            *text = change(text);
        }
        for section in &mut self.sections {
            section.heading = change(&section.heading);
            for block in &mut section.blocks {
                match block {
                    Block::Heading(text) | Block::Note(text) | Block::Loud(text) => {
                        *text = change(text);
                    }
                    Block::Facts(facts) => {
                        for fact in facts {
                            (fact.name, fact.text) = (change(&fact.name), change(&fact.text));
                        }
                    }
                    Block::Table(cells) => table(cells),
                    Block::Lines(lines) => lines.iter_mut().for_each(|line| *line = change(line)),
                    Block::Figure(figure) => {
                        table(&mut figure.table);
                        figure.title = change(&figure.title);
                        figure.about = change(&figure.about);
                        for (_, name) in &mut figure.keys {
                            *name = change(name);
                        }
                    }
                }
            }
        }
        self
    }

    /// The sections of the formats that are no pages.
    pub(super) fn brief(&self) -> impl Iterator<Item = &Section> {
        let sections = self.sections.iter();
        sections.filter(|section| section.shown != Shown::Page)
    }
}

impl Table {
    pub(super) fn new<T: AsRef<str>>(header: &[T]) -> Self {
        Self {
            caption: String::new(),
            header: header.iter().map(|name| name.as_ref().to_owned()).collect(),
            rows: Vec::new(),
            left: vec![0],
            marked: Vec::new(),
            notes: Vec::new(),
            folded: false,
        }
    }

    pub(super) fn row(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Its first `columns` are words.
    pub(super) fn left(mut self, columns: usize) -> Self {
        self.left = (0..columns).collect();
        self
    }

    pub(super) fn named(mut self, caption: impl Into<String>) -> Self {
        self.caption = caption.into();
        self
    }

    pub(super) fn noting(mut self, notes: Vec<String>) -> Self {
        self.notes = notes;
        self
    }
}

pub(super) fn fact(name: impl Into<String>, text: impl Into<String>) -> Fact {
    let (name, text) = (name.into(), text.into());
    Fact { name, text, is_part: false }
}

pub(super) fn part(name: impl Into<String>, text: impl Into<String>) -> Fact {
    Fact { is_part: true, ..fact(name, text) }
}

pub(super) fn note(text: impl Into<String>) -> Block {
    Block::Note(text.into())
}
