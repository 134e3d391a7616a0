//! What is particular to sessions over UDP.

use super::{Session, Want, bytes};
use crate::worker::link::Purpose;
use tare_driver::{Driver, DriverError, OpError};
use tare_proto::datagram;
use tare_proto::datagram::{
    DataHeader, Document, ENDED, Fetch, FrontAction, UdpServerFront, serve_document,
};
use tare_units::Instant;
use tare_units::limits::CONTROL_DATAGRAM;

/// Control datagrams that wait to be sent: as many as a client asks for at once.
const ANSWERS_MAX: usize = 16;

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
    pub(super) fn handle_loss<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        error: OpError,
    ) -> Result<Want, DriverError> {
        let phase = if purpose == Purpose::Receive { "receive" } else { "send" };
        self.count_error(phase, error.name());
        match purpose {
            Purpose::SendControl => {
                self.link.handle_control_sent(io, u32::MAX)?;
                if let Some(next) = self.answers.pop_front() {
                    self.link.send_control(io, &next)?;
                }
            }
            Purpose::Send => {
                let rest = self.reply.remaining();
                self.reply.handle_sent(rest.len());
            }
            _ => {}
        }
        if !self.link.is_receiving() && !self.is_replying() {
            match self.streaming {
                Some(_) => self.receive_stream(io)?,
                None => self.receive_datagram(io)?,
            }
        }
        Ok(Want::Nothing)
    }

    pub(super) fn receive_datagram<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let len = bytes((self.size as usize).max(CONTROL_DATAGRAM) + 1);
        self.link.receive(io, 0, len)
    }

    pub(super) fn handle_datagram<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want, DriverError> {
        self.received_bytes += u64::from(n);
        let datagram = &io.buffer(self.link.receive_buffer())[..n as usize];
        let Some(peer) = self.peer else {
            return Ok(Want::Close);
        };
        match front.handle_datagram(datagram, peer, now) {
            FrontAction::Data(header) if Some(header.session) == self.accept.session => {
                if self.is_ended() {
                    if let Some(answer) = header.turned_away(ENDED) {
                        self.answer(io, &answer)?;
                    }
                } else if n == self.size && !self.is_replying() {
                    return Ok(self.handle_data(io, header, now));
                }
                // One of another size, or one too many, is lost, as a network would lose it.
            }
            // The accept was lost: the same again.
            FrontAction::Session(request) if Some(request.key.nonce) == self.nonce => {
                let answer = self.accept.encode_short();
                self.answer(io, &answer)?;
            }
            // A client that was started anew, on the same port: the front will hear it when this socket is gone.
            FrontAction::Session(_) => return Ok(Want::Close),
            FrontAction::Reply(answer) => self.answer(io, &answer)?,
            FrontAction::Fetch(fetch) if Some(fetch.session) == self.accept.session => {
                self.active_at = now;
                if fetch.document == Document::Figures {
                    return Ok(self.handle_fetch(fetch, now));
                }
                let document = serde_json::to_vec(&self.accept.environment);
                if let Some(chunk) = serve_document(&fetch, &document.unwrap_or_default()) {
                    self.answer(io, &chunk)?;
                }
            }
            _ => {}
        }
        self.receive_datagram(io)?;
        Ok(Want::Nothing)
    }

    fn handle_data<D: Driver>(&mut self, io: &mut D, header: DataHeader, now: Instant) -> Want {
        let reply = DataHeader { reply: true, ..header };
        reply.encode_into(io.buffer_mut(self.link.send_buffer()));
        self.measured = header.flags & datagram::MEASURED != 0;
        self.handle_request(now)
    }

    fn handle_fetch(&mut self, fetch: Fetch, now: Instant) -> Want {
        self.ended_at.get_or_insert(now);
        self.told_at = Some(now);
        self.fetches.push(fetch);
        Want::Report
    }

    /// Sends a control datagram, behind those on their way. Beyond a bound it is lost, and asked for again.
    pub(super) fn answer<D: Driver>(
        &mut self,
        io: &mut D,
        datagram: &[u8],
    ) -> Result<(), DriverError> {
        let is_streaming = self.streaming.is_some() && self.link.is_sending();
        if self.link.is_sending_control() || is_streaming {
            if self.answers.len() < ANSWERS_MAX {
                self.answers.push_back(datagram.to_vec());
            }
            return Ok(());
        }
        self.link.send_control(io, datagram)
    }
}
