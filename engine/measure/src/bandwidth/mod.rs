//! Bulk bandwidth, by itself or beside a latency measurement.

pub mod client;
pub(crate) mod load;
pub mod plan;
pub(crate) mod result;

use tare_host::cpus::Cpus;
use tare_host::observed;
use tare_proto::hello::{Accept, Hello, Test, WaitMode};
use tare_proto::stream::StreamAsk;
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::Result;

use crate::run::Finished;
use crate::run::observe::Observer;
use crate::run::peer::SharedServer;
use crate::run::report::vet::{Bounds, vet, vet_against};
use crate::run::report::{Measured, nothing_came};
use crate::run::setting::Setting;
use crate::run::step::{self, LiveProgress, StepOutcome, StepPlan, deal};
use crate::run::sweep::{self, Needs, Prepared, Step, half_of};
use crate::worker::SessionSpec;
use client::{BulkClient, BulkSpec, BulkTally};
use plan::{BwPlan, Sink, ZeroCopy};

/// Measures bulk bandwidth, one step per size and number of streams.
///
/// # Errors
/// As [`latency::measure`](crate::latency::measure).
pub fn measure(
    plan: &BwPlan,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    observed::check(&plan.common.observe)?;
    carry_out(plan, None, interrupt, observer)
}

/// Carries a plan out, on a server that is `shared` by several runs or on one found for this run.
pub(crate) fn carry_out(
    plan: &BwPlan,
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

pub(crate) fn needs<'a>(plan: &'a BwPlan, machine: &Cpus) -> Needs<'a> {
    let connections = plan.streams.iter().copied().max().unwrap_or(1).max(1);
    Needs {
        kind: "bw",
        target: &plan.target,
        common: &plan.common,
        connections,
        opened: Some(u64::from(connections)),
        sources: 1,
        workers: half_of(machine, u32::MAX),
        wait: default_wait(plan, machine),
        separates: false,
        resolve: None,
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

pub(crate) fn steps(plan: &BwPlan) -> Vec<Step> {
    let step = |size, connections| Step { size, connections, ..Step::default() };
    let sizes = plan.sizes.iter();
    sizes.flat_map(|&size| plan.streams.iter().map(move |&count| step(size, count))).collect()
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
    let mut outcome = step::run(
        step_plan,
        &params,
        clients,
        BulkClient::into_results,
        BulkTally::merge,
        observer,
    )?;

    let impossible = vet_servers(&mut outcome, at);
    let result = result::of_step(at, plan, params, &outcome);
    let is_empty =
        result.bandwidth.as_ref().is_none_or(|b| b.received_bytes == 0 && b.sent_bytes == 0);
    Ok(Measured::new(result, outcome, is_empty, impossible, |_, failure| {
        nothing_came("no payload arrived at or from", &at.address, failure)
    }))
}

fn step_plan(plan: &BwPlan, at: &Setting, step: Step) -> StepPlan {
    let (warmup, duration) = plan.times_of(step.size);
    StepPlan {
        warmup,
        duration,
        wait_is_default: plan.common.wait.is_none() && plan.rate_bits_per_s.is_none(),
        counts_bytes: true,
        ..at.step_plan(&plan.common, at.cpus_for(step.connections))
    }
}

/// What makes the client of each worker.
fn clients(
    plan: &BwPlan,
    at: &Setting,
    step: Step,
    cpus: &[u32],
) -> Result<Vec<impl FnOnce(Nanos, LiveProgress, Interrupt) -> BulkClient<LiveProgress> + use<>>> {
    let common = &plan.common;
    let (warmup, duration) = plan.times_of(step.size);
    let hello = Hello {
        direction: plan.direction,
        stream: Some(ask(plan, step)),
        ..at.hello(common, Test::Stream, plan.transport, step.size, cpus)
    };
    let nonce = at.run_id.rotate_left(17) ^ u64::from(step.size) ^ common.seed;
    let secret = common.secret.clone();
    let session = SessionSpec::new(at.socket_address()?, hello, secret, common.timeout, nonce)
        .from_local(plan.bind);
    let whole = BulkSpec {
        session,
        options: plan.socket.clone(),
        streams: step.connections,
        first: 0,
        bytes: plan.bytes_of(step.size),
        warmup,
        duration,
        wait: at.wait,
        wakeup: Nanos::ZERO,
    };
    let workers = u32::try_from(cpus.len()).unwrap_or(u32::MAX);
    let mut first = 0;
    let client_of = |worker| {
        let streams = deal(u64::from(step.connections), worker, workers);
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        let spec = BulkSpec { streams, first, ..whole.clone() };
        first += streams;
        move |wakeup, gauge, interrupt| {
            BulkClient::new(BulkSpec { wakeup, ..spec }, gauge, interrupt)
        }
    };
    Ok((0..workers).map(client_of).collect())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive rate, and the cast saturates"
)]
fn ask(plan: &BwPlan, step: Step) -> StreamAsk {
    let (warmup, duration) = plan.times_of(step.size);
    StreamAsk {
        warmup_ns: warmup.0,
        duration_ns: duration.map_or(0, |d| d.0),
        // Each stream's share is its own business.
        bytes: plan.bytes_of(step.size),
        interval_ns: plan.common.interval.0,
        rate_bits_per_s: plan.rate_bits_per_s.map_or(0, |rate| rate as u64),
        stream: 0,
        streams: step.connections,
        zero_copy: plan.zero_copy == ZeroCopy::On,
        zero_copy_auto: plan.zero_copy == ZeroCopy::Auto,
        discard: plan.sink == Sink::Discard,
        socket: plan.socket.clone(),
    }
}

/// Takes what cannot be out of what the servers told of their streams. Returns what it was.
fn vet_servers(outcome: &mut StepOutcome<BulkTally>, at: &Setting) -> Vec<String> {
    let bounds = Bounds { wall: at.elapsed(), requests: None };
    let workers = &mut outcome.workers;
    let mut impossible = Vec::new();
    for figures in &mut workers.outcome.figures {
        impossible.extend(vet(figures, &bounds));
    }
    let is_tcp = |accept: &Accept| accept.session.is_none();
    let is_tcp = workers.outcome.accepts.iter().all(is_tcp);
    for stream in &mut workers.tally.streams {
        let Some(theirs) = &mut stream.theirs else {
            continue;
        };
        impossible.extend(vet(theirs, &bounds));
        if let Some(account) = theirs.stream.as_mut().filter(|_| is_tcp) {
            impossible.extend(vet_against(&stream.own, account));
        }
    }
    impossible
}
