//! The checks of the CPUs, on made-up machines.

use super::super::sample::Noise;
use super::*;
use crate::cpus::CPU_DIRECTORY;
use crate::process::ns_per_tick;
use crate::usage::Ticks;

fn at(path: &str) -> String {
    format!("{CPU_DIRECTORY}/{path}")
}

/// A machine with these files below the directory of the CPUs.
fn host(files: &[(&str, &str)], cpus: &[u32]) -> FakeHost {
    let files: Vec<(String, &str)> = files.iter().map(|(path, text)| (at(path), *text)).collect();
    let files: Vec<(&str, &str)> =
        files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    FakeHost::new(&files).on(cpus)
}

#[test]
fn one_slow_governor_is_enough() {
    let of = |first: &str, second: &str| {
        let files = [
            ("cpu0/cpufreq/scaling_governor", first),
            ("cpu1/cpufreq/scaling_governor", second),
            ("cpu0/cpufreq/scaling_min_freq", "800000"),
            ("cpu0/cpufreq/scaling_max_freq", "4200000"),
        ];
        host(&files, &[0, 1]).finding("governor")
    };
    assert_eq!(of("performance", "performance").level, Level::Ok);
    let finding = of("performance", "powersave");
    assert_eq!((finding.level, finding.what.as_str()), (Level::Spoils, "powersave on CPU 1"));
    assert!(finding.effect.contains("800 of 4200 MHz"), "{finding:?}");
    assert_eq!(finding.undo.as_deref(), Some("cpupower -c 1 frequency-set -g powersave"));
    let finding = of("performance", "");
    assert_eq!((finding.level, finding.mend), (Level::Unknown, None));
}

#[test]
fn turbo_is_undone_by_the_same_file() {
    let on = host(&[("intel_pstate/no_turbo", "0")], &[0]).finding("turbo");
    assert_eq!(on.level, Level::Note);
    assert_eq!(on.mend, Some(format!("echo 1 > {}", at("intel_pstate/no_turbo"))));
    assert_eq!(on.undo, Some(format!("echo 0 > {}", at("intel_pstate/no_turbo"))));
    let on = host(&[("cpufreq/boost", "1")], &[0]).finding("turbo");
    assert_eq!(on.mend, Some(format!("echo 0 > {}", at("cpufreq/boost"))));
    let off = host(&[("cpufreq/boost", "0")], &[0]).finding("turbo");
    assert_eq!(off.level, Level::Ok);
    assert_eq!(host(&[], &[0]).finding("turbo").level, Level::Unknown);
}

/// A machine whose CPU 0 has C1 (2 µs) and C6, which is `disabled` or not, with
/// `/dev/cpu_dma_latency` as held.
fn idle(c6_us: &str, disabled: &str, held_us: Option<i32>) -> Finding {
    let files = [
        ("cpu0/cpuidle/state0/name", "C1"),
        ("cpu0/cpuidle/state0/latency", "2"),
        ("cpu0/cpuidle/state1/name", "C6"),
        ("cpu0/cpuidle/state1/latency", c6_us),
        ("cpu0/cpuidle/state1/disable", disabled),
    ];
    let host = host(&files, &[0]);
    if let Some(us) = held_us {
        host.write("/dev/cpu_dma_latency", "");
        std::fs::write(host.files.path("/dev/cpu_dma_latency"), us.to_ne_bytes()).unwrap();
    }
    host.finding("idle-states")
}

#[test]
fn idle_states_spoil_unless_they_are_kept_out_of() {
    let finding = idle("133", "0", None);
    assert_eq!((finding.level, finding.value), (Level::Spoils, Some(133.0)));
    assert!(finding.what.contains("133 µs to leave C6"), "{finding:?}");
    assert!(finding.what.contains("cannot be read"), "{finding:?}");
    assert_eq!(idle("133", "1", None).value, Some(2.0));
    assert_eq!(idle("133", "1", None).level, Level::Ok);
    let open = idle("133", "0", Some(2_000_000_000));
    assert_eq!(open.level, Level::Spoils);
    assert!(open.what.contains("is not held"), "{open:?}");
    assert_eq!(idle("133", "0", Some(0)).level, Level::Ok);
    // Held at 50 µs, C6 is out of reach, and C1 is fine.
    let held = idle("133", "0", Some(50));
    assert_eq!((held.level, held.value), (Level::Ok, Some(2.0)));
    assert_eq!(idle("40", "0", Some(50)).level, Level::Spoils);
}

#[test]
fn without_idle_states_only_the_held_latency_tells() {
    let host = host(&[], &[0]);
    assert_eq!(host.finding("idle-states").level, Level::Unknown);
    host.write("/dev/cpu_dma_latency", "\0\0\0\0");
    assert_eq!(host.finding("idle-states").level, Level::Ok);
}

const CORES: [(&str, &str); 6] = [
    ("cpu0/topology/physical_package_id", "0"),
    ("cpu0/topology/core_id", "0"),
    ("cpu1/topology/physical_package_id", "0"),
    ("cpu1/topology/core_id", "1"),
    ("cpu2/topology/physical_package_id", "0"),
    ("cpu2/topology/core_id", "0"),
];

