//! Numbers and bytes as text: how ids and keys stand in JSON, and how a stranger's bytes are shown
//! to people.

use std::borrow::Cow;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

/// A 64-bit id, on the wire and in results 16 lower-case hexadecimal digits: JSON readers that keep
/// numbers as doubles would round it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Id(pub u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = hex_bytes::<8>(&text)
            .ok_or_else(|| de::Error::custom("an id is 16 hexadecimal digits"))?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }
}

/// 32 bytes (a nonce, a cookie, a proof), in JSON 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hex32(pub [u8; 32]);

impl Serialize for Hex32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = self.0.map(|byte| format!("{byte:02x}"));
        serializer.serialize_str(&digits.concat())
    }
}

impl<'de> Deserialize<'de> for Hex32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        hex_bytes(&text)
            .map(Self)
            .ok_or_else(|| de::Error::custom("64 hexadecimal digits are expected"))
    }
}

fn hex_bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// What of a stranger's first bytes is kept, and shown.
pub const EXCERPT_MAX: usize = 64;

/// The first line of a stranger's answer, at most [`EXCERPT_MAX`] bytes, printable: every other
/// byte is escaped, so that nothing a peer sends reaches the terminal as a control sequence.
pub fn excerpt(bytes: &[u8]) -> String {
    let line = first_line(bytes);
    let dots = if line.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{dots}\"", line.trim_ascii_end().escape_ascii())
}

/// The part of `bytes` that an excerpt shows.
pub fn first_line(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1);
    &bytes[..end.min(EXCERPT_MAX)]
}

/// Which well-known protocol these first bytes belong to, where they show it.
pub fn protocol_name(bytes: &[u8]) -> Option<&'static str> {
    let starts = |prefix: &[u8]| {
        bytes.len() >= prefix.len() && bytes[..prefix.len()].eq_ignore_ascii_case(prefix)
    };
    // Servers answer an unintelligible request line as HTTP/0.9: the page without a head.
    if starts(b"HTTP/") || starts(b"<html") || starts(b"<!doctype html") {
        Some("HTTP")
    } else if starts(b"SSH-") {
        Some("SSH")
    } else if matches!(bytes, [0x14..=0x17, 3, 0..=4, ..]) {
        Some("TLS")
    } else {
        None
    }
}

