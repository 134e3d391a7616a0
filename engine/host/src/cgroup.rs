//! Control groups, v1 and v2: the CPU time that they limit, how often they were held back for it,
//! and what the processes of a named one use.
//!
//! The rules are those of the kernel's `admin-guide/cgroup-v1`, `cgroup-v2` and
//! `scheduler/sched-bwc`: each group up to the root may have a quota of its own, and the tightest
//! one holds.

use std::path::{Component, Path, PathBuf};

use crate::files::{Files, value_of};
use crate::process::{CpuCount, ns_per_tick};
use tare_units::limits::OBSERVED_GROUPS_MAX;

/// Where control groups are looked for that are named by a relative path.
const CUSTOMARY: &str = "/sys/fs/cgroup";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hierarchy {
    /// The unified one (cgroup v2).
    Unified,
    /// That of the named controller (cgroup v1).
    V1(&'static str),
}

/// Where a group is looked for, in this order; with the places for sandboxes that show no mounts.
const HIERARCHIES: [(Hierarchy, &[&str]); 4] = [
    (Hierarchy::V1("cpu"), &["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"]),
    (Hierarchy::V1("cpuacct"), &["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"]),
    (Hierarchy::V1("memory"), &["/sys/fs/cgroup/memory"]),
    (Hierarchy::Unified, &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]),
];

#[derive(Debug)]
struct Mount {
    /// The group that is mounted.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// The mounts of a hierarchy, as `/proc/self/mountinfo` tells.
    fn all(files: &Files, hierarchy: Hierarchy) -> Vec<Self> {
        let table = files.text("/proc/self/mountinfo").unwrap_or_default();
        let parse = |line: &str| {
            // ID, parent, device, root, mount point, options, tags… `-` type, source, options.
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ');
            let (root, point) = (head.nth(3)?, head.next()?);
            let mut tail = tail.split(' ');
            let (kind, mut options) = (tail.next()?, tail.nth(1).unwrap_or("").split(','));
            let is_wanted = match hierarchy {
                Hierarchy::Unified => kind == "cgroup2",
                Hierarchy::V1(name) => kind == "cgroup" && options.any(|option| option == name),
            };
            is_wanted.then(|| Self { root: unescape(root).into(), point: unescape(point).into() })
        };
        let mounts: Vec<Self> = table.lines().filter_map(parse).collect();
        if !mounts.is_empty() {
            return mounts;
        }
        let customary = HIERARCHIES.iter().find(|(one, _)| *one == hierarchy);
        let points = customary.map_or(&[][..], |(_, points)| points).iter();
        points.map(|point| Self { root: "/".into(), point: point.into() }).collect()
    }

    /// The directory of a group, existing or not; absent where it lies outside what is mounted.
    fn directory(&self, group: &Path) -> Option<PathBuf> {
        let inner = group.strip_prefix(&self.root).ok()?;
        // Groups above the root of a cgroup namespace are shown as `/../other`.
        let is_visible = !inner.components().any(|part| part == Component::ParentDir);
        is_visible.then(|| self.point.join(inner))
    }
}

/// Undoes the octal escapes of `mountinfo`: `a\x2db.slice` is `a\134x2db.slice` there.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// How often, and for how long, a group was held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Throttling {
    /// Enforcement periods in which it was throttled.
    pub(crate) periods: u64,
    /// Time throttled, nanoseconds, summed over groups (and, as the kernel counts, over CPUs).
    pub(crate) ns: u64,
    /// Enforcement periods in all: those in which it had something to run.
    pub(crate) enforced: u64,
}

impl Throttling {
    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            periods: self.periods.saturating_sub(earlier.periods),
            ns: self.ns.saturating_sub(earlier.ns),
            enforced: self.enforced.saturating_sub(earlier.enforced),
        }
    }
}

/// A group of the CPU controller: one that may have a quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Level {
    files: Files,
    is_v2: bool,
    path: PathBuf,
}

