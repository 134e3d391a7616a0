//! The messages: what the bodies of the control frames say.
//!
//! Field names here are the names on the wire. A field with a default may be left out; fields that
//! a reader does not know are ignored. Ids are hexadecimal strings ([`Id`]).

use serde::{Deserialize, Serialize};

use crate::VERSION;
use crate::frame::{self, FrameError, Kind};
use crate::stream::{StreamAsk, StreamFigures};
use tare_stats::result::{CpuUse, Environment, ErrorCount, Instrument};
use tare_units::limits::{DATAGRAM_HEADER, DATAGRAM_MAX, MESSAGE_MAX};
use tare_units::text::{Hex32, Id, clean};

/// The longest body of a hello, and of anything else that a server reads before it knows the
/// client, bytes.
pub const HELLO_BODY_MAX: usize = 4 << 10;
/// The longest delay that a client may ask of a server, nanoseconds: while it lasts it holds a CPU.
pub const SERVER_DELAY_MAX_NS: u64 = 1_000_000_000;
/// The longest text of a peer that is kept, bytes of JSON.
const TEXT_MAX: usize = 480;

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
    pub const fn name(self) -> &'static str {
        ["tcp", "udp"][self as usize]
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
    pub const fn name(self) -> &'static str {
        ["both", "up", "down", "unknown"][self as usize]
    }

    /// The client sends.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::Both)
    }

    /// The server sends.
    pub const fn is_down(self) -> bool {
        matches!(self, Self::Down | Self::Both)
    }
}

/// How an end waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitMode {
    /// A pinned core polls.
    Spin,
    /// Sleep in the kernel, which asks nothing of the machine.
    #[default]
    Block,
    /// Spin while a reply is outstanding (for 200 µs at most) and shortly before a send is due;
    /// sleep otherwise.
    Hybrid,
}

impl WaitMode {
    /// The name in flags, on the wire and in results.
    pub const fn name(self) -> &'static str {
        ["spin", "block", "hybrid"][self as usize]
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
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
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

impl Hello {
    /// Whether this can be served over `transport` at all; else the refusal to answer with.
    pub fn check(&self, transport: Transport) -> Result<(), Refuse> {
        let malformed = |message: &str| Err(Refuse::new(RefuseCode::Malformed, message));
        let refused =
            |code, message: &str, remedy: &str| Err(Refuse::new(code, message).remedy(remedy));
        if self.test == Test::Unknown || self.direction == Direction::Unknown {
            let message = "this server does not know the test that was asked for";
            let remedy = "use the same tare at both ends";
            return refused(RefuseCode::UnsupportedTest, message, remedy);
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
            let remedy = format!("give a --size from {least} to {most}");
            return refused(RefuseCode::Size, &message, &remedy);
        }
        if transport == Transport::Udp && self.connect_each {
            let message = "UDP has no connection to open for each request";
            let remedy = "leave out --connect-each, or --udp";
            return refused(RefuseCode::UnsupportedTest, message, remedy);
        }
        if self.request_follows && !(self.connect_each && self.test == Test::PingPong) {
            return malformed(
                "a request follows a hello at once only on a connection of one operation",
            );
        }
        match &self.stream {
            Some(stream) if self.test == Test::Stream => stream.check(),
            None if self.test == Test::Stream => {
                malformed("a hello for a stream without a word on how")
            }
            _ if self.direction != Direction::Both => malformed("a ping-pong goes both ways"),
            _ if self.server_delay_ns > SERVER_DELAY_MAX_NS => refused(
                RefuseCode::Limit,
                "a server holds a reply for at most 1 s",
                "give a --server-delay of at most 1s",
            ),
            _ => Ok(()),
        }
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

/// Go ahead.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Accept {
    /// Drawn once by each server process, by which the distinct servers behind one address are told
    /// apart.
    pub instance: Id,
    /// The server's version.
    #[serde(default)]
    pub version: String,
    /// The UDP session, to be carried in every datagram; absent over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Id>,
    /// What serves the session: `uring` or `epoll`.
    pub backend: String,
    /// Why that one.
    #[serde(default)]
    pub backend_reason: String,
    /// How the server waits.
    pub wait: WaitMode,
    /// Why not as asked, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_reason: Option<String>,
    /// The CPUs that serve the session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// Both ends have the same boot id.
    #[serde(default)]
    pub same_host: bool,
    /// Both ends are on one host and share a CPU, which spoils the measurement.
    #[serde(default)]
    pub shares_cpu: bool,
    /// This server takes [`Hello::request_follows`] from this client. One with a secret does
    /// not: it must hear the proof first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_go: bool,
    /// The server's machine; absent for a brief hello and over UDP (where it is fetched).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
}

impl Accept {
    /// The frame that says so. An environment that does not fit into a frame is left out, long
    /// reasons are cut.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(Kind::Accept, self).unwrap_or_else(|_| self.encode_short())
    }

