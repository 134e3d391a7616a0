use super::*;
use crate::fixtures::error;
use crate::result::{
    Bandwidth, BulkParams, Datagrams, Flow, HttpParams, Operations, Pacing, StatusCount, Summary,
    Unloaded,
};

/// A quiet closed-loop step of 5 s on one spinning worker.
fn quiet() -> StepResult {
    let mut step = StepResult {
        duration_ns: 5_000_000_000,
        latency_error_ns: 300,
        instances: vec!["a".to_owned()],
        ..StepResult::default()
    };
    (step.params.connections, step.params.timeout_ns) = (1, 2_000_000_000);
    step.operations =
        Operations { due: 500_000, sent: 500_000, completed: 500_000, ..Operations::default() };
    step.latency.service = Summary {
        count: 500_000,
        mean_ns: Some(10_000.0),
        p50_ns: Some(9_000),
        p99_ns: Some(20_000),
        ..Summary::default()
    };
    step.instrument.client = Instrument {
        wait: "spin".to_owned(),
        cpus: vec![1],
        turn_p99_ns: 900,
        turn_max_ns: 200_000,
        worker_busy_max: 0.3,
        involuntary_switches: 100,
        run_queue_ns: Some(240_000_000),
        steal_ns: Some(1_000_000),
        throttled_periods: Some(0),
        throttled_ns: Some(0),
        ..Instrument::default()
    };
    step.instrument.server = Some(step.instrument.client.clone());
    step
}

/// The same on a schedule of 1,000 per second, over 4 connections.
fn scheduled() -> StepResult {
    let mut step = quiet();
    step.params.connections = 4;
    step.instrument.client.run_queue_ns = Some(3_000_000);
    (step.rate.target_per_s, step.rate.achieved_per_s) = (Some(1_000.0), 1_000.0);
    step.operations =
        Operations { due: 5_000, sent: 5_000, completed: 5_000, ..Operations::default() };
    step.latency.lateness = late(5_000, 10_000.0, 60_000);
    // All of it was the worker's wake-up.
    step.rate.generator_away_ns = Some(5_000 * 10_000);
    step
}

fn late(count: u64, mean_ns: f64, p99_ns: u64) -> Option<Summary> {
    let (mean_ns, p99_ns) = (Some(mean_ns), Some(p99_ns));
    Some(Summary { count, mean_ns, p99_ns, ..Summary::default() })
}

/// A second of `lat` at 1,000 per second, of which so many are sent and completed, in `mean_us`
/// each; the others are never sent.
fn lat(connections: u32, completed: u64, mean_us: u32) -> StepResult {
    let mut step = StepResult { duration_ns: 1_000_000_000, ..StepResult::default() };
    (step.params.connections, step.params.timeout_ns) = (connections, 20_000_000);
    step.operations = Operations {
        due: 1_000,
        sent: completed,
        completed,
        unsent_at_end: 1_000 - completed,
        ..Operations::default()
    };
    (step.rate.target_per_s, step.rate.achieved_per_s) = (Some(1_000.0), completed as f64);
    step.rate.backlog_max = Some(1_000 - completed);
    let ns = u64::from(mean_us) * 1_000;
    step.latency.service = Summary {
        count: completed,
        mean_ns: Some(ns as f64),
        p50_ns: Some(ns),
        p99_ns: Some(ns),
        ..Summary::default()
    };
    step
}

/// The same of HTTP over ten connections.
fn http(completed: u64, mean_us: u32) -> StepResult {
    let mut step = lat(10, completed, mean_us);
    let expect_status = "2xx".to_owned();
    step.params.http = Some(HttpParams { pipeline: 1, expect_status, ..HttpParams::default() });
    (step.connections.asked, step.connections.sockets_used) = (10, 10);
    answered(&mut step, "200", 1_000, true);
    step
}

fn answered(step: &mut StepResult, status: &str, count: u64, expected: bool) {
    let count = StatusCount { count, expected, ..StatusCount::default() };
    step.status_codes.insert(status.to_owned(), count);
}

