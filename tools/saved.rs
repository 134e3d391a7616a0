//! Results that were saved, read back.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;
use serde_json::error::Category;
use tare_stats::result::{Comparison, Report, SCHEMA};
use tare_units::error::{Error, Result};
use tare_units::limits::STEPS_MAX;
use tare_units::text::make_visible;

/// The largest result that is read, bytes: a thousand steps take some 20 MiB.
const RESULT_MAX: u64 = 256 << 20;
/// Steps that a comparison can have at most: each of a sweep idle and under load. Whoever shows it
/// counts through them.
const COMPARED_STEPS_MAX: u64 = 2 * STEPS_MAX as u64;
const WHAT: &str = "name a result, as written by -o FILE.json or --format json";
const KINDS: [&str; 4] = ["lat", "bw", "http", "compare"];

pub(crate) fn read(path: &Path) -> Result<Report> {
    let shown = path.display().to_string();
    parse(&contents(path, &shown, RESULT_MAX, WHAT)?, &shown)
}

/// What a file holds, or stdin, at most `max` bytes.
pub(crate) fn contents(path: &Path, shown: &str, max: u64, advice: &str) -> Result<Vec<u8>> {
    let refuse = |why: String| Error::usage(format!("{shown} {why}")).remedy(advice);
    let unreadable = |error: io::Error| refuse(format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    source.take(max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max {
        return Err(refuse(format!("is larger than {} MiB", max >> 20)));
    }
    Ok(bytes)
}

fn parse(bytes: &[u8], shown: &str) -> Result<Report> {
    let refuse = |why: &str, advice: &str| Error::usage(format!("{shown} {why}")).remedy(advice);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(refuse("is empty", WHAT));
    }
    let mut value: Value =
        serde_json::from_slice(bytes).map_err(|error| match error.classify() {
            Category::Eof => refuse(
                &format!("ends in the middle of a result (line {})", error.line()),
                "it was not written to its end: measure again, or get the whole file",
            ),
            _ if is_lines(bytes) => refuse(
                "holds lines (jsonl), not one result",
                "write the result with -o FILE.json or --format json",
            ),
            _ => refuse(&format!("is no JSON (line {})", error.line()), WHAT),
        })?;
    let newer = |why: &str| refuse(why, "use the tare that wrote it");
    let short = |text: &str| text.chars().take(40).flat_map(char::escape_debug).collect::<String>();
    match value["schema"].as_str() {
        Some(SCHEMA) => {}
        Some(other) if other.starts_with("tare/") => {
            let other = short(other);
            return Err(newer(&format!("is of the schema {other}, and this tare reads {SCHEMA}")));
        }
        _ => return Err(refuse("is no result of tare: it names no schema tare/…", WHAT)),
    }
    let kind = value["kind"].as_str().unwrap_or_default();
    if !KINDS.contains(&kind) {
        let kind = short(kind);
        let why = format!("is a result of the kind '{kind}', which this tare does not know");
        return Err(newer(&why));
    }
    let damaged = |why: &str| {
        let why = format!("is no whole result of tare: {why}");
        refuse(&why, "it was changed after it was written")
    };
    // Whoever wrote the file may have written anything.
    make_visible(&mut value);
    let report: Report =
        serde_json::from_value(value).map_err(|error| damaged(&error.to_string()))?;
    let comparison = report.comparison.as_deref();
    if comparison.is_some() != (report.kind == "compare") {
        return Err(damaged("a comparison, and nothing else, has its blocks with it"));
    }
    let misfit = comparison.and_then(|comparison| misfit(&report, comparison));
    misfit.map_or(Ok(report), |why| Err(damaged(&why)))
}

/// What whoever shows a comparison relies on, and this one breaks: that its steps can be counted,
/// and that its parts are of the same arms and steps.
fn misfit(report: &Report, comparison: &Comparison) -> Option<String> {
    let (steps, cells) = (comparison.steps, &comparison.cells);
    if steps > COMPARED_STEPS_MAX {
        return Some(format!("it has {steps} steps, and none has more than {COMPARED_STEPS_MAX}"));
    }
    if let Some(cell) = cells.iter().find(|cell| cell.step >= steps) {
        let number = cell.step.saturating_add(1);
        return Some(format!("a cell is of step {number}, and it has {steps}"));
    }
    let visits = comparison.blocks.iter().flat_map(|block| &block.visits);
    let results = report.results.iter().filter_map(|result| result.arm.as_ref());
    let (what, stranger) = std::iter::once(("the baseline", &comparison.baseline))
        .chain(cells.iter().map(|cell| ("a cell", &cell.arm)))
        .chain(results.map(|arm| ("a result", arm)))
        .chain(visits.map(|visit| ("a visit", &visit.arm)))
        .find(|(_, name)| comparison.arms.iter().all(|arm| arm.name != **name))?;
    let stranger: String = stranger.chars().take(40).collect();
    Some(format!("{what} is of the arm '{stranger}', which it does not have"))
}

fn is_lines(bytes: &[u8]) -> bool {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice::<Value>(first).is_ok_and(|line| line["type"].is_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::Format;
    use crate::report::{PERCENTILES, fixtures, render};

    fn written(report: &Report, format: Format) -> String {
        render(format, report, &PERCENTILES)
    }

    #[test]
    fn every_result_is_read_as_it_was_written() {
        for (name, report) in fixtures::all() {
            let json = written(&report, Format::Json);
            let read = parse(json.as_bytes(), name).unwrap();
            assert_eq!(written(&read, Format::Json), json, "{name}");
            for format in [Format::Text, Format::Markdown, Format::Csv] {
                assert_eq!(written(&read, format), written(&report, format), "{name}");
            }
        }
    }

    #[test]
    fn what_is_no_result_is_refused_in_a_line() {
        let json = written(&fixtures::one_step(), Format::Json);
        let lines = written(&fixtures::sweep(), Format::Jsonl);
        let replaced = |from: &str, to: &str| {
            assert!(json.contains(from));
            json.replacen(from, to, 1)
        };
        for (text, says) in [
            (String::new(), "x is empty; name a result"),
            ("\n\n".into(), "is empty"),
            ("%PDF-1.7".into(), "x is no JSON (line 1)"),
            (json[..json.len() / 2].to_owned(), "x ends in the middle of a result"),
            (lines, "x holds lines (jsonl)"),
            ("[]".into(), "names no schema"),
            ("{\"schema\": \"other/1\"}".into(), "names no schema"),
            (replaced("\"tare/1\"", "\"tare/2\""), "schema tare/2, and this tare reads tare/1"),
            (replaced("\"lat\"", "\"smoke\""), "of the kind 'smoke'"),
            (replaced("\"lat\"", "\"compare\""), "no whole result"),
            (replaced("\"seed\"", "\"sead\""), "no whole result of tare: missing field `seed`"),
            ("[".repeat(100_000), "x is no JSON"),
        ] {
            let error = parse(text.as_bytes(), "x").unwrap_err();
            let message = error.to_string();
            assert!(message.contains(says), "{says}: {message}");
            assert!(!message.contains('\n') && message.contains("; "), "{message}");
        }
        let missing = read(Path::new("/nonexistent/a.json")).unwrap_err().to_string();
        assert!(missing.starts_with("/nonexistent/a.json cannot be read: "), "{missing}");
        assert!(missing.ends_with("; name a result, as written by -o FILE.json or --format json"));
        let directory = read(Path::new("/")).unwrap_err().to_string();
        assert!(directory.contains("/ cannot be read"), "{directory}");
    }

    #[test]
    fn a_comparison_whose_parts_do_not_fit_is_refused() {
        let whole = serde_json::to_value(fixtures::compare::comparison()).unwrap();
        let many = "it has 900000000000 steps, and none has more than 2000";
        for (pointer, replacement, says) in [
            ("steps", json!(900_000_000_000_u64), many),
            ("steps", json!(1), "a cell is of step 2, and it has 1"),
            (
                "cells/0/step",
                json!(u64::MAX),
                "a cell is of step 18446744073709551615, and it has 2",
            ),
            ("baseline", json!("host"), "the baseline is of the arm 'host', which"),
            ("cells/3/arm", json!("\u{1b}[2J"), "a cell is of the arm '\\u{1b}[2J', which"),
            ("../results/1/arm", json!("runc"), "a result is of the arm 'runc', which"),
            ("blocks/2/visits/1/arm", json!("runc"), "a visit is of the arm 'runc', which"),
        ] {
            let mut changed = whole.clone();
            let pointer = format!("/comparison/{pointer}").replace("/comparison/..", "");
            *changed.pointer_mut(&pointer).expect(&pointer) = replacement;
            let error = parse(changed.to_string().as_bytes(), "x").unwrap_err();
            let says = says.replace(", which", ", which it does not have");
            let wanted = format!("x is no whole result of tare: {says}; it was changed after");
            assert_eq!(error.to_string(), format!("{wanted} it was written"));
        }
    }
}