#[test]
fn a_busy_sibling_spoils_and_an_idle_one_is_noted() {
    let mut host = host(&CORES, &[0]);
    assert_eq!(host.finding("smt").level, Level::Unknown);
    let ticks = |busy, total| {
        let ticks = Ticks { steal: 0, busy, softirq: 0, total };
        [(Some(2), ticks)].into()
    };
    host.sample.before.ticks = ticks(100, 1_000);
    host.sample.after.ticks = ticks(101, 1_100);
    assert_eq!(host.finding("smt").level, Level::Note);
    host.sample.after.ticks = ticks(150, 1_100);
    let busy = host.finding("smt");
    assert_eq!((busy.level, busy.value), (Level::Spoils, Some(0.5)));
    assert!(busy.what.contains("CPU 2"), "{busy:?}");
    let alone = host.on(&[1]);
    assert_eq!(alone.finding("smt").level, Level::Ok);
    let both = alone.on(&[0, 2]);
    let both = both.finding("smt");
    assert_eq!(both.level, Level::Spoils);
    assert!(both.what.contains("both measure"), "{both:?}");
}

#[test]
fn isolation_is_of_all_measuring_cpus() {
    let of = |isolated: &str, tickless: &str| {
        let files = [("isolated", isolated), ("nohz_full", tickless)];
        host(&files, &[2, 3]).finding("cpu-isolation")
    };
    assert_eq!(of("2-3\n", "2-3\n").level, Level::Ok);
    let ticking = of("1-3\n", " (null)\n");
    assert_eq!(ticking.what, "CPUs 2-3 are isolated, but with a tick");
    let shared = of("3\n", "2-3\n");
    assert!(shared.what.ends_with("everything else on this machine"));
    assert_eq!((ticking.level, shared.level), (Level::Note, Level::Note));
    assert_eq!(of("\n", "\n").level, Level::Note);
    assert_eq!(host(&[], &[0]).finding("cpu-isolation").level, Level::Unknown);
}

#[test]
fn a_load_that_reaches_the_measuring_cpus_spoils() {
    let of = |average: &str| {
        let text = format!("{average} 1.05 1.31 3/123 3403\n");
        let mut host = host(&[("cpu0/online", "1"), ("cpu1/online", "1"), ("cpu2/x", "")], &[2]);
        host.write("/proc/loadavg", &text);
        host.load = load_average(&host.files);
        host.finding("load")
    };
    assert_eq!(of("0.2").level, Level::Ok);
    assert_eq!(of("2.0").level, Level::Note);
    let full = of("2.1");
    assert_eq!((full.level, full.value), (Level::Spoils, Some(2.1)));
    assert!(full.what.contains("on 3 CPUs of which 1 measure"), "{full:?}");
    assert_eq!(host(&[], &[0]).finding("load").level, Level::Unknown);
}

#[test]
fn any_stolen_time_spoils() {
    let mut host = host(&[], &[0]);
    assert_eq!(host.finding("steal").level, Level::Unknown);
    host.sample.span = Nanos::from_secs(1);
    let ticks = |steal| [(Some(0), Ticks { steal, ..Ticks::default() })].into();
    host.sample.before.ticks = ticks(1);
    host.sample.after.ticks = ticks(1);
    assert_eq!(host.finding("steal").level, Level::Ok);
    host.sample.after.ticks = ticks(1 + 20_000_000 / ns_per_tick());
    let finding = host.finding("steal");
    assert_eq!((finding.level, finding.value), (Level::Spoils, Some(2e7)));
    assert!(finding.what.contains("(2.0 %)"), "{finding:?}");
}

#[test]
fn noise_is_that_of_the_worst_cpu() {
    let mut host = host(&[], &[0, 1]);
    assert_eq!(host.finding("noise").level, Level::Unknown);
    let span = Nanos::from_secs(2);
    let of =
        |gaps, longest| Noise { span, gaps, longest: Nanos(longest), away: Nanos(gaps * 10_000) };
    host.sample.noise = [(0, of(0, 0)), (1, of(0, 0))].into();
    assert_eq!(host.finding("noise").level, Level::Ok);
    host.sample.noise = [(0, of(2, 900_000)), (1, of(100, 20_000))].into();
    let finding = host.finding("noise");
    assert_eq!((finding.level, finding.value), (Level::Note, Some(50.0)));
    assert!(finding.what.contains("on CPU 1"), "{finding:?}");
    assert!(finding.what.contains("900 µs at most"), "{finding:?}");
    // Ten times a second only, but for 1 % of the time.
    let mut seldom = of(20, 1_000_000);
    seldom.away = Nanos(20_000_000);
    host.sample.noise = [(0, seldom)].into();
    assert_eq!(host.finding("noise").level, Level::Spoils);
    host.sample.noise = [(0, of(2_000, 20_000))].into();
    let finding = host.finding("noise");
    assert_eq!(finding.level, Level::Spoils);
    assert!(finding.what.contains("(1.0 % of the time)"), "{finding:?}");
}

#[test]
fn late_wakeups_are_noted() {
    let mut host = host(&[], &[0]);
    assert_eq!(host.finding("wake-up").level, Level::Unknown);
    host.sample.wakeup = Some(Nanos(4_000));
    assert_eq!(host.finding("wake-up").level, Level::Ok);
    host.sample.wakeup = Some(Nanos(48_000));
    let finding = host.finding("wake-up");
    assert_eq!((finding.level, finding.unit.as_deref()), (Level::Note, Some("us")));
    assert!(finding.what.contains("48 µs late on CPU 0"), "{finding:?}");
}

#[test]
fn a_hypervisor_is_noted() {
    let level = |flags: &str| {
        let host = FakeHost::new(&[("/proc/cpuinfo", flags)]).on(&[0]);
        host.finding("hypervisor").level
    };
    assert_eq!(level("flags\t\t: fpu hypervisor\n"), Level::Note);
    assert_eq!(level("flags\t\t: fpu\n"), Level::Ok);
    assert_eq!(host(&[], &[0]).finding("hypervisor").level, Level::Unknown);
}
