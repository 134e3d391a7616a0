//! Errors as a client worker counts them: by the stage of the conversation and the cause.

use tare_stats::result::ErrorCount;

/// Kinds of error that one worker tells apart; more are counted together as `other`.
const KINDS_MAX: usize = 32;

/// Where an operation or a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Opening a socket, or connecting.
    Connect,
    /// The hello and its answer.
    Handshake,
    /// Sending a request.
    Send,
    /// Receiving a reply.
    Receive,
    /// Making sense of what was received.
    Parse,
    /// Ending the session and receiving the figures.
    Close,
}

impl Stage {
    /// The name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
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

/// Errors by stage and cause, without allocation.
#[derive(Debug, Clone)]
pub struct Errors(Vec<(Stage, &'static str, u64)>);

impl Default for Errors {
    fn default() -> Self {
        Self(Vec::with_capacity(KINDS_MAX + 1))
    }
}

impl Errors {
    /// Counts one.
    pub fn count(&mut self, stage: Stage, cause: &'static str) {
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

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        for (stage, cause, count) in &other.0 {
            match self.0.iter_mut().find(|e| e.0 == *stage && e.1 == *cause) {
                Some(entry) => entry.2 += count,
                None => self.0.push((*stage, cause, *count)),
            }
        }
    }

    /// How many in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|e| e.2).sum()
    }

    /// As results carry them.
    #[must_use]
    pub fn to_counts(&self) -> Vec<ErrorCount> {
        let count = |(stage, cause, count): &(Stage, &'static str, u64)| ErrorCount {
            phase: stage.name().to_owned(),
            cause: (*cause).to_owned(),
            count: *count,
        };
        self.0.iter().map(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_stage_and_cause_and_none_vanishes() {
        let mut errors = Errors::default();
        errors.count(Stage::Connect, "ECONNREFUSED");
        errors.count(Stage::Connect, "ECONNREFUSED");
        errors.count(Stage::Receive, "ECONNREFUSED");
        let counts = errors.to_counts();
        assert_eq!(counts.len(), 2);
        assert_eq!((counts[0].phase.as_str(), counts[0].count), ("connect", 2));
        let causes: Vec<&'static str> =
            (0..40).map(|i| &*Box::leak(format!("E{i}").into_boxed_str())).collect();
        for cause in causes {
            errors.count(Stage::Send, cause);
        }
        let total: u64 = errors.to_counts().iter().map(|e| e.count).sum();
        assert_eq!(total, 43);
    }
}
