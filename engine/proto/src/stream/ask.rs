//! What a client asks for.

use serde::{Deserialize, Serialize};

use crate::hello::{Refuse, RefuseCode};
use tare_stats::result::BulkParams;
use tare_units::Nanos;
use tare_units::limits::STREAM_DURATION_MAX;

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

/// The longest name of a congestion control, the kernel's `TCP_CA_NAME_MAX` less its zero.
const CONGESTION_NAME_MAX: usize = 15;

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
    #[must_use]
    pub fn gap(&self, size_bytes: u64) -> Option<Nanos> {
        let bits = u128::from(size_bytes) * u128::from(self.streams.max(1)) * 8;
        let gap = (bits * 1_000_000_000).checked_div(u128::from(self.rate_bits_per_s))?;
        Some(Nanos(u64::try_from(gap).unwrap_or(u64::MAX)))
    }

    /// How long a paced stream may pause without anything being the matter; zero where nothing is
    /// paced.
    #[must_use]
    pub fn patience(&self, size_bytes: u64) -> Nanos {
        let gap = self.gap(size_bytes).unwrap_or_default();
        Nanos(gap.0.saturating_mul(4))
    }

    /// Whether it can be served.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn check(&self) -> Result<(), Refuse> {
        if self.warmup_ns.saturating_add(self.duration_ns) > STREAM_DURATION_MAX.0 {
            let message = format!("a stream lasts at most {STREAM_DURATION_MAX}");
            return Err(Refuse::new(RefuseCode::Limit, message).remedy("give a shorter --duration"));
        }
        if self.duration_ns == 0 && self.bytes == 0 {
            let message = "a stream ends neither by time nor by bytes";
            return Err(Refuse::new(RefuseCode::Malformed, message));
        }
        if self.rate_bits_per_s > 0 && self.stream >= self.streams {
            let message = "a stream that is none of the streams";
            return Err(Refuse::new(RefuseCode::Malformed, message));
        }
        let name = self.socket.congestion.as_deref().unwrap_or("x");
        if name.is_empty() || name.len() > CONGESTION_NAME_MAX || !name.is_ascii() {
            let shown = tare_units::text::clean(name, 32);
            let message = format!("no congestion control has a name like {shown:?}");
            return Err(Refuse::new(RefuseCode::Limit, message)
                .remedy("sysctl net.ipv4.tcp_available_congestion_control names them"));
        }
        if self.socket.dscp.is_some_and(|dscp| dscp > 63) {
            let message = "a DSCP is a number from 0 to 63";
            return Err(Refuse::new(RefuseCode::Limit, message));
        }
        Ok(())
    }
}