/// A paced step up, of a thousand sends less those unsent, at a sender that is busy so much.
fn paced(unsent: u64, busy: f64, lost: u64) -> StepResult {
    let mut step = StepResult::default();
    step.params.connections = 4;
    step.params.bulk = Some(BulkParams::default());
    step.operations.completed = 1_000;
    step.instrument.client.worker_busy_max = busy;
    let up = Some(Flow {
        sends: 1_000 - unsent,
        pacing: Some(Pacing { unsent, ..Pacing::default() }),
        datagrams: Some(Datagrams { sent: 1_000 - unsent, lost, ..Datagrams::default() }),
        ..Flow::default()
    });
    step.bandwidth = Some(Bandwidth { up, ..Bandwidth::default() });
    step
}

fn up(step: &mut StepResult) -> &mut Flow {
    step.bandwidth.as_mut().unwrap().up.as_mut().unwrap()
}

fn codes(step: &StepResult) -> Vec<String> {
    let warnings = warnings(step);
    assert!(warnings.iter().all(|w| !w.advice.is_empty() && w.message.contains(char::is_numeric)));
    warnings.into_iter().map(|w| w.code).collect()
}

/// A warning with its advice.
#[track_caller]
fn text(step: &StepResult, code: &str) -> String {
    let found = warnings(step).into_iter().find(|warning| warning.code == code);
    found.map(|w| format!("{}; {}", w.message, w.advice)).expect(code)
}

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "{words}: {text}");
    }
}

/// The rate was not reached, of which nothing else is said to be the cause.
#[track_caller]
fn assert_blamed(step: &StepResult, cause: &str, advice: &str) {
    assert!(warnings(step).iter().all(|w| w.code != "connections-busy"));
    let text = text(step, "rate-not-reached");
    let (_, found) = text.split_once(" as expected: ").expect("the cause");
    assert!(found.starts_with(cause), "{text}");
    assert_says(found, &[advice]);
}

#[test]
fn a_quiet_step_is_not_accused() {
    for mut step in [quiet(), scheduled(), lat(2, 1_000, 100), http(1_000, 100)] {
        judge(&mut step);
        let ends = [Some(&step.instrument.client), step.instrument.server.as_ref()];
        assert!(ends.into_iter().flatten().all(|end| !end.saturated && !end.disturbed));
        assert_eq!(warnings(&step), []);
    }
}

#[test]
fn waits_for_a_cpu_stand_in_what_the_operations_took() {
    // 5,000 operations of 10 µs each: 50 ms of 5 s.
    let mut step = scheduled();
    step.instrument.client.run_queue_ns = Some(49_000_000);
    assert_eq!(codes(&step), [""; 0], "less than 1 % of the time");
    step.instrument.client.run_queue_ns = Some(60_000_000);
    step.latency.service.mean_ns = Some(40_000.0);
    assert_eq!(codes(&step), ["client-waited-for-cpu"]);
    let words = ["60 ms (1 % of the time, 30 % of what operations took)"];
    assert_says(&text(&step, "client-waited-for-cpu"), &words);
    step.latency.service.mean_ns = Some(400_000.0);
    assert_eq!(codes(&step), [""; 0], "of operations that take longer it is little");
}

#[test]
fn each_disturbance_is_reported_with_its_figure() {
    type Change = fn(&mut Instrument);
    let switches = "501 involuntary context switches (100 per worker and second)";
    let cases: [(Change, &str, &str); 7] = [
        (|i| i.steal_ns = Some(5_100_000), "steal", "steal of 5.1 ms, 0.10 %"),
        (|i| i.throttled_periods = Some(1), "throttled", "1 period"),
        (|i| i.throttled_ns = Some(40_000_000), "throttled", "40 ms"),
        (|i| i.involuntary_switches = 501, "preempted", switches),
        (|i| i.run_queue_ns = Some(2_500_000_000), "waited-for-cpu", "2.5 s (50 % of the time)"),
        (|i| i.turn_max_ns = 3_200_000, "stalled", "3.2 ms"),
        (|i| i.ring_overflows = 2, "ring-overflow", "2 times"),
    ];
    for (change, code, figure) in cases {
        let mut step = quiet();
        change(step.instrument.server.as_mut().unwrap());
        judge(&mut step);
        let server = step.instrument.server.as_ref().unwrap();
        assert!(server.disturbed && !step.instrument.client.disturbed, "{code}");
        assert_eq!(server.disturbances.len(), 1);
        assert_says(&server.disturbances[0], &[figure]);
        assert_eq!(codes(&step), [format!("server-{code}")]);
    }
}

