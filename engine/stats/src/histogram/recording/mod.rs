//! What one worker records into during the measured phase.

use super::bins::{self, Rows};
use super::{Distribution, SameBin};
use tare_units::limits::{BLOCKS, INTERVALS_MAX};
use tare_units::{Instant, Nanos};

/// Entries of the series of a run whose length is not known beforehand. What comes later than they
/// reach is counted in the last one.
const SERIES_OPEN_ENDED: usize = 256;
/// Entries of the series that are kept apart (16 MB a worker); a run that would have more gets
/// longer ones.
const SERIES_MAX: usize = 900;

const _: () = assert!(SERIES_MAX <= INTERVALS_MAX && SERIES_OPEN_ENDED <= SERIES_MAX);
// A worker's distributions and blocks, in all metrics, stay below 16 MiB.
const _: () = assert!(METRICS.len() * (BLOCKS * bins::BINS * 4 + 2 * 34 * 1024 * 8) < 16 << 20);

/// Which latency a sample measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// From the actual send to the reply.
    Service,
    /// From the intended send to the reply; open loop only.
    Response,
    /// From the intended send to the actual one; open loop only.
    Lateness,
    /// Establishing a TCP connection.
    Connect,
    /// The server's share: from its receive to its send.
    Residence,
    /// Service less residence, request by request.
    Path,
}

/// All metrics, in the order of their numbers.
const METRICS: [Metric; 6] = [
    Metric::Service,
    Metric::Response,
    Metric::Lateness,
    Metric::Connect,
    Metric::Residence,
    Metric::Path,
];

/// How long the measured phase is: what its blocks are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// That long; blocks are cut by time.
    Time(Nanos),
    /// That many operations on this worker; blocks are cut by count.
    Count(u64),
}

/// What a worker is going to record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordingSpec {
    /// The measured phase.
    pub extent: Extent,
    /// Length of an entry of the series.
    pub interval: Nanos,
    /// Whether sends are on a schedule, so that there are response times and latenesses.
    pub open_loop: bool,
}

/// The lengths of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// From the actual send to the reply.
    pub service: Nanos,
    /// Actual send after intended send; open loop only. The response time is service plus lateness.
    pub lateness: Option<Nanos>,
    /// The server's share, where the reply told it.
    pub residence: Option<Nanos>,
}

/// The distribution of one metric, and beside it the same lengths coarsely by block.
#[derive(Debug, Clone)]
struct MetricSamples {
    distribution: Distribution,
    blocks: Rows,
}

impl MetricSamples {
    fn new(metric: Metric) -> Self {
        Self {
            distribution: match metric {
                Metric::Residence | Metric::Path => Distribution::uncensored(),
                _ => Distribution::new(),
            },
            blocks: Rows::new(BLOCKS),
        }
    }

    /// Records and returns the coarse bin.
    #[inline]
    fn record(&mut self, block: usize, length: Nanos, censored: bool) -> u16 {
        if censored {
            self.distribution.record_censored(length);
        } else {
            self.distribution.record(length);
        }
        let bin = bins::index(length.0);
        self.blocks.record(block, bin);
        bin
    }
}

/// Which of equally wide sections a position lies in. Positions come in order, so a division is
/// needed only when a section ends.
#[derive(Debug, Clone)]
struct Sections {
    width: u64,
    last: usize,
    index: usize,
    start: u64,
    end: u64,
}

impl Sections {
    fn new(width: u64, sections: usize) -> Self {
        let mut this = Self { width: width.max(1), last: sections - 1, index: 0, start: 0, end: 0 };
        this.seek(0);
        this
    }

    #[inline]
    fn at(&mut self, position: u64) -> usize {
        if position < self.start || position >= self.end {
            self.seek(position);
        }
        self.index
    }

