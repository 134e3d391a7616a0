//! Requests, read by the server as they arrive.

use std::mem::MaybeUninit;

use super::Spare;
use super::body::{ChunkError, ChunkRules, Framing};
use super::fields::{Lengths, decimal, holds, trim};
use tare_units::limits::{
    BLANK_MAX, REQUEST_BODY_MAX, REQUEST_HEAD_MAX, REQUEST_HEADERS_MAX, REQUEST_TARGET_MAX,
};

const CHUNKS: ChunkRules =
    ChunkRules { trailer_bytes: REQUEST_HEAD_MAX, trailers: REQUEST_HEADERS_MAX, lenient: false };

/// Why a request is refused. The connection is closed after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestError {
    /// The status code of the answer: 400, 413, 414, 431, 501 or 505.
    pub status: u16,
    /// Why, in one line, for the answer's body.
    pub reason: &'static str,
}

const BARE: &str = "a carriage return or a line feed without the other";
const BODY_TOO_LONG: &str = "the body is too long";
const TARGET_TOO_LONG: &str = "the request target is too long";

const fn refused<T>(status: u16, reason: &'static str) -> Result<T, RequestError> {
    Err(RequestError { status, reason })
}

/// What has arrived. It lies where it came in, or in the reader, until the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A head.
    Head(Head<'a>),
    /// A part of the body, without its framing.
    Body {
        /// Its bytes; there may be none where it is the last.
        bytes: &'a [u8],
        /// The request ends with it.
        last: bool,
    },
}

/// The head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one head")]
pub struct Head<'a> {
    /// `GET`; any token.
    pub method: &'a [u8],
    /// Path and query as sent, visible bytes alone.
    pub target: &'a [u8],
    /// `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    /// The client will send another request on this connection, if it may.
    pub keep_alive: bool,
    /// HTTP/1.0: a client that does not know chunks and interim responses.
    pub is_1_0: bool,
    /// The client waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
    /// There is no body: the request ends here, and no [`Event::Body`] follows.
    pub last: bool,
}

/// A whole head: its length, what it says, and what follows it.
type Found<'a> = (usize, Head<'a>, Phase);

#[derive(Debug, Clone, Copy, Default)]
enum Phase {
    #[default]
    Start,
    Head,
    Body(Framing),
}

/// Reads the requests of one connection, one after the other (RFC 9112 sections 2, 3 and 6).
///
/// * `handle_bytes`
/// * commands: [`release`](Self::release), [`reset`](Self::reset)
///
/// Strict where leniency is how requests are smuggled past one server to another: whatever another
/// reader could take for something else is refused. After an error only `reset` makes sense.
#[derive(Debug, Default)]
pub struct RequestReader {
    phase: Phase,
    /// The head so far, where it came in pieces; and a whole one until the next call.
    gathered: Vec<u8>,
    body_bytes: usize,
    /// Bytes of line ends before the request.
    blank: u8,
    /// The last of them is a carriage return.
    carriage: bool,
}

const _: () = assert!(size_of::<RequestReader>() <= 64);

impl RequestReader {
    /// A reader to which nothing has come.
    pub const fn new() -> Self {
        Self { phase: Phase::Start, gathered: Vec::new(), body_bytes: 0, blank: 0, carriage: false }
    }

    /// Memory that it holds beyond itself, bytes.
    pub const fn holds(&self) -> usize {
        self.gathered.capacity()
    }

    /// What has come of a head in pieces, so far.
    pub fn gathered(&self) -> &[u8] {
        &self.gathered
    }

    /// Nothing of a request has arrived yet: the connection may end here.
    pub const fn is_at_start(&self) -> bool {
        matches!(self.phase, Phase::Start)
    }

