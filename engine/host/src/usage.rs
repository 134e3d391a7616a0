//! What this process and its threads used, and what was taken from them.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::{AddAssign, Sub};
use std::os::unix::fs::FileExt as _;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::cgroup::{Cgroups, Throttling};
use crate::files::Files;
use crate::process::ns_per_tick;

/// CPU time and context switches, up to now or (as a difference) within a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTimes {
    /// In user mode; the kernel's figure has steps of a microsecond or coarser.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// Context switches of its own sleeping.
    pub voluntary_switches: u64,
    /// Context switches forced on it.
    pub involuntary_switches: u64,
    /// Time that a thread could have run and waited for a CPU, where the kernel tells; added up,
    /// that of the thread that waited the longest.
    pub run_queue_ns: Option<u64>,
}

impl Sub for CpuTimes {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        let since = u64::saturating_sub;
        let run_queue = self.run_queue_ns.zip(earlier.run_queue_ns);
        Self {
            user_ns: since(self.user_ns, earlier.user_ns),
            system_ns: since(self.system_ns, earlier.system_ns),
            voluntary_switches: since(self.voluntary_switches, earlier.voluntary_switches),
            involuntary_switches: since(self.involuntary_switches, earlier.involuntary_switches),
            run_queue_ns: run_queue.map(|(now, before)| since(now, before)),
        }
    }
}

impl AddAssign for CpuTimes {
    fn add_assign(&mut self, other: Self) {
        self.user_ns += other.user_ns;
        self.system_ns += other.system_ns;
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
        self.run_queue_ns = self.run_queue_ns.max(other.run_queue_ns);
    }
}

/// How long a thread has waited for a CPU (`/proc/PID/task/TID/schedstat`, the kernel's
/// `Documentation/scheduler/sched-stats.rst`): held open, so that a reading is one system call.
#[derive(Debug)]
pub struct RunQueue(Option<File>);

impl RunQueue {
    /// Of the calling thread, whichever thread reads it later.
    pub fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    /// What the calling thread used so far, with the time that it waited.
    pub fn usage(&self) -> CpuTimes {
        CpuTimes { run_queue_ns: self.wait_ns(), ..thread_usage() }
    }

    /// Absent where the kernel keeps no such account, and then says that the thread never ran.
    fn wait_ns(&self) -> Option<u64> {
        let mut text = [0; 96];
        let length = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        let mut words = text.get(..length)?.split(|byte| *byte == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
        let (ran, waited) = (number()?, number()?);
        (ran > 0).then_some(waited)
    }
}

/// What the calling thread used so far. One system call, no allocation.
pub fn thread_usage() -> CpuTimes {
    usage_of(UsageWho::RUSAGE_THREAD)
}

pub(crate) fn usage_of(who: UsageWho) -> CpuTimes {
    let positive = |number: i64| u64::try_from(number).unwrap_or(0);
    // It fails only for a bad argument; a sandbox that lacks it has nothing to report.
    getrusage(who).map_or_else(
        |_| CpuTimes::default(),
        |usage| CpuTimes {
            user_ns: positive(usage.user_time().num_microseconds()) * 1_000,
            system_ns: positive(usage.system_time().num_microseconds()) * 1_000,
            voluntary_switches: positive(usage.voluntary_context_switches()),
            involuntary_switches: positive(usage.involuntary_context_switches()),
            run_queue_ns: None,
        },
    )
}

/// The id of this boot, by which two ends know that they share a machine (and containers share it).
pub fn boot_id() -> Option<String> {
    Files::default().word("/proc/sys/kernel/random/boot_id")
}

/// What disturbed, or used, the machine within a span. Absent where the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Disturbance {
    /// Time the hypervisor took from the watched CPUs, in steps of a clock tick (10 ms as a rule).
    pub steal_ns: Option<u64>,
    /// Periods in which the cgroup was throttled.
    pub throttled_periods: Option<u64>,
    /// Time throttled.
    pub throttled_ns: Option<u64>,
    /// Share of the whole machine that was busy, 0 to 1; stolen time is not counted as busy.
    pub machine_busy: Option<f64>,
    /// Share in soft interrupts, where received packets are worked off; within `machine_busy`.
    pub machine_softirq: Option<f64>,
    /// What became of received packets before any protocol saw them.
    pub softnet: Option<Softnet>,
    /// What this process used, all its threads.
    pub process: CpuTimes,
}

