//! What a bulk run says of its streams. Rates are of payload: what the application handed over and
//! got, without the headers of any protocol. A number that its end could not tell is null.

use serde::{Deserialize, Serialize};

use super::Summary;

/// Bulk figures of a step. The headline is the receiving end's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Bandwidth {
    /// Payload received, bits per second, both directions together; absent where no receiver told.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub bits_per_s: Option<f64>,
    /// 95 % interval of it.
    pub interval_bits_per_s: Option<(f64, f64)>,
    /// Payload sent in the measured phase, bytes.
    pub sent_bytes: u64,
    /// Payload received in it, bytes.
    pub received_bytes: u64,
    /// UDP: datagrams of the measured phase that never came.
    pub lost_datagrams: Option<u64>,
    /// UDP: datagrams that came after one that was sent later (RFC 4737, section 3.3).
    pub reordered_datagrams: Option<u64>,
    /// UDP: datagrams that came again.
    pub duplicated_datagrams: Option<u64>,
    /// UDP: interarrival jitter (RFC 3550, section 6.4.1), the worst stream's.
    pub jitter_ns: Option<u64>,
    /// TCP: segments sent again in the measured phase, where the sender's kernel tells.
    pub retransmits: Option<u64>,
    /// From the client to the server.
    pub up: Option<Flow>,
    /// From the server to the client.
    pub down: Option<Flow>,
    /// CPU time of both ends together per GiB received, seconds.
    pub cpu_s_per_gib: Option<f64>,
    /// The same without the time in which an end polled and found nothing (`--wait spin`,
    /// `hybrid`); absent where neither did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_working_s_per_gib: Option<f64>,
    /// How the result stands to the speed of the link, where the kernel states one.
    pub link: Option<LinkUse>,
}

/// One direction, over all streams.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Flow {
    /// Payload received, bits per second of the receiver's own time (the longest stream's). Without
    /// that of `untold_streams`; absent where these are all.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub bits_per_s: Option<f64>,
    /// 95 % interval of it: of the mean over up to 32 equal blocks of the measured phase (Student's
    /// t).
    pub interval_bits_per_s: Option<(f64, f64)>,
    /// Payload that the sender's kernel took, bits per second. Above `bits_per_s` where queues
    /// filled or datagrams were lost.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub sent_bits_per_s: f64,
    /// Length of the measured phase by the receiver's clock, nanoseconds; the longest stream's.
    pub duration_ns: u64,
    /// Payload sent in the measured phase, bytes.
    pub sent_bytes: u64,
    /// Payload received in the measured phase, bytes; without that of `untold_streams`.
    pub received_bytes: u64,
    /// Streams of which the receiving end's account never came: it had vanished, or the connection
    /// was lost.
    pub untold_streams: u32,
    /// TCP: what of the payload of `untold_streams` is known to have arrived all the same, bytes:
    /// the receiver's kernel acknowledged at least so much.
    pub acknowledged_bytes: Option<u64>,
    /// Sends of `size_bytes` in the measured phase, each one system call or ring entry of its own
    /// (with `datagrams_per_send`, each that many datagrams).
    pub sends: u64,
    /// Each stream by itself, but for `untold_streams`: payload received, bits per second.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 0))))]
    pub streams_bits_per_s: Vec<f64>,
    /// TCP: what the sender's kernel says.
    pub tcp: Option<TcpFigures>,
    /// UDP: what became of the datagrams.
    pub datagrams: Option<Datagrams>,
    /// UDP: why each datagram takes a send of its own, where nothing is paced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_send_reason: Option<String>,
    /// Sends from the buffer itself, where they were asked for.
    pub zero_copy: Option<ZeroCopyUse>,
    /// Paced: how well the sender kept to its schedule.
    pub pacing: Option<Pacing>,
}

/// TCP as the sender's kernel tells of it (`TCP_INFO`, tcp(7)) over the measured phase. Counters
/// are summed over the streams; `rtt_ns`, `mss_bytes` and the like are the median stream's at its
/// end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpFigures {
    /// Segments sent again.
    pub retransmits: u64,
    /// Data segments sent, those sent again among them. With segmentation offload, as the wire
    /// would see them.
    pub segments: Option<u64>,
    /// Congestion window, bytes.
    pub cwnd_bytes: u64,
    /// Smoothed round trip time, nanoseconds.
    pub rtt_ns: u64,
    /// Smallest round trip time, nanoseconds.
    pub min_rtt_ns: Option<u64>,
    /// Payload of a full segment, bytes.
    pub mss_bytes: u32,
    /// Time with data to send, nanoseconds, summed over the streams.
    pub busy_ns: Option<u64>,
    /// Of it, limited by the receiver's window: the receiving application, or its buffer, is the
    /// bottleneck.
    pub rwnd_limited_ns: Option<u64>,
    /// Of it, limited by the sender's own buffer (`--sndbuf`).
    pub sndbuf_limited_ns: Option<u64>,
    /// The congestion control that was used.
    #[serde(rename = "congestion")]
    pub congestion_control: Option<String>,
    /// Effective `SO_SNDBUF` of the sender at the end, bytes.
    pub send_buffer_bytes: Option<u32>,
    /// Effective `SO_RCVBUF` of the receiver at the end, bytes.
    pub receive_buffer_bytes: Option<u32>,
}

