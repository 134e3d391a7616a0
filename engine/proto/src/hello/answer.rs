//! What a server says: accept, refuse, figures.

use serde::{Deserialize, Serialize};

use super::WaitMode;
use crate::VERSION;
use crate::frame::{self, FrameError, Kind};
use crate::stream::StreamFigures;
use tare_stats::result::{CpuUse, Environment, ErrorCount, Instrument};
use tare_units::text::{Id, clean};

/// The longest text of a peer that is kept, bytes of JSON.
const TEXT_MAX: usize = 480;

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
    /// This server takes [`super::Hello::request_follows`] from this client. One with a secret does
    /// not: it must hear the proof first.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub one_go: bool,
    /// The server's machine; absent for a brief hello and over UDP (where it is fetched).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
}

impl Accept {
    /// The frame that says so. An environment that does not fit into a frame is left out, long
    /// reasons are cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(Kind::Accept, self).unwrap_or_else(|_| self.encode_short())
    }

    /// The same without the environment, in less than [`tare_units::limits::CONTROL_DATAGRAM`]
    /// bytes: what UDP sends.
    #[must_use]
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
#[serde(from = "String", into = "String")]
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
    Unknown(String),
}

/// The codes on the wire.
const CODES: [(RefuseCode, &str); 12] = [
    (RefuseCode::Version, "version"),
    (RefuseCode::Malformed, "malformed"),
    (RefuseCode::SecretRequired, "secret-required"),
    (RefuseCode::SecretWrong, "secret-wrong"),
    (RefuseCode::Busy, "busy"),
    (RefuseCode::UnsupportedTest, "unsupported-test"),
    (RefuseCode::BackendUnavailable, "backend-unavailable"),
    (RefuseCode::Size, "size"),
    (RefuseCode::Limit, "limit"),
    (RefuseCode::UnknownSession, "unknown-session"),
    (RefuseCode::ShuttingDown, "shutting-down"),
    (RefuseCode::Internal, "internal"),
];

impl RefuseCode {
    /// The code on the wire.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Unknown(name) => name,
            known => CODES.iter().find(|(code, _)| code == known).map_or("", |(_, name)| name),
        }
    }
}

impl From<String> for RefuseCode {
    fn from(name: String) -> Self {
        let known = CODES.into_iter().find(|(_, known)| *known == name);
        known.map_or(Self::Unknown(name), |(code, _)| code)
    }
}

impl From<RefuseCode> for String {
    fn from(code: RefuseCode) -> Self {
        code.name().to_owned()
    }
}

/// No, because.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A refusal without a remedy.
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
    #[must_use]
    pub fn version(theirs: u8) -> Self {
        Self::new(
            RefuseCode::Version,
            format!(
                "the client speaks version {theirs} of tare's protocol, this server version {} (tare {})",
                VERSION,
                env!("CARGO_PKG_VERSION")
            ),
        )
        .remedy("use the same tare at both ends")
    }

    /// The frame that says so, in less than [`tare_units::limits::CONTROL_DATAGRAM`] bytes: long
    /// texts are cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let short = self.cleaned();
        frame::encode(Kind::Refuse, &short).expect("every field has been cut to a bound")
    }

    /// The same with every text cut to a bound and free of control characters: fit to be sent, and
    /// to be shown.
    #[must_use]
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

impl std::fmt::Display for Refuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
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
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let without = |histogram: Option<String>, words: bool| Self {
            residence_hdr: histogram,
            instrument: if words { self.instrument.clone() } else { Instrument::default() },
            errors: if words { self.errors.clone() } else { Vec::new() },
            cut_short: self.cut_short.as_ref().map(|c| clean(c, TEXT_MAX)),
            stream: self.stream.as_ref().map(|s| s.shortened(words)),
            ..*self
        };
        frame::encode(Kind::Figures, self)
            .or_else(|_| frame::encode(Kind::Figures, &without(None, true)))
            .or_else(|_| frame::encode(Kind::Figures, &without(None, false)))
            .expect("only numbers and one bounded text are left")
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`FrameError::Json`] where `body` is not that.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        frame::read_body(Kind::Figures, body)
    }
}
