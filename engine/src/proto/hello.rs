//! The messages: what the bodies of the control frames say.
//!
//! Field names here are the names on the wire. A field with a default may be left out; fields that a reader
//! does not know are ignored. Ids are hexadecimal strings ([`Id`]).

use serde::{Deserialize, Serialize};

use super::frame::{self, FrameError, Kind};
use super::text::{Hex32, Id, clean};
use crate::limits::{DATAGRAM_HEADER, DATAGRAM_MAX, MESSAGE_MAX};
use crate::result::{CpuUse, Environment, ErrorCount, Instrument};

/// The longest body of a hello, and of anything else that a server reads before it knows the client, bytes.
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
    /// A direction that this version does not know.
    #[serde(other)]
    Unknown,
}

/// How an end waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitMode {
    /// A pinned core polls.
    Spin,
    /// Sleep in the kernel.
    Block,
    /// Spin while a reply is outstanding (for 200 µs at most) and shortly before a send is due; sleep otherwise.
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
    /// Size of a message, in each direction, bytes; over UDP of a datagram's payload, header included.
    pub size_bytes: u64,
    /// One request on this connection, then it ends.
    #[serde(default)]
    pub connect_each: bool,
    /// How the server is asked to wait.
    pub wait: WaitMode,
    /// With what.
    #[serde(default)]
    pub backend: BackendAsked,
    /// `/proc/sys/kernel/random/boot_id` of the client, by which two ends on one host know each other.
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
    /// Leave the environment out of the accept and the histogram out of the figures.
    #[serde(default)]
    pub brief: bool,
    /// The client's version, for logs and messages.
    #[serde(default)]
    pub client_version: String,
}

impl Hello {
    /// Whether this can be served over `transport` at all.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn check(&self, transport: Transport) -> Result<(), Refuse> {
        if self.test == Test::Unknown || self.direction == Direction::Unknown {
            return Err(Refuse::new(
                RefuseCode::UnsupportedTest,
                "this server does not know the test that was asked for",
            )
            .remedy("use the same tare at both ends"));
        }
        if self.transport != transport {
            return Err(Refuse::new(
                RefuseCode::Malformed,
                format!(
                    "a hello for {} came over {}",
                    self.transport.name(),
                    transport.name()
                ),
            ));
        }
        let (least, most) = match transport {
            Transport::Tcp => (1, MESSAGE_MAX),
            Transport::Udp => (DATAGRAM_HEADER, DATAGRAM_MAX),
        };
        if !(u64::from(least)..=u64::from(most)).contains(&self.size_bytes) {
            return Err(Refuse::new(
                RefuseCode::Size,
                format!(
                    "messages of {} bytes cannot be sent over {}: {least} to {most} can",
                    self.size_bytes,
                    transport.name()
                ),
            )
            .remedy(format!("give a --size from {least} to {most}")));
        }
        if transport == Transport::Udp && self.connect_each {
            return Err(Refuse::new(
                RefuseCode::UnsupportedTest,
                "UDP has no connection to open for each request",
            )
            .remedy("leave out --connect-each, or --udp"));
        }
        if self.server_delay_ns > SERVER_DELAY_MAX_NS {
            return Err(
                Refuse::new(RefuseCode::Limit, "a server holds a reply for at most 1 s")
                    .remedy("give a --server-delay of at most 1s"),
            );
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
    /// The MAC of [`super::auth::proof`].
    pub proof: Hex32,
}

/// Go ahead.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Accept {
    /// Drawn once by each server process, by which the distinct servers behind one address are told apart.
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
    /// The server's machine; absent for a brief hello and over UDP (where it is fetched).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
}

impl Default for WaitMode {
    /// The mode that asks nothing of the machine.
    fn default() -> Self {
        Self::Block
    }
}

impl Accept {
    /// The frame that says so. An environment that does not fit into a frame is left out, long reasons are cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(Kind::Accept, self).unwrap_or_else(|_| self.encode_short())
    }

    /// The same without the environment, in less than [`crate::limits::CONTROL_DATAGRAM`] bytes: what UDP sends.
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

impl RefuseCode {
    /// The code on the wire.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Version => "version",
            Self::Malformed => "malformed",
            Self::SecretRequired => "secret-required",
            Self::SecretWrong => "secret-wrong",
            Self::Busy => "busy",
            Self::UnsupportedTest => "unsupported-test",
            Self::BackendUnavailable => "backend-unavailable",
            Self::Size => "size",
            Self::Limit => "limit",
            Self::UnknownSession => "unknown-session",
            Self::ShuttingDown => "shutting-down",
            Self::Internal => "internal",
            Self::Unknown(name) => name,
        }
    }
}

