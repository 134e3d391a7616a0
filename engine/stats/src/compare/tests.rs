//! Against scipy (`scripts/statistics-fixture` makes the figures), published examples, and the
//! rules of verdicts.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::binomial;

/// A case of any part of the fixture.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Case {
    most: u64,
    count: u64,
    share: f64,
    p: f64,
    values: Vec<f64>,
    differences: Vec<f64>,
    median: f64,
    interval: Option<(f64, f64)>,
    blocks: u64,
    cells: u64,
    dissenters: u64,
    detectable: f64,
    spread: f64,
    factor: f64,
    old: Vec<f64>,
    new: Vec<f64>,
}

/// A part of the fixture.
fn part(name: &str) -> serde_json::Value {
    let mut all: serde_json::Value =
        serde_json::from_str(include_str!("fixtures/scipy.json")).unwrap();
    all[name].take()
}

fn cases(name: &str) -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_value(part(name)).unwrap();
    assert!(!cases.is_empty(), "{name}");
    cases
}

/// The same but for the rounding of long sums.
#[track_caller]
fn assert_close(ours: f64, theirs: f64) {
    let allowed = 1e-9 * theirs.abs().max(1e-30);
    assert!((ours - theirs).abs() <= allowed, "{ours} is not {theirs}");
}

#[test]
fn the_binomial_distribution_and_the_sign_test_are_those_of_scipy() {
    for case in cases("at_most") {
        assert_close(binomial::at_most(case.most, case.count, case.share), case.p);
    }
    for (most, share, p) in [(2, 1.0, 0.0), (5, 1.0, 1.0), (0, 0.0, 1.0)] {
        assert_close(binomial::at_most(most, 5, share), p);
    }
    for case in cases("signs") {
        assert_close(blocks::sign_test(&case.differences).unwrap(), case.p);
    }
    assert_eq!(blocks::sign_test(&[]), None);
    // No count of blocks is too large for the sums.
    let many: Vec<f64> = (0..5_000).map(|i| f64::from(i % 2) - 0.5).collect();
    assert_eq!(blocks::sign_test(&many), Some(1.0));
}

#[test]
fn medians_and_their_intervals_are_those_of_scipy() {
    for case in cases("medians") {
        let ours = blocks::estimate(&case.values).unwrap();
        assert_close(ours.median, case.median);
        assert_eq!(ours.interval, case.interval);
    }
    // Those of what is no number are absent.
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    assert_eq!(blocks::estimate(&[]), None);
    for none in [[1.0, nan], [1.0, inf], [-inf, inf]] {
        assert_eq!(blocks::median(&none), None, "{none:?}");
    }
    assert_eq!(blocks::median(&[1.0, nan, 2.0]), None);
    assert_eq!(blocks::median(&[f64::MAX, f64::MAX]), Some(f64::MAX));
    let estimate = blocks::estimate(&[1.0, 2.0, 3.0, 4.0, 5.0, inf]);
    assert_eq!(estimate, Some(Estimate { median: 3.5, interval: None }));
}

#[test]
fn holm_adjusts_as_defined() {
    #[derive(Deserialize)]
    struct Adjusted {
        p: Vec<f64>,
        adjusted: Vec<f64>,
    }
    let cases: Vec<Adjusted> = serde_json::from_value(part("holm")).unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let ours = blocks::holm(&case.p);
        assert_eq!(ours.len(), case.adjusted.len());
        for (ours, theirs) in ours.into_iter().zip(case.adjusted) {
            assert_close(ours, theirs);
        }
    }
    assert_eq!(blocks::holm(&[f64::NAN, 0.01]), [1.0, 0.02]);
}

#[test]
fn what_blocks_can_show_is_what_as_many_experiments_find_in_numpy() {
    for case in cases("detectable") {
        assert_eq!(power::dissenters(case.blocks, case.cells), Some(case.dissenters));
        let ours = power::detectable_in_spreads(case.blocks, case.cells).unwrap();
        let ratio = ours / case.detectable;
        assert!((ratio - 1.0).abs() < 0.04, "{} blocks: {ours}, {ratio}", case.blocks);
    }
    assert!(power::detectable_in_spreads(12, 2).is_some());
    assert_eq!(power::detectable_in_spreads(6, 2), None);
    assert_eq!(power::detectable_in_spreads(0, 0), None);
    // The blocks needed are the fewest that can show anything.
    for case in cases("needed") {
        assert_eq!(power::blocks_needed(case.cells), case.blocks);
        assert_eq!(power::dissenters(case.blocks, case.cells), Some(0));
        assert_eq!(power::dissenters(case.blocks - 1, case.cells), None);
    }
    assert_eq!((power::blocks_needed(0), power::blocks_needed(u64::MAX)), (6, 70));
}

