use proptest::prelude::*;
use tare_units::error::{Fault, Result};

use super::*;
use crate::diff::{Change, Diff, Of};
use crate::fixtures::{comparison, error, summary};
use crate::result::{
    AA, Bandwidth, BulkParams, Cell, Datagrams, Estimate, Flow, HttpParams, Operations, Params,
    Report, StatusCount, StepResult, Verdict as Found,
};

/// Closed loop: p50 100 µs, p99 1 ms within 0.9 to 1.2 ms, 5,000 a second.
fn step() -> StepResult {
    let mut step = StepResult::default();
    (step.params.size_bytes, step.params.connections) = (64, 1);
    step.latency.service = summary(100_000, 1_000_000, (900_000, 1_200_000));
    step.rate.achieved_per_s = 5_000.0;
    step.operations = Operations {
        due: 10_012,
        sent: 10_010,
        completed: 9_998,
        failed: 2,
        timed_out: 8,
        in_flight_at_end: 2,
        unsent_at_end: 2,
        ..Operations::default()
    };
    step
}

/// Open loop: the response time is worse than the service time, 4,950 of 5,000 a second.
fn open_step() -> StepResult {
    let mut open = step();
    open.latency.response = Some(summary(300_000, 3_000_000, (2_900_000, 3_100_000)));
    open.latency.lateness = Some(summary(2_000, 50_000, (45_000, 55_000)));
    (open.rate.target_per_s, open.rate.achieved_per_s) = (Some(5_000.0), 4_950.0);
    open
}

