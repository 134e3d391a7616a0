//! A single server with a queue, whose every response time is known.

use super::*;

const SERVICE: u64 = 1_000_000;

/// The waiting times of Poisson arrivals at a server of fixed service: Lindley's recursion (1952).
fn lindley(arrivals: &[u64]) -> Vec<u64> {
    let mut free = 0;
    arrivals
        .iter()
        .map(|&at| {
            let wait = u64::saturating_sub(free, at);
            free = at + wait + SERVICE;
            wait
        })
        .collect()
}

/// Every response time is as Lindley has it, and the wire's. Returns the waiting times as well.
fn run(load: f64, duration: Nanos, connections: u32) -> (Vec<u64>, Results<HttpSide>) {
    let plan = Plan {
        load: Some((Load::steady(load * 1_000.0), Arrivals::Poisson)),
        connections,
        duration,
        steps_max: 10_000_000,
        ..Plan::get("/queue?service=1ms")
    };
    let results = plan.served();
    let waits = lindley(&plan.due(duration));
    let count = waits.len() as u64;
    assert_eq!(results.operations().completed, count);
    // Request by request, whatever the server did not keep it for was the wire.
    results.assert_all(Metric::Path, count, ROUND_TRIP);
    let response = |wait| wait + SERVICE + ROUND_TRIP.0;
    results.assert_are(Metric::Response, waits.iter().map(response));
    (waits, results)
}

#[test]
fn response_times_are_lindleys() {
    for (load, connections) in [(0.5, 24), (0.8, 48)] {
        let (waits, results) = run(load, secs(10), connections);
        results.assert_all(Metric::Lateness, waits.len() as u64, Nanos::ZERO);
        results.assert_are(Metric::Residence, waits.iter().map(|wait| wait + SERVICE));
    }
}

#[test]
fn the_mean_over_a_long_run_is_that_of_the_formula() {
    // With 16 connections some wait at the client: it is the same wait, from the intended send on.
    for (load, connections, seconds) in [(0.5, 16, 40), (0.8, 16, 250)] {
        let (waits, results) = run(load, secs(seconds), connections);
        // M/D/1 (Pollaczek 1930, Khinchine 1932): service · (1 + ρ/(2(1−ρ))).
        let expected = SERVICE as f64 * (1.0 + load / (2.0 * (1.0 - load)));
        // Waiting times resemble their neighbours', for some hundred arrivals at 80 %. The error of
        // the mean is that of the means of 50 batches of thousands each, which do not.
        let batch = waits.len() / 50;
        let mean = |waits: &[u64]| waits.iter().sum::<u64>() as f64 / waits.len() as f64;
        let means: Vec<f64> = waits.chunks_exact(batch).map(mean).collect();
        let middle = means.iter().sum::<f64>() / means.len() as f64;
        let variance = means.iter().map(|m| (m - middle).powi(2)).sum::<f64>() / 49.0;
        let error = (variance / 50.0).sqrt();
        let response = results.distribution(Metric::Response).mean_ns().unwrap();
        let found = response - ROUND_TRIP.0 as f64;
        assert!((found - expected).abs() < 4.0 * error, "{found} ± {error}, not {expected}");
        assert!(error < expected / 30.0, "the test can tell: {error}");
    }
}
