//! Requests, serialised before the run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use http::{HeaderName, HeaderValue, Method};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::fields::{Lengths, trim};
use tare_units::error::{Error, Result};
use tare_units::limits::{REQUESTS_BYTES_MAX, REQUESTS_MAX};

/// A chunked body is written in chunks of so many bytes at most.
const CHUNK_BYTES: usize = 8 << 10;
const ORDER_MAX: u64 = 1 << 16;

const _: () = assert!(REQUESTS_MAX <= u16::MAX as usize && REQUESTS_BYTES_MAX <= u32::MAX as usize);

/// How the length of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// `Content-Length`.
    #[default]
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How its length is told.
    pub framing: Framing,
}

/// A request before it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestSpec {
    /// `GET`.
    pub method: String,
    /// The request target: path and query.
    pub target: String,
    /// The `Host` header.
    pub host: String,
    /// Further headers, in order.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Option<Body>,
    /// `Connection: close`.
    pub close: bool,
}

impl RequestSpec {
    /// `GET` of `target`.
    pub fn get(target: &str, host: &str) -> Self {
        let (method, target, host) = ("GET".to_owned(), target.to_owned(), host.to_owned());
        Self { method, target, host, ..Self::default() }
    }
}

/// A request within [`Requests::bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its first byte.
    pub start: u32,
    /// Its length; the same bytes are repeated [`Requests::repeats`] times from `start`.
    pub len: u32,
    /// `HEAD`: the response has no body.
    pub head: bool,
    /// Its method may be sent again where it is not known whether the server has seen it (RFC 9110
    /// section 9.2.2).
    pub idempotent: bool,
}

/// All requests of a run, written out, and the order in which they are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requests {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    order: Vec<u16>,
    repeats: u32,
}

impl Requests {
    /// Writes out `specs` with their weights, each `repeats` times in a row so that a pipelined
    /// batch is one send.
    ///
    /// A `Host`, `User-Agent`, `Content-Length`, `Transfer-Encoding` or `Connection` field among
    /// the headers takes the place of the one that would be written. The order is a cycle in which
    /// each request occurs exactly as often as its weight says, evenly interleaved; `seed` decides
    /// where in it the run begins.
    ///
    /// # Errors
    /// A usage error where a request cannot be written, or all together are too large.
    pub fn new(specs: &[(RequestSpec, u32)], repeats: u32, seed: u64) -> Result<Self> {
        let repeats = repeats.max(1);
        if specs.is_empty() || specs.len() > REQUESTS_MAX {
            let message = format!("{} different requests cannot be sent", specs.len());
            return Err(Error::usage(message).remedy(format!("give 1 to {REQUESTS_MAX}")));
        }
        let mut bytes = Vec::new();
        let mut entries = Vec::with_capacity(specs.len());
        for (number, (spec, _)) in specs.iter().enumerate() {
            let one = write(spec).map_err(|(what, remedy)| {
                let (number, method, target) =
                    (number + 1, shown(&spec.method), shown(&spec.target));
                Error::usage(format!("request {number} ({method} {target}): {what}")).remedy(remedy)
            })?;
            let all = bytes.len() as u64 + one.len() as u64 * u64::from(repeats);
            if all > REQUESTS_BYTES_MAX as u64 {
                return Err(too_large(repeats));
            }
            entries.push(Entry {
                start: fits(bytes.len()),
                len: fits(one.len()),
                head: spec.method == "HEAD",
                idempotent: matches!(
                    &*spec.method,
                    "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE"
                ),
            });
            for _ in 0..repeats {
                bytes.extend_from_slice(&one);
            }
        }
        let weights: Vec<u32> = specs.iter().map(|(_, weight)| *weight).collect();
        let mut order = interleaved(&weights)?;
        let begin = SplitMix64::seed_from_u64(seed).next_u64() % order.len() as u64;
        order.rotate_left(usize::try_from(begin).expect("below the length of a vector"));
        Ok(Self { bytes, entries, order, repeats })
    }

    /// The bytes of all of them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The requests.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One cycle of the order in which they are sent: indices of entries, each as often as its
    /// weight says.
    pub fn order(&self) -> &[u16] {
        &self.order
    }

    /// How often each is written in a row.
    pub const fn repeats(&self) -> u32 {
        self.repeats
    }
}

fn fits(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("all requests are at most REQUESTS_BYTES_MAX")
}

