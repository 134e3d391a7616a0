//! Every wait of client and server, and how long it may last.
//!
//! Each bound counts from the beginning of its wait. Bytes that trickle in do not move it: where
//! progress may put an end off, as while a queue drains, there is a last instant that was fixed
//! before.
//!
//! | who | waits for | at most | ends by |
//! |---|---|---|---|
//! | client | addresses of a name | `--timeout` | error |
//! | | a connect; a hello's answer; the server's environment | `--timeout` each | error |
//! | | the other workers' connections | theirs | |
//! | | a load beside it to carry something | `--timeout` + [`LOAD_AHEAD_MAX`] | goes on |
//! | | a reply; bytes of a stream to move | `--timeout` (or the stream's own pauses) | timed out; error |
//! | | the end of warm-up and measured phase | their lengths | |
//! | | a stream that ends by bytes | [`SLOW_TIMEOUTS`] timeouts for each [`BYTES_IN_TIMEOUT_MIN`] of as many | error |
//! | | replies under way at the end | `--timeout` | in flight |
//! | | a stream's queue to drain, and its figures | `--timeout`, and what the queue needs at the rate of the stream, [`ENDING_MAX`] in all | error |
//! | | the figures of other tests, and all closes | `--timeout` | without them |
//! | | closes after it has given up | [`CLOSING_MAX`] | leaves them to the driver |
//! | | a command around a visit | [`HOOK_MAX`], then [`HOOK_GRACE`] | killed |
//! | client, interrupted | replies under way | [`DRAIN_INTERRUPTED`] | in flight |
//! | | arrivals that were not sent to be counted | some 10 million visits | spread evenly |
//! | | figures, a stream's queue, closes | [`FINISH_INTERRUPTED`], [`ENDING_INTERRUPTED`] | without them |
//! | | a command before a visit | [`HOOK_GRACE_INTERRUPTED`] | killed |
//! | | a command after a visit, which undoes a change | as ever, and says so | a second signal |
//! | | whoever reads its stdout and stderr | [`OUTPUT_INTERRUPTED`] in all | says what is missing |
//! | server | the first byte, the whole hello | [`HELLO_MAX`] | closed |
//! | | an HTTP request to be whole | [`REQUEST_MAX`] | 408 |
//! | | a client that is silent, or takes nothing | `--idle-timeout` | closed |
//! | | a session | `--max-duration` | figures |
//! | | figures to be read or fetched | [`LINGER`], [`SESSION_ENDING_MAX`], of streams [`ENDING_MAX`] | closed |
//! | server, told to stop | its sessions to end | [`STOP_MAX`] | closed |
//! | driver | a closed connection's zero-copy sends to be acknowledged | [`UNACKED_MAX`] | reset |
//! | | what the kernel holds when it is dropped | [`RELEASE_MAX`] | its memory is left to the kernel |
//! | | an operation of the try-out of io_uring | [`PROBE_MAX`] | epoll |

use crate::Nanos;

