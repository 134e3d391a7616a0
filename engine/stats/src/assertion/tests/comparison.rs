use proptest::prelude::*;

use crate::assertion::{Asked, Assertion, Kind, Verdict, evaluate_comparison};
use crate::result::{
    AA, Arm, AssertionResult, Cell, Comparison, Environments, Estimate, HttpParams, Report, SCHEMA,
    StepResult, Tool,
};

fn cell(arm: &str, step: u64, measure: &str, delta: (f64, f64, f64), ratio: f64) -> Cell {
    let (low, median, high) = delta;
    Cell {
        arm: arm.to_owned(),
        step,
        measure: measure.to_owned(),
        delta: Some(Estimate { median, interval: Some((low, high)) }),
        ratio: Some(Estimate { median: ratio, interval: Some((ratio - 0.01, ratio + 0.01)) }),
        ..Cell::default()
    }
}

/// Of two sizes: kata has 20 µs more in the first (18 to 25) and 90 in the second, and 96 % of the
/// bandwidth; of runc only the first was measured, with too few blocks; and the A/A arm shows 1 µs.
fn report() -> Report {
    let mut cells = vec![
        cell("kata", 0, "p99", (18e3, 20e3, 25e3), 1.2),
        cell("kata", 1, "p99", (80e3, 90e3, 95e3), 1.5),
        cell("kata", 0, "p99_9", (-9e3, -7e3, -6e3), 0.9),
        cell("kata", 1, "p99_9", (-9e3, -7e3, -6e3), 0.9),
        cell("kata", 0, "bandwidth", (-5e8, -4e8, -3e8), 0.96),
        cell("kata", 0, "goodput", (-50.0, -20.0, -10.0), 0.98),
        cell("runc", 0, "p99", (0.0, 3e3, 0.0), 1.0),
        cell("a/a", 0, "p99", (-1e3, 0.0, 1e3), 1.0),
    ];
    let runc = &mut cells[6];
    for estimate in [&mut runc.delta, &mut runc.ratio] {
        estimate.as_mut().unwrap().interval = None;
    }
    let arms = ["host", "kata", "runc", AA];
    let step = |arm: &str, size_bytes| {
        let mut step = StepResult { arm: Some(arm.to_owned()), ..StepResult::default() };
        step.params.size_bytes = size_bytes;
        step
    };
    // The baseline was cut short: what the second step was, the next arm knows.
    let results = vec![step("host", 64), step("kata", 64), step("kata", 4096)];
    Report {
        schema: SCHEMA.to_owned(),
        tool: Tool { name: "tare".to_owned(), version: "0".to_owned() },
        kind: "compare".to_owned(),
        started_at: String::new(),
        partial: false,
        seed: 0,
        plan: serde_json::Value::Null,
        environment: Environments::default(),
        results,
        comparison: Some(Box::new(Comparison {
            baseline: "host".to_owned(),
            arms: arms.map(|name| Arm { name: name.to_owned(), ..Arm::default() }).into(),
            steps: 2,
            cells,
            ..Comparison::default()
        })),
        assertions: Vec::new(),
        warnings: Vec::new(),
    }
}

fn evaluated(expr: &str, report: &Report) -> Vec<AssertionResult> {
    evaluate_comparison(&[Assertion::parse_comparison(expr).expect(expr)], report)
}

#[test]
fn differences_are_decided_by_their_whole_interval() {
    let report = report();
    for (expr, expected) in [
        ("kata.p99.delta<30us", Some(true)),
        ("kata.p99.delta<25us", None),
        ("kata.p99.delta<=25us", Some(true)),
        ("kata.p99.delta<20us", None),
        ("kata.p99.delta<18us", Some(false)),
        ("kata.p99.delta>0", Some(true)),
        ("kata.p99.delta > 0.01 ms", Some(true)),
        ("kata.p99.delta>-5us", Some(true)),
        ("kata.p99.delta<-5us", Some(false)),
        ("kata.p99.9.delta<-5us", Some(true)),
        ("kata.p99.9.delta<-7us", None),
        ("kata.p99.ratio<1.22", Some(true)),
        ("kata.p99.ratio<120%", None),
        ("kata.p99.ratio<=1.1", Some(false)),
        ("kata.bandwidth.ratio>0.94", Some(true)),
        ("kata.bandwidth.ratio>96%", None),
        ("kata.bandwidth.delta>-1Gbit", Some(true)),
        ("kata.bandwidth.delta>-0.3G", Some(false)),
        ("kata.goodput.delta>-100", Some(true)),
        ("kata.goodput.delta>=-3k/m", Some(true)),
        ("kata.goodput.delta>-9/s", Some(false)),
        ("kata.goodput.ratio>0.5", Some(true)),
        ("a/a.p99.delta<2us", Some(true)),
        ("a/a.p99.delta!=0", None),
        // Without an interval, without a cell.
        ("runc.p99.delta<1s", None),
        ("runc.p99.ratio<5", None),
        ("runc.p50.delta<1s", None),
        ("gone.p99.delta<1s", None),
    ] {
        let results = evaluated(&format!("size=64:{expr}"), &report);
        assert_eq!(results.len(), 1);
        assert_eq!(results[0].step, "size=64");
        assert_eq!(results[0].holds, expected, "{expr}");
    }
}

