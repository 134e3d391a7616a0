//! One socket of a worker, with its buffers and what is outstanding on it.
//!
//! Server sessions, pending connections and client connections all move bytes through a [`Link`];
//! what the bytes mean is their owner's.

use std::net::SocketAddr;

use crate::worker::Result;
use tare_driver::{BufferId, Driver, Op, Outcome, Segment, SocketId, SocketOption, Token};

/// What an operation was for; the low byte of its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Purpose {
    Accept,
    Connect,
    Receive,
    Send,
    SendControl,
    HalfClose,
    Close,
    Cancel,
}

pub(crate) const fn token(slot: u32, purpose: Purpose) -> Token {
    Token((slot as u64) << 8 | purpose as u64)
}

/// By their numbers.
const PURPOSES: [Purpose; 8] = {
    use Purpose::{Accept, Cancel, Close, Connect, HalfClose, Receive, Send, SendControl};
    [Accept, Connect, Receive, Send, SendControl, HalfClose, Close, Cancel]
};

pub(crate) const fn slot_of(token: Token) -> (u32, Purpose) {
    ((token.0 >> 8) as u32, PURPOSES[(token.0 & 7) as usize])
}

#[derive(Debug)]
pub(crate) struct Link {
    slot: u32,
    pub(crate) socket: SocketId,
    receive: BufferId,
    send: BufferId,
    /// What is yet to be sent of a control frame, which has a buffer of its own.
    control: Option<Segment>,
    outstanding: u32,
    receiving: bool,
    sending: bool,
    pub(crate) closing: bool,
}

impl Link {
    /// Takes `socket` for `slot`, with buffers of `room` bytes to receive into and to send from.
    pub(crate) fn new(
        io: &mut impl Driver,
        (slot, socket): (u32, SocketId),
        room: (usize, usize),
    ) -> Result<Self> {
        Ok(Self {
            slot,
            socket,
            receive: io.allocate(room.0)?,
            send: io.allocate(room.1)?,
            control: None,
            outstanding: 0,
            receiving: false,
            sending: false,
            closing: false,
        })
    }

    /// Puts another socket in the place of one that is closed; the buffers stay. A control frame
    /// that was cut off with the old one is forgotten.
    pub(crate) fn replace_socket(&mut self, io: &mut impl Driver, socket: SocketId) {
        debug_assert!(self.is_quiet(), "the old socket's operations have completed");
        if let Some(control) = self.control.take() {
            io.free(control.buffer);
        }
        self.socket = socket;
        self.closing = false;
    }

    pub(crate) const fn receive_buffer(&self) -> BufferId {
        self.receive
    }

    pub(crate) const fn send_buffer(&self) -> BufferId {
        self.send
    }

    pub(crate) const fn is_receiving(&self) -> bool {
        self.receiving
    }

    pub(crate) const fn is_sending(&self) -> bool {
        self.sending
    }

    pub(crate) const fn is_quiet(&self) -> bool {
        self.outstanding == 0
    }

    pub(crate) const fn is_sending_control(&self) -> bool {
        self.control.is_some()
    }

    pub(crate) fn connect(&mut self, io: &mut impl Driver, to: SocketAddr) -> Result {
        self.push(io, Purpose::Connect, Op::Connect { socket: self.socket, to })
    }

    #[inline]
    pub(crate) fn receive(&mut self, io: &mut impl Driver, start: u32, len: u32) -> Result {
        let into = Segment { buffer: self.receive, start, len };
        self.push(io, Purpose::Receive, Op::Receive { socket: self.socket, into })
    }

    /// Pushes a receive into the first `len` bytes of the receive buffer, with the kernel's stamp
    /// where the socket was asked for it.
    pub(crate) fn receive_stamped(&mut self, io: &mut impl Driver, len: u32) -> Result {
        let into = Segment { buffer: self.receive, start: 0, len };
        self.push(io, Purpose::Receive, Op::ReceiveStamped { socket: self.socket, into })
    }

    /// Pushes a receive of `len` bytes that nobody looks at.
    #[inline]
    pub(crate) fn discard(&mut self, io: &mut impl Driver, len: u32) -> Result {
        self.push(io, Purpose::Receive, Op::Discard { socket: self.socket, len })
    }

    #[inline]
    pub(crate) fn send(&mut self, io: &mut impl Driver, start: u32, len: u32) -> Result {
        let data = Segment { buffer: self.send, start, len };
        self.push(io, Purpose::Send, Op::Send { socket: self.socket, data, zero_copy: false })
    }

