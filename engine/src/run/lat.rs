//! A latency run: the far end found or started, the sweep's steps one after the other, the report.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::backend;
use super::cpus::Cpus;
use super::environment::{self, WarningContext};
use super::guard::{ConnectBudget, TableGuard};
use super::journal::Journal;
use super::observe::{Interrupt, Observer};
use super::plan::{BackendChoice, LatPlan, ServePlan, Stop, Target, WaitMode, describe};
use super::report;
use super::serve::Server;
use super::step::{self, StepOutcome, StepPlan};
use super::veth::VethNamespace;
use super::{Finished, resolve};
use crate::driver::Backend;
use crate::driver::probe::Chosen;
use crate::error::{Error, Result};
use crate::limits::SESSIONS_MAX;
use crate::proto::hello::{BackendAsked, Direction, Hello, Test};
use crate::proto::text::Id;
use crate::result::{Environments, Params, Report, SCHEMA, StepResult, Tool, Warning};
use crate::sys::usage::boot_id;
use crate::sys::{random, rlimit, tuning};
use crate::units::Nanos;
use crate::worker::dialogue::DialogueSpec;
use crate::worker::ping_pong::ClientSpec;

/// Descriptors beside the connections: rings, wakers, files, the embedded server.
const DESCRIPTORS_BESIDE: u64 = 64;

/// The far end of a run, as found or started.
struct FarEnd {
    /// What to connect to, in order of preference.
    addresses: Vec<SocketAddr>,
    /// An embedded server, until the run is over. Dropped before the namespace it lives in.
    server: Option<Server>,
    _namespace: Option<VethNamespace>,
}

/// See [`lat()`](super::lat()).
pub(super) fn run(
    plan: &LatPlan,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    let cpus = Cpus::of_self();
    let most = plan.connections.iter().copied().max().unwrap_or(1);
    let workers = plan.common.threads.unwrap_or(1).clamp(1, most.max(1));
    let chosen_cpus = match &plan.common.cpus {
        Some(asked) => cpus.check(asked, workers, &[])?,
        None => cpus.choose(workers, &[])?,
    };
    let chosen = backend::choose(plan.common.backend)?;
    // Both ends of an embedded run draw on the same limit.
    let embedded = !matches!(plan.target, Target::Host { .. });
    let sockets = u64::from(most) * if embedded { 2 } else { 1 };
    rlimit::ensure_descriptors(sockets + DESCRIPTORS_BESIDE)?;
    let far_end = find(plan, &chosen_cpus.cpus)?;
    let _no_idle = if plan.common.no_idle {
        Some(hold_no_idle()?)
    } else {
        None
    };
    let mut run = Run {
        plan,
        interrupt,
        wait: default_wait(plan, &cpus),
        cpus: chosen_cpus.cpus,
        chosen,
        address: far_end.addresses[0],
        others: far_end.addresses[1..].iter().copied().collect(),
        run_id: random::number()?,
        machine: cpus,
        report: empty_report(plan, &far_end),
    };
    run.warn_before(chosen_cpus.shared, observer);
    let error = run.sweep(observer);
    drop(far_end.server);
    let interrupted = interrupt.is_raised();
    run.report.partial |= interrupted || error.is_some();
    Ok(Finished {
        report: run.report,
        error,
        interrupted,
    })
}

fn hold_no_idle() -> Result<tuning::NoIdle> {
    tuning::hold_cpu_dma_latency().map_err(|error| {
        Error::environment(format!("cannot hold /dev/cpu_dma_latency: {error}"))
            .remedy("run as root, or leave out --no-idle")
    })
}

/// Spin where both ends own their CPUs (the server says what it can when it is asked), block otherwise; open
/// loop is hybrid.
fn default_wait(plan: &LatPlan, cpus: &Cpus) -> WaitMode {
    match plan.common.wait {
        Some(wait) => wait,
        None if !cpus.can_spin() => WaitMode::Block,
        None if plan.rate_per_s.is_some() => WaitMode::Hybrid,
        None => WaitMode::Spin,
    }
}

