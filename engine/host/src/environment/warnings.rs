//! What is known to spoil microseconds, each with its figure and what to type against it.

use tare_driver::sys::affinity::format_cpus;
use tare_stats::result::{Environment, Fill, IdleState, Warning};

/// Idle states that take longer than this to leave are worth a warning, microseconds.
pub(crate) const EXIT_LATENCY_MAX_US: u64 = 10;
/// A conntrack table fuller than this is worth a warning, per cent.
pub(crate) const CONNTRACK_FULL_PERCENT: u64 = 80;
/// Clock sources that are read without leaving user space.
const FAST_CLOCKS: [&str; 6] = [
    "tsc",
    "kvm-clock",
    "arch_sys_counter",
    "hyperv_clocksource_tsc_page",
    "riscv_clocksource",
    "timebase",
];

/// What the run is like, as far as it decides which warnings matter.
#[derive(Debug, Clone, Default)]
pub struct WarningContext {
    /// The workers of this end spin.
    pub spinning: bool,
    /// The environment is the server's.
    pub server_side: bool,
    /// `/dev/cpu_dma_latency` is held for the run.
    pub no_idle: bool,
    /// CPUs that this end's workers are pinned to.
    pub cpus: Vec<u32>,
    /// CPUs of the other end's workers, where it runs on the same machine; else none.
    pub other_end_cpus: Vec<u32>,
    /// Pairs of CPUs of the two ends that are threads of one core
    /// ([`crate::cpus::Cpus::shared_cores`]).
    pub shared_cores: Vec<(u32, u32)>,
    /// Descriptors that this end needs; zero where that is not known.
    pub descriptors_needed: u64,
}

/// One warning for each thing that is so in `environment` and matters in `context`.
pub fn warnings(environment: &Environment, context: &WarningContext) -> Vec<Warning> {
    let mut found = of_machine(environment, context);
    found.extend(of_run(environment, context));
    if context.server_side {
        for warning in &mut found {
            warning.message.insert_str(0, "at the server: ");
        }
    }
    found
}

fn of_machine(environment: &Environment, context: &WarningContext) -> Vec<Warning> {
    let governor = environment.governor.as_deref().filter(|name| *name != "performance");
    let governor = governor.map(|name| {
        Warning::new(
            "governor",
            format!("the frequency governor is {name}: the clock rate changes while measuring"),
            "cpupower frequency-set -g performance",
        )
    });
    // Over loopback a CPU that spins is the only one that works, and it never idles. Over a device
    // the CPU that takes its interrupts does.
    let is_loopback = environment.device.as_ref().is_some_and(|device| device.name == "lo");
    let is_idle = !context.no_idle && !(context.spinning && is_loopback);
    let is_deep = |state: &&IdleState| {
        is_idle && !state.disabled && state.exit_latency_us > EXIT_LATENCY_MAX_US
    };
    let deep = environment.idle_states.iter().filter(is_deep);
    let idle = deep.max_by_key(|state| state.exit_latency_us).map(|state| {
        let IdleState { name, exit_latency_us: us, .. } = state;
        Warning::new(
            "idle-states",
            format!("idle CPUs take up to {us} µs to wake from {name}"),
            "as root: --no-idle for this run, or cpupower idle-set -D 10",
        )
    });
    let source = environment.clock_source.as_deref().filter(|name| !is_fast_clock(name));
    let clock = source.map(|source| {
        Warning::new(
            "clock-source",
            format!(
                "the clock source is {source}: each reading is slow, since it enters the kernel"
            ),
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource, where the \
             CPU has a stable one",
        )
    });
    let quota = environment.cgroup_cpu_limit.filter(|&limit| limit < 2.0).map(|limit| {
        Warning::new(
            "cpu-quota",
            format!(
                "the cgroup may use {limit} CPUs: once that is used up it stands still for tens of \
                 milliseconds"
            ),
            "raise it to 2 or more (docker run --cpus 2, resources.limits.cpu in a pod), or --wait \
             block",
        )
    });
    [governor, idle, clock, quota].into_iter().flatten().collect()
}

pub(crate) fn is_fast_clock(source: &str) -> bool {
    FAST_CLOCKS.contains(&source)
}