#[test]
fn thresholds_grow_with_workers_and_judging_again_changes_nothing() {
    let mut step = quiet();
    step.instrument.client.cpus = vec![1, 2];
    step.instrument.client.involuntary_switches = 1_000;
    for (steal_ns, found) in [(Some(9_900_000), 0), (Some(10_100_000), 1), (None, 0)] {
        step.instrument.client.steal_ns = steal_ns;
        judge(&mut step);
        judge(&mut step);
        let client = &step.instrument.client;
        assert_eq!((client.disturbances.len(), client.disturbed), (found, found > 0));
    }
}

#[test]
fn stalls_and_switches_have_their_limits() {
    let end = quiet().instrument.client;
    let found = |end: &Instrument, ms| {
        let all = disturbances(end, Nanos::from_millis(ms), Nanos::from_millis(ms));
        all.into_iter().map(|warning| warning.code).collect::<Vec<_>>()
    };
    // Stalls are those of spinning workers with short turns.
    let stalled = Instrument { turn_max_ns: 3_200_000, ..end.clone() };
    assert_eq!(found(&stalled, 5_000), ["stalled"]);
    let sleeps = Instrument { wait: "block".to_owned(), ..stalled.clone() };
    assert_eq!(found(&sleeps, 5_000), [""; 0]);
    let long_turns = Instrument { turn_p99_ns: 40_000, ..stalled };
    assert_eq!(found(&long_turns, 5_000), [""; 0]);
    // A few switches in a short run are nothing; nor is a step that was cut short at once.
    let short = Instrument { steal_ns: None, run_queue_ns: None, ..end };
    let switched = |involuntary_switches| Instrument { involuntary_switches, ..short.clone() };
    assert_eq!(found(&switched(9), 50), [""; 0]);
    assert_eq!(found(&switched(10), 50), ["preempted"]);
    assert_eq!(found(&switched(0), 0), [""; 0]);
}

#[test]
fn a_busy_worker_is_saturated_unless_it_has_one_ping_pong() {
    let mut step = quiet();
    step.instrument.client.worker_busy_max = 0.97;
    assert_eq!(saturation(&step), None);
    step.params.connections = 2;
    assert_says(&saturation(&step).unwrap(), &["97 %"]);
    let mut open = scheduled();
    open.instrument.client.worker_busy_max = 0.89;
    assert_eq!(saturation(&open), None);
    open.instrument.client.worker_busy_max = 0.9;
    judge(&mut open);
    assert!(open.instrument.client.saturated);
    let reason = open.instrument.client.saturation.as_deref();
    assert_eq!(reason, Some("its busiest worker was busy 90 % of the time"));
    assert_eq!(codes(&open), ["generator-saturated"]);
}

#[test]
fn being_late_is_the_generators_doing_only_with_connections_to_spare() {
    let mut step = scheduled();
    // Late by less than the gap of 1 ms: a wake-up.
    step.latency.lateness = late(5_000, 10_000.0, 900_000);
    assert_eq!(saturation(&step), None);
    step.latency.lateness = late(5_000, 10_000.0, 1_100_000);
    judge(&mut step);
    let reason = step.instrument.client.saturation.as_deref().unwrap();
    assert!(reason.starts_with("99 % of its sends were up to 1.1 ms late"), "{reason}");
    assert_says(reason, &["every 1 ms"]);
    // Most of the waiting was for a connection: a server that takes 3 ms keeps 3 of the 4 busy.
    step.rate.generator_away_ns = Some(5_000 * 4_000);
    step.latency.service.mean_ns = Some(3e6);
    assert_eq!(saturation(&step), None);
    assert_eq!(codes(&step), ["connections-busy"]);
    step.rate.generator_away_ns = Some(5_000 * 6_000);
    assert_eq!(codes(&step), ["generator-saturated"]);
    // A fast schedule allows for the wake-up.
    let mut fast = scheduled();
    fast.rate.target_per_s = Some(100_000.0);
    for (p99_ns, is_saturated) in [(99_000, false), (101_000, true)] {
        fast.latency.lateness = late(5_000, 10_000.0, p99_ns);
        assert_eq!(saturation(&fast).is_some(), is_saturated, "{p99_ns}");
    }
}

