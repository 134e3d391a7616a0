//! What all ends can do, found out before the first block and then forced on all of them: else the
//! difference between two arms would be that of their backends, or of how they wait. And what the
//! blocks will be able to show.

use super::Comparing;
use super::visit::rest;
use crate::measurement::Measurement;
use tare_driver::{Backend, BackendChoice};
use tare_proto::hello::WaitMode;
use tare_stats::compare::metric::{self, Metric};
use tare_stats::compare::power::{detectable_in_spreads, spread};
use tare_stats::result::{Comparison, Instrument, Instruments, StepResult};
use tare_units::Nanos;
use tare_units::error::{Error, Fault, Result};

/// Visits to the baseline that tell how much a visit differs from the next.
pub(super) const PILOT_VISITS: usize = 4;
/// Their length, at most: rather more spread than that of a whole visit is found than less.
const PILOT_DURATION: Nanos = Nanos::from_millis(200);

/// How often an arm is tried before it is called not there.
const TRIES: u32 = 3;
const TRY_AGAIN_AFTER: Nanos = Nanos::from_millis(500);

/// What the ends of an arm did when they were asked.
struct Offer {
    arm: String,
    ends: Instruments,
}

/// The client, and the server where it tells of itself.
fn ends(both: &Instruments) -> impl Iterator<Item = (&'static str, &Instrument)> {
    std::iter::once(("client", &both.client)).chain(both.server.iter().map(|end| ("server", end)))
}

/// What ends of a visit did otherwise than was agreed on, in words.
pub(super) fn differs(agreed: &Comparison, steps: &[StepResult]) -> Option<String> {
    let ends = steps.iter().flat_map(|step| ends(&step.instrument));
    let mut known = ends.filter(|(_, used)| !used.backend.is_empty());
    known.find_map(|(end, used)| {
        let differs = used.backend != agreed.backend || used.wait != agreed.wait;
        let did = format!("a {end} used {} and waited by {}", used.backend, used.wait);
        differs.then(|| format!("{did}, instead of {} and {}", agreed.backend, agreed.wait))
    })
}

