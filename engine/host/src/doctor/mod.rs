//! What on this machine would spoil a microsecond measurement. Nothing is changed.
//!
//! Each check is a row of a table: what it is about, what it does to a measurement, the commands
//! that show, mend and undo it, and a function of a snapshot of the machine that finds how it is.
//! What cannot be read is [`Level::Unknown`], never taken for fine.

mod cpu;
mod interrupts;
mod kernel;
mod network;
mod sample;
#[cfg(test)]
mod tests;

use crate::cpus::Cpus;
use crate::environment;
use crate::files::Files;
use network::{Link, Needs};
use sample::Sample;
use tare_driver::BackendChoice;
use tare_driver::probe::{self, Chosen};
use tare_driver::sys::affinity::format_cpus;
use tare_driver::sys::rlimit;
use tare_stats::result::{Diagnosis, Environment, Finding, Level, SCHEMA, Tool};
use tare_units::Nanos;
use tare_units::error::{Error, Result};
use tare_units::target::Target;

/// The round trip that effects are reckoned for: a fast one, over loopback or a good card.
const ROUND_TRIP: Nanos = Nanos::from_micros(10);
/// What comes more often than this, per second, is met by one in a thousand such round trips, and
/// moves their p99.9.
const SPOILING_PER_S: f64 = 100.0;
/// The shortest and the longest look.
pub const LOOK_RANGE: (Nanos, Nanos) = (Nanos::from_millis(10), Nanos::from_secs(60));

/// What to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct DoctorPlan {
    /// Whose route is examined; none for the default route.
    pub target: Option<Target>,
    /// The CPUs that would measure; none for those that `tare lat` would take.
    pub cpus: Option<Vec<u32>>,
    /// How long to watch counters that grow, within [`LOOK_RANGE`].
    pub look: Nanos,
    /// How long the target's name may take to be resolved.
    pub timeout: Nanos,
}

