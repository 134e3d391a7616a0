//! HTTP latencies against a server whose share is known: fixed delays, a queue, a stall.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde_json::Value;
use tare_stats::histogram::Distribution;

use super::capture::{Capture, Packet};
use super::{Case, Server, Trial, wire};
use crate::util::{figure, text};

/// Flags that keep a server and a client off each other's CPU, where there are two: an HTTP client
/// does not learn where the server is, and two that spin on one CPU take turns of milliseconds.
pub(super) fn apart() -> (String, String) {
    let allowed = sched_getaffinity(Pid::this()).expect("it can be asked for");
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
    match (cpus.next(), cpus.next()) {
        (Some(first), Some(second)) => (format!(" --cpus {second}"), format!(" --cpus {first}")),
        _ => (String::new(), String::new()),
    }
}

/// A round trip without a delay, and one that was held for so long: medians of the service time.
#[derive(Debug)]
struct Held {
    /// One after the other, before and after.
    busy: [u64; 2],
    /// At the rate of the held ones, before and after.
    rested: [u64; 2],
    held: u64,
    error: u64,
}

impl Held {
    fn measure(server: &Server, delay: &str, paced: &str, common: &str) -> Self {
        let run = |path: &str, flags: &str| server.http(path, &format!("{flags} {common}"));
        let median = |result: &Value| figure(result, "/latency/service/p50_ns");
        let bare = || (median(&run("/echo", "-d 200ms")), median(&run("/echo", paced)));
        let before = bare();
        let held = run(&format!("/echo?delay={delay}"), paced);
        let after = bare();
        Self {
            busy: [before.0, after.0],
            rested: [before.1, after.1],
            held: median(&held),
            error: figure(&held, "/latency_error_ns"),
        }
    }

    /// What `held` less the delay may be. A path that rested is slower than one that did not: a bare
    /// round trip at that rate has rested before its request, one that is held before its response
    /// too. So the bare path is no faster than one that never rests, and no slower than that and
    /// twice what a rest of a whole gap costs, at the speed that the machine had before or after.
    fn bounds(&self) -> (u64, u64) {
        let least = self.busy[0].min(self.busy[1]);
        let twice = |n: usize| (2 * self.rested[n]).saturating_sub(self.busy[n]);
        let most = twice(0).max(twice(1)).max(self.rested[0]);
        (least.saturating_sub(self.error), most + self.error)
    }

    fn is_within(&self, delay_ns: u64) -> bool {
        let (least, most) = self.bounds();
        (delay_ns + least..=delay_ns + most).contains(&self.held)
    }
}

/// A delay is measured as itself plus the bare round trip, within the error that the report prints;
/// that is at most a tenth of the delay, for an instrument that may be off by more proves little.
pub(super) fn delays(backend: &'static str) -> impl Iterator<Item = Case> {
    let delays = [
        ("200us", 200_000, "-R 2000 -d 500ms"),
        ("1ms", 1_000_000, "-R 500 -d 1s"),
        ("20ms", 20_000_000, "-R 40 -d 2s"),
    ];
    delays.into_iter().map(move |(delay, delay_ns, paced)| {
        Case::new(format!("http, delay of {delay}, {backend}"), move || {
            let (its_cpu, our_cpu) = apart();
            let server = Server::start(&format!("--allow-spin --http-wait spin{its_cpu}"));
            let common = format!("-c 1 --warmup 100ms --wait spin --backend {backend}{our_cpu}");
            let held = Held::measure(&server, delay, paced, &common);
            Trial {
                holds: held.is_within(delay_ns) && held.error <= delay_ns / 10,
                figures: format!("{held:?}, bounds {:?}", held.bounds()),
            }
        })
    })
}

/// What the server says of one request: when it arrived, and how long it stayed, nanoseconds.
fn record(packet: &Packet) -> Option<(u64, u64)> {
    let text = String::from_utf8_lossy(&packet.payload);
    let line = text.lines().find(|line| line.starts_with("Server-Timing:"))?;
    let of = |name: &str| {
        let value = line.split(name).nth(1)?.strip_prefix(";dur=")?;
        let value = value.split([',', ' ', ';']).next()?;
        let (whole, decimals) = value.split_once('.')?;
        let nanos: u64 = format!("{whole}{decimals:0<6}").parse().ok()?;
        Some(nanos)
    };
    Some((of("arrival")?, of("residence")?))
}

/// One queue of fixed service time, in the order of arrival: the server's own account against
/// Lindley's recursion (1952), W' = max(0, W + S − T). It may send late, by as much as its loop
/// takes, never early.
fn follows_lindley(records: &[(u64, u64)], service_ns: u64) -> Vec<u64> {
    let mut free_at = 0;
    let mut late = Vec::with_capacity(records.len());
    for &(arrival, residence) in records {
        free_at = arrival.max(free_at) + service_ns;
        let departure = arrival + residence;
        assert!(departure >= free_at, "{arrival}: it left before its service was over");
        late.push(departure - free_at);
    }
    late.sort_unstable();
    late
}

/// What a request took besides the server's own time: response − residence, which is lateness and
/// path. tare takes both differences request by request.
#[derive(Debug, Clone, Copy)]
struct Outside {
    /// Median and 99th percentile of service − residence.
    path: [u64; 2],
    lateness: [u64; 2],
}

impl Outside {
    fn of(result: &Value) -> Self {
        let both =
            |name: &str| ["p50", "p99"].map(|q| figure(result, &format!("/latency/{name}/{q}_ns")));
        Self { path: both("path"), lateness: both("lateness") }
    }