impl Level {
    /// The quota of this group itself, in CPUs; absent where none is set.
    pub(crate) fn quota(&self) -> Option<f64> {
        let (quota, period): (f64, f64) = if self.is_v2 {
            // `max 100000` without a quota: no numbers at its beginning.
            let limit = self.files.numbers::<f64>(self.path.join("cpu.max"));
            (*limit.first()?, *limit.get(1)?)
        } else {
            let number = |name| self.files.number(self.path.join(name));
            (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
        };
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    }

    /// How often this group itself was held back so far; absent where the kernel does not count it.
    pub(crate) fn throttling(&self) -> Option<Throttling> {
        let stat = self.files.text(self.path.join("cpu.stat"))?;
        let number = |key| value_of(&stat, key)?.parse::<u64>().ok();
        let ns = if self.is_v2 {
            number("throttled_usec")?.saturating_mul(1_000)
        } else {
            number("throttled_time")?
        };
        let enforced = number("nr_periods").unwrap_or(0);
        Some(Throttling { periods: number("nr_throttled")?, ns, enforced })
    }
}

/// The groups from the directory `leaf` up to where its hierarchy is mounted, leaf first.
fn levels(files: &Files, hierarchy: Hierarchy, mount: &Mount, leaf: &Path) -> Vec<Level> {
    let is_v2 = hierarchy == Hierarchy::Unified;
    leaf.ancestors()
        .take_while(|level| level.starts_with(&mount.point))
        .filter(|level| files.exists(level))
        .map(|path| Level { files: files.clone(), is_v2, path: path.to_path_buf() })
        .collect()
}

/// The control groups that a process is in, as far as the CPU controller goes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cgroups {
    /// `v1`, `v2`, or `hybrid` for controllers on v1 hierarchies with the unified one beside them.
    pub(crate) version: &'static str,
    /// From the process's own group up to the topmost one that is visible.
    pub(crate) levels: Vec<Level>,
}

impl Cgroups {
    /// Finds the groups of this process; absent on a kernel or in a sandbox without control groups.
    pub(crate) fn of_self(files: &Files) -> Option<Self> {
        Self::of(files, "self")
    }

    /// Finds those of another process; absent also where there is no such process.
    pub(crate) fn of_process(files: &Files, pid: u32) -> Option<Self> {
        Self::of(files, &pid.to_string())
    }

    fn of(files: &Files, process: &str) -> Option<Self> {
        let memberships = files.text(format!("/proc/{process}/cgroup"))?;
        // ID, controllers (none for the unified hierarchy), group.
        let of_line = |line| str::split_once(line, ':')?.1.split_once(':');
        let memberships: Vec<(&str, &str)> = memberships.lines().filter_map(of_line).collect();
        let find = |is_wanted: fn(&str) -> bool| {
            memberships.iter().find(|(names, _)| is_wanted(names)).map(|(_, group)| *group)
        };
        let unified = find(str::is_empty);
        let cpu_v1 = find(|names| names.split(',').any(|name| name == "cpu"));
        let version = match (find(|names| !names.is_empty()), unified) {
            (None, None) => return None,
            (None, Some(_)) => "v2",
            (Some(_), None) => "v1",
            (Some(_), Some(_)) => "hybrid",
        };
        let (hierarchy, group) = match (cpu_v1, unified) {
            (Some(group), _) => (Hierarchy::V1("cpu"), group),
            (None, Some(group)) => (Hierarchy::Unified, group),
            (None, None) => (Hierarchy::V1("cpu"), "/"),
        };
        let below = |mount: &Mount| {
            // In a container the mounted group is often the process's own, or (with a cgroup
            // namespace shared by halves) no ancestor of the path at all: then the mount point is
            // the best that can be seen. Of another process that would be somebody else's group.
            let at_mount = (process == "self").then(|| mount.point.clone());
            let leaf = mount.directory(Path::new(group)).or(at_mount);
            leaf.map_or_else(Vec::new, |leaf| levels(files, hierarchy, mount, &leaf))
        };
        let mounts = Mount::all(files, hierarchy);
        let found = mounts.iter().map(below).find(|levels| !levels.is_empty());
        Some(Self { version, levels: found.unwrap_or_default() })
    }

