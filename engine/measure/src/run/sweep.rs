//! A run: what its job needs of this machine, its steps one after the other, and the report.

use std::collections::VecDeque;

use super::Finished;
use super::observe::Observer;
use super::peer::{Peer, Search};
use super::plan::{self, Common};
use super::report::{self, Measured};
use super::setting::Setting;
use crate::worker::destination::Destination;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::sys::{random, rlimit};
use tare_driver::{probe, shown};
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
/// No more workers are added for the sake of descriptors: beyond that the limit is better raised.
const WORKERS_ADDED_MAX: u32 = 16;

/// What a run measures: a plan becomes steps, and each step a result.
pub(crate) trait Job {
    /// Its name in results, its target, and what all plans have.
    fn about(&self) -> (&'static str, &Target, &Common);

    fn kind(&self) -> &'static str {
        self.about().0
    }

    fn target(&self) -> &Target {
        self.about().1
    }

    fn common(&self) -> &Common {
        self.about().2
    }

    /// What it needs where nobody said otherwise; see [`needs_of`].
    fn needs(&self, machine: &Cpus) -> Needs;
    fn steps(&self) -> Vec<Step>;
    /// Its own part of the plan as results carry it: defaults filled in, and no secret.
    fn describe(&self) -> serde_json::Value;

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn find(&self, search: Search<'_>) -> Result<Peer> {
        search.find(self.target(), self.common().timeout)
    }

    /// What measures one step of a run against that address, from its parameters to its result. It
    /// is called again for the same step only where the address was not reached and the peer's name
    /// has another one.
    fn measurer(&self, address: Option<&Destination>) -> Result<Measurer<'_>>;
}

pub(crate) type Measurer<'a> =
    Box<dyn FnMut(&Setting, Step, &mut dyn Observer) -> Result<Measured> + 'a>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Step {
    pub(crate) size: u32,
    pub(crate) connections: u32,
    /// While a bulk transfer goes over the same path.
    pub(crate) loaded: bool,
    /// Which stage of an open loop, from zero; closed loop has one.
    pub(crate) stage: usize,
}

#[derive(Debug)]
pub(crate) struct Needs {
    /// The most connections that a step has.
    pub(crate) connections: u32,
    /// Connections that are opened in all, where that is known beforehand.
    pub(crate) opened: Option<u64>,
    /// Local addresses that connections are dealt out over; one where the kernel chooses.
    pub(crate) sources: u64,
    pub(crate) workers: u32,
    pub(crate) wait: WaitMode,
    /// Workers may have descriptors of their own, where there are too few for all.
    pub(crate) separates: bool,
}

/// What a job needs with what was asked for.
pub(crate) fn needs_of(job: &dyn Job, machine: &Cpus) -> Needs {
    let (common, needs) = (job.common(), job.needs(machine));
    Needs {
        workers: common.threads.unwrap_or(needs.workers).clamp(1, needs.connections),
        wait: common.wait.unwrap_or(needs.wait),
        ..needs
    }
}

pub(crate) fn cpus_of(job: &dyn Job, machine: &Cpus, workers: u32) -> Result<Choice> {
    match &job.common().cpus {
        Some(asked) => machine.check(asked, workers, &[]),
        None => machine.choose(workers, &[]),
    }
}

