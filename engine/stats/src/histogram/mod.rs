//! What was measured, as distributions: recorded without allocation, merged, never averaged.
//!
//! [`Distribution`] is an HdrHistogram with the exact figures beside it that its bins lose;
//! [`Recording`] is the set of distributions that one worker fills in the measured phase.
//!
//! # Censored samples
//!
//! An operation that timed out, was in flight at the end, or was due and never sent has no latency,
//! but it is known to have taken *at least* so long (right censoring). Leaving it out would flatter
//! the path exactly where it hurts. So it is recorded at the length it is known to have reached,
//! and remembered as censored.
//!
//! So a quantile read off the recorded lengths never exceeds the true one. It *equals* it, to the
//! width of a bin, if at least `r = ceil(q·n)` uncensored samples lie in its bin or below: then so
//! do `r` true lengths. Otherwise it *rests on* censored samples and is a lower bound, printed with
//! `≥`. This is exact and assumes nothing.
//!
//! The Kaplan–Meier estimator (1958) would instead spread the censored mass over the longer
//! samples. It assumes that censoring is independent of the length, but a timeout strikes the slow
//! requests alone: the assumption fails in the cases that matter, so no such correction is made.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use crate::number::{real, whole};
use tare_units::Nanos;
use tare_units::error::{Error, Result};
use tare_units::limits::DOCUMENT_MAX;

mod added;
mod bins;
mod recording;

pub use added::Added;
pub use bins::Coarse;
pub use recording::{Extent, LiveEntry, Metric, Recording, RecordingSpec, Sample, SeriesEntry};

/// The longest length that keeps its place in the histogram; longer ones are recorded as this long
/// there, while the exact maximum and mean keep them. 73 minutes: every range here ends at 2^42 ns.
pub const LENGTH_MAX: Nanos = Nanos((1 << 42) - 1);
const FIGURES: u8 = 3;
/// Lengths of so many bits have a bin of their own each: three figures need 2,000 of them.
const EXACT_BITS: u32 = 11;
const COARSE_FIGURES: u8 = 2;
/// More samples than any run has; up to here a double counts exactly.
const COUNT_MAX: u64 = 1 << 52;
/// Fewer samples than this beyond a quantile, and it is not told.
pub const BEYOND_MIN: u64 = 10;

/// A distribution of lengths, nanoseconds: 3 significant figures from 1 ns to [`LENGTH_MAX`], in
/// constant memory (540 KB, or half of it); count, minimum, maximum and sum are exact.
#[derive(Debug, Clone)]
pub struct Distribution {
    lengths: Histogram<u64>,
    /// Those among `lengths` that are only known to be at least so long.
    censored: Option<Box<Histogram<u64>>>,
    /// Of those known in full.
    min_ns: u64,
    max_ns: u64,
    sum_ns: u128,
    censored_min_ns: u64,
}

/// Lengths that lie in the same bin of a [`Distribution`], and so of every coarse row: they are
/// recorded together, as if one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SameBin {
    /// How many there are.
    pub count: u64,
    /// The shortest of them.
    pub shortest: Nanos,
    /// The longest of them.
    pub longest: Nanos,
    /// Their sum, nanoseconds.
    pub sum_ns: u128,
}

impl SameBin {
    /// One length alone.
    pub fn one(length: Nanos) -> Self {
        Self { count: 1, shortest: length, longest: length, sum_ns: length.0.into() }
    }
}

/// The shortest length in the bin of `length`. All that are beyond the range have the last bin.
pub fn bin_start(length: Nanos) -> Nanos {
    let ns = length.0.min(LENGTH_MAX.0);
    let shift = (64 - ns.leading_zeros()).saturating_sub(EXACT_BITS);
    Nanos(ns >> shift << shift)
}

/// A quantile read off a [`Distribution`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantile {
    /// The longest length of its bin, but no longer than the exact maximum, nanoseconds.
    pub value_ns: u64,
    /// It rests on censored samples: the true quantile is at least this.
    pub lower_bound: bool,
}

impl Default for Distribution {
    fn default() -> Self {
        Self::new()
    }
}

impl Distribution {
    /// An empty distribution. All its memory is allocated and touched here, so that recording takes
    /// neither an allocation nor a page fault.
    pub fn new() -> Self {
        Self { censored: Some(Box::new(touched_histogram())), ..Self::uncensored() }
    }

    /// An empty distribution of something that is always known in full, in half the memory. A
    /// censored sample is taken all the same; the first one allocates the other half.
    pub fn uncensored() -> Self {
        Self {
            lengths: touched_histogram(),
            censored: None,
            min_ns: u64::MAX,
            max_ns: 0,
            sum_ns: 0,
            censored_min_ns: u64::MAX,
        }
    }

    /// Records one length.
    #[inline]
    pub fn record(&mut self, length: Nanos) {
        self.min_ns = self.min_ns.min(length.0);
        self.lengths.saturating_record(length.0.min(LENGTH_MAX.0));
        self.max_ns = self.max_ns.max(length.0);
        self.sum_ns += u128::from(length.0);
    }

