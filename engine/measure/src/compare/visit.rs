//! One visit: an arm's hooks, and its run between them.

use std::time::Duration;

use crossbeam::channel::bounded;

use super::Comparing;
use crate::measurement::Measurement;
use crate::run::observe::{Observer, Progress};
use crate::run::sweep::carry_out;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_stats::compare::table::Visited;
use tare_stats::result::{AA, Params, StepResult};
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};

/// How often a rest looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct VisitEnd {
    pub(super) steps: Vec<StepResult>,
    /// Why not all of them. It gets into the report.
    pub(super) error: Option<Error>,
}

fn interrupted() -> Error {
    Error::environment("interrupted")
}

impl Comparing<'_> {
    /// Measures an arm once. What its commands left behind is in [`Comparing::unclean`] then.
    pub(super) fn visit(&mut self, index: usize, measurement: &Measurement) -> VisitEnd {
        let arm = &self.arms[index];
        let (name, hooks) = (arm.plan.name.clone(), arm.plan.hooks.clone());
        // The A/A arm is the baseline under another name, to its hooks too.
        let called = if name == AA { self.arms[0].plan.name.clone() } else { name.clone() };
        let failed = |error| VisitEnd { steps: Vec::new(), error: Some(error) };
        let mut announce = |text: &str| self.observer.announce(text);
        let entered = match self.hooks.enter(&called, &hooks, &mut announce) {
            Ok(entered) => entered,
            Err(refused) => {
                self.unclean = refused.unclean;
                return failed(refused.why.unwrap_or_else(interrupted));
            }
        };
        if hooks.before.is_some() {
            rest(self.plan.settle, self.interrupt);
        }
        let mut within =
            Within { outer: &mut *self.observer, done: self.steps_done, total: self.steps_total };
        let server = arm.server.as_deref();
        let ran = carry_out(measurement.job(), server, self.interrupt, &mut within);
        self.steps_done += self.table.steps();
        self.unclean = entered.leave(&mut |text| self.observer.announce(text)).err();
        if hooks.after.is_some() {
            rest(self.plan.settle, self.interrupt);
        }
        let finished = match ran {
            Ok(finished) => finished,
            Err(error) => return failed(error),
        };
        self.notes.visited(&name, &finished.report);
        let steps = finished.report.results;
        // Of an HTTP load without a single response as expected the goodput is zero, and that is
        // what there is to compare.
        let is_measured = measurement.job().kind() == "http"
            && steps.len() == self.table.steps()
            && steps.iter().all(ran_its_course);
        let mut error = finished.error.filter(|_| !is_measured);
        if finished.interrupted {
            error.get_or_insert_with(interrupted);
        }
        VisitEnd { steps, error }
    }

    /// The same of an arm that must be there for a comparison to begin.
    pub(super) fn must_visit(&mut self, index: usize, asked: &Measurement) -> Result<Visited> {
        let visited = self.visit(index, asked);
        match visited.error.map(|error| self.arms[index].blame(&error)).or(self.unclean.clone()) {
            Some(error) => Err(error),
            None => Ok(visited.steps),
        }
    }
}

/// The step was measured from begin to end, whatever came of it.
fn ran_its_course(step: &StepResult) -> bool {
    !step.partial && step.duration_ns > 0 && step.connections.established > 0
}

pub(super) fn rest(length: Nanos, interrupt: &Interrupt) {
    // Nothing is ever sent: a receive with a timeout is a sleep.
    let (_hold, pause) = bounded::<()>(0);
    let end = MonotonicClock.now() + length;
    loop {
        let now = MonotonicClock.now();
        if now >= end || interrupt.is_raised() {
            return;
        }
        let _ = pause.recv_timeout(LOOK.min(end.since(now).into()));
    }
}

/// Shows the progress of a visit as that of the whole comparison, and keeps the rest for it to
/// tell.
struct Within<'a> {
    outer: &'a mut dyn Observer,
    done: usize,
    total: usize,
}

impl Observer for Within<'_> {
    fn step_started(&mut self, params: &Params, index: usize, _total: usize) {
        let index = (self.done + index).min(self.total.saturating_sub(1));
        self.outer.step_started(params, index, self.total);
    }

    fn progress(&mut self, progress: Progress) {
        self.outer.progress(progress);
    }

    fn wants_progress(&self) -> bool {
        self.outer.wants_progress()
    }
}
