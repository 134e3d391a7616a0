//! What one worker records into during the measured phase.

use std::borrow::Cow;

use super::bins::{self, Rows};
use super::{Distribution, LENGTH_MAX, SameBin};
use crate::number::real;
use hdrhistogram::Histogram;
use tare_units::limits::{BLOCKS, INTERVALS_MAX};
use tare_units::{Instant, Nanos};

/// Significant figures of an entry of the series.
const FIGURES: u8 = 2;
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

#[derive(Debug, Clone)]
struct MetricSamples {
    distribution: Distribution,
    blocks: Rows,
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
    max: Nanos,
}

impl Counts {
    fn merge(&mut self, other: Self) {
        self.completed += other.completed;
        self.errors += other.errors;
        self.max = self.max.max(other.max);
    }
}

/// An entry of the series: a view of a recording, or one of its own that is filled again and again
/// while a run goes on, so that copying allocates nothing.
#[derive(Debug, Clone)]
pub struct SeriesEntry<'a> {
    /// Which entry of the series it is, from zero.
    pub index: usize,
    /// Its end, from the start of the measured phase.
    pub end: Nanos,
    /// Operations answered as expected in it, whenever they were due.
    pub completed: u64,
    /// Operations failed in it.
    pub errors: u64,
    /// The longest headline latency in it, exact.
    pub max: Nanos,
    bins: Cow<'a, [u32]>,
}

/// An entry that is copied out of a recording, and merged over workers.
pub type LiveEntry = SeriesEntry<'static>;

impl Default for LiveEntry {
    fn default() -> Self {
        let bins = Cow::Owned(vec![0; bins::BINS]);
        Self { index: 0, end: Nanos::ZERO, completed: 0, errors: 0, max: Nanos::ZERO, bins }
    }
}

impl SeriesEntry<'_> {
    /// Its headline latencies as base64 of the HdrHistogram V2 compressed encoding, to 2 figures;
    /// absent where it has none.
    pub fn encode(&self) -> Option<String> {
        let mut lengths: Histogram<u64> = Histogram::new_with_bounds(1, LENGTH_MAX.0, FIGURES)
            .expect("the bounds are constants that a test creates");
        for (bin, &count) in self.bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            lengths.saturating_record_n(bins::end(bin).min(self.max.0), count.into());
        }
        (!lengths.is_empty()).then(|| super::encode(&lengths))
    }

    /// The quantile of the headline latency (response in open loop, service otherwise), to 2
    /// figures, where at least [`super::BEYOND_MIN`] samples lie beyond it.
    pub fn quantile(&self, percent: f64) -> Option<Nanos> {
        let counts = || self.bins.iter().map(|&count| u64::from(count));
        let end = bins::end_of_rank(counts(), super::rank(counts().sum(), percent)?)?;
        Some(Nanos(end.min(self.max.0)))
    }

    /// Adds the same entry of another worker.
    pub fn merge(&mut self, other: &Self) {
        self.completed += other.completed;
        self.errors += other.errors;
        self.max = self.max.max(other.max);
        for (mine, theirs) in self.bins.to_mut().iter_mut().zip(other.bins.iter()) {
            *mine += theirs;
        }
    }
}

/// What one worker records in the measured phase: each metric's distribution with [`BLOCKS`]
/// blocks, and the series over time. All memory is allocated and touched when it is made; recording
/// allocates nothing and reads no clock. Instants that are handed in are those of the turn.
///
/// A worker has 6 MB of distributions in open loop, else 4; each entry of the series takes 18 KB
/// more. An operation with its residence costs 16 ns to record in closed loop and 25 ns in open
/// loop (2-core VM, `benches/micro.rs`).
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
    /// Replies whose server says that it held them for longer than they took: that is left out.
    pub impossible_residences: u64,
    /// Arrivals that were never sent and were too many to be visited one by one: each is counted as
    /// overdue as it would be if those between two that are known were evenly spread.
    pub spread_unsent: u64,
}

impl Recording {
    /// An empty recording.
    pub fn new(spec: RecordingSpec) -> Self {
        let asked = spec.interval.0.max(1);
        let (length, interval, entries) = match spec.extent {
            Extent::Time(length) => {
                // Too many entries: as many of them as it takes are taken together.
                let together = length.0.div_ceil(asked).div_ceil(SERIES_MAX as u64).max(1);
                let interval = asked.saturating_mul(together);
                let entries = usize::try_from(length.0.div_ceil(interval).max(1));
                (length.0, interval, entries.map_or(SERIES_MAX, |n| n.min(SERIES_MAX)))
            }
            Extent::Count(operations) => (operations, asked, SERIES_OPEN_ENDED),
        };
        Self {
            spec: RecordingSpec { interval: Nanos(interval), ..spec },
            t0: Instant::default(),
            recorded: 0,
            blocks: Sections::new(length.div_ceil(BLOCKS as u64), BLOCKS),
            intervals: Sections::new(interval, entries),
            samples: METRICS.map(|metric| {
                let on_schedule = matches!(metric, Metric::Response | Metric::Lateness);
                let known_in_full = matches!(metric, Metric::Residence | Metric::Path);
                (spec.open_loop || !on_schedule).then(|| MetricSamples {
                    distribution: match known_in_full {
                        true => Distribution::uncensored(),
                        false => Distribution::new(),
                    },
                    blocks: Rows::new(BLOCKS),
                })
            }),
            series: Rows::new(entries),
            series_counts: vec![Counts::default(); entries].into_boxed_slice(),
            series_used: 0,
            impossible_residences: 0,
            spread_unsent: 0,
        }
    }

