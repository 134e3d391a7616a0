//! What a run changed on the machine and has not undone yet, on disk, so that the next start can name what a
//! SIGKILL left behind (DESIGN D11).
//!
//! An entry is a small file, written before the change and removed after undoing it. It is a leftover once its
//! process is gone while the link is still there.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sys::files::Files;

/// Something that an earlier run left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it is, in words.
    pub what: String,
    /// The command that undoes it.
    pub undo_command: String,
}

/// One change, as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    pid: u32,
    /// Start of the process, clock ticks after boot: a pid alone is reused.
    started_ticks: Option<u64>,
    /// The network namespace that the link is in.
    namespace: Option<String>,
    what: String,
    link: String,
    undo: String,
}

/// The directories that entries are written to and looked for in.
#[derive(Debug, Clone)]
pub struct Journal {
    directories: Vec<PathBuf>,
    files: Files,
    link_exists: fn(&str) -> bool,
}

/// An entry on disk. Dropping it leaves the file, so that whatever was not undone is named later.
#[derive(Debug)]
#[must_use = "an entry that is never settled is named as a leftover"]
pub struct Note(PathBuf);

impl Note {
    /// Removes the entry: the change was undone.
    pub fn settle(self) {
        // Where it cannot be removed the next start sees that the link is gone and tries again.
        let _ = fs::remove_file(&self.0);
        // The directory goes with its last entry; it stays while there are others.
        if let Some(directory) = self.0.parent() {
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Journal {
    /// `/run/tare`, and for whoever may not write there `$XDG_RUNTIME_DIR/tare`.
    #[must_use]
    pub fn of_machine() -> Self {
        let mut directories = vec![PathBuf::from("/run/tare")];
        if let Some(own) = std::env::var_os("XDG_RUNTIME_DIR").filter(|own| !own.is_empty()) {
            directories.push(Path::new(&own).join("tare"));
        }
        Self {
            directories,
            files: Files::default(),
            link_exists: |name| nix::net::if_::if_nametoindex(name).is_ok(),
        }
    }

    /// Writes down that the network device `link` is about to be made.
    ///
    /// # Errors
    /// An environment error where no directory of the journal can be written.
    pub fn note_link(&self, link: &str, what: &str) -> Result<Note> {
        let pid = std::process::id();
        let entry = Entry {
            pid,
            started_ticks: self.started_ticks(pid),
            namespace: self.namespace(),
            what: what.to_owned(),
            link: link.to_owned(),
            undo: format!("ip link del {link}"),
        };
        let mut failures = Vec::new();
        for directory in &self.directories {
            let path = directory.join(format!("{link}.json"));
            let written = write(directory, &path, &entry).or_else(|error| {
                // Another run may have removed the directory with its own last entry in between.
                if error.kind() == ErrorKind::NotFound {
                    write(directory, &path, &entry)
                } else {
                    Err(error)
                }
            });
            match written {
                Ok(()) => return Ok(Note(path)),
                Err(error) => failures.push(format!("{}: {error}", path.display())),
            }
        }
        Err(Error::environment(format!(
            "cannot write down what is about to be changed ({})",
            failures.join(", ")
        ))
        .remedy("set XDG_RUNTIME_DIR to a directory that can be written"))
    }

    /// What runs that are gone left behind in this network namespace. Entries whose link is gone too are removed.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Leftover> {
        let here = self.namespace();
        let mut leftovers = Vec::new();
        for path in self.entries() {
            let entry = fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Entry>(&bytes).ok());
            let Some(entry) = entry.filter(|entry| entry.namespace == here) else {
                continue;
            };
            if self.is_alive(&entry) {
                continue;
            }
            if (self.link_exists)(&entry.link) {
                leftovers.push(Leftover {
                    what: entry.what,
                    undo_command: entry.undo,
                });
            } else {
                Note(path).settle();
            }
        }
        leftovers
    }

    fn entries(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self
            .directories
            .iter()
            .filter_map(|directory| fs::read_dir(directory).ok())
            .flatten()
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "json")
            })
            .collect();
        paths.sort_unstable();
        paths
    }

    fn is_alive(&self, entry: &Entry) -> bool {
        let started = self.started_ticks(entry.pid);
        started.is_some() && (started == entry.started_ticks || entry.started_ticks.is_none())
    }

    /// proc(5), `/proc/PID/stat`: the 22nd field, the 20th after the name, which may hold spaces and brackets.
    fn started_ticks(&self, pid: u32) -> Option<u64> {
        let stat = self.files.text(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_ascii_whitespace().nth(19)?.parse().ok()
    }

    fn namespace(&self) -> Option<String> {
        let link = fs::read_link(self.files.path("/proc/thread-self/ns/net")).ok()?;
        Some(link.to_string_lossy().into_owned())
    }
}

