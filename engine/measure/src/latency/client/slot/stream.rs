//! What a slot does over TCP.

use super::{Event, Slot};
use crate::latency::client::ClientSpec;
use crate::worker::dialogue::News;
use crate::worker::errors::Stage;
use tare_driver::{Driver, DriverError};
use tare_proto::handshake::hello_in_one_go;
use tare_proto::ping_pong;
use tare_proto::ping_pong::{Progress, Received};
use tare_units::Instant;
use tare_units::error::Error;

impl Slot {
    pub(super) fn send_request<D: Driver>(
        &mut self,
        io: &mut D,
        spec: &ClientSpec,
    ) -> Result<(), DriverError> {
        if self.hello == 0 && self.is_one_go(spec) {
            self.write_hello(io, spec);
        }
        let (Some(operation), Some(link)) = (&self.operation, self.dialogue.link_mut()) else {
            return Ok(());
        };
        let request = &mut io.buffer_mut(link.send_buffer())[self.hello as usize..];
        ping_pong::put_flags(request, operation.measured);
        self.request.restart();
        self.reply.restart();
        link.send(io, 0, self.hello + self.size)
    }

    /// Once for all connections of the slot.
    fn write_hello<D: Driver>(&mut self, io: &mut D, spec: &ClientSpec) {
        let Some(link) = self.dialogue.link() else {
            return;
        };
        let mut hello = spec.dialogue.hello.clone();
        hello.brief = true;
        let frame = hello_in_one_go(&hello);
        io.buffer_mut(link.send_buffer())[..frame.len()].copy_from_slice(&frame);
        self.hello = bytes(frame.len());
        self.request = Progress::new(frame.len() + self.size as usize);
    }

    /// The receive follows the send, not at its side: pushing it beforehand would delay the send, which is stamped
    /// already, and the first attempt at it would be in vain.
    pub(super) fn handle_sent<D: Driver>(&mut self, io: &mut D, n: u32) -> Result<(), DriverError> {
        let is_sent = self.request.handle_sent(n as usize);
        let Some(link) = self.dialogue.link_mut() else {
            return Ok(());
        };
        if is_sent {
            return link.receive(io, 0, self.size + 1);
        }
        let rest = self.request.remaining();
        link.send(io, bytes(rest.start), bytes(rest.len()))
    }

    pub(super) fn handle_bytes<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        if !self.awaiting {
            return Ok(Event::News(News::failed(Stage::Receive, "protocol", None)));
        }
        let Some(link) = self.dialogue.link_mut() else {
            return Ok(Event::NOTHING);
        };
        let buffer = io.buffer(link.receive_buffer());
        let size = self.size as usize;
        match self.reply.handle_reply(buffer, n as usize) {
            Ok(Received::Complete) => {
                let residence = ping_pong::residence(&buffer[..size]);
                self.awaiting = false;
                Ok(Event::Replied { residence })
            }
            Ok(Received::Partial) => {
                let range = self.reply.receive_range();
                link.receive(io, bytes(range.start), bytes(range.len()))?;
                Ok(Event::NOTHING)
            }
            Ok(Received::Control { at }) => {
                let residence = (at == size).then(|| ping_pong::residence(&buffer[..size]));
                let received = bytes(at)..bytes(self.reply.receive_range().start);
                let dialogue = &mut self.dialogue;
                let news = if dialogue.is_brief() && residence.is_some() {
                    dialogue.handle_due_figures(io, received, now, &spec.dialogue)?
                } else {
                    dialogue.handle_early_figures(io, received, now, &spec.dialogue)?
                };
                Ok(match (residence, news) {
                    (Some(residence), News::Nothing | News::Figures(_)) => {
                        Event::Replied { residence }
                    }
                    (_, news) => Event::News(news),
                })
            }
            Err(error) => {
                let error = Error::peer(format!("{}: {error}", spec.dialogue.to));
                let news = News::failed(Stage::Receive, "protocol", Some(error));
                Ok(Event::News(news))
            }
        }
    }
}

/// A position in a message, which is at most `MESSAGE_MAX` long.
fn bytes(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by MESSAGE_MAX")
}
