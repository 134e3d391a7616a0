//! One step of a latency run: workers launched, started at a common instant, watched, and merged.

mod live;
mod watch;
mod worker;

use std::sync::Arc;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use crossbeam::utils::CachePadded;

use super::guard::TableGuard;
use super::observe::{Interrupt, Observer};
use super::plan::WaitMode;
use crate::clock::{Clock, MonotonicClock};
use crate::driver::Backend;
use crate::error::{Error, Result};
use crate::histogram::{Extent, RecordingSpec};
use crate::result::Params;
use crate::schedule::{Schedule, Share};
use crate::sys::usage::Disturbance;
use crate::units::Nanos;
use crate::worker::ping_pong::ClientSpec;

use live::{Live, Merger};
use watch::{LOOK, Watch};
use worker::{Arrived, Assignment, Go, work};

pub(super) use worker::WorkerResult;

/// From the last worker's readiness to the common start.
const START_DELAY: Nanos = Nanos::from_millis(2);

/// What one step is to do.
#[derive(Debug, Clone)]
pub(super) struct StepPlan {
    /// Connections over all workers.
    pub(super) connections: u32,
    /// One CPU per worker.
    pub(super) cpus: Vec<u32>,
    /// The client's backend.
    pub(super) backend: Backend,
    /// What a worker does, but for its share of connections and count.
    pub(super) spec: ClientSpec,
    /// Operations over all workers.
    pub(super) count: Option<u64>,
    /// Operations per second over all workers.
    pub(super) rate_per_s: Option<f64>,
    /// The wait mode was chosen by default: where the server cannot spin, the client does not either.
    pub(super) wait_is_default: bool,
    /// Length of an entry of the series.
    pub(super) interval: Nanos,
    /// Stop before the conntrack table is full.
    pub(super) guard: Option<TableGuard>,
}

/// What came of a step.
#[derive(Debug)]
pub(super) struct StepOutcome {
    /// Merged over the workers.
    pub(super) result: WorkerResult,
    pub(super) disturbance: Disturbance,
    /// How both ends settled to wait.
    pub(super) wait: WaitMode,
    /// Why the step was stopped from outside its workers, or by one of them that failed.
    pub(super) stopped: Option<Error>,
}

/// Runs one step.
pub(super) fn run(
    plan: &StepPlan,
    params: &Params,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<StepOutcome> {
    let workers = u32::try_from(plan.cpus.len()).unwrap_or(u32::MAX);
    let (arrived_tx, arrived) = bounded(plan.cpus.len());
    let local = Interrupt::default();
    let mut gos = Vec::new();
    let mut lives = Vec::new();
    let mut threads = Vec::new();
    let (merger, stream) = observer
        .wants_intervals()
        .then(|| Merger::new(plan.cpus.len()))
        .unzip();
    for (index, &cpu) in plan.cpus.iter().enumerate() {
        let worker = u32::try_from(index).unwrap_or(u32::MAX);
        let (go_tx, go) = bounded(1);
        let live = Arc::new(CachePadded::new(Live::default()));
        let assignment = Assignment {
            cpu,
            backend: plan.backend,
            spec: share_of(plan, worker, workers),
            recording: recording_spec(plan, worker, workers),
            schedule: schedule_of(plan, worker, workers)?,
            live: Arc::clone(&live),
            stream: stream.clone(),
            interrupt: local.clone(),
            arrived: arrived_tx.clone(),
            go,
        };
        gos.push(go_tx);
        lives.push(live);
        let thread = std::thread::Builder::new()
            .name(format!("tare-lat-{cpu}"))
            .spawn(move || work(assignment))
            .map_err(|e| Error::environment(format!("no thread for a worker: {e}")))?;
        threads.push(thread);
    }
    drop(arrived_tx);
    let ended = || threads.iter().any(std::thread::JoinHandle::is_finished);
    let decision = decide(plan, &arrived, &local, interrupt, ended);
    for go in &gos {
        let _ = go.try_send(decision);
    }
    let mut watch = Watch {
        plan,
        params,
        lives: &lives,
        local: &local,
        interrupt,
        merger,
        stopped: None,
    };
    let disturbance = watch.run(decision, &threads, observer);
    let wait = match decision {
        Go::Start { wait, .. } => wait,
        Go::Abandon => plan.spec.wait,
    };
    let mut merged: Option<WorkerResult> = None;
    let mut stopped = watch.stopped.take();
    for thread in threads {
        match (thread.join(), &mut merged) {
            (Ok(Ok(result)), None) => merged = Some(result),
            (Ok(Ok(result)), Some(merged)) => merged.merge(result),
            // What the others measured is kept.
            (Ok(Err(error)), _) => {
                stopped.get_or_insert(error);
            }
            (Err(_), _) => {
                stopped.get_or_insert_with(|| Error::bug("a worker panicked"));
            }
        }
    }
    match merged {
        Some(result) => Ok(StepOutcome {
            result,
            disturbance,
            wait,
            stopped,
        }),
        None => Err(stopped.unwrap_or_else(|| Error::bug("a step without workers"))),
    }
}

fn share_of(plan: &StepPlan, worker: u32, workers: u32) -> ClientSpec {
    ClientSpec {
        connections: deal(u64::from(plan.connections), worker, workers)
            .try_into()
            .unwrap_or(u32::MAX),
        count: plan.count.map(|count| deal(count, worker, workers)),
        ..plan.spec.clone()
    }
}

fn recording_spec(plan: &StepPlan, worker: u32, workers: u32) -> RecordingSpec {
    let extent = match (plan.count, plan.spec.duration) {
        (Some(count), _) => Extent::Count(deal(count, worker, workers)),
        (None, duration) => Extent::Time(duration.unwrap_or(Nanos::from_secs(1))),
    };
    RecordingSpec {
        extent,
        interval: plan.interval,
        open_loop: plan.rate_per_s.is_some(),
    }
}

fn schedule_of(plan: &StepPlan, worker: u32, workers: u32) -> Result<Option<Schedule>> {
    plan.rate_per_s
        .map(|rate| Schedule::constant(rate, Share::new(worker, workers)))
        .transpose()
}

/// The share of worker `index` of `workers` in `total`: the first ones take one more where it does not divide.
fn deal(total: u64, index: u32, workers: u32) -> u64 {
    let (index, workers) = (u64::from(index), u64::from(workers.max(1)));
    total / workers + u64::from(index < total % workers)
}

/// Waits until every worker is connected, and decides whether to start.
fn decide(
    plan: &StepPlan,
    arrived: &Receiver<Arrived>,
    local: &Interrupt,
    interrupt: &Interrupt,
    ended: impl Fn() -> bool,
) -> Go {
    let mut alive = true;
    let mut server_spins = true;
    let mut waiting = plan.cpus.len();
    while waiting > 0 {
        match arrived.recv_timeout(LOOK) {
            Ok(one) => {
                waiting -= 1;
                alive &= one.alive;
                server_spins &= one.server_spins;
            }
            Err(RecvTimeoutError::Timeout) => {
                if interrupt.is_raised() {
                    local.raise();
                }
                if ended() && arrived.is_empty() {
                    return Go::Abandon;
                }
            }
            // A worker's thread has ended before it arrived: its error is found when it is joined.
            Err(RecvTimeoutError::Disconnected) => return Go::Abandon,
        }
    }
    if !alive || interrupt.is_raised() {
        return Go::Abandon;
    }
    let wait = match plan.spec.wait {
        WaitMode::Spin if plan.wait_is_default && !server_spins => WaitMode::Block,
        wait => wait,
    };
    Go::Start {
        t0: MonotonicClock.now() + START_DELAY,
        wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