/// Whether a character can make text read otherwise than it stands, or drive what shows it:
/// controls (C0, C1, DEL), marks of the direction of writing, what has no width, and ends of lines
/// and paragraphs (Unicode TR 36 and 39; of the code points that are ignorable by default all but
/// the variation selectors).
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// `text` with every deceptive character written out (`\u{1b}`, `\n`), so that it is one line that
/// drives no terminal. Letters of any script stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_deceptive) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_deceptive(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Makes every string of a document [`visible`], the names of its fields included.
pub fn make_visible(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(safe) = visible(text) {
                *text = safe;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(make_visible),
        Value::Object(fields) => {
            fields.values_mut().for_each(make_visible);
            if fields.keys().any(|name| name.contains(is_deceptive)) {
                let renamed = std::mem::take(fields).into_iter();
                *fields =
                    renamed.map(|(name, value)| (visible(&name).into_owned(), value)).collect();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Reads JSON that came over the network: the one door by which a peer's words come in, whatever
/// the message.
///
/// # Errors
/// Where `bytes` are no JSON, or not that of a `T`.
pub fn read_foreign<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    // Almost always: where nothing is escaped, and all is printable ASCII, no string holds anything
    // else.
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'[' | b']'..=b'~' | b'\n' | b'\r' | b'\t');
    if bytes.iter().all(is_plain) {
        return serde_json::from_slice(bytes);
    }
    let mut value: Value = serde_json::from_slice(bytes)?;
    make_visible(&mut value);
    serde_json::from_value(value)
}

/// `text` of a peer made fit for our own messages: one line, no control characters, and at most
/// `max` bytes (and the mark of a cut) once it stands in JSON.
pub fn clean(text: &str, max: usize) -> String {
    let mut out = String::new();
    let mut room = max;
    for c in text.chars() {
        let c = if is_deceptive(c) { ' ' } else { c };
        let len = if matches!(c, '"' | '\\') { 2 } else { c.len_utf8() };
        if len > room {
            out.push('…');
            break;
        }
        room -= len;
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_hexadecimal_strings() {
        let id = Id(0xfeed);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"000000000000feed\"");
        for bad in ["\"feed\"", "\"000000000000fee+\"", "65261", "\"000000000000feedé\""] {
            assert!(serde_json::from_str::<Id>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn excerpts_and_cleaned_text_are_one_short_line_without_control_bytes() {
        assert_eq!(excerpt(b"SSH-2.0-x\r\nmore"), "\"SSH-2.0-x…\"");
        assert_eq!(excerpt(b"\x1b[2J\xff"), "\"\\x1b[2J\\xff\"");
        assert_eq!(excerpt(&[b'a'; 100]), format!("\"{}…\"", "a".repeat(64)));
        assert_eq!(clean("a\nb\x1bc", 10), "a b c");
        assert_eq!(clean("ééé", 5), "éé…");
        assert_eq!(clean("\"\"", 3), "\"…");
    }

    #[test]
    fn what_deceives_is_written_out_and_letters_stay() {
        for (text, shown) in [
            ("\x1b]0;x\x07", "\\u{1b}]0;x\\u{7}"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("txt.\u{202e}exe\u{2066}", "txt.\\u{202e}exe\\u{2066}"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
        ] {
            assert_eq!(visible(text), shown);
            assert!(!visible(text).contains(is_deceptive));
        }
        for plain in ["host-1", "größe 東京 ❤\u{fe0f}", "a\\b", ""] {
            assert!(matches!(visible(plain), Cow::Borrowed(_)), "{plain}");
        }
    }

    #[test]
    fn what_comes_in_is_visible_however_it_was_written() {
        type Words = std::collections::BTreeMap<String, Vec<String>>;
        for wire in [
            r#"{"a\u001b": ["\u202ex", "\u009b"]}"#.to_owned(),
            "{\"a\\u001b\": [\"\u{202e}x\", \"\u{9b}\"]}".to_owned(),
        ] {
            let read: Words = read_foreign(wire.as_bytes()).unwrap();
            let (name, words) = read.first_key_value().unwrap();
            assert_eq!(name, "a\\u{1b}");
            assert_eq!(words, &["\\u{202e}x", "\\u{9b}"]);
        }
        let del = read_foreign::<String>(b"\"\x7f\"").unwrap();
        assert_eq!(del, "\\u{7f}");
        assert!(read_foreign::<String>(b"\"\x1b\"").is_err(), "no JSON");
    }

    #[test]
    fn known_protocols_are_named() {
        assert_eq!(protocol_name(b"HTTP/1.1 400 Bad Request"), Some("HTTP"));
        assert_eq!(protocol_name(b"<!DOCTYPE HTML PUBLIC"), Some("HTTP"));
        assert_eq!(protocol_name(b"SSH-2.0-OpenSSH"), Some("SSH"));
        assert_eq!(protocol_name(&[0x15, 3, 1, 0, 2]), Some("TLS"));
        assert_eq!(protocol_name(b"+PONG"), None);
    }

    proptest! {
        #[test]
        fn ids_round_trip(id: u64, bytes: [u8; 32]) {
            let text = serde_json::to_string(&(Id(id), Hex32(bytes))).unwrap();
            prop_assert_eq!(serde_json::from_str::<(Id, Hex32)>(&text).unwrap(), (Id(id), Hex32(bytes)));
        }

        #[test]
        fn excerpts_are_printable_and_short(bytes: Vec<u8>) {
            let shown = excerpt(&bytes);
            prop_assert!(shown.chars().all(|c| !c.is_control()));
            prop_assert!(shown.len() <= 4 * EXCERPT_MAX + 5);
        }
    }
}
