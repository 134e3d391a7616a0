use proptest::prelude::*;

use super::*;
use crate::result::{
    Bandwidth, BulkParams, Datagrams, ErrorCount, Flow, HttpParams, Operations, StatusCount,
    StepResult, Summary,
};

mod comparison;
mod diff;

fn summary(p50: u64, p99: u64, p99_interval: (u64, u64)) -> Summary {
    Summary {
        count: 10_000,
        min_ns: Some(p50 / 2),
        mean_ns: Some(p50 as f64),
        stdev_ns: Some(5_000.0),
        p50_ns: Some(p50),
        p99_ns: Some(p99),
        max_ns: Some(2 * p99),
        intervals_ns: [("p99".to_owned(), p99_interval)].into(),
        ..Summary::default()
    }
}

/// Closed loop: p50 100 µs, p99 1 ms within 0.9 to 1.2 ms, 5,000 a second.
fn step() -> StepResult {
    let mut step = StepResult::default();
    step.params.size_bytes = 64;
    step.params.connections = 1;
    step.latency.service = summary(100_000, 1_000_000, (900_000, 1_200_000));
    step.rate.achieved_per_s = 5_000.0;
    step.operations = Operations {
        due: 10_012,
        sent: 10_010,
        completed: 9_998,
        failed: 2,
        timed_out: 8,
        in_flight_at_end: 2,
        dropped: 0,
        unsent_at_end: 2,
    };
    step
}

/// Open loop: the response time is worse than the service time, 4,950 of 5,000 a second.
fn open_step() -> StepResult {
    let mut open = step();
    open.latency.response = Some(summary(300_000, 3_000_000, (2_900_000, 3_100_000)));
    open.latency.lateness = Some(summary(2_000, 50_000, (45_000, 55_000)));
    open.rate.target_per_s = Some(5_000.0);
    open.rate.achieved_per_s = 4_950.0;
    open
}

fn holds(expr: &str, step: &StepResult) -> Option<bool> {
    let results = evaluate(&[Assertion::parse(expr).unwrap()], std::slice::from_ref(step));
    assert_eq!(results.len(), 1);
    results[0].holds
}

#[test]
fn latencies_are_decided_by_their_whole_interval() {
    let step = step();
    for (expr, expected) in [
        ("p99<2ms", Some(true)),
        ("p99<1200.001us", Some(true)),
        ("p99<1200us", None),
        ("p99<=1200us", Some(true)),
        ("p99<950us", None),
        ("p99<900us", Some(false)),
        ("p99<=900us", None),
        ("p99>899999ns", Some(true)),
        ("p99>900us", None),
        ("p99>=0.9ms", Some(true)),
        ("p99>1.2ms", Some(false)),
        ("p99>=1.2ms", None),
        ("p99 == 1ms", None),
        ("p99==2ms", Some(false)),
        ("p99!=2ms", Some(true)),
        ("p99!=1ms", None),
        ("p50<0.1ms", Some(false)),
        ("p50<=100µs", Some(true)),
        ("p50==100us", Some(true)),
        ("p50!=100us", Some(false)),
        ("min<60us", Some(true)),
        ("mean<60us", Some(false)),
        ("max<=2ms", Some(true)),
        ("stdev<1s", Some(true)),
        ("max<1m", Some(true)),
        ("p50>0", Some(true)),
    ] {
        assert_eq!(holds(expr, &step), expected, "{expr}");
    }
}

#[test]
fn what_was_not_measured_is_undecided() {
    let step = step();
    for expr in [
        "p99.9<1s",
        "p12.5<1s",
        "response.p99<1s",
        "connect.p50<1s",
        "path.p50<1s",
        "residence.max<1s",
        "bandwidth>1",
        "rate>=99%",
    ] {
        let result = &evaluate(&[Assertion::parse(expr).unwrap()], std::slice::from_ref(&step))[0];
        assert_eq!((result.actual, result.holds), (None, None), "{expr}");
    }
    let nothing = StepResult::default();
    for expr in ["min<1s", "p99<1s", "loss<1"] {
        assert_eq!(holds(expr, &nothing), None, "{expr}");
    }
    assert_eq!(holds("ops>0", &nothing), Some(false));
}

