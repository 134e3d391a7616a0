//! When a paced sender sends next.

use crate::schedule::Constant;
use tare_stats::histogram::Distribution;
use tare_units::{Instant, Nanos};

/// A sleeping sender wakes up so late at most, mostly.
const WAKE_UP: Nanos = Nanos::from_micros(100);

/// A schedule of sends, and how well it was kept.
///
/// Sends are due at equal gaps. What a stall has left over is made up for at no more than 1.25
/// times the rate, since a burst at the line's speed overflows queues that the asked-for rate would
/// not, and shows loss that is not the path's: each send may leave four fifths of the intended gap
/// after the one before it might have left. Lateness up to [`WAKE_UP`] is no stall: a sender that
/// sleeps leaves each time as late as it woke up, and is to keep its rate.
#[derive(Debug)]
pub(super) struct Pace {
    schedule: Constant,
    t0: Instant,
    pub(super) gap: Nanos,
    due: Instant,
    /// When the next send may leave.
    pub(super) next: Instant,
    last: Option<Instant>,
    pub(super) deviation: Distribution,
    pub(super) lateness: Distribution,
}

impl Pace {
    pub(super) fn new(schedule: Constant, gap: Nanos) -> Self {
        Self {
            schedule,
            t0: Instant::default(),
            gap,
            due: Instant::FAR_FUTURE,
            next: Instant::FAR_FUTURE,
            last: None,
            deviation: Distribution::uncensored(),
            lateness: Distribution::uncensored(),
        }
    }

    pub(super) fn start(&mut self, t0: Instant) {
        self.t0 = t0;
        self.advance();
        self.next = self.due;
    }

    fn advance(&mut self) {
        let next = self.schedule.next();
        self.due = next.map_or(Instant::FAR_FUTURE, |offset| self.t0 + offset);
    }

    pub(super) fn handle_sent(&mut self, now: Instant, measured: bool) {
        if measured {
            self.lateness.record(now.since(self.due));
            if let Some(last) = self.last {
                self.deviation.record(Nanos(now.since(last).0.abs_diff(self.gap.0)));
            }
        }
        self.last = Some(now);
        let left = self.next.max(Instant(now.0.saturating_sub(WAKE_UP.0)));
        self.advance();
        self.next = self.due.max(left + Nanos(self.gap.0 / 5 * 4));
    }

    /// The measured phase begins at `start`: sends that were due before it and did not leave by
    /// then never do, as it is with requests (DESIGN D6). Else what the warm-up left over is made
    /// up for in the measured phase, and is late there.
    pub(super) fn leave_warmup(&mut self, start: Instant) {
        if self.count_unsent(start) > 0 {
            // What follows it is no gap of the schedule.
            self.last = None;
        }
    }

    /// How many sends were due before `until` and did not leave.
    pub(super) fn count_unsent(&mut self, until: Instant) -> u64 {
        if self.due >= until {
            return 0;
        }
        // By arithmetic: at a rate that cannot be kept up they are thousands of millions.
        let behind = self.schedule.pass(until.since(self.t0));
        self.advance();
        self.next = self.due.max(self.next);
        1 + behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Share;

    fn pace() -> Pace {
        let schedule = Constant::new(10_000.0, Share::WHOLE).unwrap();
        let mut pace = Pace::new(schedule, Nanos::from_micros(100));
        pace.start(Instant(0));
        pace
    }

    const fn us(n: u64) -> Instant {
        Instant(n * 1_000)
    }

    #[test]
    fn a_stall_is_made_up_for_at_a_higher_rate_and_in_no_burst() {
        let mut pace = pace();
        pace.handle_sent(us(0), true);
        // Nothing could leave for a millisecond.
        let mut at = us(1_000);
        let mut gaps = Vec::new();
        for _ in 0..60 {
            pace.handle_sent(at, true);
            let next = pace.next.max(at);
            gaps.push(next.since(at).0 / 1_000);
            at = next;
        }
        // One follows at once: that much a wake-up might have cost.
        assert_eq!(gaps.remove(0), 0);
        assert!(gaps.iter().all(|gap| *gap >= 60), "{gaps:?}");
        // The eight that are left are made up for a fifth at a time.
        assert_eq!(gaps.iter().filter(|gap| **gap < 100).count(), 39);
        // On time again.
        assert_eq!(gaps.last(), Some(&100));
    }

    #[test]
    fn sends_are_due_at_equal_gaps_also_to_one_that_wakes_up_late_each_time() {
        for (late, count) in [(3, 5), (60, 50)] {
            let mut pace = pace();
            for n in 0..count {
                assert_eq!(pace.next, us(100 * n));
                pace.handle_sent(us(100 * n + late), true);
            }
            let deviation = &pace.deviation;
            assert_eq!((deviation.count(), deviation.max_ns()), (count - 1, Some(0)));
            assert_eq!(pace.lateness.max_ns(), Some(late * 1_000));
        }
    }

    #[test]
    fn what_the_warm_up_left_over_leaves_with_it() {
        let mut pace = pace();
        pace.handle_sent(us(0), false);
        pace.leave_warmup(us(1_000));
        assert_eq!(pace.next, us(1_000));
        pace.handle_sent(us(1_010), true);
        assert_eq!(pace.next, us(1_100));
        assert_eq!(pace.lateness.max_ns(), Some(10_000));
        assert_eq!(pace.deviation.count(), 0);
        assert_eq!(pace.count_unsent(us(2_000)), 9);
        // A sender on time loses nothing.
        let mut on_time = self::pace();
        on_time.handle_sent(us(0), false);
        on_time.leave_warmup(us(100));
        assert_eq!(on_time.next, us(100));
    }

    #[test]
    fn what_did_not_leave_is_counted_of_a_whole_day_at_once() {
        const DAY: u64 = 86_400;
        let mut pace = pace();
        pace.handle_sent(us(0), true);
        assert_eq!([9, 0].map(|_| pace.count_unsent(us(1_000))), [9, 0]);
        let schedule = Constant::new(1e9, Share::WHOLE).unwrap();
        let mut pace = Pace::new(schedule, Nanos(1));
        pace.start(Instant(5));
        pace.handle_sent(Instant(5), true);
        let day = Nanos::from_secs(DAY);
        assert_eq!(pace.count_unsent(Instant(5) + day), DAY * 1_000_000_000 - 1);
    }
}
