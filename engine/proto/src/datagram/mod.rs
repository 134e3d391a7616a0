//! UDP: test datagrams with their header, and control datagrams with a cookie before anything else.
//!
//! ```text
//! test datagram                          control datagram
//! byte 0       d1 request, d2 reply      byte 0..8    header of a frame (never begins with d1 or d2)
//! byte 1       flags                     byte 8..     JSON of the length the header tells
//! byte 2..8    sequence, big-endian      then         what the kind adds, below
//! byte 8..16   session, big-endian       then         zeros
//! byte 16..    payload; replies of 24
//!              bytes and more carry the
//!              residence in byte 16..24,
//!              nanoseconds, big-endian
//! ```
//!
//! A client's control datagrams (hello, fetch) are exactly [`CONTROL_DATAGRAM`] bytes long. A
//! server's answers are as long as they need, and never longer than what they answer; a shorter
//! control datagram is ignored (save that a hello of another version, whose rules we don't know, is
//! refused where the refusal fits).
//!
//! * A *hello* ends with 72 bytes at the datagram's end: the client's nonce (8 bytes, random, one
//!   per session), the cookie (32 bytes, zeros in the first hello), the proof of the secret (32
//!   bytes, zeros where none is asked for; see [`super::auth`], the nonce being the SHA-256 of
//!   `tare/1 nonce` and the cookie, and the hello body being the JSON).
//! * A *chunk*'s data follow its JSON: the header's length covers the JSON alone.
//!
//! Flags: bit 0, of a request: measured, not warm-up (a reply repeats it); bit 1, of a reply: the
//! server has ended this session, fetch the figures; bit 2, of a reply: no such session here (the
//! server was restarted, or the session expired). A reply with bit 1 or 2 is a bare header, answers
//! a request, and is no reply to be measured.

mod client;
mod server;

use serde::{Deserialize, Serialize};

use super::frame::{self, FrameError, HEADER_LEN, Header, Kind};
use tare_units::Nanos;
use tare_units::limits::{CONTROL_DATAGRAM, DATAGRAM_HEADER};
use tare_units::text::{Hex32, Id};

pub use client::{DocumentFetch, FetchEvent, UdpClientHandshake};
pub use server::{
    COOKIE_SLOT, FrontAction, SessionKey, SessionRequest, UdpServerFront, serve_document,
};

/// Length of the header of a test datagram, bytes.
pub const DATA_HEADER_LEN: usize = DATAGRAM_HEADER as usize;
/// Replies of at least this size carry the residence time, bytes.
pub const RESIDENCE_END: usize = DATA_HEADER_LEN + 8;
/// What a hello adds at the datagram's end, bytes.
const TRAILER_LEN: usize = 8 + 32 + 32;
/// The longest JSON of a hello over UDP, bytes.
const HELLO_DATAGRAM_BODY_MAX: usize = CONTROL_DATAGRAM - HEADER_LEN - TRAILER_LEN;
/// Data in one chunk, bytes (the last one may hold less).
const CHUNK_DATA: usize = 1024;
/// The longest head of a chunk, bytes.
const CHUNK_HEAD_MAX: usize = 128;

const _: () = assert!(HEADER_LEN + CHUNK_HEAD_MAX + CHUNK_DATA <= CONTROL_DATAGRAM);

const KIND_REQUEST: u8 = 0xd1;
const KIND_REPLY: u8 = 0xd2;

/// Flag: the request belongs to the measured phase.
pub const MEASURED: u8 = 1;
/// Flag of a reply: the server has ended the session.
pub const ENDED: u8 = 2;
/// Flag of a reply: there is no such session.
pub const NO_SESSION: u8 = 4;

/// The header of a test datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHeader {
    /// Reply or request.
    pub reply: bool,
    /// [`MEASURED`], [`ENDED`], [`NO_SESSION`]; the other bits are sent as zero and ignored.
    pub flags: u8,
    /// Counts the client's requests; below 2^48.
    pub sequence: u64,
    /// The session.
    pub session: Id,
}

