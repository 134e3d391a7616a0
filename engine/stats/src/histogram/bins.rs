//! Coarse logarithmic bins, many rows of them in one allocation: the rows are time blocks, or
//! entries of the series over time.
//!
//! The layout is HdrHistogram's with 2 significant figures. It is not that crate's because a row
//! needs neither its own allocation nor its own bounds, and one index serves the block and the
//! series entry alike: recording into a row is an addition.

use tare_units::Nanos;

/// Octaves are cut into `1 << BITS` bins, so a bin is at most 1/128 of its value wide.
const BITS: u32 = 7;
/// Values below this have a bin of their own.
const EXACT: u64 = 2 << BITS;
const VALUE_MAX: u64 = super::LENGTH_MAX.0;
pub(super) const BINS: usize = index(VALUE_MAX) as usize + 1;

#[inline]
pub(super) const fn index(ns: u64) -> u16 {
    let value = if ns > VALUE_MAX { VALUE_MAX } else { ns };
    let shift = 63 - BITS - (value | (EXACT - 1)).leading_zeros();
    ((shift << BITS) as u64 + (value >> shift)) as u16
}

/// The largest length in a bin.
pub(super) const fn end(index: usize) -> u64 {
    let index = index as u64;
    if index < EXACT {
        return index;
    }
    let shift = (index >> BITS) - 1;
    ((index - (shift << BITS) + 1) << shift) - 1
}

/// The largest length in the bin of the sample of that rank (1 is the smallest).
pub(super) fn end_of_rank(mut counts: impl Iterator<Item = u64>, rank: u64) -> Option<u64> {
    let mut below = 0;
    let bin = counts.position(|count| {
        below += count;
        below >= rank
    });
    bin.map(end)
}

/// Rows of bins. A count stays at its maximum, 2^32 − 1, rather than wrap.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    counts: Box<[u32]>,
}

impl Rows {
    pub(super) fn new(rows: usize) -> Self {
        // See `touched_histogram`: without the second write the pages would not be there yet.
        let mut counts = std::hint::black_box(vec![0u32; rows * BINS].into_boxed_slice());
        counts.fill(0);
        Self { counts: std::hint::black_box(counts) }
    }

    /// Records as many lengths of one bin.
    #[inline]
    pub(super) fn record(&mut self, row: usize, index: u16, samples: u64) {
        let count = &mut self.counts[row * BINS + usize::from(index)];
        *count = count.saturating_add(u32::try_from(samples).unwrap_or(u32::MAX));
    }

    pub(super) fn row(&self, row: usize) -> &[u32] {
        &self.counts[row * BINS..(row + 1) * BINS]
    }

    /// Adds `other`'s rows; rows that only one of the two has stay as they are.
    pub(super) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
    }
}

/// One row of bins that is counted into in every turn of a spinning worker: counts of 64 bits,
/// since at three million turns a second 32 are full in 24 minutes.
#[derive(Debug, Clone)]
pub struct Coarse {
    counts: Box<[u64]>,
}

impl Default for Coarse {
    fn default() -> Self {
        // See `Rows::new`.
        let mut counts = std::hint::black_box(vec![0u64; BINS].into_boxed_slice());
        counts.fill(0);
        Self { counts: std::hint::black_box(counts) }
    }
}

impl Coarse {
    /// Records a sample.
    #[inline]
    pub fn record(&mut self, length: Nanos) {
        self.record_n(length, 1);
    }

    /// Records several samples of one length.
    #[inline]
    pub fn record_n(&mut self, length: Nanos, samples: u64) {
        self.counts[usize::from(index(length.0))] += samples;
    }

    /// Forgets all samples.
    pub fn reset(&mut self) {
        self.counts.fill(0);
    }

    /// Adds the samples of another.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// A length that at most `share` (0 to 1) of the samples exceed: the end of a bin; zero without
    /// samples.
    pub(crate) fn exceeded_by(&self, share: f64) -> Nanos {
        let count: u64 = self.counts.iter().sum();
        self.at_rank(count.saturating_sub(super::whole_share(count, share)))
    }

    /// The longest length of the bin of the sample of rank `ceil(percent/100 · count)`; zero
    /// without samples.
    pub fn quantile(&self, percent: u64) -> Nanos {
        let count: u64 = self.counts.iter().sum();
        self.at_rank((count * percent).div_ceil(100).max(1))
    }

    fn at_rank(&self, rank: u64) -> Nanos {
        Nanos(end_of_rank(self.counts.iter().copied(), rank).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_contiguous_and_two_figures_wide() {
        let mut last_end = 0;
        for bin in 1..BINS {
            let first = last_end + 1;
            let last = end(bin);
            assert_eq!(usize::from(index(first)), bin);
            assert_eq!(usize::from(index(last)), bin);
            assert!((last - first) * 128 <= first, "{first}..={last}");
            last_end = last;
        }
        assert_eq!(last_end, VALUE_MAX);
        assert_eq!(index(0), 0);
        assert_eq!(index(u64::MAX), index(VALUE_MAX));
    }

    #[test]
    fn a_coarse_row_tells_quantiles_merges_and_forgets() {
        let mut coarse = Coarse::default();
        assert_eq!(coarse.quantile(50), Nanos::ZERO);
        (1..=100).for_each(|ns| coarse.record(Nanos(ns)));
        assert_eq!(coarse.quantile(50), Nanos(50));
        assert_eq!(coarse.quantile(99), Nanos(99));
        let exceeded = [0.0, 0.01, 0.25, 0.999, 1.0].map(|share| coarse.exceeded_by(share).0);
        assert_eq!(exceeded, [100, 99, 75, 1, 0]);
        let mut other = Coarse::default();
        other.record_n(Nanos(200), 100);
        coarse.merge(&other);
        assert_eq!(coarse.quantile(50), Nanos(100));
        assert_eq!(coarse.quantile(51), Nanos(200));
        coarse.reset();
        assert_eq!(coarse.quantile(99), Nanos::ZERO);
    }

    #[test]
    fn rows_keep_apart_and_merge() {
        let bin = index(1_000);
        let mut a = Rows::new(2);
        a.record(0, bin, 1);
        a.record(1, bin, 1);
        let mut b = Rows::new(2);
        b.record(1, bin, 1);
        a.merge(&b);
        assert_eq!([0, 1].map(|row| a.row(row)[usize::from(bin)]), [1, 2]);
        assert_eq!(a.row(0).iter().sum::<u32>(), 1);
    }
}