    #[cold]
    fn seek(&mut self, position: u64) {
        self.index = usize::try_from(position / self.width).map_or(self.last, |i| i.min(self.last));
        self.start = self.index as u64 * self.width;
        // What comes after the end (an operation of the measured phase that completes while
        // draining) belongs to the last section.
        self.end = if self.index == self.last { u64::MAX } else { self.start + self.width };
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    completed: u64,
    errors: u64,
    max_ns: u64,
}

impl Counts {
    fn merge(&mut self, other: Self) {
        self.completed += other.completed;
        self.errors += other.errors;
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

/// An entry of the series, merged over workers: a view.
#[derive(Debug, Clone, Copy)]
pub struct SeriesEntry<'a> {
    /// Its end, from the start of the measured phase.
    pub end: Nanos,
    /// Operations answered as expected in it, whenever they were due.
    pub completed: u64,
    /// Operations failed in it.
    pub errors: u64,
    /// The longest headline latency in it, exact.
    pub max: Nanos,
    counts: &'a [u32],
}

impl SeriesEntry<'_> {
    /// Its headline latencies as base64 of the HdrHistogram V2 compressed encoding, to 2 figures;
    /// absent where it has none.
    #[must_use]
    pub fn encode(&self) -> Option<String> {
        let counts = || self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counts().next()?;
        let lengths = counts().map(|(bin, &count)| {
            let length = bins::end(bin).min(self.max.0);
            (length, u64::from(count))
        });
        Some(super::encode_coarse(lengths))
    }

    /// The quantile of the headline latency (response in open loop, service otherwise), to 2
    /// figures, where at least [`super::BEYOND_MIN`] samples lie beyond it.
    #[must_use]
    pub fn quantile(&self, percent: f64) -> Option<Nanos> {
        let total = self.counts.iter().map(|&c| u64::from(c)).sum();
        let rank = super::rank(total, percent)?;
        let mut below = 0;
        self.counts.iter().enumerate().find_map(|(bin, &count)| {
            below += u64::from(count);
            (below >= rank).then(|| Nanos(bins::end(bin).min(self.max.0)))
        })
    }
}

/// An entry of the series, copied out while the run goes on. Made before the run and filled again
/// and again, so that copying allocates nothing.
#[derive(Debug, Clone)]
pub struct LiveEntry {
    index: usize,
    end: Nanos,
    counts: Counts,
    bins: Box<[u32]>,
}

impl Default for LiveEntry {
    fn default() -> Self {
        let bins = vec![0; bins::BINS].into_boxed_slice();
        Self { index: 0, end: Nanos::ZERO, counts: Counts::default(), bins }
    }
}

impl LiveEntry {
    /// Which entry of the series it is, from zero.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Adds the same entry of another worker.
    pub fn merge(&mut self, other: &Self) {
        self.counts.merge(other.counts);
        for (mine, theirs) in self.bins.iter_mut().zip(&other.bins) {
            *mine += theirs;
        }
    }

    /// The entry.
    #[must_use]
    pub fn view(&self) -> SeriesEntry<'_> {
        SeriesEntry {
            end: self.end,
            completed: self.counts.completed,
            errors: self.counts.errors,
            max: Nanos(self.counts.max_ns),
            counts: &self.bins,
        }
    }
}

/// What one worker records in the measured phase: each metric's distribution with [`BLOCKS`]
/// blocks, and the series over time. All memory is allocated and touched when it is made; recording
/// allocates nothing and reads no clock. Instants that are handed in are those of the turn.
///
/// A worker has 6 MB of distributions in open loop, else 4; each entry of the series takes 18 KB
/// more. An operation with its residence costs 16 ns to record in closed loop and 25 ns in open
/// loop (2-core VM, `recording_cost`).
#[derive(Debug, Clone)]
pub struct Recording {
    spec: RecordingSpec,
    t0: Instant,
    recorded: u64,
    blocks: Sections,
    intervals: Sections,
    samples: [Option<MetricSamples>; METRICS.len()],
    series: Rows,
    series_counts: Box<[Counts]>,
    /// Entries of the series that were reached.
    series_used: usize,
    /// Residence times beyond the whole round trip, which were not recorded.
    impossible_residences: u64,
    /// Arrivals that were not sent and were recorded evenly spread: there were too many to visit.
    spread_unsent: u64,
}

impl Recording {
    /// Replies whose server says that it held them for longer than they took in all: that is left
    /// out.
    #[must_use]
    pub const fn impossible_residences(&self) -> u64 {
        self.impossible_residences
    }

