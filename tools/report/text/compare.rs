//! Comparisons, for people.

use comfy_table::presets::NOTHING;
use tare_engine::result::Report;

use super::{PAYLOAD, ends, fact, instruments, machines, put_table, trouble};
use crate::report::compare::{Layout, NARROW, View, columns, how, lists, notes, set};
use crate::report::http::{CLOSED_LOOP, OPEN_LOOP};

pub(super) fn render(out: &mut String, report: &Report, view: View<'_>) {
    out.push_str(&format!("{}\n", how(view)));
    meaning(out, view);
    out.push('\n');
    if !view.comparison().cells.is_empty() {
        tables(out, view);
        out.push('\n');
    }
    for (name, text) in notes(view, true) {
        fact(out, &name, &text);
    }
    troubles(out, view);
    let baseline = &view.comparison().baseline;
    if let Some(first) = view.result(baseline, 0) {
        out.push_str("Instrument, at the baseline:\n");
        instruments(out, first);
    }
    machines(out, report);
}

/// What the figures are.
fn meaning(out: &mut String, view: View<'_>) {
    let open_loop = view
        .step(0)
        .is_some_and(|step| step.latency.response.is_some());
    match (view.comparison().measured.as_str(), open_loop) {
        ("bw", _) => out.push_str(&format!("{PAYLOAD}\n")),
        ("http", true) => out.push_str(&format!("{}\n", OPEN_LOOP[0])),
        ("http", false) => out.push_str(&format!("{}\n", CLOSED_LOOP.join("\n"))),
        _ => out.push_str("Latencies are full round trips.\n"),
    }
}

/// The arms side by side where they fit a screen, else below each other.
fn tables(out: &mut String, view: View<'_>) {
    let (cells, left) = columns(view, Layout::Text);
    let table = set(cells, NOTHING, &left).trim_fmt();
    if table.lines().all(|line| line.chars().count() <= NARROW) {
        put_table(out, &table);
        return;
    }
    for (index, (name, cells, left)) in lists(view).into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        out.push_str(&format!("{name}:\n"));
        put_table(out, &set(cells, NOTHING, &left).trim_fmt());
    }
}

