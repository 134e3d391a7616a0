//! Every fixed bound, named, with compile-time checks of how the bounds relate.

use crate::Nanos;

/// The TCP port, and UDP port number, that a server listens on by default.
pub const DEFAULT_PORT: u16 = 7117;

/// Entries of a ring's submission queue; what does not fit is submitted in the same turn, in
/// several enters.
pub const RING_ENTRIES: u32 = 1024;
/// Completions that one turn hands over at most; the rest stays for the next turn.
pub const COMPLETIONS_PER_TURN: usize = 1024;
/// Sockets that one driver may hold at once.
pub const SOCKETS_MAX: u32 = 1 << 18;
/// Up to this many receives are attempted again in every turn that does not wait; above it a
/// spinning driver asks the kernel for readiness instead, since each attempt costs its share of the
/// turn.
pub const SPIN_ATTEMPTS_MAX: usize = 4;
/// Segments of one vectored send.
pub const SEGMENTS_MAX: usize = 4;

/// The longest head of a response that the client reads, bytes.
pub const RESPONSE_HEAD_MAX: usize = 64 << 10;
/// Headers (and trailers) of a response.
pub const RESPONSE_HEADERS_MAX: usize = 512;
/// All interim responses (1xx) before one response, bytes; how many there are does not matter.
pub const INTERIM_BYTES_MAX: u64 = 1 << 20;
/// Line ends that may precede a request line or a status line, bytes: some peers send one after a
/// body (RFC 9112 section 2.2).
pub const BLANK_MAX: u8 = 4;
/// The longest line with the size of a chunk, its extensions and all, bytes.
pub const CHUNK_LINE_MAX: usize = 4 << 10;
/// All requests of a run, written out, bytes.
pub const REQUESTS_BYTES_MAX: usize = 64 << 20;
/// Different requests of a run.
pub const REQUESTS_MAX: usize = 10_000;
/// Requests that one connection may have outstanding.
pub const PIPELINE_MAX: u32 = 1_024;
/// The longest head of a request that the server reads, bytes.
pub const REQUEST_HEAD_MAX: usize = 16 << 10;
/// The longest target of a request that the server reads, bytes.
pub const REQUEST_TARGET_MAX: usize = 8 << 10;
/// Headers of a request that the server reads.
pub const REQUEST_HEADERS_MAX: usize = 100;
/// The longest body of a request that the server reads, bytes; what `/echo` sends back is at most
/// as long.
pub const REQUEST_BODY_MAX: usize = 256 << 10;
/// The longest body that `/bytes/N` gives, bytes.
pub const RESPONSE_BODY_MAX: u64 = 1 << 30;

/// The largest TCP ping-pong message, bytes.
pub const MESSAGE_MAX: u32 = 16 << 20;
/// The largest message of a connection that carries its request right behind its hello, bytes. The
/// server closes such a connection behind its reply without waiting for the client to take it, so
/// this bounds what the kernel keeps.
pub const ONE_GO_MAX: u32 = 16 << 10;
/// The longest that one stream may be asked to last, warm-up and all.
pub const STREAM_DURATION_MAX: Nanos = Nanos::from_secs(7 * 24 * 3600);
/// The largest UDP payload over IPv4, bytes: 65,535 less the IP and UDP headers.
pub const DATAGRAM_MAX: u32 = 65_507;
/// Header of every test datagram, bytes; so the smallest `--size` over UDP.
pub const DATAGRAM_HEADER: u32 = 16;
/// Control datagrams are padded to this size, so that an answer is never larger than its request,
/// bytes.
pub const CONTROL_DATAGRAM: usize = 1200;
/// The longest body of one control frame, bytes.
pub const FRAME_BODY_MAX: usize = 60 << 10;
/// The longest document (environment, figures) that is fetched over UDP, bytes.
pub const DOCUMENT_MAX: usize = 1 << 20;

/// Hybrid waiting spins for this long after a send or a receive, then sleeps.
pub const HYBRID_SPIN: Nanos = Nanos::from_micros(200);

