//! How a run tells the outside what it is doing, and how the outside tells it to stop.

use tare_stats::result::{Interval, Params, Report, Warning};
use tare_units::Nanos;
use tare_units::control::Phase;

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
