//! A control group that somebody named: what its processes use, and what holds them back.

use std::path::{Path, PathBuf};

use super::mounts::{self, Hierarchy, Mount};
use super::{Level, levels};
use crate::files::{Files, value_of};
use crate::process::{CpuCount, ns_per_tick};
use tare_units::limits::OBSERVED_GROUPS_MAX;

/// Where control groups are looked for that are named by a relative path.
const CUSTOMARY: &str = "/sys/fs/cgroup";
/// Hierarchies in which a group is looked for, in this order.
const HIERARCHIES: [Hierarchy; 4] =
    [Hierarchy::V1("cpu"), Hierarchy::V1("cpuacct"), Hierarchy::V1("memory"), Hierarchy::Unified];

/// A directory of a group, and the hierarchy that it is in.
#[derive(Debug, Clone)]
struct Place {
    hierarchy: Hierarchy,
    directory: PathBuf,
}

/// A control group, wherever its controllers are: under v1 a directory in each of several hierarchies.
#[derive(Debug, Clone)]
pub struct Group {
    files: Files,
    places: Vec<Place>,
    levels: Vec<Level>,
}

impl Group {
    /// Finds a group by its path: absolute, relative to `/sys/fs/cgroup`, or as `/proc/PID/cgroup` names it. Absent
    /// where there is no such group.
    pub fn find(files: &Files, path: &Path) -> Option<Self> {
        let mounted: Vec<(Hierarchy, Vec<Mount>)> = HIERARCHIES
            .into_iter()
            .map(|hierarchy| (hierarchy, mounts::of(files, hierarchy)))
            .collect();
        let directory = Path::new(CUSTOMARY).join(path);
        let all = mounted.iter().flat_map(|(_, mounts)| mounts);
        // Of nested mounts the innermost one is what the path means.
        let owner = all
            .filter(|mount| directory.starts_with(&mount.point) && is_group(files, &directory))
            .max_by_key(|mount| mount.point.as_os_str().len());
        let name = owner.map_or_else(
            || Some(Path::new("/").join(path)),
            |mount| Some(mount.root.join(directory.strip_prefix(&mount.point).ok()?)),
        )?;
        let mut found = Self { files: files.clone(), places: Vec::new(), levels: Vec::new() };
        for (hierarchy, mounts) in &mounted {
            let places = mounts.iter().filter_map(|m| Some((m, m.directory(&name)?)));
            let place = places.into_iter().find(|(_, directory)| is_group(files, directory));
            if let Some((mount, directory)) = place {
                found.add(*hierarchy, mount, directory);
            }
        }
        (!found.places.is_empty()).then_some(found)
    }

    fn add(&mut self, hierarchy: Hierarchy, mount: &Mount, directory: PathBuf) {
        let has_bandwidth = matches!(hierarchy, Hierarchy::V1("cpu") | Hierarchy::Unified);
        if has_bandwidth && self.levels.is_empty() {
            self.levels = levels(&self.files, hierarchy, mount, &directory);
            // A quota further down holds back what is in this group too.
            let inner = subtree(&self.files, &directory).into_iter().skip(1);
            self.levels.extend(inner.map(|path| Level {
                files: self.files.clone(),
                is_v2: hierarchy == Hierarchy::Unified,
                path,
            }));
        }
        self.places.push(Place { hierarchy, directory });
    }

    fn file(&self, hierarchy: Hierarchy, name: &str) -> Option<PathBuf> {
        let place = self.places.iter().find(|p| p.hierarchy == hierarchy)?;
        Some(place.directory.join(name))
    }

    fn number(&self, hierarchy: Hierarchy, name: &str) -> Option<u64> {
        self.files.number(self.file(hierarchy, name)?)
    }

    /// Whether it is still there.
    #[must_use]
    pub fn exists(&self) -> bool {
        let mut places = self.places.iter();
        places.any(|place| is_group(&self.files, &place.directory))
    }

    /// Groups whose quota holds it back: itself, those above it and those below it.
    #[must_use]
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The CPU time of all that is, or ever was, in it.
    #[must_use]
    pub fn cpu(&self) -> Option<CpuCount> {
        let v1 = |name| self.number(Hierarchy::V1("cpuacct"), name);
        if let Some(total_ns) = v1("cpuacct.usage") {
            let stat = self.file(Hierarchy::V1("cpuacct"), "cpuacct.stat")?;
            let stat = self.files.text(stat).unwrap_or_default();
            let ticks = |key| value_of(&stat, key)?.parse::<u64>().ok();
            return Some(CpuCount {
                user_ns: ticks("user").unwrap_or(0) * ns_per_tick(),
                system_ns: ticks("system").unwrap_or(0) * ns_per_tick(),
                total_ns: Some(total_ns),
            });
        }
        let stat = self.files.text(self.file(Hierarchy::Unified, "cpu.stat")?)?;
        let ns = |key| value_of(&stat, key)?.parse::<u64>().ok()?.checked_mul(1_000);
        Some(CpuCount {
            user_ns: ns("user_usec")?,
            system_ns: ns("system_usec")?,
            total_ns: ns("usage_usec"),
        })
    }

