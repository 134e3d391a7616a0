//! The phases of a client that sends requests and awaits their replies, whatever these are, and what they leave behind.

use crate::worker::TurnCounters;
use crate::worker::gauge::ProgressSink;
use crate::worker::outcome::Outcome;
use crate::worker::pacer::Pacer;
use crate::worker::tally::Tally;
use tare_stats::histogram::Recording;
use tare_units::bounds::{CLOSING_MAX, DRAIN_INTERRUPTED, FINISH_INTERRUPTED};
use tare_units::control::{Interrupt, Phase};
use tare_units::{Instant, Nanos};

/// Where a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// Its connections are on their way.
    Connecting,
    /// It waits for all other workers.
    Ready,
    /// The warm-up begins at `t0`.
    Starting { t0: Instant },
    /// What is sent now is in no figure.
    WarmingUp,
    /// What is sent now counts.
    Measuring,
    /// What is under way may still finish.
    Draining { deadline: Instant },
    /// Connections are being ended.
    Finishing { deadline: Instant },
    /// Nothing is left to do.
    Finished,
}

/// How long a run is, and its patience.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Length {
    pub(crate) warmup: Nanos,
    /// Of the measured phase, unless it ends by count.
    pub(crate) duration: Option<Nanos>,
    pub(crate) count: Option<u64>,
    /// How long a reply is awaited.
    pub(crate) timeout: Nanos,
}

/// The phases of one client worker, with what goes through all of them.
#[derive(Debug)]
pub(crate) struct RunPhases<G> {
    pub(crate) stand: Stand,
    length: Length,
    interrupt: Interrupt,
    /// End of the warm-up, once it is known.
    pub(crate) warmup_end: Instant,
    /// When the last reply of the measured phase came.
    pub(crate) measured_until: Instant,
    /// When the measured phase ended, once it has.
    measured_end: Instant,
    /// Operations begun that have come to no end.
    pub(crate) outstanding: u64,
    /// Entries of the series that were told to be complete.
    entries_told: usize,
    pub(crate) pacer: Pacer,
    pub(crate) gauge: G,
    pub(crate) outcome: Outcome,
}

impl<G: ProgressSink> RunPhases<G> {
    pub(crate) fn new(length: Length, pacer: Pacer, gauge: G, interrupt: Interrupt) -> Self {
        Self {
            stand: Stand::Connecting,
            length,
            interrupt,
            warmup_end: Instant::FAR_FUTURE,
            measured_until: Instant::default(),
            measured_end: Instant::default(),
            outstanding: 0,
            entries_told: 0,
            pacer,
            gauge,
            outcome: Outcome::default(),
        }
    }

    pub(crate) fn into_results(mut self) -> (Outcome, G) {
        self.outcome.backlog_max = self.pacer.backlog_max();
        self.outcome.worker_away = self.pacer.worker_away();
        (self.outcome, self.gauge)
    }

    /// Operations are begun, or will be at `t0`.
    pub(crate) const fn is_running(&self) -> bool {
        matches!(self.stand, Stand::Starting { .. } | Stand::WarmingUp | Stand::Measuring)
    }

    /// Nothing is begun any more.
    pub(crate) const fn is_ending(&self) -> bool {
        matches!(self.stand, Stand::Draining { .. } | Stand::Finishing { .. } | Stand::Finished)
    }

    /// The pacer's orders can be carried out.
    pub(crate) fn has_ready(&self) -> bool {
        self.pacer.has_ready() && !matches!(self.stand, Stand::Starting { .. })
    }

    /// The warm-up begins at `t0`, and with it the schedule.
    pub(crate) fn start(&mut self, t0: Instant, recording: &mut Recording) {
        self.stand = Stand::Starting { t0 };
        self.gauge.phase(Phase::WarmUp);
        self.warmup_end = t0 + self.length.warmup;
        self.outcome.warmup = self.length.warmup;
        // Not when the measured phase is noticed to have begun: what is sent in it may be answered before that.
        recording.begin(self.warmup_end);
        let duration = self.length.duration;
        let end = duration.map_or(Instant::FAR_FUTURE, |d| self.warmup_end + d);
        self.pacer.start(t0, self.warmup_end, end);
    }

    /// Goes on to the warm-up and the measured phase when their time has come; returns whether the measured phase begins.
    pub(crate) fn advance(
        &mut self,
        now: Instant,
        recording: &Recording,
        counters: &mut TurnCounters,
    ) -> bool {
        if let Stand::Starting { t0 } = self.stand
            && now >= t0
        {
            self.stand = Stand::WarmingUp;
        }
        let begins = self.stand == Stand::WarmingUp && now >= self.warmup_end;
        if begins {
            self.stand = Stand::Measuring;
            self.gauge.phase(Phase::Measure);
            self.gauge.measure_begins();
            counters.reset();
        }
        if self.stand == Stand::Measuring {
            self.tell_entries(now, recording);
        }
        begins
    }

    /// An operation was answered as expected at `now`. Within the measured phase it counts towards the goodput, whenever it was
    /// due: what was under way at its beginning stands in for what is under way at its end.
    pub(crate) fn count_answer(&mut self, now: Instant, recording: &mut Recording) {
        if now > self.warmup_end && now <= self.pacer.end() {
            self.outcome.answered += 1;
            recording.count_answer(now);
        }
    }

