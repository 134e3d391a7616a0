//! Observed processes and groups, and the machine beside them.

use tare_stats::result::{CpuUse, Observed, Report, StepResult};
use tare_units::Nanos;

use super::document::Table;
use super::figures::{percent, volume};
use super::{NONE, grouped, parameters, plural};

/// A row for each observation of each step; none where nothing was observed.
pub(super) fn table(report: &Report) -> Option<Table> {
    let steps = report.results.iter();
    let seen: Vec<(&StepResult, &Observed)> =
        steps.flat_map(|step| step.observed.iter().map(move |one| (step, one))).collect();
    if seen.is_empty() {
        return None;
    }
    let is_sweep = report.results.len() > 1;
    let mut header = vec!["observed", "what"];
    if is_sweep {
        header.insert(0, "step");
    }
    header.extend([
        "CPUs",
        "user",
        "kernel",
        "memory",
        "peak",
        "throttled",
        "switches",
        "involuntary",
    ]);
    let mut cells = Table::new(&header).left(if is_sweep { 3 } else { 2 });
    for (step, one) in seen {
        let mut row = row(one);
        if is_sweep {
            row.insert(0, name(step));
        }
        cells.row(row);
    }
    cells.notes = notes(report);
    Some(cells.named("Processes and control groups"))
}

/// The step, and in a comparison the arm.
fn name(step: &StepResult) -> String {
    let parameters = parameters(&step.params);
    match &step.arm {
        Some(arm) => format!("{arm}: {parameters}"),
        None => parameters,
    }
}

fn row(one: &Observed) -> Vec<String> {
    let known = |value: Option<String>| value.unwrap_or_else(|| NONE.into());
    let time = |ns: Option<u64>| known(ns.map(|ns| Nanos(ns).to_string()));
    let bytes = |bytes: Option<u64>| known(bytes.map(volume));
    let count = |count: Option<u64>| known(count.map(grouped));
    let several = one.processes.filter(|count| *count > 1);
    let several = several.map_or_else(String::new, |count| format!(" × {}", grouped(count)));
    vec![
        one.name.clone(),
        format!("{}{several}", one.what),
        cpus(one),
        time(one.user_ns),
        time(one.system_ns),
        bytes(one.memory_bytes),
        bytes(one.memory_max_bytes),
        throttled(one),
        count(one.voluntary_switches),
        count(one.involuntary_switches),
    ]
}

/// `0.97`, `0.97 of 1` under a limit.
fn cpus(one: &Observed) -> String {
    let Some(cpus) = one.cpus else {
        return NONE.into();
    };
    match one.cpu_limit {
        Some(limit) => format!("{cpus:.2} of {limit}"),
        None => format!("{cpus:.2}"),
    }
}

/// `340 ms in 12 of 50 periods`.
fn throttled(one: &Observed) -> String {
    match (one.throttled_periods, one.throttled_ns) {
        (None, _) | (_, None) => NONE.into(),
        (Some(0), _) => "no".into(),
        (Some(throttled), Some(ns)) => {
            let of = one.periods.map_or_else(String::new, |all| format!(" of {}", grouped(all)));
            format!("{} in {}{of} periods", Nanos(ns), grouped(throttled))
        }
    }
}

/// What could not be counted of which observation.
fn notes(report: &Report) -> Vec<String> {
    let is_sweep = report.results.len() > 1;
    let mut notes = Vec::new();
    for step in &report.results {
        for one in &step.observed {
            if let Some(note) = &one.note {
                let step = if is_sweep { format!("{}, ", name(step)) } else { String::new() };
                notes.push(format!("{step}{}: {note}", one.name));
            }
        }
    }
    notes
}

/// What the whole machine of an end did: `48 % busy (soft interrupts 12 %)`.
pub(super) fn machine(used: &CpuUse) -> Option<String> {
    let mut text = format!("{} busy", percent(used.machine_busy?));
    if let Some(softirq) = used.machine_softirq {
        text.push_str(&format!(" (soft interrupts {})", percent(softirq)));
    }
    if let Some(dropped) = used.machine_softnet_dropped.filter(|count| *count > 0) {
        let packets = plural(dropped, "received packet");
        text.push_str(&format!(", {packets} dropped at a full backlog"));
    }
    if let Some(squeezed) = used.machine_softnet_squeezed.filter(|count| *count > 0) {
        let rounds = plural(squeezed, "round");
        text.push_str(&format!(", {rounds} of receiving cut short"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_zero() {
        let nothing = row(&Observed::default());
        assert!(nothing[2..].iter().all(|cell| cell == NONE), "{nothing:?}");
        let unlimited = Observed {
            cpus: Some(1.5),
            throttled_periods: Some(0),
            throttled_ns: Some(0),
            ..Observed::default()
        };
        let shown = row(&unlimited);
        assert_eq!((shown[2].as_str(), shown[7].as_str()), ("1.50", "no"));
    }

    #[test]
    fn a_step_is_named_by_its_rate_once() {
        let mut step = crate::report::fixtures::http::stages().results.remove(0);
        assert_eq!(name(&step), "100 connections, 1,000/s");
        step.arm = Some("runc".into());
        assert_eq!(name(&step), "runc: 100 connections, 1,000/s");
    }

    #[test]
    fn the_machine_in_a_line() {
        let mut used = CpuUse::default();
        assert_eq!(machine(&used), None);
        used.machine_busy = Some(0.48);
        assert_eq!(machine(&used).unwrap(), "48 % busy");
        used.machine_softirq = Some(0.12);
        used.machine_softnet_dropped = Some(0);
        assert_eq!(machine(&used).unwrap(), "48 % busy (soft interrupts 12 %)");
        used.machine_softnet_dropped = Some(1);
        used.machine_softnet_squeezed = Some(1_200);
        let text = machine(&used).unwrap();
        let drops =
            ", 1 received packet dropped at a full backlog, 1,200 rounds of receiving cut short";
        assert!(text.ends_with(drops), "{text}");
    }
}