#[test]
fn falling_behind_is_saturation() {
    let mut step = scheduled();
    (step.operations.sent, step.operations.unsent_at_end) = (4_951, 49);
    assert_eq!(saturation(&step), None);
    (step.operations.sent, step.operations.unsent_at_end) = (4_900, 100);
    assert_says(&saturation(&step).unwrap(), &["4900 of 5000", "98.0 %"]);
    // Those dropped found no free connection.
    (step.operations.unsent_at_end, step.operations.dropped) = (20, 80);
    assert_eq!(saturation(&step), None);
}

#[test]
fn weak_figures_are_warned_of() {
    let mut step = quiet();
    step.operations.timed_out = 3;
    (step.latency.service.p99_ns, step.latency.service.count) = (None, 999);
    // What 99 of 100 latencies are off by says nothing of the median.
    step.latency_error_ns = 700_000;
    step.latency.service.errors_ns = [("p50".to_owned(), 9)].into();
    assert!(warnings(&step).iter().all(|w| w.code != "coarse-instrument"));
    step.latency.service.errors_ns.clear();
    step.latency_error_ns = 9_000;
    step.instances.push("b".to_owned());
    assert_eq!(codes(&step), ["timeouts", "few-samples", "coarse-instrument", "several-servers"]);
    let spinning = text(&step, "coarse-instrument");
    step.instrument.client.wait = "block".to_owned();
    assert_ne!(spinning, text(&step, "coarse-instrument"), "advice fits the flags in use");
}

#[test]
fn what_was_observed_of_a_target_is_named() {
    let said = |one: &Observed| -> Vec<String> {
        let found = observed(one).into_iter().flatten();
        found.map(|w| format!("{}: {}", w.code, w.message)).collect()
    };
    let nginx = Observed {
        name: "nginx".into(),
        what: "comm:nginx".into(),
        user_ns: Some(1),
        cpu_limit: Some(1.0),
        periods: Some(50),
        throttled_periods: Some(12),
        throttled_ns: Some(340_000_000),
        processes: Some(3),
        ..Observed::default()
    };
    let expected = "observed-throttled: nginx was throttled by its CPU limit of 1 in 12 of 50 periods (340 ms): what \
                    was measured is the quota, not the network";
    assert_eq!(said(&nginx), [expected]);
    let seldom = Observed { throttled_periods: Some(1), cpu_limit: None, ..nginx.clone() };
    let seldom = said(&seldom);
    assert_says(&seldom[0], &["its CPU limit in 1 of 50 periods"]);
    assert!(seldom[0].ends_with("the longest latencies are the quota's, not the network's"));
    for throttled_periods in [None, Some(0)] {
        assert_eq!(said(&Observed { throttled_periods, ..nginx.clone() }), [""; 0]);
    }
    // What was restarted in part has not gone.
    let quiet = Observed { throttled_periods: None, ..nginx };
    assert_eq!(said(&Observed { processes_ended: 2, ..quiet.clone() }), [""; 0]);
    let note = Some("3 processes ended".into());
    let crashed = Observed { processes: Some(0), processes_ended: 3, note, ..quiet };
    let expected = "observed-gone: nginx (comm:nginx) was not there to the end: 3 processes ended";
    assert_eq!(said(&crashed), [expected]);
}

