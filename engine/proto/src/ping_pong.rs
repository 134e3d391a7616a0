//! TCP ping-pong after the accept: bare messages of the agreed size, one request and one reply at a
//! time.
//!
//! ```text
//! request: size bytes   byte 0: flags, bit 0 = measured (not warm-up), the others sent as 0 and ignored
//!                       the rest: anything (tare sends zeros)
//! reply:   size bytes   size ≥ 8: bytes 0..8 = residence time, nanoseconds, big-endian, less than 2^56
//!                       size < 8: zeros; the residence stands only in the figures' histogram
//! ```
//!
//! So the first byte of a reply is always 0, and a control frame's is always `t`: a server may send
//! its figures instead of a reply, or right behind one, when it ends the session by itself.

use std::cmp::Ordering;
use std::ops::Range;

use super::frame::MAGIC;
use tare_units::Nanos;

/// Flag of a request that belongs to the measured phase.
pub const MEASURED: u8 = 1;
/// Replies of at least this size carry the residence time, bytes.
pub const RESIDENCE_LEN: usize = 8;
/// The longest residence that can be told, 2.3 years.
const RESIDENCE_MAX: u64 = (1 << 56) - 1;

/// Writes the flags of a request. Sizes start at one byte: an empty message is a defect.
#[inline]
pub fn put_flags(request: &mut [u8], measured: bool) {
    request[0] = if measured { MEASURED } else { 0 };
}

/// Whether a request, which is not empty, belongs to the measured phase.
#[inline]
pub fn is_measured(request: &[u8]) -> bool {
    request[0] & MEASURED != 0
}

/// Writes the head of a reply: the residence, or zeros where it does not fit.
#[inline]
pub fn put_residence(reply: &mut [u8], residence: Nanos) {
    match reply.first_chunk_mut::<RESIDENCE_LEN>() {
        Some(head) => *head = residence.0.min(RESIDENCE_MAX).to_be_bytes(),
        None => reply.fill(0),
    }
}

/// The residence that a complete reply carries; `None` where it is too short to hold one.
#[inline]
pub fn residence(reply: &[u8]) -> Option<Nanos> {
    reply.first_chunk::<RESIDENCE_LEN>().map(|head| Nanos(u64::from_be_bytes(*head)))
}

/// What the peer did against the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PingPongError {
    /// More came than the size agreed upon.
    #[error("the server sent more than the {0} bytes that were agreed")]
    TooLong(usize),
    /// What came, with this first byte, is neither a reply nor a control frame.
    #[error("the server sent something that is not a reply (first byte {0:#04x})")]
    NotAReply(u8),
}

/// What the client has after a receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A part of the reply.
    Partial,
    /// The whole reply, and nothing else.
    Complete,
    /// A control frame: the server ends the session with its figures. Feed its bytes to
    /// [`super::handshake::FiguresReader`], and everything that follows.
    Control {
        /// Where it begins in the buffer: at 0 it came instead of the reply; at the message's size
        /// the reply is complete before it.
        at: usize,
    },
}

/// How far a message of a known size has got over a stream that moves what it likes at a time.
///
/// * getters: [`remaining`](Self::remaining), [`receive_range`](Self::receive_range)
/// * `handle_sent`, `handle_request`, `handle_reply`: bytes moved
/// * command: [`restart`](Self::restart), for the next message of the same size
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    size: usize,
    done: usize,
}

impl Progress {
    /// A message of `size` bytes, none of them moved.
    pub const fn new(size: usize) -> Self {
        Self { size, done: 0 }
    }

    /// The next message of the same size.
    #[inline]
    pub const fn restart(&mut self) {
        self.done = 0;
    }

    /// What of the message is still to be moved, as a range of the buffer.
    #[inline]
    pub const fn remaining(&self) -> Range<usize> {
        self.done..self.size
    }

    /// Where to receive next: the same and one byte more, which must stay empty. By it a message
    /// that is too long, and figures right behind a reply, are noticed at once; so receive buffers
    /// are one byte longer than messages.
    #[inline]
    pub const fn receive_range(&self) -> Range<usize> {
        self.done..self.size + 1
    }

    /// `n` bytes of [`remaining`](Self::remaining), and no more, were sent; whether that was all.
    #[inline]
    pub fn handle_sent(&mut self, n: usize) -> bool {
        assert!(n <= self.size - self.done, "sent more than was left");
        self.done += n;
        self.done == self.size
    }

    /// The server received `n` bytes of a request; whether it is whole. Clients send one request at
    /// a time, so more is an error.
    #[inline]
    pub const fn handle_request(&mut self, n: usize) -> Result<bool, PingPongError> {
        self.done += n;
        if self.done > self.size {
            return Err(PingPongError::TooLong(self.size));
        }
        Ok(self.done == self.size)
    }

