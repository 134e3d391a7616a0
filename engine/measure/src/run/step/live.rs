//! What a worker shows while it runs, and how the launching thread hears of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::utils::CachePadded;

use crate::run::observe::Observer;
use crate::worker::ProgressSink;
use tare_host::usage::{CpuTimes, RunQueue};
use tare_stats::histogram::{LiveEntry, Recording};
use tare_stats::result::Params;
use tare_stats::summary;
use tare_units::control::Phase;

/// Entries of the series that may be on their way to the launching thread, per worker.
const SPARE_ENTRIES: usize = 16;

/// Numbers that a worker shows while it runs: only it writes them.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(super) phase: AtomicU8,
    pub(super) completed: AtomicU64,
    pub(super) errors: AtomicU64,
    responses: AtomicU64,
}

pub(crate) type LiveCounters = Arc<[CachePadded<Live>]>;

/// By which the last worker to end its measured phase wakes the launching thread.
#[derive(Debug, Clone)]
pub(super) struct AllDone {
    left: Arc<AtomicUsize>,
    tell: Sender<()>,
}

impl AllDone {
    /// Of so many workers; what the launching thread waits on never disconnects before all of them
    /// are gone.
    pub(super) fn new(workers: usize) -> (Self, Receiver<()>) {
        let (tell, is_over) = bounded(1);
        let left = Arc::new(AtomicUsize::new(workers));
        (Self { left, tell }, is_over)
    }

    fn one_ends(&self) {
        // Each worker ends its measured phase once.
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let _ = self.tell.try_send(());
        }
    }
}

#[derive(Debug)]
pub(crate) struct LiveProgress {
    /// Those of all workers of the step, and which is its own.
    lives: LiveCounters,
    own: usize,
    stream: Option<Stream>,
    over: AllDone,
    queue: RunQueue,
    before: CpuTimes,
    used: CpuTimes,
}

impl LiveProgress {
    pub(super) fn new(
        lives: LiveCounters,
        own: usize,
        stream: Option<Stream>,
        over: AllDone,
    ) -> Self {
        Self {
            queue: RunQueue::of_this_thread(),
            lives,
            own,
            stream,
            over,
            before: CpuTimes::default(),
            used: CpuTimes::default(),
        }
    }

    pub(super) const fn used(&self) -> CpuTimes {
        self.used
    }
}

/// By which a worker tells of the series while it runs: entries go round between the launching
/// thread and the workers, so that nothing is allocated.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    spare: Receiver<Box<LiveEntry>>,
    full: Sender<Box<LiveEntry>>,
}

impl ProgressSink for LiveProgress {
    fn phase(&mut self, phase: Phase) {
        self.lives[self.own].phase.store(phase as u8, Ordering::Relaxed);
    }

    #[inline]
    fn counts(&mut self, completed: u64, errors: u64) {
        let live = &self.lives[self.own];
        live.completed.store(completed, Ordering::Relaxed);
        live.errors.store(errors, Ordering::Relaxed);
    }

    #[inline]
    fn responses(&mut self, count: u64) {
        self.lives[self.own].responses.store(count, Ordering::Relaxed);
    }

    fn responses_elsewhere(&self) -> u64 {
        let all = self.lives.iter().enumerate();
        all.filter(|(worker, _)| *worker != self.own)
            .map(|(_, live)| live.responses.load(Ordering::Relaxed))
            .sum()
    }

    fn measure_begins(&mut self) {
        self.before = self.queue.usage();
    }

    fn measure_ends(&mut self) {
        self.used = self.queue.usage() - self.before;
        self.over.one_ends();
    }

    fn entry_ends(&mut self, recording: &Recording, index: usize) {
        // Without a spare one the launching thread is far behind: this line of the stream is left
        // out, and the entry stands in the result all the same.
        if let Some(stream) = &self.stream
            && let Ok(mut entry) = stream.spare.try_recv()
        {
            recording.copy_entry(index, &mut entry);
            let _ = stream.full.try_send(entry);
        }
    }
}

/// The launching thread's end of the streams: an entry is shown when every worker's is there.
pub(super) struct Merger {
    spare: Sender<Box<LiveEntry>>,
    full: Receiver<Box<LiveEntry>>,
    workers: usize,
    partly: BTreeMap<usize, (usize, LiveEntry)>,
    /// Entries up to here were shown, or left out for good.
    shown: usize,
}

