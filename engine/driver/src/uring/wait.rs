//! The turn that may sleep.

use super::UringDriver;
use crate::clock::{Clock, MonotonicClock};
use crate::sys::flight::Entered;
use crate::{Completion, DriverError};
use tare_units::limits::COMPLETIONS_PER_TURN;
use tare_units::{Instant, Nanos};

impl UringDriver {
    /// Sleeps until `done` holds `want` entries, or until `deadline`, or until something ends the wait early.
    fn wait(
        &mut self,
        mut now: Instant,
        deadline: Instant,
        want: usize,
        done: &mut Vec<Completion>,
        limit: usize,
    ) -> Result<(), DriverError> {
        loop {
            if done.len() >= want || self.woken {
                return Ok(());
            }
            let missing = u32::try_from(want - done.len()).unwrap_or(u32::MAX);
            let until = (deadline != Instant::FAR_FUTURE).then_some((now, deadline));
            let entered = self.flights.enter(missing, until)?;
            let reaped = self.reap(done, limit)?;
            // What was reaped may be of internal interest only, and may have queued operations anew.
            self.start_queued(false)?;
            self.deliver(done, limit);
            match entered {
                Entered::TimedOut | Entered::Interrupted => return Ok(()),
                // Nothing there although something was submitted: the deadline or a signal, which
                // the kernel does not tell in that case, unless it stopped submitting half-way.
                Entered::Done if reaped == 0 && !self.flights.has_queued() => return Ok(()),
                Entered::Done => now = MonotonicClock.now(),
            }
        }
    }

    /// Runs a turn that may sleep.
    pub(super) fn waiting_turn(
        &mut self,
        now: Instant,
        wait: (u32, Nanos, Instant),
        done: &mut Vec<Completion>,
        limit: usize,
    ) -> Result<(), DriverError> {
        let (completions, within, deadline) = wait;
        let before = done.len();
        if self.woken || deadline <= now || self.flights.has_completions() || !self.ready.is_empty()
        {
            self.flights.poll()?;
        }
        self.reap(done, limit)?;
        if deadline > now {
            self.wait(now, deadline, before + 1, done, limit)?;
        }
        // A batch counts its time from here, when its first completion is there.
        let want = before + (completions as usize).min(COMPLETIONS_PER_TURN);
        if done.len() > before && done.len() < want {
            let now = MonotonicClock.now();
            self.wait(now, deadline.min(now + within), want, done, limit)?;
        }
        self.woken = false;
        // Nothing that was pushed waits for the next turn, even where this one did not have to sleep.
        if self.flights.has_queued() {
            self.flights.poll()?;
        }
        Ok(())
    }
}
