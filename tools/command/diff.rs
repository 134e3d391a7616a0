//! `tare compare --baseline-file`: two saved results, before a change and after it.

use std::path::Path;

use tare_stats::assertion::Assertion;
use tare_stats::diff::compare;
use tare_units::error::Result;

use super::options::ResultArgs;
use super::{demand, spares};
use crate::exit::{self, Exit};
use crate::output::{OutputFile, complain, write_file};
use crate::report::Format;
use crate::report::diff::{DiffReport, caution, render};
use crate::saved;

pub(super) fn run(before: &Path, after: &Path, args: &ResultArgs) -> Result<Exit> {
    let demands = args.assertions.iter().map(|expr| Assertion::parse_diff(expr));
    let demands = demands.collect::<Result<Vec<_>>>()?;
    check(&args.output, [before, after])?;
    let (old, new) = (saved::read(before)?, saved::read(after)?);
    let changes = compare(&old, &new)?;
    let mut assertions = Vec::new();
    for demand in &demands {
        assertions.extend(demand.evaluate_diff(&changes)?);
    }
    if !args.quiet && args.format != Format::Text {
        complain(&format!("warning: {}", caution(&changes)));
    }
    let (before, after) = (before.display().to_string(), after.display().to_string());
    let diff = DiffReport {
        before: (&before, &old),
        after: (&after, &new),
        changes: &changes,
        assertions: &assertions,
    };
    for file in &args.output {
        write_file(file.path(), &render(file.format().unwrap_or(Format::Text), &diff))?;
    }
    super::print(render(args.format, &diff).as_bytes())?;
    super::measure::complain_of(&assertions);
    Ok(exit::of_diff(&changes, &assertions))
}

