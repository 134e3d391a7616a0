//! More is asked for than the server can do. Whatever was due when, it answers what it can, and
//! that is what is reported; what it could not answer is blamed on what it waited for.

use super::scripted::{Do, OK, What, after, ok, say};
use super::*;
use crate::simulation::overload;
use tare_stats::result::{HttpParams, Params};

/// More answers, or arrivals, than that take too long to simulate where nothing is optimised.
const ANSWERS_MAX: f64 = 1_000.0;
const ARRIVALS_MAX: f64 = 80_000.0;

/// `/queue` at a rate that is so many times its capacity, until it could answer a thousand.
fn queue(capacity_per_s: u64, times: f64, warmup: Nanos) -> Plan {
    let service_ns = SECOND.0 / capacity_per_s;
    let rate = capacity_per_s as f64 * times;
    Plan {
        wire: SimConfig { latency: Nanos(service_ns.min(LATENCY.0)), ..SimConfig::default() },
        connections: 8,
        warmup,
        duration: Nanos(service_ns * 1_000),
        load: Some((Load::steady(rate.min(2e7)), Arrivals::Constant)),
        timeout: secs(60),
        steps_max: 100_000_000,
        ..Plan::get(&format!("/queue?service={service_ns}ns"))
    }
}

fn goodput<S>(results: &Results<S>) -> f64 {
    results.outcome.answered as f64 / results.outcome.measured.as_secs_f64()
}

/// The goodput is the server's capacity, or what was asked for where that is less, and every
/// request is in one of the blocks.
#[track_caller]
fn assert_goodput(plan: &Plan, expected: f64) {
    let results = plan.served();
    let found = goodput(&results);
    let what = format!("{found}/s, not {expected}/s: {plan:?}");
    assert!((found / expected - 1.0).abs() < 0.01, "{what}");
    let due = |until: Nanos| plan.schedule().take_while(|at| *at < until).count() as u64;
    let warm = due(plan.warmup);
    let measured = plan.count.unwrap_or_else(|| due(plan.warmup + results.outcome.measured) - warm);
    let (warmup, operations) = (results.warmup(), results.operations());
    assert_eq!((warmup.due, operations.due), (warm, measured), "{what}");
    assert_eq!(warmup.in_flight_at_end + operations.in_flight_at_end, 0);
    // In the series stands what was answered within the measured phase.
    let series = results.tally.record.recording.series(results.outcome.measured);
    let completed: u64 = series.map(|entry| entry.completed).sum();
    assert_eq!(completed, results.outcome.answered, "{what}");
}

/// Measures until so many are answered, after warm-ups of which the first two are none and half as
/// long.
fn grid(answers: u64, is_chosen: impl Fn(u64, f64, Nanos) -> bool) -> u32 {
    let mut count = 0;
    for capacity in [100, 1_000, 10_000, 100_000, 1_000_000] {
        let duration = Nanos(SECOND.0 / capacity * answers);
        let warmups = [Nanos::ZERO, Nanos(duration.0 / 2), ms(100), SECOND + SECOND];
        for (times, warmup) in pairs([0.5, 1.5, 5.0, 20.0, 100.0], warmups) {
            if is_chosen(capacity, times, warmup) {
                let plan = Plan { duration, ..queue(capacity, times, warmup) };
                assert_goodput(&plan, capacity as f64 * times.min(1.0));
                count += 1;
            }
        }
    }
    count
}

#[test]
fn the_goodput_is_the_capacity_whatever_is_asked() {
    let count = grid(500, |capacity, times, warmup| {
        let answers = capacity as f64 * warmup.as_secs_f64() + 500.0;
        answers * times.min(1.0) <= ANSWERS_MAX && answers * times <= ARRIVALS_MAX
    });
    assert!(count >= 40, "{count}");
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "takes half a minute, and much longer where nothing is optimised"
)]
fn the_whole_grid_of_goodputs() {
    assert_eq!(grid(1_000, |_, _, _| true), 100);
}

#[test]
fn the_goodput_is_the_capacity_whatever_else_is_asked() {
    let overload = || Plan { duration: SECOND, ..queue(1_000, 5.0, ms(500)) };
    let load = |arrivals| Some((Load::steady(5_000.0), arrivals));
    let near = SimConfig { latency: Nanos(500), ..SimConfig::default() };
    let two = vec![get("/queue?service=1ms"), get("/queue?service=1ms&x")];
    for plan in [
        Plan { load: load(Arrivals::Poisson), ..overload() },
        Plan { load: load(Arrivals::Jitter(0.5)), ..overload() },
        Plan { late: Late::Drop, ..overload() },
        Plan { pipeline: 4, ..overload() },
        Plan { pipeline: 4, requests: two, ..overload() },
        Plan { workers: 3, ..overload() },
        Plan { wait: WaitMode::Spin, step: Nanos(50_000), ..overload() },
        Plan { requests_per_connection: Some(10), connections: 16, ..overload() },
        Plan { connections: 1, wire: near, ..overload() },
        Plan { count: Some(1_000), ..overload() },
    ] {
        assert_goodput(&plan, 1_000.0);
    }
    // Under a ramp the rate is reached at first: the capacity is where it ends.
    let ramp = Load { from_per_s: 500.0, to_per_s: 9_000.0, hold: ms(500), ramp: SECOND };
    let plan = Plan { load: Some((ramp, Arrivals::Constant)), ..overload() };
    // 500 + 8,500 t is 1,000 at t = 1/17: until then what is due is answered.
    let before = (500.0 + 1_000.0) / 2.0 / 17.0;
    assert_goodput(&plan, before + 1_000.0 * 16.0 / 17.0);
}

