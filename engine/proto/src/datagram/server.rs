//! The server's end: what a datagram is, before any session is looked up; and documents.

use std::net::SocketAddr;

use super::{CHUNK_DATA, Chunk, Control, Cookie, DataHeader, Fetch, TRAILER_LEN};
use crate::auth::{self, CookieKey, Secret};
use crate::frame::{self, FrameError, Kind};
use crate::hello::{Hello, Refuse, RefuseCode, Transport};
use crate::stream::{ANSWERED_EVERY, StreamHeader, StreamKind};
use tare_units::limits::{CONTROL_DATAGRAM, DOCUMENT_MAX};
use tare_units::text::Hex32;
use tare_units::{Instant, Nanos};

/// A cookie is good in the slot it was made in and in the next one.
pub const COOKIE_SLOT: Nanos = Nanos::from_secs(30);

/// Which handshake a hello belongs to. Hellos are repeated: one whose key already has a session
/// must be answered with the same accept, and one whose key was refused with the same refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The client's address.
    pub from: SocketAddr,
    /// The client's number for the session.
    pub nonce: u64,
}

/// A client that asks for a session, from an address that is its own (and has shown the secret,
/// where there is one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRequest {
    /// By which a repeated hello is known.
    pub key: SessionKey,
    /// What it asks for, checked.
    pub hello: Hello,
}

/// What to do about a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontAction {
    /// Nothing.
    Ignore,
    /// Send this back. It is not longer than what came.
    Reply(Vec<u8>),
    /// Answer with [`crate::hello::Accept::encode_short`] or [`Refuse::encode`]: both fit.
    Session(Box<SessionRequest>),
    /// A request of a session: answer it, if the session is known and the datagram has the agreed
    /// size; otherwise with [`DataHeader::turned_away`].
    Data(DataHeader),
    /// Answer with [`super::serve_document`] if the session is known *and has this address*;
    /// otherwise with [`UdpServerFront::unknown_session`].
    Fetch(Fetch),
}

/// Looks at every datagram first. Keeps nothing per client: who has not shown that its address is
/// its own costs one MAC, and gets back at most a cookie or a refusal.
#[derive(Debug)]
pub struct UdpServerFront {
    key: CookieKey,
    secret: Option<Secret>,
}

impl UdpServerFront {
    /// `key` is 32 fresh random bytes, the same for as long as the server lives.
    pub const fn new(key: CookieKey, secret: Option<Secret>) -> Self {
        Self { key, secret }
    }

    /// This datagram came from `from` at `now`.
    #[must_use]
    pub fn handle_datagram(&self, datagram: &[u8], from: SocketAddr, now: Instant) -> FrontAction {
        if let Some(header) = DataHeader::decode(datagram) {
            // Replies are for clients: answering one would let two servers talk to each other for
            // ever.
            return if header.reply { FrontAction::Ignore } else { FrontAction::Data(header) };
        }
        if let Some(signal) = StreamHeader::decode(datagram) {
            let StreamHeader { kind, sequence, session, .. } = signal;
            let skipped = kind == StreamKind::Payload && sequence % ANSWERED_EVERY != 0;
            let request = DataHeader { reply: false, flags: 0, sequence, session };
            return if skipped { FrontAction::Ignore } else { FrontAction::Data(request) };
        }
        let control = match Control::decode(datagram) {
            Ok(control) => control,
            Err(FrameError::Version(theirs)) => return refuse_version(theirs, datagram),
            Err(_) => return FrontAction::Ignore,
        };
        if datagram.len() != CONTROL_DATAGRAM {
            return FrontAction::Ignore;
        }
        match control.kind {
            Kind::Hello => self
                .handle_hello(&control, from, now)
                .unwrap_or_else(|refuse| FrontAction::Reply(refuse.encode())),
            Kind::Fetch => frame::read_body(control.kind, control.body)
                .map_or(FrontAction::Ignore, FrontAction::Fetch),
            _ => FrontAction::Ignore,
        }
    }

