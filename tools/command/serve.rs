//! `tare serve`.

use std::net::SocketAddr;
use std::sync::Arc;

use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};

use crate::args::serve::ServeArgs;
use crate::exit::Exit;
use crate::log::Log;
use crate::progress::complain;

pub(super) fn run(args: &ServeArgs) -> Result<Exit> {
    let secret = args.secret.read()?;
    if let Some(warning) = secret.warning.filter(|_| !args.quiet) {
        complain(&format!("warning: {warning}"));
    }
    let plan = args.plan(secret.secret)?;
    let interrupt = Interrupt::default();
    super::stop_on_signals(&interrupt)?;
    let mut ready = |addresses: &[SocketAddr]| {
        // A server is no worse for nobody reading where it listens.
        let _ = super::print(ready_line(addresses).as_bytes());
    };
    let quiet = args.quiet;
    let log = Log::to_stderr()
        .map_err(|error| Error::environment(format!("there is no log: {error}")))?;
    let entry = log.entry();
    let take = move |kind, line: &str| {
        if !quiet {
            entry.line(kind, line);
        }
    };
    let ended = tare_engine::server::serve(&plan, &interrupt, &mut ready, Arc::new(take));
    let exit = match ended {
        Ok(()) => Exit::Measured,
        Err(error) => {
            // On the way that does not wait for a reader.
            log.entry().line("error", &error.to_string());
            Exit::from(&error)
        }
    };
    log.finish();
    Ok(exit)
}

fn ready_line(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    format!("tare: serving on {}\n", addresses.join(" "))
}

#[cfg(test)]
mod tests {
    use super::ready_line;

    #[test]
    fn the_ready_line_names_every_address() {
        let addresses = ["[::]:7117".parse().unwrap(), "10.0.0.1:9".parse().unwrap()];
        let line = "tare: serving on [::]:7117 10.0.0.1:9\n";
        assert_eq!(ready_line(&addresses), line);
    }
}