/// Paced at 5 Gbit/s each way: 4 up and 5 down of it, 1 % lost.
fn bulk_step() -> StepResult {
    let flow = |bits_per_s: f64, lost| {
        let datagrams =
            Datagrams { sent: 1_000, received: 1_000 - lost, lost, ..Datagrams::default() };
        Some(Flow {
            bits_per_s: Some(bits_per_s),
            interval_bits_per_s: Some((bits_per_s * 0.99, bits_per_s * 1.01)),
            datagrams: Some(datagrams),
            ..Flow::default()
        })
    };
    let mut step = StepResult::default();
    step.params.connections = 8;
    step.params.bulk = Some(BulkParams { rate_bits_per_s: Some(5e9), ..BulkParams::default() });
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

fn results(expr: &str, steps: &[StepResult]) -> Vec<AssertionResult> {
    evaluate(&[Assertion::parse(expr).expect(expr)], steps)
}

/// Holds what stands in the three lists, parted by blanks, against the step: what is to hold, to
/// fail, and to be undecided.
#[track_caller]
fn assert_decided(step: &StepResult, held: &str, failed: &str, undecided: &str) {
    for (exprs, expected) in [(held, Some(true)), (failed, Some(false)), (undecided, None)] {
        for expr in exprs.split_whitespace() {
            let results = results(expr, std::slice::from_ref(step));
            assert_eq!(results.len(), 1, "{expr}");
            assert_eq!(results[0].holds, expected, "{expr}");
        }
    }
}

#[test]
fn latencies_are_decided_by_their_whole_interval() {
    assert_decided(
        &step(),
        "p99<2ms p99<1200.001us p99<=1200us p99>899999ns p99>=0.9ms p99!=2ms p50<=100µs p50==100us min<60us max<=2ms \
         stdev<1s max<1m p50>0",
        "p99<900us p99>1.2ms p99==2ms p50<0.1ms p50!=100us mean<60us",
        "p99<1200us p99<950us p99<=900us p99>900us p99>=1.2ms p99==1ms p99!=1ms",
    );
    assert_eq!(results("p99 == 2ms", &[step()])[0].holds, Some(false));
}

#[test]
fn what_was_not_measured_is_undecided() {
    let unmeasured = "p99.9<1s p12.5<1s response.p99<1s connect.p50<1s path.p50<1s residence.max<1s bandwidth>1 rate>=99%";
    for expr in unmeasured.split(' ') {
        let result = &results(expr, &[step()])[0];
        assert_eq!((result.actual, result.holds), (None, None), "{expr}");
    }
    assert_decided(&StepResult::default(), "", "ops>0", "min<1s p99<1s loss<1");
}

#[test]
fn lower_bounds_can_fail_but_not_hold() {
    let mut step = step();
    step.latency.service.censored = 20;
    step.latency.service.lower_bounds = vec!["p99".to_owned()];
    assert_decided(
        &step,
        "p99>800us p50<1ms",
        "p99<900us max<1ms mean<1us",
        "p99<2ms max<1s mean<1s stdev<1s stdev<1ns",
    );
    let result = &results("p99<2ms", &[step])[0];
    assert_eq!((result.actual, result.interval), (Some(1e6), None), "JSON has no infinity");
}

#[test]
fn the_headline_is_the_response_in_open_loop() {
    assert_decided(
        &open_step(),
        "service.p50<200us response.p50<400us lateness.p99<100us rate>=0.99 rate>=99% rate>4.9k/s rate>290k/m",
        "p50<200us rate>0.99 rate>=5000/s",
        "",
    );
    assert_decided(&step(), "rate>=0.99 rate>=5k", "rate>5000", "");
}

#[test]
fn counts_and_bandwidth() {
    let mut step = step();
    step.bandwidth = Some(Bandwidth { bits_per_s: Some(9.4e9), ..Bandwidth::default() });
    assert_decided(
        &step,
        "errors==10 timeouts<=8 ops>9k loss<0.1% bandwidth>9G",
        "errors==0 loss<0.0007 bandwidth>10Gbit",
        "",
    );
    // Connects that failed are no operations, and count.
    step.errors = vec![error("connect", "ECONNREFUSED", 11)];
    assert_decided(&step, "errors==11", "", "");
    assert_eq!(results("bandwidth > 9000 Mbit/s", &[step])[0].holds, Some(true));
}

#[test]
fn bulk_runs_are_judged_by_direction_loss_and_cpu() {
    assert_decided(
        &bulk_step(),
        "bandwidth>8Gbit bandwidth.up>3.9Gbit bandwidth.down>4.9G loss<=1% lost==20 retransmits<10 cpu<800ms cpu<=0.75s \
         rate>=90% streams=8:lost==20",
        "bandwidth.up>5G loss<0.01 lost<20 retransmits==0 cpu<700ms rate>=0.91",
        "bandwidth>9Gbit bandwidth.up>4G streams=1:lost==20",
    );
    let of_bulk = "bandwidth.up>1 lost==0 retransmits==0 cpu<1s";
    assert_decided(&StepResult::default(), "", "", of_bulk);
}

#[test]
fn responses_are_counted_by_code_and_class() {
    assert_decided(
        &http_step(1, 5_000.0),
        "status.511<=100 status.5xx==107 status.404==0 goodput>=4950 goodput>=290k/m errors==107 rate>=0.99",
        "status.511<100 status.2xx>=10k goodput>5k/s",
        "",
    );
    assert_decided(&open_step(), "", "", "status.200>0");
}

/// The results of an expression by the names of their steps.
fn names(expr: &str, steps: &[StepResult]) -> Vec<String> {
    results(expr, steps).into_iter().map(|result| result.step).collect()
}

#[test]
fn selectors_choose_steps_and_none_is_not_silence() {
    let mut steps = [step(), step(), step()];
    (steps[1].params.size_bytes, steps[2].params.connections) = (4_096, 8);
    let all = ["size=64,connections=1", "size=4096,connections=1", "size=64,connections=8"];
    assert_eq!(names("p99<2ms", &steps), all);
    assert_eq!(names("size=4K:p99<2ms", &steps), all[1..2]);
    assert_eq!(results("size=4K:p99<2ms", &steps)[0].holds, Some(true));
    assert_eq!(names("size=64,connections=8:p99<2ms", &steps), all[2..]);
    assert_eq!(names("size = 65 : p99<2ms", &steps), ["size=65"]);
    assert_eq!(results("size = 65 : p99<2ms", &steps)[0].holds, None);
    assert_eq!(names("p99<2ms", &steps[..1]), [""]);
    assert_eq!(results("p99<2ms", &[])[0].holds, None);

    let stages = [http_step(1, 5_000.0), http_step(2, 10.0)];
    assert_eq!(names("ops>0", &stages), ["stage=1", "stage=2"]);
    assert_eq!(names("stage=2:ops>0", &stages), ["stage=2"]);
    assert_eq!(names("rate=5k:ops>0", &stages), ["stage=1"]);
    assert_eq!(names("rate=600/m:ops>0", &stages), ["stage=2"]);
    assert_eq!(names("rate=7:ops>0", &stages), ["rate=7"], "nothing is selected");
}

#[test]
fn a_load_is_kept_apart_from_what_it_loads() {
    let mut loaded = step();
    loaded.params.under_load = Some("-P 4".into());
    loaded.bandwidth = bulk_step().bandwidth;
    let steps = [step(), loaded];
    assert_eq!(names("p50<1s", &steps), ["idle", "loaded"]);
    assert_eq!(names("loaded:p50<1s", &steps), ["loaded"]);
    assert_eq!(names("idle:p50<1s", &steps), ["idle"]);
    assert_eq!(results("loaded:bandwidth>8G", &steps)[0].holds, Some(true));
    // Loss is that of the pings.
    assert_eq!(results("loaded:loss<0.01", &steps)[0].actual, Some(8.0 / 10_008.0));
    assert_eq!(results("loaded:lost==20", &steps)[0].holds, None);
}

#[test]
fn verdicts() {
    for (exprs, verdict) in [
        ("", Verdict::Holds),
        ("p99<2ms errors<100", Verdict::Holds),
        ("p99<2ms p99<1ms", Verdict::Undecided),
        ("p99<1ms errors==0", Verdict::Failed),
    ] {
        let assertions = exprs.split_whitespace().map(|expr| Assertion::parse(expr).unwrap());
        let results = evaluate(&assertions.collect::<Vec<_>>(), &[step()]);
        assert_eq!(Verdict::of(&results), verdict, "{exprs}");
    }
}

/// Each expression of a row (parted by blanks) is refused for a part of it, with advice; in both
/// `{name}`, `{arm}`, `{value}` and `{selector}` are those of the expression.
#[track_caller]
fn assert_refused(parse: fn(&str) -> Result<Assertion>, rows: &[(&str, &str, &str)]) {
    for (part, advice, exprs) in rows {
        for expr in exprs.split(' ') {
            let (selector, demand) = expr.split_once(':').unwrap_or(("", expr));
            let (name, value) = demand.split_once(['<', '>', '=']).unwrap_or((demand, ""));
            let arm = name.split('.').next().unwrap_or_default();
            let filled = |text: &str| {
                let text = text.replace("{name}", name).replace("{arm}", arm);
                text.replace("{value}", value.trim_start_matches('='))
                    .replace("{selector}", selector)
            };
            let error = parse(expr).expect_err(expr);
            assert_eq!(error.fault(), Fault::Usage);
            assert!(error.message().contains(&filled(part)), "{expr}: {error}");
            let has_advice =
                error.advice().is_some_and(|advice_is| advice_is.contains(&filled(advice)));
            assert!(has_advice, "{expr}: {error}");
        }
    }
}

#[test]
fn errors_say_which_part_and_what_instead() {
    let (no_value, example) = ("'{value}' is no value", "for example");
    let of_runs = [
        ("no comparison in it", example, " p99"),
        ("'=' is no comparison", example, "p99=2ms"),
        ("'!' is no comparison", example, "p99!2ms"),
        ("no value in it", example, "p99<"),
        (
            no_value,
            example,
            "p99<2 p99<2parsecs p99<-2ms p99<2..ms errors==0ms loss<1ms rate>1/fortnight bandwidth>1Gbyte cpu<0.8 \
             goodput>90%",
        ),
        (
            "'{name}' is not measured",
            example,
            "p100<2ms p0<2ms pinf<2ms p99.9.9<2ms latency<2ms foo.p99<2ms <2ms bandwidth.left>1 status.5x>0 \
             status.1000>0 status.099>0 status.+11>0",
        ),
        (
            "'{selector}' selects nothing",
            example,
            "rate=99%:ops>0 size=x:p99<2ms colour=64:p99<2ms :p99<2ms size=99999999999999999999:p99<2ms",
        ),
    ];
    assert_refused(Assertion::parse, &of_runs);
    let (which_arm, no_arm) = ("'{name}' does not say of which arm", "'{arm}' is no arm's name");
    let of_comparisons = [
        (which_arm, "NAME.{name}.delta<…", "p99<2ms p99.9<2ms bandwidth>1G"),
        (which_arm, "NAME.{name}<…", "p99.delta<2ms p99.9.ratio<2"),
        ("what of it", "{name}.delta<…", "kata.p99<2ms kata.p99.9<2ms"),
        ("a change is between two saved results", "kata.p99.delta<…", "kata.p99.change<2ms"),
        ("a cost is between two saved results", "p99.9.delta<…", "p99.9.cost<2ms"),
        ("'errors' is not compared", "goodput", "errors==0 kata.errors.delta==0"),
        ("'service.p99' is not compared", "p50", "kata.service.p99.delta<2us"),
        ("'p100' is not compared", "p50", "kata.p100.delta<2us"),
        ("'mean' is not compared", "p50", "kata.mean.delta<2us"),
        ("'' is not compared", "p50", "kata.delta<2us"),
        ("'delta' is not compared", "p50", "delta<2us"),
        (no_arm, "letters", ".p99.delta<2us -a.p99.delta<2us a/b.p99.delta<2us kätä.p99.delta<2us"),
        ("no comparison", "<=", "kata.p99.delta"),
        ("no value in it", "30us", "kata.p99.delta<"),
        (no_value, "30us", "service.p99.delta<2 kata.p99.delta<30 kata.p99.delta<30bit"),
        (no_value, "30us", "kata.p99.delta<--5us kata.p99.delta<-"),
        (no_value, "0.95", "kata.p99.ratio<30us kata.p99.ratio<-1"),
        (no_value, "-1Gbit", "kata.bandwidth.delta<5us"),
        (no_value, "-6k/m", "kata.goodput.delta<5%"),
        ("'{selector}' selects nothing", "size=4K", "size=x:kata.p99.delta<5us"),
    ];
    assert_refused(Assertion::parse_comparison, &of_comparisons);
    assert_eq!(
        Assertion::parse_comparison("p99<2ms").unwrap_err().to_string(),
        "--assert 'p99<2ms': 'p99' does not say of which arm; name an arm: NAME.p99.delta<… or NAME.p99.ratio<…"
    );
    let moved = "write kata.p99.change<… for how far it has moved, or kata.p99.cost<…";
    let of_diffs = [
        ("a delta is to the baseline", moved, "kata.p99.delta<30us"),
        ("a ratio is", "kata.bandwidth.change<…", "kata.bandwidth.ratio>0.9"),
        ("a delta is", "or NAME.p99.9.cost<…", "p99.9.delta<1us"),
        (which_arm, "NAME.{name}<…", "p50.cost<1us"),
        ("no comparison", "<=", " pod.p50"),
        ("'pod.p50' does not say what", "NAME.p99.change", "pod.p50<1us"),
        ("no value in it", "30us", "pod.p50.change<"),
        (no_value, "30us", "pod.p50.change<5"),
        (no_value, "-1Gbit", "pod.bandwidth.change<5us"),
        (no_value, "-6k/m", "pod.goodput.cost<5%"),
        ("'{selector}' selects nothing", "size=4K", "x=1:pod.p50.change<1us"),
        ("'b' is not compared", "NAME.p50.cost", "a.b.change<1us"),
        (no_arm, "NAME", "a/b.p50.change<1us"),
    ];
    assert_refused(Assertion::parse_diff, &of_diffs);
}

/// Of two numbers of connections in closed loop.
fn asked(kind: Kind) -> Asked {
    Asked {
        kind,
        sizes: vec![64],
        connections: vec![1, 8],
        stages: 0,
        rates_per_s: Vec::new(),
        loaded: false,
        datagrams: false,
        up: kind == Kind::Bw,
        down: false,
    }
}

#[test]
fn what_can_never_apply_to_a_run_is_refused() {
    let scheduled = Asked { stages: 2, rates_per_s: vec![10.0, 20.0], ..asked(Kind::Http) };
    let loaded = Asked { loaded: true, up: true, ..asked(Kind::Lat) };
    let datagrams = Asked { datagrams: true, ..asked(Kind::Bw) };
    let check = |expr: &str, asked: &Asked| Assertion::parse(expr).unwrap().check(asked);
    for (asked, refused, fine) in [
        (
            asked(Kind::Lat),
            "status.5xx==0 bandwidth>1G retransmits<5 cpu<1s lost<1 response.p99<1s size=65:p99<1s loaded:p99<1s \
             stage=1:p99<1s rate=5:p99<1s",
            "size=64,connections=8:p99<1s idle:p50<1s residence.p50<1s path.p50<1s connect.max<1s errors==0 loss<0.1% \
             rate>5",
        ),
        (
            loaded,
            "bandwidth.down>1G lost<1",
            "loaded:p99<1s bandwidth.up>1G bandwidth>1G retransmits<5",
        ),
        (
            asked(Kind::Bw),
            "p99<1s bandwidth.down>1G status.200>1 lost<1 loss<1%",
            "streams=8:bandwidth>1G bandwidth.up>1G cpu<1s retransmits<1 rate>0.9",
        ),
        (datagrams, "retransmits<1 p99<1s", "bandwidth>1G lost<1 loss<1%"),
        (
            asked(Kind::Http),
            "bandwidth>1G lateness.p50<1s connections=99:p99<1s",
            "p99<1s status.5xx==0 path.p50<1s goodput>5 ops>5 connect.p50<1s",
        ),
        (
            scheduled,
            "stage=3:p99<1s stage=0:p99<1s rate=30:p99<1s",
            "stage=2:p99<1s rate=20:response.p99<1s lateness.p50<1s",
        ),
    ] {
        fine.split(' ').for_each(|expr| check(expr, &asked).expect(expr));
        for expr in refused.split(' ') {
            let error = check(expr, &asked).expect_err(expr);
            assert!(error.message().contains(expr), "{error}");
            assert!(error.advice().is_some_and(|advice| !advice.is_empty()), "{error}");
        }
    }
    assert_eq!(
        check("stage=2:p99<1s", &asked(Kind::Http)).unwrap_err().to_string(),
        "--assert 'stage=2:p99<1s': no step of this run has stage=2; leave `stage=2` out, or ask for such a step"
    );
}

#[test]
fn what_can_never_apply_to_a_comparison_is_refused() {
    let check = |expr: &str, kind, arms: &[&str]| {
        let assertion = Assertion::parse_comparison(expr).unwrap();
        assertion.check_comparison(&asked(kind), "host", arms)
    };
    let arms = ["runc", "kata"];
    for (expr, kind) in [
        ("size=64:kata.p99.delta<1us", Kind::Lat),
        ("a/a.p99.delta<1us", Kind::Http),
        ("runc.bandwidth.ratio>1", Kind::Bw),
        ("runc.goodput.ratio>1", Kind::Http),
    ] {
        check(expr, kind, &arms).expect(expr);
    }
    for (kind, refused) in [
        (Kind::Lat, "kate.p99.delta<1us: no arm is called 'kate'; compared are runc, kata and a/a"),
        (
            Kind::Lat,
            "host.p99.delta<1us: 'host' is the baseline, which the others are compared with; compared are runc, kata and a/a",
        ),
        (
            Kind::Lat,
            "size=65:kata.p99.delta<1us: no step of this run has size=65; leave `size=65` out, or ask for such a step",
        ),
        (Kind::Bw, "kata.p99.delta<1us: a comparison by bw has no latencies; write bandwidth"),
        (
            Kind::Http,
            "kata.bandwidth.ratio>1: a comparison by http has no bandwidth; compare by bw",
        ),
        (Kind::Lat, "kata.goodput.ratio>1: a comparison by lat has no goodput; write p50 or p99"),
        (Kind::Bw, "kata.goodput.ratio>1: a comparison by bw has no goodput; write bandwidth"),
    ] {
        let (expr, message) = refused.split_once(": ").unwrap();
        let error = check(expr, kind, &arms).expect_err(expr);
        assert_eq!(error.to_string(), format!("--assert '{expr}': {message}"));
    }
    let alone = check("kata.p99.delta<1us", Kind::Lat, &[AA]).unwrap_err();
    assert_eq!(alone.advice(), Some("only a/a is compared with host"));
}

#[test]
fn an_assertion_says_what_it_is_about() {
    let assertion = Assertion::parse_comparison(" size=64 : kata.p99.9.delta < 5us ").unwrap();
    assert_eq!(assertion.expr, "size=64 : kata.p99.9.delta < 5us");
    assert_eq!(assertion.arm.as_deref(), Some("kata"));
    assert_eq!(assertion.metric.measure(), "p99_9");
    assert_eq!(assertion.percentile(), Some(99.9));
    let bandwidth = Assertion::parse_comparison("p99.bandwidth.ratio>1").unwrap();
    assert_eq!((bandwidth.arm.as_deref(), bandwidth.percentile()), (Some("p99"), None));
    let percentile = |expr: &str| Assertion::parse(expr).unwrap().percentile();
    assert_eq!((percentile("path.p99.5<1ms"), percentile("max<1ms")), (Some(99.5), None));
}

fn estimate(median: f64, ends: (f64, f64)) -> Option<Estimate> {
    Some(Estimate { median, interval: Some(ends) })
}

/// Of two sizes: kata has 20 µs more in the first (18 to 25) and 90 in the second, and 96 % of the
/// bandwidth; of runc only the first was measured, with too few blocks; and the A/A arm shows 1 µs.
fn report() -> Report {
    let cell = |arm: &str, step, measure: &str, (low, median, high), ratio: f64| Cell {
        arm: arm.to_owned(),
        step,
        measure: measure.to_owned(),
        delta: estimate(median, (low, high)),
        ratio: estimate(ratio, (ratio - 0.01, ratio + 0.01)),
        ..Cell::default()
    };
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
    // The baseline was cut short: what the second step was, the next arm knows.
    let results = [("host", 64), ("kata", 64), ("kata", 4096)];
    comparison(&["host", "kata", "runc", AA], &results, cells)
}

fn compared(expr: &str, report: &Report) -> Vec<AssertionResult> {
    evaluate_comparison(&[Assertion::parse_comparison(expr).expect(expr)], report)
}

#[test]
fn differences_are_decided_by_their_whole_interval() {
    let report = report();
    let held = "kata.p99.delta<30us kata.p99.delta<=25us kata.p99.delta>0 kata.p99.delta>-5us kata.p99.9.delta<-5us \
                kata.p99.ratio<1.22 kata.bandwidth.ratio>0.94 kata.bandwidth.delta>-1Gbit kata.goodput.delta>-100 \
                kata.goodput.delta>=-3k/m kata.goodput.ratio>0.5 a/a.p99.delta<2us";
    let failed = "kata.p99.delta<18us kata.p99.delta<-5us kata.p99.ratio<=1.1 kata.bandwidth.delta>-0.3G \
                  kata.goodput.delta>-9/s";
    // The last four have no interval, or no cell.
    let undecided = "kata.p99.delta<25us kata.p99.delta<20us kata.p99.9.delta<-7us kata.p99.ratio<120% \
                     kata.bandwidth.ratio>96% a/a.p99.delta!=0 runc.p99.delta<1s runc.p99.ratio<5 runc.p50.delta<1s \
                     gone.p99.delta<1s";
    let spaced = std::iter::once(("kata.p99.delta > 0.01 ms", Some(true)));
    let listed = [(held, Some(true)), (failed, Some(false)), (undecided, None)];
    let listed = listed.iter().flat_map(|(all, is)| all.split(' ').map(move |expr| (expr, *is)));
    for (expr, expected) in listed.chain(spaced) {
        let results = compared(&format!("size=64:{expr}"), &report);
        assert_eq!((results.len(), results[0].step.as_str()), (1, "size=64"));
        assert_eq!(results[0].holds, expected, "{expr}");
    }
}

#[test]
fn each_step_is_held_to_it() {
    let report = report();
    let results = compared("kata.p99.delta<30us", &report);
    let found: Vec<_> =
        results.iter().map(|r| (r.step.as_str(), r.actual, r.interval, r.holds)).collect();
    assert_eq!(
        found,
        [
            ("size=64", Some(20e3), Some((18e3, 25e3)), Some(true)),
            ("size=4096", Some(90e3), Some((80e3, 95e3)), Some(false)),
        ]
    );
    assert_eq!(results[0].expr, "kata.p99.delta<30us");
    assert_eq!(Verdict::of(&results), Verdict::Failed);
    // The arm did not come to the second step.
    let results = compared("a/a.p99.delta<2us", &report);
    assert_eq!([results[0].holds, results[1].holds], [Some(true), None]);
    assert_eq!(Verdict::of(&results), Verdict::Undecided);
    // No such step, and no comparison.
    for (expr, report) in [
        ("size=5:kata.p99.delta<30us", report.clone()),
        ("kata.p99.delta<30us", Report { comparison: None, ..report }),
    ] {
        let results = compared(expr, &report);
        assert_eq!((results.len(), results[0].holds), (1, None), "{expr}");
    }
}

#[test]
fn stages_and_rates_of_comparisons_select() {
    let mut report = report();
    for (step, stage) in report.results.iter_mut().zip([1, 1, 2]) {
        step.params.size_bytes = 64;
        step.params.rate_per_s = Some(f64::from(stage) * 100.0);
        step.params.http = Some(HttpParams { stage: Some(stage), ..HttpParams::default() });
    }
    for expr in ["stage=2:kata.p99.delta<99us", "rate=12k/m:kata.p99.delta<99us"] {
        let results = compared(expr, &report);
        assert_eq!((results.len(), results[0].step.as_str()), (1, "stage=2"));
        assert_eq!(results[0].actual, Some(90e3));
    }
}

/// Both paths have become some 500 ns slower at two sizes, and the pod costs what it did.
fn diff() -> Diff {
    let change = |arm: &str, of, size_bytes, measure: &str, (low, high)| Change {
        arm: Some(arm.to_owned()),
        params: Params { size_bytes, connections: 1, ..Params::default() },
        measure: measure.to_owned(),
        unit: "ns".to_owned(),
        of,
        delta: estimate(f64::midpoint(low, high), (low, high)),
        verdict: Some(Found::NoDifferenceShown),
        ..Change::default()
    };
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
        measured: "lat".to_owned(),
        baseline: Some("host".to_owned()),
        has_blocks: true,
        changes: [64, 4096].into_iter().flat_map(of_size).collect(),
        ..Diff::default()
    }
}