fn too_large(repeats: u32) -> Error {
    let times = match repeats {
        1 => String::new(),
        n => format!(", each {n} times for pipelining,"),
    };
    Error::usage(format!("all requests together{times} exceed {} MiB", REQUESTS_BYTES_MAX >> 20))
        .remedy("give fewer of them, smaller bodies, or a smaller --pipeline")
}

/// Why a request cannot be written, and what to type instead.
type Problem = (String, &'static str);
type Checked<T> = std::result::Result<T, Problem>;

fn problem<T>(what: impl Into<String>, remedy: &'static str) -> Checked<T> {
    Err((what.into(), remedy))
}

/// What was typed, short enough for a message and with nothing in it that a terminal would obey.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(60).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown.escape_debug().to_string()
}

/// A request as it goes over the wire. Whatever is written was checked for line ends before, so
/// that nothing typed can become another field or another request.
fn write(spec: &RequestSpec) -> Checked<Vec<u8>> {
    check_method(&spec.method)?;
    check_target(&spec.target)?;
    let given = Given::new(spec)?;
    let body = spec.body.as_ref().map_or(&[][..], |body| &body.bytes);
    if body.len() > REQUESTS_BYTES_MAX {
        return problem(
            format!("its body of {} bytes is too long", body.len()),
            "give one of at most 64 MiB",
        );
    }
    let chunked = given.framing(spec)?;
    let mut wire = Vec::with_capacity(body.len() + 256);
    let mut line = |parts: &[&str]| {
        parts.iter().for_each(|part| wire.extend_from_slice(part.as_bytes()));
        wire.extend_from_slice(b"\r\n");
    };
    line(&[&spec.method, " ", &spec.target, " HTTP/1.1"]);
    line(&["Host: ", given.host.unwrap_or(&spec.host)]);
    if !given.user_agent {
        line(&["User-Agent: tare/", env!("CARGO_PKG_VERSION")]);
    }
    for (name, value) in &spec.headers {
        if !name.eq_ignore_ascii_case("host") {
            line(&[name, ": ", trimmed(value)]);
        }
    }
    // Where a method foresees a body, its absence is told (RFC 9110 section 8.6).
    let foresees = matches!(spec.method.as_str(), "POST" | "PUT" | "PATCH");
    if chunked {
        if !given.lengths.coded {
            line(&["Transfer-Encoding: chunked"]);
        }
    } else if (spec.body.is_some() || foresees) && given.lengths.length.is_none() {
        line(&["Content-Length: ", &body.len().to_string()]);
    }
    if spec.close && !given.connection {
        line(&["Connection: close"]);
    }
    line(&[]);
    if chunked {
        for chunk in body.chunks(CHUNK_BYTES) {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
    } else {
        wire.extend_from_slice(body);
    }
    Ok(wire)
}

fn trimmed(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}

fn check_method(method: &str) -> Checked<()> {
    const HELP: &str = "give one such as GET, HEAD, POST, PUT or DELETE";
    if Method::from_bytes(method.as_bytes()).is_err() {
        return problem("that is no method", HELP);
    }
    if method == "CONNECT" {
        return problem("CONNECT opens a tunnel, which is not measured", HELP);
    }
    Ok(())
}

fn check_target(target: &str) -> Checked<()> {
    if !(target.starts_with('/') || target == "*" || target.contains("://")) {
        return problem("its path does not begin with /", "write it as /path?query");
    }
    let Some(odd) = target.chars().find(|c| !matches!(c, '!'..='~') || *c == '#') else {
        return Ok(());
    };
    let (what, remedy) = match odd {
        ' ' => ("its path holds a space", "percent-encode it, as %20"),
        '#' => (
            "its path holds a #, and what follows it is for browsers alone",
            "leave it out, or percent-encode it as %23",
        ),
        c if c.is_ascii() => (
            "its path holds a control character",
            "leave it out, or percent-encode it, a line feed as %0A",
        ),
        _ => ("its path holds a character outside ASCII", "percent-encode its bytes, é as %C3%A9"),
    };
    problem(what, remedy)
}

/// What the headers of a request say about what is written without them, too.
#[derive(Default)]
struct Given<'a> {
    host: Option<&'a str>,
    user_agent: bool,
    connection: bool,
    lengths: Lengths,
}

