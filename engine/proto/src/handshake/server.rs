//! The server's end, and what the first bytes of a connection decide.

use super::{foreign, other_version};
use crate::auth::{self, Secret};
use crate::frame::{self, Frame, FrameError, FrameReader, Kind, MAGIC};
use crate::hello::{Accept, Challenge, HELLO_BODY_MAX, Hello, Proof, Refuse, Transport};
use crate::http1::is_token;
use tare_units::text::{Hex32, first_line, protocol_name};

/// The longest method by which an HTTP connection is known, bytes; the longest that is registered
/// has 17.
const METHOD_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Open,
    Tare,
    Http,
    Foreign,
}

fn classify(bytes: &[u8]) -> First {
    if bytes.starts_with(&MAGIC) {
        First::Tare
    } else if MAGIC.starts_with(bytes) {
        First::Open
    } else {
        classify_http(bytes)
    }
}

/// An HTTP request begins with its method and a space; what method there is, and whether the rest
/// makes sense, is for the reader of requests to say. Before it, an empty line or two may stand
/// (RFC 9112 sections 2.2 and 3).
fn classify_http(bytes: &[u8]) -> First {
    let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let line = line.strip_prefix(b"\r\n").unwrap_or(line);
    let method = line.iter().take_while(|byte| is_token(**byte)).count();
    match line.get(method) {
        // The banner of SSH may hold a space, too.
        Some(b' ') if (1..=METHOD_MAX).contains(&method) && protocol_name(line).is_none() => {
            First::Http
        }
        None if method <= METHOD_MAX => First::Open,
        Some(b'\r') if line.len() == 1 => First::Open,
        _ => First::Foreign,
    }
}

/// Why a connection became no session: for the log. What the client is told, if anything, is in
/// `poll_transmit`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerFailure {
    /// Neither tare's protocol nor HTTP: the first line of what came.
    #[error("{}", foreign(.0, "sent"))]
    NotTare(Vec<u8>),
    /// A client of another version.
    #[error("{}; use the same tare at both ends", other_version(*.0))]
    Version(u8),
    /// A client that broke the protocol.
    #[error("broke tare's protocol: {0}")]
    Malformed(String),
    /// A client that asked for what is not to be had, or did not know the secret.
    #[error("was refused ({0})")]
    Refused(Refuse),
    /// Closed before a single byte: a port scan, a health check.
    #[error("closed without a word")]
    ClosedSilently,
    /// Closed in the middle of the handshake.
    #[error("closed in the middle of the handshake")]
    Closed,
    /// Took longer than a connection is given to say hello.
    #[error("did not finish its hello in time")]
    TimedOut,
}

impl From<FrameError> for ServerFailure {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Version(theirs) => Self::Version(theirs),
            other => Self::Malformed(format!("it sent {other}")),
        }
    }
}

impl ServerFailure {
    /// What a log sums such failures up by.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotTare(_) => "stranger",
            Self::Version(_) => "version",
            Self::Malformed(_) => "malformed",
            Self::Refused(_) => "refused",
            Self::ClosedSilently => "silent",
            Self::Closed => "closed",
            Self::TimedOut => "late",
        }
    }
}

/// What a connection turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// A client that may have a session (and has shown the secret, where there is one): answer with
    /// [`ServerHandshake::accept`] or [`ServerHandshake::refuse`].
    Hello(Box<Hello>),
    /// An HTTP client; these are its first bytes, all that have arrived.
    Http(Vec<u8>),
    /// Nothing: send what `poll_transmit` gives, and close.
    Failed(ServerFailure),
}

#[derive(Debug)]
enum State {
    /// The first bytes don't yet tell what it is, or they do and the hello is not whole.
    AwaitHello,
    AwaitProof(Box<Hello>, Vec<u8>),
    AwaitDecision,
    /// The accept is under way; what arrives belongs to the session.
    Accepted,
    Http,
    Over,
}

/// The server's end of the TCP handshake.
///
/// * getters: [`request_follows`](Self::request_follows), [`into_rest`](Self::into_rest)
/// * `handle_bytes`, `handle_closed`, `handle_timeout`
/// * commands: [`accept`](Self::accept), [`refuse`](Self::refuse)
/// * `poll_transmit`, `poll_event`
#[derive(Debug)]
pub struct ServerHandshake {
    state: State,
    secret: Option<Secret>,
    nonce: [u8; 32],
    reader: FrameReader,
    /// The hello says that what arrives behind it is its request.
    request_follows: bool,
    transmit: Option<Vec<u8>>,
    event: Option<ServerEvent>,
}

impl ServerHandshake {
    /// Awaits the first bytes. `nonce` are 32 fresh random bytes; they matter only where there is a
    /// secret.
    pub const fn new(secret: Option<Secret>, nonce: [u8; 32]) -> Self {
        Self {
            state: State::AwaitHello,
            secret,
            nonce,
            reader: FrameReader::new(HELLO_BODY_MAX),
            request_follows: false,
            transmit: None,
            event: None,
        }
    }

    /// Ends the handshake; gives what arrived behind the accept, or behind a hello whose request
    /// follows at once (or, for HTTP, everything that did).
    pub fn into_rest(self) -> Vec<u8> {
        self.reader.into_rest()
    }

