//! What a run changed on the machine and has not undone yet, on disk, so that the next start can
//! name what a SIGKILL left behind.
//!
//! An entry is a small file, written before the change and removed after undoing it. That of a link
//! is a leftover once its process is gone while the link is still there. Whether what a command
//! changed was undone nobody can see from outside: its entry is a leftover from the end of its
//! process until the file is removed.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::Files;
use crate::process;
use tare_driver::sys::random;
use tare_stats::result::Warning;
use tare_units::error::{Error, Result};

/// Characters of a name that get into the name of an entry's file.
const FILE_NAME_MAX: usize = 40;

/// Something that an earlier run left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub(crate) what: String,
    /// Undoes it, and removes the entry where nothing else tells that it was undone.
    pub(crate) undo_command: String,
    /// What to do about it without that command, which may hold secrets: a report is handed on.
    advice: String,
}

impl Leftover {
    /// For whoever started the run.
    #[must_use]
    pub fn warning(&self) -> Warning {
        Warning {
            code: "leftover".to_owned(),
            message: format!("an earlier run left {}", self.what),
            advice: self.undo_command.clone(),
        }
    }

    /// For a report.
    #[must_use]
    pub fn warning_in_report(&self) -> Warning {
        Warning { advice: self.advice.clone(), ..self.warning() }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Change<'a> {
    Link(&'a str),
    /// A command is run whose effect the simple shell command `undo` undoes. The entry tells the
    /// network namespace, but is named in others too: a command may change what is not bound to
    /// one. Only its owner may read it, since commands may hold what is nobody else's business.
    Command {
        name: &'a str,
        undo: &'a str,
    },
}

/// One change, as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    pid: u32,
    /// Start of the process, clock ticks after boot: a pid alone is reused.
    started_ticks: Option<u64>,
    namespace: Option<String>,
    what: String,
    /// The network device that was made; absent where a command made the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    undo: String,
}

impl Entry {
    /// What undoes the change for good, typed into a shell.
    fn undo_command(&self, path: &Path) -> String {
        if self.link.is_some() {
            return self.undo.clone();
        }
        let path = path.to_string_lossy();
        // Only a NUL cannot be quoted, and no path holds one.
        let path = shlex::try_quote(&path).unwrap_or_default();
        format!("{} && rm {path}", self.undo)
    }

    fn leftover(self, path: &Path, here: Option<&str>) -> Leftover {
        let undo_command = self.undo_command(path);
        if self.link.is_some() {
            return Leftover { what: self.what, advice: undo_command.clone(), undo_command };
        }
        let what = if self.namespace.as_deref() == here {
            self.what
        } else {
            let namespace = self.namespace.as_deref().unwrap_or("unknown");
            format!("{}, in another network namespace ({namespace})", self.what)
        };
        let advice = format!(
            "type the command that tare prints on stderr; or run what stands as \"undo\" in {}, and \
             remove that file",
            path.display()
        );
        Leftover { what, undo_command, advice }
    }

