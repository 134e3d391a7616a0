//! Who sends next, and when it was meant to: closed and open loop, by time and by count.

use std::collections::VecDeque;

use crate::schedule::{Constant, Schedule};
use tare_stats::histogram::{SameBin, bin_start};
use tare_units::{Instant, Nanos};

/// When the run is over, arrivals that nobody sent are visited one by one, up to so many draws:
/// that takes 0.1 s, and an interrupted run has no more. A constant rate takes arithmetic.
const VISITS_MAX: u64 = 8 << 20;
/// Fewer equally spaced arrivals than this are visited, which takes less than the arithmetic.
const TOGETHER_LEAST: u64 = 32;
/// Arrivals whose due times are kept, so that others can be placed between them.
const MARKS: usize = 1024;
/// Arrivals from one mark to the next, at first.
const MARK_EVERY: u64 = 1024;

/// What a slot is to do at the next submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Connect,
    /// Begin an operation that was due at the instant, or, in closed loop, is due now.
    Begin {
        due: Option<Instant>,
    },
    /// Send the request of an operation that has begun by connecting.
    Request,
}

#[derive(Debug, Clone)]
struct Arrivals {
    schedule: Schedule,
    start: Instant,
    /// Arrivals from here on are the measured phase's.
    measured_from: Instant,
    end: Instant,
    /// Arrivals of the measured phase still to come, where it ends by count.
    left: Option<u64>,
    /// The next arrival; [`Instant::FAR_FUTURE`] behind the last.
    next: Instant,
    last: Option<Instant>,
    index: u64,
}

/// Arrivals that a walk has passed over.
#[derive(Debug, Clone, Copy, Default)]
struct Stretch {
    count: u64,
    first: Instant,
    last: Instant,
    sum_ns: u128,
}

impl Stretch {
    fn add(&mut self, due: Instant) {
        if self.count == 0 {
            self.first = due;
        }
        self.count += 1;
        self.last = due;
        self.sum_ns += u128::from(due.0);
    }

    /// How long they have been due at `now`.
    fn overdue(&self, now: Instant) -> SameBin {
        SameBin {
            count: self.count,
            shortest: now.since(self.last),
            longest: now.since(self.first),
            sum_ns: u128::from(self.count) * u128::from(now.0) - self.sum_ns,
        }
    }
}

impl Arrivals {
    /// Those of `schedule`, which counts from `start`.
    fn new(schedule: Schedule, start: Instant, measured_from: Instant, end: Instant) -> Self {
        let next = Instant::FAR_FUTURE;
        Self { schedule, start, measured_from, end, left: None, next, last: None, index: 0 }
    }

    fn find_next(&mut self) {
        let offset = if self.left == Some(0) { None } else { self.schedule.next() };
        let next = offset.map(|offset| self.start + offset).filter(|next| *next < self.end);
        self.next = next.unwrap_or(Instant::FAR_FUTURE);
    }

    #[inline]
    fn advance(&mut self) {
        self.count_next();
        self.find_next();
    }

    #[inline]
    fn count_next(&mut self) {
        if self.next >= self.measured_from
            && let Some(left) = &mut self.left
        {
            *left -= 1;
        }
        self.last = Some(self.next);
        self.index += 1;
    }

    /// Passes over the arrivals before `until`, but visits no more than `visits`.
    #[inline]
    fn pass(&mut self, until: Instant, visits: u64) -> Stretch {
        let mut stretch = Stretch::default();
        for _ in 0..visits {
            if self.next >= until {
                break;
            }
            stretch.add(self.next);
            self.count_next();
            self.pass_together(until, &mut stretch);
            self.find_next();
        }
        stretch
    }

    /// Passes over arrivals behind the next one without visiting them, where they are equally
    /// spaced and many.
    #[inline]
    fn pass_together(&mut self, until: Instant, stretch: &mut Stretch) {
        let Schedule::Constant(constant) = &mut self.schedule else { return };
        let is_measured = self.next >= self.measured_from;
        let phase_end = if is_measured { self.end } else { self.measured_from };
        let until = until.min(phase_end);
        let least = constant.step.saturating_mul(TOGETHER_LEAST);
        if until.since(self.next).0 <= least {
            return;
        }
        let most = self.left.filter(|_| is_measured).unwrap_or(u64::MAX);
        let passed = constant.pass_most(until.since(self.start), most);
        if passed.count == 0 {
            return;
        }
        stretch.count += passed.count;
        stretch.last = self.start + passed.last;
        stretch.sum_ns += passed.sum_ns + u128::from(passed.count) * u128::from(self.start.0);
        self.index += passed.count;
        self.last = Some(stretch.last);
        if is_measured && let Some(left) = &mut self.left {
            *left -= passed.count;
        }
    }
}

