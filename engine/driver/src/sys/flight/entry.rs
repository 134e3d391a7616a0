//! What the ring is told for each operation.

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;

use super::{File, Flight};
use crate::io::Op;
use crate::sys::ring::REPORT_USAGE;
use crate::sys::socket::for_family;

/// The entry for an operation. Every pointer in it is the flight's data or its message.
#[inline]
pub(super) fn entry(flight: &mut Flight, zero_copy_offered: bool) -> Entry {
    let (fd, flags) = flight.file.map_or((Fd(-1), Flags::empty()), |f| f.target.field());
    let message = || {
        let mut message = flight.message.expect("`lend` gave it a message");
        // SAFETY: it lives until `remove`, only this flight has its address, and the operation is not in
        // flight (`submit` has checked), so the kernel does not use it either.
        unsafe { message.as_mut() }
    };
    let entry = match &flight.op {
        Op::Accept { multishot: true, .. } => {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
        }
        Op::Accept { .. } => opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build(),
        Op::Connect { to, .. } => {
            let is_ipv6 = flight.file.is_some_and(File::is_ipv6);
            let (address, len) = message().address(for_family(is_ipv6, *to));
            opcode::Connect::new(fd, address, len).build()
        }
        Op::Send { data, zero_copy: true, .. } if zero_copy_offered => {
            opcode::SendZc::new(fd, flight.data, data.len)
                .flags(libc::MSG_NOSIGNAL)
                .zc_flags(REPORT_USAGE)
                .build()
        }
        Op::Send { data, .. } | Op::SendRepeated { data, .. } => {
            opcode::Send::new(fd, flight.data, data.len).flags(libc::MSG_NOSIGNAL).build()
        }
        Op::Receive { into, .. } => opcode::Recv::new(fd, flight.data, into.len).build(),
        // The kernel writes nothing (`tcp(7)`).
        Op::Discard { len, .. } => {
            opcode::Recv::new(fd, std::ptr::null_mut(), *len).flags(libc::MSG_TRUNC).build()
        }
        Op::ReceiveMultishot { .. } => opcode::RecvMulti::new(fd, 0).build(),
        Op::SendVectored { .. } | Op::SendTo { .. } => {
            opcode::SendMsg::new(fd, message().header()).flags(libc::MSG_NOSIGNAL as u32).build()
        }
        Op::ReceiveFrom { .. } | Op::ReceiveStamped { .. } => {
            opcode::RecvMsg::new(fd, message().header_mut()).build()
        }
        Op::HalfClose { .. } | Op::Close { .. } | Op::Cancel { .. } => {
            unreachable!("the driver carries these out without an entry of their own")
        }
    };
    entry.flags(flags)
}
