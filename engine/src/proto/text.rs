//! Numbers and bytes as text: how ids and keys stand in JSON, and how a stranger's bytes are shown to people.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A 64-bit id, on the wire and in results 16 lower-case hexadecimal digits: JSON readers that keep numbers as
/// doubles would round it.
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
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
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
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Hex32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        hex_bytes(&text)
            .map(Self)
            .ok_or_else(|| de::Error::custom("64 hexadecimal digits are expected"))
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

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

/// The first line of a stranger's answer, at most [`EXCERPT_MAX`] bytes, printable: every other byte is
/// escaped, so that nothing a peer sends reaches the terminal as a control sequence.
#[must_use]
pub fn excerpt(bytes: &[u8]) -> String {
    let line = first_line(bytes);
    let dots = if line.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{dots}\"", line.trim_ascii_end().escape_ascii())
}

/// The part of `bytes` that an excerpt shows.
pub(crate) fn first_line(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .position(|b| *b == b'\n')
        .map_or(bytes.len(), |at| at + 1);
    &bytes[..end.min(EXCERPT_MAX)]
}

/// Which well-known protocol these first bytes belong to, where they show it.
#[must_use]
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

/// `text` of a peer made fit for our own messages: one line, no control characters, and at most `max` bytes (and
/// the mark of a cut) once it stands in JSON.
#[must_use]
pub fn clean(text: &str, max: usize) -> String {
    let mut out = String::new();
    let mut room = max;
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        let len = if matches!(c, '"' | '\\') {
            2
        } else {
            c.len_utf8()
        };
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
        for bad in [
            "\"feed\"",
            "\"000000000000fee+\"",
            "65261",
            "\"000000000000feedé\"",
        ] {
            assert!(serde_json::from_str::<Id>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn excerpts_hold_one_line_and_no_control_byte() {
        assert_eq!(excerpt(b"SSH-2.0-x\r\nmore"), "\"SSH-2.0-x…\"");
        assert_eq!(excerpt(b"\x1b[2J\xff"), "\"\\x1b[2J\\xff\"");
        assert_eq!(excerpt(&[b'a'; 100]), format!("\"{}…\"", "a".repeat(64)));
    }

    #[test]
    fn cleaned_text_is_one_short_line() {
        assert_eq!(clean("a\nb\x1bc", 10), "a b c");
        assert_eq!(clean("ééé", 5), "éé…");
        assert_eq!(clean("\"\"", 3), "\"…");
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