/// The due time of every so many-th arrival up to the clock. When there are [`MARKS`] of them,
/// every second one is dropped.
#[derive(Debug)]
struct Marks {
    every: u64,
    dues: Vec<Instant>,
}

impl Marks {
    fn next(&self) -> u64 {
        self.every * self.dues.len() as u64
    }

    fn push(&mut self, due: Instant) {
        self.dues.push(due);
        if self.dues.len() == MARKS {
            let mut keeps = false;
            self.dues.retain(|_| {
                keeps = !keeps;
                keeps
            });
            self.every *= 2;
        }
    }

    /// The marks behind arrival `index`, with their numbers.
    fn behind(&self, index: u64) -> impl Iterator<Item = (u64, Instant)> {
        let numbered = (0..).map(|mark| mark * self.every).zip(&self.dues);
        numbered.map(|(number, due)| (number, *due)).skip_while(move |(number, _)| *number <= index)
    }
}

/// Slots that can take an operation: those with the fewest first, and of these the one that has
/// waited longest, so that all of them are used.
///
/// A slot is in every queue from the number of operations that it has up to its depth less one. So
/// the front of the first queue that is not empty has no more than any other, and a slot whose
/// operation has ended is only added to the queue below its others.
#[derive(Debug)]
struct Free {
    queues: Vec<VecDeque<u32>>,
    /// All queues before it are empty.
    first: usize,
}

impl Free {
    fn new(slots: usize, depth: usize) -> Self {
        Self { queues: (0..depth).map(|_| VecDeque::with_capacity(slots)).collect(), first: depth }
    }

    fn is_empty(&self) -> bool {
        self.first == self.queues.len()
    }

    fn push(&mut self, slot: u32, at: usize) {
        self.queues[at].push_back(slot);
        self.first = self.first.min(at);
    }

    fn pop(&mut self) -> Option<u32> {
        let slot = self.queues.get_mut(self.first)?.pop_front();
        while self.queues.get(self.first).is_some_and(VecDeque::is_empty) {
            self.first += 1;
        }
        slot
    }

    fn clear(&mut self) {
        self.queues.iter_mut().for_each(VecDeque::clear);
        self.first = self.queues.len();
    }
}

/// Deals out what is to be done.
///
/// In open loop an arrival waits until a slot is free; the queue is not stored anywhere: it is the
/// stretch of the schedule between two walks along it, behind the clock and behind the sends.
#[derive(Debug)]
pub(crate) struct Pacer {
    schedule: Option<Schedule>,
    /// Follows the sends.
    sending: Option<Arrivals>,
    /// Follows the clock.
    arriving: Option<Arrivals>,
    /// Where that walk has been, of arrivals that are not counted by arithmetic.
    marks: Marks,
    /// Arrivals that wait: due, and not given to a slot.
    backlog: u64,
    /// The most arrivals of the measured phase that waited at once.
    pub(crate) backlog_max: u64,
    /// Arrivals of the warm-up that left the queue at its end, once it has come.
    pub(crate) left_behind: Option<u64>,
    /// After the last dispatch a slot was free: what became due since waits for the worker alone.
    had_free: bool,
    /// Time that measured arrivals waited for the worker while a slot was free, summed over them.
    pub(crate) worker_away: Nanos,
    /// Arrivals whose slot could not take them after all, in order: the next ones to be sent.
    returned: VecDeque<Instant>,
    free: Free,
    ready: Vec<(u32, Action)>,
    /// The other half of `ready`: swapped with it, so that neither is ever allocated again.
    spare: Vec<(u32, Action)>,
    warmup_end: Instant,
    /// The end by time; far away where the run ends by count.
    pub(crate) end: Instant,
    /// The end by time has come: no more arrivals are given to slots.
    closed: bool,
    /// Closed loop by count: operations of the measured phase that are still to be begun.
    remaining: Option<u64>,
}

