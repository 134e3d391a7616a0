//! One step of a run: workers launched, started at a common instant, watched, and merged. What they do is their
//! [`Job`].

mod edges;
mod live;
mod watch;
mod worker;

use std::sync::Arc;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use crossbeam::utils::CachePadded;

use super::observe::Observer;
use crate::worker::outcome::Outcome;
use crate::worker::{ClientRole, Role};
use tare_driver::Backend;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::epoll::EpollDriver;
use tare_driver::uring::UringDriver;
use tare_host::guard::ConntrackGuard;
use tare_host::observation::Observation;
use tare_host::observed::Watching;
use tare_host::usage::Disturbance;
use tare_proto::hello::WaitMode;
use tare_stats::result::{Observed, Params};
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::{Instant, Nanos};

use edges::PhaseProbe;
pub(crate) use live::{LiveCounters, LiveProgress, Merger, Over};
use watch::{LOOK, Supervisor};
use worker::{Arrived, Assignment, Go, work};

pub(super) use worker::WorkerResult;

/// From the last worker's readiness to the common start.
const START_DELAY: Nanos = Nanos::from_millis(2);

/// What a worker of a step does.
pub(crate) trait Job: Send + 'static {
    /// What it counts.
    type Tally: Send + 'static;
    /// The role that does it.
    type Client: ClientRole + Role<UringDriver> + Role<EpollDriver>;
    /// A step starts only once every worker has a connection; else once one of them has, and the others go on trying.
    const NEEDS_ALL: bool = true;

    /// The role, made on the worker's thread. `wakeup` is how long before a due time it is to stop sleeping, where it sleeps.
    fn client(self, wakeup: Nanos, gauge: LiveProgress, interrupt: Interrupt) -> Self::Client;

    /// How to wait, unless the far end cannot.
    fn wait(&self) -> WaitMode;

    /// Takes a finished role apart.
    fn results(client: Self::Client) -> (Self::Tally, Outcome, LiveProgress);

    /// Adds another worker's tally.
    fn merge(tally: &mut Self::Tally, other: Self::Tally);
}

/// What one step is to do.
#[derive(Debug)]
pub(crate) struct StepPlan<J> {
    /// One CPU per worker.
    pub(crate) cpus: Vec<u32>,
    /// What each of them does.
    pub(crate) jobs: Vec<J>,
    /// The client's backend.
    pub(crate) backend: Backend,
    /// Length of the warm-up.
    pub(crate) warmup: Nanos,
    /// Length of the measured phase, where it ends by time.
    pub(crate) duration: Option<Nanos>,
    /// How to wait, unless the far end cannot.
    pub(crate) wait: WaitMode,
    /// The wait mode was chosen by default: where the server cannot spin, the client does not either.
    pub(crate) wait_is_default: bool,
    /// Length of an entry of the series.
    pub(crate) interval: Nanos,
    /// What the workers' counters count is payload in bytes, not operations.
    pub(crate) counts_bytes: bool,
    /// What to look at beside.
    pub(crate) observe: Vec<Observation>,
    /// Stop before the conntrack table is full.
    pub(crate) guard: Option<ConntrackGuard>,
}

/// What came of a step.
#[derive(Debug)]
pub(crate) struct StepOutcome<T> {
    /// Merged over the workers.
    pub(crate) result: WorkerResult<T>,
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
}

