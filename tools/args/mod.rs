//! The command line: flags validate and never act. Typed flags become plans in [`lat`], [`bw`], [`http`] and
//! [`serve`].
#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "the fields' comments are the help text, where brackets mean what they mean in a shell"
)]

pub(crate) mod bw;
pub(crate) mod common;
pub(crate) mod http;
pub(crate) mod lat;
mod load;
mod path;
pub(crate) mod serve;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::exit::Exit;

const EXAMPLES: &str = "\
Examples:
  tare lat                               what loopback costs on this machine, nothing else needed
  tare serve                             the far end, on port 7117 (TCP and UDP)
  tare lat node-2                        round trips to it: percentiles and their own error
  tare lat node-2 --size 64,4K,64K -o lat.json -o lat.csv
  tare bw node-2 -P 8                    what eight streams move, and the CPU they cost
  tare http node-2:8080/ -c 100 -R 1000  1,000 requests a second: latencies that are true

tare <COMMAND> --help tells what a command's options change for you.";

/// Measures what a network path costs, to the microsecond, and says how far its own numbers can be trusted.
#[derive(Debug, Parser)]
#[command(name = "tare", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Lat(Box<lat::LatArgs>),
    Bw(Box<bw::BwArgs>),
    Http(Box<http::HttpArgs>),
    Serve(serve::ServeArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tare completions bash > /etc/bash_completion.d/tare
  tare completions zsh > ~/.zfunc/_tare
  tare completions fish > ~/.config/fish/completions/tare.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: Shell,
}

/// Print the man pages, or write them to files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tare man | man -l -
  tare man --dir /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Write a file per command here: tare.1, tare-lat.1, tare-bw.1, tare-http.1, …
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// The command line, or what to say instead.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Refused> {
    Cli::try_parse_from(words).map_err(Refused)
}

/// What clap has to say instead of a command line: a mistake, or the help that was asked for.
#[derive(Debug)]
pub(crate) struct Refused(clap::Error);

impl Refused {
    /// Prints help and version as clap does, and a mistake as one line on stderr.
    pub(crate) fn print(&self) -> Exit {
        match self.0.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                // Whoever stops reading the help has read enough.
                let _ = self.0.print();
                Exit::Measured
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = self.0.print();
                Exit::Usage
            }
            _ => {
                crate::progress::complain(&self.line());
                Exit::Usage
            }
        }
    }

    /// clap's paragraphs as one line: what is wrong, then its tips; usage and pointers to the help dropped.
    fn line(&self) -> String {
        let text = self.0.render().to_string();
        let parts: Vec<String> = text
            .trim_start_matches("error: ")
            .split("\n\n")
            .take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more info"))
            .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
            .map(|part| part.trim_start_matches("tip: ").to_owned())
            .filter(|part| !part.is_empty())
            .collect();
        if self.0.kind() == ErrorKind::InvalidSubcommand && parts.len() == 1 {
            let command = Cli::command();
            let names: Vec<&str> = command
                .get_subcommands()
                .map(clap::Command::get_name)
                .collect();
            format!("{}; the commands are {}", parts[0], names.join(", "))
        } else if parts.len() > 1 || parts.iter().any(|part| part.contains("; write ")) {
            parts.join("; ")
        } else {
            format!("{}; see --help", parts.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &str) -> String {
        parse(words.split_whitespace().map(Into::into))
            .expect_err(words)
            .line()
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_ends_in_examples() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            let examples = help.rsplit_once("Examples:").map(|(_, examples)| examples);
            let shown = examples.is_some_and(|examples| examples.contains("tare "));
            assert!(shown, "{}", command.get_name());
        }
    }

    #[test]
    fn mistakes_are_one_line_that_says_what_to_type() {
        for (words, parts) in [
            ("tare lat --sise 64", vec!["'--sise'", "'--size'"]),
            ("tare serv", vec!["'serv'", "'serve'"]),
            (
                "tare ping",
                vec!["'ping'", "lat, bw, http, serve, completions, man"],
            ),
            (
                "tare lat --wait spinning",
                vec!["spinning", "spin, block, hybrid"],
            ),
            (
                "tare lat -d 5",
                vec!["--duration", "no unit", "write it as 500us"],
            ),
            ("tare lat --size 1:64:*1", vec!["--size", "never ends"]),
            (
                "tare lat --udp --connect-each",
                vec!["--udp", "--connect-each"],
            ),
            ("tare lat -n 5 -d 5s", vec!["--count", "--duration"]),
            ("tare lat --tcp --udp", vec!["--tcp", "--udp"]),
            ("tare completions", vec!["<SHELL>"]),
            ("tare lat a b", vec!["'b'"]),
            ("tare lat --assert", vec!["--assert"]),
            ("tare http https://node/", vec!["not built yet", "http://"]),
            ("tare http node -R 0", vec!["--rate", "'0'"]),
            (
                "tare http node -R 5 --stages 1:1s",
                vec!["--rate", "--stages"],
            ),
            ("tare http -t4 -c 100 node", vec!["write --threads N"]),
            ("tare http -z 10s node", vec!["write -d TIME"]),
            ("tare http -qps 200 node", vec!["write -R RATE"]),
            ("tare http --qps 200 node", vec!["write -R RATE"]),
            ("tare http -q 200 node", vec!["write -R RATE"]),
            ("tare http -X get node", vec!["write GET"]),
            ("tare http --secret-file x", vec!["--secret-file"]),
        ] {
            let line = line(words);
            assert!(!line.contains('\n'), "{line}");
            assert!(!line.starts_with("error"), "{line}");
            for part in parts {
                assert!(line.contains(part), "{words}: no {part} in: {line}");
            }
        }
    }
}
