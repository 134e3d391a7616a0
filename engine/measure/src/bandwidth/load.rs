//! A bulk transfer that goes on beside a latency measurement.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use super::client::{BulkClient, BulkTally};
use super::plan::{self, BwPlan};
use super::{clients, default_wait, result, step_plan, vet_servers};
use crate::run::observe::{Observer, Progress};
use crate::run::plan::Stop;
use crate::run::setting::Setting;
use crate::run::step::{self, StepPlan};
use crate::run::sweep::Step;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_stats::result::Bandwidth;
use tare_units::Nanos;
use tare_units::bounds::LOAD_AHEAD_MAX;
use tare_units::control::{Interrupt, Phase};
use tare_units::error::{Error, Result};

const WARMUP: Nanos = Nanos::from_millis(300);
/// How often it is looked whether the run was interrupted meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// No load is to go on for longer, whatever becomes of the measurement.
const LOAD_MAX: Nanos = Nanos::from_secs(24 * 3600);

/// Tells when the load has come to its measured phase: it carries, and what it loads may begin.
struct Ahead(Option<Sender<()>>);

impl Observer for Ahead {
    fn progress(&mut self, progress: Progress) {
        if matches!(progress.phase, Phase::Measure | Phase::Drain)
            && let Some(carries) = self.0.take()
        {
            let _ = carries.try_send(());
        }
    }

    fn wants_progress(&self) -> bool {
        self.0.is_some()
    }
}

#[derive(Debug)]
pub(crate) struct RunningLoad {
    interrupt: Interrupt,
    /// Comes to the first failure of a connection, and what was carried.
    thread: JoinHandle<Result<(Option<Error>, Option<Bandwidth>)>>,
}

impl RunningLoad {
    /// Starts `plan` over the path of a run, on other CPUs than the run's where there are any.
    pub(crate) fn start(plan: &BwPlan, at: &Setting) -> Result<Self> {
        let mut plan = plan.clone();
        plan.common.stop = Stop::After(LOAD_MAX);
        plan.common.warmup = WARMUP;
        let step = Step {
            size: plan.sizes.first().copied().unwrap_or(1),
            connections: plan.streams.first().copied().unwrap_or(1),
            ..Step::default()
        };
        let interrupt = at.interrupt.of_part();
        let at = Setting {
            cpus: at.machine.choose(1, &at.cpus)?.cpus,
            wait: default_wait(&plan, &at.machine),
            run_id: at.run_id.wrapping_add(1),
            began: MonotonicClock.now(),
            interrupt: interrupt.clone(),
            separate: false,
            ..at.clone()
        };
        let until = MonotonicClock.now() + LOAD_AHEAD_MAX + plan.common.timeout;
        let (carries, carried) = bounded(1);
        let load = move || {
            let params = plan::params(&plan, step, &at.address);
            // Overflows of listeners are counted by the step that it loads.
            let step_plan = StepPlan { listener: None, ..step_plan(&plan, &at, step) };
            let clients = clients(&plan, &at, step, &step_plan.cpus)?;
            let (finish, merge) = (BulkClient::into_results, BulkTally::merge);
            let mut ahead = Ahead(Some(carries));
            let mut outcome = step::run(step_plan, &params, clients, finish, merge, &mut ahead)?;
            // What is left out is missing from the load's figures; the run beside it warns of its
            // own server.
            vet_servers(&mut outcome, &at);
            let result = result::of_step(&at, &plan, params, &outcome);
            Ok((outcome.workers.outcome.failure, result.bandwidth))
        };
        let thread = std::thread::Builder::new()
            .name("tare-load".to_owned())
            .spawn(load)
            .map_err(|e| Error::environment(format!("no thread for the load: {e}")))?;
        // Whether it carries or has ended: what became of it is seen when it is stopped.
        while !interrupt.is_raised() && MonotonicClock.now() < until {
            if !matches!(carried.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout)) {
                break;
            }
        }
        Ok(Self { interrupt, thread })
    }

    /// Stops it. Returns what it carried.
    pub(crate) fn stop(self) -> Result<Bandwidth> {
        let ended_early = self.thread.is_finished() && !self.interrupt.is_raised();
        self.interrupt.wind_up();
        let ended = self.thread.join().map_err(|_| Error::bug("the load panicked"))?;
        let (failure, bandwidth) = ended?;
        if let Some(failure) = failure.filter(|_| ended_early) {
            let why = failure.message();
            let advice = failure.advice().unwrap_or("see the options of --under-load").to_owned();
            let message = format!("the load ended before what it was to load: {why}");
            return Err(Error::peer(message).remedy(advice));
        }
        bandwidth.ok_or_else(|| Error::bug("a load without a figure"))
    }
}