#[test]
fn each_step_is_held_to_it() {
    let report = report();
    let results = evaluated("kata.p99.delta<30us", &report);
    let told: Vec<_> =
        results.iter().map(|r| (r.step.as_str(), r.actual, r.interval, r.holds)).collect();
    assert_eq!(
        told,
        [
            ("size=64", Some(20e3), Some((18e3, 25e3)), Some(true)),
            ("size=4096", Some(90e3), Some((80e3, 95e3)), Some(false)),
        ]
    );
    assert_eq!(results[0].expr, "kata.p99.delta<30us");
    assert_eq!(Verdict::of(&results), Verdict::Failed);
    // The arm did not come to the second step.
    let results = evaluated("a/a.p99.delta<2us", &report);
    assert_eq!([results[0].holds, results[1].holds], [Some(true), None]);
    assert_eq!(Verdict::of(&results), Verdict::Undecided);
    // No such step, and no comparison.
    for (expr, report) in [
        ("size=5:kata.p99.delta<30us", report.clone()),
        ("kata.p99.delta<30us", Report { comparison: None, ..report }),
    ] {
        let results = evaluated(expr, &report);
        assert_eq!((results.len(), results[0].holds), (1, None), "{expr}");
    }
}

#[test]
fn a_latency_under_overload_decides_nothing() {
    let mut report = report();
    for cell in &mut report.comparison.as_mut().unwrap().cells {
        cell.overloaded = true;
    }
    let latency = &evaluated("size=64:kata.p99.delta<30us", &report)[0];
    assert_eq!((latency.actual, latency.holds), (Some(20e3), None));
    let goodput = &evaluated("size=64:kata.goodput.ratio>0.5", &report)[0];
    assert_eq!(goodput.holds, Some(true));
}

#[test]
fn stages_and_rates_select() {
    let mut report = report();
    for (step, stage) in report.results.iter_mut().zip([1, 1, 2]) {
        step.params.size_bytes = 64;
        step.params.rate_per_s = Some(f64::from(stage) * 100.0);
        step.params.http = Some(HttpParams { stage: Some(stage), ..HttpParams::default() });
    }
    for expr in ["stage=2:kata.p99.delta<99us", "rate=12k/m:kata.p99.delta<99us"] {
        let results = evaluated(expr, &report);
        assert_eq!((results.len(), results[0].step.as_str()), (1, "stage=2"));
        assert_eq!(results[0].actual, Some(90e3));
    }
}

#[test]
fn what_it_is_about_is_told() {
    let assertion = Assertion::parse_comparison(" size=64 : kata.p99.9.delta < 5us ").unwrap();
    assert_eq!(assertion.expr(), "size=64 : kata.p99.9.delta < 5us");
    assert_eq!(assertion.arm.as_deref(), Some("kata"));
    assert_eq!(assertion.metric.measure(), "p99_9");
    assert_eq!(assertion.percentile(), Some(99.9));
    let bandwidth = Assertion::parse_comparison("p99.bandwidth.ratio>1").unwrap();
    assert_eq!((bandwidth.arm.as_deref(), bandwidth.percentile()), (Some("p99"), None));
}

