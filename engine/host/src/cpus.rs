//! Which CPUs the workers get: inside the affinity mask and the cgroup's quota, two ends of one
//! machine apart from each other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::cgroup::Cgroups;
use crate::files::Files;
use tare_driver::sys::affinity::{allowed_cpus, format_cpus};
use tare_units::error::{Error, Result};

pub(crate) const CPU_DIRECTORY: &str = "/sys/devices/system/cpu";
/// Workers that open-loop and bulk runs start at most, unless more are asked for.
const DEFAULT_WORKERS_MAX: u32 = 4;

/// The CPUs that this process may use.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cpus {
    /// The affinity mask, ascending.
    pub allowed: Vec<u32>,
    /// The cgroup's CPU quota, in CPUs.
    pub quota: Option<f64>,
    /// CPUs that exist and are online, ascending; empty where the kernel does not tell.
    pub online: Vec<u32>,
    /// The physical core of each CPU, as package and core id, where the kernel tells.
    cores: BTreeMap<u32, (i32, i32)>,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// One CPU per worker, in order. Repeats where there are fewer CPUs than workers.
    pub cpus: Vec<u32>,
    /// Some were to be avoided, or serve two workers, which then wait for each other.
    pub shared: bool,
}

impl Cpus {
    /// Reads what holds for the calling thread. To be called before any pinning.
    pub fn of_self() -> Self {
        Self::read(&Files::default(), allowed_cpus())
    }

    pub(crate) fn read(files: &Files, allowed: Vec<u32>) -> Self {
        let online = online(files);
        let core = |&cpu: &u32| {
            let id = |name| files.number(format!("{CPU_DIRECTORY}/cpu{cpu}/topology/{name}"));
            Some((cpu, (id("physical_package_id")?, id("core_id")?)))
        };
        let quota = Cgroups::of_self(files).and_then(|groups| groups.cpu_quota());
        Self { allowed, quota, cores: online.iter().filter_map(core).collect(), online }
    }

    /// Whether a worker may spin without starving what it waits for: two or more CPUs are allowed,
    /// and no quota is below that number.
    pub fn can_spin(&self) -> bool {
        self.allowed.len() >= 2 && self.quota.is_none_or(|quota| quota >= 2.0)
    }

    /// How many workers serve `connections` where nobody said: as many as there are CPUs, whole
    /// CPUs of the quota, and connections, at most four; one at least.
    pub fn default_workers(&self, connections: u32) -> u32 {
        let allowed = u32::try_from(self.allowed.len()).unwrap_or(u32::MAX);
        let quota = self.quota.map_or(u32::MAX, |quota| quota as u32);
        allowed.min(quota).min(connections).clamp(1, DEFAULT_WORKERS_MAX)
    }

    /// Picks a CPU for each of `workers`, from the highest down, since the lowest tend to take the
    /// interrupts. CPUs to `avoid` (the other end's) come last, and before them those that share a
    /// physical core with one that is taken or to be avoided.
    ///
    /// # Errors
    /// Where the affinity mask could not be read: an environment error.
    pub fn choose(&self, workers: u32, avoid: &[u32]) -> Result<Choice> {
        self.choose_idle(workers, avoid, |_| 0)
    }

    /// As [`Cpus::choose`], those first for which `load`, whatever it counts, is least; only CPUs
    /// to avoid come after all others.
    ///
    /// # Errors
    /// As [`Cpus::choose`].
    pub fn choose_idle(
        &self,
        workers: u32,
        avoid: &[u32],
        load: impl Fn(u32) -> u32,
    ) -> Result<Choice> {
        if self.allowed.is_empty() {
            return Err(Error::environment(
                "the CPUs that this process may run on cannot be read (sched_getaffinity)",
            )
            .remedy("name them: --cpus 0-1"));
        }
        let mut free: Vec<u32> = self.allowed.clone();
        let mut taken: Vec<u32> = Vec::new();
        let mut shared = false;
        for _ in 0..workers {
            if free.is_empty() {
                free.clone_from(&self.allowed);
                shared = true;
            }
            let rank = |cpu: u32| {
                let mut others = avoid.iter().chain(&taken);
                let is_beside = others.any(|&other| self.same_core(cpu, other));
                (avoid.contains(&cpu), load(cpu), is_beside, Reverse(cpu))
            };
            let best = free.iter().copied().enumerate().min_by_key(|&(_, cpu)| rank(cpu));
            let (at, cpu) = best.expect("it was just refilled from a list that is not empty");
            free.remove(at);
            shared |= avoid.contains(&cpu);
            taken.push(cpu);
        }
        Ok(Choice { cpus: taken, shared })
    }