    /// Arrivals that were never sent and were too many to be visited one by one: all of them are
    /// counted, each as overdue as it would be if those between two that are known were evenly
    /// spread.
    #[must_use]
    pub const fn spread_unsent(&self) -> u64 {
        self.spread_unsent
    }

    /// Notes that so many of what [`Recording::record_unsent`] was given were spread.
    pub const fn count_spread_unsent(&mut self, count: u64) {
        self.spread_unsent += count;
    }

    /// An empty recording.
    #[must_use]
    pub fn new(spec: RecordingSpec) -> Self {
        let block_width = match spec.extent {
            Extent::Time(length) => length.0,
            Extent::Count(operations) => operations,
        }
        .div_ceil(BLOCKS as u64);
        let asked = spec.interval.0.max(1);
        let (interval, entries) = match spec.extent {
            Extent::Time(length) => {
                // Too many entries: as many of them as it takes are taken together.
                let together = length.0.div_ceil(asked).div_ceil(SERIES_MAX as u64).max(1);
                let interval = asked.saturating_mul(together);
                let entries = length.0.div_ceil(interval).max(1);
                (interval, usize::try_from(entries).map_or(SERIES_MAX, |n| n.min(SERIES_MAX)))
            }
            Extent::Count(_) => (asked, SERIES_OPEN_ENDED),
        };
        Self {
            spec: RecordingSpec { interval: Nanos(interval), ..spec },
            t0: Instant::default(),
            recorded: 0,
            blocks: Sections::new(block_width, BLOCKS),
            intervals: Sections::new(interval, entries),
            samples: METRICS.map(|metric| {
                let on_schedule = matches!(metric, Metric::Response | Metric::Lateness);
                (spec.open_loop || !on_schedule).then(|| MetricSamples::new(metric))
            }),
            series: Rows::new(entries),
            series_counts: vec![Counts::default(); entries].into_boxed_slice(),
            series_used: 0,
            impossible_residences: 0,
            spread_unsent: 0,
        }
    }

    /// The measured phase begins at `t0`, the same for all workers. Nothing may have been recorded
    /// yet.
    pub fn begin(&mut self, t0: Instant) {
        debug_assert!(self.recorded == 0 && self.series_used == 0);
        self.t0 = t0;
    }

    /// An operation of the measured phase was answered as expected, at `at`.
    #[inline]
    pub fn record(&mut self, at: Instant, sample: Sample) {
        self.latencies(at, sample, false);
    }

    /// An operation was answered as expected within the measured phase, at `at`, whenever it was
    /// due.
    #[inline]
    pub fn count_answer(&mut self, at: Instant) {
        let entry = self.entry(at);
        self.series_counts[entry].completed += 1;
    }

    /// An operation was sent and had no answer until `at`: it timed out, or is in flight at the
    /// end. Its service and response times are at least what `sample` says; its lateness is known.
    /// The caller counts it as an error, if it is one, with [`Recording::record_error`].
    pub fn record_censored(&mut self, at: Instant, sample: Sample) {
        self.latencies(at, Sample { residence: None, ..sample }, true);
    }

    /// Operations were due `overdue` before `at` and are not going to be sent: dropped as too late,
    /// or unsent at the end. Their lateness and response time are at least that.
    pub fn record_unsent(&mut self, at: Instant, overdue: &SameBin) {
        let bin = bins::index(overdue.longest.0);
        for metric in [Metric::Lateness, Metric::Response] {
            if let Some(samples) = &mut self.samples[metric as usize] {
                samples.distribution.record_censored_together(overdue);
            }
        }
        let mut left = overdue.count;
        while left > 0 {
            let (block, room) = self.block_with_room(at);
            let count = left.min(room);
            for metric in [Metric::Lateness, Metric::Response] {
                if let Some(samples) = &mut self.samples[metric as usize] {
                    samples.blocks.record_n(block, bin, count);
                }
            }
            self.recorded += count;
            left -= count;
        }
        let entry = self.entry(at);
        self.series.record_n(entry, bin, overdue.count);
        let counts = &mut self.series_counts[entry];
        counts.max_ns = counts.max_ns.max(overdue.longest.0);
    }

