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
use serde_json::from_slice;

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
    pub fn warning(&self) -> Warning {
        let message = format!("an earlier run left {}", self.what);
        Warning::new("leftover", message, &self.undo_command)
    }

    /// For a report.
    pub fn warning_in_report(&self) -> Warning {
        Warning { advice: self.advice.clone(), ..self.warning() }
    }
}

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
        format!("{} && rm {}", self.undo, shlex::try_quote(&path).unwrap_or_default())
    }

    fn leftover(self, path: &Path, here: Option<&str>) -> Leftover {
        let undo_command = self.undo_command(path);
        let advice = match &self.link {
            Some(_) => undo_command.clone(),
            None => format!(
                "type the command that tare prints on stderr; or run what stands as \"undo\" in {}, \
                 and remove that file",
                path.display()
            ),
        };
        let what = if self.namespace.as_deref() == here {
            self.what
        } else {
            let namespace = self.namespace.as_deref().unwrap_or("unknown");
            format!("{}, in another network namespace ({namespace})", self.what)
        };
        Leftover { what, undo_command, advice }
    }

    fn write(&self, directory: &Path, path: &Path) -> std::io::Result<()> {
        if !directory.is_dir() {
            DirBuilder::new().mode(0o755).create(directory)?;
        }
        // Commands may hold what is nobody else's business.
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

    /// Writes down that a network device is about to be made; `what` names it in words.
    pub(crate) fn note_link(&self, link: &str, what: &str) -> Result<Note> {
        self.note(link, what, Some(link.to_owned()), format!("ip link del {link}"))
    }

    /// Writes down that a command is about to be run whose effect the simple shell command `undo`
    /// undoes. The entry tells the network namespace, but is named in others too: a command may
    /// change what is not bound to one.
    pub(crate) fn note_command(&self, name: &str, what: &str, undo: String) -> Result<Note> {
        let random = u32::from_be_bytes(random::bytes()?);
        self.note(&format!("{}-{random:08x}", file_name(name)), what, None, undo)
    }

    fn note(&self, name: &str, what: &str, link: Option<String>, undo: String) -> Result<Note> {
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
        let failures = failures.join(", ");
        Err(Error::environment(format!(
            "cannot write down what is about to be changed ({failures})"
        ))
        .remedy("set XDG_RUNTIME_DIR to a directory that can be written"))
    }

    /// What runs that are gone left behind: links in this network namespace, and what commands
    /// changed in any. Entries whose link is gone too are removed.
    pub fn leftovers(&self) -> Vec<Leftover> {
        let here = self.namespace();
        let mut leftovers = Vec::new();
        for path in self.entries() {
            let Some(entry) = fs::read(&path).ok().and_then(|bytes| from_slice(&bytes).ok()) else {
                continue;
            };
            let entry: Entry = entry;
            match &entry.link {
                _ if self.is_alive(&entry) => {}
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
    use crate::fixtures::Fixture;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_the_links_of_processes_that_are_gone_are_left_over() {
        let fixture = Fixture::new(&[]);
        fixture.started(500);
        let journal = fixture.simulated_journal();
        let _running = journal.note_link("tare-1", "a veth pair").unwrap();
        let _gone = journal.note_link("gone", "a veth pair").unwrap();
        assert_eq!(journal.leftovers(), [], "its process is alive");

        fixture.started(501);
        let undo = "ip link del tare-1".to_owned();
        let leftover =
            Leftover { what: "a veth pair".into(), undo_command: undo.clone(), advice: undo };
        assert_eq!(journal.leftovers(), [leftover], "the pid was reused");
        assert_eq!(fixture.entries(), ["tare-1.json"], "the entry without a link is removed");
    }

    #[test]
    fn an_undone_change_leaves_nothing() {
        let fixture = Fixture::new(&[]);
        let journal = fixture.journal();
        let note = journal.note_link("lo", "a test").unwrap();
        assert_eq!(fixture.entries(), ["lo.json"]);
        assert_eq!(journal.leftovers(), []);
        note.settle();
        assert_eq!(fixture.files().names("/run"), ["x"], "not even the directory");
        // Entries of one name stand beside each other.
        let [one, two] = [(); 2].map(|()| journal.note_command("b", "", "true".into()).unwrap());
        one.settle();
        assert_eq!(fixture.entries().len(), 1);
        two.settle();
        assert_eq!(fixture.files().names("/run"), ["x"]);
    }

    #[test]
    fn what_a_command_changed_is_named_until_its_entry_is_removed() {
        let fixture = Fixture::new(&[]);
        fixture.started(500);
        let journal = fixture.simulated_journal();
        let what = "what a knob was";
        let note = journal.note_command("a/../b c", what, "sysctl -w a=0".into()).unwrap();
        let names = fixture.entries();
        assert_eq!(names.len(), 1);
        assert!(names[0].starts_with("a----b-c-"), "{names:?}");
        assert_eq!(journal.leftovers(), [], "its process is alive");

        fixture.started(501);
        let path = fixture.path("/run/tare").join(&names[0]);
        let leftover = Leftover {
            what: what.into(),
            undo_command: format!("sysctl -w a=0 && rm {}", path.display()),
            advice: format!(
                "type the command that tare prints on stderr; or run what stands as \"undo\" in {}, and remove that file",
                path.display()
            ),
        };
        assert_eq!(journal.leftovers(), std::slice::from_ref(&leftover));
        assert_eq!(journal.leftovers(), std::slice::from_ref(&leftover), "and named again");
        assert_eq!(note.undo_command, leftover.undo_command);
        assert_eq!(leftover.warning().advice, leftover.undo_command);
        let in_report = leftover.warning_in_report();
        assert_eq!(in_report.message, leftover.warning().message);
        assert!(!in_report.advice.contains("sysctl"), "{in_report:?}");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        fs::remove_file(&path).unwrap();
        assert_eq!(journal.leftovers(), []);
    }

    #[test]
    fn entries_of_other_namespaces() {
        let start = r#"{"pid":1,"started_ticks":0,"namespace":"net:[1]","what":"a knob","#;
        let fixture = Fixture::new(&[
            ("/run/tare/a b.json", &format!(r#"{start}"undo":"true"}}"#)),
            ("/run/tare/damaged.json", "{"),
            ("/run/tare/link.json", &format!(r#"{start}"link":"l","undo":""}}"#)),
        ]);
        let leftovers = fixture.simulated_journal().leftovers();
        assert_eq!(leftovers.len(), 1);
        assert_eq!(leftovers[0].what, "a knob, in another network namespace (net:[1])");
        let undo = format!("true && rm '{}'", fixture.path("/run/tare/a b.json").display());
        assert_eq!(leftovers[0].undo_command, undo, "quoted for a shell");
        assert_eq!(fixture.entries(), ["a b.json", "damaged.json", "link.json"], "left alone");
    }

    #[test]
    fn without_a_place_to_write_the_change_is_not_made() {
        let fixture = Fixture::new(&[]);
        let journal = fixture.journal();
        fixture.remove("/run");
        let error = journal.note_link("lo", "a test").unwrap_err();
        assert!(error.to_string().contains("XDG_RUNTIME_DIR"), "{error}");
    }
}
