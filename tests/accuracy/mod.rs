//! The instrument against known delays: what a far end that spins for so long adds to a round trip must be
//! measured as that, within the error that the report itself prints.
//!
//! These tests have the machine for themselves as far as this binary goes. What is compared is measured by turns, and
//! the median turn counts; elsewhere a run that misses is repeated, three are made at most: not every pause of a virtual
//! machine is told to what runs in it, and what is wrong misses each time. The tolerance is what is printed, always.

mod capture;
mod http;
mod wire;

use std::process::Command;

use serde_json::Value;

use crate::util::{Job, Quiet, Serve, backends, figure, lat_words, tare};

/// `tare` ahead of whatever else runs on this machine, where that is allowed. Niceness counts within a session
/// alone (sched(7), autogroups), so it has one of its own.
pub(crate) fn ahead(words: &[&str]) -> Command {
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

fn serve() -> Serve {
    Serve::started(ahead(&Serve::words("--allow-spin")))
}

/// How often what was disturbed is done.
const ATTEMPTS: usize = 3;

/// Whether one of its ends says that it was disturbed.
fn is_disturbed(result: &Value) -> bool {
    let disturbed = |end: &str| result["instrument"][end]["disturbed"] == true;
    disturbed("client") || disturbed("server")
}

/// A server, to be asked over HTTP.
struct Shot(Serve);

impl Shot {
    fn serve(flags: &str) -> Self {
        Self(Serve::started(ahead(&Serve::words(flags))))
    }

    fn port(&self) -> u16 {
        let (_, port) = self.0.address().rsplit_once(':').expect("HOST:PORT");
        port.parse().expect("a port")
    }

    /// The result of one run against `path`.
    fn run(&self, path: &str, flags: &str) -> Value {
        let url = format!("http://{}{path}", self.0.address());
        let mut words = vec!["http", &url, "--format", "json"];
        words.extend(flags.split_whitespace());
        let mut report = Job::start(ahead(&words)).wait().exits(0).report();
        report["results"][0].take()
    }
}

/// One run, disturbed or not.
fn run(serve: &Serve, flags: &str) -> Value {
    let mut report = Job::start(ahead(&lat_words(serve.address(), flags))).wait().exits(0).report();
    report["results"][0].take()
}

/// Runs of one kind until one is undisturbed: then, or after three, the last one counts.
fn undisturbed(serve: &Serve, flags: &str) -> Value {
    for _ in 1..ATTEMPTS {
        let result = run(serve, flags);
        if !is_disturbed(&result) {
            return result;
        }
    }
    let result = run(serve, flags);
    if is_disturbed(&result) {
        let instrument = &result["instrument"];
        eprintln!("{flags}: disturbed {ATTEMPTS} times: {instrument:#}");
    }
    result
}

fn spinning(serve: &Serve, backend: &str, delay: &str, flags: &str) -> Value {
    // Long enough for a median of the longest delay.
    let length = if delay == "5ms" { "600ms" } else { "200ms" };
    let common = "--warmup 30ms --wait spin";
    run(serve, &format!("{common} -d {length} --backend {backend} {flags}"))
}

/// The median without a delay. Where the delay is long, with pauses as long: a path that rested for 5 ms is 5 to 10 µs
/// slower than one that is used again and again, and that is no error of the instrument.
fn bare(serve: &Serve, backend: &str, delay: &str) -> u64 {
    let pause = match delay {
        "500us" => "--rate 1900",
        "5ms" => "--rate 190",
        _ => "--server-delay 0",
    };
    let result = spinning(serve, backend, delay, pause);
    figure(&result, "/latency/service/p50_ns")
}

/// How often a delay is measured, by turns with none. A virtual machine changes its speed by half, for seconds: most
/// turns are within one speed, and so is their median.
const TURNS: usize = 7;

/// What a delay came to, in one turn.
#[derive(Debug)]
struct Held {
    /// Median of the service time with the delay, less what it is without: half before it, half after.
    added: i64,
    error: u64,
    residence: u64,
}

impl Held {
    fn turns(serve: &Serve, backend: &str, delay: &str) -> Vec<Self> {
        let mut before = bare(serve, backend, delay);
        let turn = || {
            let flags = format!("--server-delay {delay}");
            let held = spinning(serve, backend, delay, &flags);
            let after = bare(serve, backend, delay);
            let without = before.midpoint(after);
            before = after;
            Self {
                added: figure(&held, "/latency/service/p50_ns").cast_signed()
                    - without.cast_signed(),
                error: figure(&held, "/latency_error_ns"),
                residence: figure(&held, "/latency/server_residence/p50_ns"),
            }
        };
        std::iter::repeat_with(turn).take(TURNS).collect()
    }

    /// The median of each figure.
    fn median(turns: &[Self]) -> Self {
        Self {
            added: middle(turns.iter().map(|held| held.added)),
            error: middle(turns.iter().map(|held| held.error)),
            residence: middle(turns.iter().map(|held| held.residence)),
        }
    }
}

fn middle<T: Ord + Copy>(figures: impl Iterator<Item = T>) -> T {
    let mut figures: Vec<T> = figures.collect();
    figures.sort_unstable();
    figures[figures.len() / 2]
}

#[test]
fn known_delays_are_measured_as_what_they_are() {
    let _quiet = Quiet::begin();
    for backend in backends() {
        let serve = serve();
        for (delay, delay_ns) in
            [("5us", 5_000_u64), ("50us", 50_000), ("500us", 500_000), ("5ms", 5_000_000)]
        {
            let turns = Held::turns(&serve, backend, delay);
            let held = Held::median(&turns);
            println!("{backend}, {delay}: {held:?}");
            assert!(
                held.error < delay_ns.max(50_000),
                "{backend}, {delay}: this machine is too busy to tell: {turns:?}"
            );
            if held.error >= delay_ns {
                eprintln!("{backend}, {delay}: this machine is too busy to tell: {turns:?}");
            } else {
                assert!(
                    held.added.abs_diff(delay_ns.cast_signed()) <= held.error,
                    "{backend}, {delay}: {held:?} of {turns:?}"
                );
            }
            assert!(
                (delay_ns..=delay_ns + held.error).contains(&held.residence),
                "{backend}, {delay}: {held:?} of {turns:?}"
            );
        }
    }
}

#[test]
fn a_spinning_open_loop_sends_when_it_is_due() {
    let _quiet = Quiet::begin();
    for backend in backends() {
        let serve = serve();
        let flags = format!("--rate 200 -d 1s --warmup 30ms --wait spin --backend {backend}");
        for attempt in 1.. {
            let result = undisturbed(&serve, &flags);
            let lateness = figure(&result, "/latency/lateness/p95_ns");
            println!("{backend}: {lateness} ns late (p95)");
            if lateness < 20_000 {
                break;
            }
            let told = &result["latency"]["lateness"];
            assert!(attempt < ATTEMPTS, "{backend}: {told:#}");
        }
    }
}
