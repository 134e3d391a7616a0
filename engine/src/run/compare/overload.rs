//! Whether what a visit measured is the path, or a queue in front of it.

use super::Comparing;
use crate::result::{StepResult, VisitStep};
use crate::units::Nanos;

/// Less of what was due than this was answered: the rate was not reached.
const REACHED: f64 = 0.95;
/// So few may be missing whatever share they are: they were under way.
const MISSING_MAX: f64 = 10.0;
/// The last third of the visits takes so many times as long as the first: a queue that fills from nothing grows fivefold
/// between the middles of the two, one that was begun during a warm-up a fifth as long threefold. One that keeps its
/// length shows 1, give or take what chance leaves in the mean over the visits.
const GROWN: f64 = 2.0;
/// … and by so many requests in the mean: below, nothing has queued.
const GROWN_BY_MIN: f64 = 1.0;
/// The series over time of a visit has so many entries.
const ENTRIES: u64 = 3;

/// The length of an entry of the series of a visit whose measured phase takes `duration`: long, for an entry of fewer than
/// 20 samples has no median.
pub(super) fn interval(duration: Nanos) -> Nanos {
    Nanos(duration.0.div_ceil(ENTRIES).max(1))
}

/// More than one in a hundred had no answer in time; or the target rate was not reached: what was due and neither answered
/// nor failed is more than can have been under way on a path as fast as the fastest answer showed it to be.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
pub(super) fn is_overloaded(step: &StepResult) -> bool {
    let operations = &step.operations;
    // What was given up on after --timeout took longer than is known: a quantile of it is no path's.
    if operations.timed_out * 100 > operations.completed {
        return true;
    }
    let Some(target) = step.rate.target_per_s else {
        return false;
    };
    let ended = operations.completed + operations.failed + operations.timed_out;
    let missing = operations.due.saturating_sub(ended) as f64;
    let fastest_s = step.latency.service.min_ns.unwrap_or(0) as f64 / 1e9;
    let under_way = 2.0 * target * fastest_s;
    missing > MISSING_MAX + under_way && (ended as f64) < REACHED * operations.due as f64
}

/// Median response times of the first third of a visit and of the last one, nanoseconds. Of loads on a schedule alone: the
/// others keep no queue.
pub(super) fn ends(step: &StepResult) -> Option<(u64, u64)> {
    step.rate.target_per_s?;
    let [first, _, last] = step.intervals.as_slice() else {
        return None;
    };
    first.p50_ns.zip(last.p50_ns)
}

/// The queue grows while it is measured: over all `visits` to a step at `target` per second responses take longer and longer.
/// By Little's law (1961) the queue grew by the rate times the difference. One visit proves nothing, for close to its
/// capacity a queue that is stable grows by chance as often as it shrinks.
#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds of a response stay below 2^52"
)]
pub(super) fn is_queue_growing<'a>(
    target: f64,
    visits: impl Iterator<Item = &'a VisitStep>,
) -> bool {
    let ends = visits.filter_map(|step| Some((step.response_first_ns?, step.response_last_ns?)));
    let sum = |(n, first, last): (f64, f64, f64), ends: (u64, u64)| {
        (n + 1.0, first + ends.0 as f64, last + ends.1 as f64)
    };
    let (visits, first, last) = ends.fold((0.0, 0.0, 0.0), sum);
    let grown_by = target * (last - first) / 1e9;
    visits > 0.0 && last > GROWN * first && grown_by >= GROWN_BY_MIN * visits
}

