//! The client's side of an HTTP load.

pub mod codes;
mod spec;

pub use codes::Codes;
pub use spec::{Destination, HttpSpec, Late};

use crate::histogram::Recording;
use crate::worker::ping_pong::tally::Tally;

/// What a worker of an HTTP step brings back.
#[derive(Debug)]
pub struct HttpTally {
    /// Latencies of the measured phase: of responses as expected, and of requests that had none.
    pub recording: Recording,
    /// All responses of the measured phase by status code.
    pub codes: Codes,
    /// Of the warm-up.
    pub warmup: Tally,
    /// Of the measured phase, and of what precedes and follows it.
    pub measured: Tally,
    /// Bytes sent in the measured phase.
    pub sent_bytes: u64,
    /// Bytes received in the measured phase.
    pub received_bytes: u64,
    /// Bytes of bodies in the measured phase.
    pub body_bytes: u64,
    /// Connections opened in place of one that failed or was closed, in the measured phase.
    pub reconnects: u64,
}

impl HttpTally {
    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        self.recording.merge(&other.recording);
        self.codes.merge(&other.codes);
        self.warmup.merge(&other.warmup);
        self.measured.merge(&other.measured);
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.body_bytes += other.body_bytes;
        self.reconnects += other.reconnects;
    }
}