    /// The measured phase begins at `t0`, the same for all workers, and nothing was recorded yet.
    pub fn begin(&mut self, t0: Instant) {
        debug_assert!(self.recorded == 0 && self.series_used == 0);
        self.t0 = t0;
    }

    /// An operation of the measured phase was answered as expected, at `at`.
    #[inline]
    pub fn record(&mut self, at: Instant, sample: Sample) {
        self.latencies(at, sample, false);
    }

    /// An operation was answered as expected at `at`, whenever it was due.
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

    /// Operations were due `overdue` before `at` and are never sent: dropped as too late, or unsent
    /// at the end. Their lateness and response time are at least that.
    pub fn record_unsent(&mut self, at: Instant, overdue: &SameBin) {
        let bin = bins::index(overdue.longest.0);
        let late = [Metric::Lateness, Metric::Response];
        for metric in late {
            if let Some(samples) = &mut self.samples[metric as usize] {
                samples.distribution.record_censored_together(overdue);
            }
        }
        let mut left = overdue.count;
        while left > 0 {
            let block = self.block_of_moment(at);
            let count = match self.spec.extent {
                Extent::Time(_) => left,
                // Whatever is recorded beyond the count belongs to the last block.
                Extent::Count(_) => left.min(self.blocks.end.saturating_sub(self.recorded).max(1)),
            };
            for metric in late {
                if let Some(samples) = &mut self.samples[metric as usize] {
                    samples.blocks.record(block, bin, count);
                }
            }
            self.recorded += count;
            left -= count;
        }
        self.headline(at, bin, overdue.count, overdue.longest);
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
    pub fn distribution(&self, metric: Metric) -> Option<&Distribution> {
        self.samples[metric as usize].as_ref().map(|m| &m.distribution)
    }

    /// The metric that heads the report and the series: response in open loop, service otherwise.
    pub const fn headline_metric(&self) -> Metric {
        if self.spec.open_loop { Metric::Response } else { Metric::Service }
    }

    /// For each block with samples of `metric`: how many, and how many of them are no longer than
    /// the edge of a coarse bin: that at which the share of all samples below is nearest to
    /// `share`. Empty where no edge parts the samples.
    pub fn block_counts(&self, metric: Metric, share: f64) -> Vec<(u64, u64)> {
        let Some(samples) = &self.samples[metric as usize] else { return Vec::new() };
        let rows = || (0..BLOCKS).map(|block| samples.blocks.row(block));
        let sums: Vec<u64> =
            (0..bins::BINS).map(|bin| rows().map(|row| u64::from(row[bin])).sum()).collect();
        let total: u64 = sums.iter().sum();
        let (mut below, mut best) = (0, None);
        for (bin, sum) in sums.iter().enumerate() {
            below += sum;
            let distance = (real(below) / real(total) - share).abs();
            if below > 0 && below < total && best.is_none_or(|(least, _)| distance < least) {
                best = Some((distance, bin));
            }
        }
        let Some((_, edge)) = best else { return Vec::new() };
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
            let Counts { completed, errors, max } = self.series_counts[index];
            let end = Nanos((index as u64 + 1).saturating_mul(interval));
            let end = if index + 1 == entries { duration } else { end.min(duration) };
            let bins = Cow::Borrowed(self.series.row(index));
            SeriesEntry { index, end, completed, errors, max, bins }
        })
    }

    /// Copies entry `index` of the series, which must be one that the series has, into `entry`.
    pub fn copy_entry(&self, index: usize, entry: &mut LiveEntry) {
        let index = index.min(self.series_counts.len() - 1);
        entry.index = index;
        entry.end = Nanos((index as u64 + 1).saturating_mul(self.spec.interval.0));
        let counts = self.series_counts[index];
        (entry.completed, entry.errors, entry.max) = (counts.completed, counts.errors, counts.max);
        entry.bins.to_mut().copy_from_slice(self.series.row(index));
    }

    /// Entries that the series has room for; what comes later is counted in the last.
    pub const fn entries(&self) -> usize {
        self.series_counts.len()
    }

    /// Length of an entry of the series: as asked, or a multiple where a run would have too many.
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
                return self.headline(at, bin, 1, head);
            }
            self.put(Metric::Residence, block, residence, false);
            self.put(Metric::Path, block, sample.service - residence, false);
        }
        self.headline(at, bin, 1, head);
    }

    /// Returns the coarse bin of the length.
    #[inline]
    fn put(&mut self, metric: Metric, block: usize, length: Nanos, censored: bool) -> u16 {
        let bin = bins::index(length.0);
        if let Some(samples) = &mut self.samples[metric as usize] {
            if censored {
                samples.distribution.record_censored(length);
            } else {
                samples.distribution.record(length);
            }
            samples.blocks.record(block, bin, 1);
        }
        bin
    }

    #[inline]
    fn block(&mut self, at: Instant) -> usize {
        let block = self.block_of_moment(at);
        self.recorded += 1;
        block
    }

    /// The block of something that is no operation of its own.
    #[inline]
    fn block_of_moment(&mut self, at: Instant) -> usize {
        self.blocks.at(match self.spec.extent {
            Extent::Time(_) => at.since(self.t0).0,
            Extent::Count(_) => self.recorded,
        })
    }

    #[inline]
    fn entry(&mut self, at: Instant) -> usize {
        let entry = self.intervals.at(at.since(self.t0).0);
        self.series_used = self.series_used.max(entry + 1);
        entry
    }

    #[inline]
    fn headline(&mut self, at: Instant, bin: u16, samples: u64, longest: Nanos) {
        let entry = self.entry(at);
        self.series.record(entry, bin, samples);
        let counts = &mut self.series_counts[entry];
        counts.max = counts.max.max(longest);
    }
}

#[cfg(test)]
mod tests;