impl Comparing<'_> {
    /// In most of the blocks one of the two was overloaded; or the queue of one of them grew from block to block.
    pub(super) fn is_cell_overloaded(&self, arm: usize, step: usize) -> bool {
        let told: Vec<bool> = self
            .values
            .iter()
            .filter_map(|block| {
                let baseline = block.is_overloaded(0, step)?;
                Some(baseline || block.is_overloaded(arm, step)?)
            })
            .collect();
        let overloaded = told.iter().filter(|overloaded| **overloaded).count();
        overloaded * 2 > told.len() || [0, arm].into_iter().any(|arm| self.is_growing(arm, step))
    }

    fn is_growing(&self, arm: usize, step: usize) -> bool {
        let arm = &self.arms[arm];
        let measured = arm.measured.get(step).and_then(|visits| visits.first());
        let Some(target) = measured.and_then(|(_, step)| step.rate.target_per_s) else {
            return false;
        };
        let visits = self.blocks.iter().flat_map(|block| &block.visits);
        let of_arm = visits.filter(|visit| visit.arm == arm.name && visit.error.is_none());
        is_queue_growing(target, of_arm.filter_map(|visit| visit.steps.get(step)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Interval, Rate};

    /// A visit of 500 ms, each entry with the response time that `response_ns` gives its middle, ms.
    fn visit(rate: f64, response_ns: impl Fn(f64) -> f64) -> VisitStep {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "made-up times, positive"
        )]
        let entry = |index: u32| Interval {
            p50_ns: Some(response_ns((f64::from(index) + 0.5) * 500.0 / 3.0) as u64),
            ..Interval::default()
        };
        let step = StepResult {
            rate: Rate {
                target_per_s: Some(rate),
                ..Rate::default()
            },
            intervals: (0..3).map(entry).collect(),
            ..StepResult::default()
        };
        let (first, last) = ends(&step).expect("on a schedule");
        VisitStep {
            response_first_ns: Some(first),
            response_last_ns: Some(last),
            ..VisitStep::default()
        }
    }

    /// Responses of a queue that takes 1 ms each, after a warm-up of 100 ms at this load.
    fn filling(load: f64) -> impl Fn(f64) -> f64 {
        move |at_ms| 1e6 + (load - 1.0) * (at_ms + 100.0) * 1e6
    }

    #[test]
    fn a_queue_that_fills_slowly_grows() {
        for load in [1.01, 1.03, 2.0] {
            let visits = vec![visit(1_000.0 * load, filling(load)); 24];
            assert!(is_queue_growing(1_000.0 * load, visits.iter()), "{load}");
        }
    }

    #[test]
    fn what_keeps_its_length_or_shrinks_does_not_grow() {
        let long = vec![visit(1_000.0, |_| 50e6); 24];
        assert!(!is_queue_growing(1_000.0, long.iter()));
        let shrinks = vec![visit(1_000.0, |at_ms| 1e6 + (500.0 - at_ms) * 1e5); 24];
        assert!(!is_queue_growing(1_000.0, shrinks.iter()));
        assert!(!is_queue_growing(1_000.0, std::iter::empty()));
    }

    /// A path that becomes slower without anything to queue, from 20 to 100 µs.
    #[test]
    fn less_than_a_request_more_is_no_queue() {
        let visits = vec![visit(1_000.0, |at_ms| 20e3 + at_ms * 160.0); 24];
        assert!(!is_queue_growing(1_000.0, visits.iter()));
        assert!(
            is_queue_growing(50_000.0, visits.iter()),
            "of 50,000/s it is four"
        );
    }

    /// In one visit of three the queue grew, by chance.
    #[test]
    fn one_visit_proves_nothing() {
        let mut visits = vec![visit(1_000.0, |_| 10e6); 16];
        visits.extend(vec![visit(1_000.0, |at_ms| 2e6 + at_ms * 40e3); 8]);
        assert!(!is_queue_growing(1_000.0, visits.iter()));
        assert!(is_queue_growing(1_000.0, visits[16..].iter()));
    }

    #[test]
    fn without_a_schedule_there_is_no_queue() {
        assert_eq!(ends(&StepResult::default()), None);
    }

    #[test]
    fn a_visit_has_three_entries() {
        for duration in [
            Nanos::from_millis(500),
            Nanos(3),
            Nanos(2),
            Nanos(1_000_001),
        ] {
            assert!(duration.0.div_ceil(interval(duration).0) <= ENTRIES);
        }
        assert_eq!(interval(Nanos::from_millis(300)), Nanos::from_millis(100));
    }
}