impl Pacer {
    /// Each of the `slots` takes up to `depth` operations at once.
    pub(crate) fn new(
        schedule: Option<Schedule>,
        count: Option<u64>,
        slots: usize,
        depth: usize,
    ) -> Self {
        let queued = if schedule.is_some() { slots } else { 0 };
        Self {
            schedule,
            sending: None,
            arriving: None,
            marks: Marks { every: MARK_EVERY, dues: Vec::with_capacity(MARKS) },
            backlog: 0,
            backlog_max: 0,
            left_behind: None,
            had_free: false,
            worker_away: Nanos::ZERO,
            returned: VecDeque::with_capacity(slots),
            free: Free::new(queued, depth),
            // An operation for each place, and beside them what each slot is still to send.
            ready: Vec::with_capacity(slots * (depth + 1)),
            spare: Vec::with_capacity(slots * (depth + 1)),
            warmup_end: Instant::FAR_FUTURE,
            end: Instant::FAR_FUTURE,
            closed: false,
            remaining: count,
        }
    }

    /// The warm-up begins at `t0`, the measured phase at `warmup_end`; it ends at `end`, or by
    /// count.
    pub(crate) fn start(&mut self, t0: Instant, warmup_end: Instant, end: Instant) {
        self.warmup_end = warmup_end;
        self.end = end;
        self.sending = self.schedule.take().map(|schedule| {
            let mut arrivals = Arrivals::new(schedule, t0, warmup_end, end);
            arrivals.left = self.remaining;
            arrivals.find_next();
            arrivals
        });
        self.arriving = self.sending.clone();
    }

    pub(crate) const fn is_open_loop(&self) -> bool {
        self.sending.is_some() || self.schedule.is_some()
    }

    /// Whether an operation that is due at `at` belongs to the measured phase.
    pub(crate) fn is_measured(&self, at: Instant) -> bool {
        at >= self.warmup_end
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Every operation that was asked for by count has begun.
    pub(crate) fn is_spent(&self) -> bool {
        let left = self.sending.as_ref().map_or(self.remaining, |sending| sending.left);
        left == Some(0) && self.ready.is_empty() && self.returned.is_empty()
    }

    /// Whether the end by time has come, and what was due before it and found a free slot has been
    /// submitted. Once this was asked behind the end, no more arrivals are given to slots.
    pub(crate) fn is_over(&mut self, now: Instant) -> bool {
        if now < self.end {
            return false;
        }
        self.closed = true;
        let is_due = |(_, action): &(u32, Action)| matches!(action, Action::Begin { due: Some(_) });
        !self.ready.iter().any(is_due)
    }

    /// Open loop by count: where the time of the last arrival ends, and the next one would be due
    /// on average; the beginning of time where there was none.
    pub(crate) fn last_ends(&self) -> Instant {
        self.sending
            .as_ref()
            .and_then(|sending| Some(sending.last? + sending.schedule.gap_behind()))
            .unwrap_or_default()
    }

    /// When an arrival comes that a free slot can take.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let arrivals = self.sending.as_ref().filter(|_| !self.free.is_empty())?;
        if let Some(returned) = self.returned.front() {
            return Some(*returned);
        }
        (arrivals.next < Instant::FAR_FUTURE).then_some(arrivals.next)
    }

