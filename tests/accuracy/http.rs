//! HTTP latencies against a server whose share is known: fixed delays, a queue, a stall.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde_json::Value;

use super::capture::{Capture, Packet};
use super::{ATTEMPTS, Shot, is_disturbed, wire};
use crate::util::{Quiet, backends, figure, is_root};

/// Flags of a server and of a client that keep them off each other's CPU, where there are two: an HTTP client cannot be
/// told where the server is, and two that spin on one CPU take turns of some milliseconds.
pub(super) fn apart() -> (String, String) {
    let allowed = sched_getaffinity(Pid::this()).expect("it can be asked for");
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
    match (cpus.next(), cpus.next()) {
        (Some(first), Some(second)) => (format!(" --cpus {second}"), format!(" --cpus {first}")),
        _ => (String::new(), String::new()),
    }
}

/// Runs until one is undisturbed, or three were made: then the last one counts.
fn undisturbed(shot: &Shot, path: &str, flags: &str) -> Value {
    for _ in 1..ATTEMPTS {
        let result = shot.run(path, flags);
        if !is_disturbed(&result) {
            return result;
        }
    }
    shot.run(path, flags)
}

/// A delay is measured as itself plus the bare round trip, whose median is taken at the same rate: a path that rests
/// between two requests is slower than one that does not. The tolerance is the error that the report prints.
#[test]
fn http_delays_are_measured_as_what_they_are() {
    let _quiet = Quiet::begin();
    let (its_cpu, our_cpu) = apart();
    for backend in backends() {
        let shot = Shot::serve(&format!("--allow-spin --http-wait spin{its_cpu}"));
        for (delay, delay_ns, rate, length) in [
            ("200us", 200_000u64, 2_000, "500ms"),
            ("1ms", 1_000_000, 500, "1s"),
            ("20ms", 20_000_000, 40, "2s"),
        ] {
            let flags = format!(
                "-c 1 -R {rate} -d {length} --warmup 100ms --wait spin --backend {backend}{our_cpu}"
            );
            let median = |path: &str| {
                let result = undisturbed(&shot, path, &flags);
                let p50 = figure(&result, "/latency/service/p50_ns");
                (p50, figure(&result, "/latency_error_ns"))
            };
            let mut told = Vec::new();
            let mut before = median("/echo").0;
            while told.len() < ATTEMPTS {
                let (held, error) = median(&format!("/echo?delay={delay}"));
                let after = median("/echo").0;
                told.push((before, held, error));
                // A virtual machine changes its speed by half, for seconds: then the two do not compare.
                if before.abs_diff(after) <= error / 4 {
                    break;
                }
                before = after;
            }
            let (before, held, error) = told[told.len() - 1];
            println!("{backend}, {delay}: {held} ns, bare {before} ns, ± {error} ns");
            assert!(
                error < delay_ns,
                "{backend}, {delay}: too busy to tell: {told:?}"
            );
            assert!(
                held.saturating_sub(before).abs_diff(delay_ns) <= error,
                "{backend}, {delay}: {told:?}"
            );
        }
    }
}

/// What the server says of one request: when it arrived, and how long it stayed, nanoseconds.
fn record(packet: &Packet) -> Option<(u64, u64)> {
    let text = String::from_utf8_lossy(&packet.payload);
    let line = text
        .lines()
        .find(|line| line.starts_with("Server-Timing:"))?;
    let of = |name: &str| {
        let value = line.split(name).nth(1)?.strip_prefix(";dur=")?;
        let value = value.split([',', ' ', ';']).next()?;
        let (whole, decimals) = value.split_once('.')?;
        let nanos: u64 = format!("{whole}{decimals:0<6}").parse().ok()?;
        Some(nanos)
    };
    Some((of("arrival")?, of("residence")?))
}

/// One queue of fixed service time, in the order of arrival: the server's own account against Lindley's recursion
/// (1952), W' = max(0, W + S − T). It may send late, by as much as its loop takes, never early.
fn follows_lindley(records: &[(u64, u64)], service_ns: u64) -> Vec<u64> {
    let mut free_at = 0;
    let mut late = Vec::with_capacity(records.len());
    for &(arrival, residence) in records {
        free_at = arrival.max(free_at) + service_ns;
        let departure = arrival + residence;
        assert!(
            departure >= free_at,
            "{arrival}: it left before its service was over"
        );
        late.push(departure - free_at);
    }
    late.sort_unstable();
    late
}

