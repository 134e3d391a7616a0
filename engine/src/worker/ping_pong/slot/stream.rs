//! What a slot does over TCP.

use super::{CONTROL_READ, Event, Failure, Slot, State, blame};
use crate::driver::{Driver, DriverError};
use crate::error::Error;
use crate::proto::handshake::FiguresReader;
use crate::proto::ping_pong::{self, Received};
use crate::units::Instant;
use crate::worker::ping_pong::ClientSpec;
use crate::worker::ping_pong::tally::Stage;

impl Slot {
    pub(super) fn send_request<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let (Some(operation), Some(link)) = (&self.operation, &mut self.link) else {
            return Ok(());
        };
        let request = &mut io.buffer_mut(link.send_buffer())[..self.size as usize];
        ping_pong::put_flags(request, operation.measured);
        self.request.restart();
        self.reply.restart();
        link.send(io, 0, self.size)
    }

    /// The receive follows the send, not at its side: pushing it beforehand would delay the send, which is stamped
    /// already, and the first attempt at it would be in vain.
    pub(super) fn handle_sent<D: Driver>(&mut self, io: &mut D, n: u32) -> Result<(), DriverError> {
        let is_sent = self.request.handle_sent(n as usize);
        let Some(link) = &mut self.link else {
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
        let Some(link) = &mut self.link else {
            return Ok(Event::Nothing);
        };
        match &mut self.state {
            State::Awaiting if n > 0 => self.handle_reply(io, n, now, spec),
            State::Greeting { handshake, .. } => {
                if n == 0 {
                    handshake.handle_closed();
                } else {
                    handshake.handle_bytes(&io.buffer(link.receive_buffer())[..n as usize]);
                }
                self.step_control(io, now, spec)
            }
            State::Reporting { .. } => self.handle_figures(io, 0, n, spec),
            _ if n == 0 => Ok(Event::failed(
                Stage::Receive,
                "closed",
                Some(blame::closed(spec.to)),
            )),
            _ => Ok(Event::failed(Stage::Receive, "protocol", None)),
        }
    }

    fn handle_reply<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(Event::Nothing);
        };
        let buffer = io.buffer(link.receive_buffer());
        let size = self.size as usize;
        match self.reply.handle_reply(buffer, n as usize) {
            Ok(Received::Complete) => {
                let residence = ping_pong::residence(&buffer[..size]);
                self.state = State::Idle;
                Ok(Event::Replied { residence })
            }
            Ok(Received::Partial) => {
                let range = self.reply.receive_range();
                link.receive(io, bytes(range.start), bytes(range.len()))?;
                Ok(Event::Nothing)
            }
            Ok(Received::Control { at }) => {
                let residence = (at == size).then(|| ping_pong::residence(&buffer[..size]));
                let end = self.reply.receive_range().start;
                let early = !(self.brief && residence.is_some());
                let deadline = now + spec.timeout;
                let reader = Box::<FiguresReader>::default();
                self.state = State::Reporting {
                    reader,
                    deadline,
                    early,
                };
                let event = self.handle_figures(io, bytes(at), bytes(end - at), spec)?;
                Ok(match (residence, event) {
                    (Some(residence), Event::Nothing | Event::Figures(_)) => {
                        Event::Replied { residence }
                    }
                    (_, event) => event,
                })
            }
            Err(error) => {
                let error = Error::peer(format!("{}: {error}", spec.to));
                Ok(Event::failed(Stage::Receive, "protocol", Some(error)))
            }
        }
    }

    /// `n` bytes of the server's figures have come, at `start` of the receive buffer.
    fn handle_figures<D: Driver>(
        &mut self,
        io: &mut D,
        start: u32,
        n: u32,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let (Some(link), State::Reporting { reader, early, .. }) =
            (&mut self.link, &mut self.state)
        else {
            return Ok(Event::Nothing);
        };
        if n == 0 {
            if *early {
                return Ok(Event::failed(
                    Stage::Receive,
                    "closed",
                    Some(blame::closed(spec.to)),
                ));
            }
            self.state = State::Closing;
            link.close(io)?;
            return Ok(Event::Nothing);
        }
        let bytes = &io.buffer(link.receive_buffer())[start as usize..][..n as usize];
        match reader.handle_bytes(bytes) {
            Ok(Some(figures)) if *early => {
                let error = Some(Box::new(blame::ended(spec.to, &figures)));
                let failure = Failure {
                    stage: Stage::Receive,
                    cause: "ended",
                    error,
                };
                Ok(Event::Ended {
                    figures: Box::new(figures),
                    failure,
                })
            }
            Ok(figures) => {
                link.receive(io, 0, CONTROL_READ)?;
                Ok(figures.map_or(Event::Nothing, |figures| Event::Figures(Box::new(figures))))
            }
            Err(error) => {
                let cause = error.cause();
                Ok(Event::failed(
                    Stage::Close,
                    cause,
                    Some(error.into_error(spec.to)),
                ))
            }
        }
    }

    pub(super) fn end_stream<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<(), DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        // A connection of one operation is ended by the server, right behind its reply: whoever sends the
        // first FIN keeps the port in TIME_WAIT, and the client's are the scarce ones.
        if !self.brief {
            link.half_close(io)?;
        }
        if !link.is_receiving() {
            link.receive(io, 0, CONTROL_READ)?;
        }
        let deadline = now + spec.timeout;
        self.state = State::Reporting {
            reader: Box::default(),
            deadline,
            early: false,
        };
        Ok(())
    }
}

/// A position in a message, which is at most `MESSAGE_MAX` long.
fn bytes(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by MESSAGE_MAX")
}
