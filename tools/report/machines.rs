//! Machines side by side: what is known of each, and where they differ.

use serde_json::Value;
use tare_stats::result::{Environment, Report};

use super::document::Table;
use super::numbers::{NONE, plural};

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
    for name in super::unique(of_machines.iter().flatten().map(|(name, _)| name)) {
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
        table.row(row);
    }
    table
}

/// What is known of a machine, by the names of the result's fields.
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
            fields.push((name.to_owned(), super::list(items.iter().map(compact))));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

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