    /// The same without the environment, in less than [`tare_units::limits::CONTROL_DATAGRAM`]
    /// bytes: what UDP sends.
    pub fn encode_short(&self) -> Vec<u8> {
        let short = Self {
            version: clean(&self.version, 32),
            backend: clean(&self.backend, 16),
            backend_reason: clean(&self.backend_reason, 240),
            wait_reason: self.wait_reason.as_ref().map(|r| clean(r, 240)),
            cpus: self.cpus.iter().copied().take(16).collect(),
            environment: None,
            ..*self
        };
        frame::encode(Kind::Accept, &short).expect("every field has been cut to a bound")
    }
}

/// Why a server refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RefuseCode {
    /// `version`: the hello is of another version of the protocol.
    Version,
    /// `malformed`: the hello, or what followed it, is not what the protocol says.
    Malformed,
    /// `secret-required`: the client has shown no secret.
    SecretRequired,
    /// `secret-wrong`: it has another one.
    SecretWrong,
    /// `busy`: as many sessions as the server was started for.
    Busy,
    /// `unsupported-test`: a test, or a variant of one, that this server does not do.
    UnsupportedTest,
    /// `backend-unavailable`: the backend asked for cannot be had there.
    BackendUnavailable,
    /// `size`: a message size out of bounds.
    Size,
    /// `limit`: something else out of bounds.
    Limit,
    /// `unknown-session`: UDP only, a session that has ended, or that another process had.
    UnknownSession,
    /// `shutting-down`.
    ShuttingDown,
    /// `internal`: the server failed to set the session up.
    Internal,
    /// One that this version does not know.
    #[serde(untagged)]
    Unknown(String),
}

impl RefuseCode {
    /// The code on the wire.
    pub fn name(&self) -> String {
        let json = serde_json::to_value(self).ok();
        json.as_ref().and_then(|code| code.as_str()).unwrap_or_default().to_owned()
    }
}

/// No, because.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Refuse {
    /// For programs.
    pub code: RefuseCode,
    /// What is the matter, one line.
    #[serde(default)]
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Refuse {
    /// Without a remedy.
    pub fn new(code: RefuseCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The refusal of a hello of version `theirs`.
    pub fn version(theirs: u8) -> Self {
        let own = env!("CARGO_PKG_VERSION");
        let message = format!(
            "the client speaks version {theirs} of tare's protocol, this server version {VERSION} \
             (tare {own})"
        );
        Self::new(RefuseCode::Version, message).remedy("use the same tare at both ends")
    }

    pub(crate) fn malformed(what: &str) -> Self {
        let message = format!("the client broke tare's protocol: {what}");
        Self::new(RefuseCode::Malformed, message)
    }

    pub(crate) fn secret_wrong() -> Self {
        let message = "the client has another secret than this server";
        Self::new(RefuseCode::SecretWrong, message)
    }

    /// The frame that says so, in less than [`tare_units::limits::CONTROL_DATAGRAM`] bytes: long
    /// texts are cut.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(Kind::Refuse, &self.cleaned()).expect("every field has been cut to a bound")
    }

    /// The same with every text cut to a bound and free of control characters: fit to be sent, and
    /// to be shown.
    pub fn cleaned(&self) -> Self {
        Self {
            code: match &self.code {
                RefuseCode::Unknown(name) => RefuseCode::Unknown(clean(name, 32)),
                known => known.clone(),
            },
            message: clean(&self.message, TEXT_MAX),
            remedy: self.remedy.as_ref().map(|r| clean(r, TEXT_MAX)),
        }
    }
}

/// The server's figures of one session.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Requests answered, the warm-up's among them.
    pub operations: u64,
    /// Payload received, bytes.
    pub received_bytes: u64,
    /// Payload sent, bytes.
    pub sent_bytes: u64,
    /// Residence times of the measured requests, nanoseconds: base64 of the HdrHistogram V2
    /// compressed encoding. Absent for a brief hello, and where it does not fit into a frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residence_hdr: Option<String>,
    /// How many values it holds.
    pub residence_count: u64,
    /// How the server measured.
    pub instrument: Instrument,
    /// CPU time of the worker that served the session, over the measured phase, whatever it served.
    pub cpu: CpuUse,
    /// Requests that this worker answered in the time that `cpu` covers, those of its other
    /// sessions among them: what `cpu` is to be divided by.
    pub cpu_operations: u64,
    /// Payload that this worker moved, in or out, in the time that `cpu` covers, bytes, likewise.
    pub cpu_bytes: u64,
    /// Of a stream: what was sent and received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamFigures>,
    /// What failed.
    pub errors: Vec<ErrorCount>,
    /// Why the server ended the session by itself, in words; absent where the client ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_short: Option<String>,
}

impl Figures {
    /// The frame that says so. What does not fit into a frame is left out: the histogram first,
    /// then the words.
    pub fn encode(&self) -> Vec<u8> {
        let short = |words| Self {
            residence_hdr: None,
            instrument: if words { self.instrument.clone() } else { Instrument::default() },
            errors: if words { self.errors.clone() } else { Vec::new() },
            cut_short: self.cut_short.as_ref().map(|why| clean(why, TEXT_MAX)),
            stream: self.stream.as_ref().map(|stream| stream.shortened(words)),
            ..*self
        };
        frame::encode(Kind::Figures, self)
            .or_else(|_| frame::encode(Kind::Figures, &short(true)))
            .or_else(|_| frame::encode(Kind::Figures, &short(false)))
            .expect("only numbers and one bounded text are left")
    }

    /// Reads the body of the frame.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        frame::read_body(Kind::Figures, body)
    }
}

#[cfg(test)]
mod tests;
