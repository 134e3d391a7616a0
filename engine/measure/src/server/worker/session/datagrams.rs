//! What is particular to sessions over UDP.

use super::{Result, Session, Want};
use crate::worker::link::Purpose;
use tare_driver::{Driver, OpError};
use tare_proto::datagram;
use tare_proto::datagram::{
    DataHeader, Document, ENDED, FrontAction, UdpServerFront, serve_document,
};
use tare_proto::hello::Transport;
use tare_proto::stream::{SIGNALS_LOST_AFTER, StreamHeader, StreamKind};
use tare_units::limits::CONTROL_DATAGRAM;
use tare_units::{Instant, Nanos};

/// Control datagrams that wait to be sent: as many as a client asks for at once.
const ANSWERS_MAX: usize = 16;
/// A client that goes on with an ended stream is told so this often at most.
const ENDED_TOLD_EVERY: Nanos = Nanos::from_millis(10);

/// What costs a datagram and not the session: the path is away, and may come back; or this end has no room now.
pub(super) const fn is_loss(error: OpError) -> bool {
    matches!(
        error,
        OpError::HostUnreachable
            | OpError::NetworkUnreachable
            | OpError::NetworkDown
            | OpError::NotPermitted
            | OpError::NoBuffers
    )
}

impl<P> Session<P> {
    /// A datagram was lost on this machine, as it might have been further on: the client asks again.
    pub(super) fn handle_loss(
        &mut self,
        io: &mut impl Driver,
        purpose: Purpose,
        error: OpError,
    ) -> Result {
        self.count_error(super::phase_of(purpose), error.name());
        match purpose {
            Purpose::SendControl => {
                self.link.handle_control_sent(io, u32::MAX)?;
                self.answer_next(io)?;
            }
            Purpose::Send => {
                let rest = self.reply.remaining();
                self.reply.handle_sent(rest.len());
            }
            _ => {}
        }
        if self.is_replying() { Ok(()) } else { self.receive_next(io) }
    }

