//! What only HTTP results have.

use serde::{Deserialize, Serialize};

/// The parameters of an HTTP step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HttpParams {
    /// The method of the first request.
    pub method: String,
    /// The first request's target: path and query.
    pub path: String,
    /// Different requests.
    pub requests: u64,
    /// Bytes of the first request, head and body.
    pub request_bytes: u64,
    /// Requests that a connection may have outstanding.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub pipeline: u32,
    /// Requests after which a connection is closed and replaced; absent: as long as the server
    /// keeps it.
    pub requests_per_connection: Option<u64>,
    /// `constant`, `poisson`, `jitter:10%`; absent in closed loop.
    pub arrivals: Option<String>,
    /// `queue` or `drop`; absent in closed loop.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["queue", "drop", null])))]
    pub late: Option<String>,
    /// The rate at the end of a ramp, where it differs from that at its begin (`rate_per_s`).
    pub rate_to_per_s: Option<f64>,
    /// Which stage it is, from 1; absent without stages.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub stage: Option<u32>,
    /// What counts as success, as typed: `2xx,304`.
    pub expect_status: String,
    /// Connections are replaced because that was asked for: `--reconnect-on-error`,
    /// `--requests-per-connection` or `Connection: close`.
    #[serde(default)]
    pub renews_connections: bool,
}

/// Responses of one status code, in the measured phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StatusCount {
    /// How many.
    pub count: u64,
    /// When the first came, nanoseconds from the start of the measured phase.
    pub first_at_ns: u64,
    /// Which response of the measured phase the first was, from 1, in the order of their arrival at
    /// all workers. Of several workers each knows how many responses the others had counted by
    /// then: what came to them in the same turn of their loops may be missing from it.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub first_ordinal: u64,
    /// It was expected.
    pub expected: bool,
}

/// What went over the connections in the measured phase.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Transfer {
    /// Bytes sent: requests, heads and bodies.
    pub sent_bytes: u64,
    /// Bytes received: responses, heads, framing and bodies.
    pub received_bytes: u64,
    /// Bytes of bodies alone, without framing, of whole responses.
    pub body_bytes: u64,
    /// `received_bytes` per second.
    pub received_bytes_per_s: f64,
}
