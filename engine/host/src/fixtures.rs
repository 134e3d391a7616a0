//! Made-up machines for tests.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::files::Files;
use crate::journal::Journal;

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct Fixture(PathBuf);

impl Fixture {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root =
            std::env::temp_dir().join(format!("tare-fixture-{}-{count}", std::process::id()));
        let fixture = Self(root);
        for (path, text) in files {
            fixture.write(path, text);
        }
        fixture
    }

    /// Writes a file, and the directories above it.
    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Removes a directory.
    pub(crate) fn remove(&self, path: &str) {
        std::fs::remove_dir_all(self.path(path)).unwrap();
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.files().path(path)
    }

    pub(crate) fn files(&self) -> Files {
        Files::below(&self.0)
    }

    /// The entries of the journal.
    pub(crate) fn entries(&self) -> Vec<String> {
        self.files().names("/run/tare")
    }

    /// A journal in a directory of its own, on the real machine.
    pub(crate) fn journal(&self) -> Journal {
        self.write("/run/x", "");
        Journal { directories: vec![self.path("/run/tare")], ..Journal::of_machine() }
    }

    /// A journal on this made-up machine, on which each link exists but `gone`.
    pub(crate) fn simulated_journal(&self) -> Journal {
        Journal { files: self.files(), link_exists: |name| name != "gone", ..self.journal() }
    }

    /// This very process began at `started_ticks`.
    pub(crate) fn started(&self, started_ticks: u64) {
        let pid = std::process::id();
        let stat = format!("{pid} (a b) c) S 1 {} {started_ticks} 0 0", "0 ".repeat(17));
        self.write(&format!("/proc/{pid}/stat"), stat);
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Says that a test is left out, or a part of it, and why: past the capture of its output, so that
/// `.ci/run` can count these lines.
pub(crate) fn left_out(why: &str) {
    let test = std::thread::current();
    let line = format!("left out: {}: {why}\n", test.name().unwrap_or_default());
    // Nobody reads it where stderr is closed.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}