impl<'a> Given<'a> {
    fn new(spec: &'a RequestSpec) -> Checked<Self> {
        let mut given = Self::default();
        let once = |before: bool, name: &str| match before {
            true => problem(format!("it has several {name} headers"), "give one of them"),
            false => Ok(()),
        };
        for (name, value) in &spec.headers {
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                let what = format!("'{}' is no name of a header", shown(name));
                return problem(what, "write headers as 'Name: value'");
            }
            if HeaderValue::from_bytes(trim(value.as_bytes())).is_err() {
                let what = format!("the value of its header {name} holds a control character");
                return problem(what, "leave it out: a header is one line");
            }
            let (lower, text) = (name.to_ascii_lowercase(), trimmed(value));
            match lower.as_str() {
                "host" => {
                    once(given.host.is_some(), name)?;
                    given.host = Some(text);
                }
                "user-agent" => given.user_agent = true,
                "connection" => given.connection = true,
                "content-length" => {
                    once(given.lengths.length.is_some(), name)?;
                    if given.lengths.add_length(text.as_bytes()).is_none() {
                        let what = format!("a Content-Length of '{}' is none", shown(text));
                        return problem(what, "leave it out: it is written from the body");
                    }
                }
                "transfer-encoding" => {
                    once(given.lengths.coded, name)?;
                    let added = given.lengths.add_coding(text.as_bytes());
                    if added.is_none() || !given.lengths.chunked {
                        let shown = shown(text);
                        return problem(
                            format!("a Transfer-Encoding of '{shown}' does not end in chunked"),
                            "write it as 'Transfer-Encoding: chunked'",
                        );
                    }
                }
                _ => {}
            }
        }
        let host = given.host.unwrap_or(&spec.host);
        if !host.bytes().all(|byte| matches!(byte, b'!'..=b'~')) {
            return problem(
                format!("'{}' is no host", shown(host)),
                "write it as example.org, 192.0.2.1 or [2001:db8::1], with :PORT where there is one",
            );
        }
        Ok(given)
    }

    fn framing(&self, spec: &RequestSpec) -> Checked<bool> {
        let body = spec.body.as_ref();
        let chunked =
            self.lengths.chunked || body.is_some_and(|body| body.framing == Framing::Chunked);
        let Some(length) = self.lengths.length else {
            return Ok(chunked);
        };
        if chunked {
            return problem(
                "it has a Content-Length, and its body is chunked",
                "leave one of the two out",
            );
        }
        let bytes = body.map_or(0, |body| body.bytes.len());
        if length != bytes as u64 {
            return problem(
                format!("its Content-Length is {length}, and its body has {bytes} bytes"),
                "leave the Content-Length out: it is written from the body",
            );
        }
        Ok(false)
    }
}

/// A cycle in which entry *i* occurs `weights[i]` times, less their common divisor, and after *t*
/// places has occurred less than one time more or less than *t* times its share.
///
/// Occurrence *k* of an entry whose share is one in *p* may stand from place ⌊*kp*⌋ on and must
/// before ⌈(*k*+1)*p*⌉; among those that may, the one with the earliest end is next. That each then
/// meets its end is the theorem of Baruah, Cohen, Plaxton and Varvel, Proportionate Progress,
/// Algorithmica 15 (1996). Smooth weighted round robin looks alike, but takes a step for every
/// entry at every place.
fn interleaved(weights: &[u32]) -> Result<Vec<u16>> {
    if weights.contains(&0) {
        return Err(Error::usage("a request with a weight of 0 is never sent")
            .remedy("leave it out, or give it a weight of 1 or more"));
    }
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, b));
    let weights: Vec<u64> = weights.iter().map(|w| u64::from(w / divisor)).collect();
    let places: u64 = weights.iter().sum();
    if places > ORDER_MAX {
        return Err(Error::usage(format!(
            "the weights add up to {places}, above {ORDER_MAX}, when reduced"
        ))
        .remedy("give smaller ones, for example 90 and 10"));
    }
    let window = |index: usize, nth: u64| {
        let weight = weights[index];
        let (from, until) = (nth * places / weight, ((nth + 1) * places).div_ceil(weight));
        Reverse((from, until, index, nth))
    };
    let mut later: BinaryHeap<_> = (0..weights.len()).map(|index| window(index, 0)).collect();
    let mut ready = BinaryHeap::new();
    let mut order = Vec::new();
    for place in 0..places {
        while let Some(&Reverse((from, until, index, nth))) = later.peek() {
            if from > place {
                break;
            }
            later.pop();
            ready.push(Reverse((until, index, nth)));
        }
        let Reverse((_, index, nth)) = ready.pop().expect("the shares add up to one");
        order.push(u16::try_from(index).expect("at most REQUESTS_MAX"));
        if nth + 1 < weights[index] {
            later.push(window(index, nth + 1));
        }
    }
    Ok(order)
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests;
