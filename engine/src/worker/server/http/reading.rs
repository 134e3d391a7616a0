//! Requests, read from contiguous bytes (RFC 9112). Nothing is copied: what a request names lies in those bytes.

use std::mem::MaybeUninit;

use crate::limits::{REQUEST_BODY_MAX, REQUEST_HEAD_MAX, REQUEST_HEADERS_MAX};

/// The longest request target, bytes.
const TARGET_MAX: usize = 8 << 10;
/// The longest line that begins a chunk, bytes.
const CHUNK_LINE_MAX: usize = 256;
/// Head, body and the framing of its chunks, bytes.
pub(super) const REQUEST_MAX: usize = REQUEST_HEAD_MAX + 2 * REQUEST_BODY_MAX;

const _: () = assert!(TARGET_MAX < REQUEST_HEAD_MAX);

/// A whole request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// The method, as it was sent.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The client wants no other request answered on this connection.
    pub close: bool,
    /// An HTTP/1.0 client that wants the connection kept must be told that it is.
    pub tell_keep_alive: bool,
    /// `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    /// Length of the head, bytes.
    pub head_bytes: usize,
    body: &'a [u8],
    chunked: bool,
}

impl Request<'_> {
    /// The body, without its framing.
    pub(super) fn body(&self) -> Vec<u8> {
        if !self.chunked {
            return self.body.to_vec();
        }
        let mut whole = Vec::with_capacity(self.body.len().min(REQUEST_BODY_MAX));
        let mut rest = self.body;
        while let Ok(Some(chunk)) = chunk(rest) {
            if chunk.len == 0 {
                break;
            }
            whole.extend_from_slice(&rest[chunk.line..][..chunk.len]);
            rest = &rest[chunk.line + chunk.len + 2..];
        }
        whole
    }
}

/// What is known of a request that is not whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Resume {
    /// It cannot be whole with fewer bytes.
    pub at_least: usize,
    /// Where the next chunk begins; zero before the first.
    chunk_at: usize,
    /// Bytes of the chunks before it.
    body: usize,
    /// The client was told to go on.
    told: bool,
}

/// What bytes come to.
#[derive(Debug)]
pub(super) enum Reading<'a> {
    /// They begin a request; `go_on`: the client waits to be told so before it sends the body.
    More {
        /// To be handed back with the same bytes and those behind them.
        resume: Resume,
        /// Send `100 Continue`.
        go_on: bool,
    },
    /// A request, and how many bytes it takes.
    Whole(Request<'a>, usize),
    /// They are none that is served; the status says why.
    Refused(u16),
}

/// Reads the request that `bytes` begin with.
pub(super) fn read(bytes: &[u8], resume: Resume) -> Reading<'_> {
    match try_read(bytes, resume) {
        Ok(reading) => reading,
        Err(status) => Reading::Refused(status),
    }
}

fn try_read(bytes: &[u8], mut resume: Resume) -> Result<Reading<'_>, u16> {
    let seen = resume.at_least.saturating_sub(1);
    let fresh = bytes.get(seen..).unwrap_or_default();
    if seen > 0 && resume.chunk_at == 0 && bytes.len() <= TARGET_MAX && !fresh.contains(&b'\n') {
        // Most of a head that drips in is not looked at again and again.
        resume.at_least = bytes.len() + 1;
        let go_on = false;
        return Ok(Reading::More { resume, go_on });
    }
    let mut headers = [const { MaybeUninit::uninit() }; REQUEST_HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let head_bytes = match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => {
            let line_ends = bytes.iter().take(TARGET_MAX + 32).any(|b| *b == b'\n');
            return if bytes.len() > TARGET_MAX + 32 && !line_ends {
                Err(414)
            } else if bytes.len() > REQUEST_HEAD_MAX {
                Err(431)
            } else {
                resume.at_least = bytes.len() + 1;
                let go_on = false;
                Ok(Reading::More { resume, go_on })
            };
        }
        Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(httparse::Error::Version) => return Err(505),
        Err(_) => return Err(400),
    };
    if head_bytes > REQUEST_HEAD_MAX {
        return Err(431);
    }
    let facts = Facts::of(&parsed)?;
    let target = parsed.path.ok_or(400_u16)?;
    if target.len() > TARGET_MAX {
        return Err(414);
    }
    let used = if facts.chunked {
        chunks(bytes, head_bytes, &mut resume)?
    } else {
        let whole = head_bytes + facts.length;
        resume.at_least = whole;
        resume.chunk_at = head_bytes;
        (bytes.len() >= whole).then_some(whole)
    };
    let Some(used) = used else {
        let go_on = facts.waits && !std::mem::replace(&mut resume.told, true);
        return Ok(Reading::More { resume, go_on });
    };
    let request = Request {
        method: parsed.method.ok_or(400_u16)?,
        target,
        close: facts.close || facts.old && !facts.keep_alive,
        tell_keep_alive: facts.old && facts.keep_alive && !facts.close,
        content_type: facts.content_type,
        head_bytes,
        body: &bytes[head_bytes..used],
        chunked: facts.chunked,
    };
    Ok(Reading::Whole(request, used))
}

