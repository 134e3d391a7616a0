//! Operations in flight on a ring, with the memory that they lend to the kernel.
//!
//! [`InFlight`] keeps one promise by which its users stay free of unsafe code: memory that an
//! operation names (buffers, addresses, headers) is neither freed nor handed out against its loan
//! until the kernel has given the operation's last completion. Which operation is started when, and
//! what its completion means, is the driver's business.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{NonNull, null_mut};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;
use io_uring::{cqueue, opcode};
use nix::errno::Errno;

use super::arena::Arena;
use super::message::Message;
use super::pool::Pool;
pub(crate) use super::ring::Entered;
use super::ring::{IGNORED, REPORT_USAGE, Ring, Target, WOKEN};
use super::socket::for_family;
use crate::clock::{Clock, MonotonicClock};
use crate::io::{
    BufferId, DatagramFrom, DriverError, Op, OpError, Operations, Outcome, PoolBuffer, Segment,
    Token, send_repeatedly,
};
use tare_units::bounds::RELEASE_MAX;
use tare_units::limits::RING_ENTRIES;
use tare_units::{Instant, Nanos};

/// Operations, and messages, for which room is made at the start; more is made as more come.
const ROOM: usize = 256;
/// Messages that are kept for the next operations. Many connections that are made at once need one
/// each, which they do not need any more once they stand.
const SPARE_MAX: usize = 4096;
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A socket that is known to a ring; made by [`InFlight::attach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct File {
    target: Target,
    descriptor: RawFd,
    /// Addresses are given to it in IPv6's form.
    pub(crate) is_ipv6: bool,
}

#[derive(Debug, Default)]
pub(crate) struct RawCompletion {
    pub(crate) slot: u32,
    /// What the kernel answers: an errno negated, or the result.
    pub(crate) result: i32,
    /// More completions of the operation will come.
    pub(crate) more: bool,
    /// It tells of the release of a zero-copy send's buffer, not of the send.
    pub(crate) notification: bool,
    /// The pool buffer filled, of as many bytes as the result says.
    pub(crate) pool: Option<PoolBuffer>,
    pub(crate) accepted: Option<OwnedFd>,
}

#[derive(Debug)]
pub(crate) enum Event {
    Operation(RawCompletion),
    /// The waker's poll fired; if it is not `armed` any more it must be armed again.
    Woken {
        armed: bool,
    },
    /// It is of no interest to the driver.
    Internal,
}

struct Flight {
    op: Op,
    file: Option<File>,
    /// Where the range of a single-buffer operation lies; the loan that keeps it there ends in
    /// `remove`.
    data: *mut u8,
    /// From `Box::into_raw`, given back to `spare` in `remove` or leaked.
    message: Option<NonNull<Message>>,
    /// From the push of its entry to the reaping of its last completion. While it is set nobody
    /// touches the message, or ends the loans.
    in_kernel: bool,
}

/// All operations of a driver, and the memory they use.
pub(crate) struct InFlight {
    // Dropped first: when the ring is closed, nothing is submitted any more.
    ring: Ring,
    flights: Operations<Flight>,
    in_kernel: usize,
    #[expect(clippy::vec_box, reason = "a message must not move while it is in use")]
    spare: Vec<Box<Message>>,
    arena: Arena,
    pool: Option<Pool>,
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight")
            .field("flights", &self.flights.len())
            .field("in_kernel", &self.in_kernel)
            .finish_non_exhaustive()
    }
}

impl InFlight {
    /// Sets up a ring for this thread, with its steps down in words.
    ///
    /// # Errors
    /// [`DriverError::Resources`] where the kernel denies a ring or lacks an operation (`what`
    /// names it), [`DriverError::Call`] where it gives a ring and denies its use.
    pub(crate) fn new() -> Result<(Self, Vec<String>), DriverError> {
        let (ring, step_downs) = Ring::new()?;
        let flights = Self {
            ring,
            flights: Operations::with_capacity(ROOM),
            in_kernel: 0,
            spare: std::iter::repeat_with(|| Box::new(Message::new())).take(ROOM).collect(),
            arena: Arena::default(),
            pool: None,
        };
        Ok((flights, step_downs))
    }

    pub(crate) const fn zero_copy(&self) -> bool {
        self.ring.zero_copy
    }

    /// As on a kernel without them.
    #[cfg(test)]
    pub(crate) const fn withhold_zero_copy(&mut self) {
        self.ring.zero_copy = false;
    }

    pub(crate) fn overflows(&self) -> u64 {
        self.ring.overflows()
    }

    pub(crate) const fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(crate) fn allocate(&mut self, len: usize) -> Option<BufferId> {
        self.arena.allocate(len)
    }

    pub(crate) fn free(&mut self, buffer: BufferId) {
        self.arena.free(buffer);
    }

    pub(crate) fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        self.arena.bytes_mut(buffer)
    }

    /// Makes a socket known to the ring, under an index that no other attached socket has. It must
    /// be detached before it is closed. The ring is not told of a `brief` one: its descriptor
    /// serves.
    pub(crate) fn attach(&self, index: u32, socket: &OwnedFd, is_ipv6: bool, brief: bool) -> File {
        let descriptor = socket.as_raw_fd();
        let target =
            if brief { Target::Descriptor(descriptor) } else { self.ring.register(index, socket) };
        File { target, descriptor, is_ipv6 }
    }

    pub(crate) fn detach(&self, file: File) -> Result<(), DriverError> {
        self.ring.unregister(file.target)
    }

    /// Sets up the pool of multishot receives.
    ///
    /// # Errors
    /// [`DriverError::Resources`] when there is one already, the sizes are not allowed, or the
    /// kernel refuses.
    pub(crate) fn provide_pool(&mut self, count: u16, len: u32) -> Result<(), DriverError> {
        let refused = |what, source| DriverError::Resources { what, source };
        if self.pool.is_some() {
            return Err(refused("a second receive pool", OpError::Invalid));
        }
        let mut pool = Pool::new(count, len)
            .ok_or_else(|| refused("a receive pool of that size", OpError::Invalid))?;
        // SAFETY: the entries live until the pool is dropped, which `InFlight::drop` does only
        // after it has unregistered them, and which happens nowhere else.
        unsafe { self.ring.register_pool(pool.ring_address(), pool.count()) }.map_err(|e| {
            refused("receive buffers (need Linux 5.19)", OpError::from(("io_uring_register", &e)))
        })?;
        for id in 0..count {
            pool.give(id);
        }
        self.pool = Some(pool);
        Ok(())
    }

    pub(crate) const fn has_pool(&self) -> bool {
        self.pool.is_some()
    }

    pub(crate) fn pool_bytes(&self, buffer: &PoolBuffer) -> &[u8] {
        self.pool.as_ref().expect("a pool buffer comes from the pool").bytes(buffer)
    }

    pub(crate) fn recycle(&mut self, buffer: PoolBuffer) {
        self.pool.as_mut().expect("a pool buffer comes from the pool").give(buffer.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }

    /// Takes in an operation on `file` and lends its buffers.
    #[inline]
    pub(crate) fn insert(&mut self, token: Token, op: Op, file: Option<File>) -> u32 {
        let (data, message) = self.lend(&op, file);
        let flight = Flight { op, file, data, message, in_kernel: false };
        self.flights.insert(token, flight)
    }

    #[inline]
    pub(crate) fn op(&self, slot: u32) -> &Op {
        &self.flights.get(slot).op
    }

    #[inline]
    pub(crate) fn token(&self, slot: u32) -> Token {
        self.flights.token(slot)
    }

    #[inline]
    pub(crate) fn in_kernel(&self, slot: u32) -> bool {
        self.flights.get(slot).in_kernel
    }

    pub(crate) fn find(&self, token: Token, wanted: impl Fn(&Op) -> bool) -> Option<u32> {
        self.flights.find(token, |flight| wanted(&flight.op))
    }

    /// Queues an operation for the kernel. A half-close and a close are not for the ring, and a
    /// cancel goes through [`InFlight::cancel`].
    #[inline]
    pub(crate) fn submit(&mut self, slot: u32) -> Result<(), DriverError> {
        let flight = idle(&mut self.flights, slot);
        let entry = flight.entry(self.ring.zero_copy).user_data(u64::from(slot));
        // SAFETY: what the entry names is the arena's range, lent since `insert`, or the flight's
        // message. Both stay until `remove`, which refuses while `in_kernel` is set, as it is from
        // here to the last completion (`reap`). If the drain in `Drop` fails, both are leaked. The
        // pool's buffers are the kernel's while it holds them (`Pool`).
        unsafe { self.ring.push(&entry) }?;
        flight.in_kernel = true;
        self.in_kernel += 1;
        Ok(())
    }

    /// Queues the cancellation of the operation in `target`: on behalf of the one in `slot`, which
    /// completes with the answer, or of none.
    ///
    /// By its number, since the kernel finds that in a hash table and would search all that it has
    /// for a file.
    pub(crate) fn cancel(&mut self, target: u32, slot: Option<u32>) -> Result<(), DriverError> {
        let entry = opcode::AsyncCancel::new(u64::from(target)).build();
        let entry = entry.user_data(slot.map_or(IGNORED, u64::from));
        // SAFETY: a cancellation names no memory.
        unsafe { self.ring.push(&entry) }?;
        if let Some(slot) = slot {
            idle(&mut self.flights, slot).in_kernel = true;
            self.in_kernel += 1;
        }
        Ok(())
    }

    /// Arms the poll that ends a wait when `event` becomes readable. The descriptor must stay open.
    pub(crate) fn arm_waker(&mut self, event: &impl AsFd) -> Result<(), DriverError> {
        let entry = opcode::PollAdd::new(Fd(event.as_fd().as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build();
        // SAFETY: a poll names no memory.
        unsafe { self.ring.push(&entry.user_data(WOKEN)) }
    }

    /// Submits what is queued without sleeping; no system call if there is nothing to do.
    #[inline]
    pub(crate) fn poll(&mut self) -> Result<(), DriverError> {
        self.ring.poll()
    }

    /// Submits what is queued and sleeps until `want` completions are there, or until the instant,
    /// given with the latest reading of the clock.
    pub(crate) fn enter(
        &mut self,
        want: u32,
        until: Option<(Instant, Instant)>,
    ) -> Result<Entered, DriverError> {
        self.ring.enter(want, until)
    }

    /// Whether entries wait to be submitted.
    #[inline]
    pub(crate) fn has_queued(&mut self) -> bool {
        self.ring.queued() > 0
    }

    #[inline]
    pub(crate) fn has_completions(&mut self) -> bool {
        self.ring.has_completions()
    }

    #[inline]
    pub(crate) fn reap(&mut self) -> Option<Event> {
        let entry = self.ring.reap()?;
        let more = cqueue::more(entry.flags());
        let slot = match entry.user_data() {
            WOKEN => return Some(Event::Woken { armed: more }),
            IGNORED => return Some(Event::Internal),
            slot => slot,
        };
        // The kernel gives back the numbers that it was given, and they stay in use until then.
        let slot = u32::try_from(slot).expect("it was given a slot's number");
        let flight = self.flights.get_mut(slot);
        if !more {
            flight.in_kernel = false;
            self.in_kernel -= 1;
        }
        let result = entry.result();
        let is_accepted = matches!(flight.op, Op::Accept { .. }) && result >= 0;
        // SAFETY: a successful accept without direct descriptors gives a new descriptor, which
        // nobody else knows.
        let accepted = is_accepted.then(|| unsafe { OwnedFd::from_raw_fd(result) });
        let pool = cqueue::buffer_select(entry.flags()).and_then(|id| {
            let pool = self.pool.as_mut()?;
            let buffer = pool.filled(id, result.max(0) as u32);
            if result > 0 {
                return Some(buffer);
            }
            pool.give(id);
            None
        });
        Some(Event::Operation(RawCompletion {
            slot,
            result,
            more,
            notification: cqueue::notif(entry.flags()),
            pool,
            accepted,
        }))
    }

    /// When what was received in `slot` arrived, since the epoch, where the kernel told.
    pub(crate) fn stamp(&self, slot: u32) -> Option<Nanos> {
        self.received_message(slot).stamp()
    }

    /// The addresses of the datagram that was received in `slot`, and whether it was cut off.
    pub(crate) fn datagram(&self, slot: u32) -> (DatagramFrom, bool) {
        self.received_message(slot).received()
    }

    fn received_message(&self, slot: u32) -> &Message {
        let flight = self.flights.get(slot);
        assert!(!flight.in_kernel, "operation {slot} is in flight");
        let message = flight.message.expect("a receive with more than bytes has a message");
        // SAFETY: the message lives until `remove`, and the kernel, which alone writes to it, has
        // finished with it: the operation is not in flight (just checked).
        unsafe { message.as_ref() }
    }

    /// Ends an operation: its buffers are released and its slot is free.
    #[inline]
    pub(crate) fn remove(&mut self, slot: u32) {
        assert!(!self.flights.get(slot).in_kernel, "operation {slot} is in flight");
        let flight = self.flights.remove(slot);
        flight.op.for_each_segment(|segment| self.arena.release(segment.buffer));
        if let Some(message) = flight.message {
            // SAFETY: it came from `Box::leak` in `lend`, this is the only place that turns it
            // back, and its flight is out of its slot. The kernel has finished with it (checked
            // above).
            let message = unsafe { Box::from_raw(message.as_ptr()) };
            if self.spare.len() < SPARE_MAX {
                self.spare.push(message);
            }
        }
    }

    /// Lends what `op` names and writes its message.
    #[inline]
    fn lend(&mut self, op: &Op, file: Option<File>) -> (*mut u8, Option<NonNull<Message>>) {
        let message = match op {
            Op::Send { data, .. } | Op::SendRepeated { data, .. } => {
                return (self.arena.lend_shared(*data).cast_mut(), None);
            }
            Op::Receive { into, .. } => return (self.arena.lend_exclusive(*into), None),
            Op::SendVectored { data, .. } => {
                let mut message = self.message();
                let segments = data.iter().map_while(|segment| *segment);
                let lent = segments.map(|s| (self.arena.lend_shared(s), s.len as usize));
                message.vectored(lent);
                message
            }
            Op::SendTo { data, to, source, .. } => {
                let range = (self.arena.lend_shared(*data), data.len as usize);
                let to = for_family(file.is_some_and(|f| f.is_ipv6), *to);
                let mut message = self.message();
                message.send_to(range, to, *source);
                message
            }
            Op::ReceiveFrom { into, .. } | Op::ReceiveStamped { into, .. } => {
                let range = (self.arena.lend_exclusive(*into), into.len as usize);
                let mut message = self.message();
                message.receive(range, matches!(op, Op::ReceiveFrom { .. }));
                message
            }
            Op::Connect { .. } => self.message(),
            _ => return (null_mut(), None),
        };
        (null_mut(), Some(NonNull::from(Box::leak(message))))
    }

    fn message(&mut self) -> Box<Message> {
        self.spare.pop().unwrap_or_else(|| Box::new(Message::new()))
    }

    /// Sends as [`Op::SendRepeated`] says for as long as it need not wait, by plain system calls
    /// (`MSG_DONTWAIT`).
    #[inline]
    pub(crate) fn send_repeatedly(&mut self, slot: u32) -> Result<(Outcome, Option<Errno>), Errno> {
        let flight = idle(&mut self.flights, slot);
        let descriptor = flight.descriptor();
        let Op::SendRepeated { data, count, .. } = flight.op else {
            panic!("operation {slot} is no repeated send");
        };
        let (bytes, len) = (flight.data.cast_const().cast(), data.len as usize);
        send_repeatedly(count, data.len, || {
            // SAFETY: `bytes` is the arena's range of `len` bytes, lent for reading from `insert`
            // to `remove`.
            let sent = unsafe { libc::send(descriptor, bytes, len, SEND_FLAGS) };
            Errno::result(sent).map(isize::unsigned_abs)
        })
    }

    /// Tries a single receive, or a send of one buffer, at once by a plain system call
    /// (`MSG_DONTWAIT`); `None` where it would have to wait.
    #[inline]
    pub(crate) fn attempt(&mut self, slot: u32) -> Option<RawCompletion> {
        let flight = idle(&mut self.flights, slot);
        let (descriptor, data) = (flight.descriptor(), flight.data.cast());
        let moved = match flight.op {
            Op::Receive { into, .. } => {
                // SAFETY: `data` is the arena's range of that many bytes, lent for writing from
                // `insert` to `remove`, and no other operation writes to it: this one is not in
                // flight.
                unsafe { libc::recv(descriptor, data, into.len as usize, libc::MSG_DONTWAIT) }
            }
            Op::Discard { len, .. } => {
                let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
                // SAFETY: with `MSG_TRUNC` TCP writes nothing, and any other protocol finds that
                // nothing can be written at the null address, which the kernel checks.
                unsafe { libc::recv(descriptor, null_mut(), len as usize, flags) }
            }
            Op::Send { data: Segment { len, .. }, .. } => {
                // SAFETY: `data` is the arena's range of `len` bytes, lent for reading from
                // `insert` to `remove`.
                unsafe { libc::send(descriptor, data, len as usize, SEND_FLAGS) }
            }
            Op::ReceiveFrom { .. } | Op::ReceiveStamped { .. } => {
                let header = flight.message().header();
                // SAFETY: the header names the message's own address and control storage and the
                // arena's range, lent as in `Receive`; the lengths in it are theirs.
                unsafe { libc::recvmsg(descriptor, header, libc::MSG_DONTWAIT) }
            }
            Op::SendTo { .. } => {
                let header = flight.message().header();
                // SAFETY: as above, the range lent as in `Send`; the kernel only reads.
                unsafe { libc::sendmsg(descriptor, header, SEND_FLAGS) }
            }
            _ => panic!("operation {slot} is no send or receive of one buffer"),
        };
        let result = match Errno::result(moved) {
            Ok(moved) => {
                i32::try_from(moved).expect("as much as one io_uring operation moves fits an i32")
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return None,
            Err(errno) => -(errno as i32),
        };
        Some(RawCompletion { slot, result, ..RawCompletion::default() })
    }

    /// Cancels everything and reaps until the kernel has nothing left, for [`RELEASE_MAX`] at most.
    fn drain(&mut self) -> Result<(), DriverError> {
        let deadline = MonotonicClock.now() + RELEASE_MAX;
        // One by one: cancelling all at once, the kernel goes through all again for each, which took
        // 2.4 s for 20,000 receives, against 40 ms.
        for slot in self.flights.places() {
            if self.flights.find_place(slot).is_some_and(|f| f.in_kernel) {
                self.cancel(slot, None)?;
            }
            if slot.is_multiple_of(RING_ENTRIES) {
                self.ring.enter(0, None)?;
                while self.reap().is_some() {}
            }
        }
        while self.in_kernel > 0 {
            let now = MonotonicClock.now();
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
        // An error here means that the ring is unusable; what is in flight then counts as such for
        // good.
        let _ = self.drain();
        for slot in self.flights.places() {
            // Those in flight keep their loans, so the arena leaks their buffers, and their
            // messages are leaked here, on purpose: the kernel may still use both.
            if self.flights.find_place(slot).is_some_and(|f| !f.in_kernel) {
                self.remove(slot);
            }
        }
        if let Some(pool) = self.pool.take()
            && (self.ring.unregister_pool().is_err() || self.in_kernel > 0)
        {
            std::mem::forget(pool);
        }
    }
}

/// The operation in a slot, which the kernel does not have.
#[inline]
fn idle(flights: &mut Operations<Flight>, slot: u32) -> &mut Flight {
    let flight = flights.get_mut(slot);
    assert!(!flight.in_kernel, "operation {slot} is in flight already");
    flight
}

impl Flight {
    fn descriptor(&self) -> RawFd {
        self.file.expect("sends and receives have a socket").descriptor
    }

    /// The message of an operation that is not in flight.
    #[inline]
    fn message(&mut self) -> &mut Message {
        let mut message = self.message.expect("`lend` gave it a message");
        // SAFETY: it lives until `remove`, and only this flight has its address. `submit` and
        // `attempt`, from which all calls come, have checked that the operation is not in flight
        // (`idle`), so the kernel does not use it either.
        unsafe { message.as_mut() }
    }

    /// What the ring is told for the operation. Every pointer in it is the flight's data or its
    /// message.
    #[inline]
    fn entry(&mut self, zero_copy_offered: bool) -> Entry {
        let (fd, flags) = self.file.map_or((Fd(-1), Flags::empty()), |f| f.target.field());
        let entry = match self.op {
            Op::Accept { multishot: true, .. } => {
                opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
            }
            Op::Accept { .. } => {
                opcode::Accept::new(fd, null_mut(), null_mut()).flags(libc::SOCK_CLOEXEC).build()
            }
            Op::Connect { to, .. } => {
                let is_ipv6 = self.file.is_some_and(|f| f.is_ipv6);
                let (address, len) = self.message().address(for_family(is_ipv6, to));
                opcode::Connect::new(fd, address, len).build()
            }
            Op::Send { data, zero_copy: true, .. } if zero_copy_offered => {
                opcode::SendZc::new(fd, self.data, data.len)
                    .flags(libc::MSG_NOSIGNAL)
                    .zc_flags(REPORT_USAGE)
                    .build()
            }
            Op::Send { data, .. } | Op::SendRepeated { data, .. } => {
                opcode::Send::new(fd, self.data, data.len).flags(libc::MSG_NOSIGNAL).build()
            }
            Op::Receive { into, .. } => opcode::Recv::new(fd, self.data, into.len).build(),
            // The kernel writes nothing (`tcp(7)`).
            Op::Discard { len, .. } => {
                opcode::Recv::new(fd, null_mut(), len).flags(libc::MSG_TRUNC).build()
            }
            Op::ReceiveMultishot { .. } => opcode::RecvMulti::new(fd, 0).build(),
            Op::SendVectored { .. } | Op::SendTo { .. } => {
                let header = self.message().header();
                opcode::SendMsg::new(fd, header).flags(libc::MSG_NOSIGNAL as u32).build()
            }
            Op::ReceiveFrom { .. } | Op::ReceiveStamped { .. } => {
                opcode::RecvMsg::new(fd, self.message().header()).build()
            }
            Op::HalfClose { .. } | Op::Close { .. } | Op::Cancel { .. } => {
                unreachable!("the driver carries these out without an entry of their own")
            }
        };
        entry.flags(flags)
    }
}