    /// Checks CPUs that were asked for, and deals them out over `workers` in the order given.
    ///
    /// # Errors
    /// A usage error that names the first CPU that cannot be had, and those that can.
    pub fn check(&self, asked: &[u32], workers: u32, avoid: &[u32]) -> Result<Choice> {
        let allowed = format_cpus(&self.allowed);
        let remedy = format!("this process may run on {allowed}: --cpus {allowed}");
        if asked.is_empty() {
            return Err(Error::usage("--cpus names no CPU").remedy(remedy));
        }
        if let Some(cpu) = asked.iter().find(|cpu| !self.allowed.contains(cpu)) {
            let exists = self.online.is_empty() || self.online.contains(cpu);
            let why = if exists {
                "is not allowed here (affinity mask or cpuset)"
            } else {
                "does not exist or is offline"
            };
            return Err(Error::usage(format!("CPU {cpu} {why}")).remedy(remedy));
        }
        let cpus: Vec<u32> = asked.iter().copied().cycle().take(workers as usize).collect();
        let distinct: BTreeSet<u32> = cpus.iter().copied().collect();
        let shared = distinct.len() < cpus.len() || distinct.iter().any(|cpu| avoid.contains(cpu));
        Ok(Choice { cpus, shared })
    }

    /// Pairs of different CPUs, one of each list, that are threads of one physical core.
    pub fn shared_cores(&self, ours: &[u32], theirs: &[u32]) -> Vec<(u32, u32)> {
        let pairs = ours.iter().flat_map(|&a| theirs.iter().map(move |&b| (a, b)));
        pairs.filter(|&(a, b)| a != b && self.same_core(a, b)).collect()
    }

    fn same_core(&self, a: u32, b: u32) -> bool {
        let core = |cpu| self.cores.get(&cpu);
        core(a).is_some() && core(a) == core(b)
    }
}

