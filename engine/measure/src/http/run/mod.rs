//! What an HTTP load measures: `tare http`.

mod target;

use std::sync::{Arc, OnceLock};

use super::plan::{HttpPlan, Stage};
use crate::http::client::{HttpSpec, HttpTally};
use crate::http::job::HttpJob;
use crate::http::plan::describe;
use crate::http::secret;
use crate::run::far_end;
use crate::run::far_end::{FarEnd, Held};
use crate::run::plan::{Common, Stop};
use crate::run::report;
use crate::run::report::Inputs;
use crate::run::step::{StepOutcome, StepPlan};
use crate::run::sweep::{Measure, Setting, Step};
use crate::worker::destination::Destination;
use tare_driver::shown;
use tare_host::cpus::Cpus;
use tare_host::guard::ConntrackGuard;
use tare_proto::hello::WaitMode;
use tare_proto::http1::request::{RequestSpec, Requests};
use tare_stats::result::{HttpParams, Params, StepResult};
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::limits::CONNECTS_AT_ONCE;
use tare_units::target::Target;

/// The host of requests over a Unix socket, where none was given: curl's.
const UNIX_HOST: &str = "localhost";

/// A plan, and its requests once they are written out.
#[derive(Debug)]
pub(crate) struct HttpRun<'a> {
    plan: &'a HttpPlan,
    requests: OnceLock<Arc<Requests>>,
}

impl<'a> HttpRun<'a> {
    /// A run of `plan`.
    ///
    /// # Errors
    /// A usage error for a plan that cannot be carried out.
    pub(crate) fn new(plan: &'a HttpPlan) -> Result<Self> {
        check(plan)?;
        Ok(Self { plan, requests: OnceLock::new() })
    }

    fn stage(&self, step: Step) -> Option<Stage> {
        self.plan.open.as_ref()?.stages.get(step.stage).copied()
    }

    /// How long the measured phase of a step is, or how many requests it has.
    fn extent(&self, step: Step) -> (Option<Nanos>, Option<u64>) {
        let own = self.stage(step).and_then(|stage| stage.duration);
        match (own, self.plan.common.stop) {
            (Some(duration), _) | (None, Stop::After(duration)) => (Some(duration), None),
            (None, Stop::Count(count)) => (None, Some(count)),
        }
    }

    /// Writes the requests out: they are known in full once the address is.
    fn write_requests(&self, address: &Destination) -> Result<()> {
        let specs: Vec<(RequestSpec, u32)> = self
            .plan
            .requests
            .iter()
            .map(|weighted| {
                let mut request = weighted.request.clone();
                request.host = host(&self.plan.target, &request.host, address);
                (request, weighted.weight)
            })
            .collect();
        let requests = Requests::new(&specs, self.plan.pipeline, self.plan.common.seed)?;
        self.requests.get_or_init(|| Arc::new(requests));
        Ok(())
    }

    fn http_params(&self, step: Step) -> HttpParams {
        let plan = self.plan;
        let first = plan.requests.first().map(|weighted| &weighted.request);
        let bytes = self.requests.get().and_then(|r| r.entries().first());
        let stage = self.stage(step);
        let stages = plan.open.as_ref().map_or(0, |open| open.stages.len());
        HttpParams {
            method: first.map_or_else(String::new, |r| r.method.clone()),
            path: first.map_or_else(String::new, |r| secret::shown_path(&r.target)),
            requests: plan.requests.len() as u64,
            request_bytes: bytes.map_or(0, |entry| u64::from(entry.len)),
            pipeline: plan.pipeline,
            requests_per_connection: self.requests_per_connection(),
            arrivals: plan.open.as_ref().map(|open| open.arrivals.to_string()),
            late: plan.open.as_ref().map(|open| open.late.name().to_owned()),
            rate_to_per_s: stage.filter(Stage::is_ramp).map(|stage| stage.to_per_s),
            stage: (stages > 1).then(|| u32::try_from(step.stage + 1).unwrap_or(u32::MAX)),
            expect_status: plan.expect.text().to_owned(),
            renews_connections: self.renews_connections(),
        }
    }

    /// That connections are replaced was asked for.
    fn renews_connections(&self) -> bool {
        let plan = self.plan;
        plan.reconnect_on_error
            || plan.requests_per_connection.is_some()
            || plan.requests.iter().any(|w| w.request.close)
    }

    /// After how many requests a connection is replaced; one, where each asks for that.
    fn requests_per_connection(&self) -> Option<u64> {
        let close = self.plan.requests.iter().all(|w| w.request.close);
        let asked = self.plan.requests_per_connection;
        if close { Some(1) } else { asked }
    }

