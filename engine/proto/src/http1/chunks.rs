//! The chunked transfer coding, read (RFC 9112 section 7.1).

use tare_units::limits::CHUNK_LINE_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkError {
    Malformed,
    TrailersTooLong,
    TooManyTrailers,
}

/// What the next bytes of a chunked body are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many bytes of framing.
    Framing(usize),
    /// So many bytes of the body.
    Data(usize),
    /// So many bytes of framing, with which the body ends.
    End(usize),
}

/// What a chunked body may hold beside its chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkRules {
    pub(super) trailer_bytes: usize,
    pub(super) trailers: usize,
    /// White space between a size and the end of its line: not in the grammar, but some servers pad
    /// sizes to a fixed width.
    pub(super) padding: bool,
    /// Control characters in the values of trailers, which frame nothing.
    pub(super) controls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Size,
    Digits,
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Here the trailers begin; all that follow belong to them.
    LineStart,
    Name,
    Value,
    ValueLf,
    EndLf,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Chunks {
    /// Bytes of the chunk yet to come.
    left: u64,
    /// Bytes so far of the line with the chunk's size, or of all trailers.
    line: u32,
    trailers: u16,
    state: State,
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { left: 0, line: 0, trailers: 0, state: State::Size }
    }

    /// Reads the first piece of `bytes`, which are not empty.
    #[inline]
    pub(super) fn read(&mut self, bytes: &[u8], rules: ChunkRules) -> Result<Piece, ChunkError> {
        if self.state != State::Data {
            return self.framing(bytes, rules);
        }
        let taken = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.left -= taken as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        Ok(Piece::Data(taken))
    }

    fn framing(&mut self, bytes: &[u8], rules: ChunkRules) -> Result<Piece, ChunkError> {
        for (index, &byte) in bytes.iter().enumerate() {
            self.line += 1;
            let line = self.line as usize;
            if self.state >= State::LineStart {
                if line > rules.trailer_bytes {
                    return Err(ChunkError::TrailersTooLong);
                }
            } else if line > CHUNK_LINE_MAX {
                return Err(ChunkError::Malformed);
            }
            self.state = match self.state {
                State::Size | State::Digits => self.size(byte)?,
                State::Space if byte == b'\r' && !rules.padding => {
                    return Err(ChunkError::Malformed);
                }
                State::Space => after_size(byte)?,
                State::Extension => text(byte, State::SizeLf, State::Extension)?,
                State::SizeLf if byte == b'\n' => {
                    self.line = 0;
                    if self.left > 0 {
                        self.state = State::Data;
                        return Ok(Piece::Framing(index + 1));
                    }
                    State::LineStart
                }
                State::DataCr if byte == b'\r' => State::DataLf,
                State::DataLf if byte == b'\n' => {
                    self.line = 0;
                    State::Size
                }
                State::LineStart if byte == b'\r' => State::EndLf,
                State::LineStart if is_token(byte) => {
                    self.trailers += 1;
                    if usize::from(self.trailers) > rules.trailers {
                        return Err(ChunkError::TooManyTrailers);
                    }
                    State::Name
                }
                State::Name if byte == b':' => State::Value,
                State::Name if is_token(byte) => State::Name,
                State::Value if rules.controls && is_harmless_control(byte) => State::Value,
                State::Value => text(byte, State::ValueLf, State::Value)?,
                State::ValueLf if byte == b'\n' => State::LineStart,
                State::EndLf if byte == b'\n' => return Ok(Piece::End(index + 1)),
                _ => return Err(ChunkError::Malformed),
            };
        }
        Ok(Piece::Framing(bytes.len()))
    }

    fn size(&mut self, byte: u8) -> Result<State, ChunkError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if self.state == State::Digits => return after_size(byte),
            _ => return Err(ChunkError::Malformed),
        };
        if self.left >> 60 != 0 {
            return Err(ChunkError::Malformed);
        }
        self.left = self.left << 4 | u64::from(digit);
        Ok(State::Digits)
    }
}

/// What follows a chunk's size: an extension, before which white space is to be let pass (RFC 9112
/// section 7.1.1), or the end of the line.
const fn after_size(byte: u8) -> Result<State, ChunkError> {
    match byte {
        b'\r' => Ok(State::SizeLf),
        b';' => Ok(State::Extension),
        b' ' | b'\t' => Ok(State::Space),
        _ => Err(ChunkError::Malformed),
    }
}

/// A byte of free text up to CR LF, without other control characters.
const fn text(byte: u8, end: State, same: State) -> Result<State, ChunkError> {
    match byte {
        b'\r' => Ok(end),
        b'\t' | b' '..=b'~' | 0x80.. => Ok(same),
        _ => Err(ChunkError::Malformed),
    }
}

/// A control character that ends no line and no string (RFC 9110 section 5.5).
const fn is_harmless_control(byte: u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\0' | b'\r' | b'\n')
}

/// `tchar` of RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
