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

/// Runs of one kind until one is undisturbed: then, or after three, the last one counts.
fn undisturbed(serve: &Serve, flags: &str) -> Value {
    const ATTEMPTS: usize = 3;
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

fn is_within(measured: u64, expected: u64, error: u64) -> bool {
    measured.abs_diff(expected) <= error
}

#[test]
fn known_delays_are_measured_as_what_they_are() {
    let _quiet = Quiet::begin();
    for backend in backends() {
        let serve = serve();
        let with = |delay: &str| {
            let flags = format!(
                "-d 400ms --warmup 50ms --wait spin --backend {backend} --server-delay {delay}"
            );
            undisturbed(&serve, &flags)
        };
        let none = with("0");
        let bare = figure(&none, "/latency/service/p50_ns");
        for (delay, delay_ns) in [
            ("5us", 5_000),
            ("50us", 50_000),
            ("500us", 500_000),
            ("5ms", 5_000_000),
        ] {
            let held = with(delay);
            let error = figure(&held, "/latency_error_ns");
            let median = figure(&held, "/latency/service/p50_ns");
            let residence = figure(&held, "/latency/server_residence/p50_ns");
            let all = format!(
                "{backend}, {delay}: median {median}, without delay {bare}, residence {residence}, error {error}"
            );
            println!("{all}");
            assert!(is_within(median - bare, delay_ns, error), "{all}");
            assert!(
                residence + 1 >= delay_ns && is_within(residence, delay_ns, error),
                "{all}"
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