#[test]
fn a_pace_that_is_not_kept_is_the_senders_fault_or_the_paths() {
    assert_eq!(codes(&paced(10, 0.95, 0)), [""; 0]);
    assert_eq!(codes(&paced(11, 0.95, 0)), ["generator-saturated"]);
    assert_eq!(codes(&paced(11, 0.5, 0)), ["rate-not-reached"]);
    assert_eq!(codes(&paced(0, 0.5, 1)), ["datagrams-lost"]);
    let mut unknown = paced(0, 0.5, 0);
    up(&mut unknown).sends = 0;
    assert_eq!(codes(&unknown), [""; 0], "nothing is known of the sender");
    let text = text(&paced(500, 0.99, 0), "generator-saturated");
    assert_says(&text, &["500 of the sends that were due (50.0 %)"]);
    // A sender that goes as fast as it can is busy, and that is right.
    let mut fast = paced(0, 1.0, 5);
    up(&mut fast).pacing = None;
    assert_eq!(codes(&fast), [""; 0]);
    judge(&mut fast);
    assert!(!fast.instrument.client.saturated);
    // A load's figures are not the step's.
    let mut loaded = paced(500, 1.0, 5);
    loaded.params.bulk = None;
    (loaded.params.under_load, loaded.params.connections) = (Some(String::new()), 1);
    assert_eq!(codes(&loaded), ["few-samples"]);
}

#[test]
fn fragments_are_reported_with_what_they_do_to_loss() {
    let mut step = paced(0, 0.5, 50);
    step.params.size_bytes = 20_480;
    let datagrams = |step: &mut StepResult, fragments| {
        let datagrams = up(step).datagrams.as_mut().unwrap();
        (datagrams.path_mtu_bytes, datagrams.fragments) = (Some(1500), Some(fragments));
    };
    datagrams(&mut step, 1);
    assert_eq!(codes(&step), ["datagrams-lost"]);
    datagrams(&mut step, 14);
    assert_eq!(codes(&step), ["datagrams-lost", "fragmented"]);
    // 1 − 0.999^14, and 1 − 0.95^(1/14).
    let words = [
        "as 14 IP fragments",
        "1500",
        "becomes one of 1.39 %",
        "the 5.00 % lost here may be 0.366 %",
        "(up)",
        "--size 1472 and less",
    ];
    assert_says(&text(&step, "fragmented"), &words);
    step.params.address = Some("[fd00::1]:7117".to_owned());
    assert_says(&text(&step, "fragmented"), &["--size 1452 and less"]);
    // Those of a latency run are told too.
    let mut step = paced(0, 0.5, 0);
    (step.params.bulk, step.bandwidth) = (None, None);
    step.params.size_bytes = 4_000;
    (step.params.path_mtu_bytes, step.params.fragments_per_datagram) = (Some(1500), Some(3));
    assert_says(&text(&step, "fragmented"), &["3 IP fragments"]);
    step.params.fragments_per_datagram = Some(1);
    assert!(!codes(&step).contains(&"fragmented".to_owned()));
}

#[test]
fn a_buffer_that_was_not_granted_is_reported() {
    let mut step = paced(0, 0.5, 0);
    let bulk = step.params.bulk.as_mut().unwrap();
    (bulk.send_buffer_bytes, bulk.receive_buffer_bytes) = (Some(100_000), Some(4_000_000));
    let datagrams = up(&mut step).datagrams.as_mut().unwrap();
    // The kernel doubles what it grants.
    (datagrams.send_buffer_bytes, datagrams.receive_buffer_bytes) = (Some(200_000), Some(425_984));
    assert_eq!(codes(&step), ["buffer-capped"]);
    let words = ["4000000", "granted 212992", "net.core.rmem_max"];
    assert_says(&text(&step, "buffer-capped"), &words);
    assert!(text(&step, "buffer-capped").starts_with("--rcvbuf"));
}