#[test]
fn the_spread_of_pilots_is_robust() {
    let few = cases("few");
    for case in cases("spreads") {
        let drawn = few.iter().find(|few| few.count == case.values.len() as u64);
        let factor = drawn.map_or(40.0 / 39.2, |few| few.factor);
        let ratio = power::spread(&case.values).unwrap() / (case.spread * factor);
        assert!((ratio - 1.0).abs() < 0.01, "{ratio}");
    }
    // Alternately 0 and 1, and one of 2: the median deviation is 1 or ½, and the factor for so many
    // shows.
    for Case { count, factor, .. } in few {
        let mut values: Vec<f64> = (0..count).map(|i| (i % 2) as f64).collect();
        values[0] = 2.0;
        let middle = blocks::median(&values).unwrap();
        let deviations: Vec<f64> = values.iter().map(|v| (v - middle).abs()).collect();
        let expected = blocks::median(&deviations).unwrap() * 1.482_602 * factor;
        let ratio = power::spread(&values).unwrap() / expected;
        assert!((ratio - 1.0).abs() < 0.015, "{count}: {ratio}");
    }
    // One visit that was disturbed does not spoil it.
    let (calm, stalled) = ([9.0, 10.0, 11.0, 10.5], [9.0, 10.0, 1e6, 10.5]);
    assert!(power::spread(&stalled).unwrap() < 2.0 * power::spread(&calm).unwrap());
    // Most visits in one bin of the histogram: the others tell.
    assert_close(power::spread(&[5.0, 5.0, 5.0, 7.0]).unwrap(), 1.0);
    for none in [&[][..], &[1.0, 2.0], &[3.0; 5], &[1.0, f64::NAN, 2.0, 3.0]] {
        assert_eq!(power::spread(none), None);
    }
}

#[test]
fn shifts_are_those_of_scipy_and_of_counting_all_cases() {
    for case in cases("shifts") {
        let ours = blocks::shift(&case.old, &case.new).unwrap();
        assert_close(ours.p, case.p);
        assert_close(ours.estimate.median, case.median);
        let ends = ours.estimate.interval;
        assert_eq!(ends.is_some(), case.interval.is_some());
        for (ours, theirs) in ends.into_iter().zip(case.interval) {
            assert_close(ours.0, theirs.0);
            assert_close(ours.1, theirs.1);
        }
        // Seen from the other side it is the same with the other sign.
        let back = blocks::shift(&case.new, &case.old).unwrap();
        assert_close(back.p, ours.p);
        let mirrored = ends.map(|(low, high)| (-high, -low));
        assert_eq!(back.estimate.interval, mirrored);
    }
    // With ties they are no surer than without.
    let tied: Case = serde_json::from_value(part("tied")).unwrap();
    assert_close(blocks::shift(&tied.old, &tied.new).unwrap().p, tied.p);
    let same = blocks::shift(&[3.0; 6], &[3.0; 6]).unwrap();
    assert_eq!((same.p, same.estimate.interval), (1.0, Some((0.0, 0.0))));
    for (old, new) in [(&[][..], &[1.0][..]), (&[1.0], &[]), (&[1.0, f64::NAN], &[1.0])] {
        assert_eq!(blocks::shift(old, new), None);
    }
    let one = blocks::shift(&[1.0], &[2.0]).unwrap();
    assert_eq!((one.p, one.estimate.interval), (1.0, None));
    // Hollander & Wolfe, example 4.1: water permeability of the human chorioamnion. Their estimate,
    // interval and p.
    let at_term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46];
    let early = [1.15, 0.88, 0.90, 0.74, 1.21];
    let shift = blocks::shift(&at_term, &early).unwrap();
    let (low, high) = shift.estimate.interval.unwrap();
    assert!((shift.estimate.median + 0.305).abs() < 1e-9);
    assert!((low + 0.76).abs() < 1e-9 && (high - 0.15).abs() < 1e-9);
    assert!((shift.p - 0.2544).abs() < 5e-5);
}

/// A cell whose blocks have the baseline 100 and these differences.
fn cell(arm: &str, measure: &str, unit: &str, differences: &[f64]) -> Cell {
    let blocks = differences.iter().zip(1..).map(|(difference, block)| CellBlock {
        block,
        baseline: 100.0,
        value: 100.0 + difference,
    });
    Cell {
        arm: arm.to_owned(),
        measure: measure.to_owned(),
        unit: unit.to_owned(),
        declared: arm != AA,
        blocks: blocks.collect(),
        ..Cell::default()
    }
}