    /// A connection was established at `at`, in `length`.
    pub fn record_connect(&mut self, at: Instant, length: Nanos) {
        let block = self.block_of_moment(at);
        self.put(Metric::Connect, block, length, false);
    }

    /// A connection was given up at `at`, after `length`.
    pub fn record_connect_censored(&mut self, at: Instant, length: Nanos) {
        let block = self.block_of_moment(at);
        self.put(Metric::Connect, block, length, true);
    }

    /// Something failed at `at`.
    pub fn record_error(&mut self, at: Instant) {
        let entry = self.entry(at);
        self.series_counts[entry].errors += 1;
    }

    /// Adds residence times that the server told in one histogram, since the messages were too
    /// short to carry them. They are in no block, and no path can be told from them.
    pub fn merge_residence(&mut self, residence: &Distribution) {
        if let Some(samples) = &mut self.samples[Metric::Residence as usize] {
            samples.distribution.merge(residence);
        }
    }

    /// Adds what another worker of the same step recorded, block by block.
    ///
    /// # Panics
    /// When the other's intervals or loop differ.
    pub fn merge(&mut self, other: &Self) {
        assert!(
            self.spec.interval == other.spec.interval
                && self.spec.open_loop == other.spec.open_loop
                && self.series_counts.len() == other.series_counts.len(),
            "the workers of a step record alike"
        );
        for (mine, theirs) in self.samples.iter_mut().zip(&other.samples) {
            if let (Some(mine), Some(theirs)) = (mine, theirs) {
                mine.distribution.merge(&theirs.distribution);
                mine.blocks.merge(&theirs.blocks);
            }
        }
        self.recorded += other.recorded;
        self.impossible_residences += other.impossible_residences;
        self.spread_unsent += other.spread_unsent;
        self.series.merge(&other.series);
        for (mine, theirs) in self.series_counts.iter_mut().zip(&other.series_counts) {
            mine.merge(*theirs);
        }
        self.series_used = self.series_used.max(other.series_used);
    }

    /// The distribution of a metric, unless this loop has none.
    #[must_use]
    pub fn distribution(&self, metric: Metric) -> Option<&Distribution> {
        self.samples[metric as usize].as_ref().map(|m| &m.distribution)
    }

    /// The metric that heads the report and the series: response in open loop, service otherwise.
    #[must_use]
    pub const fn headline_metric(&self) -> Metric {
        if self.spec.open_loop { Metric::Response } else { Metric::Service }
    }

    /// For each block with samples of `metric`: how many, and how many of them are no longer than
    /// the edge of a coarse bin. The edge is taken where the share of samples below it, over all
    /// blocks, is nearest to `share`; empty where no edge parts the samples.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "shares need no more than 2^52 samples")]
    pub fn block_counts(&self, metric: Metric, share: f64) -> Vec<(u64, u64)> {
        let Some(samples) = &self.samples[metric as usize] else {
            return Vec::new();
        };
        let rows = || (0..BLOCKS).map(|block| samples.blocks.row(block));
        let sums: Vec<u64> =
            (0..bins::BINS).map(|bin| rows().map(|row| u64::from(row[bin])).sum()).collect();
        let total: u64 = sums.iter().sum();
        let (mut below, mut best) = (0, None);
        for (bin, sum) in sums.iter().enumerate() {
            below += sum;
            let distance = (below as f64 / total as f64 - share).abs();
            if below > 0 && below < total && best.is_none_or(|(least, _)| distance < least) {
                best = Some((distance, bin));
            }
        }
        let Some((_, edge)) = best else {
            return Vec::new();
        };
        let sum = |counts: &[u32]| counts.iter().map(|&c| u64::from(c)).sum::<u64>();
        rows().map(|row| (sum(row), sum(&row[..=edge]))).filter(|(count, _)| *count > 0).collect()
    }

