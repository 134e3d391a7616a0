//! Datagram clients until they have a session and a socket of their own.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::super::Result;
use super::{Acceptor, Arrival, CONNECTING_BASE, Dispatch, close_orphan};
use crate::worker::link::{Purpose, token};
use tare_driver::{BufferId, DatagramFrom, Driver, Op, Outcome, Segment, SocketId, SocketSpec};
use tare_proto::datagram::{FrontAction, NO_SESSION, SessionKey, SessionRequest, UdpServerFront};
use tare_proto::hello::{Hello, Transport};
use tare_units::limits::CONTROL_DATAGRAM;
use tare_units::{Instant, Nanos};

/// Datagram clients whose sockets are connected at once; that does not wait for the network.
const CONNECTING_MAX: usize = 64;
/// For so long after a session was handed over, hellos of it that lie in the front's queue are
/// known: those sent later go to the session's own socket.
const HANDED_FOR: Nanos = Nanos::from_secs(5);
/// So many of them are remembered at most; the oldest are forgotten first.
const HANDED_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct DatagramSocket {
    pub(super) socket: SocketId,
    pub(super) local: SocketAddr,
    pub(super) receive: BufferId,
    pub(super) send: BufferId,
    pub(super) sending: bool,
}

/// A verified datagram client whose own socket is being connected.
#[derive(Debug)]
pub(super) struct Connecting<A> {
    socket: SocketId,
    hello: Box<Hello>,
    key: SessionKey,
    admission: A,
}

#[derive(Debug, Default)]
pub(super) struct HandoffMap {
    order: VecDeque<(Instant, SessionKey)>,
    keys: HashSet<SessionKey>,
}

impl HandoffMap {
    fn note(&mut self, key: SessionKey, now: Instant) {
        if self.order.len() == HANDED_MAX {
            self.forget_oldest();
        }
        if self.keys.insert(key) {
            self.order.push_back((now, key));
        }
    }

    fn knows(&mut self, key: &SessionKey, now: Instant) -> bool {
        while let Some((at, _)) = self.order.front()
            && now.since(*at) > HANDED_FOR
        {
            self.forget_oldest();
        }
        self.keys.contains(key)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.keys.remove(&key);
        }
    }
}

/// The address that a client was reached at, with the port that the server has. A link-local one is
/// an address of one interface only: the one that the client's address names.
const fn local_of(ip: IpAddr, port: u16, from: SocketAddr) -> SocketAddr {
    match (ip, from) {
        (IpAddr::V6(ip), SocketAddr::V6(from)) if ip.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(ip, port, 0, from.scope_id()))
        }
        _ => SocketAddr::new(ip, port),
    }
}

impl<S, P: Dispatch<S>> Acceptor<P, S> {
    pub(super) fn receive_datagram(&self, io: &mut impl Driver, slot: u32) -> Result {
        let bound = &self.datagram_sockets[slot as usize];
        #[expect(clippy::cast_possible_truncation, reason = "a constant of 1201")]
        let into = Segment { buffer: bound.receive, start: 0, len: CONTROL_DATAGRAM as u32 + 1 };
        let receive = Op::ReceiveFrom { socket: bound.socket, into };
        io.push(token(slot, Purpose::Receive), receive)
    }

    pub(super) fn handle_datagram(
        &mut self,
        io: &mut impl Driver,
        slot: u32,
        outcome: &Outcome,
        now: Instant,
    ) -> Result {
        if let Outcome::ReceivedFrom { len, addresses, truncated: false } = *outcome {
            let bound = &self.datagram_sockets[slot as usize];
            let bytes = &io.buffer(bound.receive)[..len as usize];
            let answer = match self.udp.handle_datagram(bytes, addresses.from, now) {
                FrontAction::Ignore => None,
                FrontAction::Reply(bytes) => Some(bytes),
                FrontAction::Session(request) => {
                    self.handle_request(io, slot, addresses, *request, now)?
                }
                // Sessions have sockets of their own: what comes here belongs to none.
                FrontAction::Data(header) => header.turned_away(NO_SESSION).map(Into::into),
                FrontAction::Fetch(_) => Some(UdpServerFront::unknown_session()),
            };
            if let Some(answer) = answer {
                self.reply(io, slot, &answer, addresses)?;
            }
        }
        self.receive_datagram(io, slot)
    }