/// A run without blocks, of one step.
fn plain() -> Diff {
    let mut diff = Diff { baseline: None, has_blocks: false, ..diff() };
    diff.changes.truncate(1);
    let change = &mut diff.changes[0];
    (change.arm, change.verdict) = (None, None);
    change.delta.as_mut().unwrap().interval = None;
    diff
}

fn changed(expr: &str, diff: &Diff) -> Result<Vec<AssertionResult>> {
    Assertion::parse_diff(expr)?.evaluate_diff(diff)
}

#[test]
fn the_ends_of_the_intervals_of_changes_decide() {
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
        let results = changed(expr, &diff()).unwrap();
        assert!(results.iter().all(|result| result.holds == holds), "{expr}: {results:?}");
        assert_eq!(results.len(), if expr.contains(':') { 1 } else { 2 }, "{expr}");
        assert!(results[0].step.starts_with("size="), "{expr}");
    }
    for expr in ["p50.change<1us", "p99.9.change<1us", "size=64:p50.change<1us"] {
        let results = changed(expr, &plain()).unwrap();
        assert_eq!((results.len(), results[0].holds), (1, None), "plain results: {expr}");
    }
}

#[test]
fn a_latency_under_overload_decides_nothing() {
    let mut report = report();
    for cell in &mut report.comparison.as_mut().unwrap().cells {
        cell.overloaded = true;
    }
    let latency = &compared("size=64:kata.p99.delta<30us", &report)[0];
    assert_eq!((latency.actual, latency.holds), (Some(20e3), None));
    let goodput = &compared("size=64:kata.goodput.ratio>0.5", &report)[0];
    assert_eq!(goodput.holds, Some(true));
    let mut diff = diff();
    diff.changes[1].verdict = Some(Found::Overload);
    let results = changed("size=64:pod.p50.change<1us", &diff).unwrap();
    assert_eq!((results[0].actual, results[0].holds), (Some(500.0), None));
}

