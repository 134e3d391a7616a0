//! What epoll and the simulated wire share: the driver contract over sockets that answer at once.
//!
//! An operation is attempted in the turn after its push; what would block is *parked* and attempted
//! again when the backend says so (on readiness, on every turn). An attempt too many does no harm,
//! so hints may be stale or double.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use crate::io::{Direction, OPERATIONS_MAX, Operations, Pending, send_repeatedly};
use crate::sys::arena::Arena;
use crate::{
    BufferId, Completion, DatagramFrom, DriverError, Op, OpError, Outcome, PoolBuffer, Segment,
    SocketId, Token,
};
use tare_units::Nanos;
use tare_units::limits::{COMPLETIONS_PER_TURN, SEGMENTS_MAX, SOCKETS_MAX};

/// Operations and sockets for which room is made at the start; more is made as more come.
const ROOM: usize = 1024;

/// On which list a blocked operation waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Receives, which a spinning driver attempts in every turn.
    Receives,
    /// Accepts, connects and blocked sends.
    Others,
}

impl Lane {
    const fn of(op: &Op) -> Self {
        if op.is_single_receive() || matches!(op, Op::ReceiveMultishot { .. }) {
            Self::Receives
        } else {
            Self::Others
        }
    }
}

/// How far an attempt at a multishot receive goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Dry,
    /// On a stream until a receive was short, which has drained it too (`epoll(7)`, question 9) and
    /// spares the call that finds nothing. Only where whatever comes later makes itself felt: a new
    /// edge, or an attempt in any case. Not where the end of the stream may be there already, since
    /// its edge is past.
    Short,
}

/// What an attempt came to that did not have to wait.
enum Step {
    Last(Outcome),
    /// A multishot operation goes on; whether it got less than there was room for.
    More(Outcome, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    /// Pushed and refused; completes with that in the next turn.
    Refused(OpError),
    /// Attempted, and would have blocked; the place in its lane.
    Parked(Lane, u32),
}

#[derive(Debug)]
struct Entry {
    op: Op,
    state: State,
    /// The turn in which it was attempted last and stayed parked.
    tried: u32,
}

/// A socket with non-blocking calls: each answers at once, with `EAGAIN` where a kernel would.
pub(super) trait Socket: Sized {
    fn accept(&self) -> Result<Self, Errno>;
    /// Starts, or asks after, a connection; `EINPROGRESS` and `EALREADY` are not yet.
    fn connect(&self, to: SocketAddr) -> Result<(), Errno>;
    fn send(&self, bytes: &[u8]) -> Result<usize, Errno>;
    fn send_vectored(&self, ranges: &[IoSlice<'_>]) -> Result<usize, Errno>;
    fn send_to(&self, bytes: &[u8], to: SocketAddr, source: Option<IpAddr>)
    -> Result<usize, Errno>;
    fn receive(&self, into: &mut [u8]) -> Result<usize, Errno>;
    /// As a receive of up to `len` bytes of a stream, which are thrown away.
    fn discard(&self, len: u32) -> Result<usize, Errno>;
    /// As a receive of one byte that leaves it there.
    fn peek(&self) -> Result<usize, Errno>;
    /// As a receive; with the addresses of the datagram, and whether it was cut off.
    fn receive_from(&self, into: &mut [u8]) -> Result<(usize, DatagramFrom, bool), Errno>;
    /// As a receive; with the time of the arrival since the epoch, where it is known.
    fn receive_stamped(&self, into: &mut [u8]) -> Result<(usize, Option<Nanos>), Errno>;
    fn half_close(&self) -> Result<(), Errno>;
    fn is_stream(&self) -> bool;
    /// Whether the backend will notice when the socket becomes ready in that direction.
    fn is_watched(&self, direction: Direction) -> bool;
}

#[derive(Debug)]
struct Slot<S> {
    socket: Option<S>,
    pending: Pending,
    /// Stands in `Core::unwatched`. Outlives the socket, so that reuse of the slot adds no second
    /// entry.
    listed: bool,
}

/// The contract, less the waiting.
#[derive(Debug)]
pub(super) struct Core<S> {
    slots: Vec<Slot<S>>,
    vacant: Vec<u32>,
    /// Slots whose close has not been handed over yet; their ids are not reused before.
    retired: Vec<u32>,
    operations: Operations<Entry>,
    queue: Vec<u32>,
    completed: VecDeque<Completion>,
    pub(super) arena: Arena,
    pub(super) pool: Pool,
    lanes: [Vec<u32>; 2],
    /// Multishot operations that stopped at the bound of a turn, not at `EAGAIN`: no edge will tell
    /// of them.
    resume: Vec<u32>,
    /// Sockets on which an operation is parked in a direction that the backend does not watch yet.
    unwatched: Vec<u32>,
    turn: u32,
    /// Parked operations that were attempted in this turn already.
    fresh: usize,
}

fn of<S>(slots: &[Slot<S>], id: SocketId) -> &S {
    let socket = slots[id.0 as usize].socket.as_ref();
    socket.expect("a socket is only dropped after its operations were finished")
}

impl<S: Socket> Core<S> {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::with_capacity(ROOM),
            vacant: Vec::with_capacity(ROOM),
            retired: Vec::with_capacity(ROOM),
            operations: Operations::with_capacity(ROOM),
            queue: Vec::with_capacity(ROOM),
            completed: VecDeque::with_capacity(2 * COMPLETIONS_PER_TURN),
            arena: Arena::default(),
            pool: Pool::default(),
            lanes: [(); 2].map(|()| Vec::with_capacity(ROOM)),
            resume: Vec::with_capacity(ROOM),
            unwatched: Vec::with_capacity(ROOM),
            turn: 0,
            fresh: 0,
        }
    }