    /// Pushes `count` sends of the first `len` bytes of the send buffer, one after the other.
    #[inline]
    pub(crate) fn send_repeated(&mut self, io: &mut impl Driver, len: u32, count: u32) -> Result {
        let data = Segment { buffer: self.send, start: 0, len };
        self.push(io, Purpose::Send, Op::SendRepeated { socket: self.socket, data, count })
    }

    /// Pushes a zero-copy send of the first `len` bytes of the send buffer. Its completions go
    /// through [`Link::handle`].
    pub(crate) fn send_zero_copy(&mut self, io: &mut impl Driver, len: u32) -> Result {
        let data = Segment { buffer: self.send, start: 0, len };
        self.push(io, Purpose::Send, Op::Send { socket: self.socket, data, zero_copy: true })
    }

    /// Sends a control frame from a buffer of its own. At most one at a time.
    pub(crate) fn send_control(&mut self, io: &mut impl Driver, frame: &[u8]) -> Result {
        debug_assert!(self.control.is_none(), "one control frame at a time");
        let buffer = io.allocate(frame.len())?;
        io.buffer_mut(buffer).copy_from_slice(frame);
        let len = u32::try_from(frame.len()).expect("a frame's length fits its header");
        self.push_control(io, Segment { buffer, start: 0, len })
    }

    fn push_control(&mut self, io: &mut impl Driver, data: Segment) -> Result {
        self.control = Some(data);
        let send = Op::Send { socket: self.socket, data, zero_copy: false };
        self.push(io, Purpose::SendControl, send)
    }

    /// `sent` bytes of the control frame are gone. Returns whether the frame is.
    pub(crate) fn handle_control_sent(&mut self, io: &mut impl Driver, sent: u32) -> Result<bool> {
        let Some(Segment { buffer, start, len }) = self.control else { return Ok(true) };
        if sent < len && !self.closing {
            self.push_control(io, Segment { buffer, start: start + sent, len: len - sent })?;
            return Ok(false);
        }
        io.free(buffer);
        self.control = None;
        Ok(true)
    }

    pub(crate) fn half_close(&mut self, io: &mut impl Driver) -> Result {
        self.push(io, Purpose::HalfClose, Op::HalfClose { socket: self.socket })
    }

    /// What the peer has not taken is dropped with the close, and the connection reset: else the
    /// kernel would go on with it on its own, and keep the memory of zero-copy sends meanwhile.
    pub(crate) fn drop_unsent(&self, io: &mut impl Driver) {
        if !self.closing {
            // Refused by what has no connection.
            let _ = io.set_option(self.socket, &SocketOption::ResetOnClose);
        }
    }

    /// Pushes the cancellation of the receive that is outstanding; both complete.
    pub(crate) fn cancel_receive(&mut self, io: &mut impl Driver) -> Result {
        let token = token(self.slot, Purpose::Receive);
        self.push(io, Purpose::Cancel, Op::Cancel { token })
    }

    pub(crate) fn forget_socket(&mut self) {
        debug_assert!(self.is_quiet(), "a socket is given away only when quiet");
        self.closing = true;
    }

    pub(crate) fn close(&mut self, io: &mut impl Driver) -> Result {
        if std::mem::replace(&mut self.closing, true) {
            return Ok(());
        }
        self.push(io, Purpose::Close, Op::Close { socket: self.socket })
    }

    /// As [`Link::handle_completed`], for links that send zero-copy: their sends complete twice.
    #[inline]
    pub(crate) fn handle(&mut self, purpose: Purpose, outcome: &Outcome, more: bool) {
        if matches!(outcome, Outcome::Released { .. }) {
            self.outstanding -= 1;
            return;
        }
        self.handle_completed(purpose);
        self.outstanding += u32::from(more);
    }

    /// One operation of this link has completed; call it first for every completion.
    #[inline]
    pub(crate) fn handle_completed(&mut self, purpose: Purpose) {
        self.outstanding -= 1;
        self.note(purpose, false);
    }

    #[inline]
    fn note(&mut self, purpose: Purpose, is_outstanding: bool) {
        match purpose {
            Purpose::Receive => self.receiving = is_outstanding,
            Purpose::Send => self.sending = is_outstanding,
            _ => {}
        }
    }

    pub(crate) fn free(self, io: &mut impl Driver) {
        io.free(self.receive);
        io.free(self.send);
        if let Some(control) = self.control {
            io.free(control.buffer);
        }
    }

    #[inline]
    fn push(&mut self, io: &mut impl Driver, purpose: Purpose, op: Op) -> Result {
        io.push(token(self.slot, purpose), op)?;
        self.outstanding += 1;
        self.note(purpose, true);
        Ok(())
    }
}
