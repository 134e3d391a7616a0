//! From the connect to the session, over either transport.

use super::{CONTROL_READ, ClientSession, DialogueSpec, News, State};
use crate::worker::errors::Stage;
use tare_driver::{Driver, DriverError};
use tare_proto::datagram::UdpClientHandshake;
use tare_proto::handshake::{ClientEvent, ClientHandshake};
use tare_proto::hello::{Accept, Transport};
use tare_units::Instant;
use tare_units::text::Id;

impl ClientSession {
    pub(super) fn handle_connected<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        let State::Connecting { since } = self.state else {
            return Ok(News::Nothing);
        };
        if self.is_one_go(spec) {
            // The owner sends the hello, with its request.
            self.state = State::Open;
            return Ok(News::Connected(now.since(since)));
        }
        let mut hello = spec.hello.clone();
        (hello.brief, hello.request_follows) = (self.brief, false);
        let secret = spec.secret.clone();
        self.state = match spec.transport() {
            Transport::Tcp => State::Greeting {
                handshake: Box::new(ClientHandshake::new(&hello, secret)),
                deadline: now + spec.timeout,
            },
            Transport::Udp => {
                self.asked += 1;
                let nonce = spec.nonce ^ (u64::from(self.index) << 32 | self.asked);
                let handshake = UdpClientHandshake::new(&hello, nonce, secret, now, spec.timeout);
                State::GreetingDatagrams { handshake: Box::new(handshake) }
            }
        };
        match self.step_control(io, now, spec)? {
            News::Nothing => Ok(News::Connected(now.since(since))),
            failed => Ok(failed),
        }
    }

    /// Sends what a control exchange wants sent, asks for what it wants to hear, and tells what it has come to.
    pub(super) fn step_control<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(News::Nothing);
        };
        let is_sending = link.is_sending_control();
        let (frame, event) = match &mut self.state {
            State::Greeting { handshake, .. } if !is_sending => {
                (handshake.poll_transmit(), handshake.poll_event())
            }
            State::GreetingDatagrams { handshake } if !is_sending => {
                (handshake.poll_transmit(), handshake.poll_event())
            }
            State::Fetching { fetch, .. } => {
                return match fetch.poll_event() {
                    Some(fetched) => self.handle_document(io, fetched, spec),
                    None => self.step_fetch(io).map(|()| News::Nothing),
                };
            }
            _ => return Ok(News::Nothing),
        };
        if let Some(frame) = frame {
            link.send_control(io, &frame)?;
        }
        match event {
            Some(ClientEvent::Accepted(accept)) => self.handle_accepted(io, accept, now, spec),
            Some(ClientEvent::Failed(error)) => {
                let cause = error.cause();
                let error = error.into_error(spec.to);
                Ok(News::failed(Stage::Handshake, cause, Some(error)))
            }
            None => {
                match spec.transport() {
                    Transport::Tcp if link.is_receiving() => {}
                    Transport::Tcp => link.receive(io, 0, CONTROL_READ)?,
                    Transport::Udp => self.receive_datagram(io)?,
                }
                Ok(News::Nothing)
            }
        }
    }

    fn handle_accepted<D: Driver>(
        &mut self,
        io: &mut D,
        accept: Box<Accept>,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        self.session = accept.session.unwrap_or(Id(0));
        if spec.transport() == Transport::Udp && !self.brief {
            self.fetch_environment(io, accept, now, spec)?;
            return Ok(News::Nothing);
        }
        self.state = State::Open;
        Ok(News::Accepted(accept))
    }
}
