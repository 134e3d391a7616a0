//! What another process uses, as proc(5) tells: CPU time, memory, context switches.

use std::collections::BTreeMap;

use nix::sys::time::TimeValLike;
use nix::time::clock_getcpuclockid;
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::files::{Files, value_of};

/// The kernel cuts a process's name to so many bytes.
const NAME_MAX: usize = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CpuCount {
    /// As a rule in steps of a clock tick, as `system_ns` is.
    pub(crate) user_ns: u64,
    pub(crate) system_ns: u64,
    /// Both together, exactly, where that is known.
    pub(crate) total_ns: Option<u64>,
}

impl CpuCount {
    /// User and system time since an earlier sample, nanoseconds. Where the total is known exactly
    /// it is parted as the ticks part theirs, which is what the kernel does itself.
    pub(crate) fn since(self, earlier: Self) -> (u64, u64) {
        let user = self.user_ns.saturating_sub(earlier.user_ns);
        let system = self.system_ns.saturating_sub(earlier.system_ns);
        let Some((before, now)) = earlier.total_ns.zip(self.total_ns) else {
            return (user, system);
        };
        let total = now.saturating_sub(before);
        let of_both = u128::from(user) + u128::from(system);
        // Less than a tick of either.
        if of_both == 0 {
            return (total, 0);
        }
        let share = u128::from(total) * u128::from(system) / of_both;
        let system = u64::try_from(share).unwrap_or(total).min(total);
        (total - system, system)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessSample {
    /// Clock ticks since boot: what tells it from a later process of the same id.
    pub(crate) started: u64,
    /// It has ended and its parent has not yet asked after it.
    pub(crate) is_over: bool,
    /// Its CPU time, that of threads that have ended included.
    pub(crate) cpu: CpuCount,
    /// Memory resident now. What it shares with others is counted too.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_peak_bytes: Option<u64>,
}

/// The fields of `/proc/PID/stat` behind the name, which may hold spaces and parentheses itself.
fn stat_fields(files: &Files, process: u32) -> Option<Vec<String>> {
    let stat = files.text(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_ascii_whitespace().map(str::to_owned).collect())
}

/// When a process began, in clock ticks since boot; absent where there is none of that id.
pub(crate) fn started_ticks(files: &Files, pid: u32) -> Option<u64> {
    stat_fields(files, pid)?.get(19)?.parse().ok()
}

/// Three system calls on each of two files, and one for the CPU clock.
pub(crate) fn sample(files: &Files, pid: u32) -> Option<ProcessSample> {
    // First, to be read as near to the caller's reading of the clock as can be.
    let total_ns = cpu_clock_ns(files, pid);
    let fields = stat_fields(files, pid)?;
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let status = files.text(format!("/proc/{pid}/status"));
    let bytes = |key| {
        let text = value_of(status.as_deref()?, key)?;
        let kib: u64 = text.strip_suffix(" kB")?.trim().parse().ok()?;
        kib.checked_mul(1 << 10)
    };
    Some(ProcessSample {
        started: number(19)?,
        is_over: matches!(fields.first().map(String::as_str), Some("Z" | "X")),
        cpu: CpuCount {
            user_ns: number(11)?.saturating_mul(ns_per_tick()),
            system_ns: number(12)?.saturating_mul(ns_per_tick()),
            total_ns,
        },
        memory_bytes: bytes("VmRSS"),
        memory_peak_bytes: bytes("VmHWM"),
    })
}

/// The CPU time of all threads of a process (`clock_getcpuclockid(3)`). Only of this machine: a
/// fixture's processes have no clock.
fn cpu_clock_ns(files: &Files, pid: u32) -> Option<u64> {
    if !files.is_machine() {
        return None;
    }
    let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into().ok()?)).ok()?;
    u64::try_from(clock.now().ok()?.num_nanoseconds()).ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Switches {
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
}

/// The context switches of the threads of a process, by thread id: a file per thread. `room` is how
/// many threads may still be read; absent where that does not suffice.
pub(crate) fn switches(
    files: &Files,
    pid: u32,
    room: &mut usize,
) -> Option<BTreeMap<u32, Switches>> {
    let tasks = format!("/proc/{pid}/task");
    let names = files.names(&tasks);
    *room = room.checked_sub(names.len())?;
    let each = names.iter().filter_map(|tid| {
        let status = files.text(format!("{tasks}/{tid}/status"))?;
        let number = |key| value_of(&status, key)?.parse().ok();
        let voluntary = number("voluntary_ctxt_switches")?;
        let involuntary = number("nonvoluntary_ctxt_switches")?;
        Some((tid.parse().ok()?, Switches { voluntary, involuntary }))
    });
    Some(each.collect())
}

/// The ids of the processes of that name that have not ended, as `pgrep -x` finds them.
pub(crate) fn named(files: &Files, name: &str) -> Vec<u32> {
    let cut = &name.as_bytes()[..name.len().min(NAME_MAX)];
    let is_named = |pid: &u32| {
        let comm = files.text(format!("/proc/{pid}/comm"));
        comm.is_some_and(|comm| comm.as_bytes() == cut)
            && sample(files, *pid).is_some_and(|sample| !sample.is_over)
    };
    let ids = files.names("/proc").into_iter().filter_map(|id| id.parse().ok());
    let mut found: Vec<u32> = ids.filter(is_named).collect();
    found.sort_unstable();
    found
}

/// Nanoseconds of a clock tick, the unit of many of the kernel's counters (10 ms as a rule).
pub(crate) fn ns_per_tick() -> u64 {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    1_000_000_000 / u64::try_from(per_second).unwrap_or(100).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;
    use crate::usage::usage_of;
    use nix::sys::resource::UsageWho;

    const STAT: &str = "7 (a ) b) S 1 7 7 0 -1 0 0 0 0 0 30 12 0 0 20 0 1 0 4711 0 0\n";

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let fixture = Fixture::new(&[
            ("/proc/7/stat", STAT),
            ("/proc/7/status", "Name:\tx\nVmHWM:\t    40 kB\nVmRSS:\t  12 kB\n"),
        ]);
        let seen = sample(&fixture.files(), 7).unwrap();
        let (user_ns, system_ns) = (30 * ns_per_tick(), 12 * ns_per_tick());
        let expected = ProcessSample {
            started: 4711,
            is_over: false,
            cpu: CpuCount { user_ns, system_ns, total_ns: None },
            memory_bytes: Some(12 << 10),
            memory_peak_bytes: Some(40 << 10),
        };
        assert_eq!(seen, expected);
        assert_eq!(sample(&fixture.files(), 8), None);
        fixture.write("/proc/7/stat", STAT.replace(" S ", " Z "));
        assert!(sample(&fixture.files(), 7).unwrap().is_over);
    }