    /// A hello was handed up whose request follows at once.
    pub const fn request_follows(&self) -> bool {
        self.request_follows && matches!(self.state, State::AwaitDecision)
    }

    /// These bytes arrived. Until there is a session, at most a hello is buffered beyond `bytes`
    /// itself.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        if matches!(self.state, State::Over) || bytes.is_empty() {
            return;
        }
        self.reader.handle_bytes(bytes);
        if matches!(self.state, State::AwaitHello) {
            match classify(self.reader.buffered()) {
                First::Open => return,
                First::Tare => {}
                First::Http => {
                    self.state = State::Http;
                    self.event = Some(ServerEvent::Http(Vec::new()));
                }
                First::Foreign => {
                    let first_bytes = first_line(self.reader.buffered()).to_vec();
                    return self.fail(ServerFailure::NotTare(first_bytes));
                }
            }
        }
        // An HTTP event that was not taken yet grows with what arrives.
        if let Some(ServerEvent::Http(first)) = &mut self.event {
            *first = self.reader.buffered().to_vec();
        }
        while matches!(self.state, State::AwaitHello | State::AwaitProof(..)) {
            let outcome = match self.reader.poll_frame() {
                Ok(Some(frame)) => self.handle_frame(frame),
                Ok(None) => return,
                Err(error) => Err(error.into()),
            };
            if let Err(failure) = outcome {
                self.fail(failure);
            }
        }
        let early = matches!(self.state, State::AwaitDecision) && !self.request_follows;
        if early && !self.reader.buffered().is_empty() {
            self.fail(ServerFailure::Malformed("it sent more before it was accepted".into()));
        }
    }

    fn handle_frame(&mut self, frame: Frame) -> Result<(), ServerFailure> {
        match (std::mem::replace(&mut self.state, State::Over), frame.kind) {
            (State::AwaitHello, Kind::Hello) => {
                let hello = frame.read()?;
                if self.secret.is_none() {
                    return self.hand_up(hello);
                }
                let challenge = Challenge { nonce: Hex32(self.nonce) };
                self.transmit = frame::encode(Kind::Challenge, &challenge).ok();
                self.state = State::AwaitProof(hello, frame.body);
                Ok(())
            }
            (State::AwaitProof(hello, body), Kind::Proof) => {
                let Proof { proof } = frame.read()?;
                let known = |secret| auth::verify(secret, &self.nonce, &body, &proof.0);
                if self.secret.as_ref().is_some_and(known) {
                    return self.hand_up(hello);
                }
                Err(ServerFailure::Refused(Refuse::secret_wrong()))
            }
            (state, kind) => {
                let wanted = if matches!(state, State::AwaitHello) { "hello" } else { "proof" };
                let what = format!("it sent {} instead of a {wanted}", kind.name());
                Err(ServerFailure::Malformed(what))
            }
        }
    }

    /// A client whom the server knows: what it asks for is looked at only now, so that a stranger
    /// learns nothing.
    fn hand_up(&mut self, hello: Box<Hello>) -> Result<(), ServerFailure> {
        hello.check(Transport::Tcp).map_err(ServerFailure::Refused)?;
        self.state = State::AwaitDecision;
        self.request_follows = hello.request_follows;
        self.event = Some(ServerEvent::Hello(hello));
        Ok(())
    }

    fn fail(&mut self, failure: ServerFailure) {
        let refuse = match &failure {
            ServerFailure::Version(theirs) => Some(Refuse::version(*theirs)),
            ServerFailure::Malformed(what) => Some(Refuse::malformed(what)),
            ServerFailure::Refused(refuse) => Some(refuse.clone()),
            _ => None,
        };
        if let Some(refuse) = refuse {
            self.transmit = Some(refuse.encode());
        }
        self.state = State::Over;
        self.event = Some(ServerEvent::Failed(failure));
    }

    /// The client closed, or the connection broke.
    pub fn handle_closed(&mut self) {
        match self.state {
            State::Accepted | State::Http | State::Over => {}
            State::AwaitHello if self.reader.buffered().is_empty() => {
                self.fail(ServerFailure::ClosedSilently);
            }
            _ => self.fail(ServerFailure::Closed),
        }
    }

    /// The connection has had its time to say hello, however little at a time it sent.
    pub fn handle_timeout(&mut self) {
        if matches!(self.state, State::AwaitHello | State::AwaitProof(..)) {
            self.fail(ServerFailure::TimedOut);
        }
    }

    /// Command: the session exists. Does nothing unless a hello was handed up and still stands.
    pub fn accept(&mut self, accept: &Accept) {
        if matches!(self.state, State::AwaitDecision) {
            self.transmit = Some(accept.encode());
            self.state = State::Accepted;
        }
    }

    /// Command: there will be no session. Does nothing on a connection that is accepted, over, or
    /// not tare's.
    pub fn refuse(&mut self, refuse: Refuse) {
        if matches!(self.state, State::AwaitHello | State::AwaitProof(..) | State::AwaitDecision) {
            self.fail(ServerFailure::Refused(refuse));
        }
    }

    /// What is to be sent next.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmit.take()
    }

    /// What the connection turned out to be, once it is known.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.event.take()
    }
}