#[test]
fn what_is_answered_behind_the_end_counts_for_latency_alone() {
    // Each takes 30 ms; 100 are due in 100 ms, and those of the last 30 ms are answered behind the
    // end. After a warm-up as many of its own are answered instead.
    for (warmup, answered) in [(Nanos::ZERO, 70), (ms(50), 100)] {
        let plan = Plan { connections: 100, warmup, ..Plan::at(1_000.0) };
        let results = plan.scripted(after(ms(30)));
        assert_eq!(results.operations().completed, 100);
        assert_eq!(results.outcome.answered, answered);
        assert_eq!(results.distribution(Metric::Response).count(), 100);
    }
}

#[test]
fn an_interrupted_overload_counts_what_was_answered_until_then() {
    let plan = Plan { duration: SECOND, ..queue(1_000, 5.0, ms(500)) };
    for (at_ms, answered) in [(700, 200), (300, 0)] {
        let mut world = plan.stalled(Vec::new());
        world.run_to(ms(at_ms));
        world.interrupt.raise();
        let results = world.finish();
        assert!(results.outcome.cut_short);
        assert!(results.outcome.answered.abs_diff(answered) <= 1);
        let warm = results.warmup();
        assert!(warm.unsent_at_end >= 4 * at_ms.min(500) - 20, "{warm:?}");
    }
}

#[track_caller]
fn assert_blamed<S>(plan: &Plan, results: &Results<S>, blamed: &str) {
    let params = Params {
        connections: plan.connections,
        timeout_ns: plan.timeout.0,
        http: Some(HttpParams { pipeline: plan.pipeline, ..HttpParams::default() }),
        ..Params::default()
    };
    let (load, _) = plan.load.expect("open loop");
    let Record { recording, measured, .. } = &results.tally.record;
    let mut step = overload::step(params, load.from_per_s, &results.outcome, recording, measured);
    // One that ended before its time has its cause, too.
    step.partial = false;
    let cause = overload::cause(&step);
    let is_blamed = cause.as_ref().is_some_and(|cause| cause.starts_with(blamed));
    assert!(is_blamed, "{cause:?}");
}

#[test]
fn a_server_with_a_queue_is_to_blame_however_many_connections_there_are() {
    for ((connections, pipeline), warmup) in pairs([(100, 1), (4, 1), (2, 4)], [0, 200]) {
        for times in [1.5, 10.0] {
            let plan = queue(1_000, times, ms(warmup));
            let plan = Plan { connections, pipeline, duration: ms(400), ..plan };
            let results = plan.served();
            assert!((goodput(&results) - 1_000.0).abs() <= 10.0);
            assert_blamed(&plan, &results, "the server, it answered ");
        }
    }
}

#[test]
fn a_server_that_takes_no_longer_for_many_lacks_connections() {
    for (connections, warmup) in pairs([1, 4, 20], [0, 200]) {
        let plan = Plan {
            connections,
            warmup: ms(warmup),
            duration: ms(300),
            ..Plan::at(f64::from(connections) * 1_000.0)
        };
        // However many there are in flight, each takes 5 ms.
        assert_blamed(&plan, &plan.scripted(after(ms(5))), "the connections, ");
    }
    // And of one connection to a queue it is not known.
    let plan = Plan { connections: 1, duration: ms(200), ..queue(5_000, 2.0, ms(100)) };
    assert_blamed(&plan, &plan.served(), "the connections, ");
}

#[test]
fn a_worker_that_is_away_while_connections_are_free_is_to_blame() {
    // The clock moves by 600 ms at once, and one who spins sees no deadline: the second time it
    // looks, all is over.
    let plan = Plan { connections: 10, wait: WaitMode::Spin, ..Plan::at(1_000.0) };
    let plan = Plan { step: ms(600), duration: SECOND, ..plan };
    assert_blamed(&plan, &plan.scripted(ok), "the generator, ");
}

#[test]
fn a_server_that_stands_still_or_is_away_is_to_blame() {
    let plan = Plan { connections: 10, duration: secs(5), timeout: secs(10), ..Plan::at(1_000.0) };
    let (at, length) = (secs(4), ms(1_500));
    let mut world = plan.stalled(vec![Stall { at, length }]);
    world.wakes.push(world.started_at + LATENCY + at + length);
    assert_blamed(&plan, &world.finish(), "the server, for a time all connections waited");
    // Each connection is closed with its 100th request, and whatever comes in its place at once.
    let results = plan.scripted(|event| match event.what {
        What::Accepted if event.connection >= 10 => vec![Do::Close],
        What::Request if event.nth >= 100 => vec![Do::Close],
        What::Request => vec![say(OK)],
        _ => Vec::new(),
    });
    assert_blamed(&plan, &results, "the server, ");
}
