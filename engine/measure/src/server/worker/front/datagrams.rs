//! Datagram clients until they have a session and a socket of their own.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::{Acceptor, Arrival, CONNECTING_BASE, Place, close_orphan};
use crate::worker::link::{Purpose, token};
use tare_driver::{
    BufferId, DatagramFrom, Driver, DriverError, Op, Outcome, Segment, SocketId, SocketSpec,
};
use tare_proto::datagram::{
    DataHeader, FrontAction, NO_SESSION, SessionKey, SessionRequest, UdpServerFront,
};
use tare_proto::hello::Hello;
use tare_proto::hello::Transport;
use tare_units::limits::CONTROL_DATAGRAM;
use tare_units::{Instant, Nanos};

/// Datagram clients whose socket is being connected at once; connecting a datagram socket does not wait.
const CONNECTING_MAX: usize = 64;
/// For so long after a session was handed over, hellos of it that lie in the front's queue are known: those sent
/// later go to the session's own socket.
const HANDED_FOR: Nanos = Nanos::from_secs(5);
/// So many of them are remembered at most; the oldest are forgotten first.
const HANDED_MAX: usize = 4096;

/// One bound datagram socket.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) socket: SocketId,
    pub(super) local: Option<SocketAddr>,
    pub(super) receive: BufferId,
    pub(super) send: BufferId,
    pub(super) sending: bool,
}

/// A verified datagram client whose own socket is being connected.
#[derive(Debug)]
pub(super) struct Connecting<T> {
    socket: SocketId,
    hello: Box<Hello>,
    key: SessionKey,
    ticket: T,
}

/// Sessions that were handed over lately.
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

/// The address that a client was reached at, with the port of the door. A link-local one is an address of one
/// interface only: the one that the client's address names.
const fn local_of(ip: IpAddr, port: u16, from: SocketAddr) -> SocketAddr {
    match (ip, from) {
        (IpAddr::V6(ip), SocketAddr::V6(from)) if ip.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(ip, port, 0, from.scope_id()))
        }
        _ => SocketAddr::new(ip, port),
    }
}

impl<P, T, S> Acceptor<P, T, S> {
    pub(super) fn receive_datagram<D: Driver>(
        &self,
        io: &mut D,
        slot: u32,
    ) -> Result<(), DriverError> {
        let door = &self.doors[slot as usize];
        #[expect(clippy::cast_possible_truncation, reason = "a constant of 1201")]
        let into = Segment { buffer: door.receive, start: 0, len: CONTROL_DATAGRAM as u32 + 1 };
        let receive = Op::ReceiveFrom { socket: door.socket, into };
        io.push(token(slot, Purpose::Receive), receive)
    }

    pub(super) fn handle_datagram<D>(
        &mut self,
        io: &mut D,
        slot: u32,
        outcome: &Outcome,
        now: Instant,
    ) -> Result<(), DriverError>
    where
        D: Driver,
        P: Place<D::Socket, Ticket = T>,
    {
        if let Outcome::ReceivedFrom { len, addresses, truncated: false } = *outcome {
            let door = &self.doors[slot as usize];
            let bytes = &io.buffer(door.receive)[..len as usize];
            match self.datagrams.handle_datagram(bytes, addresses.from, now) {
                FrontAction::Ignore => {}
                FrontAction::Reply(bytes) => {
                    self.reply(io, slot, &bytes, addresses.from, addresses.local)?;
                }
                FrontAction::Session(request) => {
                    self.handle_request(io, slot, addresses, *request, now)?;
                }
                // Sessions have sockets of their own: what comes here belongs to none.
                FrontAction::Data(header) => {
                    if let Some(bytes) = DataHeader::turned_away(&header, NO_SESSION) {
                        self.reply(io, slot, &bytes, addresses.from, addresses.local)?;
                    }
                }
                FrontAction::Fetch(_) => {
                    let bytes = UdpServerFront::unknown_session();
                    self.reply(io, slot, &bytes, addresses.from, addresses.local)?;
                }
            }
        }
        self.receive_datagram(io, slot)
    }

