//! Round-trip latency.

pub mod client;
pub mod plan;

use tare_host::cpus::Cpus;
use tare_host::guard::ConntrackGuard;
use tare_host::observed;
use tare_proto::hello::{Figures, Hello, Test, WaitMode};
use tare_stats::histogram::{Distribution, Recording};
use tare_stats::result::{Params, StepResult};
use tare_stats::summary;
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::Result;

use crate::bandwidth::load::RunningLoad;
use crate::run::Finished;
use crate::run::observe::Observer;
use crate::run::peer::SharedServer;
use crate::run::plan::Common;
use crate::run::report::vet::{Bounds, residences, vet};
use crate::run::report::{Measured, common_result, nothing_came, tell_latencies};
use crate::run::setting::Setting;
use crate::run::step::{self, LiveProgress, StepOutcome, StepPlan, deal, recording_of};
use crate::run::sweep::{self, Needs, Prepared, Step};
use crate::schedule::{Arrivals, Load, Schedule, Share};
use crate::worker::SessionSpec;
use crate::worker::tally::Record;
use client::{Client, ClientSpec};
use plan::LatPlan;

/// Measures ping-pong latency, one step per size and number of connections.
///
/// # Errors
/// Only when not even a report can be made: the plan cannot be carried out at all (usage), or this
/// machine does not allow it. Whatever fails later ends in [`Finished::error`], beside what was
/// measured.
pub fn measure(
    plan: &LatPlan,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    observed::check(&plan.common.observe)?;
    carry_out(plan, None, interrupt, observer)
}

/// Carries a plan out, on a server that is `shared` by several runs or on one found for this run.
pub(crate) fn carry_out(
    plan: &LatPlan,
    shared: Option<&SharedServer>,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    let machine = Cpus::of_self();
    let prepared = Prepared::new(needs(plan, &machine), machine, interrupt)?;
    let peer = prepared.find(shared)?;
    let described = plan::describe(plan, &peer.known());
    sweep::run(prepared, peer, described, &steps(plan), observer, |at, step, observer| {
        measure_step(plan, at, step, observer)
    })
}

pub(crate) fn needs<'a>(plan: &'a LatPlan, machine: &Cpus) -> Needs<'a> {
    let connections = plan.connections.iter().copied().max().unwrap_or(1).max(1);
    let opened = match (plan.connect_each, plan.common.stop) {
        (false, _) => Some(u64::from(connections)),
        (true, stop) => stop.parts().1,
    };
    // Both ends spin where they own their CPUs; whether the server does is asked when it is
    // connected to.
    let wait = match plan.rate_per_s {
        _ if !machine.can_spin() => WaitMode::Block,
        Some(_) => WaitMode::Hybrid,
        None => WaitMode::Spin,
    };
    Needs {
        kind: "lat",
        target: &plan.target,
        common: &plan.common,
        connections,
        opened,
        sources: 1,
        workers: 1,
        wait,
        separates: false,
        resolve: None,
    }
}

pub(crate) fn steps(plan: &LatPlan) -> Vec<Step> {
    let mut steps = Vec::new();
    for &size in &plan.sizes {
        for &connections in &plan.connections {
            let idle = Step { size, connections, ..Step::default() };
            steps.push(idle);
            if plan.under_load.is_some() {
                steps.push(Step { loaded: true, ..idle });
            }
        }
    }
    steps
}

