//! What epoll and the simulated wire share: the driver contract over sockets that answer at once.
//!
//! An operation is attempted in the turn after its push; what would block is *parked* and attempted again when
//! the backend says so (on readiness, on every turn). An attempt too many does no harm, so hints may be
//! stale or double.

mod attempt;
mod pool;
mod table;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use super::{
    BufferId, Completion, DatagramFrom, DriverError, Op, OpError, PoolBuffer, SocketId, Token,
};
use crate::sys::arena::Arena;
pub(super) use attempt::Until;
use pool::Pool;
pub(super) use table::{Direction, Lane};
use table::{NONE, ROOM, State, Table};
use tare_units::Nanos;
use tare_units::limits::{COMPLETIONS_PER_TURN, SOCKETS_MAX};

/// Non-blocking socket calls: each answers at once, with `EAGAIN` where a kernel would.
pub(super) trait Calls {
    type Socket;

    fn accept(&mut self, listener: &Self::Socket) -> Result<Self::Socket, Errno>;
    /// Starts, or asks after, a connection; `EINPROGRESS` and `EALREADY` are not yet.
    fn connect(&mut self, socket: &Self::Socket, to: SocketAddr) -> Result<(), Errno>;
    fn send(&mut self, socket: &Self::Socket, bytes: &[u8]) -> Result<usize, Errno>;
    fn send_vectored(
        &mut self,
        socket: &Self::Socket,
        ranges: &[IoSlice<'_>],
    ) -> Result<usize, Errno>;
    fn send_to(
        &mut self,
        socket: &Self::Socket,
        bytes: &[u8],
        to: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<usize, Errno>;
    fn receive(&mut self, socket: &Self::Socket, into: &mut [u8]) -> Result<usize, Errno>;
    /// As a receive of up to `len` bytes of a stream, which are thrown away.
    fn discard(&mut self, socket: &Self::Socket, len: u32) -> Result<usize, Errno>;
    /// As a receive of one byte that leaves it there.
    fn peek(&mut self, socket: &Self::Socket) -> Result<usize, Errno>;
    fn receive_from(
        &mut self,
        socket: &Self::Socket,
        into: &mut [u8],
    ) -> Result<(usize, DatagramFrom, bool), Errno>;
    /// As a receive; with the time of the arrival since the epoch, where it is known.
    fn receive_stamped(
        &mut self,
        socket: &Self::Socket,
        into: &mut [u8],
    ) -> Result<(usize, Option<Nanos>), Errno>;
    fn half_close(&mut self, socket: &Self::Socket) -> Result<(), Errno>;
    fn is_stream(&self, socket: &Self::Socket) -> bool;
    /// Whether the backend will notice when the socket becomes ready in that direction.
    fn is_watched(&self, socket: &Self::Socket, direction: Direction) -> bool;
}

#[derive(Debug)]
struct Slot<S> {
    socket: Option<S>,
    /// A close was pushed.
    dead: bool,
    input: u32,
    output: u32,
    /// What ended a repeated send that had sent something; for the next operation in that direction.
    send_error: Option<OpError>,
    /// Stands in `Core::unwatched`. Outlives the socket, so that reuse of the slot adds no second entry.
    listed: bool,
}

impl<S> Slot<S> {
    const fn outstanding(&self, direction: Direction) -> u32 {
        match direction {
            Direction::In => self.input,
            Direction::Out => self.output,
        }
    }

    const fn operation(&mut self, direction: Direction) -> &mut u32 {
        match direction {
            Direction::In => &mut self.input,
            Direction::Out => &mut self.output,
        }
    }
}

/// The contract, less the waiting.
#[derive(Debug)]
pub(super) struct Core<C: Calls> {
    pub(super) calls: C,
    slots: Vec<Slot<C::Socket>>,
    vacant: Vec<u32>,
    /// Slots whose close has not been handed over yet; their ids are not reused before.
    retired: Vec<u32>,
    table: Table,
    queue: Vec<u32>,
    completed: VecDeque<Completion>,
    arena: Arena,
    pool: Pool,
    receives: Vec<u32>,
    others: Vec<u32>,
    /// Multishot operations that stopped at the bound of a turn, not at `EAGAIN`: no edge will tell of them.
    resume: Vec<u32>,
    /// Sockets on which an operation is parked in a direction that the backend does not watch yet.
    unwatched: Vec<u32>,
    turn: u32,
    /// Parked operations that were attempted in this turn already.
    fresh: usize,
}

impl<C: Calls> Core<C> {
    pub(super) fn new(calls: C) -> Self {
        Self {
            calls,
            slots: Vec::with_capacity(ROOM),
            vacant: Vec::with_capacity(ROOM),
            retired: Vec::with_capacity(ROOM),
            table: Table::new(),
            queue: Vec::with_capacity(ROOM),
            completed: VecDeque::with_capacity(2 * COMPLETIONS_PER_TURN),
            arena: Arena::default(),
            pool: Pool::default(),
            receives: Vec::with_capacity(ROOM),
            others: Vec::with_capacity(ROOM),
            resume: Vec::with_capacity(ROOM),
            unwatched: Vec::with_capacity(ROOM),
            turn: 0,
            fresh: 0,
        }
    }

    pub(super) fn push(&mut self, token: Token, op: Op) -> Result<(), DriverError> {
        if self.table.is_full() {
            return Err(DriverError::Full);
        }
        let target = table::target(&op);
        let state = match target {
            Some((id, direction)) => match self.live_slot(id) {
                None => State::Refused(OpError::BadSocket),
                Some(slot) if direction.is_some_and(|d| slot.outstanding(d) != NONE) => {
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
        let index = self.table.insert(token, op, state, self.turn);
        if let (State::Queued, Some((id, direction))) = (state, target)
            && let Some(slot) = self.live_slot(id)
        {
            match direction {
                Some(direction) => *slot.operation(direction) = index,
                None => slot.dead = true,
            }
        }
        self.queue.push(index);
        Ok(())
    }

    fn live_slot(&mut self, id: SocketId) -> Option<&mut Slot<C::Socket>> {
        let slot = self.slots.get_mut(id.0 as usize)?;
        (slot.socket.is_some() && !slot.dead).then_some(slot)
    }

    fn lend(&mut self, op: &Op) {
        match op {
            Op::Send { data, .. } | Op::SendRepeated { data, .. } | Op::SendTo { data, .. } => {
                self.arena.lend_shared(*data);
            }
            Op::SendVectored { data, .. } => {
                for segment in data.iter().map_while(|s| *s) {
                    self.arena.lend_shared(segment);
                }
            }
            Op::Receive { into, .. }
            | Op::ReceiveFrom { into, .. }
            | Op::ReceiveStamped { into, .. } => {
                self.arena.hold_exclusive(*into);
            }
            _ => {}
        }
    }

    /// Starts a turn: attempts what was pushed, in order, and resumes what stopped at the last turn's bound.
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
        self.receives.len() + self.others.len() > self.fresh
    }

    /// How many operations are parked in a lane.
    pub(super) fn parked(&self, lane: Lane) -> usize {
        match lane {
            Lane::Receives => self.receives.len(),
            Lane::Others => self.others.len(),
        }
    }

    /// Attempts what is parked in a lane and was not attempted in this turn yet.
    #[inline]
    pub(super) fn attempt_lane(&mut self, lane: Lane, until: Until) {
        let mut place = 0;
        while let Some(&index) = self.lane(lane).get(place) {
            if self.table.get(index).tried != self.turn {
                self.attempt(index, until);
            }
            // One that completed left its place to another.
            if self.lane(lane).get(place) == Some(&index) {
                place += 1;
            }
        }
    }

    /// Attempts what is parked on a socket in a direction, if anything is.
    #[inline]
    pub(super) fn ready(&mut self, socket: usize, direction: Direction, until: Until) {
        if let Some(slot) = self.slots.get(socket) {
            let index = slot.outstanding(direction);
            if index != NONE {
                self.retry(index, until);
            }
        }
    }

    /// The next socket with something parked in a direction that was not watched, and what is parked there.
    pub(super) fn next_unwatched(&mut self) -> Option<(u32, &mut C::Socket, [bool; 2])> {
        loop {
            let id = self.unwatched.pop()?;
            let slot = &mut self.slots[id as usize];
            slot.listed = false;
            if slot.socket.is_some() {
                let parked = [slot.input != NONE, slot.output != NONE];
                let slot = &mut self.slots[id as usize];
                return slot.socket.as_mut().map(|socket| (id, socket, parked));
            }
        }
    }

    /// Has `forget` take each socket with a parked receive out of what the backend watches, if it is in there. It is
    /// named by [`Self::next_unwatched`] again.
    pub(super) fn unwatch_receives<E>(
        &mut self,
        mut forget: impl FnMut(&mut C::Socket) -> Result<bool, E>,
    ) -> Result<(), E> {
        for &index in &self.receives {
            let Some((id, _)) = table::target(&self.table.get(index).op) else {
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

    pub(super) fn insert(&mut self, socket: C::Socket) -> Result<SocketId, OpError> {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None if self.slots.len() < SOCKETS_MAX as usize => {
                self.slots.push(Slot {
                    socket: None,
                    dead: false,
                    input: NONE,
                    output: NONE,
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

    pub(super) fn release(&mut self, id: SocketId) -> Result<C::Socket, OpError> {
        let slot = self.live_slot(id).ok_or(OpError::BadSocket)?;
        if slot.input != NONE || slot.output != NONE {
            return Err(OpError::Busy);
        }
        let socket = slot.socket.take().ok_or(OpError::BadSocket)?;
        self.vacant.push(id.0);
        Ok(socket)
    }

    /// The socket of a live id.
    pub(super) fn socket(&self, id: SocketId) -> Option<&C::Socket> {
        let slot = self.slots.get(id.0 as usize)?;
        slot.socket.as_ref().filter(|_| !slot.dead)
    }

    pub(super) fn allocate(&mut self, len: usize) -> Result<BufferId, DriverError> {
        self.arena
            .allocate(len)
            .ok_or(DriverError::Resources { what: "a buffer", source: OpError::NoMemory })
    }

    pub(super) fn free(&mut self, buffer: BufferId) {
        self.arena.free(buffer);
    }

    #[inline]
    pub(super) fn buffer(&self, buffer: BufferId) -> &[u8] {
        self.arena.bytes(buffer)
    }

    #[inline]
    pub(super) fn buffer_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        self.arena.bytes_mut(buffer)
    }

    pub(super) fn provide_pool(&mut self, count: u16, len: u32) {
        self.pool = Pool::new(count, len);
    }

    pub(super) fn pool_bytes(&self, buffer: &PoolBuffer) -> &[u8] {
        self.pool.bytes(buffer)
    }

    pub(super) fn recycle(&mut self, buffer: PoolBuffer) {
        self.pool.recycle(buffer);
    }
}

impl<C: Calls> Drop for Core<C> {
    fn drop(&mut self) {
        // Nobody but this driver reads or writes its buffers, so with it all loans end; the arena would
        // take them for loans to a kernel and leak the memory.
        for entry in self.table.live() {
            if !matches!(entry.state, State::Refused(_)) {
                attempt::release_buffers(&mut self.arena, &entry.op);
            }
        }
    }
}
