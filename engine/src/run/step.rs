//! One step of a latency run: workers launched, started at a common instant, watched, and merged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use crossbeam::utils::CachePadded;

use super::backend::{self, AnyDriver};
use super::guard::TableGuard;
use super::observe::{Interrupt, Observer, Phase, Progress};
use super::plan::WaitMode;
use crate::analysis::summary;
use crate::clock::{Clock, ClockQuality, MonotonicClock};
use crate::driver::{Backend, Driver, DriverError};
use crate::error::{Error, Result};
use crate::histogram::{Extent, LiveEntry, Recording, RecordingSpec};
use crate::result::Params;
use crate::schedule::{Schedule, Share};
use crate::sys::usage::{CpuTimes, Disturbance, DisturbanceProbe, thread_usage};
use crate::sys::{affinity, tuning};
use crate::units::{Instant, Nanos};
use crate::worker::ping_pong::tally::Tally;
use crate::worker::ping_pong::{Client, ClientSpec, Gauge, Outcome};
use crate::worker::{TurnCounters, Worker};

/// Sleeps of 100 µs by which a worker learns how fast it wakes up: 20 ms in all.
const WAKEUP_SAMPLES: u32 = 150;
/// How often the launching thread looks up: it forwards an interrupt, and shows progress.
const LOOK: Duration = Duration::from_millis(50);
/// With nobody watching it looks up less often: each look costs the measured machine a wake-up.
const LOOK_UNWATCHED: Duration = Duration::from_millis(200);
/// Entries of the series that may be on their way to the launching thread, per worker.
const SPARE_ENTRIES: usize = 16;
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

/// What came of a step, merged over its workers.
#[derive(Debug)]
pub(super) struct StepOutcome {
    pub(super) recording: Recording,
    pub(super) warmup: Tally,
    pub(super) measured: Tally,
    pub(super) outcome: Outcome,
    pub(super) counters: TurnCounters,
    pub(super) usage: CpuTimes,
    pub(super) disturbance: Disturbance,
    pub(super) clock: ClockQuality,
    pub(super) wakeup: Option<Nanos>,
    pub(super) wait: WaitMode,
    pub(super) step_downs: Vec<String>,
    pub(super) overflows: u64,
    /// Why the step was stopped from outside its workers.
    pub(super) stopped: Option<Error>,
}

/// Numbers that a worker shows while it runs: only it writes them.
#[derive(Debug, Default)]
struct Live {
    phase: AtomicU8,
    completed: AtomicU64,
    errors: AtomicU64,
}

#[derive(Debug)]
struct LiveGauge {
    live: Arc<CachePadded<Live>>,
    stream: Option<Stream>,
    before: CpuTimes,
    used: CpuTimes,
}

/// By which a worker tells of the series while it runs: entries go round between the launching thread and the
/// workers, so that nothing is allocated.
#[derive(Debug, Clone)]
struct Stream {
    spare: Receiver<Box<LiveEntry>>,
    full: Sender<Box<LiveEntry>>,
}

impl Gauge for LiveGauge {
    fn phase(&mut self, phase: Phase) {
        self.live.phase.store(phase as u8, Ordering::Relaxed);
    }

    #[inline]
    fn counts(&mut self, completed: u64, errors: u64) {
        self.live.completed.store(completed, Ordering::Relaxed);
        self.live.errors.store(errors, Ordering::Relaxed);
    }

    fn measure_begins(&mut self) {
        self.before = thread_usage();
    }

    fn measure_ends(&mut self) {
        self.used = thread_usage() - self.before;
    }

    fn entry_ends(&mut self, recording: &Recording, index: usize) {
        // Without a spare one the launching thread is far behind: this line of the stream is left out, and the
        // entry stands in the result all the same.
        if let Some(stream) = &self.stream
            && let Ok(mut entry) = stream.spare.try_recv()
        {
            recording.copy_entry(index, &mut entry);
            let _ = stream.full.try_send(entry);
        }
    }
}

/// The launching thread's end of the streams: an entry is told when every worker's is there.
struct Merger {
    spare: Sender<Box<LiveEntry>>,
    full: Receiver<Box<LiveEntry>>,
    workers: usize,
    partly: BTreeMap<usize, (usize, LiveEntry)>,
}

impl Merger {
    fn new(workers: usize) -> (Self, Stream) {
        let entries = workers * SPARE_ENTRIES;
        let (spare_tx, spare) = bounded(entries);
        let (full_tx, full) = bounded(entries);
        for _ in 0..entries {
            let _ = spare_tx.try_send(Box::default());
        }
        let merger = Self {
            spare: spare_tx,
            full,
            workers,
            partly: BTreeMap::new(),
        };
        (
            merger,
            Stream {
                spare,
                full: full_tx,
            },
        )
    }

