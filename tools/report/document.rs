//! What a report says, before it has a format. One builder per kind of result makes a [`Document`];
//! text, Markdown and HTML are printers of it, and know nothing of results.

use super::plot::Plot;

#[derive(Default)]
pub(super) struct Document {
    pub(super) title: String,
    /// What spoils the figures: it is printed before all of them.
    pub(super) alerts: Vec<String>,
    pub(super) sections: Vec<Section>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Everywhere; its heading on pages only.
    Plain,
    /// Everywhere, under its heading.
    Headed,
    /// On pages only, which have the room.
    Page,
}

pub(super) struct Section {
    /// The end of its address within a page.
    pub(super) id: &'static str,
    pub(super) heading: String,
    pub(super) shown: Shown,
    pub(super) blocks: Vec<Block>,
}

pub(super) enum Block {
    Heading(String),
    Note(String),
    /// What must not be overlooked.
    Loud(String),
    Fields(Vec<Field>),
    Table(Table),
    /// Lines whose spaces count.
    Lines(Vec<String>),
    /// Drawn on pages; its table is there too.
    Figure(Box<Figure>),
}

pub(super) struct Field {
    /// Empty where it continues the field before it.
    pub(super) name: String,
    pub(super) text: String,
    /// It belongs to the last field that is no part.
    pub(super) is_part: bool,
}

#[derive(Default)]
pub(super) struct Table {
    /// Its name on pages.
    pub(super) caption: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// Columns of words, which are set to the left.
    pub(super) left: Vec<usize>,
    pub(super) marked: Vec<usize>,
    /// What has to be below it.
    pub(super) notes: Vec<String>,
    /// On pages it can be folded away.
    pub(super) folded: bool,
}

pub(super) struct Figure {
    pub(super) title: String,
    /// What it shows, for those who do not see it.
    pub(super) about: String,
    pub(super) plot: Plot,
    pub(super) table: Table,
}

impl Document {
    /// Adds a section, unless it would be empty.
    pub(super) fn add(&mut self, shown: Shown, id: &'static str, head: &str, blocks: Vec<Block>) {
        if !blocks.is_empty() {
            self.sections.push(Section { id, heading: head.to_owned(), shown, blocks });
        }
    }

    /// Passes every string through `change`: no printer can forget one.
    pub(super) fn map(mut self, change: impl Fn(&str) -> String) -> Self {
        let each = |text: &mut String| *text = change(text);
        let of_table = |table: &mut Table| {
            table.header.iter_mut().chain(table.rows.iter_mut().flatten()).for_each(each);
            table.notes.iter_mut().chain([&mut table.caption]).for_each(each);
        };
        self.alerts.iter_mut().chain([&mut self.title]).for_each(each);
        for section in &mut self.sections {
            each(&mut section.heading);
            for block in &mut section.blocks {
                match block {
                    Block::Heading(text) | Block::Note(text) | Block::Loud(text) => each(text),
                    Block::Fields(fields) => {
                        fields.iter_mut().flat_map(|f| [&mut f.name, &mut f.text]).for_each(each);
                    }
                    Block::Table(table) => of_table(table),
                    Block::Lines(lines) => lines.iter_mut().for_each(each),
                    Block::Figure(figure) => {
                        of_table(&mut figure.table);
                        [&mut figure.title, &mut figure.about].into_iter().for_each(each);
                        figure.plot.lines.iter_mut().for_each(|line| each(&mut line.name));
                    }
                }
            }
        }
        self
    }

    /// The sections of the formats that are no pages.
    pub(super) fn brief(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter().filter(|section| section.shown != Shown::Page)
    }
}

impl Block {
    pub(super) fn fields(fields: impl IntoIterator<Item = Field>) -> Option<Self> {
        let fields: Vec<Field> = fields.into_iter().collect();
        (!fields.is_empty()).then_some(Self::Fields(fields))
    }
}

type Cell<'a, T> = &'a dyn Fn(&T) -> String;

impl Table {
    pub(super) fn new<T: AsRef<str>>(header: &[T]) -> Self {
        let header = header.iter().map(|name| name.as_ref().to_owned()).collect();
        Self { header, left: vec![0], ..Self::default() }
    }

    /// A row for each of `items`: of every column its heading, and what it says of an item.
    pub(super) fn of<T>(
        items: impl IntoIterator<Item = T>,
        columns: &[(&str, Cell<'_, T>)],
    ) -> Self {
        let mut table = Self::new(&columns.iter().map(|(heading, _)| heading).collect::<Vec<_>>());
        for item in items {
            table.rows.push(columns.iter().map(|(_, show)| show(&item)).collect());
        }
        table
    }

    /// Leaves the columns of these headings out unless they are `wanted`.
    pub(super) fn only_if(mut self, wanted: bool, headings: &[&str]) -> Self {
        if !wanted {
            let kept: Vec<bool> =
                self.header.iter().map(|name| !headings.contains(&name.as_str())).collect();
            for row in self.rows.iter_mut().chain([&mut self.header]) {
                let mut kept = kept.iter();
                row.retain(|_| kept.next() == Some(&true));
            }
        }
        self
    }

    /// Of more than `most` rows those at either end.
    pub(super) fn shortened(mut self, most: usize) -> Self {
        let left_out = self.rows.len().saturating_sub(most);
        if left_out > 0 {
            self.rows.drain(most / 2..most / 2 + left_out);
            let text = format!("{left_out} entries in the middle are left out; JSON has them all");
            self.notes.push(text);
        }
        self
    }

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

pub(super) fn field(name: impl Into<String>, text: impl Into<String>) -> Field {
    Field { name: name.into(), text: text.into(), is_part: false }
}

pub(super) fn part(name: impl Into<String>, text: impl Into<String>) -> Field {
    Field { is_part: true, ..field(name, text) }
}

/// Those fields of which something is known.
pub(super) fn fields<const N: usize>(known: [(&str, Option<String>); N]) -> Vec<Field> {
    known.into_iter().filter_map(|(name, text)| Some(field(name, text?))).collect()
}

pub(super) fn note(text: impl Into<String>) -> Block {
    Block::Note(text.into())
}