    pub(super) fn push(&mut self, token: Token, op: Op) -> Result<(), DriverError> {
        if self.operations.len() >= OPERATIONS_MAX as usize {
            return Err(DriverError::Full);
        }
        let target = op.target();
        let admitted = target.map_or(Ok(()), |(id, direction)| {
            self.pending(id).ok_or(OpError::BadSocket)?.admit(direction)
        });
        let state = admitted.map_or_else(State::Refused, |()| State::Queued);
        if state == State::Queued {
            let receives = op.is_single_receive();
            op.for_each_segment(|segment| {
                if receives {
                    self.arena.hold_exclusive(segment);
                } else {
                    self.arena.lend_shared(segment);
                }
            });
        }
        // An operation counts as tried in no turn yet: `turn` moves on before it is attempted.
        let index = self.operations.insert(token, Entry { op, state, tried: self.turn });
        if let (State::Queued, Some((id, Some(direction)))) = (state, target) {
            let pending = &mut self.slots[id.0 as usize].pending;
            pending.operations[direction as usize] = Some(index);
        }
        self.queue.push(index);
        Ok(())
    }

    fn pending(&mut self, id: SocketId) -> Option<&mut Pending> {
        let slot = self.slots.get_mut(id.0 as usize)?;
        (slot.socket.is_some() && !slot.pending.closing).then_some(&mut slot.pending)
    }

    /// Starts a turn: attempts what was pushed, in order, and resumes what stopped at the last
    /// turn's bound.
    #[inline]
    pub(super) fn begin_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        self.fresh = 0;
        if !self.resume.is_empty() {
            // What stops at the bound again goes to the end of the list.
            let count = self.resume.len();
            for place in 0..count {
                self.retry(self.resume[place], Until::Dry);
            }
            self.resume.drain(..count);
        }
        if !self.queue.is_empty() {
            let mut queue = std::mem::take(&mut self.queue);
            for index in queue.drain(..) {
                self.start(index);
            }
            self.queue = queue;
        }
    }

    pub(super) fn has_completed(&self) -> bool {
        !self.completed.is_empty()
    }

    /// Whether something is parked that was not attempted in this turn.
    pub(super) fn has_untried(&self) -> bool {
        self.lanes.iter().map(Vec::len).sum::<usize>() > self.fresh
    }

    pub(super) fn parked(&self, lane: Lane) -> usize {
        self.lanes[lane as usize].len()
    }

    #[inline]
    pub(super) fn attempt_lane(&mut self, lane: Lane, until: Until) {
        let mut place = 0;
        while let Some(&index) = self.lanes[lane as usize].get(place) {
            if self.operations.get(index).tried != self.turn {
                self.attempt(index, until);
            }
            // One that completed left its place to another.
            if self.lanes[lane as usize].get(place) == Some(&index) {
                place += 1;
            }
        }
    }

