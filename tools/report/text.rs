//! Text, for people: what was asked, what spoils it, what came out, and how far it can be trusted.

use comfy_table::presets::NOTHING;
use tare_engine::result::{Environment, INTERVALS_OF_RUN, Instrument, Report, StepResult};
use tare_engine::units::{CpuList, Nanos};

use super::{
    Cells, Look, NONE, asked, distribution, errors, grouped, loaded, observed, operations,
    parameters, parts, per_second, plural, printable, spoiled, sweep, warning,
};

mod bulk;
mod compare;
mod http;

const HALVES: &str =
    "Latencies are full round trips; ½ is for comparing with qperf and sockperf, which halve them.";
const PAYLOAD: &str =
    "Rates are of payload, as the receiving end got it; bits are decimal, KiB MiB GiB binary.";
const OPEN_LOOP: [&str; 3] = [
    "response  from when a ping was due, by the schedule, to its answer: what a user would have waited",
    "service   from when it was really sent to its answer: what the path took",
    "lateness  from when it was due to when it was really sent: what the sender added",
];

pub(super) fn render(report: &Report, look: &Look) -> String {
    let mut out = asked(report);
    out.push('\n');
    for line in spoiled(report) {
        out.push_str(&format!("{line}\n"));
    }
    for found in &report.warnings {
        out.push_str(&format!("warning: {}\n", warning(found)));
    }
    match super::compare::of(report) {
        Some(view) => compare::render(&mut out, report, view),
        None => steps(&mut out, report, look),
    }
    observations(&mut out, report);
    assertions(&mut out, report);
    printable(&out)
}

fn steps(out: &mut String, report: &Report, look: &Look) {
    let pairs = loaded::pairs(report);
    match (report.results.as_slice(), pairs.as_slice()) {
        ([], _) => {}
        (steps, _) if report.kind == "bw" => bulk(out, report, steps),
        (steps, _) if report.kind == "http" => http::render(out, report, steps, look),
        (steps, [_, ..]) => under_load(out, report, steps, &pairs, look),
        ([step], _) if super::headline(&step.latency).count == 0 => {
            out.push_str("Nothing was answered in the measured phase.\n\n");
            facts(out, step);
        }
        ([step], _) => {
            out.push_str(&format!("{HALVES}\n\n"));
            one(out, report, step, look);
        }
        (steps, _) => {
            out.push_str(&format!("{HALVES}\n\n"));
            several(out, report, steps);
        }
    }
}

fn bulk(out: &mut String, report: &Report, steps: &[StepResult]) {
    out.push_str(&format!("{PAYLOAD}\n\n"));
    match steps {
        [step] => match super::bulk::of(step) {
            Some(bandwidth) => bulk::one(out, report, step, bandwidth),
            None => {
                out.push_str("Nothing was received in the measured phase.\n\n");
                troubles(out, step);
            }
        },
        _ => bulk::several(out, report),
    }
}

