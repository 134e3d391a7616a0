//! The `tare` command: what was typed becomes a plan, the engine carries it out, and a renderer
//! prints what came of it. The result goes to stdout, everything else to stderr.

#![forbid(unsafe_code)]

mod command;
mod exit;
mod log;
mod output;
mod progress;
mod redact;
mod report;
mod saved;

use std::process::ExitCode;

fn main() -> ExitCode {
    let exit = match command::usage::parse(std::env::args_os()) {
        Ok(cli) => command::run(cli),
        Err(refused) => refused.print(),
    };
    exit.into()
}