/// Twelve differences around `middle`.
fn around(middle: f64) -> Vec<f64> {
    (0..12).map(|i| middle + f64::from(i) - 5.5).collect()
}

fn verdicts(mut cells: Vec<Cell>) -> Vec<Option<Verdict>> {
    judge(&mut cells);
    cells.iter().map(|cell| cell.verdict).collect()
}

#[test]
fn a_cell_is_filled_whole() {
    let mut cells =
        vec![cell("kata", "p50", "ns", &around(20.0)), cell(AA, "p50", "ns", &around(1.0))];
    cells[0].detectable = Some(8.0);
    judge(&mut cells);
    let kata = &cells[0];
    assert_eq!((kata.baseline, kata.value), (Some(100.0), Some(120.0)));
    let estimate = |median, low, high| Some(Estimate { median, interval: Some((low, high)) });
    assert_eq!(kata.delta, estimate(20.0, 16.5, 23.5));
    assert_close(kata.ratio.unwrap().median, 1.2);
    assert_eq!(kata.ratio.unwrap().interval, Some((1.165, 1.235)));
    assert_close(kata.p.unwrap(), 2.0 / 4096.0);
    assert_eq!(kata.p_adjusted, kata.p);
    assert_eq!(kata.resolution, Some(4.5));
    assert_eq!((kata.detectable, kata.blocks_needed), (Some(8.0), 6));
    assert_eq!(kata.verdict, Some(Verdict::Slower));
    let aa = &cells[1];
    assert!(aa.p.is_some_and(|p| p > 0.05) && aa.delta.is_some());
    assert_eq!((aa.p_adjusted, aa.verdict), (None, None));
}

#[test]
fn slower_and_faster_depend_on_what_is_measured() {
    for (unit, by, expected) in [
        ("ns", 20.0, Verdict::Slower),
        ("ns", -20.0, Verdict::Faster),
        ("bit/s", 20.0, Verdict::Faster),
        ("bit/s", -20.0, Verdict::Slower),
        ("1/s", -20.0, Verdict::Slower),
        ("ns", 0.0, Verdict::NoDifferenceShown),
        // Eleven of twelve blocks agree (p = 0.6 %), but within what the A/A arm shows.
        ("ns", 4.6, Verdict::NoDifferenceShown),
    ] {
        let shifted = cell("kata", "m", unit, &around(by));
        let found = verdicts(vec![shifted, cell(AA, "m", unit, &around(1.5))]);
        assert_eq!(found, [Some(expected), None], "{unit} {by}");
    }
}

#[test]
fn the_resolution_is_that_of_the_same_step_and_measure() {
    let mut cells = vec![
        cell("kata", "p50", "ns", &around(20.0)),
        cell("kata", "p99", "ns", &around(20.0)),
        cell("kata", "p50", "ns", &around(20.0)),
        cell(AA, "p50", "ns", &around(0.0)),
        cell(AA, "p99", "ns", &around(-30.0)),
    ];
    cells[2].step = 1;
    judge(&mut cells);
    let (p50, p99) = (Some(3.5), Some(33.5));
    let judged: Vec<_> = cells.iter().map(|cell| (cell.resolution, cell.verdict)).collect();
    // No A/A cell of its step vouches for the third.
    let expected = [
        (p50, Some(Verdict::Slower)),
        (p99, Some(Verdict::NoDifferenceShown)),
        (None, Some(Verdict::NotEnoughBlocks)),
        (p50, None),
        (p99, None),
    ];
    assert_eq!(judged, expected);
}

#[test]
fn verdicts_need_blocks_for_all_declared_cells() {
    let differences = around(20.0);
    let of = |cells: usize, blocks: usize| {
        let mut all = vec![cell("kata", "p50", "ns", &differences[..blocks]); cells];
        all.push(cell(AA, "p50", "ns", &around(0.0)));
        judge(&mut all);
        assert!(all[0].delta.is_some());
        (all[0].blocks_needed, all[0].verdict)
    };
    let few = Some(Verdict::NotEnoughBlocks);
    assert_eq!([of(1, 5), of(2, 6), of(25, 9)], [(6, few), (7, few), (10, few)]);
    let slower = Some(Verdict::Slower);
    assert_eq!([of(1, 6), of(25, 10)], [(6, slower), (10, slower)]);
    // An arm that died has fewer blocks than the others; one that never answered has none, and
    // counts.
    let mut arms = vec![
        cell("kata", "p50", "ns", &differences),
        cell("dead", "p50", "ns", &differences[..3]),
        cell("mute", "p50", "ns", &[]),
        cell(AA, "p50", "ns", &around(0.0)),
    ];
    assert_eq!(verdicts(arms.clone()), [slower, few, few, None]);
    judge(&mut arms);
    assert_close(arms[0].p_adjusted.unwrap(), 3.0 * 2.0 / 4096.0);
    assert_eq!((arms[2].p, arms[2].p_adjusted), (None, None));
}

