//! The plan of an HTTP load.

use std::net::SocketAddr;

use super::secret;
use crate::run::plan::{Common, Stop};
use crate::run::sweep::Step;
use crate::schedule::{Arrivals, Load, Schedule, Share};
use crate::worker::LoopPlan;
use crate::worker::destination::Destination;
use tare_driver::shown;
use tare_proto::http1::request::{Body, Framing, RequestSpec, Requests};
use tare_proto::http1::status::StatusSet;
use tare_stats::result::{HttpParams, Params};
use tare_units::Nanos;
use tare_units::error::{Error, Result};
use tare_units::target::Target;

/// The host of requests over a Unix socket, where none was given: curl's.
const UNIX_HOST: &str = "localhost";

/// A request and how often it is sent, relative to the others.
#[derive(Debug, Clone)]
pub struct Weighted {
    /// The request.
    pub request: RequestSpec,
    /// At least one.
    pub weight: u32,
}

/// A stretch of an open loop: one step of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    /// Requests per second over all connections, at its begin.
    pub from_per_s: f64,
    /// The same at its end; another one than `from_per_s` is a ramp, linear in time.
    pub to_per_s: f64,
    /// How long it is measured; absent: as [`Common::stop`] says.
    pub duration: Option<Nanos>,
}

impl Stage {
    /// Whether the rate changes; told apart as typed.
    #[must_use]
    pub const fn is_ramp(&self) -> bool {
        self.from_per_s.to_bits() != self.to_per_s.to_bits()
    }
}

/// What becomes of a request that is due and finds no free connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Late {
    /// It waits for one.
    #[default]
    Queue,
    /// It is dropped, and counted.
    Drop,
}

impl Late {
    /// The name in flags and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Drop => "drop",
        }
    }
}

/// Requests on a schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenLoop {
    /// One step each, for each number of connections.
    pub stages: Vec<Stage>,
    /// How the gaps are distributed.
    pub arrivals: Arrivals,
    /// What becomes of a request that finds no free connection.
    pub late: Late,
}

/// An HTTP/1.1 load run.
#[derive(Debug, Clone)]
pub struct HttpPlan {
    /// Against what. All requests of a run go there.
    pub target: Target,
    /// What is sent, at least one.
    pub requests: Vec<Weighted>,
    /// Concurrent connections: one step each.
    pub connections: Vec<u32>,
    /// On a schedule; absent: closed loop, each connection sends when it was answered.
    pub open: Option<OpenLoop>,
    /// Requests that a connection may have outstanding.
    pub pipeline: u32,
    /// A connection is closed and replaced after so many; one with `--connection close`.
    pub requests_per_connection: Option<u64>,
    /// A connection whose response was not as expected is closed and replaced.
    pub reconnect_on_error: bool,
    /// For connecting; [`Common::timeout`] is for each request, from its actual send.
    pub connect_timeout: Nanos,
    /// Connects begun per second over all workers before the start; absent: as fast as it goes,
    /// some at a time.
    pub connect_rate_per_s: Option<f64>,
    /// What counts as success.
    pub expect: StatusSet,
    /// Addresses of names, as curl's `--resolve`: host, address and port.
    pub resolve: Vec<(String, SocketAddr)>,
    /// Connect there instead, whatever the URL says; the `Host` header stays.
    pub connect_to: Option<(String, u16)>,
    /// Local addresses to connect from, in turn, without a port.
    pub bind: Vec<SocketAddr>,
    /// What every measuring command has.
    pub common: Common,
}