/// Troubles of the machine's receive path, over all CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Softnet {
    /// Packets dropped since a CPU's backlog was full.
    pub dropped: u64,
    /// Rounds of receiving that ended with packets left, their budget or time being spent.
    pub squeezed: u64,
}

impl Softnet {
    /// `/proc/net/softnet_stat`: a line per CPU of hexadecimal words, of which the second counts
    /// drops and the third squeezes (the kernel's `softnet_seq_show`).
    fn read(files: &Files) -> Option<Self> {
        let parse = |line: &str| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let mut next = || u64::from_str_radix(words.next()?, 16).ok();
            Some(Self { dropped: next()?, squeezed: next()? })
        };
        let add = |sum: Option<Self>, more: Option<Self>| {
            let (Self { dropped, squeezed }, more) = sum.zip(more)?;
            Some(Self { dropped: dropped + more.dropped, squeezed: squeezed + more.squeezed })
        };
        files.text("/proc/net/softnet_stat")?.lines().map(parse).reduce(add)?
    }

    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            dropped: self.dropped.saturating_sub(earlier.dropped),
            squeezed: self.squeezed.saturating_sub(earlier.squeezed),
        }
    }
}

/// The kernel's counters at one instant. What it does not tell is absent.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Of each CPU that is online, and without a number of the whole machine.
    pub(crate) ticks: BTreeMap<Option<u32>, Ticks>,
    pub(crate) throttling: Option<Throttling>,
    pub(crate) softnet: Option<Softnet>,
}

impl Counters {
    pub(crate) fn read(files: &Files, cgroups: Option<&Cgroups>) -> Self {
        Self {
            ticks: files.lines("/proc/stat", Ticks::parse).into_iter().collect(),
            throttling: cgroups.and_then(Cgroups::throttling),
            softnet: Softnet::read(files),
        }
    }

    pub(crate) fn steal_ns_since(&self, earlier: &Self, cpus: &[u32]) -> Option<u64> {
        let stolen = |cpu: &u32| {
            let (now, before) = (self.ticks.get(&Some(*cpu))?, earlier.ticks.get(&Some(*cpu))?);
            Some(now.steal.saturating_sub(before.steal))
        };
        let ticks = cpus.iter().filter_map(stolen).sum::<u64>();
        (!self.ticks.is_empty()).then(|| ticks * ns_per_tick())
    }
}

/// The kernel's counters, and what comes of them later.
#[derive(Debug)]
pub struct DisturbanceProbe {
    files: Files,
    cgroups: Option<Cgroups>,
    cpus: Vec<u32>,
    before: Counters,
    process: CpuTimes,
}

impl DisturbanceProbe {
    /// Takes the first reading, watching `cpus` for steal. Not for the measured loop: it reads
    /// files.
    pub fn start(cpus: &[u32]) -> Self {
        Self::below(Files::default(), cpus)
    }

    fn below(files: Files, cpus: &[u32]) -> Self {
        let cgroups = Cgroups::of_self(&files);
        let before = Counters::read(&files, cgroups.as_ref());
        Self {
            before,
            process: usage_of(UsageWho::RUSAGE_SELF),
            cgroups,
            cpus: cpus.to_vec(),
            files,
        }
    }