    fn handle_hello(
        &self,
        control: &Control<'_>,
        from: SocketAddr,
        now: Instant,
    ) -> Result<FrontAction, Refuse> {
        let Some((nonce, cookie, proof)) = trailer(control.tail) else {
            let message = "the hello has no room for its cookie";
            return Err(Refuse::new(RefuseCode::Malformed, message));
        };
        let slot = now.0 / COOKIE_SLOT.0;
        if !auth::verify_cookie(&self.key, from, slot, &cookie) {
            let answer = Cookie {
                cookie: Hex32(auth::cookie(&self.key, from, slot)),
                secret_required: self.secret.is_some(),
            };
            return Ok(frame::encode(Kind::Cookie, &answer)
                .map_or(FrontAction::Ignore, FrontAction::Reply));
        }
        if let Some(secret) = &self.secret {
            let nonce = auth::nonce_of_cookie(&cookie);
            if proof == [0; 32] {
                let message = "this server serves only clients that know its secret";
                return Err(Refuse::new(RefuseCode::SecretRequired, message));
            }
            if !auth::verify(secret, &nonce, control.body, &proof) {
                return Err(Refuse::secret_wrong());
            }
        }
        let hello: Hello = frame::read_body(control.kind, control.body)
            .map_err(|error| Refuse::malformed(&format!("it sent {error}")))?;
        hello.check(Transport::Udp)?;
        let key = SessionKey { from, nonce };
        Ok(FrontAction::Session(Box::new(SessionRequest { key, hello })))
    }

    /// The answer to a fetch whose session is not known, or has another address.
    pub fn unknown_session() -> Vec<u8> {
        Refuse::new(
            RefuseCode::UnknownSession,
            "the server does not know this session: it was restarted, or the session expired",
        )
        .remedy("run the measurement again; behind a load balancer, give a server's own address")
        .encode()
    }
}

/// The server's answer to a fetch that came as a datagram of full length. `None` where there is
/// nothing to answer: an offset that no client of ours asks for, or a document over
/// [`DOCUMENT_MAX`]. The answer is never longer than the fetch. The document must not change
/// between fetches, and the fetch must come from the address of its session.
pub fn serve_document(fetch: &Fetch, document: &[u8]) -> Option<Vec<u8>> {
    let start = usize::try_from(fetch.offset).ok()?;
    if document.len() > DOCUMENT_MAX || start > document.len() || start % CHUNK_DATA != 0 {
        return None;
    }
    let Fetch { session, document: which, offset } = *fetch;
    let head = Chunk { session, document: which, offset, total: document.len() as u64 };
    let mut datagram = frame::encode(Kind::Chunk, &head).ok()?;
    let end = document.len().min(start + CHUNK_DATA);
    datagram.extend_from_slice(&document[start..end]);
    (datagram.len() <= CONTROL_DATAGRAM).then_some(datagram)
}

/// Another version may have another length of datagrams: what is frozen is the header, and that an
/// answer is never longer than what it answers. Only hellos and refusals keep their kind, so
/// nothing but a hello is answered: two servers of different versions would otherwise refuse each
/// other's refusals for ever.
fn refuse_version(theirs: u8, datagram: &[u8]) -> FrontAction {
    let answer = Refuse::version(theirs).encode();
    let is_hello = datagram.get(5) == Some(&(Kind::Hello as u8));
    let fits = answer.len() <= datagram.len();
    if is_hello && fits { FrontAction::Reply(answer) } else { FrontAction::Ignore }
}

/// Nonce, cookie and proof off the end of a hello.
fn trailer(tail: &[u8]) -> Option<(u64, [u8; 32], [u8; 32])> {
    let trailer = tail.last_chunk::<TRAILER_LEN>()?;
    let (nonce, keys) = trailer.split_first_chunk::<8>()?;
    let (cookie, proof) = keys.split_first_chunk::<32>()?;
    Some((u64::from_be_bytes(*nonce), *cookie, *proof.first_chunk()?))
}
