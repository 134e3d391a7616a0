//! Which request is answered how, and the response written out.

use std::borrow::Cow;
use std::io::Write;

use http::StatusCode;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::echo::Echo;
use tare_proto::http1::incoming::Head;
use tare_units::limits::RESPONSE_BODY_MAX;
use tare_units::{Instant, Nanos};

const ROUTES: &str = "there is no such route. There are:
/                      a short text
/bytes/N               N bytes, at most 1073741824
/healthz               ok
/echo?status=&delay=&size=&close=&header=
                       the request's body, or what the query asks for, as fortio's echo server
/queue?service=1ms     one server with a queue for all connections; its times are in Server-Timing";
const ALLOW: &[u8] = b"Allow: GET, HEAD\r\n";
const TEXT: Cow<'static, [u8]> = Cow::Borrowed(b"text/plain");
const OCTETS: Cow<'static, [u8]> = Cow::Borrowed(b"application/octet-stream");
const SERVICE_MAX: Nanos = Nanos::from_secs(10);
/// A head is no longer than that and what it echoes of its request, bytes.
pub(super) const HEAD_BESIDE: usize = 512;
/// Bodies up to that length are sent from the same buffer as the head, bytes.
pub(super) const SHORT: usize = 1024;
pub(super) const FILL: u8 = b'x';

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Options,
    Other,
}

#[derive(Debug)]
pub(super) struct Request<'a> {
    pub method: Method,
    target: Cow<'a, str>,
    /// The client wants no other request answered on this connection.
    close: bool,
    /// An HTTP/1.0 client that wants the connection kept must be told that it is.
    tell_keep_alive: bool,
    content_type: Option<Cow<'a, [u8]>>,
    pub body: Vec<u8>,
}

impl<'a> Request<'a> {
    #[inline]
    pub(super) fn of(head: &Head<'a>) -> Self {
        Self {
            method: match head.method {
                b"GET" => Method::Get,
                b"HEAD" => Method::Head,
                b"OPTIONS" => Method::Options,
                _ => Method::Other,
            },
            // The reader lets ASCII through alone.
            target: Cow::Borrowed(std::str::from_utf8(head.target).unwrap_or_default()),
            close: !head.keep_alive,
            tell_keep_alive: head.is_1_0 && head.keep_alive,
            content_type: head.content_type.map(Cow::Borrowed),
            body: Vec::new(),
        }
    }

    /// What of it may come back in the head of its response, bytes.
    pub(super) fn echoes(&self) -> usize {
        self.target.len() + self.content_type.as_ref().map_or(0, |mime| mime.len())
    }

    pub(super) fn into_owned(self) -> Request<'static> {
        let target = Cow::Owned(self.target.into_owned());
        let content_type = self.content_type.map(|mime| Cow::Owned(mime.into_owned()));
        let Self { method, close, tell_keep_alive, body, .. } = self;
        Request { method, target, close, tell_keep_alive, content_type, body }
    }
}

/// A request whose body is still coming, or for whose response there is no room yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub request: Request<'static>,
    /// When it was whole; not yet, without.
    pub arrival: Option<Instant>,
}