/// Runs one step; `separate`: each worker has a table of descriptors of its own.
pub(crate) fn run<J: Job>(
    mut plan: StepPlan<J>,
    separate: bool,
    params: &Params,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<StepOutcome<J::Tally>> {
    let workers = plan.cpus.len();
    let mut edges = PhaseProbe::new(Watching::find(&plan.observe));
    let (over, is_over) = Over::new(workers);
    let (arrived_tx, arrived) = bounded(workers);
    let local = interrupt.of_part();
    let mut gos = Vec::new();
    let lives: LiveCounters = (0..workers).map(|_| CachePadded::default()).collect();
    let mut threads = Vec::new();
    let merging = observer.wants_intervals() && !plan.counts_bytes;
    let (merger, stream) = merging.then(|| Merger::new(workers)).unzip();
    let jobs = std::mem::take(&mut plan.jobs);
    for (own, (job, &cpu)) in jobs.into_iter().zip(&plan.cpus).enumerate() {
        let (go_tx, go) = bounded(1);
        let assignment = Assignment {
            cpu,
            separate,
            backend: plan.backend,
            job,
            lives: Arc::clone(&lives),
            own,
            stream: stream.clone(),
            over: over.clone(),
            interrupt: local.clone(),
            arrived: arrived_tx.clone(),
            go,
        };
        gos.push(go_tx);
        let thread = std::thread::Builder::new()
            .name(format!("tare-client-{cpu}"))
            .spawn(move || work(assignment))
            .map_err(|e| Error::environment(format!("no thread for a worker: {e}")))?;
        threads.push(thread);
    }
    drop(arrived_tx);
    drop(over);
    let ended = || threads.iter().any(std::thread::JoinHandle::is_finished);
    let decision = decide(&plan, &arrived, interrupt, ended);
    for go in &gos {
        let _ = go.try_send(decision);
    }
    let began = match decision {
        Go::Start { t0, .. } => wall_clock_at(t0 + plan.warmup),
        Go::Abandon => None,
    };
    let mut watch = Supervisor {
        plan: &plan,
        params,
        lives: &lives,
        local: &local,
        interrupt,
        merger,
        is_over,
        told: 0,
        told_bytes: 0,
        stopped: None,
    };
    watch.run(decision, &threads, &mut edges, observer);
    let stopped = watch.stopped.take();
    let wait = match decision {
        Go::Start { wait, .. } => wait,
        Go::Abandon => plan.wait,
    };
    let (result, stopped) = join::<J>(threads, stopped);
    let (disturbance, observed) = edges.into_seen();
    match result {
        Some(result) => {
            Ok(StepOutcome { result, disturbance, observed, cpus: plan.cpus, wait, began, stopped })
        }
        None => Err(stopped.unwrap_or_else(|| Error::bug("a step without workers"))),
    }
}

/// What the wall clock shows at an instant not far off.
fn wall_clock_at(instant: Instant) -> Option<jiff::Timestamp> {
    let (now, wall) = (MonotonicClock.now(), jiff::Timestamp::now());
    let signed = |span: Nanos| i64::try_from(span.0).unwrap_or(i64::MAX);
    let off = signed(instant.since(now)) - signed(now.since(instant));
    wall.checked_add(jiff::SignedDuration::from_nanos(off)).ok()
}

type Thread<T> = std::thread::JoinHandle<Result<WorkerResult<T>>>;

/// Gathers what the workers bring back, and why one of them did not, if so.
fn join<J: Job>(
    threads: Vec<Thread<J::Tally>>,
    mut stopped: Option<Error>,
) -> (Option<WorkerResult<J::Tally>>, Option<Error>) {
    let mut merged: Option<WorkerResult<J::Tally>> = None;
    for thread in threads {
        match (thread.join(), &mut merged) {
            (Ok(Ok(result)), None) => merged = Some(result),
            (Ok(Ok(result)), Some(merged)) => merged.merge::<J>(result),
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

/// The share of worker `index` of `workers` in `total`: the first ones take one more where it does not divide.
pub(crate) fn deal(total: u64, index: u32, workers: u32) -> u64 {
    let (index, workers) = (u64::from(index), u64::from(workers.max(1)));
    total / workers + u64::from(index < total % workers)
}

/// Waits until every worker is connected, and decides whether to start.
fn decide<J: Job>(
    plan: &StepPlan<J>,
    arrived: &Receiver<Arrived>,
    interrupt: &Interrupt,
    ended: impl Fn() -> bool,
) -> Go {
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
            Err(RecvTimeoutError::Timeout) => {
                if ended() && arrived.is_empty() {
                    return Go::Abandon;
                }
            }
            // A worker's thread has ended before it arrived: its error is found when it is joined.
            Err(RecvTimeoutError::Disconnected) => return Go::Abandon,
        }
    }
    let needed = if J::NEEDS_ALL { plan.cpus.len() } else { 1 };
    if alive < needed || interrupt.is_raised() {
        return Go::Abandon;
    }
    let wait = match plan.wait {
        WaitMode::Spin if plan.wait_is_default && !server_spins => WaitMode::Block,
        wait => wait,
    };
    Go::Start { t0: MonotonicClock.now() + START_DELAY, wait }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::job::HttpJob;
    use crate::latency::job::LatJob;

    #[test]
    fn an_instant_is_told_by_the_wall_clock() {
        let now = MonotonicClock.now();
        let second = Nanos::from_secs(1);
        let at = |instant| wall_clock_at(instant).unwrap().as_nanosecond();
        let (before, after) = (at(Instant(now.0 - second.0)), at(now + second));
        assert!((1_900_000_000..2_100_000_000).contains(&(after - before)));
    }

    /// What is decided once `alive` of four workers have a connection.
    fn decided<J: Job>(alive: usize) -> Go {
        let plan = StepPlan::<J> {
            cpus: vec![0; 4],
            jobs: Vec::new(),
            backend: Backend::Epoll,
            warmup: Nanos::ZERO,
            duration: None,
            wait: WaitMode::Block,
            wait_is_default: false,
            interval: Nanos::from_secs(1),
            counts_bytes: false,
            observe: Vec::new(),
            guard: None,
        };
        let (tell, arrived) = bounded(4);
        for worker in 0..4 {
            let arrived = Arrived { alive: worker < alive, server_spins: true };
            tell.try_send(arrived).unwrap();
        }
        let quiet = Interrupt::default();
        decide(&plan, &arrived, &quiet, || false)
    }

    #[test]
    fn one_worker_with_a_connection_starts_an_http_load() {
        let starts = |go| matches!(go, Go::Start { .. });
        assert!(starts(decided::<HttpJob>(1)) && starts(decided::<HttpJob>(4)));
        assert!(!starts(decided::<HttpJob>(0)));
        assert!(starts(decided::<LatJob>(4)) && !starts(decided::<LatJob>(3)));
    }

    #[test]
    fn shares_add_up_with_no_remainder_lost() {
        for total in [0, 1, 7, 100, 101] {
            for workers in 1..6 {
                let sum: u64 = (0..workers).map(|w| deal(total, w, workers)).sum();
                assert_eq!(sum, total);
            }
        }
        assert_eq!((deal(7, 0, 3), deal(7, 1, 3), deal(7, 2, 3)), (3, 2, 2));
    }
}