impl Merger {
    pub(super) fn new(workers: usize) -> (Self, Stream) {
        let entries = workers * SPARE_ENTRIES;
        let (spare_tx, spare) = bounded(entries);
        let (full_tx, full) = bounded(entries);
        for _ in 0..entries {
            let _ = spare_tx.try_send(Box::default());
        }
        let merger = Self { spare: spare_tx, full, workers, partly: BTreeMap::new(), shown: 0 };
        (merger, Stream { spare, full: full_tx })
    }

    pub(super) fn show(&mut self, params: &Params, observer: &mut dyn Observer) {
        while let Ok(entry) = self.full.try_recv() {
            let index = entry.index;
            let (count, merged) = self.partly.entry(index).or_default();
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
                self.shown = self.shown.max(index + 1);
                observer.interval(params, &summary::interval(&merged));
            }
        }
    }

    /// Every worker has ended, by count not all of them in the same entry: the entries behind the
    /// last one that all came to are shown as they are. One before it lacks what a worker had no
    /// spare entry for.
    pub(super) fn finish(&mut self, params: &Params, observer: &mut dyn Observer) {
        self.show(params, observer);
        for (_, (_, entry)) in self.partly.split_off(&self.shown) {
            observer.interval(params, &summary::interval(&entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tare_stats::histogram::{Extent, RecordingSpec, Sample};
    use tare_stats::result::Interval;
    use tare_units::{Instant, Nanos};

    #[derive(Default)]
    struct Shown(Vec<(u64, u64)>);

    impl Observer for Shown {
        fn interval(&mut self, _: &Params, interval: &Interval) {
            self.0.push((interval.at_ns, interval.completed));
        }
    }

    /// A worker's series of 10 ms each, with one operation in every entry.
    fn series(entries: u64) -> Recording {
        let mut recording = Recording::new(RecordingSpec {
            extent: Extent::Time(Nanos::from_millis(10 * entries)),
            interval: Nanos::from_millis(10),
            open_loop: false,
        });
        recording.begin(Instant(0));
        for entry in 0..entries {
            let sample = Sample { service: Nanos(1_000), ..Sample::default() };
            recording.record(Instant(entry * 10_000_000 + 1), sample);
            recording.count_answer(Instant(entry * 10_000_000 + 1));
        }
        recording
    }

    #[test]
    fn the_last_worker_to_end_says_so_and_no_other() {
        let (over, is_over) = AllDone::new(2);
        over.one_ends();
        assert!(is_over.try_recv().is_err());
        over.one_ends();
        assert!(is_over.try_recv().is_ok());
        over.one_ends();
        assert!(is_over.try_recv().is_err());
    }

    #[test]
    fn a_worker_knows_how_many_responses_the_others_had() {
        let lives: LiveCounters = (0..3).map(|_| CachePadded::default()).collect();
        let worker = |own| LiveProgress::new(Arc::clone(&lives), own, None, AllDone::new(2).0);
        let mut workers = [worker(0), worker(1), worker(2)];
        for (worker, count) in workers.iter_mut().zip([1, 10, 100]) {
            worker.responses(count);
        }
        assert_eq!(workers.map(|worker| worker.responses_elsewhere()), [110, 101, 11]);
    }

    #[test]
    fn entries_that_only_some_workers_came_to_are_shown_in_the_end() {
        let (mut merger, stream) = Merger::new(2);
        let worker =
            |own| LiveProgress::new(Arc::default(), own, Some(stream.clone()), AllDone::new(2).0);
        let (mut short, mut long) = (worker(0), worker(1));
        let mut shown = Shown::default();
        for entry in 0..4 {
            if entry < 2 {
                short.entry_ends(&series(2), entry);
            }
            long.entry_ends(&series(4), entry);
            merger.show(&Params::default(), &mut shown);
        }
        let ms = |n: u64| n * 10_000_000;
        assert_eq!(shown.0, [(ms(1), 2), (ms(2), 2)]);
        merger.finish(&Params::default(), &mut shown);
        assert_eq!(shown.0[2..], [(ms(3), 1), (ms(4), 1)]);
    }
}