/// Which ends were the bottleneck. Disturbances are counted by visits above, and the warnings say of what sort.
fn troubles(out: &mut String, view: View<'_>) {
    for arm in &view.comparison().arms {
        for step in 0..view.comparison().steps {
            let Some(result) = view.result(&arm.name, step) else {
                continue;
            };
            let name = view.name(&arm.name, step);
            for (end, instrument) in ends(result) {
                if instrument.saturated {
                    let told = trouble(instrument).replace('\n', " ");
                    out.push_str(&format!("  {name}: {end} {told}\n"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tare_engine::result::{Comparison, Verdict};

    use crate::report::{Look, fixtures, text};

    fn render(report: &super::Report) -> String {
        text::render(report, &Look::default())
    }

    fn comparison(report: &mut super::Report) -> &mut Comparison {
        report.comparison.as_mut().unwrap()
    }

    /// The lines between the first heading of a table and the notes.
    fn tables(text: &str) -> Vec<&str> {
        let lines = text.lines().skip_while(|line| !line.is_empty());
        lines
            .take_while(|line| !line.starts_with("  verdicts"))
            .collect()
    }

    fn width(lines: &[&str]) -> usize {
        lines.iter().map(|line| line.chars().count()).max().unwrap()
    }

    #[test]
    fn three_arms_stand_side_by_side_on_a_screen() {
        let text = render(&fixtures::compare::large(3, 4));
        let lines = tables(&text);
        assert!(width(&lines) <= 120, "{text}");
        let header = lines.iter().find(|line| line.contains("size")).unwrap();
        for name in ["loopback", "arm-1", "arm-2", "a/a"] {
            assert!(header.contains(name), "{text}");
        }
        let rows = lines
            .iter()
            .filter(|line| line.contains("slower") && line.contains('['));
        assert_eq!(rows.count(), 8, "a row per size and measure: {text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 130),
            "{text}"
        );
    }

    #[test]
    fn eight_arms_stand_below_each_other_a_table_per_measure() {
        let text = render(&fixtures::compare::large(8, 10));
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
        let first = lines
            .iter()
            .position(|line| line.starts_with("  1 B"))
            .unwrap();
        assert!(lines[first].contains("loopback") && lines[first + 7].contains("arm-7"));
    }

    #[test]
    fn a_path_alone_is_compared_with_itself_and_judged_by_nothing() {
        let text = render(&fixtures::compare::alone());
        assert!(text.starts_with("tare compare of lat: loopback against itself: tcp, 64 B"));
        assert!(text.contains("±263 ns"), "{text}");
        assert!(
            !text.contains("verdict") && !text.contains("Holm"),
            "{text}"
        );
    }

    #[test]
    fn an_a_a_that_differs_from_itself_is_told() {
        let mut report = fixtures::compare::comparison();
        assert!(!render(&report).contains("leave out zero"));
        let mut cells = comparison(&mut report).cells.iter_mut();
        let of_aa = cells
            .find(|cell| cell.arm == "a/a" && cell.step == 1)
            .unwrap();
        of_aa.delta.as_mut().unwrap().interval = Some((20.0, 300.0));
        let text = render(&report);
        let expected =
            "1 of its 4 intervals leave out zero, where one in twenty does by chance: p50 4 KiB";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_is_not_declared_is_left_out_and_named() {
        let mut report = fixtures::compare::comparison();
        for cell in &mut comparison(&mut report).cells {
            if cell.measure == "p99" {
                cell.measure = "p99_9".into();
                (cell.declared, cell.verdict, cell.p_adjusted) = (false, None, None);
            }
        }
        let text = render(&report);
        let lines = tables(&text);
        assert!(lines.iter().all(|line| !line.contains("p99.9")), "{text}");
        assert!(
            text.contains("left out    p99.9: no verdict was asked for"),
            "{text}"
        );
    }

    #[test]
    fn nothing_measured_is_no_table_and_a_cell_without_figures_a_dash() {
        let mut report = fixtures::compare::comparison();
        let cell = &mut comparison(&mut report).cells[0];
        (cell.value, cell.delta, cell.ratio) = (None, None, None);
        cell.verdict = Some(Verdict::NotEnoughBlocks);
        cell.blocks.clear();
        let text = render(&report);
        let row = text
            .lines()
            .find(|line| line.starts_with("  64 B"))
            .unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[5..7], ["–", "–"], "{row}");
        assert!(
            text.contains("verdicts over 4 cells take 8, and 0 had samples enough"),
            "{text}"
        );
        report.results.clear();
        comparison(&mut report).cells.clear();
        comparison(&mut report).blocks.clear();
        let text = render(&report);
        assert!(text.starts_with("tare compare of lat: loopback (baseline) against veth\n"));
        assert!(text.contains("8 of 8 whole, 0 visits"), "{text}");
    }

    #[test]
    fn an_end_that_was_the_bottleneck_is_told_with_its_arm_and_step() {
        let mut report = fixtures::compare::comparison();
        assert!(!render(&report).contains("SATURATED"));
        let client = &mut report.results[3].instrument.client;
        client.saturated = true;
        client.saturation = Some("busy 97 % of the time\nwarning: forged".into());
        let text = render(&report);
        let expected = "  veth 4 KiB: client SATURATED: busy 97 % of the time warning: forged\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn why_an_arm_failed_forges_no_line() {
        let mut report = fixtures::compare::failed_arm();
        let reason = "\x1b[2J\nwarning: forged";
        comparison(&mut report).arms[2].failed = Some(reason.into());
        comparison(&mut report).arms[1].before = Some(reason.into());
        let text = render(&report);
        assert!(!text.contains('\x1b'));
        assert!(
            text.lines().all(|line| !line.starts_with("warning")),
            "{text}"
        );
    }
}
