//! Reports of comparisons: the arms side by side, step by step.

pub(super) mod figures;
mod notes;
mod table;

use tare_stats::result::{AA, Arm, Cell, Comparison, Report, StepResult, Verdict};
use tare_units::Size;

use super::common::{ends, instruments, trouble};
use super::document::{Block, Document, Shown, field, note};
use super::numbers::per_second;
use super::{bulk, grouped, http, latency, list, plural, unique};

pub(super) use notes::{alerts, asked};

pub(super) fn build(document: &mut Document, view: View<'_>) {
    let mut blocks = vec![note(notes::how(view))];
    let is_open = view.step(0).is_some_and(|step| step.latency.response.is_some());
    let meaning: &[&str] = match (view.comparison.measured.as_str(), is_open) {
        ("bw", _) => &[bulk::PAYLOAD],
        ("http", true) => &http::OPEN_LOOP[..1],
        ("http", false) => &http::CLOSED_LOOP,
        _ => &[latency::FULL],
    };
    blocks.extend(meaning.iter().map(|line| note(*line)));
    blocks.extend(view.tables());
    // Which ends were the bottleneck. Disturbances are counted by visits, and the warnings say of
    // what sort.
    let saturated = view.results().flat_map(|(name, result)| {
        let saturated = ends(result).filter(|(_, end)| end.saturated);
        saturated.filter_map(move |(end, instrument)| {
            Some(field(name.clone(), format!("{end} {}", trouble(instrument)?)))
        })
    });
    blocks.extend(Block::fields(notes::notes(view).into_iter().chain(saturated)));
    document.add(Shown::Plain, "verdicts", "Verdicts", blocks);
    if let Some(first) = view.result(&view.comparison.baseline, 0) {
        instruments(document, view.report, first, "Instrument, at the baseline");
    }
    figures::add(document, view);
}

#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    report: &'a Report,
    pub(super) comparison: &'a Comparison,
}

pub(super) fn of(report: &Report) -> Option<View<'_>> {
    let comparison = report.comparison.as_deref()?;
    Some(View { report, comparison })
}

impl<'a> View<'a> {
    /// What all visits to an arm came to, in a step counted from zero.
    pub(super) fn result(self, arm: &str, step: u64) -> Option<&'a StepResult> {
        let results = self.report.results.iter();
        let mut of_arm = results.filter(|result| result.arm.as_deref() == Some(arm));
        of_arm.nth(usize::try_from(step).ok()?)
    }

    /// The results arm by arm and step by step, with their names: `veth`, with more than one step
    /// `veth 64 B`.
    fn results(self) -> impl Iterator<Item = (String, &'a StepResult)> {
        let of_arm = move |arm: &'a Arm| {
            (0..self.comparison.steps).filter_map(move |step| {
                let name = format!("{} {}", arm.name, self.step_name(step));
                Some((name.trim().to_owned(), self.result(&arm.name, step)?))
            })
        };
        self.comparison.arms.iter().flat_map(of_arm)
    }

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
        let mut cells = self.comparison.cells.iter();
        cells.find(|cell| cell.arm == arm && cell.step == step && cell.measure == measure)
    }

    /// What a table shows of each step: what verdicts were asked for, and where none was,
    /// everything.
    fn measures(self) -> Vec<&'a str> {
        let declared = self.all_measures(true);
        if declared.is_empty() { self.all_measures(false) } else { declared }
    }

    fn all_measures(self, declared: bool) -> Vec<&'a str> {
        let cells = self.comparison.cells.iter().filter(|cell| cell.declared || !declared);
        unique(cells.map(|cell| cell.measure.as_str()))
    }

    /// What tells the steps from each other; nothing where there is one.
    fn differing(self) -> Vec<Dimension> {
        let steps = 0..self.comparison.steps;
        let all: Vec<&StepResult> = steps.filter_map(|step| self.step(step)).collect();
        let differs = |(_, of): &Dimension| all.iter().any(|step| of(step) != of(all[0]));
        DIMENSIONS.into_iter().filter(differs).collect()
    }

    /// A step in a few words: `64 B`, `stage 2, 1,000/s`; empty for the only one.
    pub(super) fn step_name(self, step: u64) -> String {
        let Some(result) = self.step(step) else {
            return format!("step {}", step.saturating_add(1));
        };
        list(self.differing().into_iter().map(|(name, of)| match name {
            "conns" => plural(result.params.connections.into(), "connection"),
            "stage" => format!("stage {}", of(result)),
            _ => of(result),
        }))
    }
}

/// What may tell steps from each other: the heading of its column, and what it is of a step.
type Dimension = (&'static str, fn(&StepResult) -> String);

const DIMENSIONS: [Dimension; 5] = [
    ("stage", |step| {
        let stage = step.params.http.as_ref().and_then(|http| http.stage);
        stage.map_or_else(String::new, |stage| stage.to_string())
    }),
    ("rate", |step| match (step.params.rate_per_s, &step.params.http) {
        (Some(rate), Some(http)) => http::rates(rate, http),
        (Some(rate), None) => per_second(rate),
        (None, _) => String::new(),
    }),
    ("size", |step| Size(step.params.size_bytes).to_string()),
    ("conns", |step| grouped(step.params.connections.into())),
    ("load", |step| if step.params.load().is_some() { "loaded" } else { "idle" }.to_owned()),
];

/// A verdict in a word or two, for tables; the notes below them give all of its name.
const fn short(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NoDifferenceShown => "none shown",
        Verdict::NotEnoughBlocks => "few blocks",
        whole => whole.name(),
    }
}

