//! The server's words over TCP, and its figures.

use std::ops::Range;

use super::{CONTROL_READ, ClientSession, DialogueSpec, Failure, News, State, blame};
use crate::worker::errors::Stage;
use tare_driver::{Driver, DriverError};
use tare_proto::stream::PAYLOAD_BIT;
use tare_units::Instant;

impl ClientSession {
    /// The server has sent its figures without being asked, and ends the session: they begin at `received.start` of the
    /// receive buffer, in what the owner has received up to `received.end`. A send of the owner's may be outstanding, and
    /// then fail unnoticed; a receive must not.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn handle_early_figures<D: Driver>(
        &mut self,
        io: &mut D,
        received: Range<u32>,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        self.report(now, spec, true, false);
        self.handle_figures(io, received, spec)
    }

    /// As [`Self::handle_early_figures`], where it was agreed that the server ends the session here.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn handle_due_figures<D: Driver>(
        &mut self,
        io: &mut D,
        received: Range<u32>,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        self.report(now, spec, false, false);
        self.handle_figures(io, received, spec)
    }

    /// The exchange is over: from now on what comes is read for the figures.
    fn report(&mut self, now: Instant, spec: &DialogueSpec, early: bool, skips_payload: bool) {
        self.state =
            State::Reporting { reader: None, deadline: now + spec.timeout, early, skips_payload };
    }

    /// Bytes came over TCP, and are none of the exchange: those go to the owner.
    pub(super) fn handle_bytes<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(News::Nothing);
        };
        match &mut self.state {
            State::Greeting { handshake, .. } => {
                if n == 0 {
                    handshake.handle_closed();
                } else {
                    handshake.handle_bytes(&io.buffer(link.receive_buffer())[..n as usize]);
                }
                self.step_control(io, now, spec)
            }
            State::Reporting { .. } => self.handle_figures(io, 0..n, spec),
            _ if n == 0 => Ok(closed(spec)),
            _ => Ok(News::failed(Stage::Receive, "protocol", None)),
        }
    }

    /// Bytes of the server's figures stand in the receive buffer; none: it has closed.
    fn handle_figures<D: Driver>(
        &mut self,
        io: &mut D,
        received: Range<u32>,
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        let one_go = self.is_one_go(spec);
        let State::Reporting { reader, early, skips_payload, .. } = &mut self.state else {
            return Ok(News::Nothing);
        };
        let Some(link) = &mut self.link else {
            return Ok(News::Nothing);
        };
        if received.is_empty() {
            if *early {
                return Ok(closed(spec));
            }
            self.state = State::Closing;
            link.close(io)?;
            return Ok(News::Nothing);
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
            Ok(Some(figures)) if *early => Ok(News::Ended {
                failure: Failure::ended(&figures, spec),
                figures: Box::new(figures),
            }),
            Ok(figures) => {
                link.receive(io, 0, room)?;
                Ok(figures.map_or(News::Nothing, |figures| News::Figures(Box::new(figures))))
            }
            Err(error) => {
                let early = *early;
                let cause = error.cause();
                let error = error.into_error(spec.to);
                // What comes in place of the reply is the answer to the hello.
                let stage = if early && one_go { Stage::Handshake } else { Stage::Close };
                Ok(News::failed(stage, cause, Some(error)))
            }
        }
    }

    pub(super) fn end_stream<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &DialogueSpec,
        skips_payload: bool,
    ) -> Result<(), DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        debug_assert!(!link.is_sending(), "the owner's sends are through");
        // A connection of one operation is ended by the server, right behind its reply: whoever sends the
        // first FIN keeps the port in TIME_WAIT, and the client's are the scarce ones.
        if !self.brief {
            link.half_close(io)?;
        }
        if !link.is_receiving() {
            link.receive(io, 0, CONTROL_READ)?;
        }
        self.report(now, spec, false, skips_payload);
        Ok(())
    }
}

/// The connection was closed before its time.
fn closed(spec: &DialogueSpec) -> News {
    News::failed(Stage::Receive, "closed", Some(blame::closed(spec.to)))
}
