//! Requests, serialised before the run.

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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    #[must_use]
    pub fn get(target: &str, host: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            target: target.to_owned(),
            host: host.to_owned(),
            headers: Vec::new(),
            body: None,
            close: false,
        }
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
    /// Writes out `specs` with their weights, each `repeats` times in a row so that a pipelined batch is one send.
    ///
    /// # Errors
    /// A usage error where a request cannot be written, or all together are too large.
    pub fn new(
        _specs: &[(RequestSpec, u32)],
        _repeats: u32,
        _seed: u64,
    ) -> crate::error::Result<Self> {
        unimplemented!()
    }

    /// The bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The requests.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One cycle of the order in which they are sent: indices of entries, each as often as its weight says.
    #[must_use]
    pub fn order(&self) -> &[u16] {
        &self.order
    }

    /// How often each is written in a row.
    #[must_use]
    pub const fn repeats(&self) -> u32 {
        self.repeats
    }
}