    /// The series over time of a measured phase that took `duration`. Entries in which nothing
    /// happened are there, too: a stall shows.
    pub fn series(&self, duration: Nanos) -> impl Iterator<Item = SeriesEntry<'_>> {
        let interval = self.spec.interval.0;
        let entries = self.series_counts.len();
        let reached = usize::try_from(duration.0.div_ceil(interval))
            .map_or(entries, |n| n.clamp(self.series_used, entries));
        (0..reached).map(move |index| {
            let counts = self.series_counts[index];
            let end = (index as u64 + 1).saturating_mul(interval);
            SeriesEntry {
                end: if index + 1 == entries { duration } else { Nanos(end.min(duration.0)) },
                completed: counts.completed,
                errors: counts.errors,
                max: Nanos(counts.max_ns),
                counts: self.series.row(index),
            }
        })
    }

    /// Copies entry `index` of the series, which must be one that the series has, into `entry`.
    pub fn copy_entry(&self, index: usize, entry: &mut LiveEntry) {
        let index = index.min(self.series_counts.len() - 1);
        entry.index = index;
        entry.end = Nanos((index as u64 + 1).saturating_mul(self.spec.interval.0));
        entry.counts = self.series_counts[index];
        entry.bins.copy_from_slice(self.series.row(index));
    }

    /// Entries that the series has room for; what comes later is counted in the last.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.series_counts.len()
    }

    /// Length of an entry of the series: as asked, or a multiple where a run would have too many.
    #[must_use]
    pub const fn interval(&self) -> Nanos {
        self.spec.interval
    }

    #[inline]
    fn latencies(&mut self, at: Instant, sample: Sample, censored: bool) {
        let block = self.block(at);
        let mut head = sample.service;
        let mut bin = self.put(Metric::Service, block, sample.service, censored);
        if let Some(lateness) = sample.lateness {
            self.put(Metric::Lateness, block, lateness, false);
            head = sample.service + lateness;
            bin = self.put(Metric::Response, block, head, censored);
        }
        if let Some(residence) = sample.residence {
            // Two machines' clocks may differ by a thousandth, and the shorter the path is the more
            // that shows.
            if residence > sample.service + Nanos(sample.service.0 / 1_000 + 1_000) {
                self.impossible_residences += 1;
                return self.headline(at, bin, head);
            }
            self.put(Metric::Residence, block, residence, false);
            self.put(Metric::Path, block, sample.service - residence, false);
        }
        self.headline(at, bin, head);
    }

    #[inline]
    fn put(&mut self, metric: Metric, block: usize, length: Nanos, censored: bool) -> u16 {
        match &mut self.samples[metric as usize] {
            Some(samples) => samples.record(block, length, censored),
            None => bins::index(length.0),
        }
    }

    /// The block of the next operation.
    #[inline]
    fn block(&mut self, at: Instant) -> usize {
        let position = match self.spec.extent {
            Extent::Time(_) => at.since(self.t0).0,
            Extent::Count(_) => self.recorded,
        };
        self.recorded += 1;
        self.blocks.at(position)
    }

    /// The block of the next operation, and how many find room in it.
    fn block_with_room(&mut self, at: Instant) -> (usize, u64) {
        match self.spec.extent {
            Extent::Time(_) => (self.blocks.at(at.since(self.t0).0), u64::MAX),
            Extent::Count(_) => {
                let block = self.blocks.at(self.recorded);
                // Whatever is recorded beyond the count belongs to the last block.
                (block, self.blocks.end.saturating_sub(self.recorded).max(1))
            }
        }
    }

    /// The block of something that is no operation of its own.
    fn block_of_moment(&mut self, at: Instant) -> usize {
        match self.spec.extent {
            Extent::Time(_) => self.blocks.at(at.since(self.t0).0),
            Extent::Count(_) => self.blocks.at(self.recorded),
        }
    }

    #[inline]
    fn entry(&mut self, at: Instant) -> usize {
        let entry = self.intervals.at(at.since(self.t0).0);
        self.series_used = self.series_used.max(entry + 1);
        entry
    }

    #[inline]
    fn headline(&mut self, at: Instant, bin: u16, length: Nanos) {
        let entry = self.entry(at);
        self.series.record(entry, bin);
        let counts = &mut self.series_counts[entry];
        counts.max_ns = counts.max_ns.max(length.0);
    }
}

#[cfg(test)]
mod tests;