    /// A client asks for a session from a verified address. Returns the refusal, if there is one.
    fn handle_request(
        &mut self,
        io: &mut impl Driver,
        slot: u32,
        addresses: DatagramFrom,
        request: SessionRequest,
        now: Instant,
    ) -> Result<Option<Vec<u8>>> {
        let SessionRequest { key, hello } = request;
        let mut connecting = self.connecting.iter();
        if connecting.any(|(_, other)| other.key.from == key.from) || self.handed.knows(&key, now) {
            return Ok(None);
        }
        if self.connecting.len() >= CONNECTING_MAX {
            // The client sends its hello again.
            return Ok(None);
        }
        let admission = match self.dispatch.admit(&hello, Some(key.from)) {
            Ok(admission) => admission,
            Err(refusal) => return Ok(Some(refusal.encode())),
        };
        if let Some(socket) = self.open_towards(io, slot, addresses) {
            let hello = Box::new(hello);
            let index = self.connecting.insert(Connecting { socket, hello, key, admission });
            #[expect(clippy::cast_possible_truncation, reason = "below CONNECTING_MAX")]
            let slot = CONNECTING_BASE + index as u32;
            io.push(token(slot, Purpose::Connect), Op::Connect { socket, to: key.from })?;
        }
        Ok(None)
    }

    /// A socket of the client's own: same local address and port, to be connected to it, so that
    /// the kernel delivers its datagrams there and the session's worker never shares a queue.
    fn open_towards(
        &mut self,
        io: &mut impl Driver,
        slot: u32,
        addresses: DatagramFrom,
    ) -> Option<SocketId> {
        let bound = self.datagram_sockets[slot as usize].local;
        let local = addresses.local.map_or(bound, |ip| local_of(ip, bound.port(), addresses.from));
        let spec = SocketSpec {
            local: Some(local),
            reuse_port: true,
            ..SocketSpec::datagram_to(addresses.from)
        };
        io.open(&spec)
            .inspect_err(|error| {
                self.dispatch
                    .log("socket", &format!("{}: no socket for it: {error}", addresses.from));
            })
            .ok()
    }

    pub(super) fn handle_connected(
        &mut self,
        io: &mut impl Driver<Socket = S>,
        index: usize,
        outcome: &Outcome,
        now: Instant,
    ) -> Result {
        let Some(Connecting { socket, hello, key, admission }) = self.connecting.try_remove(index)
        else {
            return Ok(());
        };
        if *outcome != Outcome::Connected {
            return close_orphan(io, socket);
        }
        match io.release(socket) {
            Ok(socket) => {
                self.handed.note(key, now);
                let arrival = Arrival {
                    socket,
                    hello,
                    transport: Transport::Udp,
                    peer: Some(key.from),
                    nonce: Some(key.nonce),
                    early: Vec::new(),
                    listener: None,
                };
                self.dispatch.hand_over(admission, arrival);
                Ok(())
            }
            Err(error) => {
                self.dispatch.log("hand-over", &format!("could not hand a session over: {error}"));
                close_orphan(io, socket)
            }
        }
    }

    fn reply(
        &mut self,
        io: &mut impl Driver,
        slot: u32,
        bytes: &[u8],
        addresses: DatagramFrom,
    ) -> Result {
        let bound = &mut self.datagram_sockets[slot as usize];
        if bound.sending || bytes.len() > CONTROL_DATAGRAM {
            // One answer at a time: a client whose question fell into that moment asks again.
            return Ok(());
        }
        io.buffer_mut(bound.send)[..bytes.len()].copy_from_slice(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "at most CONTROL_DATAGRAM")]
        let data = Segment { buffer: bound.send, start: 0, len: bytes.len() as u32 };
        bound.sending = true;
        let (socket, to, source) = (bound.socket, addresses.from, addresses.local);
        io.push(token(slot, Purpose::Send), Op::SendTo { socket, data, to, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_keeps_its_interface() {
        let from: SocketAddr = "[fe80::2%3]:5000".parse().unwrap();
        let local = local_of("fe80::1".parse().unwrap(), 7117, from);
        assert_eq!(local, "[fe80::1%3]:7117".parse().unwrap());
        let global = local_of("2001:db8::1".parse().unwrap(), 7117, from);
        assert_eq!(global, "[2001:db8::1]:7117".parse().unwrap());
        let v4 = "192.0.2.1:5000".parse().unwrap();
        let local = local_of("192.0.2.2".parse().unwrap(), 7117, v4);
        assert_eq!(local, "192.0.2.2:7117".parse().unwrap());
    }

    #[test]
    fn sessions_handed_over_are_known_for_a_while_and_are_bounded() {
        let key = |nonce| SessionKey { from: "192.0.2.1:5000".parse().unwrap(), nonce };
        let mut handed = HandoffMap::default();
        handed.note(key(1), Instant(0));
        assert!(handed.knows(&key(1), Instant(0) + HANDED_FOR));
        assert!(!handed.knows(&key(2), Instant(0)));
        assert!(!handed.knows(&key(1), Instant(1) + HANDED_FOR));
        for nonce in 0..2 * HANDED_MAX as u64 {
            handed.note(key(nonce), Instant(0));
        }
        assert_eq!(handed.order.len(), HANDED_MAX);
        assert_eq!(handed.keys.len(), HANDED_MAX);
        assert!(!handed.knows(&key(0), Instant(0)));
    }
}
