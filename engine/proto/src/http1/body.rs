//! Bodies, delimited as their framing says (RFC 9112 section 6), the chunked transfer coding among
//! it (section 7.1).

use tare_units::limits::CHUNK_LINE_MAX;

/// What is wrong with a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkError {
    Malformed,
    TrailersTooLong,
    TooManyTrailers,
}

/// How the end of a body is known, and how far it has come.
#[derive(Debug, Clone, Copy)]
pub(super) enum Framing {
    /// So many bytes are yet to come.
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

/// What the next bytes of a body are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) bytes: usize,
    /// They are the body's own, and not its framing.
    pub(super) is_data: bool,
    /// The body ends with them.
    pub(super) ends: bool,
}

/// What a chunked body may hold beside its chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkRules {
    pub(super) trailer_bytes: usize,
    pub(super) trailers: usize,
    /// White space between a size and the end of its line is passed over: it is not in the grammar,
    /// but some servers pad sizes to a fixed width. So are control characters in the values of
    /// trailers, which frame nothing.
    pub(super) lenient: bool,
}

impl Framing {
    pub(super) const fn chunked() -> Self {
        Self::Chunked(Chunks { left: 0, line: 0, trailers: 0, state: State::Size })
    }

    /// Reads the first piece of `bytes`, which are not empty.
    #[inline]
    pub(super) fn read(&mut self, bytes: &[u8], rules: ChunkRules) -> Result<Piece, ChunkError> {
        let (left, is_chunk) = match self {
            Self::Length(left) => (left, false),
            Self::Chunked(chunks) if chunks.state == State::Data && chunks.left > 0 => {
                (&mut chunks.left, true)
            }
            Self::Chunked(chunks) => return chunks.framing(bytes, rules),
            Self::UntilClose => {
                return Ok(Piece { bytes: bytes.len(), is_data: true, ends: false });
            }
        };
        let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
        *left -= taken as u64;
        Ok(Piece { bytes: taken, is_data: true, ends: !is_chunk && *left == 0 })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Size,
    Digits,
    Space,
    Extension,
    SizeLf,
    /// The chunk is under way, or its line end is due.
    Data,
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
    fn framing(&mut self, bytes: &[u8], rules: ChunkRules) -> Result<Piece, ChunkError> {
        let piece = |bytes, ends| Ok(Piece { bytes, is_data: false, ends });
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
                State::Space if byte != b'\r' || rules.lenient => after_size(byte)?,
                State::Extension => text(byte, State::SizeLf, State::Extension)?,
                State::SizeLf if byte == b'\n' => {
                    self.line = 0;
                    if self.left > 0 {
                        self.state = State::Data;
                        return piece(index + 1, false);
                    }
                    State::LineStart
                }
                State::Data if byte == b'\r' => State::DataLf,
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
                // A control character that ends no line and no string (RFC 9110 section 5.5).
                State::Value
                    if rules.lenient
                        && byte.is_ascii_control()
                        && !matches!(byte, b'\0' | b'\r' | b'\n') =>
                {
                    State::Value
                }
                State::Value => text(byte, State::ValueLf, State::Value)?,
                State::ValueLf if byte == b'\n' => State::LineStart,
                State::EndLf if byte == b'\n' => return piece(index + 1, true),
                _ => return Err(ChunkError::Malformed),
            };
        }
        piece(bytes.len(), false)
    }

    fn size(&mut self, byte: u8) -> Result<State, ChunkError> {
        match char::from(byte).to_digit(16) {
            Some(digit) if self.left >> 60 == 0 => {
                self.left = self.left << 4 | u64::from(digit);
                Ok(State::Digits)
            }
            None if self.state == State::Digits => after_size(byte),
            _ => Err(ChunkError::Malformed),
        }
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

/// `tchar` of RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
