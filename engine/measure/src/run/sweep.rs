//! A run: what it needs of this machine, its steps one after the other, and the report.
//!
//! A job says what it [`Needs`], finds its [`Peer`], and hands a list of steps and a closure to
//! [`run`]. The closure measures one step, from its parameters to its result. It is called again
//! for the same step only where the address was not reached and the peer's name has another one.

use std::collections::VecDeque;

use super::Finished;
use super::observe::Observer;
use super::peer::{self, Peer, SharedServer};
use super::plan::Common;
use super::report::{self, Measured};
use super::setting::Setting;
use crate::worker::destination::Destination;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::probe::{self, Chosen};
use tare_driver::shown;
use tare_driver::sys::{random, rlimit};
use tare_host::cpus::{Choice, Cpus};
use tare_host::environment::{self, WarningContext};
use tare_host::guard::port_warnings;
use tare_host::journal::Journal;
use tare_host::{tuning, unavailable};
use tare_proto::hello::{Accept, WaitMode};
use tare_stats::compare::table::step_name;
use tare_stats::result::{Environments, Report, SCHEMA, Tool, Warning};
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::target::Target;

/// Descriptors beside the connections: rings, wakers, files, the embedded server.
const DESCRIPTORS_BESIDE: u64 = 64;

/// Workers that there are at most for the sake of their descriptors: beyond that the limit is
/// better raised.
const WORKERS_ADDED_MAX: u32 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Step {
    pub(crate) size: u32,
    pub(crate) connections: u32,
    /// While a bulk transfer goes over the same path.
    pub(crate) loaded: bool,
    /// Which stage of an open loop, from zero; closed loop has one.
    pub(crate) stage: usize,
}

/// What a job needs of this machine, whatever it measures.
#[derive(Debug)]
pub(crate) struct Needs<'a> {
    /// The job's name in results.
    pub(crate) kind: &'static str,
    pub(crate) target: &'a Target,
    pub(crate) common: &'a Common,
    /// The most connections that a step has.
    pub(crate) connections: u32,
    /// Connections that are opened in all, where that is known beforehand.
    pub(crate) opened: Option<u64>,
    /// Local addresses that connections are dealt out over; one where the kernel chooses.
    pub(crate) sources: u64,
    /// How many workers, where nobody said.
    pub(crate) workers: u32,
    /// How to wait, where nobody said.
    pub(crate) wait: WaitMode,
    /// Workers may have descriptors of their own, where there are too few for all.
    pub(crate) separates: bool,
    /// The option that gives the target's name another address, where there is one.
    pub(crate) resolve: Option<String>,
}

impl Needs<'_> {
    /// How many workers there are, as far as descriptors allow.
    pub(crate) fn workers(&self) -> u32 {
        self.common.threads.unwrap_or(self.workers).clamp(1, self.connections)
    }

    /// The CPUs of so many workers.
    pub(crate) fn cpus(&self, machine: &Cpus, workers: u32) -> Result<Choice> {
        match &self.common.cpus {
            Some(asked) => machine.check(asked, workers, &[]),
            None => machine.choose(workers, &[]),
        }
    }

    /// How the run waits, as far as its peer can.
    pub(crate) fn wait(&self) -> WaitMode {
        self.common.wait.unwrap_or(self.wait)
    }
}

/// Half of the CPUs, rounded up, and no more workers than connections: a peer on this machine needs
/// the other CPUs, and where the peer is elsewhere the kernel needs them for receiving.
pub(crate) fn half_of(machine: &Cpus, connections: u32) -> u32 {
    let most = machine.default_workers(connections);
    let allowed = u32::try_from(machine.allowed.len()).unwrap_or(u32::MAX);
    allowed.div_ceil(2).clamp(1, most)
}

/// This machine made ready for a run, before its peer is looked for.
pub(crate) struct Prepared<'a> {
    needs: Needs<'a>,
    interrupt: &'a Interrupt,
    machine: Cpus,
    cpus: Choice,
    chosen: Chosen,
    descriptors: Descriptors,
}