    /// Records that something took at least `length`.
    pub fn record_censored(&mut self, length: Nanos) {
        self.record_censored_together(&SameBin::one(length));
    }

    /// Records that several things took at least as long as `lengths` says.
    pub fn record_censored_together(&mut self, lengths: &SameBin) {
        let length = lengths.longest.0.min(LENGTH_MAX.0);
        self.lengths.saturating_record_n(length, lengths.count);
        self.max_ns = self.max_ns.max(lengths.longest.0);
        self.sum_ns += lengths.sum_ns;
        self.censored_lengths().saturating_record_n(length, lengths.count);
        self.censored_min_ns = self.censored_min_ns.min(lengths.shortest.0);
    }

    fn censored_lengths(&mut self) -> &mut Histogram<u64> {
        self.censored.get_or_insert_with(|| Box::new(touched_histogram()))
    }

    /// Adds all samples of `other`.
    pub fn merge(&mut self, other: &Self) {
        const SAME: &str = "all distributions have the same bounds";
        self.lengths.add(&other.lengths).expect(SAME);
        if let Some(theirs) = &other.censored {
            self.censored_lengths().add(theirs.as_ref()).expect(SAME);
        }
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.sum_ns += other.sum_ns;
        self.censored_min_ns = self.censored_min_ns.min(other.censored_min_ns);
    }

    /// Samples, the censored ones among them.
    pub fn count(&self) -> u64 {
        self.lengths.len()
    }

    /// Censored samples.
    pub fn censored(&self) -> u64 {
        self.censored.as_ref().map_or(0, |censored| censored.len())
    }

    /// The smallest length that is known in full, exact: what is censored was longer than recorded.
    pub fn min_ns(&self) -> Option<u64> {
        (self.count() > self.censored()).then_some(self.min_ns)
    }

    /// The smallest recorded length, censored or not: where the order of all samples begins.
    fn lowest_ns(&self) -> u64 {
        self.min_ns.min(self.censored_min_ns)
    }

    /// The largest recorded length, exact.
    pub fn max_ns(&self) -> Option<u64> {
        (self.count() > 0).then_some(self.max_ns)
    }

    /// The mean of the recorded lengths, nanoseconds; from the exact sum.
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.sum_ns as f64 / real(self.count()))
    }

    /// The standard deviation of the recorded lengths, nanoseconds; to the width of the bins.
    pub fn stdev_ns(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.lengths.stdev())
    }

    /// By how much a quantile of about `length` can be too long: the width of its bin, less one.
    pub fn resolution(&self, length: Nanos) -> Nanos {
        Nanos(self.lengths.equivalent_range(length.0.min(LENGTH_MAX.0)) - 1)
    }

    /// The quantile `percent` (0 to 100), where at least [`BEYOND_MIN`] samples lie beyond it.
    pub fn quantile(&self, percent: f64) -> Option<Quantile> {
        let rank = rank(self.count(), percent)?;
        let value_ns = self.at_rank(rank);
        let upto = self.lengths.highest_equivalent(value_ns.min(LENGTH_MAX.0));
        let uncensored = match &self.censored {
            Some(censored) if self.censored_min_ns <= upto => {
                self.lengths.count_between(0, upto) - censored.count_between(0, upto)
            }
            _ => rank,
        };
        Some(Quantile { value_ns, lower_bound: uncensored < rank })
    }

    /// The length of the sample of `rank` (1 is the smallest) in order of length: the end of its
    /// bin, but no more than the exact maximum, nanoseconds. Zero where there is no sample.
    pub fn at_rank(&self, rank: u64) -> u64 {
        let count = self.count();
        if rank >= count {
            return self.max_ns().unwrap_or(0);
        }
        let quantile = (real(rank.max(1)) - 0.5) / real(count);
        self.lengths.value_at_quantile(quantile).clamp(self.lowest_ns(), self.max_ns)
    }

    /// The same from the beginning of the bin, no less than the exact minimum.
    pub fn at_rank_low(&self, rank: u64) -> u64 {
        let value = self.at_rank(rank).min(LENGTH_MAX.0);
        self.lengths.lowest_equivalent(value).max(self.lowest_ns())
    }

    /// Samples that are no longer than the end of the bin of `length` (nanoseconds).
    pub fn count_up_to(&self, length: u64) -> u64 {
        let end = self.lengths.highest_equivalent(length.min(LENGTH_MAX.0));
        self.lengths.count_between(0, end)
    }

    /// The histogram as base64 of the HdrHistogram V2 compressed encoding, which any HdrHistogram
    /// library reads. Censored samples are in it at their recorded length.
    pub fn encode(&self) -> String {
        encode(&self.lengths)
    }

    /// Of several encodings together; what is none is left out.
    pub(crate) fn merged<'a>(encoded: impl Iterator<Item = &'a str>) -> Self {
        let mut merged = Self::uncensored();
        encoded.filter_map(|hdr| Self::decode(hdr).ok()).for_each(|own| merged.merge(&own));
        merged
    }

    /// Reads what [`Distribution::encode`], or another HdrHistogram library, wrote. The encoding
    /// knows nothing of exact figures and censoring: minimum, maximum and mean are those of the
    /// bins, and no sample is censored.
    ///
    /// # Errors
    /// When the text is not such an encoding, or has more than 3 significant figures or 2^52
    /// samples; the fault is the peer's, who sent it.
    pub fn decode(text: &str) -> Result<Self> {
        let read = read(text)?;
        let mut distribution = Self::uncensored();
        for step in read.iter_recorded() {
            let value = step.value_iterated_to().min(LENGTH_MAX.0);
            distribution.lengths.saturating_record_n(value, step.count_at_value());
            distribution.sum_ns +=
                u128::from(read.median_equivalent(value)) * u128::from(step.count_at_value());
        }
        if !read.is_empty() {
            distribution.min_ns = read.min();
            distribution.max_ns = read.max();
        }
        Ok(distribution)
    }
}