#[test]
fn what_no_change_has_is_refused_with_what_there_is() {
    let mut moved = Diff { baseline: None, ..diff() };
    moved.changes.retain(|change| change.of == Of::Value);
    let mut crossed = diff();
    crossed.changes.retain(|change| change.arm.as_deref() == Some("pod"));
    crossed.changes[4..].iter_mut().for_each(|change| change.params.connections = 8);
    let of_both = [
        "nobody.p50.change<1us: no change is told of an arm 'nobody'; there are changes of host, pod",
        "p50.change<1us: it does not say of which arm; name an arm, NAME.p50.change<…, of host, pod",
        "host.p50.cost<1us: 'host' is the baseline, which costs are relative to; write host.p50.change<…",
        "size=65:pod.p50.change<1us: no step of both has size=65; both have size=64, size=4096",
        "stage=2:pod.p50.change<1us: no step of both has stage=2; leave `stage=2` out",
        "pod.p99.change<1us: the two do not both have p99; both have p50, p99.9",
        "pod.bandwidth.change>-1G: the two do not both have bandwidth; both have p50, p99.9",
    ];
    let of_moved = "pod.p50.cost<1us: the two have not the same baseline, so no cost can be told; write pod.p50.change<…";
    let of_crossed = "size=64,connections=8:pod.p50.change<1us: no step of both has size=64,connections=8; leave one of them out";
    let of_plain = [
        "pod.p50.change<1us: plain results have no arms; write p50.change<…",
        "size=65:p50.change<1us: no step of both has size=65; both have size=64",
    ];
    let cases: [(&Diff, &[&str]); 4] = [
        (&diff(), &of_both),
        (&moved, &[of_moved]),
        (&crossed, &[of_crossed]),
        (&plain(), &of_plain),
    ];
    for (diff, refused) in cases.iter().flat_map(|(diff, all)| all.iter().map(move |it| (diff, it)))
    {
        let (expr, message) = refused.split_once(": ").unwrap();
        let error = changed(expr, diff).expect_err(expr);
        assert_eq!(error.fault(), Fault::Usage);
        assert_eq!(error.to_string(), format!("--assert '{expr}': {message}"));
    }
}

/// Results of some assertion, which can be written as JSON and read again.
fn assert_readable(results: &[AssertionResult]) {
    assert!(!results.is_empty());
    let json = serde_json::to_string(&results).unwrap();
    assert_eq!(serde_json::from_str::<Vec<AssertionResult>>(&json).unwrap(), results);
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
        ),
        compared in prop::collection::vec(
            prop::sample::select(vec![
                "size=64", ":", "kata", "a/a", ".", "p99", "p99.9", "bandwidth", "goodput", ".delta", ".ratio", "<", "=", ">",
                " ", "-", "5", "us", "%", "/s", "G", "é",
            ]),
            0..9,
        ),
    ) {
        if let Ok(assertion) = Assertion::parse(&parts.concat()) {
            assert_readable(&evaluate(&[assertion], &[step(), open_step()]));
        }
        if let Ok(assertion) = Assertion::parse_comparison(&compared.concat()) {
            assert_readable(&evaluate_comparison(&[assertion], &report()));
        }
    }
}
