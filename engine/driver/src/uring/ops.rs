//! What the driver asks of an operation, whatever its state.

use crate::{Op, SocketId};

/// A direction of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Receive,
    Send,
}

/// The socket of an operation and the direction that it takes; a close takes none.
#[inline]
pub(super) const fn place(op: &Op) -> Option<(SocketId, Option<Side>)> {
    match op {
        Op::Accept { listener, .. } => Some((*listener, Some(Side::Receive))),
        Op::Receive { socket, .. }
        | Op::Discard { socket, .. }
        | Op::ReceiveMultishot { socket }
        | Op::ReceiveFrom { socket, .. }
        | Op::ReceiveStamped { socket, .. } => Some((*socket, Some(Side::Receive))),
        Op::Connect { socket, .. }
        | Op::Send { socket, .. }
        | Op::SendRepeated { socket, .. }
        | Op::SendVectored { socket, .. }
        | Op::SendTo { socket, .. }
        | Op::HalfClose { socket } => Some((*socket, Some(Side::Send))),
        Op::Close { socket } => Some((*socket, None)),
        Op::Cancel { .. } => None,
    }
}

/// Whether it is a single receive, which a spinning turn attempts.
#[inline]
pub(super) const fn is_single_receive(op: &Op) -> bool {
    matches!(
        op,
        Op::Receive { .. }
            | Op::Discard { .. }
            | Op::ReceiveFrom { .. }
            | Op::ReceiveStamped { .. }
    )
}

pub(super) fn on_socket(op: &Op, id: SocketId) -> bool {
    place(op).is_some_and(|(socket, _)| socket == id)
}

/// Whether an operation that a signal interrupted can be started again as if nothing had been.
pub(super) const fn may_restart(op: &Op) -> bool {
    !matches!(op, Op::Connect { .. } | Op::Cancel { .. })
}

/// The system call that an operation amounts to.
pub(super) const fn call(op: &Op) -> &'static str {
    match op {
        Op::Accept { .. } => "accept",
        Op::Connect { .. } => "connect",
        Op::Send { .. } | Op::SendRepeated { .. } => "send",
        Op::SendVectored { .. } | Op::SendTo { .. } => "sendmsg",
        Op::Receive { .. } | Op::Discard { .. } | Op::ReceiveMultishot { .. } => "recv",
        Op::ReceiveFrom { .. } | Op::ReceiveStamped { .. } => "recvmsg",
        Op::HalfClose { .. } => "shutdown",
        Op::Close { .. } => "close",
        Op::Cancel { .. } => "io_uring cancel",
    }
}
