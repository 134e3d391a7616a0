//! What a worker shows while it runs, and how the launching thread hears of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::utils::CachePadded;

use crate::analysis::summary;
use crate::histogram::{LiveEntry, Recording};
use crate::result::Params;
use crate::run::observe::{Observer, Phase};
use crate::sys::usage::{CpuTimes, thread_usage};
use crate::worker::bulk::BulkGauge;
use crate::worker::gauge::Gauge;

/// Entries of the series that may be on their way to the launching thread, per worker.
const SPARE_ENTRIES: usize = 16;

/// Numbers that a worker shows while it runs: only it writes them.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) phase: AtomicU8,
    pub(super) completed: AtomicU64,
    pub(super) errors: AtomicU64,
}

#[derive(Debug)]
pub(in crate::run) struct LiveGauge {
    live: Arc<CachePadded<Live>>,
    stream: Option<Stream>,
    before: CpuTimes,
    used: CpuTimes,
}

impl LiveGauge {
    pub(super) fn new(live: Arc<CachePadded<Live>>, stream: Option<Stream>) -> Self {
        Self {
            live,
            stream,
            before: CpuTimes::default(),
            used: CpuTimes::default(),
        }
    }

    /// What the thread used in the measured phase.
    pub(super) const fn used(&self) -> CpuTimes {
        self.used
    }
}

/// By which a worker tells of the series while it runs: entries go round between the launching thread and the
/// workers, so that nothing is allocated.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    spare: Receiver<Box<LiveEntry>>,
    full: Sender<Box<LiveEntry>>,
}

impl Gauge for LiveGauge {
    fn phase(&mut self, phase: Phase) {
        self.live.phase.store(phase as u8, Ordering::Relaxed);
    }

    #[inline]
    fn counts(&mut self, completed: u64, errors: u64) {
        self.live.completed.store(completed, Ordering::Relaxed);
        self.live.errors.store(errors, Ordering::Relaxed);
    }

    fn measure_begins(&mut self) {
        self.before = thread_usage();
    }

    fn measure_ends(&mut self) {
        self.used = thread_usage() - self.before;
    }

    fn entry_ends(&mut self, recording: &Recording, index: usize) {
        // Without a spare one the launching thread is far behind: this line of the stream is left out, and the
        // entry stands in the result all the same.
        if let Some(stream) = &self.stream
            && let Ok(mut entry) = stream.spare.try_recv()
        {
            recording.copy_entry(index, &mut entry);
            let _ = stream.full.try_send(entry);
        }
    }
}

impl BulkGauge for LiveGauge {
    fn phase(&mut self, phase: Phase) {
        Gauge::phase(self, phase);
    }

    #[inline]
    fn moved(&mut self, bytes: u64, errors: u64) {
        Gauge::counts(self, bytes, errors);
    }

    fn measure_begins(&mut self) {
        Gauge::measure_begins(self);
    }

    fn measure_ends(&mut self) {
        Gauge::measure_ends(self);
    }
}

/// The launching thread's end of the streams: an entry is told when every worker's is there.
pub(super) struct Merger {
    spare: Sender<Box<LiveEntry>>,
    full: Receiver<Box<LiveEntry>>,
    workers: usize,
    partly: BTreeMap<usize, (usize, LiveEntry)>,
}

impl Merger {
    pub(super) fn new(workers: usize) -> (Self, Stream) {
        let entries = workers * SPARE_ENTRIES;
        let (spare_tx, spare) = bounded(entries);
        let (full_tx, full) = bounded(entries);
        for _ in 0..entries {
            let _ = spare_tx.try_send(Box::default());
        }
        let merger = Self {
            spare: spare_tx,
            full,
            workers,
            partly: BTreeMap::new(),
        };
        (
            merger,
            Stream {
                spare,
                full: full_tx,
            },
        )
    }

    pub(super) fn tell(&mut self, params: &Params, observer: &mut dyn Observer) {
        while let Ok(entry) = self.full.try_recv() {
            let index = entry.index();
            let (count, merged) = self
                .partly
                .entry(index)
                .or_insert_with(|| (0, LiveEntry::default()));
            if *count == 0 {
                merged.clone_from(&entry);
            } else {
                merged.merge(&entry);
            }
            *count += 1;
            let _ = self.spare.try_send(entry);
            if *count == self.workers
                && let Some((_, merged)) = self.partly.remove(&index)
            {
                observer.interval(params, &summary::interval(&merged.view()));
            }
        }
    }
}
