//! `tare man`: the manual, from the same definitions as the help.

use std::io;

use clap::CommandFactory;
use clap_mangen::Man;
use tare_units::error::Result;

use crate::args::{Cli, ManArgs};
use crate::exit::Exit;

pub(super) fn run(args: &ManArgs) -> Result<Exit> {
    if let Some(dir) = &args.dir {
        return std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
            .map(|()| Exit::Measured)
            .map_err(|error| super::unwritable(&dir.display().to_string(), &error));
    }
    let pages = pages().map_err(|error| super::unwritable("the manual", &error))?;
    super::print(&pages)
}

/// All pages, one after the other, as `man -l -` shows them.
fn pages() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    Man::new(command.clone()).render(&mut pages)?;
    for subcommand in command.get_subcommands() {
        Man::new(subcommand.clone()).render(&mut pages)?;
    }
    Ok(pages)
}
