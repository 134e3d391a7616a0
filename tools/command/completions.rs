//! `tare completions SHELL`.

use clap::CommandFactory;
use tare_units::error::Result;

use crate::args::{Cli, CompletionsArgs};
use crate::exit::Exit;

pub(super) fn run(args: &CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tare", &mut script);
    super::print(&script)
}