/// What the headers say.
#[derive(Default)]
struct Facts<'a> {
    /// HTTP/1.0.
    old: bool,
    close: bool,
    keep_alive: bool,
    chunked: bool,
    waits: bool,
    length: usize,
    content_type: Option<&'a [u8]>,
}

impl<'a> Facts<'a> {
    /// # Errors
    /// The status with which to refuse. Framing in two ways, or in one that is not understood, is how requests are
    /// smuggled (RFC 9112, section 11.2).
    fn of(parsed: &httparse::Request<'_, 'a>) -> Result<Self, u16> {
        let mut facts = Self {
            old: parsed.version == Some(0),
            ..Self::default()
        };
        let (mut hosts, mut length) = (0, None);
        for header in parsed.headers.iter() {
            let value = header.value;
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            match header.name.len() {
                4 if is("Host") => hosts += 1,
                6 if is("Expect") => {
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(417);
                    }
                    facts.waits = !facts.old;
                }
                10 if is("Connection") => {
                    let has = |word: &[u8]| {
                        let words = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
                        words.into_iter().any(|w| w.eq_ignore_ascii_case(word))
                    };
                    facts.close |= has(b"close");
                    facts.keep_alive |= has(b"keep-alive");
                }
                12 if is("Content-Type") => facts.content_type = Some(value),
                14 if is("Content-Length") => {
                    let this = content_length(value)?;
                    if length.replace(this).is_some_and(|other| other != this) {
                        return Err(400);
                    }
                }
                17 if is("Transfer-Encoding") => {
                    if facts.chunked || facts.old {
                        return Err(400);
                    }
                    if !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(501);
                    }
                    facts.chunked = true;
                }
                _ => {}
            }
        }
        if hosts > 1 || hosts == 0 && !facts.old || facts.chunked && length.is_some() {
            return Err(400);
        }
        facts.length = length.unwrap_or(0);
        if facts.length > REQUEST_BODY_MAX {
            return Err(413);
        }
        Ok(facts)
    }
}

fn content_length(value: &[u8]) -> Result<usize, u16> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(400);
    }
    let digits = std::str::from_utf8(value).map_err(|_| 400_u16)?;
    // More digits than a number has are a length all the same, and one that is too large.
    Ok(digits.parse().unwrap_or(usize::MAX))
}

/// Goes through the chunks that are whole. Returns where the request ends, if it is there.
fn chunks(bytes: &[u8], head: usize, resume: &mut Resume) -> Result<Option<usize>, u16> {
    let mut at = resume.chunk_at.max(head);
    loop {
        let found = chunk(&bytes[at..])?;
        resume.chunk_at = at;
        resume.at_least = bytes.len() + 1;
        let Some(chunk) = found else {
            break;
        };
        if chunk.len == 0 {
            if let Some(end) = trailers(&bytes[at + chunk.line..])? {
                return Ok(Some(at + chunk.line + end));
            }
            break;
        }
        if resume.body + chunk.len > REQUEST_BODY_MAX {
            return Err(413);
        }
        let end = at + chunk.line + chunk.len;
        if bytes.len() < end + 2 {
            resume.at_least = end + 2;
            break;
        }
        if &bytes[end..end + 2] != b"\r\n" {
            return Err(400);
        }
        resume.body += chunk.len;
        at = end + 2;
    }
    if bytes.len() > REQUEST_MAX {
        return Err(413);
    }
    Ok(None)
}

struct Chunk {
    /// Length of the line that begins it.
    line: usize,
    /// Length of its data.
    len: usize,
}

/// The chunk that `bytes` begin with, if its first line is whole.
fn chunk(bytes: &[u8]) -> Result<Option<Chunk>, u16> {
    let Some(end) = bytes.iter().take(CHUNK_LINE_MAX).position(|b| *b == b'\n') else {
        return if bytes.len() < CHUNK_LINE_MAX {
            Ok(None)
        } else {
            Err(400)
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(400_u16)?;
    let size = line.split(|b| *b == b';').next().unwrap_or_default();
    let size = size.trim_ascii_end();
    if size.is_empty() || size.len() > 8 || !size.iter().all(u8::is_ascii_hexdigit) {
        return Err(400);
    }
    let digits = std::str::from_utf8(size).map_err(|_| 400_u16)?;
    let len = usize::from_str_radix(digits, 16).map_err(|_| 400_u16)?;
    Ok(Some(Chunk { line: end + 1, len }))
}

/// Where the trailers and the empty line behind them end. They are thrown away.
fn trailers(bytes: &[u8]) -> Result<Option<usize>, u16> {
    let mut at = 0;
    while let Some(end) = bytes[at..].iter().position(|b| *b == b'\n') {
        let line = bytes[at..at + end].strip_suffix(b"\r").ok_or(400_u16)?;
        at += end + 1;
        if line.is_empty() {
            return Ok(Some(at));
        }
    }
    if bytes.len() > REQUEST_HEAD_MAX {
        return Err(431);
    }
    Ok(None)
}
