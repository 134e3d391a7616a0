//! Responses by status code: how many, when the first came, how long they took, and how many in
//! each interval.

use tare_stats::histogram::Distribution;
use tare_units::{Instant, Nanos};

/// Codes for which room is made before the run; more take an allocation each when they first come.
const ROOM: usize = 4;
const CODES: usize = 1_000;
const NONE: u8 = u8::MAX;

#[derive(Debug, Clone)]
pub(crate) struct Code {
    pub(crate) status: u16,
    pub(crate) count: u64,
    /// When the first came, from the start of the measured phase.
    pub(crate) first_at: Nanos,
    /// Which response of all workers it was, from 1, as far as this worker knew: others may have
    /// had some in the same instant that are not in it.
    pub(crate) first_ordinal: u64,
    /// The headline latency of those responses: from the intended send in open loop, else from the
    /// actual one.
    pub(crate) latency: Distribution,
    pub(crate) intervals: Vec<u32>,
}

impl Code {
    fn vacant(entries: usize) -> Self {
        Self {
            status: 0,
            count: 0,
            first_at: Nanos::ZERO,
            first_ordinal: 0,
            latency: Distribution::uncensored(),
            intervals: vec![0; entries],
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Codes {
    entries: Vec<Code>,
    used: usize,
    index: Box<[u8; CODES]>,
    responses: u64,
    begin: Instant,
    interval: Nanos,
    /// The present entry of the series, and where it ends.
    present: usize,
    present_end: Instant,
}

impl Codes {
    pub(crate) fn new(interval: Nanos, entries: usize) -> Self {
        let entries = entries.max(1);
        Self {
            entries: (0..ROOM).map(|_| Code::vacant(entries)).collect(),
            used: 0,
            index: Box::new([NONE; CODES]),
            responses: 0,
            begin: Instant::default(),
            interval,
            present: 0,
            present_end: Instant::default(),
        }
    }

    pub(crate) fn begin(&mut self, at: Instant) {
        self.begin = at;
        self.present_end = at + self.interval;
    }

    /// A response came at `at`, after `latency`. What is no status code is counted as 999.
    /// `elsewhere` tells how many responses the other workers had by now, where this is the first
    /// of its code.
    #[inline]
    pub(crate) fn record(
        &mut self,
        status: u16,
        at: Instant,
        latency: Nanos,
        elsewhere: impl FnOnce() -> u64,
    ) {
        self.responses += 1;
        let status = status.min(CODES as u16 - 1);
        let mut index = self.index[status as usize];
        if index == NONE {
            let ordinal = self.responses + elsewhere();
            index = self.first_of(status, at.since(self.begin), ordinal);
        }
        while at >= self.present_end && self.present + 1 < self.entries[0].intervals.len() {
            self.present += 1;
            self.present_end = self.present_end + self.interval;
        }
        let code = &mut self.entries[index as usize];
        code.count += 1;
        code.latency.record(latency);
        code.intervals[self.present] += 1;
    }

    #[cold]
    fn first_of(&mut self, status: u16, at: Nanos, ordinal: u64) -> u8 {
        let index = self.used.min(usize::from(NONE) - 1);
        if index == self.entries.len() {
            let entries = self.entries[0].intervals.len();
            self.entries.push(Code::vacant(entries));
        }
        // The 255th different code and those after it are counted together, under the first of
        // them.
        let code = &mut self.entries[index];
        if code.count == 0 {
            code.status = status;
            code.first_at = at;
            code.first_ordinal = ordinal;
            self.used += 1;
        }
        let index = u8::try_from(index).expect("below 255");
        self.index[status as usize] = index;
        index
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Code> {
        self.entries[..self.used].iter()
    }

    pub(crate) const fn responses(&self) -> u64 {
        self.responses
    }

    /// Adds another worker's. The first of a code is the earlier one's. The earliest of all is the
    /// first response of the run, even where each worker had counted one of the other's before it.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.responses += other.responses;
        for theirs in other.iter() {
            let mut index = self.index[theirs.status as usize];
            if index == NONE {
                index = self.first_of(theirs.status, theirs.first_at, theirs.first_ordinal);
            }
            let mine = &mut self.entries[index as usize];
            (mine.first_at, mine.first_ordinal) =
                (mine.first_at, mine.first_ordinal).min((theirs.first_at, theirs.first_ordinal));
            mine.count += theirs.count;
            mine.latency.merge(&theirs.latency);
            for (mine, theirs) in mine.intervals.iter_mut().zip(&theirs.intervals) {
                *mine += theirs;
            }
        }
        if let Some(earliest) = self.entries[..self.used].iter_mut().min_by_key(|c| c.first_at) {
            earliest.first_ordinal = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    type First = (u16, u64, u64, u64);

    /// Of each code: how many, when the first came in milliseconds, and which response it was.
    fn firsts(codes: &Codes) -> Vec<First> {
        codes.iter().map(|c| (c.status, c.count, c.first_at.0 / MS, c.first_ordinal)).collect()
    }

    #[test]
    fn the_first_of_each_code_has_its_time_and_ordinal() {
        let mut codes = Codes::new(Nanos::from_millis(10), 3);
        codes.begin(Instant(5 * MS));
        for (at, status) in [(6, 200), (7, 511), (16, 200), (40, 409), (41, 511)] {
            codes.record(status, Instant(at * MS), Nanos(at), || 0);
        }
        assert_eq!(firsts(&codes), [(200, 2, 1, 1), (511, 2, 2, 2), (409, 1, 35, 4)]);
        let intervals: Vec<_> = codes.iter().map(|c| c.intervals.clone()).collect();
        assert_eq!(intervals, [[1, 1, 0], [1, 0, 1], [0, 0, 1]]);
        assert_eq!(codes.responses(), 5);
    }

    #[test]
    fn the_first_of_a_code_is_the_earliest_of_all_workers() {
        // Each of `a` and `b`: status, when, and how many the other had by then.
        type Responses = &'static [(u16, u64, u64)];
        let cases: [(Responses, Responses, &[First]); 2] = [
            // As they come: 200 by b, 503 by b, 200 by a, 409 by a.
            (
                &[(200, 3, 2), (409, 4, 2)],
                &[(200, 1, 0), (503, 2, 0)],
                &[(200, 2, 1, 1), (409, 1, 4, 4), (503, 1, 2, 2)],
            ),
            // Both have their first at once, and each counts the other's as before its own.
            (&[(200, 1, 1)], &[(511, 2, 3)], &[(200, 1, 1, 1), (511, 1, 2, 4)]),
        ];
        for (of_a, of_b, merged) in cases {
            let [mut a, b] = [of_a, of_b].map(|responses| {
                let mut codes = Codes::new(Nanos::from_millis(10), 2);
                for &(status, at, elsewhere) in responses {
                    codes.record(status, Instant(at * MS), Nanos(10), || elsewhere);
                }
                codes
            });
            a.merge(&b);
            assert_eq!(firsts(&a), merged);
            assert_eq!(a.responses(), (of_a.len() + of_b.len()) as u64);
        }
    }

    #[test]
    fn no_code_is_lost_however_many_there_are() {
        let mut codes = Codes::new(Nanos::from_millis(10), 2);
        for status in 0..1_200 {
            codes.record(status, Instant(MS), Nanos(1), || 0);
        }
        assert_eq!(codes.iter().map(|c| c.count).sum::<u64>(), 1_200);
    }
}
