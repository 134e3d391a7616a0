//! What all ends can do, found out before the first block and then forced on all of them: else the difference between two
//! arms would be that of their backends, or of how they wait. And what the blocks will be able to show.

use super::Comparing;
use super::visit::rest;
use crate::compare::plan::Measurement;
use crate::run::backend;
use crate::run::plan::Stop;
use tare_driver::Backend;
use tare_driver::BackendChoice;
use tare_host::hooks::HookSpec;
use tare_proto::hello::WaitMode;
use tare_stats::compare::power::{detectable_in_spreads, spread};
use tare_stats::result::{Instrument, StepResult};
use tare_units::Nanos;
use tare_units::error::{Error, Fault, Result};

/// Visits to the baseline that tell how much a visit differs from the next.
pub(super) const PILOT_VISITS: usize = 4;
/// Their length, at most: rather more spread than that of a whole visit is found than less.
const PILOT_DURATION: Nanos = Nanos::from_millis(200);

/// How often an arm is tried before it is called not there.
const TRIES: u32 = 3;
/// Between two tries.
const TRY_AGAIN_AFTER: Nanos = Nanos::from_millis(500);

/// What was agreed on, and why.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) backend: String,
    pub(super) backend_reason: String,
    pub(super) wait: String,
    pub(super) wait_reason: String,
}

impl Agreed {
    /// Before anything is.
    pub(super) fn not_yet(measurement: &Measurement) -> Result<Self> {
        const WHY: &str = "not agreed on: the comparison ended before";
        let chosen = backend::choose(measurement.common().backend)?;
        Ok(Self {
            backend: chosen.backend.name().to_owned(),
            backend_reason: WHY.to_owned(),
            wait: measurement.prospect()?.wait.name().to_owned(),
            wait_reason: WHY.to_owned(),
        })
    }

    /// What ends of a visit did otherwise, in words.
    pub(super) fn broken_by(&self, steps: &[StepResult]) -> Option<String> {
        let ends = steps.iter().flat_map(|step| {
            let server = step.instrument.server.as_ref().map(|told| ("server", told));
            std::iter::once(("client", &step.instrument.client)).chain(server)
        });
        let mut told = ends.filter(|(_, end)| !end.backend.is_empty());
        told.find_map(|(end, told)| {
            let differs = told.backend != self.backend || told.wait != self.wait;
            let did = format!("a {end} used {} and waited by {}", told.backend, told.wait);
            differs.then(|| format!("{did}, instead of {} and {}", self.backend, self.wait))
        })
    }
}

/// What a trial told of an arm's ends.
struct Trial {
    arm: String,
    client: Instrument,
    /// Absent where the far end tells nothing of itself.
    server: Option<Instrument>,
}

impl Trial {
    fn of(arm: &str, steps: &[StepResult]) -> Result<Self> {
        let step = steps.first().ok_or_else(|| Error::bug("a trial without a step"))?;
        Ok(Self {
            arm: arm.to_owned(),
            client: step.instrument.client.clone(),
            server: step.instrument.server.clone(),
        })
    }

    fn ends(&self) -> impl Iterator<Item = (&'static str, &Instrument)> {
        std::iter::once(("client", &self.client))
            .chain(self.server.as_ref().map(|server| ("server", server)))
    }
}

