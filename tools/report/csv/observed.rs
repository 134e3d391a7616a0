//! Columns of what was observed: `observed_NAME_…`, only in runs with `--observe`; of a comparison those of the arm, then
//! `baseline_observed_NAME_…`.

use tare_engine::result::{Observed, Report, StepResult};

use super::Row;

/// `step` is what they are of, and `whose` stands before their names: of a comparison's baseline `baseline_`.
pub(super) fn columns(row: &mut Row, report: &Report, step: Option<&StepResult>, whose: &str) {
    let mut names: Vec<&str> = Vec::new();
    for one in report.results.iter().flat_map(|step| &step.observed) {
        if !names.contains(&one.name.as_str()) {
            names.push(&one.name);
        }
    }
    for name in names {
        let observed = step.iter().flat_map(|step| &step.observed);
        let one = observed.into_iter().find(|one| one.name == name);
        let mut put = |figure: &str, value: fn(&Observed) -> Option<u64>| {
            row.put_known(
                format!("{whose}observed_{name}_{figure}"),
                one.and_then(value),
            );
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
        row.put_known(
            format!("{whose}observed_{name}_cpus"),
            one.and_then(|o| o.cpus),
        );
        row.put_known(
            format!("{whose}observed_{name}_cpu_limit"),
            one.and_then(|o| o.cpu_limit),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::output::Format;
    use crate::report::{Look, fixtures, render};

    #[test]
    fn a_cell_tells_what_its_arm_and_the_baseline_cost() {
        let mut report = fixtures::compare::failed_arm();
        let seen = fixtures::observed_once().results.remove(0).observed;
        for (arm, cpus) in [("loopback", 0.5), ("veth", 0.75)] {
            let mut results = report.results.iter_mut();
            let result = results.find(|result| result.arm.as_deref() == Some(arm));
            let result = result.expect("it was measured");
            result.observed.clone_from(&seen);
            result.observed[0].cpus = Some(cpus);
        }
        // It died before its first visit was over: what others cost is not its own.
        report
            .results
            .retain(|result| result.arm.as_deref() != Some("kata"));
        let csv = render(Format::Csv, &report, &Look::default());
        let mut rows = csv::Reader::from_reader(csv.as_bytes());
        let names = rows.headers().unwrap().clone();
        let at = |name: &str| names.iter().position(|n| n == name).expect(name);
        let (arm, own, baseline) = (
            at("arm"),
            at("observed_nginx_cpus"),
            at("baseline_observed_nginx_cpus"),
        );
        let rows = rows.records().map(Result::unwrap);
        let told: Vec<[String; 3]> = rows
            .map(|row| [arm, own, baseline].map(|at| row[at].to_owned()))
            .collect();
        for (arm, own) in [("veth", "0.75"), ("kata", ""), ("a/a", "")] {
            let wanted = [arm, own, "0.5"].map(str::to_owned);
            assert_eq!(
                told.iter().filter(|row| **row == wanted).count(),
                2,
                "{arm}: {told:?}"
            );
        }
    }
}