#[test]
fn lower_bounds_can_fail_but_not_hold() {
    let mut step = step();
    step.latency.service.censored = 20;
    step.latency.service.lower_bounds = vec!["p99".to_owned()];
    for (expr, expected) in [
        ("p99<2ms", None),
        ("p99<900us", Some(false)),
        ("p99>800us", Some(true)),
        ("p50<1ms", Some(true)),
        ("max<1s", None),
        ("max<1ms", Some(false)),
        ("mean<1s", None),
        ("mean<1us", Some(false)),
        ("stdev<1s", None),
        ("stdev<1ns", None),
    ] {
        assert_eq!(holds(expr, &step), expected, "{expr}");
    }
    let result = &evaluate(&[Assertion::parse("p99<2ms").unwrap()], &[step])[0];
    assert_eq!((result.actual, result.interval), (Some(1e6), None), "JSON has no infinity");
}

#[test]
fn the_headline_is_the_response_in_open_loop() {
    let open = open_step();
    for (expr, expected) in [
        ("p50<200us", Some(false)),
        ("service.p50<200us", Some(true)),
        ("response.p50<400us", Some(true)),
        ("lateness.p99<100us", Some(true)),
        ("rate>=0.99", Some(true)),
        ("rate>0.99", Some(false)),
        ("rate>=99%", Some(true)),
        ("rate>=5000/s", Some(false)),
        ("rate>4.9k/s", Some(true)),
        ("rate>290k/m", Some(true)),
    ] {
        assert_eq!(holds(expr, &open), expected, "{expr}");
    }
    for (expr, expected) in [("rate>=0.99", true), ("rate>=5k", true), ("rate>5000", false)] {
        assert_eq!(holds(expr, &step()), Some(expected), "closed: {expr}");
    }
}

#[test]
fn counts_and_bandwidth() {
    let mut step = step();
    step.bandwidth = Some(Bandwidth { bits_per_s: Some(9.4e9), ..Bandwidth::default() });
    for (expr, expected) in [
        ("errors==10", true),
        ("errors==0", false),
        ("timeouts<=8", true),
        ("ops>9k", true),
        ("loss<0.1%", true),
        ("loss<0.0007", false),
        ("bandwidth>10Gbit", false),
        ("bandwidth>9G", true),
        ("bandwidth > 9000 Mbit/s", true),
    ] {
        assert_eq!(holds(expr, &step), Some(expected), "{expr}");
    }
    // Connects that failed are no operations, and count.
    step.errors = vec![ErrorCount {
        phase: "connect".to_owned(),
        cause: "ECONNREFUSED".to_owned(),
        count: 11,
    }];
    assert_eq!(holds("errors==11", &step), Some(true));
}

#[test]
fn selectors_choose_steps_and_none_is_not_silence() {
    let mut steps = vec![step(), step(), step()];
    steps[1].params.size_bytes = 4_096;
    steps[2].params.connections = 8;
    let named = |expr: &str| -> Vec<_> {
        evaluate(&[Assertion::parse(expr).unwrap()], &steps)
            .into_iter()
            .map(|r| (r.step, r.holds))
            .collect()
    };
    assert_eq!(
        named("p99<2ms").iter().map(|(s, _)| s.as_str()).collect::<Vec<_>>(),
        ["size=64,connections=1", "size=4096,connections=1", "size=64,connections=8"]
    );
    assert_eq!(named("size=4K:p99<2ms"), [("size=4096,connections=1".to_owned(), Some(true))]);
    assert_eq!(named("size=64,connections=8:p99<2ms").len(), 1);
    assert_eq!(named("size = 65 : p99<2ms"), [("size=65".to_owned(), None)]);
    assert_eq!(evaluate(&[Assertion::parse("p99<2ms").unwrap()], &steps[..1])[0].step, "");
    assert_eq!(evaluate(&[Assertion::parse("p99<2ms").unwrap()], &[])[0].holds, None);
}

#[test]
fn verdicts() {
    let verdict = |exprs: &[&str]| {
        let assertions: Vec<_> = exprs.iter().map(|e| Assertion::parse(e).unwrap()).collect();
        Verdict::of(&evaluate(&assertions, &[step()]))
    };
    assert_eq!(verdict(&[]), Verdict::Holds);
    assert_eq!(verdict(&["p99<2ms", "errors<100"]), Verdict::Holds);
    assert_eq!(verdict(&["p99<2ms", "p99<1ms"]), Verdict::Undecided);
    assert_eq!(verdict(&["p99<1ms", "errors==0"]), Verdict::Failed);
}

