use super::*;
use tare_stats::histogram::{Distribution, Extent, RecordingSpec, Sample};
use tare_stats::result::{ErrorCount, HttpParams};
use tare_units::Instant;
use tare_units::error::Fault;

const MS: u64 = 1_000_000;

fn step_of(codes: &[(&str, u64)], errors: u64) -> StepResult {
    let mut step = StepResult::default();
    for (code, count) in codes {
        let count = StatusCount { count: *count, ..StatusCount::default() };
        step.status_codes.insert((*code).to_owned(), count);
        step.operations.failed += count.count;
    }
    step.operations.due = step.operations.failed + errors;
    step.operations.sent = step.operations.due;
    step.errors = vec![ErrorCount {
        phase: "receive".to_owned(),
        cause: "ECONNRESET".to_owned(),
        count: errors,
    }];
    step
}

#[test]
fn a_run_without_success_names_the_most_frequent_cause() {
    let address = Destination::Tcp("192.0.2.1:80".parse().unwrap());
    let reset = || Some(Error::peer("192.0.2.1:80 reset a connection"));
    let mut silent = step_of(&[], 5);
    silent.operations.in_flight_at_end = 5;
    let mut none_due = StepResult::default();
    none_due.params.rate_per_s = Some(0.1);
    let mut waits = StepResult::default();
    (waits.warmup.operations.sent, waits.warmup.operations.completed) = (12, 2);
    for (step, failure, fault, says) in [
        (
            step_of(&[("404", 8_095)], 3),
            reset(),
            Fault::Peer,
            "=none of 8095 responses was as expected: all were 404; check the path, or say --expect-status 404",
        ),
        (step_of(&[("500", 2), ("503", 9)], 3), reset(), Fault::Peer, ": 9 × 503, 2 × 500; "),
        (step_of(&[("404", 2)], 3), reset(), Fault::Peer, "reset"),
        (silent, None, Fault::Peer, "192.0.2.1:80 answered none"),
        (none_due, None, Fault::Usage, "no request was due"),
        (
            waits,
            None,
            Fault::Peer,
            "=no response came within the measured phase (10 requests of the warm-up were still unanswered); \
             measure longer (-d), without a warm-up (--warmup 0), or with fewer connections (-c)",
        ),
    ] {
        let error = explain(&step, failure, &address);
        assert_eq!(error.fault(), fault, "{error}");
        match says.strip_prefix('=') {
            Some(all) => assert_eq!(error.to_string(), all),
            None => assert!(error.to_string().contains(says), "{error}"),
        }
    }
}

#[test]
fn codes_stand_beside_the_latencies_of_each_entry() {
    let mut recording = Recording::new(RecordingSpec {
        extent: Extent::Time(Nanos::from_millis(30)),
        interval: Nanos::from_millis(10),
        open_loop: false,
    });
    let mut codes = Codes::new(recording.interval(), recording.entries());
    recording.begin(Instant(0));
    codes.begin(Instant(0));
    for (at, status) in [(1, 200), (2, 200), (12, 511)] {
        let (at, service) = (Instant(at * MS), Nanos(40_000));
        codes.record(status, at, service, || 0);
        if status == 200 {
            let sample = Sample { service, ..Sample::default() };
            recording.record(at, sample);
            recording.count_answer(at);
        } else {
            recording.record_error(at);
        }
    }
    let series = intervals(&recording, &codes, Nanos::from_millis(30));
    let told: Vec<_> = series.iter().map(|i| (i.completed, i.errors)).collect();
    assert_eq!(told, [(2, 0), (0, 1), (0, 0)]);
    assert_eq!(series[0].status_codes, [("200".to_owned(), 2)].into());
    assert_eq!(series[1].status_codes, [("511".to_owned(), 1)].into());
    assert!(series[2].status_codes.is_empty() && series[1].hdr.is_none());
    let read = Distribution::decode(series[0].hdr.as_deref().unwrap()).unwrap();
    assert_eq!(read.count(), 2);
    assert!((39_500..=40_400).contains(&read.at_rank(1)), "{}", read.at_rank(1));

    let counts = status_codes(&codes, &"2xx".parse().unwrap());
    assert!(counts["200"].expected && !counts["511"].expected);
    assert_eq!(counts["511"].first_ordinal, 3);
    assert_eq!(counts["511"].first_at_ns, 12 * MS);
    let latencies = by_status(&codes, &recording, &[]);
    assert_eq!(latencies["511"].max_ns, Some(40_000));
}

#[test]
fn the_target_of_a_ramp_is_its_middle() {
    let mut params = Params::default();
    assert_eq!(target_per_s(&params), None);
    params.rate_per_s = Some(1_000.0);
    params.http = Some(HttpParams::default());
    assert_eq!(target_per_s(&params), Some(1_000.0));
    params.http = Some(HttpParams { rate_to_per_s: Some(5_000.0), ..HttpParams::default() });
    assert_eq!(target_per_s(&params), Some(3_000.0));
}
