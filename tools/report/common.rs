//! What reports of every kind say: what went wrong, how both ends measured, on which machines, what
//! was observed, and what became of the assertions.

use tare_stats::result::{
    AssertionResult, Environment, INTERVALS_OF_RUN, Instrument, Report, StepResult,
};
use tare_units::{CpuList, Nanos};

use super::document::{Block, Document, Fact, Shown, Table, fact, note};
use super::{
    Look, NONE, errors, figures, grouped, headline, machines, observed, operations, parameters,
    phrases, plural,
};

/// Both ends that reported how they measured.
pub(super) fn ends(step: &StepResult) -> impl Iterator<Item = (&'static str, &Instrument)> {
    let server = step.instrument.server.as_ref();
    std::iter::once(("client", &step.instrument.client)).chain(server.map(|s| ("far end", s)))
}

/// The marks in a table of quantiles.
pub(super) fn marks(step: &StepResult, look: &Look, unanswered: &str) -> Vec<String> {
    let main = headline(&step.latency);
    let mut notes = Vec::new();
    if step.interval_scope == INTERVALS_OF_RUN && !main.intervals_ns.is_empty() {
        notes.push("95 % in this run: on its connections, in its moments; how far runs differ, tare compare tells".to_owned());
    }
    if look.percentiles.iter().any(|p| main.quantile_ns(*p).is_none()) {
        notes.push(format!("{NONE} fewer than 10 samples lie beyond it"));
    }
    if main.censored > 0 {
        notes.push(format!(
            "≥ rests on {}, known only to have taken at least that long",
            plural(main.censored, unanswered)
        ));
        notes.push("≈ rests on them too, and may be more or less".to_owned());
    }
    notes
}

/// What went wrong in the steps of a sweep, by step.
pub(super) fn steps_troubles(report: &Report) -> Vec<Fact> {
    let mut facts = Vec::new();
    for step in &report.results {
        let mut add = |text: String| facts.push(fact(parameters(&step.params), text));
        if step.partial {
            add("cut short".to_owned());
        }
        let ops = &step.operations;
        if report.kind != "bw" && ops.completed + ops.in_flight_at_end < ops.due {
            add(operations(step));
        }
        if !step.errors.is_empty() {
            add(errors(&step.errors));
        }
        for (end, instrument) in ends(step) {
            if instrument.saturated || instrument.disturbed {
                add(format!("{end} {}", trouble(instrument)));
            }
        }
    }
    facts
}

/// What failed, and which connections and servers that concerns.
pub(super) fn troubles(step: &StepResult) -> Vec<Fact> {
    let mut facts = Vec::new();
    if step.partial {
        facts.push(fact("partial", "this step was cut short, or failed"));
    }
    if !step.errors.is_empty() {
        facts.push(fact("errors", errors(&step.errors)));
    }
    if !step.warmup.errors.is_empty() {
        let text = format!("{} (in no figure above)", errors(&step.warmup.errors));
        facts.push(fact("in warm-up", text));
    }
    let found = &step.connections;
    if step.params.http.is_some() {
        // An HTTP report has a fact of its own for connections.
    } else if step.params.connects_each() {
        let text = format!("{} opened, one for each ping", grouped(found.sockets_used));
        facts.push(fact("connections", text));
    } else if found.established != found.asked || found.reconnects > 0 {
        let text = format!(
            "{} of {} established, {} reopened after a failure",
            grouped(found.established),
            grouped(found.asked),
            grouped(found.reconnects)
        );
        facts.push(fact("connections", text));
    }
    if step.instances.len() > 1 {
        let text = format!("{} answered: {}", step.instances.len(), step.instances.join(" "));
        facts.push(fact("servers", text));
    }
    facts
}

