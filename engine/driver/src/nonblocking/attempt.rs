//! One attempt at one operation, and what follows from it.

use std::io::IoSlice;

use nix::errno::Errno;

use super::{Core, Entry, Lane, NONE, Slot, Socket, State};
use crate::{Completion, Op, OpError, Outcome, Repeated, Segment, SocketId};
use tare_units::limits::{COMPLETIONS_PER_TURN, SEGMENTS_MAX};

/// What an attempt came to.
enum Step {
    /// It would block.
    Wait,
    Done(Outcome),
    /// A multishot operation has one more completion, perhaps of less than there was room for, and
    /// goes on.
    More {
        outcome: Outcome,
        is_short: bool,
    },
}

/// How far an attempt at a multishot receive goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Until the kernel says that nothing is there.
    Dry,
    /// On a stream until a receive was short, which has drained it too (`epoll(7)`, question 9) and
    /// spares the call that finds nothing. Only where whatever comes later makes itself felt: a new
    /// edge, or an attempt in any case. Not where the end of the stream may be there already, since
    /// its edge is past.
    Short,
}

/// The outcome of a call that completes its operation unless it would block.
fn step<T>(call: &'static str, result: Result<T, Errno>, ok: impl FnOnce(T) -> Outcome) -> Step {
    match result {
        Ok(value) => Step::Done(ok(value)),
        Err(errno) => failed(call, errno),
    }
}

fn failed(call: &'static str, errno: Errno) -> Step {
    match errno {
        Errno::EAGAIN => Step::Wait,
        _ => Step::Done(Outcome::Failed((call, errno).into())),
    }
}

fn sent(bytes: usize) -> Outcome {
    Outcome::Sent(bytes as u32)
}

fn of<S>(slots: &[Slot<S>], id: SocketId) -> &S {
    slots[id.0 as usize]
        .socket
        .as_ref()
        .expect("a socket is only dropped after its operations were finished")
}

impl<S: Socket> Core<S> {
    /// The first attempt at a queued operation.
    #[inline]
    pub(super) fn start(&mut self, index: u32) {
        let entry = self.operations.get(index);
        if let State::Refused(error) = entry.state {
            return self.finish(index, Outcome::Failed(error));
        }
        match entry.op {
            Op::Cancel { token } => {
                let is_started = |entry: &Entry| matches!(entry.state, State::Parked(..));
                let target = self.operations.find(token, is_started);
                if let Some(target) = target {
                    self.finish(target, Outcome::Failed(OpError::Canceled));
                }
                let found = target.is_some();
                self.finish(index, Outcome::CancelDone { found });
            }
            Op::Close { socket } => self.close(index, socket),
            _ => self.attempt(index, Until::Dry),
        }
    }

    fn close(&mut self, index: u32, socket: SocketId) {
        for outstanding in self.slots[socket.0 as usize].outstanding {
            if outstanding != NONE {
                self.finish(outstanding, Outcome::Failed(OpError::Canceled));
            }
        }
        self.slots[socket.0 as usize].socket = None;
        self.retired.push(socket.0);
        self.finish(index, Outcome::Closed);
    }

    /// Attempts an operation again, if it is (still) one that waits.
    pub(super) fn retry(&mut self, index: u32, until: Until) {
        let entry = self.operations.find_place(index);
        if entry.is_some_and(|entry| matches!(entry.state, State::Parked(..))) {
            self.attempt(index, until);
        }
    }

    #[inline]
    pub(super) fn attempt(&mut self, index: u32, until: Until) {
        loop {
            match self.try_once(index) {
                Step::Wait => return self.park(index),
                Step::Done(outcome) => return self.finish(index, outcome),
                Step::More { outcome, is_short } => {
                    let token = self.operations.token(index);
                    self.completed.push_back(Completion { token, outcome, more: true });
                    if is_short && until == Until::Short {
                        return self.park(index);
                    }
                    if self.completed.len() >= COMPLETIONS_PER_TURN {
                        self.resume.push(index);
                        return self.park(index);
                    }
                }
            }
        }
    }

