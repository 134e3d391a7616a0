use super::*;
use crate::fixtures;

/// A comparison of two arms at two sizes; the arm costs `cost` on top of a baseline of `base`, and
/// both waver by block.
fn comparison(base: f64, cost: f64, blocks: u64) -> Report {
    let block = |block: u64, step: u64, cost: f64| {
        let baseline = base + 100.0 * real(step) + 10.0 * real(block * 37 % 11);
        let value = baseline + cost + real(block * 13 % 7);
        CellBlock { block: block + 1, baseline, value }
    };
    let cell = |name: &str, step: u64, cost: f64| Cell {
        arm: name.to_owned(),
        step,
        measure: "p50".to_owned(),
        unit: "ns".to_owned(),
        declared: name != AA,
        blocks: (0..blocks).map(|number| block(number, step, cost)).collect(),
        ..Cell::default()
    };
    let cells = [("pod", cost), (AA, 0.0)];
    let cells = cells.iter().flat_map(|&(name, cost)| [0, 1].map(|step| cell(name, step, cost)));
    let arms = ["plain", "pod", AA];
    let results: Vec<_> = arms.iter().flat_map(|arm| [(*arm, 64), (*arm, 4096)]).collect();
    fixtures::comparison(&arms, &results, cells.collect())
}

fn of<'a>(diff: &'a Diff, arm: &str, of: Of, size: u64) -> &'a Change {
    let is =
        |c: &&Change| c.arm.as_deref() == Some(arm) && c.of == of && c.params.size_bytes == size;
    diff.changes.iter().find(is).expect("the change is there")
}

#[test]
fn a_shared_drift_is_in_the_values_and_not_in_the_cost() {
    let diff =
        compare(&comparison(9_000.0, 5_000.0, 12), &comparison(9_500.0, 5_000.0, 12)).unwrap();
    assert_eq!(diff.changes.len(), 6, "two steps of two arms, and the cost");
    for size in [64, 4096] {
        assert_eq!(of(&diff, "plain", Of::Value, size).verdict, Some(Verdict::Slower));
        let own = of(&diff, "pod", Of::Value, size);
        assert_eq!(own.verdict, Some(Verdict::Slower));
        assert_eq!(own.delta.unwrap().median, 500.0);
        let cost = of(&diff, "pod", Of::Cost, size);
        assert_eq!(cost.verdict, Some(Verdict::NoDifferenceShown));
        let (low, high) = cost.delta.unwrap().interval.unwrap();
        assert!(low <= 0.0 && high >= 0.0);
    }
    assert!(diff.changes.iter().all(|c| c.arm.as_deref() != Some(AA)));
    assert!(diff.left_out.is_empty(), "{:?}", diff.left_out);
}

#[test]
fn a_cheaper_path_is_faster_where_blocks_are_enough() {
    let before = comparison(9_000.0, 5_000.0, 12);
    let diff = compare(&before, &comparison(9_000.0, 3_000.0, 10)).unwrap();
    let cost = of(&diff, "pod", Of::Cost, 64);
    assert_eq!(cost.verdict, Some(Verdict::Faster));
    assert!((cost.delta.unwrap().median + 2_000.0).abs() < 5.0);
    assert_eq!((cost.blocks_before, cost.blocks_after), (12, 10));
    assert!(cost.p_adjusted.unwrap() >= cost.p.unwrap());
    let base = of(&diff, "plain", Of::Value, 64);
    assert_eq!(base.verdict, Some(Verdict::NoDifferenceShown));
    let diff = compare(&comparison(9_000.0, 5_000.0, 3), &comparison(9_000.0, 9_000.0, 3)).unwrap();
    let cost = of(&diff, "pod", Of::Cost, 64);
    assert_eq!(cost.verdict, Some(Verdict::NotEnoughBlocks));
    assert_eq!(cost.delta.unwrap().interval, None);
}