    /// Reads `bytes` up to the next event. Returns how many were read, and what they are. Without
    /// an event, all of them were read.
    #[inline]
    pub fn handle_bytes<'a>(
        &'a mut self,
        bytes: &'a [u8],
        spare: &mut Spare,
    ) -> Result<(usize, Option<Event<'a>>), RequestError> {
        let mut read = 0;
        while read < bytes.len() {
            let rest = &bytes[read..];
            match &mut self.phase {
                Phase::Start => {
                    spare.put(&mut self.gathered);
                    if matches!(rest[0], b'\r' | b'\n') {
                        self.blank(rest[0])?;
                        read += 1;
                        continue;
                    }
                    if self.carriage {
                        return refused(400, BARE);
                    }
                    (self.blank, self.body_bytes) = (0, 0);
                    let within = &rest[..rest.len().min(REQUEST_HEAD_MAX)];
                    if let Some((len, head, next)) = parse(within)? {
                        self.phase = next;
                        return Ok((read + len, Some(Event::Head(head))));
                    }
                    if within.len() == REQUEST_HEAD_MAX {
                        return Err(too_long(within));
                    }
                    self.gathered = spare.take();
                    self.gathered.extend_from_slice(within);
                    self.phase = Phase::Head;
                    return Ok((bytes.len(), None));
                }
                Phase::Head => {
                    let before = self.gathered.len();
                    let Some((len, head, next)) = gather(&mut self.gathered, rest)? else {
                        return Ok((bytes.len(), None));
                    };
                    self.phase = next;
                    return Ok((read + len - before, Some(Event::Head(head))));
                }
                Phase::Body(framing) => {
                    let piece = framing.read(rest, CHUNKS).map_err(chunk_error)?;
                    read += piece.bytes;
                    let last = piece.ends;
                    let bytes = if piece.is_data { &rest[..piece.bytes] } else { &rest[..0] };
                    self.body_bytes += bytes.len();
                    if self.body_bytes > REQUEST_BODY_MAX {
                        return refused(413, BODY_TOO_LONG);
                    }
                    if last {
                        self.phase = Phase::Start;
                    }
                    if last || piece.is_data {
                        return Ok((read, Some(Event::Body { bytes, last })));
                    }
                }
            }
        }
        Ok((read, None))
    }

    /// Gives back the buffer of a head that came in pieces and is dealt with. Without it, the
    /// buffer is kept until the next request begins.
    pub fn release(&mut self, spare: &mut Spare) {
        if !matches!(self.phase, Phase::Head) {
            spare.put(&mut self.gathered);
        }
    }

    /// Begins again, for another connection.
    pub fn reset(&mut self, spare: &mut Spare) {
        spare.put(&mut self.gathered);
        *self = Self::default();
    }

    #[cold]
    fn blank(&mut self, byte: u8) -> Result<(), RequestError> {
        self.blank += 1;
        if self.blank > BLANK_MAX {
            return refused(400, "empty lines before the request");
        }
        if self.carriage == (byte == b'\r') {
            return refused(400, BARE);
        }
        self.carriage = byte == b'\r';
        Ok(())
    }
}

/// Reads on in a head of which a part has come before.
#[cold]
fn gather<'a>(gathered: &'a mut Vec<u8>, bytes: &[u8]) -> Result<Option<Found<'a>>, RequestError> {
    let within = &bytes[..bytes.len().min(REQUEST_HEAD_MAX - gathered.len())];
    gathered.extend_from_slice(within);
    // Parsed again with each line at most, of which there are not many.
    let found = if within.contains(&b'\n') { parse(gathered)? } else { None };
    match found {
        None if gathered.len() == REQUEST_HEAD_MAX => Err(too_long(gathered)),
        found => Ok(found),
    }
}

/// Parses a head from its first byte, if it is whole, and decides what follows it.
#[inline]
fn parse(bytes: &[u8]) -> Result<Option<Found<'_>>, RequestError> {
    let mut headers = [const { MaybeUninit::uninit() }; REQUEST_HEADERS_MAX];
    let mut head = httparse::Request::new(&mut []);
    match head.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(len)) => understand(&head, &bytes[..len]).map(Some),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(syntax(error, bytes)),
    }
}

