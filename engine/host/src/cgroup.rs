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
/// The unified hierarchy (cgroup v2) has no controller's name, as in `/proc/PID/cgroup`.
const UNIFIED: &str = "";

/// Where a group is looked for, in this order: the hierarchies by the name of their controller,
/// with the places for sandboxes that show no mounts.
const HIERARCHIES: [(&str, &[&str]); 4] = [
    ("cpu", &["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"]),
    ("cpuacct", &["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"]),
    ("memory", &["/sys/fs/cgroup/memory"]),
    (UNIFIED, &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]),
];

#[derive(Debug)]
struct Mount {
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    fn all(files: &Files, hierarchy: &str) -> Vec<Self> {
        let table = files.text("/proc/self/mountinfo").unwrap_or_default();
        let parse = |line: &str| {
            // ID, parent, device, root, mount point, options, tags… `-` type, source, options.
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ');
            let (root, point) = (head.nth(3)?, head.next()?);
            let mut tail = tail.split(' ');
            let (kind, mut options) = (tail.next()?, tail.nth(1).unwrap_or("").split(','));
            let is_wanted = match hierarchy {
                UNIFIED => kind == "cgroup2",
                name => kind == "cgroup" && options.any(|option| option == name),
            };
            is_wanted.then(|| Self { root: unescape(root).into(), point: unescape(point).into() })
        };
        let mounts: Vec<Self> = table.lines().filter_map(parse).collect();
        if !mounts.is_empty() {
            return mounts;
        }
        let customary = HIERARCHIES.into_iter().filter(|(name, _)| *name == hierarchy);
        let points = customary.flat_map(|(_, points)| points);
        points.map(|point| Self { root: "/".into(), point: point.into() }).collect()
    }

    /// The directory of a group, existing or not; absent where it lies outside what is mounted.
    fn directory(&self, group: &Path) -> Option<PathBuf> {
        let inner = group.strip_prefix(&self.root).ok()?;
        // Groups above the root of a cgroup namespace are shown as `/../other`.
        let is_visible = !inner.components().any(|part| part == Component::ParentDir);
        is_visible.then(|| self.point.join(inner))
    }

    /// The groups from the directory `leaf` up to where this hierarchy is mounted, leaf first.
    fn levels(&self, files: &Files, leaf: &Path) -> Vec<Level> {
        leaf.ancestors()
            .take_while(|level| level.starts_with(&self.point))
            .filter(|level| files.exists(level))
            .map(|path| Level { files: files.clone(), path: path.to_path_buf() })
            .collect()
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
    path: PathBuf,
}

impl Level {
    /// The quota of this group itself, in CPUs; absent where none is set.
    pub(crate) fn quota(&self) -> Option<f64> {
        let number = |name| self.files.number(self.path.join(name));
        // `max 100000` without a quota: no numbers at its beginning.
        let (quota, period): (f64, f64) = match self.files.numbers(self.path.join("cpu.max"))[..] {
            [quota, period] => (quota, period),
            _ => (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?),
        };
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    }

    /// How often this group itself was held back so far; absent where the kernel does not count it.
    pub(crate) fn throttling(&self) -> Option<Throttling> {
        let stat = self.files.text(self.path.join("cpu.stat"))?;
        let number = |key| value_of(&stat, key)?.parse::<u64>().ok();
        let of_v2 = number("throttled_usec").map(|us| us.saturating_mul(1_000));
        Some(Throttling {
            ns: of_v2.or_else(|| number("throttled_time"))?,
            periods: number("nr_throttled")?,
            enforced: number("nr_periods").unwrap_or(0),
        })
    }
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

