//! `tare compare --baseline-file`: two saved results, before a change and after it.

use std::path::Path;

use tare_engine::analysis::assertion::Verdict;
use tare_engine::analysis::later::{Demand, compare};
use tare_engine::error::{Error, Result};

use crate::exit::Exit;
use crate::output::{Format, OutputFile, write_file};
use crate::progress::complain;
use crate::report::later::{Between, render};
use crate::saved;

/// What `compare` takes besides the two files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options<'a> {
    /// What goes to stdout.
    pub(super) format: Format,
    /// Files of `-o`.
    pub(super) output: &'a [OutputFile],
    /// Expressions of `--assert`, as typed.
    pub(super) assertions: &'a [String],
}

/// Says what has changed from one saved result to the other.
pub(super) fn run(before: &Path, after: &Path, options: &Options<'_>) -> Result<Exit> {
    let demands = options
        .assertions
        .iter()
        .map(|expr| Demand::parse(expr))
        .collect::<Result<Vec<_>>>()?;
    if let Some(file) = options.output.iter().find(|file| file.format().is_none()) {
        let message = format!(
            "--output {}: a comparison of two results has no such form",
            file.path().display()
        );
        return Err(Error::usage(message).remedy("write it as .json .csv .md .txt or .html"));
    }
    let (old, new) = (saved::read(before)?, saved::read(after)?);
    let later = compare(&old, &new)?;
    let assertions: Vec<_> = demands
        .iter()
        .flat_map(|demand| demand.evaluate(&later))
        .collect();
    let (before, after) = (before.display().to_string(), after.display().to_string());
    let between = Between {
        before: (&before, &old),
        after: (&after, &new),
        later: &later,
        assertions: &assertions,
    };
    for file in options.output {
        let format = file.format().unwrap_or(Format::Text);
        write_file(file.path(), &render(format, &between))?;
    }
    super::print(render(options.format, &between).as_bytes())?;
    for verdict in assertions
        .iter()
        .filter(|assertion| assertion.holds != Some(true))
    {
        complain(&super::measure::said_of(verdict));
    }
    Ok(match Verdict::of(&assertions) {
        Verdict::Holds => Exit::Measured,
        Verdict::Failed => Exit::AssertionFailed,
        Verdict::Undecided => Exit::CannotTell,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tare_engine::result::Report;

    use super::*;
    use crate::report::html::fixture::{Shape, comparison};
    use crate::report::{Look, fixtures};

    /// Saves both, compares them into a file of that format, and gives what it holds.
    fn between(old: &Report, new: &Report, to: &str, asserts: &[&str]) -> (Result<Exit>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (name, report) in [("old.json", old), ("new.json", new)] {
            let text = crate::report::render(Format::Json, report, &Look::default());
            fs::write(path(name), text).unwrap();
        }
        let output = [path(to).to_str().unwrap().parse().unwrap()];
        let assertions: Vec<String> = asserts.iter().map(|&expr| expr.to_owned()).collect();
        let options = Options {
            format: Format::Csv,
            output: &output,
            assertions: &assertions,
        };
        let exit = run(&path("old.json"), &path("new.json"), &options);
        (exit, fs::read_to_string(path(to)).unwrap_or_default())
    }

    fn is_of_the_schema(text: &str) {
        let schema = include_str!("../../schema/tare-later-1.schema.json");
        let schema = serde_json::from_str(schema).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let value = serde_json::from_str(text).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
    }

    fn two() -> (Report, Report) {
        let shape = Shape {
            arms: 3,
            sizes: 2,
            blocks: 8,
        };
        let (old, mut new) = (comparison(shape), comparison(shape));
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
            for part in [
                "slower",
                "not measured in turns",
                "kernel",
                "6.19.0",
                "arm-1",
            ] {
                assert!(text.contains(part), "{to}: no {part} in {text}");
            }
        }
        let (_, json) = between(&old, &new, "x.json", &["arm-1.p50.delta>1us"]);
        is_of_the_schema(&json);
        let (_, csv) = between(&old, &new, "x.csv", &[]);
        assert!(csv.lines().count() > 4 && csv.contains(",slower"), "{csv}");
        let exit = |expr| between(&old, &new, "x.txt", &[expr]).0.unwrap();
        assert_eq!(exit("arm-1.p50.delta<1us"), Exit::AssertionFailed);
        assert_eq!(exit("arm-1.p50.delta>1us"), Exit::Measured);
        assert_eq!(exit("nobody.p50.delta<1us"), Exit::CannotTell);
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
        is_of_the_schema(&between(&old, &new, "x.json", &[]).1);
        let (exit, page) = between(&old, &new, "x.html", &["p50.delta<1us"]);
        assert_eq!(exit.unwrap(), Exit::CannotTell);
        assert!(page.contains("cannot tell") && !page.contains("slower"));
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let (old, _) = two();
        let message =
            |new: &Report, to: &str| between(&old, new, to, &[]).0.unwrap_err().to_string();
        assert!(message(&fixtures::one_step(), "x.txt").contains("different kinds"));
        assert!(message(&old, "x.hgrm").contains("no such form"));
    }
}
