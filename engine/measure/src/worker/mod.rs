//! The per-core turn: the only control flow there is.
//!
//! A [`Worker`] owns a driver, a clock and a [`Role`], and runs one turn after the other:
//!
//! 1. read the clock, have the role stamp and push what is ready,
//! 2. submit, wait as the role wants, reap,
//! 3. read the clock, hand each completion to the role with that instant.
//!
//! So a send carries the instant right before its submission and a receive the instant at which it
//! was reaped, and no role ever reads a clock. Roles are the sides of a test: a client per job, and
//! [`crate::server`] for the other end.

use tare_driver::clock::Clock;
use tare_driver::{Completion, Driver, DriverError, Wait};
use tare_proto::hello::{Accept, WaitMode};
use tare_units::Instant;
use tare_units::limits::COMPLETIONS_PER_TURN;

pub mod counters;
pub mod destination;
pub(crate) mod link;
pub(crate) mod operations;
pub(crate) mod outcome;
pub(crate) mod pacer;
pub(crate) mod phases;
pub(crate) mod session;
pub(crate) mod stream;
pub(crate) mod tally;

pub use counters::TurnCounters;
pub use operations::LoopPlan;
pub use phases::{ProgressSink, RunPhases};
pub use session::SessionSpec;

use phases::RunPhase;

/// What a role's part of a turn comes to: it fails only by what ends the driver.
pub type Result<T = (), E = DriverError> = std::result::Result<T, E>;

/// What a worker does with its turns. Methods come in three sorts: getters, `handle_*` (something
/// happened), and `poll_*` (what next).
pub trait Role<D: Driver> {
    /// Something completed; it was reaped at `now`.
    fn handle_completion(&mut self, io: &mut D, completion: Completion, now: Instant) -> Result;

    /// All completions of a turn were handled, and it is `now`: deadlines, phases, timeouts.
    fn handle_time(&mut self, io: &mut D, now: Instant, counters: &mut TurnCounters) -> Result;

    /// Pushes what is ready; `now` is the instant of its submission.
    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result;

    /// How to wait next.
    fn poll_wait(&self, now: Instant) -> Wait;

    /// Whether [`Role::poll_submit`] has anything to stamp; a turn without reads the clock once
    /// less.
    fn has_ready(&self) -> bool;

    /// How many of the completions handled since the last call were arrivals that are timed: the
    /// gap before their reap bounds how long each of them can have lain unseen.
    fn take_timed(&mut self) -> u64;

    /// Whether there is nothing left to do.
    fn is_finished(&self) -> bool;
}

/// A client's role, as its launcher sees it: connect, wait for the others, start together, run to
/// the end.
pub trait ClientRole {
    /// What it shows while it runs.
    type Progress: ProgressSink;

    /// Its phases.
    fn phases(&self) -> &RunPhases<Self::Progress>;

    /// Opens the sockets and connects them; how that goes on is seen in the turns that follow.
    fn connect<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result;

    /// Whether at least one connection can be measured on.
    fn is_alive(&self) -> bool;

    /// Starts at `t0`, the same instant for all workers. `wait` is what both ends settled on.
    fn start(&mut self, t0: Instant, wait: WaitMode);

    /// Gives up before the start, because another worker could not connect.
    fn abandon<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result;

    /// Whether every connection stands, or has failed.
    fn is_ready(&self) -> bool {
        self.phases().phase != RunPhase::Connecting
    }

    /// What the servers said so far.
    fn accepts(&self) -> &[Accept] {
        &self.phases().outcome.accepts
    }

    /// Whether there is nothing left to do.
    fn is_finished_now(&self) -> bool {
        self.phases().phase == RunPhase::Finished
    }
}

/// A role on its driver and its clock.
#[derive(Debug)]
pub struct Worker<D, C, R> {
    driver: D,
    clock: C,
    role: R,
    done: Vec<Completion>,
    reaped_at: Instant,
    /// What the loop itself has cost so far.
    pub(crate) counters: TurnCounters,
}

impl<D: Driver, C: Clock, R: Role<D>> Worker<D, C, R> {
    /// A worker that has not yet run a turn.
    pub fn new(driver: D, clock: C, role: R) -> Self {
        let reaped_at = clock.now();
        Self {
            driver,
            clock,
            role,
            done: Vec::with_capacity(COMPLETIONS_PER_TURN),
            reaped_at,
            counters: TurnCounters::default(),
        }
    }

    /// The role.
    pub const fn role(&self) -> &R {
        &self.role
    }

    /// The role and the driver, for what is done between turns.
    pub const fn parts_mut(&mut self) -> (&mut R, &mut D) {
        (&mut self.role, &mut self.driver)
    }

    /// Takes the worker apart.
    pub fn into_parts(self) -> (D, R, TurnCounters) {
        (self.driver, self.role, self.counters)
    }

    /// One turn. Returns how many completions it brought.
    #[inline]
    pub fn turn(&mut self) -> Result<usize> {
        let mut now = self.reaped_at;
        let had_ready = self.role.has_ready();
        if had_ready {
            now = self.clock.now();
            self.role.poll_submit(&mut self.driver, now)?;
        }
        let wait = self.role.poll_wait(now);
        let sleeps = wait != Wait::Poll;
        if sleeps && !had_ready {
            now = self.clock.now();
        }
        self.driver.turn(now, wait, &mut self.done)?;
        let reaped = self.clock.now();
        // Asleep in the kernel a worker is looking: there the time not looked is what it spent
        // before.
        let unwatched =
            if sleeps { now.since(self.reaped_at) } else { reaped.since(self.reaped_at) };
        let whole = reaped.since(self.reaped_at);
        self.reaped_at = reaped;
        let count = self.done.len();
        for completion in self.done.drain(..) {
            self.role.handle_completion(&mut self.driver, completion, reaped)?;
        }
        let timed = self.role.take_timed();
        self.counters.note(unwatched, whole, timed, count);
        self.role.handle_time(&mut self.driver, reaped, &mut self.counters)?;
        Ok(count)
    }

    /// Runs turns until `done` says so of the role.
    pub fn run_until(&mut self, done: impl Fn(&R) -> bool) -> Result {
        while !done(&self.role) {
            self.turn()?;
        }
        Ok(())
    }
}
