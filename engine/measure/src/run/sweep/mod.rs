//! A run: the far end found or started, the steps one after the other, the report. What is measured is its [`Measure`].

mod room;

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::far_end::{self, FarEnd, Held};
use super::observe::Observer;
use super::plan::{Common, Stop};
use super::report::{self, Inputs};
use super::step::{self, Job, StepOutcome, StepPlan};
use super::{Finished, backend};
use crate::worker::destination::Destination;
use tare_driver::Backend;
use tare_driver::BackendChoice;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::probe::Chosen;
use tare_driver::sys::random;
use tare_host::cpus::Cpus;
use tare_host::environment;
use tare_host::environment::WarningContext;
use tare_host::guard::{ListenerGuard, PortBudget};
use tare_host::journal::Journal;
use tare_host::observed;
use tare_host::tuning;
use tare_host::unavailable;
use tare_host::usage::boot_id;
use tare_proto::hello::{BackendAsked, Direction, Hello, Test};
use tare_proto::hello::{Transport, WaitMode};
use tare_stats::result::{
    Bandwidth, Environments, INTERVALS_OF_RUN, Params, Report, SCHEMA, StepResult, Tool, Warning,
};
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::target::Target;
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

use room::Room;

/// One step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Step {
    /// Bytes of a message.
    pub(crate) size: u32,
    /// Connections, or streams.
    pub(crate) connections: u32,
    /// While a bulk transfer goes over the same path.
    pub(crate) loaded: bool,
    /// Which stage of an open loop, from zero; closed loop has one.
    pub(crate) stage: usize,
}

/// What a run has settled on, for all its steps.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) address: &'a Destination,
    pub(crate) cpus: &'a [u32],
    pub(crate) wait: WaitMode,
    pub(crate) chosen: &'a Chosen,
    pub(crate) run_id: u64,
    pub(crate) machine: &'a Cpus,
    pub(crate) interrupt: &'a Interrupt,
}