/// Examines this machine. Takes as long as the look, in which it spins on the measuring CPUs
/// (unless a quota of the cgroup would not last for that). To be called on a thread that is not
/// pinned.
///
/// # Errors
/// Usage, for CPUs that cannot be had, a look out of range and a target that has no route of its
/// own; as [`super::resolve::resolve`] for a target without an address.
pub fn examine(plan: &DoctorPlan) -> Result<Diagnosis> {
    let (least, most) = LOOK_RANGE;
    if plan.look < least || plan.look > most {
        return Err(Error::usage(format!("a look of {} is out of range", plan.look))
            .remedy(format!("write {least} to {most}")));
    }
    let files = Files::default();
    let machine = Cpus::of_self();
    let cpus = measuring(&machine, plan)?;
    let link = Link::find(&files, plan.target.as_ref(), plan.timeout)?;
    let backend = probe::choose(BackendChoice::Auto)?;
    let started_at = jiff::Timestamp::now().to_string();
    let host = HostSnapshot {
        load: load_average(&files),
        sample: Sample::take(&files, &cpus, plan.look, has_quota_for(&machine, &cpus)),
        environment: Environment { device: link.device.clone(), ..environment::capture(None) },
        descriptors_hard: rlimit::descriptors_limit_hard(),
        files,
        cpus,
        machine,
        link,
        backend,
    };
    let findings = checks().map(|check| check.finding(&host)).collect();
    Ok(Diagnosis {
        schema: SCHEMA.to_owned(),
        kind: "doctor".to_owned(),
        tool: Tool { name: "tare".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        started_at,
        look_ns: host.sample.span.0,
        target: host.link.target.clone(),
        address: host.link.address.map(|address| address.to_string()),
        device: host.link.device.as_ref().map(|device| device.name.clone()),
        findings,
        cpus: host.cpus,
        environment: host.environment,
    })
}

/// The CPUs asked for, or those that `tare lat` would take: one, and without a target one for its
/// own server.
fn measuring(machine: &Cpus, plan: &DoctorPlan) -> Result<Vec<u32>> {
    if let Some(asked) = &plan.cpus {
        let workers = u32::try_from(asked.len()).unwrap_or(u32::MAX);
        return Ok(machine.check(asked, workers, &[])?.cpus);
    }
    let mut cpus = machine.choose(1, &[])?.cpus;
    if matches!(plan.target, None | Some(Target::Loopback)) {
        cpus.extend(machine.choose(1, &cpus)?.cpus);
        cpus.sort_unstable();
        cpus.dedup();
    }
    Ok(cpus)
}

/// Whether spinning on all of `cpus` leaves the cgroup unthrottled.
fn has_quota_for(machine: &Cpus, cpus: &[u32]) -> bool {
    machine.quota.is_none_or(|quota| quota > count(cpus.len() as u64))
}

/// Tasks running or waiting to, the average of the last minute.
fn load_average(files: &Files) -> Option<f64> {
    files.numbers("/proc/loadavg").first().copied()
}

struct HostSnapshot {
    files: Files,
    /// The CPUs that would measure.
    cpus: Vec<u32>,
    machine: Cpus,
    environment: Environment,
    link: Link,
    sample: Sample,
    descriptors_hard: Option<u64>,
    /// The load average before the sample was taken.
    load: Option<f64>,
    backend: Chosen,
}

impl HostSnapshot {
    fn first_cpu(&self) -> u32 {
        self.cpus.first().copied().unwrap_or(0)
    }

    /// `CPU 1`, `CPUs 0-1`.
    fn cpus_text(&self) -> String {
        let s = if self.cpus.len() == 1 { "" } else { "s" };
        format!("CPU{s} {}", format_cpus(&self.cpus))
    }

    /// The words that each text of a [`Check`] may hold.
    fn words(&self) -> [(&'static str, String); 5] {
        let mut others = self.machine.online.clone();
        others.retain(|cpu| !self.cpus.contains(cpu));
        // Where all of them measure, which one to spare is for the reader to say.
        let others = if others.is_empty() { "OTHER_CPUS".to_owned() } else { format_cpus(&others) };
        let route = self.link.address.map(|address| format!("ip route get {address}"));
        [
            ("device", self.link.name().to_owned()),
            ("cpus", format_cpus(&self.cpus)),
            ("others", others),
            ("route-and", route.as_ref().map_or_else(String::new, |get| format!("{get}; "))),
            ("route", route.unwrap_or_else(|| "ip route show default".to_owned())),
        ]
    }
}

/// A thing that may be wrong. In its texts `{device}` stands for the route's device, `{cpus}` and
/// `{others}` for the CPUs that measure and those that do not, and other words in braces for what
/// the function found, by [`Seen::with`].
struct Check {
    code: &'static str,
    needs: Needs,
    find: fn(&HostSnapshot) -> Seen,
    texts: Texts,
}

#[derive(Clone, Copy)]
struct Texts {
    /// What it does to a measurement where it is not as it should be.
    effect: &'static str,
    /// The command that shows it.
    show: &'static str,
    /// The command that mends it; empty where none does, as is the one that undoes that.
    mend: &'static str,
    undo: &'static str,
}

const fn check(code: &'static str, needs: Needs, find: fn(&HostSnapshot) -> Seen) -> Check {
    Check { code, needs, find, texts: Texts { effect: "", show: "", mend: "", undo: "" } }
}

impl Check {
    const fn texts(self, texts: Texts) -> Self {
        Self { texts, ..self }
    }

    fn finding(&self, host: &HostSnapshot) -> Finding {
        let seen = host.link.lacks(self.needs).unwrap_or_else(|| (self.find)(host));
        let host_words = host.words();
        let filled = |template: &str| {
            seen.words.iter().chain(&host_words).fold(template.to_owned(), |text, (word, value)| {
                text.replace(&format!("{{{word}}}"), value)
            })
        };
        let Texts { effect, show, mend, undo } = self.texts;
        let is_wrong = matches!(seen.level, Level::Note | Level::Spoils);
        let command = |template| Some(filled(template)).filter(|it| is_wrong && !it.is_empty());
        let mend = command(mend);
        Finding {
            code: self.code.to_owned(),
            level: seen.level,
            value: seen.figure.map(|(value, _)| value),
            unit: seen.figure.map(|(_, unit)| unit.to_owned()),
            effect: filled(effect),
            show: filled(show),
            undo: mend.as_ref().and_then(|_| command(undo)),
            mend,
            what: seen.what,
        }
    }
}

struct Seen {
    level: Level,
    what: String,
    figure: Option<(f64, &'static str)>,
    words: Vec<(&'static str, String)>,
}

fn unknown(what: impl Into<String>) -> Seen {
    found(Level::Unknown, what)
}

fn fine(what: impl Into<String>) -> Seen {
    found(Level::Ok, what)
}

/// Worth a note where that is so, else fine.
fn noted(is_so: bool, what: impl Into<String>) -> Seen {
    found(if is_so { Level::Note } else { Level::Ok }, what)
}

/// Spoils a measurement where that is so, else fine.
fn spoilt(is_so: bool, what: impl Into<String>) -> Seen {
    found(if is_so { Level::Spoils } else { Level::Ok }, what)
}

fn found(level: Level, what: impl Into<String>) -> Seen {
    Seen { level, what: what.into(), figure: None, words: Vec::new() }
}

impl Seen {
    fn figure(self, value: f64, unit: &'static str) -> Self {
        Self { figure: Some((value, unit)), ..self }
    }

    fn with(mut self, word: &'static str, value: impl ToString) -> Self {
        self.words.push((word, value.to_string()));
        self
    }
}

fn checks() -> impl Iterator<Item = &'static Check> {
    [&cpu::CHECKS[..], &interrupts::CHECKS, &kernel::CHECKS, &network::CHECKS].into_iter().flatten()
}

const fn count(number: u64) -> f64 {
    number as f64
}

fn per_second(number: u64, span: Nanos) -> f64 {
    count(number) / span.as_secs_f64().max(1e-9)
}

/// What share of round trips meets something that comes so often.
fn pings_hit(rate_per_s: f64) -> String {
    let percent = (rate_per_s * ROUND_TRIP.as_secs_f64() * 100.0).min(100.0);
    // Two digits that count are enough for an estimate.
    let digits = match percent {
        1.0.. => 0,
        0.1.. => 1,
        _ => 3,
    };
    let text = format!("{percent:.digits$}");
    let percent = match digits {
        0 => &*text,
        _ => text.trim_end_matches('0').trim_end_matches('.'),
    };
    format!("about {percent} % of back-to-back round trips of {ROUND_TRIP} meet one")
}

/// How bad something is that takes a worker's CPU so often.
fn rate_level(rate_per_s: f64) -> Level {
    match rate_per_s {
        SPOILING_PER_S.. => Level::Spoils,
        1.0.. => Level::Note,
        _ => Level::Ok,
    }
}
