//! The query string of `/echo`, in the grammar of fortio's echo server.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::Rng;

use tare_units::Nanos;
use tare_units::limits::REQUEST_BODY_MAX;

/// The longest `delay=`; longer ones are cut to it.
const DELAY_MAX: Nanos = Nanos::from_millis(1_500);

/// Headers that frame the response: a query that set them could make it two.
const OWN: &str =
    "connection content-length keep-alive server-timing trailer transfer-encoding upgrade";

/// What a query asks for, after the dice were thrown.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Echo {
    /// The status; none that fits is 400.
    pub status: Option<u16>,
    /// How long to wait; none where no (readable) delay was asked for.
    pub delay: Option<Nanos>,
    /// Length of the body; without one the request's is sent back.
    pub size: Option<u64>,
    pub close: bool,
    /// Header lines, each with its end.
    pub headers: Vec<u8>,
    /// One of them is `Content-Type`.
    pub names_type: bool,
}

impl Echo {
    /// Reads the part of the target behind the `?`. Only `header` counts more than once.
    pub(super) fn parse(query: &str, dice: &mut Xoshiro256PlusPlus) -> Self {
        let mut echo = Self::default();
        let mut seen = [false; 4];
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A pair that is not readable is none, and a semicolon makes it so, as in Go's net/url.
            let (Some(name), Some(value)) = (decode(name), decode(value)) else { continue };
            let text = std::str::from_utf8(&value).unwrap_or("\u{fffd}");
            let mut counts =
                |name: usize| !std::mem::replace(&mut seen[name], true) && !value.is_empty();
            match name.as_slice() {
                b"header" => echo.add_header(&value),
                b"status" if counts(0) => echo.status = Some(status(text, dice)),
                b"delay" if counts(1) => echo.delay = draw(text, duration, Nanos::ZERO, dice),
                b"size" if counts(2) => {
                    echo.size = draw(text, |t| size(t).map(Some), None, dice).flatten();
                }
                b"close" if counts(3) => echo.close = closes(text, dice),
                _ => {}
            }
        }
        echo
    }

    /// Adds `K:V`, if it is a header. A line's end in it becomes a space, so that it stays one.
    fn add_header(&mut self, text: &[u8]) {
        let Some(colon) = text.iter().position(|b| *b == b':') else { return };
        let (name, value) = (&text[..colon], &text[colon + 1..]);
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        let own = OWN.split(' ').any(|own| name.eq_ignore_ascii_case(own.as_bytes()));
        if name.is_empty() || own || !name.iter().all(token) {
            return;
        }
        let line_end = |b: u8| if matches!(b, b'\r' | b'\n') { b' ' } else { b };
        let value: Vec<u8> = value.iter().map(|b| line_end(*b)).collect();
        if value.iter().any(|b| *b != b'\t' && b.is_ascii_control()) {
            return;
        }
        self.names_type |= name.eq_ignore_ascii_case(b"Content-Type");
        self.headers.extend([name, b": ", value.trim_ascii(), b"\r\n"].concat());
    }
}

/// `%XX` and `+`, as in a form.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |bytes: &mut std::str::Bytes<'_>| char::from(bytes.next()?).to_digit(16);
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b';' => return None,
            b'+' => b' ',
            b'%' => u8::try_from(digit(&mut bytes)? * 16 + digit(&mut bytes)?).ok()?,
            other => other,
        });
    }
    Some(decoded)
}

/// A number in `0.0..100.0`.
fn throw(dice: &mut Xoshiro256PlusPlus) -> f32 {
    100.0 * ((dice.next_u64() >> 40) as f32 / (1_u32 << 24) as f32)
}

/// Reads `VALUE`, or draws one of `VALUE:PERCENT,…`, else the remainder.
fn draw<T: Copy>(
    text: &str,
    read: impl Fn(&str) -> Option<T>,
    remainder: T,
    dice: &mut Xoshiro256PlusPlus,
) -> Option<T> {
    if !text.contains([',', ':']) {
        return read(text);
    }
    let (mut sum, mut drawn) = (0.0, None);
    let thrown = throw(dice);
    for entry in text.split(',') {
        let (value, percent) = entry.split_once(':')?;
        let value = read(value)?;
        let percent: f64 = percent.strip_suffix('%').unwrap_or(percent).parse().ok()?;
        if !(0.0..=100.0).contains(&percent) {
            return None;
        }
        sum += percent;
        // Ten times 10 % are 100 %.
        let rounded = ((sum * 1e4).round() / 1e4) as f32;
        if rounded > 100.0 {
            return None;
        }
        if drawn.is_none() && thrown <= rounded {
            drawn = Some(value);
        }
    }
    Some(drawn.unwrap_or(remainder))
}

/// What is no final status is refused, as is what cannot be read.
fn status(text: &str, dice: &mut Xoshiro256PlusPlus) -> u16 {
    let code = |text: &str| text.parse().ok().filter(|code| (200..=999).contains(code));
    draw(text, code, 200, dice).unwrap_or(400)
}

fn size(text: &str) -> Option<u64> {
    let size: i64 = text.parse().ok()?;
    let size = u64::try_from(size).unwrap_or(0);
    Some(size.min(REQUEST_BODY_MAX as u64))
}

fn closes(text: &str, dice: &mut Xoshiro256PlusPlus) -> bool {
    match text {
        "false" => false,
        "true" => true,
        _ => text.parse::<f32>().map_or(true, |percent| throw(dice) <= percent),
    }
}

/// A duration as Go writes it: `1.5s`, `1m30s`, `200us`.
fn duration(text: &str) -> Option<Nanos> {
    if let Some(negative) = text.strip_prefix('-') {
        return read_duration(negative).map(|_| Nanos::ZERO);
    }
    read_duration(text.strip_prefix('+').unwrap_or(text))
}

fn read_duration(text: &str) -> Option<Nanos> {
    if text == "0" {
        return Some(Nanos::ZERO);
    }
    let mut rest = text;
    let mut sum = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(unit.len());
        let scale = match &unit[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * scale;
        rest = &unit[end..];
    }
    let whole = (!text.is_empty()).then_some(Nanos(sum.round() as u64))?;
    Some(whole.min(DELAY_MAX))
}

#[cfg(test)]
mod tests;