#[test]
fn errors_name_the_part_and_show_an_example() {
    for (expr, part) in [
        ("", "no comparison"),
        ("p99", "no comparison"),
        ("p99=2ms", "'=' is no comparison"),
        ("p99!2ms", "'!' is no comparison"),
        ("p99<", "no value"),
        ("p99<2", "'2' is no value"),
        ("p99<2parsecs", "'2parsecs'"),
        ("p99<-2ms", "'-2ms'"),
        ("p99<2..ms", "'2..ms'"),
        ("p100<2ms", "'p100' is not measured"),
        ("p0<2ms", "'p0' is not measured"),
        ("pinf<2ms", "'pinf' is not measured"),
        ("p99.9.9<2ms", "'p99.9.9' is not measured"),
        ("latency<2ms", "'latency' is not measured"),
        ("foo.p99<2ms", "'foo.p99' is not measured"),
        ("<2ms", "'' is not measured"),
        ("errors==0ms", "'0ms'"),
        ("loss<1ms", "'1ms'"),
        ("rate>1/fortnight", "'1/fortnight'"),
        ("bandwidth>1Gbyte", "'1Gbyte'"),
        ("size=x:p99<2ms", "'size=x' selects nothing"),
        ("colour=64:p99<2ms", "'colour=64' selects nothing"),
        (":p99<2ms", "'' selects nothing"),
        ("size=99999999999999999999:p99<2ms", "selects nothing"),
    ] {
        let error = Assertion::parse(expr).unwrap_err();
        assert_eq!(error.fault(), tare_units::error::Fault::Usage);
        assert!(error.message().contains(part), "{expr}: {error}");
        assert!(error.advice().is_some_and(|a| a.contains("for example")), "{expr}: {error}");
    }
}

#[test]
fn a_run_learns_which_quantile_it_must_tell() {
    let percentile = |expr: &str| Assertion::parse(expr).unwrap().percentile();
    assert_eq!(percentile("path.p99.5<1ms"), Some(99.5));
    assert_eq!(percentile("max<1ms"), None);
}

/// Paced at 5 Gbit/s each way: 4 up and 5 down of it, 1 % lost.
fn bulk_step() -> StepResult {
    let flow = |bits_per_s: f64, lost| {
        Some(Flow {
            bits_per_s: Some(bits_per_s),
            interval_bits_per_s: Some((bits_per_s * 0.99, bits_per_s * 1.01)),
            datagrams: Some(Datagrams {
                sent: 1_000,
                received: 1_000 - lost,
                lost,
                ..Default::default()
            }),
            ..Default::default()
        })
    };
    let mut step = StepResult::default();
    step.params.connections = 8;
    step.params.bulk = Some(BulkParams { rate_bits_per_s: Some(5e9), ..Default::default() });
    step.bandwidth = Some(Bandwidth {
        bits_per_s: Some(9e9),
        interval_bits_per_s: Some((8.9e9, 9.1e9)),
        up: flow(4e9, 20),
        down: flow(5e9, 0),
        lost_datagrams: Some(20),
        retransmits: Some(7),
        cpu_s_per_gib: Some(0.75),
        ..Bandwidth::default()
    });
    step
}

#[test]
fn bulk_runs_are_judged_by_direction_loss_and_cpu() {
    let bulk = bulk_step();
    for (expr, expected) in [
        ("bandwidth>8Gbit", Some(true)),
        ("bandwidth>9Gbit", None),
        ("bandwidth.up>3.9Gbit", Some(true)),
        ("bandwidth.up>4G", None),
        ("bandwidth.up>5G", Some(false)),
        ("bandwidth.down>4.9G", Some(true)),
        ("loss<=1%", Some(true)),
        ("loss<0.01", Some(false)),
        ("lost==20", Some(true)),
        ("lost<20", Some(false)),
        ("retransmits<10", Some(true)),
        ("retransmits==0", Some(false)),
        ("cpu<800ms", Some(true)),
        ("cpu<=0.75s", Some(true)),
        ("cpu<700ms", Some(false)),
        ("rate>=90%", Some(true)),
        ("rate>=0.91", Some(false)),
        ("streams=8:lost==20", Some(true)),
        ("streams=1:lost==20", None),
    ] {
        assert_eq!(holds(expr, &bulk), expected, "{expr}");
    }
    let latency = StepResult::default();
    for expr in ["bandwidth.up>1", "lost==0", "retransmits==0", "cpu<1s"] {
        assert_eq!(holds(expr, &latency), None, "{expr}");
    }
    assert!(Assertion::parse("bandwidth.left>1").is_err());
    assert!(Assertion::parse("cpu<0.8").is_err());
}