    fn write(&self, directory: &Path, path: &Path) -> std::io::Result<()> {
        if !directory.is_dir() {
            DirBuilder::new().mode(0o755).create(directory)?;
        }
        let mode = if self.link.is_some() { 0o644 } else { 0o600 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(&serde_json::to_vec(self)?)
    }
}

/// The directories that entries are written to and looked for in.
#[derive(Debug, Clone)]
pub struct Journal {
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) files: Files,
    pub(crate) link_exists: fn(&str) -> bool,
}

/// An entry on disk. Dropping it leaves the file, so that whatever was not undone is named later.
#[derive(Debug)]
#[must_use = "an entry that is never settled is named as a leftover"]
pub(crate) struct Note {
    path: PathBuf,
    /// What to type where the change could not be undone.
    pub(crate) undo_command: String,
}

impl Note {
    pub(crate) fn settle(self) {
        remove(&self.path);
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

    /// Writes down a change that is about to be made; `what` names it in words.
    pub(crate) fn note(&self, what: &str, change: Change<'_>) -> Result<Note> {
        let (name, link, undo) = match change {
            Change::Link(link) => {
                (link.to_owned(), Some(link.to_owned()), format!("ip link del {link}"))
            }
            Change::Command { name, undo } => {
                let random = u32::from_be_bytes(random::bytes()?);
                (format!("{}-{random:08x}", file_name(name)), None, undo.to_owned())
            }
        };
        let pid = std::process::id();
        let started_ticks = process::started_ticks(&self.files, pid);
        let namespace = self.namespace();
        let entry = Entry { pid, started_ticks, namespace, what: what.to_owned(), link, undo };
        let mut failures = Vec::new();
        for directory in &self.directories {
            let path = directory.join(format!("{name}.json"));
            let written = match entry.write(directory, &path) {
                // Another run may have removed the directory with its own last entry in between.
                Err(error) if error.kind() == ErrorKind::NotFound => entry.write(directory, &path),
                written => written,
            };
            match written {
                Ok(()) => return Ok(Note { undo_command: entry.undo_command(&path), path }),
                Err(error) => failures.push(format!("{}: {error}", path.display())),
            }
        }
        Err(Error::environment(format!(
            "cannot write down what is about to be changed ({})",
            failures.join(", ")
        ))
        .remedy("set XDG_RUNTIME_DIR to a directory that can be written"))
    }

    /// What runs that are gone left behind: links in this network namespace, and what commands
    /// changed in any. Entries whose link is gone too are removed.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Leftover> {
        let here = self.namespace();
        let mut leftovers = Vec::new();
        for path in self.entries() {
            let entry = fs::read(&path).ok();
            let entry = entry.and_then(|bytes| serde_json::from_slice::<Entry>(&bytes).ok());
            let Some(entry) = entry.filter(|entry| !self.is_alive(entry)) else {
                continue;
            };
            match &entry.link {
                Some(_) if entry.namespace != here => {}
                Some(link) if !(self.link_exists)(link) => remove(&path),
                _ => leftovers.push(entry.leftover(&path, here.as_deref())),
            }
        }
        leftovers
    }

    fn entries(&self) -> Vec<PathBuf> {
        let directories = self.directories.iter().filter_map(|path| fs::read_dir(path).ok());
        let mut paths: Vec<PathBuf> = directories
            .flatten()
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort_unstable();
        paths
    }

    fn is_alive(&self, entry: &Entry) -> bool {
        let started = process::started_ticks(&self.files, entry.pid);
        started.is_some() && (started == entry.started_ticks || entry.started_ticks.is_none())
    }

    fn namespace(&self) -> Option<String> {
        let link = fs::read_link(self.files.path("/proc/thread-self/ns/net")).ok()?;
        Some(link.to_string_lossy().into_owned())
    }
}

/// Removes an entry. Where that fails it is named, or tried again, at the next start.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
    // The directory goes with its last entry; it stays while there are others.
    if let Some(directory) = path.parent() {
        let _ = fs::remove_dir(directory);
    }
}

