//! What a server serves.

use std::net::SocketAddr;

use tare_driver::BackendChoice;
use tare_proto::auth::Secret;
use tare_proto::hello::WaitMode;
use tare_units::Nanos;
use tare_units::limits::HTTP_CONNECTIONS_MAX;

use crate::server::worker::http::Stall;

/// A server, and what it allows its clients.
#[derive(Debug, Clone)]
pub struct ServePlan {
    /// Addresses to listen on, TCP and UDP each.
    pub listen: Vec<SocketAddr>,
    /// `listen` was not given: `[::]` falls back to `0.0.0.0` where IPv6 is off.
    pub listen_is_default: bool,
    /// Stop after the first client's sessions are over.
    pub once: bool,
    /// Sessions at once.
    pub max_sessions: u32,
    /// Longest life of a session.
    pub max_duration: Nanos,
    /// A session, or a connection yet to say hello, without traffic for that long is closed.
    pub idle_timeout: Nanos,
    /// Spin for clients that ask for it even without a CPU to spare.
    pub allow_spin: bool,
    /// CPUs for session workers.
    pub cpus: Option<Vec<u32>>,
    /// Backends that clients may ask for.
    pub backend: BackendChoice,
    /// The shared secret that clients must prove to know.
    pub secret: Option<Secret>,
    /// How HTTP is served; not at all, without.
    pub http: Option<HttpSettings>,
}

/// How a server serves HTTP. None of it asks for the secret.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// How the HTTP worker waits; it always spins for a response that is due within 300 µs.
    /// Spinning takes what sessions need for it.
    pub wait: WaitMode,
    /// Longest silence of a connection, longest time for which a client may take nothing of what it
    /// is sent, and longest time that a response from memory of its own may take to be read.
    pub idle: Nanos,
    /// Connections at once.
    pub connections_max: u32,
    /// Seeds what `/echo` leaves to chance.
    pub seed: u64,
    /// When the whole HTTP side does nothing, counted from its first request.
    pub stalls: Vec<Stall>,
}

impl Default for HttpSettings {
    /// Blocking, as many connections as can be, for as long as they like, no stall.
    fn default() -> Self {
        Self {
            wait: WaitMode::Block,
            idle: Nanos::MAX,
            connections_max: HTTP_CONNECTIONS_MAX,
            seed: 0,
            stalls: Vec::new(),
        }
    }
}
