//! The client's end of the UDP handshake, and how everything over UDP is repeated until it is
//! answered.

use super::{Control, Cookie, HELLO_DATAGRAM_BODY_MAX, TRAILER_LEN, padded};
use crate::auth::{self, Secret};
use crate::frame::{self, FrameError, HEADER_LEN, Kind};
use crate::handshake::{ClientEvent, HandshakeError, client};
use crate::hello::{Accept, Hello};
use tare_units::limits::CONTROL_DATAGRAM;
use tare_units::{Instant, Nanos};

/// Wait before the first repetition; doubled for each further one.
const RETRANSMIT_FIRST: Nanos = Nanos::from_millis(50);

/// When to repeat, and when to give up.
#[derive(Debug)]
pub(super) struct Backoff {
    timeout: Nanos,
    wait: Nanos,
    repeat_at: Instant,
    give_up_at: Instant,
}

/// What it is time for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Repeat,
    GiveUp,
}

impl Backoff {
    pub(super) fn new(now: Instant, timeout: Nanos) -> Self {
        Self {
            timeout,
            wait: RETRANSMIT_FIRST,
            repeat_at: now + RETRANSMIT_FIRST,
            give_up_at: now + timeout,
        }
    }

    /// Something new is asked for: the first repetition is again near; giving up stays where it
    /// was.
    pub(super) fn start_over(&mut self, now: Instant) {
        self.wait = RETRANSMIT_FIRST;
        self.repeat_at = now + self.wait;
    }

    /// The peer is alive: giving up is put off.
    pub(super) fn progress(&mut self, now: Instant) {
        self.start_over(now);
        self.give_up_at = now + self.timeout;
    }

    pub(super) fn next(&self) -> Instant {
        self.repeat_at.min(self.give_up_at)
    }

    pub(super) fn due(&mut self, now: Instant) -> Due {
        if now >= self.give_up_at {
            Due::GiveUp
        } else if now >= self.repeat_at {
            self.wait = self.wait + self.wait;
            self.repeat_at = now + self.wait;
            Due::Repeat
        } else {
            Due::Nothing
        }
    }
}

/// The client's end of the UDP handshake: hello, cookie, hello with the cookie, accept. Each hello
/// is repeated after 50, 100, 200 … ms until it is answered, for as long as the timeout.
///
/// What cannot be read is ignored, since anyone can send a datagram; but if nothing better comes in
/// time, it is named in the error.
///
/// * getters: [`was_challenged`](Self::was_challenged), [`note`](Self::note)
/// * `handle_datagram`, `handle_timeout`
/// * `poll_transmit`, `poll_timeout`, `poll_event`
#[derive(Debug)]
pub struct UdpClientHandshake {
    hello_body: Vec<u8>,
    nonce: u64,
    secret: Option<Secret>,
    cookie: Option<Cookie>,
    accepted: bool,
    over: bool,
    backoff: Backoff,
    foreign: Option<Vec<u8>>,
    transmit: bool,
    event: Option<ClientEvent>,
}

impl UdpClientHandshake {
    /// Begins: the first hello is there to be sent. `nonce` is fresh and random, one per session.
    #[must_use]
    pub fn new(
        hello: &Hello,
        nonce: u64,
        secret: Option<Secret>,
        now: Instant,
        timeout: Nanos,
    ) -> Self {
        let mut handshake = Self {
            hello_body: client::hello_body(hello),
            nonce,
            secret,
            cookie: None,
            accepted: false,
            over: false,
            backoff: Backoff::new(now, timeout),
            foreign: None,
            transmit: true,
            event: None,
        };
        if handshake.hello_body.len() > HELLO_DATAGRAM_BODY_MAX {
            handshake.fail(HandshakeError::HelloTooLong);
        }
        handshake
    }

    /// Whether the server asked for the secret.
    #[must_use]
    pub fn was_challenged(&self) -> bool {
        self.cookie.as_ref().is_some_and(|cookie| cookie.secret_required)
    }

