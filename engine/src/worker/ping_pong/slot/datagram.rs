//! What a slot does over UDP.

use super::{CONTROL_READ, Event, Failure, Slot, State, blame};
use crate::driver::{Driver, DriverError};
use crate::proto::datagram::{
    DataHeader, Document, DocumentFetch, ENDED, FetchEvent, MEASURED, NO_SESSION, residence,
};
use crate::proto::hello::{Accept, Figures};
use crate::units::Instant;
use crate::worker::ping_pong::ClientSpec;
use crate::worker::ping_pong::tally::Stage;

impl Slot {
    pub(super) fn send_datagram<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let (Some(operation), Some(link)) = (&self.operation, &mut self.link) else {
            return Ok(());
        };
        self.sequence += 1;
        let header = DataHeader {
            reply: false,
            flags: if operation.measured { MEASURED } else { 0 },
            sequence: self.sequence,
            session: self.session,
        };
        header.encode_into(&mut io.buffer_mut(link.send_buffer())[..self.size as usize]);
        link.send(io, 0, self.size)
    }

    /// Awaits the next datagram, unless one is awaited already.
    pub(super) fn receive_datagram<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        match &mut self.link {
            Some(link) if !link.is_receiving() => {
                let room = io.buffer(link.receive_buffer()).len();
                let room = u32::try_from(room).unwrap_or(CONTROL_READ);
                link.receive(io, 0, room)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn handle_datagram<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let Some(link) = &self.link else {
            return Ok(Event::Nothing);
        };
        let datagram = &io.buffer(link.receive_buffer())[..n as usize];
        match &mut self.state {
            State::GreetingDatagrams { handshake } => {
                handshake.handle_datagram(datagram, now);
                self.step_control(io, now, spec)
            }
            State::Fetching { fetch, .. } => {
                fetch.handle_datagram(datagram, now);
                self.step_control(io, now, spec)
            }
            State::Awaiting | State::Idle => self.handle_data(io, n, now, spec),
            _ => Ok(Event::Nothing),
        }
    }

    fn handle_data<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let Some(link) = &self.link else {
            return Ok(Event::Nothing);
        };
        let datagram = &io.buffer(link.receive_buffer())[..n as usize];
        let of_session = |header: &DataHeader| header.reply && header.session == self.session;
        let Some(header) = DataHeader::decode(datagram).filter(of_session) else {
            self.receive_datagram(io)?;
            return Ok(Event::Nothing);
        };
        if header.flags & ENDED != 0 {
            // The server has ended the session by itself, and its figures say why.
            self.ended = true;
            self.fetch(io, None, Document::Figures, now, spec)?;
            return Ok(Event::Nothing);
        }
        if header.flags & NO_SESSION != 0 {
            return Ok(Event::failed(
                Stage::Receive,
                "ended",
                Some(blame::unknown(spec.to)),
            ));
        }
        let is_awaited = header.sequence == self.sequence && n == self.size;
        if is_awaited && self.operation.is_some() {
            let residence = residence(datagram);
            self.state = State::Idle;
            return Ok(Event::Replied { residence });
        }
        self.receive_datagram(io)?;
        Ok(Event::Stale)
    }

    /// There is a session, and the server's environment is to be had.
    pub(super) fn fetch_environment<D: Driver>(
        &mut self,
        io: &mut D,
        accept: Box<Accept>,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<(), DriverError> {
        self.fetch(io, Some(accept), Document::Environment, now, spec)
    }

    pub(super) fn end_datagrams<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<(), DriverError> {
        self.fetch(io, None, Document::Figures, now, spec)
    }

    fn fetch<D: Driver>(
        &mut self,
        io: &mut D,
        accept: Option<Box<Accept>>,
        document: Document,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<(), DriverError> {
        let fetch = Box::new(DocumentFetch::new(
            self.session,
            document,
            now,
            spec.timeout,
        ));
        self.state = State::Fetching { accept, fetch };
        self.step_fetch(io)
    }

    pub(super) fn step_fetch<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        if let (Some(link), State::Fetching { fetch, .. }) = (&mut self.link, &mut self.state)
            && !link.is_sending_control()
            && let Some(question) = fetch.poll_transmit()
        {
            link.send_control(io, &question)?;
        }
        self.receive_datagram(io)
    }

    /// What a fetched document was fetched for.
    pub(super) fn handle_document<D: Driver>(
        &mut self,
        io: &mut D,
        fetched: FetchEvent,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let State::Fetching { accept, .. } = &mut self.state else {
            return Ok(Event::Nothing);
        };
        if let Some(mut accept) = accept.take() {
            // The environment is worth having, not worth failing for.
            accept.environment = match fetched {
                FetchEvent::Done(json) => serde_json::from_slice(&json).ok(),
                FetchEvent::Failed(_) => None,
            };
            self.state = State::Idle;
            return Ok(Event::Accepted(accept));
        }
        let figures = match fetched {
            FetchEvent::Done(json) if self.ended => {
                let figures: Figures = serde_json::from_slice(&json).unwrap_or_default();
                let error = Some(Box::new(blame::ended(spec.to, &figures)));
                let failure = Failure {
                    stage: Stage::Receive,
                    cause: "ended",
                    error,
                };
                return Ok(Event::Ended {
                    figures: Box::new(figures),
                    failure,
                });
            }
            FetchEvent::Done(json) => serde_json::from_slice(&json).ok(),
            FetchEvent::Failed(error) => {
                let cause = error.cause();
                return Ok(Event::failed(
                    Stage::Close,
                    cause,
                    Some(error.into_error(spec.to)),
                ));
            }
        };
        self.state = State::Closing;
        if let Some(link) = &mut self.link {
            link.close(io)?;
        }
        Ok(figures.map_or(Event::Nothing, |figures| Event::Figures(Box::new(figures))))
    }
}