    fn spec(&self, step: Step, setting: &Setting<'_>, workers: u32) -> Result<HttpSpec> {
        let plan = self.plan;
        let requests =
            self.requests.get().ok_or_else(|| Error::bug("the requests were not written out"))?;
        let (duration, count) = self.extent(step);
        Ok(HttpSpec {
            to: setting.address.clone(),
            bind: plan.bind.clone(),
            first: 0,
            connections: step.connections,
            requests: Arc::clone(requests),
            pipeline: plan.pipeline,
            requests_per_connection: self.requests_per_connection(),
            reconnect_on_error: plan.reconnect_on_error,
            expect: plan.expect.clone(),
            late: plan.open.as_ref().map_or_else(Default::default, |o| o.late),
            timeout: plan.common.timeout,
            connect_timeout: plan.connect_timeout,
            connects_at_once: (CONNECTS_AT_ONCE / workers).max(1),
            connect_gap: connect_gap(plan.connect_rate_per_s, workers),
            warmup: plan.common.warmup,
            duration,
            count,
            wait: setting.wait,
            wakeup: Nanos::ZERO,
        })
    }
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

/// The `Host` of a request. A far end of this process has no name but its address.
fn host(target: &Target, asked: &str, address: &Destination) -> String {
    let is_unnamed = asked.is_empty() || asked == target.to_string();
    match (target, address) {
        (Target::Loopback | Target::Veth, Destination::Tcp(address)) if is_unnamed => {
            address.to_string()
        }
        (Target::Unix(_), _) if is_unnamed => UNIX_HOST.to_owned(),
        _ => asked.to_owned(),
    }
}

fn check(plan: &HttpPlan) -> Result<()> {
    if plan.requests.is_empty() {
        return Err(Error::usage("there is nothing to send").remedy("give a URL"));
    }
    if plan.connections.contains(&0) || plan.connections.is_empty() {
        return Err(Error::usage("no connections").remedy("give at least one: -c 1"));
    }
    if plan.pipeline == 0 || plan.requests_per_connection == Some(0) {
        return Err(Error::usage("a connection that carries no request measures nothing")
            .remedy("give at least 1 for --pipeline and --requests-per-connection"));
    }
    if plan.connect_rate_per_s.is_some_and(|rate| rate <= 0.0 || rate.is_nan()) {
        return Err(
            Error::usage("a connect rate of 0 never connects").remedy("give one above 0, or none")
        );
    }
    let Some(open) = &plan.open else {
        return Ok(());
    };
    if open.stages.is_empty() {
        return Err(Error::usage("an open loop without a rate").remedy("give one: -R 1000"));
    }
    let counted = matches!(plan.common.stop, Stop::Count(_));
    if counted && open.stages.iter().any(|s| s.is_ramp() && s.duration.is_none()) {
        return Err(Error::usage("a ramp needs to know how long it is")
            .remedy("give it a duration, for example --stages 1000-5000:30s"));
    }
    Ok(())
}

impl Measure for HttpRun<'_> {
    type Job = HttpJob;
    const KIND: &'static str = "http";
    const NOTHING: &'static str = "no response as expected came from";
    const SEPARATE: bool = true;

    fn common(&self) -> &Common {
        &self.plan.common
    }

    fn target(&self) -> &Target {
        &self.plan.target
    }

    fn most_connections(&self) -> u32 {
        self.plan.connections.iter().copied().max().unwrap_or(1)
    }

    fn connects_each(&self) -> bool {
        self.renews_connections()
    }

    fn connects_total(&self) -> Option<u64> {
        // Without a number of its own each request may be a connection's last.
        let each = match self.requests_per_connection() {
            None => self.renews_connections().then_some(1)?,
            Some(each) => each.max(1),
        };
        match self.plan.common.stop {
            Stop::Count(count) => Some(count.div_ceil(each)),
            Stop::After(_) => None,
        }
    }

    fn sources(&self) -> u64 {
        self.plan.bind.len().max(1) as u64
    }

    fn find(
        &self,
        client_cpus: &[u32],
        held: Option<&Held>,
        interrupt: &Interrupt,
    ) -> Result<FarEnd> {
        let plan = self.plan;
        let far_end = match &plan.target {
            Target::Loopback | Target::Veth => {
                target::check_embedded(plan)?;
                far_end::find(
                    &plan.target,
                    plan.connect_timeout,
                    self.most_connections().max(1),
                    client_cpus,
                    held,
                    interrupt,
                )?
            }
            Target::Unix(path) => target::unix(plan, path)?,
            Target::Host { host, port } => target::host(plan, host, *port, interrupt)?,
        };
        self.write_requests(&far_end.addresses[0])?;
        Ok(far_end)
    }