#[test]
fn less_bandwidth_is_slower_and_overload_is_no_path() {
    let both = |cost| {
        let mut report = comparison(9e9, cost, 12);
        for cell in &mut report.comparison.as_mut().unwrap().cells {
            if cell.step == 0 {
                (cell.measure, cell.unit) = ("bandwidth".to_owned(), "bit/s".to_owned());
            } else {
                cell.overloaded = true;
            }
        }
        report
    };
    let diff = compare(&both(0.0), &both(-2e9)).unwrap();
    assert_eq!(of(&diff, "pod", Of::Value, 64).verdict, Some(Verdict::Slower));
    assert_eq!(of(&diff, "pod", Of::Value, 4096).verdict, Some(Verdict::Overload));
}

#[test]
fn what_only_one_of_them_has_is_listed() {
    let before = comparison(9_000.0, 5_000.0, 12);
    let mut after = before.clone();
    let comparison = after.comparison.as_mut().unwrap();
    let arms = comparison.cells.iter_mut().map(|cell| &mut cell.arm);
    let arms = arms.chain(after.results.iter_mut().filter_map(|result| result.arm.as_mut()));
    let arms = arms.chain(comparison.arms.iter_mut().map(|arm| &mut arm.name));
    arms.filter(|arm| *arm == "pod").for_each(|arm| *arm = "kata".to_owned());
    let diff = compare(&before, &after).unwrap();
    assert_eq!(diff.changes.len(), 2, "the baseline's alone");
    assert!(diff.left_out.iter().any(|text| text.contains("'pod'")));
    assert!(diff.left_out.iter().any(|text| text.contains("'kata'")));
}

#[test]
fn kinds_are_not_mixed() {
    let before = comparison(1.0, 1.0, 6);
    let refused = |after: &Report, message: &str| {
        let error = compare(&before, after).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    let mut after = before.clone();
    after.comparison.as_mut().unwrap().measured = "http".to_owned();
    refused(&after, "before a comparison of lat, after a comparison of http");
    refused(&Report { comparison: None, kind: "lat".to_owned(), ..after }, "after lat");
    let mut other = before.clone();
    other.results.iter_mut().for_each(|result| result.params.size_bytes += 1);
    refused(&other, "no arm and step in common");
}

#[test]
fn plain_results_stand_side_by_side() {
    let run = |p50: u64, sizes: &[u64]| {
        let step = |&size: &u64| {
            let mut step = StepResult::default();
            step.params.size_bytes = size;
            step.latency.service.p50_ns = Some(p50);
            step
        };
        let results = sizes.iter().map(step).collect();
        Report { kind: "lat".to_owned(), results, ..Report::default() }
    };
    let diff = compare(&run(9_000, &[64, 128]), &run(8_000, &[64, 256])).unwrap();
    assert_eq!(diff.changes.len(), 1);
    let change = &diff.changes[0];
    assert_eq!((change.before, change.after), (Some(9_000.0), Some(8_000.0)));
    assert_eq!(change.delta.unwrap().median, -1_000.0);
    assert_eq!((change.verdict, change.delta.unwrap().interval), (None, None));
    assert_eq!(diff.left_out.len(), 2);
    assert!(compare(&run(1, &[1]), &run(1, &[2])).is_err());
}

/// The arm died after two blocks; the A/A arm went on, and so did the baseline.
#[test]
fn the_baseline_is_judged_by_all_of_its_own_blocks() {
    let died = |mut report: Report, declared| {
        let comparison = report.comparison.as_mut().unwrap();
        for cell in comparison.cells.iter_mut().filter(|cell| cell.arm == "pod") {
            cell.blocks.truncate(2);
            cell.overloaded = true;
            cell.declared = declared;
        }
        report
    };
    let both = |declared| {
        let [old, new] =
            [9_000.0, 9_500.0].map(|base| died(comparison(base, 5_000.0, 12), declared));
        compare(&old, &new).unwrap()
    };
    let diff = both(true);
    let base = of(&diff, "plain", Of::Value, 64);
    assert_eq!((base.blocks_before, base.blocks_after), (12, 12));
    assert_eq!(base.verdict, Some(Verdict::Slower));
    // What is not declared of any arm is not of the baseline.
    let diff = both(false);
    assert_eq!(of(&diff, "plain", Of::Value, 64).verdict, None);
}
