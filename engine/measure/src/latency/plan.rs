//! The plan of a latency run.

use std::net::SocketAddr;

use tare_driver::shown;
use tare_proto::hello::Transport;
use tare_units::Nanos;
use tare_units::target::Target;

use crate::bandwidth::plan::BwPlan;
use crate::run::plan::{Common, describe_common};

/// A ping-pong latency run.
#[derive(Debug, Clone)]
pub struct LatPlan {
    /// Against what.
    pub target: Target,
    /// Over what.
    pub transport: Transport,
    /// Message sizes, bytes, both ways: one step each.
    pub sizes: Vec<u32>,
    /// Concurrent ping-pongs: one step each (for each size).
    pub connections: Vec<u32>,
    /// A connection per operation (TCP only).
    pub connect_each: bool,
    /// Operations per second over all connections, on an open-loop schedule.
    pub rate_per_s: Option<f64>,
    /// The far end holds each reply that long, spinning.
    pub server_delay: Nanos,
    /// Each step is measured twice: idle, and while this goes over the same path.
    pub under_load: Option<Load>,
    /// The local address to send from, without a port.
    pub bind: Option<SocketAddr>,
    /// What every measuring command has.
    pub common: Common,
}

impl LatPlan {
    /// One connection of 64-byte messages to `target` over TCP, in closed loop.
    #[must_use]
    pub fn to(target: Target) -> Self {
        Self {
            target,
            transport: Transport::Tcp,
            sizes: vec![64],
            connections: vec![1],
            connect_each: false,
            rate_per_s: None,
            server_delay: Nanos::ZERO,
            under_load: None,
            bind: None,
            common: Common::default(),
        }
    }
}

/// A bulk transfer beside a latency measurement.
#[derive(Debug, Clone)]
pub struct Load {
    /// Its options as typed.
    pub options: String,
    /// What they came to. Its target is that of the latency run, and how long it lasts follows from that.
    pub plan: Box<BwPlan>,
}

/// The plan as results carry it: defaults filled in, names resolved, and of a secret only that there is one.
#[must_use]
pub fn describe(plan: &LatPlan, addresses: &[impl ToString]) -> serde_json::Value {
    let mut described = describe_common(&plan.target, &plan.common, addresses);
    let own = serde_json::json!({
        "proto": plan.transport.name(),
        "sizes_bytes": plan.sizes,
        "connections": plan.connections,
        "connect_each": plan.connect_each,
        "rate_per_s": plan.rate_per_s,
        "server_delay_ns": plan.server_delay.0,
        "under_load": plan.under_load.as_ref().map(|load| load.options.as_str()),
        "bind": plan.bind.map(shown),
    });
    if let (Some(described), serde_json::Value::Object(own)) = (described.as_object_mut(), own) {
        described.extend(own);
    }
    described
}