/// How long anything sleeps at most, so that it notices bounds, an interrupt and a stop.
pub const NAP: Nanos = Nanos::from_millis(100);
/// An interrupted or stopped process has ended by then. The rest of it is for a machine with other
/// work.
pub const INTERRUPTED_MAX: Nanos = Nanos::from_secs(1);
/// When interrupted, replies under way are awaited for so long.
pub const DRAIN_INTERRUPTED: Nanos = Nanos::from_millis(200);
/// When interrupted, figures and closes are awaited for so long.
pub const FINISH_INTERRUPTED: Nanos = Nanos::from_millis(150);
/// When interrupted, streams are given so long to end in order.
pub const ENDING_INTERRUPTED: Nanos = Nanos::from_millis(350);
/// A stream that goes on beside a measurement, and is ended with it, has so long for that.
pub const ENDING_WOUND_UP: Nanos = Nanos::from_millis(1_500);
/// No stream takes longer than this to deliver what it has sent and give its figures, at either
/// end.
pub const ENDING_MAX: Nanos = Nanos::from_secs(60);
/// A stream slower than this when it ends, bytes a second, is not waited for longer than a silent
/// one.
pub const DRAIN_RATE_MIN: u64 = 4_096;
/// A stream that ends by bytes has no clock: it is to move so many in each timeout, or in as many
/// timeouts as are looked at together as much as that comes to, else it is given up.
pub const BYTES_IN_TIMEOUT_MIN: u64 = 1_024;
/// Timeouts that are looked at together.
pub const SLOW_TIMEOUTS: u64 = 5;
/// The figures of a stream over UDP are fetched for so long beyond the timeout, where parts of them
/// come.
pub const FETCH_MAX: Nanos = Nanos::from_secs(5);
/// Once a client has given its connections up, their closes are awaited for so long.
pub const CLOSING_MAX: Nanos = Nanos::from_millis(100);
/// A load that carries nothing after so long beyond its timeout never will.
pub const LOAD_AHEAD_MAX: Nanos = Nanos::from_secs(5);
/// When interrupted, whoever should read stdout and stderr and does not is waited for so long in
/// all.
pub const OUTPUT_INTERRUPTED: Nanos = Nanos::from_millis(150);
/// How long a command that stands around a visit of a comparison may take.
pub const HOOK_MAX: Nanos = Nanos::from_secs(5 * 60);
/// How long such a command has to end by itself once it was told to (SIGTERM), before it is killed.
pub const HOOK_GRACE: Nanos = Nanos::from_secs(3);
/// The same where the run was interrupted.
pub const HOOK_GRACE_INTERRUPTED: Nanos = Nanos::from_millis(300);

/// A connection that has not said its whole hello by then is closed, even if it has said a part.
pub const HELLO_MAX: Nanos = Nanos::from_secs(5);
/// An HTTP request must be whole so long after its first byte.
pub const REQUEST_MAX: Nanos = Nanos::from_secs(5);
/// After its figures, or its last response, were sent or asked for, a connection stays this long:
/// for a client that has yet to read them, or to ask again.
pub const LINGER: Nanos = Nanos::from_secs(1);
/// No session takes longer than this to end, however slowly its client reads; nor, of one that
/// streams, any part of it.
pub const SESSION_ENDING_MAX: Nanos = Nanos::from_secs(5);
/// Told to stop, a server gives its sessions so long to take their figures, and then closes them.
pub const STOP_MAX: Nanos = Nanos::from_millis(300);

/// A connection that is closed while zero-copy sends are unacknowledged is reset after so long:
/// until then the kernel has their buffers.
pub const UNACKED_MAX: Nanos = Nanos::from_secs(1);
/// How long a driver that is dropped waits for the kernel to give everything back.
pub const RELEASE_MAX: Nanos = Nanos::from_millis(250);
/// How long an operation by which io_uring is tried out may take.
pub const PROBE_MAX: Nanos = Nanos::from_secs(1);

const _: () = {
    // From the signal on: a nap, the end of the phase, the closes, and the launching thread's look.
    let client = NAP.0 + DRAIN_INTERRUPTED.0 + FINISH_INTERRUPTED.0 + CLOSING_MAX.0;
    // Then its report, whose reader is looked for once more behind each nap.
    assert!(client + NAP.0 + OUTPUT_INTERRUPTED.0 + NAP.0 < INTERRUPTED_MAX.0);
    assert!(ENDING_INTERRUPTED.0 <= DRAIN_INTERRUPTED.0 + FINISH_INTERRUPTED.0);
    // Of a server: its look for the signal, a nap until the stop is noticed, and one until it is
    // over.
    assert!(3 * NAP.0 + STOP_MAX.0 + CLOSING_MAX.0 < INTERRUPTED_MAX.0);
    assert!(NAP.0 + 2 * HOOK_GRACE_INTERRUPTED.0 < INTERRUPTED_MAX.0);
    assert!(ENDING_INTERRUPTED.0 < ENDING_WOUND_UP.0 && ENDING_WOUND_UP.0 < ENDING_MAX.0);
    assert!(SESSION_ENDING_MAX.0 <= ENDING_MAX.0 && LINGER.0 <= SESSION_ENDING_MAX.0);
    assert!(FETCH_MAX.0 < ENDING_MAX.0);
};
