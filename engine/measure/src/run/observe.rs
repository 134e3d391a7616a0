//! How a run tells the outside what it is doing, and how the outside tells it to stop.

use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, bounded};

use tare_stats::result::{Interval, Params, Report, Warning};
use tare_units::Nanos;
use tare_units::error::{Error, Result};

use tare_units::control::{Interrupt, Phase};

/// How often a wait for another thread looks whether the run was interrupted.
const LOOK: Duration = Duration::from_millis(20);

/// Does what cannot be interrupted, on a thread that is left behind when the run is: it holds
/// nothing, and ends by bounds of its own.
///
/// # Errors
/// Those of `work`; where the run was interrupted before it was done, an environment error.
pub(crate) fn unless<T: Send + 'static>(
    interrupt: &Interrupt,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done_tx, done) = bounded(1);
    std::thread::Builder::new()
        .name("tare-find".to_owned())
        .spawn(move || done_tx.try_send(work()))
        .map_err(|e| Error::environment(format!("no thread to look for the server: {e}")))?;
    loop {
        match done.recv_timeout(LOOK) {
            Ok(found) => return found,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::bug("looking for the server panicked"));
            }
            Err(RecvTimeoutError::Timeout) if interrupt.is_raised() => {
                return Err(Error::environment("interrupted"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// A look at a running step.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Where it stands.
    pub phase: Phase,
    /// Time in this phase.
    pub elapsed: Nanos,
    /// Length of this phase, where it is known.
    pub total: Option<Nanos>,
    /// Operations completed in the measured phase.
    pub completed: u64,
    /// Operations failed or timed out in it.
    pub errors: u64,
}

/// Is told what a run does, from the launching thread and never from a measuring one.
pub trait Observer {
    /// A step begins: its index, of so many.
    fn step_started(&mut self, _params: &Params, _index: usize, _total: usize) {}

    /// A few times a second, only where [`Observer::wants_progress`].
    fn progress(&mut self, _progress: Progress) {}

    /// Whether progress is shown to anyone: looking costs the measured machine a little.
    fn wants_progress(&self) -> bool {
        false
    }

    /// An entry of the series is complete. Only where [`Observer::wants_intervals`].
    fn interval(&mut self, _params: &Params, _interval: &Interval) {}

    /// Whether entries of the series are to be told while the run goes on.
    fn wants_intervals(&self) -> bool {
        false
    }

    /// Whether anyone reads what is measured so far before the run is over.
    fn wants_reports(&self) -> bool {
        true
    }

    /// What a comparison is about to do, before its first block.
    fn announce(&mut self, _text: &str) {}

    /// A step is done; `report` holds all that was measured so far, marked partial until the run is
    /// over.
    fn step_finished(&mut self, _report: &Report) {}

    /// An earlier run left something behind. The report names it as well, but not the command that
    /// undoes it, which may hold secrets.
    fn leftover(&mut self, _warning: &Warning) {}

    /// Something worth knowing at once.
    fn warning(&mut self, _warning: &Warning) {}
}

/// An observer that looks at nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {}
