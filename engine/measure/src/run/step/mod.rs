//! One step of a run: workers launched, started at a common instant, watched, and merged.

mod live;
mod watch;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use crossbeam::utils::CachePadded;

use super::observe::Observer;
use super::plan::Common;
use super::setting::Setting;
use crate::schedule::Share;
use crate::worker::outcome::Outcome;
use crate::worker::{ClientRole, Role};
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::epoll::EpollDriver;
use tare_driver::uring::UringDriver;
use tare_host::guard::{ConntrackGuard, ListenerGuard};
use tare_host::usage::Disturbance;
use tare_proto::hello::WaitMode;
use tare_stats::result::{Observed, Params, Warning};
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::{Instant, Nanos};

pub(crate) use live::LiveProgress;
use live::{AllDone, LiveCounters, Merger};
use watch::{LOOK, Supervisor};
pub(super) use worker::WorkerResult;
use worker::{Arrived, Assignment, Go, work};

/// From the last worker's readiness to the common start.
const START_DELAY: Nanos = Nanos::from_millis(2);

/// How the workers of one step run, whatever they measure.
#[derive(Debug)]
pub(crate) struct StepPlan<'a> {
    pub(crate) at: &'a Setting,
    pub(crate) common: &'a Common,
    /// One per worker.
    pub(crate) cpus: Vec<u32>,
    pub(crate) warmup: Nanos,
    /// Length of the measured phase, where it ends by time.
    pub(crate) duration: Option<Nanos>,
    /// The wait mode was chosen by default: where the server cannot spin, the client does not
    /// either.
    pub(crate) wait_is_default: bool,
    /// What the workers' counters count is payload in bytes, not operations.
    pub(crate) counts_bytes: bool,
    /// The step starts only once every worker has a connection; else once one of them has, and the
    /// others go on trying.
    pub(crate) needs_all: bool,
    /// Stop before the conntrack table is full.
    pub(crate) guard: Option<ConntrackGuard>,
    /// Where it is an address of this machine, overflows of its listeners are counted.
    pub(crate) listener: Option<SocketAddr>,
}

#[derive(Debug)]
pub(crate) struct StepOutcome<T> {
    /// Merged over the workers.
    pub(crate) workers: WorkerResult<T>,
    pub(crate) disturbance: Disturbance,
    pub(super) observed: Vec<Observed>,
    /// The CPUs of its workers, of which there may be fewer than the run has.
    pub(crate) cpus: Vec<u32>,
    /// How both ends settled to wait.
    pub(crate) wait: WaitMode,
    /// When the measured phase began, by the wall clock; absent where it never came to it.
    pub(super) began: Option<jiff::Timestamp>,
    /// Why the step was stopped from outside its workers, or by one of them that failed.
    pub(crate) stopped: Option<Error>,
    /// Listeners of this machine turned connections away.
    pub(super) overflow: Option<Warning>,
}

/// Runs one step. Each of `clients` makes the role of one worker, on that worker's thread, from how
/// long before a due time it is to stop sleeping; `finish` takes a finished role apart, and `merge`
/// adds another worker's tally.
pub(crate) fn run<C, T, F>(
    plan: StepPlan<'_>,
    params: &Params,
    clients: Vec<F>,
    finish: fn(C) -> (T, Outcome, LiveProgress),
    merge: fn(&mut T, T),
    observer: &mut dyn Observer,
) -> Result<StepOutcome<T>>
where
    C: ClientRole + Role<UringDriver> + Role<EpollDriver>,
    F: FnOnce(Nanos, LiveProgress, Interrupt) -> C + Send,
    T: Send,
{
    let listeners = plan.listener.and_then(ListenerGuard::begin);
    let local = plan.at.interrupt.of_part();
    let workers = plan.cpus.len();
    let (over, is_over) = AllDone::new(workers);
    let (arrived_tx, arrived) = bounded(workers);
    let lives: LiveCounters = (0..workers).map(|_| CachePadded::default()).collect();
    let merging = observer.wants_intervals() && !plan.counts_bytes;
    let (merger, stream) = merging.then(|| Merger::new(workers)).unzip();
    let mut watch = Supervisor::new(&plan, params, &lives, &local, merger, is_over);
    let ran = std::thread::scope(|scope| {
        let (mut gos, mut threads) = (Vec::new(), Vec::new());
        for (own, client) in clients.into_iter().enumerate() {
            let (go_tx, go) = bounded(1);
            let assignment = Assignment {
                plan: &plan,
                own,
                client,
                finish,
                lives: Arc::clone(&lives),
                stream: stream.clone(),
                over: over.clone(),
                interrupt: local.clone(),
                arrived: arrived_tx.clone(),
                go,
            };
            gos.push(go_tx);
            let thread = std::thread::Builder::new()
                .name(format!("tare-client-{}", plan.cpus[own]))
                .spawn_scoped(scope, move || work(assignment))
                .map_err(|e| Error::environment(format!("no thread for a worker: {e}")))?;
            threads.push(thread);
        }
        drop((arrived_tx, over));
        let ended = || threads.iter().any(ScopedJoinHandle::is_finished);
        let decision = decide(&plan, &arrived, ended);
        for go in &gos {
            let _ = go.try_send(decision);
        }
        watch.run(decision, &threads, observer);
        let (workers, stopped) = join(threads, merge, watch.stopped.take());
        match workers {
            Some(workers) => Ok((decision, workers, stopped)),
            None => Err(stopped.unwrap_or_else(|| Error::bug("a step without workers"))),
        }
    });
    let overflow = listeners.and_then(|listeners| listeners.end());
    let (decision, workers, stopped) = ran?;
    let (began, wait) = match decision {
        Go::Start { t0, wait } => (wall_clock_at(t0 + plan.warmup), wait),
        Go::Abandon => (None, plan.at.wait),
    };
    let (disturbance, observed) = watch.into_seen();
    let cpus = plan.cpus;
    Ok(StepOutcome { workers, disturbance, observed, cpus, wait, began, stopped, overflow })
}

