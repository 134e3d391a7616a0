//! A request as its route sees it, and one that is kept until it can be answered.

use tare_proto::http1::incoming::Head;
use tare_units::Instant;

/// A whole request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// The method, as it was sent.
    pub method: &'a [u8],
    /// Path and query.
    pub target: &'a str,
    /// The client wants no other request answered on this connection.
    pub close: bool,
    /// An HTTP/1.0 client that wants the connection kept must be told that it is.
    pub tell_keep_alive: bool,
    /// `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    /// The body, without its framing.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// The request of that head, without a body.
    #[inline]
    pub(super) fn of(head: &Head<'a>) -> Self {
        Self {
            method: head.method,
            // The reader lets ASCII through alone.
            target: std::str::from_utf8(head.target).unwrap_or_default(),
            close: !head.keep_alive,
            tell_keep_alive: head.is_1_0 && head.keep_alive,
            content_type: head.content_type,
            body: &[],
        }
    }

    /// What of it may come back in the head of its response, bytes.
    pub(super) fn echoes(&self) -> usize {
        self.target.len() + self.content_type.map_or(0, <[u8]>::len)
    }
}

/// A request whose body is still coming, or for whose response there is no room yet.
#[derive(Debug)]
pub(super) struct Pending {
    method: Box<[u8]>,
    target: Box<str>,
    close: bool,
    tell_keep_alive: bool,
    content_type: Option<Box<[u8]>>,
    /// The body so far.
    pub body: Vec<u8>,
    /// When it was whole; not yet, without.
    pub arrival: Option<Instant>,
}

impl Pending {
    pub(super) fn new(request: &Request<'_>) -> Self {
        Self {
            method: request.method.into(),
            target: request.target.into(),
            close: request.close,
            tell_keep_alive: request.tell_keep_alive,
            content_type: request.content_type.map(Into::into),
            body: request.body.to_vec(),
            arrival: None,
        }
    }

    pub(super) fn request(&self) -> Request<'_> {
        Request {
            method: &self.method,
            target: &self.target,
            close: self.close,
            tell_keep_alive: self.tell_keep_alive,
            content_type: self.content_type.as_deref(),
            body: &self.body,
        }
    }

    /// Memory that it holds, bytes.
    pub(super) fn bytes(&self) -> u64 {
        let mime = self.content_type.as_ref().map_or(0, |mime| mime.len());
        let parts = self.method.len() + self.target.len() + mime + self.body.capacity();
        (size_of::<Self>() + parts) as u64
    }
}
