//! Operations in flight on a ring, with the memory that they lend to the kernel.
//!
//! [`InFlight`] keeps one promise by which its users stay free of unsafe code: memory that an operation names
//! (buffers, addresses, headers) is neither freed nor handed out against its loan until the kernel has given
//! the operation's last completion. Which operation is started when, and what its completion means, is the
//! driver's business.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode};

use super::arena::Arena;
use super::message::Message;
use super::pool::Pool;
pub use super::ring::Entered;
use super::ring::{IGNORED, Ring, Target, WOKEN};
use crate::clock::{Clock, MonotonicClock};
use crate::io::{BufferId, DatagramFrom, DriverError, Op, OpError, PoolBuffer, Token, TokenIndex};
use crate::limits::OPERATIONS_MAX;
use tare_units::bounds::RELEASE_MAX;
use tare_units::limits::RING_ENTRIES;
use tare_units::{Instant, Nanos};

mod direct;
mod entry;
mod loans;

use entry::entry;

/// Operations, and messages, for which room is made at the start; more is made as more come.
const ROOM: usize = 256;
/// Messages that are kept for the next operations. Many connections that are made at once need one each, which they
/// do not need any more once they stand.
const SPARE_MAX: usize = 4096;

/// A socket that is known to a ring; made by [`InFlight::attach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    target: Target,
    descriptor: RawFd,
    is_ipv6: bool,
}

impl File {
    /// The socket is of the IPv6 family, so addresses are given to it in that form.
    #[must_use]
    pub const fn is_ipv6(self) -> bool {
        self.is_ipv6
    }
}

/// A completion that concerns an operation.
#[derive(Debug)]
pub struct Landed {
    /// Which operation.
    pub slot: u32,
    /// What the kernel answers: an errno negated, or the result.
    pub result: i32,
    /// More completions of the operation will come.
    pub more: bool,
    /// It tells of the release of a zero-copy send's buffer, not of the send.
    pub notification: bool,
    /// The pool buffer filled, of as many bytes as the result says.
    pub pool: Option<PoolBuffer>,
    /// The connection accepted.
    pub accepted: Option<OwnedFd>,
}

/// A completion.
#[derive(Debug)]
pub enum Event {
    /// Of an operation.
    Landed(Landed),
    /// The waker's poll fired; if it is not `armed` any more it must be armed anew.
    Woken {
        /// Still armed.
        armed: bool,
    },
    /// Of something internal, and of no interest.
    Internal,
}

/// One operation and what it holds.
struct Flight {
    op: Op,
    file: Option<File>,
    /// Where the range of a single-buffer operation lies; the loan that keeps it there ends in `remove`.
    data: *mut u8,
    /// From `Box::into_raw`, given back to `spare` in `remove` or leaked.
    message: Option<NonNull<Message>>,
    /// From the push of its entry to the reaping of its last completion. While it is set nobody touches the
    /// message, or ends the loans.
    in_kernel: bool,
}

/// All operations of a driver, and the memory they use.
pub struct InFlight {
    // Dropped first: when the ring is closed, nothing is submitted any more.
    ring: Ring,
    slots: Vec<Option<Flight>>,
    tokens: TokenIndex,
    vacant: Vec<u32>,
    in_kernel: usize,
    #[expect(clippy::vec_box, reason = "a message must not move while it is in use")]
    spare: Vec<Box<Message>>,
    arena: Arena,
    pool: Option<Pool>,
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight")
            .field("slots", &self.slots.len())
            .field("in_kernel", &self.in_kernel)
            .finish_non_exhaustive()
    }
}

impl InFlight {
    /// Sets up a ring for this thread, with its steps down in words.
    ///
    /// # Errors
    /// [`DriverError::Resources`] where the kernel denies a ring or lacks an operation (`what` names it),
    /// [`DriverError::Call`] where it gives a ring and denies its use.
    pub fn new() -> Result<(Self, Vec<String>), DriverError> {
        let (ring, step_downs) = Ring::new()?;
        let flights = Self {
            ring,
            slots: Vec::with_capacity(ROOM),
            tokens: TokenIndex::new(),
            vacant: Vec::with_capacity(ROOM),
            in_kernel: 0,
            spare: std::iter::repeat_with(|| Box::new(Message::new())).take(ROOM).collect(),
            arena: Arena::default(),
            pool: None,
        };
        Ok((flights, step_downs))
    }

    /// Zero-copy sends are offered.
    #[must_use]
    pub const fn zero_copy(&self) -> bool {
        self.ring.zero_copy
    }

