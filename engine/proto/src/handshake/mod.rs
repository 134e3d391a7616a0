//! The TCP handshake, both ends: hello, challenge and proof where there is a secret, accept or
//! refuse; and the figures at the end of the session.
//!
//! Methods come in four sorts: getters; `handle_*`, something happened; commands; `poll_*`, what
//! next. After each `handle_*` or command, send what `poll_transmit` gives until it gives none,
//! then look at `poll_event`.

use std::fmt;

use crate::VERSION;
use crate::auth::{self, Secret};
use crate::frame::{self, Frame, FrameError, FrameReader, Kind, read_body};
use crate::hello::{Accept, Challenge, Figures, HELLO_BODY_MAX, Hello, Proof, Refuse, RefuseCode};
use tare_units::Nanos;
use tare_units::error::Error;
use tare_units::limits::{DEFAULT_PORT, FRAME_BODY_MAX};
use tare_units::text::{EXCERPT_MAX, Hex32, excerpt, first_line, protocol_name};

mod server;

pub use server::{ServerEvent, ServerFailure, ServerHandshake};

/// Why a client got no session, or no figures.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// What answers there is not tare: the first bytes of its answer, at most
    /// [`tare_units::text::EXCERPT_MAX`].
    NotTare(Vec<u8>),
    /// A tare of another version of the protocol.
    Version(u8),
    /// The server wants a proof of a secret that we don't have.
    SecretMissing,
    /// The server said no.
    Refused(Refuse),
    /// The connection was closed before a single byte of an answer.
    ClosedUnanswered,
    /// The connection was closed in the middle.
    Closed,
    /// Nothing complete came in time.
    TimedOut {
        /// How long was waited.
        after: Nanos,
        /// Something of an answer had come.
        answered: bool,
    },
    /// The server broke the protocol.
    Malformed(String),
    /// Our own hello is longer than the protocol allows: too many CPUs are named in it.
    HelloTooLong,
}

impl HandshakeError {
    pub(crate) fn not_tare(answer: &[u8]) -> Self {
        Self::NotTare(first_line(answer).to_vec())
    }

    /// What the body of a refusal amounts to.
    pub(crate) fn refused(body: &[u8]) -> Self {
        read_body::<Refuse>(Kind::Refuse, body)
            .map_or_else(Self::from, |refuse| Self::Refused(refuse.cleaned()))
    }

    fn instead(kind: Kind, of: &str) -> Self {
        Self::Malformed(format!("it sent {} instead of {of}", kind.name()))
    }

    /// A one-word cause for error counts (`closed`, `timeout`, `protocol`, `refused`, …).
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::NotTare(_) | Self::Version(_) | Self::Malformed(_) => "protocol",
            Self::SecretMissing | Self::Refused(_) => "refused",
            Self::ClosedUnanswered | Self::Closed => "closed",
            Self::TimedOut { .. } => "timeout",
            Self::HelloTooLong => "hello-too-long",
        }
    }

    /// The error for the public edge; `address` is where the connection went, as the user shall
    /// read it.
    pub fn into_error(self, address: impl fmt::Display) -> Error {
        const SAME_TARE: &str = "use the same tare at both ends";
        let (what, remedy) = match self {
            Self::NotTare(answer) => {
                let start = format!(
                    "start `tare serve` there, or give the port that it listens on (by default \
                     {DEFAULT_PORT})"
                );
                let what = foreign(&answer, "answered");
                return Error::peer(format!("{address} {what}")).remedy(start);
            }
            Self::Refused(refuse) => return refused(&refuse, &address.to_string()),
            Self::HelloTooLong => {
                return Error::usage("the hello names more CPUs than it can hold")
                    .remedy("give fewer --cpus");
            }
            Self::Version(theirs) => (other_version(theirs), SAME_TARE),
            Self::SecretMissing => (
                "asks for a secret, and none was given".to_owned(),
                "give the server's secret with --secret-file",
            ),
            Self::ClosedUnanswered => (
                "closed the connection without an answer".to_owned(),
                "check that `tare serve` runs there: proxies and load balancers close so when \
                 there is nothing behind them",
            ),
            Self::Closed => (
                "closed the connection in the middle of an exchange".to_owned(),
                "see what the server logged",
            ),
            Self::TimedOut { after, answered: false } => (
                format!("did not answer the hello within {after}"),
                "check that `tare serve` runs there and that no firewall is between, or give a \
                 longer --timeout",
            ),
            Self::TimedOut { after, answered: true } => (
                format!("stopped answering for {after}"),
                "see what the server logged, or give a longer --timeout",
            ),
            Self::Malformed(what) => (format!("broke tare's protocol: {what}"), SAME_TARE),
        };
        Error::peer(format!("{address} {what}")).remedy(remedy)
    }
}

