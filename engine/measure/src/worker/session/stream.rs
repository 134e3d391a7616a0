//! The server's words over TCP, and its figures.

use std::ops::Range;

use super::{CONTROL_READ, ClientSession, SessionEvent, State, errors};
use crate::worker::Result;
use crate::worker::tally::Stage;
use tare_driver::Driver;
use tare_proto::stream::PAYLOAD_BIT;
use tare_units::Instant;

impl ClientSession {
    /// The server has sent its figures, and ends the session: they begin at `received.start` of the
    /// receive buffer, in what the owner has received up to `received.end`. `early`: nobody asked
    /// for them. A send of the owner's may be outstanding, and then fail unnoticed; a receive must
    /// not.
    pub(crate) fn handle_figures<D: Driver>(
        &mut self,
        io: &mut D,
        received: Range<u32>,
        now: Instant,
        early: bool,
    ) -> Result<SessionEvent> {
        self.await_figures(now, early, false);
        self.read_figures(io, received)
    }

    /// The exchange is over: from now on what comes is read for the figures.
    fn await_figures(&mut self, now: Instant, early: bool, skips_payload: bool) {
        let deadline = now + self.spec.timeout;
        self.state = State::Reporting { reader: None, deadline, early, skips_payload };
    }

    /// Bytes came over TCP, and are none of the exchange: those go to the owner.
    pub(super) fn handle_bytes<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
    ) -> Result<SessionEvent> {
        let Some(link) = &mut self.link else {
            return Ok(SessionEvent::Nothing);
        };
        match &mut self.state {
            State::Greeting { handshake, .. } => {
                if n == 0 {
                    handshake.handle_closed();
                } else {
                    handshake.handle_bytes(&io.buffer(link.receive_buffer())[..n as usize]);
                }
                self.step_control(io, now)
            }
            State::Reporting { .. } => self.read_figures(io, 0..n),
            _ if n == 0 => Ok(self.closed()),
            _ => Ok(SessionEvent::failed(Stage::Receive, "protocol", None)),
        }
    }

    /// Bytes of the server's figures stand in the receive buffer; none: it has closed.
    fn read_figures<D: Driver>(
        &mut self,
        io: &mut D,
        received: Range<u32>,
    ) -> Result<SessionEvent> {
        let (State::Reporting { reader, early, skips_payload, .. }, Some(link)) =
            (&mut self.state, &mut self.link)
        else {
            return Ok(SessionEvent::Nothing);
        };
        if received.is_empty() {
            if *early {
                return Ok(self.closed());
            }
            self.state = State::Closing;
            link.close(io)?;
            return Ok(SessionEvent::Nothing);
        }
        let buffer = io.buffer(link.receive_buffer());
        let mut bytes = &buffer[received.start as usize..received.end as usize];
        let mut room = CONTROL_READ;
        if *skips_payload {
            let frame_at = bytes.iter().position(|byte| byte & PAYLOAD_BIT == 0);
            let skipped = frame_at.unwrap_or(bytes.len());
            self.skipped += skipped as u64;
            *skips_payload = frame_at.is_none();
            bytes = &bytes[skipped..];
            room = u32::try_from(buffer.len()).unwrap_or(CONTROL_READ);
        }
        match reader.get_or_insert_default().handle_bytes(bytes) {
            Ok(Some(figures)) if *early => Ok(errors::ended(&self.spec, figures)),
            Ok(figures) => {
                link.receive(io, 0, room)?;
                let figures = figures.map(|figures| SessionEvent::Figures(Box::new(figures)));
                Ok(figures.unwrap_or(SessionEvent::Nothing))
            }
            Err(error) => {
                // What comes in place of the reply is the answer to the hello.
                let answers_hello = *early && self.is_one_go();
                let stage = if answers_hello { Stage::Handshake } else { Stage::Close };
                let cause = error.cause();
                let error = error.into_error(self.spec.to);
                Ok(SessionEvent::failed(stage, cause, Some(error)))
            }
        }
    }

    pub(super) fn end_stream<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        skips_payload: bool,
    ) -> Result {
        let is_brief = self.is_brief();
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        debug_assert!(!link.is_sending(), "the owner's sends are through");
        // A connection of one operation is ended by the server, right behind its reply: whoever
        // sends the first FIN keeps the port in TIME_WAIT, and the client's are the scarce ones.
        if !is_brief {
            link.half_close(io)?;
        }
        if !link.is_receiving() {
            link.receive(io, 0, CONTROL_READ)?;
        }
        self.await_figures(now, false, skips_payload);
        Ok(())
    }

    fn closed(&self) -> SessionEvent {
        SessionEvent::failed(Stage::Receive, "closed", Some(errors::closed(&self.spec)))
    }
}
