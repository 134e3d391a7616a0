//! What text and Markdown say of a comparison, and CSV of its cells: the arms side by side, step by step.

mod differences;
mod notes;
mod table;

use tare_engine::result::{AA, Arm, Cell, Comparison, Report, StepResult, Verdict};
use tare_engine::units::Size;

use super::{grouped, per_second, plural};

pub(super) use notes::{asked, how, notes, spoiled};
pub(super) use table::{Layout, NARROW, columns, lists, set};

/// A comparison, with what is looked up in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    report: &'a Report,
    comparison: &'a Comparison,
}

/// The comparison of a report; none where it is of another kind.
pub(super) fn of(report: &Report) -> Option<View<'_>> {
    let comparison = report.comparison.as_deref()?;
    Some(View { report, comparison })
}

impl<'a> View<'a> {
    pub(super) const fn comparison(self) -> &'a Comparison {
        self.comparison
    }

    /// What all visits to an arm came to, in a step counted from zero.
    pub(super) fn result(self, arm: &str, step: u64) -> Option<&'a StepResult> {
        let results = self.report.results.iter();
        let mut of_arm = results.filter(|result| result.arm.as_deref() == Some(arm));
        of_arm.nth(usize::try_from(step).ok()?)
    }

    /// The same of the first arm that got there: what the step is.
    pub(super) fn step(self, step: u64) -> Option<&'a StepResult> {
        let mut arms = self.comparison.arms.iter();
        arms.find_map(|arm| self.result(&arm.name, step))
    }

    /// The arms that the baseline is compared with, but for [`AA`].
    pub(super) fn others(self) -> impl Iterator<Item = &'a Arm> {
        let arms = self.comparison.arms.iter();
        arms.filter(move |arm| arm.name != AA && arm.name != self.comparison.baseline)
    }

    fn cell(self, arm: &str, step: u64, measure: &str) -> Option<&'a Cell> {
        self.comparison
            .cells
            .iter()
            .find(|cell| cell.arm == arm && cell.step == step && cell.measure == measure)
    }

    /// What a table shows of each step: what verdicts were asked for, and where none was, everything.
    fn measures(self) -> Vec<&'a str> {
        let declared = self.all_measures(true);
        if declared.is_empty() {
            self.all_measures(false)
        } else {
            declared
        }
    }

    fn all_measures(self, declared: bool) -> Vec<&'a str> {
        let mut measures = Vec::new();
        for cell in &self.comparison.cells {
            if (cell.declared || !declared) && !measures.contains(&cell.measure.as_str()) {
                measures.push(&cell.measure);
            }
        }
        measures
    }

    /// What tells the steps from each other; nothing where there is one.
    fn differing(self) -> Vec<Dimension> {
        let all: Vec<&StepResult> = (0..self.comparison.steps)
            .filter_map(|step| self.step(step))
            .collect();
        let differs = |dimension: &Dimension| {
            let mut values = all.iter().map(|step| dimension.value(step));
            let first = values.next();
            values.any(|value| Some(value) != first)
        };
        Dimension::ALL.into_iter().filter(differs).collect()
    }

    /// A step in a few words: `64 B`, `stage 2, 1,000/s`; empty for the only one.
    pub(super) fn step_name(self, step: u64) -> String {
        let Some(result) = self.step(step) else {
            return format!("step {}", step + 1);
        };
        let parts = self.differing().into_iter().map(|by| match by {
            Dimension::Connections => plural(result.params.connections.into(), "connection"),
            Dimension::Stage => format!("stage {}", by.value(result)),
            _ => by.value(result),
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    /// `veth`, with more than one step `veth 64 B`.
    pub(super) fn name(self, arm: &str, step: u64) -> String {
        format!("{arm} {}", self.step_name(step)).trim().to_owned()
    }
}

/// What a sweep can vary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dimension {
    Stage,
    Rate,
    Size,
    Connections,
    Load,
}

impl Dimension {
    const ALL: [Self; 5] = [
        Self::Stage,
        Self::Rate,
        Self::Size,
        Self::Connections,
        Self::Load,
    ];

    const fn heading(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Rate => "rate",
            Self::Size => "size",
            Self::Connections => "conns",
            Self::Load => "load",
        }
    }

    fn value(self, step: &StepResult) -> String {
        let params = &step.params;
        let http = params.http.as_ref();
        match self {
            Self::Stage => http
                .and_then(|http| http.stage)
                .map_or_else(String::new, |stage| stage.to_string()),
            Self::Rate => match (params.rate_per_s, http) {
                (Some(rate), Some(http)) => super::http::rates(rate, http),
                (Some(rate), None) => per_second(rate),
                (None, _) => String::new(),
            },
            Self::Size => Size(params.size_bytes).to_string(),
            Self::Connections => grouped(params.connections.into()),
            Self::Load => match params.under_load {
                Some(_) => "loaded".to_owned(),
                None => "idle".to_owned(),
            },
        }
    }
}

/// A measure as people read it: `p99_9` is `p99.9`.
fn heading(measure: &str) -> String {
    measure.replace('_', ".")
}

/// A verdict in a word or two, for tables; the notes below them give all of its name.
const fn short(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NoDifferenceShown => "none shown",
        Verdict::NotEnoughBlocks => "few blocks",
        whole => whole.name(),
    }
}