impl<'a> Prepared<'a> {
    /// Makes `machine` ready.
    pub(crate) fn new(needs: Needs<'a>, machine: Cpus, interrupt: &'a Interrupt) -> Result<Self> {
        let descriptors = Descriptors::ensure(&needs)?;
        let cpus = needs.cpus(&machine, descriptors.workers)?;
        let chosen = probe::choose(needs.common.backend)?;
        Ok(Self { needs, interrupt, machine, cpus, chosen, descriptors })
    }

    /// Finds or starts the peer, unless it is `shared` already.
    pub(crate) fn find(&self, shared: Option<&SharedServer>) -> Result<Peer> {
        let Needs { target, common, connections, .. } = self.needs;
        let cpus = &self.cpus.cpus;
        let found = peer::find(target, common.timeout, connections, cpus, shared, self.interrupt);
        peer::unless_interrupted(found, self.interrupt)
    }
}

#[derive(Debug)]
struct Descriptors {
    /// As many workers as asked for, or more where each has a table of its own to fill.
    workers: u32,
    /// Each worker has a table of descriptors of its own.
    separate: bool,
    before: Option<u64>,
    limit: u64,
}

impl Descriptors {
    /// Raises the limit on descriptors as far as the run needs it. Where the limit cannot be raised
    /// so far, each worker gets a table of descriptors of its own, and there are as many workers as
    /// that takes.
    fn ensure(needs: &Needs<'_>) -> Result<Self> {
        let workers = needs.workers();
        let most = u64::from(needs.connections);
        // Both ends of an embedded run draw on the same limit.
        let embedded = matches!(needs.target, Target::Loopback | Target::Veth);
        let server = if embedded { most } else { 0 };
        let before = rlimit::descriptors_limit();
        let shared = rlimit::ensure_descriptors(most + server + DESCRIPTORS_BESIDE);
        let error = match shared {
            Ok(limit) => {
                return Ok(Self { workers, separate: false, before, limit });
            }
            Err(error) => error,
        };
        let hard = rlimit::descriptors_limit_hard().unwrap_or(0);
        let each = hard.saturating_sub(DESCRIPTORS_BESIDE);
        let needed = u32::try_from(most.div_ceil(each.max(1))).unwrap_or(u32::MAX);
        let fixed = needs.common.threads.is_some() || needs.common.cpus.is_some();
        let workers = if fixed { workers } else { workers.max(needed) };
        if !needs.separates || workers < needed || needed > WORKERS_ADDED_MAX || server > each {
            return Err(error);
        }
        let limit = rlimit::ensure_descriptors(hard)?;
        Ok(Self { workers, separate: true, before, limit })
    }

    /// As the plan carries it, where the limit was not enough as it stood.
    fn describe(&self) -> Option<serde_json::Value> {
        let before = self.before?;
        (before < self.limit || self.separate).then(|| {
            serde_json::json!({
                "limit": self.limit,
                "raised_from": before,
                "per_worker": self.separate,
            })
        })
    }
}