    #[inline]
    pub(super) fn ready(&mut self, socket: usize, direction: Direction, until: Until) {
        if let Some(slot) = self.slots.get(socket)
            && let Some(index) = slot.pending.operations[direction as usize]
        {
            self.retry(index, until);
        }
    }

    /// Has `watch` see to each socket with something parked in a direction that was not watched,
    /// given its id and in which directions something is.
    pub(super) fn watch_parked<E>(
        &mut self,
        mut watch: impl FnMut(u32, &mut S, [bool; 2]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(id) = self.unwatched.pop() {
            let slot = &mut self.slots[id as usize];
            slot.listed = false;
            if let Some(socket) = &mut slot.socket {
                watch(id, socket, slot.pending.operations.map(|place| place.is_some()))?;
            }
        }
        Ok(())
    }

    /// Has `forget` take each socket with a parked receive out of what the backend watches, if it
    /// is in there. It is named by [`Self::watch_parked`] again.
    pub(super) fn unwatch_receives<E>(
        &mut self,
        mut forget: impl FnMut(&mut S) -> Result<bool, E>,
    ) -> Result<(), E> {
        for &index in &self.lanes[Lane::Receives as usize] {
            if let Some((id, _)) = self.operations.get(index).op.target()
                && let slot = &mut self.slots[id.0 as usize]
                && let Some(socket) = &mut slot.socket
                && forget(socket)?
                && !std::mem::replace(&mut slot.listed, true)
            {
                self.unwatched.push(id.0);
            }
        }
        Ok(())
    }

    /// Hands over what completed, up to the bound of a turn.
    #[inline]
    pub(super) fn deliver(&mut self, done: &mut Vec<Completion>) {
        // One by one: most turns bring one or none, for which a drain takes ten times as long.
        for _ in 0..COMPLETIONS_PER_TURN {
            let Some(completion) = self.completed.pop_front() else { break };
            done.push(completion);
        }
        if self.completed.is_empty() && !self.retired.is_empty() {
            self.vacant.append(&mut self.retired);
        }
    }

    pub(super) fn insert(&mut self, socket: S) -> Result<SocketId, OpError> {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None if self.slots.len() < SOCKETS_MAX as usize => {
                self.slots.push(Slot { socket: None, pending: Pending::default(), listed: false });
                (self.slots.len() - 1) as u32
            }
            None => return Err(OpError::TooManyFiles),
        };
        let slot = &mut self.slots[index as usize];
        (slot.socket, slot.pending) = (Some(socket), Pending::default());
        Ok(SocketId(index))
    }

    pub(super) fn release(&mut self, id: SocketId) -> Result<S, OpError> {
        if self.pending(id).ok_or(OpError::BadSocket)?.is_busy() {
            return Err(OpError::Busy);
        }
        self.vacant.push(id.0);
        self.slots[id.0 as usize].socket.take().ok_or(OpError::BadSocket)
    }

    pub(super) fn socket(&self, id: SocketId) -> Option<&S> {
        let slot = self.slots.get(id.0 as usize)?;
        slot.socket.as_ref().filter(|_| !slot.pending.closing)
    }

    pub(super) fn allocate(&mut self, len: usize) -> Result<BufferId, DriverError> {
        self.arena
            .allocate(len)
            .ok_or(DriverError::Resources { what: "a buffer", source: OpError::NoMemory })
    }