    /// How far the medians, or the 99th percentiles, of two runs are apart.
    fn off_by(&self, other: &Self, which: usize) -> u64 {
        let path = self.path[which].abs_diff(other.path[which]);
        path.max(self.lateness[which].abs_diff(other.lateness[which]))
    }
}

/// A run behind the queue between two whose service takes a microsecond.
#[derive(Debug)]
struct Queued {
    queued: Outside,
    bare: [Outside; 2],
    /// How late the server sent, 99 % of its answers, nanoseconds.
    server_late: u64,
}

impl Queued {
    fn measure(server: &Server, flags: &str, capture_on: Option<usize>) -> Self {
        let captured = |path: &str| {
            let capture = Capture::begin(server.port(), capture_on);
            let result = server.http(path, flags);
            (result, capture.finish())
        };
        let (before, _) = captured("/queue?service=1us");
        let (queued, packets) = captured("/queue?service=1ms");
        let (after, _) = captured("/queue?service=1us");
        let mut records: Vec<_> = packets.iter().filter_map(record).collect();
        records.sort_unstable();
        let answered = figure(&queued, "/operations/completed")
            + figure(&queued, "/warmup/operations/completed");
        assert_eq!(records.len() as u64, answered, "a record of each request");
        let late = follows_lindley(&records, 1_000_000);
        Self {
            queued: Outside::of(&queued),
            bare: [&before, &after].map(Outside::of),
            server_late: late[late.len() * 99 / 100],
        }
    }

    /// To the nearer one of the two bare runs: the machine's speed is one of both.
    fn off_by(&self, which: usize) -> u64 {
        let off = self.bare.map(|bare| self.queued.off_by(&bare, which));
        off[0].min(off[1])
    }
}

/// Behind a queue, what is not the server's is the path: response − residence is in the median what
/// it is for requests that are served at once, at the same rate. The 99th percentiles of two runs
/// differ by what the machine does meanwhile: they are printed.
pub(super) fn queue(backend: &'static str) -> impl Iterator<Item = Case> {
    [500, 800].into_iter().map(move |rate| {
        Case::new(format!("http, queue at {rate}/s, {backend}"), move || {
            let (its_cpu, our_cpu) = apart();
            let server = Server::start(&format!("--allow-spin --http-wait spin{its_cpu}"));
            let flags = format!(
                "-c 100 -R {rate} --arrivals poisson --seed 7 -d 4s --warmup 200ms --wait spin --backend {backend}{our_cpu}"
            );
            let queued = Queued::measure(&server, &flags, wire::number(&its_cpu));
            let (median, p99) = (queued.off_by(0), queued.off_by(1));
            Trial {
                holds: median <= 5_000,
                figures: format!(
                    "off by {median} and {p99} ns (p50, p99), the server sent up to {} ns late (p99): {queued:?}",
                    queued.server_late
                ),
            }
        })
    })
}

/// A stall counts against every request that was due in it. One of 500 ms in 5 s at 1,000/s: 500
/// requests are due in it, and the k-th waits 500 − k ms. So 50 of all 5,000 wait for more than
/// 450 ms, 250 for more than 250 ms, and 490 for more than 10 ms. What is added is the time to work
/// the queue off, for which the closed loop on the same server is the measure.
pub(super) fn stall(backend: &'static str) -> Case {
    Case::new(format!("http, stall of 500ms, {backend}"), move || {
        let calm = Server::start("");
        let flags = format!("-c 10 -n 5000 --warmup 50ms --backend {backend}");
        let closed = calm.http("/", &flags);
        let untouched = figure(&closed, "/latency/service/p99_ns");
        let rate = closed["rate"]["achieved_per_s"].as_f64().expect("a rate");
        // To work off what queued.
        let drain = (500.0 / rate * 1e9) as u64;
        let server = Server::start("--stall 2s:500ms");
        let flags = "-c 10 -R 1000 -d 5s --warmup 0 --wait hybrid --interval 10ms --backend";
        let result = server.http("/", &format!("{flags} {backend}"));
        let of = |name: &str| figure(&result, &format!("/latency/{name}_ns"));
        let responses = Distribution::decode(text(&result, "/latency/response/hdr"));
        let responses = responses.expect("it decodes");
        let is_slow = |rank: &u64| responses.at_rank(*rank) > 10_000_000;
        let slow = (1..=responses.count()).filter(is_slow).count() as u64;
        // Half a gap for where the stall begins between two arrivals, a bin of the histogram
        // (0.1 %), and a wake-up.
        let slack = 2_000_000;
        let waited = |wait: u64| wait - slack..=wait + drain + slack;
        let checks = [
            ("completed", figure(&result, "/operations/completed"), 5_000..=5_000),
            ("p99", of("response/p99"), waited(450_000_000)),
            ("p95", of("response/p95"), waited(250_000_000)),
            // The ten that were under way waited in the server; the others were not sent.
            ("longest service", of("service/max"), 490_000_000..=u64::MAX),
            ("p99 of service", of("service/p99"), 0..=untouched + slack - 1),
            ("over 10 ms", slow, 486..=490 + drain / 1_000_000 + 4),
        ];
        let wrong: Vec<_> = checks.iter().filter(|(_, n, range)| !range.contains(n)).collect();
        Trial { holds: wrong.is_empty(), figures: format!("{wrong:?} of {checks:?}") }
    })
}