#[test]
fn errors_say_which_part_and_what_instead() {
    for (expr, part, advice) in [
        ("p99<2ms", "of which arm", "NAME.p99.delta<…"),
        ("p99.9<2ms", "of which arm", "NAME.p99.9.delta<…"),
        ("bandwidth>1G", "of which arm", "NAME.bandwidth.delta<…"),
        ("p99.delta<2ms", "of which arm", "NAME.p99.delta<…"),
        ("p99.9.ratio<2", "of which arm", "NAME.p99.9.ratio<…"),
        ("kata.p99<2ms", "what of it", "kata.p99.delta<…"),
        ("kata.p99.9<2ms", "what of it", "kata.p99.9.delta<…"),
        ("kata.p99.change<2ms", "a change is between two saved results", "kata.p99.delta<…"),
        ("p99.9.cost<2ms", "a cost is between two saved results", "p99.9.delta<…"),
        ("errors==0", "'errors' is not compared", "goodput"),
        ("kata.errors.delta==0", "'errors' is not compared", "goodput"),
        ("service.p99.delta<2", "'2' is no value", "30us"),
        ("kata.service.p99.delta<2us", "'service.p99' is not", "p50"),
        ("kata.p100.delta<2us", "'p100' is not compared", "p50"),
        ("kata.mean.delta<2us", "'mean' is not compared", "p50"),
        ("kata.delta<2us", "'' is not compared", "p50"),
        ("delta<2us", "'delta' is not compared", "p50"),
        (".p99.delta<2us", "'' is no arm's name", "letters"),
        ("-a.p99.delta<2us", "'-a' is no arm's name", "letters"),
        ("a/b.p99.delta<2us", "'a/b' is no arm's name", "letters"),
        ("kätä.p99.delta<2us", "'kätä' is no arm's name", "letters"),
        ("kata.p99.delta", "no comparison", "<="),
        ("kata.p99.delta<", "no value", "30us"),
        ("kata.p99.delta<30", "'30' is no value", "30us"),
        ("kata.p99.delta<30bit", "'30bit' is no value", "30us"),
        ("kata.p99.delta<--5us", "'--5us' is no value", "30us"),
        ("kata.p99.delta<-", "'-' is no value", "30us"),
        ("kata.p99.ratio<30us", "'30us' is no value", "0.95"),
        ("kata.p99.ratio<-1", "'-1' is no value", "0.95"),
        ("kata.bandwidth.delta<5us", "'5us' is no value", "-1Gbit"),
        ("kata.goodput.delta<5%", "'5%' is no value", "-6k/m"),
        ("size=x:kata.p99.delta<5us", "'size=x' selects nothing", "size=4K"),
    ] {
        let error = Assertion::parse_comparison(expr).expect_err(expr);
        assert_eq!(error.fault(), tare_units::error::Fault::Usage);
        assert!(error.message().contains(part), "{expr}: {error}");
        let remedy = error.advice().unwrap_or_default();
        assert!(remedy.contains(advice), "{expr}: {error}");
    }
    let error = Assertion::parse_comparison("p99<2ms").unwrap_err();
    assert_eq!(
        error.to_string(),
        "--assert 'p99<2ms': 'p99' does not say of which arm; name an arm: NAME.p99.delta<… or NAME.p99.ratio<…"
    );
}

#[test]
fn what_can_never_apply_is_refused() {
    let asked = |kind| Asked {
        kind,
        sizes: vec![64],
        connections: vec![1],
        stages: 0,
        rates_per_s: Vec::new(),
        loaded: false,
        datagrams: false,
        up: kind == Kind::Bw,
        down: false,
    };
    let check = |expr: &str, kind| {
        let assertion = Assertion::parse_comparison(expr).unwrap();
        assertion.check_comparison(&asked(kind), "host", &["runc", "kata"])
    };
    for (expr, kind) in [
        ("size=64:kata.p99.delta<1us", Kind::Lat),
        ("a/a.p99.delta<1us", Kind::Http),
        ("runc.bandwidth.ratio>1", Kind::Bw),
        ("runc.goodput.ratio>1", Kind::Http),
    ] {
        check(expr, kind).expect(expr);
    }
    for (expr, kind, message) in [
        (
            "kate.p99.delta<1us",
            Kind::Lat,
            "no arm is called 'kate'; compared are runc, kata and a/a",
        ),
        (
            "host.p99.delta<1us",
            Kind::Lat,
            "'host' is the baseline, which the others are compared with; compared are runc, kata and a/a",
        ),
        (
            "size=65:kata.p99.delta<1us",
            Kind::Lat,
            "no step of this run has size=65; leave `size=65` out, or ask for such a step",
        ),
        ("kata.p99.delta<1us", Kind::Bw, "a comparison by bw has no latencies; write bandwidth"),
        (
            "kata.bandwidth.ratio>1",
            Kind::Http,
            "a comparison by http has no bandwidth; compare by bw",
        ),
        ("kata.goodput.ratio>1", Kind::Lat, "a comparison by lat has no goodput; write p50 or p99"),
        ("kata.goodput.ratio>1", Kind::Bw, "a comparison by bw has no goodput; write bandwidth"),
    ] {
        let error = check(expr, kind).expect_err(expr);
        assert_eq!(error.to_string(), format!("--assert '{expr}': {message}"));
    }
    let alone = Assertion::parse_comparison("kata.p99.delta<1us").unwrap();
    let error = alone.check_comparison(&asked(Kind::Lat), "host", &[AA]).unwrap_err();
    assert_eq!(error.advice(), Some("only a/a is compared with host"));
}

proptest! {
    #[test]
    fn parsing_and_evaluating_near_misses_never_panics(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "size=64", ":", "kata", "a/a", ".", "p99", "p99.9", "bandwidth", "goodput", ".delta", ".ratio", "<", "=", ">",
                " ", "-", "5", "us", "%", "/s", "G", "é",
            ]),
            0..9,
        )
    ) {
        if let Ok(assertion) = Assertion::parse_comparison(&parts.concat()) {
            let results = evaluate_comparison(&[assertion], &report());
            prop_assert!(!results.is_empty());
            let json = serde_json::to_string(&results).unwrap();
            prop_assert_eq!(serde_json::from_str::<Vec<AssertionResult>>(&json).unwrap(), results);
        }
    }
}