    /// The files of the CPU controller that hold quota and counters, of each visible level that has
    /// them, from this process's group up.
    pub(crate) fn cpu_files(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let files = |name: fn(&Level) -> &str| {
            let paths = self.levels.iter().map(|level| (level, level.path.join(name(level))));
            paths.filter(|(level, path)| level.files.exists(path)).map(|(_, path)| path).collect()
        };
        let quota = |level: &Level| if level.is_v2 { "cpu.max" } else { "cpu.cfs_quota_us" };
        (files(quota), files(|_| "cpu.stat"))
    }

    /// The tightest CPU quota on the way up, in CPUs; absent where none is set, or visible: above
    /// the root of a container's cgroup namespace nothing can be seen.
    pub(crate) fn cpu_quota(&self) -> Option<f64> {
        self.levels.iter().filter_map(Level::quota).min_by(f64::total_cmp)
    }

    /// The counters of all visible levels, added up: a group is counted as throttled only by
    /// itself, not by its parent. Absent where no level has them.
    pub(crate) fn throttling(&self) -> Option<Throttling> {
        self.levels.iter().filter_map(Level::throttling).reduce(|a, b| Throttling {
            periods: a.periods + b.periods,
            ns: a.ns + b.ns,
            enforced: a.enforced + b.enforced,
        })
    }
}

/// A control group that somebody named: under v1 a directory in each of several hierarchies.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    files: Files,
    directories: Vec<(Hierarchy, PathBuf)>,
    /// Groups whose quota holds it back: itself, those above it and those below it.
    pub(crate) levels: Vec<Level>,
}

impl Group {
    /// Finds a group by its path: absolute, relative to `/sys/fs/cgroup`, or as `/proc/PID/cgroup`
    /// names it. Absent where there is no such group.
    pub(crate) fn find(files: &Files, path: &Path) -> Option<Self> {
        let mounted: Vec<(Hierarchy, Mount)> = HIERARCHIES
            .into_iter()
            .flat_map(|(hierarchy, _)| {
                Mount::all(files, hierarchy).into_iter().map(move |mount| (hierarchy, mount))
            })
            .collect();
        let directory = Path::new(CUSTOMARY).join(path);
        // Of nested mounts the innermost one is what the path means.
        let owner = mounted
            .iter()
            .map(|(_, mount)| mount)
            .filter(|mount| directory.starts_with(&mount.point) && is_group(files, &directory))
            .max_by_key(|mount| mount.point.as_os_str().len());
        let name = match owner {
            Some(mount) => mount.root.join(directory.strip_prefix(&mount.point).ok()?),
            None => Path::new("/").join(path),
        };
        let mut found = Self { files: files.clone(), directories: Vec::new(), levels: Vec::new() };
        for (hierarchy, mount) in &mounted {
            let is_found = found.directory(*hierarchy).is_some();
            let directory = mount.directory(&name).filter(|path| is_group(files, path));
            if let Some(directory) = directory.filter(|_| !is_found) {
                found.add(*hierarchy, mount, directory);
            }
        }
        (!found.directories.is_empty()).then_some(found)
    }

    fn add(&mut self, hierarchy: Hierarchy, mount: &Mount, directory: PathBuf) {
        let has_bandwidth = matches!(hierarchy, Hierarchy::V1("cpu") | Hierarchy::Unified);
        if has_bandwidth && self.levels.is_empty() {
            self.levels = levels(&self.files, hierarchy, mount, &directory);
            // A quota further down holds back what is in this group too.
            let is_v2 = hierarchy == Hierarchy::Unified;
            let inner = subtree(&self.files, &directory).into_iter().skip(1);
            let level = |path| Level { files: self.files.clone(), is_v2, path };
            self.levels.extend(inner.map(level));
        }
        self.directories.push((hierarchy, directory));
    }

    fn directory(&self, hierarchy: Hierarchy) -> Option<&Path> {
        let mut directories = self.directories.iter();
        directories.find(|(one, _)| *one == hierarchy).map(|(_, directory)| directory.as_path())
    }

    fn text(&self, hierarchy: Hierarchy, name: &str) -> Option<String> {
        self.files.text(self.directory(hierarchy)?.join(name))
    }

    fn number(&self, hierarchy: Hierarchy, name: &str) -> Option<u64> {
        self.text(hierarchy, name)?.parse().ok()
    }

