//! What a slot does over UDP.

use super::{Event, Slot};
use crate::latency::client::ClientSpec;
use tare_driver::{Driver, DriverError};
use tare_proto::datagram::{DataHeader, MEASURED, residence};
use tare_units::Instant;

impl Slot {
    pub(super) fn send_datagram<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let session = self.dialogue.session();
        let (Some(operation), Some(link)) = (&self.operation, self.dialogue.link_mut()) else {
            return Ok(());
        };
        self.sequence += 1;
        let header = DataHeader {
            reply: false,
            flags: if operation.measured { MEASURED } else { 0 },
            sequence: self.sequence,
            session,
        };
        header.encode_into(&mut io.buffer_mut(link.send_buffer())[..self.size as usize]);
        link.send(io, 0, self.size)
    }

    pub(super) fn handle_datagram<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let Some(link) = self.dialogue.link() else {
            return Ok(Event::NOTHING);
        };
        let datagram = &io.buffer(link.receive_buffer())[..n as usize];
        let session = self.dialogue.session();
        let of_session = |header: &DataHeader| header.reply && header.session == session;
        let Some(header) = DataHeader::decode(datagram).filter(of_session) else {
            self.dialogue.receive_datagram(io)?;
            return Ok(Event::NOTHING);
        };
        let is_awaited = header.sequence == self.sequence && n == self.size;
        let residence = residence(datagram);
        let dialogue = &mut self.dialogue;
        if let Some(news) = dialogue.handle_flags(io, header.flags, now, &spec.dialogue)? {
            return Ok(Event::News(news));
        }
        if is_awaited && self.operation.is_some() {
            self.awaiting = false;
            return Ok(Event::Replied { residence });
        }
        self.dialogue.receive_datagram(io)?;
        Ok(Event::Stale)
    }
}