/// CPUs that are online, by sysfs, or by `/proc/cpuinfo` in sandboxes without it.
fn online(files: &Files) -> Vec<u32> {
    let number = |name: &String| name.strip_prefix("cpu")?.parse().ok();
    // CPU 0 mostly has no such file, as it cannot be taken offline.
    let is_online = |cpu: &u32| files.number(format!("{CPU_DIRECTORY}/cpu{cpu}/online")) != Some(0);
    let names = files.names(CPU_DIRECTORY);
    let mut cpus: Vec<u32> = names.iter().filter_map(number).filter(is_online).collect();
    if cpus.is_empty() {
        cpus = files.lines("/proc/cpuinfo", |line| {
            let (_, number) = line.strip_prefix("processor")?.split_once(':')?;
            number.trim().parse().ok()
        });
    }
    cpus.sort_unstable();
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;
    use tare_units::error::Fault;

    /// `count` CPUs, of which `n` and `n + count / 2` share a core, as Linux numbers them on x86.
    fn smt(count: u32) -> Cpus {
        let all: Vec<u32> = (0..count).collect();
        let core = |cpu: u32| i32::try_from(cpu % (count / 2)).unwrap();
        let cores = all.iter().map(|&cpu| (cpu, (0, core(cpu)))).collect();
        Cpus { allowed: all.clone(), cores, online: all, quota: None }
    }

    fn plain(allowed: &[u32], quota: Option<f64>) -> Cpus {
        Cpus { allowed: allowed.to_vec(), quota, ..Cpus::default() }
    }

    #[test]
    fn the_highest_cpus_go_first_and_the_avoided_last() {
        let four = plain(&[0, 1, 2, 5], None);
        // With all other cores gone the sibling is better than the very CPU.
        let pair = Cpus { allowed: vec![3, 7], ..smt(8) };
        for (cpus, workers, avoid, chosen, shared) in [
            (&four, 2, &[][..], &[5, 2][..], false),
            (&four, 2, &[5], &[2, 1], false),
            (&four, 4, &[5], &[2, 1, 0, 5], true),
            (&four, 5, &[], &[5, 2, 1, 0, 5], true),
            (&smt(8), 1, &[], &[7], false),
            // Not 3, the sibling of 7.
            (&smt(8), 1, &[7], &[6], false),
            (&pair, 1, &[7], &[3], false),
            (&smt(4), 3, &[], &[3, 2, 1], false),
            (&smt(8), 4, &[], &[7, 6, 5, 4], false),
        ] {
            let choice = cpus.choose(workers, avoid).unwrap();
            assert_eq!((&*choice.cpus, choice.shared), (chosen, shared), "{workers} {avoid:?}");
        }
        assert_eq!(smt(8).shared_cores(&[7], &[6]), []);
        assert_eq!(pair.shared_cores(&[7], &[3, 7]), [(7, 3)]);
    }

    #[test]
    fn spinning_takes_two_cpus_and_no_smaller_quota() {
        for (allowed, quota, can_spin) in [
            (&[0, 1][..], None, true),
            (&[0, 1], Some(2.0), true),
            (&[0, 1, 2, 3], Some(1.5), false),
            (&[0], None, false),
            (&[], None, false),
        ] {
            assert_eq!(plain(allowed, quota).can_spin(), can_spin, "{allowed:?}");
        }
    }

    #[test]
    fn workers_by_default() {
        for (cpus, quota, connections, workers) in [
            (8, None, 64, 4),
            (8, None, 3, 3),
            (8, Some(2.9), 64, 2),
            (8, Some(0.1), 64, 1),
            (1, None, 64, 1),
        ] {
            let allowed: Vec<u32> = (0..cpus).collect();
            assert_eq!(plain(&allowed, quota).default_workers(connections), workers);
        }
    }

    #[test]
    fn asked_cpus_are_used_in_their_order() {
        let cpus = plain(&[0, 1, 2], None);
        for (asked, workers, chosen, shared) in [
            (&[2, 0][..], 3, &[2, 0, 2][..], true),
            (&[2, 0], 2, &[2, 0], false),
            (&[1], 1, &[1], true),
        ] {
            let choice = cpus.check(asked, workers, &[1]).unwrap();
            assert_eq!((&*choice.cpus, choice.shared), (chosen, shared));
        }
    }

    #[test]
    fn a_cpu_that_cannot_be_had_is_a_usage_error_that_names_those_that_can() {
        let cpus = Cpus { allowed: vec![0, 1, 2], online: vec![0, 1, 2, 3], ..Cpus::default() };
        for (asked, start) in [
            (&[1, 3][..], "CPU 3 is not allowed here"),
            (&[64], "CPU 64 does not exist"),
            (&[], "--cpus names no CPU"),
        ] {
            let error = cpus.check(asked, 1, &[]).unwrap_err();
            assert_eq!(error.fault(), Fault::Usage);
            assert!(error.message().starts_with(start), "{error}");
            assert!(error.to_string().contains("0-2"), "{error}");
        }
    }

    #[test]
    fn the_machine_is_read_from_sysfs_or_else_from_cpuinfo() {
        let fixture =
            Fixture::new(&[("/proc/cpuinfo", "processor\t: 0\nflags\t: x\nprocessor\t: 1\n")]);
        let cpus = Cpus::read(&fixture.files(), vec![1]);
        assert_eq!(cpus.online, [0, 1]);
        assert_eq!((cpus.quota, cpus.cores.len()), (None, 0));

        for (cpu, core) in [(0, "0"), (1, "0"), (10, "5")] {
            fixture.write(&format!("cpu{cpu}/topology/physical_package_id"), "0");
            fixture.write(&format!("cpu{cpu}/topology/core_id"), core);
        }
        fixture.write("cpu2/online", "0");
        fixture.write("cpufreq/x", "");
        fixture.write("/proc/self/cgroup", "0::/\n");
        fixture.write("/sys/fs/cgroup/cpu.max", "250000 100000\n");
        let cpus = Cpus::read(&fixture.files(), vec![0, 1, 10]);
        assert_eq!((&*cpus.online, cpus.quota), (&[0, 1, 10][..], Some(2.5)));
        assert_eq!(cpus.shared_cores(&[0], &[1, 10]), [(0, 1)]);
    }
}