    /// Takes the second reading. May be called again later, for a longer span from the same start.
    pub fn finish(&self) -> Disturbance {
        let (before, now) = (&self.before, Counters::read(&self.files, self.cgroups.as_ref()));
        let throttled = before.throttling.zip(now.throttling).map(|(a, b)| b.since(a));
        let machine = before.ticks.get(&None).copied().zip(now.ticks.get(&None).copied());
        Disturbance {
            steal_ns: machine.and_then(|_| now.steal_ns_since(before, &self.cpus)),
            throttled_periods: throttled.map(|t| t.periods),
            throttled_ns: throttled.map(|t| t.ns),
            machine_busy: machine.and_then(|(a, b)| b.share_since(a, |ticks| ticks.busy)),
            machine_softirq: machine.and_then(|(a, b)| b.share_since(a, |ticks| ticks.softirq)),
            softnet: before.softnet.zip(now.softnet).map(|(a, b)| b.since(a)),
            process: usage_of(UsageWho::RUSAGE_SELF) - self.process,
        }
    }
}

/// What a CPU did since boot, in clock ticks (10 ms as a rule), by `/proc/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ticks {
    pub(crate) steal: u64,
    pub(crate) busy: u64,
    /// In soft interrupts, which is work too.
    pub(crate) softirq: u64,
    pub(crate) total: u64,
}

impl Ticks {
    /// A line of proc(5): `cpuN user nice system idle iowait irq softirq steal guest guest_nice`,
    /// or that of all CPUs together, without a number. Guest time is within user time already.
    fn parse(line: &str) -> Option<(Option<u32>, Self)> {
        let (cpu, counters) = line.strip_prefix("cpu")?.split_once(' ')?;
        let counters: Vec<u64> =
            counters.split_ascii_whitespace().map_while(|word| word.parse().ok()).take(8).collect();
        let [user, nice, system, idle, iowait, irq, softirq, steal] = counters[..] else {
            return None;
        };
        let busy = user + nice + system + irq + softirq;
        let total = busy + idle + iowait + steal;
        let cpu = if cpu.is_empty() { None } else { Some(cpu.parse().ok()?) };
        Some((cpu, Self { steal, busy, softirq, total }))
    }

