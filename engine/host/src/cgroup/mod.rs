//! What the control groups of a process limit: CPU bandwidth, and how often it was held back for it.
//!
//! The rules are those of the kernel's `admin-guide/cgroup-v1`, `cgroup-v2` and `scheduler/sched-bwc`: each
//! group on the way up to the root may have a quota of its own, and the tightest one holds.

mod group;
mod mounts;

use std::path::{Path, PathBuf};

use super::files::{Files, value_of};
use mounts::{Hierarchy, Mount};

pub use group::Group;

/// Which hierarchies there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy alone.
    V2,
    /// Both: controllers on v1 hierarchies, with the unified one beside them.
    Hybrid,
}

impl Version {
    /// The name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        }
    }
}

/// How often, and for how long, a group was held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttling {
    /// Enforcement periods in which it was throttled.
    pub periods: u64,
    /// Time throttled, nanoseconds, summed over groups (and, as the kernel counts, over CPUs).
    pub ns: u64,
    /// Enforcement periods in all: those in which it had something to run.
    pub enforced: u64,
}

impl Throttling {
    /// What was added since an earlier look.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            periods: self.periods.saturating_sub(earlier.periods),
            ns: self.ns.saturating_sub(earlier.ns),
            enforced: self.enforced.saturating_sub(earlier.enforced),
        }
    }
}

/// A group of the CPU controller: one that may have a quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    files: Files,
    is_v2: bool,
    path: PathBuf,
}

impl Level {
    /// The quota of this group itself, in CPUs; absent where none is set.
    #[must_use]
    pub fn quota(&self) -> Option<f64> {
        let (quota, period): (f64, f64) = if self.is_v2 {
            // `max 100000` without a quota: no numbers at its beginning.
            let limit = self.files.numbers::<f64>(self.path.join("cpu.max"));
            (*limit.first()?, *limit.get(1)?)
        } else {
            (
                self.files.number(self.path.join("cpu.cfs_quota_us"))?,
                self.files.number(self.path.join("cpu.cfs_period_us"))?,
            )
        };
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    }

    /// How often this group itself was held back so far; absent where the kernel does not count it.
    #[must_use]
    pub fn throttling(&self) -> Option<Throttling> {
        let stat = self.files.text(self.path.join("cpu.stat"))?;
        let number = |key| value_of(&stat, key)?.parse::<u64>().ok();
        let ns = if self.is_v2 {
            number("throttled_usec")?.saturating_mul(1_000)
        } else {
            number("throttled_time")?
        };
        Some(Throttling {
            periods: number("nr_throttled")?,
            ns,
            enforced: number("nr_periods").unwrap_or(0),
        })
    }
}

/// The control groups that a process is in, as far as the CPU controller goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Cgroups {
    /// Which hierarchies there are.
    pub version: Version,
    /// From the process's own group up to the topmost one that is visible.
    levels: Vec<Level>,
}

impl Cgroups {
    /// Finds the groups of this process; absent on a kernel or in a sandbox without control groups.
    pub fn of_self(files: &Files) -> Option<Self> {
        Self::of(files, "self")
    }

    /// Finds those of another process; absent also where there is no such process.
    pub fn of_process(files: &Files, pid: u32) -> Option<Self> {
        Self::of(files, &pid.to_string())
    }

