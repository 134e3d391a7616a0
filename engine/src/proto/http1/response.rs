//! Responses, read as they arrive.

use super::Spare;
use crate::units::Nanos;

/// A whole response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Its status code.
    pub status: u16,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// Length of its body without framing, bytes.
    pub body_bytes: u64,
    /// The far end's residence time, where it told it (`Server-Timing: residence;dur=`, milliseconds).
    pub residence: Option<Nanos>,
}

/// Why a response cannot be read. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseError {
    /// Not a response head.
    Malformed,
    /// The head is longer than this reader takes.
    HeadTooLong,
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
    /// The cause in results.
    #[must_use]
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::HeadTooLong => "head-too-long",
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

/// Reads the responses of one connection, one after the other.
///
/// * `handle_bytes`, `handle_end`
/// * command: [`expect`](Self::expect)
#[derive(Debug, Default)]
pub struct ResponseReader {
    head_only: bool,
}

impl ResponseReader {
    /// The next response answers a `HEAD` request (or another one): to be said before its first byte is handed in.
    pub const fn expect(&mut self, head: bool) {
        self.head_only = head;
    }

    /// Nothing of a response has arrived yet.
    #[must_use]
    pub const fn is_at_start(&self) -> bool {
        true
    }

    /// Reads `bytes` up to the end of one response at most. Returns how many were read, and the response if it is
    /// whole. Without one, all of them were read.
    ///
    /// # Errors
    /// Where they are no response.
    #[inline]
    pub fn handle_bytes(
        &mut self,
        _bytes: &[u8],
        _spare: &mut Spare,
    ) -> Result<(usize, Option<Response>), ResponseError> {
        unimplemented!()
    }

    /// The connection has ended: a response that lasts until then is whole.
    ///
    /// # Errors
    /// [`ResponseError::EarlyClose`], [`ResponseError::CutHead`] or [`ResponseError::ShortBody`].
    pub fn handle_end(&mut self, _spare: &mut Spare) -> Result<Response, ResponseError> {
        unimplemented!()
    }

    /// Begins anew, for another connection.
    pub fn reset(&mut self, _spare: &mut Spare) {}
}
