//! The server's log on stderr: what comes by the thousand is summed up, and nobody waits for
//! whoever reads it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tare_units::text::visible;

/// So many lines of a kind are shown one by one; what follows without a pause of [`EVERY`] is
/// counted.
const SHOWN: u32 = 8;
const EVERY: Duration = Duration::from_secs(1);
/// Lines that wait to be written; what does not fit is counted as lost.
const QUEUE: usize = 256;
/// How long the end of the server waits for its last lines to be written.
const LAST_WORDS: Duration = Duration::from_millis(300);

#[derive(Debug, Default)]
struct Kind {
    /// Lines shown since there was a pause.
    shown: u32,
    at: Duration,
    /// Those counted and not told yet.
    more: u64,
    last: String,
}

/// Decides what is shown. Times are since the start.
#[derive(Debug, Default)]
struct Tally {
    kinds: HashMap<&'static str, Kind>,
    lost: u64,
}

impl Tally {
    /// Whether a line is to be shown now; else it is counted.
    fn shows(&mut self, kind: &'static str, line: &str, now: Duration) -> bool {
        let kind = self.kinds.entry(kind).or_default();
        if now.saturating_sub(kind.at) >= EVERY && kind.more == 0 {
            kind.shown = 0;
        }
        kind.at = now;
        if kind.shown < SHOWN {
            kind.shown += 1;
            return true;
        }
        kind.more += 1;
        line.clone_into(&mut kind.last);
        false
    }

    /// What was counted since this was last asked, a line for each kind.
    fn sums(&mut self) -> Vec<String> {
        let counted = self.kinds.values_mut().filter(|kind| kind.more > 0);
        let sum = |kind: &mut Kind| match std::mem::take(&mut kind.more) {
            1 => std::mem::take(&mut kind.last),
            more => format!("{more} more such lines, the last: {}", kind.last),
        };
        let mut sums: Vec<String> = counted.map(sum).collect();
        sums.sort_unstable();
        let lost = std::mem::take(&mut self.lost);
        let missing = format!("{lost} lines are missing here: stderr was not read in time");
        sums.extend((lost > 0).then_some(missing));
        sums
    }
}

/// The log, with a thread of its own that writes.
pub(crate) struct Log {
    entry: Entry,
    written: Receiver<()>,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    queue: SyncSender<String>,
    tally: Arc<Mutex<Tally>>,
    start: Instant,
}

impl Log {
    pub(crate) fn to_stderr() -> io::Result<Self> {
        // Not `Stderr`: whoever complains at the end would wait for its lock.
        Self::to(File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let (done, written) = sync_channel(1);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let of_thread = Arc::clone(&tally);
        let body = move || {
            write_out(out, &lines, &of_thread);
            let _ = done.try_send(());
        };
        std::thread::Builder::new().name("tare-log".into()).spawn(body)?;
        let start = Instant::now();
        let entry = Entry { queue, tally, start };
        Ok(Self { entry, written })
    }

    pub(crate) fn entry(&self) -> Entry {
        self.entry.clone()
    }

    /// Waits for a moment until all is written, once every other [`Entry`] is gone.
    pub(crate) fn finish(self) {
        drop(self.entry);
        let _ = self.written.recv_timeout(LAST_WORDS);
    }
}

impl Entry {
    /// Takes a line. It never waits for a reader of stderr.
    pub(crate) fn line(&self, kind: &'static str, line: &str) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        if tally.shows(kind, line, self.start.elapsed())
            && self.queue.try_send(line.to_owned()).is_err()
        {
            tally.lost += 1;
        }
    }
}

fn write_out(mut out: impl Write, lines: &Receiver<String>, tally: &Mutex<Tally>) {
    let mut write = |line: &str| {
        // A closed stderr changes nothing.
        let _ = out.write_all(format!("tare: {}\n", visible(line)).as_bytes());
    };
    let mut summed_at = Instant::now();
    loop {
        let received = lines.recv_timeout(EVERY);
        let ended = received == Err(RecvTimeoutError::Disconnected);
        received.iter().for_each(|line| write(line));
        if ended || summed_at.elapsed() >= EVERY {
            summed_at = Instant::now();
            let sums = tally.lock().unwrap_or_else(PoisonError::into_inner).sums();
            sums.iter().for_each(|line| write(line));
        }
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn lines_of_a_kind_are_shown_then_counted() {
        let mut tally = Tally::default();
        let mut now = Duration::ZERO;
        let mut shown = 0;
        for n in 0..10_000 {
            now += Duration::from_micros(100);
            shown += u32::from(tally.shows("stranger", &format!("line {n}"), now));
        }
        assert_eq!(shown, SHOWN);
        assert!(tally.shows("other", "of another kind", now));
        assert_eq!(tally.sums(), ["9992 more such lines, the last: line 9999".to_owned()]);
        assert!(tally.sums().is_empty());
        // The storm goes on, and is told once a second; after a pause lines are shown again.
        assert!(!tally.shows("stranger", "line", now + SECOND / 2));
        assert_eq!(tally.sums(), ["line"]);
        assert!(tally.shows("stranger", "line", now + 2 * SECOND));
    }

    /// A pipe that nobody reads and that is full.
    struct Stuck;

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            loop {
                std::thread::park();
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up() {
        const KINDS: [&str; 5] = ["a", "b", "c", "d", "e"];
        let log = Log::to(Stuck).unwrap();
        let entry = log.entry();
        for n in 0..50_000 {
            entry.line(KINDS[n % 5], "a line");
        }
        let tally = entry.tally.lock().unwrap();
        let counted: u64 = tally.kinds.values().map(|kind| kind.more).sum();
        // Each line was offered to the queue or counted.
        assert_eq!(counted + 5 * u64::from(SHOWN), 50_000);
        drop(tally);
        drop(entry);
        log.finish();
    }
}
