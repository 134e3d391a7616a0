//! What epoll and the simulated wire share: the driver contract over sockets that answer at once.
//!
//! An operation is attempted in the turn after its push; what would block is *parked* and attempted
//! again when the backend says so (on readiness, on every turn). An attempt too many does no harm,
//! so hints may be stale or double.

mod attempt;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use crate::io::{Direction, OPERATIONS_MAX, Operations};
use crate::sys::arena::Arena;
use crate::{
    BufferId, Completion, DatagramFrom, DriverError, Op, OpError, PoolBuffer, SocketId, Token,
};
pub(super) use attempt::Until;
use tare_units::Nanos;
use tare_units::limits::{COMPLETIONS_PER_TURN, SOCKETS_MAX};

/// Operations and sockets for which room is made at the start; more is made as more come.
const ROOM: usize = 1024;
/// No operation.
const NONE: u32 = u32::MAX;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Pushed, not yet attempted.
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
    /// A close was pushed.
    dead: bool,
    /// The operation without a result yet in each [`Direction`], or [`NONE`].
    outstanding: [u32; 2],
    /// What ended a repeated send that had sent something; for the next operation in that
    /// direction.
    send_error: Option<OpError>,
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
    /// What is parked in each [`Lane`].
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
        let state = match target {
            Some((id, direction)) => match self.live_slot(id) {
                None => State::Refused(OpError::BadSocket),
                Some(slot) if direction.is_some_and(|d| slot.outstanding[d as usize] != NONE) => {
                    State::Refused(OpError::Busy)
                }
                Some(slot) if direction == Some(Direction::Out) => {
                    slot.send_error.take().map_or(State::Queued, State::Refused)
                }
                Some(_) => State::Queued,
            },
            None => State::Queued,
        };
        if state == State::Queued {
            self.lend(&op);
        }
        // An operation counts as tried in no turn yet: `turn` moves on before it is attempted.
        let index = self.operations.insert(token, Entry { op, state, tried: self.turn });
        if let (State::Queued, Some((id, direction))) = (state, target)
            && let Some(slot) = self.live_slot(id)
        {
            match direction {
                Some(direction) => slot.outstanding[direction as usize] = index,
                None => slot.dead = true,
            }
        }
        self.queue.push(index);
        Ok(())
    }

    fn live_slot(&mut self, id: SocketId) -> Option<&mut Slot<S>> {
        let slot = self.slots.get_mut(id.0 as usize)?;
        (slot.socket.is_some() && !slot.dead).then_some(slot)
    }

    fn lend(&mut self, op: &Op) {
        let receives = op.is_single_receive();
        op.for_each_segment(|segment| {
            if receives {
                self.arena.hold_exclusive(segment);
            } else {
                self.arena.lend_shared(segment);
            }
        });
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

    /// Attempts what is parked in a lane and was not attempted in this turn yet.
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

    /// Attempts what is parked on a socket in a direction, if anything is.
    #[inline]
    pub(super) fn ready(&mut self, socket: usize, direction: Direction, until: Until) {
        if let Some(slot) = self.slots.get(socket) {
            let index = slot.outstanding[direction as usize];
            if index != NONE {
                self.retry(index, until);
            }
        }
    }

    /// The next socket with something parked in a direction that was not watched, and what is
    /// parked there.
    pub(super) fn next_unwatched(&mut self) -> Option<(u32, &mut S, [bool; 2])> {
        loop {
            let id = self.unwatched.pop()?;
            let slot = &mut self.slots[id as usize];
            slot.listed = false;
            if slot.socket.is_some() {
                let slot = &mut self.slots[id as usize];
                let parked = slot.outstanding.map(|operation| operation != NONE);
                return slot.socket.as_mut().map(|socket| (id, socket, parked));
            }
        }
    }

    /// Has `forget` take each socket with a parked receive out of what the backend watches, if it
    /// is in there. It is named by [`Self::next_unwatched`] again.
    pub(super) fn unwatch_receives<E>(
        &mut self,
        mut forget: impl FnMut(&mut S) -> Result<bool, E>,
    ) -> Result<(), E> {
        for &index in &self.lanes[Lane::Receives as usize] {
            let Some((id, _)) = self.operations.get(index).op.target() else {
                continue;
            };
            let slot = &mut self.slots[id.0 as usize];
            if let Some(socket) = &mut slot.socket
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
        // Most turns of a spinning worker have nothing to hand over.
        if !self.completed.is_empty() {
            let count = self.completed.len().min(COMPLETIONS_PER_TURN);
            done.extend(self.completed.drain(..count));
        }
        if self.completed.is_empty() && !self.retired.is_empty() {
            self.vacant.append(&mut self.retired);
        }
    }

    pub(super) fn insert(&mut self, socket: S) -> Result<SocketId, OpError> {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None if self.slots.len() < SOCKETS_MAX as usize => {
                self.slots.push(Slot {
                    socket: None,
                    dead: false,
                    outstanding: [NONE; 2],
                    send_error: None,
                    listed: false,
                });
                (self.slots.len() - 1) as u32
            }
            None => return Err(OpError::TooManyFiles),
        };
        let slot = &mut self.slots[index as usize];
        slot.socket = Some(socket);
        slot.dead = false;
        slot.send_error = None;
        Ok(SocketId(index))
    }

    pub(super) fn release(&mut self, id: SocketId) -> Result<S, OpError> {
        let slot = self.live_slot(id).ok_or(OpError::BadSocket)?;
        if slot.outstanding != [NONE; 2] {
            return Err(OpError::Busy);
        }
        let socket = slot.socket.take().ok_or(OpError::BadSocket)?;
        self.vacant.push(id.0);
        Ok(socket)
    }

    pub(super) fn socket(&self, id: SocketId) -> Option<&S> {
        let slot = self.slots.get(id.0 as usize)?;
        slot.socket.as_ref().filter(|_| !slot.dead)
    }

    pub(super) fn allocate(&mut self, len: usize) -> Result<BufferId, DriverError> {
        self.arena
            .allocate(len)
            .ok_or(DriverError::Resources { what: "a buffer", source: OpError::NoMemory })
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
    memory: Box<[u8]>,
    buffer_bytes: usize,
    /// How many bytes each buffer was filled with.
    filled: Box<[u32]>,
    free: Vec<u16>,
}

impl Pool {
    pub(super) fn new(count: u16, buffer_bytes: u32) -> Self {
        Self {
            memory: vec![0; usize::from(count) * buffer_bytes as usize].into_boxed_slice(),
            buffer_bytes: buffer_bytes as usize,
            filled: vec![0; usize::from(count)].into_boxed_slice(),
            free: (0..count).rev().collect(),
        }
    }

    /// The buffer that is filled next, if one is free.
    pub(super) fn candidate(&mut self) -> Option<&mut [u8]> {
        let index = usize::from(*self.free.last()?);
        Some(&mut self.memory[index * self.buffer_bytes..][..self.buffer_bytes])
    }

    /// Gives out the candidate, filled with `len` bytes.
    ///
    /// # Panics
    /// When there is no candidate.
    pub(super) fn give_out(&mut self, len: u32) -> PoolBuffer {
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