impl HttpPlan {
    /// `GET /` at `target`, on ten connections in closed loop.
    #[must_use]
    pub fn to(target: Target) -> Self {
        Self {
            requests: vec![Weighted {
                request: RequestSpec::get("/", &target.to_string()),
                weight: 1,
            }],
            target,
            connections: vec![10],
            open: None,
            pipeline: 1,
            requests_per_connection: None,
            reconnect_on_error: false,
            connect_timeout: Nanos::from_secs(2),
            connect_rate_per_s: None,
            expect: StatusSet::default(),
            resolve: Vec::new(),
            connect_to: None,
            bind: Vec::new(),
            common: Common { stop: Stop::After(Nanos::from_secs(10)), ..Common::default() },
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let stages = self.open.as_ref().map(|open| open.stages.as_slice());
        let counted = matches!(self.common.stop, Stop::Count(_));
        let is_endless = |stage: &Stage| counted && stage.is_ramp() && stage.duration.is_none();
        let refused = [
            (self.requests.is_empty(), "there is nothing to send", "give a URL"),
            (
                self.connections.contains(&0) || self.connections.is_empty(),
                "no connections",
                "give at least one: -c 1",
            ),
            (
                self.pipeline == 0 || self.requests_per_connection == Some(0),
                "a connection that carries no request measures nothing",
                "give at least 1 for --pipeline and --requests-per-connection",
            ),
            (
                self.connect_rate_per_s.is_some_and(|rate| rate <= 0.0 || rate.is_nan()),
                "a connect rate of 0 never connects",
                "give one above 0, or none",
            ),
            (
                stages.is_some_and(<[Stage]>::is_empty),
                "an open loop without a rate",
                "give one: -R 1000",
            ),
            (
                stages.unwrap_or_default().iter().any(is_endless),
                "a ramp needs to know how long it is",
                "give it a duration, for example --stages 1000-5000:30s",
            ),
        ];
        match refused.into_iter().find(|(is_so, ..)| *is_so) {
            Some((_, message, remedy)) => Err(Error::usage(message).remedy(remedy)),
            None => Ok(()),
        }
    }

    pub(super) fn stage(&self, step: Step) -> Option<Stage> {
        self.open.as_ref()?.stages.get(step.stage).copied()
    }

    /// How long the measured phase of a step is, or how many requests it has.
    pub(super) fn extent(&self, step: Step) -> (Option<Nanos>, Option<u64>) {
        match self.stage(step).and_then(|stage| stage.duration) {
            Some(duration) => (Some(duration), None),
            None => self.common.stop.parts(),
        }
    }

    pub(super) fn loop_plan(&self, step: Step, share: Share, connections: u32) -> LoopPlan {
        let own = self.common.loop_plan(self.extent(step), share, connections);
        LoopPlan { depth: self.pipeline, ..own }
    }

    /// A worker's arrivals: the rate is held during the warm-up, and changes in the measured phase.
    pub(super) fn schedule(&self, step: Step, share: Share) -> Option<Result<Schedule>> {
        let stage = self.stage(step)?;
        let load = Load {
            from_per_s: stage.from_per_s,
            to_per_s: stage.to_per_s,
            hold: self.common.warmup,
            ramp: self.extent(step).0.unwrap_or(Nanos::ZERO),
        };
        let arrivals = self.open.as_ref()?.arrivals;
        Some(Schedule::new(&load, arrivals, self.common.seed, share))
    }

    /// The requests written out, which are known in full once the address is.
    pub(super) fn written(&self, address: Option<&Destination>) -> Result<Requests> {
        let written = self.requests.iter().map(|weighted| {
            let mut request = weighted.request.clone();
            request.host = host(&self.target, &request.host, address);
            (request, weighted.weight)
        });
        let written: Vec<(RequestSpec, u32)> = written.collect();
        Requests::new(&written, self.pipeline, self.common.seed)
    }

    pub(super) fn late(&self) -> Late {
        self.open.as_ref().map_or(Late::Queue, |open| open.late)
    }

    /// Connections are replaced as was asked for.
    pub(super) fn renews_connections(&self) -> bool {
        self.reconnect_on_error
            || self.requests_per_connection.is_some()
            || self.requests.iter().any(|w| w.request.close)
    }

    /// After how many requests a connection is replaced; one, where each asks for that.
    pub(super) fn requests_per_connection(&self) -> Option<u64> {
        let close = self.requests.iter().all(|w| w.request.close);
        if close { Some(1) } else { self.requests_per_connection }
    }
}

/// The `Host` of a request. A server of this process has no name but its address.
pub(super) fn host(target: &Target, asked: &str, address: Option<&Destination>) -> String {
    let is_unnamed = asked.is_empty() || asked == target.to_string();
    match (target, address) {
        (Target::Loopback | Target::Veth, Some(Destination::Tcp(address))) if is_unnamed => {
            address.to_string()
        }
        (Target::Unix(_), _) if is_unnamed => UNIX_HOST.to_owned(),
        _ => asked.to_owned(),
    }
}

pub(super) fn params(
    plan: &HttpPlan,
    step: Step,
    address: &Destination,
    requests: &Requests,
) -> Params {
    let first = plan.requests.first().map(|weighted| &weighted.request);
    let body = first.and_then(|request| request.body.as_ref());
    let stage = plan.stage(step);
    let open = plan.open.as_ref();
    let has_stages = open.is_some_and(|open| open.stages.len() > 1);
    Params {
        proto: "http".to_owned(),
        size_bytes: body.map_or(0, |body| body.bytes.len() as u64),
        connections: step.connections,
        rate_per_s: stage.map(|stage| stage.from_per_s),
        timeout_ns: plan.common.timeout.0,
        target: plan.target.to_string(),
        address: Some(address.to_string()),
        http: Some(HttpParams {
            method: first.map_or_else(String::new, |r| r.method.clone()),
            path: first.map_or_else(String::new, |r| secret::shown_path(&r.target)),
            requests: plan.requests.len() as u64,
            request_bytes: requests.entries().first().map_or(0, |entry| u64::from(entry.len)),
            pipeline: plan.pipeline,
            requests_per_connection: plan.requests_per_connection(),
            arrivals: open.map(|open| open.arrivals.to_string()),
            late: open.map(|open| open.late.name().to_owned()),
            rate_to_per_s: stage.filter(Stage::is_ramp).map(|stage| stage.to_per_s),
            stage: has_stages.then(|| u32::try_from(step.stage + 1).unwrap_or(u32::MAX)),
            expect_status: plan.expect.text().to_owned(),
            renews_connections: plan.renews_connections(),
        }),
        ..Params::default()
    }
}

pub(super) fn describe(plan: &HttpPlan) -> serde_json::Value {
    let open = plan.open.as_ref();
    let stage = |stage: &Stage| {
        serde_json::json!({
            "from_per_s": stage.from_per_s,
            "to_per_s": stage.to_per_s,
            "duration_ns": stage.duration.map(|d| d.0),
        })
    };
    let resolve =
        |(host, at): &(String, SocketAddr)| format!("{host}:{}:{}", at.port(), shown(*at));
    serde_json::json!({
        "proto": "http",
        "requests": plan.requests.iter().map(request).collect::<Vec<_>>(),
        "connections": plan.connections,
        "stages": open.map(|open| open.stages.iter().map(stage).collect::<Vec<_>>()),
        "arrivals": open.map(|open| open.arrivals.to_string()),
        "late": open.map(|open| open.late.name()),
        "pipeline": plan.pipeline,
        "requests_per_connection": plan.requests_per_connection,
        "reconnect_on_error": plan.reconnect_on_error,
        "connect_timeout_ns": plan.connect_timeout.0,
        "connect_rate_per_s": plan.connect_rate_per_s,
        "expect_status": plan.expect.text(),
        "resolve": plan.resolve.iter().map(resolve).collect::<Vec<_>>(),
        "connect_to": plan.connect_to.as_ref().map(|(host, port)| format!("{host}:{port}")),
        "bind": plan.bind.iter().copied().map(shown).collect::<Vec<_>>(),
    })
}

/// A request without its secrets and without the bytes of its body.
fn request(weighted: &Weighted) -> serde_json::Value {
    let request = &weighted.request;
    let header = |(name, value): &(String, String)| {
        let value = if secret::shows_header(name) { value } else { secret::REDACTED };
        format!("{name}: {value}")
    };
    let body = request.body.as_ref();
    let framing = |body: &Body| match body.framing {
        Framing::Length => "length",
        Framing::Chunked => "chunked",
    };
    serde_json::json!({
        "method": request.method,
        "path": secret::shown_path(&request.target),
        "host": request.host,
        "headers": request.headers.iter().map(header).collect::<Vec<_>>(),
        "body_bytes": body.map(|body| body.bytes.len()),
        "framing": body.map(framing),
        "close": request.close,
        "weight": weighted.weight,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_never_appear_in_a_description() {
        let mut plan = HttpPlan::to(Target::Host { host: "web".to_owned(), port: 80 });
        let names = ["Authorization", "COOKIE", "proxy-authorization", "X-API-Key", "X-Auth"];
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let request = &mut plan.requests[0].request;
        request.headers.extend(names.map(|name| header(name, "hunter2")));
        request.headers.push(header("Accept", "*/*"));
        request.target = "/a?b=c&token=hunter2".to_owned();
        request.body = Some(Body { bytes: b"hunter2".to_vec(), framing: Framing::Chunked });
        let described = describe(&plan);
        let text = described.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        let request = &described["requests"][0];
        assert_eq!(request["headers"][0], "Authorization: (redacted)");
        assert_eq!(request["headers"][5], "Accept: */*");
        assert_eq!(request["path"], "/a?b=c&token=(redacted)");
        assert_eq!((&request["body_bytes"], &request["framing"]), (&7.into(), &"chunked".into()));
        assert!(described["stages"].is_null());
    }
}