/// Half of the CPUs, rounded up, and no more workers than connections: a peer on this machine needs
/// the other CPUs, and where the peer is elsewhere the kernel needs them for receiving.
pub(crate) fn half_of(machine: &Cpus, connections: u32) -> u32 {
    let most = machine.default_workers(connections);
    let allowed = u32::try_from(machine.allowed.len()).unwrap_or(u32::MAX);
    allowed.div_ceil(2).clamp(1, most)
}

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
    fn ensure(job: &dyn Job, needs: &Needs) -> Result<Self> {
        let (common, workers) = (job.common(), needs.workers);
        let most = u64::from(needs.connections);
        // Both ends of an embedded run draw on the same limit.
        let embedded = matches!(job.target(), Target::Loopback | Target::Veth);
        let server = if embedded { most } else { 0 };
        let before = rlimit::descriptors_limit();
        let error = match rlimit::ensure_descriptors(most + server + DESCRIPTORS_BESIDE) {
            Ok(limit) => return Ok(Self { workers, separate: false, before, limit }),
            Err(error) => error,
        };
        let hard = rlimit::descriptors_limit_hard().unwrap_or(0);
        let each = hard.saturating_sub(DESCRIPTORS_BESIDE);
        let needed = u32::try_from(most.div_ceil(each.max(1))).unwrap_or(u32::MAX);
        let fixed = common.threads.is_some() || common.cpus.is_some();
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

/// Carries a job out, on a server that is `shared` by several runs or on one found for this run.
pub(crate) fn carry_out(
    job: &dyn Job,
    shared: Option<&Peer>,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    let (common, machine) = (job.common(), Cpus::of_self());
    let needs = needs_of(job, &machine);
    let descriptors = Descriptors::ensure(job, &needs)?;
    let Choice { cpus, shared: cpus_are_shared } = cpus_of(job, &machine, descriptors.workers)?;
    let chosen = probe::choose(common.backend)?;
    let search = Search { connections: needs.connections, cpus: &cpus, shared, interrupt };
    let peer = match job.find(search) {
        Err(_) if interrupt.is_raised() => Peer::default(),
        found => found?,
    };
    let mut measure = job.measurer(peer.addresses.first())?;
    let mut report = empty_report(job, &peer);
    let mut others = VecDeque::from(peer.addresses);
    let Some(address) = others.pop_front() else {
        return Ok(Finished { report, error: None, interrupted: true });
    };
    let _no_idle = if common.no_idle { Some(hold_no_idle()?) } else { None };
    if let Some(raised) = descriptors.describe() {
        report.plan["descriptors"] = raised;
    }
    let setting = Setting {
        address,
        wait: needs.wait,
        cpus,
        chosen,
        run_id: random::number()?,
        began: MonotonicClock.now(),
        machine,
        interrupt: interrupt.clone(),
        separate: descriptors.separate,
        begins: None,
    };
    let mut run = Run { job, setting, others, report, observer };
    for unreached in &peer.unreached {
        let warning = run.unreached(unreached, &run.setting.address);
        run.warn(warning);
    }
    run.warn_before(&needs, cpus_are_shared);
    let error = run.steps(&mut measure);
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

fn empty_report(job: &dyn Job, peer: &Peer) -> Report {
    let client = environment::capture(peer.addresses.first().and_then(Destination::socket_address));
    let known = [peer.unreached.as_slice(), &peer.addresses].concat();
    Report {
        schema: SCHEMA.to_owned(),
        tool: Tool { name: "tare".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        kind: job.kind().to_owned(),
        started_at: jiff::Timestamp::now().to_string(),
        partial: true,
        seed: job.common().seed,
        plan: plan::describe(job.target(), job.common(), &known, job.describe()),
        environment: Environments { client, servers: Vec::new() },
        results: Vec::new(),
        comparison: None,
        assertions: Vec::new(),
        warnings: Vec::new(),
    }
}

struct Run<'a> {
    job: &'a dyn Job,
    setting: Setting,
    /// Further addresses of the peer's name.
    others: VecDeque<Destination>,
    report: Report,
    observer: &'a mut dyn Observer,
}

impl Run<'_> {
    /// Measures all steps. Returns what ended them early, or why nothing came of one.
    fn steps(&mut self, measure: &mut Measurer<'_>) -> Option<Error> {
        let steps = self.job.steps();
        let mut error = None;
        for (index, step) in steps.iter().enumerate() {
            if self.setting.interrupt.is_raised() {
                break;
            }
            self.setting.begins = Some((index, steps.len()));
            let measured = match self.step(*step, measure) {
                Ok(measured) => measured,
                Err(failed) => return error.or(Some(failed)),
            };
            let goes_on = measured.goes_on && !measured.result.partial;
            let ended = self.take(measured, steps.len() > 1);
            self.report.partial = index + 1 < steps.len() || error.is_some() || ended.is_some();
            self.observer.step_finished(&self.report);
            if let Some(ended) = ended {
                error.get_or_insert(ended);
                if !goes_on {
                    break;
                }
            }
        }
        error
    }

    fn warn(&mut self, warning: Warning) {
        let mut known = self.report.warnings.iter();
        if !known.any(|w| w.code == warning.code && w.message == warning.message) {
            self.observer.warning(&warning);
            self.report.warnings.push(warning);
        }
    }

    fn unreached(&self, address: &Destination, next: &Destination) -> Warning {
        let next_shown = match (self.job.kind(), self.job.target(), next) {
            ("http", Target::Host { host, port }, Destination::Tcp(next)) => {
                format!("--resolve {host}:{port}:{}", shown(*next))
            }
            _ => next.to_string(),
        };
        Warning::new(
            "address-unreached",
            format!("{address} was not reached: trying {next}"),
            format!("give the address itself: {next_shown}"),
        )
    }

    fn warn_before(&mut self, needs: &Needs, cpus_are_shared: bool) {
        for leftover in Journal::of_machine().leftovers() {
            self.observer.leftover(&leftover.warning());
            self.report.warnings.push(leftover.warning_in_report());
        }
        if cpus_are_shared {
            self.warn(Warning::new(
                "shares-cpu",
                "there are fewer CPUs than workers: they wait for each other",
                "use fewer --threads, or allow more CPUs",
            ));
        }
        if let Some(advice) = self.setting.chosen.advice.clone() {
            self.warn(Warning::new("backend", self.setting.chosen.reason.clone(), advice));
        }
        let client = &self.report.environment.client;
        let context = WarningContext {
            spinning: self.setting.wait != WaitMode::Block,
            no_idle: self.job.common().no_idle,
            cpus: self.setting.cpus.clone(),
            ..WarningContext::default()
        };
        let of_machine = environment::warnings(client, &context);
        // A Unix socket takes neither ports nor entries of the connection table.
        let of_ports = match self.setting.address {
            Destination::Unix(_) => Vec::new(),
            Destination::Tcp(_) => {
                port_warnings(client, needs.sources, needs.connections.into(), needs.opened)
            }
        };
        of_ports.into_iter().chain(of_machine).for_each(|warning| self.warn(warning));
    }

    /// Measures one step. Where nothing was ever reached and the name has further addresses, on the
    /// next of them.
    fn step(&mut self, step: Step, measure: &mut Measurer<'_>) -> Result<Measured> {
        loop {
            let mut measured = measure(&self.setting, step, self.observer)?;
            measured.warnings.drain(..).for_each(|warning| self.warn(warning));
            let established = measured.result.connections.established;
            let is_unreached = established == 0 && self.report.results.is_empty();
            if !is_unreached || self.setting.interrupt.is_raised() {
                return Ok(measured);
            }
            // What has no way from here (IPv6 is off) is not worth a try, nor the last word.
            let can_be_tried = |next: &Destination| match next {
                Destination::Tcp(to) => unavailable::address(*to, None).is_none(),
                Destination::Unix(_) => true,
            };
            let mut others = std::iter::from_fn(|| self.others.pop_front());
            let Some(next) = others.find(can_be_tried) else { return Ok(measured) };
            self.warn(self.unreached(&self.setting.address, &next));
            self.setting.address = next;
            self.setting.begins = None;
        }
    }

    /// Adds a measured step to the report. Returns what cut it short, or why nothing came of it.
    fn take(&mut self, measured: Measured, is_sweep: bool) -> Option<Error> {
        let Measured { mut result, mut accepts, mut impossible, failure, stopped, .. } = measured;
        let environments = accepts.iter_mut().filter_map(|accept| accept.environment.as_mut());
        impossible.extend(environments.flat_map(report::vet::vet_environment));
        if let Some(warning) = report::vet::warning(impossible) {
            self.warn(warning);
        }
        accepts.iter().for_each(|accept| self.know_server(accept));
        report::judge(&mut result, &self.report.environment);
        for mut warning in report::warnings(&result) {
            if is_sweep {
                warning.message = format!("{}: {}", step_name(&result.params), warning.message);
            }
            self.warn(warning);
        }
        for warning in report::connection_warnings(&result, failure.as_ref()) {
            self.warn(warning);
        }
        self.report.results.push(result);
        if stopped.is_some() || self.setting.interrupt.is_raised() {
            return stopped;
        }
        measured.shortfall
    }

    /// Keeps the environment that a server reported, and warns of what in it spoils figures.
    fn know_server(&mut self, accept: &Accept) {
        let Some(environment) = &accept.environment else { return };
        let mut known = self.report.environment.servers.iter();
        if known.any(|known| known.instance == environment.instance) {
            return;
        }
        self.report.environment.servers.push(environment.clone());
        let cpus = &self.setting.cpus;
        let theirs: &[u32] = if accept.same_host { &accept.cpus } else { &[] };
        let context = WarningContext {
            spinning: accept.wait != WaitMode::Block,
            server_side: true,
            no_idle: self.job.common().no_idle && accept.same_host,
            shared_cores: self.setting.machine.shared_cores(cpus, theirs),
            other_end_cpus: if accept.same_host { cpus.clone() } else { Vec::new() },
            cpus: accept.cpus.clone(),
            descriptors_needed: 0,
        };
        let warnings = environment::warnings(environment, &context);
        warnings.into_iter().for_each(|warning| self.warn(warning));
    }
}