impl Pending {
    pub(super) fn bytes(&self) -> u64 {
        (size_of::<Self>() + self.request.echoes() + self.request.body.capacity()) as u64
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Ending {
    #[default]
    No,
    /// It is closed once all is sent: the client said that it sends nothing more.
    Last,
    /// As [`Ending::Last`], and what the client still sends is read for a while (RFC 9112 section
    /// 9.6): closing over unread bytes would send a reset, which would overtake the response.
    LastOfMore,
    /// The end was sent; it is closed when the client closes, or then.
    Lingering(Instant),
    Closing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Not,
    /// That long after the request has arrived.
    Delay(Nanos),
    /// When it was served that long, after all others.
    Queue(Nanos),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// A line, less its end; nothing at all, where it is empty.
    Text(&'static str),
    Fill(u64),
    Bytes(Vec<u8>),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Text(text) => (text.len() + usize::from(!text.is_empty())) as u64,
            Self::Fill(len) => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    /// From the request's arrival to the submission of the response.
    pub residence: Nanos,
    /// The request's arrival, since the HTTP side was started.
    pub arrival: Option<Nanos>,
}

impl Timing {
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    status: u16,
    /// Header lines, each with its end.
    headers: Vec<u8>,
    /// Empty where a header names it.
    content_type: Cow<'static, [u8]>,
    body: Body,
    /// It answers a `HEAD`: the body is described and not sent.
    pub head: bool,
    /// [`Ending::No`], [`Ending::Last`] or [`Ending::LastOfMore`].
    pub ending: Ending,
    tell_keep_alive: bool,
}

impl Reply {
    const fn text(status: u16, text: &'static str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content_type: TEXT,
            body: Body::Text(text),
            head: false,
            ending: Ending::No,
            tell_keep_alive: false,
        }
    }

    /// What refuses a request that cannot be read, or is not served, and why.
    pub(super) fn refusal(status: u16, why: &'static str) -> Self {
        Self { ending: Ending::LastOfMore, ..Self::text(status, why) }
    }

    pub(super) fn replace(&mut self, status: u16, text: &'static str) {
        (self.status, self.body) = (status, Body::Text(text));
    }

    /// Memory that it takes beyond itself, bytes.
    pub(super) const fn capacity(&self) -> usize {
        let body = if let Body::Bytes(bytes) = &self.body { bytes.capacity() } else { 0 };
        self.headers.capacity() + body
    }

    /// Appends the head, and the body if it is short. Returns the body if it is long.
    pub(super) fn write(mut self, timing: Option<Timing>, into: &mut Vec<u8>) -> Option<Body> {
        let status = StatusCode::from_u16(self.status).unwrap_or_default();
        let reason = status.canonical_reason().unwrap_or("").as_bytes();
        put(into, [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason, b"\r\n"]);
        // RFC 9110, sections 15.3.5 and 15.4.5: there is no body, whatever was asked for.
        let bare = matches!(self.status, 204 | 304);
        // Section 15.3.6: there is no content, and the length says so.
        if self.status == 205 {
            self.body = Body::Text("");
        }
        if !bare {
            if !self.content_type.is_empty() {
                put(into, [b"Content-Type: ", &self.content_type, b"\r\n"]);
            }
            let mut digits = itoa::Buffer::new();
            let length = digits.format(self.body.len()).as_bytes();
            put(into, [b"Content-Length: ", length, b"\r\n"]);
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
            Body::Text("") => {}
            Body::Text(text) => put(into, [text.as_bytes(), b"\n"]),
            Body::Bytes(bytes) if bytes.len() <= SHORT => into.extend_from_slice(&bytes),
            Body::Fill(len) if len <= SHORT as u64 => {
                into.resize(into.len() + usize::try_from(len).unwrap_or(0), FILL);
            }
            long => return Some(long),
        }
        None
    }
}

fn put<const N: usize>(into: &mut Vec<u8>, parts: [&[u8]; N]) {
    parts.into_iter().for_each(|part| into.extend_from_slice(part));
}

pub(super) fn route(request: &Request<'_>, dice: &mut Xoshiro256PlusPlus) -> (Reply, Hold) {
    let (path, query) = split(&request.target);
    let mut hold = Hold::Not;
    let is_read = matches!(request.method, Method::Get | Method::Head);
    let not_allowed = || Reply { headers: ALLOW.to_vec(), ..Reply::text(405, "only GET and HEAD") };
    let mut reply = match path {
        "/echo" => {
            let query = Echo::parse(query, dice);
            hold = query.delay.map_or(Hold::Not, Hold::Delay);
            echo(request, query)
        }
        // What the server as a whole can do (RFC 9110 section 9.3.7).
        "*" if request.method == Method::Options => {
            Reply { headers: ALLOW.to_vec(), ..Reply::text(200, "") }
        }
        _ if !path.starts_with('/') => Reply::text(404, ROUTES),
        "/" if is_read => Reply::text(200, "tare serves"),
        "/healthz" if is_read => Reply::text(200, "ok"),
        "/queue" if is_read => match service(query) {
            Some(service) => {
                hold = Hold::Queue(service);
                Reply::text(200, "served")
            }
            None => Reply::text(400, "write /queue?service=1ms, 10 s at most"),
        },
        "/" | "/healthz" | "/queue" => not_allowed(),
        _ => match path.strip_prefix("/bytes/").map(str::parse::<u64>) {
            Some(Ok(len)) if !is_read && len <= RESPONSE_BODY_MAX => not_allowed(),
            Some(Ok(len)) if len <= RESPONSE_BODY_MAX => {
                Reply { content_type: OCTETS, body: Body::Fill(len), ..Reply::text(200, "") }
            }
            Some(_) => Reply::text(400, "write /bytes/N, with N from 0 to 1073741824"),
            None => Reply::text(404, ROUTES),
        },
    };
    reply.head = request.method == Method::Head;
    if request.close {
        reply.ending = Ending::Last;
    }
    reply.tell_keep_alive = request.tell_keep_alive && reply.ending == Ending::No;
    (reply, hold)
}

/// Path and query of a target, in origin or absolute form.
fn split(target: &str) -> (&str, &str) {
    let mut origin = target;
    let scheme = target.get(.."http://".len()).unwrap_or_default();
    if scheme.eq_ignore_ascii_case("http://") {
        let absolute = &target[scheme.len()..];
        origin = absolute.find(['/', '?']).map_or("/", |at| &absolute[at..]);
    }
    let origin = origin.split('#').next().unwrap_or(origin);
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    // An absolute form may have no path (RFC 9110 section 4.2.3).
    (if path.is_empty() { "/" } else { path }, query)
}

fn service(query: &str) -> Option<Nanos> {
    let text = query.split('&').find_map(|pair| pair.strip_prefix("service="))?;
    text.parse().ok().filter(|service| *service <= SERVICE_MAX)
}

fn echo(request: &Request<'_>, query: Echo) -> Reply {
    let (body, of_body) = match query.size {
        Some(size) => (Body::Fill(size), Some(OCTETS)),
        None => (
            Body::Bytes(request.body.clone()),
            request.content_type.as_ref().map(|mime| Cow::Owned(mime.to_vec())),
        ),
    };
    // The type that the body has comes before the one that the query names.
    let (content_type, headers) = match of_body {
        Some(mime) if query.names_type => (mime, without_type(&query.headers)),
        None if query.names_type => (Cow::Borrowed(&b""[..]), query.headers),
        mime => (mime.unwrap_or(TEXT), query.headers),
    };
    Reply {
        status: query.status.unwrap_or(200),
        headers,
        content_type,
        body,
        ending: if query.close { Ending::LastOfMore } else { Ending::No },
        ..Reply::text(200, "")
    }
}

fn without_type(headers: &[u8]) -> Vec<u8> {
    let is_type = |line: &&[u8]| {
        let name = line.get(.."content-type:".len());
        name.is_some_and(|name| name.eq_ignore_ascii_case(b"content-type:"))
    };
    let lines = headers.split_inclusive(|b| *b == b'\n');
    lines.filter(|line| !is_type(line)).flatten().copied().collect()
}