fn measure_step(
    plan: &LatPlan,
    at: &Setting,
    step: Step,
    observer: &mut dyn Observer,
) -> Result<Measured> {
    let params = plan::params(plan, step, &at.address);
    at.announce(&params, observer);
    let cpus = at.cpus_for(step.connections);
    let clients = clients(plan, at, step, &cpus)?;
    let step_plan = StepPlan {
        duration: plan.common.stop.parts().0,
        guard: plan.connect_each.then(ConntrackGuard::default),
        ..at.step_plan(&plan.common, cpus)
    };
    let load = plan.under_load.as_ref().filter(|_| step.loaded);
    let load = load.map(|load| RunningLoad::start(&load.plan, at)).transpose()?;
    let outcome = step::run(
        step_plan,
        &params,
        clients,
        Client::into_results,
        |record: &mut Record, other| record.merge(&other),
        observer,
    );
    // Whatever became of the step, the load is not to go on beside the next.
    let load = load.map(RunningLoad::stop);
    let mut outcome = outcome?;
    let load = load.transpose()?;

    let impossible = vet_servers(&mut outcome, at);
    let spread = outcome.workers.tally.recording.spread_unsent;
    let mut result = result_of(at, &plan.common, params, &outcome);
    result.bandwidth = load;
    let is_empty = !result.has_answers();
    let measured = Measured::new(result, outcome, is_empty, impossible, |_, failure| {
        nothing_came("nothing was answered by", &at.address, failure)
    });
    Ok(measured.with_spread_unsent(spread))
}

/// What makes the client of each worker.
fn clients(
    plan: &LatPlan,
    at: &Setting,
    step: Step,
    cpus: &[u32],
) -> Result<Vec<impl FnOnce(Nanos, LiveProgress, Interrupt) -> Client<LiveProgress> + use<>>> {
    let common = &plan.common;
    let (duration, count) = common.stop.parts();
    let hello = Hello {
        connect_each: plan.connect_each,
        server_delay_ns: plan.server_delay.0,
        gap_ns: longest_gap(plan).0,
        ..at.hello(common, Test::PingPong, plan.transport, step.size, cpus)
    };
    let session = SessionSpec::new(
        at.socket_address()?,
        hello,
        common.secret.clone(),
        common.timeout,
        at.run_id.rotate_left(17) ^ u64::from(step.size),
    )
    .from_local(plan.bind);
    let workers = u32::try_from(cpus.len()).unwrap_or(u32::MAX);
    let client_of = |worker| {
        let connections = deal(u64::from(step.connections), worker, workers);
        let count = count.map(|count| deal(count, worker, workers));
        let share = Share::new(worker, workers);
        let schedule = |rate| Schedule::new(&Load::steady(rate), Arrivals::Constant, 0, share);
        let schedule = plan.rate_per_s.map(schedule).transpose()?;
        let recording = recording_of(count, duration, common.interval, schedule.is_some());
        let spec = ClientSpec {
            session: session.clone(),
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            size_bytes: step.size,
            warmup: common.warmup,
            duration,
            count,
            wait: at.wait,
            wakeup: Nanos::ZERO,
        };
        Ok(move |wakeup, gauge, interrupt| {
            let spec = ClientSpec { wakeup, ..spec };
            Client::new(spec, Recording::new(recording), schedule, gauge, interrupt)
        })
    };
    (0..workers).map(client_of).collect()
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

/// Takes what cannot be out of what the servers told. Returns what it was.
fn vet_servers(outcome: &mut StepOutcome<Record>, at: &Setting) -> Vec<String> {
    let tally = &outcome.workers.tally;
    let sent = [&tally.warmup, &tally.measured].map(|tally| tally.operations.sent);
    let mut impossible = residences(&tally.recording);
    let sessions = &mut outcome.workers.outcome;
    let is_tcp = sessions.accepts.iter().all(|accept| accept.session.is_none());
    let bounds = Bounds {
        wall: at.elapsed(),
        requests: is_tcp.then(|| sent.into_iter().fold(0, u64::saturating_add)),
    };
    for figures in &mut sessions.figures {
        impossible.extend(vet(figures, &bounds));
    }
    impossible
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
    tell_latencies(&mut step, &recording, &common.percentiles, outcome);
    step.operations = tally.measured.operations;
    step.errors = tally.measured.errors.to_counts();
    step.warmup.operations = tally.warmup.operations;
    step.warmup.errors = tally.warmup.errors.to_counts();
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