    #[inline]
    fn try_once(&mut self, index: u32) -> Step {
        let Self { operations, slots, arena, .. } = self;
        match &operations.get(index).op {
            // Without a call: the kernel would answer EAGAIN while no data is there.
            Op::Receive { into: Segment { len: 0, .. }, .. } | Op::Discard { len: 0, .. } => {
                Step::Done(Outcome::Received(0))
            }
            Op::Receive { socket, into } => {
                let result = of(slots, *socket).receive(arena.held_bytes_mut(*into));
                step("recv", result, |n| Outcome::Received(n as u32))
            }
            Op::Send { socket, data, .. } => {
                let result = of(slots, *socket).send(arena.lent_bytes(*data));
                step("send", result, sent)
            }
            &Op::Discard { socket, len } => {
                let result = of(slots, socket).discard(len);
                step("recv", result, |n| Outcome::Received(n as u32))
            }
            Op::SendTo { socket, data, to, source } => {
                let bytes = arena.lent_bytes(*data);
                let result = of(slots, *socket).send_to(bytes, *to, *source);
                step("sendmsg", result, sent)
            }
            Op::ReceiveFrom { socket, into } => {
                let result = of(slots, *socket).receive_from(arena.held_bytes_mut(*into));
                step("recvmsg", result, |(len, addresses, truncated)| Outcome::ReceivedFrom {
                    len: len as u32,
                    addresses,
                    truncated,
                })
            }
            &Op::ReceiveStamped { socket, into } => self.receive_stamped(socket, into),
            Op::Connect { socket, to } => match of(slots, *socket).connect(*to) {
                Err(Errno::EINPROGRESS | Errno::EALREADY) => Step::Wait,
                // Not to be taken for "would block": no readiness would follow.
                Err(Errno::EAGAIN) => {
                    Step::Done(Outcome::Failed(("connect", Errno::EADDRNOTAVAIL).into()))
                }
                result => step("connect", result, |()| Outcome::Connected),
            },
            Op::HalfClose { socket } => {
                step("shutdown", of(slots, *socket).half_close(), |()| Outcome::HalfClosed)
            }
            &Op::Accept { listener, multishot } => self.accept(listener, multishot),
            &Op::ReceiveMultishot { socket } => self.receive_in_pool(socket),
            &Op::SendVectored { socket, data } => self.send_vectored(socket, &data),
            &Op::SendRepeated { socket, data, count } => self.send_repeatedly(socket, data, count),
            Op::Close { .. } | Op::Cancel { .. } => {
                unreachable!("these are carried out when they start and never wait")
            }
        }
    }

    fn receive_stamped(&mut self, id: SocketId, into: Segment) -> Step {
        if into.len == 0 {
            return Step::Done(Outcome::ReceivedStamped { len: 0, at: None });
        }
        let bytes = self.arena.held_bytes_mut(into);
        let result = of(&self.slots, id).receive_stamped(bytes);
        step("recvmsg", result, |(len, at)| Outcome::ReceivedStamped { len: len as u32, at })
    }

    fn send_vectored(&mut self, id: SocketId, data: &[Option<Segment>; SEGMENTS_MAX]) -> Step {
        let mut ranges = [IoSlice::new(&[]); SEGMENTS_MAX];
        let mut count = 0;
        for segment in data.iter().map_while(|s| *s) {
            ranges[count] = IoSlice::new(self.arena.lent_bytes(segment));
            count += 1;
        }
        let result = of(&self.slots, id).send_vectored(&ranges[..count]);
        step("sendmsg", result, sent)
    }

    fn send_repeatedly(&mut self, id: SocketId, data: Segment, count: u32) -> Step {
        let bytes = self.arena.lent_bytes(data);
        let socket = of(&self.slots, id);
        let result = Repeated::run(count, data.len, || socket.send(bytes));
        if let Ok(sent) = result {
            let error = sent.error.map(|errno| ("send", errno).into());
            self.slots[id.0 as usize].send_error = error;
        }
        step("send", result, Repeated::outcome)
    }

