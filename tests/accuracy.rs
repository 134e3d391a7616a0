//! The instrument against known delays: what a far end that spins for so long adds to a round trip must be
//! measured as that, within the error that the report itself prints.
//!
//! These tests have the machine for themselves as far as this binary goes. A run that its own instrument block
//! calls disturbed is repeated, at most three times; the tolerance is what is printed, always.

use std::process::Command;

use serde_json::Value;

use crate::util::{Job, Quiet, Serve, backends, figure, lat_words, tare};

/// `tare` ahead of whatever else runs on this machine, where that is allowed.
fn ahead(words: &[&str]) -> Command {
    if !nix::unistd::geteuid().is_root() {
        let mut command = tare();
        command.args(words);
        return command;
    }
    let mut command = Command::new("nice");
    command.env_remove("TARE_SECRET");
    command
        .args(["-n", "-20"])
        .arg(tare().get_program())
        .args(words);
    command
}

fn serve() -> Serve {
    Serve::started(ahead(&Serve::words("--allow-spin")))
}

/// How often what was disturbed is done.
const ATTEMPTS: usize = 3;

/// Runs of one kind until one is undisturbed: then, or after three, the last one counts.
fn undisturbed(serve: &Serve, flags: &str) -> Value {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut report = Job::start(ahead(&lat_words(serve.address(), flags)))
            .wait()
            .exits(0)
            .report();
        let result = report["results"][0].take();
        let disturbed = |end: &str| result["instrument"][end]["disturbed"] == true;
        let is_disturbed = disturbed("client") || disturbed("server");
        if !is_disturbed || attempt == ATTEMPTS {
            if is_disturbed {
                eprintln!(
                    "{flags}: disturbed {ATTEMPTS} times: {:#}",
                    result["instrument"]
                );
            }
            return result;
        }
    }
}

/// What a delay came to.
#[derive(Debug)]
struct Held {
    /// Medians of the service time: without a delay, with it, and without it again.
    medians: [u64; 3],
    error: u64,
    residence: u64,
}

impl Held {
    fn measure(serve: &Serve, backend: &str, delay: &str) -> Self {
        let with = |delay: &str| {
            // Long enough for a median of the longest delay.
            let length = if delay == "5ms" { "1s" } else { "300ms" };
            let common = "--warmup 50ms --wait spin";
            let flags = format!("{common} -d {length} --backend {backend} --server-delay {delay}");
            undisturbed(serve, &flags)
        };
        let results = [with("0"), with(delay), with("0")];
        Self {
            medians: results
                .each_ref()
                .map(|result| figure(result, "/latency/service/p50_ns")),
            error: figure(&results[1], "/latency_error_ns"),
            residence: figure(&results[1], "/latency/server_residence/p50_ns"),
        }
    }

    /// The machine was as fast after it as before. A virtual one changes its mind by half, for seconds.
    fn is_steady(&self) -> bool {
        let [before, _, after] = self.medians;
        before.abs_diff(after) <= self.error / 4
    }
}

#[test]
fn known_delays_are_measured_as_what_they_are() {
    let _quiet = Quiet::begin();
    for backend in backends() {
        let serve = serve();
        for (delay, delay_ns) in [
            ("5us", 5_000),
            ("50us", 50_000),
            ("500us", 500_000),
            ("5ms", 5_000_000),
        ] {
            let mut held = Held::measure(&serve, backend, delay);
            for _ in 1..ATTEMPTS {
                if !held.is_steady() {
                    held = Held::measure(&serve, backend, delay);
                }
            }
            println!("{backend}, {delay}: {held:?}");
            let [before, median, _] = held.medians;
            assert!(
                median.saturating_sub(before).abs_diff(delay_ns) <= held.error,
                "{backend}, {delay}: {held:?}"
            );
            let residence = held.residence;
            assert!(
                residence >= delay_ns && residence - delay_ns <= held.error,
                "{backend}, {delay}: {held:?}"
            );
        }
    }
}

#[test]
fn a_spinning_open_loop_sends_when_it_is_due() {
    let _quiet = Quiet::begin();
    for backend in backends() {
        let serve = serve();
        let flags = format!("--rate 200 -d 2s --wait spin --backend {backend}");
        let result = undisturbed(&serve, &flags);
        let lateness = figure(&result, "/latency/lateness/p95_ns");
        println!("{backend}: {lateness} ns late (p95)");
        assert!(
            lateness < 20_000,
            "{backend}: {:#}",
            result["latency"]["lateness"]
        );
    }
}