    pub(crate) fn exists(&self) -> bool {
        self.directories.iter().any(|(_, directory)| is_group(&self.files, directory))
    }

    /// The CPU time of all that is, or ever was, in it.
    pub(crate) fn cpu(&self) -> Option<CpuCount> {
        let cpuacct = Hierarchy::V1("cpuacct");
        if let Some(total_ns) = self.number(cpuacct, "cpuacct.usage") {
            let stat = self.text(cpuacct, "cpuacct.stat").unwrap_or_default();
            let ns = |key| {
                let ticks: u64 =
                    value_of(&stat, key).and_then(|text| text.parse().ok()).unwrap_or(0);
                ticks * ns_per_tick()
            };
            let (user_ns, system_ns) = (ns("user"), ns("system"));
            return Some(CpuCount { user_ns, system_ns, total_ns: Some(total_ns) });
        }
        let stat = self.text(Hierarchy::Unified, "cpu.stat")?;
        let ns = |key| value_of(&stat, key)?.parse::<u64>().ok()?.checked_mul(1_000);
        let (user_ns, system_ns) = (ns("user_usec")?, ns("system_usec")?);
        Some(CpuCount { user_ns, system_ns, total_ns: ns("usage_usec") })
    }

    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        self.number(Hierarchy::V1("memory"), "memory.usage_in_bytes")
            .or_else(|| self.number(Hierarchy::Unified, "memory.current"))
    }

    pub(crate) fn memory_peak_bytes(&self) -> Option<u64> {
        self.number(Hierarchy::V1("memory"), "memory.max_usage_in_bytes")
            .or_else(|| self.number(Hierarchy::Unified, "memory.peak"))
    }

    /// The processes in it and in the groups below it that this PID namespace shows.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let top = self.directories.first().map(|(_, directory)| directory);
        let groups = top.map_or_else(Vec::new, |top| subtree(&self.files, top)).into_iter();
        let lists = groups.flat_map(|group| self.files.numbers(group.join("cgroup.procs")));
        // Those of other namespaces are shown as 0.
        let mut pids: Vec<u32> = lists.filter(|pid| *pid > 0).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

fn is_group(files: &Files, directory: &Path) -> bool {
    files.exists(directory.join("cgroup.procs"))
}

/// A group and those below it, itself first; of more than [`OBSERVED_GROUPS_MAX`] the nearest.
fn subtree(files: &Files, top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_path_buf()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        let below = files.names(&directory).into_iter().map(|name| directory.join(name));
        let room = OBSERVED_GROUPS_MAX.saturating_sub(found.len());
        found.extend(below.filter(|path| is_group(files, path)).take(room));
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;

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
        assert_eq!(groups.version, "v2");
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
        assert_eq!(groups.version, "v1");
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
        assert_eq!(groups.version, "hybrid");
        assert_eq!(groups.cpu_quota(), Some(3.0));

        fixture.write("/proc/self/cgroup", "2:memory:/m\n0::/u\n");
        let groups = Cgroups::of_self(&fixture.files()).unwrap();
        assert_eq!(groups.version, "hybrid");
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

    const V2_ALONE: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const V1_BESIDE: &str = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_v2_group_has_all_in_one_directory() {
        let at = |name: &str| format!("/sys/fs/cgroup/pod/{name}");
        let fixture = Fixture::new(&[
            ("/proc/self/mountinfo", V2_ALONE),
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
            let quotas = group.levels.iter().filter_map(Level::quota);
            assert_eq!(quotas.collect::<Vec<_>>(), [0.5], "that of the group below");
            let throttling = Throttling { periods: 1, ns: 5_000, enforced: 4 };
            assert_eq!(group.levels[0].throttling(), Some(throttling));
            assert!(group.exists());
        }
        assert!(Group::find(&files, Path::new("pod/none")).is_none());
        assert!(Group::find(&files, Path::new("/etc")).is_none());
    }

    #[test]
    fn a_v1_group_is_put_together_from_its_hierarchies() {
        let fixture = Fixture::new(&[
            ("/proc/self/mountinfo", V1_BESIDE),
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
            assert_eq!(group.levels[0].quota(), Some(0.1));
            assert_eq!(group.processes(), [21]);
        }
    }
}