    /// When the next arrival comes, whether a slot is free or not.
    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        let next = self.sending.as_ref()?.next;
        (next < Instant::FAR_FUTURE).then_some(next)
    }

    /// The slot can take one more operation, when it has `depth` others at most: that is below all
    /// that it had been made available with, and not yet given an operation for.
    pub(crate) fn make_available(&mut self, slot: u32, depth: usize) {
        if self.is_open_loop() {
            self.free.push(slot, depth);
        } else {
            self.ready.push((slot, Action::Begin { due: None }));
        }
    }

    pub(crate) fn push(&mut self, slot: u32, action: Action) {
        self.ready.push((slot, action));
    }

    /// What became due in the warm-up and has not begun by its end leaves the queue. The walk that
    /// follows the clock has reached that end, so the one that follows the sends continues from
    /// there, and none of those that wait is visited.
    fn leave_warmup(&mut self) {
        self.backlog += self.arrive_before(self.warmup_end).count;
        let (Some(arriving), Some(sending)) = (&self.arriving, &mut self.sending) else { return };
        sending.clone_from(arriving);
        self.returned.clear();
        self.left_behind = Some(std::mem::take(&mut self.backlog));
        self.backlog_max = 0;
        self.worker_away = Nanos::ZERO;
    }

    #[inline]
    fn arrive_before(&mut self, until: Instant) -> Stretch {
        let mut all = Stretch::default();
        let Some(arriving) = &mut self.arriving else { return all };
        if matches!(arriving.schedule, Schedule::Constant(_)) {
            return arriving.pass(until, u64::MAX);
        }
        while arriving.next < until {
            if arriving.index == self.marks.next() {
                self.marks.push(arriving.next);
            }
            all.add(arriving.next);
            arriving.advance();
        }
        all
    }

    /// Open loop: counts what is due at `now`, and gives it to free slots; `is_usable` says of
    /// which, and is asked once for each that is taken.
    pub(crate) fn dispatch(&mut self, now: Instant, mut is_usable: impl FnMut(u32) -> bool) {
        if self.left_behind.is_none() && now >= self.warmup_end {
            self.leave_warmup();
        }
        let arrived = self.arrive_before(now + Nanos(1));
        self.backlog += arrived.count;
        if self.had_free && arrived.count > 0 {
            let away_ns = u64::try_from(arrived.overdue(now).sum_ns).unwrap_or(u64::MAX);
            self.worker_away = self.worker_away + Nanos(away_ns);
        }
        let Some(sending) = &mut self.sending else { return };
        while !self.closed && (sending.next <= now || !self.returned.is_empty()) {
            let Some(slot) = self.free.pop() else { break };
            if !is_usable(slot) {
                continue;
            }
            let due = self.returned.pop_front().unwrap_or_else(|| {
                let due = sending.next;
                sending.advance();
                due
            });
            self.ready.push((slot, Action::Begin { due: Some(due) }));
            self.backlog -= 1;
        }
        self.had_free = !self.free.is_empty();
        self.backlog_max = self.backlog_max.max(self.backlog);
    }

    /// An arrival that was given to a slot is due again: the slot cannot take it. One of the
    /// warm-up leaves the queue where that is over.
    pub(crate) fn give_back(&mut self, due: Instant) {
        match &mut self.left_behind {
            Some(left) if due < self.warmup_end => *left += 1,
            _ => {
                self.returned.push_back(due);
                self.backlog += 1;
            }
        }
    }

    /// Open loop: calls `dropped` with the arrivals that are due at `now` and found no free slot,
    /// as [`Pacer::take_unsent`] does. Nothing waits then.
    pub(crate) fn shed(&mut self, now: Instant, mut dropped: impl FnMut(Instant, &SameBin)) {
        let Some(sending) = &mut self.sending else { return };
        for due in self.returned.drain(..) {
            dropped(due, &SameBin::one(now.since(due)));
        }
        leave(sending, now, now + Nanos(1), u64::MAX, &mut dropped);
        (self.backlog, self.backlog_max) = (0, 0);
    }

    /// Closed loop: whether an operation may begin at `now`; it is counted if it may.
    pub(crate) fn may_begin(&mut self, now: Instant, measured: bool) -> bool {
        if now >= self.end || self.remaining == Some(0) {
            return false;
        }
        if measured && let Some(remaining) = &mut self.remaining {
            *remaining -= 1;
        }
        true
    }

    /// Closed loop: an operation of the measured phase that has begun was not sent after all.
    /// Returns whether nothing was left to begin until now, so that slots were refused one.
    pub(crate) fn take_back(&mut self) -> bool {
        let Some(remaining) = &mut self.remaining else { return false };
        *remaining += 1;
        *remaining == 1
    }

    /// What is to be done now, to be given back to [`Pacer::put_back`].
    pub(crate) fn take_ready(&mut self) -> Vec<(u32, Action)> {
        std::mem::replace(&mut self.ready, std::mem::take(&mut self.spare))
    }

    pub(crate) fn put_back(&mut self, mut taken: Vec<(u32, Action)>) {
        taken.clear();
        self.spare = taken;
    }

    pub(crate) fn finish(&mut self) {
        let returned = &mut self.returned;
        // An operation that has begun goes on.
        self.ready.retain(|(_, action)| match action {
            Action::Begin { due } => {
                returned.extend(*due);
                false
            }
            Action::Connect | Action::Request => true,
        });
        self.free.clear();
        self.end = Instant::default();
    }

    /// The loop has ended: calls `unsent` with all arrivals before `end` that were not sent. Those
    /// of one phase whose age has the same bin are told together: when the first was due, and how
    /// old all are. Some ten thousand calls are made for each power of ten of their number.
    ///
    /// More than [`VISITS_MAX`] that are not equally spaced are not visited, but spread evenly
    /// between the marks; returns how many were.
    pub(crate) fn take_unsent(
        &mut self,
        end: Instant,
        mut unsent: impl FnMut(Instant, &SameBin),
    ) -> u64 {
        for due in self.returned.drain(..) {
            unsent(due, &SameBin::one(end.since(due)));
        }
        let Some(sending) = &mut self.sending else { return 0 };
        let visits = VISITS_MAX.checked_div(sending.schedule.draws()).unwrap_or(u64::MAX);
        leave(sending, end, end, visits, &mut unsent);
        if sending.next >= end {
            return 0;
        }
        self.spread_unsent(end, &mut unsent)
    }

    /// Spreads the rest, which is too much to be visited, evenly between the marks.
    ///
    /// Of `n` arrivals of a Poisson process between two that are known, none is farther off its
    /// even place than some √n/2 mean gaps (the standard deviation in the middle of a Brownian
    /// bridge): of a million in 50 ms, 25 µs.
    fn spread_unsent(&mut self, end: Instant, unsent: &mut impl FnMut(Instant, &SameBin)) -> u64 {
        self.arrive_before(end);
        let (Some(arriving), Some(sending)) = (&self.arriving, &mut self.sending) else { return 0 };
        let count = arriving.index - sending.index;
        let last = std::iter::once((arriving.index, end));
        let (mut index, mut from) = (sending.index, sending.next);
        for (number, until) in self.marks.behind(index).chain(last) {
            let spaced = Constant::spread(Nanos::ZERO, until.since(from), number - index);
            let (spaced, end_of_all) = (Schedule::Constant(spaced), Instant::FAR_FUTURE);
            let mut spaced = Arrivals::new(spaced, from, Instant::default(), end_of_all);
            spaced.left = Some(number - index);
            spaced.find_next();
            leave(&mut spaced, end, Instant::FAR_FUTURE, u64::MAX, unsent);
            (index, from) = (number, until);
        }
        sending.clone_from(arriving);
        count
    }
}