/// Measures `steps` one after the other against `peer`; `plan` is what the report says of the plan.
pub(crate) fn run(
    prepared: Prepared<'_>,
    peer: Peer,
    plan: serde_json::Value,
    steps: &[Step],
    observer: &mut dyn Observer,
    mut measure: impl FnMut(&Setting, Step, &mut dyn Observer) -> Result<Measured>,
) -> Result<Finished> {
    let Prepared { needs, interrupt, machine, cpus, chosen, descriptors } = prepared;
    let mut report = empty_report(&needs, &peer, plan);
    let mut others = VecDeque::from(peer.addresses);
    let Some(address) = others.pop_front() else {
        return Ok(Finished { report, error: None, interrupted: true });
    };
    let _no_idle = if needs.common.no_idle { Some(hold_no_idle()?) } else { None };
    if let Some(raised) = descriptors.describe() {
        report.plan["descriptors"] = raised;
    }
    let setting = Setting {
        address,
        wait: needs.wait(),
        cpus: cpus.cpus,
        chosen,
        run_id: random::number()?,
        began: MonotonicClock.now(),
        machine,
        interrupt: interrupt.clone(),
        separate: descriptors.separate,
        begins: None,
    };
    let mut run = Run { needs, setting, others, is_sweep: steps.len() > 1, report };
    for unreached in &peer.unreached {
        let warning = run.unreached(unreached, &run.setting.address);
        run.warn(warning, observer);
    }
    run.warn_before(cpus.shared, observer);
    let mut error = None;
    for (index, step) in steps.iter().enumerate() {
        if interrupt.is_raised() {
            break;
        }
        run.setting.begins = Some((index, steps.len()));
        let measured = match run.step(*step, observer, &mut measure) {
            Ok(measured) => measured,
            Err(failed) => {
                error.get_or_insert(failed);
                break;
            }
        };
        let goes_on = measured.goes_on && !measured.result.partial;
        let ended = run.take(measured, observer);
        run.report.partial = index + 1 < steps.len() || error.is_some() || ended.is_some();
        observer.step_finished(&run.report);
        if let Some(ended) = ended {
            error.get_or_insert(ended);
            if !goes_on {
                break;
            }
        }
    }
    drop(peer.server);
    let interrupted = interrupt.is_raised();
    run.report.partial |= interrupted || error.is_some();
    Ok(Finished { report: run.report, error, interrupted })
}

fn hold_no_idle() -> Result<std::fs::File> {
    tuning::hold_cpu_dma_latency().map_err(|error| {
        Error::environment(format!("cannot hold /dev/cpu_dma_latency: {error}"))
            .remedy("run as root, or leave out --no-idle")
    })
}

fn empty_report(needs: &Needs<'_>, peer: &Peer, plan: serde_json::Value) -> Report {
    let client = environment::capture(peer.addresses.first().and_then(Destination::socket_address));
    Report {
        schema: SCHEMA.to_owned(),
        tool: Tool { name: "tare".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        kind: needs.kind.to_owned(),
        started_at: jiff::Timestamp::now().to_string(),
        partial: true,
        seed: needs.common.seed,
        plan,
        environment: Environments { client, servers: Vec::new() },
        results: Vec::new(),
        comparison: None,
        assertions: Vec::new(),
        warnings: Vec::new(),
    }
}

struct Run<'a> {
    needs: Needs<'a>,
    setting: Setting,
    others: VecDeque<Destination>,
    is_sweep: bool,
    report: Report,
}

