//! Whether what a visit measured is the path, or a queue in front of it.

use super::blocks;
use crate::histogram::Distribution;
use crate::number::{real, whole};
use crate::result::{Interval, StepResult};

/// Less of what was due than this was answered: the rate was not reached.
const REACHED: f64 = 0.95;
/// So few may be missing whatever share they are: they were under way.
const MISSING_MAX: f64 = 10.0;
/// A queue grows if chance alone shows growth, or shrinking, in so many blocks in at most this
/// share of comparisons: the two-sided sign test of 6 blocks of 6 (3.1 %), of 11 of 12, of 18 of
/// 24. Fewer than six blocks prove nothing.
const CHANCE_MAX: f64 = 0.032;
/// Responses wait so many times as long at the end of a visit in which a queue grew, and a request
/// more. A queue that fills from nothing waits five times as long in the last third of a visit as
/// in the first, one that has filled during a warm-up twice as long as the visit 1.3 times; one
/// that keeps its length, however long, rarely differs by so much in most blocks.
const WAITS_LONGER: f64 = 1.25;
/// More than one in a hundred had no answer in time; or the target rate was not reached: what was
/// due and neither answered nor failed is more than can have been under way on a path as fast as
/// the fastest answer showed it to be.
pub(super) fn is_overloaded(step: &StepResult) -> bool {
    let operations = &step.operations;
    // How long operations took that --timeout gave up on is not known: no quantile over them is the
    // path's.
    if operations.timed_out * 100 > operations.completed {
        return true;
    }
    let Some(target) = step.rate.target_per_s else { return false };
    let ended = operations.completed + operations.failed + operations.timed_out;
    let missing = real(operations.due.saturating_sub(ended));
    let fastest_s = real(step.latency.service.min_ns.unwrap_or(0)) / 1e9;
    let under_way = 2.0 * target * fastest_s;
    missing > MISSING_MAX + under_way && real(ended) < REACHED * real(operations.due)
}

/// Median response times of the first third of a visit and of the last one, nanoseconds; of loads
/// at one rate alone. Without a rate there is no queue, and under a ramp, or a load that the path
/// carries besides, it has reason to grow.
pub(super) fn ends(step: &StepResult) -> Option<(u64, u64)> {
    step.rate.target_per_s?;
    let is_ramp = step.params.http.as_ref().is_some_and(|http| http.rate_to_per_s.is_some());
    if is_ramp || step.params.load().is_some() {
        return None;
    }
    let third = step.intervals.len() / 3;
    let last = step.intervals.len() - third;
    Some((median(&step.intervals[..third])?, median(&step.intervals[last..])?))
}

/// Of several entries together, from their merged histograms.
fn median(entries: &[Interval]) -> Option<u64> {
    if let [entry] = entries {
        return entry.p50_ns;
    }
    // An entry in which nothing was answered has none.
    let all = Distribution::merged(entries.iter().filter_map(|entry| entry.hdr.as_deref()));
    all.quantile(50.0).map(|median| median.value_ns)
}