/// Latencies idle and under load, side by side, then what is odd in a step.
fn under_load(
    out: &mut String,
    report: &Report,
    steps: &[StepResult],
    pairs: &[loaded::Pair<'_>],
    look: &Look,
) {
    out.push_str("Latencies are full round trips.\n\n");
    match pairs {
        [pair] => {
            put(out, loaded::distribution(*pair, look));
            out.push('\n');
            fact(out, "load", &loaded::carried(*pair));
        }
        pairs => put(out, loaded::sweep(pairs)),
    }
    out.push('\n');
    steps_troubles(out, report);
    if let Some(last) = steps.last() {
        out.push_str("Instrument, under load:\n");
        instruments(out, last);
    }
    machines(out, report);
}

/// One step, with everything that is known of it.
fn one(out: &mut String, report: &Report, step: &StepResult, look: &Look) {
    put(out, distribution(step, look));
    notes(out, step, look, "unanswered ping");
    if step.latency.response.is_some() {
        for line in OPEN_LOOP {
            out.push_str(&format!("  {line}\n"));
        }
    }
    out.push('\n');
    if let Some(parts) = parts(&step.latency) {
        put(out, parts);
        out.push('\n');
    }
    facts(out, step);
    instruments(out, step);
    if let Some(text) = observed::machine(&step.cpu.client) {
        fact(out, "machine", &text);
    }
    machines(out, report);
}

/// What the marks in a table of quantiles mean.
fn notes(out: &mut String, step: &StepResult, look: &Look, unanswered: &str) {
    let main = super::headline(&step.latency);
    if step.interval_scope == INTERVALS_OF_RUN && !main.intervals_ns.is_empty() {
        out.push_str("  95 % in this run: on its connections, in its moments; how far runs differ, tare compare tells\n");
    }
    if look
        .percentiles
        .iter()
        .any(|p| main.quantile_ns(*p).is_none())
    {
        out.push_str(&format!("  {NONE} fewer than 10 samples lie beyond it\n"));
    }
    if main.censored > 0 {
        out.push_str(&format!(
            "  ≥ rests on {}, known only to have taken at least that long\n  ≈ rests on them too, and may be more or less\n",
            plural(main.censored, unanswered)
        ));
    }
}

/// A sweep: a row per step, then what is the same, or odd, in each.
fn several(out: &mut String, report: &Report, steps: &[StepResult]) {
    put(out, sweep(report));
    out.push('\n');
    steps_troubles(out, report);
    if let Some(last) = steps.last() {
        out.push_str("Instrument, in the last step:\n");
        instruments(out, last);
    }
    machines(out, report);
}

/// What went wrong in the steps of a sweep, step by step.
fn steps_troubles(out: &mut String, report: &Report) {
    for step in &report.results {
        let name = parameters(&step.params);
        if step.partial {
            out.push_str(&format!("  {name}: cut short\n"));
        }
        let ops = &step.operations;
        if report.kind != "bw" && ops.completed + ops.in_flight_at_end < ops.due {
            out.push_str(&format!("  {name}: {}\n", operations(step)));
        }
        if !step.errors.is_empty() {
            out.push_str(&format!("  {name}: {}\n", errors(&step.errors)));
        }
        for (end, instrument) in ends(step) {
            if instrument.saturated || instrument.disturbed {
                out.push_str(&format!("  {name}: {end} {}\n", trouble(instrument)));
            }
        }
    }
}

fn put(out: &mut String, cells: Cells) {
    put_left(out, cells, 1);
}

/// With so many columns of words.
fn put_left(out: &mut String, cells: Cells, words: usize) {
    put_table(out, &cells.table(NOTHING, words).trim_fmt());
}

fn put_table(out: &mut String, table: &str) {
    // A space of padding stands at both sides of each cell, and the first column's is the indent's second.
    for line in table.lines() {
        out.push_str(&format!(" {line}\n"));
    }
}

fn fact(out: &mut String, name: &str, text: &str) {
    let text = text.replace('\n', " ");
    out.push_str(&format!("  {name:<12}{text}\n"));
}

fn facts(out: &mut String, step: &StepResult) {
    let rate = per_second(step.rate.achieved_per_s);
    match step.rate.target_per_s {
        Some(target) => fact(
            out,
            "rate",
            &format!("{rate} of {} asked{}", per_second(target), backlog(step)),
        ),
        None => fact(out, "rate", &rate),
    }
    fact(out, "operations", &operations(step));
    troubles(out, step);
}

/// What went wrong, and on which connections and servers.
fn troubles(out: &mut String, step: &StepResult) {
    if !step.errors.is_empty() {
        fact(out, "errors", &errors(&step.errors));
    }
    if !step.warmup.errors.is_empty() {
        let text = format!("{} (in no figure above)", errors(&step.warmup.errors));
        fact(out, "in warm-up", &text);
    }
    let connections = &step.connections;
    if step.params.connects_each() {
        let text = format!(
            "{} opened, one for each ping",
            grouped(connections.sockets_used)
        );
        fact(out, "connections", &text);
    } else if connections.established != connections.asked || connections.reconnects > 0 {
        let text = format!(
            "{} of {} established, {} opened anew after a failure",
            grouped(connections.established),
            grouped(connections.asked),
            grouped(connections.reconnects)
        );
        fact(out, "connections", &text);
    }
    if step.instances.len() > 1 {
        let text = format!(
            "{} answered: {}",
            step.instances.len(),
            step.instances.join(" ")
        );
        fact(out, "servers", &text);
    }
}

/// How deep the queue of due pings was, where they had to wait for a connection.
fn backlog(step: &StepResult) -> String {
    match step.rate.backlog_max {
        Some(depth) if depth > 0 => {
            format!(
                ", up to {} waiting for a free connection",
                plural(depth, "ping")
            )
        }
        _ => String::new(),
    }
}

/// Both ends that told how they measured.
fn ends(step: &StepResult) -> impl Iterator<Item = (&'static str, &Instrument)> {
    let server = step.instrument.server.as_ref();
    std::iter::once(("client", &step.instrument.client)).chain(server.map(|s| ("far end", s)))
}

fn instruments(out: &mut String, step: &StepResult) {
    if step.params.bulk.is_none() {
        let text = format!(
            "± {} on a single latency (99 in 100), by the instrument itself",
            Nanos(step.latency_error_ns)
        );
        fact(out, "error", &text);
    }
    for (end, instrument) in ends(step) {
        fact(out, end, &how(instrument));
        fact(out, "", &loop_of(instrument));
        if instrument.saturated || instrument.disturbed {
            fact(out, "", &format!("{}: see the warnings", state(instrument)));
        }
    }
    // A web server is not expected to.
    if step.instrument.server.is_none() && step.params.http.is_none() {
        fact(out, "far end", "did not tell how it measured");
    }
}

/// Backend and why, way of waiting, CPUs.
fn how(instrument: &Instrument) -> String {
    let mut text = instrument.backend.clone();
    if !instrument.backend_reason.is_empty() {
        text.push_str(&format!(" ({})", instrument.backend_reason));
    }
    text.push_str(&format!(", wait {}", instrument.wait));
    if let Some(reason) = &instrument.wait_reason {
        text.push_str(&format!(" ({reason})"));
    }
    match instrument.cpus.as_slice() {
        [] => text.push_str(", not pinned"),
        [cpu] => text.push_str(&format!(", CPU {cpu}")),
        cpus => text.push_str(&format!(", CPUs {}", CpuList(cpus.to_vec()))),
    }
    text
}

/// What the loop costs, and what took the CPU away from it.
fn loop_of(instrument: &Instrument) -> String {
    let mut text = format!(
        "clock {}, turn p99 {} max {}",
        Nanos(instrument.clock_ns),
        Nanos(instrument.turn_p99_ns),
        Nanos(instrument.turn_max_ns),
    );
    if let Some(wakeup) = instrument.wakeup_p99_ns {
        text.push_str(&format!(", wake-up p99 {}", Nanos(wakeup)));
    }
    text.push_str(&format!(
        ", forced off the CPU {}",
        plural(instrument.involuntary_switches, "time")
    ));
    let steal = instrument
        .steal_ns
        .map_or_else(|| NONE.to_owned(), |ns| Nanos(ns).to_string());
    text.push_str(&format!(", steal {steal}"));
    if let Some(throttled) = instrument.throttled_ns.filter(|ns| *ns > 0) {
        text.push_str(&format!(", throttled {}", Nanos(throttled)));
    }
    if instrument.ring_overflows > 0 {
        text.push_str(&format!(
            ", {} ring overflows",
            grouped(instrument.ring_overflows)
        ));
    }
    text
}

fn state(instrument: &Instrument) -> &'static str {
    match (instrument.saturated, instrument.disturbed) {
        (true, true) => "SATURATED and DISTURBED",
        (true, false) => "SATURATED",
        _ => "DISTURBED",
    }
}

