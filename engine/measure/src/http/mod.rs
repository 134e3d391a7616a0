//! Load on HTTP servers.

pub mod client;
pub mod plan;
pub(crate) mod result;
pub mod secret;
mod target;

use std::sync::Arc;

use tare_host::cpus::Cpus;
use tare_host::guard::ConntrackGuard;
use tare_host::observed;
use tare_proto::hello::WaitMode;
use tare_proto::http1::request::{RequestSpec, Requests};
use tare_stats::histogram::Recording;
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::Result;
use tare_units::limits::CONNECTS_AT_ONCE;
use tare_units::target::Target;

use crate::run::Finished;
use crate::run::observe::Observer;
use crate::run::peer::{SharedServer, unless_interrupted};
use crate::run::plan::Stop;
use crate::run::report::Measured;
use crate::run::report::vet::residences;
use crate::run::setting::Setting;
use crate::run::step::{self, LiveProgress, StepPlan, deal, recording_of};
use crate::run::sweep::{self, Needs, Prepared, Step, half_of};
use crate::schedule::{Load, Schedule, Share};
use crate::worker::destination::Destination;
use client::{HttpClient, HttpSpec, HttpTally};
use plan::HttpPlan;

/// The host of requests over a Unix socket, where none was given: curl's.
const UNIX_HOST: &str = "localhost";

/// Measures an HTTP load, one step per stage and number of connections.
///
/// # Errors
/// As [`latency::measure`](crate::latency::measure).
pub fn measure(
    plan: &HttpPlan,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    plan.check()?;
    observed::check(&plan.common.observe)?;
    carry_out(plan, None, interrupt, observer)
}

/// Carries a plan out, on a server that is `shared` by several runs or on one found for this run.
pub(crate) fn carry_out(
    plan: &HttpPlan,
    shared: Option<&SharedServer>,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    let machine = Cpus::of_self();
    let prepared = Prepared::new(needs(plan, &machine), machine, interrupt)?;
    let peer = match &plan.target {
        Target::Loopback | Target::Veth => {
            target::check_embedded(plan).and_then(|()| prepared.find(shared))
        }
        Target::Unix(path) => target::unix(plan, path),
        Target::Host { host, port } => target::host(plan, host, *port, interrupt),
    };
    let peer = unless_interrupted(peer, interrupt)?;
    let requests = Arc::new(requests(plan, peer.addresses.first())?);
    let described = plan::describe(plan, &peer.known());
    sweep::run(prepared, peer, described, &steps(plan), observer, |at, step, observer| {
        measure_step(plan, &requests, at, step, observer)
    })
}

pub(crate) fn needs<'a>(plan: &'a HttpPlan, machine: &Cpus) -> Needs<'a> {
    let connections = plan.connections.iter().copied().max().unwrap_or(1).max(1);
    let paced = plan.open.is_some() && machine.can_spin();
    let resolve = match &plan.target {
        Target::Host { host, port } => Some(format!("--resolve {host}:{port}")),
        _ => None,
    };
    Needs {
        kind: "http",
        target: &plan.target,
        common: &plan.common,
        connections,
        opened: opened(plan, connections),
        sources: plan.bind.len().max(1) as u64,
        workers: half_of(machine, connections),
        wait: if paced { WaitMode::Hybrid } else { WaitMode::Block },
        separates: true,
        resolve,
    }
}

/// How many connections are opened in all, where that is known beforehand.
fn opened(plan: &HttpPlan, connections: u32) -> Option<u64> {
    if !plan.renews_connections() {
        return Some(u64::from(connections));
    }
    // Without a number of its own each request may be a connection's last.
    let each = plan.requests_per_connection().unwrap_or(1).max(1);
    match plan.common.stop {
        Stop::Count(count) => Some(count.div_ceil(each)),
        Stop::After(_) => None,
    }
}

/// The requests written out, which are known in full once the address is.
fn requests(plan: &HttpPlan, address: Option<&Destination>) -> Result<Requests> {
    let written = plan.requests.iter().map(|weighted| {
        let mut request = weighted.request.clone();
        request.host = host(&plan.target, &request.host, address);
        (request, weighted.weight)
    });
    let written: Vec<(RequestSpec, u32)> = written.collect();
    Requests::new(&written, plan.pipeline, plan.common.seed)
}

/// The `Host` of a request. A server of this process has no name but its address.
fn host(target: &Target, asked: &str, address: Option<&Destination>) -> String {
    let is_unnamed = asked.is_empty() || asked == target.to_string();
    match (target, address) {
        (Target::Loopback | Target::Veth, Some(Destination::Tcp(address))) if is_unnamed => {
            address.to_string()
        }
        (Target::Unix(_), _) if is_unnamed => UNIX_HOST.to_owned(),
        _ => asked.to_owned(),
    }
}

pub(crate) fn steps(plan: &HttpPlan) -> Vec<Step> {
    let stages = plan.open.as_ref().map_or(1, |open| open.stages.len());
    let step = |connections, stage| Step { connections, stage, ..Step::default() };
    let connections = plan.connections.iter();
    connections.flat_map(|&count| (0..stages).map(move |stage| step(count, stage))).collect()
}