fn check(output: &[OutputFile], inputs: [&Path; 2]) -> Result<()> {
    for (index, file) in output.iter().enumerate() {
        let path = file.path();
        let shown = path.display();
        let message = format!(
            "--output {shown} holds latencies alone, and a comparison of two results has none"
        );
        demand(file.format().is_some(), message, "write it as .json .csv .md .txt or .html")?;
        let is_twice = output[..index].iter().any(|other| other.path() == path);
        demand(!is_twice, format!("--output {shown} is given twice"), "leave one of them out")?;
        spares(path, &inputs)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};
    use tare_stats::result::Report;

    use super::*;
    use crate::report::fixtures::compare::large;
    use crate::report::fixtures::holds;
    use crate::report::golden::{assert_valid, refuses_of};
    use crate::report::{PERCENTILES, fixtures};

    /// Saves both, compares them into a file of that format, and gives what it holds.
    fn between(old: &Report, new: &Report, to: &str, asserts: &[&str]) -> (Result<Exit>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (name, report) in [("old.json", old), ("new.json", new)] {
            let text = crate::report::render(Format::Json, report, &PERCENTILES);
            fs::write(path(name), text).unwrap();
        }
        let args = ResultArgs {
            assertions: asserts.iter().map(|&expr| expr.to_owned()).collect(),
            strict: false,
            label: None,
            format: Format::Csv,
            output: vec![path(to).to_str().unwrap().parse().unwrap()],
            quiet: true,
        };
        let exit = run(&path("old.json"), &path("new.json"), &args);
        (exit, fs::read_to_string(path(to)).unwrap_or_default())
    }

    #[test]
    fn the_schema_refuses_what_is_none() {
        let (old, new) = two();
        let (_, text) = between(&old, &new, "x.json", &["size=64:arm-1.p50.change>1us"]);
        let mut value: Value = serde_json::from_str(&text).unwrap();
        let wrong = r#"/schema="tare-later/2" /measured="ping" /changes/0/params=[]
            /changes/0/delta/interval=[1] /changes/0/verdict="worse" /before={}
            /surroundings/0=["client"] /assertions/0/expr=null /assertions/0/step=64
            /assertions/0/actual="40µs" /assertions/0/interval=[1,"2"]
            /assertions/0/interval=[1] /assertions/0/holds="yes""#;
        refuses_of("later-1", &value, "", wrong, "");
        value["moon_phase"] = json!("full");
        assert_valid("later-1", &value);
    }

    fn two() -> (Report, Report) {
        let (old, mut new) = (large(3, 2, 8), large(3, 2, 8));
        for cell in &mut new.comparison.as_mut().unwrap().cells {
            for block in &mut cell.blocks {
                block.value += 40_000.0;
            }
        }
        new.environment.client.kernel = Some("6.19.0".into());
        (old, new)
    }

    #[test]
    fn every_format_says_what_has_changed_and_what_else_has() {
        let (old, new) = two();
        for to in ["x.txt", "x.md", "x.html", "x.json"] {
            let (exit, text) = between(&old, &new, to, &[]);
            assert_eq!(exit.unwrap(), Exit::Measured);
            holds(&text, "slower|not measured in turns|kernel|6.19.0|arm-1");
        }
        let (_, json) = between(&old, &new, "x.json", &["arm-1.p50.change>1us"]);
        assert_valid("later-1", &serde_json::from_str(&json).unwrap());
        let (_, csv) = between(&old, &new, "x.csv", &[]);
        assert!(csv.lines().count() > 4 && csv.contains(",slower"), "{csv}");
        let exit = |expr| between(&old, &new, "x.txt", &[expr]).0.unwrap();
        assert_eq!(exit("arm-1.p50.change<1us"), Exit::AssertionFailed);
        assert_eq!(exit("size=64:arm-1.p50.cost>1us"), Exit::Measured);
        assert_eq!(exit("arm-1.p50.cost<40us"), Exit::CannotTell);
    }

    #[test]
    fn too_few_blocks_are_no_answer() {
        let (exit, text) = between(&large(2, 1, 3), &large(2, 1, 3), "x.txt", &[]);
        assert_eq!(exit.unwrap(), Exit::CannotTell);
        assert!(text.contains("not enough blocks"), "{text}");
    }

    #[test]
    fn what_else_was_asked_for_is_reported() {
        let (mut old, mut new) = two();
        let change = |report: &mut Report, to: &str, blocks| {
            let comparison = report.comparison.as_mut().unwrap();
            comparison.blocks_asked = blocks;
            comparison.settle_ns = blocks * 1_000_000;
            let arm = &mut comparison.arms[1];
            arm.target = format!("10.9.9.9:{to}");
            arm.options = Some(format!("--timeout {to}ms"));
            arm.after = Some(format!("sysctl -w net.core.busy_poll={to}"));
        };
        change(&mut old, "7117", 8);
        change(&mut new, "7118", 12);
        new.comparison.as_mut().unwrap().arms[1].before = Some("modprobe tcp_bbr".into());
        for to in ["x.txt", "x.md", "x.html", "x.json"] {
            let (_, text) = between(&old, &new, to, &[]);
            // Markdown escapes what would be markup there.
            let plain = text.replace('\\', "");
            let parts = "10.9.9.9:7117|10.9.9.9:7118|--timeout 7117ms|--timeout 7118ms|\
                         busy_poll=7117|busy_poll=7118|modprobe tcp_bbr|8 ms|12 ms|\
                         blocks asked for|arm arm-1";
            holds(&plain, parts);
            assert!(!text.contains("arm arm-2"), "{to}: {text}");
        }
    }

    #[test]
    fn plain_results_get_no_verdict() {
        let old = fixtures::sweep();
        let mut new = fixtures::sweep();
        for step in &mut new.results {
            step.latency.service.p50_ns = Some(step.latency.service.p50_ns.unwrap() * 2);
        }
        let (exit, text) = between(&old, &new, "x.txt", &[]);
        assert_eq!(exit.unwrap(), Exit::Measured);
        assert!(text.contains("+9 µs") && !text.contains("slower"), "{text}");
        let (_, json) = between(&old, &new, "x.json", &[]);
        assert_valid("later-1", &serde_json::from_str(&json).unwrap());
        let (exit, page) = between(&old, &new, "x.html", &["p50.change<1us"]);
        assert_eq!(exit.unwrap(), Exit::CannotTell);
        assert!(page.contains("cannot tell") && !page.contains("slower"));
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let (old, _) = two();
        let message =
            |new: &Report, to: &str| between(&old, new, to, &[]).0.unwrap_err().to_string();
        assert!(message(&fixtures::one_step(), "x.txt").contains("different kinds"));
        assert!(message(&old, "x.hgrm").contains("holds latencies alone"));
        assert!(message(&old, "old.json").contains("old.json is a result that is read"));
        assert!(message(&old, "new.json").contains("new.json is a result that is read"));
        for (expr, says) in [
            ("nobody.p50.change<1us", "there are changes of arm-0, arm-1, arm-2"),
            ("arm-1.p50.delta<1us", "write arm-1.p50.change<…"),
        ] {
            let (exit, written) = between(&old, &old, "x.txt", &[expr]);
            let error = exit.unwrap_err();
            assert_eq!(Exit::from(&error), Exit::Usage);
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(written, "", "what is refused writes nothing");
        }
    }

    #[test]
    fn a_file_is_written_once() {
        let output = ["x.md", "x.txt", "x.md"].map(|name| name.parse().unwrap());
        let inputs = [Path::new("a.json"), Path::new("b.json")];
        let error = check(&output, inputs).unwrap_err();
        assert_eq!(error.to_string(), "--output x.md is given twice; leave one of them out");
        check(&output[..2], inputs).unwrap();
    }
}