/// What of `name` is fit for the name of a file, in any directory and any shell.
fn file_name(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    name.chars().take(FILE_NAME_MAX).map(fit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Fixture, journal, simulated};
    use std::os::unix::fs::PermissionsExt as _;

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
        let _running = journal.note("a veth pair", Change::Link("tare-1")).unwrap();
        let _gone = journal.note("a veth pair", Change::Link("gone")).unwrap();
        assert_eq!(journal.leftovers(), [], "its process is alive");

        alive(&fixture, pid, 501);
        assert_eq!(
            journal.leftovers(),
            [Leftover {
                what: "a veth pair".into(),
                undo_command: "ip link del tare-1".into(),
                advice: "ip link del tare-1".into(),
            }],
            "the pid was reused"
        );
        let files = fixture.files().names("/run/tare");
        assert_eq!(files, ["tare-1.json"], "the entry without a link is removed");
    }

    #[test]
    fn an_undone_change_leaves_nothing() {
        let fixture = Fixture::new(&[("/run/x", "")]);
        let journal = journal(&fixture);
        let note = journal.note("a test", Change::Link("lo")).unwrap();
        assert_eq!(fixture.files().names("/run/tare"), ["lo.json"]);
        assert_eq!(journal.leftovers(), []);
        note.settle();
        assert_eq!(fixture.files().names("/run"), ["x"], "not even the directory");
    }

    #[test]
    fn what_a_command_changed_is_named_until_its_entry_is_removed() {
        let pid = std::process::id();
        let fixture = Fixture::new(&[("/run/x", "")]);
        alive(&fixture, pid, 500);
        let journal = simulated(&fixture);
        let note = journal
            .note("what a knob was", Change::Command { name: "a/../b c", undo: "sysctl -w a=0" })
            .unwrap();
        let names = fixture.files().names("/run/tare");
        assert_eq!(names.len(), 1);
        assert!(names[0].starts_with("a----b-c-"), "{names:?}");
        assert_eq!(journal.leftovers(), [], "its process is alive");

        alive(&fixture, pid, 501);
        let path = fixture.files().path(format!("/run/tare/{}", names[0]));
        let leftover = Leftover {
            what: "what a knob was".into(),
            undo_command: format!("sysctl -w a=0 && rm {}", path.display()),
            advice: format!(
                "type the command that tare prints on stderr; or run what stands as \"undo\" in {}, and remove that file",
                path.display()
            ),
        };
        assert_eq!(journal.leftovers(), std::slice::from_ref(&leftover));
        assert_eq!(journal.leftovers(), [leftover], "and named again");
        let told = &journal.leftovers()[0];
        assert_eq!(note.undo_command, told.undo_command);
        assert_eq!(told.warning().advice, told.undo_command);
        let in_report = told.warning_in_report();
        assert_eq!(in_report.message, told.warning().message);
        assert!(!in_report.advice.contains("sysctl"), "{in_report:?}");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        fs::remove_file(&path).unwrap();
        assert_eq!(journal.leftovers(), []);
    }

    #[test]
    fn entries_of_one_name_stand_beside_each_other() {
        let fixture = Fixture::new(&[("/run/x", "")]);
        let journal = journal(&fixture);
        let [one, two] = [(); 2]
            .map(|()| journal.note("", Change::Command { name: "b", undo: "true" }).unwrap());
        one.settle();
        assert_eq!(fixture.files().names("/run/tare").len(), 1);
        two.settle();
        assert_eq!(fixture.files().names("/run"), ["x"]);
    }

    #[test]
    fn a_command_of_another_namespace_is_named_with_it() {
        let other =
            r#"{"pid":1,"started_ticks":0,"namespace":"net:[1]","what":"a knob","undo":"true"}"#;
        let fixture = Fixture::new(&[("/run/tare/a b.json", other)]);
        let leftovers = simulated(&fixture).leftovers();
        assert_eq!(leftovers.len(), 1);
        assert_eq!(leftovers[0].what, "a knob, in another network namespace (net:[1])");
        let path = fixture.files().path("/run/tare/a b.json");
        let undo = format!("true && rm '{}'", path.display());
        assert_eq!(leftovers[0].undo_command, undo, "quoted for a shell");
    }

    #[test]
    fn damaged_entries_and_links_of_other_namespaces_are_left_alone() {
        let other =
            r#"{"pid":1,"started_ticks":0,"namespace":"net:[1]","what":"","link":"l","undo":""}"#;
        let fixture = Fixture::new(&[("/run/tare/a.json", "{"), ("/run/tare/b.json", other)]);
        assert_eq!(simulated(&fixture).leftovers(), []);
        assert_eq!(fixture.files().names("/run/tare"), ["a.json", "b.json"]);
    }

    #[test]
    fn without_a_place_to_write_the_change_is_not_made() {
        let fixture = Fixture::new(&[]);
        let error = journal(&fixture).note("a test", Change::Link("lo")).unwrap_err();
        assert!(error.to_string().contains("XDG_RUNTIME_DIR"), "{error}");
    }
}
