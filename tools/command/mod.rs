//! The commands, a file each: its flags, the plan that they become, and how it is carried out.
//! Flags validate and never act.
#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "the fields' comments are the help text, where brackets mean what they mean in a shell"
)]

mod bw;
mod compare;
mod diff;
mod doctor;
mod habits;
mod http;
mod lat;
mod measure;
mod options;
mod report;
mod serve;
mod target;
#[cfg(test)]
mod tests;
pub(crate) mod usage;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};

use crate::exit::Exit;
use crate::output::{complain, heed, unwritable};
use crate::redact::Redactor;

const EXAMPLES: &str = "\
Examples:
  tare lat                               what loopback costs on this machine, nothing else needed
  tare serve                             the server, on port 7117 (TCP and UDP)
  tare lat node-2                        round trips to it: percentiles and their own error
  tare lat node-2 --size 64,4K,64K -o lat.json -o lat.csv
  tare bw node-2 -P 8                    what eight streams move, and the CPU they cost
  tare http node-2:8080/ -c 100 -R 1000  1,000 requests a second: latencies that are true
  tare compare                           what a container's network adds to loopback, with a confidence
  tare compare host=node-2 pod=10.1.2.3 -- lat --size 64,4K
  tare doctor                            what on this machine would spoil microseconds
  tare report lat.json -o lat.html       a saved result as a page to hand on

tare <COMMAND> --help tells what a command's options change for you.";

/// Measures what a network path costs, to the microsecond, and says how far its own numbers can be
/// trusted.
#[derive(Debug, Parser)]
#[command(name = "tare", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Measure(measure::Measuring),
    Compare(Box<compare::CompareArgs>),
    Serve(serve::ServeArgs),
    Doctor(doctor::DoctorArgs),
    Report(report::ReportArgs),
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
    shell: Shell,
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
    dir: Option<PathBuf>,
}

/// Carries out the command; what goes wrong is one line on stderr.
pub(crate) fn run(cli: Cli) -> Exit {
    let typed = Redactor::new(Cli::command());
    let ended = match cli.command {
        Command::Measure(command) => measure::run(&command, &typed),
        Command::Compare(args) => compare::run(&args, &typed),
        Command::Serve(args) => serve::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Completions(CompletionsArgs { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tare", &mut script);
            print(&script)
        }
        Command::Man(ManArgs { dir }) => manual(dir.as_deref()),
    };
    ended.unwrap_or_else(|error| {
        complain(&error.to_string());
        Exit::from(&error)
    })
}

/// Lets Ctrl-C and SIGTERM end a run in order; a second one ends the process at once.
fn stop_on_signals(interrupt: &Interrupt) -> Result<()> {
    let watched = |error| Error::environment(format!("signals cannot be watched: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(watched)?;
    heed(interrupt);
    let interrupt = interrupt.clone();
    let watch = move || {
        for signal in signals.forever() {
            if interrupt.is_raised() {
                // As if there were no handler, so that a shell sees which signal it was.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            interrupt.raise();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(watched)?;
    Ok(())
}

fn refuse<T>(message: impl Into<String>, remedy: impl Into<String>) -> Result<T> {
    Err(Error::usage(message).remedy(remedy))
}

/// Why what was typed is not taken for what it is to be.
fn no_such(what: &str, typed: &str, why: &str, advice: &str) -> Error {
    let shown: String = typed.chars().take(120).collect();
    Error::usage(format!("'{}' is no {what}: {why}", shown.escape_debug())).remedy(advice)
}

fn demand(holds: bool, message: impl Into<String>, remedy: impl Into<String>) -> Result<()> {
    if holds { Ok(()) } else { refuse(message, remedy) }
}

/// Writes to stdout what is no result: a reader that has seen enough is no failure.
fn print(bytes: &[u8]) -> Result<Exit> {
    let written = crate::output::Stdout::default().write(bytes);
    written.map(|()| Exit::Measured).map_err(|error| unwritable("stdout", &error))
}

/// Checks that an output is none of the files that are read: it would be written over. Of `-`, that
/// is what stdin is fed from.
fn spares<P: AsRef<Path>>(output: &Path, inputs: &[P]) -> Result<()> {
    let file = |path: &Path| {
        let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some((found.dev(), found.ino()))
    };
    let read = inputs.iter().map(|input| match input.as_ref() {
        stdin if stdin == Path::new("-") => file(Path::new("/dev/stdin")),
        path => file(path),
    });
    let is_lost = file(output).is_some_and(|written| read.clone().any(|one| one == Some(written)));
    let shown = output.display();
    let message = format!("--output {shown} is a result that is read, and would be lost");
    demand(!is_lost, message, "name another file to write to")
}

/// From the same definitions as the help: a file for each page, or all of them one after the other,
/// as `man -l -` shows them.
fn manual(dir: Option<&Path>) -> Result<Exit> {
    if let Some(dir) = dir {
        return fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
            .map(|()| Exit::Measured)
            .map_err(|error| unwritable(&dir.display().to_string(), &error));
    }
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    std::iter::once(&command)
        .chain(command.get_subcommands())
        .try_for_each(|page| Man::new(page.clone()).render(&mut pages))
        .map_err(|error| unwritable("the manual", &error))?;
    print(&pages)
}