/// A histogram as results carry it: base64 of the HdrHistogram V2 compressed encoding. What it
/// takes is bounded, whatever the text claims.
///
/// # Errors
/// As [`Distribution::decode`].
pub fn read(text: &str) -> Result<Histogram<u64>> {
    let bad = |what: &str| Error::peer(format!("not an HdrHistogram in base64: {what}"));
    let bytes = STANDARD.decode(text.trim()).map_err(|e| bad(&e.to_string()))?;
    let plain = inflate(&bytes).map_err(bad)?;
    let read: Histogram<u64> =
        Deserializer::new().deserialize(&mut plain.as_slice()).map_err(|e| bad(&e.to_string()))?;
    if read.len() > COUNT_MAX {
        return Err(bad("more samples than can be"));
    }
    Ok(read)
}

/// The V2 compressed encoding of so many samples of each length, to 2 figures, as base64.
fn encode_coarse(lengths: impl Iterator<Item = (u64, u64)>) -> String {
    let mut histogram: Histogram<u64> = Histogram::new_with_bounds(1, LENGTH_MAX.0, COARSE_FIGURES)
        .expect("the bounds are constants that a test creates");
    for (length, count) in lengths {
        histogram.saturating_record_n(length.min(LENGTH_MAX.0), count);
    }
    encode(&histogram)
}

fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .expect("counts stay below 2^63 and a Vec takes every write");
    STANDARD.encode(bytes)
}

/// The rank (1 is the smallest) of the quantile `percent` among `count` samples, `ceil(percent/100
/// · count)`, where at least [`BEYOND_MIN`] samples lie beyond it: above, or for a quantile under
/// the median below it.
pub fn rank(count: u64, percent: f64) -> Option<u64> {
    // 99.9 % of 10,000 is the 9,990th sample, though 99.9 · 10,000 / 100 is a little more in
    // doubles.
    let exact = percent / 100.0 * real(count);
    let rank = whole((exact * (1.0 - 1e-12)).ceil()).clamp(1, count.max(1));
    let beyond = if percent < 50.0 { rank - 1 } else { count.saturating_sub(rank) };
    (beyond >= BEYOND_MIN).then_some(rank)
}

/// `share` (0 to 1) of `count`, in whole samples, rounded down.
pub(crate) fn whole_share(count: u64, share: f64) -> u64 {
    whole(real(count) * share * (1.0 + 1e-12))
}

/// Takes the compression off an encoding and checks its header. It comes from a peer, and the
/// deserializer would allocate whatever length and precision the header claims.
fn inflate(bytes: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
    const COMPRESSED: [u8; 4] = 0x1c84_9314_u32.to_be_bytes();
    // The cookie, the payload's length, the normalising offset, the figures, both bounds, the
    // ratio.
    const HEADER: usize = 4 + 4 + 4 + 4 + 8 + 8 + 8;
    let Some((COMPRESSED, rest)) = bytes.split_first_chunk::<4>().map(|(c, r)| (*c, r)) else {
        return Err("not the V2 compressed encoding");
    };
    let deflated = rest.get(4..).ok_or("too short")?;
    let mut plain = Vec::new();
    ZlibDecoder::new(deflated)
        .take(DOCUMENT_MAX as u64)
        .read_to_end(&mut plain)
        .map_err(|_| "broken compression")?;
    let (header, payload) = plain.split_at_checked(HEADER).ok_or("too short")?;
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if word(4) as usize != payload.len() {
        return Err("its length is wrong");
    }
    // Bits above 2^62 would leave no room for the end of a bin.
    if word(12) > u32::from(FIGURES) || word(24) > 1 << 30 {
        return Err("too fine or too wide");
    }
    // As a count that is the smallest i64, whose negation overflows.
    if payload.windows(9).any(|w| w == [0xff; 9]) {
        return Err("a count is too large");
    }
    Ok(plain)
}

fn touched_histogram() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(1, LENGTH_MAX.0, FIGURES)
        .expect("the bounds are constants that a test creates");
    // A page of zeroes that was never written is not there yet: its first sample would take a
    // fault. The barrier keeps the compiler from dropping the second write of the same zeroes.
    let mut histogram = std::hint::black_box(histogram);
    histogram.clear();
    histogram
}

#[cfg(test)]
mod tests;
