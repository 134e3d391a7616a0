//! Control frames: an eight-byte header and a JSON body, laid out as the crate's documentation
//! says.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::VERSION;
use tare_units::limits::FRAME_BODY_MAX;

/// What every control frame and control datagram begins with.
pub(crate) const MAGIC: [u8; 4] = *b"tare";
/// Length of the header, bytes. Frozen for all versions.
pub const HEADER_LEN: usize = 8;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Client: what is wanted.
    Hello = 1,
    /// TCP server: prove that you know the secret.
    Challenge = 2,
    /// TCP client: the proof.
    Proof = 3,
    /// Server: go ahead.
    Accept = 4,
    /// Server: no, because.
    Refuse = 5,
    /// Server: its figures, at the end of a session.
    Figures = 6,
    /// UDP server: prove that you are where you say.
    Cookie = 7,
    /// UDP client: a part of a document, please.
    Fetch = 8,
    /// UDP server: that part.
    Chunk = 9,
}

/// The kinds in the order of their numbers, from 1, each with its name in messages.
const KINDS: [(Kind, &str); 9] = [
    (Kind::Hello, "a hello"),
    (Kind::Challenge, "a challenge"),
    (Kind::Proof, "a proof"),
    (Kind::Accept, "an accept"),
    (Kind::Refuse, "a refusal"),
    (Kind::Figures, "figures"),
    (Kind::Cookie, "a cookie"),
    (Kind::Fetch, "a fetch"),
    (Kind::Chunk, "a chunk"),
];

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        let (kind, _) = KINDS.get(usize::from(byte).checked_sub(1)?)?;
        Some(*kind)
    }

    /// Its name in messages, with the article.
    pub(crate) const fn name(self) -> &'static str {
        KINDS[self as usize - 1].1
    }
}

/// Why bytes are not a frame of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// They don't begin with `tare`.
    #[error("something that is not tare's protocol")]
    NotTare,
    /// A frame of another version.
    #[error("version {0} of the protocol, this is version {VERSION}")]
    Version(u8),
    /// A kind that this version does not have.
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    /// A body longer than allowed here.
    #[error("a body of {0} bytes, at most {1} are allowed")]
    TooLong(usize, usize),
    /// A body that is not the JSON it should be.
    #[error("{0} that cannot be read: {1}")]
    Json(&'static str, String),
}

/// A frame whose body has not been read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it says.
    pub kind: Kind,
    /// The JSON.
    pub body: Vec<u8>,
}

impl Frame {
    /// Reads the body.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        read_body(self.kind, &self.body)
    }
}

/// Reads the body of a frame of that kind.
pub(crate) fn read_body<T: DeserializeOwned>(kind: Kind, body: &[u8]) -> Result<T, FrameError> {
    tare_units::text::read_foreign(body)
        .map_err(|e| FrameError::Json(kind.name(), tare_units::text::clean(&e.to_string(), 120)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Length of its body, bytes.
    pub(crate) body_len: usize,
}

impl Header {
    /// Reads a header off the front of `bytes`; `None` while too few are there to tell. It fails as
    /// soon as the bytes at hand cannot become a header of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(FrameError::NotTare);
        }
        match *bytes {
            [_, _, _, _, version, ..] if version != VERSION => Err(FrameError::Version(version)),
            [_, _, _, _, _, kind, high, low, ..] => Ok(Some(Self {
                kind: Kind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?,
                body_len: usize::from(u16::from_be_bytes([high, low])),
            })),
            _ => Ok(None),
        }
    }
}

/// A whole frame with `body` as its JSON.
pub(crate) fn encode_body(kind: Kind, body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let len = u16::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_BODY_MAX);
    let len = len.ok_or(FrameError::TooLong(body.len(), FRAME_BODY_MAX))?;
    Ok([&MAGIC[..], &[VERSION, kind as u8], &len.to_be_bytes(), body].concat())
}

/// A message as the body of its frame.
pub(crate) fn json<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message)
        .expect("messages are structs of strings and numbers, which always serialise")
}

/// A whole frame that says `message`, whose body is at most [`FRAME_BODY_MAX`] long.
pub fn encode<T: Serialize>(kind: Kind, message: &T) -> Result<Vec<u8>, FrameError> {
    encode_body(kind, &json(message))
}