    /// The client received `n` bytes of a reply into `buffer` (the whole one: the message begins at
    /// 0). What follows a reply and is no control frame is an error.
    #[inline]
    pub fn handle_reply(&mut self, buffer: &[u8], n: usize) -> Result<Received, PingPongError> {
        self.done += n;
        if self.done == 0 {
            return Ok(Received::Partial);
        }
        match buffer[0] {
            0 => {}
            first if first == MAGIC[0] => return Ok(Received::Control { at: 0 }),
            first => return Err(PingPongError::NotAReply(first)),
        }
        match self.done.cmp(&self.size) {
            Ordering::Less => Ok(Received::Partial),
            Ordering::Equal => Ok(Received::Complete),
            Ordering::Greater if buffer[self.size] == MAGIC[0] => {
                Ok(Received::Control { at: self.size })
            }
            Ordering::Greater => Err(PingPongError::TooLong(self.size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_documented_bytes() {
        let mut message = [9u8; 10];
        put_flags(&mut message, true);
        assert_eq!(message[0], 1);
        assert!(is_measured(&message));
        assert!(is_measured(&[0xff]), "unknown flags are ignored");
        put_flags(&mut message, false);
        assert!(!is_measured(&message));
        put_residence(&mut message, Nanos(0x0102_0304));
        assert_eq!(message, [0, 0, 0, 0, 1, 2, 3, 4, 9, 9]);
        let mut short = [9u8; 7];
        put_residence(&mut short, Nanos(5));
        assert_eq!(short, [0; 7]);
        assert_eq!(residence(&short), None);
    }

    #[test]
    fn a_reply_never_looks_like_a_control_frame() {
        let mut reply = [0u8; 8];
        put_residence(&mut reply, Nanos::MAX);
        assert_eq!(reply[0], 0);
        assert_eq!(residence(&reply), Some(Nanos(RESIDENCE_MAX)));
    }

    #[test]
    fn what_is_too_long_or_foreign_is_an_error() {
        let mut server = Progress::new(4);
        assert_eq!(server.handle_request(3), Ok(false));
        let error = server.handle_request(2).unwrap_err();
        assert_eq!(error.to_string(), "the server sent more than the 4 bytes that were agreed");
        let mut client = Progress::new(4);
        assert_eq!(client.handle_reply(&[0; 5], 5), Err(PingPongError::TooLong(4)));
        let error = Progress::new(4).handle_reply(b"HTTP.", 5).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server sent something that is not a reply (first byte 0x48)"
        );
    }

    #[test]
    fn figures_instead_of_a_reply_or_behind_it_are_told_apart() {
        assert_eq!(Progress::new(4).handle_reply(b"tare\x01", 5), Ok(Received::Control { at: 0 }));
        assert_eq!(Progress::new(4).handle_reply(b"t\0\0\0\0", 1), Ok(Received::Control { at: 0 }));
        assert_eq!(Progress::new(4).handle_reply(b"\0\0\0\0t", 5), Ok(Received::Control { at: 4 }));
        assert_eq!(Progress::new(1).handle_reply(b"\0t", 2), Ok(Received::Control { at: 1 }));
    }

    #[test]
    fn nothing_moved_is_nothing_done() {
        let mut progress = Progress::new(2);
        assert!(!progress.handle_sent(0));
        assert_eq!(progress.handle_reply(&[0; 3], 0), Ok(Received::Partial));
        assert_eq!(progress.remaining(), 0..2);
    }

    proptest! {
        #[test]
        fn both_ends_meet_whatever_the_stream_moves(
            size in 1usize..200, steps in prop::collection::vec(1usize..50, 1..50), ns in 0u64..(1 << 56),
        ) {
            // Request and reply cross a pipe that moves as many bytes at a time as `steps` says.
            let mut steps = steps.iter().cycle();
            let mut request = vec![0u8; size];
            put_flags(&mut request, true);
            let mut arrived = vec![0u8; size + 1];
            let (mut sending, mut receiving) = (Progress::new(size), Progress::new(size));
            loop {
                let range = sending.remaining();
                let n = range.len().min(*steps.next().unwrap());
                let at = receiving.receive_range().start;
                arrived[at..at + n].copy_from_slice(&request[range.start..range.start + n]);
                let sent = sending.handle_sent(n);
                prop_assert_eq!(receiving.handle_request(n), Ok(sent));
                if sent { break; }
            }
            prop_assert!(is_measured(&arrived));
            put_residence(&mut arrived[..size], Nanos(ns));
            let reply = arrived[..size].to_vec();
            let mut back = vec![0u8; size + 1];
            sending.restart();
            receiving.restart();
            loop {
                let range = sending.remaining();
                let n = range.len().min(*steps.next().unwrap());
                back[range.start..range.start + n].copy_from_slice(&reply[range.start..range.start + n]);
                let sent = sending.handle_sent(n);
                let want = if sent { Received::Complete } else { Received::Partial };
                prop_assert_eq!(receiving.handle_reply(&back, n), Ok(want));
                if sent { break; }
            }
            prop_assert_eq!(residence(&back[..size]), (size >= 8).then_some(Nanos(ns)));
        }
    }
}