    /// Tells of the entries of the series that are over at `now`.
    fn tell_entries(&mut self, now: Instant, recording: &Recording) {
        let interval = recording.interval();
        while self.entries_told + 1 < recording.entries()
            && now >= self.warmup_end + Nanos(interval.0 * (self.entries_told as u64 + 1))
        {
            self.gauge.entry_ends(recording, self.entries_told);
            self.entries_told += 1;
        }
    }

    /// Tells how many operations have come to which end.
    pub(crate) fn tell_counts(&mut self, measured: &Tally) {
        let operations = &measured.operations;
        let failed = operations.failed + operations.timed_out;
        self.gauge.counts(operations.completed, failed);
    }

    /// Whether a running client has to end now: it was interrupted or cut short otherwise, its time is over, or all that was
    /// asked for is done.
    pub(crate) fn is_over(&mut self, now: Instant) -> bool {
        self.outcome.cut_short |= self.interrupt.is_raised();
        let is_done = || self.pacer.is_spent() && self.outstanding == 0;
        let is_over = self.outcome.cut_short || is_done();
        // Asked in any case: behind the end the pacer gives out nothing more.
        self.pacer.is_over(now) || is_over
    }

    /// Whether a client that has not begun was interrupted, which cuts it short.
    pub(crate) fn is_called_off(&mut self) -> bool {
        let called_off =
            matches!(self.stand, Stand::Connecting | Stand::Ready) && self.interrupt.is_raised();
        self.outcome.cut_short |= called_off;
        called_off
    }

    /// Begins to drain.
    pub(crate) fn drain(&mut self, now: Instant) {
        if self.stand == Stand::Measuring {
            self.gauge.measure_ends();
        } else {
            // It never came to measuring.
            let began = Instant(self.warmup_end.0 - self.length.warmup.0);
            self.outcome.warmup = now.since(began).min(self.length.warmup);
        }
        self.gauge.phase(Phase::Drain);
        let end = match self.length.count {
            _ if self.outcome.cut_short => now,
            // Ten at ten per second take a second, though the last is answered sooner.
            Some(_) => self.measured_until.max(self.pacer.last_ends()),
            None => now.min(self.pacer.end()),
        };
        self.measured_end = end;
        self.outcome.measured = end.since(self.warmup_end);
        self.pacer.finish();
        let patience = if self.outcome.cut_short {
            DRAIN_INTERRUPTED.min(self.length.timeout)
        } else {
            self.length.timeout
        };
        self.stand = Stand::Draining { deadline: now + patience };
    }

    /// Counts what was due before the end and was not sent. It may take a fifth of a second, which is that of replies under
    /// way: so this comes when nothing is awaited any more.
    pub(crate) fn count_unsent(
        &mut self,
        recording: &mut Recording,
        measured: &mut Tally,
        warmup: &mut Tally,
    ) {
        let (warmup_end, end) = (self.warmup_end, self.measured_end);
        let left_behind = self.pacer.left_behind();
        warmup.operations.due += left_behind;
        warmup.operations.unsent_at_end += left_behind;
        let spread = self.pacer.take_unsent(end, |due, overdue| {
            if due >= warmup_end {
                measured.count_unsent(Some(&mut *recording), overdue, end);
            } else {
                warmup.count_unsent(None, overdue, end);
            }
        });
        recording.count_spread_unsent(spread);
    }

    /// Whether a draining client need not wait any longer.
    pub(crate) fn is_drained(&self, now: Instant) -> bool {
        match self.stand {
            Stand::Draining { deadline } => self.outstanding == 0 || now >= deadline,
            _ => false,
        }
    }

    /// Begins to finish. Replies that came while draining stand in the last entry of the series, so it is complete only now.
    pub(crate) fn finish(&mut self, now: Instant, recording: &Recording) {
        if matches!(self.stand, Stand::Draining { .. }) && self.outcome.measured > Nanos::ZERO {
            self.gauge.entry_ends(recording, self.entries_told);
        }
        let patience = if self.interrupt.is_raised() {
            FINISH_INTERRUPTED.min(self.length.timeout)
        } else {
            self.length.timeout
        };
        self.stand = Stand::Finishing { deadline: now + patience };
    }

    /// An interrupt that comes while the run ends by itself leaves it less time for that.
    pub(crate) fn hurry(&mut self, now: Instant) {
        let (deadline, patience) = match &mut self.stand {
            Stand::Draining { deadline } => (deadline, DRAIN_INTERRUPTED),
            Stand::Finishing { deadline } => (deadline, FINISH_INTERRUPTED),
            _ => return,
        };
        if self.interrupt.is_raised() {
            *deadline = (*deadline).min(now + patience);
        }
    }

    /// Whether even the closes of what was given up have taken too long: then they are left to the driver.
    pub(crate) fn is_forlorn(&self, now: Instant) -> bool {
        self.finish_by().is_some_and(|at| now >= at + CLOSING_MAX)
    }

    /// Until when ending may take, while it does.
    pub(crate) const fn finish_by(&self) -> Option<Instant> {
        match self.stand {
            Stand::Finishing { deadline } => Some(deadline),
            _ => None,
        }
    }

    /// When the present phase ends by itself.
    pub(crate) fn phase_end(&self) -> Instant {
        match self.stand {
            Stand::Starting { t0 } => t0,
            Stand::WarmingUp => self.warmup_end,
            Stand::Measuring => self.pacer.end(),
            Stand::Draining { deadline } | Stand::Finishing { deadline } => deadline,
            _ => Instant::FAR_FUTURE,
        }
    }
}
