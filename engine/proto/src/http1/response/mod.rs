//! Responses, read as they arrive.

use std::mem::MaybeUninit;

use super::Spare;
use super::body::{ChunkError, ChunkRules, Framing};
use super::fields::{Lengths, holds, list, residence};
use tare_units::Nanos;
use tare_units::limits::{BLANK_MAX, INTERIM_BYTES_MAX, RESPONSE_HEAD_MAX, RESPONSE_HEADERS_MAX};

mod lenient;

/// A whole response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Its status code.
    pub status: u16,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// Length of its body without framing, bytes.
    pub body_bytes: u64,
    /// The server's residence time, where it told it (`Server-Timing: residence;dur=`,
    /// milliseconds).
    pub residence: Option<Nanos>,
    /// What is wrong with its framing, where it was taken nevertheless.
    pub fault: Option<Fault>,
}

/// Framing that RFC 9112 calls faulty, and that clients read as it is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `Transfer-Encoding: chunked` in HTTP/1.0 (section 6.1). The connection is closed behind it.
    Http10Chunked,
    /// Both `Content-Length` and `Transfer-Encoding: chunked`, of which the latter holds (section
    /// 6.3).
    LengthAndChunked,
}

impl Fault {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Http10Chunked, Self::LengthAndChunked];

    /// The name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http10Chunked => "http10-chunked",
            Self::LengthAndChunked => "length-and-chunked",
        }
    }
}

/// Why a response cannot be read. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseError {
    /// Not a response head.
    Malformed,
    /// The head is longer than this reader takes.
    HeadTooLong,
    /// The interim responses are longer than this reader takes.
    InterimTooLong,
    /// More headers than this reader takes.
    TooManyHeaders,
    /// The framing contradicts itself, or is none that this reader knows.
    BadFraming,
    /// A chunk is framed wrongly.
    BadChunk,
    /// The connection ended before a byte of the response.
    EarlyClose,
    /// The connection ended amid the head.
    CutHead,
    /// The connection ended amid the body.
    ShortBody,
    /// The server switched to another protocol.
    Upgraded,
}

impl ResponseError {
    /// The cause in results where a response lasts until the connection ends, and that does not end
    /// in time.
    pub const NO_LENGTH: &'static str = "no-length";

    /// The cause in results.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::HeadTooLong => "head-too-long",
            Self::InterimTooLong => "interim-too-long",
            Self::TooManyHeaders => "too-many-headers",
            Self::BadFraming => "bad-framing",
            Self::BadChunk => "bad-chunk",
            Self::EarlyClose => "early-close",
            Self::CutHead => "cut-head",
            Self::ShortBody => "short-body",
            Self::Upgraded => "upgraded",
        }
    }
}

impl From<ChunkError> for ResponseError {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::Malformed => Self::BadChunk,
            ChunkError::TrailersTooLong => Self::HeadTooLong,
            ChunkError::TooManyTrailers => Self::TooManyHeaders,
        }
    }
}

const UNTOLD: Nanos = Nanos::MAX;

const CHUNKS: ChunkRules =
    ChunkRules { trailer_bytes: RESPONSE_HEAD_MAX, trailers: RESPONSE_HEADERS_MAX, lenient: true };

/// Headers for which there is room at once; a head with more of them is parsed again with more
/// room.
const HEADERS_USUAL: usize = 128;

/// What the readers of a worker share.
#[derive(Debug)]
pub struct Shared {
    spare: Spare,
    last: LastHead,
}

impl Shared {
    /// With `count` buffers of `bytes` each for heads that arrive in pieces.
    pub fn new(count: usize, bytes: usize) -> Self {
        let last =
            LastHead { bytes: Vec::with_capacity(LAST_HEAD_MAX), head_only: false, said: None };
        Self { spare: Spare::new(count, bytes), last }
    }
}

/// The head that came last, on whichever connection of a worker, and what it said. Most servers
/// answer the same request with the same bytes until the second of their `Date` is over, and to
/// compare them costs a tenth of parsing them.
#[derive(Debug)]
struct LastHead {
    bytes: Vec<u8>,
    /// It answered a `HEAD` request, or what is read like one.
    head_only: bool,
    said: Option<Said>,
}

/// Longer heads are parsed each time.
const LAST_HEAD_MAX: usize = 1 << 10;