impl Setting<'_> {
    /// The CPUs of the workers of so many connections: not more workers than that.
    pub(crate) fn cpus_for(&self, connections: u32) -> Vec<u32> {
        let workers = self.cpus.len().min(connections as usize).max(1);
        self.cpus[..workers].to_vec()
    }

    /// The address, of a far end that only TCP and UDP reach.
    ///
    /// # Errors
    /// A usage error where it is a Unix socket.
    pub(crate) fn socket_address(&self) -> Result<SocketAddr> {
        match self.address {
            Destination::Tcp(address) => Ok(*address),
            Destination::Unix(_) => Err(far_end::unix_refused()),
        }
    }

    /// What every connection says, whatever is measured.
    pub(crate) fn hello(
        &self,
        common: &Common,
        test: Test,
        transport: Transport,
        size: u32,
        cpus: &[u32],
    ) -> Hello {
        Hello {
            run_id: Id(self.run_id),
            test,
            transport,
            direction: Direction::Both,
            size_bytes: u64::from(size),
            connect_each: false,
            wait: self.wait,
            backend: match common.backend {
                BackendChoice::Only(Backend::Uring) => BackendAsked::Uring,
                BackendChoice::Only(_) => BackendAsked::Epoll,
                BackendChoice::Auto => BackendAsked::Auto,
            },
            boot_id: boot_id(),
            cpus: cpus.to_vec(),
            server_delay_ns: 0,
            timeout_ns: common.timeout.0,
            stream: None,
            gap_ns: 0,
            request_follows: false,
            brief: false,
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Ends what goes on beside a step, and tells what it carried.
pub(crate) type EndLoad = Box<dyn FnOnce() -> Result<Bandwidth>>;

/// What a run measures.
pub(crate) trait Measure {
    /// What its workers do.
    type Job: Job;
    /// The name in results.
    const KIND: &'static str;
    /// What to say where nothing came of a step; the address follows.
    const NOTHING: &'static str;
    /// Its workers may have descriptors of their own, where there are too few for all.
    const SEPARATE: bool = false;

    /// What every plan has.
    fn common(&self) -> &Common;
    /// Against what.
    fn target(&self) -> &Target;
    /// The most connections that a step has.
    fn most_connections(&self) -> u32;
    /// Connections are opened again and again.
    fn connects_each(&self) -> bool {
        false
    }
    /// How many in all, where it is known.
    fn connects_total(&self) -> Option<u64> {
        match self.common().stop {
            Stop::Count(count) => Some(count),
            Stop::After(_) => None,
        }
    }
    /// Local addresses that connections are dealt out over; one where the kernel chooses.
    fn sources(&self) -> u64 {
        1
    }
    /// Finds or starts the far end, which is to keep off `client_cpus`; `held` is one that is there already.
    ///
    /// # Errors
    /// Where it cannot be had.
    fn find(
        &self,
        client_cpus: &[u32],
        held: Option<&Held>,
        interrupt: &Interrupt,
    ) -> Result<FarEnd> {
        let common = self.common();
        let most = self.most_connections().max(1);
        let timeout = common.timeout;
        far_end::find(self.target(), timeout, most, client_cpus, held, interrupt)
    }
    /// How many workers, where nobody said.
    fn default_workers(&self, cpus: &Cpus) -> u32;
    /// How to wait, where nobody said.
    fn default_wait(&self, cpus: &Cpus) -> WaitMode;
    /// The steps, in order.
    fn steps(&self) -> Vec<Step>;
    /// The parameters of a step, against that address.
    fn params(&self, step: Step, address: &Destination) -> Params;
    /// What the workers of a step do.
    ///
    /// # Errors
    /// A usage error, where the plan cannot be carried out.
    fn step_plan(&self, step: Step, setting: &Setting<'_>) -> Result<StepPlan<Self::Job>>;
    /// What to type to have `next` at once.
    fn unreached_advice(&self, next: &Destination) -> String {
        format!("give the address itself: {next}")
    }
    /// Takes what cannot be out of what the servers told of a step, `wall` after the run began. Returns what it was.
    fn vet(outcome: &mut Outcome<Self>, wall: Nanos) -> Vec<String>
    where
        Self: Sized,
    {
        let _ = (outcome, wall);
        Vec::new()
    }
    /// Arrivals that were never sent and were recorded evenly spread.
    fn spread_unsent(tally: &<Self::Job as Job>::Tally) -> u64 {
        let _ = tally;
        0
    }
    /// Starts what is to go on beside a step.
    ///
    /// # Errors
    /// Where it cannot be had.
    fn load(&self, step: Step, setting: &Setting<'_>) -> Result<Option<EndLoad>> {
        let _ = (step, setting);
        Ok(None)
    }
    /// The plan as results carry it.
    fn describe(&self, addresses: &[Destination]) -> serde_json::Value;
    /// A step's result.
    fn result(&self, inputs: &Inputs<'_, <Self::Job as Job>::Tally>) -> StepResult;
    /// Nothing came of it.
    fn is_empty(step: &StepResult) -> bool;
    /// Whether later steps are measured after one that was not cut short and of which nothing came.
    fn goes_on(step: &StepResult) -> bool {
        let _ = step;
        false
    }
    /// Why nothing came of it, or it was cut short.
    fn explain(step: &StepResult, failure: Option<Error>, address: &Destination) -> Error {
        let _ = step;
        failure.unwrap_or_else(|| {
            Error::peer(format!("{} {address}", Self::NOTHING))
                .remedy("check the server, the route and the firewall")
        })
    }
}

/// What a run is part of.
#[derive(Clone, Copy)]
pub(crate) enum Part<'a> {
    /// Nothing else.
    Whole,
    /// A comparison, which has checked what it can, and may hold the far end.
    Visit(Option<&'a Held>),
}

/// Carries a plan out.
///
/// # Errors
/// Only when not even a report can be made.
pub(crate) fn run<M: Measure>(
    measure: &M,
    part: Part<'_>,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    let common = measure.common();
    let held = match part {
        Part::Whole => {
            observed::check(&common.observe)?;
            None
        }
        // What is observed may be gone for a visit: its own result says so then.
        Part::Visit(held) => held,
    };
    let cpus = Cpus::of_self();
    let most = measure.most_connections().max(1);
    let workers = common.threads.unwrap_or_else(|| measure.default_workers(&cpus));
    let room = Room::make(measure, workers.clamp(1, most))?;
    let workers = room.workers;
    let chosen_cpus = match &common.cpus {
        Some(asked) => cpus.check(asked, workers, &[])?,
        None => cpus.choose(workers, &[])?,
    };
    let chosen = backend::choose(common.backend)?;
    let far_end = match measure.find(&chosen_cpus.cpus, held, interrupt) {
        Err(_) if interrupt.is_raised() => {
            return Ok(Finished {
                report: empty_report(measure, &FarEnd::elsewhere(Vec::new())),
                error: None,
                interrupted: true,
            });
        }
        found => found?,
    };
    let _no_idle = if common.no_idle { Some(hold_no_idle()?) } else { None };
    let mut run = Run {
        measure,
        interrupt,
        wait: common.wait.unwrap_or_else(|| measure.default_wait(&cpus)),
        cpus: chosen_cpus.cpus,
        chosen,
        address: far_end.addresses[0].clone(),
        others: far_end.addresses[1..].iter().cloned().collect(),
        run_id: random::number()?,
        began: MonotonicClock.now(),
        machine: cpus,
        separate: room.separate,
        is_sweep: false,
        report: empty_report(measure, &far_end),
    };
    if let Some(raised) = room.describe() {
        run.report.plan["descriptors"] = raised;
    }
    for unreached in &far_end.unreached {
        let warning = run.unreached(unreached, &far_end.addresses[0]);
        run.warn(warning, observer);
    }
    run.warn_before(chosen_cpus.shared, observer);
    let error = run.sweep(observer);
    drop(far_end.server);
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

const fn socket_address_of(destination: &Destination) -> Option<SocketAddr> {
    match destination {
        Destination::Tcp(address) => Some(*address),
        Destination::Unix(_) => None,
    }
}

fn empty_report<M: Measure>(measure: &M, far_end: &FarEnd) -> Report {
    let client = environment::capture(far_end.addresses.first().and_then(socket_address_of));
    Report {
        schema: SCHEMA.to_owned(),
        tool: Tool { name: "tare".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        kind: M::KIND.to_owned(),
        started_at: jiff::Timestamp::now().to_string(),
        partial: true,
        seed: measure.common().seed,
        plan: measure.describe(&far_end.known()),
        environment: Environments { client, servers: Vec::new() },
        results: Vec::new(),
        comparison: None,
        assertions: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Fewer connections than asked for were measured on: what is shown is the latency of less load.
fn missing_connections(step: &StepResult, failure: Option<&Error>) -> Option<Warning> {
    let (asked, established) = (step.connections.asked, step.connections.established);
    if step.params.connects_each() || established >= asked || step.operations.completed == 0 {
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

/// Some connections died, and the others measured on: the load was less from then on.
fn lost_connections(step: &StepResult, failure: Option<&Error>) -> Option<Warning> {
    let costs_a_connection = |cause: &str| !matches!(cause, "timeout" | "late-reply");
    let mut errors = step.errors.iter();
    let lost = errors.any(|error| {
        matches!(error.phase.as_str(), "send" | "receive") && costs_a_connection(&error.cause)
    });
    // Of an HTTP load they are opened anew, and what failed is told otherwise.
    if step.params.connects_each() || step.params.http.is_some() || step.partial || !lost {
        return None;
    }
    let failure = failure?;
    Some(Warning {
        code: "connections-lost".to_owned(),
        message: format!(
            "connections were lost while measuring, and the others measured on: {}",
            failure.message()
        ),
        advice: failure.advice().unwrap_or("see `errors`").to_owned(),
    })
}

/// The step in front of a warning about it.
pub(crate) fn step_name(params: &Params) -> String {
    let connections = params.connections;
    if let Some(http) = &params.http {
        let stage = http.stage.map(|stage| format!("stage={stage} "));
        return format!("{}connections={connections}", stage.unwrap_or_default());
    }
    let load = params.under_load.as_ref().map_or("", |_| " under load");
    format!("size={} connections={connections}{load}", params.size_bytes)
}

/// A run under way.
struct Run<'a, M> {
    measure: &'a M,
    interrupt: &'a Interrupt,
    wait: WaitMode,
    cpus: Vec<u32>,
    chosen: Chosen,
    address: Destination,
    /// Further addresses of the target's name.
    others: VecDeque<Destination>,
    run_id: u64,
    began: Instant,
    machine: Cpus,
    /// Each worker has a table of descriptors of its own.
    separate: bool,
    /// There is more than one step.
    is_sweep: bool,
    report: Report,
}

type Outcome<M> = StepOutcome<<<M as Measure>::Job as Job>::Tally>;

impl<M: Measure> Run<'_, M> {
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

    fn unreached(&self, address: &Destination, next: &Destination) -> Warning {
        Warning {
            code: "address-unreached".to_owned(),
            message: format!("{address} was not reached: trying {next}"),
            advice: self.measure.unreached_advice(next),
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
        if let Some(advice) = &self.chosen.advice {
            let warning = Warning {
                code: "backend".to_owned(),
                message: self.chosen.reason.clone(),
                advice: advice.clone(),
            };
            self.warn(warning, observer);
        }
        let most = self.measure.most_connections();
        let budget =
            PortBudget::of(&self.report.environment.client).with_sources(self.measure.sources());
        if matches!(self.address, Destination::Unix(_)) {
            // It takes neither ports nor entries.
        } else {
            let most = u64::from(most);
            let total = match self.measure.connects_each() {
                true => self.measure.connects_total(),
                false => Some(most),
            };
            for warning in budget.check(most, total) {
                self.warn(warning, observer);
            }
        }
        let context = WarningContext {
            spinning: self.wait != WaitMode::Block,
            no_idle: self.measure.common().no_idle,
            cpus: self.cpus.clone(),
            ..WarningContext::default()
        };
        for warning in environment::warnings(&self.report.environment.client, &context) {
            self.warn(warning, observer);
        }
    }

    /// The steps, one after the other. What ended the sweep early is returned, or else why the first step of which nothing
    /// came was empty; what was measured is in the report.
    fn sweep(&mut self, observer: &mut dyn Observer) -> Option<Error> {
        let steps = self.measure.steps();
        let total = steps.len();
        self.is_sweep = total > 1;
        let mut first = None;
        for (index, step) in steps.into_iter().enumerate() {
            if self.interrupt.is_raised() {
                break;
            }
            let params = self.measure.params(step, &self.address);
            observer.step_started(&params, index, total);
            let (params, outcome, load) = match self.measure(step, params, observer) {
                Ok(measured) => measured,
                Err(error) => return first.or(Some(error)),
            };
            let error = self.take(params, step, outcome, load, observer);
            self.report.partial = index + 1 < total || first.is_some() || error.is_some();
            observer.step_finished(&self.report);
            if let Some(error) = error {
                let last = self.report.results.last();
                let goes_on = last.is_some_and(|step| !step.partial && M::goes_on(step));
                first.get_or_insert(error);
                if !goes_on {
                    break;
                }
            }
        }
        first
    }

    fn setting(&self) -> Setting<'_> {
        Setting {
            address: &self.address,
            cpus: &self.cpus,
            wait: self.wait,
            chosen: &self.chosen,
            run_id: self.run_id,
            machine: &self.machine,
            interrupt: self.interrupt,
        }
    }

    /// Runs one step. Where nothing was ever reached and the name has further addresses, on the next of them.
    fn measure(
        &mut self,
        step: Step,
        mut params: Params,
        observer: &mut dyn Observer,
    ) -> Result<(Params, Outcome<M>, Option<Bandwidth>)> {
        loop {
            let plan = self.measure.step_plan(step, &self.setting())?;
            let load = self.measure.load(step, &self.setting())?;
            let listeners = socket_address_of(&self.address).and_then(ListenerGuard::begin);
            let outcome = step::run(plan, self.separate, &params, self.interrupt, observer);
            if let Some(warning) = listeners.and_then(|listeners| listeners.end()) {
                self.warn(warning, observer);
            }
            // Whatever became of the step, the load is not to go on beside the next.
            let load = load.map(|end| end());
            let (outcome, load) = (outcome?, load.transpose()?);
            let unreached =
                outcome.result.outcome.established == 0 && self.report.results.is_empty();
            if !unreached || self.interrupt.is_raised() {
                return Ok((params, outcome, load));
            }
            // What there is no way to from here at all (IPv6 is off) is not worth a try, nor the last word.
            let tried = |next: &Destination| match next {
                Destination::Tcp(to) => unavailable::address(*to, None).is_none(),
                Destination::Unix(_) => true,
            };
            let Some(next) = std::iter::from_fn(|| self.others.pop_front()).find(tried) else {
                return Ok((params, outcome, load));
            };
            let warning = self.unreached(&self.address, &next);
            self.warn(warning, observer);
            params.address = Some(next.to_string());
            self.address = next;
        }
    }

    /// Takes out of an outcome what its servers told and cannot be.
    fn vet(
        &mut self,
        outcome: &mut StepOutcome<<M::Job as Job>::Tally>,
        observer: &mut dyn Observer,
    ) {
        if let Some(warning) = report::spread_unsent(M::spread_unsent(&outcome.result.tally)) {
            self.warn(warning, observer);
        }
        let mut wrong = M::vet(outcome, MonotonicClock.now().since(self.began));
        let accepts = outcome.result.outcome.accepts.iter_mut();
        for environment in accepts.filter_map(|accept| accept.environment.as_mut()) {
            wrong.extend(report::vet::vet_environment(environment));
        }
        if let Some(warning) = report::vet::warning(wrong) {
            self.warn(warning, observer);
        }
    }

    /// Adds a step's outcome to the report. Returns what cut the step short, or left it empty.
    fn take(
        &mut self,
        params: Params,
        step: Step,
        mut outcome: StepOutcome<<M::Job as Job>::Tally>,
        load: Option<Bandwidth>,
        observer: &mut dyn Observer,
    ) -> Option<Error> {
        let failure = outcome.result.outcome.failure.clone();
        let stopped = outcome.stopped.clone();
        self.vet(&mut outcome, observer);
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
                let theirs = if accept.same_host { accept.cpus.clone() } else { Vec::new() };
                let context = WarningContext {
                    spinning: accept.wait != WaitMode::Block,
                    server_side: true,
                    no_idle: self.measure.common().no_idle && accept.same_host,
                    shared_cores: self.machine.shared_cores(&self.cpus, &theirs),
                    other_end_cpus: if accept.same_host { self.cpus.clone() } else { Vec::new() },
                    cpus: accept.cpus.clone(),
                    descriptors_needed: 0,
                };
                for warning in environment::warnings(environment, &context) {
                    self.warn(warning, observer);
                }
            }
        }
        let observed = std::mem::take(&mut outcome.observed);
        let disturbance = outcome.disturbance;
        let mut step = self.measure.result(&Inputs {
            common: self.measure.common(),
            params,
            connections: step.connections,
            chosen: &self.chosen,
            environment: &self.report.environment,
            outcome,
        });
        if let Some(load) = load {
            step.bandwidth = Some(load);
        }
        report::tell_machine(&mut step.cpu.client, &disturbance);
        step.observed = observed;
        INTERVALS_OF_RUN.clone_into(&mut step.interval_scope);
        let is_sweep = self.is_sweep;
        for mut warning in report::warnings(&step) {
            if is_sweep {
                warning.message = format!("{}: {}", step_name(&step.params), warning.message);
            }
            self.warn(warning, observer);
        }
        if let Some(warning) = missing_connections(&step, failure.as_ref()) {
            self.warn(warning, observer);
        }
        if let Some(warning) = lost_connections(&step, failure.as_ref()) {
            self.warn(warning, observer);
        }
        let nothing = M::is_empty(&step);
        let cut_short = step.partial;
        self.report.results.push(step);
        if stopped.is_some() || self.interrupt.is_raised() || !(cut_short || nothing) {
            return stopped;
        }
        let step = self.report.results.last()?;
        Some(M::explain(step, failure, &self.address))
    }
}

/// What a run would settle on by itself, told without one.
#[derive(Debug)]
pub(crate) struct Prospect {
    /// Its steps, in order.
    pub(crate) steps: Vec<Step>,
    /// The CPUs of its workers.
    pub(crate) cpus: Vec<u32>,
    /// The most connections of a step.
    pub(crate) connections: u32,
    /// How it would wait.
    pub(crate) wait: WaitMode,
}

impl Prospect {
    /// That of `measure` on this machine.
    ///
    /// # Errors
    /// Where the CPUs asked for cannot be had.
    pub(crate) fn of<M: Measure>(measure: &M) -> Result<Self> {
        let common = measure.common();
        let machine = Cpus::of_self();
        let connections = measure.most_connections().max(1);
        let workers = common
            .threads
            .unwrap_or_else(|| measure.default_workers(&machine))
            .clamp(1, connections);
        let cpus = match &common.cpus {
            Some(asked) => machine.check(asked, workers, &[])?,
            None => machine.choose(workers, &[])?,
        };
        Ok(Self {
            steps: measure.steps(),
            cpus: cpus.cpus,
            connections,
            wait: common.wait.unwrap_or_else(|| measure.default_wait(&machine)),
        })
    }
}
