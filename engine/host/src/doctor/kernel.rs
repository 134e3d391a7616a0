//! What the kernel does to this process: clock, quota, filters, the ring.

use std::path::PathBuf;

use super::{About, Scene};
use crate::cgroup::Cgroups;
use crate::environment::is_fast_clock;
use crate::files::Files;
use tare_driver::Backend;
use tare_stats::result::{Finding, Level};
use tare_units::Nanos;

/// Reading a clock in user space costs 15 to 60 ns; above this the kernel was entered.
const CLOCK_COST_MAX: Nanos = Nanos(200);

/// The clock source, and what reading the clock costs.
pub(super) fn clock_source(scene: &Scene<'_>) -> Finding {
    const DIRECTORY: &str = "/sys/devices/system/clocksource/clocksource0";
    let about = About::new(
        "clock-source",
        "a clock that is read in the kernel costs some 0.2 to 1 µs each time, twice a round trip",
        format!("cat {DIRECTORY}/current_clocksource"),
    );
    let cost = scene.look.clock_cost;
    let Some(source) = &scene.environment.clock_source else {
        let told = match cost {
            Nanos::ZERO => String::new(),
            cost => format!(" (reading the clock costs {cost})"),
        };
        return about.unknown(format!("the clock source does not show{told}"));
    };
    let slow = !is_fast_clock(source) || cost > CLOCK_COST_MAX;
    let level = if slow { Level::Spoils } else { Level::Ok };
    about
        .finds(level, format!("{source}; reading the clock costs {cost}"))
        .figure(count(cost.0), "ns")
        .mend(format!(
            "echo tsc > {DIRECTORY}/current_clocksource  # where the CPU has a stable one: dmesg | grep -i tsc"
        ))
        .undo(format!("echo {source} > {DIRECTORY}/current_clocksource"))
}

/// How much later than asked the kernel may end a sleep.
pub(super) fn timer_slack(scene: &Scene<'_>) -> Finding {
    let slack = scene.files.number::<u64>("/proc/self/timerslack_ns");
    let slack = slack.map(Nanos);
    let about = About::new(
        "timer-slack",
        "sleeps end later by up to this much, so that several end together",
        "cat /proc/self/timerslack_ns",
    );
    if scene.look.slack_set {
        let others = slack.map_or_else(String::new, |slack| format!("; other tools' have {slack}"));
        let what = format!("tare's threads set theirs to 1 ns{others}");
        return about.finds(Level::Ok, what).figure(1.0, "ns");
    }
    let Some(slack) = slack else {
        return about.unknown("it cannot be set here (prctl), and does not show");
    };
    let what = format!("it cannot be set here (prctl): sleeps end up to {slack} late");
    about
        .finds(Level::Note, what)
        .figure(count(slack.0), "ns")
        .mend("allow prctl(PR_SET_TIMERSLACK) in the sandbox")
}

/// Where quota and throttling of this process's cgroups stand.
fn cpu_files(scene: &Scene<'_>) -> (Vec<PathBuf>, Vec<PathBuf>) {
    Cgroups::of_self(scene.files).map_or_else(Default::default, |groups| groups.cpu_files())
}

/// The lines of these files that hold a word.
fn shown_by(word: &str, files: &[PathBuf]) -> String {
    if files.is_empty() {
        return "cat /proc/self/cgroup".to_owned();
    }
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    format!("grep -H '{word}' {}", files.join(" "))
}

/// The CPU quota of the cgroup.
pub(super) fn quota(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "cpu-quota",
        "once the quota of a period (100 ms as a rule) is used up, all threads stand still to its end: tens of ms",
        shown_by("", &cpu_files(scene).0),
    );
    let Some(version) = &scene.environment.cgroup_version else {
        return about.unknown("no control groups show here");
    };
    let Some(limit) = scene.environment.cgroup_cpu_limit else {
        let what = format!("none that shows (cgroup {version})");
        return about.finds(Level::Ok, what);
    };
    let level = if limit < 2.0 { Level::Spoils } else { Level::Note };
    about
        .finds(level, format!("the cgroup may use {limit} CPUs"))
        .figure(limit, "CPUs")
        .mend("docker update --cpus 4 CONTAINER  # in a pod resources.limits.cpu, in a unit CPUQuota=; or --wait block")
}

/// Whether the cgroup was held back.
pub(super) fn throttling(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "cpu-throttling",
        "each time all threads of the cgroup stood still, up to 100 ms: read as network cost, it is none",
        shown_by("throttled", &cpu_files(scene).1),
    );
    let Some(so_far) = scene.look.after.throttling else {
        return about.unknown("the cgroup does not count throttling");
    };
    let before = scene.look.before.throttling.unwrap_or(so_far);
    let grown = so_far.periods.saturating_sub(before.periods);
    let level = match (grown, so_far.periods) {
        (1.., _) => Level::Spoils,
        (0, 1..) => Level::Note,
        (0, 0) => Level::Ok,
    };
    let what = match level {
        Level::Ok => "never so far".to_owned(),
        _ => format!(
            "in {} periods so far, for {} in all; {grown} of them within the look",
            so_far.periods,
            Nanos(so_far.ns)
        ),
    };
    about
        .finds(level, what)
        .figure(count(so_far.periods), "periods")
        .mend("raise the quota (see cpu-quota), or measure in a cgroup of its own")
}