impl LastHead {
    /// Its length and what it said, if `bytes` begin with it.
    #[inline]
    fn begins(&self, bytes: &[u8], head_only: bool) -> Option<(usize, Said)> {
        let said = self.said?;
        // A head ends with its empty line, so what begins with all of it is that head and no longer
        // one.
        let is_same = head_only == self.head_only && bytes.starts_with(&self.bytes);
        is_same.then_some((self.bytes.len(), said))
    }

    /// Remembers a final head. One that tells a time is never the same again.
    #[inline]
    fn remember(&mut self, head: &[u8], head_only: bool, said: Said) {
        if head.len() > LAST_HEAD_MAX || said.residence != UNTOLD {
            return;
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
        (self.head_only, self.said) = (head_only, Some(said));
    }
}

/// What a final head says of its response.
#[derive(Debug, Clone, Copy)]
struct Said {
    status: u16,
    keep_alive: bool,
    residence: Nanos,
    fault: Option<Fault>,
    body: Option<Framing>,
}

/// Reads the responses of one connection, one after the other (RFC 9112 section 6).
///
/// * `handle_bytes`, `handle_end`
/// * commands: [`expect`](Self::expect), [`reset`](Self::reset)
///
/// A response in one slice is read where it lies. After an error only `reset` makes sense.
#[derive(Debug)]
pub struct ResponseReader {
    /// The body under way; absent before its head is whole.
    body: Option<Framing>,
    /// The head so far, where it came in pieces.
    gathered: Vec<u8>,
    /// Of the body so far; before it, of the interim responses.
    body_bytes: u64,
    residence: Nanos,
    status: u16,
    /// Bytes of line ends before the status line.
    blank: u8,
    fault: Option<Fault>,
    keep_alive: bool,
    head_only: bool,
}

// There is one for each connection, of which there may be 100,000.
const _: () = assert!(size_of::<ResponseReader>() <= 64);

impl Default for ResponseReader {
    fn default() -> Self {
        Self {
            body: None,
            gathered: Vec::new(),
            body_bytes: 0,
            residence: UNTOLD,
            status: 0,
            blank: 0,
            fault: None,
            keep_alive: false,
            head_only: false,
        }
    }
}

impl ResponseReader {
    /// The next response answers a `HEAD` request (or another one): to be said before its first
    /// byte is handed in. Holds until something else is said.
    pub const fn expect(&mut self, head: bool) {
        self.head_only = head;
    }

    /// Nothing of a response has arrived yet.
    pub const fn is_at_start(&self) -> bool {
        self.body.is_none() && self.gathered.is_empty() && self.body_bytes == 0
    }

    /// The response under way has no length of its own: it ends with the connection.
    pub const fn lasts_until_close(&self) -> bool {
        matches!(self.body, Some(Framing::UntilClose))
    }