    /// The memory charged to it now, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        self.number(Hierarchy::V1("memory"), "memory.usage_in_bytes")
            .or_else(|| self.number(Hierarchy::Unified, "memory.current"))
    }

    /// The most memory that was ever charged to it, bytes.
    #[must_use]
    pub fn memory_peak_bytes(&self) -> Option<u64> {
        self.number(Hierarchy::V1("memory"), "memory.max_usage_in_bytes")
            .or_else(|| self.number(Hierarchy::Unified, "memory.peak"))
    }

    /// The processes in it and in the groups below it, as far as this process's PID namespace shows them.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let Some(place) = self.places.first() else {
            return Vec::new();
        };
        let groups = subtree(&self.files, &place.directory).into_iter();
        let lists = groups.map(|group| self.files.numbers(group.join("cgroup.procs")));
        // Those of other namespaces are shown as 0.
        let mut pids: Vec<u32> = lists.flatten().filter(|pid| *pid > 0).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

fn is_group(files: &Files, directory: &Path) -> bool {
    files.exists(directory.join("cgroup.procs"))
}

/// A group and those below it, itself first; of more than [`OBSERVED_GROUPS_MAX`] the ones nearest to it.
fn subtree(files: &Files, top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_path_buf()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        let names = files.names(&directory).into_iter();
        let below = names.map(|name| directory.join(name));
        let room = OBSERVED_GROUPS_MAX.saturating_sub(found.len());
        found.extend(below.filter(|path| is_group(files, path)).take(room));
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Throttling;
    use crate::files::fixture::Fixture;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const V1: &str = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_v2_group_has_all_in_one_directory() {
        let at = |name: &str| format!("/sys/fs/cgroup/pod/{name}");
        let fixture = Fixture::new(&[
            ("/proc/self/mountinfo", V2),
            (&at("cgroup.procs"), "11\n0\n"),
            (
                &at("cpu.stat"),
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 1\nthrottled_usec 5\n",
            ),
            (&at("cpu.max"), "max 100000\n"),
            (&at("memory.current"), "4096\n"),
            (&at("memory.peak"), "8192\n"),
            (&at("web/cgroup.procs"), "12\n"),
            (&at("web/cpu.max"), "50000 100000\n"),
        ]);
        let files = fixture.files();
        for path in ["pod", "/pod", "/sys/fs/cgroup/pod"] {
            let group = Group::find(&files, Path::new(path)).unwrap();
            let cpu = CpuCount { user_ns: 20_000, system_ns: 10_000, total_ns: Some(30_000) };
            assert_eq!(group.cpu(), Some(cpu), "{path}");
            assert_eq!(group.memory_bytes(), Some(4096));
            assert_eq!(group.memory_peak_bytes(), Some(8192));
            assert_eq!(group.processes(), [11, 12]);
            let quotas = group.levels().iter().filter_map(Level::quota);
            assert_eq!(quotas.collect::<Vec<_>>(), [0.5], "that of the group below");
            let throttling = Throttling { periods: 1, ns: 5_000, enforced: 4 };
            assert_eq!(group.levels()[0].throttling(), Some(throttling));
            assert!(group.exists());
        }
        assert!(Group::find(&files, Path::new("pod/none")).is_none());
        assert!(Group::find(&files, Path::new("/etc")).is_none());
    }

    #[test]
    fn a_v1_group_is_put_together_from_its_hierarchies() {
        let fixture = Fixture::new(&[
            ("/proc/self/mountinfo", V1),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cgroup.procs", "21\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpuacct.usage", "777000000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpuacct.stat", "user 50\nsystem 25\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "10000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/memory/docker/x/cgroup.procs", "21\n"),
            ("/sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "5\n"),
        ]);
        for path in [
            "docker/x",
            "/docker/x",
            "cpu,cpuacct/docker/x",
            "memory/docker/x",
            "/sys/fs/cgroup/memory/docker/x",
        ] {
            let group = Group::find(&fixture.files(), Path::new(path)).expect(path);
            let cpu = group.cpu().expect(path);
            assert_eq!(cpu.total_ns, Some(777_000_000), "{path}");
            assert_eq!(cpu.user_ns, 50 * ns_per_tick());
            assert_eq!(group.memory_bytes(), Some(5));
            assert_eq!(group.memory_peak_bytes(), None);
            assert_eq!(group.levels()[0].quota(), Some(0.1));
            assert_eq!(group.processes(), [21]);
        }
    }
}