    /// A client that asks for a session, from an address that is its own.
    fn handle_request<D>(
        &mut self,
        io: &mut D,
        slot: u32,
        addresses: DatagramFrom,
        request: SessionRequest,
        now: Instant,
    ) -> Result<(), DriverError>
    where
        D: Driver,
        P: Place<D::Socket, Ticket = T>,
    {
        let SessionRequest { key, hello } = request;
        let mut connecting = self.connecting.iter().flatten();
        if connecting.any(|other| other.key.from == key.from) || self.handed.knows(&key, now) {
            return Ok(());
        }
        let index = match self.connecting.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.connecting.len() < CONNECTING_MAX => {
                self.connecting.push(None);
                self.connecting.len() - 1
            }
            // The client sends its hello again.
            None => return Ok(()),
        };
        match self.place.admit(&hello, Some(key.from)) {
            Ok(ticket) => {
                let Some(socket) = self.open_towards(io, slot, addresses) else {
                    return Ok(());
                };
                #[expect(clippy::cast_possible_truncation, reason = "below CONNECTING_MAX")]
                let slot = CONNECTING_BASE + index as u32;
                let connect = Op::Connect { socket, to: key.from };
                io.push(token(slot, Purpose::Connect), connect)?;
                self.connecting[index] =
                    Some(Connecting { socket, hello: Box::new(hello), key, ticket });
                Ok(())
            }
            Err(refusal) => {
                let bytes = refusal.encode();
                self.reply(io, slot, &bytes, addresses.from, addresses.local)
            }
        }
    }

    /// A socket of the client's own: same local address and port, to be connected to it, so that the kernel
    /// delivers its datagrams there and the session's worker never shares a queue.
    fn open_towards<D>(
        &mut self,
        io: &mut D,
        slot: u32,
        addresses: DatagramFrom,
    ) -> Option<SocketId>
    where
        D: Driver,
        P: Place<D::Socket, Ticket = T>,
    {
        let bound = self.doors[slot as usize].local?;
        let local = addresses.local.map_or(bound, |ip| local_of(ip, bound.port(), addresses.from));
        let spec = SocketSpec {
            local: Some(local),
            reuse_port: true,
            ..SocketSpec::datagram_to(addresses.from)
        };
        io.open(&spec)
            .inspect_err(|error| {
                self.place.log("socket", &format!("{}: no socket for it: {error}", addresses.from));
            })
            .ok()
    }

    pub(super) fn handle_connected<D>(
        &mut self,
        io: &mut D,
        index: usize,
        outcome: &Outcome,
        now: Instant,
    ) -> Result<(), DriverError>
    where
        D: Driver,
        P: Place<D::Socket, Ticket = T>,
    {
        let Some(connecting) = self.connecting[index].take() else {
            return Ok(());
        };
        let Connecting { socket, hello, key, ticket } = connecting;
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
                self.place.hand_over(ticket, arrival);
                Ok(())
            }
            Err(error) => {
                self.place.log("hand-over", &format!("could not hand a session over: {error}"));
                close_orphan(io, socket)
            }
        }
    }

    fn reply<D: Driver>(
        &mut self,
        io: &mut D,
        slot: u32,
        bytes: &[u8],
        to: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<(), DriverError> {
        let door = &mut self.doors[slot as usize];
        if door.sending || bytes.len() > CONTROL_DATAGRAM {
            // One answer at a time: a client whose question fell into that moment asks again.
            return Ok(());
        }
        io.buffer_mut(door.send)[..bytes.len()].copy_from_slice(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "at most CONTROL_DATAGRAM")]
        let data = Segment { buffer: door.send, start: 0, len: bytes.len() as u32 };
        door.sending = true;
        io.push(token(slot, Purpose::Send), Op::SendTo { socket: door.socket, data, to, source })
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
