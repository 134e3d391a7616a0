//! What is particular to streams over UDP.

use super::Slot;
use crate::worker::dialogue::News;
use crate::worker::link::Purpose;
use crate::worker::stream::Receiver;
use tare_driver::{Completion, Driver, DriverError};
use tare_proto::datagram::{DATA_HEADER_LEN, DataHeader};
use tare_proto::stream::{StreamHeader, StreamKind};
use tare_units::Instant;

impl Slot {
    /// Tells the server that this end is there.
    pub(super) fn signal<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        let session = self.dialogue.session();
        let Some(link) = self.dialogue.link_mut() else {
            return Ok(());
        };
        if link.is_sending_control() || link.is_sending() {
            return Ok(());
        }
        self.spoke_at = now;
        let mut datagram = [0; DATA_HEADER_LEN];
        let header = StreamHeader {
            kind: StreamKind::Signal,
            measured: false,
            sequence: self.signals,
            session,
        };
        header.encode_into(&mut datagram, now);
        self.signals += 1;
        if self.sender.is_some() {
            // The send buffer is payload's.
            return link.send_control(io, &datagram);
        }
        io.buffer_mut(link.send_buffer())[..DATA_HEADER_LEN].copy_from_slice(&datagram);
        link.send(io, 0, u32::try_from(DATA_HEADER_LEN).unwrap_or(0))
    }

    /// The device's queue was full: where nothing is paced, the next datagram takes the place of this one.
    pub(super) fn handle_no_room<D: Driver>(
        &mut self,
        io: &mut D,
        completion: &Completion,
        now: Instant,
    ) -> Result<(News, u64), DriverError> {
        if let (Some(sender), Some(link)) = (&mut self.sender, self.dialogue.link_mut()) {
            link.handle(Purpose::Send, &completion.outcome, completion.more);
            sender.handle_sent(io, link, 0, now)?;
        }
        Ok((self.check(io, now)?, 0))
    }

    /// Payload came, or the server's word on the session.
    pub(super) fn handle_datagrams<D: Driver>(
        &mut self,
        io: &mut D,
        len: u32,
        now: Instant,
    ) -> Result<(News, u64), DriverError> {
        let session = self.dialogue.session();
        let Some(link) = self.dialogue.link() else {
            return Ok((News::Nothing, 0));
        };
        let bytes = &io.buffer(link.receive_buffer())[..len as usize];
        let before = self.receiver.as_ref().map_or(0, Receiver::total);
        let rest = match &mut self.receiver {
            Some(receiver) => receiver.handle_datagrams(bytes, session, now),
            None => Some((0, bytes.len())),
        };
        let told = rest.and_then(|(start, end)| DataHeader::decode(&bytes[start..end]));
        let moved = self.receiver.as_ref().map_or(0, Receiver::total) - before;
        if moved > 0 {
            self.received_at = now;
        }
        if let Some(header) = told.filter(|h| h.reply && h.session == session && h.flags != 0) {
            self.flags |= header.flags;
            if let (Some(sender), Some(link)) = (&mut self.sender, self.dialogue.link()) {
                sender.finish(io, link, now);
            }
        }
        let news = self.check(io, now)?;
        self.receive(io, now)?;
        Ok((news, moved))
    }
}
