//! Machines side by side: what is known of each, and where they differ; and what was observed on
//! them.

use serde_json::Value;
use tare_stats::result::{CpuUse, Environment, Observed, Report, StepResult};
use tare_units::Nanos;

use super::document::Table;
use super::numbers::{NONE, grouped, known, percent, plural, time, volume};
use super::{list, parameters, phrases, unique};

/// What differs between any two machines, or at any two times, and means nothing.
const ALWAYS_DIFFERENT: [&str; 4] = ["instance", "hostname", "conntrack.used", "tare_version"];

/// All machines of a report side by side, the client and each server by its instance; and in words
/// how much differs.
pub(super) fn of(report: &Report) -> (String, Table) {
    let servers = report.environment.servers.iter().enumerate();
    let servers = servers.map(|(index, server)| (format!("server {}", index + 1), server));
    let client = ("client".to_owned(), &report.environment.client);
    let table = side_by_side(&std::iter::once(client).chain(servers).collect::<Vec<_>>());
    let text = match table.marked.len() as u64 {
        0 => "Nothing that is known of both differs between them.".to_owned(),
        rows => format!("What differs between them is marked with ≠ ({}).", plural(rows, "row")),
    };
    (text, table)
}

/// What of one machine is not as it was: the field, what it was before, what it is after.
pub(super) fn changes(before: &Environment, after: &Environment) -> Vec<[String; 3]> {
    let Table { rows, marked, .. } =
        side_by_side(&[("before".to_owned(), before), ("after".to_owned(), after)]);
    let changed =
        marked.into_iter().filter_map(|row| <[String; 3]>::try_from(rows[row].clone()).ok());
    let plain = |name: String| name.trim_start_matches("≠ ").to_owned();
    changed.map(|[name, before, after]| [plain(name), before, after]).collect()
}

fn side_by_side(columns: &[(String, &Environment)]) -> Table {
    let of_machines: Vec<Vec<(String, String)>> =
        columns.iter().map(|(_, machine)| fields(machine)).collect();
    let mut header = vec![""];
    header.extend(columns.iter().map(|(name, _)| name.as_str()));
    let mut table = Table::new(&header).left(9).named("Machines side by side");
    for name in unique(of_machines.iter().flatten().map(|(name, _)| name)) {
        let of = |fields: &'_ Vec<(String, String)>| {
            fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
        };
        let values: Vec<Option<String>> = of_machines.iter().map(of).collect();
        // What is not known of one of them is not known to differ.
        let known: Vec<&String> = values.iter().flatten().collect();
        let differs = known.windows(2).any(|two| two[0] != two[1])
            && !ALWAYS_DIFFERENT.contains(&name.as_str());
        if differs {
            table.marked.push(table.rows.len());
        }
        let mut row = vec![if differs { format!("≠ {name}") } else { name.clone() }];
        row.extend(values.into_iter().map(|value| value.unwrap_or_else(|| NONE.to_owned())));
        table.rows.push(row);
    }
    table
}

fn fields(machine: &Environment) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    if let Ok(Value::Object(known)) = serde_json::to_value(machine) {
        known.iter().for_each(|(name, value)| flatten(name, value, &mut fields));
    }
    fields
}

fn flatten(name: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(inner) => {
            inner.iter().for_each(|(field, v)| flatten(&format!("{name}.{field}"), v, fields));
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) => {
            fields.push((name.to_owned(), list(items.iter().map(compact))));
        }
        other => fields.push((name.to_owned(), compact(other))),
    }
}

/// A value within a list. Of an object words speak for themselves; numbers say what they are, and
/// with it their unit.
fn compact(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let words = fields.iter().map(|(name, value)| match value {
                Value::String(text) => text.clone(),
                other => format!("{name} {}", compact(other)),
            });
            words.collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// What was observed, a row for each observation of each step.
pub(super) fn observed(report: &Report) -> Option<Table> {
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
    use crate::report::fixtures;

    #[test]
    fn what_is_not_known_is_no_zero() {
        let step = StepResult::default();
        let row = |one: &Observed| rows(vec![(&step, one)]).rows.remove(0)[1..].to_vec();
        let nothing = row(&Observed::default());
        assert!(nothing[2..].iter().all(|cell| cell == NONE), "{nothing:?}");
        let mut unlimited = Observed { cpus: Some(1.5), ..Observed::default() };
        (unlimited.throttled_periods, unlimited.throttled_ns) = (Some(0), Some(0));
        let shown = row(&unlimited);
        assert_eq!((shown[2].as_str(), shown[7].as_str()), ("1.50", "no"));
    }

    #[test]
    fn a_step_is_named_by_its_rate_once() {
        let mut step = fixtures::http::stages().results.remove(0);
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

    #[test]
    fn what_differs_is_marked_and_what_always_does_is_not() {
        let mut report = fixtures::one_step();
        report.environment.servers[0].governor = Some("powersave".into());
        report.environment.servers[0].turbo = Some(true);
        let (text, table) = of(&report);
        assert!(text.ends_with("(1 row)."), "{text}");
        let rows = &table.rows;
        let marked: Vec<&str> = table.marked.iter().map(|&row| rows[row][0].as_str()).collect();
        assert_eq!(marked, ["≠ governor"]);
        assert!(rows.iter().any(|row| row[0] == "device.mtu_bytes" && row[1] == "1500"));
        assert_eq!(table.header, ["", "client", "server 1"]);
        let client = &report.environment.client;
        let changed = changes(client, &report.environment.servers[0]);
        assert_eq!(changed, [["governor", "performance", "powersave"].map(String::from)]);
    }

    #[test]
    fn numbers_in_a_list_say_what_they_are() {
        let states = serde_json::json!([{ "name": "C6", "latency_us": 133, "disabled": false }]);
        let mut fields = Vec::new();
        flatten("idle_states", &states, &mut fields);
        let mut words: Vec<&str> = fields[0].1.split(' ').collect();
        words.sort_unstable();
        assert_eq!(words, ["133", "C6", "disabled", "false", "latency_us"]);
        assert!(fields[0].1.contains("latency_us 133"), "{fields:?}");
    }
}
