//! The commands: what was typed, carried out.

mod bw;
mod compare;
mod completions;
mod doctor;
mod http;
mod lat;
mod later;
mod man;
mod measure;
mod report;
mod serve;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};

use crate::args::{Cli, Command};
use crate::exit::Exit;
use crate::patient;
use crate::progress::complain;

/// Carries out the command; what goes wrong is one line on stderr.
pub(crate) fn run(cli: Cli) -> Exit {
    let ended = match cli.command {
        Command::Lat(args) => lat::run(&args),
        Command::Bw(args) => bw::run(&args),
        Command::Http(args) => http::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
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
    patient::heed(interrupt);
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

/// Writes to stdout what is no result: a reader that has seen enough is no failure.
fn print(bytes: &[u8]) -> Result<Exit> {
    match crate::output::Stdout::default().write(bytes) {
        Ok(()) => Ok(Exit::Measured),
        Err(error) => Err(unwritable("stdout", &error)),
    }
}

/// Checks that an output is none of the files that are read: it would be written over. Of `-`, that is what stdin is fed from.
fn spares<P: AsRef<Path>>(output: &Path, inputs: &[P]) -> Result<()> {
    let file = |path: &Path| {
        let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some((found.dev(), found.ino()))
    };
    let Some(written) = file(output) else {
        return Ok(());
    };
    for input in inputs {
        let input = match input.as_ref() {
            stdin if stdin == Path::new("-") => Path::new("/dev/stdin"),
            path => path,
        };
        if file(input) == Some(written) {
            let shown = output.display();
            let message = format!("--output {shown} is a result that is read, and would be lost");
            return Err(Error::usage(message).remedy("name another file to write to"));
        }
    }
    Ok(())
}

fn unwritable(what: &str, error: &io::Error) -> Error {
    Error::environment(format!("{what} cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_written_over_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("in.json"), "{}").unwrap();
        fs::write(path("other.json"), "{}").unwrap();
        symlink(path("in.json"), path("link.json")).unwrap();
        fs::hard_link(path("in.json"), path("same.json")).unwrap();
        let inputs = [path("gone.json"), path("in.json")];
        for (name, is_spared) in [
            ("in.json", false),
            ("link.json", false),
            ("same.json", false),
            ("other.json", true),
            ("new.json", true),
            ("gone.json", true),
        ] {
            let refused = spares(&path(name), &inputs).err();
            assert_eq!(refused.is_none(), is_spared, "{name}: {refused:?}");
        }
        // What is no file is not lost by writing to it.
        assert!(spares(Path::new("/dev/null"), &["/dev/null"]).is_ok());
    }
}
