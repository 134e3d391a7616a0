//! The plan of an HTTP load.

use std::net::{IpAddr, SocketAddr};

use super::{Arrivals, Common, Late, RequestSpec, StatusSet, Target};
use crate::units::Nanos;

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
    /// Connects begun per second over all workers before the start; absent: as fast as it goes, some at a time.
    pub connect_rate_per_s: Option<f64>,
    /// What counts as success.
    pub expect: StatusSet,
    /// Addresses of names, as curl's `--resolve`: host, port, addresses.
    pub resolve: Vec<(String, u16, IpAddr)>,
    /// Connect there instead, whatever the URL says; the `Host` header stays.
    pub connect_to: Option<(String, u16)>,
    /// Local addresses to connect from, in turn.
    pub bind: Vec<IpAddr>,
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
            common: Common {
                stop: super::Stop::After(Nanos::from_secs(10)),
                ..Common::default()
            },
        }
    }
}

/// The plan as results carry it.
#[must_use]
pub(in crate::run) fn describe(plan: &HttpPlan, addresses: &[SocketAddr]) -> serde_json::Value {
    super::describe_common(&plan.target, &plan.common, addresses)
}