    pub(super) fn handle_datagram(
        &mut self,
        io: &mut impl Driver,
        n: u32,
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want> {
        self.received_bytes += u64::from(n);
        let want = self.handle_control(io, 0..n as usize, now, front)?;
        if want == Want::Nothing {
            self.receive_next(io)?;
        }
        Ok(want)
    }

    /// A stream: one datagram came, or several at once: payload, and behind it control datagrams.
    pub(super) fn handle_stream_datagrams(
        &mut self,
        io: &mut impl Driver,
        n: u32,
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want> {
        self.received_bytes += u64::from(n);
        let (mut start, end) = self.take_payload(io, n, now)?;
        let mut want = Want::Nothing;
        // Several of a client's control datagrams may have been taken at once: they all have one length.
        while start < end {
            let until = (start + CONTROL_DATAGRAM).min(end);
            match self.handle_control(io, start..until, now, front)? {
                Want::Nothing => {}
                Want::Close => return Ok(Want::Close),
                wanted => want = wanted,
            }
            start = until;
        }
        self.receive_next(io)?;
        let checked = self.check_stream(io, now)?;
        Ok(if want == Want::Nothing { checked } else { want })
    }

    /// Counts the payload of this stream at the beginning of what came. Returns where that is over, and all is.
    fn take_payload(
        &mut self,
        io: &mut impl Driver,
        n: u32,
        now: Instant,
    ) -> Result<(usize, usize)> {
        let session = self.accept.session.unwrap_or_default();
        let all = &io.buffer(self.link.receive_buffer())[..n as usize];
        let whole = (all.len(), all.len());
        let first = StreamHeader::decode(all)
            .filter(|header| header.kind == StreamKind::Payload && header.session == session);
        let (Some(first), Some(streaming)) = (first, &mut self.streaming) else {
            return Ok((0, all.len()));
        };
        streaming.moved += u64::from(n);
        if self.ended_at.is_some() {
            // The client has not heard yet that the server has ended the session.
            if self.cut_short.is_some() && now.since(streaming.ended_told_at) >= ENDED_TOLD_EVERY {
                streaming.ended_told_at = now;
                let StreamHeader { sequence, session, .. } = first;
                self.turn_away(io, DataHeader { reply: false, flags: 0, sequence, session })?;
            }
            return Ok(whole);
        }
        streaming.heard_at = now;
        self.active_at = now;
        let receiver = streaming.receiver.as_mut();
        let rest = receiver.and_then(|receiver| receiver.handle_datagrams(all, session, now));
        self.measured |= streaming.is_measuring(now);
        self.start_stream(io, now)?;
        Ok(rest.unwrap_or(whole))
    }

    /// A datagram that is no payload of a stream.
    fn handle_control(
        &mut self,
        io: &mut impl Driver,
        range: std::ops::Range<usize>,
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want> {
        let Some(peer) = self.peer else {
            return Ok(Want::Close);
        };
        let len = range.len();
        let datagram = &io.buffer(self.link.receive_buffer())[range];
        match front.handle_datagram(datagram, peer, now) {
            FrontAction::Data(header) if Some(header.session) == self.accept.session => {
                if self.streaming.is_some() {
                    self.handle_signal(io, header, now)?;
                } else if self.is_ended() {
                    self.turn_away(io, header)?;
                } else if len == self.size as usize && !self.is_replying() {
                    let reply = DataHeader { reply: true, ..header };
                    reply.encode_into(io.buffer_mut(self.link.send_buffer()));
                    self.measured = header.flags & datagram::MEASURED != 0;
                    return Ok(self.handle_request(now));
                }
                // One of another size, or one too many, is lost, as a network would lose it.
            }
            // The accept was lost: the same again.
            FrontAction::Session(request) if Some(request.key.nonce) == self.nonce => {
                let answer = self.accept.encode_short();
                self.answer(io, &answer)?;
            }
            // A new client on the same port: the front will hear it when this socket is gone.
            FrontAction::Session(_) => return Ok(Want::Close),
            FrontAction::Reply(answer) => self.answer(io, &answer)?,
            FrontAction::Fetch(fetch) if Some(fetch.session) == self.accept.session => {
                self.active_at = now;
                if fetch.document == Document::Figures {
                    self.told_at = Some(now);
                    self.fetches.push(fetch);
                    let want = self.stop_stream(io, now)?;
                    return Ok(if self.streaming.is_some() && self.link.is_sending() {
                        want
                    } else {
                        Want::Report
                    });
                }
                let document = serde_json::to_vec(&self.accept.environment);
                if let Some(chunk) = serve_document(&fetch, &document.unwrap_or_default()) {
                    self.answer(io, &chunk)?;
                }
            }
            _ => {}
        }
        Ok(Want::Nothing)
    }

    /// The client of a stream shows that it is there.
    fn handle_signal(&mut self, io: &mut impl Driver, header: DataHeader, now: Instant) -> Result {
        self.active_at = now;
        if self.is_ended() {
            return if self.cut_short.is_some() { self.turn_away(io, header) } else { Ok(()) };
        }
        if let Some(streaming) = &mut self.streaming {
            streaming.heard_at = now;
        }
        self.start_stream(io, now)
    }

    fn turn_away(&mut self, io: &mut impl Driver, header: DataHeader) -> Result {
        header.turned_away(ENDED).map_or(Ok(()), |answer| self.answer(io, &answer))
    }

    /// Whether the client of a stream over UDP has not been heard of for too long to be sent to.
    pub(super) fn is_unheard(&self, now: Instant) -> bool {
        self.transport == Transport::Udp
            && self.streaming.as_ref().is_some_and(|streaming| {
                streaming.started
                    && !streaming.is_sent()
                    && now.since(streaming.heard_at) > SIGNALS_LOST_AFTER
            })
    }

    /// Sends a control datagram, behind those on their way. Beyond a bound it is lost, and asked for again.
    pub(super) fn answer(&mut self, io: &mut impl Driver, datagram: &[u8]) -> Result {
        let is_streaming = self.streaming.is_some() && self.link.is_sending();
        if self.link.is_sending_control() || is_streaming {
            if self.answers.len() < ANSWERS_MAX {
                self.answers.push_back(datagram.to_vec());
            }
            return Ok(());
        }
        self.link.send_control(io, datagram)
    }

    pub(super) fn answer_next(&mut self, io: &mut impl Driver) -> Result {
        let next = self.answers.pop_front();
        next.map_or(Ok(()), |next| self.link.send_control(io, &next))
    }
}