/// Whether the queue grows while it is measured at `target` requests per second, on a path whose
/// fastest answer took `fastest_ns`: then the medians over blocks of the response times of the
/// first and last thirds of their visits. By Little's law (1961) it grew by the rate times what
/// responses take longer at the end. Each visit begins with an empty queue: close to its capacity,
/// where it takes longer than a visit until the queue has its length, one that would be stable in
/// the end grows too, and its latencies are as little those of the path.
///
/// The sign test over blocks assumes nothing of how long queues are, and one disturbed block
/// decides nothing.
pub(super) fn growth(target: f64, fastest_ns: u64, ends: &[(u64, u64)]) -> Option<(u64, u64)> {
    let waits = |response: u64| real(response.saturating_sub(fastest_ns)) / 1e9;
    // In requests, beyond what a queue that grew has at least.
    let grown_by =
        |&(first, last): &(u64, u64)| target * (waits(last) - WAITS_LONGER * waits(first)) - 1.0;
    let grown: Vec<f64> = ends.iter().map(grown_by).collect();
    if blocks::median(&grown)? <= 0.0 || blocks::sign_test(&grown)? > CHANCE_MAX {
        return None;
    }
    let middle = |of: fn(&(u64, u64)) -> u64| {
        let values: Vec<f64> = ends.iter().map(|ends| real(of(ends))).collect();
        Some(whole(blocks::median(&values)?))
    };
    Some((middle(|ends| ends.0)?, middle(|ends| ends.1)?))
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::SeedableRng as _;

    use super::*;
    use crate::fixtures::uniform;
    use crate::result::HttpParams;
    use tare_units::Nanos;

    /// An entry of so many answers, each in that time.
    fn entry(count: u64, response_ns: f64) -> Interval {
        let response = Nanos(response_ns as u64);
        let mut answers = Distribution::uncensored();
        (0..count).for_each(|_| answers.record(response));
        let hdr = Some(answers.encode());
        Interval { completed: count, p50_ns: Some(response.0), hdr, ..Interval::default() }
    }

    /// A visit of 500 ms in `entries`, each with the response time that `response_ns` gives its
    /// middle, ms.
    fn visit(entries: u32, response_ns: &dyn Fn(f64) -> f64) -> StepResult {
        let middle_ms = |index: u32| (f64::from(index) + 0.5) * 500.0 / f64::from(entries);
        let entry = |index| entry(10, response_ns(middle_ms(index)));
        let mut step = StepResult::default();
        step.rate.target_per_s = Some(1_000.0);
        step.intervals = (0..entries).map(entry).collect();
        step
    }

    fn ends_of(response_ns: impl Fn(f64) -> f64) -> (u64, u64) {
        ends(&visit(3, &response_ns)).expect("at a rate")
    }

    /// Responses on a path of `path_ms` to a queue that takes 1 ms each, after a warm-up of so long
    /// at this load.
    fn filling(path_ms: f64, load: f64, warmup_ms: f64) -> (u64, u64) {
        ends_of(|at_ms| (path_ms + (load - 1.0) * (at_ms + warmup_ms)) * 1e6)
    }

    #[test]
    fn a_queue_that_fills_slowly_grows() {
        for (path_ms, load, warmup_ms) in [
            (1.0, 1.01, 100.0),
            (1.0, 1.03, 100.0),
            (1.0, 2.0, 100.0),
            // Far away, where the wait is a small part of the response; and begun long before.
            (10.0, 1.03, 100.0),
            (1.0, 1.02, 1_000.0),
        ] {
            let ends = [filling(path_ms, load, warmup_ms); 24];
            let found = growth(1_000.0 * load, (path_ms * 1e6) as u64, &ends);
            assert!(found.is_some(), "{path_ms} ms, {load}, {warmup_ms} ms");
        }
        // Fewer than six blocks prove nothing.
        let ends = [filling(1.0, 1.1, 100.0); 6];
        assert!(growth(1_100.0, 1_000_000, &ends).is_some());
        assert_eq!(growth(1_100.0, 1_000_000, &ends[1..]), None);
        // Nor does another that a lost segment held up in its first third.
        let mut grows = [filling(1.0, 1.03, 100.0); 12];
        grows[0].0 += 100_000_000;
        assert!(growth(1_030.0, 1_000_000, &grows).is_some());
    }

    #[test]
    fn what_keeps_its_length_or_shrinks_does_not_grow() {
        let long = [ends_of(|_| 50e6); 24];
        assert_eq!(growth(1_000.0, 1_000_000, &long), None);
        let shrinks = [ends_of(|at_ms| 1e6 + (500.0 - at_ms) * 1e5); 24];
        assert_eq!(growth(1_000.0, 1_000_000, &shrinks), None);
        assert_eq!(growth(1_000.0, 0, &[]), None);
        // A path that becomes slower without anything to queue, from 20 to 100 µs.
        let slower = [ends_of(|at_ms| 20e3 + at_ms * 160.0); 24];
        assert_eq!(growth(1_000.0, 20_000, &slower), None);
        assert!(growth(50_000.0, 20_000, &slower).is_some(), "of 50,000/s it is three");
        // A lost segment, a throttled moment: 100 ms in the last third of most blocks.
        let mut held_up = [ends_of(|_| 100e3); 12];
        held_up[..10].iter_mut().for_each(|block| block.1 += 100_000_000);
        assert_eq!(growth(1_000.0, 80_000, &held_up), None);
    }

    /// Of a queue that keeps its length, whatever it is, the two ends are alike: each is the longer
    /// one in one of two.
    #[test]
    fn a_queue_that_keeps_its_length_is_rarely_said_to_grow() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        // Waits of M/M/1 are exponential, nearly; in the mean 20 ms.
        let mut response_ns = || ((1.0 - 20.0 * uniform(&mut random).ln()) * 1e6) as u64;
        for (blocks, most) in [(6, 30), (12, 12), (24, 3)] {
            let found = (0..1_000).filter(|_| {
                let ends: Vec<_> = (0..blocks).map(|_| (response_ns(), response_ns())).collect();
                growth(1_000.0, 1_000_000, &ends).is_some()
            });
            let found = found.count();
            assert!(found <= most, "{blocks} blocks: {found} of 1,000");
        }
    }

    #[test]
    fn thirds_are_of_however_many_entries_there_are() {
        let of = |entries| ends(&visit(entries, &|at_ms| at_ms * 1e6));
        // Thirds of one entry and of three: of an even number the median is one of the two in the
        // middle.
        for entries in [3, 9, 10] {
            let (first, last) = of(entries).expect("thirds");
            assert!(first.abs_diff(83_000_000) < 10_000_000, "{entries}: {first}");
            assert!(last.abs_diff(417_000_000) < 10_000_000, "{entries}: {last}");
        }
        assert_eq!((of(2), of(0)), (None, None));
        // Of two entries of 10 answers each and one of 80 the median is that of the 80; a mean of
        // the three is not.
        let found = median(&[entry(80, 1e6), entry(10, 200e6), entry(10, 200e6)]);
        assert!(found.is_some_and(|ns| ns.abs_diff(1_000_000) < 10_000), "{found:?}");
        assert_eq!(median(&[Interval::default(), Interval::default()]), None);
    }

    #[test]
    fn what_has_reason_to_grow_is_not_asked() {
        assert_eq!(ends(&StepResult::default()), None, "no rate");
        let mut ramp = visit(3, &|_| 1e6);
        let mut loaded = ramp.clone();
        ramp.params.http =
            Some(HttpParams { rate_to_per_s: Some(5_000.0), ..HttpParams::default() });
        assert_eq!(ends(&ramp), None);
        loaded.params.under_load = Some("-c 8".to_owned());
        assert_eq!(ends(&loaded), None);
    }
}