/// What became of a direction's datagrams in the measured phase: `sent = received + lost`, but for
/// what the `untold_streams` of the flow sent.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Datagrams {
    /// Sent.
    pub sent: u64,
    /// Received, each once.
    pub received: u64,
    /// Never came.
    pub lost: u64,
    /// Came after one that was sent later.
    pub reordered: u64,
    /// Came again.
    pub duplicated: u64,
    /// Interarrival jitter, nanoseconds; the worst stream's. Null where datagrams are too short to
    /// carry their time, or several leave in one send.
    pub jitter_ns: Option<u64>,
    /// Datagrams per send (`UDP_SEGMENT`, udp(7)); 1 without.
    pub per_send: u32,
    /// The receiver takes several at once (`UDP_GRO`, udp(7)).
    pub coalesced_on_receipt: bool,
    /// IP packets that each datagram left in, more than one where it exceeds the path's MTU: the
    /// loss of one of them loses the datagram. Null where the sender's kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub fragments: Option<u32>,
    /// The path's MTU, as the sender's kernel knew it at the end, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_mtu_bytes: Option<u32>,
    /// Effective `SO_SNDBUF` of the sender at the end, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_buffer_bytes: Option<u32>,
    /// Effective `SO_RCVBUF` of the receiver at the end, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_buffer_bytes: Option<u32>,
    /// Times that the receiver's kernel had no room in that buffer in the measured phase; with
    /// `coalesced_on_receipt`, each may have been several datagrams, all of them lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_buffer_overflows: Option<u64>,
}

/// What became of zero-copy sends.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ZeroCopyUse {
    /// Sends made so, in the measured phase.
    pub sends: u64,
    /// Of those that the kernel reported on, the share that it copied all the same, 0 to 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub copied_share: f64,
    /// Why not, or not for long, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a paced sender kept to its schedule.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Pacing {
    /// Payload asked for, bits per second, over all streams of the direction.
    pub target_bits_per_s: f64,
    /// Time between two sends of one stream that the schedule intends, nanoseconds.
    pub gap_ns: u64,
    /// By how much the actual gaps differed from it, either way.
    pub gap_deviation: Summary,
    /// Actual send after intended send.
    pub lateness: Summary,
    /// Sends that were due in the measured phase and not made when it ended.
    pub unsent: u64,
}

/// How a result stands to the link.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct LinkUse {
    /// The device, with the end it is at: `eth0 (client)`.
    pub device: String,
    /// Speed that its driver states, bits per second.
    pub speed_bits_per_s: f64,
    /// The most payload that such a link can carry in these segments, bits per second: headers,
    /// preamble and gap between frames taken off.
    pub ceiling_bits_per_s: f64,
    /// The result's share of that ceiling.
    pub share: f64,
    /// The link is the bottleneck: compare CPU per GiB, not bandwidth.
    pub bound: bool,
}

/// What a bulk step was asked for beyond the parameters of every step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BulkParams {
    /// `up`, `down` or `both`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["up", "down", "both"])))]
    pub direction: String,
    /// Payload asked for, bits per second, over all streams, in each direction; absent where
    /// nothing is paced.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub rate_bits_per_s: Option<f64>,
    /// Payload to move over all streams, in each direction, bytes; absent where a step ends by
    /// time.
    pub bytes: Option<u64>,
    /// `auto`, `on` or `off`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["auto", "on", "off"])))]
    pub zero_copy: String,
    /// `copy` or `discard`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["copy", "discard"])))]
    pub sink: String,
    /// `TCP_CONGESTION`.
    pub congestion: Option<String>,
    /// `TCP_MAXSEG`, bytes.
    pub mss_bytes: Option<u32>,
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// DSCP, 0 to 63.
    #[cfg_attr(feature = "schema", schemars(range(max = 63)))]
    pub dscp: Option<u8>,
    /// `SO_SNDBUF` asked for, bytes.
    pub send_buffer_bytes: Option<u32>,
    /// `SO_RCVBUF` asked for, bytes.
    pub receive_buffer_bytes: Option<u32>,
    /// Local address asked for.
    pub bind: Option<String>,
}

/// TCP in one entry of the series, as the sender's kernel tells: summed over the streams, the round
/// trip time the median stream's.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpInterval {
    /// Segments sent again in it.
    pub retransmits: u64,
    /// Congestion windows at its end, bytes.
    pub cwnd_bytes: u64,
    /// Smoothed round trip time at its end, nanoseconds.
    pub rtt_ns: u64,
}
