//! A socket of a client without a mind of its own: led by hand, byte by byte.

use std::collections::VecDeque;

use super::*;
use tare_driver::{BufferId, Op, OpError, Outcome as Done, Segment, SocketId, SocketSpec};
use tare_driver::{Token, Wait};
use tare_proto::datagram::UdpClientHandshake;

const INBOX: u32 = 64 << 10;

pub(super) struct Hand {
    io: SimDriver,
    socket: SocketId,
    inbox: BufferId,
    outbox: VecDeque<Vec<u8>>,
    connected: bool,
    sending: bool,
    receiving: bool,
    /// It does not read.
    pub(super) deaf: bool,
    /// Bytes that one receive takes at most.
    pub(super) appetite: u32,
    /// Datagrams, or what came of the stream at a time, and when.
    pub(super) got: Vec<(Instant, Vec<u8>)>,
    /// The server has ended the stream, or the socket failed.
    pub(super) ended: bool,
    /// What its socket failed with.
    pub(super) error: Option<OpError>,
    /// What it sends once it was answered.
    pub(super) then: Option<Vec<u8>>,
    /// What its datagrams are handed to.
    pub(super) handshake: Option<UdpClientHandshake>,
}

impl Hand {
    pub(super) fn new(net: &SimNet, spec: &SocketSpec) -> Self {
        let mut io = net.driver();
        let socket = io.open(spec).unwrap();
        io.push(Token(0), Op::Connect { socket, to: listen() }).unwrap();
        Self::on(io, socket, false)
    }

    /// The other end of a connection.
    pub(super) fn accepted(net: &SimNet, socket: SimSocket) -> Self {
        let mut io = net.driver();
        let socket = io.adopt(socket).unwrap();
        Self::on(io, socket, true)
    }

    fn on(mut io: SimDriver, socket: SocketId, connected: bool) -> Self {
        Self {
            inbox: io.allocate(INBOX as usize).unwrap(),
            io,
            socket,
            outbox: VecDeque::new(),
            connected,
            sending: false,
            receiving: false,
            deaf: false,
            appetite: INBOX,
            got: Vec::new(),
            ended: false,
            error: None,
            then: None,
            handshake: None,
        }
    }

    pub(super) fn tcp(net: &SimNet) -> Self {
        Self::new(net, &SocketSpec::stream_to(listen()))
    }

    pub(super) fn udp(net: &SimNet) -> Self {
        Self::new(net, &SocketSpec::datagram_to(listen()))
    }

    pub(super) fn send(&mut self, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.outbox.push_back(bytes);
        }
    }

    pub(super) fn is_sending(&self) -> bool {
        !self.outbox.is_empty()
    }

    pub(super) fn half_close(&mut self) {
        let socket = self.socket;
        self.io.push(Token(3), Op::HalfClose { socket }).unwrap();
    }

    /// It is gone: with a FIN where it read all that had come, else with a reset.
    pub(super) fn leave(&mut self) {
        let socket = self.socket;
        self.io.push(Token(3), Op::Close { socket }).unwrap();
        self.ended = true;
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.got.iter().flat_map(|(_, bytes)| bytes).copied().collect()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// One turn; how many completions it brought.
    pub(super) fn turn(&mut self, now: Instant) -> usize {
        let socket = self.socket;
        let live = self.connected && !self.ended;
        if live
            && !self.sending
            && let Some(bytes) = self.outbox.front()
        {
            let buffer = self.io.allocate(bytes.len()).unwrap();
            self.io.buffer_mut(buffer).copy_from_slice(bytes);
            let data = Segment { buffer, start: 0, len: u32::try_from(bytes.len()).unwrap() };
            self.io.push(Token(1), Op::Send { socket, data, zero_copy: false }).unwrap();
            self.sending = true;
        }
        if live && !self.receiving && !self.deaf {
            let into = Segment { buffer: self.inbox, start: 0, len: self.appetite };
            self.io.push(Token(2), Op::Receive { socket, into }).unwrap();
            self.receiving = true;
        }
        let mut done = Vec::new();
        self.io.turn(now, Wait::Poll, &mut done).unwrap();
        for completion in &done {
            match (completion.token.0, &completion.outcome) {
                (0, Done::Connected) => self.connected = true,
                (1, Done::Sent(n)) => {
                    self.sending = false;
                    let rest = self.outbox.pop_front().unwrap().split_off(*n as usize);
                    if !rest.is_empty() {
                        self.outbox.push_front(rest);
                    }
                }
                (2, Done::Received(n)) if *n > 0 => {
                    self.receiving = false;
                    let bytes = self.io.buffer(self.inbox)[..*n as usize].to_vec();
                    if let Some(handshake) = &mut self.handshake {
                        handshake.handle_datagram(&bytes, now);
                        self.outbox.extend(handshake.poll_transmit());
                    }
                    self.outbox.extend(self.then.take());
                    self.got.push((now, bytes));
                }
                (3, _) => {}
                (_, outcome) => {
                    self.ended = true;
                    if let Done::Failed(error) = outcome {
                        self.error = Some(*error);
                    }
                }
            }
        }
        done.len()
    }
}
