//! What an arriving parcel does.

use std::net::SocketAddr;

use nix::errno::Errno;

use super::{BACKLOG, Body, Socket, Stage, State, Stream, covers};
use crate::sim::wire::{Datagram, Key, Parcel};
use tare_units::limits::DATAGRAM_MAX;

impl State {
    /// Hands over everything that has arrived by now.
    pub(crate) fn deliver(&mut self) {
        let now = self.now();
        while let Some(parcel) = self.wire.pop_due(now) {
            self.changes += 1;
            if parcel == Parcel::ResetAll {
                self.reset_all();
            } else if !self.is_partitioned {
                self.arrive(parcel);
            }
        }
    }

    fn arrive(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Syn { client, to } => self.arrive_syn(client, to),
            Parcel::SynAck { client, server } => {
                match self.stream(client) {
                    Some(stream) => {
                        stream.stage = Stage::Connected;
                        stream.other = Some(server);
                    }
                    // The client gave up in the meantime.
                    None => self.reset(server),
                }
            }
            Parcel::Refuse { to } => {
                if let Some(socket) = self.sockets.get_mut(&to) {
                    socket.error = Some(Errno::ECONNREFUSED);
                    if let Body::Stream(stream) = &mut socket.body {
                        stream.stage = Stage::Dead;
                    }
                }
            }
            Parcel::Data { from, to, bytes } => {
                let now = self.now();
                match self.stream(to) {
                    Some(stream) if stream.stage != Stage::Dead => {
                        stream.received.extend(bytes);
                        stream.arrived = now;
                    }
                    _ => {
                        let at = self.arrival();
                        self.wire.send(at, Parcel::Reset { to: from });
                    }
                }
            }
            Parcel::Fin { to } => {
                if let Some(stream) = self.stream(to) {
                    stream.is_ended = true;
                }
            }
            Parcel::Reset { to } => self.reset(to),
            Parcel::Datagram { sender, port, datagram } => {
                self.arrive_datagram(sender, port, datagram)
            }
            Parcel::ResetAll => {}
        }
    }

    fn reset(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get_mut(&key)
            && let Body::Stream(stream) = &mut socket.body
            && stream.stage != Stage::Dead
        {
            // As Linux tells it (tcp_reset): whoever had seen the end already gets a broken pipe.
            socket.error = Some(match stream.stage {
                Stage::Connecting => Errno::ECONNREFUSED,
                _ if stream.is_ended => Errno::EPIPE,
                _ => Errno::ECONNRESET,
            });
            stream.stage = Stage::Dead;
        }
    }

    fn reset_all(&mut self) {
        let connected = |(key, socket): (&Key, &Socket)| match &socket.body {
            Body::Stream(stream) if stream.stage == Stage::Connected => Some(*key),
            _ => None,
        };
        let keys: Vec<Key> = self.sockets.iter().filter_map(connected).collect();
        for key in keys {
            self.reset(key);
        }
    }

    fn arrive_syn(&mut self, client: Key, to: SocketAddr) {
        let Some(from) = self.sockets.get(&client).and_then(|s| s.local) else {
            return;
        };
        let listener = self.best_match(false, to, from);
        let at = self.arrival();
        let Some(listener) = listener else {
            self.wire.send(at, Parcel::Refuse { to: client });
            return;
        };
        let (receive_buffer, ipv6) = {
            let socket = self.socket(listener);
            (socket.receive_buffer, socket.ipv6)
        };
        let mut stream = Stream::new();
        stream.stage = Stage::Connected;
        stream.other = Some(client);
        stream.last_arrival = at;
        let server = self.insert(Socket {
            body: Body::Stream(stream),
            local: Some(to),
            peer: Some(from),
            is_bound: false,
            reuse_port: false,
            packet_info: false,
            receive_buffer,
            ipv6,
            error: None,
        });
        match &mut self.socket(listener).body {
            Body::Listener(pending) if pending.len() < BACKLOG => {
                pending.push_back(server);
                self.wire.send(at, Parcel::SynAck { client, server });
            }
            // A full backlog drops it, and the client waits in vain.
            _ => {
                self.sockets.remove(&server);
            }
        }
    }

    fn arrive_datagram(&mut self, sender: Key, port: u16, datagram: Datagram) {
        let to = SocketAddr::new(datagram.to, port);
        let Some(key) = self.best_match(true, to, datagram.from) else {
            // As an ICMP error it reaches connected sockets alone.
            if self.sockets.get(&sender).is_some_and(|s| s.peer == Some(to)) {
                let at = self.arrival();
                self.wire.send(at, Parcel::Refuse { to: sender });
            }
            return;
        };
        let socket = self.socket(key);
        if let Body::Datagrams(queue) = &mut socket.body {
            let queued: usize = queue.iter().map(|d| d.bytes.len()).sum();
            // A full buffer drops it, as a kernel does.
            if queued + datagram.bytes.len() <= socket.receive_buffer.max(DATAGRAM_MAX as usize) {
                queue.push_back(datagram);
            }
        }
    }

    /// The socket that a connection request or a datagram is for: the one connected to the sender before
    /// those that are not, a bound address before the wildcard; of equals that share the port one by the
    /// sender's address, so that a flow stays with its socket.
    fn best_match(&self, transport: bool, to: SocketAddr, from: SocketAddr) -> Option<Key> {
        let score = |key: &Key| -> Option<(u8, Key)> {
            let socket = &self.sockets[key];
            let local = socket.local?;
            let takes = matches!(socket.body, Body::Listener(_) | Body::Datagrams(_))
                && covers(local.ip(), to.ip())
                && socket.peer.is_none_or(|peer| peer == from);
            let exact = u8::from(!local.ip().is_unspecified());
            takes.then_some((2 * u8::from(socket.peer.is_some()) + exact, *key))
        };
        let keys = self.bound.get(&(transport, to.port()))?;
        let best = keys.iter().filter_map(score).map(|(s, _)| s).max()?;
        let equals = || keys.iter().filter_map(score).filter(|(s, _)| *s == best);
        let count = equals().count();
        equals().nth(usize::from(from.port()) % count).map(|(_, key)| key)
    }
}
