//! When requests really leave: the schedule against the kernel's timestamps of the packets.

use super::capture::Capture;
use super::http::apart;
use super::{Case, Server, Trial};
use crate::util::figure;

/// Requests per second, and the gap between two.
const RATE: u64 = 10_000;
const GAP_NS: i64 = 100_000;
/// What half of the requests, and 99 % of them, may be late on the wire. What is beyond is the
/// machine's: a hypervisor takes a CPU for milliseconds; it is printed beside what tare reports.
const LATE_NS: [i64; 2] = [5_000, 25_000];

/// The CPU that a flag names.
pub(super) fn number(flag: &str) -> Option<usize> {
    flag.trim().strip_prefix("--cpus ")?.parse().ok()
}

/// Requests are on the wire when they are due, and none before.
pub(super) fn on_the_wire(backend: &'static str) -> Case {
    Case::new(format!("http, on the wire at {RATE}/s, {backend}"), move || {
        let (its_cpu, our_cpu) = apart();
        let server = Server::start(its_cpu.trim());
        let capture = Capture::begin(server.port(), number(&its_cpu));
        // The warm-up is a whole number of gaps, so the measured phase begins with an arrival.
        let flags = format!(
            "-c 100 -R {RATE} --warmup 100ms -d 2s --wait spin --backend {backend} --threads 1{our_cpu}"
        );
        let result = server.http("/", &flags);
        let packets = capture.finish();
        let began: jiff::Timestamp =
            result["began_at"].as_str().expect("it is reported").parse().expect("RFC 3339");
        let began_ns = i64::try_from(began.as_nanosecond()).expect("this century");
        let first_ns = began_ns - 100_000_000;
        let sent: Vec<i64> =
            packets.iter().filter(|packet| packet.to_server).map(|packet| packet.at_ns).collect();
        let (seen, requests) = (sent.len() as u64, 21 * RATE / 10);
        if seen != requests {
            // Which request a packet holds cannot be said of any behind the one that is missing.
            let figures = format!("{seen} packets were captured of {requests} requests");
            return Trial { holds: false, figures };
        }
        let warmup = RATE as usize / 10;
        let mut late: Vec<i64> =
            (0..).zip(&sent).skip(warmup).map(|(k, at)| at - (first_ns + k * GAP_NS)).collect();
        late.sort_unstable();
        let at = |share: f64| late[(late.len() as f64 * share) as usize];
        // To the error of mapping one clock to the other.
        assert!(late[0] > -1_000, "{backend}: {} ns early", -late[0]);
        let reported = figure(&result, "/latency/lateness/p99_9_ns");
        Trial {
            holds: at(0.5) <= LATE_NS[0] && at(0.99) <= LATE_NS[1],
            figures: format!(
                "on the wire after {} (p50), {} (p99), {} ns (p99.9); reported {reported} ns (p99.9)",
                at(0.5),
                at(0.99),
                at(0.999)
            ),
        }
    })
}