/// Cuts a stream of bytes into frames, however it arrives.
///
/// `handle_bytes` takes what arrived; `poll_frame` gives the next whole frame and is to be called
/// until it gives none. Then at most one incomplete frame is buffered.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    body_max: usize,
}

impl FrameReader {
    /// A reader that refuses bodies longer than `body_max` bytes on sight of their header.
    pub const fn new(body_max: usize) -> Self {
        Self { buffer: Vec::new(), body_max }
    }

    /// What arrived and was not taken as a frame.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Ends the reading; gives what was not taken as a frame.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        self.buffer
    }

    /// These bytes arrived.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` when more bytes are needed. After an error the stream cannot be
    /// read any further: later calls give the same.
    pub fn poll_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(Header { kind, body_len }) = Header::decode(&self.buffer)? else {
            return Ok(None);
        };
        if body_len > self.body_max {
            return Err(FrameError::TooLong(body_len, self.body_max));
        }
        if self.buffer.len() < HEADER_LEN + body_len {
            return Ok(None);
        }
        let body = self.buffer.drain(..HEADER_LEN + body_len).skip(HEADER_LEN).collect();
        Ok(Some(Frame { kind, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::pieces;
    use proptest::prelude::*;

    #[test]
    fn the_header_is_frozen() {
        let frame = encode_body(Kind::Refuse, b"{}").unwrap();
        assert_eq!(frame, b"tare\x01\x05\x00\x02{}");
    }

    #[test]
    fn a_header_is_refused_as_soon_as_it_can_be() {
        assert_eq!(Header::decode(b"").unwrap(), None);
        assert_eq!(Header::decode(b"tar").unwrap(), None);
        assert_eq!(Header::decode(b"tax"), Err(FrameError::NotTare));
        assert_eq!(Header::decode(b"H"), Err(FrameError::NotTare));
        assert_eq!(Header::decode(b"tare\x02"), Err(FrameError::Version(2)));
        assert_eq!(Header::decode(b"tare\x01\x63\x00").unwrap(), None);
        assert_eq!(Header::decode(b"tare\x01\x63\x00\x00"), Err(FrameError::UnknownKind(0x63)));
    }

    #[test]
    fn a_body_over_the_bound_is_refused_before_it_arrives() {
        let mut reader = FrameReader::new(4);
        reader.handle_bytes(b"tare\x01\x01\x00\x05");
        let error = reader.poll_frame().unwrap_err();
        assert_eq!(error.to_string(), "a body of 5 bytes, at most 4 are allowed");
        let long = vec![b' '; FRAME_BODY_MAX + 1];
        assert_eq!(
            encode_body(Kind::Hello, &long),
            Err(FrameError::TooLong(FRAME_BODY_MAX + 1, FRAME_BODY_MAX))
        );
        assert!(encode_body(Kind::Hello, &long[1..]).is_ok());
        assert!(encode_body(Kind::Hello, &vec![b' '; 1 << 17]).is_err());
    }

    /// All frames that `input` holds when it arrives in `pieces`, and how the stream ended.
    fn frames(input: &[u8], cuts: &[usize]) -> (Vec<Frame>, Option<FrameError>, Vec<u8>) {
        let mut reader = FrameReader::new(64);
        let mut frames = Vec::new();
        for piece in pieces(input, cuts) {
            reader.handle_bytes(piece);
            loop {
                match reader.poll_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(e) => return (frames, Some(e), Vec::new()),
                }
            }
        }
        (frames, None, reader.into_rest())
    }

    proptest! {
        #[test]
        fn any_split_parses_the_same(
            bodies in prop::collection::vec((1u8..11, prop::collection::vec(any::<u8>(), 0..70)), 0..4),
            tail: Vec<u8>,
            cuts: Vec<usize>,
        ) {
            let mut input = Vec::new();
            for (kind, body) in &bodies {
                input.extend(b"tare\x01");
                input.push(*kind);
                input.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
                input.extend(body);
            }
            input.extend(&tail);
            prop_assert_eq!(frames(&input, &cuts), frames(&input, &[]));
        }

        #[test]
        fn frames_round_trip(kind in 1u8..10, body in prop::collection::vec(any::<u8>(), 0..64)) {
            let kind = Kind::from_byte(kind).unwrap();
            let (read, error, rest) = frames(&encode_body(kind, &body).unwrap(), &[]);
            prop_assert_eq!((read, error, rest), (vec![Frame { kind, body }], None, Vec::new()));
        }
    }
}