fn trouble(instrument: &Instrument) -> String {
    let mut parts = Vec::new();
    if instrument.saturated {
        let reason = instrument.saturation.as_deref();
        parts.push(format!(
            "SATURATED: {}",
            reason.unwrap_or("no reason was told")
        ));
    }
    if instrument.disturbed {
        parts.push(format!("DISTURBED: {}", instrument.disturbances.join(", ")));
    }
    parts.join("; ")
}

fn machines(out: &mut String, report: &Report) {
    if let Some(text) = super::descriptors(report) {
        fact(out, "descriptors", &text);
    }
    let client = std::iter::once(("client on", &report.environment.client));
    let servers = report.environment.servers.iter();
    for (end, machine) in client.chain(servers.map(|server| ("far end on", server))) {
        let text = describe(machine);
        if !text.is_empty() {
            fact(out, end, &text);
        }
    }
}

/// A machine in a line, of what is known of it.
fn describe(machine: &Environment) -> String {
    let named = |name: &str, value: &Option<String>| value.as_ref().map(|v| format!("{name} {v}"));
    let limit = machine.cgroup_cpu_limit;
    let device = machine.device.as_ref().map(|device| {
        let mtu = device
            .mtu_bytes
            .map_or_else(String::new, |mtu| format!(" (MTU {mtu})"));
        format!("{}{mtu}", device.name)
    });
    let parts = [
        machine.hostname.clone(),
        named("Linux", &machine.kernel),
        machine.cpu_model.clone(),
        machine
            .cpus_online
            .map(|cpus| plural(u64::from(cpus), "CPU")),
        limit.map(|cpus| format!("limited to {cpus} CPUs")),
        named("governor", &machine.governor),
        machine.hypervisor.clone(),
        machine.container.as_ref().map(|kind| format!("in {kind}")),
        device.map(|device| format!("by {device}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn observations(out: &mut String, report: &Report) {
    let Some(cells) = observed::table(report) else {
        return;
    };
    out.push_str("\nObserved on this host in the measured phase:\n");
    put_left(out, cells, observed::words(report));
    for note in observed::notes(report) {
        out.push_str(&format!("  {note}\n"));
    }
}

fn assertions(out: &mut String, report: &Report) {
    if report.assertions.is_empty() {
        return;
    }
    out.push_str(match &report.comparison {
        Some(_) => "\nAssertions:\n",
        None => "\nAssertions, of this run alone:\n",
    });
    for assertion in &report.assertions {
        let holds = match assertion.holds {
            Some(true) => "holds",
            Some(false) => "FAILS",
            None => "cannot tell",
        };
        let step = match assertion.step.as_str() {
            "" => String::new(),
            step => format!(" [{step}]"),
        };
        out.push_str(&format!("  {holds:<12}{}{step}\n", assertion.expr));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    #[test]
    fn a_single_run_says_that_its_intervals_are_its_own() {
        let look = Look::default();
        let text = render(&fixtures::one_step(), &look);
        assert!(text.contains("95 % in this run  "), "{text}");
        assert!(text.contains("how far runs differ, tare compare tells"));
        let asserted = render(&fixtures::sweep(), &look);
        assert!(asserted.contains("Assertions, of this run alone:"));
        let compared = render(&fixtures::compare::comparison(), &look);
        assert!(!compared.contains("this run"), "{compared}");
    }

    #[test]
    fn each_quantile_has_an_error_of_its_own() {
        let mut report = fixtures::one_step();
        let row = |report: &Report, name: &str| {
            let text = render(report, &Look::default());
            let line = text.lines().find(|line| line.starts_with(name));
            line.unwrap()
                .split("  ")
                .map(str::trim)
                .collect::<Vec<_>>()
                .join("|")
        };
        assert!(row(&report, "  p50 ").contains("± 90 ns"));
        assert!(row(&report, "  p99 ").contains("± 310 ns"));
        // Results that were saved before had one figure for all.
        report.results[0].latency.service.errors_ns.clear();
        assert!(!row(&report, "  p50 ").contains('±'));
    }

    #[test]
    fn a_far_end_cannot_drive_the_terminal_or_forge_a_line() {
        let mut report = fixtures::one_step();
        let reason = "\x1b[2J\nwarning: forged";
        report.environment.servers[0].hostname = Some(reason.into());
        let server = report.results[0].instrument.server.as_mut().unwrap();
        server.backend_reason = reason.into();
        let text = render(&report, &Look::default());
        assert!(!text.contains('\x1b'));
        assert!(text.lines().all(|line| !line.starts_with("warning")));
    }
}
