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
    /// Sending test data.
    Send,
    SendControl,
    HalfClose,
    Close,
    Cancel,
}

/// The token of `slot`'s operation.
pub(crate) const fn token(slot: u32, purpose: Purpose) -> Token {
    Token((slot as u64) << 8 | purpose as u64)
}

/// What a token was for, and whose.
#[expect(clippy::cast_possible_truncation, reason = "the slot is 32 bits wide")]
pub(crate) const fn slot_of(token: Token) -> (u32, Purpose) {
    let purpose = match token.0 as u8 {
        0 => Purpose::Accept,
        1 => Purpose::Connect,
        2 => Purpose::Receive,
        3 => Purpose::Send,
        4 => Purpose::SendControl,
        5 => Purpose::HalfClose,
        7 => Purpose::Cancel,
        _ => Purpose::Close,
    };
    ((token.0 >> 8) as u32, purpose)
}

/// A socket with a receive buffer, a send buffer, and a count of what is outstanding.
#[derive(Debug)]
pub(crate) struct Link {
    slot: u32,
    socket: SocketId,
    receive: BufferId,
    send: BufferId,
    /// A control frame on its way: its buffer and the range yet to be sent.
    control: Option<(BufferId, u32, u32)>,
    outstanding: u32,
    receiving: bool,
    sending: bool,
    closing: bool,
}

impl Link {
    /// Takes `socket` for `slot`, with buffers of the given sizes.
    pub(crate) fn new<D: Driver>(
        io: &mut D,
        slot: u32,
        socket: SocketId,
        receive_bytes: usize,
        send_bytes: usize,
    ) -> Result<Self> {
        Ok(Self {
            slot,
            socket,
            receive: io.allocate(receive_bytes)?,
            send: io.allocate(send_bytes)?,
            control: None,
            outstanding: 0,
            receiving: false,
            sending: false,
            closing: false,
        })
    }

    /// Puts another socket in the place of one that is closed; the buffers stay. A control frame
    /// that was cut off with the old one is forgotten.
    pub(crate) fn replace_socket<D: Driver>(&mut self, io: &mut D, socket: SocketId) {
        debug_assert!(self.is_quiet(), "the old socket's operations have completed");
        if let Some((buffer, ..)) = self.control.take() {
            io.free(buffer);
        }
        self.socket = socket;
        self.closing = false;
    }

