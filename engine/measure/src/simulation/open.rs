//! Operations on a schedule.

use super::*;

/// The schedule's first arrivals, before the end of the measured phase.
fn due(rate_per_s: f64, duration: Nanos) -> Vec<u64> {
    Schedule::constant(rate_per_s, Share::WHOLE)
        .unwrap()
        .map(|at| at.0)
        .take_while(|at| *at < duration.0)
        .collect()
}

fn assert_sum(lengths: &Distribution, expected: u64) {
    let found = lengths.mean_ns().unwrap_or(0.0) * lengths.count() as f64;
    let expected = expected as f64;
    let off = (found - expected).abs();
    assert!(off <= expected * 1e-9, "the lengths add up to {found}, not {expected}");
}

#[test]
fn five_minutes_pass_in_a_moment_and_every_send_is_on_time() {
    let setup = Setup { duration: secs(300), ..Setup::at(20.0) };
    for setup in setup.over_both() {
        let results = setup.run();
        assert_eq!(results.operations().due, 6_000);
        results.assert_all(Metric::Lateness, 6_000, Nanos::ZERO);
        results.assert_all(Metric::Service, 6_000, ROUND_TRIP);
        results.assert_all(Metric::Response, 6_000, ROUND_TRIP);
        assert_eq!(results.outcome.measured, secs(300));
        assert_eq!(results.outcome.backlog_max, 0);
    }
}

#[test]
fn intended_times_are_the_schedules_and_none_is_lost() {
    for rate in [333.0, 1_000.0, 4_999.0] {
        let setup = Setup { warmup: ms(20), ..Setup::at(rate) };
        for setup in setup.over_both() {
            let results = setup.run();
            let warm = due(rate, ms(20)).len() as u64;
            let measured = due(rate, ms(120)).len() as u64 - warm;
            assert_eq!(results.warmup().due, warm);
            let operations = results.operations();
            assert_eq!((operations.due, operations.completed), (measured, measured));
            results.assert_each(Metric::Lateness, Nanos::ZERO);
        }
    }
}

/// What a single server that stands still from `from` to `until` makes of the schedule: service,
/// lateness.
fn queue(due: &[u64], from: u64, until: u64) -> Vec<(u64, u64)> {
    let mut free = 0;
    due.iter()
        .map(|&due| {
            let sent = due.max(free);
            let mut served = sent + LATENCY.0;
            if (from..until).contains(&served) {
                served = until;
            }
            free = served + LATENCY.0;
            (free - sent, sent - due)
        })
        .collect()
}

#[test]
fn a_stall_of_the_server_shows_in_full_in_the_response_times() {
    let (from, until) = (ms(30), ms(80));
    let setup = Setup { duration: ms(200), ..Setup::at(1_000.0) };
    for setup in setup.over_both() {
        let mut world = setup.started();
        let start = world.started_at;
        world.server.frozen = Some((start + from, start + until));
        let results = world.finish();
        let expected = queue(&due(1_000.0, ms(200)), from.0, until.0);
        assert_eq!(results.operations().completed, expected.len() as u64);
        let service = expected.iter().map(|(service, _)| service).sum();
        let lateness = expected.iter().map(|(_, lateness)| lateness).sum();
        assert_sum(results.distribution(Metric::Service), service);
        assert_sum(results.distribution(Metric::Lateness), lateness);
        assert_sum(results.distribution(Metric::Response), service + lateness);
        let worst = expected.iter().map(|(s, l)| s + l).max();
        assert_eq!(results.distribution(Metric::Response).max_ns(), worst);
        // All but one were answered at once: the service times alone hide the stall.
        let p90 = results.distribution(Metric::Service).quantile(90.0).unwrap().value_ns;
        assert!(p90 <= ROUND_TRIP.0 * 1001 / 1000, "{p90}");
    }
}

#[test]
fn with_too_few_connections_what_was_due_and_never_sent_is_counted() {
    // One connection carries 200 in 1 s; 1,000 are due. It is free again at the very end of the
    // phase, for one more.
    let wire = SimConfig { latency: us(2_500), ..SimConfig::default() };
    let setup = Setup { wire, duration: SECOND, ..Setup::at(1_000.0) };
    for setup in setup.over_both() {
        let results = setup.run();
        let Operations { due, completed, unsent_at_end, .. } = results.operations();
        assert_eq!((due, completed, unsent_at_end), (1_000, 201, 799));
        let response = results.distribution(Metric::Response);
        assert!(response.quantile(50.0).is_some_and(|q| q.lower_bound));
    }
}