    /// Finds those of a process by its id; absent also where there is no such process.
    pub(crate) fn of(files: &Files, process: &str) -> Option<Self> {
        let memberships = files.text(format!("/proc/{process}/cgroup"))?;
        // ID, controllers (none for the unified hierarchy), group.
        let of_line = |line| str::split_once(line, ':')?.1.split_once(':');
        let memberships: Vec<(&str, &str)> = memberships.lines().filter_map(of_line).collect();
        let group_in = |hierarchy: &str| {
            let is_wanted = |names: &str| names.split(',').any(|name| name == hierarchy);
            memberships.iter().find(|(names, _)| is_wanted(names)).map(|(_, group)| *group)
        };
        let has_v1 = memberships.iter().any(|(names, _)| !names.is_empty());
        let version = match (has_v1, group_in(UNIFIED)) {
            (false, None) => return None,
            (false, Some(_)) => "v2",
            (true, None) => "v1",
            (true, Some(_)) => "hybrid",
        };
        let (hierarchy, group) = match (group_in("cpu"), group_in(UNIFIED)) {
            (None, Some(group)) => (UNIFIED, group),
            (group, _) => ("cpu", group.unwrap_or("/")),
        };
        let below = |mount: &Mount| {
            // In a container the mounted group is often the process's own, or (with a cgroup
            // namespace shared by halves) no ancestor of the path at all: then the mount point is
            // the best that can be seen. Of another process that would be somebody else's group.
            let at_mount = (process == "self").then(|| mount.point.clone());
            let leaf = mount.directory(Path::new(group)).or(at_mount);
            leaf.map_or_else(Vec::new, |leaf| mount.levels(files, &leaf))
        };
        let mounts = Mount::all(files, hierarchy);
        let found = mounts.iter().map(below).find(|levels| !levels.is_empty());
        Some(Self { version, levels: found.unwrap_or_default() })
    }

    /// The paths of the files of these names, of each visible level, from this process's group up.
    pub(crate) fn files(&self, names: &[&str]) -> Vec<String> {
        let paths = self
            .levels
            .iter()
            .flat_map(|level| names.iter().map(move |name| (&level.files, level.path.join(name))));
        let existing = paths.filter(|(files, path)| files.exists(path));
        existing.map(|(_, path)| path.display().to_string()).collect()
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

/// A control group that somebody named.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    files: Files,
    /// One for each hierarchy that has it: under v1 the figures are spread over several.
    directories: Vec<PathBuf>,
    /// Groups whose quota holds it back: itself, those above it and those below it.
    pub(crate) levels: Vec<Level>,
}

impl Group {
    /// Finds a group by its path: absolute, relative to `/sys/fs/cgroup`, or as `/proc/PID/cgroup`
    /// names it. Absent where there is no such group.
    pub(crate) fn find(files: &Files, path: &Path) -> Option<Self> {
        let mounted = HIERARCHIES.map(|(hierarchy, _)| (hierarchy, Mount::all(files, hierarchy)));
        let directory = Path::new(CUSTOMARY).join(path);
        // Of nested mounts the innermost one is what the path means.
        let owner = mounted
            .iter()
            .flat_map(|(_, mounts)| mounts)
            .filter(|mount| directory.starts_with(&mount.point) && is_group(files, &directory))
            .max_by_key(|mount| mount.point.as_os_str().len());
        let name = match owner {
            Some(mount) => mount.root.join(directory.strip_prefix(&mount.point).ok()?),
            None => Path::new("/").join(path),
        };
        let mut found = Self { files: files.clone(), directories: Vec::new(), levels: Vec::new() };
        for (hierarchy, mounts) in &mounted {
            let directory_in = |mount: &Mount| {
                mount.directory(&name).filter(|directory| is_group(files, directory))
            };
            let Some((mount, directory)) =
                mounts.iter().find_map(|mount| Some((mount, directory_in(mount)?)))
            else {
                continue;
            };
            if matches!(*hierarchy, "cpu" | UNIFIED) && found.levels.is_empty() {
                found.levels = mount.levels(files, &directory);
                // A quota further down holds back what is in this group too.
                let inner = subtree(files, &directory).into_iter().skip(1);
                found.levels.extend(inner.map(|path| Level { files: files.clone(), path }));
            }
            found.directories.push(directory);
        }
        (!found.directories.is_empty()).then_some(found)
    }

    /// The texts of the files of this name, of each hierarchy that has one.
    fn texts(&self, name: &str) -> impl Iterator<Item = String> {
        self.directories.iter().filter_map(move |directory| self.files.text(directory.join(name)))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.texts(name).find_map(|text| text.parse().ok())
    }

    pub(crate) fn exists(&self) -> bool {
        self.directories.iter().any(|directory| is_group(&self.files, directory))
    }

