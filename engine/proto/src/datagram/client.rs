//! The client's end: the handshake, and documents fetched in chunks, several at a time. All that it
//! sends is repeated until it is answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    CHUNK_DATA, Chunk, Control, Cookie, Document, Fetch, HELLO_DATAGRAM_BODY_MAX, TRAILER_LEN,
    padded,
};
use crate::auth::{self, Secret};
use crate::frame::{self, FrameError, HEADER_LEN, Kind};
use crate::handshake::{ClientEvent, HandshakeError, hello_body};
use crate::hello::{Accept, Hello};
use tare_units::limits::{CONTROL_DATAGRAM, DOCUMENT_MAX};
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

/// Wait before the first repetition; doubled for each further one.
const RETRANSMIT_FIRST: Nanos = Nanos::from_millis(50);
/// Fetches under way at once: enough to fetch a histogram in few round trips, and no burden for any
/// path.
const WINDOW: usize = 8;

/// When to repeat, and when to give up.
#[derive(Debug)]
struct Backoff {
    timeout: Nanos,
    wait: Nanos,
    repeat_at: Instant,
    give_up_at: Instant,
    /// Nothing more is awaited.
    over: bool,
}

/// What it is time for.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Repeat,
    GiveUp,
}

impl Backoff {
    fn new(now: Instant, timeout: Nanos) -> Self {
        Self {
            timeout,
            wait: RETRANSMIT_FIRST,
            repeat_at: now + RETRANSMIT_FIRST,
            give_up_at: now + timeout,
            over: false,
        }
    }

    /// Something new is asked for: the first repetition is again near; giving up stays where it
    /// was.
    fn start_over(&mut self, now: Instant) {
        self.wait = RETRANSMIT_FIRST;
        self.repeat_at = now + self.wait;
    }

    fn next(&self) -> Option<Instant> {
        (!self.over).then(|| self.repeat_at.min(self.give_up_at))
    }

    fn due(&mut self, now: Instant) -> Due {
        if self.over || now < self.repeat_at.min(self.give_up_at) {
            Due::Nothing
        } else if now >= self.give_up_at {
            Due::GiveUp
        } else {
            self.wait = self.wait + self.wait;
            self.repeat_at = now + self.wait;
            Due::Repeat
        }
    }
}

/// The client's end of the UDP handshake: hello, cookie, hello with the cookie, accept. Each hello
/// is repeated after 50, 100, 200 … ms until it is answered, for as long as the timeout.
///
/// What cannot be read is ignored, since anyone can send a datagram; but if nothing better comes in
/// time, it is named in the error.
///
/// * `handle_datagram`, `handle_timeout`
/// * `poll_transmit`, `poll_timeout`, `poll_event`
#[derive(Debug)]
pub struct UdpClientHandshake {
    hello_body: Vec<u8>,
    nonce: u64,
    secret: Option<Secret>,
    cookie: Option<Cookie>,
    backoff: Backoff,
    foreign: Option<Vec<u8>>,
    transmit: bool,
    event: Option<ClientEvent>,
}

impl UdpClientHandshake {
    /// Begins: the first hello is there to be sent. `nonce` is fresh and random, one per session.
    pub fn new(
        hello: &Hello,
        nonce: u64,
        secret: Option<Secret>,
        now: Instant,
        timeout: Nanos,
    ) -> Self {
        let mut handshake = Self {
            hello_body: hello_body(hello),
            nonce,
            secret,
            cookie: None,
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

    /// This datagram came from the server's address.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        if self.backoff.over {
            return;
        }
        let control = match Control::decode(datagram) {
            Ok(control) => control,
            Err(error @ FrameError::Version(_)) => return self.fail(error.into()),
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
        self.end(ClientEvent::Accepted(Box::new(accept)));
        Ok(())
    }

    /// It is later than [`Self::poll_timeout`] told (or not: then nothing happens).
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.backoff.due(now) {
            Due::Nothing => {}
            Due::Repeat => self.transmit = true,
            Due::GiveUp => {
                let (after, answered) = (self.backoff.timeout, self.cookie.is_some());
                let timed_out = HandshakeError::TimedOut { after, answered };
                let foreign = self.foreign.take();
                self.fail(foreign.map_or(timed_out, |answer| HandshakeError::not_tare(&answer)));
            }
        }
    }

    fn fail(&mut self, error: HandshakeError) {
        self.end(ClientEvent::Failed(error));
    }

    fn end(&mut self, event: ClientEvent) {
        self.backoff.over = true;
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
            let place = CONTROL_DATAGRAM - 64..CONTROL_DATAGRAM - 32;
            datagram[place].copy_from_slice(&cookie.cookie.0);
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
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.backoff.next()
    }

