//! The instrument against known truths: delays that a server adds, a queue, a stall, and the
//! kernel's own timestamps.
//!
//! What is measured here can be moved by whatever else the machine does, so it is no test among the
//! others: `scripts/accuracy` runs it, with the machine to itself. Each case is one paired
//! measurement, made once a round, so that a bad minute meets each case once; it passes when enough
//! of its rounds hold. A round holds or it does not: nothing is repeated in its stead, no limit is
//! widened, and what the instrument says of its own disturbance excuses nothing. What cannot be
//! true however busy the machine is (a request on the wire before it was due) ends it at once.

mod capture;
mod http;
mod wire;

use std::process::Command;

use serde_json::Value;

use crate::bulk::{adds_up, flows, number};
use crate::util::{Job, Serve, backends, figure, lat_words, tare, test_words};

/// One measurement of a case.
struct Trial {
    holds: bool,
    /// What was measured, for whoever reads the log.
    figures: String,
}

/// A truth about one backend, to be measured round after round.
struct Case {
    name: String,
    measure: Box<dyn FnMut() -> Trial>,
    held: usize,
    missed: usize,
}

impl Case {
    fn new(name: impl Into<String>, measure: impl FnMut() -> Trial + 'static) -> Self {
        Self { name: name.into(), measure: Box::new(measure), held: 0, missed: 0 }
    }
}

/// A count from the environment, as `scripts/accuracy` sets it.
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a count"))
}

#[test]
#[ignore = "measures for minutes: scripts/accuracy runs it"]
fn known_truths_are_measured_as_what_they_are() {
    let (rounds, needed) = (setting("TARE_ROUNDS", 9), setting("TARE_NEEDED", 4));
    let only = std::env::var("TARE_CASES").unwrap_or_default();
    let mut cases: Vec<Case> = Vec::new();
    for backend in backends() {
        cases.extend(delays(backend));
        cases.push(open_loop(backend));
        cases.extend(paced_datagrams(backend));
        cases.extend(http::delays(backend));
        cases.push(http::stall(backend));
        if nix::unistd::geteuid().is_root() {
            cases.extend(http::queue(backend));
            cases.push(wire::on_the_wire(backend));
        }
    }
    cases.retain(|case| case.name.contains(&only));
    assert!(!cases.is_empty(), "no case is called {only}");
    for round in 1..=rounds {
        // A case that is decided needs no more of the machine's time.
        let open = |case: &&mut Case| case.held < needed && case.missed <= rounds - needed;
        for case in cases.iter_mut().filter(open) {
            let trial = (case.measure)();
            let verdict = if trial.holds { "holds" } else { "misses" };
            println!("round {round}: {}: {verdict}: {}", case.name, trial.figures);
            case.held += usize::from(trial.holds);
            case.missed += usize::from(!trial.holds);
        }
    }
    for case in &cases {
        println!("{}: {} of {} rounds held", case.name, case.held, case.held + case.missed);
    }
    let missed = cases.iter().filter(|case| case.held < needed);
    let missed: Vec<&str> = missed.map(|case| &*case.name).collect();
    assert!(missed.is_empty(), "fewer than {needed} of {rounds} rounds held: {missed:#?}");
}

/// `tare` ahead of whatever else runs on this machine, where that is allowed. Niceness counts
/// within a session alone (sched(7), autogroups), so it has one of its own.
fn ahead(words: &[&str]) -> Command {
    let script = "[ -w /proc/self/autogroup ] && \
        exec setsid sh -c 'echo -20 >/proc/self/autogroup; exec nice -n -20 \"$0\" \"$@\"' \"$0\" \"$@\"; \
        exec nice -n -20 \"$0\" \"$@\"";
    if !nix::unistd::geteuid().is_root() {
        let mut command = tare();
        command.args(words);
        return command;
    }
    let mut command = Command::new("sh");
    command.env_remove("TARE_SECRET").args(["-c", script]);
    command.arg(tare().get_program()).args(words);
    command
}

/// A server, to be asked over HTTP.
struct Server(Serve);

impl Server {
    fn start(flags: &str) -> Self {
        Self(Serve::started(ahead(&Serve::words(flags))))
    }

    fn port(&self) -> u16 {
        let (_, port) = self.0.address().rsplit_once(':').expect("HOST:PORT");
        port.parse().expect("a port")
    }