fn find(plan: &LatPlan, client_cpus: &[u32]) -> Result<FarEnd> {
    let (host, port) = match &plan.target {
        Target::Host { host, port } => (host, *port),
        Target::Loopback => return embed(plan, client_cpus, None),
        Target::Veth => {
            let namespace = VethNamespace::create()?;
            return embed(plan, client_cpus, Some(namespace));
        }
    };
    let addresses = resolve::resolve(host, port, plan.common.timeout)?;
    if addresses.is_empty() {
        return Err(Error::peer(format!("{host} has no address")));
    }
    Ok(FarEnd {
        addresses,
        server: None,
        _namespace: None,
    })
}

fn embed(plan: &LatPlan, client_cpus: &[u32], namespace: Option<VethNamespace>) -> Result<FarEnd> {
    let host = namespace.as_ref().map_or(
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        VethNamespace::server_address,
    );
    let serve = ServePlan {
        listen: vec![SocketAddr::new(host, 0)],
        listen_is_default: false,
        once: false,
        max_sessions: SESSIONS_MAX.max(plan.connections.iter().copied().max().unwrap_or(1) * 2),
        max_duration: Nanos::MAX,
        idle_timeout: Nanos::MAX,
        allow_spin: false,
        cpus: None,
        backend: BackendChoice::Auto,
        secret: None,
    };
    let server = Server::start(
        &serve,
        client_cpus,
        namespace.as_ref(),
        Arc::new(|_: &str| {}),
    )?;
    let addresses = server.addresses().to_vec();
    Ok(FarEnd {
        addresses,
        server: Some(server),
        _namespace: namespace,
    })
}

