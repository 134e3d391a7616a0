//! A server that does what a script says, right or wrong.

use std::collections::VecDeque;

use super::*;
use tare_driver::{Op, Outcome as Came, SocketId, SocketSpec, Token, Wait};

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

/// What the script acts on.
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

struct Connection {
    hand: Hand,
    /// Of a request that is not whole yet.
    got: Vec<u8>,
    requests: usize,
    todo: VecDeque<Do>,
    /// The next step is not before that.
    not_before: Instant,
    closed: bool,
}

/// The server: each connection is led by hand.
pub(super) struct Scripted {
    net: SimNet,
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
        io.push(Token(0), Op::Accept { listener, multishot: true }).unwrap();
        Self {
            net: net.clone(),
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
        (open.clone().count(), open.filter(|c| !c.hand.deaf).count())
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
        connection.hand.deaf |= acts.contains(&Do::Deafen);
        connection.todo.extend(acts);
    }

    fn accept(&mut self, socket: SocketId, now: Instant) {
        let socket = self.io.release(socket).unwrap();
        self.connections.push(Connection {
            hand: Hand::accepted(&self.net, socket),
            got: Vec::new(),
            requests: 0,
            todo: VecDeque::new(),
            not_before: now,
            closed: false,
        });
        self.accepted.push(now);
        self.play(What::Accepted, self.connections.len() - 1, now);
    }

    fn take(&mut self, index: usize, bytes: &[u8], now: Instant) {
        let connection = &mut self.connections[index];
        self.bytes.extend_from_slice(bytes);
        let begins = connection.got.is_empty();
        connection.got.extend_from_slice(bytes);
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
}

impl Connection {
    /// The steps whose time has come, then a turn.
    fn turn(&mut self, now: Instant) -> usize {
        while !self.closed && !self.hand.is_sending() && now >= self.not_before {
            match self.todo.pop_front() {
                Some(Do::Send(bytes)) => self.hand.send(bytes),
                Some(Do::Wait(length)) => self.not_before = now + length,
                Some(Do::Deafen) => {}
                Some(Do::Close) => self.close(),
                None => break,
            }
        }
        self.hand.appetite = if self.got.is_empty() { 1 } else { RECEIVE };
        let completions = self.hand.turn(now);
        if self.hand.ended && !self.closed {
            self.close();
        }
        completions
    }

    fn close(&mut self) {
        self.closed = true;
        self.todo.clear();
        self.hand.leave();
    }
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
        let mut done = Vec::new();
        self.io.turn(now, Wait::Poll, &mut done).unwrap();
        let mut completions = done.len();
        for completion in done {
            let Came::Accepted(socket) = completion.outcome else { panic!("{completion:?}") };
            self.accept(socket, now);
        }
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            completions += connection.turn(now);
            let got = std::mem::take(&mut connection.hand.got);
            if connection.closed {
                continue;
            }
            for (_, bytes) in got {
                self.take(index, &bytes, now);
            }
        }
        completions
    }

    fn next_due(&self, _: Instant) -> Option<Instant> {
        let due = self.connections.iter().filter(|c| !c.closed && !c.todo.is_empty());
        due.map(|connection| connection.not_before).min()
    }
}
