//! What a bandwidth run measures.

use super::plan::{BwPlan, Sink, ZeroCopy};
use crate::bandwidth::client::{BulkSpec, BulkTally};
use crate::bandwidth::job::BwJob;
use crate::run::plan::{Common, Stop};
use crate::run::report::Inputs;
use crate::run::report::vet::{Bounds, vet, vet_against};
use crate::run::step::{StepOutcome, StepPlan};
use crate::run::sweep::{Measure, Setting, Step};
use crate::worker::SessionSpec;
use crate::worker::destination::Destination;
use tare_driver::shown;
use tare_host::cpus::Cpus;
use tare_proto::hello::WaitMode;
use tare_proto::hello::{Accept, Hello, Test};
use tare_proto::stream::StreamAsk;
use tare_stats::result::{BulkParams, Params, StepResult};
use tare_units::Nanos;
use tare_units::error::Result;
use tare_units::target::Target;

impl BwPlan {
    /// Payload of a step of sends of `size`, where bytes end it, in each direction; else zero.
    fn bytes_of(&self, size: u32) -> u64 {
        match (self.bytes, self.common.stop) {
            (Some(bytes), _) => bytes,
            (None, Stop::Count(count)) => count.saturating_mul(u64::from(size)),
            (None, Stop::After(_)) => 0,
        }
    }

    /// The warm-up and the length of the measured phase of a step; without where bytes end it.
    fn times_of(&self, size: u32) -> (Nanos, Option<Nanos>) {
        match self.common.stop {
            Stop::After(duration) if self.bytes_of(size) == 0 => {
                (self.common.warmup, Some(duration))
            }
            _ => (Nanos::ZERO, None),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive rate, and the cast saturates"
    )]
    fn ask(&self, size: u32, streams: u32) -> StreamAsk {
        let (warmup, duration) = self.times_of(size);
        StreamAsk {
            warmup_ns: warmup.0,
            duration_ns: duration.map_or(0, |d| d.0),
            // Each stream's share is its own business.
            bytes: self.bytes_of(size),
            interval_ns: self.common.interval.0,
            rate_bits_per_s: self.rate_bits_per_s.map_or(0, |rate| rate as u64),
            stream: 0,
            streams,
            zero_copy: self.zero_copy == ZeroCopy::On,
            zero_copy_auto: self.zero_copy == ZeroCopy::Auto,
            discard: self.sink == Sink::Discard,
            socket: self.socket.clone(),
        }
    }

    /// What all workers of a step do together.
    pub(crate) fn bulk_spec(
        &self,
        step: Step,
        setting: &Setting<'_>,
        cpus: &[u32],
    ) -> Result<BulkSpec> {
        let common = &self.common;
        let (warmup, duration) = self.times_of(step.size);
        let hello = Hello {
            direction: self.direction,
            stream: Some(self.ask(step.size, step.connections)),
            ..setting.hello(common, Test::Stream, self.transport, step.size, cpus)
        };
        let nonce = setting.run_id.rotate_left(17) ^ u64::from(step.size) ^ common.seed;
        let session = SessionSpec::new(
            setting.socket_address()?,
            hello,
            common.secret.clone(),
            common.timeout,
            nonce,
        )
        .from_local(self.bind);
        Ok(BulkSpec {
            session,
            options: self.socket.clone(),
            streams: step.connections,
            first: 0,
            bytes: self.bytes_of(step.size),
            warmup,
            duration,
            wait: setting.wait,
            wakeup: Nanos::ZERO,
        })
    }
}

impl Measure for BwPlan {
    type Job = BwJob;
    const KIND: &'static str = "bw";
    const NOTHING: &'static str = "no payload arrived at or from";

