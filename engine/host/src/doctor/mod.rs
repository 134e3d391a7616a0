//! What on this machine would spoil a microsecond measurement. Everything is looked at, and nothing is changed.
//!
//! Each check is a function of a `Scene` to one [`Finding`]: the small files of `/proc` and `/sys` (below a root that
//! tests replace by a fixture), and what was asked of the kernel before. What cannot be read is [`Level::Unknown`], never
//! taken for fine.

mod cpu;
mod interrupts;
mod kernel;
mod limits;
mod link;
mod look;
mod memory;
mod network;

use crate::files::Files;
use tare_driver::probe;
use tare_driver::probe::Chosen;
use tare_driver::sys::affinity::format_cpus;
use tare_stats::result::{Diagnosis, Environment, Finding, Level, SCHEMA, Tool};
use tare_units::Nanos;
use tare_units::error::{Error, Result};

use super::cpus::Cpus;
use super::environment;
use limits::Limits;
use link::{Link, Nothing};
use look::Look;
use tare_driver::BackendChoice;
use tare_units::target::Target;

/// The round trip that effects are reckoned for: a fast one, over loopback or a good card.
const ROUND_TRIP: Nanos = Nanos::from_micros(10);
/// What comes more often than this, per second, is met by one in a thousand such round trips, and moves their p99.9.
const SPOILING_PER_S: f64 = 100.0;
/// How long a look may take at least, and at most.
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

/// Examines this machine. Takes as long as the look, in which it spins on the measuring CPUs (unless a quota of the cgroup
/// would not last for that). To be called on a thread that is not pinned.
///
/// # Errors
/// Usage, for CPUs that cannot be had, a look out of range and a target that has no route of its own; as
/// [`super::resolve::resolve`] for a target without an address.
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
    let load = cpu::Load::read(&files);
    let look = Look::take(&files, &cpus, plan.look, has_quota_for(&machine, &cpus));
    let environment = Environment { device: link.device.clone(), ..environment::capture(None) };
    let scene = Scene {
        files: &files,
        cpus: &cpus,
        machine: &machine,
        environment: &environment,
        link: &link,
        look: &look,
        limits: Limits::of_self(),
        load,
        backend: &backend,
    };
    let findings = check(&scene);
    Ok(Diagnosis {
        schema: SCHEMA.to_owned(),
        kind: "doctor".to_owned(),
        tool: Tool { name: "tare".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        started_at,
        look_ns: look.span.0,
        target: link.target.clone(),
        address: link.address().map(|address| address.to_string()),
        device: link.device.as_ref().map(|device| device.name.clone()),
        findings,
        cpus,
        environment,
    })
}

/// The CPUs asked for, or those that `tare lat` would take: one, and where there is no target one for its own far end.
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
    let needed = interrupts::count_as_f64(cpus.len());
    machine.quota.is_none_or(|quota| quota > needed)
}

/// What the checks look at.
struct Scene<'a> {
    files: &'a Files,
    /// The CPUs that would measure.
    cpus: &'a [u32],
    machine: &'a Cpus,
    environment: &'a Environment,
    link: &'a Link,
    look: &'a Look,
    limits: Limits,
    load: Option<cpu::Load>,
    backend: &'a Chosen,
}

impl Scene<'_> {
    /// `CPU 1`, `CPUs 0-1`.
    fn cpus_text(&self) -> String {
        let s = if self.cpus.len() == 1 { "" } else { "s" };
        format!("CPU{s} {}", format_cpus(self.cpus))
    }

    /// The CPUs that do not measure, as a list to type.
    fn other_cpus_text(&self) -> String {
        let mut others = self.machine.online.clone();
        others.retain(|cpu| !self.cpus.contains(cpu));
        if others.is_empty() {
            // All of them measure: which one to spare is for the reader to say.
            return "OTHER_CPUS".to_owned();
        }
        format_cpus(&others)
    }
}

/// What a check is about, whatever it finds.
struct About {
    code: &'static str,
    effect: String,
    show: String,
}

impl About {
    fn new(code: &'static str, effect: impl Into<String>, show: impl Into<String>) -> Self {
        Self { code, effect: effect.into(), show: show.into() }
    }

    fn finds(self, level: Level, what: impl Into<String>) -> Finding {
        Finding::new(self.code, level, what).effect(self.effect).show(self.show)
    }

    fn unknown(self, what: impl Into<String>) -> Finding {
        self.finds(Level::Unknown, what)
    }

    /// There is no such thing at the device.
    fn nothing(self, nothing: Nothing) -> Finding {
        match nothing {
            Nothing::NoRoute(why) => self.unknown(why),
            Nothing::NoHardware(name) => self.finds(
                Level::Ok,
                format!("{name} is the kernel's own: there is no card behind it"),
            ),
        }
    }
}

