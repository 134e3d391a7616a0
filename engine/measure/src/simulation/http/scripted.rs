//! A server that does what a script says, right or wrong.

use std::collections::VecDeque;

use super::*;
use tare_driver::{BufferId, Completion, Op, Outcome as Came, Segment, SocketId, SocketSpec};
use tare_driver::{Token, Wait};

/// Bytes received at once, once a request has begun.
const RECEIVE: u32 = 64 << 10;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A connection came in.
    Accepted,
    /// The first byte of a request.
    Begun,
    /// A request is whole.
    Request,
}

/// What the script is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) what: What,
    /// Which connection, from 0 in the order in which they came.
    pub(super) connection: usize,
    /// Which request on it, from 0.
    pub(super) nth: usize,
    /// Which request of all, from 0.
    pub(super) of_all: usize,
}

/// What the server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Do {
    Send(Vec<u8>),
    /// Nothing is sent on this connection until that long after the step before.
    Wait(Nanos),
    /// Reads nothing more.
    Deafen,
    /// A FIN; a reset where the client's bytes lie unread.
    Close,
}

pub(super) type Acts = Vec<Do>;

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
pub(super) const CLOSE: &str =
    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

/// A response without a body.
pub(super) fn status(code: u16) -> Do {
    say(&format!("HTTP/1.1 {code} No\r\nContent-Length: 0\r\n\r\n"))
}

pub(super) fn say(text: &str) -> Do {
    Do::Send(text.as_bytes().to_vec())
}

/// `OK` to every request.
pub(super) fn ok(event: Event) -> Acts {
    answer(event, vec![say(OK)])
}

/// To a request, and to nothing else.
pub(super) fn answer(event: Event, acts: Acts) -> Acts {
    if event.what == What::Request { acts } else { Vec::new() }
}

/// The same to every request.
pub(super) fn each(acts: Acts) -> impl FnMut(Event) -> Acts + 'static {
    move |event| answer(event, acts.clone())
}

/// `OK` to every request, so much later.
pub(super) fn after(delay: Nanos) -> impl FnMut(Event) -> Acts + 'static {
    each(vec![Do::Wait(delay), say(OK)])
}

#[derive(Debug)]
struct Connection {
    socket: SocketId,
    inbox: BufferId,
    got: Vec<u8>,
    requests: usize,
    todo: VecDeque<Do>,
    /// The next step is not before that.
    not_before: Instant,
    sending: Option<(BufferId, u32, u32)>,
    receiving: bool,
    deaf: bool,
    closed: bool,
}

/// The server.
pub(super) struct Scripted {
    io: SimDriver,
    script: Box<dyn FnMut(Event) -> Acts>,
    connections: Vec<Connection>,
    /// When each connection came.
    pub(super) accepted: Vec<Instant>,
    /// When each request was whole, and on which connection.
    pub(super) requests: Vec<(Instant, usize)>,
    /// Every connection's bytes.
    pub(super) bytes: Vec<u8>,
}