fn of_run(environment: &Environment, context: &WarningContext) -> Vec<Warning> {
    let mut both = context.cpus.clone();
    both.retain(|cpu| context.other_end_cpus.contains(cpu));
    let cpu = (!both.is_empty()).then(|| {
        let both = format_cpus(&both);
        Warning::new(
            "shares-cpu",
            format!("both ends work on CPU {both}, and wait for each other there"),
            "give each end CPUs of its own with --cpus, or --wait block",
        )
    });
    let core = context.shared_cores.first().map(|(ours, theirs)| {
        Warning::new(
            "shares-core",
            format!(
                "CPUs {ours} and {theirs} of the two ends are threads of one core, and slow each \
                 other"
            ),
            "choose CPUs of different cores with --cpus (lscpu -e shows them)",
        )
    });
    let percent = |Fill { used, max }: Fill| used.saturating_mul(100) / max.max(1);
    let full = environment.conntrack.filter(|&fill| percent(fill) >= CONNTRACK_FULL_PERCENT);
    let conntrack = full.map(|fill @ Fill { used, max }| {
        let (percent, more) = (percent(fill), max.saturating_mul(2));
        Warning::new(
            "conntrack-full",
            format!(
                "the conntrack table is {percent} % full ({used} of {max}): new connections may \
                 be dropped"
            ),
            format!("sysctl -w net.netfilter.nf_conntrack_max={more}"),
        )
    });
    let needed = context.descriptors_needed;
    let limit = environment.descriptors_limit.filter(|&limit| needed > limit);
    let descriptors = limit.map(|limit| {
        Warning::new(
            "descriptors",
            format!("{needed} open descriptors are needed and {limit} are allowed"),
            format!("ulimit -n {needed}, for a container docker run --ulimit nofile={needed}"),
        )
    });
    [cpu, core, conntrack, descriptors].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tare_stats::result::Device;

    fn codes(environment: &Environment, context: &WarningContext) -> Vec<String> {
        let found = warnings(environment, context);
        found.into_iter().map(|warning| warning.code).collect()
    }

    fn states(states: &[(&str, u64, bool)]) -> Vec<IdleState> {
        let state = |&(name, exit_latency_us, disabled): &(&str, u64, bool)| IdleState {
            name: name.into(),
            exit_latency_us,
            disabled,
        };
        states.iter().map(state).collect()
    }

    /// A machine on which everything is wrong, and a run for which all of it matters.
    fn worst() -> (Environment, WarningContext) {
        let environment = Environment {
            governor: Some("powersave".into()),
            idle_states: states(&[
                ("POLL", 0, false),
                ("C1E", 11, false),
                ("C3", 85, false),
                ("C6", 133, true),
            ]),
            clock_source: Some("hpet".into()),
            cgroup_cpu_limit: Some(1.5),
            conntrack: Some(Fill { used: 81, max: 100 }),
            descriptors_limit: Some(1024),
            ..Environment::default()
        };
        let context = WarningContext {
            cpus: vec![3, 2],
            other_end_cpus: vec![2],
            shared_cores: vec![(3, 7)],
            descriptors_needed: 2000,
            ..WarningContext::default()
        };
        (environment, context)
    }

    #[test]
    fn everything_wrong_is_reported_with_its_figure() {
        let (environment, mut context) = worst();
        let found = warnings(&environment, &context);
        let expected = [
            ("governor", "powersave"),
            ("idle-states", "85 µs to wake from C3"),
            ("clock-source", "hpet"),
            ("cpu-quota", "1.5 CPUs"),
            ("shares-cpu", "CPU 2,"),
            ("shares-core", "CPUs 3 and 7"),
            ("conntrack-full", "81 %"),
            ("descriptors", "2000 open descriptors"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (warning, (code, figure)) in found.iter().zip(expected) {
            assert_eq!(warning.code, code);
            assert!(warning.message.contains(figure), "{warning:?}");
            assert!(!warning.advice.is_empty());
        }
        assert!(found[1].advice.contains("--no-idle"));
        context.server_side = true;
        let found = warnings(&environment, &context);
        assert!(found.iter().all(|warning| warning.message.starts_with("at the server: ")));
    }

    #[test]
    fn a_tuned_machine_and_an_unknown_one_have_none() {
        let tuned = Environment {
            governor: Some("performance".into()),
            idle_states: states(&[("C1", 2, false), ("C6", 133, true)]),
            clock_source: Some("tsc".into()),
            cgroup_cpu_limit: Some(2.0),
            conntrack: Some(Fill { used: 79, max: 100 }),
            descriptors_limit: Some(1024),
            smt: Some(true),
            hypervisor: Some("kvm".into()),
            busy_poll_us: Some(0),
            ..Environment::default()
        };
        let context = WarningContext {
            cpus: vec![1],
            other_end_cpus: vec![0],
            descriptors_needed: 1024,
            ..WarningContext::default()
        };
        assert_eq!(codes(&tuned, &context), [""; 0]);
        assert_eq!(codes(&Environment::default(), &context), [""; 0]);
    }

    #[test]
    fn idle_states_matter_only_where_something_idles() {
        let (mut environment, mut context) = worst();
        for (device, spinning, no_idle, is_warned) in [
            ("lo", false, false, true),
            ("lo", true, false, false),
            // The CPU that takes the interrupts idles.
            ("eth0", true, false, true),
            ("eth0", true, true, false),
        ] {
            environment.device = Some(Device { name: device.into(), ..Device::default() });
            (context.spinning, context.no_idle) = (spinning, no_idle);
            let codes = codes(&environment, &context);
            assert_eq!(codes.contains(&"idle-states".to_owned()), is_warned, "{device}");
        }
    }
}
