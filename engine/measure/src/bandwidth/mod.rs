//! Bulk bandwidth, by itself or beside a latency measurement.

pub mod client;
pub(crate) mod load;
pub mod plan;
pub(crate) mod result;

use tare_host::cpus::Cpus;
use tare_proto::hello::{Hello, Test, WaitMode};
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::Result;
use tare_units::target::Target;

use crate::run::observe::Observer;
use crate::run::plan::Common;
use crate::run::report::vet::{Bounds, vet, vet_against};
use crate::run::report::{Measured, nothing_came};
use crate::run::setting::Setting;
use crate::run::step::{self, LiveProgress, StepOutcome, StepPlan, shares};
use crate::run::sweep::{Job, Measurer, Needs, Step, half_of};
use crate::worker::destination::Destination;
use client::{BulkClient, BulkSpec, BulkTally};
use plan::BwPlan;

impl Job for BwPlan {
    fn about(&self) -> (&'static str, &Target, &Common) {
        ("bw", &self.target, &self.common)
    }

    fn needs(&self, machine: &Cpus) -> Needs {
        let connections = self.streams.iter().copied().max().unwrap_or(1).max(1);
        Needs {
            connections,
            opened: Some(u64::from(connections)),
            sources: 1,
            workers: half_of(machine, u32::MAX),
            wait: default_wait(self, machine),
            separates: false,
        }
    }

    fn steps(&self) -> Vec<Step> {
        let step = |size, connections| Step { size, connections, ..Step::default() };
        let sizes = self.sizes.iter();
        sizes.flat_map(|&size| self.streams.iter().map(move |&count| step(size, count))).collect()
    }

    fn describe(&self) -> serde_json::Value {
        plan::describe(self)
    }

    fn measurer(&self, _: Option<&Destination>) -> Result<Measurer<'_>> {
        Ok(Box::new(|at, step, observer| measure_step(self, at, step, observer)))
    }
}

/// A bulk stream fills its CPU or its path, and waits for neither by spinning; a schedule is kept
/// to by hybrid waiting.
fn default_wait(plan: &BwPlan, machine: &Cpus) -> WaitMode {
    match plan.rate_bits_per_s {
        Some(_) if machine.can_spin() => WaitMode::Hybrid,
        _ => WaitMode::Block,
    }
}

fn measure_step(
    plan: &BwPlan,
    at: &Setting,
    step: Step,
    observer: &mut dyn Observer,
) -> Result<Measured> {
    let params = plan::params(plan, step, &at.address);
    at.announce(&params, observer);
    let step_plan = step_plan(plan, at, step);
    let clients = clients(plan, at, step, &step_plan.cpus)?;
    let (finish, merge) = (BulkClient::into_results, BulkTally::merge);
    let mut outcome = step::run(step_plan, &params, clients, finish, merge, observer)?;

    let impossible = vet_servers(&mut outcome, at);
    let result = result::of_step(at, plan, params, &outcome);
    let is_empty =
        result.bandwidth.as_ref().is_none_or(|b| b.received_bytes == 0 && b.sent_bytes == 0);
    Ok(Measured::new(result, outcome, is_empty, impossible, |_, failure| {
        nothing_came("no payload arrived at or from", &at.address, failure)
    }))
}

fn step_plan<'a>(plan: &'a BwPlan, at: &'a Setting, step: Step) -> StepPlan<'a> {
    let (warmup, duration) = plan.times_of(step.size);
    StepPlan {
        warmup,
        duration,
        wait_is_default: plan.common.wait.is_none() && plan.rate_bits_per_s.is_none(),
        counts_bytes: true,
        ..at.step_plan(&plan.common, step.connections)
    }
}

fn clients(
    plan: &BwPlan,
    at: &Setting,
    step: Step,
    cpus: &[u32],
) -> Result<Vec<impl FnOnce(Nanos, LiveProgress, Interrupt) -> BulkClient<LiveProgress> + use<>>> {
    let common = &plan.common;
    let hello = Hello {
        direction: plan.direction,
        stream: Some(plan.ask(step)),
        ..at.hello(common, Test::Stream, plan.transport, step.size, cpus)
    };
    let session = at.session(common, plan.bind, u64::from(step.size) ^ common.seed, hello)?;
    let client_of = |(_, first, streams)| {
        let (session, options) = (session.clone(), plan.socket.clone());
        move |wakeup, gauge, interrupt| {
            let spec = BulkSpec { session, options, streams, first, wakeup };
            BulkClient::new(spec, gauge, interrupt)
        }
    };
    Ok(shares(cpus.len(), step.connections).map(client_of).collect())
}

/// Takes what cannot be out of what the servers reported of their streams. Returns what it was.
fn vet_servers(outcome: &mut StepOutcome<BulkTally>, at: &Setting) -> Vec<String> {
    let bounds = Bounds { wall: at.elapsed(), requests: None };
    let (tally, sessions) = (&mut outcome.workers.tally, &mut outcome.workers.outcome);
    let of_figures = sessions.figures.iter_mut().flat_map(|figures| vet(figures, &bounds));
    let mut impossible: Vec<String> = of_figures.collect();
    let is_tcp = sessions.accepts.iter().all(|accept| accept.session.is_none());
    for stream in &mut tally.streams {
        let Some(theirs) = &mut stream.theirs else { continue };
        impossible.extend(vet(theirs, &bounds));
        if let Some(account) = theirs.stream.as_mut().filter(|_| is_tcp) {
            impossible.extend(vet_against(&stream.own, account));
        }
    }
    impossible
}