impl Run<'_> {
    fn warn(&mut self, warning: Warning, observer: &mut dyn Observer) {
        let mut known = self.report.warnings.iter();
        if !known.any(|w| w.code == warning.code && w.message == warning.message) {
            observer.warning(&warning);
            self.report.warnings.push(warning);
        }
    }

    fn unreached(&self, address: &Destination, next: &Destination) -> Warning {
        let next_shown = match (&self.needs.resolve, next) {
            (Some(option), Destination::Tcp(next)) => format!("{option}:{}", shown(*next)),
            _ => next.to_string(),
        };
        Warning {
            code: "address-unreached".to_owned(),
            message: format!("{address} was not reached: trying {next}"),
            advice: format!("give the address itself: {next_shown}"),
        }
    }

    fn warn_before(&mut self, shared: bool, observer: &mut dyn Observer) {
        for leftover in Journal::of_machine().leftovers() {
            observer.leftover(&leftover.warning());
            self.report.warnings.push(leftover.warning_in_report());
        }
        if shared {
            let warning = Warning {
                code: "shares-cpu".to_owned(),
                message: "there are fewer CPUs than workers: they wait for each other".to_owned(),
                advice: "use fewer --threads, or allow more CPUs".to_owned(),
            };
            self.warn(warning, observer);
        }
        if let Some(advice) = &self.setting.chosen.advice {
            let warning = Warning {
                code: "backend".to_owned(),
                message: self.setting.chosen.reason.clone(),
                advice: advice.clone(),
            };
            self.warn(warning, observer);
        }
        let client = &self.report.environment.client;
        let context = WarningContext {
            spinning: self.setting.wait != WaitMode::Block,
            no_idle: self.needs.common.no_idle,
            cpus: self.setting.cpus.clone(),
            ..WarningContext::default()
        };
        let of_machine = environment::warnings(client, &context);
        // A Unix socket takes neither ports nor entries of the connection table.
        let of_ports = match self.setting.address {
            Destination::Unix(_) => Vec::new(),
            Destination::Tcp(_) => {
                let Needs { sources, connections, opened, .. } = self.needs;
                port_warnings(client, sources, connections.into(), opened)
            }
        };
        for warning in of_ports.into_iter().chain(of_machine) {
            self.warn(warning, observer);
        }
    }

    /// Measures one step. Where nothing was ever reached and the name has further addresses, on the
    /// next of them.
    fn step(
        &mut self,
        step: Step,
        observer: &mut dyn Observer,
        measure: &mut impl FnMut(&Setting, Step, &mut dyn Observer) -> Result<Measured>,
    ) -> Result<Measured> {
        loop {
            let mut measured = measure(&self.setting, step, observer)?;
            for warning in measured.warnings.drain(..) {
                self.warn(warning, observer);
            }
            let established = measured.result.connections.established;
            let is_unreached = established == 0 && self.report.results.is_empty();
            if !is_unreached || self.setting.interrupt.is_raised() {
                return Ok(measured);
            }
            // What there is no way to from here at all (IPv6 is off) is not worth a try, nor the
            // last word.
            let can_be_tried = |next: &Destination| match next {
                Destination::Tcp(to) => unavailable::address(*to, None).is_none(),
                Destination::Unix(_) => true,
            };
            let mut others = std::iter::from_fn(|| self.others.pop_front());
            let Some(next) = others.find(can_be_tried) else {
                return Ok(measured);
            };
            let warning = self.unreached(&self.setting.address, &next);
            self.warn(warning, observer);
            self.setting.address = next;
            self.setting.begins = None;
        }
    }

    /// Adds a measured step to the report. Returns what cut it short, or why nothing came of it.
    fn take(&mut self, measured: Measured, observer: &mut dyn Observer) -> Option<Error> {
        let Measured { mut result, mut accepts, mut impossible, failure, stopped, .. } = measured;
        let told = accepts.iter_mut().filter_map(|accept| accept.environment.as_mut());
        impossible.extend(told.flat_map(report::vet::vet_environment));
        if let Some(warning) = report::vet::warning(impossible) {
            self.warn(warning, observer);
        }
        for accept in &accepts {
            self.know_server(accept, observer);
        }
        report::judge(&mut result, &self.report.environment);
        let step = step_name(&result.params);
        for mut warning in report::warnings(&result) {
            if self.is_sweep {
                warning.message = format!("{step}: {}", warning.message);
            }
            self.warn(warning, observer);
        }
        for warning in report::connection_warnings(&result, failure.as_ref()) {
            self.warn(warning, observer);
        }
        self.report.results.push(result);
        if stopped.is_some() || self.setting.interrupt.is_raised() {
            return stopped;
        }
        measured.shortfall
    }

    /// Keeps the environment that a server told, and warns of what in it spoils figures.
    fn know_server(&mut self, accept: &Accept, observer: &mut dyn Observer) {
        let Some(environment) = &accept.environment else { return };
        let mut known = self.report.environment.servers.iter();
        if known.any(|known| known.instance == environment.instance) {
            return;
        }
        self.report.environment.servers.push(environment.clone());
        let cpus = &self.setting.cpus;
        let theirs = if accept.same_host { accept.cpus.clone() } else { Vec::new() };
        let context = WarningContext {
            spinning: accept.wait != WaitMode::Block,
            server_side: true,
            no_idle: self.needs.common.no_idle && accept.same_host,
            shared_cores: self.setting.machine.shared_cores(cpus, &theirs),
            other_end_cpus: if accept.same_host { cpus.clone() } else { Vec::new() },
            cpus: accept.cpus.clone(),
            descriptors_needed: 0,
        };
        for warning in environment::warnings(environment, &context) {
            self.warn(warning, observer);
        }
    }
}