/// Calls `unsent` with the arrivals before `until`, those of one bin at `now` together; visits no
/// more than `visits`.
fn leave(
    arrivals: &mut Arrivals,
    now: Instant,
    until: Instant,
    mut visits: u64,
    unsent: &mut impl FnMut(Instant, &SameBin),
) {
    while arrivals.next < until && visits > 0 {
        let due = arrivals.next;
        let alike = Instant(now.0 - bin_start(now.since(due)).0) + Nanos(1);
        let phase_end = if due < arrivals.measured_from { arrivals.measured_from } else { until };
        let before = arrivals.index;
        let stretch = arrivals.pass(alike.min(until).min(phase_end), visits);
        visits = visits.saturating_sub(arrivals.index - before);
        unsent(due, &stretch.overdue(now));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schedule::{Arrivals, Load, Share};
    use tare_stats::histogram::{Distribution, Extent, Metric, Recording, RecordingSpec};

    const MS: u64 = 1_000_000;

    /// A pacer of 1,000 per second: 10 ms of warm-up, and 100 ms that are measured, or a count.
    fn open(count: Option<u64>, slots: u32) -> Pacer {
        let end = if count.is_some() { Instant::FAR_FUTURE } else { Instant(110 * MS) };
        let schedule = Schedule::constant(1_000.0, Share::WHOLE).unwrap();
        started(schedule, count, slots, Instant(10 * MS), end)
    }

    fn started(
        schedule: Schedule,
        count: Option<u64>,
        slots: u32,
        warmup_end: Instant,
        end: Instant,
    ) -> Pacer {
        let mut pacer = Pacer::new(Some(schedule), count, slots as usize, 1);
        pacer.start(Instant(0), warmup_end, end);
        (0..slots).for_each(|slot| pacer.make_available(slot, 0));
        pacer
    }

    /// What is given out at `now`.
    fn given(pacer: &mut Pacer, now: Instant) -> Vec<(u32, Action)> {
        pacer.dispatch(now, |_| true);
        let ready = pacer.take_ready();
        let given = ready.clone();
        pacer.put_back(ready);
        given
    }

    fn slots(given: Vec<(u32, Action)>) -> Vec<u32> {
        given.into_iter().map(|(slot, _)| slot).collect()
    }

    /// When what was not sent was due, milliseconds.
    fn unsent(pacer: &mut Pacer, end: Instant) -> Vec<u64> {
        let mut unsent = Vec::new();
        pacer.finish();
        pacer.take_unsent(end, |due, _| unsent.push(due.0 / MS));
        unsent
    }

    #[test]
    fn arrivals_wait_for_a_free_slot_and_none_is_lost() {
        let mut pacer = open(None, 1);
        let first = given(&mut pacer, Instant(9 * MS));
        assert_eq!(first, [(0, Action::Begin { due: Some(Instant(0)) })]);
        assert_eq!(pacer.backlog_max, 9, "10 are due, one is sent");
        assert_eq!(pacer.wake_at(), None, "nobody is free to take the next one");
        pacer.dispatch(Instant(30 * MS), |_| true);
        assert_eq!(pacer.left_behind.unwrap_or(0), 9, "the warm-up ended at 10 ms");
        assert_eq!(pacer.backlog_max, 21);
        assert_eq!(unsent(&mut pacer, Instant(50 * MS)), (10..50).collect::<Vec<_>>());
        // What was dispatched and not submitted is unsent.
        let mut pacer = open(None, 4);
        pacer.dispatch(Instant(2 * MS), |_| true);
        assert_eq!(unsent(&mut pacer, Instant(3 * MS)), [0, 1, 2]);
        // What has begun goes on behind the end.
        let mut pacer = open(None, 1);
        pacer.push(0, Action::Request);
        assert!(unsent(&mut pacer, Instant(0)).is_empty());
        assert_eq!(pacer.take_ready(), [(0, Action::Request)]);
    }

    #[test]
    fn what_is_due_and_has_a_slot_is_submitted_before_the_end() {
        let mut pacer = open(None, 95);
        let end = Instant(110 * MS);
        assert!(!pacer.is_over(Instant(end.0 - 1)));
        // The end is the first that is noticed: 100 were due since the warm-up, 95 slots are free.
        pacer.dispatch(end, |_| true);
        assert!(!pacer.is_over(end), "they are to be submitted");
        assert_eq!(pacer.take_ready().len(), 95);
        pacer.make_available(0, 0);
        pacer.dispatch(end, |_| true);
        assert!(pacer.is_over(end), "what is free only now takes nothing");
        assert_eq!(unsent(&mut pacer, end), (105..110).collect::<Vec<_>>());
    }

    #[test]
    fn by_count_the_warm_up_is_not_counted() {
        let mut pacer = open(Some(3), 100);
        pacer.dispatch(Instant(9 * MS), |_| true);
        let all = given(&mut pacer, Instant(1_000 * MS));
        assert_eq!(all.len(), 10 + 3);
        assert_eq!(all[12].1, Action::Begin { due: Some(Instant(12 * MS)) });
        assert!(pacer.is_spent());
        // In closed loop neither.
        let mut pacer = Pacer::new(None, Some(2), 1, 1);
        pacer.start(Instant(0), Instant(10), Instant::FAR_FUTURE);
        let begins = [(5, false), (11, true), (12, true), (13, true)];
        let begins = begins.map(|(at, measured)| pacer.may_begin(Instant(at), measured));
        assert_eq!(begins, [true, true, true, false]);
        assert!(pacer.is_spent());
    }

    #[test]
    fn what_the_warm_up_did_not_begin_leaves_with_it_whatever_the_schedule() {
        let schedules: [fn() -> Schedule; 3] = [
            || Schedule::constant(1e6, Share::WHOLE).unwrap(),
            || Schedule::poisson(1e6, 7, Share::new(1, 3)).unwrap(),
            || {
                let (hold, ramp) = (Nanos(10 * MS), Nanos(10 * MS));
                let load = Load { from_per_s: 1e6, to_per_s: 2e6, hold, ramp };
                Schedule::new(&load, Arrivals::Jitter(0.3), 7, Share::WHOLE).unwrap()
            },
        ];
        for schedule in schedules {
            for (step, late) in [(MS / 100, 0), (7 * MS, 0), (11 * MS, 0), (MS / 10, 3 * MS)] {
                let (warmup_end, end) = (Instant(10 * MS), Instant(20 * MS));
                let mut pacer = started(schedule(), None, 3, warmup_end, end);
                let mut begun = Vec::new();
                // The clock may stand still around the end of the warm-up.
                let times = (0..=20 * MS).step_by(step as usize);
                for now in times.filter(|now| now.abs_diff(10 * MS) >= late) {
                    let given = given(&mut pacer, Instant(now)).into_iter();
                    begun.extend(given.map(|(_, action)| match action {
                        Action::Begin { due: Some(due) } => due.0,
                        other => panic!("{other:?}"),
                    }));
                    if now == step {
                        // One comes back in the warm-up, and one of the warm-up after it.
                        pacer.give_back(Instant(begun.pop().unwrap()));
                        pacer.make_available(0, 0);
                    }
                }
                if let Some(place) = begun.iter().position(|at| *at < 10 * MS) {
                    pacer.give_back(Instant(begun.remove(place)));
                }
                let warm = schedule().take_while(|at| at.0 < 10 * MS).count();
                let measured = schedule().take_while(|at| at.0 < 20 * MS).count() - warm;
                let warm_begun = begun.iter().filter(|at| **at < 10 * MS).count();
                let mut unsent = 0;
                pacer.finish();
                pacer.take_unsent(Instant(20 * MS), |due, overdue| {
                    assert!(due.0 >= 10 * MS);
                    unsent += usize::try_from(overdue.count).unwrap();
                });
                let measured_begun = begun.len() - warm_begun;
                assert_eq!(measured_begun + unsent, measured, "{step} {late}");
                let left = usize::try_from(pacer.left_behind.unwrap_or(0)).unwrap();
                assert_eq!(warm_begun + left, warm, "{step} {late}");
            }
        }
    }

    #[test]
    fn the_worker_is_away_where_a_slot_was_free_and_nothing_was_sent() {
        let mut pacer = open(None, 3);
        // Until 10 ms it is the warm-up. Then two slots are left: 11, 12 and 13 become due while
        // the worker is away, and all of them wait for it. At 50 ms none was free: that they wait is
        // not its fault.
        for (now, away) in [(10, 0), (13, 3), (50, 3)] {
            pacer.dispatch(Instant(now * MS), |_| true);
            assert_eq!(pacer.worker_away, Nanos(away * MS), "{now} ms");
        }
    }

    #[test]
    fn dead_slots_take_no_arrival_and_of_the_others_the_least_loaded_and_idlest_comes_first() {
        let mut pacer = open(None, 2);
        pacer.dispatch(Instant(0), |slot| slot == 1);
        assert_eq!(pacer.take_ready(), [(1, Action::Begin { due: Some(Instant(0)) })]);
        let mut pacer = open(None, 3);
        for (now, slot) in [(0, 0), (MS, 1), (2 * MS, 2), (3 * MS, 0)] {
            assert_eq!(slots(given(&mut pacer, Instant(now))), [slot]);
            pacer.make_available(slot, 0);
        }
        let schedule = Schedule::constant(1_000.0, Share::WHOLE).unwrap();
        let mut pacer = Pacer::new(Some(schedule), None, 3, 2);
        pacer.start(Instant(0), Instant(0), Instant::FAR_FUTURE);
        // As a connection is offered: all its places at once.
        for (slot, depth) in [(0, 1), (0, 0), (1, 1), (1, 0), (2, 1), (2, 0)] {
            pacer.make_available(slot, depth);
        }
        assert_eq!(slots(given(&mut pacer, Instant(3 * MS))), [0, 1, 2, 0]);
        // Slot 2 is done with its one operation: it is idle, and slot 1 has one.
        pacer.make_available(2, 0);
        assert_eq!(slots(given(&mut pacer, Instant(6 * MS))), [2, 1, 2]);
        assert_eq!(pacer.wake_at(), None);
    }

    fn ramp(from_per_s: f64, to_per_s: f64) -> Load {
        Load { from_per_s, to_per_s, hold: Nanos(10 * MS), ramp: Nanos(40 * MS) }
    }

    /// A pacer whose one slot never comes back, at the end of a run from 0 to `end`.
    fn overrun(schedule: Schedule, warmup_end: Instant, end: Instant) -> Pacer {
        let mut pacer = started(schedule, None, 1, warmup_end, end);
        for now in 0..=20 {
            given(&mut pacer, Instant(end.0 / 20 * now));
        }
        pacer.finish();
        pacer
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_not_sent_is_recorded_together_as_one_by_one(
            kind in 0..5,
            rate in 1e3f64..5e6,
            seed in 0u64..1_000,
            worker in 0u32..3,
            by_count in proptest::bool::ANY,
        ) {
            let share = Share::new(worker, 3);
            let schedule = match kind {
                0 => Schedule::constant(rate, share),
                1 => Schedule::poisson(rate, seed, share),
                2 => Schedule::new(&Load::steady(rate), Arrivals::Jitter(0.4), seed, share),
                3 => Schedule::new(&ramp(rate, 2.0 * rate), Arrivals::Constant, seed, share),
                _ => Schedule::new(&ramp(rate, rate / 3.0), Arrivals::Poisson, seed, share),
            };
            let schedule = schedule.unwrap();
            let (warmup_end, end) = (Instant(12 * MS), Instant(60 * MS));
            let time = Extent::Time(Nanos(48 * MS));
            let extent = if by_count { Extent::Count(20_000) } else { time };
            let spec = RecordingSpec { extent, interval: Nanos(10 * MS), open_loop: true };
            let mut pacer = overrun(schedule.clone(), warmup_end, end);
            // What the last dispatches gave to the slot was begun.
            let begun = pacer.sending.as_ref().unwrap().next;
            let (mut together, mut single) = (Recording::new(spec), Recording::new(spec));
            together.begin(warmup_end);
            single.begin(warmup_end);
            let mut calls = 0;
            let spread = pacer.take_unsent(end, |due, overdue| {
                assert!(due >= warmup_end);
                together.record_unsent(end, overdue);
                calls += 1;
            });
            let dues = schedule.map(|offset| Instant(0) + offset);
            let unsent = dues.skip_while(|due| *due < begun).take_while(|due| *due < end);
            let mut count = 0;
            for due in unsent {
                single.record_unsent(end, &SameBin::one(end.since(due)));
                count += 1;
            }
            prop_assert_eq!(spread, 0);
            prop_assert!(calls <= count);
            for metric in [Metric::Response, Metric::Lateness] {
                let [a, b] = [&together, &single].map(|of| of.distribution(metric).unwrap());
                prop_assert_eq!(a.encode(), b.encode());
                let figures = |d: &Distribution| (d.count(), d.censored(), d.max_ns(), d.mean_ns());
                prop_assert_eq!(figures(a), figures(b));
                prop_assert_eq!(a.quantile(5.0), b.quantile(5.0));
                prop_assert_eq!(together.block_counts(metric, 0.5), single.block_counts(metric, 0.5));
            }
            let length = end.since(warmup_end);
            let series = |of: &Recording| -> Vec<_> {
                of.series(length).map(|entry| (entry.max, entry.encode())).collect()
            };
            prop_assert_eq!(series(&together), series(&single));
        }
    }

    /// The time from the signal to the end of the process is bounded, whatever was due.
    #[test]
    fn six_hundred_million_that_were_not_sent_are_left_in_some_thousand_calls() {
        let end = Instant(30_000 * MS);
        let schedule = Schedule::constant(2e7, Share::WHOLE).unwrap();
        let mut pacer = overrun(schedule, Instant(0), end);
        let (mut calls, mut count, mut sum_ns) = (0, 0, 0);
        let spread = pacer.take_unsent(end, |_, overdue| {
            calls += 1;
            count += overdue.count;
            sum_ns += overdue.sum_ns;
        });
        // 0 was sent; they are 50 ns apart.
        let expected = 600_000_000 - 1;
        assert_eq!((count, spread), (expected, 0));
        assert_eq!(sum_ns, 50 * u128::from(expected) * u128::from(expected + 1) / 2);
        assert!(calls < 30_000, "{calls}");
    }

    #[test]
    fn more_than_can_be_visited_are_spread_and_none_is_lost_or_made_up() {
        let end = Instant(2_000 * MS);
        let share = Share::new(1, 2);
        let ramp = Load { hold: Nanos(500 * MS), ramp: Nanos(1_000 * MS), ..ramp(1e7, 2e7) };
        let schedules =
            [Schedule::poisson(1.5e7, 3, share), Schedule::new(&ramp, Arrivals::Poisson, 3, share)];
        for schedule in schedules {
            let schedule = schedule.unwrap();
            let mut pacer = overrun(schedule.clone(), Instant(0), end);
            let (mut calls, mut count) = (0, 0);
            let (mut together, mut single) = (Distribution::new(), Distribution::new());
            let spread = pacer.take_unsent(end, |_, overdue| {
                calls += 1;
                count += overdue.count;
                together.record_censored_together(overdue);
            });
            assert!(pacer.take_unsent(end, |_, _| panic!("all are left")) == 0);
            let dues = schedule.map(|offset| offset.0).take_while(|due| *due < end.0);
            for due in dues.skip(1) {
                single.record_censored(Nanos(end.0 - due));
            }
            assert_eq!(count, single.count());
            assert!(spread > 1_000_000 && spread < count);
            assert!(calls < 50_000, "{calls}");
            for percent in [0.1, 1.0, 25.0, 50.0, 75.0, 99.0, 99.9] {
                let [a, b] = [&together, &single].map(|of| of.quantile(percent).unwrap().value_ns);
                let off = single.resolution(Nanos(b)).0 + 50_000;
                assert!(a.abs_diff(b) <= off, "{percent}: {a} {b}");
            }
        }
    }
}