#[test]
fn the_rate_is_what_a_connection_carries_whatever_is_asked() {
    for capacity in [100, 1_000, 10_000, 100_000, 1_000_000] {
        let turn = 1_000_000_000 / capacity;
        for (times, warmup) in pairs([0.5, 1.5, 5.0, 100.0], [0, turn * 250]) {
            let rate = capacity as f64 * times;
            let setup = Setup {
                wire: SimConfig { latency: Nanos(turn / 2), ..SimConfig::default() },
                warmup: Nanos(warmup),
                duration: Nanos(turn * 500),
                timeout: secs(30),
                ..Setup::at(rate)
            };
            let results = setup.run();
            let found = results.outcome.answered as f64 / results.outcome.measured.as_secs_f64();
            let expected = capacity as f64 * times.min(1.0);
            let what = format!("{found}/s, not {expected}/s: {setup:?}");
            assert!((found / expected - 1.0).abs() < 0.01, "{what}");
            let all = due(rate, Nanos(warmup + turn * 500));
            let warm = all.iter().filter(|at| **at < warmup).count() as u64;
            assert_eq!(results.warmup().due, warm, "{what}");
            assert_eq!(results.operations().due, all.len() as u64 - warm, "{what}");
        }
    }
}

#[test]
fn a_count_on_a_schedule_is_kept_exactly() {
    let setup = Setup { count: Some(77), warmup: ms(5), connections: 2, ..Setup::at(1_000.0) };
    for setup in setup.over_both() {
        let results = setup.run();
        assert_eq!(results.warmup().completed, 5);
        assert_eq!((results.operations().due, results.operations().completed), (77, 77));
    }
}

#[test]
fn a_partition_leaves_lower_bounds_and_no_operation_vanishes() {
    let timeout = ms(200);
    let setup = Setup { duration: SECOND, connections: 3, timeout, ..Setup::at(1_000.0) };
    for setup in setup.over_both() {
        let mut world = setup.started();
        world.run_to(ms(300));
        world.net.partition();
        let results = world.finish();
        let operations = results.operations();
        assert!((299..=301).contains(&operations.completed));
        assert!(operations.timed_out >= 3, "{operations:?}");
        assert!(operations.unsent_at_end > 0, "{operations:?}");
        let end = match setup.transport {
            // The connections are lost with their operations, and with them the run.
            Transport::Tcp => {
                assert!(results.outcome.cut_short);
                assert_eq!(operations.timed_out, 3);
                results.outcome.measured
            }
            Transport::Udp => SECOND,
        };
        assert_eq!(operations.due, due(1_000.0, end).len() as u64);
        let response = results.distribution(Metric::Response);
        assert!(response.max_ns() >= Some(timeout.0));
        // To the end, then the drain, the last word and the step by which each is noticed.
        let bound = end + timeout + timeout + ms(20);
        assert!(results.took <= bound, "{} > {bound}", results.took);
    }
}

#[test]
fn a_partition_before_a_count_is_reached_leaves_nothing_out() {
    let setup = Setup { timeout: ms(100), ..Setup::at(1_000.0) };
    let mut world = Setup { count: Some(10_000), ..setup }.started();
    world.run_to(ms(50));
    world.net.partition();
    let results = world.finish();
    assert!(results.outcome.cut_short);
    assert!(results.operations().unsent_at_end >= 99, "{:?}", results.operations());
}

#[test]
fn spinning_sends_no_later_than_the_turn_after() {
    for wait in [WaitMode::Spin, WaitMode::Hybrid] {
        let setup = Setup { wait, ..Setup::at(1_000.0) };
        let results = Setup { step: Nanos(5_000), duration: ms(50), ..setup }.run();
        assert_eq!(results.operations().completed, 50);
        assert!(results.distribution(Metric::Lateness).max_ns() <= Some(5_000));
    }
}
