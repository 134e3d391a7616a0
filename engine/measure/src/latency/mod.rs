//! Round-trip latency.

pub mod client;
pub mod plan;

use tare_host::cpus::Cpus;
use tare_host::guard::ConntrackGuard;
use tare_proto::hello::{Figures, Hello, Test, WaitMode};
use tare_stats::histogram::Distribution;
use tare_stats::result::{Params, StepResult};
use tare_stats::summary;
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::Result;
use tare_units::target::Target;

use crate::bandwidth::load::RunningLoad;
use crate::run::observe::Observer;
use crate::run::plan::Common;
use crate::run::report::vet::{Bounds, residences, vet};
use crate::run::report::{Measured, add_requests, common_result, nothing_came};
use crate::run::setting::Setting;
use crate::run::step::{self, LiveProgress, StepOutcome, StepPlan, shares};
use crate::run::sweep::{Job, Measurer, Needs, Step};
use crate::schedule::{Arrivals, Load, Schedule};
use crate::worker::LoopPlan;
use crate::worker::destination::Destination;
use crate::worker::tally::Record;
use client::Client;
use plan::LatPlan;

impl Job for LatPlan {
    fn about(&self) -> (&'static str, &Target, &Common) {
        ("lat", &self.target, &self.common)
    }

    fn needs(&self, machine: &Cpus) -> Needs {
        let connections = self.connections.iter().copied().max().unwrap_or(1).max(1);
        Needs {
            connections,
            opened: match self.connect_each {
                false => Some(u64::from(connections)),
                true => self.common.stop.parts().1,
            },
            sources: 1,
            workers: 1,
            // Both ends spin where they own their CPUs; whether the server does is asked when it is
            // connected to.
            wait: match self.rate_per_s {
                _ if !machine.can_spin() => WaitMode::Block,
                Some(_) => WaitMode::Hybrid,
                None => WaitMode::Spin,
            },
            separates: false,
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for &size in &self.sizes {
            for &connections in &self.connections {
                let idle = Step { size, connections, ..Step::default() };
                steps.push(idle);
                steps.extend(self.load().map(|_| Step { loaded: true, ..idle }));
            }
        }
        steps
    }

    fn describe(&self) -> serde_json::Value {
        plan::describe(self)
    }

    fn measurer(&self, _: Option<&Destination>) -> Result<Measurer<'_>> {
        Ok(Box::new(|at, step, observer| measure_step(self, at, step, observer)))
    }
}

fn measure_step(
    plan: &LatPlan,
    at: &Setting,
    step: Step,
    observer: &mut dyn Observer,
) -> Result<Measured> {
    let params = plan::params(plan, step, &at.address);
    at.announce(&params, observer);
    let step_plan = StepPlan {
        duration: plan.common.stop.parts().0,
        guard: plan.connect_each.then(ConntrackGuard::default),
        ..at.step_plan(&plan.common, step.connections)
    };
    let clients = clients(plan, at, step, &step_plan.cpus)?;
    let load = plan.load().filter(|_| step.loaded);
    let load = load.map(|load| RunningLoad::start(&load.plan, at)).transpose()?;
    let (finish, merge) = (Client::into_results, |mine: &mut Record, other| mine.merge(&other));
    let outcome = step::run(step_plan, &params, clients, finish, merge, observer);
    // Whatever became of the step, the load is not to go on beside the next.
    let load = load.map(RunningLoad::stop);
    let mut outcome = outcome?;
    let load = load.transpose()?;

    let impossible = vet_servers(&mut outcome, at);
    let spread = outcome.workers.tally.recording.spread_unsent;
    let result = StepResult { bandwidth: load, ..result_of(at, &plan.common, params, &outcome) };
    let is_empty = !result.has_answers();
    let measured = Measured::new(result, outcome, is_empty, impossible, |_, failure| {
        nothing_came("nothing was answered by", &at.address, failure)
    });
    Ok(measured.with_spread_unsent(spread))
}

fn clients(
    plan: &LatPlan,
    at: &Setting,
    step: Step,
    cpus: &[u32],
) -> Result<Vec<impl FnOnce(Nanos, LiveProgress, Interrupt) -> Client<LiveProgress> + use<>>> {
    let common = &plan.common;
    let hello = Hello {
        connect_each: plan.connect_each,
        server_delay_ns: plan.server_delay.0,
        gap_ns: longest_gap(plan).0,
        ..at.hello(common, Test::PingPong, plan.transport, step.size, cpus)
    };
    let session = at.session(common, plan.bind, u64::from(step.size), hello)?;
    let client_of = |(share, _, connections)| {
        let schedule = |rate| Schedule::new(&Load::steady(rate), Arrivals::Constant, 0, share);
        let schedule = plan.rate_per_s.map(schedule).transpose()?;
        let own = common.loop_plan(common.stop.parts(), share, connections);
        let session = session.clone();
        Ok(move |wakeup, gauge, interrupt| {
            Client::new(session, LoopPlan { wakeup, ..own }, schedule, gauge, interrupt)
        })
    };
    shares(cpus.len(), step.connections).map(client_of).collect()
}

/// The longest pause between two connections that the schedule makes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive rate, and the cast saturates"
)]
fn longest_gap(plan: &LatPlan) -> Nanos {
    let rate = plan.rate_per_s.filter(|_| plan.connect_each);
    Nanos(rate.map_or(0, |rate| (1e9 / rate) as u64))
}

/// Takes what cannot be out of what the servers reported. Returns what it was.
fn vet_servers(outcome: &mut StepOutcome<Record>, at: &Setting) -> Vec<String> {
    let (tally, sessions) = (&outcome.workers.tally, &mut outcome.workers.outcome);
    let sent = tally.warmup.operations.sent.saturating_add(tally.measured.operations.sent);
    let is_tcp = sessions.accepts.iter().all(|accept| accept.session.is_none());
    let bounds = Bounds { wall: at.elapsed(), requests: is_tcp.then_some(sent) };
    let of_figures = sessions.figures.iter_mut().flat_map(|figures| vet(figures, &bounds));
    residences(&tally.recording).into_iter().chain(of_figures).collect()
}

fn result_of(
    at: &Setting,
    common: &Common,
    params: Params,
    outcome: &StepOutcome<Record>,
) -> StepResult {
    let (tally, sessions) = (&outcome.workers.tally, &outcome.workers.outcome);
    let mut recording = tally.recording.clone();
    for residence in sessions.figures.iter().filter_map(residence_of) {
        recording.merge_residence(&residence);
    }
    let mut step = common_result(at, common, params, outcome, (sessions.answered, 0));
    add_requests(&mut step, tally, &recording, &common.percentiles, outcome);
    step.rate = sessions.rate(step.params.rate_per_s);
    if step.params.rate_per_s.is_some() {
        step.connections.connecting_ns = Some(sessions.connecting.0);
        step.connections.down_ns = Some(sessions.down.0);
    }
    step.intervals = summary::series(&recording, sessions.measured);
    step
}

fn residence_of(figures: &Figures) -> Option<Distribution> {
    Distribution::decode(figures.residence_hdr.as_deref()?).ok()
}