impl Comparing<'_> {
    /// Asks the ends of every arm, and forces on all what all have in common.
    pub(super) fn negotiate(&mut self) -> Result<()> {
        let asked = self.arms[0].plan.measurement.common().clone();
        let wait = self.arms[0].plan.measurement.prospect()?.0.wait;
        // Of the A/A arm there is nothing to learn.
        let all: Vec<usize> = (0..self.arms.len() - 1).collect();
        let mut offers = self.offers(asked.backend, wait, &all)?;
        let (backend, backend_reason) = common_backend(asked.backend, &offers);
        if asked.backend == BackendChoice::Auto && backend == Backend::Epoll {
            // Those that would have used something else are asked again.
            let others =
                |arm: &usize| ends(&offers[*arm].ends).any(|(_, end)| end.backend != "epoll");
            let others: Vec<usize> = all.into_iter().filter(others).collect();
            let again = self.offers(BackendChoice::Only(backend), wait, &others);
            let again = again.map_err(|error| {
                let why = format!("{backend_reason}; {}", error.message());
                Error::peer(format!("the arms have no backend in common: {why}"))
                    .remedy("serve every arm with --backend auto")
            })?;
            for (arm, offer) in others.into_iter().zip(again) {
                offers[arm] = offer;
            }
        }
        let (wait, wait_reason) = common_wait(asked.wait, wait, &offers)?;
        for arm in &mut self.arms {
            arm.plan.measurement.force(backend, wait);
        }
        let agreed = &mut self.notes.comparison;
        backend.name().clone_into(&mut agreed.backend);
        agreed.backend_reason = backend_reason;
        wait.name().clone_into(&mut agreed.wait);
        agreed.wait_reason = wait_reason;
        self.steps_done = 0;
        Ok(())
    }

    fn offers(
        &mut self,
        backend: BackendChoice,
        wait: WaitMode,
        arms: &[usize],
    ) -> Result<Vec<Offer>> {
        let mut offers = Vec::new();
        for &index in arms {
            let mut measurement = self.arms[index].plan.measurement.negotiation();
            measurement.common_mut().backend = backend;
            measurement.common_mut().wait = Some(wait);
            let steps = self.ask(index, &measurement)?;
            let step = steps.into_iter().next();
            let step = step.ok_or_else(|| Error::bug("a negotiation without a step"))?;
            let arm = self.arms[index].plan.name.clone();
            offers.push(Offer { arm, ends: step.instrument });
        }
        self.notes.forget_visits();
        Ok(offers)
    }

    /// Asks an arm, again where its server is not there yet: one that a hook started, or that is
    /// slow to come back from what was measured before.
    fn ask(&mut self, index: usize, measurement: &Measurement) -> Result<Vec<StepResult>> {
        for _ in 1..TRIES {
            let ended = self.must_visit(index, measurement);
            let may_come = matches!(&ended, Err(error) if error.fault() == Fault::Peer);
            // What its commands left behind is not to be changed once more.
            if !may_come || self.unclean.is_some() || self.interrupt.is_raised() {
                return ended;
            }
            rest(TRY_AGAIN_AFTER, self.interrupt);
        }
        self.must_visit(index, measurement)
    }

    /// Visits the baseline a few times, to say before the first block what the blocks can show. A
    /// visit that fails says nothing; in the blocks it counts.
    pub(super) fn pilot(&mut self) -> Result<()> {
        let mut measurement = self.arms[0].plan.measurement.clone();
        measurement.shorten(PILOT_DURATION);
        for _ in 0..PILOT_VISITS {
            let (steps, error) = self.visit(0, &measurement);
            self.unclean.clone().map_or(Ok(()), Err)?;
            let steps = steps.iter().filter(|_| error.is_none());
            for (index, step) in steps.enumerate() {
                self.pilot_turns[index] = polling_turn(step);
                let values = metric::values(&self.table.metrics, &[step]);
                for (metric, value) in self.table.metrics.iter().zip(values) {
                    let known = self.pilot.entry((index, metric.name.clone())).or_default();
                    known.extend(value);
                }
            }
        }
        self.notes.forget_visits();
        let blocks = u64::from(self.plan.blocks);
        // Cells over which a verdict is given.
        let declared = self.table.metrics.iter().filter(|metric| metric.declared).count();
        let cells = (self.arms.len() - 2) * self.table.steps() * declared;
        self.detectable_spreads = detectable_in_spreads(blocks, cells as u64);
        let text = self.announcement();
        self.observer.announce(&text);
        Ok(())
    }

    /// What the blocks will find of `metric` in four runs of five, as far as the pilot can tell.
    pub(super) fn detectable(&self, step: usize, metric: &Metric) -> Option<f64> {
        let values = self.pilot.get(&(step, metric.name.clone()))?;
        // What the instrument may shift a difference by must be exceeded, too.
        let turn = if metric.depends_on_polling() { self.pilot_turns[step] } else { 0.0 };
        Some(spread(values)? * self.detectable_spreads? + turn / 2.0)
    }

    /// How often the arms are let settle, each visited once.
    fn rests(&self) -> u64 {
        let hooks = self.arms.iter().map(|arm| &arm.plan.hooks);
        hooks.flat_map(|hooks| [&hooks.before, &hooks.after]).flatten().count() as u64
    }

    fn announcement(&self) -> String {
        let plan = self.plan;
        let arms = self.arms.len();
        let common = self.arms[0].plan.measurement.common();
        // Connecting, the handshake and the account of each step besides.
        let beside = Nanos::from_millis(100);
        let step = plan.block_duration + common.warmup + beside;
        let steps = self.table.steps() as u64;
        let visits = u64::from(plan.blocks) * 2 * arms as u64;
        let own = self.arms[0].plan.measurement.stages_duration(step, common.warmup + beside);
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
        let declared = self.table.metrics.iter().filter(|metric| metric.declared);
        let shown: Vec<String> = declared
            .filter_map(|metric| {
                let least = self.detectable(0, metric)?;
                Some(format!("{} in {}", metric.show(least), metric.name))
            })
            .collect();
        if !shown.is_empty() {
            text +=
                &format!("; can tell differences from {} (found in 4 runs of 5)", shown.join(", "));
        }
        text
    }
}