    fn of(files: &Files, process: &str) -> Option<Self> {
        let memberships = files.text(format!("/proc/{process}/cgroup"))?;
        let mut unified = None;
        let mut cpu_v1 = None;
        let mut any_v1 = false;
        for line in memberships.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(group)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if controllers.is_empty() {
                unified = Some(group);
            } else {
                any_v1 = true;
                if controllers.split(',').any(|controller| controller == "cpu") {
                    cpu_v1 = Some(group);
                }
            }
        }
        let version = match (any_v1, unified) {
            (false, None) => return None,
            (false, Some(_)) => Version::V2,
            (true, None) => Version::V1,
            (true, Some(_)) => Version::Hybrid,
        };
        let (hierarchy, group) = match (cpu_v1, unified) {
            (Some(group), _) => (Hierarchy::V1("cpu"), group),
            (None, Some(group)) => (Hierarchy::Unified, group),
            (None, None) => (Hierarchy::V1("cpu"), "/"),
        };
        let mounts = mounts::of(files, hierarchy);
        let below = |mount: &Mount| {
            // In a container the mounted group is often the process's own, or (with a cgroup namespace shared by
            // halves) no ancestor of the path at all: then the mount point is the best that can be seen. Of
            // another process that would be somebody else's group.
            let at_mount = (process == "self").then(|| mount.point.clone());
            let leaf = mount.directory(Path::new(group)).or(at_mount);
            leaf.map_or_else(Vec::new, |leaf| levels(files, hierarchy, mount, &leaf))
        };
        let mut found = mounts.iter().map(below);
        Some(Self { version, levels: found.find(|levels| !levels.is_empty()).unwrap_or_default() })
    }

    /// The files of the CPU controller that hold quota and counters, of each visible level that has them, from this
    /// process's group up.
    #[must_use]
    pub fn cpu_files(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let files = |name: fn(&Level) -> &str| {
            let levels = self.levels.iter();
            let paths = levels.map(|level| (level, level.path.join(name(level))));
            paths.filter(|(level, path)| level.files.exists(path)).map(|(_, path)| path).collect()
        };
        let quota = |level: &Level| match level.is_v2 {
            true => "cpu.max",
            false => "cpu.cfs_quota_us",
        };
        (files(quota), files(|_| "cpu.stat"))
    }

    /// The groups, the process's own first.
    #[must_use]
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The tightest CPU quota on the way up, in CPUs; absent where none is set, or visible: above the root of
    /// a container's cgroup namespace nothing can be seen.
    #[must_use]
    pub fn cpu_quota(&self) -> Option<f64> {
        let quotas = self.levels.iter().filter_map(Level::quota);
        quotas.min_by(f64::total_cmp)
    }

    /// The counters of all visible levels, added up: a group is counted as throttled only by itself, not by its
    /// parent. Absent where no level has them.
    #[must_use]
    pub fn throttling(&self) -> Option<Throttling> {
        let all = self.levels.iter().filter_map(Level::throttling);
        all.reduce(|a, b| Throttling {
            periods: a.periods + b.periods,
            ns: a.ns + b.ns,
            enforced: a.enforced + b.enforced,
        })
    }
}