    /// The CPU time of all that is, or ever was, in it.
    pub(crate) fn cpu(&self) -> Option<CpuCount> {
        if let Some(total_ns) = self.number("cpuacct.usage") {
            let stat = self.texts("cpuacct.stat").next().unwrap_or_default();
            let ticks = |key| value_of(&stat, key)?.parse::<u64>().ok();
            let ns = |key| ticks(key).unwrap_or(0) * ns_per_tick();
            let (user_ns, system_ns) = (ns("user"), ns("system"));
            return Some(CpuCount { user_ns, system_ns, total_ns: Some(total_ns) });
        }
        self.texts("cpu.stat").find_map(|stat| {
            let ns = |key| value_of(&stat, key)?.parse::<u64>().ok()?.checked_mul(1_000);
            let (user_ns, system_ns) = (ns("user_usec")?, ns("system_usec")?);
            Some(CpuCount { user_ns, system_ns, total_ns: ns("usage_usec") })
        })
    }

    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        self.number("memory.usage_in_bytes").or_else(|| self.number("memory.current"))
    }

    pub(crate) fn memory_peak_bytes(&self) -> Option<u64> {
        self.number("memory.max_usage_in_bytes").or_else(|| self.number("memory.peak"))
    }

    /// The processes in it and in the groups below it that this PID namespace shows.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let groups =
            self.directories.first().map_or_else(Vec::new, |top| subtree(&self.files, top));
        let lists = groups.iter().flat_map(|group| self.files.numbers(group.join("cgroup.procs")));
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

    const SELF: &str = "/proc/self/cgroup";
    const MOUNTS: &str = "/proc/self/mountinfo";
    const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
    const HYBRID_MOUNTS: &str = "\
        33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const DOCKER_MOUNT: &str =
        "33 31 0:30 /docker/x /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";

    /// A group of v1 with this quota, per cent of a CPU.
    fn v1(fixture: &Fixture, group: &str, quota: i32) {
        let write =
            |name: &str, text| fixture.write(&format!("/sys/fs/cgroup/{group}/{name}"), text);
        write("cpu.cfs_quota_us", format!("{}\n", quota * 1_000));
        write("cpu.cfs_period_us", "100000\n".to_owned());
    }

    #[test]
    fn the_quota_is_found_wherever_the_group_is_mounted() {
        let slice = "30 23 0:26 /a\\134x2db.slice /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let own = "5:cpu:/docker/x\n";
        for (groups, mounts, version, quota) in [
            ("5:cpu,cpuacct:/docker/x\n1:name=systemd:/\n", HYBRID_MOUNTS, "v1", 0.5),
            ("2:memory:/m\n1:cpu:/c\n0::/u\n", HYBRID_MOUNTS, "hybrid", 3.0),
            ("2:memory:/m\n0::/u\n", HYBRID_MOUNTS, "hybrid", 0.1),
            ("0::/a\\x2db.slice/c\n", slice, "v2", 0.7),
            // A container that sees only its own group finds it at the mount point.
            (own, DOCKER_MOUNT, "v1", 2.0),
            // The path is not visible below the mounted group at all.
            ("5:cpu:/elsewhere/y\n", DOCKER_MOUNT, "v1", 2.0),
            // A sandbox without mounts.
            (own, "", "v1", 2.0),
        ] {
            let fixture = Fixture::new(&[
                (SELF, groups),
                (MOUNTS, mounts),
                ("/sys/fs/cgroup/unified/u/cpu.max", "10000 100000\n"),
                ("/sys/fs/cgroup/c/cpu.max", "70000 100000\n"),
            ]);
            v1(&fixture, "cpu", 200);
            v1(&fixture, "cpu,cpuacct", -1);
            v1(&fixture, "cpu,cpuacct/c", 300);
            v1(&fixture, "cpu,cpuacct/docker/x", 50);
            let found = Cgroups::of_self(&fixture.files()).unwrap();
            assert_eq!((found.version, found.cpu_quota()), (version, Some(quota)), "{groups:?}");
        }
    }