fn wall_clock_at(instant: Instant) -> Option<jiff::Timestamp> {
    let (now, wall) = (MonotonicClock.now(), jiff::Timestamp::now());
    let signed = |span: Nanos| i64::try_from(span.0).unwrap_or(i64::MAX);
    let off = signed(instant.since(now)) - signed(now.since(instant));
    wall.checked_add(jiff::SignedDuration::from_nanos(off)).ok()
}

/// Gathers what the workers bring back, and why one of them did not, if so.
fn join<T>(
    threads: Vec<ScopedJoinHandle<'_, Result<WorkerResult<T>>>>,
    merge: fn(&mut T, T),
    mut stopped: Option<Error>,
) -> (Option<WorkerResult<T>>, Option<Error>) {
    let mut merged: Option<WorkerResult<T>> = None;
    for thread in threads {
        match (thread.join(), &mut merged) {
            (Ok(Ok(result)), None) => merged = Some(result),
            (Ok(Ok(result)), Some(merged)) => merged.merge(result, merge),
            // What the others measured is kept.
            (Ok(Err(error)), _) => {
                stopped.get_or_insert(error);
            }
            (Err(_), _) => {
                stopped.get_or_insert_with(|| Error::bug("a worker panicked"));
            }
        }
    }
    (merged, stopped)
}

/// What falls to each of so many workers: its share, the connections of those before it, and its
/// own.
pub(crate) fn shares(workers: usize, connections: u32) -> impl Iterator<Item = (Share, u32, u32)> {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX);
    let mut first = 0;
    (0..workers).map(move |worker| {
        let share = Share::new(worker, workers);
        let own = u32::try_from(share.of(u64::from(connections))).unwrap_or(u32::MAX);
        first += own;
        (share, first - own, own)
    })
}

/// Waits until every worker is connected, and decides whether to start.
fn decide(plan: &StepPlan<'_>, arrived: &Receiver<Arrived>, ended: impl Fn() -> bool) -> Go {
    let mut alive = 0;
    let mut server_spins = true;
    let mut waiting = plan.cpus.len();
    while waiting > 0 {
        match arrived.recv_timeout(LOOK) {
            Ok(one) => {
                waiting -= 1;
                alive += usize::from(one.alive);
                server_spins &= one.server_spins;
            }
            Err(RecvTimeoutError::Timeout) if ended() && arrived.is_empty() => return Go::Abandon,
            Err(RecvTimeoutError::Timeout) => {}
            // A worker's thread has ended before it arrived: its error is found when it is joined.
            Err(RecvTimeoutError::Disconnected) => return Go::Abandon,
        }
    }
    let needed = if plan.needs_all { plan.cpus.len() } else { 1 };
    if alive < needed || plan.at.interrupt.is_raised() {
        return Go::Abandon;
    }
    let wait = match plan.at.wait {
        WaitMode::Spin if plan.wait_is_default && !server_spins => WaitMode::Block,
        wait => wait,
    };
    Go::Start { t0: MonotonicClock.now() + START_DELAY, wait }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::destination::Destination;

    #[test]
    fn an_instant_has_its_time_by_the_wall_clock() {
        let now = MonotonicClock.now();
        let second = Nanos::from_secs(1);
        let at = |instant| wall_clock_at(instant).unwrap().as_nanosecond();
        let (before, after) = (at(Instant(now.0 - second.0)), at(now + second));
        assert!((1_900_000_000..2_100_000_000).contains(&(after - before)));
    }

    /// What is decided once `alive` of four workers have a connection.
    fn decided(needs_all: bool, alive: usize) -> Go {
        let (at, common) = (Setting::at(Destination::Unix("/x".into())), Common::default());
        let plan = StepPlan { cpus: vec![0; 4], needs_all, ..at.step_plan(&common, 4) };
        let (tell, arrived) = bounded(4);
        for worker in 0..4 {
            let arrived = Arrived { alive: worker < alive, server_spins: true };
            tell.try_send(arrived).unwrap();
        }
        decide(&plan, &arrived, || false)
    }

    #[test]
    fn one_worker_with_a_connection_starts_a_step_that_does_not_need_all() {
        let starts = |go| matches!(go, Go::Start { .. });
        assert!(starts(decided(false, 1)) && starts(decided(false, 4)));
        assert!(!starts(decided(false, 0)));
        assert!(starts(decided(true, 4)) && !starts(decided(true, 3)));
    }
}