fn empty_report(plan: &LatPlan, far_end: &FarEnd) -> Report {
    let address = far_end.addresses[0];
    let client = environment::capture(Some(address.ip()));
    Report {
        schema: SCHEMA.to_owned(),
        tool: Tool {
            name: "tare".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        kind: "lat".to_owned(),
        started_at: jiff::Timestamp::now().to_string(),
        partial: true,
        seed: plan.common.seed,
        plan: describe(plan, &far_end.addresses),
        environment: Environments {
            client,
            servers: Vec::new(),
        },
        results: Vec::new(),
        assertions: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Fewer connections than asked for were measured on: what is shown is the latency of less load.
fn missing_connections(step: &StepResult, failure: Option<&Error>) -> Option<Warning> {
    let (asked, established) = (step.connections.asked, step.connections.established);
    if step.params.connect_each || established >= asked || step.operations.completed == 0 {
        return None;
    }
    let why = failure.map_or_else(String::new, |error| format!(": {}", error.message()));
    Some(Warning {
        code: "connections-missing".to_owned(),
        message: format!("{established} of {asked} connections were measured on{why}"),
        advice: failure
            .and_then(Error::advice)
            .unwrap_or("see `errors`, or ask for fewer --connections")
            .to_owned(),
    })
}

/// A run under way.
struct Run<'a> {
    plan: &'a LatPlan,
    interrupt: &'a Interrupt,
    wait: WaitMode,
    cpus: Vec<u32>,
    chosen: Chosen,
    address: SocketAddr,
    /// Further addresses of the target's name.
    others: VecDeque<SocketAddr>,
    run_id: u64,
    machine: Cpus,
    report: Report,
}

impl Run<'_> {
    fn warn(&mut self, warning: Warning, observer: &mut dyn Observer) {
        if !self
            .report
            .warnings
            .iter()
            .any(|w| w.code == warning.code && w.message == warning.message)
        {
            observer.warning(&warning);
            self.report.warnings.push(warning);
        }
    }

    fn warn_before(&mut self, shared: bool, observer: &mut dyn Observer) {
        for leftover in Journal::of_machine().leftovers() {
            let warning = Warning {
                code: "leftover".to_owned(),
                message: format!("an earlier run was killed and left {}", leftover.what),
                advice: leftover.undo_command,
            };
            self.warn(warning, observer);
        }
        if shared {
            let warning = Warning {
                code: "shares-cpu".to_owned(),
                message: "there are fewer CPUs than workers: they wait for each other".to_owned(),
                advice: "use fewer --threads, or allow more CPUs".to_owned(),
            };
            self.warn(warning, observer);
        }
        if let Some(advice) = &self.chosen.advice {
            let warning = Warning {
                code: "backend".to_owned(),
                message: self.chosen.reason.clone(),
                advice: advice.clone(),
            };
            self.warn(warning, observer);
        }
        if self.plan.connect_each {
            let most = self.plan.connections.iter().copied().max().unwrap_or(1);
            let total = match self.plan.common.stop {
                Stop::Count(count) => Some(count),
                Stop::After(_) => None,
            };
            let budget = ConnectBudget::of(&self.report.environment.client);
            for warning in budget.check(u64::from(most), total) {
                self.warn(warning, observer);
            }
        }
        let context = WarningContext {
            spinning: self.wait != WaitMode::Block,
            no_idle: self.plan.common.no_idle,
            cpus: self.cpus.clone(),
            ..WarningContext::default()
        };
        for warning in environment::warnings(&self.report.environment.client, &context) {
            self.warn(warning, observer);
        }
    }

    /// The steps, one after the other. What ends the sweep early is returned; what was measured is in the report.
    fn sweep(&mut self, observer: &mut dyn Observer) -> Option<Error> {
        let steps: Vec<(u32, u32)> = self
            .plan
            .sizes
            .iter()
            .flat_map(|&size| {
                self.plan
                    .connections
                    .iter()
                    .map(move |&count| (size, count))
            })
            .collect();
        let total = steps.len();
        for (index, (size, connections)) in steps.into_iter().enumerate() {
            if self.interrupt.is_raised() {
                break;
            }
            let params = self.params(size, connections);
            observer.step_started(&params, index, total);
            let outcome = match self.measure(size, connections, params, observer) {
                Ok(measured) => measured,
                Err(error) => return Some(error),
            };
            let (params, outcome) = outcome;
            let error = self.take(params, connections, outcome, observer);
            self.report.partial = index + 1 < total || error.is_some();
            observer.step_finished(&self.report);
            if error.is_some() {
                return error;
            }
        }
        None
    }

    /// Runs one step. Where nothing was ever reached and the name has further addresses, on the next of them.
    fn measure(
        &mut self,
        size: u32,
        connections: u32,
        mut params: Params,
        observer: &mut dyn Observer,
    ) -> Result<(Params, StepOutcome)> {
        loop {
            let step = self.step_plan(size, connections);
            let outcome = step::run(&step, &params, self.interrupt, observer)?;
            let unreached =
                outcome.result.outcome.established == 0 && self.report.results.is_empty();
            if !unreached || self.interrupt.is_raised() {
                return Ok((params, outcome));
            }
            let Some(next) = self.others.pop_front() else {
                return Ok((params, outcome));
            };
            let warning = Warning {
                code: "address-unreached".to_owned(),
                message: format!("{} was not reached: trying {next}", self.address),
                advice: format!("give the address itself: {next}"),
            };
            self.warn(warning, observer);
            self.address = next;
            params.address = Some(next.to_string());
        }
    }

    fn params(&self, size: u32, connections: u32) -> Params {
        Params {
            proto: self.plan.transport.name().to_owned(),
            size_bytes: u64::from(size),
            connections,
            connect_each: self.plan.connect_each,
            rate_per_s: self.plan.rate_per_s,
            server_delay_ns: self.plan.server_delay.0,
            timeout_ns: self.plan.common.timeout.0,
            target: self.plan.target.to_string(),
            address: Some(self.address.to_string()),
            under_load: None,
            bulk: None,
        }
    }

    /// The longest pause between two connections that the schedule makes.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive rate, and the cast saturates"
    )]
    fn gap(&self) -> Nanos {
        let rate = self.plan.rate_per_s.filter(|_| self.plan.connect_each);
        Nanos(rate.map_or(0, |rate| (1e9 / rate) as u64))
    }

    fn step_plan(&self, size: u32, connections: u32) -> StepPlan {
        let common = &self.plan.common;
        let workers = self.cpus.len().min(connections as usize).max(1);
        let cpus = self.cpus[..workers].to_vec();
        let (duration, count) = match common.stop {
            Stop::After(duration) => (Some(duration), None),
            Stop::Count(count) => (None, Some(count)),
        };
        let hello = Hello {
            run_id: Id(self.run_id),
            test: Test::PingPong,
            transport: self.plan.transport,
            direction: Direction::Both,
            size_bytes: u64::from(size),
            connect_each: self.plan.connect_each,
            wait: self.wait,
            backend: match common.backend {
                BackendChoice::Only(Backend::Uring) => BackendAsked::Uring,
                BackendChoice::Only(_) => BackendAsked::Epoll,
                BackendChoice::Auto => BackendAsked::Auto,
            },
            boot_id: boot_id(),
            cpus: cpus.clone(),
            server_delay_ns: self.plan.server_delay.0,
            timeout_ns: common.timeout.0,
            stream: None,
            gap_ns: self.gap().0,
            brief: false,
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        StepPlan {
            connections,
            cpus,
            backend: self.chosen.backend,
            spec: ClientSpec {
                dialogue: DialogueSpec::new(
                    self.address,
                    hello,
                    common.secret.clone(),
                    common.timeout,
                    self.run_id.rotate_left(17) ^ u64::from(size),
                ),
                connections,
                size_bytes: size,
                warmup: common.warmup,
                duration,
                count,
                wait: self.wait,
                wakeup: Nanos::ZERO,
            },
            count,
            rate_per_s: self.plan.rate_per_s,
            wait_is_default: common.wait.is_none(),
            interval: common.interval,
            guard: self.plan.connect_each.then(TableGuard::default),
        }
    }

    /// Adds a step's outcome to the report. Returns what ends the sweep.
    fn take(
        &mut self,
        params: Params,
        connections: u32,
        outcome: StepOutcome,
        observer: &mut dyn Observer,
    ) -> Option<Error> {
        let failure = outcome.result.outcome.failure.clone();
        let stopped = outcome.stopped.clone();
        for accept in &outcome.result.outcome.accepts {
            if let Some(environment) = &accept.environment
                && !self
                    .report
                    .environment
                    .servers
                    .iter()
                    .any(|e| e.instance == environment.instance)
            {
                self.report.environment.servers.push(environment.clone());
                let theirs = if accept.same_host {
                    accept.cpus.clone()
                } else {
                    Vec::new()
                };
                let context = WarningContext {
                    spinning: accept.wait != WaitMode::Block,
                    server_side: true,
                    no_idle: self.plan.common.no_idle && accept.same_host,
                    shared_cores: self.machine.shared_cores(&self.cpus, &theirs),
                    other_end_cpus: if accept.same_host {
                        self.cpus.clone()
                    } else {
                        Vec::new()
                    },
                    cpus: accept.cpus.clone(),
                    descriptors_needed: 0,
                };
                for warning in environment::warnings(environment, &context) {
                    self.warn(warning, observer);
                }
            }
        }
        let step: StepResult = report::step(&report::Inputs {
            plan: self.plan,
            params,
            connections,
            cpus: &self.cpus,
            chosen: &self.chosen,
            outcome,
        });
        let is_sweep = self.plan.sizes.len() * self.plan.connections.len() > 1;
        for mut warning in report::warnings(&step) {
            if is_sweep {
                let (size, connections) = (step.params.size_bytes, step.params.connections);
                warning.message =
                    format!("size={size} connections={connections}: {}", warning.message);
            }
            self.warn(warning, observer);
        }
        if let Some(warning) = missing_connections(&step, failure.as_ref()) {
            self.warn(warning, observer);
        }
        let nothing = step.operations.completed == 0;
        let cut_short = step.partial;
        self.report.results.push(step);
        if stopped.is_some() || self.interrupt.is_raised() || !(cut_short || nothing) {
            return stopped;
        }
        Some(failure.unwrap_or_else(|| {
            Error::peer(format!("nothing was answered by {}", self.address))
                .remedy("check the server, the route and the firewall")
        }))
    }
}