#[test]
fn a_rate_that_is_not_reached_has_a_cause() {
    // Each request takes 40 ms: ten connections are always busy, at 250 per second.
    let slow = http(250, 40_000);
    assert_eq!(codes(&slow), ["unsent", "rate-not-reached"]);
    assert_blamed(&slow, "the connections, 100 %", "-c 80");

    let mut generator = http(250, 100);
    // It was away while they became due, and connections were free.
    generator.latency.lateness =
        Some(Summary { count: 1_000, mean_ns: Some(281e6), ..Summary::default() });
    generator.rate.generator_away_ns = Some(280_000_000_000);
    assert_eq!(codes(&generator), ["generator-saturated", "unsent", "rate-not-reached"]);
    assert_blamed(&generator, "the generator", "");

    let mut server = http(1_000, 100);
    (server.operations.completed, server.operations.failed) = (900, 100);
    server.rate.achieved_per_s = 900.0;
    answered(&mut server, "503", 100, false);
    assert_eq!(codes(&server), ["rate-not-reached", "unexpected-status"]);
    assert_blamed(&server, "the server, 100 of 1000", "");

    let mut dropped = slow;
    (dropped.operations.dropped, dropped.operations.unsent_at_end) = (750, 0);
    assert_eq!(codes(&dropped), ["dropped", "rate-not-reached"]);

    let mut cut_short = lat(1, 250, 4_000);
    cut_short.partial = true;
    assert!(!codes(&cut_short).contains(&"rate-not-reached".to_owned()));
}

#[test]
fn a_server_that_went_away_is_the_cause_whatever_became_of_the_late() {
    // Killed halfway: one request on each connection failed, and the others had nothing to be sent
    // on.
    let mut killed = http(500, 100);
    killed.operations.sent += 10;
    killed.operations.failed = 10;
    killed.operations.unsent_at_end -= 10;
    killed.connections.down_ns = Some(4_990_000_000);
    killed.errors = vec![error("connect", "ECONNREFUSED", 60)];
    let away = "the server, connections to it were down for 50 % of the time: 60 × connect \
                ECONNREFUSED; see whether it died";
    assert_says(&text(&killed, "rate-not-reached"), &[away]);
    let mut dropped = killed.clone();
    (dropped.operations.dropped, dropped.operations.unsent_at_end) = (490, 0);
    dropped.rate.backlog_max = Some(0);
    assert_eq!(saturation(&dropped), None);
    assert_says(&text(&dropped, "rate-not-reached"), &[away]);
    // One connection of ten that failed does not explain that half of the requests are missing.
    killed.connections.down_ns = Some(1_000_000_000);
    killed.latency.service.mean_ns = Some(17e6);
    assert_says(&text(&killed, "rate-not-reached"), &["the connections, 87 %"]);
}

#[test]
fn connecting_takes_a_connection_up() {
    // A connection for each request, over a path of 10 ms: all of them are taken up, half of the
    // time to connect.
    let mut step = http(500, 10_000);
    step.connections.connecting_ns = Some(5_000_000_000);
    let words =
        ["the connections, 100 %", "for 20 ms by each request, 10 ms of it to connect", "-c 40"];
    assert_says(&text(&step, "rate-not-reached"), &words);
    let mut step = lat(1, 500, 400);
    step.connections.connecting_ns = Some(800_000_000);
    let cause = "the connections, 100 % of them were in use in the mean, for 2 ms by each round \
                trip, 1.6 ms of it to open and close it";
    assert_blamed(&step, cause, "-c 4)");
}

#[test]
fn a_stall_of_the_server_is_not_the_generators_doing() {
    // Silent for 500 ms: ten are under way, and all that become due meanwhile wait.
    let mut step = http(1_000, 5_000);
    step.latency.lateness = late(1_000, 120e6, 454_000_000);
    step.rate.backlog_max = Some(490);
    step.rate.generator_away_ns = Some(1_000 * 50_000);
    assert_eq!(saturation(&step), None);
    assert_eq!(codes(&step), ["connections-busy"]);
    assert_says(&text(&step, "connections-busy"), &["as many as 490"]);
    // The same, but it was the worker that was away.
    step.rate.generator_away_ns = Some(1_000 * 119_000_000);
    assert_eq!(codes(&step), ["generator-saturated"]);
    step.rate.generator_away_ns = Some(0);
    step.instrument.client.worker_busy_max = 0.95;
    assert_eq!(codes(&step), ["generator-saturated"]);
}