/// The groups from the directory `leaf` up to where its hierarchy is mounted, leaf first.
fn levels(files: &Files, hierarchy: Hierarchy, mount: &Mount, leaf: &Path) -> Vec<Level> {
    leaf.ancestors()
        .take_while(|level| level.starts_with(&mount.point))
        .filter(|level| files.exists(level))
        .map(|path| Level {
            files: files.clone(),
            is_v2: hierarchy == Hierarchy::Unified,
            path: path.to_path_buf(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::fixture::Fixture;

    const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
    const V1_MOUNT: &str =
        "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn the_tightest_v2_quota_of_all_ancestors_holds() {
        let fixture = Fixture::new(&[
            ("/proc/self/cgroup", "0::/a.slice/b.scope\n"),
            ("/proc/self/mountinfo", V2_MOUNT),
            ("/sys/fs/cgroup/a.slice/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/a.slice/b.scope/cpu.max", "max 100000\n"),
            (
                "/sys/fs/cgroup/a.slice/cpu.stat",
                "usage_usec 5\nnr_periods 9\nnr_throttled 2\nthrottled_usec 30\n",
            ),
            (
                "/sys/fs/cgroup/a.slice/b.scope/cpu.stat",
                "usage_usec 5\nnr_periods 0\nnr_throttled 1\nthrottled_usec 4\n",
            ),
            ("/sys/fs/cgroup/cpu.stat", "usage_usec 500\n"),
        ]);
        let groups = Cgroups::of_self(&fixture.files()).unwrap();
        assert_eq!(groups.version, Version::V2);
        assert_eq!(groups.cpu_quota(), Some(1.5));
        let (quota, counters) = groups.cpu_files();
        let of = |group: &str, file: &str| PathBuf::from(format!("/sys/fs/cgroup{group}/{file}"));
        let leaf_first = ["/a.slice/b.scope", "/a.slice"].map(|group| of(group, "cpu.max"));
        assert_eq!(quota, leaf_first);
        assert_eq!((counters.len(), &counters[2]), (3, &of("", "cpu.stat")));
        let throttling = groups.throttling();
        assert_eq!(throttling, Some(Throttling { periods: 3, ns: 34_000, enforced: 9 }));
    }

    #[test]
    fn v1_counts_in_nanoseconds_and_minus_one_is_no_quota() {
        let fixture = Fixture::new(&[
            ("/proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n1:name=systemd:/\n"),
            ("/proc/self/mountinfo", V1_MOUNT),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "50000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            (
                "/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.stat",
                "nr_periods 9\nnr_throttled 2\nthrottled_time 12345\n",
            ),
        ]);
        let groups = Cgroups::of_self(&fixture.files()).unwrap();
        assert_eq!(groups.version, Version::V1);
        assert_eq!(groups.cpu_quota(), Some(0.5));
        assert_eq!(groups.throttling(), Some(Throttling { periods: 2, ns: 12_345, enforced: 9 }));
    }

    #[test]
    fn a_container_that_sees_only_its_own_group_finds_it_at_the_mount_point() {
        let mount = "33 31 0:30 /docker/x /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
        let mut files = vec![
            ("/proc/self/cgroup", "5:cpu:/docker/x\n"),
            ("/proc/self/mountinfo", mount),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        let quota = |files: &[_]| {
            let fixture = Fixture::new(files);
            Cgroups::of_self(&fixture.files()).unwrap().cpu_quota()
        };
        assert_eq!(quota(&files), Some(2.0));
        // The path is not visible below the mounted group at all.
        files[0].1 = "5:cpu:/elsewhere/y\n";
        assert_eq!(quota(&files), Some(2.0));
        // A sandbox without mountinfo.
        files.remove(1);
        assert_eq!(quota(&files), Some(2.0));
    }

    #[test]
    fn of_another_process_only_its_own_groups_count() {
        let mount = "30 23 0:26 /pods /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let fixture = Fixture::new(&[
            ("/proc/self/mountinfo", mount),
            ("/proc/7/cgroup", "0::/pods/a\n"),
            ("/proc/8/cgroup", "0::/elsewhere\n"),
            ("/proc/9/cgroup", "0::/pods/../up\n"),
            ("/sys/fs/cgroup/cpu.max", "50000 100000\n"),
            ("/sys/fs/cgroup/a/cpu.max", "20000 100000\n"),
        ]);
        let quota = |pid| Cgroups::of_process(&fixture.files(), pid).map(|c| c.cpu_quota());
        assert_eq!(quota(7), Some(Some(0.2)));
        assert_eq!(quota(8), Some(None), "the mounted group is not its own");
        assert_eq!(quota(9), Some(None), "outside what can be seen");
        assert_eq!(quota(10), None);
    }

    #[test]
    fn hybrid_takes_the_cpu_controller_where_it_is() {
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let fixture = Fixture::new(&[
            ("/proc/self/cgroup", "2:memory:/m\n1:cpu:/c\n0::/u\n"),
            ("/proc/self/mountinfo", &format!("{unified}{V1_MOUNT}")),
            ("/sys/fs/cgroup/unified/u/cpu.max", "10000 100000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "300000"),
            ("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000"),
        ]);
        let groups = Cgroups::of_self(&fixture.files()).unwrap();
        assert_eq!(groups.version, Version::Hybrid);
        assert_eq!(groups.cpu_quota(), Some(3.0));

        fixture.write("/proc/self/cgroup", "2:memory:/m\n0::/u\n");
        let groups = Cgroups::of_self(&fixture.files()).unwrap();
        assert_eq!(groups.version, Version::Hybrid);
        assert_eq!(groups.cpu_quota(), Some(0.1));
    }

    #[test]
    fn a_unit_with_an_escaped_name_is_found() {
        let fixture = Fixture::new(&[
            ("/proc/self/cgroup", "0::/a\\x2db.slice/c\n"),
            (
                "/proc/self/mountinfo",
                "30 23 0:26 /a\\134x2db.slice /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ),
            ("/sys/fs/cgroup/c/cpu.max", "70000 100000\n"),
        ]);
        let groups = Cgroups::of_self(&fixture.files()).unwrap();
        assert_eq!(groups.cpu_quota(), Some(0.7));
    }

    #[test]
    fn without_control_groups_nothing_is_known() {
        let none = Fixture::new(&[]);
        assert_eq!(Cgroups::of_self(&none.files()), None);
        let empty = Fixture::new(&[("/proc/self/cgroup", "\n")]);
        assert_eq!(Cgroups::of_self(&empty.files()), None);
        let unlimited = Fixture::new(&[("/proc/self/cgroup", "0::/\n")]);
        let groups = Cgroups::of_self(&unlimited.files()).unwrap();
        assert_eq!(groups.cpu_quota(), None);
        assert_eq!(groups.throttling(), None);
    }
}