/// Response − residence, request by request, is the path: as for requests that are served at once, at the same rate.
#[test]
fn behind_a_queue_what_is_not_the_servers_is_the_path() {
    if !is_root("a capture of loopback") {
        return;
    }
    let _quiet = Quiet::begin();
    let (its_cpu, our_cpu) = apart();
    for backend in backends() {
        let shot = Shot::serve(&format!("--allow-spin --http-wait spin{its_cpu}"));
        for rate in [500, 800] {
            let flags = format!(
                "-c 100 -R {rate} --arrivals poisson --seed 7 -d 4s --warmup 200ms --wait spin --backend {backend}{our_cpu}"
            );
            let mut attempt = 0;
            loop {
                attempt += 1;
                let captured = |path: &str| {
                    let capture = Capture::begin(shot.port(), wire::number(&its_cpu));
                    let result = shot.run(path, &flags);
                    (result, capture.finish())
                };
                let of = |result: &Value, of: &str, quantile: &str| {
                    figure(result, &format!("/latency/{of}/{quantile}_ns"))
                };
                let (before, _) = captured("/queue?service=1us");
                let (queued, packets) = captured("/queue?service=1ms");
                let (after, _) = captured("/queue?service=1us");
                let mut records: Vec<_> = packets.iter().filter_map(record).collect();
                records.sort_unstable();
                let late = follows_lindley(&records, 1_000_000);
                let server_late = late[late.len() * 99 / 100];
                // Response − residence is lateness + path, so its quantiles lie between those of the path and the sums.
                let sum = |result, quantile| {
                    of(result, "path", quantile) + of(result, "lateness", quantile)
                };
                let (median, p99) = (sum(&queued, "p50"), sum(&queued, "p99"));
                let bare = [&before, &after].map(|bare| (sum(bare, "p50"), sum(bare, "p99")));
                println!(
                    "{backend}, {rate}/s: response − residence p50 {median}, p99 {p99} ns; bare {bare:?} ns; response p50 \
                     {} ns; the server was up to {server_late} ns late (p99 of {})",
                    of(&queued, "response", "p50"),
                    records.len()
                );
                let near = |of: fn((u64, u64)) -> u64, told: u64, tolerance: u64| {
                    bare.iter()
                        .any(|bare| told.abs_diff(of(*bare)) <= tolerance)
                };
                let median_is_close = near(|bare| bare.0, median, 5_000);
                let p99_is_close = near(|bare| bare.1, p99, 20_000);
                if median_is_close && p99_is_close && server_late < 20_000 {
                    break;
                }
                // Where the bare path's own p99 is another from run to run, nothing can be held against it.
                let unsteady = bare[0].1.abs_diff(bare[1].1) > 10_000 || server_late >= 20_000;
                let disturbed = [&queued, &before, &after]
                    .iter()
                    .any(|run| is_disturbed(run));
                if attempt == ATTEMPTS && median_is_close && (unsteady || disturbed) {
                    eprintln!("{backend}, {rate}/s: this machine is too unsteady to tell a p99");
                    break;
                }
                assert!(
                    (disturbed || unsteady) && attempt < ATTEMPTS,
                    "{backend}, {rate}/s: {median} and {p99} ns, bare {bare:?} ns"
                );
            }
        }
    }
}

/// A stall of 500 ms in 5 s at 1,000/s: 500 requests are due in it, and the k-th waits 500 − k ms. So one in a hundred of
/// all 5,000, 50, waits for more than 450 ms, and 250 for more than 250 ms; 490 wait for more than 10 ms. What is
/// added is the time to work the queue off, for which the closed loop on the same server is the measure.
#[test]
fn a_stall_counts_against_every_request_that_was_due_in_it() {
    let _quiet = Quiet::begin();
    for backend in backends() {
        let calm = Shot::serve("");
        let closed = calm.run(
            "/",
            &format!("-c 10 -n 5000 --warmup 50ms --backend {backend}"),
        );
        let rate = closed["rate"]["achieved_per_s"].as_f64().expect("a rate");
        let drain_ns = (500.0 / rate * 1e9) as u64;
        let shot = Shot::serve("--stall 2s:500ms");
        let flags = format!(
            "-c 10 -R 1000 -d 5s --warmup 0 --wait hybrid --interval 10ms --backend {backend}"
        );
        let result = shot.run("/", &flags);
        let of = |of: &str| figure(&result, &format!("/latency/{of}_ns"));
        println!(
            "{backend}: response p99 {} p95 {} max {}; service p99 {} max {}; drain {drain_ns} ns",
            of("response/p99"),
            of("response/p95"),
            of("response/max"),
            of("service/p99"),
            of("service/max")
        );
        // Half a gap for where the stall begins between two arrivals, a bin of the histogram (0.1 %), and a wake-up.
        let slack = 2_000_000;
        for (quantile, wait_ns) in [("p99", 450_000_000), ("p95", 250_000_000)] {
            let told = of(&format!("response/{quantile}"));
            let range = wait_ns - slack..=wait_ns + drain_ns + slack;
            assert!(
                range.contains(&told),
                "{backend}: {quantile} {told}, not in {range:?}"
            );
        }
        // The ten that were under way waited in the server; the others were not sent, and their service is untouched.
        assert!(of("service/max") >= 490_000_000, "{backend}");
        assert!(
            of("service/p99") < 20_000_000,
            "{backend}: {}",
            of("service/p99")
        );
        let distribution = result["latency"]["response"]["hdr"].as_str().expect("told");
        let distribution =
            tare_engine::histogram::Distribution::decode(distribution).expect("it decodes");
        let slow = (1..=distribution.count())
            .filter(|rank| distribution.at_rank(*rank) > 10_000_000)
            .count() as u64;
        let most = 490 + drain_ns / 1_000_000 + 4;
        assert!((486..=most).contains(&slow), "{backend}: {slow} over 10 ms");
        assert_eq!(figure(&result, "/operations/completed"), 5_000);
    }
}
