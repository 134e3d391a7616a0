//! Observed processes and groups, and the machine beside them.

use tare_stats::result::{CpuUse, Observed, Report, StepResult};
use tare_units::Nanos;

use super::document::Table;
use super::numbers::{NONE, known, percent, time, volume};
use super::{grouped, parameters, phrases, plural};

/// A row for each observation of each step; none where nothing was observed.
pub(super) fn table(report: &Report) -> Option<Table> {
    let steps = report.results.iter();
    let seen: Vec<(&StepResult, &Observed)> =
        steps.flat_map(|step| step.observed.iter().map(move |one| (step, one))).collect();
    let is_sweep = report.results.len() > 1;
    let notes = seen.iter().filter_map(|(step, one)| {
        let step = if is_sweep { format!("{}, ", name(step)) } else { String::new() };
        Some(format!("{step}{}: {}", one.name, one.note.as_ref()?))
    });
    let notes = notes.collect();
    let table = rows(seen).only_if(is_sweep, &["step"]).left(if is_sweep { 3 } else { 2 });
    let table = table.named("Processes and control groups").noting(notes);
    (!table.rows.is_empty()).then_some(table)
}

fn rows(seen: Vec<(&StepResult, &Observed)>) -> Table {
    Table::of(
        seen,
        &[
            ("step", &|(step, _): &(&StepResult, &Observed)| name(step)),
            ("observed", &|(_, one)| one.name.clone()),
            ("what", &|(_, one)| {
                let several = one.processes.filter(|count| *count > 1).map(grouped);
                format!("{}{}", one.what, several.map_or_else(String::new, |n| format!(" × {n}")))
            }),
            ("CPUs", &|(_, one)| cpus(one)),
            ("user", &|(_, one)| time(one.user_ns)),
            ("kernel", &|(_, one)| time(one.system_ns)),
            ("memory", &|(_, one)| known(one.memory_bytes, volume)),
            ("peak", &|(_, one)| known(one.memory_max_bytes, volume)),
            ("throttled", &|(_, one)| throttled(one)),
            ("switches", &|(_, one)| known(one.voluntary_switches, grouped)),
            ("involuntary", &|(_, one)| known(one.involuntary_switches, grouped)),
        ],
    )
}

fn name(step: &StepResult) -> String {
    let arm = step.arm.as_ref().map_or_else(String::new, |arm| format!("{arm}: "));
    arm + &parameters(&step.params)
}

/// `0.97`, `0.97 of 1` under a limit.
fn cpus(one: &Observed) -> String {
    let limit = one.cpu_limit.map_or_else(String::new, |limit| format!(" of {limit}"));
    known(one.cpus, |cpus| format!("{cpus:.2}{limit}"))
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

/// What the whole machine of an end did: `48 % busy (soft interrupts 12 %)`.
pub(super) fn machine(used: &CpuUse) -> Option<String> {
    let softirq =
        used.machine_softirq.map(|share| format!(" (soft interrupts {})", percent(share)));
    let dropped = used.machine_softnet_dropped.filter(|count| *count > 0);
    let squeezed = used.machine_softnet_squeezed.filter(|count| *count > 0);
    Some(phrases([
        Some(format!("{} busy{}", percent(used.machine_busy?), softirq.unwrap_or_default())),
        dropped.map(|n| format!("{} dropped at a full backlog", plural(n, "received packet"))),
        squeezed.map(|n| format!("{} of receiving cut short", plural(n, "round"))),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_zero() {
        let step = StepResult::default();
        let row = |one: &Observed| rows(vec![(&step, one)]).rows.remove(0)[1..].to_vec();
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
