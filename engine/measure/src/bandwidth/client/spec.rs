//! What a bulk client is given, and what it brings back.

use crate::worker::dialogue::DialogueSpec;
use crate::worker::errors::Errors;
use tare_proto::hello::{Figures, WaitMode};
use tare_proto::stream::{SocketOptions, StreamFigures};
use tare_units::Nanos;

/// What one bulk client worker is to do.
#[derive(Debug, Clone)]
pub struct BulkSpec {
    /// With whom each stream's connection talks, and what it says, but for the share of the stream (its number, its
    /// bytes). No progress for longer than the timeout is a failure.
    pub dialogue: DialogueSpec,
    /// Options of this end's sockets.
    pub options: SocketOptions,
    /// Streams of this worker.
    pub streams: u32,
    /// The first of them is this one of the run's.
    pub first: u32,
    /// Payload of all streams of the run in each direction, bytes; zero where time ends it. Where there are fewer than
    /// streams, those without a share are not opened.
    pub bytes: u64,
    /// Length of the warm-up.
    pub warmup: Nanos,
    /// Length of the measured phase, where it ends by time.
    pub duration: Option<Nanos>,
    /// How to wait once the run has started.
    pub wait: WaitMode,
    /// Hybrid waiting stops sleeping that long before a send is due: from the median of the wake-ups here.
    pub wakeup: Nanos,
}

impl BulkSpec {
    /// The share of that stream of the run's, bytes; zero where time ends it. Whole sends are dealt out, and what is
    /// left goes to one stream: no more than one send is shorter than the others.
    #[must_use]
    pub fn share_of(&self, stream: u32) -> u64 {
        let hello = &self.dialogue.hello;
        let streams = hello.stream.as_ref().map_or(1, |a| a.streams);
        let (streams, stream) = (u64::from(streams.max(1)), u64::from(stream));
        let size = hello.size_bytes.max(1);
        let (sends, rest) = (self.bytes / size, self.bytes % size);
        let own = sends / streams + u64::from(stream < sends % streams);
        let takes_rest = stream == sends % streams;
        own * size + if takes_rest { rest } else { 0 }
    }

    /// How many of this worker's streams have something to do: with fewer bytes than streams, the first ones.
    pub(super) fn streams_with_a_share(&self) -> u32 {
        let has_share = |index: &u32| self.bytes == 0 || self.share_of(self.first + index) > 0;
        let streams = (0..self.streams).filter(has_share).count();
        u32::try_from(streams).unwrap_or(self.streams)
    }

    /// Sends leave on a schedule.
    #[must_use]
    pub fn is_paced(&self) -> bool {
        let ask = self.dialogue.hello.stream.as_ref();
        ask.is_some_and(|ask| ask.rate_bits_per_s > 0) && self.dialogue.hello.direction.is_up()
    }
}

/// Both ends' account of one stream.
#[derive(Debug, Clone, Default)]
pub struct StreamAccount {
    /// This end's.
    pub own: StreamFigures,
    /// The server's figures, where they came.
    pub theirs: Option<Figures>,
}

/// What a bulk client worker counted.
#[derive(Debug, Default)]
pub struct BulkTally {
    /// Its streams.
    pub streams: Vec<StreamAccount>,
    /// Payload that this worker moved in the time that its CPU time was taken over, both ways, bytes.
    pub moved_bytes: u64,
    /// What failed.
    pub errors: Errors,
}

impl BulkTally {
    /// Adds another worker's.
    pub fn merge(&mut self, other: Self) {
        self.streams.extend(other.streams);
        self.moved_bytes += other.moved_bytes;
        self.errors.merge(&other.errors);
    }
}
