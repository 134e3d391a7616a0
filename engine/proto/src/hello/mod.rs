//! The messages: what the bodies of the control frames say.
//!
//! Field names here are the names on the wire. A field with a default may be left out; fields that
//! a reader does not know are ignored. Ids are hexadecimal strings ([`Id`]).

use serde::{Deserialize, Serialize};

use super::stream::StreamAsk;
use tare_units::limits::{DATAGRAM_HEADER, DATAGRAM_MAX, MESSAGE_MAX};
use tare_units::text::{Hex32, Id};

mod answer;
#[cfg(test)]
mod tests;

pub use answer::{Accept, Figures, Refuse, RefuseCode};

/// The longest body of a hello, and of anything else that a server reads before it knows the
/// client, bytes.
pub const HELLO_BODY_MAX: usize = 4 << 10;
/// The longest delay that a client may ask of a server, nanoseconds: while it lasts it holds a CPU.
pub const SERVER_DELAY_MAX_NS: u64 = 1_000_000_000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Request and reply of the same size, one at a time.
    PingPong,
    /// Payload one way or both, as fast as it goes or at a rate; [`Hello::stream`] says how.
    Stream,
    /// A test that this version does not know: to be refused as such, not as a malformed hello.
    #[serde(other)]
    Unknown,
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A TCP connection.
    #[default]
    Tcp,
    /// UDP datagrams.
    Udp,
}

impl Transport {
    /// The name in flags, on the wire and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Which way the payload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Both ways: the only one that ping-pong knows.
    #[default]
    Both,
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
    /// A direction that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Direction {
    /// The name in flags, on the wire and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }

    /// The client sends.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::Both)
    }

    /// The server sends.
    #[must_use]
    pub const fn is_down(self) -> bool {
        matches!(self, Self::Down | Self::Both)
    }
}

/// How an end waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitMode {
    /// A pinned core polls.
    Spin,
    /// Sleep in the kernel.
    Block,
    /// Spin while a reply is outstanding (for 200 µs at most) and shortly before a send is due;
    /// sleep otherwise.
    Hybrid,
}

impl WaitMode {
    /// The name in flags, on the wire and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Block => "block",
            Self::Hybrid => "hybrid",
        }
    }
}

impl Default for WaitMode {
    /// The mode that asks nothing of the machine.
    fn default() -> Self {
        Self::Block
    }
}

/// The backend that a client asks of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendAsked {
    /// The server's choice.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll or nothing.
    Epoll,
}

/// The client's first message: everything the server needs to know of the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Drawn once per run: groups a client's connections.
    pub run_id: Id,
    /// What is measured.
    pub test: Test,
    /// TCP or UDP: must be what the hello travels on.
    pub transport: Transport,
    /// Which way.
    #[serde(default)]
    pub direction: Direction,
    /// Size of a message, in each direction, bytes; over UDP of a datagram's payload, header
    /// included.
    pub size_bytes: u64,
    /// One request on this connection, then it ends.
    #[serde(default)]
    pub connect_each: bool,
    /// How the server is asked to wait.
    pub wait: WaitMode,
    /// With what.
    #[serde(default)]
    pub backend: BackendAsked,
    /// `/proc/sys/kernel/random/boot_id` of the client, by which two ends on one host know each
    /// other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The CPUs that the client measures on: on the same host the server keeps off them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// Each reply is held that long, spinning, nanoseconds; at most [`SERVER_DELAY_MAX_NS`].
    #[serde(default)]
    pub server_delay_ns: u64,
    /// The client's timeout per operation, nanoseconds.
    pub timeout_ns: u64,
    /// How to stream; absent from other tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamAsk>,
    /// The longest pause that the client expects between two of its sessions, nanoseconds: a server
    /// that serves one client only waits longer than this for the next one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gap_ns: u64,
    /// The first request follows right behind this hello, in one go. The answer is the bare reply,
    /// behind which the server closes, or a refusal. Only for one operation
    /// ([`Hello::connect_each`]), and only where the server offered it ([`Accept::one_go`]).
    #[serde(default, skip_serializing_if = "is_false")]
    pub request_follows: bool,
    /// Leave the environment out of the accept and the histogram out of the figures.
    #[serde(default)]
    pub brief: bool,
    /// The client's version, for logs and messages.
    #[serde(default)]
    pub client_version: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Hello {
    /// Whether this can be served over `transport` at all.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn check(&self, transport: Transport) -> Result<(), Refuse> {
        let malformed = |message: &str| Err(Refuse::new(RefuseCode::Malformed, message));
        if self.test == Test::Unknown || self.direction == Direction::Unknown {
            let message = "this server does not know the test that was asked for";
            return Err(Refuse::new(RefuseCode::UnsupportedTest, message)
                .remedy("use the same tare at both ends"));
        }
        let (own, other) = (self.transport.name(), transport.name());
        if self.transport != transport {
            return malformed(&format!("a hello for {own} came over {other}"));
        }
        let (least, most) = match transport {
            Transport::Tcp => (1, MESSAGE_MAX),
            Transport::Udp => (DATAGRAM_HEADER, DATAGRAM_MAX),
        };
        let size = self.size_bytes;
        if !(u64::from(least)..=u64::from(most)).contains(&size) {
            let message = format!(
                "messages of {size} bytes cannot be sent over {other}: {least} to {most} can"
            );
            return Err(Refuse::new(RefuseCode::Size, message)
                .remedy(format!("give a --size from {least} to {most}")));
        }
        if transport == Transport::Udp && self.connect_each {
            let message = "UDP has no connection to open for each request";
            return Err(Refuse::new(RefuseCode::UnsupportedTest, message)
                .remedy("leave out --connect-each, or --udp"));
        }
        if self.request_follows && !(self.connect_each && self.test == Test::PingPong) {
            return malformed(
                "a request follows a hello at once only on a connection of one operation",
            );
        }
        if self.test == Test::Stream {
            let missing = || malformed("a hello for a stream without a word on how");
            return self.stream.as_ref().map_or_else(missing, StreamAsk::check);
        }
        if self.direction != Direction::Both {
            return malformed("a ping-pong goes both ways");
        }
        if self.server_delay_ns > SERVER_DELAY_MAX_NS {
            return Err(Refuse::new(RefuseCode::Limit, "a server holds a reply for at most 1 s")
                .remedy("give a --server-delay of at most 1s"));
        }
        Ok(())
    }
}

/// Prove that you know the secret; see [`super::auth`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// 32 fresh random bytes.
    pub nonce: Hex32,
}

/// The proof that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The MAC; see [`super::auth`].
    pub proof: Hex32,
}
