//! Payload one way or both: what a client asks for, what each end tells of it, and the bytes.
//!
//! # TCP
//!
//! After the accept both ends are silent until the client sends. Its first byte starts the test: of
//! an `up` or `both` stream it is payload; of a `down` stream it is a single byte of any value, to
//! be ignored. From then on the end that sends sends messages of `size_bytes`, back to back or at
//! the rate asked for, until its time or its bytes are over.
//!
//! Payload bytes have their top bit set; else they are random, so that nothing on the path
//! compresses them. A frame begins with `t`, below 0x80: the first such byte from the server begins
//! its figures.
//!
//! The client ends by half-closing: `up` and `both` when it has sent its last byte, `down` when it
//! has heard enough. The server then stops sending (if it had not), sends its figures behind the
//! last payload byte, and closes.
//!
//! A *receiver* measures by its own clock from its first payload byte: after `warmup_ns`, for
//! `duration_ns`; with `bytes`, from the first byte to the last. So no clocks need to agree, and
//! the delay of the path cancels.
//!
//! # UDP
//!
//! ```text
//! byte 0       d3 payload, d4 signal
//! byte 1       flags; bit 0 of payload: sent in the measured phase
//! byte 2..8    sequence, big-endian, from 0 in each direction
//! byte 8..16   session, big-endian
//! byte 16..24  of payload that is long enough: the sender's monotonic clock when it was sent, nanoseconds
//! ```
//!
//! The client starts the test by payload, or, where it sends none, by a signal. Where payload is to
//! come, it signals again whenever it has sent nothing for 100 ms, until it fetches the figures. A
//! server that sends stops when it has heard neither for [`SIGNALS_LOST_AFTER`]: so nobody who has
//! gone, or whose address was another's, is sent to for longer. A signal, and payload whose
//! sequence is a multiple of [`ANSWERED_EVERY`], is answered by a bare reply header where there is
//! no such session (any more), with the flags of [`super::datagram`]; a session that the server has
//! ended by itself answers any payload so, but not each datagram. Both ends send at most until
//! their time is over.
//!
//! Datagrams have one length, the last one too: with `bytes` there may be more payload than was
//! asked for. Datagrams of the measured phase carry a flag, and each end counts those it sent and
//! got: what was sent less what came is lost, to the datagram.

mod arrivals;
mod window;

pub use arrivals::Arrivals;
pub use window::{BLOCKS_MAX, Blocks, Window};

use serde::{Deserialize, Serialize};

use crate::datagram::{MEASURED, field, put_field, put_head, split_head};
use crate::hello::{Refuse, RefuseCode};
use tare_stats::result::BulkParams;
use tare_stats::result::{TcpFigures, TcpInterval, ZeroCopyUse};
use tare_units::limits::STREAM_DURATION_MAX;
use tare_units::text::{Id, clean};
use tare_units::{Instant, Nanos};

/// How often a client repeats its signal over UDP.
pub const SIGNAL_EVERY: Nanos = Nanos::from_millis(100);
/// A server stops sending over UDP when it has not heard from its client for so long.
pub const SIGNALS_LOST_AFTER: Nanos = Nanos::from_secs(2);
/// Every so many datagrams of payload, one is answered where there is no session for it.
pub const ANSWERED_EVERY: u64 = 1024;
/// Payload bytes are at least this.
pub const PAYLOAD_BIT: u8 = 0x80;
/// The longest name of a congestion control, the kernel's `TCP_CA_NAME_MAX` less its zero.
const CONGESTION_NAME_MAX: usize = 15;
/// Entries of a series that are kept where it does not fit into a frame.
const SERIES_SHORT: usize = 256;

const KIND_PAYLOAD: u8 = 0xd3;
const KIND_SIGNAL: u8 = 0xd4;

/// Options of the sockets at both ends, absent: as the kernel has them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SocketOptions {
    /// `TCP_CONGESTION`: the name of a congestion control (tcp(7)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub congestion: Option<String>,
    /// `TCP_MAXSEG`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mss_bytes: Option<u32>,
    /// `TCP_NODELAY`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub nodelay: bool,
    /// The upper six bits of the traffic class, 0 to 63 (RFC 2474).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// `SO_SNDBUF`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_buffer_bytes: Option<u32>,
    /// `SO_RCVBUF`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_buffer_bytes: Option<u32>,
}

