//! The head that came last, for the next one is often the same.

use super::{Said, UNTOLD};

/// Longer heads are parsed each time.
const LEN_MAX: usize = 1 << 10;

/// The head that came last, on whichever connection of a worker, and what it said. Most servers
/// answer the same request with the same bytes until the second of their `Date` is over, and to
/// compare them costs a tenth of parsing them.
#[derive(Debug)]
pub(super) struct LastHead {
    bytes: Vec<u8>,
    /// It answered a `HEAD` request, or what is read like one.
    head_only: bool,
    said: Option<Said>,
}

impl Default for LastHead {
    fn default() -> Self {
        Self { bytes: Vec::with_capacity(LEN_MAX), head_only: false, said: None }
    }
}

impl LastHead {
    /// Its length and what it said, if `bytes` begin with it.
    #[inline]
    pub(super) fn begins(&self, bytes: &[u8], head_only: bool) -> Option<(usize, Said)> {
        let said = self.said?;
        // A head ends with its empty line, so what begins with all of it is that head and no longer
        // one.
        let is_same = head_only == self.head_only && bytes.starts_with(&self.bytes);
        is_same.then_some((self.bytes.len(), said))
    }

    /// Remembers a final head. One that tells a time is never the same again.
    #[inline]
    pub(super) fn remember(&mut self, head: &[u8], head_only: bool, said: Said) {
        if head.len() > LEN_MAX || said.residence != UNTOLD {
            return;
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
        (self.head_only, self.said) = (head_only, Some(said));
    }
}