#[test]
fn latencies_under_overload_are_no_tests() {
    let mut cells = vec![
        cell("kata", "p50", "ns", &around(20.0)),
        cell("kata", "p99", "ns", &around(20.0)),
        cell("kata", "goodput", "1/s", &around(-20.0)),
        cell("kata", "p90", "ns", &around(20.0)),
        cell(AA, "goodput", "1/s", &around(0.0)),
    ];
    cells.iter_mut().for_each(|cell| cell.overloaded = true);
    cells[3].declared = false;
    let (overload, slower) = (Some(Verdict::Overload), Some(Verdict::Slower));
    assert_eq!(verdicts(cells.clone()), [overload, overload, slower, None, None]);
    judge(&mut cells);
    assert_eq!(cells[0].p_adjusted, None);
    assert!(cells[0].delta.is_some() && cells[3].delta.is_some());
    assert_eq!(cells[2].p_adjusted, cells[2].p);
}

#[test]
fn what_is_no_number_is_left_out() {
    let mut broken = cell("kata", "p50", "ns", &around(20.0));
    broken.blocks[0].value = f64::NAN;
    broken.blocks[1].baseline = f64::INFINITY;
    broken.detectable = Some(f64::NAN);
    // Nothing was received over the baseline: a difference, and no ratio.
    let mut nothing = cell("kata", "bandwidth", "bit/s", &around(20.0));
    nothing.blocks.iter_mut().for_each(|block| block.baseline = 0.0);
    let mut neither = nothing.clone();
    neither.blocks[3].value = 0.0;
    let mut cells = vec![broken, nothing, neither];
    judge(&mut cells);
    assert_eq!((cells[0].blocks.len(), cells[0].detectable), (10, None));
    assert!(cells[1..].iter().all(|cell| cell.delta.is_some() && cell.ratio.is_none()));
    assert_eq!(verdicts(Vec::new()), []);
}

proptest! {
    #[test]
    fn whatever_was_measured_is_judged_and_can_be_written_and_read(
        values in prop::collection::vec((any::<f64>(), any::<f64>()), 0..20),
        same in any::<bool>(),
        overloaded in any::<bool>(),
    ) {
        let mut kata = cell("kata", "p50", "ns", &[]);
        kata.overloaded = overloaded;
        let block = |((baseline, value), block)| CellBlock { block, baseline, value };
        kata.blocks = values.into_iter().zip(1..).map(block).collect();
        let mut aa = kata.clone();
        aa.arm = if same { AA } else { "runc" }.to_owned();
        let mut cells = vec![kata, aa];
        judge(&mut cells);
        let json = serde_json::to_string(&cells).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<Cell>>(&json).unwrap().len(), 2);
        let again = cells.clone();
        judge(&mut cells);
        prop_assert_eq!(again, cells);
    }
}

/// A path that is 40 ns slower by the blocks, and an instrument that looks every 100 ns.
#[test]
fn what_the_instrument_may_shift_is_in_the_intervals_and_no_verdict() {
    let judged = |by: f64, error| {
        let of = |arm: &str, by: f64| {
            let differences: Vec<f64> =
                (1..=12).map(|block| by + f64::from(block) / 100.0).collect();
            let mut cell = cell(arm, "p50", "ns", &differences);
            cell.instrument_error = error;
            cell.blocks.iter_mut().for_each(|block| {
                block.baseline += 900.0;
                block.value += 900.0;
            });
            cell
        };
        let mut cells = [of("b", by), of(AA, -0.06)];
        judge(&mut cells);
        let [b, _] = cells;
        (b.verdict, b.delta.and_then(|d| d.interval), b.ratio.and_then(|r| r.interval))
    };
    let (verdict, delta, _) = judged(40.0, None);
    assert_eq!(verdict, Some(Verdict::Slower));
    let (low, high) = delta.unwrap();
    let (verdict, wide, ratio) = judged(40.0, Some(50.0));
    assert_eq!(verdict, Some(Verdict::NoDifferenceShown));
    assert_close(wide.unwrap().0, low - 50.0);
    assert_close(wide.unwrap().1, high + 50.0);
    assert_close(ratio.unwrap().0, 1.0 + low / 1_000.0 - 0.05);
    assert_eq!(judged(90.0, Some(50.0)).0, Some(Verdict::Slower));
}
