//! A bulk transfer that goes on beside a latency measurement.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use super::plan::BwPlan;
use crate::bandwidth::client::BulkTally;
use crate::bandwidth::job::BwJob;
use crate::bandwidth::run::vet_streams;
use crate::run::observe::{Observer, Progress};
use crate::run::plan::Stop;
use crate::run::report::Inputs;
use crate::run::step;
use crate::run::step::StepOutcome;
use crate::run::sweep::{Measure, Setting, Step};
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::probe::Chosen;
use tare_stats::result::{Bandwidth, Environments, Params};
use tare_units::bounds::LOAD_AHEAD_MAX;
use tare_units::control::{Interrupt, Phase};
use tare_units::error::{Error, Result};
use tare_units::{Instant, Nanos};

/// The load's own warm-up, in which windows open.
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

/// A transfer under way.
#[derive(Debug)]
pub(crate) struct RunningLoad {
    interrupt: Interrupt,
    plan: BwPlan,
    params: Params,
    streams: u32,
    chosen: Chosen,
    began: Instant,
    thread: JoinHandle<Result<StepOutcome<BulkTally>>>,
}

impl RunningLoad {
    /// Starts `plan` over the path of `setting`, on other CPUs where there are any.
    ///
    /// # Errors
    /// Where there are no CPUs or no thread for it.
    pub(crate) fn start(plan: &BwPlan, setting: &Setting<'_>) -> Result<Self> {
        let mut plan = plan.clone();
        plan.common.stop = Stop::After(LOAD_MAX);
        plan.common.warmup = WARMUP;
        let step = Step {
            size: plan.sizes.first().copied().unwrap_or(1),
            connections: plan.streams.first().copied().unwrap_or(1),
            ..Step::default()
        };
        let cpus = setting.machine.choose(1, setting.cpus)?.cpus;
        let own = Setting {
            cpus: &cpus,
            wait: plan.default_wait(setting.machine),
            run_id: setting.run_id.wrapping_add(1),
            ..*setting
        };
        let step_plan = plan.step_plan(step, &own)?;
        let params = plan.params(step, setting.address);
        let interrupt = setting.interrupt.of_part();
        let (stop, told) = (interrupt.clone(), params.clone());
        let (carries, carried) = bounded(1);
        let began = MonotonicClock.now();
        let thread = std::thread::Builder::new()
            .name("tare-load".to_owned())
            .spawn(move || {
                step::run::<BwJob>(step_plan, false, &told, &stop, &mut Ahead(Some(carries)))
            })
            .map_err(|e| Error::environment(format!("no thread for the load: {e}")))?;
        // Whether it carries or has ended: what became of it is seen when it is stopped.
        let until = MonotonicClock.now() + LOAD_AHEAD_MAX + plan.common.timeout;
        while !interrupt.is_raised() && MonotonicClock.now() < until {
            if !matches!(carried.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout)) {
                break;
            }
        }
        Ok(Self {
            interrupt,
            plan,
            params,
            streams: step.connections,
            chosen: setting.chosen.clone(),
            began,
            thread,
        })
    }

    /// Stops it. Returns what it carried.
    ///
    /// # Errors
    /// Where it failed: what was measured beside it was not loaded.
    pub(crate) fn stop(self) -> Result<Bandwidth> {
        let ended_early = self.thread.is_finished() && !self.interrupt.is_raised();
        self.interrupt.wind_up();
        let mut outcome = self.thread.join().map_err(|_| Error::bug("the load panicked"))??;
        let failure = outcome.result.outcome.failure.clone();
        if let Some(failure) = failure.filter(|_| ended_early) {
            let message =
                format!("the load ended before what it was to load: {}", failure.message());
            let advice = failure.advice().unwrap_or("see the options of --under-load").to_owned();
            return Err(Error::peer(message).remedy(advice));
        }
        // What is left out is missing from the load's figures; the run beside it warns of its own server.
        vet_streams(&mut outcome, MonotonicClock.now().since(self.began));
        let result = crate::bandwidth::result::step(
            &Inputs {
                common: &self.plan.common,
                params: self.params,
                connections: self.streams,
                chosen: &self.chosen,
                environment: &Environments::default(),
                outcome,
            },
            self.plan.direction,
        );
        result.bandwidth.ok_or_else(|| Error::bug("a load without a figure"))
    }
}
