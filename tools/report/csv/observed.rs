//! Columns of what was observed: `observed_NAME_…`, only in runs with `--observe`.

use tare_engine::result::{Observed, Report, StepResult};

use super::Row;

pub(super) fn columns(row: &mut Row, report: &Report, step: &StepResult) {
    let mut names: Vec<&str> = Vec::new();
    for one in report.results.iter().flat_map(|step| &step.observed) {
        if !names.contains(&one.name.as_str()) {
            names.push(&one.name);
        }
    }
    for name in names {
        let one = step.observed.iter().find(|one| one.name == name);
        let mut put = |figure: &str, value: fn(&Observed) -> Option<u64>| {
            row.put_known(format!("observed_{name}_{figure}"), one.and_then(value));
        };
        put("user_ns", |o| o.user_ns);
        put("system_ns", |o| o.system_ns);
        put("memory_bytes", |o| o.memory_bytes);
        put("memory_max_bytes", |o| o.memory_max_bytes);
        put("periods", |o| o.periods);
        put("throttled_periods", |o| o.throttled_periods);
        put("throttled_ns", |o| o.throttled_ns);
        put("voluntary_switches", |o| o.voluntary_switches);
        put("involuntary_switches", |o| o.involuntary_switches);
        row.put_known(format!("observed_{name}_cpus"), one.and_then(|o| o.cpus));
        row.put_known(
            format!("observed_{name}_cpu_limit"),
            one.and_then(|o| o.cpu_limit),
        );
    }
}