impl Comparing<'_> {
    /// Tries every arm, and forces on all what all have in common.
    ///
    /// # Errors
    /// Where an arm cannot be measured, or has nothing in common with the others.
    pub(super) fn agree(&mut self) -> Result<()> {
        let asked = self.arms[0].measurement.common().clone();
        let wait = self.arms[0].measurement.prospect()?.wait;
        let mut trials = self.trials(asked.backend, wait, |_| true)?;
        let (backend, backend_reason) = common_backend(asked.backend, &trials);
        if asked.backend == BackendChoice::Auto && backend == Backend::Epoll {
            // Those that would have used something else are asked again.
            let other = |arm: &str| {
                let trial = trials.iter().find(|trial| trial.arm == arm);
                trial.is_none_or(|trial| trial.ends().any(|(_, end)| end.backend != "epoll"))
            };
            let others: Vec<String> = trials
                .iter()
                .filter(|trial| other(&trial.arm))
                .map(|trial| trial.arm.clone())
                .collect();
            let again = self.trials(BackendChoice::Only(backend), wait, |arm| {
                others.iter().any(|other| other == arm)
            });
            let again = again.map_err(|error| {
                Error::peer(format!(
                    "the arms have no backend in common: {backend_reason}; {}",
                    error.message()
                ))
                .remedy("serve every arm with --backend auto")
            })?;
            trials.retain(|trial| !others.contains(&trial.arm));
            trials.extend(again);
        }
        let (wait, wait_reason) = common_wait(asked.wait, wait, &trials)?;
        for arm in &mut self.arms {
            arm.measurement.force(backend, wait);
        }
        self.told.agreed = Agreed {
            backend: backend.name().to_owned(),
            backend_reason,
            wait: wait.name().to_owned(),
            wait_reason,
        };
        self.steps_done = 0;
        Ok(())
    }

    /// Tries the arms that `which` says, each once but for the A/A arm.
    fn trials(
        &mut self,
        backend: BackendChoice,
        wait: WaitMode,
        which: impl Fn(&str) -> bool,
    ) -> Result<Vec<Trial>> {
        let mut trials = Vec::new();
        for index in 0..self.arms.len() - 1 {
            let arm = &self.arms[index];
            if !which(&arm.name) {
                continue;
            }
            let name = arm.name.clone();
            let mut trial = arm.measurement.trial();
            trial.common_mut().backend = backend;
            trial.common_mut().wait = Some(wait);
            let steps = self.try_arm(index, &trial)?;
            trials.push(Trial::of(&name, &steps)?);
        }
        self.told.forget_visits();
        Ok(trials)
    }

    /// Tries an arm, again where its far end is not there yet: a server that a hook started, or that is slow to come back from
    /// what was measured before.
    fn try_arm(&mut self, index: usize, trial: &Measurement) -> Result<Vec<StepResult>> {
        for _ in 1..TRIES {
            let ended = self.must_visit(index, trial);
            let may_come = matches!(&ended, Err(error) if error.fault() == Fault::Peer);
            // What its commands left behind is not to be changed once more.
            if !may_come || self.unclean.is_some() || self.interrupt.is_raised() {
                return ended;
            }
            rest(TRY_AGAIN_AFTER, self.interrupt);
        }
        self.must_visit(index, trial)
    }

    /// Visits the baseline a few times, to say before the first block what the blocks can show.
    ///
    /// # Errors
    /// Where what a hook changed could not be undone. A visit that fails tells nothing; in the blocks it counts.
    pub(super) fn pilot(&mut self) -> Result<()> {
        let mut measurement = self.arms[0].measurement.clone();
        shorten(&mut measurement);
        for _ in 0..PILOT_VISITS {
            let visited = self.visit(0, &measurement);
            self.clean()?;
            let steps = visited.steps.iter().filter(|_| visited.error.is_none());
            for (index, step) in steps.enumerate() {
                self.look_of_pilot(index, step);
                for (measure, value) in self.declared.values(&[step]) {
                    let values = self.pilot.entry((index, measure)).or_default();
                    values.extend(value);
                }
            }
        }
        self.told.forget_visits();
        let blocks = u64::from(self.plan.blocks);
        self.detectable_spreads = detectable_in_spreads(blocks, self.declared_cells());
        let text = self.announcement();
        self.observer.announce(&text);
        Ok(())
    }

    /// Keeps how often the client looked for replies.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a turn")]
    fn look_of_pilot(&mut self, index: usize, step: &StepResult) {
        let client = &step.instrument.client;
        let spins = client.wait != "block" && step.bandwidth.is_none();
        let turn = if spins { client.turn_p50_ns as f64 } else { 0.0 };
        self.pilot_looks.resize(self.pilot_looks.len().max(index + 1), 0.0);
        self.pilot_looks[index] = turn;
    }

    /// The difference in `measure` that the blocks will find in four runs of five, as far as the pilot can tell.
    pub(super) fn detectable(&self, step: usize, measure: &str) -> Option<f64> {
        let values = self.pilot.get(&(step, measure.to_owned()))?;
        // What the instrument may shift a difference by must be exceeded, too.
        let looks = self.declared.is_by_looks(measure);
        let turn = self.pilot_looks.get(step).copied().filter(|_| looks);
        let look = turn.unwrap_or(0.0) / 2.0;
        Some(spread(values)? * self.detectable_spreads? + look)
    }

    /// Cells over which a verdict is given.
    fn declared_cells(&self) -> u64 {
        let arms = self.arms.len() - 2;
        (arms * self.arms[0].steps * self.declared.declared().count()) as u64
    }

    /// How often the arms are let settle, each visited once.
    fn rests(&self) -> u64 {
        let hooks = self.arms.iter().map(|arm| &arm.hooks);
        let rests =
            |hooks: &HookSpec| u64::from(hooks.before.is_some()) + u64::from(hooks.after.is_some());
        hooks.map(rests).sum()
    }

    fn announcement(&self) -> String {
        let plan = self.plan;
        let arms = self.arms.len();
        let common = self.arms[0].measurement.common();
        // Connecting, the handshake and the account of each step besides.
        let beside = Nanos::from_millis(100);
        let step = plan.block_duration + common.warmup + beside;
        let steps = self.arms[0].steps as u64;
        let visits = u64::from(plan.blocks) * 2 * arms as u64;
        let own = self.arms[0].measurement.stages_duration(step, common.warmup + beside);
        let of_visit = own.unwrap_or_else(|| step.0.saturating_mul(steps));
        let rests = u64::from(plan.blocks) * 2 * self.rests();
        let rests = plan.settle.0.saturating_mul(rests);
        let total = of_visit.saturating_mul(visits).saturating_add(rests);
        let total = total.div_ceil(1_000_000_000);
        let total = Nanos::from_secs(total.min(u64::from(u32::MAX)));
        let mut text = format!(
            "{} blocks of 2 visits to each of {arms} arms (the A/A arm among them), about {total}; seed {}",
            plan.blocks, plan.seed
        );
        let of_first = self.declared.declared();
        let shown: Vec<String> = of_first
            .filter_map(|measure| {
                let least = self.detectable(0, &measure.name)?;
                Some(format!("{} in {}", measure.show(least), measure.name))
            })
            .collect();
        if !shown.is_empty() {
            text +=
                &format!("; can tell differences from {} (found in 4 runs of 5)", shown.join(", "));
        }
        text
    }
}