    fn accept(&mut self, listener: SocketId, multishot: bool) -> Step {
        match of(&self.slots, listener).accept() {
            Ok(socket) => match self.insert(socket) {
                Ok(id) if multishot => {
                    Step::More { outcome: Outcome::Accepted(id), is_short: false }
                }
                Ok(id) => Step::Done(Outcome::Accepted(id)),
                Err(error) => Step::Done(Outcome::Failed(error)),
            },
            Err(errno) => failed("accept4", errno),
        }
    }

    fn receive_in_pool(&mut self, socket: SocketId) -> Step {
        let socket = of(&self.slots, socket);
        let (result, room) = match self.pool.candidate() {
            Some(buffer) => {
                let room = buffer.len();
                (socket.receive(buffer), Some(room))
            }
            None => (socket.peek(), None),
        };
        match result {
            Ok(0) if socket.is_stream() => {
                Step::Done(Outcome::ReceivedInPool { buffer: None, len: 0 })
            }
            Ok(_) if room.is_none() => Step::Done(Outcome::Failed(OpError::NoBuffers)),
            Ok(n) => {
                let outcome = Outcome::ReceivedInPool {
                    buffer: Some(self.pool.give_out(n as u32)),
                    len: n as u32,
                };
                let is_short = room.is_some_and(|room| n < room) && socket.is_stream();
                Step::More { outcome, is_short }
            }
            Err(errno) => failed("recv", errno),
        }
    }

    /// Notes that an operation waits, and was attempted in this turn.
    fn park(&mut self, index: u32) {
        let turn = self.turn;
        let entry = self.operations.get_mut(index);
        if let State::Parked(..) = entry.state {
            if entry.tried != turn {
                entry.tried = turn;
                self.fresh += 1;
            }
            return;
        }
        entry.tried = turn;
        let lane = Lane::of(&entry.op);
        let target = entry.op.target();
        let place = self.parked(lane) as u32;
        self.lanes[lane as usize].push(index);
        self.operations.get_mut(index).state = State::Parked(lane, place);
        self.fresh += 1;
        let Some((id, Some(direction))) = target else {
            return;
        };
        if !of(&self.slots, id).is_watched(direction) {
            let slot = &mut self.slots[id.0 as usize];
            if !std::mem::replace(&mut slot.listed, true) {
                self.unwatched.push(id.0);
            }
        }
    }

    /// Ends an operation: whatever it holds goes back, and its completion is noted.
    pub(super) fn finish(&mut self, index: u32, outcome: Outcome) {
        let entry = self.operations.get(index);
        let (state, tried) = (entry.state, entry.tried);
        let zero_copy = matches!(entry.op, Op::Send { zero_copy: true, .. });
        if !matches!(state, State::Refused(_)) {
            entry.op.for_each_segment(|segment| self.arena.release(segment.buffer));
            if let Some((id, Some(direction))) = entry.op.target() {
                self.slots[id.0 as usize].outstanding[direction as usize] = NONE;
            }
        }
        if let State::Parked(lane, place) = state {
            if tried == self.turn {
                self.fresh -= 1;
            }
            self.unpark(lane, place);
        }
        let token = self.operations.token(index);
        self.operations.remove(index);
        self.completed.push_back(Completion { token, outcome, more: zero_copy });
        if zero_copy {
            self.completed.push_back(Completion {
                token,
                outcome: Outcome::Released { copied: true },
                more: false,
            });
        }
    }

    fn unpark(&mut self, lane: Lane, place: u32) {
        let list = &mut self.lanes[lane as usize];
        list.swap_remove(place as usize);
        if let Some(&moved) = list.get(place as usize) {
            self.operations.get_mut(moved).state = State::Parked(lane, place);
        }
    }
}
