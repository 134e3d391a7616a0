//! The header of a stream's datagrams.

use crate::datagram::{DATA_HEADER_LEN, MEASURED};
use tare_units::Instant;
use tare_units::text::Id;

const KIND_PAYLOAD: u8 = 0xd3;
const KIND_SIGNAL: u8 = 0xd4;
/// Payload of at least this size carries the time of its sending, bytes.
const TIME_END: usize = DATA_HEADER_LEN + 8;

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
        let head = datagram.first_chunk::<DATA_HEADER_LEN>()?;
        let kind = match head[0] {
            KIND_PAYLOAD => StreamKind::Payload,
            KIND_SIGNAL => StreamKind::Signal,
            _ => return None,
        };
        let [_, flags, s0, s1, s2, s3, s4, s5, session @ ..] = *head;
        Some(Self {
            kind,
            measured: flags & MEASURED != 0,
            sequence: u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]),
            session: Id(u64::from_be_bytes(session)),
        })
    }

    /// Writes the header, and where there is room the time, to the front of `datagram`.
    ///
    /// # Panics
    /// When `datagram` is shorter than a header: sizes over UDP start there.
    #[inline]
    pub fn encode_into(&self, datagram: &mut [u8], now: Instant) {
        datagram[..8].copy_from_slice(&self.sequence.to_be_bytes());
        datagram[0] = match self.kind {
            StreamKind::Payload => KIND_PAYLOAD,
            StreamKind::Signal => KIND_SIGNAL,
        };
        datagram[1] = if self.measured { MEASURED } else { 0 };
        datagram[8..DATA_HEADER_LEN].copy_from_slice(&self.session.0.to_be_bytes());
        if let Some(field) = datagram.get_mut(DATA_HEADER_LEN..TIME_END) {
            field.copy_from_slice(&now.0.to_be_bytes());
        }
    }
}

/// When payload was sent, by its sender's clock; `None` where it is too short to say.
#[inline]
#[must_use]
pub fn sent_at(datagram: &[u8]) -> Option<Instant> {
    let field = datagram.get(DATA_HEADER_LEN..)?.first_chunk()?;
    Some(Instant(u64::from_be_bytes(*field)))
}
