//! The flags of `tare report`.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tare_units::error::{Error, Result};

use super::common::Percentiles;

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
/// Takes what a measuring command wrote with -o FILE.json or --format json. The page (html) stands alone: it loads
/// nothing, runs nothing, and reads well in the dark and on paper.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Show these results; - is stdin
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Show them as this [default: as -o ends, else text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) to: Option<To>,
    /// Write to this file instead of stdout; unless --to says otherwise its ending does: .html .md .csv .hgrm .txt .json
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Choose the quantiles that text, Markdown and CSV print, of those in the result: 50,99,99.9
    #[arg(long, value_name = "LIST")]
    pub(crate) percentiles: Option<Percentiles>,
}

/// How a saved result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum To {
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
    ///
    /// # Errors
    /// A usage error where the ending of the file names no format.
    pub(crate) fn shown_as(&self) -> Result<To> {
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
                let message = format!("the ending of '{}' names no format", path.display());
                return Err(Error::usage(message).remedy(
                    "write it as .html .md .csv .hgrm .txt or .json, or say which with --to",
                ));
            }
        })
    }
}
