//! Ways to move bulk data over a ring that the driver does not go: `benches/bulk.rs` measures them.

use std::os::fd::{AsRawFd as _, OwnedFd};

use io_uring::squeue::Entry;
use io_uring::{cqueue, opcode};
use nix::sys::socket::{Shutdown, shutdown};

use super::arena::Arena;
use super::pool::Pool;
use super::ring::{REPORT_USAGE, Ring, Target};
use crate::clock::{Clock as _, MonotonicClock};
use crate::io::{DriverError, OpError, Segment};
use tare_units::Nanos;

/// How long `Drop` waits for the kernel to give everything back.
const DRAIN: Nanos = Nanos::from_secs(1);
/// Buffers of a receive pool.
const POOL: u16 = 16;
/// The group of provided buffers, the only one of a ring.
const GROUP: u16 = 0;
/// The index of the registered buffer, the only one of a ring.
const FIXED: u16 = 0;
/// `IORING_NOTIF_USAGE_ZC_COPIED` of `linux/io_uring.h`.
const COPIED: u32 = 1 << 31;

/// How messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    Plain,
    /// With `MSG_WAITALL`: no message is cut.
    WaitAll,
    /// `WRITE_FIXED`, from a registered buffer.
    Fixed,
    ZeroCopy,
    /// From a registered buffer.
    ZeroCopyFixed,
    /// `SEND` of a bundle: all messages of a batch in one entry, which the kernel sends as one.
    Bundle,
}

/// How bytes are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiving {
    /// Into one buffer.
    Single,
    /// Into provided buffers.
    Multishot,
    /// Multishot, of bundles of provided buffers.
    Bundle,
    /// With `MSG_TRUNC`: nothing is copied.
    Discard,
}

/// What was sent, or received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    pub bytes: u64,
    /// Zero-copy sends whose buffer was released meanwhile, of this batch or an earlier one.
    pub released: u64,
    /// Those of them that the kernel copied all the same.
    pub copied: u64,
}

impl Moved {
    pub const fn of(bytes: u64) -> Self {
        Self { bytes, released: 0, copied: 0 }
    }
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.released += more.released;
        self.copied += more.copied;
    }
}

/// A socket on a ring of its own, with the memory that its operations name.
struct Line {
    // Dropped first: when the ring is closed, nothing is submitted any more.
    ring: Ring,
    target: Target,
    socket: OwnedFd,
    arena: Arena,
    /// Lent to the kernel from the beginning; released in `Drop`, where nothing is in flight.
    segment: Segment,
    data: *mut u8,
    pool: Option<Pool>,
    in_flight: u32,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

fn failed(call: &'static str, source: OpError) -> DriverError {
    DriverError::Call { call, source }
}

impl Line {
    fn new(socket: OwnedFd, len: u32, is_written: bool) -> Result<Self, DriverError> {
        let (ring, _) = Ring::new()?;
        let mut arena = Arena::default();
        let buffer =
            arena.allocate(len as usize).ok_or_else(|| failed("allocate", OpError::NoMemory))?;
        let segment = Segment { buffer, start: 0, len };
        let data = if is_written {
            arena.lend_exclusive(segment)
        } else {
            arena.lend_shared(segment).cast_mut()
        };
        let target = ring.register(0, &socket);
        Ok(Self { ring, target, socket, arena, segment, data, pool: None, in_flight: 0 })
    }

    fn provide(&mut self, count: u16, len: u32) -> Result<(), DriverError> {
        let mut pool =
            Pool::new(count, len).ok_or_else(|| failed("provide buffers", OpError::Invalid))?;
        // SAFETY: the entries live as long as the pool, which `Drop` frees after it has
        // unregistered them, or not at all.
        unsafe { self.ring.register_pool(pool.ring_address(), count) }
            .map_err(|e| DriverError::call("io_uring_register", &e))?;
        for id in 0..count {
            pool.give(id);
        }
        self.pool = Some(pool);
        Ok(())
    }

    fn fix(&self) -> Result<(), DriverError> {
        let range = libc::iovec { iov_base: self.data.cast(), iov_len: self.segment.len as usize };
        // SAFETY: `data` is the arena's range of that length, lent from `new` until `Drop` has
        // found nothing in flight; otherwise it is never freed.
        unsafe { self.ring.register_buffer(range) }
            .map_err(|e| DriverError::call("io_uring_register", &e))
    }