/// What is said of an end that is no tare, by the first bytes that it sent.
fn foreign(first_bytes: &[u8], sent: &str) -> String {
    match protocol_name(first_bytes) {
        Some(name) => format!("speaks {name}, not tare's protocol"),
        None => format!("does not speak tare's protocol: it {sent} {}", excerpt(first_bytes)),
    }
}

/// What is said of a tare of another version.
fn other_version(theirs: u8) -> String {
    let own = env!("CARGO_PKG_VERSION");
    format!("speaks version {theirs} of tare's protocol, this tare ({own}) version {VERSION}")
}

fn refused(refuse: &Refuse, address: &str) -> Error {
    let Refuse { code, message, remedy } = refuse.cleaned();
    let fixed = match code {
        RefuseCode::SecretRequired => return HandshakeError::SecretMissing.into_error(address),
        RefuseCode::SecretWrong => {
            return Error::peer(format!("{address} has another secret than the one given"))
                .remedy("give the file that the server was started with to --secret-file");
        }
        RefuseCode::Busy => {
            Some("try again later, or start the server with a larger --max-sessions")
        }
        RefuseCode::ShuttingDown => Some("start the server again"),
        RefuseCode::Version => Some("use the same tare at both ends"),
        _ => None,
    };
    let message = if message.is_empty() { code.name() } else { message };
    let error = Error::peer(format!("{address} refused: {message}"));
    match remedy.as_deref().or(fixed) {
        Some(remedy) => error.remedy(remedy),
        None => error,
    }
}

impl From<FrameError> for HandshakeError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Version(theirs) => Self::Version(theirs),
            other => Self::Malformed(format!("it sent {other}")),
        }
    }
}

/// What became of a handshake.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// There is a session.
    Accepted(Box<Accept>),
    /// There is none; the connection is to be closed.
    Failed(HandshakeError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The hello is under way; a challenge may come.
    AwaitAnswer,
    /// The proof is under way.
    AwaitVerdict,
    /// Something else than tare answers; the rest of its first line is awaited, to name it.
    Foreign,
    Accepted,
    Failed,
}

/// The client's end of the TCP handshake.
///
/// * `handle_bytes`, `handle_closed`, `handle_timeout`
/// * `poll_transmit`, `poll_event`
#[derive(Debug)]
pub struct ClientHandshake {
    state: State,
    hello_body: Vec<u8>,
    timeout: Nanos,
    secret: Option<Secret>,
    reader: FrameReader,
    transmit: Option<Vec<u8>>,
    event: Option<ClientEvent>,
}

/// A hello in its frame, to be sent with its request right behind it: there is no handshake then,
/// and the answer is the bare reply or a refusal.
pub fn hello_in_one_go(hello: &Hello) -> Vec<u8> {
    frame::encode_body(Kind::Hello, &hello_body(hello)).unwrap_or_default()
}

/// The JSON of a hello. It ends with a newline, which JSON allows, so that a server of some
/// protocol made of lines answers at once instead of waiting for the end of the line.
pub(crate) fn hello_body(hello: &Hello) -> Vec<u8> {
    let mut body = frame::json(hello);
    body.push(b'\n');
    body
}

impl ClientHandshake {
    /// Begins: the hello is there to be sent.
    pub fn new(hello: &Hello, secret: Option<Secret>) -> Self {
        let mut handshake = Self {
            state: State::AwaitAnswer,
            hello_body: hello_body(hello),
            timeout: Nanos(hello.timeout_ns),
            secret,
            reader: FrameReader::new(FRAME_BODY_MAX),
            transmit: None,
            event: None,
        };
        if handshake.hello_body.len() > HELLO_BODY_MAX {
            handshake.fail(HandshakeError::HelloTooLong);
        } else {
            handshake.transmit = frame::encode_body(Kind::Hello, &handshake.hello_body).ok();
        }
        handshake
    }