    pub(crate) const fn socket(&self) -> SocketId {
        self.socket
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

    pub(crate) const fn is_closing(&self) -> bool {
        self.closing
    }

    pub(crate) const fn is_quiet(&self) -> bool {
        self.outstanding == 0
    }

    pub(crate) const fn is_sending_control(&self) -> bool {
        self.control.is_some()
    }

    pub(crate) fn connect<D: Driver>(&mut self, io: &mut D, to: SocketAddr) -> Result {
        self.push(io, Purpose::Connect, Op::Connect { socket: self.socket, to })
    }

    /// Pushes a receive into `start..start + len` of the receive buffer.
    #[inline]
    pub(crate) fn receive<D: Driver>(&mut self, io: &mut D, start: u32, len: u32) -> Result {
        let into = Segment { buffer: self.receive, start, len };
        self.receiving = true;
        self.push(io, Purpose::Receive, Op::Receive { socket: self.socket, into })
    }

    /// As [`Link::receive`], with the kernel's stamp where the socket was asked for it.
    pub(crate) fn receive_stamped<D: Driver>(
        &mut self,
        io: &mut D,
        start: u32,
        len: u32,
    ) -> Result {
        let (socket, buffer) = (self.socket, self.receive);
        let into = Segment { buffer, start, len };
        self.receiving = true;
        self.push(io, Purpose::Receive, Op::ReceiveStamped { socket, into })
    }

    /// Pushes a send of `start..start + len` of the send buffer.
    #[inline]
    pub(crate) fn send<D: Driver>(&mut self, io: &mut D, start: u32, len: u32) -> Result {
        self.push_send(io, start, len, |socket, data| Op::Send { socket, data, zero_copy: false })
    }

    /// Pushes `count` sends of the first `len` bytes of the send buffer, one after the other.
    #[inline]
    pub(crate) fn send_repeated<D: Driver>(&mut self, io: &mut D, len: u32, count: u32) -> Result {
        self.push_send(io, 0, len, |socket, data| Op::SendRepeated { socket, data, count })
    }

    /// Pushes a zero-copy send of the first `len` bytes of the send buffer. Its completions go
    /// through [`Link::handle`].
    pub(crate) fn send_zero_copy<D: Driver>(&mut self, io: &mut D, len: u32) -> Result {
        self.push_send(io, 0, len, |socket, data| Op::Send { socket, data, zero_copy: true })
    }

    #[inline]
    fn push_send<D: Driver>(
        &mut self,
        io: &mut D,
        start: u32,
        len: u32,
        op: impl FnOnce(SocketId, Segment) -> Op,
    ) -> Result {
        let data = Segment { buffer: self.send, start, len };
        self.sending = true;
        self.push(io, Purpose::Send, op(self.socket, data))
    }

    /// Pushes a receive of `len` bytes that nobody looks at.
    #[inline]
    pub(crate) fn discard<D: Driver>(&mut self, io: &mut D, len: u32) -> Result {
        self.receiving = true;
        let socket = self.socket;
        self.push(io, Purpose::Receive, Op::Discard { socket, len })
    }

    /// Sends a control frame from a buffer of its own. At most one at a time.
    pub(crate) fn send_control<D: Driver>(&mut self, io: &mut D, frame: &[u8]) -> Result {
        debug_assert!(self.control.is_none(), "one control frame at a time");
        let buffer = io.allocate(frame.len())?;
        io.buffer_mut(buffer).copy_from_slice(frame);
        let len = u32::try_from(frame.len()).expect("a frame's length fits its header");
        self.control = Some((buffer, 0, len));
        self.push_control(io)
    }

    /// `sent` bytes of the control frame are gone. Returns whether the frame is.
    pub(crate) fn handle_control_sent<D: Driver>(&mut self, io: &mut D, sent: u32) -> Result<bool> {
        let Some((buffer, start, len)) = self.control else {
            return Ok(true);
        };
        if sent < len && !self.closing {
            self.control = Some((buffer, start + sent, len - sent));
            self.push_control(io)?;
            return Ok(false);
        }
        io.free(buffer);
        self.control = None;
        Ok(true)
    }

    pub(crate) fn half_close<D: Driver>(&mut self, io: &mut D) -> Result {
        self.push(io, Purpose::HalfClose, Op::HalfClose { socket: self.socket })
    }

    /// What the peer has not taken is dropped with the close, and the connection reset: else the
    /// kernel would go on with it on its own, and keep the memory of zero-copy sends meanwhile.
    pub(crate) fn drop_unsent<D: Driver>(&self, io: &mut D) {
        if !self.closing {
            // Refused by what has no connection.
            let _ = io.set_option(self.socket, &SocketOption::ResetOnClose);
        }
    }

    /// Pushes the cancellation of the receive that is outstanding; both complete.
    pub(crate) fn cancel_receive<D: Driver>(&mut self, io: &mut D) -> Result {
        let token = token(self.slot, Purpose::Receive);
        self.push(io, Purpose::Cancel, Op::Cancel { token })
    }

    /// The socket was given away: what is left is a link without one.
    pub(crate) fn forget_socket(&mut self) {
        debug_assert!(self.is_quiet(), "a socket is given away only when quiet");
        self.closing = true;
    }

    pub(crate) fn close<D: Driver>(&mut self, io: &mut D) -> Result {
        if self.closing {
            return Ok(());
        }
        self.closing = true;
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
        match purpose {
            Purpose::Receive => self.receiving = false,
            Purpose::Send => self.sending = false,
            _ => {}
        }
    }

    pub(crate) fn free<D: Driver>(self, io: &mut D) {
        io.free(self.receive);
        io.free(self.send);
        if let Some((buffer, ..)) = self.control {
            io.free(buffer);
        }
    }

    fn push_control<D: Driver>(&mut self, io: &mut D) -> Result {
        let Some((buffer, start, len)) = self.control else {
            return Ok(());
        };
        let data = Segment { buffer, start, len };
        let send = Op::Send { socket: self.socket, data, zero_copy: false };
        self.push(io, Purpose::SendControl, send)
    }

    #[inline]
    fn push<D: Driver>(&mut self, io: &mut D, purpose: Purpose, op: Op) -> Result {
        io.push(token(self.slot, purpose), op)?;
        self.outstanding += 1;
        Ok(())
    }
}