    /// Queues an entry of this module's, which names the line's data or its pool, or no memory.
    fn push(&mut self, entry: Entry) -> Result<(), DriverError> {
        let (_, flags) = self.target.field();
        // SAFETY: `data` is lent from `new` to `Drop`, which releases it only where nothing is in
        // flight, and so it is with the pool. Nobody reads what is written there, and nobody writes
        // what is read.
        unsafe { self.ring.push(&entry.flags(flags)) }?;
        self.in_flight += 1;
        Ok(())
    }

    fn reap(&mut self) -> Option<cqueue::Entry> {
        let entry = self.ring.reap()?;
        if !cqueue::more(entry.flags()) {
            self.in_flight -= 1;
        }
        Some(entry)
    }

    /// Takes the buffers back in which the kernel had, or has put, so many bytes. It uses them in
    /// the order in which they were given, and they are given back in that order, so they follow
    /// each other.
    fn recycle(&mut self, entry: &cqueue::Entry, bytes: u32) {
        let (Some(first), Some(pool)) = (cqueue::buffer_select(entry.flags()), &mut self.pool)
        else {
            return;
        };
        let count = bytes.div_ceil(self.segment.len).max(1);
        for place in 0..count as u16 {
            let id = first.wrapping_add(place) & (pool.count() - 1);
            let buffer = pool.filled(id, self.segment.len);
            pool.give(buffer.0);
        }
    }

    fn drain(&mut self) -> Result<(), DriverError> {
        // Ends what is in flight, whichever way it goes.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        self.ring.cancel_all()?;
        self.in_flight += 1;
        let deadline = MonotonicClock.now() + DRAIN;
        while self.in_flight > 0 {
            let now = MonotonicClock.now();
            if now >= deadline {
                break;
            }
            self.ring.enter(1, Some((now, deadline)))?;
            while self.reap().is_some() {}
        }
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // An error means that the ring is unusable, and then the kernel may keep what it has.
        let is_drained = self.drain().is_ok() && self.in_flight == 0;
        if is_drained {
            self.arena.release(self.segment.buffer);
        }
        if let Some(pool) = self.pool.take()
            && (self.ring.unregister_pool().is_err() || !is_drained)
        {
            std::mem::forget(pool);
        }
    }
}

/// Sends the same message again and again. Dropping it shuts the connection down.
#[derive(Debug)]
pub struct SendRing {
    line: Line,
    sending: Sending,
    batch: u16,
}

impl SendRing {
    /// A ring that sends messages of so many bytes in batches of `batch`, a power of two, over a
    /// blocking stream socket.
    pub fn new(
        socket: OwnedFd,
        message_bytes: u32,
        sending: Sending,
        batch: u16,
    ) -> Result<Self, DriverError> {
        let mut line = Line::new(socket, message_bytes, false)?;
        match sending {
            Sending::Bundle => line.provide(batch, message_bytes)?,
            Sending::Fixed | Sending::ZeroCopyFixed => line.fix()?,
            Sending::ZeroCopy if !line.ring.zero_copy => {
                return Err(failed("SEND_ZC", OpError::NotSupported));
            }
            _ => {}
        }
        Ok(Self { line, sending, batch })
    }

    fn entry(&self) -> Entry {
        let (fd, _) = self.line.target.field();
        let (data, len) = (self.line.data.cast_const(), self.line.segment.len);
        let plain = |flags| opcode::Send::new(fd, data, len).flags(flags).build();
        let zero_copy =
            || opcode::SendZc::new(fd, data, len).flags(libc::MSG_NOSIGNAL).zc_flags(REPORT_USAGE);
        match self.sending {
            Sending::Plain => plain(libc::MSG_NOSIGNAL),
            Sending::WaitAll => plain(libc::MSG_NOSIGNAL | libc::MSG_WAITALL),
            Sending::Fixed => opcode::WriteFixed::new(fd, data, len, FIXED).build(),
            Sending::ZeroCopy => zero_copy().build(),
            Sending::ZeroCopyFixed => zero_copy().buf_index(Some(FIXED)).build(),
            Sending::Bundle => opcode::SendBundle::new(fd, GROUP).flags(libc::MSG_NOSIGNAL).build(),
        }
    }

