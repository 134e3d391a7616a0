use super::*;
use crate::result::{Operations, Summary};

/// A quiet closed-loop step of 5 s on one spinning worker.
fn quiet() -> StepResult {
    let mut step = StepResult {
        duration_ns: 5_000_000_000,
        latency_error_ns: 300,
        instances: vec!["a".to_owned()],
        ..StepResult::default()
    };
    step.params.connections = 1;
    step.params.timeout_ns = 2_000_000_000;
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
    step.rate.target_per_s = Some(1_000.0);
    step.rate.achieved_per_s = 1_000.0;
    step.operations.due = 5_000;
    step.operations.sent = 5_000;
    step.operations.completed = 5_000;
    step.latency.lateness = Some(Summary {
        count: 5_000,
        mean_ns: Some(10_000.0),
        p99_ns: Some(60_000),
        ..Summary::default()
    });
    // All of it was the worker's wake-up.
    step.rate.generator_away_ns = Some(5_000 * 10_000);
    step
}

fn codes(step: &StepResult) -> Vec<String> {
    let warnings = warnings(step);
    assert!(warnings.iter().all(|w| !w.advice.is_empty() && w.message.contains(char::is_numeric)));
    warnings.into_iter().map(|w| w.code).collect()
}

#[test]
fn a_quiet_step_is_not_accused() {
    for mut step in [quiet(), scheduled()] {
        judge(&mut step);
        assert!(!step.instrument.client.saturated && !step.instrument.client.disturbed);
        assert!(!step.instrument.server.as_ref().unwrap().disturbed);
        assert_eq!(codes(&step), [""; 0]);
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
    let message = warnings(&step).swap_remove(0).message;
    assert!(message.contains("60 ms (1 % of the time, 30 % of what operations took)"), "{message}");
    step.latency.service.mean_ns = Some(400_000.0);
    assert_eq!(codes(&step), [""; 0], "of operations that take longer it is little");
}

#[test]
fn each_disturbance_is_told_with_its_figure() {
    type Change = fn(&mut Instrument);
    let cases: [(Change, &str, &str); 7] = [
        (|i| i.steal_ns = Some(5_100_000), "steal", "steal of 5.1 ms, 0.10 %"),
        (|i| i.throttled_periods = Some(1), "throttled", "1 period"),
        (|i| i.throttled_ns = Some(40_000_000), "throttled", "40 ms"),
        (
            |i| i.involuntary_switches = 501,
            "preempted",
            "501 involuntary context switches (100 per worker and second)",
        ),
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
        assert!(server.disturbances[0].contains(figure), "{:?}", server.disturbances);
        assert_eq!(codes(&step), [format!("server-{code}")]);
    }
}

#[test]
fn thresholds_grow_with_workers_and_judging_again_changes_nothing() {
    let mut step = quiet();
    step.instrument.client.cpus = vec![1, 2];
    step.instrument.client.steal_ns = Some(9_900_000);
    step.instrument.client.involuntary_switches = 1_000;
    judge(&mut step);
    assert!(!step.instrument.client.disturbed);
    step.instrument.client.steal_ns = Some(10_100_000);
    judge(&mut step);
    judge(&mut step);
    assert_eq!(step.instrument.client.disturbances.len(), 1);
    step.instrument.client.steal_ns = None;
    judge(&mut step);
    assert!(!step.instrument.client.disturbed);
}

#[test]
fn stalls_are_those_of_spinning_workers_with_short_turns() {
    let mut end = quiet().instrument.client;
    end.turn_max_ns = 3_200_000;
    end.wait = "block".to_owned();
    assert!(disturbances(&end, Nanos::from_secs(5), Nanos::from_secs(5)).is_empty());
    end.wait = "spin".to_owned();
    end.turn_p99_ns = 40_000;
    assert!(disturbances(&end, Nanos::from_secs(5), Nanos::from_secs(5)).is_empty());
}

#[test]
fn a_few_switches_in_a_short_run_are_nothing() {
    let mut end = quiet().instrument.client;
    end.involuntary_switches = 9;
    (end.steal_ns, end.run_queue_ns) = (None, None);
    assert!(disturbances(&end, Nanos::from_millis(50), Nanos::from_millis(50)).is_empty());
    end.involuntary_switches = 10;
    assert_eq!(
        disturbances(&end, Nanos::from_millis(50), Nanos::from_millis(50))[0].code,
        "preempted"
    );
    // A step that was cut short at once.
    end.involuntary_switches = 0;
    assert!(disturbances(&end, Nanos::ZERO, Nanos::ZERO).is_empty());
}

#[test]
fn a_busy_worker_is_saturated_unless_it_has_one_ping_pong() {
    let mut step = quiet();
    step.instrument.client.worker_busy_max = 0.97;
    assert_eq!(saturation(&step), None);
    step.params.connections = 2;
    assert!(saturation(&step).is_some_and(|s| s.contains("97 %")));
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
    step.latency.lateness.as_mut().unwrap().p99_ns = Some(900_000);
    assert_eq!(saturation(&step), None);
    step.latency.lateness.as_mut().unwrap().p99_ns = Some(1_100_000);
    assert!(
        saturation(&step).is_some_and(|s| s.contains("1.1 ms late") && s.contains("every 1 ms"))
    );
    judge(&mut step);
    let reason = step.instrument.client.saturation.as_deref().unwrap();
    assert!(reason.starts_with("99 % of its sends were up to 1.1 ms late"), "{reason}");
    // Most of the waiting was for a connection: a server that takes 3 ms keeps 3 of the 4 busy.
    step.rate.generator_away_ns = Some(5_000 * 4_000);
    step.latency.service.mean_ns = Some(3e6);
    assert_eq!(saturation(&step), None);
    assert_eq!(codes(&step), ["connections-busy"]);
    step.rate.generator_away_ns = Some(5_000 * 6_000);
    assert_eq!(codes(&step), ["generator-saturated"]);
}

#[test]
fn a_fast_schedule_allows_for_the_wake_up() {
    let mut step = scheduled();
    step.rate.target_per_s = Some(100_000.0);
    step.latency.lateness.as_mut().unwrap().p99_ns = Some(99_000);
    assert_eq!(saturation(&step), None);
    step.latency.lateness.as_mut().unwrap().p99_ns = Some(101_000);
    assert!(saturation(&step).is_some());
}

#[test]
fn falling_behind_is_saturation() {
    let mut step = scheduled();
    step.operations.sent = 4_951;
    step.operations.unsent_at_end = 49;
    assert_eq!(saturation(&step), None);
    step.operations.sent = 4_900;
    step.operations.unsent_at_end = 100;
    assert!(saturation(&step).is_some_and(|s| s.contains("4900 of 5000") && s.contains("98.0 %")));
    // Those dropped found no free connection.
    step.operations.unsent_at_end = 20;
    step.operations.dropped = 80;
    assert_eq!(saturation(&step), None);
}

#[test]
fn weak_figures_are_warned_of() {
    let mut step = quiet();
    step.operations.timed_out = 3;
    step.latency.service.p99_ns = None;
    step.latency.service.count = 999;
    // What 99 of 100 latencies are off by says nothing of the median.
    step.latency_error_ns = 700_000;
    step.latency.service.errors_ns = [("p50".to_owned(), 9)].into();
    assert!(warnings(&step).iter().all(|w| w.code != "coarse-instrument"));
    step.latency.service.errors_ns.clear();
    step.latency_error_ns = 9_000;
    step.instances.push("b".to_owned());
    assert_eq!(codes(&step), ["timeouts", "few-samples", "coarse-instrument", "several-servers"]);
    let coarse = |wait: &str| {
        let mut step = step.clone();
        step.instrument.client.wait = wait.to_owned();
        warnings(&step).swap_remove(2).advice
    };
    assert_ne!(coarse("spin"), coarse("block"), "advice fits the flags in use");
}

fn said(one: Observed) -> Vec<String> {
    let found = observed(&one).into_iter().flatten();
    found.map(|w| format!("{}: {}", w.code, w.message)).collect()
}

fn nginx() -> Observed {
    Observed {
        name: "nginx".into(),
        what: "comm:nginx".into(),
        user_ns: Some(1),
        cpu_limit: Some(1.0),
        periods: Some(50),
        throttled_periods: Some(12),
        throttled_ns: Some(340_000_000),
        processes: Some(3),
        ..Observed::default()
    }
}

#[test]
fn a_throttled_target_is_named_with_its_limit() {
    let expected = "observed-throttled: nginx was throttled by its CPU limit of 1 in 12 of 50 periods (340 ms): what \
                    was measured is the quota, not the network";
    assert_eq!(said(nginx()), [expected]);
    let seldom = Observed { throttled_periods: Some(1), cpu_limit: None, ..nginx() };
    let seldom = said(seldom);
    assert!(seldom[0].contains("its CPU limit in 1 of 50 periods"), "{seldom:?}");
    assert!(seldom[0].ends_with("the longest latencies are the quota's, not the network's"));
    for throttled_periods in [None, Some(0)] {
        let quiet = Observed { throttled_periods, ..nginx() };
        assert_eq!(said(quiet), Vec::<String>::new());
    }
}

#[test]
fn what_has_gone_is_told_and_what_was_restarted_in_part_is_not() {
    let quiet = Observed { throttled_periods: None, ..nginx() };
    let reloaded = Observed { processes_ended: 2, ..quiet.clone() };
    assert_eq!(said(reloaded), Vec::<String>::new());
    let crashed = Observed {
        processes: Some(0),
        processes_ended: 3,
        note: Some("3 processes ended".into()),
        ..quiet
    };
    assert_eq!(
        said(crashed),
        ["observed-gone: nginx (comm:nginx) was not there to the end: 3 processes ended"]
    );
}