/// How often a client looked for replies that spins: nanoseconds between two looks, zero of others.
fn polling_turn(step: &StepResult) -> f64 {
    let client = &step.instrument.client;
    let spins = client.wait != "block" && step.bandwidth.is_none();
    if spins { client.turn_p50_ns as f64 } else { 0.0 }
}

/// The first backend that all ends have, in the order in which they are preferred.
fn common_backend(asked: BackendChoice, offers: &[Offer]) -> (Backend, String) {
    if let BackendChoice::Only(backend) = asked {
        return (backend, "asked for".to_owned());
    }
    let mut all = offers
        .iter()
        .flat_map(|offer| ends(&offer.ends).map(move |(end, used)| (offer, end, used)));
    if let Some((offer, end, used)) = all.find(|(_, _, used)| used.backend != "uring") {
        let reason = format!("the {end} of {}: {}", offer.arm, used.backend_reason);
        return (Backend::Epoll, reason);
    }
    let reason = if offers.iter().all(|offer| offer.ends.server.is_none()) {
        "the client has it; the servers tell nothing of theirs"
    } else {
        "every end has it"
    };
    (Backend::Uring, reason.to_owned())
}

fn common_wait(
    asked: Option<WaitMode>,
    wanted: WaitMode,
    offers: &[Offer],
) -> Result<(WaitMode, String)> {
    let differs = offers.iter().find_map(|offer| {
        let server = offer.ends.server.as_ref()?;
        (server.wait != wanted.name()).then_some((offer, server))
    });
    let why = match (asked, wanted) {
        (Some(_), _) => "asked for",
        (None, WaitMode::Block) => {
            "the default of what is measured, or there is no CPU for each end"
        }
        (None, _) => "every end has a CPU of its own",
    };
    let Some((offer, server)) = differs else { return Ok((wanted, why.to_owned())) };
    let because = server.wait_reason.as_deref().unwrap_or("it did not say why");
    let why = format!("the server of {} waits by {}: {because}", offer.arm, server.wait);
    let Some(mode) = asked else { return Ok((WaitMode::Block, why)) };
    Err(Error::peer(format!("--wait {} is not for all arms: {why}", mode.name()))
        .remedy("write --wait block, or start that server with --allow-spin"))
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

    fn offer(arm: &str, client: &str, server: Option<(&str, &str)>) -> Offer {
        Offer {
            arm: arm.to_owned(),
            ends: Instruments {
                client: end(client, "spin"),
                server: server.map(|(backend, wait)| end(backend, wait)),
            },
        }
    }

    #[test]
    fn one_end_without_io_uring_makes_all_use_epoll() {
        let (uring, epoll) = (Some(("uring", "spin")), Some(("epoll", "spin")));
        let (a, b, silent) = (
            || offer("a", "uring", uring),
            offer("b", "uring", epoll),
            offer("web", "uring", None),
        );
        let (auto, insisted) = (BackendChoice::Auto, BackendChoice::Only(Backend::Epoll));
        for (asked, offers, backend, why) in [
            (auto, vec![a(), b], Backend::Epoll, "the server of b: why epoll"),
            (auto, vec![a()], Backend::Uring, "every end has it"),
            (
                auto,
                vec![silent],
                Backend::Uring,
                "the client has it; the servers tell nothing of theirs",
            ),
            (insisted, vec![a()], Backend::Epoll, "asked for"),
        ] {
            assert_eq!(common_backend(asked, &offers), (backend, why.to_owned()));
        }
    }

    #[test]
    fn one_end_that_cannot_spin_makes_all_block() {
        let offers = [
            offer("a", "uring", Some(("uring", "spin"))),
            offer("b", "uring", Some(("uring", "block"))),
        ];
        let all = common_wait(None, WaitMode::Spin, &offers).unwrap();
        assert_eq!(all, (WaitMode::Block, "the server of b waits by block: one CPU".to_owned()));
        let (wait, _) = common_wait(None, WaitMode::Spin, &offers[..1]).unwrap();
        assert_eq!(wait, WaitMode::Spin);
        let error = common_wait(Some(WaitMode::Spin), WaitMode::Spin, &offers).unwrap_err();
        assert!(error.to_string().contains("--allow-spin"), "{error}");
    }
}