/// The first backend that all ends have, in the order in which they are preferred.
fn common_backend(asked: BackendChoice, trials: &[Trial]) -> (Backend, String) {
    if let BackendChoice::Only(backend) = asked {
        return (backend, "asked for".to_owned());
    }
    let ends =
        || trials.iter().flat_map(|trial| trial.ends().map(move |(end, told)| (trial, end, told)));
    if let Some((trial, end, told)) = ends().find(|(_, _, told)| told.backend != "uring") {
        let reason = format!("the {end} of {}: {}", trial.arm, told.backend_reason);
        return (Backend::Epoll, reason);
    }
    let reason = if trials.iter().all(|trial| trial.server.is_none()) {
        "the client has it; the servers tell nothing of theirs"
    } else {
        "every end has it"
    };
    (Backend::Uring, reason.to_owned())
}

/// How all ends can wait.
fn common_wait(
    asked: Option<WaitMode>,
    wanted: WaitMode,
    trials: &[Trial],
) -> Result<(WaitMode, String)> {
    let differs = trials.iter().find_map(|trial| {
        let server = trial.server.as_ref()?;
        (server.wait != wanted.name()).then_some((trial, server))
    });
    let why = match (asked, wanted) {
        (Some(_), _) => "asked for",
        (None, WaitMode::Block) => {
            "the default of what is measured, or there is no CPU for each end"
        }
        (None, _) => "every end has a CPU of its own",
    };
    let Some((trial, server)) = differs else {
        return Ok((wanted, why.to_owned()));
    };
    let because = server.wait_reason.as_deref().unwrap_or("it did not say why");
    let told = format!("the server of {} waits by {}: {because}", trial.arm, server.wait);
    match asked {
        Some(mode) => {
            Err(Error::peer(format!("--wait {} is not for all arms: {told}", mode.name()))
                .remedy("write --wait block, or start that server with --allow-spin"))
        }
        None => Ok((WaitMode::Block, told)),
    }
}

