//! Where the hierarchies of control groups are mounted.

use std::path::{Component, Path, PathBuf};

use crate::files::Files;

/// The hierarchy that a controller hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hierarchy {
    /// The unified one (cgroup v2).
    Unified,
    /// That of the named controller (cgroup v1).
    V1(&'static str),
}

/// A mounted hierarchy.
#[derive(Debug)]
pub(super) struct Mount {
    /// The group that is mounted.
    pub(super) root: PathBuf,
    /// Where.
    pub(super) point: PathBuf,
}

impl Mount {
    /// The directory of a group; absent where it lies outside what is mounted. Whether it exists is not asked.
    pub(super) fn directory(&self, group: &Path) -> Option<PathBuf> {
        let inner = group.strip_prefix(&self.root).ok()?;
        // Groups above the root of a cgroup namespace are shown as `/../other`.
        let is_visible = !inner.components().any(|part| part == Component::ParentDir);
        is_visible.then(|| self.point.join(inner))
    }
}

/// The mounts of a hierarchy, as `/proc/self/mountinfo` tells.
pub(super) fn of(files: &Files, hierarchy: Hierarchy) -> Vec<Mount> {
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
            let wanted = match hierarchy {
                Hierarchy::Unified => kind == "cgroup2",
                Hierarchy::V1(controller) => {
                    kind == "cgroup" && options.split(',').any(|option| option == controller)
                }
            };
            wanted.then(|| Mount { root: unescape(root).into(), point: unescape(point).into() })
        })
        .collect();
    if mounts.is_empty() {
        mounts.extend(
            customary(hierarchy)
                .iter()
                .map(|point| Mount { root: "/".into(), point: point.into() }),
        );
    }
    mounts
}

/// Sandboxes that show the files but not the mounts keep to the customary places.
fn customary(hierarchy: Hierarchy) -> &'static [&'static str] {
    match hierarchy {
        Hierarchy::Unified => &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
        Hierarchy::V1("cpu") => &["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"],
        Hierarchy::V1("cpuacct") => &["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"],
        Hierarchy::V1("memory") => &["/sys/fs/cgroup/memory"],
        Hierarchy::V1(_) => &[],
    }
}

/// Undoes the octal escapes of `mountinfo`: a unit named `a\x2db.slice` is written `a\134x2db.slice` there.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let code = rest.get(1..4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let (decoded, length) = code.map_or(('\\', 1), |code| (char::from(code), 4));
        out.push(decoded);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}