    /// The result of one run of `tare http` against `path`.
    fn http(&self, path: &str, flags: &str) -> Value {
        let url = format!("http://{}{path}", self.0.address());
        let mut words = vec!["http", &url, "--format", "json"];
        words.extend(flags.split_whitespace());
        result_of(&words)
    }

    /// The result of one run of `tare lat`.
    fn lat(&self, flags: &str) -> Value {
        result_of(&lat_words(self.0.address(), flags))
    }
}

fn result_of(words: &[&str]) -> Value {
    let mut report = Job::start(ahead(words)).wait().exits(0).report();
    report["results"][0].take()
}

/// A delay that the server adds to each round trip is measured as what it is: the median with it,
/// less that without (half before it, half after), is the delay, within the error that the report
/// itself prints.
fn delays(backend: &'static str) -> impl Iterator<Item = Case> {
    // Where the delay is long, the bare run has pauses as long: a path that rested for 5 ms is 5 to
    // 10 µs slower than one that is used again and again, and that is no error of the instrument.
    let delays = [
        ("5us", 5_000_u64, "200ms", "--server-delay 0"),
        ("50us", 50_000, "200ms", "--server-delay 0"),
        ("500us", 500_000, "200ms", "--rate 1900"),
        ("5ms", 5_000_000, "600ms", "--rate 190"),
    ];
    delays.into_iter().map(move |(delay, delay_ns, length, pause)| {
        Case::new(format!("lat, delay of {delay}, {backend}"), move || {
            let server = Server::start("--allow-spin");
            let run = |flags: &str| {
                let common = "--warmup 30ms --wait spin --backend";
                server.lat(&format!("{common} {backend} -d {length} {flags}"))
            };
            let median = |result: &Value| figure(result, "/latency/service/p50_ns");
            let before = median(&run(pause));
            let held = run(&format!("--server-delay {delay}"));
            let after = median(&run(pause));
            let added = median(&held).saturating_sub(before.midpoint(after));
            let error = figure(&held, "/latency_error_ns");
            let residence = figure(&held, "/latency/server_residence/p50_ns");
            Trial {
                holds: error < delay_ns
                    && added.abs_diff(delay_ns) <= error
                    && (delay_ns..=delay_ns + error).contains(&residence),
                figures: format!("added {added} ± {error} ns, residence {residence} ns"),
            }
        })
    })
}

/// A spinning open loop sends within 20 µs of the schedule, 95 % of it.
fn open_loop(backend: &'static str) -> Case {
    Case::new(format!("lat, lateness at 200/s, {backend}"), move || {
        let server = Server::start("--allow-spin");
        let result =
            server.lat(&format!("--rate 200 -d 1s --warmup 30ms --wait spin --backend {backend}"));
        let late = figure(&result, "/latency/lateness/p95_ns");
        Trial { holds: late < 20_000, figures: format!("{late} ns late (p95)") }
    })
}

/// A paced stream of datagrams keeps to its schedule: none is lost, the rate is met to 0.5 %, and
/// 99 % of the gaps are off by at most 20 µs. The receive buffer has room for what comes while a
/// virtual machine stands still: Linux' default holds four milliseconds of it.
fn paced_datagrams(backend: &'static str) -> impl Iterator<Item = Case> {
    ["up", "down"].into_iter().map(move |direction| {
        Case::new(format!("bw, datagrams paced {direction}, {backend}"), move || {
            let server = Server::start("--allow-spin");
            let flags = format!(
                "--udp --rate 200M --rcvbuf 2M --size 1200 -d 500ms --warmup 50ms --direction {direction} --backend {backend}"
            );
            let result = result_of(&test_words("bw", server.0.address(), &flags));
            adds_up(&result, &flags);
            let (_, flow) = flows(&result)[0];
            let (rate, lost) = (number(flow, "bits_per_s"), figure(flow, "/datagrams/lost"));
            let off = figure(flow, "/pacing/gap_deviation/p99_ns");
            Trial {
                holds: lost == 0 && off <= 20_000 && (rate - 200e6).abs() <= 1e6,
                figures: format!("{rate:.0} bit/s, {lost} lost, gaps off by {off} ns (p99)"),
            }
        })
    })
}
