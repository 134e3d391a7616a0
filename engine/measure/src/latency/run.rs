//! What a latency run measures.

use super::plan::{LatPlan, describe};
use crate::bandwidth::load::RunningLoad;
use crate::latency::client::ClientSpec;
use crate::latency::job::{LatJob, LatTally};
use crate::run::plan::{Common, Stop};
use crate::run::report::Inputs;
use crate::run::report::vet::{Bounds, residences, vet};
use crate::run::step::{StepOutcome, StepPlan};
use crate::run::sweep::{EndLoad, Measure, Setting, Step};
use crate::worker::SessionSpec;
use crate::worker::destination::Destination;
use tare_driver::sys::option;
use tare_host::cpus::Cpus;
use tare_host::guard::ConntrackGuard;
use tare_proto::hello::WaitMode;
use tare_proto::hello::{Hello, Test, Transport};
use tare_stats::result::{Params, StepResult};
use tare_units::Nanos;
use tare_units::error::Result;
use tare_units::target::Target;

impl LatPlan {
    /// The longest pause between two connections that the schedule makes.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive rate, and the cast saturates"
    )]
    fn gap(&self) -> Nanos {
        let rate = self.rate_per_s.filter(|_| self.connect_each);
        Nanos(rate.map_or(0, |rate| (1e9 / rate) as u64))
    }
}

impl Measure for LatPlan {
    type Job = LatJob;
    const KIND: &'static str = "lat";
    const NOTHING: &'static str = "nothing was answered by";

    fn common(&self) -> &Common {
        &self.common
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn most_connections(&self) -> u32 {
        self.connections.iter().copied().max().unwrap_or(1)
    }

    fn connects_each(&self) -> bool {
        self.connect_each
    }

    fn default_workers(&self, _cpus: &Cpus) -> u32 {
        1
    }

    /// Spin where both ends own their CPUs (the server says what it can when it is asked), block otherwise; open
    /// loop is hybrid.
    fn default_wait(&self, cpus: &Cpus) -> WaitMode {
        match self.rate_per_s {
            _ if !cpus.can_spin() => WaitMode::Block,
            Some(_) => WaitMode::Hybrid,
            None => WaitMode::Spin,
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for &size in &self.sizes {
            for &connections in &self.connections {
                let idle = Step { size, connections, ..Step::default() };
                steps.push(idle);
                if self.under_load.is_some() {
                    steps.push(Step { loaded: true, ..idle });
                }
            }
        }
        steps
    }

    fn params(&self, step: Step, address: &Destination) -> Params {
        let load = self.under_load.as_ref().filter(|_| step.loaded);
        let path = match address {
            Destination::Tcp(to) if self.transport == Transport::Udp => option::path_mtu_to(*to),
            _ => None,
        };
        Params {
            proto: self.transport.name().to_owned(),
            size_bytes: u64::from(step.size),
            connections: step.connections,
            connect_each: Some(self.connect_each),
            rate_per_s: self.rate_per_s,
            server_delay_ns: Some(self.server_delay.0),
            timeout_ns: self.common.timeout.0,
            target: self.target.to_string(),
            address: Some(address.to_string()),
            path_mtu_bytes: path.map(|path| path.bytes),
            fragments_per_datagram: path.map(|path| path.fragments(step.size)),
            under_load: load.map(|load| load.options.clone()),
            bulk: None,
            http: None,
        }
    }

    fn step_plan(&self, step: Step, setting: &Setting<'_>) -> Result<StepPlan<LatJob>> {
        let common = &self.common;
        let cpus = setting.cpus_for(step.connections);
        let (duration, count) = match common.stop {
            Stop::After(duration) => (Some(duration), None),
            Stop::Count(count) => (None, Some(count)),
        };
        let hello = Hello {
            connect_each: self.connect_each,
            server_delay_ns: self.server_delay.0,
            gap_ns: self.gap().0,
            ..setting.hello(common, Test::PingPong, self.transport, step.size, &cpus)
        };
        let spec = ClientSpec {
            session: SessionSpec::new(
                setting.socket_address()?,
                hello,
                common.secret.clone(),
                common.timeout,
                setting.run_id.rotate_left(17) ^ u64::from(step.size),
            )
            .from_local(self.bind),
            connections: step.connections,
            size_bytes: step.size,
            warmup: common.warmup,
            duration,
            count,
            wait: setting.wait,
            wakeup: Nanos::ZERO,
        };
        let workers = u32::try_from(cpus.len()).unwrap_or(u32::MAX);
        Ok(StepPlan {
            cpus,
            jobs: LatJob::deal(&spec, self.rate_per_s, common.interval, workers)?,
            backend: setting.chosen.backend,
            warmup: common.warmup,
            duration,
            wait: setting.wait,
            wait_is_default: common.wait.is_none(),
            interval: common.interval,
            counts_bytes: false,
            observe: common.observe.clone(),
            guard: self.connect_each.then(ConntrackGuard::default),
        })
    }

    fn load(&self, step: Step, setting: &Setting<'_>) -> Result<Option<EndLoad>> {
        let Some(load) = self.under_load.as_ref().filter(|_| step.loaded) else {
            return Ok(None);
        };
        let running = RunningLoad::start(&load.plan, setting)?;
        Ok(Some(Box::new(move || running.stop())))
    }

    fn describe(&self, addresses: &[Destination]) -> serde_json::Value {
        describe(self, addresses)
    }

    fn spread_unsent(tally: &LatTally) -> u64 {
        tally.recording.spread_unsent()
    }

    fn vet(outcome: &mut StepOutcome<LatTally>, wall: Nanos) -> Vec<String> {
        let tally = &outcome.result.tally;
        let sent = [&tally.warmup, &tally.measured].map(|tally| tally.operations.sent);
        let mut wrong = residences(&tally.recording);
        let outcome = &mut outcome.result.outcome;
        let is_tcp = outcome.accepts.iter().all(|accept| accept.session.is_none());
        let bounds = Bounds {
            wall,
            requests: is_tcp.then(|| sent.into_iter().fold(0, u64::saturating_add)),
        };
        for figures in &mut outcome.figures {
            wrong.extend(vet(figures, &bounds));
        }
        wrong
    }

    fn result(&self, inputs: &Inputs<'_, LatTally>) -> StepResult {
        crate::latency::result::step(inputs)
    }

    fn is_empty(step: &StepResult) -> bool {
        !step.has_answers()
    }
}