    fn tell(&mut self, params: &Params, observer: &mut dyn Observer) {
        while let Ok(entry) = self.full.try_recv() {
            let index = entry.index();
            let (count, merged) = self
                .partly
                .entry(index)
                .or_insert_with(|| (0, LiveEntry::default()));
            if *count == 0 {
                merged.clone_from(&entry);
            } else {
                merged.merge(&entry);
            }
            *count += 1;
            let _ = self.spare.try_send(entry);
            if *count == self.workers
                && let Some((_, merged)) = self.partly.remove(&index)
            {
                observer.interval(params, &summary::interval(&merged.view()));
            }
        }
    }
}

/// A worker is connected, or has failed to be.
#[derive(Debug)]
struct Arrived {
    alive: bool,
    /// Every server session spins.
    server_spins: bool,
}

/// The launcher's answer.
#[derive(Debug, Clone, Copy)]
enum Go {
    Start { t0: Instant, wait: WaitMode },
    Abandon,
}

/// What a worker's thread brings back.
#[derive(Debug)]
struct WorkerResult {
    recording: Recording,
    warmup: Tally,
    measured: Tally,
    outcome: Outcome,
    counters: TurnCounters,
    usage: CpuTimes,
    clock: ClockQuality,
    wakeup: Option<Nanos>,
    step_downs: Vec<String>,
    overflows: u64,
}

/// Everything a worker's thread is given.
#[derive(Debug)]
struct Brief {
    cpu: u32,
    backend: Backend,
    spec: ClientSpec,
    recording: RecordingSpec,
    schedule: Option<Schedule>,
    live: Arc<CachePadded<Live>>,
    stream: Option<Stream>,
    interrupt: Interrupt,
    arrived: Sender<Arrived>,
    go: Receiver<Go>,
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
        let brief = Brief {
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
            .spawn(move || work(brief))
            .map_err(|e| Error::environment(format!("no thread for a worker: {e}")))?;
        threads.push(thread);
    }
    drop(arrived_tx);
    let decision = decide(plan, &arrived, &local, interrupt);
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
    let mut merged: Option<StepOutcome> = None;
    for thread in threads {
        let result = thread
            .join()
            .map_err(|_| Error::bug("a worker panicked"))?
            .map_err(|e| Error::environment(format!("a worker has failed: {e}")))?;
        match &mut merged {
            None => merged = Some(first(result, disturbance, wait, watch.stopped.take())),
            Some(merged) => merge(merged, result),
        }
    }
    merged.ok_or_else(|| Error::bug("a step without workers"))
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

/// The launching thread while the workers run.
struct Watch<'a> {
    plan: &'a StepPlan,
    params: &'a Params,
    merger: Option<Merger>,
    lives: &'a [Arc<CachePadded<Live>>],
    local: &'a Interrupt,
    interrupt: &'a Interrupt,
    stopped: Option<Error>,
}

impl Watch<'_> {
    fn run<T>(
        &mut self,
        decision: Go,
        threads: &[std::thread::JoinHandle<T>],
        observer: &mut dyn Observer,
    ) -> Disturbance {
        let wants_progress = observer.wants_progress();
        let look = if wants_progress || self.plan.guard.is_some() {
            LOOK
        } else {
            LOOK_UNWATCHED
        };
        // Nothing is ever sent: a receive with a timeout is a sleep that needs no clock.
        let (_hold, pause) = bounded::<()>(0);
        let mut probe: Option<DisturbanceProbe> = None;
        let started = MonotonicClock.now();
        let warm_at = match decision {
            Go::Start { t0, .. } => t0 + self.plan.spec.warmup,
            Go::Abandon => started,
        };
        while !threads.iter().all(std::thread::JoinHandle::is_finished) {
            let now = MonotonicClock.now();
            if probe.is_none() && now >= warm_at {
                probe = Some(DisturbanceProbe::start(&self.plan.cpus));
            }
            if self.interrupt.is_raised() {
                self.local.raise();
            }
            if let Some(guard) = &self.plan.guard
                && self.stopped.is_none()
                && let Some(fill) = guard.table_nearly_full()
            {
                let message = format!(
                    "stopped: the connection-tracking table holds {} of {} entries",
                    fill.used, fill.max
                );
                let remedy = "raise net.netfilter.nf_conntrack_max, or use --rate or --count";
                self.stopped = Some(Error::environment(message).remedy(remedy));
                self.local.raise();
            }
            if wants_progress {
                observer.progress(self.progress(now, warm_at));
            }
            if let Some(merger) = &mut self.merger {
                merger.tell(self.params, observer);
            }
            let rest = if probe.is_none() {
                warm_at.since(now).into()
            } else {
                look
            };
            let _ = pause.recv_timeout(rest.clamp(Duration::from_millis(1), look));
        }
        if let Some(merger) = &mut self.merger {
            merger.tell(self.params, observer);
        }
        probe.map(|probe| probe.finish()).unwrap_or_default()
    }

    fn progress(&self, now: Instant, warm_at: Instant) -> Progress {
        let sum = |of: fn(&Live) -> &AtomicU64| {
            self.lives
                .iter()
                .map(|live| of(live).load(Ordering::Relaxed))
                .sum()
        };
        let latest = self
            .lives
            .iter()
            .map(|live| live.phase.load(Ordering::Relaxed))
            .min();
        let phase = match latest.unwrap_or(0) {
            0 => Phase::Connect,
            1 => Phase::WarmUp,
            2 => Phase::Measure,
            _ => Phase::Drain,
        };
        Progress {
            phase,
            elapsed: now.since(warm_at),
            total: self.plan.spec.duration,
            completed: sum(|live| &live.completed),
            errors: sum(|live| &live.errors),
        }
    }
}