    #[inline]
    fn start(&mut self, index: u32) {
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
            Op::Close { socket } => {
                let pending = self.slots[socket.0 as usize].pending.operations;
                for outstanding in pending.into_iter().flatten() {
                    self.finish(outstanding, Outcome::Failed(OpError::Canceled));
                }
                self.slots[socket.0 as usize].socket = None;
                self.retired.push(socket.0);
                self.finish(index, Outcome::Closed);
            }
            _ => self.attempt(index, Until::Dry),
        }
    }

    /// Attempts an operation again, if it is (still) one that waits.
    fn retry(&mut self, index: u32, until: Until) {
        let entry = self.operations.find_place(index);
        if entry.is_some_and(|entry| matches!(entry.state, State::Parked(..))) {
            self.attempt(index, until);
        }
    }

    #[inline]
    fn attempt(&mut self, index: u32, until: Until) {
        loop {
            match self.try_once(index) {
                Ok(Step::Last(outcome)) => return self.finish(index, outcome),
                Ok(Step::More(outcome, is_short)) => {
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
                Err(Errno::EAGAIN) => return self.park(index),
                Err(errno) => {
                    let call = self.operations.get(index).op.call();
                    return self.finish(index, Outcome::Failed((call, errno).into()));
                }
            }
        }
    }

    #[inline]
    fn try_once(&mut self, index: u32) -> Result<Step, Errno> {
        let Self { operations, slots, arena, .. } = self;
        let op = &operations.get(index).op;
        if let Some(outcome) = op.empty_receive() {
            return Ok(Step::Last(outcome));
        }
        let moved = match op {
            Op::Receive { socket, into } => of(slots, *socket).receive(arena.held_bytes_mut(*into)),
            Op::Discard { socket, len } => of(slots, *socket).discard(*len),
            Op::Send { socket, data, .. } => of(slots, *socket).send(arena.lent_bytes(*data)),
            Op::SendTo { socket, data, to, source } => {
                of(slots, *socket).send_to(arena.lent_bytes(*data), *to, *source)
            }
            Op::SendVectored { socket, data } => {
                let mut ranges = [IoSlice::new(&[]); SEGMENTS_MAX];
                let segments = data.iter().map_while(|s| *s);
                let count = segments.clone().count();
                for (range, segment) in ranges.iter_mut().zip(segments) {
                    *range = IoSlice::new(arena.lent_bytes(segment));
                }
                of(slots, *socket).send_vectored(&ranges[..count])
            }
            Op::ReceiveFrom { socket, into } => {
                let bytes = arena.held_bytes_mut(*into);
                let (len, addresses, truncated) = of(slots, *socket).receive_from(bytes)?;
                let len = len as u32;
                return Ok(Step::Last(Outcome::ReceivedFrom { len, addresses, truncated }));
            }
            Op::ReceiveStamped { socket, into } => {
                let bytes = arena.held_bytes_mut(*into);
                let (len, at) = of(slots, *socket).receive_stamped(bytes)?;
                return Ok(Step::Last(Outcome::ReceivedStamped { len: len as u32, at }));
            }
            Op::Connect { socket, to } => match of(slots, *socket).connect(*to) {
                Err(Errno::EINPROGRESS | Errno::EALREADY) => return Err(Errno::EAGAIN),
                // Not to be taken for "would block": no readiness would follow.
                Err(Errno::EAGAIN) => return Err(Errno::EADDRNOTAVAIL),
                result => return result.map(|()| Step::Last(Outcome::Connected)),
            },
            Op::HalfClose { socket } => {
                let ended = of(slots, *socket).half_close();
                return ended.map(|()| Step::Last(Outcome::HalfClosed));
            }
            &Op::SendRepeated { socket, data, count } => {
                return self.send_repeatedly(socket, data, count);
            }
            &Op::Accept { listener, multishot } => return self.accept(listener, multishot),
            &Op::ReceiveMultishot { socket } => return self.receive_in_pool(socket),
            Op::Close { .. } | Op::Cancel { .. } => {
                unreachable!("these are carried out when they start and never wait")
            }
        };
        Ok(Step::Last(op.moved(moved? as u32)))
    }

    fn send_repeatedly(&mut self, id: SocketId, data: Segment, count: u32) -> Result<Step, Errno> {
        let (bytes, socket) = (self.arena.lent_bytes(data), of(&self.slots, id));
        let (outcome, error) = send_repeatedly(count, data.len, || socket.send(bytes))?;
        let error = error.map(|errno| ("send", errno).into());
        self.slots[id.0 as usize].pending.send_error = error;
        Ok(Step::Last(outcome))
    }

    fn accept(&mut self, listener: SocketId, multishot: bool) -> Result<Step, Errno> {
        let socket = of(&self.slots, listener).accept()?;
        Ok(match self.insert(socket) {
            Ok(id) if multishot => Step::More(Outcome::Accepted(id), false),
            Ok(id) => Step::Last(Outcome::Accepted(id)),
            Err(error) => Step::Last(Outcome::Failed(error)),
        })
    }

    fn receive_in_pool(&mut self, socket: SocketId) -> Result<Step, Errno> {
        let socket = of(&self.slots, socket);
        let (len, room) = match self.pool.candidate() {
            Some(buffer) => (socket.receive(buffer)?, Some(buffer.len())),
            None => (socket.peek()?, None),
        };
        Ok(match room {
            _ if len == 0 && socket.is_stream() => {
                Step::Last(Outcome::ReceivedInPool { buffer: None, len: 0 })
            }
            None => Step::Last(Outcome::Failed(OpError::NoBuffers)),
            Some(room) => {
                let buffer = Some(self.pool.give_out(len as u32));
                let is_short = len < room && socket.is_stream();
                Step::More(Outcome::ReceivedInPool { buffer, len: len as u32 }, is_short)
            }
        })
    }

    /// Notes that an operation waits, and was attempted in this turn.
    fn park(&mut self, index: u32) {
        let turn = self.turn;
        let entry = self.operations.get_mut(index);
        let tried = std::mem::replace(&mut entry.tried, turn);
        if let State::Parked(..) = entry.state {
            self.fresh += usize::from(tried != turn);
            return;
        }
        let lane = Lane::of(&entry.op);
        let list = &mut self.lanes[lane as usize];
        entry.state = State::Parked(lane, list.len() as u32);
        let target = entry.op.target();
        list.push(index);
        self.fresh += 1;
        if let Some((id, Some(direction))) = target
            && !of(&self.slots, id).is_watched(direction)
            && !std::mem::replace(&mut self.slots[id.0 as usize].listed, true)
        {
            self.unwatched.push(id.0);
        }
    }

    /// Ends an operation: whatever it holds goes back, and its completion is noted.
    fn finish(&mut self, index: u32, outcome: Outcome) {
        let token = self.operations.token(index);
        let Entry { op, state, tried } = self.operations.remove(index);
        if !matches!(state, State::Refused(_)) {
            op.for_each_segment(|segment| self.arena.release(segment.buffer));
            if let Some((id, Some(direction))) = op.target() {
                self.slots[id.0 as usize].pending.operations[direction as usize] = None;
            }
        }
        if let State::Parked(lane, place) = state {
            self.fresh -= usize::from(tried == self.turn);
            let list = &mut self.lanes[lane as usize];
            list.swap_remove(place as usize);
            if let Some(&moved) = list.get(place as usize) {
                self.operations.get_mut(moved).state = State::Parked(lane, place);
            }
        }
        let zero_copy = matches!(op, Op::Send { zero_copy: true, .. });
        self.completed.push_back(Completion { token, outcome, more: zero_copy });
        if zero_copy {
            let released = Outcome::Released { copied: true };
            self.completed.push_back(Completion::last(token, released));
        }
    }
}