/// Concurrent connections of one run.
pub const CONNECTIONS_MAX: u32 = 200_000;
/// Concurrent connections from one client address to one server address: it has no ports for more.
pub const ADDRESS_CONNECTIONS_MAX: u32 = 60_000;
/// HTTP connects of all workers that are under way at once: fewer than the shortest queue of a
/// listener that is common (511). A queue that overflows answers the lost handshakes a second
/// later, which would be the client's own doing.
pub const CONNECTS_AT_ONCE: u32 = 256;
/// Sessions that a server keeps at once by default.
pub const SESSIONS_MAX: u32 = 4096;
/// HTTP connections that a server keeps at once by default, and at most.
pub const HTTP_CONNECTIONS_MAX: u32 = 65_000;
/// Beyond the HTTP connections allowed, so many are told that there are too many; others are closed
/// unheard.
pub const HTTP_TURNED_AWAY_MAX: usize = 256;
/// How long a request may have to wait in the HTTP server's queue; one that would have to wait
/// longer is refused.
pub const QUEUE_WAIT_MAX: Nanos = Nanos::from_secs(60);
/// Memory that the sessions of a server may claim together for their buffers and histograms, bytes.
/// A session of the largest messages claims 32 MiB.
pub const SESSION_MEMORY_MAX: u64 = 5 << 28;
/// Connections that a server keeps while they have not yet said hello.
pub const PENDING_MAX: usize = 4096;
/// What is kept of each output of a command that stands around a visit of a comparison, the end of
/// it, bytes.
pub const HOOK_OUTPUT_MAX: usize = 64 << 10;
/// Steps of one sweep, all its lists multiplied.
pub const STEPS_MAX: usize = 1_000;
/// Fewer blocks of a comparison give no interval of 95 %: all six on one side have a chance of 1
/// in 32.
pub const COMPARE_BLOCKS_MIN: u32 = 6;
/// Blocks of one comparison.
pub const COMPARE_BLOCKS_MAX: u32 = 1_000;
/// Steps of all visits of one comparison. Each keeps its histograms, some 10 KB.
pub const VISIT_STEPS_MAX: usize = 100_000;
/// Arms of one comparison, the one that shows its resolution not counted.
pub const ARMS_MAX: usize = 16;
/// CPU numbers that `--cpus` takes lie below this: the most that Linux can be built for.
pub const CPUS_MAX: u32 = 8_192;
/// With more of them than that, the older half is closed.
pub const PENDING_CROWD: usize = PENDING_MAX / 4 * 3;
/// Processes and groups that one run may observe (`--observe`).
pub const OBSERVATIONS_MAX: usize = 16;
/// Processes that one of them may be: each is a handful of system calls at both ends of the
/// measured phase.
pub const OBSERVED_PROCESSES_MAX: usize = 256;
/// Threads whose context switches are read for one of them: a file each.
pub const OBSERVED_THREADS_MAX: usize = 1_024;
/// Control groups that are looked at below an observed one.
pub const OBSERVED_GROUPS_MAX: usize = 64;
/// Time blocks into which a measured phase is cut for the quantiles' intervals.
pub const BLOCKS: usize = 32;
/// Entries of the per-interval series.
pub const INTERVALS_MAX: usize = 3_600;

const _: () = assert!(DATAGRAM_HEADER as usize <= CONTROL_DATAGRAM);
const _: () =
    assert!(REQUEST_TARGET_MAX < REQUEST_HEAD_MAX && REQUEST_HEAD_MAX <= u16::MAX as usize);
const _: () = assert!(RING_ENTRIES.is_power_of_two());
const _: () = assert!(CONNECTIONS_MAX < SOCKETS_MAX && ADDRESS_CONNECTIONS_MAX <= CONNECTIONS_MAX);
const _: () = assert!(HTTP_CONNECTIONS_MAX < SOCKETS_MAX);
const _: () = assert!(SPIN_ATTEMPTS_MAX < RING_ENTRIES as usize);
// One session alone always fits, and so do the default number of sessions of the smallest messages,
// each with its histogram (below 288 KiB).
const _: () = assert!(SESSION_MEMORY_MAX > 3 * MESSAGE_MAX as u64);
const _: () = assert!(SESSION_MEMORY_MAX > SESSIONS_MAX as u64 * (288 << 10));
// What one turn accepts is never closed in it to make room, nor finds no place: among them may be a
// client whose hello has yet to be read.
const _: () = assert!(COMPLETIONS_PER_TURN < PENDING_CROWD / 2);
const _: () = assert!(PENDING_CROWD + PENDING_CROWD / 4 < PENDING_MAX);
const _: () = assert!(FRAME_BODY_MAX < u16::MAX as usize);