/// What earlier runs left behind on this machine.
#[must_use]
pub fn leftovers() -> Vec<Leftover> {
    Journal::of_machine().leftovers()
}

fn write(directory: &Path, path: &Path, entry: &Entry) -> std::io::Result<()> {
    if !directory.is_dir() {
        DirBuilder::new().mode(0o755).create(directory)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let text = serde_json::to_vec(entry)?;
    file.write_all(&text)
}

#[cfg(test)]
pub(crate) mod fixture {
    use super::Journal;
    use crate::sys::files::Files;
    use crate::sys::files::fixture::Fixture;

    /// A journal in a directory of its own, on the real machine.
    pub(crate) fn journal(fixture: &Fixture) -> Journal {
        Journal {
            directories: vec![fixture.files().path("/run/tare")],
            ..Journal::of_machine()
        }
    }

    /// A journal on a machine of fixture files, on which each link exists but `gone`.
    pub(super) fn simulated(fixture: &Fixture) -> Journal {
        Journal {
            directories: vec![fixture.files().path("/run/tare")],
            files: Files::below(fixture.files().path("/")),
            link_exists: |name| name != "gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{journal, simulated};
    use super::*;
    use crate::sys::files::fixture::Fixture;

    /// A line of `/proc/PID/stat` with an awkward name.
    fn stat(started: u64) -> String {
        format!("7 (a b) c) S 1 {} {started} 0 0", "0 ".repeat(17))
    }

    fn alive(fixture: &Fixture, pid: u32, started: u64) {
        fixture.write(&format!("/proc/{pid}/stat"), &stat(started));
    }

    #[test]
    fn only_the_links_of_processes_that_are_gone_are_left_over() {
        let pid = std::process::id();
        let fixture = Fixture::new(&[("/run/x", "")]);
        alive(&fixture, pid, 500);
        let journal = simulated(&fixture);
        let _running = journal.note_link("tare-1", "a veth pair").unwrap();
        let _gone = journal.note_link("gone", "a veth pair").unwrap();
        assert_eq!(journal.leftovers(), [], "its process is alive");

        alive(&fixture, pid, 501);
        assert_eq!(
            journal.leftovers(),
            [Leftover {
                what: "a veth pair".into(),
                undo_command: "ip link del tare-1".into()
            }],
            "the pid was reused"
        );
        let files = fixture.files().names("/run/tare");
        assert_eq!(
            files,
            ["tare-1.json"],
            "the entry without a link is removed"
        );
    }

    #[test]
    fn an_undone_change_leaves_nothing() {
        let fixture = Fixture::new(&[("/run/x", "")]);
        let journal = journal(&fixture);
        let note = journal.note_link("lo", "a test").unwrap();
        assert_eq!(fixture.files().names("/run/tare"), ["lo.json"]);
        assert_eq!(journal.leftovers(), []);
        note.settle();
        assert_eq!(
            fixture.files().names("/run"),
            ["x"],
            "not even the directory"
        );
    }

    #[test]
    fn damaged_entries_and_those_of_other_namespaces_are_left_alone() {
        let other =
            r#"{"pid":1,"started_ticks":0,"namespace":"net:[1]","what":"","link":"l","undo":""}"#;
        let fixture = Fixture::new(&[("/run/tare/a.json", "{"), ("/run/tare/b.json", other)]);
        assert_eq!(simulated(&fixture).leftovers(), []);
        assert_eq!(fixture.files().names("/run/tare"), ["a.json", "b.json"]);
    }

    #[test]
    fn without_a_place_to_write_the_change_is_not_made() {
        let fixture = Fixture::new(&[]);
        let error = journal(&fixture).note_link("lo", "a test").unwrap_err();
        assert!(error.to_string().contains("XDG_RUNTIME_DIR"), "{error}");
    }
}