    /// Passes over `bytes` that came while no response was awaited, if they are a line end or two,
    /// which some servers put behind a body; whether they are.
    pub fn passes_over(&mut self, bytes: &[u8]) -> bool {
        self.blank = self.blank.saturating_add(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
        self.blank <= BLANK_MAX && bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
    }

    /// Reads `bytes` up to the end of one response at most. Returns how many were read, and the
    /// response if it is whole. Without one, all of them were read.
    #[inline]
    pub fn handle_bytes(
        &mut self,
        bytes: &[u8],
        shared: &mut Shared,
    ) -> Result<(usize, Option<Response>), ResponseError> {
        let mut read = 0;
        while read < bytes.len() {
            let rest = &bytes[read..];
            let whole = match &mut self.body {
                None => {
                    let (taken, whole) = self.head(rest, shared)?;
                    read += taken;
                    whole
                }
                Some(framing) => {
                    let piece = framing.read(rest, CHUNKS)?;
                    read += piece.bytes;
                    self.body_bytes += if piece.is_data { piece.bytes as u64 } else { 0 };
                    piece.ends
                }
            };
            if whole {
                return Ok((read, Some(self.finish())));
            }
        }
        Ok((read, None))
    }

    /// The connection has ended: a response that lasts until then is whole, any other is cut.
    pub fn handle_end(&mut self, shared: &mut Shared) -> Result<Response, ResponseError> {
        match self.body {
            Some(Framing::UntilClose) => Ok(self.finish()),
            Some(_) => Err(ResponseError::ShortBody),
            None if self.is_at_start() => Err(ResponseError::EarlyClose),
            None => {
                shared.spare.put(&mut self.gathered);
                Err(ResponseError::CutHead)
            }
        }
    }

    /// Begins again, for another connection.
    pub fn reset(&mut self, shared: &mut Shared) {
        shared.spare.put(&mut self.gathered);
        *self = Self::default();
    }

    #[inline]
    fn finish(&mut self) -> Response {
        self.body = None;
        self.blank = 0;
        Response {
            status: self.status,
            keep_alive: self.keep_alive,
            body_bytes: std::mem::take(&mut self.body_bytes),
            residence: (self.residence != UNTOLD).then_some(self.residence),
            fault: self.fault,
        }
    }

    /// Reads a head or a part of it: how many bytes were read, and whether the response ends with
    /// it.
    #[inline]
    fn head(&mut self, bytes: &[u8], shared: &mut Shared) -> Result<(usize, bool), ResponseError> {
        if !self.gathered.is_empty() {
            return self.gather(bytes, shared);
        }
        if bytes[0] != b'H' {
            return if self.passes_over(&bytes[..1]) {
                Ok((1, false))
            } else {
                Err(ResponseError::Malformed)
            };
        }
        if let Some((len, said)) = shared.last.begins(bytes, self.head_only) {
            return Ok((len, self.enter(said)));
        }
        let within = &bytes[..bytes.len().min(RESPONSE_HEAD_MAX)];
        match self.parse(within, &mut shared.spare)? {
            Some((len, Some(said))) => {
                shared.last.remember(&bytes[..len], self.head_only, said);
                Ok((len, self.enter(said)))
            }
            Some((len, None)) => Ok((len, false)),
            None if within.len() == RESPONSE_HEAD_MAX => Err(ResponseError::HeadTooLong),
            None => {
                self.gathered = shared.spare.take();
                self.gathered.extend_from_slice(within);
                Ok((bytes.len(), false))
            }
        }
    }

    /// Reads on in a head of which a part has come before.
    #[cold]
    fn gather(
        &mut self,
        bytes: &[u8],
        shared: &mut Shared,
    ) -> Result<(usize, bool), ResponseError> {
        let before = self.gathered.len();
        let within = &bytes[..bytes.len().min(RESPONSE_HEAD_MAX - before)];
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.extend_from_slice(within);
        // Parsed again with each line at most, of which there are not many: a head that drips costs
        // no more than so many times its length.
        let parsed = if within.contains(&b'\n') {
            self.parse(&gathered, &mut shared.spare)
        } else {
            Ok(None)
        };
        match parsed {
            Ok(None) if gathered.len() < RESPONSE_HEAD_MAX => {
                self.gathered = gathered;
                Ok((bytes.len(), false))
            }
            parsed => {
                shared.spare.put(&mut gathered);
                let (len, said) = parsed?.ok_or(ResponseError::HeadTooLong)?;
                // The head was not whole without the new bytes, so it ends within them.
                Ok((len - before, said.is_some_and(|said| self.enter(said))))
            }
        }
    }

    /// Parses a head from its first byte, if it is whole: its length, and what it says unless it is
    /// an interim one.
    fn parse(&mut self, bytes: &[u8], spare: &mut Spare) -> Parsed {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_USUAL];
        let mut head = httparse::Response::new(&mut []);
        let parsed = config().parse_response_with_uninit_headers(&mut head, bytes, &mut headers);
        match parsed {
            Ok(httparse::Status::Complete(len)) => Ok(Some((len, self.read(&head, len)?))),
            Ok(httparse::Status::Partial) => Ok(None),
            Err(_) if !lenient::has_status_line(bytes) => Err(ResponseError::Malformed),
            Err(_) => {
                let mut clean = spare.take();
                let parsed = self.parse_leniently(bytes, &mut clean);
                spare.put(&mut clean);
                parsed
            }
        }
    }

    /// Parses a head that is refused as it is, or has many headers.
    #[cold]
    fn parse_leniently(&mut self, bytes: &[u8], clean: &mut Vec<u8>) -> Parsed {
        let end = lenient::clean(bytes, clean)?;
        let mut headers = [const { MaybeUninit::uninit() }; RESPONSE_HEADERS_MAX];
        let mut head = httparse::Response::new(&mut []);
        let parsed = config().parse_response_with_uninit_headers(&mut head, clean, &mut headers);
        match (parsed, end) {
            (Ok(httparse::Status::Complete(_)), Some(len)) => {
                Ok(Some((len, self.read(&head, len)?)))
            }
            (Ok(_), _) => Ok(None),
            (Err(httparse::Error::TooManyHeaders), _) => Err(ResponseError::TooManyHeaders),
            (Err(_), _) => Err(ResponseError::Malformed),
        }
    }

