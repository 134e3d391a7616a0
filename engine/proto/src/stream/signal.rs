//! The header of a stream's datagrams.

use crate::datagram::{MEASURED, field, put_field, put_head, split_head};
use tare_units::Instant;
use tare_units::text::Id;

const KIND_PAYLOAD: u8 = 0xd3;
const KIND_SIGNAL: u8 = 0xd4;

/// What a stream's datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Payload.
    Payload,
    /// The client is there: send, or go on.
    Signal,
}

/// The header of a stream's datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHeader {
    /// What it is.
    pub kind: StreamKind,
    /// It was sent in the measured phase.
    pub measured: bool,
    /// Counts the direction's datagrams; the lower 48 bits are sent.
    pub sequence: u64,
    /// The session.
    pub session: Id,
}

impl StreamHeader {
    /// Reads a header; `None` for what is no datagram of a stream.
    #[inline]
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let (kind, flags, sequence, session) = split_head(datagram)?;
        let kind = match kind {
            KIND_PAYLOAD => StreamKind::Payload,
            KIND_SIGNAL => StreamKind::Signal,
            _ => return None,
        };
        Some(Self { kind, measured: flags & MEASURED != 0, sequence, session })
    }

    /// Writes the header, and where there is room the time, to the front of `datagram`.
    ///
    /// # Panics
    /// When `datagram` is shorter than a header: sizes over UDP start there.
    #[inline]
    pub fn encode_into(&self, datagram: &mut [u8], now: Instant) {
        let kind = match self.kind {
            StreamKind::Payload => KIND_PAYLOAD,
            StreamKind::Signal => KIND_SIGNAL,
        };
        put_head(
            datagram,
            (kind, if self.measured { MEASURED } else { 0 }, self.sequence, self.session),
        );
        put_field(datagram, now.0);
    }
}

/// When payload was sent, by its sender's clock; `None` where it is too short to say.
#[inline]
#[must_use]
pub fn sent_at(datagram: &[u8]) -> Option<Instant> {
    field(datagram).map(Instant)
}