const _: () = assert!(Phase::Connect as u8 == 0 && Phase::WarmUp as u8 == 1);
const _: () = assert!(Phase::Measure as u8 == 2 && Phase::Drain as u8 == 3);

/// A worker's thread.
fn work(brief: Brief) -> std::result::Result<WorkerResult, DriverError> {
    // A CPU that was checked when it was chosen can have been taken away since: then the run goes on unpinned,
    // and the involuntary switches tell.
    let _ = affinity::pin_current_thread(brief.cpu);
    let _ = tuning::set_timer_slack_ns(1);
    match backend::open(brief.backend)? {
        AnyDriver::Uring(driver) => {
            let mut result = drive(driver, brief)?;
            result.0.overflows = result.1.overflows();
            Ok(result.0)
        }
        AnyDriver::Epoll(driver) => Ok(drive(driver, brief)?.0),
    }
}

fn drive<D: Driver>(
    driver: D,
    brief: Brief,
) -> std::result::Result<(WorkerResult, D), DriverError> {
    let clock = MonotonicClock;
    let quality = clock.quality();
    let sleeps = brief.spec.wait != WaitMode::Spin;
    let mut wakeup = sleeps.then(|| tuning::measure_wakeup(WAKEUP_SAMPLES));
    let step_downs = driver.capabilities().step_downs.clone();
    let gauge = LiveGauge {
        live: brief.live,
        stream: brief.stream,
        before: CpuTimes::default(),
        used: CpuTimes::default(),
    };
    let mut spec = brief.spec;
    spec.wakeup = wakeup.unwrap_or_default();
    let recording = Recording::new(brief.recording);
    let client = Client::new(spec, recording, brief.schedule, gauge, brief.interrupt);
    let mut worker = Worker::new(driver, clock, client);
    let (client, io) = worker.parts_mut();
    client.connect(io, clock.now())?;
    worker.run_until(Client::is_ready)?;
    let client = worker.role();
    let arrived = Arrived {
        alive: client.is_alive(),
        server_spins: client
            .accepts()
            .iter()
            .all(|accept| accept.wait != WaitMode::Block),
    };
    let _ = brief.arrived.send(arrived);
    match brief.go.recv() {
        Ok(Go::Start { t0, wait }) => {
            if wait != WaitMode::Spin && wakeup.is_none() {
                wakeup = Some(tuning::measure_wakeup(WAKEUP_SAMPLES));
            }
            worker.parts_mut().0.start(t0, wait);
        }
        Ok(Go::Abandon) | Err(_) => {
            let (client, io) = worker.parts_mut();
            client.abandon(io, clock.now())?;
        }
    }
    worker.run_until(Client::is_finished_now)?;
    let (driver, client, counters) = worker.into_parts();
    let (recording, warmup, measured, outcome, gauge) = client.into_results();
    let result = WorkerResult {
        recording,
        warmup,
        measured,
        outcome,
        counters,
        usage: gauge.used,
        clock: quality,
        wakeup,
        step_downs,
        overflows: 0,
    };
    Ok((result, driver))
}

fn first(
    result: WorkerResult,
    disturbance: Disturbance,
    wait: WaitMode,
    stopped: Option<Error>,
) -> StepOutcome {
    StepOutcome {
        recording: result.recording,
        warmup: result.warmup,
        measured: result.measured,
        outcome: result.outcome,
        counters: result.counters,
        usage: result.usage,
        disturbance,
        clock: result.clock,
        wakeup: result.wakeup,
        wait,
        step_downs: result.step_downs,
        overflows: result.overflows,
        stopped,
    }
}

fn merge(merged: &mut StepOutcome, result: WorkerResult) {
    merged.recording.merge(&result.recording);
    merged.warmup.merge(&result.warmup);
    merged.measured.merge(&result.measured);
    merged.outcome.merge(result.outcome);
    merged.counters.merge(&result.counters);
    merged.usage += result.usage;
    merged.clock.cost = merged.clock.cost.max(result.clock.cost);
    merged.clock.granularity = merged.clock.granularity.max(result.clock.granularity);
    merged.wakeup = merged.wakeup.max(result.wakeup);
    merged.overflows += result.overflows;
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