#[inline]
fn understand<'a>(
    head: &httparse::Request<'_, 'a>,
    bytes: &'a [u8],
) -> Result<Found<'a>, RequestError> {
    // httparse takes a lone line feed for the end of a line, as other servers do not. Without a
    // branch for each byte, so that it is done many at a time.
    let pairs = bytes.iter().zip(&bytes[1..]);
    if pairs.fold(false, |bare, (before, byte)| bare | ((*byte == b'\n') & (*before != b'\r'))) {
        return refused(400, BARE);
    }
    let method = head.method.unwrap_or_default().as_bytes();
    let target = head.path.unwrap_or_default().as_bytes();
    if target.len() > REQUEST_TARGET_MAX {
        return refused(414, TARGET_TOO_LONG);
    }
    if !target.iter().all(|byte| matches!(byte, b'!'..=b'~')) {
        return refused(400, "the request target holds more than visible ASCII");
    }
    let is_1_0 = head.version == Some(0);
    let mut facts = Facts::default();
    for header in head.headers.iter() {
        facts.add(header)?;
    }
    if !facts.host && !is_1_0 {
        return refused(400, "no Host header");
    }
    let lengths = facts.lengths;
    let next = match (lengths.coded, lengths.length) {
        (true, Some(_)) => return refused(400, "both Content-Length and Transfer-Encoding"),
        (true, None) if is_1_0 => return refused(400, "Transfer-Encoding in HTTP/1.0"),
        (true, None) if lengths.other => {
            return refused(501, "a transfer coding that is unknown here");
        }
        (true, None) => Phase::Body(Framing::chunked()),
        (false, Some(length)) if length > REQUEST_BODY_MAX as u64 => {
            return refused(413, BODY_TOO_LONG);
        }
        (false, None | Some(0)) => Phase::Start,
        (false, Some(length)) => Phase::Body(Framing::Length(length)),
    };
    let last = matches!(next, Phase::Start);
    let head = Head {
        method,
        target,
        content_type: facts.content_type,
        keep_alive: !facts.close && (facts.keep || !is_1_0),
        is_1_0,
        expects_continue: facts.expects && !is_1_0 && !last,
        last,
    };
    Ok((bytes.len(), head, next))
}

#[derive(Default)]
struct Facts<'a> {
    host: bool,
    close: bool,
    keep: bool,
    expects: bool,
    content_type: Option<&'a [u8]>,
    lengths: Lengths,
}

impl<'a> Facts<'a> {
    #[inline]
    fn add(&mut self, header: &httparse::Header<'a>) -> Result<(), RequestError> {
        // The length of a name tells nearly all of them apart.
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            4 if is("host") => {
                if self.host {
                    return refused(400, "several Host headers");
                }
                let odd = |byte: &u8| !matches!(byte, b'!'..=b'~') || b"/\\?#@,".contains(byte);
                if header.value.iter().any(odd) {
                    return refused(400, "a Host header that is no host");
                }
                self.host = true;
            }
            6 if is("expect") => self.expects |= holds(header.value, b"100-continue"),
            10 if is("connection") => {
                self.close |= holds(header.value, b"close");
                self.keep |= holds(header.value, b"keep-alive");
            }
            12 if is("content-type") => self.content_type = Some(header.value),
            14 if is("content-length") => {
                if self.lengths.length.is_some() {
                    return refused(400, "several Content-Length headers");
                }
                self.lengths.length = decimal(trim(header.value));
                if self.lengths.length.is_none() {
                    return refused(400, "a Content-Length that is no number");
                }
            }
            17 if is("transfer-encoding") => {
                if self.lengths.add_coding(header.value).is_none() {
                    return refused(400, "a Transfer-Encoding whose last coding is not chunked");
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cold]
fn syntax(error: httparse::Error, bytes: &[u8]) -> RequestError {
    let (status, reason) = match error {
        httparse::Error::TooManyHeaders => (431, "too many headers"),
        httparse::Error::Version if names_a_version(bytes) => {
            (505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        }
        httparse::Error::HeaderName => (400, "a header line without a proper name"),
        httparse::Error::HeaderValue => (400, "a header with a control character in its value"),
        _ => (400, "no HTTP request line"),
    };
    RequestError { status, reason }
}

/// Whether the third word of the first line is `HTTP/` and a digit: a version, but none that
/// httparse takes. So begins HTTP/2, too.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    let protocol = line.split(|byte| *byte == b' ').nth(2).unwrap_or(&[]);
    matches!(protocol, [b'H', b'T', b'T', b'P', b'/', digit, ..] if digit.is_ascii_digit())
}

#[cold]
fn too_long(bytes: &[u8]) -> RequestError {
    if bytes.contains(&b'\n') {
        RequestError { status: 431, reason: "the head is too long" }
    } else {
        RequestError { status: 414, reason: TARGET_TOO_LONG }
    }
}

#[cold]
const fn chunk_error(error: ChunkError) -> RequestError {
    let (status, reason) = match error {
        ChunkError::Malformed => (400, "a chunk that is framed wrongly"),
        ChunkError::TrailersTooLong => (431, "the trailers are too long"),
        ChunkError::TooManyTrailers => (431, "too many trailers"),
    };
    RequestError { status, reason }
}

#[cfg(test)]
mod tests;
