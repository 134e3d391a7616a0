//! What a client worker counts: operations, and errors by stage and cause.

use tare_stats::histogram::{Recording, SameBin};
use tare_stats::result::{ErrorCount, Operations};
use tare_units::Instant;

/// Kinds of error that one worker tells apart; more are counted together as `other`.
const KINDS_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Connect,
    Handshake,
    Send,
    Receive,
    Parse,
    Close,
}

impl Stage {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Parse => "parse",
            Self::Close => "close",
        }
    }
}

/// Errors by stage and cause, counted without allocation.
#[derive(Debug, Clone)]
pub(crate) struct Errors(Vec<(Stage, &'static str, u64)>);

impl Default for Errors {
    fn default() -> Self {
        Self(Vec::with_capacity(KINDS_MAX + 1))
    }
}

impl Errors {
    pub(crate) fn count(&mut self, stage: Stage, cause: &'static str) {
        if let Some(entry) = self.0.iter_mut().find(|e| e.0 == stage && e.1 == cause) {
            entry.2 += 1;
        } else if self.0.len() < KINDS_MAX {
            self.0.push((stage, cause, 1));
        } else if let Some(entry) = self.0.iter_mut().find(|e| e.1 == "other") {
            entry.2 += 1;
        } else {
            self.0.push((stage, "other", 1));
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (stage, cause, count) in &other.0 {
            match self.0.iter_mut().find(|e| e.0 == *stage && e.1 == *cause) {
                Some(entry) => entry.2 += count,
                None => self.0.push((*stage, cause, *count)),
            }
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|e| e.2).sum()
    }

    pub(crate) fn to_counts(&self) -> Vec<ErrorCount> {
        let count = |(stage, cause, count): &(Stage, &'static str, u64)| ErrorCount {
            phase: stage.name().to_owned(),
            cause: (*cause).to_owned(),
            count: *count,
        };
        self.0.iter().map(count).collect()
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) operations: Operations,
    pub(crate) errors: Errors,
}

impl Tally {
    fn merge(&mut self, other: &Self) {
        self.operations.add(&other.operations);
        self.errors.merge(&other.errors);
    }
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) recording: Recording,
    pub(crate) warmup: Tally,
    /// Of the measured phase, and of what precedes and follows it.
    pub(crate) measured: Tally,
}

impl Record {
    pub(crate) fn new(recording: Recording) -> Self {
        Self { recording, warmup: Tally::default(), measured: Tally::default() }
    }

    pub(crate) const fn tally(&mut self, measured: bool) -> &mut Tally {
        if measured { &mut self.measured } else { &mut self.warmup }
    }

    /// Counts what was due `overdue` before `now` and is never sent.
    pub(crate) fn count_unsent(&mut self, measured: bool, overdue: &SameBin, now: Instant) {
        self.count_due(measured, overdue, now).unsent_at_end += overdue.count;
    }

    /// Counts what was due `overdue` before `now` and is dropped.
    pub(crate) fn count_dropped(&mut self, measured: bool, overdue: &SameBin, now: Instant) {
        self.count_due(measured, overdue, now).dropped += overdue.count;
    }

    fn count_due(&mut self, measured: bool, overdue: &SameBin, now: Instant) -> &mut Operations {
        if measured {
            self.recording.record_unsent(now, overdue);
        }
        let operations = &mut self.tally(measured).operations;
        operations.due += overdue.count;
        operations
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.recording.merge(&other.recording);
        self.warmup.merge(&other.warmup);
        self.measured.merge(&other.measured);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_stage_and_cause_and_none_vanishes() {
        let mut errors = Errors::default();
        for stage in [Stage::Connect, Stage::Connect, Stage::Receive] {
            errors.count(stage, "ECONNREFUSED");
        }
        let counts = errors.to_counts();
        assert_eq!(counts.len(), 2);
        assert_eq!((counts[0].phase.as_str(), counts[0].count), ("connect", 2));
        (0..40).for_each(|i| errors.count(Stage::Send, format!("E{i}").leak()));
        assert_eq!(errors.to_counts().iter().map(|e| e.count).sum::<u64>(), 43);
    }
}