impl Measurement {
    /// Forces on it what was agreed on, and on the load that goes beside it.
    fn force(&mut self, backend: Backend, wait: WaitMode) {
        if let Self::Lat(plan) = self
            && let Some(load) = &mut plan.under_load
        {
            load.plan.common.backend = BackendChoice::Only(backend);
        }
        let common = self.common_mut();
        common.backend = BackendChoice::Only(backend);
        common.wait = Some(wait);
    }

    /// What a visit takes, nanoseconds, where stages have lengths of their own; `step` is what others take, and `beside` what each
    /// takes besides its measured phase.
    fn stages_duration(&self, step: Nanos, beside: Nanos) -> Option<u64> {
        let Self::Http(plan) = self else { return None };
        let stages = plan.open.as_ref()?.stages.iter();
        let once: u64 = stages
            .map(|stage| stage.duration.map_or(step, |own| own + beside).0)
            .fold(0, u64::saturating_add);
        Some(once.saturating_mul(plan.connections.len() as u64))
    }
}

/// The measurement, as long as a pilot is.
fn shorten(measurement: &mut Measurement) {
    if let Measurement::Http(plan) = measurement
        && let Some(open) = &mut plan.open
    {
        for stage in &mut open.stages {
            stage.duration = stage.duration.map(|own| own.min(PILOT_DURATION));
        }
    }
    let common = measurement.common_mut();
    if let Stop::After(duration) = common.stop {
        common.stop = Stop::After(duration.min(PILOT_DURATION));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(backend: &str, wait: &str) -> Instrument {
        Instrument {
            backend: backend.to_owned(),
            backend_reason: format!("why {backend}"),
            wait: wait.to_owned(),
            wait_reason: (wait == "block").then(|| "one CPU".to_owned()),
            ..Instrument::default()
        }
    }

    fn trial(arm: &str, client: &str, server: Option<(&str, &str)>) -> Trial {
        Trial {
            arm: arm.to_owned(),
            client: end(client, "spin"),
            server: server.map(|(backend, wait)| end(backend, wait)),
        }
    }

    #[test]
    fn one_end_without_io_uring_makes_all_use_epoll() {
        let all = [
            trial("a", "uring", Some(("uring", "spin"))),
            trial("b", "uring", Some(("epoll", "spin"))),
        ];
        let (backend, why) = common_backend(BackendChoice::Auto, &all);
        assert_eq!(backend, Backend::Epoll);
        assert_eq!(why, "the server of b: why epoll");
        let (backend, why) = common_backend(BackendChoice::Auto, &all[..1]);
        assert_eq!((backend, why.as_str()), (Backend::Uring, "every end has it"));
        let silent = [trial("web", "uring", None)];
        let (_, why) = common_backend(BackendChoice::Auto, &silent);
        assert!(why.contains("tell nothing"), "{why}");
        let insisted = BackendChoice::Only(Backend::Epoll);
        assert_eq!(common_backend(insisted, &all[..1]).0, Backend::Epoll);
    }

    #[test]
    fn one_end_that_cannot_spin_makes_all_block() {
        let trials = [
            trial("a", "uring", Some(("uring", "spin"))),
            trial("b", "uring", Some(("uring", "block"))),
        ];
        let (wait, why) = common_wait(None, WaitMode::Spin, &trials).unwrap();
        assert_eq!(wait, WaitMode::Block);
        assert_eq!(why, "the server of b waits by block: one CPU");
        let (wait, _) = common_wait(None, WaitMode::Spin, &trials[..1]).unwrap();
        assert_eq!(wait, WaitMode::Spin);
        let error = common_wait(Some(WaitMode::Spin), WaitMode::Spin, &trials).unwrap_err();
        assert!(error.to_string().contains("--allow-spin"), "{error}");
    }
}
