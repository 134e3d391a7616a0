//! Responses, read as they arrive.

use std::mem::MaybeUninit;

use super::Spare;
use super::chunks::{ChunkError, ChunkRules, Chunks, Piece};
use super::fields::{BadField, Lengths, holds, list, residence};
use tare_units::Nanos;
use tare_units::limits::{BLANK_MAX, INTERIM_BYTES_MAX, RESPONSE_HEAD_MAX, RESPONSE_HEADERS_MAX};

mod last;
mod lenient;

use last::LastHead;

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
    #[must_use]
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
    #[must_use]
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

impl From<BadField> for ResponseError {
    fn from(_: BadField) -> Self {
        Self::BadFraming
    }
}

#[derive(Debug, Clone, Copy, Default)]
enum Phase {
    #[default]
    Head,
    /// So many bytes of the body are yet to come.
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

const UNTOLD: Nanos = Nanos::MAX;

const CHUNKS: ChunkRules = ChunkRules {
    trailer_bytes: RESPONSE_HEAD_MAX,
    trailers: RESPONSE_HEADERS_MAX,
    padding: true,
    controls: true,
};

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
    #[must_use]
    pub fn new(count: usize, bytes: usize) -> Self {
        Self { spare: Spare::new(count, bytes), last: LastHead::default() }
    }
}

/// What a final head says of its response.
#[derive(Debug, Clone, Copy)]
struct Said {
    status: u16,
    keep_alive: bool,
    residence: Nanos,
    /// Of its body, where that is told.
    body_bytes: u64,
    fault: Option<Fault>,
    /// Where the reader stands behind the head; `None`: behind the whole response.
    then: Option<Phase>,
}

/// Reads the responses of one connection, one after the other (RFC 9112 section 6).
///
/// * `handle_bytes`, `handle_end`
/// * commands: [`expect`](Self::expect), [`reset`](Self::reset)
///
/// A response in one slice is read where it lies. After an error only `reset` makes sense.
#[derive(Debug)]
pub struct ResponseReader {
    phase: Phase,
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
            phase: Phase::Head,
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
    #[must_use]
    pub const fn is_at_start(&self) -> bool {
        matches!(self.phase, Phase::Head) && self.gathered.is_empty() && self.body_bytes == 0
    }

    /// The response under way has no length of its own: it ends with the connection.
    #[must_use]
    pub const fn lasts_until_close(&self) -> bool {
        matches!(self.phase, Phase::UntilClose)
    }

    /// Passes over `bytes` that came while no response was awaited, if they are a line end or two,
    /// which some servers put behind a body; whether they are.
    pub fn passes_over(&mut self, bytes: &[u8]) -> bool {
        self.blank = self.blank.saturating_add(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
        self.blank <= BLANK_MAX && bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
    }

    /// Reads `bytes` up to the end of one response at most. Returns how many were read, and the
    /// response if it is whole. Without one, all of them were read.
    ///
    /// # Errors
    /// Where they are no response.
    #[inline]
    pub fn handle_bytes(
        &mut self,
        bytes: &[u8],
        shared: &mut Shared,
    ) -> Result<(usize, Option<Response>), ResponseError> {
        let mut read = 0;
        while read < bytes.len() {
            let rest = &bytes[read..];
            let whole = match &mut self.phase {
                Phase::Head => {
                    let (taken, whole) = self.head(rest, shared)?;
                    read += taken;
                    whole
                }
                Phase::Length(left) => {
                    let taken = usize::try_from(*left).map_or(rest.len(), |n| n.min(rest.len()));
                    *left -= taken as u64;
                    read += taken;
                    *left == 0
                }
                Phase::Chunked(chunks) => match chunks.read(rest, CHUNKS)? {
                    Piece::Framing(taken) => {
                        read += taken;
                        false
                    }
                    Piece::Data(taken) => {
                        read += taken;
                        self.body_bytes += taken as u64;
                        false
                    }
                    Piece::End(taken) => {
                        read += taken;
                        true
                    }
                },
                Phase::UntilClose => {
                    read += rest.len();
                    self.body_bytes += rest.len() as u64;
                    false
                }
            };
            if whole {
                return Ok((read, Some(self.finish())));
            }
        }
        Ok((read, None))
    }

    /// The connection has ended: a response that lasts until then is whole.
    ///
    /// # Errors
    /// [`ResponseError::EarlyClose`], [`ResponseError::CutHead`] or [`ResponseError::ShortBody`].
    pub fn handle_end(&mut self, shared: &mut Shared) -> Result<Response, ResponseError> {
        match self.phase {
            Phase::UntilClose => Ok(self.finish()),
            Phase::Length(_) | Phase::Chunked(_) => Err(ResponseError::ShortBody),
            Phase::Head if self.is_at_start() => Err(ResponseError::EarlyClose),
            Phase::Head => {
                self.give_back(shared);
                Err(ResponseError::CutHead)
            }
        }
    }

    /// Begins again, for another connection.
    pub fn reset(&mut self, shared: &mut Shared) {
        self.give_back(shared);
        *self = Self::default();
    }

    fn give_back(&mut self, shared: &mut Shared) {
        if self.gathered.capacity() > 0 {
            shared.spare.put(std::mem::take(&mut self.gathered));
        }
    }

    #[inline]
    fn finish(&mut self) -> Response {
        self.phase = Phase::Head;
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
                shared.spare.put(gathered);
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
                spare.put(clean);
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
        self.status = said.status;
        self.keep_alive = said.keep_alive;
        self.residence = said.residence;
        self.body_bytes = said.body_bytes;
        self.fault = said.fault;
        match said.then {
            Some(phase) => self.phase = phase,
            None => return true,
        }
        false
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
                14 if !bodiless && is("content-length") => lengths.add_length(header.value)?,
                17 if !bodiless && is("transfer-encoding") => {
                    add_coding(&mut lengths, header.value)?
                }
                13 if is("server-timing") && told == UNTOLD => {
                    told = residence(header.value).unwrap_or(UNTOLD);
                }
                _ => {}
            }
        }
        let said = Said {
            status,
            keep_alive: !close && (keep || !is_1_0),
            residence: told,
            body_bytes: 0,
            fault: None,
            then: None,
        };
        if bodiless {
            return Ok(Some(said));
        }
        let fault = match lengths.length {
            _ if !lengths.chunked => None,
            Some(_) => Some(Fault::LengthAndChunked),
            None => is_1_0.then_some(Fault::Http10Chunked),
        };
        let said = match lengths.length {
            _ if lengths.chunked => Said {
                keep_alive: said.keep_alive && fault != Some(Fault::Http10Chunked),
                fault,
                then: Some(Phase::Chunked(Chunks::new())),
                ..said
            },
            Some(_) if lengths.coded => return Err(ResponseError::BadFraming),
            Some(length) => Said {
                body_bytes: length,
                then: (length > 0).then_some(Phase::Length(length)),
                ..said
            },
            // Under another coding too (section 6.3, rule 4).
            None => Said { keep_alive: false, then: Some(Phase::UntilClose), ..said },
        };
        Ok(Some(said))
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
fn add_coding(lengths: &mut Lengths, value: &[u8]) -> Result<(), BadField> {
    for coding in list(value) {
        let again = lengths.chunked && coding.eq_ignore_ascii_case(b"chunked");
        if !again && !coding.eq_ignore_ascii_case(b"identity") {
            lengths.add_coding(coding)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