#[cfg(test)]
mod tests {
    use tare_stats::result::{Comparison, Verdict};

    use crate::report::Format;
    use crate::report::{PERCENTILES, fixtures};

    fn render(report: &super::Report) -> String {
        crate::report::render(Format::Text, report, &PERCENTILES)
    }

    /// A comparison as text, after a `change`.
    fn changed(change: impl FnOnce(&mut super::Report, &mut Comparison)) -> String {
        let mut report = fixtures::compare::comparison();
        let mut comparison = report.comparison.take().unwrap();
        change(&mut report, &mut comparison);
        report.comparison = Some(comparison);
        render(&report)
    }

    /// The lines between the first heading of a table and the notes.
    fn tables(text: &str) -> Vec<&str> {
        let lines = text.lines().skip_while(|line| !line.is_empty());
        lines.take_while(|line| !line.starts_with("  verdicts")).collect()
    }

    fn width(lines: &[&str]) -> usize {
        lines.iter().map(|line| line.chars().count()).max().unwrap()
    }

    #[test]
    fn three_arms_stand_side_by_side_on_a_screen() {
        let text = render(&fixtures::compare::large(3, 4, 12));
        let lines = tables(&text);
        assert!(width(&lines) <= 120, "{text}");
        let header = lines.iter().find(|line| line.contains("size")).unwrap();
        fixtures::holds(header, "arm-0|arm-1|arm-2|a/a");
        let rows = lines.iter().filter(|line| line.contains("slower") && line.contains('['));
        assert_eq!(rows.count(), 8, "a row per size and measure: {text}");
        assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
    }

    #[test]
    fn eight_arms_stand_below_each_other_a_table_per_measure() {
        let text = render(&fixtures::compare::large(8, 10, 12));
        let lines = tables(&text);
        assert!(width(&lines) <= 100, "{text}");
        for measure in ["p50:", "p99:"] {
            assert!(lines.contains(&measure), "{text}");
        }
        for words in ["arm-7", "baseline", "resolution"] {
            let rows = lines.iter().filter(|line| line.contains(words));
            assert_eq!(rows.count(), 2 * 10, "{words}: {text}");
        }
        // The seventh arm's first: in the order given, with the size told once.
        let first = lines.iter().position(|line| line.starts_with("  64 B")).unwrap();
        assert!(lines[first].contains("arm-0") && lines[first + 7].contains("arm-7"));
    }

    #[test]
    fn a_path_alone_is_compared_with_itself_and_judged_by_nothing() {
        let text = render(&fixtures::compare::alone());
        assert!(text.starts_with("tare compare of lat: loopback against itself: tcp, 64 B"));
        assert!(text.contains("±263 ns"), "{text}");
        assert!(!text.contains("verdict") && !text.contains("Holm"), "{text}");
    }

    #[test]
    fn an_a_a_that_differs_from_itself_is_reported() {
        assert!(!render(&fixtures::compare::comparison()).contains("leave out zero"));
        let text = changed(|_, comparison| {
            let mut cells = comparison.cells.iter_mut();
            let of_aa = cells.find(|cell| cell.arm == "a/a" && cell.step == 1).unwrap();
            of_aa.delta.as_mut().unwrap().interval = Some((20.0, 300.0));
        });
        let expected =
            "1 of its 4 intervals leave out zero, where one in twenty does by chance: p50 4 KiB";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_is_not_declared_is_left_out_and_named() {
        let text = changed(|_, comparison| {
            for cell in comparison.cells.iter_mut().filter(|cell| cell.measure == "p99") {
                cell.measure = "p99_9".into();
                (cell.declared, cell.verdict, cell.p_adjusted) = (false, None, None);
            }
        });
        assert!(tables(&text).iter().all(|line| !line.contains("p99.9")), "{text}");
        assert!(text.contains("left out    p99.9: no verdict was asked for"), "{text}");
    }

    #[test]
    fn nothing_measured_is_no_table_and_a_cell_without_figures_a_dash() {
        let text = changed(|_, comparison| {
            let cell = &mut comparison.cells[0];
            (cell.value, cell.delta, cell.ratio) = (None, None, None);
            cell.verdict = Some(Verdict::NotEnoughBlocks);
            cell.blocks.clear();
        });
        let row = text.lines().find(|line| line.starts_with("  64 B")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[5..7], ["–", "–"], "{row}");
        assert!(text.contains("verdicts over 4 cells take 8, and 0 had samples enough"), "{text}");
        let text = changed(|report, comparison| {
            report.results.clear();
            comparison.cells.clear();
            comparison.blocks.clear();
        });
        assert!(text.starts_with("tare compare of lat: loopback (baseline) against veth\n"));
        assert!(text.contains("8 of 8 whole, 0 visits"), "{text}");
    }

    #[test]
    fn an_end_that_was_the_bottleneck_is_named_and_forges_no_line() {
        assert!(!render(&fixtures::compare::comparison()).contains("SATURATED"));
        let reason = "\x1b[2J\nwarning: forged";
        let text = changed(|report, comparison| {
            let client = &mut report.results[3].instrument.client;
            client.saturated = true;
            client.saturation = Some("busy 97 % of the time\nwarning: forged".into());
            comparison.arms[1].failed = Some(reason.into());
            comparison.arms[1].before = Some(reason.into());
        });
        let expected = "  veth 4 KiB  client SATURATED: busy 97 % of the time warning: forged\n";
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains('\x1b'));
        assert!(!text.lines().any(|line| line.starts_with("warning: forged")), "{text}");
    }
}
