//! What reports of every kind say: what went wrong, how both ends measured, on which machines, what
//! was observed, and what became of the assertions.

use tare_stats::result::{
    AssertionResult, Environment, INTERVALS_OF_RUN, Instrument, Report, StepResult,
};
use tare_units::{CpuList, Nanos};

use super::document::{Block, Document, Field, Shown, Table, field, fields, note};
use super::numbers::{NONE, known, percent, significant, time};
use super::{errors, grouped, headline, machines, operations, parameters, phrases, plural};

pub(super) fn ends(step: &StepResult) -> impl Iterator<Item = (&'static str, &Instrument)> {
    let server = step.instrument.server.as_ref();
    std::iter::once(("client", &step.instrument.client)).chain(server.map(|s| ("server", s)))
}

pub(super) fn marks(step: &StepResult, percentiles: &[f64], unanswered: &str) -> Vec<String> {
    let main = headline(&step.latency);
    let mut notes = Vec::new();
    if step.interval_scope == INTERVALS_OF_RUN && !main.intervals_ns.is_empty() {
        notes.push("95 % in this run: on its connections, in its moments; how far runs differ, tare compare tells".to_owned());
    }
    if percentiles.iter().any(|p| main.quantile_ns(*p).is_none()) {
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

/// The results of a run over one path, and how they were measured: behind `intro` all that `step`
/// says of the only step, or of several what `sweep` makes of them. Pages have all of each step,
/// too.
pub(super) fn results(
    document: &mut Document,
    report: &Report,
    mut intro: Vec<Block>,
    sweep: impl FnOnce() -> (Vec<Block>, Vec<Field>),
    heading: &str,
    step: impl Fn(&StepResult) -> Vec<Block>,
) {
    let Some(last) = report.results.last() else { return };
    let is_one = report.results.len() == 1;
    if is_one {
        intro.extend(step(last));
    } else {
        let (blocks, found) = sweep();
        intro.extend(blocks);
        intro.extend(Block::fields(found.into_iter().chain(steps_troubles(report))));
    }
    document.add(Shown::Plain, "results", "Results", intro);
    instruments(document, report, last, if is_one { "" } else { heading });
    super::charts::add(document, report, step);
}

fn steps_troubles(report: &Report) -> Vec<Field> {
    let mut found = Vec::new();
    for step in &report.results {
        let ops = &step.operations;
        let is_short = report.kind != "bw" && ops.completed + ops.in_flight_at_end < ops.due;
        let of_step = [
            step.partial.then(|| "cut short".to_owned()),
            is_short.then(|| operations(step)),
            (!step.errors.is_empty()).then(|| errors(&step.errors)),
        ];
        let of_ends = ends(step).map(|(end, found)| Some(format!("{end} {}", trouble(found)?)));
        let all = of_step.into_iter().chain(of_ends).flatten();
        found.extend(all.map(|text| field(parameters(&step.params), text)));
    }
    found
}

pub(super) fn troubles(step: &StepResult) -> Vec<Field> {
    let found = &step.connections;
    let connections = if step.params.http.is_some() {
        // An HTTP report has a field of its own for connections.
        None
    } else if step.params.connects_each() {
        Some(format!("{} opened, one for each ping", grouped(found.sockets_used)))
    } else {
        let [made, asked, again] = [found.established, found.asked, found.reconnects].map(grouped);
        let text = format!("{made} of {asked} established, {again} reopened after a failure");
        (found.established != found.asked || found.reconnects > 0).then_some(text)
    };
    let (instances, failed) = (&step.instances, &step.errors);
    let servers = format!("{} answered: {}", instances.len(), instances.join(" "));
    let warmup = Some(errors(&step.warmup.errors)).filter(|found| !found.is_empty());
    fields([
        ("partial", step.partial.then(|| "this step was cut short, or failed".to_owned())),
        ("errors", (!failed.is_empty()).then(|| errors(failed))),
        ("in warm-up", warmup.map(|found| format!("{found} (in no figure above)"))),
        ("connections", connections),
        ("servers", (instances.len() > 1).then_some(servers)),
    ])
}

pub(super) fn instruments(
    document: &mut Document,
    report: &Report,
    step: &StepResult,
    heading: &str,
) {
    let (is_bulk, is_http) = (step.params.bulk.is_some(), step.params.http.is_some());
    let error = Nanos(step.latency_error_ns);
    let error = format!("± {error} on a single latency (99 in 100), by the instrument itself");
    let mut found = fields([("error", (!is_bulk).then_some(error))]);
    for (end, instrument) in ends(step) {
        found.push(field(end, how(instrument)));
        found.push(field("", loop_of(instrument)));
        if instrument.saturated || instrument.disturbed {
            found.push(field("", format!("{}: see the warnings", state(instrument))));
        }
    }
    let of_latencies = step.bandwidth.is_none() || step.params.load().is_some();
    // A web server is not expected to.
    let silent = step.instrument.server.is_none() && !is_http;
    found.extend(fields([
        ("server", silent.then(|| "did not report how it measured".to_owned())),
        ("machine", machines::machine(&step.cpu.client).filter(|_| of_latencies && !is_http)),
        ("descriptors", descriptors(report)),
    ]));
    let servers = report.environment.servers.iter().map(|server| ("server on", server));
    let machines = std::iter::once(("client on", &report.environment.client)).chain(servers);
    let machines = machines.map(|(end, machine)| field(end, describe(machine)));
    found.extend(machines.filter(|machine| !machine.text.is_empty()));
    let Report { tool, started_at, seed, .. } = report;
    let run = format!("by tare {}, began {started_at}, seed {seed}", tool.version);
    found.push(field("measured", run));
    let (shown, heading) =
        if heading.is_empty() { (Shown::Plain, "The ends") } else { (Shown::Headed, heading) };
    document.add(shown, "ends", heading, vec![Block::Fields(found)]);
}

fn how(instrument: &Instrument) -> String {
    let cpus = match instrument.cpus.as_slice() {
        [] => "not pinned".to_owned(),
        [cpu] => format!("CPU {cpu}"),
        cpus => format!("CPUs {}", CpuList(cpus.to_vec())),
    };
    let Instrument { backend, backend_reason, wait, wait_reason, .. } = instrument;
    let why = because(wait_reason.as_deref().unwrap_or_default());
    format!("{backend}{}, wait {wait}{why}, {cpus}", because(backend_reason))
}

pub(super) fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
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
        Some(format!("steal {}", time(instrument.steal_ns))),
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

pub(super) fn trouble(instrument: &Instrument) -> Option<String> {
    let reason = instrument.saturation.as_deref().unwrap_or("no reason is known");
    let disturbances = instrument.disturbances.join(", ");
    match (instrument.saturated, instrument.disturbed) {
        (false, false) => None,
        (true, false) => Some(format!("SATURATED: {reason}")),
        (false, true) => Some(format!("DISTURBED: {disturbances}")),
        (true, true) => Some(format!("SATURATED: {reason}; DISTURBED: {disturbances}")),
    }
}

fn descriptors(report: &Report) -> Option<String> {
    let found = report.plan.get("descriptors")?;
    let limit = found["limit"].as_u64()?;
    let raised = found["raised_from"].as_u64().filter(|before| *before < limit);
    let raised = raised.map(|before| format!("raised from {} to ", grouped(before)));
    let is_own = found["per_worker"] == true;
    let own = if is_own { ", for each worker in a table of its own" } else { "" };
    Some(format!("limit {}{}{own}", raised.unwrap_or_default(), grouped(limit)))
}

fn describe(machine: &Environment) -> String {
    let named = |name: &str, value: &Option<String>| value.as_ref().map(|v| format!("{name} {v}"));
    let device = machine.device.as_ref().map(|device| {
        let mtu = device.mtu_bytes.map_or_else(String::new, |mtu| format!(" (MTU {mtu})"));
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

pub(super) fn closing(document: &mut Document, report: &Report) {
    let heading = "Observed on this host in the measured phase";
    let seen = machines::observed(report).map(Block::Table);
    document.add(Shown::Headed, "observed", heading, seen.into_iter().collect());
    let (heading, interval) = match &report.comparison {
        Some(_) => ("Assertions", "95 % interval"),
        None => ("Assertions, of this run alone", "95 % in this run"),
    };
    assertions(document, heading, interval, &report.assertions);
    document.add(Shown::Page, "how", "How it was measured", measured(report));
    let (differences, table) = machines::of(report);
    let machines = vec![note(differences), Block::Table(table)];
    document.add(Shown::Page, "machines", "The machines", machines);
    commands(document, "The command", [("Command", report)]);
}

pub(super) fn commands<'a>(
    document: &mut Document,
    heading: &str,
    reports: impl IntoIterator<Item = (&'a str, &'a Report)>,
) {
    let known = reports.into_iter();
    let known = known.filter_map(|(name, r)| Some(field(name, r.plan["command_line"].as_str()?)));
    document.add(Shown::Page, "command", heading, Block::fields(known).into_iter().collect());
}

fn measured(report: &Report) -> Vec<Block> {
    if report.results.is_empty() {
        return Vec::new();
    }
    type End<'a> = (&'a StepResult, &'static str, &'a Instrument);
    let of_step = |step| ends(step).map(move |(end, found)| (step, end, found));
    let all: Vec<End<'_>> = report.results.iter().flat_map(of_step).collect();
    let table = Table::of(
        all.iter().copied(),
        &[
            ("step", &|(step, _, _)| parameters(&step.params)),
            ("arm", &|(step, _, _)| known(step.arm.clone(), |arm| arm)),
            ("end", &|(_, end, _)| (*end).to_owned()),
            ("backend", &|(_, _, found)| found.backend.clone()),
            ("wait", &|(_, _, found)| found.wait.clone()),
            ("state", &|(_, _, found)| state(found).to_owned()),
            ("error ±", &|(step, _, _)| time(step.latency_error_ns)),
            ("turn p99", &|(_, _, found)| time(found.turn_p99_ns)),
            ("turn max", &|(_, _, found)| time(found.turn_max_ns)),
            ("busiest worker", &|(_, _, found)| percent(found.worker_busy_max)),
            ("involuntary switches", &|(_, _, found)| grouped(found.involuntary_switches)),
        ],
    );
    let troubles = all.iter().filter_map(|(step, end, found)| {
        let arm = step.arm.as_ref().map_or_else(String::new, |arm| format!("{arm}: "));
        Some(field(format!("{arm}{}, {end}", parameters(&step.params)), trouble(found)?))
    });
    let text = "The error is what 99 of 100 single latencies are wrong by at most through the instrument itself; the tables of latencies tell that of each quantile.";
    let mut blocks = vec![note(text), Block::Table(table.left(6).named("Both ends of each step"))];
    blocks.extend(Block::fields(troubles));
    blocks
}

pub(super) fn assertions(
    document: &mut Document,
    heading: &str,
    interval: &str,
    assertions: &[AssertionResult],
) {
    if assertions.is_empty() {
        return;
    }
    let number = |number: f64| significant(number, 4);
    let table = Table::of(
        assertions,
        &[
            ("", &|assertion| verdict(assertion).0.to_owned()),
            ("assertion", &|assertion| assertion.expr.clone()),
            ("step", &|assertion| assertion.step.clone()),
            ("found", &|assertion| known(assertion.actual, number)),
            (interval, &|assertion| {
                let ends =
                    assertion.interval.map(|(low, high)| [low, high].map(number).join(" to "));
                ends.unwrap_or_default()
            }),
        ],
    );
    let notes = vec!["times in nanoseconds".to_owned()];
    let table = Block::Table(table.left(3).named("Assertions").noting(notes));
    document.add(Shown::Headed, "assertions", heading, vec![table]);
}

const fn verdict(assertion: &AssertionResult) -> (&'static str, &'static str) {
    match assertion.holds {
        Some(true) => ("holds", "holds"),
        Some(false) => ("FAILS", "does not hold"),
        None => ("cannot tell", "cannot be told from this data"),
    }
}

pub(crate) fn assertion(found: &AssertionResult) -> String {
    let step = if found.step.is_empty() { String::new() } else { format!(" at {}", found.step) };
    format!("assertion '{}' {}{step}", found.expr, verdict(found).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    #[test]
    fn a_raised_limit_of_descriptors_is_reported() {
        let mut report = fixtures::one_step();
        assert_eq!(descriptors(&report), None);
        report.plan["descriptors"] = serde_json::json!({"limit": 20_100, "raised_from": 1_024});
        let found = |report: &Report| descriptors(report).unwrap();
        assert_eq!(found(&report), "limit raised from 1,024 to 20,100");
        report.plan["descriptors"]["per_worker"] = true.into();
        let own = ", for each worker in a table of its own";
        assert_eq!(found(&report), format!("limit raised from 1,024 to 20,100{own}"));
        report.plan["descriptors"]["limit"] = 1_024.into();
        assert_eq!(found(&report), format!("limit 1,024{own}"));
    }

    #[test]
    fn an_assertion_that_does_not_hold_is_named() {
        let mut found = fixtures::sweep().assertions.remove(1);
        assert_eq!(assertion(&found), "assertion 'p99<15us' does not hold at size=4096");
        (found.holds, found.step) = (None, String::new());
        assert_eq!(assertion(&found), "assertion 'p99<15us' cannot be told from this data");
    }
}
