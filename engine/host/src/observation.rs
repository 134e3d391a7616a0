//! What a run observes beside its own ends: `NAME=pid:123`, `NAME=comm:nginx`, `NAME=cgroup:PATH`.

use std::fmt;
use std::path::{Component, PathBuf};
use std::str::FromStr;

use tare_units::error::{Error, Result};

/// Names become parts of column names.
const NAME_BYTES_MAX: usize = 32;
const HELP: &str =
    "write it as web=comm:nginx, web=pid:1234 or web=cgroup:system.slice/nginx.service";

/// A process, several of one name, or a control group, and what results call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The name in results: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What it is.
    pub what: Observable,
}

/// What can be observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observable {
    /// A process with all its threads.
    Pid(u32),
    /// All processes of this name, as `pgrep -x` finds them.
    Comm(String),
    /// A control group with all below it: absolute, relative to `/sys/fs/cgroup`, or as
    /// `/proc/PID/cgroup` names it.
    Cgroup(PathBuf),
}

impl fmt::Display for Observable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Comm(name) => write!(f, "comm:{name}"),
            Self::Cgroup(path) => write!(f, "cgroup:{}", path.display()),
        }
    }
}

impl FromStr for Observation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(80).collect();
            let message = format!("'{}' cannot be observed: {why}", shown.escape_debug());
            Error::usage(message).remedy(HELP)
        };
        let (name, what) = text.split_once('=').ok_or_else(|| refuse("it has no name"))?;
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_allowed) {
            return Err(refuse("a name is 1 to 32 letters, digits, dashes, dots or underscores"));
        }
        let (kind, value) =
            what.split_once(':').ok_or_else(|| refuse("say pid:, comm: or cgroup:"))?;
        if value.is_empty() || value.chars().any(char::is_control) {
            return Err(refuse("it says nothing of what"));
        }
        let what = match kind {
            "pid" => {
                let pid = value.parse().ok().filter(|pid| *pid > 0);
                Observable::Pid(pid.ok_or_else(|| refuse("a process id is a number above zero"))?)
            }
            "comm" if value.contains('/') => {
                return Err(refuse("a process's name is no path"));
            }
            "comm" => Observable::Comm(value.to_owned()),
            "cgroup" => {
                let path = PathBuf::from(value);
                if path.components().any(|part| part == Component::ParentDir) {
                    return Err(refuse("a group's path has no '..'"));
                }
                Observable::Cgroup(path)
            }
            _ => return Err(refuse("say pid:, comm: or cgroup:")),
        };
        Ok(Self { name: name.to_owned(), what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_read_and_written_back() {
        for text in [
            "web=pid:123",
            "web-1=comm:nginx: worker",
            "a.b_c=cgroup:system.slice/docker-0a.scope",
            "x=cgroup:/sys/fs/cgroup/pod=1",
        ] {
            let one: Observation = text.parse().unwrap();
            assert_eq!(format!("{}={}", one.name, one.what), text);
        }
        let one: Observation = "w=pid:7".parse().unwrap();
        assert_eq!(one.what, Observable::Pid(7));
    }

    #[test]
    fn what_says_nothing_is_refused_with_an_example() {
        for text in [
            "",
            "pid:1",
            "=pid:1",
            "a b=pid:1",
            "a=1",
            "a=pid:",
            "a=pid:0",
            "a=pid:-1",
            "a=pid:99999999999",
            "a=comm:",
            "a=comm:/usr/sbin/nginx",
            "a=comm:x\n",
            "a=exe:nginx",
            "a=cgroup:../x",
        ] {
            let error = text.parse::<Observation>().unwrap_err().to_string();
            assert!(error.contains("web=comm:nginx"), "{text}: {error}");
            assert_eq!(error.lines().count(), 1);
        }
        let long = format!("{}=pid:1", "x".repeat(33));
        assert!(long.parse::<Observation>().is_err());
    }
}
