//! `tare report`: saved results, shown.

use std::ffi::OsStr;
use std::iter;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tare_stats::result::Report;
use tare_units::error::Result;
use tare_units::text::is_deceptive;

use super::options::Percentiles;
use super::{demand, refuse, spares};
use crate::exit::Exit;
use crate::output::{numbered, write_file};
use crate::report::Format;
use crate::report::{PERCENTILES, histogram, page, render};
use crate::saved;

const EXAMPLES: &str = "\
Examples:
  tare report night.json                        the result as text
  tare report night.json -o night.html          one page to hand on: figures, tables, machines, the command line
  tare report host.json pod.json -o both.html   a page with a part for each
  tare report *.json --to csv > all.csv         a row per step, one header
  tare report night.json --to hgrm              percentiles, as HdrHistogram's plotters read them
  ssh node tare lat --format json | tare report - --to markdown

To compare two saved results: tare compare --baseline-file old.json new.json";

/// Show saved results: as a page, a table, text
///
/// Takes what a measuring command wrote with -o FILE.json or --format json. The page (html) stands
/// alone: it loads nothing, runs nothing, and reads well in the dark and on paper.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Show these results; - is stdin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Show them as this [default: as -o ends, else text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Option<To>,
    /// Write to this file instead of stdout; unless --to says otherwise its ending does: .html .md
    /// .csv .hgrm .txt .json
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Choose the quantiles that text, Markdown and CSV print, of those in the result: 50,99,99.9
    #[arg(long, value_name = "LIST")]
    percentiles: Option<Percentiles>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// One page that stands alone
    Html,
    /// Tables to paste
    Markdown,
    /// A row per step
    Csv,
    /// Percentiles for HdrHistogram's plotters
    Hgrm,
    /// For people
    Text,
    /// One object each
    Json,
}

impl ReportArgs {
    /// How to show them: as was asked for, else as the file's ending says, else as text.
    fn shown_as(&self) -> Result<To> {
        let (None, Some(path)) = (self.to, &self.output) else {
            return Ok(self.to.unwrap_or(To::Text));
        };
        Ok(match path.extension().and_then(OsStr::to_str) {
            Some("html") => To::Html,
            Some("md") => To::Markdown,
            Some("csv") => To::Csv,
            Some("hgrm") => To::Hgrm,
            Some("txt") => To::Text,
            Some("json") => To::Json,
            _ => {
                return refuse(
                    format!("the ending of '{}' names no format", path.display()),
                    "write it as .html .md .csv .hgrm .txt or .json, or say which with --to",
                );
            }
        })
    }
}

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
            spares(&file, &args.files)?;
        }
    }
    let asked = args.percentiles.as_ref().map_or(&PERCENTILES[..], |list| &list.0);
    if to == To::Hgrm {
        return percentiles(&reports, args.output.as_deref());
    }
    let text = shown(to, &reports, asked);
    match &args.output {
        Some(path) => write_file(path, &text).map(|()| Exit::Measured),
        None => super::print(text.as_bytes()),
    }
}

fn shown(to: To, reports: &[(String, Report)], quantiles: &[f64]) -> String {
    let each = |format| {
        reports.iter().map(move |(name, report)| (name, render(format, report, quantiles)))
    };
    let named = |format, mark: &str| -> String {
        if let [(_, report)] = reports {
            return render(format, report, quantiles);
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
            page(&reports, quantiles)
        }
        To::Markdown => named(Format::Markdown, "##"),
        To::Text => named(Format::Text, "==="),
        To::Json | To::Hgrm => each(Format::Json).map(|(_, text)| text).collect(),
        To::Csv => joined(each(Format::Csv).map(|(_, text)| text)),
    }
}

/// Rows under one header as long as it stays the same; where it changes, after an empty line, the
/// next.
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

fn percentiles(reports: &[(String, Report)], output: Option<&Path>) -> Result<Exit> {
    for (name, report) in reports {
        let message = format!("{name} holds bandwidth, and no latencies");
        let advice = "take --to csv for the figures of bulk runs";
        demand(!holds_no_latencies(report), message, advice)?;
    }
    for (name, report) in reports {
        let message = format!("{name} has no step, and so no percentiles");
        demand(!report.results.is_empty(), message, "take --to text for what became of the run")?;
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
        let text = shown(To::Csv, &reports, &PERCENTILES);
        let headers = text.lines().filter(|line| line.starts_with("schema,"));
        assert_eq!(headers.count(), 2, "latencies share theirs");
        assert_eq!(text.lines().count(), 1 + 1 + 3 + 1 + 1 + 1);
    }

    #[test]
    fn several_are_parted_by_their_names() {
        let reports = [
            ("a.json".to_owned(), fixtures::one_step()),
            ("b\n.json".to_owned(), fixtures::sweep()),
        ];
        let text = shown(To::Text, &reports, &PERCENTILES);
        assert!(text.starts_with("=== a.json\n\ntare lat"), "{text}");
        assert!(text.contains("\n=== b .json\n\ntare lat"), "{text}");
        assert!(shown(To::Markdown, &reports, &PERCENTILES).contains("\n## b .json\n"));
        let page = shown(To::Html, &reports, &PERCENTILES);
        assert!(page.contains("a.json") && page.contains("b .json"));
        let objects = serde_json::Deserializer::from_str(&shown(To::Json, &reports, &PERCENTILES))
            .into_iter::<Report>()
            .map(std::result::Result::unwrap)
            .count();
        assert_eq!(objects, 2);
    }

    #[test]
    fn percentiles_of_nothing_are_no_file() {
        let bulk = [("b.json".to_owned(), fixtures::bulk::one())];
        let message = percentiles(&bulk, None).unwrap_err().to_string();
        assert!(message.contains("b.json holds bandwidth"), "{message}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.hgrm");
        let mut nothing = fixtures::one_step();
        nothing.results.clear();
        let reports = [("a.json".to_owned(), fixtures::one_step()), ("b.json".to_owned(), nothing)];
        for (reports, path) in
            [(&reports[1..], Some(&*file)), (&reports[..], Some(&*file)), (&reports[1..], None)]
        {
            let error = percentiles(reports, path).unwrap_err();
            let wanted = "b.json has no step, and so no percentiles; take --to text for what became of the run";
            assert_eq!(error.to_string(), wanted);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