/// How both ends of a step measured, and on which machines, under `heading` where it is one of several.
pub(super) fn instruments(
    document: &mut Document,
    report: &Report,
    step: &StepResult,
    heading: &str,
) {
    let mut facts = Vec::new();
    if step.params.bulk.is_none() {
        let error = Nanos(step.latency_error_ns);
        let text = format!("± {error} on a single latency (99 in 100), by the instrument itself");
        facts.push(fact("error", text));
    }
    for (end, instrument) in ends(step) {
        facts.push(fact(end, how(instrument)));
        facts.push(fact("", loop_of(instrument)));
        if instrument.saturated || instrument.disturbed {
            facts.push(fact("", format!("{}: see the warnings", state(instrument))));
        }
    }
    // A web server is not expected to.
    if step.instrument.server.is_none() && step.params.http.is_none() {
        facts.push(fact("far end", "did not report how it measured"));
    }
    let is_bulk = step.bandwidth.is_some() && step.params.under_load.is_none();
    if !is_bulk && step.params.http.is_none() {
        let machine = observed::machine(&step.cpu.client);
        facts.extend(machine.map(|text| fact("machine", text)));
    }
    facts.extend(descriptors(report).map(|text| fact("descriptors", text)));
    let client = std::iter::once(("client on", &report.environment.client));
    let servers = report.environment.servers.iter();
    for (end, machine) in client.chain(servers.map(|server| ("far end on", server))) {
        let text = describe(machine);
        if !text.is_empty() {
            facts.push(fact(end, text));
        }
    }
    let run = format!(
        "by tare {}, began {}, seed {}",
        report.tool.version, report.started_at, report.seed
    );
    facts.push(fact("measured", run));
    let (shown, heading) = match heading {
        "" => (Shown::Plain, "The ends"),
        heading => (Shown::Headed, heading),
    };
    document.add(shown, "ends", heading, vec![Block::Facts(facts)]);
}

/// Backend and why, way of waiting, CPUs.
fn how(instrument: &Instrument) -> String {
    let why = |reason: &str| match reason {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    let wait_reason = instrument.wait_reason.as_deref().unwrap_or_default();
    let cpus = match instrument.cpus.as_slice() {
        [] => "not pinned".to_owned(),
        [cpu] => format!("CPU {cpu}"),
        cpus => format!("CPUs {}", CpuList(cpus.to_vec())),
    };
    let backend = why(&instrument.backend_reason);
    format!("{}{backend}, wait {}{}, {cpus}", instrument.backend, instrument.wait, why(wait_reason))
}

/// What the loop costs, and what took the CPU away from it.
fn loop_of(instrument: &Instrument) -> String {
    let throttled = instrument.throttled_ns.filter(|ns| *ns > 0);
    let overflows = Some(instrument.ring_overflows).filter(|count| *count > 0);
    let (p99, max) = (Nanos(instrument.turn_p99_ns), Nanos(instrument.turn_max_ns));
    phrases([
        Some(format!("clock {}", Nanos(instrument.clock_ns))),
        Some(format!("turn p99 {p99} max {max}")),
        instrument.wakeup_p99_ns.map(|wakeup| format!("wake-up p99 {}", Nanos(wakeup))),
        Some(plural(instrument.involuntary_switches, "involuntary context switch")),
        Some(format!("steal {}", super::time(instrument.steal_ns))),
        throttled.map(|ns| format!("throttled {}", Nanos(ns))),
        overflows.map(|count| format!("{} ring overflows", grouped(count))),
    ])
}

const fn state(instrument: &Instrument) -> &'static str {
    match (instrument.saturated, instrument.disturbed) {
        (true, true) => "SATURATED and DISTURBED",
        (true, false) => "SATURATED",
        (false, true) => "DISTURBED",
        (false, false) => "undisturbed",
    }
}

/// Why an end is saturated or disturbed.
pub(super) fn trouble(instrument: &Instrument) -> String {
    let mut parts = Vec::new();
    if instrument.saturated {
        let reason = instrument.saturation.as_deref();
        parts.push(format!("SATURATED: {}", reason.unwrap_or("no reason is known")));
    }
    if instrument.disturbed {
        parts.push(format!("DISTURBED: {}", instrument.disturbances.join(", ")));
    }
    parts.join("; ")
}

/// What was done to have enough descriptors, if anything was.
fn descriptors(report: &Report) -> Option<String> {
    let found = report.plan.get("descriptors")?;
    let limit = found["limit"].as_u64()?;
    let mut text = match found["raised_from"].as_u64() {
        Some(before) if before < limit => {
            format!("limit raised from {} to {}", grouped(before), grouped(limit))
        }
        _ => format!("limit {}", grouped(limit)),
    };
    if found["per_worker"] == true {
        text.push_str(", for each worker in a table of its own");
    }
    Some(text)
}

/// A machine in a line, of what is known of it.
fn describe(machine: &Environment) -> String {
    let named = |name: &str, value: &Option<String>| value.as_ref().map(|v| format!("{name} {v}"));
    let device = machine.device.as_ref().map(|device| {
        let mtu = device.mtu_bytes;
        let mtu = mtu.map_or_else(String::new, |mtu| format!(" (MTU {mtu})"));
        format!("by {}{mtu}", device.name)
    });
    phrases([
        machine.hostname.clone(),
        named("Linux", &machine.kernel),
        machine.cpu_model.clone(),
        machine.cpus_online.map(|cpus| plural(u64::from(cpus), "CPU")),
        machine.cgroup_cpu_limit.map(|cpus| format!("limited to {cpus} CPUs")),
        named("governor", &machine.governor),
        machine.hypervisor.clone(),
        named("in", &machine.container),
        device,
    ])
}