    /// What became of it, once it is known.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.event.take()
    }
}

/// What became of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchEvent {
    /// The whole document: JSON.
    Done(Vec<u8>),
    /// It cannot be had.
    Failed(HandshakeError),
}

/// Fetches one document: the client's end. Gives up when nothing new has come for as long as the
/// timeout.
///
/// * `handle_datagram`, `handle_timeout`
/// * `poll_transmit` (call it until it gives none), `poll_timeout`, `poll_event`
#[derive(Debug)]
pub struct DocumentFetch {
    session: Id,
    document: Document,
    /// Length of the document, once the first chunk has told it.
    total: Option<usize>,
    chunks: BTreeMap<usize, Vec<u8>>,
    /// Offsets that were asked for, and have not come.
    under_way: BTreeSet<usize>,
    /// The first offset that was never asked for.
    next: usize,
    transmit: VecDeque<usize>,
    backoff: Backoff,
    event: Option<FetchEvent>,
}

impl DocumentFetch {
    /// Begins: the first fetch is there to be sent.
    pub fn new(session: Id, document: Document, now: Instant, timeout: Nanos) -> Self {
        Self {
            session,
            document,
            total: None,
            chunks: BTreeMap::new(),
            under_way: BTreeSet::from([0]),
            next: CHUNK_DATA,
            transmit: VecDeque::from([0]),
            backoff: Backoff::new(now, timeout),
            event: None,
        }
    }

    /// This datagram came from the server's address. What does not belong to this document is
    /// ignored.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        if self.backoff.over {
            return;
        }
        let outcome = match Control::decode(datagram) {
            Ok(control) if control.kind == Kind::Chunk => self.handle_chunk(&control, now),
            Ok(control) if control.kind == Kind::Refuse => {
                match HandshakeError::refused(control.body) {
                    refused @ HandshakeError::Refused(_) => Err(refused),
                    _ => Ok(()),
                }
            }
            Err(error @ FrameError::Version(_)) => Err(error.into()),
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            self.end(FetchEvent::Failed(error));
        }
    }

    fn handle_chunk(&mut self, control: &Control<'_>, now: Instant) -> Result<(), HandshakeError> {
        let chunk: Chunk = frame::read_body(control.kind, control.body)?;
        if (chunk.session, chunk.document) != (self.session, self.document) {
            return Ok(());
        }
        let wrong = |what: &str| Err(HandshakeError::Malformed(what.into()));
        let total = usize::try_from(chunk.total).unwrap_or(usize::MAX);
        if total > DOCUMENT_MAX {
            return wrong("it offers a document that is too long");
        }
        if *self.total.get_or_insert(total) != total {
            return wrong("its document changed while it was fetched");
        }
        let offset = usize::try_from(chunk.offset).unwrap_or(usize::MAX);
        if !self.under_way.contains(&offset) {
            return Ok(());
        }
        if control.tail.len() != total.saturating_sub(offset).min(CHUNK_DATA) {
            return wrong("it sent a chunk of the wrong length");
        }
        self.under_way.remove(&offset);
        self.chunks.insert(offset, control.tail.to_vec());
        self.backoff.start_over(now);
        // The environment is small, and not worth waiting for while it trickles in.
        if self.document != Document::Environment {
            self.backoff.give_up_at = now + self.backoff.timeout;
        }
        while self.next < total && self.under_way.len() < WINDOW {
            self.under_way.insert(self.next);
            self.transmit.push_back(self.next);
            self.next += CHUNK_DATA;
        }
        if self.under_way.is_empty() {
            let chunks = std::mem::take(&mut self.chunks);
            self.end(FetchEvent::Done(chunks.into_values().flatten().collect()));
        }
        Ok(())
    }

    /// It is later than [`Self::poll_timeout`] told (or not: then nothing happens).
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.backoff.due(now) {
            Due::Nothing => {}
            Due::Repeat => self.transmit = self.under_way.iter().copied().collect(),
            Due::GiveUp => self.end(FetchEvent::Failed(HandshakeError::TimedOut {
                after: self.backoff.timeout,
                answered: true,
            })),
        }
    }

    fn end(&mut self, event: FetchEvent) {
        self.backoff.over = true;
        self.transmit.clear();
        self.event = Some(event);
    }

    /// The datagram to be sent next.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let offset = self.transmit.pop_front()? as u64;
        Some(Fetch { session: self.session, document: self.document, offset }.encode())
    }

    /// When [`Self::handle_timeout`] wants to be called; `None` once it is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.backoff.next()
    }

    /// What became of it, once it is known.
    pub fn poll_event(&mut self) -> Option<FetchEvent> {
        self.event.take()
    }
}