    /// As for bulk: half of the CPUs, rounded up, since a far end on this machine needs the others, and the kernel does
    /// where it is elsewhere.
    fn default_workers(&self, cpus: &Cpus) -> u32 {
        let most = cpus.default_workers(self.most_connections());
        let allowed = u32::try_from(cpus.allowed.len()).unwrap_or(u32::MAX);
        allowed.div_ceil(2).clamp(1, most)
    }

    fn default_wait(&self, cpus: &Cpus) -> WaitMode {
        if self.plan.open.is_some() && cpus.can_spin() { WaitMode::Hybrid } else { WaitMode::Block }
    }

    fn steps(&self) -> Vec<Step> {
        let stages = self.plan.open.as_ref().map_or(1, |open| open.stages.len());
        let connections = self.plan.connections.iter();
        connections
            .flat_map(|&connections| {
                (0..stages).map(move |stage| Step { connections, stage, ..Step::default() })
            })
            .collect()
    }

    fn params(&self, step: Step, address: &Destination) -> Params {
        let plan = self.plan;
        let first = plan.requests.first().and_then(|w| w.request.body.as_ref());
        Params {
            proto: "http".to_owned(),
            size_bytes: first.map_or(0, |body| body.bytes.len() as u64),
            connections: step.connections,
            rate_per_s: self.stage(step).map(|stage| stage.from_per_s),
            timeout_ns: plan.common.timeout.0,
            target: plan.target.to_string(),
            address: Some(address.to_string()),
            http: Some(self.http_params(step)),
            ..Params::default()
        }
    }

    fn step_plan(&self, step: Step, setting: &Setting<'_>) -> Result<StepPlan<HttpJob>> {
        let common = &self.plan.common;
        let (duration, count) = self.extent(step);
        let busy = count.map_or(u64::MAX, |count| count.max(1));
        let busy = u64::from(step.connections).min(busy);
        let cpus = setting.cpus_for(u32::try_from(busy).unwrap_or(u32::MAX));
        let workers = u32::try_from(cpus.len()).unwrap_or(u32::MAX);
        let spec = self.spec(step, setting, workers)?;
        let schedule = self.stage(step).zip(self.plan.open.as_ref());
        let schedule = schedule.map(|(stage, open)| (stage, open.arrivals));
        Ok(StepPlan {
            jobs: HttpJob::deal(&spec, schedule, common, workers)?,
            cpus,
            backend: setting.chosen.backend,
            warmup: common.warmup,
            duration,
            wait: setting.wait,
            wait_is_default: false,
            interval: common.interval,
            counts_bytes: false,
            observe: common.observe.clone(),
            // A server may close each connection too, whatever was asked for.
            guard: matches!(setting.address, Destination::Tcp(_)).then(ConntrackGuard::default),
        })
    }

    fn describe(&self, addresses: &[Destination]) -> serde_json::Value {
        describe(self.plan, addresses)
    }

    fn unreached_advice(&self, next: &Destination) -> String {
        match (&self.plan.target, next) {
            (Target::Host { host, port }, Destination::Tcp(next)) => {
                let next = shown(*next);
                format!("give the address itself: --resolve {host}:{port}:{next}")
            }
            _ => format!("give the address itself: {next}"),
        }
    }

    fn spread_unsent(tally: &HttpTally) -> u64 {
        tally.record.recording.spread_unsent()
    }

    fn vet(outcome: &mut StepOutcome<HttpTally>, _wall: Nanos) -> Vec<String> {
        report::vet::residences(&outcome.result.tally.record.recording)
    }

    fn result(&self, inputs: &Inputs<'_, HttpTally>) -> StepResult {
        crate::http::result::step(inputs, &self.plan.expect)
    }

    fn is_empty(step: &StepResult) -> bool {
        !step.has_answers()
    }

    /// The server was reached: with fewer or more connections, or at another rate, it may answer.
    fn goes_on(step: &StepResult) -> bool {
        step.connections.established > 0
    }

    fn explain(step: &StepResult, failure: Option<Error>, address: &Destination) -> Error {
        crate::http::result::explain(step, failure, address)
    }
}

#[cfg(test)]
mod tests;
