//! What the control groups of this process limit: CPU bandwidth, and how often it was held back for it.
//!
//! The rules are those of the kernel's `admin-guide/cgroup-v1`, `cgroup-v2` and `scheduler/sched-bwc`: each
//! group on the way up to the root may have a quota of its own, and the tightest one holds.

use std::path::{Path, PathBuf};

use super::files::{Files, value_of};

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

/// How often, and for how long, the groups of this process were held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttling {
    /// Enforcement periods in which some group was throttled.
    pub periods: u64,
    /// Time throttled, nanoseconds, summed over groups (and, as the kernel counts, over CPUs).
    pub ns: u64,
}

/// The control groups that this process is in, as far as the CPU controller goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Cgroups {
    /// Which hierarchies there are.
    pub version: Version,
    files: Files,
    /// The CPU controller is on the unified hierarchy.
    cpu_is_v2: bool,
    /// Directories of the CPU controller, from this process's group up to the topmost one that is visible.
    levels: Vec<PathBuf>,
}

impl Cgroups {
    /// Finds the groups of this process; absent on a kernel or in a sandbox without control groups.
    pub fn of_self(files: &Files) -> Option<Self> {
        let memberships = files.text("/proc/self/cgroup")?;
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
        let (cpu_is_v2, group) = match (cpu_v1, unified) {
            (Some(group), _) => (false, group),
            (None, Some(group)) => (true, group),
            (None, None) => (false, "/"),
        };
        let levels = levels(files, cpu_is_v2, group);
        Some(Self {
            version,
            files: files.clone(),
            cpu_is_v2,
            levels,
        })
    }

    /// The files of the CPU controller that hold quota and counters, of each visible level that has them, from this
    /// process's group up.
    #[must_use]
    pub fn cpu_files(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let quota = if self.cpu_is_v2 {
            "cpu.max"
        } else {
            "cpu.cfs_quota_us"
        };
        let files = |name: &str| {
            let paths = self.levels.iter().map(|level| level.join(name));
            paths.filter(|path| self.files.exists(path)).collect()
        };
        (files(quota), files("cpu.stat"))
    }

    /// The tightest CPU quota on the way up, in CPUs; absent where none is set, or visible: above the root of
    /// a container's cgroup namespace nothing can be seen.
    #[must_use]
    pub fn cpu_quota(&self) -> Option<f64> {
        self.levels
            .iter()
            .filter_map(|level| self.quota_of(level))
            .min_by(f64::total_cmp)
    }

    fn quota_of(&self, level: &Path) -> Option<f64> {
        let (quota, period): (f64, f64) = if self.cpu_is_v2 {
            // `max 100000` without a quota: no numbers at its beginning.
            let limit = self.files.numbers::<f64>(level.join("cpu.max"));
            (*limit.first()?, *limit.get(1)?)
        } else {
            (
                self.files.number(level.join("cpu.cfs_quota_us"))?,
                self.files.number(level.join("cpu.cfs_period_us"))?,
            )
        };
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    }

    /// The counters of all visible levels, added up: a group is counted as throttled only by itself, not by its
    /// parent. Absent where no level has them.
    #[must_use]
    pub fn throttling(&self) -> Option<Throttling> {
        self.levels
            .iter()
            .filter_map(|level| {
                let stat = self.files.text(level.join("cpu.stat"))?;
                let number = |key| value_of(&stat, key)?.parse::<u64>().ok();
                let periods = number("nr_throttled")?;
                let ns = if self.cpu_is_v2 {
                    number("throttled_usec")?.saturating_mul(1_000)
                } else {
                    number("throttled_time")?
                };
                Some(Throttling { periods, ns })
            })
            .reduce(|a, b| Throttling {
                periods: a.periods + b.periods,
                ns: a.ns + b.ns,
            })
    }
}

/// A mounted cgroup hierarchy.
struct Mount {
    /// The group that is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
}

/// The directories of `group` and its ancestors in the hierarchy of the CPU controller, leaf first.
fn levels(files: &Files, unified: bool, group: &str) -> Vec<PathBuf> {
    let group = Path::new(group);
    let mounts = mounts(files, unified);
    let below = |mount: &Mount| {
        // In a container the mounted group is often the process's own, or (with a cgroup namespace shared
        // by halves) no ancestor of the path at all: then the mount point is the best that can be seen.
        let inner = group
            .strip_prefix(&mount.root)
            .unwrap_or_else(|_| Path::new(""));
        let leaf = mount.point.join(inner);
        leaf.ancestors()
            .take_while(|level| level.starts_with(&mount.point))
            .filter(|level| files.exists(level))
            .map(Path::to_path_buf)
            .collect::<Vec<_>>()
    };
    mounts
        .iter()
        .map(below)
        .find(|levels| !levels.is_empty())
        .unwrap_or_default()
}

fn mounts(files: &Files, unified: bool) -> Vec<Mount> {
    let table = files.text("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<Mount> = table
        .lines()
        .filter_map(|line| {
            // proc(5): ID, parent, device, root, mount point, options, tags… `-` type, source, super options.
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ');
            let (root, point) = (head.nth(3)?, head.next()?);
            let mut tail = tail.split(' ');
            let (kind, options) = (tail.next()?, tail.nth(1).unwrap_or(""));
            let wanted = if unified {
                kind == "cgroup2"
            } else {
                kind == "cgroup" && options.split(',').any(|option| option == "cpu")
            };
            wanted.then(|| Mount {
                root: unescape(root).into(),
                point: unescape(point).into(),
            })
        })
        .collect();
    // Sandboxes that show the files but not the mounts keep to the customary places.
    let customary: &[&str] = if unified {
        &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
    } else {
        &["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"]
    };
    if mounts.is_empty() {
        mounts.extend(customary.iter().map(|point| Mount {
            root: "/".into(),
            point: point.into(),
        }));
    }
    mounts
}

/// Undoes the octal escapes of `mountinfo`: a unit named `a\x2db.slice` is written `a\134x2db.slice` there.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let code = rest
            .get(1..4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let (decoded, length) = code.map_or(('\\', 1), |code| (char::from(code), 4));
        out.push(decoded);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::fixture::Fixture;

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
        assert_eq!(
            throttling,
            Some(Throttling {
                periods: 3,
                ns: 34_000
            })
        );
    }

    #[test]
    fn v1_counts_in_nanoseconds_and_minus_one_is_no_quota() {
        let fixture = Fixture::new(&[
            (
                "/proc/self/cgroup",
                "5:cpu,cpuacct:/docker/x\n1:name=systemd:/\n",
            ),
            ("/proc/self/mountinfo", V1_MOUNT),
            (
                "/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us",
                "50000\n",
            ),
            (
                "/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us",
                "100000\n",
            ),
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
        assert_eq!(
            groups.throttling(),
            Some(Throttling {
                periods: 2,
                ns: 12_345
            })
        );
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