impl DataHeader {
    /// Reads a header; `None` for what is not a test datagram.
    #[inline]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let (kind, flags, sequence, session) = split_head(datagram)?;
        let reply = match kind {
            KIND_REQUEST => false,
            KIND_REPLY => true,
            _ => return None,
        };
        Some(Self { reply, flags, sequence, session })
    }

    /// Writes the header to the front of `datagram`, which is no shorter. Of the sequence number,
    /// the lower 48 bits.
    #[inline]
    pub fn encode_into(&self, datagram: &mut [u8]) {
        let kind = if self.reply { KIND_REPLY } else { KIND_REQUEST };
        put_head(datagram, (kind, self.flags, self.sequence, self.session));
    }

    /// The bare header that tells the sender of this request why it is not answered: `flag` is
    /// [`ENDED`] or [`NO_SESSION`]. `None` for a reply, so that two servers never answer each
    /// other.
    #[must_use]
    pub fn turned_away(&self, flag: u8) -> Option<[u8; DATA_HEADER_LEN]> {
        if self.reply {
            return None;
        }
        let mut datagram = [0; DATA_HEADER_LEN];
        let header = Self { reply: true, flags: flag, ..*self };
        header.encode_into(&mut datagram);
        Some(datagram)
    }
}

/// What every test datagram begins with: kind, flags, sequence and session.
pub(crate) type Head = (u8, u8, u64, Id);

#[inline]
pub(crate) fn split_head(datagram: &[u8]) -> Option<Head> {
    let [kind, flags, s0, s1, s2, s3, s4, s5, session @ ..] =
        *datagram.first_chunk::<DATA_HEADER_LEN>()?;
    let sequence = u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]);
    Some((kind, flags, sequence, Id(u64::from_be_bytes(session))))
}

#[inline]
pub(crate) fn put_head(datagram: &mut [u8], (kind, flags, sequence, session): Head) {
    datagram[..8].copy_from_slice(&sequence.to_be_bytes());
    datagram[0] = kind;
    datagram[1] = flags;
    datagram[8..DATA_HEADER_LEN].copy_from_slice(&session.0.to_be_bytes());
}

/// Writes the residence into a reply, where it is long enough to hold one.
#[inline]
pub fn put_residence(reply: &mut [u8], residence: Nanos) {
    put_field(reply, residence.0);
}

/// The residence that a reply carries; `None` where it is too short to hold one.
#[inline]
pub fn residence(reply: &[u8]) -> Option<Nanos> {
    field(reply).map(Nanos)
}

/// Writes the number behind the header, where there is room for it.
#[inline]
pub(crate) fn put_field(datagram: &mut [u8], number: u64) {
    if let Some(field) = datagram.get_mut(DATA_HEADER_LEN..RESIDENCE_END) {
        field.copy_from_slice(&number.to_be_bytes());
    }
}

#[inline]
pub(crate) fn field(datagram: &[u8]) -> Option<u64> {
    datagram.get(DATA_HEADER_LEN..)?.first_chunk().map(|field| u64::from_be_bytes(*field))
}

/// The server's answer to a hello without a good cookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cookie {
    /// To be carried in the next hello.
    pub cookie: Hex32,
    /// Whether that hello must carry a proof of the secret.
    #[serde(default)]
    pub secret_required: bool,
}

/// What is too long for one datagram, and fetched in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Document {
    /// The JSON of [`tare_stats::result::Environment`].
    Environment,
    /// The JSON of [`super::hello::Figures`]. The first fetch of it ends the session.
    Figures,
}

/// A client's request for a part of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Whose.
    pub session: Id,
    /// Which.
    pub document: Document,
    /// From which byte on.
    pub offset: u64,
}

/// The head of that part; its data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Chunk {
    session: Id,
    document: Document,
    offset: u64,
    total: u64,
}

/// A control datagram as a client sends it: padded to full length.
fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    debug_assert!(frame.len() <= CONTROL_DATAGRAM, "the callers keep to their bounds");
    frame.resize(CONTROL_DATAGRAM, 0);
    frame
}

impl Fetch {
    /// The datagram that asks for it.
    pub fn encode(&self) -> Vec<u8> {
        padded(
            frame::encode(Kind::Fetch, self).expect("three short fields are far below any bound"),
        )
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Control<'a> {
    kind: Kind,
    /// The JSON.
    body: &'a [u8],
    /// Everything behind it.
    tail: &'a [u8],
}

impl<'a> Control<'a> {
    /// A datagram that ends inside its header is [`FrameError::NotTare`], inside its body
    /// [`FrameError::TooLong`].
    fn decode(datagram: &'a [u8]) -> Result<Self, FrameError> {
        let header = Header::decode(datagram)?.ok_or(FrameError::NotTare)?;
        let rest = &datagram[HEADER_LEN..];
        if header.body_len > rest.len() {
            return Err(FrameError::TooLong(header.body_len, rest.len()));
        }
        let (body, tail) = rest.split_at(header.body_len);
        Ok(Self { kind: header.kind, body, tail })
    }
}

#[cfg(test)]
mod tests;
