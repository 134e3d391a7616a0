//! The server's words over UDP, and its documents.

use super::{CONTROL_READ, ClientSession, DialogueSpec, Failure, News, State, blame};
use crate::worker::errors::Stage;
use tare_driver::{Driver, DriverError};
use tare_proto::datagram::{Document, DocumentFetch, ENDED, FetchEvent, NO_SESSION};
use tare_proto::hello::{Accept, Figures};
use tare_units::Instant;
use tare_units::text::read_foreign;

impl ClientSession {
    /// Awaits the next datagram, unless one is awaited already.
    ///
    /// # Errors
    /// What ends the driver.
    #[inline]
    pub fn receive_datagram<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        match &mut self.link {
            Some(link) if !link.is_receiving() => {
                let room = io.buffer(link.receive_buffer()).len();
                let room = u32::try_from(room).unwrap_or(CONTROL_READ);
                link.receive(io, 0, room)
            }
            _ => Ok(()),
        }
    }

    /// The flags of a datagram of this session, which may be the server's word on the session itself: that it has ended
    /// it, or does not know it. `None` where they are not, and the datagram is the owner's.
    ///
    /// # Errors
    /// What ends the driver.
    #[inline]
    pub fn handle_flags<D: Driver>(
        &mut self,
        io: &mut D,
        flags: u8,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<Option<News>, DriverError> {
        if flags & (ENDED | NO_SESSION) == 0 {
            return Ok(None);
        }
        if flags & ENDED != 0 {
            // The server has ended the session by itself, and its figures say why.
            self.ended = true;
            self.fetch(io, None, Document::Figures, now, spec)?;
            return Ok(Some(News::Nothing));
        }
        let error = blame::unknown(spec.to);
        Ok(Some(News::failed(Stage::Receive, "ended", Some(error))))
    }

    /// A datagram came, and is none of the exchange: those go to the owner.
    pub(super) fn handle_datagram<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        let Some(link) = &self.link else {
            return Ok(News::Nothing);
        };
        let datagram = &io.buffer(link.receive_buffer())[..n as usize];
        match &mut self.state {
            State::GreetingDatagrams { handshake } => handshake.handle_datagram(datagram, now),
            State::Fetching { fetch, .. } => fetch.handle_datagram(datagram, now),
            _ => return Ok(News::Nothing),
        }
        self.step_control(io, now, spec)
    }

    /// There is a session, and the server's environment is to be had.
    pub(super) fn fetch_environment<D: Driver>(
        &mut self,
        io: &mut D,
        accept: Box<Accept>,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<(), DriverError> {
        self.fetch(io, Some(accept), Document::Environment, now, spec)
    }

    pub(super) fn end_datagrams<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<(), DriverError> {
        self.fetch(io, None, Document::Figures, now, spec)
    }

    fn fetch<D: Driver>(
        &mut self,
        io: &mut D,
        accept: Option<Box<Accept>>,
        document: Document,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<(), DriverError> {
        let fetch = Box::new(DocumentFetch::new(self.session, document, now, spec.timeout));
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
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        let State::Fetching { accept, .. } = &mut self.state else {
            return Ok(News::Nothing);
        };
        if let Some(mut accept) = accept.take() {
            // The environment is worth having, not worth failing for.
            accept.environment = match fetched {
                FetchEvent::Done(json) => read_foreign(&json).ok(),
                FetchEvent::Failed(_) => None,
            };
            self.state = State::Open;
            return Ok(News::Accepted(accept));
        }
        let figures = match fetched {
            FetchEvent::Done(json) if self.ended => {
                let figures: Figures = read_foreign(&json).unwrap_or_default();
                return Ok(News::Ended {
                    failure: Failure::ended(&figures, spec),
                    figures: Box::new(figures),
                });
            }
            FetchEvent::Done(json) => read_foreign(&json).ok(),
            FetchEvent::Failed(error) => {
                let cause = error.cause();
                let error = error.into_error(spec.to);
                return Ok(News::failed(Stage::Close, cause, Some(error)));
            }
        };
        self.state = State::Closing;
        if let Some(link) = &mut self.link {
            link.close(io)?;
        }
        Ok(figures.map_or(News::Nothing, |figures| News::Figures(Box::new(figures))))
    }
}
