//! What an operation borrows, from its push until it is removed.

use std::ptr::NonNull;

use super::{File, Flight, InFlight, SPARE_MAX};
use crate::io::{Op, Segment};
use crate::sys::message::Message;
use crate::sys::socket::for_family;

impl InFlight {
    /// Lends what `op` names and writes its message.
    #[inline]
    pub(super) fn lend(
        &mut self,
        op: &Op,
        file: Option<File>,
    ) -> (*mut u8, Option<NonNull<Message>>) {
        let none = std::ptr::null_mut();
        match op {
            Op::Send { data, .. } | Op::SendRepeated { data, .. } => {
                (self.arena.lend_shared(*data).cast_mut(), None)
            }
            Op::Receive { into, .. } => (self.arena.lend_exclusive(*into), None),
            Op::SendVectored { data, .. } => {
                let mut message = self.message();
                let arena = &mut self.arena;
                let ranges = segments(data).map(|s| (arena.lend_shared(s), s.len as usize));
                message.vectored(ranges);
                (none, Some(into_raw(message)))
            }
            Op::SendTo { data, to, source, .. } => {
                let range = (self.arena.lend_shared(*data), data.len as usize);
                let to = for_family(file.is_some_and(File::is_ipv6), *to);
                let mut message = self.message();
                message.send_to(range, to, *source);
                (none, Some(into_raw(message)))
            }
            Op::ReceiveFrom { into, .. } => {
                let range = (self.arena.lend_exclusive(*into), into.len as usize);
                let mut message = self.message();
                message.receive_from(range);
                (none, Some(into_raw(message)))
            }
            Op::ReceiveStamped { into, .. } => {
                let range = (self.arena.lend_exclusive(*into), into.len as usize);
                let mut message = self.message();
                message.receive_stamped(range);
                (none, Some(into_raw(message)))
            }
            Op::Connect { .. } => (none, Some(into_raw(self.message()))),
            Op::Accept { .. }
            | Op::Discard { .. }
            | Op::ReceiveMultishot { .. }
            | Op::HalfClose { .. }
            | Op::Close { .. }
            | Op::Cancel { .. } => (none, None),
        }
    }

    fn message(&mut self) -> Box<Message> {
        let spare = self.spare.pop();
        spare.unwrap_or_else(|| Box::new(Message::new()))
    }

    /// Ends the loans of an operation that was taken out of its slot, and takes its message back.
    #[inline]
    pub(super) fn release(&mut self, flight: &Flight) {
        assert!(!flight.in_kernel, "the kernel still uses what was lent");
        match &flight.op {
            Op::Send { data, .. } | Op::SendRepeated { data, .. } | Op::SendTo { data, .. } => {
                self.arena.release(data.buffer);
            }
            Op::Receive { into, .. }
            | Op::ReceiveFrom { into, .. }
            | Op::ReceiveStamped { into, .. } => {
                self.arena.release(into.buffer);
            }
            Op::SendVectored { data, .. } => {
                for segment in segments(data) {
                    self.arena.release(segment.buffer);
                }
            }
            _ => {}
        }
        if let Some(message) = flight.message {
            // SAFETY: it came from `Box::leak` in `lend`, this is the only place that turns it back, and its
            // flight is out of its slot, dropped by the only caller (`remove`). The kernel has finished
            // with it (checked above).
            let message = unsafe { Box::from_raw(message.as_ptr()) };
            if self.spare.len() < SPARE_MAX {
                self.spare.push(message);
            }
        }
    }
}

fn into_raw(message: Box<Message>) -> NonNull<Message> {
    NonNull::from(Box::leak(message))
}

fn segments(data: &[Option<Segment>]) -> impl Iterator<Item = Segment> + '_ {
    data.iter().map_while(|s| *s)
}
