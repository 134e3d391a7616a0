//! What all plans have. A plan is validated: the command line becomes one, and everything after it
//! only reads it.

use crate::schedule::Share;
use crate::worker::LoopPlan;
use tare_driver::BackendChoice;
use tare_host::observed::Observation;
use tare_proto::auth::Secret;
use tare_proto::hello::WaitMode;
use tare_units::Nanos;
use tare_units::target::Target;

/// When a step's measured phase ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// After that long.
    After(Nanos),
    /// After that many operations over all connections.
    Count(u64),
}

impl Stop {
    /// The duration or the count, whichever it is.
    pub(crate) const fn parts(self) -> (Option<Nanos>, Option<u64>) {
        match self {
            Self::After(duration) => (Some(duration), None),
            Self::Count(count) => (None, Some(count)),
        }
    }
}

/// Options that every measuring command shares.
#[derive(Debug, Clone)]
pub struct Common {
    /// When a step ends.
    pub stop: Stop,
    /// Length of the warm-up.
    pub warmup: Nanos,
    /// Per operation, and for connecting and the handshake.
    pub timeout: Nanos,
    /// Workers asked for; by default one for `lat`.
    pub threads: Option<u32>,
    /// CPUs asked for, in the order given.
    pub cpus: Option<Vec<u32>>,
    /// How to wait; absent: the command's default.
    pub wait: Option<WaitMode>,
    /// The backend, at both ends.
    pub backend: BackendChoice,
    /// Quantiles to print, per cent.
    pub percentiles: Vec<f64>,
    /// The seed of everything random.
    pub seed: u64,
    /// Length of an entry of the time series.
    pub interval: Nanos,
    /// The user's label.
    pub label: Option<String>,
    /// The shared secret's bytes. Never printed.
    pub secret: Option<Secret>,
    /// Hold `/dev/cpu_dma_latency` at zero for the run.
    pub no_idle: bool,
    /// What was typed, for the report alone: secrets redacted already.
    pub command_line: Option<String>,
    /// Processes and control groups of this host to look at in every step.
    pub observe: Vec<Observation>,
}

impl Default for Common {
    /// Five seconds after half a second of warm-up, everything else as the machine allows.
    fn default() -> Self {
        Self {
            stop: Stop::After(Nanos::from_secs(5)),
            warmup: Nanos::from_millis(500),
            timeout: Nanos::from_secs(2),
            threads: None,
            cpus: None,
            wait: None,
            backend: BackendChoice::Auto,
            percentiles: tare_stats::summary::PERCENTILES.to_vec(),
            seed: 0,
            interval: Nanos::from_secs(1),
            label: None,
            secret: None,
            no_idle: false,
            command_line: None,
            observe: Vec::new(),
        }
    }
}

impl Common {
    /// What a worker of `connections` is to do in a measured phase that ends by a duration or by
    /// the count of all workers.
    pub(crate) fn loop_plan(
        &self,
        (duration, count): (Option<Nanos>, Option<u64>),
        share: Share,
        connections: u32,
    ) -> LoopPlan {
        LoopPlan {
            warmup: self.warmup,
            duration,
            count: count.map(|count| share.of(count)),
            timeout: self.timeout,
            interval: self.interval,
            wakeup: Nanos::ZERO,
            slots: connections,
            depth: 1,
        }
    }
}

/// From one of so many a second to the next.
pub(crate) fn gap(rate_per_s: f64) -> Nanos {
    Nanos((1e9 / rate_per_s) as u64)
}

/// A plan as results carry it: what all plans have, and what is the job's `own`.
pub(crate) fn describe(
    target: &Target,
    common: &Common,
    addresses: &[impl ToString],
    own: serde_json::Value,
) -> serde_json::Value {
    let (duration, count) = common.stop.parts();
    let backend = match common.backend {
        BackendChoice::Auto => "auto",
        BackendChoice::Only(backend) => backend.name(),
    };
    let observe = common.observe.iter();
    let observe =
        observe.map(|one| serde_json::json!({"name": one.name, "what": one.what.to_string()}));
    let mut described = serde_json::json!({
        "command_line": common.command_line,
        "target": target.to_string(),
        "addresses": addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "duration_ns": duration.map(|duration| duration.0),
        "count": count,
        "warmup_ns": common.warmup.0,
        "timeout_ns": common.timeout.0,
        "threads": common.threads,
        "cpus": common.cpus,
        "wait": common.wait.map(WaitMode::name),
        "backend": backend,
        "percentiles": common.percentiles,
        "interval_ns": common.interval.0,
        "label": common.label,
        "secret": common.secret.is_some(),
        "no_idle": common.no_idle,
        "observe": observe.collect::<Vec<_>>(),
    });
    if let (Some(described), serde_json::Value::Object(own)) = (described.as_object_mut(), own) {
        described.extend(own);
    }
    described
}