    fn common(&self) -> &Common {
        &self.common
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn most_connections(&self) -> u32 {
        self.streams.iter().copied().max().unwrap_or(1)
    }

    /// Half of the CPUs, rounded up: the far end needs the others where it is on this machine, and the kernel's share
    /// of receiving does where it is not.
    fn default_workers(&self, cpus: &Cpus) -> u32 {
        let most = cpus.default_workers(u32::MAX);
        let allowed = u32::try_from(cpus.allowed.len()).unwrap_or(u32::MAX);
        allowed.div_ceil(2).clamp(1, most)
    }

    /// A bulk stream fills its CPU or its path, and waits for neither by spinning; a schedule is kept to by hybrid
    /// waiting.
    fn default_wait(&self, cpus: &Cpus) -> WaitMode {
        if self.rate_bits_per_s.is_some() && cpus.can_spin() {
            WaitMode::Hybrid
        } else {
            WaitMode::Block
        }
    }

    fn steps(&self) -> Vec<Step> {
        let step = |size, connections| Step { size, connections, ..Step::default() };
        let sizes = self.sizes.iter();
        sizes.flat_map(|&size| self.streams.iter().map(move |&count| step(size, count))).collect()
    }

    fn params(&self, step: Step, address: &Destination) -> Params {
        let (bytes, socket) = (self.bytes_of(step.size), &self.socket);
        Params {
            proto: self.transport.name().to_owned(),
            size_bytes: u64::from(step.size),
            connections: step.connections,
            timeout_ns: self.common.timeout.0,
            target: self.target.to_string(),
            address: Some(address.to_string()),
            bulk: Some(BulkParams {
                direction: self.direction.name().to_owned(),
                rate_bits_per_s: self.rate_bits_per_s,
                bytes: (bytes > 0).then_some(bytes),
                zero_copy: self.zero_copy.name().to_owned(),
                sink: self.sink.name().to_owned(),
                congestion: socket.congestion.clone(),
                mss_bytes: socket.mss_bytes,
                nodelay: socket.nodelay,
                dscp: socket.dscp,
                send_buffer_bytes: socket.send_buffer_bytes,
                receive_buffer_bytes: socket.receive_buffer_bytes,
                bind: self.bind.map(shown),
            }),
            ..Params::default()
        }
    }

    fn step_plan(&self, step: Step, setting: &Setting<'_>) -> Result<StepPlan<BwJob>> {
        let cpus = setting.cpus_for(step.connections);
        let spec = self.bulk_spec(step, setting, &cpus)?;
        let workers = u32::try_from(cpus.len()).unwrap_or(u32::MAX);
        Ok(StepPlan {
            cpus,
            jobs: BwJob::deal(&spec, workers),
            backend: setting.chosen.backend,
            warmup: spec.warmup,
            duration: spec.duration,
            wait: setting.wait,
            wait_is_default: self.common.wait.is_none() && self.rate_bits_per_s.is_none(),
            interval: self.common.interval,
            counts_bytes: true,
            observe: self.common.observe.clone(),
            guard: None,
        })
    }

    fn describe(&self, addresses: &[Destination]) -> serde_json::Value {
        let mut plan = crate::run::plan::describe_common(&self.target, &self.common, addresses);
        let own = serde_json::json!({
            "proto": self.transport.name(),
            "sizes_bytes": self.sizes,
            "streams": self.streams,
            "direction": self.direction.name(),
            "rate_bits_per_s": self.rate_bits_per_s,
            "bytes": self.bytes,
            "zero_copy": self.zero_copy.name(),
            "sink": self.sink.name(),
            "socket": self.socket,
            "bind": self.bind.map(shown),
        });
        if let (Some(plan), serde_json::Value::Object(own)) = (plan.as_object_mut(), own) {
            plan.extend(own);
        }
        plan
    }

    fn vet(outcome: &mut StepOutcome<BulkTally>, wall: Nanos) -> Vec<String> {
        vet_streams(outcome, wall)
    }

    fn result(&self, inputs: &Inputs<'_, BulkTally>) -> StepResult {
        crate::bandwidth::result::step(inputs, self.direction)
    }

    fn is_empty(step: &StepResult) -> bool {
        step.bandwidth.as_ref().is_none_or(|b| b.received_bytes == 0 && b.sent_bytes == 0)
    }
}

/// Takes what cannot be out of what the servers told of their streams. Returns what it was.
pub(crate) fn vet_streams(outcome: &mut StepOutcome<BulkTally>, wall: Nanos) -> Vec<String> {
    let bounds = Bounds { wall, requests: None };
    let result = &mut outcome.result;
    let mut wrong = Vec::new();
    for figures in &mut result.outcome.figures {
        wrong.extend(vet(figures, &bounds));
    }
    let is_tcp = |accept: &Accept| accept.session.is_none();
    let is_tcp = result.outcome.accepts.iter().all(is_tcp);
    for stream in &mut result.tally.streams {
        let Some(theirs) = &mut stream.theirs else {
            continue;
        };
        wrong.extend(vet(theirs, &bounds));
        if let Some(account) = theirs.stream.as_mut().filter(|_| is_tcp) {
            wrong.extend(vet_against(&stream.own, account));
        }
    }
    wrong
}
