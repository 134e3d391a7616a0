//! A worker's thread.

use crossbeam::channel::{Receiver, Sender};

use super::StepPlan;
use super::live::{AllDone, LiveCounters, LiveProgress, Stream};
use crate::run::backend::{self, AnyDriver};
use crate::worker::outcome::Outcome;
use crate::worker::{ClientRole, Role, TurnCounters, Worker};
use tare_driver::clock::{Clock, ClockQuality, MonotonicClock};
use tare_driver::epoll::EpollDriver;
use tare_driver::sys::{affinity, rlimit};
use tare_driver::uring::UringDriver;
use tare_driver::{Capabilities, Driver, DriverError};
use tare_host::tuning::{self, Wakeups};
use tare_host::usage::CpuTimes;
use tare_proto::hello::WaitMode;
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::{Instant, Nanos};

/// Sleeps of 100 µs by which a worker learns how fast it wakes up: 20 ms in all.
const WAKEUP_SAMPLES: u32 = 150;

/// A worker is connected, or has failed to be.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) alive: bool,
    /// Every server session spins.
    pub(super) server_spins: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Go {
    Start { t0: Instant, wait: WaitMode },
    Abandon,
}

#[derive(Debug)]
pub(crate) struct WorkerResult<T> {
    pub(crate) tally: T,
    pub(crate) outcome: Outcome,
    pub(crate) counters: TurnCounters,
    pub(crate) usage: CpuTimes,
    /// CPU time of `usage` that went into polling without finding anything, nanoseconds.
    pub(crate) polling_ns: u64,
    /// The share of the measured phase that it was at work, 0 to 1; merged, the busiest one's.
    pub(crate) busy: f64,
    pub(crate) clock: ClockQuality,
    /// How late its thread wakes up, measured before the run, where it sleeps.
    pub(crate) wakeups: Option<Wakeups>,
    /// What the driver had to do without, and how it spins.
    pub(crate) capabilities: Capabilities,
    pub(crate) overflows: u64,
}

impl<T> WorkerResult<T> {
    pub(super) fn merge(&mut self, other: Self, merge: fn(&mut T, T)) {
        merge(&mut self.tally, other.tally);
        self.outcome.merge(other.outcome);
        self.counters.merge(&other.counters);
        self.usage += other.usage;
        self.polling_ns += other.polling_ns;
        self.busy = self.busy.max(other.busy);
        self.clock.cost = self.clock.cost.max(other.clock.cost);
        self.clock.granularity = self.clock.granularity.max(other.clock.granularity);
        self.wakeups = match (self.wakeups.take(), other.wakeups) {
            (Some(mine), Some(theirs)) => Some(mine.worse(&theirs)),
            (mine, theirs) => mine.or(theirs),
        };
        self.overflows += other.overflows;
    }
}

pub(super) struct Assignment<'a, C, T, F> {
    pub(super) plan: &'a StepPlan<'a>,
    pub(super) own: usize,
    pub(super) client: F,
    pub(super) finish: fn(C) -> (T, Outcome, LiveProgress),
    pub(super) lives: LiveCounters,
    pub(super) stream: Option<Stream>,
    pub(super) over: AllDone,
    pub(super) interrupt: Interrupt,
    pub(super) arrived: Sender<Arrived>,
    pub(super) go: Receiver<Go>,
}

/// Stops the other workers when this one ends in any way but the good one.
struct StopOthers(Option<Interrupt>);

impl Drop for StopOthers {
    fn drop(&mut self) {
        if let Some(interrupt) = &self.0 {
            interrupt.raise();
        }
    }
}

pub(super) fn work<C, T, F>(assignment: Assignment<'_, C, T, F>) -> Result<WorkerResult<T>>
where
    C: ClientRole + Role<UringDriver> + Role<EpollDriver>,
    F: FnOnce(Nanos, LiveProgress, Interrupt) -> C,
{
    let plan = assignment.plan;
    let mut stop_others = StopOthers(Some(assignment.interrupt.clone()));
    // A CPU that was checked when it was chosen can have been taken away since: then the run goes
    // on unpinned, and the involuntary switches tell.
    let _ = affinity::pin_current_thread(plan.cpus[assignment.own]);
    let _ = tuning::set_timer_slack_ns(1);
    if plan.at.separate {
        rlimit::separate_descriptors().map_err(|errno| {
            let what = format!("no table of descriptors for each worker (close_range: {errno})");
            Error::environment(what).remedy("raise the limit instead: ulimit -Hn")
        })?;
    }
    let backend = plan.at.chosen.backend;
    let driver = backend::open(backend).map_err(|error| backend::unopened(backend, &error))?;
    let failed = |error| Error::environment(format!("a worker has failed: {error}"));
    let result = match driver {
        AnyDriver::Uring(driver) => {
            let (mut result, driver) = drive(driver, assignment).map_err(failed)?;
            result.overflows = driver.overflows();
            result
        }
        AnyDriver::Epoll(driver) => drive(driver, assignment).map_err(failed)?.0,
    };
    stop_others.0 = None;
    Ok(result)
}

fn drive<D: Driver, C, T, F>(
    driver: D,
    assignment: Assignment<'_, C, T, F>,
) -> std::result::Result<(WorkerResult<T>, D), DriverError>
where
    C: ClientRole + Role<D>,
    F: FnOnce(Nanos, LiveProgress, Interrupt) -> C,
{
    let clock = MonotonicClock;
    let quality = clock.quality();
    let sleeps = assignment.plan.at.wait != WaitMode::Spin;
    let mut wakeups = sleeps.then(|| tuning::measure_wakeup(WAKEUP_SAMPLES));
    let capabilities = driver.capabilities().clone();
    let gauge =
        LiveProgress::new(assignment.lives, assignment.own, assignment.stream, assignment.over);
    let lead = wakeups.as_ref().map(Wakeups::lead).unwrap_or_default();
    let client = (assignment.client)(lead, gauge, assignment.interrupt);
    let mut worker = Worker::new(driver, clock, client);
    let (client, io) = worker.parts_mut();
    client.connect(io, clock.now())?;
    worker.run_until(ClientRole::is_ready)?;
    let client = worker.role();
    let mut accepts = client.accepts().iter();
    let server_spins = accepts.all(|accept| accept.wait != WaitMode::Block);
    let _ = assignment.arrived.send(Arrived { alive: client.is_alive(), server_spins });
    // So that the launching thread notices when every worker has either arrived or ended.
    drop(assignment.arrived);
    let mut waited = WaitMode::Block;
    match assignment.go.recv() {
        Ok(Go::Start { t0, wait }) => {
            waited = wait;
            if wait != WaitMode::Spin && wakeups.is_none() {
                wakeups = Some(tuning::measure_wakeup(WAKEUP_SAMPLES));
            }
            worker.parts_mut().0.start(t0, wait);
        }
        Ok(Go::Abandon) | Err(_) => {
            let (client, io) = worker.parts_mut();
            client.abandon(io, clock.now())?;
        }
    }
    worker.run_until(ClientRole::is_finished_now)?;
    let (driver, client, counters) = worker.into_parts();
    let (tally, outcome, gauge) = (assignment.finish)(client);
    let usage = gauge.used();
    let result = WorkerResult {
        tally,
        polling_ns: counters.polling_ns(&usage),
        busy: counters.busy_share_of(waited, &usage, outcome.measured),
        outcome,
        counters,
        usage,
        clock: quality,
        wakeups,
        capabilities,
        overflows: 0,
    };
    Ok((result, driver))
}