impl From<String> for RefuseCode {
    fn from(name: String) -> Self {
        [
            Self::Version,
            Self::Malformed,
            Self::SecretRequired,
            Self::SecretWrong,
            Self::Busy,
            Self::UnsupportedTest,
            Self::BackendUnavailable,
            Self::Size,
            Self::Limit,
            Self::UnknownSession,
            Self::ShuttingDown,
            Self::Internal,
        ]
        .into_iter()
        .find(|code| code.name() == name)
        .unwrap_or(Self::Unknown(name))
    }
}

impl Serialize for RefuseCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for RefuseCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
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
        Self {
            code,
            message: message.into(),
            remedy: None,
        }
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
                super::VERSION,
                env!("CARGO_PKG_VERSION")
            ),
        )
        .remedy("use the same tare at both ends")
    }

    /// The frame that says so, in less than [`crate::limits::CONTROL_DATAGRAM`] bytes: long texts are cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let short = self.cleaned();
        frame::encode(Kind::Refuse, &short).expect("every field has been cut to a bound")
    }

    /// The same with every text cut to a bound and free of control characters: fit to be sent, and to be shown.
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
    /// Residence times of the measured requests, nanoseconds: base64 of the HdrHistogram V2 compressed encoding.
    /// Absent for a brief hello, and where it does not fit into a frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residence_hdr: Option<String>,
    /// How many values it holds.
    pub residence_count: u64,
    /// How the server measured.
    pub instrument: Instrument,
    /// CPU time of the session.
    pub cpu: CpuUse,
    /// What failed.
    pub errors: Vec<ErrorCount>,
    /// Why the server ended the session by itself, in words; absent where the client ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_short: Option<String>,
}

