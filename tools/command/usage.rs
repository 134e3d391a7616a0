//! A command line that is refused: what is wrong with it, in one line that says what to type.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::{Cli, habits};
use crate::exit::Exit;

pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Refused> {
    let words: Vec<OsString> = words.into_iter().collect();
    Cli::try_parse_from(&words).map_err(|error| {
        // clap takes hey's -h2 for -h.
        let asks_for_help = words.iter().any(|word| word == "-h" || word == "--help");
        let habit = match error.kind() {
            ErrorKind::DisplayVersion => None,
            ErrorKind::DisplayHelp if asks_for_help => None,
            _ => habits::hint(&Cli::command(), &words),
        };
        Refused { error, habit }
    })
}

/// What there is to say instead of a command line: a mistake, or the help that was asked for.
#[derive(Debug)]
pub(crate) struct Refused {
    error: clap::Error,
    /// What to write for a flag of another tool.
    habit: Option<String>,
}

impl Refused {
    /// Prints help and version as clap does, and a mistake as one line on stderr.
    pub(crate) fn print(&self) -> Exit {
        match self.error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion if self.habit.is_none() => {
                // Whoever stops reading the help has read enough.
                let _ = self.error.print();
                Exit::Measured
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = self.error.print();
                Exit::Usage
            }
            _ => {
                crate::output::complain(&self.line());
                Exit::Usage
            }
        }
    }

    pub(super) fn line(&self) -> String {
        self.habit.clone().unwrap_or_else(|| line(&self.error))
    }
}

/// clap's paragraphs as one line: what is wrong, then its tips; usage and pointers to the help
/// dropped.
pub(super) fn line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut parts: Vec<String> = text
        .trim_start_matches("error: ")
        .split("\n\n")
        .take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more info"))
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .map(|part| part.trim_start_matches("tip: ").to_owned())
        // "to pass '-x' as a value, use '-- -x'" would make a URL or a host of it.
        .filter(|part| !part.is_empty() && !part.starts_with("to pass "))
        .collect();
    match error.kind() {
        ErrorKind::InvalidSubcommand if parts.len() == 1 => {
            let command = Cli::command();
            let names = command.get_subcommands().map(clap::Command::get_name);
            let names = names.collect::<Vec<_>>().join(", ");
            parts.push(format!("the commands are {names}"));
        }
        ErrorKind::ArgumentConflict => parts.push("keep one of the two".to_owned()),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            parts[0] = with_what_is_allowed(&parts[0]);
        }
        _ => {}
    }
    if parts.len() == 1 && !parts[0].contains("; ") {
        parts.push("see --help".to_owned());
    }
    parts.join("; ")
}

/// clap's lists and ranges as advice.
fn with_what_is_allowed(mistake: &str) -> String {
    if let Some((wrong, allowed)) = mistake.rsplit_once(" [possible values: ") {
        return format!("{wrong}; write one of {}", allowed.trim_end_matches(']'));
    }
    let range = mistake.rsplit_once(" is not in ");
    match range.and_then(|(wrong, range)| Some((wrong, range.split_once("..=")?))) {
        Some((wrong, (low, high))) => format!("{wrong} is out of range; write {low} to {high}"),
        None => mistake.to_owned(),
    }
}