    /// What the user should know of a handshake that went well.
    #[must_use]
    pub fn note(&self) -> Option<&'static str> {
        client::note(self.accepted, self.was_challenged(), self.secret.as_ref())
    }

    /// This datagram came from the server's address.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        if self.over {
            return;
        }
        let control = match Control::decode(datagram) {
            Ok(control) => control,
            Err(FrameError::Version(theirs)) => {
                return self.fail(HandshakeError::Version(theirs));
            }
            // A late reply of an earlier session on the same port says nothing about this one.
            Err(_) if super::DataHeader::decode(datagram).is_some() => return,
            Err(_) => return self.note_foreign(datagram),
        };
        let outcome = match control.kind {
            Kind::Cookie => self.handle_cookie(&control, now),
            Kind::Accept => self.handle_accept(&control),
            Kind::Refuse => Err(HandshakeError::refused(control.body)),
            // An echo service sends our own hello back; a chunk belongs to an earlier session.
            Kind::Hello => return self.note_foreign(datagram),
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            self.fail(error);
        }
    }

    fn note_foreign(&mut self, datagram: &[u8]) {
        self.foreign.get_or_insert_with(|| datagram.to_vec());
    }

    fn handle_cookie(&mut self, control: &Control<'_>, now: Instant) -> Result<(), HandshakeError> {
        let cookie: Cookie = frame::read_body(control.kind, control.body)?;
        if cookie.secret_required && self.secret.is_none() {
            return Err(HandshakeError::SecretMissing);
        }
        // The answers to a repeated hello bring the same cookie again; a new one means that the old
        // one expired.
        if self.cookie.as_ref() != Some(&cookie) {
            self.cookie = Some(cookie);
            self.transmit = true;
            self.backoff.start_over(now);
        }
        Ok(())
    }

    fn handle_accept(&mut self, control: &Control<'_>) -> Result<(), HandshakeError> {
        let accept: Accept = frame::read_body(control.kind, control.body)?;
        if accept.session.is_none() {
            return Err(HandshakeError::Malformed("its accept names no session".into()));
        }
        self.accepted = true;
        self.end(ClientEvent::Accepted(Box::new(accept)));
        Ok(())
    }

    /// It is later than [`Self::poll_timeout`] told (or not: then nothing happens).
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.over {
            return;
        }
        match self.backoff.due(now) {
            Due::Nothing => {}
            Due::Repeat => self.transmit = true,
            Due::GiveUp => {
                let error = match self.foreign.take() {
                    Some(answer) => HandshakeError::not_tare(&answer),
                    None => HandshakeError::TimedOut {
                        after: self.backoff.timeout,
                        answered: self.cookie.is_some(),
                    },
                };
                self.fail(error);
            }
        }
    }

    fn fail(&mut self, error: HandshakeError) {
        self.end(ClientEvent::Failed(error));
    }

    fn end(&mut self, event: ClientEvent) {
        self.over = true;
        self.transmit = false;
        self.event = Some(event);
    }

    /// The datagram to be sent next.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.transmit).then(|| self.hello_datagram())
    }

    fn hello_datagram(&self) -> Vec<u8> {
        let frame = frame::encode_body(Kind::Hello, &self.hello_body)
            .expect("`new` has checked the length of the hello");
        debug_assert!(frame.len() <= HEADER_LEN + HELLO_DATAGRAM_BODY_MAX);
        let mut datagram = padded(frame);
        if let Some(cookie) = &self.cookie {
            datagram[CONTROL_DATAGRAM - 64..CONTROL_DATAGRAM - 32]
                .copy_from_slice(&cookie.cookie.0);
            if let Some(secret) = self.secret.as_ref().filter(|_| cookie.secret_required) {
                let nonce = auth::nonce_of_cookie(&cookie.cookie.0);
                let proof = auth::proof(secret, &nonce, &self.hello_body);
                datagram[CONTROL_DATAGRAM - 32..].copy_from_slice(&proof);
            }
        }
        let trailer = CONTROL_DATAGRAM - TRAILER_LEN;
        datagram[trailer..trailer + 8].copy_from_slice(&self.nonce.to_be_bytes());
        datagram
    }

    /// When [`Self::handle_timeout`] wants to be called; `None` once the handshake is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.over).then(|| self.backoff.next())
    }

    /// What became of it, once it is known.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.event.take()
    }
}