impl Scripted {
    pub(super) fn new(net: &SimNet, script: impl FnMut(Event) -> Acts + 'static) -> Self {
        let mut io = net.driver();
        let listener = io.open(&SocketSpec::listener(listen())).unwrap();
        io.push(Token(u64::MAX >> 1), Op::Accept { listener, multishot: true }).unwrap();
        Self {
            io,
            script: Box::new(script),
            connections: Vec::new(),
            accepted: Vec::new(),
            requests: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Connections that are not closed: none, when the client is gone, but those where it no longer
    /// listened; and those of them that would have noticed the end.
    pub(super) fn open(&self) -> (usize, usize) {
        let open = self.connections.iter().filter(|c| !c.closed);
        (open.clone().count(), open.filter(|c| !c.deaf).count())
    }

    fn play(&mut self, what: What, index: usize, now: Instant) {
        let connection = &mut self.connections[index];
        let acts = (self.script)(Event {
            what,
            connection: index,
            nth: connection.requests,
            of_all: self.requests.len(),
        });
        if connection.todo.is_empty() {
            connection.not_before = connection.not_before.max(now);
        }
        connection.deaf |= acts.contains(&Do::Deafen);
        connection.todo.extend(acts);
    }

    fn accept(&mut self, socket: SocketId, now: Instant) {
        let inbox = self.io.allocate(RECEIVE as usize).unwrap();
        self.connections.push(Connection {
            socket,
            inbox,
            got: Vec::new(),
            requests: 0,
            todo: VecDeque::new(),
            not_before: now,
            sending: None,
            receiving: false,
            deaf: false,
            closed: false,
        });
        self.accepted.push(now);
        self.play(What::Accepted, self.connections.len() - 1, now);
    }

    fn take(&mut self, index: usize, bytes: u32, now: Instant) {
        let connection = &mut self.connections[index];
        connection.receiving = false;
        let inbox = &self.io.buffer(connection.inbox)[..bytes as usize];
        self.bytes.extend_from_slice(inbox);
        let begins = connection.got.is_empty();
        connection.got.extend_from_slice(inbox);
        if begins {
            self.play(What::Begun, index, now);
        }
        while let Some(len) = whole(&self.connections[index].got) {
            self.connections[index].got.drain(..len);
            self.play(What::Request, index, now);
            self.requests.push((now, index));
            let connection = &mut self.connections[index];
            connection.requests += 1;
            if !connection.got.is_empty() {
                self.play(What::Begun, index, now);
            }
        }
    }

    fn close(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !std::mem::replace(&mut connection.closed, true) {
            connection.todo.clear();
            let socket = connection.socket;
            self.io.push(token(index, 2), Op::Close { socket }).unwrap();
        }
    }

    fn complete(&mut self, completion: Completion, now: Instant) {
        let index = usize::try_from(completion.token.0 / 4).unwrap();
        match completion.outcome {
            Came::Accepted(socket) => return self.accept(socket, now),
            _ if self.connections[index].closed => return,
            Came::Received(bytes) if bytes > 0 => return self.take(index, bytes, now),
            Came::Sent(bytes) => {
                let connection = &mut self.connections[index];
                let (buffer, start, len) = connection.sending.take().expect("it was sending");
                if bytes < len {
                    return self.send(index, buffer, start + bytes, len - bytes);
                }
                return self.io.free(buffer);
            }
            _ => {}
        }
        self.close(index);
    }

    fn send(&mut self, index: usize, buffer: BufferId, start: u32, len: u32) {
        let connection = &mut self.connections[index];
        connection.sending = Some((buffer, start, len));
        let (socket, data) = (connection.socket, Segment { buffer, start, len });
        self.io.push(token(index, 1), Op::Send { socket, data, zero_copy: false }).unwrap();
    }

    /// The steps of a connection whose time has come.
    fn act(&mut self, index: usize, now: Instant) {
        loop {
            let connection = &mut self.connections[index];
            if connection.closed || connection.sending.is_some() || now < connection.not_before {
                return;
            }
            match connection.todo.pop_front() {
                Some(Do::Send(bytes)) => {
                    let buffer = self.io.allocate(bytes.len()).unwrap();
                    self.io.buffer_mut(buffer).copy_from_slice(&bytes);
                    self.send(index, buffer, 0, u32::try_from(bytes.len()).unwrap());
                }
                Some(Do::Wait(length)) => connection.not_before = now + length,
                Some(Do::Deafen) => {}
                Some(Do::Close) => self.close(index),
                None => return,
            }
        }
    }

    fn receive(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.receiving || connection.closed || connection.deaf {
            return;
        }
        connection.receiving = true;
        let len = if connection.got.is_empty() { 1 } else { RECEIVE };
        let into = Segment { buffer: connection.inbox, start: 0, len };
        let socket = connection.socket;
        self.io.push(token(index, 0), Op::Receive { socket, into }).unwrap();
    }
}

fn token(index: usize, purpose: u64) -> Token {
    Token(index as u64 * 4 + purpose)
}

/// The length of the request that `bytes` begin with, if it is whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(bytes).expect("requests are text here");
    let head = text.find("\r\n\r\n")? + 4;
    let body = text[..head]
        .split("Content-Length: ")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .map_or(0, |digits| digits.parse().unwrap());
    (text.len() >= head + body).then_some(head + body)
}

impl Server for Scripted {
    fn turn(&mut self, now: Instant) -> usize {
        for index in 0..self.connections.len() {
            self.act(index, now);
            self.receive(index);
        }
        let mut done = Vec::new();
        self.io.turn(now, Wait::Poll, &mut done).unwrap();
        let count = done.len();
        for completion in done {
            self.complete(completion, now);
        }
        count
    }

    fn next_due(&self, _: Instant) -> Option<Instant> {
        let due = self.connections.iter().filter(|c| !c.closed && !c.todo.is_empty());
        due.map(|connection| connection.not_before).min()
    }
}
