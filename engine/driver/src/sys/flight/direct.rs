//! Plain non-blocking system calls in place of the ring, for the spinning turn and for repeated sends.

use std::os::fd::RawFd;

use nix::errno::Errno;

use super::{Flight, InFlight, Landed};
use crate::io::{Op, Repeated};

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

impl InFlight {
    /// An operation on a socket that is not in flight, and its descriptor.
    #[inline]
    fn grounded(&mut self, slot: u32) -> (&mut Flight, RawFd) {
        let flight = self.slots.get_mut(slot as usize).and_then(Option::as_mut);
        let flight = flight.expect("the slot is in use until `remove`");
        assert!(!flight.in_kernel, "operation {slot} is in flight already");
        let file = flight.file.expect("sends and receives have a socket");
        (flight, file.descriptor)
    }

    /// Sends as [`Op::SendRepeated`] says for as long as it need not wait, by plain system calls (`MSG_DONTWAIT`).
    ///
    /// # Errors
    /// As the first `send` answers, `EAGAIN` among them.
    ///
    /// # Panics
    /// When the kernel has the operation, the slot is vacant, or the operation is of another kind.
    #[inline]
    pub(crate) fn send_repeatedly(&mut self, slot: u32) -> Result<Repeated, Errno> {
        let (flight, descriptor) = self.grounded(slot);
        let Op::SendRepeated { data, count, .. } = flight.op else {
            panic!("operation {slot} is no repeated send");
        };
        let (bytes, len) = (flight.data.cast_const().cast(), data.len as usize);
        Repeated::run(count, data.len, || {
            // SAFETY: `bytes` is the arena's range of `len` bytes, lent for reading from `insert` to `remove`.
            let sent = unsafe { libc::send(descriptor, bytes, len, SEND_FLAGS) };
            Errno::result(sent).map(isize::unsigned_abs)
        })
    }

    /// Tries a single receive, or a send of one buffer, at once by a plain system call (`MSG_DONTWAIT`);
    /// `None` where it would have to wait.
    ///
    /// # Panics
    /// When the kernel has the operation, the slot is vacant, or the operation is of another kind.
    #[inline]
    pub fn attempt(&mut self, slot: u32) -> Option<Landed> {
        let (flight, descriptor) = self.grounded(slot);
        let moved = match flight.op {
            Op::Receive { into, .. } => {
                let (data, len) = (flight.data.cast(), into.len as usize);
                // SAFETY: `data` is the arena's range of `len` bytes, lent for writing from `insert` to
                // `remove`, and no other operation writes to it: this one is not in flight.
                unsafe { libc::recv(descriptor, data, len, libc::MSG_DONTWAIT) }
            }
            Op::Discard { len, .. } => {
                let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
                // SAFETY: with `MSG_TRUNC` TCP writes nothing, and any other protocol finds that nothing can be
                // written at the null address, which the kernel checks.
                unsafe { libc::recv(descriptor, std::ptr::null_mut(), len as usize, flags) }
            }
            Op::Send { data, .. } => {
                let (data, len) = (flight.data.cast_const().cast(), data.len as usize);
                // SAFETY: `data` is the arena's range of `len` bytes, lent for reading from `insert` to
                // `remove`.
                unsafe { libc::send(descriptor, data, len, SEND_FLAGS) }
            }
            Op::ReceiveFrom { .. } | Op::ReceiveStamped { .. } => {
                let header = header(flight);
                // SAFETY: the header names the message's own address and control storage and the arena's
                // range, lent as in `Receive`; the lengths in it are theirs.
                unsafe { libc::recvmsg(descriptor, header, libc::MSG_DONTWAIT) }
            }
            Op::SendTo { .. } => {
                let header = header(flight);
                // SAFETY: as above, the range lent as in `Send`; the kernel only reads.
                unsafe { libc::sendmsg(descriptor, header, SEND_FLAGS) }
            }
            _ => panic!("operation {slot} is no send or receive of one buffer"),
        };
        let result = if moved < 0 {
            match Errno::last_raw() {
                libc::EAGAIN | libc::EINTR => return None,
                errno => -errno,
            }
        } else {
            i32::try_from(moved).expect("as much as one io_uring operation moves fits an i32")
        };
        Some(Landed { slot, result, more: false, notification: false, pool: None, accepted: None })
    }
}

/// The header of an operation that is not in flight.
#[inline]
fn header(flight: &mut Flight) -> *mut libc::msghdr {
    let mut message = flight.message.expect("`lend` gave it a message");
    // SAFETY: the message lives until `remove`, and only this flight has its address. `attempt`, the only
    // caller, has checked that the operation is not in flight, so the kernel does not use it either.
    unsafe { message.as_mut() }.header_mut()
}