    #[test]
    fn switches_are_those_of_every_thread_or_of_none() {
        let status =
            |v, n| format!("voluntary_ctxt_switches:\t{v}\nnonvoluntary_ctxt_switches:\t{n}\n");
        let fixture = Fixture::new(&[
            ("/proc/7/task/7/status", &status(5, 1)),
            ("/proc/7/task/9/status", &status(70, 20)),
        ]);
        let mut room = 2;
        let seen = switches(&fixture.files(), 7, &mut room).unwrap();
        assert_eq!(room, 0);
        let voluntary: u64 = seen.values().map(|s| s.voluntary).sum();
        assert_eq!((voluntary, seen[&9].involuntary), (75, 20));
        assert_eq!(switches(&fixture.files(), 7, &mut 1), None, "no room");
        assert_eq!(switches(&fixture.files(), 8, &mut 9), Some(BTreeMap::new()));
    }

    #[test]
    fn names_are_cut_as_the_kernel_cuts_them() {
        let fixture = Fixture::new(&[("/proc/self/comm", "kube\n")]);
        for (pid, comm, state) in [
            (30, "kube-controller\n", " S "),
            (4, "kube-controller\n", " R "),
            (5, "kube-controller\n", " Z "),
            (6, "kube\n", " S "),
        ] {
            fixture.write(&format!("/proc/{pid}/comm"), comm);
            fixture.write(&format!("/proc/{pid}/stat"), STAT.replace(" S ", state));
        }
        let files = fixture.files();
        assert_eq!(named(&files, "kube-controller-manager"), [4, 30]);
        assert_eq!(named(&files, "kube"), [6]);
        assert!(named(&files, "nginx").is_empty());
    }

    #[test]
    fn a_total_is_parted_as_its_ticks_are() {
        let count = |user_ns, system_ns, total_ns| CpuCount { user_ns, system_ns, total_ns };
        let before = count(100, 100, Some(1_000));
        assert_eq!(count(130, 110, Some(1_044)).since(before), (33, 11));
        assert_eq!(count(100, 100, Some(1_009)).since(before), (9, 0));
        assert_eq!(count(130, 110, None).since(before), (30, 10));
        assert_eq!(before.since(count(500, 500, Some(5_000))), (0, 0));
    }

    #[test]
    fn the_clock_of_a_live_process_is_finer_than_a_tick() {
        let files = Files::default();
        let me = std::process::id();
        let before = sample(&files, me).unwrap();
        let own = usage_of(UsageWho::RUSAGE_SELF);
        let mut spent = own;
        while spent.user_ns + spent.system_ns < own.user_ns + own.system_ns + 3_000_000 {
            spent = usage_of(UsageWho::RUSAGE_SELF);
        }
        let (user, system) = sample(&files, me).unwrap().cpu.since(before.cpu);
        assert!(user + system >= 2_999_000, "{user} + {system}");
        let mut room = 10_000;
        assert!(switches(&files, me, &mut room).unwrap().contains_key(&me));
    }
}