/// `/queue?service=1ms` at four times what it can do, and more connections than it serves at once.
fn queueing(connections: u32, unloaded_ms: f64) -> StepResult {
    let mut step = http(250, connections * 1_000);
    step.params.connections = connections;
    step.latency.service.p90_ns = Some(u64::from(connections) * 1_000_000 + 200_000);
    let count = u64::from(connections).div_ceil(2);
    step.rate.unloaded = Some(Unloaded { count, mean_ns: unloaded_ms * 1e6 });
    step.operations.sent = 1_000;
    step
}

#[test]
fn requests_that_wait_for_each_other_wait_at_the_server() {
    for (connections, unloaded_ms) in [(100, 25.5), (100, 40.0), (4, 1.5), (4, 2.2)] {
        let step = queueing(connections, unloaded_ms);
        assert_blamed(&step, "the server, it answered 250/s and no more", "");
    }
    let cause = "a request took 4 ms with all connections in use, and 1.5 ms with few of them";
    assert_says(&text(&queueing(4, 1.5), "rate-not-reached"), &[cause]);
    // Each takes a connection as long as ever; or it is not known, or not with so few samples.
    let mut unknown = queueing(4, 1.5);
    unknown.rate.unloaded = None;
    let mut random = queueing(4, 1.5);
    random.latency.service.p90_ns = Some(10_000_000);
    for step in [queueing(100, 99.0), queueing(4, 4.0), queueing(1, 1.0), unknown, random] {
        assert_blamed(&step, "the connections, 100 %", "");
    }
}

#[test]
fn a_server_that_stands_still_at_times_is_not_blamed_on_few_connections() {
    let cause = "the server, for a time all connections waited";
    assert_blamed(&http(700, 5_000), cause, "keeps the server");
    // None of what was due in the measured phase was sent.
    let mut silent = http(0, 0);
    silent.latency.service = Summary::default();
    assert_says(&text(&silent, "rate-not-reached"), &["waited for it throughout"]);
}

#[test]
fn rates_have_no_stray_decimals() {
    let shown = [37_263.04, 50_000.0, 0.5, 33.333].map(|rate| rate::figure(rate).to_string());
    assert_eq!(shown, ["37263", "50000", "0.5", "33.33"]);
}

#[test]
fn a_round_trip_has_the_causes_of_a_request_in_its_own_words() {
    let few = lat(1, 250, 4_000);
    let cause =
        "the connections, 100 % of them were in use in the mean, for 4 ms by each round trip";
    assert_blamed(&few, cause, "-c 8); where round trips");
    let mut queueing = lat(8, 250, 32_000);
    queueing.rate.unloaded = Some(Unloaded { count: 4, mean_ns: 5e6 });
    let cause = "the path or the server, it answered 250/s and no more; a round trip took 32 ms";
    assert_blamed(&queueing, cause, "lower --rate");
    let mut generator = few;
    generator.instrument.client.worker_busy_max = 0.95;
    assert_blamed(&generator, "the generator, since its busiest worker", "lower --rate");
    assert_blamed(&lat(4, 700, 1_000), "the server, for a time all", "keeps the server");
    let mut failing = lat(4, 900, 100);
    failing.operations.failed = 100;
    (failing.operations.sent, failing.operations.unsent_at_end) = (1_000, 0);
    assert_blamed(&failing, "the path or the server, 100 of 1000", "see `errors`");
}

#[test]
fn a_server_that_holds_each_request_is_reported_with_how_long() {
    let mut holding = lat(1, 900, 1_100);
    let held = |ns| Some(Summary { mean_ns: Some(ns), ..Summary::default() });
    holding.latency.server_residence = held(1e6);
    let cause = "the server, it held each request for 1 ms of the 1.1 ms that a round trip took";
    assert_blamed(&holding, cause, "-c 3)");
    // Its queue is its own, if requests wait there.
    holding.rate.unloaded = Some(Unloaded { count: 100, mean_ns: 3e5 });
    assert_blamed(&holding, "the server, it answered 900/s", "lower --rate");
    holding.rate.unloaded = None;
    holding.latency.server_residence = held(5e5);
    assert_blamed(&holding, "the connections, ", "-c 3)");
}