fn measure_step(
    plan: &HttpPlan,
    requests: &Arc<Requests>,
    at: &Setting,
    step: Step,
    observer: &mut dyn Observer,
) -> Result<Measured> {
    let params = plan::params(plan, step, &at.address, requests);
    at.announce(&params, observer);
    let step_plan = step_plan(plan, at, step);
    let clients = clients(plan, requests, at, step, step_plan.cpus.len())?;
    let outcome = step::run(
        step_plan,
        &params,
        clients,
        HttpClient::into_results,
        |tally: &mut HttpTally, other| tally.merge(&other),
        observer,
    )?;

    let recording = &outcome.workers.tally.record.recording;
    let (impossible, spread) = (residences(recording), recording.spread_unsent);
    let result = result::of_step(at, plan, params, &outcome);
    let is_empty = !result.has_answers();
    let mut measured = Measured::new(result, outcome, is_empty, impossible, |result, failure| {
        result::explain(result, failure, &at.address)
    });
    // Of a server that was reached, fewer or more connections or another rate may get answers.
    measured.goes_on = measured.result.connections.established > 0;
    Ok(measured.with_spread_unsent(spread))
}

fn step_plan(plan: &HttpPlan, at: &Setting, step: Step) -> StepPlan {
    let (duration, count) = plan.extent(step);
    let busy = u64::from(step.connections).min(count.map_or(u64::MAX, |count| count.max(1)));
    let cpus = at.cpus_for(u32::try_from(busy).unwrap_or(u32::MAX));
    StepPlan {
        duration,
        wait_is_default: false,
        // A connection that was refused is tried again, so how connections are dealt out to workers
        // decides nothing.
        needs_all: false,
        // A server may close each connection too, whatever was asked for.
        guard: matches!(at.address, Destination::Tcp(_)).then(ConntrackGuard::default),
        ..at.step_plan(&plan.common, cpus)
    }
}

/// What makes the client of each worker.
fn clients(
    plan: &HttpPlan,
    requests: &Arc<Requests>,
    at: &Setting,
    step: Step,
    workers: usize,
) -> Result<Vec<impl FnOnce(Nanos, LiveProgress, Interrupt) -> HttpClient<LiveProgress> + use<>>> {
    let common = &plan.common;
    let (duration, count) = plan.extent(step);
    let workers = u32::try_from(workers).unwrap_or(u32::MAX);
    let whole = HttpSpec {
        to: at.address.clone(),
        bind: plan.bind.clone(),
        first: 0,
        connections: step.connections,
        requests: Arc::clone(requests),
        pipeline: plan.pipeline,
        requests_per_connection: plan.requests_per_connection(),
        reconnect_on_error: plan.reconnect_on_error,
        expect: plan.expect.clone(),
        late: plan.open.as_ref().map_or_else(Default::default, |o| o.late),
        timeout: common.timeout,
        connect_timeout: plan.connect_timeout,
        connects_at_once: (CONNECTS_AT_ONCE / workers).max(1),
        connect_gap: connect_gap(plan.connect_rate_per_s, workers),
        warmup: common.warmup,
        duration,
        count,
        wait: at.wait,
        wakeup: Nanos::ZERO,
    };
    let mut first = 0;
    let client_of = |worker| {
        let connections = deal(u64::from(step.connections), worker, workers);
        let connections = u32::try_from(connections).unwrap_or(u32::MAX);
        let count = count.map(|count| deal(count, worker, workers));
        let schedule = schedule(plan, step, Share::new(worker, workers)).transpose()?;
        let recording = recording_of(count, duration, common.interval, schedule.is_some());
        let spec = HttpSpec { first, connections, count, ..whole.clone() };
        first += connections;
        // Each worker begins elsewhere in the order of the requests.
        let cycle = requests.order().len() as u64;
        let seed = cycle * u64::from(worker) / u64::from(workers);
        Ok(move |wakeup, gauge, interrupt| {
            let spec = HttpSpec { wakeup, ..spec };
            HttpClient::new(spec, Recording::new(recording), schedule, seed, gauge, interrupt)
        })
    };
    (0..workers).map(client_of).collect()
}

/// A worker's arrivals: the rate is held during the warm-up, and changes in the measured phase.
fn schedule(plan: &HttpPlan, step: Step, share: Share) -> Option<Result<Schedule>> {
    let stage = plan.stage(step)?;
    let load = Load {
        from_per_s: stage.from_per_s,
        to_per_s: stage.to_per_s,
        hold: plan.common.warmup,
        ramp: plan.extent(step).0.unwrap_or(Nanos::ZERO),
    };
    let arrivals = plan.open.as_ref()?.arrivals;
    Some(Schedule::new(&load, arrivals, plan.common.seed, share))
}

/// The gap between two connects of each of so many workers.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive rate, and the cast saturates"
)]
fn connect_gap(rate_per_s: Option<f64>, workers: u32) -> Nanos {
    Nanos(rate_per_s.map_or(0, |rate| (1e9 * f64::from(workers) / rate).max(1.0) as u64))
}

#[cfg(test)]
mod tests;