impl SocketOptions {
    /// As the parameters of a step carry them, among others.
    #[must_use]
    pub fn to_params(&self) -> BulkParams {
        BulkParams {
            congestion: self.congestion.clone(),
            mss_bytes: self.mss_bytes,
            nodelay: self.nodelay,
            dscp: self.dscp,
            send_buffer_bytes: self.send_buffer_bytes,
            receive_buffer_bytes: self.receive_buffer_bytes,
            ..BulkParams::default()
        }
    }
}

/// How to stream, on one connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamAsk {
    /// From the first byte to the measured phase, nanoseconds.
    pub warmup_ns: u64,
    /// Length of the measured phase, nanoseconds; zero where it ends by bytes.
    pub duration_ns: u64,
    /// Payload to send in each direction, bytes, whole messages but for the last; zero where it
    /// ends by time.
    pub bytes: u64,
    /// Length of an entry of the series, nanoseconds.
    pub interval_ns: u64,
    /// Payload over all streams, bits per second; zero: as fast as it goes.
    pub rate_bits_per_s: u64,
    /// Which of the streams this is, from 0: send *k* of all of them falls to stream *k mod
    /// streams*.
    pub stream: u32,
    /// How many streams there are.
    pub streams: u32,
    /// Send from the buffer itself, whatever comes of it.
    pub zero_copy: bool,
    /// Try whether sending from the buffer itself pays, during the warm-up.
    pub zero_copy_auto: bool,
    /// TCP: have the kernel throw away what is received.
    pub discard: bool,
    /// Options of the server's socket.
    pub socket: SocketOptions,
}

impl StreamAsk {
    /// The time between two sends of one stream, of messages of `size_bytes`; absent where nothing
    /// is paced.
    pub fn gap(&self, size_bytes: u64) -> Option<Nanos> {
        let bits = u128::from(size_bytes) * u128::from(self.streams.max(1)) * 8;
        let gap = (bits * 1_000_000_000).checked_div(u128::from(self.rate_bits_per_s))?;
        Some(Nanos(u64::try_from(gap).unwrap_or(u64::MAX)))
    }

    /// How long a paced stream may pause without anything being the matter; zero where nothing is
    /// paced.
    pub fn patience(&self, size_bytes: u64) -> Nanos {
        let gap = self.gap(size_bytes).unwrap_or_default();
        Nanos(gap.0.saturating_mul(4))
    }

    /// Whether it can be served; else the refusal to answer with.
    pub fn check(&self) -> Result<(), Refuse> {
        let no = |code, message: &str| Refuse::new(code, message);
        if self.warmup_ns.saturating_add(self.duration_ns) > STREAM_DURATION_MAX.0 {
            let message = format!("a stream lasts at most {STREAM_DURATION_MAX}");
            return Err(no(RefuseCode::Limit, &message).remedy("give a shorter --duration"));
        }
        if self.duration_ns == 0 && self.bytes == 0 {
            let message = "a stream ends neither by time nor by bytes";
            return Err(no(RefuseCode::Malformed, message));
        }
        if self.rate_bits_per_s > 0 && self.stream >= self.streams {
            let message = "a stream that is none of the streams";
            return Err(no(RefuseCode::Malformed, message));
        }
        let name = self.socket.congestion.as_deref().unwrap_or("x");
        if name.is_empty() || name.len() > CONGESTION_NAME_MAX || !name.is_ascii() {
            let message = format!("no congestion control has a name like {:?}", clean(name, 32));
            return Err(no(RefuseCode::Limit, &message)
                .remedy("sysctl net.ipv4.tcp_available_congestion_control names them"));
        }
        if self.socket.dscp.is_some_and(|dscp| dscp > 63) {
            return Err(no(RefuseCode::Limit, "a DSCP is a number from 0 to 63"));
        }
        Ok(())
    }
}

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
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let (kind, flags, sequence, session) = split_head(datagram)?;
        let kind = match kind {
            KIND_PAYLOAD => StreamKind::Payload,
            KIND_SIGNAL => StreamKind::Signal,
            _ => return None,
        };
        Some(Self { kind, measured: flags & MEASURED != 0, sequence, session })
    }

    /// Writes the header, and where there is room the time, to the front of `datagram`, which is no
    /// shorter than a header.
    #[inline]
    pub fn encode_into(&self, datagram: &mut [u8], now: Instant) {
        let kind = match self.kind {
            StreamKind::Payload => KIND_PAYLOAD,
            StreamKind::Signal => KIND_SIGNAL,
        };
        let flags = if self.measured { MEASURED } else { 0 };
        put_head(datagram, (kind, flags, self.sequence, self.session));
        put_field(datagram, now.0);
    }
}

