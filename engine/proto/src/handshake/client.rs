//! The client's end.

use super::HandshakeError;
use crate::auth::{self, Secret};
use crate::frame::{self, Frame, FrameError, FrameReader, Kind};
use crate::hello::{Accept, Challenge, Figures, HELLO_BODY_MAX, Hello, Proof};
use tare_units::Nanos;
use tare_units::limits::FRAME_BODY_MAX;
use tare_units::text::{EXCERPT_MAX, Hex32};

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
    AwaitVerdict,
    /// Something else than tare answers; the rest of its first line is awaited, to name it.
    Foreign,
    Accepted,
    Failed,
}

/// The client's end of the TCP handshake.
///
/// * getters: [`was_challenged`](Self::was_challenged), [`note`](Self::note)
/// * `handle_bytes`, `handle_closed`, `handle_timeout`
/// * `poll_transmit`, `poll_event`
#[derive(Debug)]
pub struct ClientHandshake {
    state: State,
    hello_body: Vec<u8>,
    timeout: Nanos,
    secret: Option<Secret>,
    challenged: bool,
    reader: FrameReader,
    transmit: Option<Vec<u8>>,
    event: Option<ClientEvent>,
}

/// A hello in its frame, to be sent with its request right behind it: there is no handshake then,
/// and the answer is the bare reply or a refusal.
#[must_use]
pub fn hello_in_one_go(hello: &Hello) -> Vec<u8> {
    frame::encode_body(Kind::Hello, &hello_body(hello)).unwrap_or_default()
}

/// The JSON of a hello. It ends with a newline, which JSON allows, so that a server of some
/// protocol made of lines answers at once instead of waiting for the end of the line.
pub(crate) fn hello_body(hello: &Hello) -> Vec<u8> {
    let mut body = serde_json::to_vec(hello)
        .expect("messages are structs of strings and numbers, which always serialise");
    body.push(b'\n');
    body
}

impl ClientHandshake {
    /// Begins: the hello is there to be sent.
    #[must_use]
    pub fn new(hello: &Hello, secret: Option<Secret>) -> Self {
        let mut handshake = Self {
            state: State::AwaitAnswer,
            hello_body: hello_body(hello),
            timeout: Nanos(hello.timeout_ns),
            secret,
            challenged: false,
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

    /// Whether the server asked for the secret.
    #[must_use]
    pub const fn was_challenged(&self) -> bool {
        self.challenged
    }

    /// What the user should know of a handshake that went well.
    #[must_use]
    pub fn note(&self) -> Option<&'static str> {
        note(self.state == State::Accepted, self.challenged, self.secret.as_ref())
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
                self.challenged = true;
                let secret = self.secret.as_ref().ok_or(HandshakeError::SecretMissing)?;
                let proof = Hex32(auth::proof(secret, &nonce.0, &self.hello_body));
                self.transmit = frame::encode(Kind::Proof, &Proof { proof }).ok();
                self.state = State::AwaitVerdict;
                Ok(())
            }
            (Kind::Accept, _) => {
                self.event = Some(ClientEvent::Accepted(Box::new(frame.read()?)));
                self.state = State::Accepted;
                Ok(())
            }
            (Kind::Refuse, _) => Err(HandshakeError::refused(&frame.body)),
            (kind, _) => Err(HandshakeError::instead(kind, "an answer")),
        }
    }

    /// The server closed, or the connection broke.
    pub fn handle_closed(&mut self) {
        let error = match self.state {
            State::Accepted | State::Failed => return,
            State::Foreign => HandshakeError::not_tare(self.reader.buffered()),
            State::AwaitAnswer if self.reader.buffered().is_empty() => {
                HandshakeError::ClosedUnanswered
            }
            State::AwaitAnswer | State::AwaitVerdict => HandshakeError::Closed,
        };
        self.fail(error);
    }

    /// The time for the handshake, by the caller's reckoning the hello's `timeout_ns`, is over.
    pub fn handle_timeout(&mut self) {
        let error = match self.state {
            State::Accepted | State::Failed => return,
            State::Foreign => HandshakeError::not_tare(self.reader.buffered()),
            State::AwaitAnswer | State::AwaitVerdict => HandshakeError::TimedOut {
                after: self.timeout,
                answered: self.challenged || !self.reader.buffered().is_empty(),
            },
        };
        self.fail(error);
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

/// The note of [`ClientHandshake::note`].
pub(crate) fn note(
    accepted: bool,
    challenged: bool,
    secret: Option<&Secret>,
) -> Option<&'static str> {
    (accepted && !challenged && secret.is_some())
        .then_some("the server did not ask for the secret: it serves anyone")
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
    /// These bytes arrived; the figures, once they are whole.
    ///
    /// # Errors
    /// What the server sent instead, [`HandshakeError::Refused`] among it.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Option<Figures>, HandshakeError> {
        self.0.handle_bytes(bytes);
        let Some(frame) = self.0.poll_frame()? else {
            return Ok(None);
        };
        match frame.kind {
            Kind::Figures => Ok(Some(frame.read()?)),
            Kind::Refuse => Err(HandshakeError::refused(&frame.body)),
            kind => Err(HandshakeError::instead(kind, "its figures")),
        }
    }

    /// The server closed before the figures were whole.
    #[must_use]
    pub const fn handle_closed(&self) -> HandshakeError {
        HandshakeError::Closed
    }
}