    /// Sends one batch: submits all of it by one system call and waits until the kernel has taken,
    /// of each message, all or a part.
    pub fn send_batch(&mut self) -> Result<Moved, DriverError> {
        let mut missing = match self.sending {
            Sending::Bundle => 1,
            _ => u32::from(self.batch),
        };
        for _ in 0..missing {
            self.line.push(self.entry())?;
        }
        let mut sent = Moved::default();
        while missing > 0 {
            self.line.ring.enter(missing, None)?;
            while let Some(entry) = self.line.reap() {
                let result = entry.result();
                if cqueue::notif(entry.flags()) {
                    sent.released += 1;
                    sent.copied += u64::from(result.cast_unsigned() & COPIED != 0);
                    continue;
                }
                let Ok(bytes) = u32::try_from(result) else {
                    return Err(failed("send", OpError::from_errno("send", -result)));
                };
                self.line.recycle(&entry, bytes);
                sent.bytes += u64::from(bytes);
                // A bundle may complete in parts; a zero-copy send's second completion is its
                // notification.
                if self.sending != Sending::Bundle || !cqueue::more(entry.flags()) {
                    missing -= 1;
                }
            }
        }
        Ok(sent)
    }
}

/// Receives a stream and drops its bytes. Dropping it shuts the connection down.
#[derive(Debug)]
pub struct ReceiveRing {
    line: Line,
    receiving: Receiving,
    is_armed: bool,
}

impl ReceiveRing {
    /// A ring that receives at most so many bytes at once, or per provided buffer, from a blocking
    /// stream socket.
    pub fn new(socket: OwnedFd, len: u32, receiving: Receiving) -> Result<Self, DriverError> {
        let mut line = Line::new(socket, len, true)?;
        if matches!(receiving, Receiving::Multishot | Receiving::Bundle) {
            line.provide(POOL, len)?;
        }
        Ok(Self { line, receiving, is_armed: false })
    }

    fn entry(&self) -> Entry {
        let (fd, _) = self.line.target.field();
        let len = self.line.segment.len;
        match self.receiving {
            Receiving::Single => opcode::Recv::new(fd, self.line.data, len).build(),
            Receiving::Multishot => opcode::RecvMulti::new(fd, GROUP).build(),
            Receiving::Bundle => opcode::RecvMultiBundle::new(fd, GROUP).build(),
            Receiving::Discard => {
                opcode::Recv::new(fd, std::ptr::null_mut(), len).flags(libc::MSG_TRUNC).build()
            }
        }
    }

    /// Waits for bytes and takes what has completed; zero is the end of the stream.
    pub fn receive(&mut self) -> Result<u64, DriverError> {
        let mut received = 0;
        loop {
            if !self.is_armed {
                self.line.push(self.entry())?;
                self.is_armed = true;
            }
            self.line.ring.enter(1, None)?;
            let mut has_ended = false;
            while let Some(entry) = self.line.reap() {
                self.is_armed = cqueue::more(entry.flags());
                match u32::try_from(entry.result()) {
                    Ok(0) => has_ended = true,
                    Ok(bytes) => {
                        self.line.recycle(&entry, bytes);
                        received += u64::from(bytes);
                    }
                    // It ends where the pool ran dry, which it has not for long.
                    Err(_) if -entry.result() == libc::ENOBUFS => {}
                    Err(_) => {
                        let error = OpError::from_errno("recv", -entry.result());
                        return Err(failed("recv", error));
                    }
                }
            }
            if received > 0 || has_ended {
                return Ok(received);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_is_sent_in_every_way_is_received_in_every_way() {
        let ways = [
            (Sending::Plain, Receiving::Single),
            (Sending::WaitAll, Receiving::Multishot),
            (Sending::Fixed, Receiving::Bundle),
            (Sending::ZeroCopy, Receiving::Discard),
            (Sending::ZeroCopyFixed, Receiving::Bundle),
            (Sending::Bundle, Receiving::Multishot),
        ];
        for (sending, receiving) in ways {
            for message_bytes in [1, 3_000, 100_000] {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap().into();
                let receiver = listener.accept().unwrap().0.into();
                let sent = std::thread::spawn(move || {
                    let mut ring = SendRing::new(sender, message_bytes, sending, 4).unwrap();
                    let bytes = (0..20).map(|_| ring.send_batch().unwrap().bytes);
                    bytes.sum::<u64>()
                });
                let mut ring = ReceiveRing::new(receiver, 4096, receiving).unwrap();
                let mut received = 0;
                while let bytes @ 1.. = ring.receive().unwrap() {
                    received += bytes;
                }
                let sent = sent.join().unwrap();
                assert!(sent >= 20 && received == sent, "{sending:?} {receiving:?}");
                if sending == Sending::WaitAll || message_bytes == 1 {
                    assert_eq!(sent, 80 * u64::from(message_bytes), "{sending:?}");
                }
            }
        }
    }
}
