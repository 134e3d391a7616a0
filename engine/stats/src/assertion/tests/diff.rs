use crate::assertion::Assertion;
use crate::diff::{Change, Diff, Of};
use crate::result::{AssertionResult, Estimate, Params, Verdict};
use tare_units::error::{Fault, Result};

/// One that has moved by `low` to `high`.
fn change(arm: &str, of: Of, size_bytes: u64, measure: &str, (low, high): (f64, f64)) -> Change {
    Change {
        arm: Some(arm.to_owned()),
        params: Params { size_bytes, connections: 1, ..Params::default() },
        measure: measure.to_owned(),
        unit: "ns".to_owned(),
        of,
        before: Some(9e3),
        after: Some(9e3 + low),
        blocks_before: 12,
        blocks_after: 12,
        delta: Some(Estimate { median: f64::midpoint(low, high), interval: Some((low, high)) }),
        p: Some(0.5),
        p_adjusted: Some(1.0),
        verdict: Some(Verdict::NoDifferenceShown),
    }
}

/// Both paths have become some 500 ns slower at two sizes, and the pod costs what it did.
fn diff() -> Diff {
    let of_size = |size| {
        [
            change("host", Of::Value, size, "p50", (450.0, 550.0)),
            change("pod", Of::Value, size, "p50", (400.0, 600.0)),
            change("pod", Of::Cost, size, "p50", (-50.0, 50.0)),
            change("pod", Of::Value, size, "p99_9", (-9e3, -2e3)),
            change("pod", Of::Value, size, "residence_p50", (0.0, 1.0)),
        ]
    };
    Diff {
        schema: "tare-later/1".to_owned(),
        measured: "lat".to_owned(),
        baseline: Some("host".to_owned()),
        has_blocks: true,
        changes: [64, 4096].into_iter().flat_map(of_size).collect(),
        left_out: Vec::new(),
    }
}

/// A run without blocks, of one step.
fn plain() -> Diff {
    let mut diff = diff();
    (diff.baseline, diff.has_blocks) = (None, false);
    diff.changes.truncate(1);
    let change = &mut diff.changes[0];
    (change.arm, change.verdict) = (None, None);
    change.delta.as_mut().unwrap().interval = None;
    diff
}

fn evaluated(expr: &str, diff: &Diff) -> Result<Vec<AssertionResult>> {
    Assertion::parse_diff(expr)?.evaluate_diff(diff)
}

#[test]
fn the_ends_of_intervals_decide() {
    let diff = diff();
    for (expr, holds) in [
        ("pod.p50.change<1us", Some(true)),
        ("size=64:pod.p50.change > 0", Some(true)),
        ("size=4K,connections=1,idle:pod.p50.change>=-5us", Some(true)),
        ("pod.p50.change<100ns", Some(false)),
        ("pod.p50.change<500ns", None),
        ("pod.p99.9.change<-1us", Some(true)),
        ("pod.p50.cost<=-1us", Some(false)),
        ("pod.p50.cost<0", None),
        ("host.p50.change>400ns", Some(true)),
    ] {
        let results = evaluated(expr, &diff).unwrap();
        assert!(results.iter().all(|result| result.holds == holds), "{expr}: {results:?}");
        let sizes = if expr.contains(':') { 1 } else { 2 };
        assert_eq!(results.len(), sizes, "{expr}");
        assert!(results[0].step.starts_with("size="), "{expr}");
    }
}

#[test]
fn a_latency_under_overload_decides_nothing() {
    let mut diff = diff();
    diff.changes[1].verdict = Some(Verdict::Overload);
    let results = evaluated("size=64:pod.p50.change<1us", &diff).unwrap();
    assert_eq!((results[0].actual, results[0].holds), (Some(500.0), None));
}

#[test]
fn plain_results_decide_nothing() {
    for expr in ["p50.change<1us", "p99.9.change<1us", "size=64:p50.change<1us"] {
        let results = evaluated(expr, &plain()).unwrap();
        assert_eq!((results.len(), results[0].holds), (1, None), "{expr}");
    }
}

