//! The server's words over UDP, and its documents.

use super::{CONTROL_READ, ClientSession, SessionEvent, State, errors};
use crate::worker::Result;
use crate::worker::tally::Stage;
use tare_driver::Driver;
use tare_proto::datagram::{Document, DocumentFetch, ENDED, FetchEvent, NO_SESSION};
use tare_proto::hello::{Accept, Figures};
use tare_units::Instant;
use tare_units::text::read_foreign;

impl ClientSession {
    #[inline]
    pub(crate) fn receive_datagram<D: Driver>(&mut self, io: &mut D) -> Result {
        match &mut self.link {
            Some(link) if !link.is_receiving() => {
                let room = io.buffer(link.receive_buffer()).len();
                let room = u32::try_from(room).unwrap_or(CONTROL_READ);
                link.receive(io, 0, room)
            }
            _ => Ok(()),
        }
    }

    /// The flags of a datagram of this session, which may be the server's word on the session
    /// itself: that it has ended it, or does not know it. `None` where they are not, and the
    /// datagram is the owner's.
    #[inline]
    pub(crate) fn handle_flags<D: Driver>(
        &mut self,
        io: &mut D,
        flags: u8,
        now: Instant,
    ) -> Result<Option<SessionEvent>> {
        if flags & ENDED != 0 {
            // The server has ended the session by itself, and its figures say why.
            self.ended = true;
            self.fetch(io, None, Document::Figures, now)?;
            return Ok(Some(SessionEvent::Nothing));
        }
        let unknown = || {
            let error = errors::unknown(&self.spec);
            SessionEvent::failed(Stage::Receive, "ended", Some(error))
        };
        Ok((flags & NO_SESSION != 0).then(unknown))
    }

    /// A datagram came, and is none of the exchange: those go to the owner.
    pub(super) fn handle_datagram<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
    ) -> Result<SessionEvent> {
        let Some(link) = &self.link else {
            return Ok(SessionEvent::Nothing);
        };
        let datagram = &io.buffer(link.receive_buffer())[..n as usize];
        match &mut self.state {
            State::GreetingDatagrams { handshake } => handshake.handle_datagram(datagram, now),
            State::Fetching { fetch, .. } => fetch.handle_datagram(datagram, now),
            _ => return Ok(SessionEvent::Nothing),
        }
        self.step_control(io, now)
    }

    /// Asks the server for a document: its environment, before the `accept` is told, or its
    /// figures.
    pub(super) fn fetch<D: Driver>(
        &mut self,
        io: &mut D,
        accept: Option<Box<Accept>>,
        document: Document,
        now: Instant,
    ) -> Result {
        let fetch = DocumentFetch::new(self.session, document, now, self.spec.timeout);
        self.state = State::Fetching { accept, fetch: Box::new(fetch) };
        self.step_fetch(io)
    }

    pub(super) fn step_fetch<D: Driver>(&mut self, io: &mut D) -> Result {
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
    ) -> Result<SessionEvent> {
        let State::Fetching { accept, .. } = &mut self.state else {
            return Ok(SessionEvent::Nothing);
        };
        if let Some(mut accept) = accept.take() {
            // The environment is worth having, not worth failing for.
            accept.environment = match fetched {
                FetchEvent::Done(json) => read_foreign(&json).ok(),
                FetchEvent::Failed(_) => None,
            };
            self.state = State::Open;
            return Ok(SessionEvent::Accepted(accept));
        }
        let figures: Option<Figures> = match fetched {
            FetchEvent::Done(json) => read_foreign(&json).ok(),
            FetchEvent::Failed(error) => {
                let cause = error.cause();
                let error = error.into_error(self.spec.to);
                return Ok(SessionEvent::failed(Stage::Close, cause, Some(error)));
            }
        };
        if self.ended {
            return Ok(errors::ended(&self.spec, figures.unwrap_or_default()));
        }
        self.state = State::Closing;
        if let Some(link) = &mut self.link {
            link.close(io)?;
        }
        let figures = figures.map(|figures| SessionEvent::Figures(Box::new(figures)));
        Ok(figures.unwrap_or(SessionEvent::Nothing))
    }
}