/// When payload was sent, by its sender's clock; `None` where it is too short to say.
#[inline]
pub fn sent_at(datagram: &[u8]) -> Option<Instant> {
    field(datagram).map(Instant)
}

/// One end's account of one stream.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamFigures {
    /// What it sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<Sent>,
    /// What it received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<Received>,
}

impl StreamFigures {
    /// The same in less room: without the kernel's series, of the other its beginning where `long`,
    /// else nothing.
    pub fn shortened(&self, long: bool) -> Self {
        let mut short = self.clone();
        if let Some(sent) = &mut short.sent {
            sent.tcp_series.clear();
            if !long {
                (sent.gap_deviation_hdr, sent.lateness_hdr) = (None, None);
            }
        }
        if let Some(received) = &mut short.received {
            received.series.truncate(if long { SERIES_SHORT } else { 0 });
        }
        short
    }
}

/// The sending end's account, of the measured phase.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sent {
    /// Length of the measured phase by its clock, nanoseconds.
    pub duration_ns: u64,
    /// Payload that its kernel took, bytes.
    pub bytes: u64,
    /// TCP: what of all that was sent the peer's kernel had not acknowledged when this was told,
    /// bytes; absent where this end's kernel does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unacknowledged_bytes: Option<u64>,
    /// Messages; where bytes end the stream, the last may have been shorter than the others.
    pub sends: u64,
    /// UDP: datagrams.
    pub datagrams: u64,
    /// UDP: datagrams per send.
    pub per_send: u32,
    /// UDP: why several are not handed over at once, where it is the kernel that would not have it,
    /// in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_send_reason: Option<String>,
    /// UDP: the path's MTU at the end, as its kernel knows it, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_mtu_bytes: Option<u32>,
    /// UDP: IP packets that each datagram left in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragments: Option<u32>,
    /// UDP: effective `SO_SNDBUF` at the end, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_buffer_bytes: Option<u32>,
    /// Paced: sends that were due and not made.
    pub unsent: u64,
    /// Paced: the intended time between sends, nanoseconds.
    pub gap_ns: u64,
    /// Paced: by how much actual gaps differed from the intended one: base64 of the HdrHistogram V2
    /// compressed encoding, nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_deviation_hdr: Option<String>,
    /// Paced: actual send after intended send, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lateness_hdr: Option<String>,
    /// TCP: what its kernel says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpFigures>,
    /// TCP: the same for each entry of the series.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tcp_series: Vec<TcpInterval>,
    /// Zero-copy sends, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_copy: Option<ZeroCopyUse>,
}

/// The receiving end's account, of the measured phase.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Received {
    /// Length of the measured phase by its clock, nanoseconds.
    pub duration_ns: u64,
    /// Payload, bytes.
    pub bytes: u64,
    /// The same in equal blocks of time.
    pub blocks: Blocks,
    /// The same in entries of the series, bytes each.
    pub series: Vec<u64>,
    /// UDP: datagrams, each once.
    pub datagrams: u64,
    /// UDP: those that came after one sent later.
    pub reordered: u64,
    /// UDP: those that came again.
    pub duplicated: u64,
    /// UDP: interarrival jitter (RFC 3550), nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_ns: Option<u64>,
    /// UDP: several are taken at once.
    pub coalesced: bool,
    /// Effective `SO_RCVBUF` at the end, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_buffer_bytes: Option<u32>,
    /// UDP: how often the receive buffer had no room for what came, from the measured phase's first
    /// datagram on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflows: Option<u64>,
}

#[cfg(test)]
mod tests;