#[test]
fn what_no_change_has_is_refused_with_what_there_is() {
    let mut moved = diff();
    moved.baseline = None;
    moved.changes.retain(|change| change.of == Of::Value);
    for (expr, diff, message) in [
        (
            "nobody.p50.change<1us",
            diff(),
            "no change is told of an arm 'nobody'; there are changes of host, pod",
        ),
        (
            "p50.change<1us",
            diff(),
            "it does not say of which arm; name an arm, NAME.p50.change<…, of host, pod",
        ),
        (
            "host.p50.cost<1us",
            diff(),
            "'host' is the baseline, which costs are relative to; write host.p50.change<…",
        ),
        (
            "pod.p50.cost<1us",
            moved,
            "the two have not the same baseline, so no cost can be told; write pod.p50.change<…",
        ),
        (
            "size=65:pod.p50.change<1us",
            diff(),
            "no step of both has size=65; both have size=64, size=4096",
        ),
        ("stage=2:pod.p50.change<1us", diff(), "no step of both has stage=2; leave `stage=2` out"),
        ("pod.p99.change<1us", diff(), "the two do not both have p99; both have p50, p99.9"),
        (
            "pod.bandwidth.change>-1G",
            diff(),
            "the two do not both have bandwidth; both have p50, p99.9",
        ),
        ("pod.p50.change<1us", plain(), "plain results have no arms; write p50.change<…"),
        ("size=65:p50.change<1us", plain(), "no step of both has size=65; both have size=64"),
    ] {
        let error = evaluated(expr, &diff).expect_err(expr);
        assert_eq!(error.fault(), Fault::Usage);
        assert_eq!(error.to_string(), format!("--assert '{expr}': {message}"));
    }
    let mut crossed = diff();
    crossed.changes.retain(|change| change.arm.as_deref() == Some("pod"));
    for change in &mut crossed.changes[4..] {
        change.params.connections = 8;
    }
    let error = evaluated("size=64,connections=8:pod.p50.change<1us", &crossed).unwrap_err();
    let message = error.to_string();
    assert!(
        message.ends_with("no step of both has size=64,connections=8; leave one of them out"),
        "{message}"
    );
}

#[test]
fn errors_say_which_part_and_what_instead() {
    for (expr, part, advice) in [
        (
            "kata.p99.delta<30us",
            "a delta is to the baseline",
            "write kata.p99.change<… for how far it has moved, or kata.p99.cost<…",
        ),
        ("kata.bandwidth.ratio>0.9", "a ratio is", "kata.bandwidth.change<…"),
        ("p99.9.delta<1us", "a delta is", "or NAME.p99.9.cost<…"),
        ("p50.cost<1us", "of which arm", "NAME.p50.cost<…"),
        ("", "no comparison", "<="),
        ("pod.p50", "no comparison", "<="),
        ("pod.p50<1us", "'pod.p50' does not say what", "NAME.p99.change"),
        ("pod.p50.change<5", "'5' is no value", "30us"),
        ("pod.p50.change<", "no value in it", "30us"),
        ("pod.bandwidth.change<5us", "'5us' is no value", "-1Gbit"),
        ("pod.goodput.cost<5%", "'5%' is no value", "-6k/m"),
        ("x=1:pod.p50.change<1us", "'x=1' selects nothing", "size=4K"),
        ("a.b.change<1us", "'b' is not compared", "NAME.p50.cost"),
        ("a/b.p50.change<1us", "'a/b' is no arm's name", "NAME"),
    ] {
        let error = Assertion::parse_diff(expr).expect_err(expr);
        assert_eq!(error.fault(), Fault::Usage);
        assert!(error.message().contains(part), "{expr}: {error}");
        let remedy = error.advice().unwrap_or_default();
        assert!(remedy.contains(advice), "{expr}: {error}");
    }
}