/// A filter on system calls.
pub(super) fn seccomp(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "seccomp",
        "each system call passes the filter first: some tens of ns, and a denied io_uring",
        "grep Seccomp /proc/self/status",
    );
    match scene.environment.seccomp.as_deref() {
        None => about.unknown("nothing tells whether system calls are filtered"),
        Some("off") => about.finds(Level::Ok, "no filter"),
        Some(mode) => about
            .finds(Level::Note, format!("mode {mode}{}", filters(scene.files)))
            .mend("docker run --security-opt seccomp=unconfined IMAGE  # in a pod seccompProfile.type: Unconfined"),
    }
}

fn filters(files: &Files) -> String {
    files
        .value_of("/proc/self/status", "Seccomp_filters")
        .map_or_else(String::new, |filters| format!(", {filters} filters"))
}

/// Which backend `auto` takes.
pub(super) fn io_uring(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "io-uring",
        "epoll is used instead: as exact, with some 10 to 20 % more CPU for a request at many connections; ends that differ \
         do not compare",
        "tare lat -n 1 --backend uring; sysctl kernel.io_uring_disabled",
    );
    let chosen = scene.backend;
    let disabled = match scene.environment.io_uring_disabled {
        Some(value) => format!("kernel.io_uring_disabled is {value}; "),
        None => String::new(),
    };
    let level = match chosen.backend {
        Backend::Uring => Level::Ok,
        _ => Level::Note,
    };
    let finding = about.finds(level, format!("{disabled}{}", chosen.reason));
    match &chosen.advice {
        Some(advice) => finding.mend(advice),
        None => finding,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub(super) const fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::super::stage::Stage;
    use super::*;
    use crate::cgroup::Throttling;

    #[test]
    fn a_clock_is_slow_by_name_or_by_its_cost() {
        let file = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let level = |name: &str, cost: u64| {
            let mut stage = Stage::new(&[(file, name)]).on(&[0]);
            stage.look.clock_cost = Nanos(cost);
            let finding = clock_source(&stage.scene());
            assert!(finding.what.contains(name), "{finding:?}");
            finding.level
        };
        assert_eq!(level("tsc", 19), Level::Ok);
        assert_eq!(level("tsc", 900), Level::Spoils);
        assert_eq!(level("hpet", 1_100), Level::Spoils);
        assert_eq!(level("hpet", 100), Level::Spoils);
        let stage = Stage::new(&[]).on(&[0]);
        assert_eq!(clock_source(&stage.scene()).level, Level::Unknown);
    }

    #[test]
    fn a_slack_that_cannot_be_set_is_told() {
        let mut stage = Stage::new(&[("/proc/self/timerslack_ns", "50000\n")]).on(&[0]);
        let finding = timer_slack(&stage.scene());
        assert_eq!((finding.level, finding.value), (Level::Note, Some(50_000.0)));
        stage.look.slack_set = true;
        assert_eq!(timer_slack(&stage.scene()).level, Level::Ok);
    }

    #[test]
    fn quotas_spoil_below_two_cpus() {
        let level = |max: &str| {
            let group = ("/proc/self/cgroup", "0::/\n");
            let stage = Stage::new(&[group, ("/sys/fs/cgroup/cpu.max", max)]).on(&[0]);
            let finding = quota(&stage.scene());
            assert_eq!(finding.show, "grep -H '' /sys/fs/cgroup/cpu.max");
            (finding.level, finding.value)
        };
        assert_eq!(level("max 100000"), (Level::Ok, None));
        assert_eq!(level("150000 100000"), (Level::Spoils, Some(1.5)));
        assert_eq!(level("400000 100000"), (Level::Note, Some(4.0)));
        let stage = Stage::new(&[]).on(&[0]);
        assert_eq!(quota(&stage.scene()).level, Level::Unknown);
    }

    #[test]
    fn throttling_is_worst_while_it_goes_on() {
        let level = |before: u64, after: u64| {
            let mut stage = Stage::new(&[]).on(&[0]);
            let at =
                |periods| Some(Throttling { periods, ns: periods * 1_000, enforced: 10 * periods });
            stage.look.before.throttling = at(before);
            stage.look.after.throttling = at(after);
            throttling(&stage.scene()).level
        };
        assert_eq!(level(0, 0), Level::Ok);
        assert_eq!(level(7, 7), Level::Note);
        assert_eq!(level(7, 8), Level::Spoils);
    }

    #[test]
    fn a_filter_is_told_by_the_status() {
        let level = |status: &str| {
            let stage = Stage::new(&[("/proc/self/status", status)]).on(&[0]);
            seccomp(&stage.scene()).level
        };
        assert_eq!(level("Seccomp:\t0\n"), Level::Ok);
        assert_eq!(level("Seccomp:\t2\nSeccomp_filters:\t3\n"), Level::Note);
        assert_eq!(level("Name:\tx\n"), Level::Unknown);
    }

    #[test]
    fn a_denied_ring_is_told_with_the_reason_and_the_advice() {
        let disabled = ("/proc/sys/kernel/io_uring_disabled", "2\n");
        let mut stage = Stage::new(&[disabled]).on(&[0]);
        assert_eq!(io_uring(&stage.scene()).level, Level::Ok);
        stage.backend.backend = Backend::Epoll;
        stage.backend.reason = "io_uring is denied (EPERM)".into();
        stage.backend.advice = Some("sysctl -w kernel.io_uring_disabled=0".into());
        let finding = io_uring(&stage.scene());
        assert_eq!(finding.level, Level::Note);
        assert!(finding.what.starts_with("kernel.io_uring_disabled is 2; io_uring is denied"));
        assert_eq!(finding.mend, stage.backend.advice);
    }
}