/// The sections that end every report of measurements.
pub(super) fn closing(document: &mut Document, report: &Report) {
    let heading = "Observed on this host in the measured phase";
    let seen = observed::table(report).map(Block::Table);
    document.add(Shown::Headed, "observed", heading, seen.into_iter().collect());
    let (heading, interval) = match &report.comparison {
        Some(_) => ("Assertions", "95 % interval"),
        None => ("Assertions, of this run alone", "95 % in this run"),
    };
    assertions(document, heading, interval, &report.assertions);
    document.add(Shown::Page, "how", "How it was measured", measured(report));
    let (differences, table) = machines::of(report);
    document.add(
        Shown::Page,
        "machines",
        "The machines",
        vec![note(differences), Block::Table(table)],
    );
    let command = report.plan["command_line"].as_str().map(|text| fact("Command", text));
    let command = command.map(|command| Block::Facts(vec![command]));
    document.add(Shown::Page, "command", "The command", command.into_iter().collect());
}

/// How each step's two ends measured, and how far they can be trusted.
fn measured(report: &Report) -> Vec<Block> {
    if report.results.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new(&[
        "step",
        "arm",
        "end",
        "backend",
        "wait",
        "state",
        "error ±",
        "turn p99",
        "turn max",
        "busiest worker",
        "involuntary switches",
    ]);
    let mut troubles = Vec::new();
    for step in &report.results {
        for (end, instrument) in ends(step) {
            let name = parameters(&step.params);
            let arm = step.arm.clone().unwrap_or_else(|| NONE.to_owned());
            if instrument.saturated || instrument.disturbed {
                let arm = step.arm.as_ref().map_or_else(String::new, |arm| format!("{arm}: "));
                troubles.push(fact(format!("{arm}{name}, {end}"), trouble(instrument)));
            }
            table.row(vec![
                name,
                arm,
                end.to_owned(),
                instrument.backend.clone(),
                instrument.wait.clone(),
                state(instrument).to_owned(),
                Nanos(step.latency_error_ns).to_string(),
                Nanos(instrument.turn_p99_ns).to_string(),
                Nanos(instrument.turn_max_ns).to_string(),
                figures::percent(instrument.worker_busy_max),
                grouped(instrument.involuntary_switches),
            ]);
        }
    }
    let text = "The error is what 99 of 100 single latencies are wrong by at most through the instrument itself; the tables of latencies tell that of each quantile.";
    let mut blocks = vec![note(text), Block::Table(table.left(6).named("Both ends of each step"))];
    if !troubles.is_empty() {
        blocks.push(Block::Facts(troubles));
    }
    blocks
}

/// What became of the assertions: the only place that words it.
pub(super) fn assertions(
    document: &mut Document,
    heading: &str,
    interval: &str,
    assertions: &[AssertionResult],
) {
    if assertions.is_empty() {
        return;
    }
    let mut table = Table::new(&["", "assertion", "step", "found", interval]).left(3);
    for assertion in assertions {
        let number = |number: f64| figures::significant(number, 4);
        let interval = assertion.interval;
        let interval = interval.map(|(low, high)| format!("{} to {}", number(low), number(high)));
        let holds = match assertion.holds {
            Some(true) => "holds",
            Some(false) => "FAILS",
            None => "cannot tell",
        };
        table.row(vec![
            holds.to_owned(),
            assertion.expr.clone(),
            assertion.step.clone(),
            assertion.actual.map_or_else(|| NONE.to_owned(), number),
            interval.unwrap_or_default(),
        ]);
    }
    let table = table.named("Assertions").noting(vec!["times in nanoseconds".to_owned()]);
    document.add(Shown::Headed, "assertions", heading, vec![Block::Table(table)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    #[test]
    fn a_raised_limit_of_descriptors_is_reported() {
        let mut report = fixtures::one_step();
        assert_eq!(descriptors(&report), None);
        let raised =
            serde_json::json!({"limit": 20_100, "raised_from": 1_024, "per_worker": false});
        report.plan["descriptors"] = raised;
        let found = |report: &Report| descriptors(report).unwrap();
        assert_eq!(found(&report), "limit raised from 1,024 to 20,100");
        report.plan["descriptors"]["per_worker"] = true.into();
        assert_eq!(
            found(&report),
            "limit raised from 1,024 to 20,100, for each worker in a table of its own"
        );
        report.plan["descriptors"]["limit"] = 1_024.into();
        assert_eq!(found(&report), "limit 1,024, for each worker in a table of its own");
    }
}