impl Figures {
    /// The frame that says so. What does not fit into a frame is left out: the histogram first, then the words.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let without = |histogram: Option<String>, words: bool| Self {
            residence_hdr: histogram,
            instrument: if words {
                self.instrument.clone()
            } else {
                Instrument::default()
            },
            errors: if words {
                self.errors.clone()
            } else {
                Vec::new()
            },
            cut_short: self.cut_short.as_ref().map(|c| clean(c, TEXT_MAX)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{CONTROL_DATAGRAM, FRAME_BODY_MAX};
    use crate::proto::frame::{FrameReader, HEADER_LEN};
    use crate::proto::tests::{accept, hello};
    use proptest::prelude::*;

    #[test]
    fn unknown_fields_are_ignored_and_defaults_hold() {
        let text = r#"{"run_id":"00000000000000ff","test":"ping_pong","transport":"tcp","size_bytes":64,
            "wait":"spin","timeout_ns":1,"from_the_future":[1,{"a":null}]}"#;
        let hello: Hello = serde_json::from_str(text).unwrap();
        assert_eq!(hello.run_id, Id(255));
        assert_eq!(hello.backend, BackendAsked::Auto);
        assert_eq!(hello.check(Transport::Tcp), Ok(()));
        let refuse: Refuse = serde_json::from_str(r#"{"code":"new-one","x":1}"#).unwrap();
        assert_eq!(refuse.code, RefuseCode::Unknown("new-one".into()));
        assert_eq!(
            serde_json::from_str::<Figures>("{}").unwrap(),
            Figures::default()
        );
    }

    #[test]
    fn names_on_the_wire() {
        let json = serde_json::to_value(Hello {
            cpus: vec![3],
            ..hello()
        })
        .unwrap();
        assert_eq!(json["test"], "ping_pong");
        assert_eq!(json["transport"], "tcp");
        assert_eq!(json["direction"], "both");
        assert_eq!(json["wait"], "spin");
        assert_eq!(json["backend"], "auto");
        assert_eq!(json["run_id"], "0123456789abcdef");
        let codes = [
            RefuseCode::SecretWrong,
            RefuseCode::UnsupportedTest,
            RefuseCode::ShuttingDown,
        ];
        assert_eq!(
            serde_json::to_string(&codes).unwrap(),
            r#"["secret-wrong","unsupported-test","shutting-down"]"#
        );
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_reason() {
        let refused = |hello: Hello, transport| {
            let refuse = hello.check(transport).unwrap_err();
            (refuse.to_string(), refuse.remedy.unwrap_or_default())
        };
        let h = hello();
        assert_eq!(
            refused(
                Hello {
                    size_bytes: 0,
                    ..h.clone()
                },
                Transport::Tcp
            ),
            (
                "size: messages of 0 bytes cannot be sent over tcp: 1 to 16777216 can".into(),
                "give a --size from 1 to 16777216".into()
            )
        );
        let udp = Hello {
            transport: Transport::Udp,
            ..h.clone()
        };
        assert_eq!(
            refused(
                Hello {
                    size_bytes: 15,
                    ..udp.clone()
                },
                Transport::Udp
            )
            .0,
            "size: messages of 15 bytes cannot be sent over udp: 16 to 65507 can"
        );
        assert!(
            Hello {
                size_bytes: 16,
                ..udp.clone()
            }
            .check(Transport::Udp)
            .is_ok()
        );
        assert!(
            Hello {
                size_bytes: u64::from(MESSAGE_MAX),
                ..h.clone()
            }
            .check(Transport::Tcp)
            .is_ok()
        );
        assert!(
            Hello {
                size_bytes: u64::from(MESSAGE_MAX) + 1,
                ..h.clone()
            }
            .check(Transport::Tcp)
            .is_err()
        );
        assert_eq!(
            refused(udp.clone(), Transport::Tcp).0,
            "malformed: a hello for udp came over tcp"
        );
        assert_eq!(
            refused(
                Hello {
                    connect_each: true,
                    ..udp
                },
                Transport::Udp
            )
            .0,
            "unsupported-test: UDP has no connection to open for each request"
        );
        assert_eq!(
            refused(
                Hello {
                    server_delay_ns: SERVER_DELAY_MAX_NS + 1,
                    ..h.clone()
                },
                Transport::Tcp
            )
            .0,
            "limit: a server holds a reply for at most 1 s"
        );
        let mut json = serde_json::to_value(h).unwrap();
        json["test"] = "stream".into();
        let streaming: Hello = serde_json::from_value(json).unwrap();
        assert_eq!(
            refused(streaming, Transport::Tcp).0,
            "unsupported-test: this server does not know the test that was asked for"
        );
    }

    #[test]
    fn answers_stay_within_their_bounds() {
        let nasty = "\u{1F980}\"\\\n".repeat(60_000);
        let refuse =
            Refuse::new(RefuseCode::Unknown(nasty.clone()), nasty.clone()).remedy(nasty.clone());
        assert!(refuse.encode().len() <= CONTROL_DATAGRAM);
        let long = Accept {
            backend_reason: nasty.clone(),
            wait_reason: Some(nasty.clone()),
            version: nasty.clone(),
            backend: nasty.clone(),
            cpus: (u32::MAX - 1000..u32::MAX).collect(),
            session: Some(Id(u64::MAX)),
            ..accept()
        };
        assert!(long.encode().len() <= FRAME_BODY_MAX);
        assert!(long.encode_short().len() <= CONTROL_DATAGRAM);
        let figures = Figures {
            operations: 5,
            residence_hdr: Some("A".repeat(FRAME_BODY_MAX)),
            residence_count: 4,
            cut_short: Some("shutting down".into()),
            errors: vec![ErrorCount {
                phase: "send".into(),
                cause: "EPIPE".into(),
                count: 1,
            }],
            ..Figures::default()
        };
        let mut reader = FrameReader::new(FRAME_BODY_MAX);
        reader.handle_bytes(&figures.encode());
        let read: Figures = reader.poll_frame().unwrap().unwrap().read().unwrap();
        assert_eq!(
            read,
            Figures {
                residence_hdr: None,
                ..figures.clone()
            }
        );
        let hopeless = Figures {
            errors: vec![ErrorCount {
                phase: nasty.clone(),
                cause: nasty,
                count: 1,
            }],
            ..figures
        };
        let read = Figures::decode(&hopeless.encode()[HEADER_LEN..]).unwrap();
        assert_eq!((read.operations, read.errors.len()), (5, 0));
    }

    proptest! {
        #[test]
        fn no_body_makes_a_reader_panic(body: Vec<u8>) {
            let _ = frame::read_body::<Hello>(Kind::Hello, &body);
            let _ = frame::read_body::<Accept>(Kind::Accept, &body);
            let _ = frame::read_body::<Refuse>(Kind::Refuse, &body);
            let _ = Figures::decode(&body);
        }

        #[test]
        fn hellos_round_trip(
            ids: (u64, u64, u64, u64), brief: bool, each: bool, boot in ".*", cpus: Vec<u32>,
        ) {
            let sent = Hello {
                run_id: Id(ids.0), size_bytes: ids.1, server_delay_ns: ids.2, timeout_ns: ids.3, brief,
                connect_each: each, boot_id: Some(boot.clone()), cpus, client_version: boot, ..hello()
            };
            let body = serde_json::to_vec(&sent).unwrap();
            prop_assert_eq!(frame::read_body::<Hello>(Kind::Hello, &body).unwrap(), sent);
        }

        #[test]
        fn refusals_round_trip(code in "[a-z-]{1,20}", message in "[ -~]{0,200}") {
            let refuse = Refuse::new(RefuseCode::from(code), message);
            let frame = refuse.encode();
            prop_assert_eq!(frame::read_body::<Refuse>(Kind::Refuse, &frame[HEADER_LEN..]).unwrap(), refuse);
        }
    }
}