/// All checks, in the order in which findings are told.
const CHECKS: [fn(&Scene<'_>) -> Finding; 39] = [
    cpu::governor,
    cpu::turbo,
    cpu::idle_states,
    cpu::smt,
    cpu::isolation,
    cpu::load,
    cpu::steal,
    cpu::noise,
    cpu::wakeup,
    cpu::hypervisor,
    interrupts::irqs,
    interrupts::irq_affinity,
    interrupts::device_irqs,
    interrupts::local,
    kernel::clock_source,
    kernel::timer_slack,
    kernel::quota,
    kernel::throttling,
    kernel::seccomp,
    kernel::io_uring,
    memory::huge_pages,
    memory::numa_balancing,
    limits::descriptors,
    limits::memlock,
    limits::ephemeral_ports,
    limits::conntrack,
    network::route,
    network::path_mtu,
    network::offloads,
    network::lro,
    network::coalescing,
    network::gro_flush,
    network::rings,
    network::rps,
    network::xps,
    memory::numa_node,
    network::softnet_drops,
    network::softnet_squeezes,
    network::busy_poll,
];

fn check(scene: &Scene<'_>) -> Vec<Finding> {
    CHECKS.iter().map(|check| check(scene)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts within a minute stay far below 2^53")]
fn per_second(count: u64, span: Nanos) -> f64 {
    count as f64 / span.as_secs_f64().max(1e-9)
}

/// What share of round trips meets something that comes so often.
fn pings_hit(rate_per_s: f64) -> String {
    let percent = (rate_per_s * ROUND_TRIP.as_secs_f64() * 100.0).min(100.0);
    let percent = if percent >= 1.0 {
        format!("{percent:.0}")
    } else {
        // Two digits that count are enough for an estimate.
        let digits = if percent >= 0.1 { 1 } else { 3 };
        let text = format!("{percent:.digits$}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    format!("about {percent} % of back-to-back round trips of {ROUND_TRIP} meet one")
}

/// How bad something is that takes a worker's CPU so often.
fn rate_level(rate_per_s: f64) -> Level {
    if rate_per_s >= SPOILING_PER_S {
        Level::Spoils
    } else if rate_per_s >= 1.0 {
        Level::Note
    } else {
        Level::Ok
    }
}

#[cfg(test)]
mod stage;

#[cfg(test)]
mod tests {
    use super::stage::Stage;
    use super::*;
    use crate::files::fixture::Fixture;
    use std::collections::BTreeSet;

    #[test]
    fn an_empty_machine_is_unknown_not_fine() {
        let stage = Stage::new(&[]).on(&[0]);
        let findings = check(&stage.scene());
        let known: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.level != Level::Unknown)
            .map(|finding| finding.code.as_str())
            .collect();
        // The stage has a backend and limits, which are no files.
        assert_eq!(known, ["io-uring", "descriptors", "memlock"]);
    }

    #[test]
    fn every_finding_has_a_code_of_its_own_an_effect_and_a_command() {
        for stage in [Stage::new(&[]).on(&[0]), Stage::new(&[]).on(&[0]).hardware("eth0")] {
            let findings = check(&stage.scene());
            let codes: BTreeSet<&str> = findings.iter().map(|f| f.code.as_str()).collect();
            assert_eq!(codes.len(), CHECKS.len());
            for finding in &findings {
                let kebab = |c: char| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit();
                assert!(finding.code.chars().all(kebab), "{finding:?}");
                assert!(!finding.what.is_empty(), "{finding:?}");
                assert!(!finding.effect.is_empty(), "{finding:?}");
                assert!(!finding.show.is_empty(), "{finding:?}");
                assert_eq!(finding.value.is_some(), finding.unit.is_some());
            }
        }
    }

    #[test]
    fn shares_of_round_trips() {
        assert!(pings_hit(1000.0).starts_with("about 1 % of"));
        assert!(pings_hit(250.0).starts_with("about 0.2 % of"));
        assert!(pings_hit(12.0).starts_with("about 0.012 % of"));
        assert!(pings_hit(1e9).starts_with("about 100 % of"));
        assert_eq!(rate_level(0.5), Level::Ok);
        assert_eq!(rate_level(99.0), Level::Note);
        assert_eq!(rate_level(100.0), Level::Spoils);
    }

    #[test]
    fn a_quota_that_the_look_would_use_up_is_left_alone() {
        let machine = |quota| {
            let nothing = Fixture::new(&[]);
            let mut machine = Cpus::read(&nothing.files(), vec![]);
            machine.quota = quota;
            machine
        };
        assert!(has_quota_for(&machine(None), &[0, 1]));
        assert!(has_quota_for(&machine(Some(2.5)), &[0, 1]));
        assert!(!has_quota_for(&machine(Some(2.0)), &[0, 1]));
    }

    fn plan() -> DoctorPlan {
        DoctorPlan { target: None, cpus: None, look: LOOK_RANGE.0, timeout: Nanos::from_secs(1) }
    }

    #[test]
    fn without_a_target_both_ends_measure() {
        let nothing = Fixture::new(&[]);
        let machine = Cpus::read(&nothing.files(), vec![0, 1, 2]);
        let mut plan = plan();
        assert_eq!(measuring(&machine, &plan).unwrap(), [1, 2]);
        plan.target = Some(Target::Host { host: "node-2".into(), port: 1 });
        assert_eq!(measuring(&machine, &plan).unwrap(), [2]);
        plan.cpus = Some(vec![0, 3]);
        let error = measuring(&machine, &plan).unwrap_err().to_string();
        assert!(error.contains("CPU 3"), "{error}");
    }

    #[test]
    fn this_machine_is_examined_and_a_look_has_bounds() {
        let mut plan = DoctorPlan { target: Some(Target::Loopback), ..plan() };
        let diagnosis = examine(&plan).unwrap();
        assert_eq!(diagnosis.findings.len(), CHECKS.len());
        assert_eq!(diagnosis.device.as_deref(), Some("lo"));
        assert!(diagnosis.look_ns >= plan.look.0);
        for look in [Nanos::ZERO, Nanos::from_secs(61)] {
            plan.look = look;
            let error = examine(&plan).unwrap_err().to_string();
            assert!(error.contains("write 10 ms to 60 s"), "{error}");
        }
    }
}