#[test]
fn what_is_lost_is_the_cause_where_connections_waited_for_it() {
    // 30 times 20 ms are 60 % of a second.
    let mut lossy = lat(1, 370, 1_000);
    lossy.operations.timed_out = 30;
    lossy.operations.sent += 30;
    lossy.operations.unsent_at_end -= 30;
    let cause = "the path or the server, 30 of 400 round trips had no answer within 20 ms, and \
                connections waited for these for 60 % of the time";
    assert_blamed(&lossy, cause, "--timeout");
    // Three do not explain that 63 % are missing.
    lossy.operations.timed_out = 3;
    lossy.latency.service.mean_ns = Some(2.4e6);
    assert_blamed(&lossy, "the connections, ", "-c ");
    let mut refused = lossy;
    refused.connections.down_ns = Some(990_000_000);
    refused.errors = vec![error("connect", "ECONNREFUSED", 99)];
    let cause = "the server, connections to it were down for 99 % of the time: 99 × connect";
    assert_blamed(&refused, cause, "died");
}

#[test]
fn answers_not_as_expected_are_reported_by_code() {
    let mut step = http(1_000, 100);
    step.rate.target_per_s = None;
    answered(&mut step, "503", 3, false);
    answered(&mut step, "500", 7, false);
    step.errors = vec![error("receive", "ECONNRESET", 2), error("receive", "timeout", 1)];
    assert_eq!(codes(&step), ["unexpected-status", "failures"]);
    assert_says(&text(&step, "unexpected-status"), &["10 of 1010", "7 × 500, 3 × 503"]);
    assert!(text(&step, "failures").starts_with("2 connections or requests"));
    // A server that was never reached is told once, by the run's error.
    let mut step = http(1_000, 100);
    (step.rate.target_per_s, step.operations) = (None, Operations::default());
    step.status_codes.clear();
    step.errors = vec![error("connect", "ECONNREFUSED", 10)];
    assert_eq!(codes(&step), [""; 0]);
    // The error then tells of the codes.
    answered(&mut step, "503", 11, false);
    assert_eq!(codes(&step), ["unexpected-status", "failures"]);
}

#[test]
fn reopened_and_idle_connections_are_reported_unless_that_was_asked_for() {
    let mut step = http(1_000, 100);
    step.connections.reconnects = 1;
    assert_eq!(codes(&step), [""; 0]);
    (step.connections.reconnects, step.connections.sockets_used) = (2, 12);
    assert_eq!(codes(&step), ["reconnects"]);
    step.params.http.as_mut().unwrap().renews_connections = true;
    assert_eq!(codes(&step), [""; 0]);
    let mut step = http(1_000, 100);
    step.connections.asked = 1_001;
    assert_eq!(codes(&step), ["idle-connections"]);
}

#[test]
fn a_pipeline_has_more_places_than_connections() {
    let mut step = http(1_000, 8_000);
    assert!(generator::connections_busy(&step) > 0.7);
    step.params.http.as_mut().unwrap().pipeline = 4;
    assert!(generator::connections_busy(&step) < 0.3);
}

#[test]
fn faulty_framing_is_named_once() {
    let mut step = http(1_000, 100);
    step.framing_faults.insert("http10-chunked".to_owned(), 20);
    assert_eq!(codes(&step), ["http10-chunked"]);
    assert_says(&text(&step, "http10-chunked"), &["20 responses were HTTP/1.0 in chunks"]);
    step.framing_faults.insert("length-and-chunked".to_owned(), 3);
    assert_eq!(codes(&step), ["http10-chunked", "length-and-chunked"]);

    let mut endless = http(1_000, 100);
    endless.errors = vec![error("receive", "no-length", 7)];
    assert_eq!(codes(&endless), ["no-length"]);
    assert_says(&text(&endless, "no-length"), &["7 requests", "--connection close"]);
}
