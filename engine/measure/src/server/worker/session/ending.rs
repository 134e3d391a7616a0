//! How a session ends: its figures, by whom and why it was ended, and how long it may take over that.

use super::{Reading, Result, Session, SessionLimits, Stage, Want};
use tare_driver::Driver;
use tare_proto::datagram::serve_document;
use tare_proto::hello::{Figures, Transport};
use tare_proto::stream::SIGNALS_LOST_AFTER;
use tare_units::Instant;
use tare_units::bounds::{ENDING_MAX, LINGER, SESSION_ENDING_MAX};

impl<P> Session<P> {
    /// What its deadlines want at `now`. A session that has to end by them, or because the server is `stopping`, says so in
    /// its figures; a stream stops at `active_at`.
    pub(crate) fn handle_limits(
        &mut self,
        io: &mut impl Driver,
        now: Instant,
        active_at: Instant,
        limits: SessionLimits,
        stopping: bool,
    ) -> Result<Want> {
        if let Some(ended_at) = self.ended_at {
            // An embedded server would else keep its run waiting for a client that has begun to fetch the figures, and
            // mostly has them.
            let is_dispensable =
                stopping && self.transport == Transport::Udp && self.cut_short.is_none();
            let over = is_dispensable || self.has_ended(ended_at, now, limits);
            return Ok(if over { Want::Close } else { Want::Nothing });
        }
        let idle = now.since(self.active_at) > limits.idle;
        let why = if stopping {
            "the server was told to stop".to_owned()
        } else if self.is_unheard(now) {
            format!("no signal came from the client for {SIGNALS_LOST_AFTER}")
        } else if idle {
            format!("no request came for {} (--idle-timeout)", limits.idle)
        } else if now.since(self.since) > limits.duration {
            format!("the session had lasted {} (--max-duration)", limits.duration)
        } else {
            return Ok(Want::Nothing);
        };
        self.ended_at = Some(now);
        self.cut_short = Some(why);
        if self.streaming.is_some() {
            if self.transport == Transport::Udp {
                self.told_at = Some(now);
            } else if idle {
                // For so long the client has taken nothing, or sent nothing.
                return Ok(Want::Close);
            }
            return self.stop_stream(io, active_at);
        }
        Ok(match self.transport {
            // Requests are answered with ENDED from here on; the figures are there to be fetched.
            Transport::Udp => {
                self.told_at = Some(now);
                Want::Nothing
            }
            Transport::Tcp if !self.is_replying() => Want::Report,
            // For so long the client has not even taken its reply.
            Transport::Tcp if idle => Want::Close,
            Transport::Tcp => Want::Nothing,
        })
    }

    fn has_ended(&self, ended_at: Instant, now: Instant, limits: SessionLimits) -> bool {
        let by_its_client = self.cut_short.is_none();
        // A long document over a lossy path is fetched for longer, and each fetch shows that the client is there.
        let most = if self.transport == Transport::Udp && by_its_client {
            now.since(self.since) > limits.duration
        } else if self.streaming.is_some() {
            // What was still to be sent may be much, and the path slow.
            now.since(ended_at.max(self.active_at)) > SESSION_ENDING_MAX
                || now.since(ended_at) > ENDING_MAX
        } else {
            now.since(ended_at) > SESSION_ENDING_MAX
        };
        most || self.told_at.is_some_and(|at| now.since(at) > LINGER)
    }

    /// TCP: the client has half-closed, or is gone.
    pub(super) fn handle_end_of_stream(
        &mut self,
        io: &mut impl Driver,
        now: Instant,
    ) -> Result<Want> {
        self.client_ended = true;
        match self.stage {
            Stage::Draining => return Ok(Want::Close),
            Stage::Reporting => return Ok(Want::Nothing),
            Stage::Exchanging if self.streaming.is_some() => return self.stop_stream(io, now),
            Stage::Exchanging => {}
        }
        if self.request.remaining().start > 0 {
            self.count_error("receive", "short-request");
        }
        self.ended_at.get_or_insert(now);
        Ok(if self.is_replying() {
            Want::Nothing
        } else if self.hello.request_follows {
            Want::Close
        } else {
            Want::Report
        })
    }

    /// TCP: the figures are sent.
    pub(super) fn handle_told(&mut self, io: &mut impl Driver, now: Instant) -> Result<Want> {
        if self.cut_short.is_none() || self.client_ended {
            return Ok(Want::Close);
        }
        self.stage = Stage::Draining;
        self.told_at = Some(now);
        self.link.half_close(io)?;
        self.receive_next(io)?;
        Ok(Want::Nothing)
    }

    /// Sends the figures: over TCP as a frame, over UDP the part that was asked for.
    pub(crate) fn report(
        &mut self,
        io: &mut impl Driver,
        reading: Option<Reading>,
    ) -> Result<Want> {
        if self.link.is_closing() {
            return Ok(Want::Nothing);
        }
        match self.transport {
            Transport::Tcp => {
                if self.link.is_sending_control() {
                    return Ok(Want::Close);
                }
                self.stage = Stage::Reporting;
                let frame = self.make_figures(reading).encode();
                self.link.send_control(io, &frame)?;
            }
            Transport::Udp => {
                if self.figures.is_none() {
                    let figures = self.make_figures(reading);
                    self.figures = Some(serde_json::to_vec(&figures).unwrap_or_default());
                }
                let document = self.figures.as_deref().unwrap_or_default();
                let fetches = self.fetches.drain(..);
                let chunks: Vec<_> =
                    fetches.filter_map(|fetch| serve_document(&fetch, document)).collect();
                for chunk in chunks {
                    self.answer(io, &chunk)?;
                }
                self.receive_next(io)?;
            }
        }
        Ok(Want::Nothing)
    }

    /// Whether [`Session::report`] will want a reading: the figures of a datagram session are made once.
    pub(crate) const fn needs_reading(&self) -> bool {
        !self.hello.brief && self.figures.is_none()
    }

    fn make_figures(&mut self, reading: Option<Reading>) -> Figures {
        let Reading { mut instrument, cpu, operations, bytes } = reading.unwrap_or_default();
        if !self.hello.brief {
            instrument.backend.clone_from(&self.accept.backend);
            instrument.backend_reason.clone_from(&self.accept.backend_reason);
            self.accept.wait.name().clone_into(&mut instrument.wait);
            instrument.wait_reason.clone_from(&self.accept.wait_reason);
        }
        Figures {
            operations: self.completed,
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
            residence_count: self.residence.as_ref().map_or(0, |r| r.count()),
            residence_hdr: self.residence.take().map(|r| r.encode()),
            instrument,
            cpu,
            cpu_operations: operations,
            cpu_bytes: bytes,
            stream: self.streaming.as_mut().and_then(|s| s.account.take()),
            errors: std::mem::take(&mut self.errors),
            cut_short: self.cut_short.clone(),
        }
    }
}
