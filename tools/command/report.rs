//! `tare report`: saved results, shown.

use std::iter;
use std::path::Path;

use tare_stats::result::Report;
use tare_units::error::{Error, Result};
use tare_units::text::is_deceptive;

use crate::args::report::{ReportArgs, To};
use crate::exit::Exit;
use crate::output::{Format, numbered, write_file};
use crate::report::{Look, histogram, page, render};
use crate::saved;

pub(super) fn run(args: &ReportArgs) -> Result<Exit> {
    let to = args.shown_as()?;
    let mut reports = Vec::with_capacity(args.files.len());
    for path in &args.files {
        reports.push((path.display().to_string(), saved::read(path)?));
    }
    if let Some(path) = &args.output {
        let steps = reports.iter().map(|(_, report)| report.results.len()).sum();
        // Of several steps the percentiles are a file each.
        let each = (1..=steps).filter(|_| to == To::Hgrm);
        let files = each.map(|step| numbered(path, step));
        for file in iter::once(path.clone()).chain(files) {
            super::spares(&file, &args.files)?;
        }
    }
    let mut look = Look::default();
    if let Some(percentiles) = &args.percentiles {
        look.percentiles.clone_from(&percentiles.0);
    }
    if to == To::Hgrm {
        return percentiles(&reports, args.output.as_deref());
    }
    let text = shown(to, &reports, &look);
    match &args.output {
        Some(path) => write_file(path, &text).map(|()| Exit::Measured),
        None => super::print(text.as_bytes()),
    }
}

/// All of them in a format.
fn shown(to: To, reports: &[(String, Report)], look: &Look) -> String {
    let each =
        |format| reports.iter().map(move |(name, report)| (name, render(format, report, look)));
    let named = |format, mark: &str| -> String {
        if let [(_, report)] = reports {
            return render(format, report, look);
        }
        // A name may hold anything, and must not look like a part of the result.
        let heading = |name: &str| name.replace(is_deceptive, " ");
        let parts = each(format).map(|(name, text)| format!("{mark} {}\n\n{text}", heading(name)));
        parts.collect::<Vec<_>>().join("\n")
    };
    match to {
        To::Html => {
            let reports: Vec<(String, &Report)> =
                reports.iter().map(|(name, report)| (name.clone(), report)).collect();
            page(&reports, look)
        }
        To::Markdown => named(Format::Markdown, "##"),
        To::Text => named(Format::Text, "==="),
        To::Json | To::Hgrm => each(Format::Json).map(|(_, text)| text).collect(),
        To::Csv => joined(each(Format::Csv).map(|(_, text)| text)),
    }
}

/// Rows under one header as long as it stays the same; where it changes, after an empty line, the next.
fn joined(tables: impl Iterator<Item = String>) -> String {
    let (mut out, mut last) = (String::new(), String::new());
    for table in tables {
        let (header, rows) = table.split_once('\n').unwrap_or((&table, ""));
        if header == last {
            out.push_str(rows);
            continue;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&table);
        header.clone_into(&mut last);
    }
    out
}

/// The percentiles of every step: a file each where there are several, as their plotters read one at a time.
fn percentiles(reports: &[(String, Report)], output: Option<&Path>) -> Result<Exit> {
    if let Some((name, _)) = reports.iter().find(|(_, report)| holds_no_latencies(report)) {
        let message = format!("{name} holds bandwidth, and no latencies");
        return Err(Error::usage(message).remedy("take --to csv for the figures of bulk runs"));
    }
    if let Some((name, _)) = reports.iter().find(|(_, report)| report.results.is_empty()) {
        let message = format!("{name} has no step, and so no percentiles");
        return Err(Error::usage(message).remedy("take --to text for what became of the run"));
    }
    let steps = reports.iter().flat_map(|(_, report)| &report.results);
    let texts: Vec<String> = steps.map(histogram::percentiles).collect();
    match (output, texts.as_slice()) {
        (None, texts) => super::print(texts.join("\n").as_bytes()),
        (Some(path), [text]) => write_file(path, text).map(|()| Exit::Measured),
        (Some(path), texts) => {
            for (index, text) in texts.iter().enumerate() {
                write_file(&numbered(path, index + 1), text)?;
            }
            Ok(Exit::Measured)
        }
    }
}

fn holds_no_latencies(report: &Report) -> bool {
    let measured = report.comparison.as_ref().map(|comparison| comparison.measured.as_str());
    measured.unwrap_or(&report.kind) == "bw"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    #[test]
    fn rows_of_one_kind_stand_under_one_header() {
        let named = |report: Report| ("a.json".to_owned(), report);
        let reports =
            [named(fixtures::one_step()), named(fixtures::sweep()), named(fixtures::bulk::one())];
        let text = shown(To::Csv, &reports, &Look::default());
        let headers = text.lines().filter(|line| line.starts_with("schema,"));
        assert_eq!(headers.count(), 2, "latencies share theirs");
        assert_eq!(text.lines().count(), 1 + 1 + 3 + 1 + 1 + 1);
    }

    #[test]
    fn several_are_told_apart_by_their_names() {
        let reports = [
            ("a.json".to_owned(), fixtures::one_step()),
            ("b\n.json".to_owned(), fixtures::sweep()),
        ];
        let look = Look::default();
        let text = shown(To::Text, &reports, &look);
        assert!(text.starts_with("=== a.json\n\ntare lat"), "{text}");
        assert!(text.contains("\n=== b .json\n\ntare lat"), "{text}");
        assert!(shown(To::Markdown, &reports, &look).contains("\n## b .json\n"));
        let page = shown(To::Html, &reports, &look);
        assert!(page.contains("a.json") && page.contains("b .json"));
        let objects = serde_json::Deserializer::from_str(&shown(To::Json, &reports, &look))
            .into_iter::<Report>()
            .map(std::result::Result::unwrap)
            .count();
        assert_eq!(objects, 2);
    }

    #[test]
    fn bandwidth_has_no_percentiles() {
        let reports = [("b.json".to_owned(), fixtures::bulk::one())];
        let message = percentiles(&reports, None).unwrap_err().to_string();
        assert!(message.contains("b.json holds bandwidth"), "{message}");
    }

    #[test]
    fn percentiles_of_nothing_are_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut nothing = fixtures::one_step();
        nothing.results.clear();
        let reports = [("a.json".to_owned(), fixtures::one_step()), ("b.json".to_owned(), nothing)];
        for (reports, path) in [
            (&reports[1..], Some(dir.path().join("x.hgrm"))),
            (&reports[..], Some(dir.path().join("x.hgrm"))),
            (&reports[1..], None),
        ] {
            let error = percentiles(reports, path.as_deref()).unwrap_err();
            let wanted = "b.json has no step, and so no percentiles; take --to text for what became of the run";
            assert_eq!(error.to_string(), wanted);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
