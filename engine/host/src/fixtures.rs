//! Made-up machines for tests.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::files::Files;
use crate::journal::Journal;

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct Fixture(PathBuf);

impl Fixture {
    /// With these files, by path.
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
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.files().path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Reads them.
    pub(crate) fn files(&self) -> Files {
        Files::below(&self.0)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A journal in a directory of its own, on the real machine.
pub(crate) fn journal(fixture: &Fixture) -> Journal {
    Journal { directories: vec![fixture.files().path("/run/tare")], ..Journal::of_machine() }
}

/// A journal on a machine of fixture files, on which each link exists but `gone`.
pub(crate) fn simulated(fixture: &Fixture) -> Journal {
    Journal {
        files: Files::below(fixture.files().path("/")),
        link_exists: |name| name != "gone",
        ..journal(fixture)
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
