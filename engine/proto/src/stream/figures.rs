//! What each end tells of a stream.

use serde::{Deserialize, Serialize};

use super::Blocks;
use tare_stats::result::{TcpFigures, TcpInterval, ZeroCopyUse};

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

/// Entries of a series that are kept where it does not fit into a frame.
const SERIES_SHORT: usize = 256;

impl StreamFigures {
    /// The same in less room: without the kernel's series, of the other its beginning where `long`,
    /// else nothing.
    #[must_use]
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
