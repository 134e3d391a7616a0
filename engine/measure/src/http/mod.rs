//! Load on HTTP servers.

pub mod client;
pub mod plan;
pub(crate) mod result;
pub mod secret;
mod target;

use std::sync::Arc;

use tare_host::cpus::Cpus;
use tare_host::guard::ConntrackGuard;
use tare_proto::hello::WaitMode;
use tare_proto::http1::request::Requests;
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::Result;
use tare_units::limits::CONNECTS_AT_ONCE;
use tare_units::target::Target;

use crate::run::observe::Observer;
use crate::run::peer::{Peer, Search};
use crate::run::plan::{Common, Stop};
use crate::run::report::Measured;
use crate::run::report::vet::residences;
use crate::run::setting::Setting;
use crate::run::step::{self, LiveProgress, StepPlan, shares};
use crate::run::sweep::{Job, Measurer, Needs, Step, half_of};
use crate::worker::LoopPlan;
use crate::worker::destination::Destination;
use client::{HttpClient, HttpSpec, HttpTally};
use plan::HttpPlan;

impl Job for HttpPlan {
    fn about(&self) -> (&'static str, &Target, &Common) {
        ("http", &self.target, &self.common)
    }

    fn needs(&self, machine: &Cpus) -> Needs {
        let connections = self.connections.iter().copied().max().unwrap_or(1).max(1);
        let paced = self.open.is_some() && machine.can_spin();
        Needs {
            connections,
            opened: opened(self, connections),
            sources: self.bind.len().max(1) as u64,
            workers: half_of(machine, connections),
            wait: if paced { WaitMode::Hybrid } else { WaitMode::Block },
            separates: true,
        }
    }

    fn steps(&self) -> Vec<Step> {
        let stages = self.open.as_ref().map_or(1, |open| open.stages.len());
        let step = |connections, stage| Step { connections, stage, ..Step::default() };
        let connections = self.connections.iter();
        connections.flat_map(|&count| (0..stages).map(move |stage| step(count, stage))).collect()
    }

    fn describe(&self) -> serde_json::Value {
        plan::describe(self)
    }

    fn check(&self) -> Result<()> {
        self.check()
    }

    fn find(&self, search: Search<'_>) -> Result<Peer> {
        match &self.target {
            Target::Loopback | Target::Veth => {
                target::check_embedded(self)?;
                search.find(&self.target, self.common.timeout)
            }
            Target::Unix(path) => target::unix(self, path),
            Target::Host { host, port } => target::host(self, host, *port, search.interrupt),
        }
    }

    fn measurer(&self, address: Option<&Destination>) -> Result<Measurer<'_>> {
        let (plan, requests) = (Arc::new(self.clone()), Arc::new(self.written(address)?));
        Ok(Box::new(move |at, step, observer| measure_step(&plan, &requests, at, step, observer)))
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

fn measure_step(
    plan: &Arc<HttpPlan>,
    requests: &Arc<Requests>,
    at: &Setting,
    step: Step,
    observer: &mut dyn Observer,
) -> Result<Measured> {
    let params = plan::params(plan, step, &at.address, requests);
    at.announce(&params, observer);
    let step_plan = step_plan(plan, at, step);
    let clients = clients(plan, requests, at, step, step_plan.cpus.len())?;
    let (finish, merge) =
        (HttpClient::into_results, |mine: &mut HttpTally, other| mine.merge(&other));
    let outcome = step::run(step_plan, &params, clients, finish, merge, observer)?;

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

fn step_plan<'a>(plan: &'a HttpPlan, at: &'a Setting, step: Step) -> StepPlan<'a> {
    let (duration, count) = plan.extent(step);
    let busy = u64::from(step.connections).min(count.map_or(u64::MAX, |count| count.max(1)));
    StepPlan {
        duration,
        wait_is_default: false,
        // A connection that was refused is tried again, so how connections are dealt out to workers
        // decides nothing.
        needs_all: false,
        // A server may close each connection too, whatever was asked for.
        guard: matches!(at.address, Destination::Tcp(_)).then(ConntrackGuard::default),
        ..at.step_plan(&plan.common, u32::try_from(busy).unwrap_or(u32::MAX))
    }
}

fn clients(
    plan: &Arc<HttpPlan>,
    requests: &Arc<Requests>,
    at: &Setting,
    step: Step,
    workers: usize,
) -> Result<Vec<impl FnOnce(Nanos, LiveProgress, Interrupt) -> HttpClient<LiveProgress> + use<>>> {
    let count = u32::try_from(workers).unwrap_or(u32::MAX);
    // Each worker begins elsewhere in the order of the requests.
    let cycle = requests.order().len() as u64;
    let client_of = |(worker, (share, first, connections))| {
        let schedule = plan.schedule(step, share).transpose()?;
        let spec = HttpSpec {
            plan: Arc::clone(plan),
            to: at.address.clone(),
            first,
            requests: Arc::clone(requests),
            requests_per_connection: plan.requests_per_connection(),
            connects_at_once: (CONNECTS_AT_ONCE / count).max(1),
            connect_gap: connect_gap(plan.connect_rate_per_s, count),
            run: plan.loop_plan(step, share, connections),
        };
        let seed = cycle * worker / u64::from(count);
        Ok(move |wakeup, gauge, interrupt| {
            let spec = HttpSpec { run: LoopPlan { wakeup, ..spec.run }, ..spec };
            HttpClient::new(spec, schedule, seed, gauge, interrupt)
        })
    };
    (0..).zip(shares(workers, step.connections)).map(client_of).collect()
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
