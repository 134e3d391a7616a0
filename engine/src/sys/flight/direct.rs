//! Plain non-blocking system calls in place of the ring, for the spinning turn.
#![allow(unsafe_code)]

use nix::errno::Errno;

use super::{Flights, Landed};
use crate::driver::Op;

impl Flights {
    /// Tries a receive at once, by a plain system call (`MSG_DONTWAIT`); `None` where there is nothing yet.
    ///
    /// # Panics
    /// When the kernel has the operation, the slot is vacant, or the operation is no single receive.
    #[inline]
    pub fn attempt(&mut self, slot: u32) -> Option<Landed> {
        let flight = self.slots.get_mut(slot as usize).and_then(Option::as_mut);
        let flight = flight.expect("the slot is in use until `remove`");
        assert!(!flight.in_kernel, "operation {slot} is in flight already");
        let file = flight.file.expect("a receive has a socket");
        let received = match flight.op {
            Op::Receive { into, .. } => {
                // SAFETY: `data` is the arena's range of `into.len` bytes, lent for writing from `insert`
                // to `remove`, and no other operation writes to it: this one is not in flight.
                unsafe {
                    libc::recv(
                        file.descriptor,
                        flight.data.cast(),
                        into.len as usize,
                        libc::MSG_DONTWAIT,
                    )
                }
            }
            Op::ReceiveFrom { .. } => {
                let mut message = flight.message.expect("`lend` gave it a message");
                // SAFETY: it lives until `remove`, only this flight has its address, and the operation is
                // not in flight (just checked), so the kernel does not use it either.
                let header = unsafe { message.as_mut() }.header_mut();
                // SAFETY: the header names the message's own address and control storage and the arena's
                // range, lent as above; the lengths in it are theirs.
                unsafe { libc::recvmsg(file.descriptor, header, libc::MSG_DONTWAIT) }
            }
            _ => panic!("operation {slot} is no single receive"),
        };
        let result = if received < 0 {
            match Errno::last_raw() {
                libc::EAGAIN | libc::EINTR => return None,
                errno => -errno,
            }
        } else {
            i32::try_from(received).expect("an io_uring receive is as long as an i32 tells at most")
        };
        Some(Landed {
            slot,
            result,
            more: false,
            notification: false,
            pool: None,
            accepted: None,
        })
    }
}