    /// A share of the time since an earlier reading, 0 to 1; absent where no time passed.
    pub(crate) fn share_since(self, earlier: Self, of: fn(Self) -> u64) -> Option<f64> {
        let total = self.total.saturating_sub(earlier.total);
        let part = of(self).saturating_sub(of(earlier));
        // A sandbox that shows constant zeros knows nothing.
        (total > 0).then(|| (part as f64 / total as f64).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tare_driver::sys::affinity::{allowed_cpus, pin_current_thread};

    /// What is seen on CPU 1 while these files change.
    fn disturbance(before: &[(&str, &str)], after: &[(&str, &str)]) -> Disturbance {
        let fixture = Fixture::new(before);
        let probe = DisturbanceProbe::below(fixture.files(), &[1]);
        after.iter().for_each(|(path, text)| fixture.write(path, text));
        Disturbance { process: CpuTimes::default(), ..probe.finish() }
    }

    #[test]
    fn each_figure_is_the_difference_of_two_readings() {
        let before = "cpu  100 0 100 700 50 0 0 50 0 0\ncpu0 1 0 0 0 0 0 0 20 0 0\n\
                      cpu1 1 0 0 0 0 0 0 30 0 0\nintr 5\n";
        let after = "cpu  130 5 110 740 55 3 2 55 9 9\ncpu0 1 0 0 0 0 0 0 29 0 0\n\
                     cpu1 1 0 0 0 0 0 0 33 0 0\nintr 5\n";
        let stat = "/proc/stat";
        let expected = Disturbance {
            // Of the watched CPU alone.
            steal_ns: Some(3 * ns_per_tick()),
            // 50 and 2 of 100 ticks.
            machine_busy: Some(0.5),
            machine_softirq: Some(0.02),
            ..Disturbance::default()
        };
        assert_eq!(disturbance(&[(stat, before)], &[(stat, after)]), expected);

        let softnet = "/proc/net/softnet_stat";
        let of = |text| {
            let before = "000a 0001 0002 0000\n00ff 0010 0000 0000\n";
            disturbance(&[(softnet, before)], &[(softnet, text)]).softnet
        };
        let expected = Softnet { dropped: 10, squeezed: 14 };
        assert_eq!(of("000a 0001 000f 0000\n00ff 001a 0001 0000\n"), Some(expected));
        assert_eq!(of("000a\n"), None);

        let stat = "/sys/fs/cgroup/cpu.stat";
        let before =
            [("/proc/self/cgroup", "0::/\n"), (stat, "nr_throttled 5\nthrottled_usec 100\n")];
        let expected = Disturbance {
            throttled_periods: Some(2),
            throttled_ns: Some(250_000),
            ..Disturbance::default()
        };
        let after = (stat, "nr_throttled 7\nthrottled_usec 350\n");
        assert_eq!(disturbance(&before, &[after]), expected);

        // A sandbox of zeros says nothing about the machine.
        let zeros = disturbance(&[("/proc/stat", "cpu  0 0 0 0 0 0 0 0 0 0\n")], &[]);
        assert_eq!(zeros.machine_busy, None);
    }

    #[test]
    fn each_cpu_has_its_own_ticks() {
        let ticks = |stat| {
            let fixture = Fixture::new(&[("/proc/stat", stat)]);
            let ticks = Counters::read(&fixture.files(), None).ticks;
            ticks.iter().map(|(cpu, t)| (*cpu, t.busy, t.total, t.steal)).collect::<Vec<_>>()
        };
        let stat =
            "cpu  9 0 0 9 0 0 0 0\ncpu0 1 0 0 7 0 0 0 2 0 0\ncpu2 3 1 1 4 1 0 0 0 0 0\nintr 5\n";
        assert_eq!(ticks(stat), [(None, 9, 18, 0), (Some(0), 1, 10, 2), (Some(2), 5, 10, 0)]);
        assert_eq!(ticks("cpu  1 2 3 4\ncpu0 1 2 3 4\n"), [], "an old kernel without steal");
        assert_eq!(ticks(""), []);
    }

    #[test]
    fn a_thread_accounts_for_its_own_work() {
        let (mine, others) = std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let before = thread_usage();
                let mut spent = CpuTimes::default();
                while spent.user_ns + spent.system_ns < 20_000_000 {
                    spent = thread_usage() - before;
                }
                spent
            });
            let before = thread_usage();
            let mine = worker.join().unwrap();
            (mine, thread_usage() - before)
        });
        assert!(mine.user_ns + mine.system_ns >= 20_000_000);
        assert!(others.user_ns + others.system_ns < mine.user_ns + mine.system_ns);
        assert!(others.voluntary_switches >= 1, "it slept in the join");
    }

    #[test]
    fn a_thread_without_a_cpu_waits_for_one() {
        let is_over = AtomicBool::new(false);
        let waited = std::thread::scope(|scope| {
            // Two threads that never sleep, on one CPU: each waits for about half of the time.
            let spin = || {
                pin_current_thread(*allowed_cpus().first().unwrap()).unwrap();
                let queue = RunQueue::of_this_thread();
                let before = queue.usage();
                let begun = std::time::Instant::now();
                while !is_over.load(Ordering::Relaxed) && begun.elapsed().as_millis() < 400 {
                    std::hint::spin_loop();
                }
                queue.usage() - before
            };
            let other = scope.spawn(spin);
            let mine = scope.spawn(spin).join().unwrap();
            is_over.store(true, Ordering::Relaxed);
            other.join().unwrap();
            mine.run_queue_ns.unwrap()
        });
        assert!(waited >= 100_000_000, "{waited}");
    }

    #[test]
    fn the_boot_has_an_id() {
        let id = boot_id().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(boot_id(), Some(id));
    }
}