impl<S> Drop for Core<S> {
    fn drop(&mut self) {
        // Nobody but this driver reads or writes its buffers, so with it all loans end; the arena
        // would take them for loans to a kernel and leak the memory.
        for entry in self.operations.iter() {
            if !matches!(entry.state, State::Refused(_)) {
                entry.op.for_each_segment(|segment| self.arena.release(segment.buffer));
            }
        }
    }
}

/// The buffers that multishot receives fill, where no kernel picks them: equal ones in one block of
/// memory.
#[derive(Debug, Default)]
pub(super) struct Pool {
    memory: Vec<u8>,
    buffer_bytes: usize,
    filled: Vec<u32>,
    free: Vec<u16>,
}

impl Pool {
    pub(super) fn new(count: u16, buffer_bytes: u32) -> Self {
        let (buffers, buffer_bytes) = (usize::from(count), buffer_bytes as usize);
        Self {
            memory: vec![0; buffers * buffer_bytes],
            buffer_bytes,
            filled: vec![0; buffers],
            free: (0..count).rev().collect(),
        }
    }

    fn candidate(&mut self) -> Option<&mut [u8]> {
        let index = usize::from(*self.free.last()?);
        Some(&mut self.memory[index * self.buffer_bytes..][..self.buffer_bytes])
    }

    /// Gives out the candidate, filled with `len` bytes.
    fn give_out(&mut self, len: u32) -> PoolBuffer {
        let index = self.free.pop().expect("the candidate was just filled");
        self.filled[usize::from(index)] = len;
        PoolBuffer(index)
    }

    pub(super) fn bytes(&self, buffer: &PoolBuffer) -> &[u8] {
        let index = usize::from(buffer.0);
        &self.memory[index * self.buffer_bytes..][..self.filled[index] as usize]
    }

    pub(super) fn recycle(&mut self, buffer: PoolBuffer) {
        debug_assert!(!self.free.contains(&buffer.0), "recycled twice");
        self.free.push(buffer.0);
    }
}