    /// As on a kernel without them.
    #[cfg(test)]
    pub(crate) const fn withhold_zero_copy(&mut self) {
        self.ring.zero_copy = false;
    }

    /// Completions that the kernel had to keep aside because the queue was full.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.ring.overflows()
    }

    /// The buffers, to be allocated, freed, read and written as their loans allow.
    #[must_use]
    pub const fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Allocates a buffer; `None` when ids have run out.
    pub fn allocate(&mut self, len: usize) -> Option<BufferId> {
        self.arena.allocate(len)
    }

    /// Frees a buffer once no operation holds it.
    pub fn free(&mut self, buffer: BufferId) {
        self.arena.free(buffer);
    }

    /// The bytes of a buffer that no operation holds.
    ///
    /// # Panics
    /// As [`Arena::bytes_mut`].
    pub fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        self.arena.bytes_mut(buffer)
    }

    /// Makes a socket, and its family, known to the ring, under an index that no other attached socket has.
    /// The socket must be detached before it is closed.
    #[must_use]
    pub fn attach(&self, index: u32, socket: &OwnedFd, is_ipv6: bool) -> File {
        File { target: self.ring.register(index, socket), descriptor: socket.as_raw_fd(), is_ipv6 }
    }

    /// A socket that the ring is not told of: its descriptor serves.
    pub fn unattached(socket: &OwnedFd, is_ipv6: bool) -> File {
        File {
            target: Target::Descriptor(socket.as_raw_fd()),
            descriptor: socket.as_raw_fd(),
            is_ipv6,
        }
    }

    /// Makes the ring forget a socket.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn detach(&self, file: File) -> Result<(), DriverError> {
        self.ring.unregister(file.target)
    }

    /// Sets up the pool of multishot receives.
    ///
    /// # Errors
    /// [`DriverError::Resources`] when there is one already, the sizes are not allowed, or the kernel
    /// refuses.
    pub fn provide_pool(&mut self, count: u16, len: u32) -> Result<(), DriverError> {
        let refused = |what, source| DriverError::Resources { what, source };
        if self.pool.is_some() {
            return Err(refused("a second receive pool", OpError::Invalid));
        }
        let mut pool = Pool::new(count, len)
            .ok_or_else(|| refused("a receive pool of that size", OpError::Invalid))?;
        // SAFETY: the entries live until the pool is dropped, which `InFlight::drop` does only after it has
        // unregistered them, and which happens nowhere else.
        unsafe { self.ring.register_pool(pool.ring_address(), pool.count()) }.map_err(|e| {
            refused("receive buffers (need Linux 5.19)", OpError::from(("io_uring_register", &e)))
        })?;
        for id in 0..count {
            pool.give(id);
        }
        self.pool = Some(pool);
        Ok(())
    }

    /// Whether there is a pool.
    #[must_use]
    pub const fn has_pool(&self) -> bool {
        self.pool.is_some()
    }

    /// The bytes in a pool buffer.
    ///
    /// # Panics
    /// When it was recycled already.
    #[must_use]
    pub fn pool_bytes(&self, buffer: &PoolBuffer) -> &[u8] {
        let pool = self.pool.as_ref();
        pool.expect("a pool buffer comes from the pool").bytes(buffer)
    }

    /// Gives a pool buffer back to the kernel.
    ///
    /// # Panics
    /// When it was recycled already.
    pub fn recycle(&mut self, buffer: PoolBuffer) {
        let pool = self.pool.as_mut();
        pool.expect("a pool buffer comes from the pool").give(buffer.0);
    }

    /// Operations taken in and not yet removed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// No operation is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in an operation on `file` and lends its buffers.
    ///
    /// # Panics
    /// When a buffer of it is lent against the operation's nature or too short, or when there are
    /// [`OPERATIONS_MAX`] operations already.
    #[inline]
    pub fn insert(&mut self, token: Token, op: Op, file: Option<File>) -> u32 {
        let (data, message) = self.lend(&op, file);
        let flight = Flight { op, file, data, message, in_kernel: false };
        if let Some(slot) = self.vacant.pop() {
            self.slots[slot as usize] = Some(flight);
            self.tokens.insert(slot, token);
            return slot;
        }
        let slot = u32::try_from(self.slots.len()).expect("bounded by OPERATIONS_MAX");
        assert!(slot < OPERATIONS_MAX, "more operations than OPERATIONS_MAX");
        self.slots.push(Some(flight));
        self.tokens.insert(slot, token);
        slot
    }

    fn flight(&self, slot: u32) -> &Flight {
        let flight = self.slots.get(slot as usize).and_then(Option::as_ref);
        flight.expect("the slot is in use until `remove`")
    }

    /// The operation in a slot.
    ///
    /// # Panics
    /// When the slot is vacant.
    #[inline]
    #[must_use]
    pub fn op(&self, slot: u32) -> &Op {
        &self.flight(slot).op
    }

    /// The token of the operation in a slot.
    ///
    /// # Panics
    /// When the slot was never in use.
    #[inline]
    #[must_use]
    pub fn token(&self, slot: u32) -> Token {
        self.tokens.token(slot)
    }

    /// Whether the kernel has the operation.
    ///
    /// # Panics
    /// When the slot is vacant.
    #[inline]
    #[must_use]
    pub fn in_kernel(&self, slot: u32) -> bool {
        self.flight(slot).in_kernel
    }

    /// An operation with that token that `wanted` accepts.
    #[must_use]
    pub fn find(&self, token: Token, wanted: impl Fn(&Op) -> bool) -> Option<u32> {
        self.tokens.find(token, |slot| wanted(self.op(slot)))
    }

    /// Queues an operation for the kernel. A half-close and a close are not for the ring, and a cancel goes
    /// through [`InFlight::cancel`].
    ///
    /// # Errors
    /// What ends the driver.
    ///
    /// # Panics
    /// When the kernel has it already, or the slot is vacant.
    #[inline]
    pub fn submit(&mut self, slot: u32) -> Result<(), DriverError> {
        let zero_copy = self.ring.zero_copy;
        let flight = self.slots.get_mut(slot as usize).and_then(Option::as_mut);
        let flight = flight.expect("the slot is in use until `remove`");
        assert!(!flight.in_kernel, "operation {slot} is in flight already");
        let entry = entry(flight, zero_copy).user_data(u64::from(slot));
        // SAFETY: what the entry names is the arena's range, lent since `insert`, or the flight's message.
        // Both stay until `remove`, which refuses while `in_kernel` is set, as it is from here to the
        // last completion (`reap`). If the drain in `Drop` fails, both are leaked. The pool's buffers
        // are the kernel's while it holds them (`Pool`).
        unsafe { self.ring.push(&entry) }?;
        flight.in_kernel = true;
        self.in_kernel += 1;
        Ok(())
    }

    /// Queues the cancellation of the operation in `target`, on behalf of the one in `slot`, which lands
    /// with the answer.
    ///
    /// # Errors
    /// What ends the driver.
    ///
    /// # Panics
    /// When `slot` is vacant.
    pub fn cancel(&mut self, slot: u32, target: u32) -> Result<(), DriverError> {
        let entry = opcode::AsyncCancel::new(u64::from(target)).build();
        // SAFETY: a cancellation names no memory.
        unsafe { self.ring.push(&entry.user_data(u64::from(slot))) }?;
        let flight = self.slots[slot as usize].as_mut();
        flight.expect("the slot is in use until `remove`").in_kernel = true;
        self.in_kernel += 1;
        Ok(())
    }

    /// Queues the cancellation of the operation in `target`, on nobody's behalf.
    ///
    /// By its number, since the kernel finds that in a hash table and would search all that it has for a file.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn cancel_silently(&mut self, target: u32) -> Result<(), DriverError> {
        let entry = opcode::AsyncCancel::new(u64::from(target)).build();
        // SAFETY: a cancellation names no memory.
        unsafe { self.ring.push(&entry.user_data(IGNORED)) }
    }

    /// Arms the poll that ends a wait when `event` becomes readable. The descriptor must stay open.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn arm_waker(&mut self, event: &impl AsFd) -> Result<(), DriverError> {
        let entry = opcode::PollAdd::new(Fd(event.as_fd().as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build();
        // SAFETY: a poll names no memory.
        unsafe { self.ring.push(&entry.user_data(WOKEN)) }
    }

    /// Submits what is queued without sleeping; no system call if there is nothing to do.
    ///
    /// # Errors
    /// What ends the driver.
    #[inline]
    pub fn poll(&mut self) -> Result<(), DriverError> {
        self.ring.poll()
    }

    /// Submits what is queued and sleeps until `want` completions are there, or until the instant, given with
    /// the latest reading of the clock.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn enter(
        &mut self,
        want: u32,
        until: Option<(Instant, Instant)>,
    ) -> Result<Entered, DriverError> {
        self.ring.enter(want, until)
    }

    /// Whether entries wait to be submitted.
    #[inline]
    pub fn has_queued(&mut self) -> bool {
        self.ring.queued() > 0
    }

    /// Whether completions can be reaped.
    #[inline]
    pub fn has_completions(&mut self) -> bool {
        self.ring.has_completions()
    }

    /// The next completion.
    #[inline]
    pub fn reap(&mut self) -> Option<Event> {
        let entry = self.ring.reap()?;
        let more = cqueue::more(entry.flags());
        let slot = match entry.user_data() {
            WOKEN => return Some(Event::Woken { armed: more }),
            IGNORED => return Some(Event::Internal),
            slot => slot,
        };
        let flight =
            usize::try_from(slot).ok().and_then(|s| self.slots.get_mut(s)?.as_mut()).expect(
                "the kernel gives back the slots it was given, and they stay in use until then",
            );
        if !more {
            flight.in_kernel = false;
            self.in_kernel -= 1;
        }
        let result = entry.result();
        let accepted = match flight.op {
            Op::Accept { .. } if result >= 0 => {
                // SAFETY: a successful accept without direct descriptors gives a new descriptor, which
                // nobody else knows.
                Some(unsafe { OwnedFd::from_raw_fd(result) })
            }
            _ => None,
        };
        let pool = cqueue::buffer_select(entry.flags()).and_then(|id| {
            let pool = self.pool.as_mut()?;
            let buffer = pool.filled(id, result.max(0) as u32);
            if result > 0 {
                return Some(buffer);
            }
            pool.give(id);
            None
        });
        let slot = slot as u32;
        Some(Event::Landed(Landed {
            slot,
            result,
            more,
            notification: cqueue::notif(entry.flags()),
            pool,
            accepted,
        }))
    }

    /// When what landed in `slot` arrived, since the epoch, where the kernel told.
    ///
    /// # Panics
    /// While the kernel has the operation, and when it is no receive with a stamp.
    #[must_use]
    pub fn stamp(&self, slot: u32) -> Option<Nanos> {
        self.landed_message(slot).stamp()
    }

    /// The message of an operation that has landed.
    fn landed_message(&self, slot: u32) -> &Message {
        let flight = self.flight(slot);
        assert!(!flight.in_kernel, "operation {slot} is in flight");
        let message = flight.message.expect("a receive with more than bytes has a message");
        // SAFETY: the message lives until `remove`, and the kernel, which alone writes to it, has finished
        // with it: the operation is not in flight (just checked).
        unsafe { message.as_ref() }
    }

    /// The addresses of the datagram that landed in `slot`, and whether it was cut off.
    ///
    /// # Panics
    /// While the kernel has the operation, and when it is none that receives datagrams.
    #[must_use]
    pub fn datagram(&self, slot: u32) -> (DatagramFrom, bool) {
        self.landed_message(slot).received()
    }

    /// Ends an operation: its buffers are released and its slot is free.
    ///
    /// # Panics
    /// While the kernel has it, and when the slot is vacant.
    #[inline]
    pub fn remove(&mut self, slot: u32) {
        let flight = self.slots[slot as usize].take();
        let flight = flight.expect("the slot is in use");
        assert!(!flight.in_kernel, "operation {slot} is in flight");
        self.tokens.remove(slot);
        self.vacant.push(slot);
        self.release(&flight);
    }

    /// Cancels everything and reaps until the kernel has nothing left, for [`RELEASE_MAX`] at most.
    fn drain(&mut self) -> Result<(), DriverError> {
        let clock = MonotonicClock;
        let deadline = clock.now() + RELEASE_MAX;
        // One by one: cancelling all at once, the kernel goes through all anew for each, which took 2.4 s for 20,000
        // receives, against 40 ms.
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(|f| f.in_kernel) {
                self.cancel_silently(slot as u32)?;
            }
            if slot % RING_ENTRIES as usize == 0 {
                self.ring.enter(0, None)?;
                while self.reap().is_some() {}
            }
        }
        while self.in_kernel > 0 {
            let now = clock.now();
            if now >= deadline {
                break;
            }
            self.ring.enter(1, Some((now, deadline)))?;
            // Connections accepted meanwhile are closed with their event.
            while self.reap().is_some() {}
        }
        Ok(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // An error here means that the ring is unusable; what is in flight then counts as such for good.
        let _ = self.drain();
        for slot in 0..self.slots.len() {
            // Those in flight keep their loans, so the arena leaks their buffers, and their messages are
            // leaked here, on purpose: the kernel may still use both.
            if self.slots[slot].as_ref().is_some_and(|f| !f.in_kernel) {
                self.remove(u32::try_from(slot).expect("bounded by OPERATIONS_MAX"));
            }
        }
        if let Some(pool) = self.pool.take()
            && (self.ring.unregister_pool().is_err() || self.in_kernel > 0)
        {
            std::mem::forget(pool);
        }
    }
}