#[test]
fn a_load_is_told_from_what_it_loads() {
    let mut loaded = step();
    loaded.params.under_load = Some("-P 4".into());
    loaded.bandwidth = bulk_step().bandwidth;
    let steps = [step(), loaded];
    let all = |expr: &str| evaluate(&[Assertion::parse(expr).unwrap()], &steps);
    let names: Vec<_> = all("p50<1s").into_iter().map(|r| r.step).collect();
    assert_eq!(names, ["idle", "loaded"]);
    let only = all("loaded:p50<1s");
    assert_eq!((only.len(), only[0].step.as_str()), (1, "loaded"));
    assert_eq!(all("idle:p50<1s")[0].step, "idle");
    assert_eq!(all("loaded:bandwidth>8G")[0].holds, Some(true));
    // Loss is that of the pings.
    assert_eq!(all("loaded:loss<0.01")[0].actual, Some(8.0 / 10_008.0));
    assert_eq!(all("loaded:lost==20")[0].holds, None);
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".{0,40}") {
        let _ = Assertion::parse(&text);
    }

    #[test]
    fn parsing_and_evaluating_near_misses_never_panics(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "size=64", "connections=", "4K", ",", ":", "p99", "p", ".", "9", "rate", "loss", "lateness.", "<", "=",
                ">", "!", " ", "2", "ms", "%", "/s", "G", "bit", "é", "µs",
            ]),
            0..9,
        )
    ) {
        if let Ok(assertion) = Assertion::parse(&parts.concat()) {
            let results = evaluate(&[assertion], &[step(), open_step()]);
            prop_assert!(!results.is_empty());
            let json = serde_json::to_string(&results).unwrap();
            prop_assert_eq!(serde_json::from_str::<Vec<AssertionResult>>(&json).unwrap(), results);
        }
    }
}

/// An HTTP step of a stage at a rate: 511 a hundred times among it.
fn http_step(stage: u32, rate_per_s: f64) -> StepResult {
    let mut step = open_step();
    step.params.rate_per_s = Some(rate_per_s);
    step.params.http = Some(HttpParams { stage: Some(stage), ..HttpParams::default() });
    for (code, count) in [("200", 9_898), ("503", 7), ("511", 100)] {
        let count = StatusCount { count, expected: count > 100, ..StatusCount::default() };
        step.status_codes.insert(code.to_owned(), count);
    }
    step
}

#[test]
fn responses_are_counted_by_code_and_class() {
    let step = http_step(1, 5_000.0);
    for (expr, expected) in [
        ("status.511<=100", Some(true)),
        ("status.511<100", Some(false)),
        ("status.5xx==107", Some(true)),
        ("status.404==0", Some(true)),
        ("status.2xx>=10k", Some(false)),
        ("goodput>=4950", Some(true)),
        ("goodput>5k/s", Some(false)),
        ("goodput>=290k/m", Some(true)),
        ("errors==107", Some(true)),
        ("rate>=0.99", Some(true)),
    ] {
        assert_eq!(holds(expr, &step), expected, "{expr}");
    }
    assert_eq!(holds("status.200>0", &open_step()), None, "no HTTP load");
    for expr in ["status.5x>0", "status.1000>0", "status.099>0", "status.+11>0", "goodput>90%"] {
        assert!(Assertion::parse(expr).is_err(), "{expr}");
    }
}

#[test]
fn stages_are_selected_by_number_and_by_rate() {
    let steps = [http_step(1, 5_000.0), http_step(2, 10.0)];
    let names = |expr: &str| -> Vec<String> {
        let results = evaluate(&[Assertion::parse(expr).unwrap()], &steps);
        results.into_iter().map(|result| result.step).collect()
    };
    assert_eq!(names("ops>0"), ["stage=1", "stage=2"]);
    assert_eq!(names("stage=2:ops>0"), ["stage=2"]);
    assert_eq!(names("rate=5k:ops>0"), ["stage=1"]);
    assert_eq!(names("rate=600/m:ops>0"), ["stage=2"]);
    assert_eq!(names("rate=7:ops>0"), ["rate=7"], "nothing is selected");
    assert!(Assertion::parse("rate=99%:ops>0").is_err());
}
