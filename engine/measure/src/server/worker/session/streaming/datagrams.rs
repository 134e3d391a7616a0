//! What is particular to streams over UDP.

use super::super::{Session, Want};
use tare_driver::{Driver, DriverError};
use tare_proto::datagram::{
    DataHeader, Document, ENDED, FrontAction, UdpServerFront, serve_document,
};
use tare_proto::hello::Transport;
use tare_proto::stream::{SIGNALS_LOST_AFTER, StreamHeader, StreamKind};
use tare_units::limits::CONTROL_DATAGRAM;
use tare_units::{Instant, Nanos};

/// A client that goes on with an ended session is told so this often at most.
const TOLD_OFF_EVERY: Nanos = Nanos::from_millis(10);

impl<P> Session<P> {
    /// One datagram came, or several at once: payload, and behind it control datagrams.
    pub(super) fn handle_stream_datagrams<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want, DriverError> {
        self.received_bytes += u64::from(n);
        let (mut start, end) = self.take_payload(io, n, now)?;
        let mut want = Want::Nothing;
        // Several of a client's control datagrams may have been taken at once: they all have one length.
        while start < end && want != Want::Close {
            let mut control = [0; CONTROL_DATAGRAM];
            let until = (start + CONTROL_DATAGRAM).min(end);
            let control = &mut control[..until - start];
            control.copy_from_slice(&io.buffer(self.link.receive_buffer())[start..until]);
            match self.handle_stream_control(io, control, now, front)? {
                Want::Nothing => {}
                wanted => want = wanted,
            }
            start = until;
        }
        if want == Want::Close {
            return Ok(want);
        }
        self.receive_stream(io)?;
        let checked = self.check_stream(io, now)?;
        Ok(if want == Want::Nothing { checked } else { want })
    }

    /// Counts the payload of this stream at the beginning of what came. Returns where that is over, and all is.
    fn take_payload<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
    ) -> Result<(usize, usize), DriverError> {
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
            self.tell_off(io, first, now)?;
            return Ok(whole);
        }
        streaming.heard_at = now;
        self.active_at = now;
        let rest = streaming
            .receiver
            .as_mut()
            .and_then(|receiver| receiver.handle_datagrams(all, session, now));
        self.measured |= streaming.is_measuring(now);
        self.start_stream(io, now)?;
        Ok(rest.unwrap_or(whole))
    }

    /// The client has not heard yet that the server has ended the session.
    fn tell_off<D: Driver>(
        &mut self,
        io: &mut D,
        header: StreamHeader,
        now: Instant,
    ) -> Result<(), DriverError> {
        let Some(streaming) = &mut self.streaming else {
            return Ok(());
        };
        if self.cut_short.is_none() || now.since(streaming.told_off_at) < TOLD_OFF_EVERY {
            return Ok(());
        }
        streaming.told_off_at = now;
        let request = DataHeader {
            reply: false,
            flags: 0,
            sequence: header.sequence,
            session: header.session,
        };
        match request.turned_away(ENDED) {
            Some(answer) => self.answer(io, &answer),
            None => Ok(()),
        }
    }

    fn handle_stream_control<D: Driver>(
        &mut self,
        io: &mut D,
        datagram: &[u8],
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want, DriverError> {
        let Some(peer) = self.peer else {
            return Ok(Want::Close);
        };
        match front.handle_datagram(datagram, peer, now) {
            // A signal.
            FrontAction::Data(header) if Some(header.session) == self.accept.session => {
                self.handle_signal(io, header, now)?;
            }
            FrontAction::Session(request) if Some(request.key.nonce) == self.nonce => {
                let answer = self.accept.encode_short();
                self.answer(io, &answer)?;
            }
            FrontAction::Session(_) => return Ok(Want::Close),
            FrontAction::Reply(answer) => self.answer(io, &answer)?,
            FrontAction::Fetch(fetch) if Some(fetch.session) == self.accept.session => {
                self.active_at = now;
                if fetch.document == Document::Figures {
                    self.told_at = Some(now);
                    self.fetches.push(fetch);
                    let want = self.stop_stream(io, now)?;
                    return Ok(if self.link.is_sending() { want } else { Want::Report });
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

    fn handle_signal<D: Driver>(
        &mut self,
        io: &mut D,
        header: DataHeader,
        now: Instant,
    ) -> Result<(), DriverError> {
        self.active_at = now;
        if self.is_ended() {
            return match header.turned_away(ENDED) {
                Some(answer) if self.cut_short.is_some() => self.answer(io, &answer),
                _ => Ok(()),
            };
        }
        if let Some(streaming) = &mut self.streaming {
            streaming.heard_at = now;
        }
        self.start_stream(io, now)
    }

    /// Whether the client of a stream over UDP has not been heard of for too long to be sent to.
    pub(in super::super) fn is_unheard(&self, now: Instant) -> bool {
        self.transport == Transport::Udp
            && self.streaming.as_ref().is_some_and(|streaming| {
                streaming.started
                    && !streaming.is_sent()
                    && now.since(streaming.heard_at) > SIGNALS_LOST_AFTER
            })
    }
}