    #[test]
    fn the_tightest_v2_quota_of_all_ancestors_holds_and_counters_add_up() {
        let fixture = Fixture::new(&[
            (SELF, "0::/a.slice/b.scope\n"),
            (MOUNTS, V2_MOUNT),
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
        assert_eq!((groups.version, groups.cpu_quota()), ("v2", Some(1.5)));
        let of = |group: &str, file: &str| format!("/sys/fs/cgroup{group}/{file}");
        let leaf_first = ["/a.slice/b.scope", "/a.slice", ""];
        let quotas = [0, 1].map(|at| of(leaf_first[at], "cpu.max"));
        assert_eq!(groups.files(&["cpu.max", "cpu.cfs_quota_us"]), quotas);
        assert_eq!(groups.files(&["cpu.stat"]), leaf_first.map(|group| of(group, "cpu.stat")));
        let throttling = groups.throttling();
        assert_eq!(throttling, Some(Throttling { periods: 3, ns: 34_000, enforced: 9 }));
        // V1 counts in nanoseconds.
        let stat = "nr_periods 9\nnr_throttled 2\nthrottled_time 12345\n";
        let fixture = Fixture::new(&[
            (SELF, "5:cpu:/x\n"),
            (MOUNTS, HYBRID_MOUNTS),
            ("/sys/fs/cgroup/cpu,cpuacct/x/cpu.stat", stat),
        ]);
        let throttling = Cgroups::of_self(&fixture.files()).unwrap().throttling();
        assert_eq!(throttling, Some(Throttling { periods: 2, ns: 12_345, enforced: 9 }));
    }

    #[test]
    fn of_another_process_only_its_own_groups_count() {
        let mount = "30 23 0:26 /pods /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let fixture = Fixture::new(&[
            (MOUNTS, mount),
            ("/proc/7/cgroup", "0::/pods/a\n"),
            ("/proc/8/cgroup", "0::/elsewhere\n"),
            ("/proc/9/cgroup", "0::/pods/../up\n"),
            ("/sys/fs/cgroup/cpu.max", "50000 100000\n"),
            ("/sys/fs/cgroup/a/cpu.max", "20000 100000\n"),
        ]);
        let quota = |pid| Cgroups::of(&fixture.files(), pid).map(|c| c.cpu_quota());
        assert_eq!(quota("7"), Some(Some(0.2)));
        assert_eq!(quota("8"), Some(None), "the mounted group is not its own");
        assert_eq!(quota("9"), Some(None), "outside what can be seen");
        assert_eq!(quota("10"), None);
    }

    #[test]
    fn without_control_groups_nothing_is_known() {
        assert_eq!(Cgroups::of_self(&Fixture::new(&[]).files()), None);
        assert_eq!(Cgroups::of_self(&Fixture::new(&[(SELF, "\n")]).files()), None);
        let unlimited = Fixture::new(&[(SELF, "0::/\n")]);
        let groups = Cgroups::of_self(&unlimited.files()).unwrap();
        assert_eq!((groups.cpu_quota(), groups.throttling()), (None, None));
    }

    #[test]
    fn a_v2_group_has_all_in_one_directory() {
        let at = |name: &str| format!("/sys/fs/cgroup/pod/{name}");
        let fixture = Fixture::new(&[
            (MOUNTS, V2_MOUNT),
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
            assert_eq!((group.memory_bytes(), group.memory_peak_bytes()), (Some(4096), Some(8192)));
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
            (MOUNTS, HYBRID_MOUNTS),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cgroup.procs", "21\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpuacct.usage", "777000000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpuacct.stat", "user 50\nsystem 25\n"),
            ("/sys/fs/cgroup/memory/docker/x/cgroup.procs", "21\n"),
            ("/sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "5\n"),
        ]);
        v1(&fixture, "cpu,cpuacct/docker/x", 10);
        let paths = ["docker/x", "/docker/x", "cpu,cpuacct/docker/x", "memory/docker/x"];
        for path in paths.into_iter().chain(["/sys/fs/cgroup/memory/docker/x"]) {
            let group = Group::find(&fixture.files(), Path::new(path)).expect(path);
            let cpu = group.cpu().expect(path);
            assert_eq!(cpu.total_ns, Some(777_000_000), "{path}");
            assert_eq!(cpu.user_ns, 50 * ns_per_tick());
            assert_eq!((group.memory_bytes(), group.memory_peak_bytes()), (Some(5), None));
            assert_eq!(group.levels[0].quota(), Some(0.1));
            assert_eq!(group.processes(), [21]);
        }
    }
}