    /// These bytes arrived. Bytes behind an accept are an error, since a server speaks only when
    /// spoken to; then the event is [`ClientEvent::Failed`], even after [`ClientEvent::Accepted`]
    /// was taken.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        if self.state == State::Failed || bytes.is_empty() {
            return;
        }
        self.reader.handle_bytes(bytes);
        while matches!(self.state, State::AwaitAnswer | State::AwaitVerdict) {
            match self.reader.poll_frame() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.handle_frame(&frame) {
                        self.fail(error);
                    }
                }
                Ok(None) => break,
                Err(FrameError::NotTare) => self.state = State::Foreign,
                Err(error) => self.fail(error.into()),
            }
        }
        let buffered = self.reader.buffered();
        match self.state {
            State::Foreign if buffered.len() >= EXCERPT_MAX || buffered.contains(&b'\n') => {
                self.fail(HandshakeError::not_tare(buffered));
            }
            State::Accepted if !buffered.is_empty() => {
                self.fail(HandshakeError::Malformed("it spoke before it was spoken to".into()));
            }
            _ => {}
        }
    }

    fn handle_frame(&mut self, frame: &Frame) -> Result<(), HandshakeError> {
        match (frame.kind, self.state) {
            (Kind::Challenge, State::AwaitAnswer) => {
                let Challenge { nonce } = frame.read()?;
                let secret = self.secret.as_ref().ok_or(HandshakeError::SecretMissing)?;
                let proof = Hex32(auth::proof(secret, &nonce.0, &self.hello_body));
                self.transmit = frame::encode(Kind::Proof, &Proof { proof }).ok();
                self.state = State::AwaitVerdict;
            }
            (Kind::Accept, _) => {
                self.event = Some(ClientEvent::Accepted(Box::new(frame.read()?)));
                self.state = State::Accepted;
            }
            (Kind::Refuse, _) => return Err(HandshakeError::refused(&frame.body)),
            (kind, _) => return Err(HandshakeError::instead(kind, "an answer")),
        }
        Ok(())
    }

    /// The server closed, or the connection broke.
    pub fn handle_closed(&mut self) {
        self.give_up(if self.is_unanswered() {
            HandshakeError::ClosedUnanswered
        } else {
            HandshakeError::Closed
        });
    }

    /// The time for the handshake, by the caller's reckoning the hello's `timeout_ns`, is over.
    pub fn handle_timeout(&mut self) {
        let answered = !self.is_unanswered();
        self.give_up(HandshakeError::TimedOut { after: self.timeout, answered });
    }

    fn is_unanswered(&self) -> bool {
        self.state == State::AwaitAnswer && self.reader.buffered().is_empty()
    }

    fn give_up(&mut self, error: HandshakeError) {
        match self.state {
            State::Accepted | State::Failed => {}
            State::Foreign => self.fail(HandshakeError::not_tare(self.reader.buffered())),
            State::AwaitAnswer | State::AwaitVerdict => self.fail(error),
        }
    }

    fn fail(&mut self, error: HandshakeError) {
        self.state = State::Failed;
        self.transmit = None;
        self.event = Some(ClientEvent::Failed(error));
    }

    /// What is to be sent next.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmit.take()
    }

    /// What became of it, once it is known.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.event.take()
    }
}

/// Reads the figures that a server sends when the session is over: after the client's half-close,
/// or early.
#[derive(Debug)]
pub struct FiguresReader(FrameReader);

impl Default for FiguresReader {
    fn default() -> Self {
        Self(FrameReader::new(FRAME_BODY_MAX))
    }
}

impl FiguresReader {
    /// These bytes arrived; the figures, once they are whole, or what the server sent instead.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Option<Figures>, HandshakeError> {
        self.0.handle_bytes(bytes);
        let Some(frame) = self.0.poll_frame()? else { return Ok(None) };
        match frame.kind {
            Kind::Figures => Ok(Some(frame.read()?)),
            Kind::Refuse => Err(HandshakeError::refused(&frame.body)),
            kind => Err(HandshakeError::instead(kind, "its figures")),
        }
    }
}

#[cfg(test)]
mod tests;