    /// Begins the body; returns whether there is none.
    #[inline]
    const fn enter(&mut self, said: Said) -> bool {
        let Said { status, keep_alive, residence, fault, body } = said;
        (self.status, self.keep_alive, self.residence) = (status, keep_alive, residence);
        (self.fault, self.body, self.body_bytes) = (fault, body, 0);
        body.is_none()
    }

    /// A head of `len` bytes is whole: decides how long the body is.
    fn read(
        &mut self,
        head: &httparse::Response<'_, '_>,
        len: usize,
    ) -> Result<Option<Said>, ResponseError> {
        let status = head.code.unwrap_or(0);
        match status {
            ..100 => return Err(ResponseError::Malformed),
            101 => return Err(ResponseError::Upgraded),
            102..200 | 100 => {
                self.body_bytes += len as u64;
                if self.body_bytes > INTERIM_BYTES_MAX {
                    return Err(ResponseError::InterimTooLong);
                }
                return Ok(None);
            }
            _ => {}
        }
        let is_1_0 = head.version == Some(0);
        let bodiless = self.head_only || matches!(status, 204 | 304);
        let mut lengths = Lengths::default();
        let (mut close, mut keep) = (false, false);
        let mut told = UNTOLD;
        for header in head.headers.iter() {
            // The length of a name tells nearly all of them apart.
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            match header.name.len() {
                10 if is("connection") => {
                    close |= holds(header.value, b"close");
                    keep |= holds(header.value, b"keep-alive");
                }
                // Where there is no body, its framing is of no account (RFC 9112 section 6.3, rule
                // 1).
                14 if !bodiless && is("content-length") => {
                    lengths.add_length(header.value).ok_or(ResponseError::BadFraming)?;
                }
                17 if !bodiless && is("transfer-encoding") => {
                    add_coding(&mut lengths, header.value).ok_or(ResponseError::BadFraming)?;
                }
                13 if is("server-timing") && told == UNTOLD => {
                    told = residence(header.value).unwrap_or(UNTOLD);
                }
                _ => {}
            }
        }
        let (body, fault) = match lengths.length {
            _ if bodiless => (None, None),
            Some(_) if lengths.chunked => (Some(Framing::chunked()), Some(Fault::LengthAndChunked)),
            None if lengths.chunked => {
                (Some(Framing::chunked()), is_1_0.then_some(Fault::Http10Chunked))
            }
            Some(_) if lengths.coded => return Err(ResponseError::BadFraming),
            Some(0) => (None, None),
            Some(length) => (Some(Framing::Length(length)), None),
            // Under another coding too (section 6.3, rule 4).
            None => (Some(Framing::UntilClose), None),
        };
        let ends_with_it =
            matches!(body, Some(Framing::UntilClose)) || fault == Some(Fault::Http10Chunked);
        let keep_alive = !close && (keep || !is_1_0) && !ends_with_it;
        Ok(Some(Said { status, keep_alive, residence: told, fault, body }))
    }
}

/// What parsing a head comes to: its length, and what it says unless it is an interim one; nothing
/// while it is cut.
type Parsed = Result<Option<(usize, Option<Said>)>, ResponseError>;

fn config() -> httparse::ParserConfig {
    let mut config = httparse::ParserConfig::default();
    // Folded lines are for a user agent to unfold (RFC 9112 section 5.2), and a status line may be
    // split at white space (section 4).
    config.allow_obsolete_multiline_headers_in_responses(true);
    config.allow_multiple_spaces_in_response_status_delimiters(true);
    config
}

/// Adds a response's `Transfer-Encoding`. `identity` is what RFC 2616 had for no coding at all.
/// `chunked` may not be applied twice (RFC 9112 section 6.1), so where a proxy has named it again
/// the body is still chunked once, as curl has it, too.
fn add_coding(lengths: &mut Lengths, value: &[u8]) -> Option<()> {
    for coding in list(value) {
        let again = lengths.chunked && coding.eq_ignore_ascii_case(b"chunked");
        if !again && !coding.eq_ignore_ascii_case(b"identity") {
            lengths.add_coding(coding)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests;
