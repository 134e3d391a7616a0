//! Responses, written out.

use std::io::Write;

use http::StatusCode;

use super::connection::Ending;
use tare_units::{Instant, Nanos};

/// A head is no longer than that and what it echoes of its request, bytes.
pub(super) const HEAD_BESIDE: usize = 512;

/// What a response says of its body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum ContentType {
    #[default]
    Text,
    Octets,
    /// A header that names it is among the others.
    Named,
    /// What the request said.
    Same(Vec<u8>),
}

/// A body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// A text of the server's own.
    Text(&'static str),
    /// The same, and a line's end.
    Line(&'static str),
    /// So many bytes, whatever they are.
    Fill(u64),
    /// These.
    Bytes(Vec<u8>),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Line(text) => text.len() as u64 + 1,
            Self::Fill(len) => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Memory that it takes beyond itself, bytes.
    pub(super) const fn capacity(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.capacity(),
            Self::Text(_) | Self::Line(_) | Self::Fill(_) => 0,
        }
    }
}

/// A response before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub status: u16,
    /// Header lines, each with its end.
    pub headers: Vec<u8>,
    pub content_type: ContentType,
    pub body: Body,
    /// It answers a `HEAD`: the body is told of and not sent.
    pub head: bool,
    /// What becomes of the connection: [`Ending::No`], [`Ending::Last`] or [`Ending::LastOfMore`].
    pub ending: Ending,
    /// Say that the connection is kept.
    pub tell_keep_alive: bool,
}

impl Reply {
    pub(super) const fn text(status: u16, text: &'static str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content_type: ContentType::Text,
            body: Body::Text(text),
            head: false,
            ending: Ending::No,
            tell_keep_alive: false,
        }
    }

    /// What refuses a request that cannot be read, or is not served, and why.
    pub(super) fn refusal(status: u16, why: &'static str) -> Self {
        Self { body: Body::Line(why), ending: Ending::LastOfMore, ..Self::text(status, "") }
    }

    /// Says this instead.
    pub(super) fn replace(&mut self, status: u16, text: &'static str) {
        (self.status, self.body) = (status, Body::Text(text));
    }

    /// Appends the head, and the body where it is short. Returns what is left of the body, if anything is.
    pub(super) fn write(mut self, timing: Option<Timing>, into: &mut Vec<u8>) -> Option<Body> {
        let reason = StatusCode::from_u16(self.status).ok();
        let reason = reason.and_then(|s| s.canonical_reason()).unwrap_or("");
        into.extend_from_slice(b"HTTP/1.1 ");
        number(u64::from(self.status), into);
        into.push(b' ');
        into.extend_from_slice(reason.as_bytes());
        into.extend_from_slice(b"\r\n");
        // RFC 9110, sections 15.3.5 and 15.4.5: there is no body, whatever was asked for.
        let bare = matches!(self.status, 204 | 304);
        // Section 15.3.6: no content, which has to be told.
        if self.status == 205 {
            self.body = Body::Text("");
        }
        if !bare {
            let mime: &[u8] = match &self.content_type {
                ContentType::Text => b"text/plain",
                ContentType::Octets => b"application/octet-stream",
                ContentType::Named => b"",
                ContentType::Same(mime) => mime,
            };
            if !mime.is_empty() {
                into.extend_from_slice(b"Content-Type: ");
                into.extend_from_slice(mime);
                into.extend_from_slice(b"\r\n");
            }
            into.extend_from_slice(b"Content-Length: ");
            number(self.body.len(), into);
            into.extend_from_slice(b"\r\n");
        }
        into.extend_from_slice(&self.headers);
        if let Some(timing) = timing {
            timing.write(into);
        }
        if self.ending != Ending::No {
            into.extend_from_slice(b"Connection: close\r\n");
        } else if self.tell_keep_alive {
            into.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        into.extend_from_slice(b"\r\n");
        if bare || self.head {
            return None;
        }
        match self.body {
            Body::Text(text) => into.extend_from_slice(text.as_bytes()),
            Body::Line(text) => {
                into.extend_from_slice(text.as_bytes());
                into.push(b'\n');
            }
            Body::Bytes(bytes) if bytes.len() <= SHORT => into.extend_from_slice(&bytes),
            Body::Fill(len) if len <= SHORT as u64 => {
                into.resize(into.len() + usize::try_from(len).unwrap_or(0), FILL);
            }
            long => return Some(long),
        }
        None
    }
}

/// Bodies up to that length are sent from the same buffer as the head, bytes.
pub(super) const SHORT: usize = 1024;
/// What bodies without contents consist of.
pub(super) const FILL: u8 = b'x';

/// Decimal digits.
fn number(value: u64, into: &mut Vec<u8>) {
    if value == 0 {
        return into.push(b'0');
    }
    let (mut digits, mut at, mut rest) = ([0; 20], 20, value);
    while rest > 0 {
        at -= 1;
        digits[at] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
    }
    into.extend_from_slice(&digits[at..]);
}

/// What the server says of its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    /// From the request's arrival to the submission of the response.
    pub residence: Nanos,
    /// The request's arrival, since the HTTP side was started.
    pub arrival: Option<Nanos>,
}

impl Timing {
    /// What `sent` at that instant is to say of a request that came at `arrival`.
    pub(super) fn new(arrival: Instant, sent: Instant) -> Self {
        Self { residence: sent.since(arrival), arrival: None }
    }

    fn write(self, into: &mut Vec<u8>) {
        let ms = |t: Nanos| (t.0 / 1_000_000, t.0 % 1_000_000);
        let (whole, part) = ms(self.residence);
        // Writing to memory does not fail.
        let _ = write!(into, "Server-Timing: residence;dur={whole}.{part:06}");
        if let Some(arrival) = self.arrival {
            let (whole, part) = ms(arrival);
            let _ = write!(into, ", arrival;dur={whole}.{part:06}");
        }
        into.extend_from_slice(b"\r\n");
    }
}
