//! The state of a simulated net: its sockets, its wire, and what goes wrong on it.

use std::collections::{BTreeMap, VecDeque, vec_deque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::SimConfig;
use crate::clock::{Clock, SimulatedClock};
use crate::sys::message::canonical;
use crate::{DatagramFrom, OpError, SocketKind, SocketSpec};
use tare_units::limits::DATAGRAM_MAX;
use tare_units::{Instant, Nanos};

/// Buffer space of a socket that asks for none in particular, bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// Connections that wait at a listener, as a kernel's backlog.
const BACKLOG: usize = 4096;
/// The first ephemeral port.
const EPHEMERAL_FIRST: u16 = 32_768;

/// A socket of the net. Keys are never reused, so what arrives late finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

/// A datagram on its way or in a queue.
#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    to: IpAddr,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum Parcel {
    /// `client` asks for a connection to an address.
    Syn {
        client: Key,
        to: SocketAddr,
    },
    /// The server's end stands.
    SynAck {
        client: Key,
        server: Key,
    },
    /// Nobody listens, or no socket takes the datagram.
    Refuse(Key),
    Data {
        from: Key,
        to: Key,
        bytes: Vec<u8>,
    },
    Fin(Key),
    Reset(Key),
    Datagram {
        sender: Key,
        port: u16,
        datagram: Datagram,
    },
    /// Not on the wire: the harness planned that every connection is reset.
    ResetAll,
}

/// Parcels by arrival; those that arrive at the same instant in the order in which they were sent.
#[derive(Debug, Default)]
struct Wire {
    due: BTreeMap<(Instant, u64), Parcel>,
    sent: u64,
}

impl Wire {
    fn send(&mut self, at: Instant, parcel: Parcel) {
        self.due.insert((at, self.sent), parcel);
        self.sent += 1;
    }

    fn pop_due(&mut self, now: Instant) -> Option<Parcel> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Fresh,
    Connecting,
    Connected,
    /// Reset, or refused: nothing more goes either way.
    Dead,
}

#[derive(Debug, Default)]
struct Stream {
    stage: Stage,
    /// The other end's socket, once connected.
    other: Option<Key>,
    received: VecDeque<u8>,
    /// The other end's FIN has arrived.
    is_ended: bool,
    /// Our FIN was sent.
    is_half_closed: bool,
    /// Bytes that we sent and the peer has not yet read.
    unread: usize,
    /// When the last parcel that we sent arrives: a stream keeps its order.
    last_arrival: Instant,
    low_water: usize,
    /// When bytes arrived last.
    arrived: Instant,
    /// Its close is a reset.
    resets: bool,
}

#[derive(Debug)]
enum Body {
    Stream(Stream),
    Listener(VecDeque<Key>),
    Datagrams(VecDeque<Datagram>),
}

#[derive(Debug)]
pub(super) struct Socket {
    body: Body,
    pub(super) local: Option<SocketAddr>,
    pub(super) peer: Option<SocketAddr>,
    /// Stands in [`State::bound`]; accepted sockets share their listener's port and do not.
    is_bound: bool,
    reuse_port: bool,
    packet_info: bool,
    receive_buffer: usize,
    ipv6: bool,
    /// What the next call answers, once.
    error: Option<Errno>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) config: SimConfig,
    clock: SimulatedClock,
    random: Xoshiro256PlusPlus,
    pub(super) sockets: BTreeMap<Key, Socket>,
    keys: u64,
    /// Bound sockets by transport (datagram?) and port.
    bound: BTreeMap<(bool, u16), Vec<Key>>,
    next_port: u16,
    wire: Wire,
    pub(super) is_partitioned: bool,
    /// Until when each party waits, if it does.
    pub(super) waiters: Vec<Option<Instant>>,
    /// Grows whenever an operation that had to wait might go on.
    pub(super) changes: u64,
}

impl State {
    pub(super) fn new(config: SimConfig, clock: SimulatedClock) -> Self {
        Self {
            random: Xoshiro256PlusPlus::seed_from_u64(config.seed),
            config,
            clock,
            sockets: BTreeMap::new(),
            keys: 0,
            bound: BTreeMap::new(),
            next_port: EPHEMERAL_FIRST,
            wire: Wire::default(),
            is_partitioned: false,
            waiters: Vec::new(),
            changes: 0,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.wire.due.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn plan_reset(&mut self, at: Instant) {
        self.wire.send(at, Parcel::ResetAll);
    }

    // ---- chance

    fn chance(&mut self, probability: f64) -> bool {
        // The upper 53 bits make a double in [0, 1).
        probability > 0.0
            && ((self.random.next_u64() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// `1..=len`, evenly; `len` where chance does not strike.
    fn shorten(&mut self, len: usize, probability: f64) -> usize {
        if len > 1 && self.chance(probability) {
            1 + (self.random.next_u64() % len as u64) as usize
        } else {
            len
        }
    }

    fn arrival(&mut self) -> Instant {
        let jitter = match self.config.jitter.0 {
            0 => 0,
            most => self.random.next_u64() % most.saturating_add(1).max(1),
        };
        self.now() + self.config.latency + Nanos(jitter)
    }

    /// Sends along the stream of `from`, behind what it has sent before.
    fn send_in_order(&mut self, from: Key, parcel: Parcel) {
        let mut at = self.arrival();
        if let Some(stream) = self.stream(from) {
            at = at.max(stream.last_arrival);
            stream.last_arrival = at;
        }
        self.wire.send(at, parcel);
    }

    // ---- sockets

    fn insert(&mut self, socket: Socket) -> Key {
        self.keys += 1;
        let key = Key(self.keys);
        self.sockets.insert(key, socket);
        key
    }

    fn socket(&mut self, key: Key) -> &mut Socket {
        self.sockets.get_mut(&key).expect("the handle keeps its socket alive")
    }

    fn stream(&mut self, key: Key) -> Option<&mut Stream> {
        match self.sockets.get_mut(&key).map(|s| &mut s.body) {
            Some(Body::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    pub(super) fn is_stream(&self, key: Key) -> bool {
        !matches!(self.sockets[&key].body, Body::Datagrams(_))
    }

    pub(super) fn open(&mut self, spec: &SocketSpec) -> Result<Key, OpError> {
        let body = match spec.kind {
            SocketKind::Stream => Body::Stream(Stream::default()),
            SocketKind::Listener => Body::Listener(VecDeque::new()),
            SocketKind::Datagram => Body::Datagrams(VecDeque::new()),
        };
        let key = self.insert(Socket {
            body,
            local: None,
            peer: None,
            is_bound: false,
            reuse_port: spec.reuse_port,
            packet_info: spec.packet_info,
            receive_buffer: spec.receive_buffer.map_or(BUFFER_BYTES, |b| b as usize),
            ipv6: spec.is_ipv6(),
            error: None,
        });
        if let Some(local) = spec.local
            && let Err(errno) = self.bind(key, canonical(local))
        {
            self.sockets.remove(&key);
            return Err(("bind", errno).into());
        }
        Ok(key)
    }

    fn bind(&mut self, key: Key, local: SocketAddr) -> Result<(), Errno> {
        let transport = !self.is_stream(key);
        let reuse_port = self.socket(key).reuse_port;
        let port = if local.port() == 0 {
            self.ephemeral_port(transport)?
        } else {
            let taken = self.bound.get(&(transport, local.port()));
            let clashes = taken.into_iter().flatten().any(|other| {
                let other = &self.sockets[other];
                let both_share = reuse_port && other.reuse_port;
                !both_share && other.local.is_some_and(|o| overlaps(o.ip(), local.ip()))
            });
            if clashes {
                return Err(Errno::EADDRINUSE);
            }
            local.port()
        };
        self.bound.entry((transport, port)).or_default().push(key);
        let socket = self.socket(key);
        socket.local = Some(SocketAddr::new(local.ip(), port));
        socket.is_bound = true;
        Ok(())
    }

    fn ephemeral_port(&mut self, transport: bool) -> Result<u16, Errno> {
        for _ in EPHEMERAL_FIRST..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(EPHEMERAL_FIRST);
            if !self.bound.contains_key(&(transport, port)) {
                return Ok(port);
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    }

    /// Binds a socket that sends before it was bound, to a port and the wildcard.
    fn ensure_bound(&mut self, key: Key) -> Result<SocketAddr, Errno> {
        let &mut Socket { local, ipv6, .. } = self.socket(key);
        if local.is_none() {
            let any: IpAddr =
                if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            self.bind(key, SocketAddr::new(any, 0))?;
        }
        Ok(self.socket(key).local.expect("bound above"))
    }

    /// Closes a socket: a FIN, or a reset where data was left unread, as a kernel does.
    pub(super) fn close(&mut self, key: Key) {
        self.changes += 1;
        let Some(mut socket) = self.sockets.remove(&key) else { return };
        if let (true, Some(local)) = (socket.is_bound, socket.local) {
            let port = (matches!(socket.body, Body::Datagrams(_)), local.port());
            let keys = self.bound.entry(port).or_default();
            keys.retain(|k| *k != key);
            if keys.is_empty() {
                self.bound.remove(&port);
            }
        }
        match &mut socket.body {
            Body::Stream(stream) => {
                let Some(other) = stream.other else { return };
                let at = self.arrival().max(stream.last_arrival);
                if stream.stage == Stage::Dead {
                } else if !stream.received.is_empty() || stream.resets {
                    self.wire.send(at, Parcel::Reset(other));
                } else if !stream.is_half_closed {
                    self.wire.send(at, Parcel::Fin(other));
                }
            }
            Body::Listener(pending) => {
                for accepted in pending.drain(..) {
                    if let Some(other) = self.stream(accepted).and_then(|s| s.other) {
                        let at = self.arrival();
                        self.wire.send(at, Parcel::Reset(other));
                    }
                    self.sockets.remove(&accepted);
                }
            }
            Body::Datagrams(_) => {}
        }
    }

    // ---- arrivals

    /// Hands over everything that has arrived by now.
    pub(super) fn deliver(&mut self) {
        let now = self.now();
        while let Some(parcel) = self.wire.pop_due(now) {
            self.changes += 1;
            match parcel {
                Parcel::ResetAll => self.reset_all(),
                _ if self.is_partitioned => {}
                _ => self.arrive(parcel),
            }
        }
    }

    fn arrive(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Syn { client, to } => self.arrive_syn(client, to),
            Parcel::SynAck { client, server } => {
                if let Some(stream) = self.stream(client) {
                    (stream.stage, stream.other) = (Stage::Connected, Some(server));
                } else {
                    // The client gave up in the meantime.
                    self.reset(server);
                }
            }
            Parcel::Refuse(to) => {
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
                        self.wire.send(at, Parcel::Reset(from));
                    }
                }
            }
            Parcel::Fin(to) => {
                if let Some(stream) = self.stream(to) {
                    stream.is_ended = true;
                }
            }
            Parcel::Reset(to) => self.reset(to),
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
        let Some(from) = self.sockets.get(&client).and_then(|s| s.local) else { return };
        let listener = self.best_match(false, to, from);
        let at = self.arrival();
        let Some(listener) = listener else { return self.wire.send(at, Parcel::Refuse(client)) };
        let &mut Socket { receive_buffer, ipv6, .. } = self.socket(listener);
        let stream = Stream {
            stage: Stage::Connected,
            other: Some(client),
            last_arrival: at,
            ..Stream::default()
        };
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
                self.wire.send(at, Parcel::Refuse(sender));
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

    /// The socket that a connection request or a datagram is for: the one connected to the sender
    /// before those that are not, a bound address before the wildcard; of equals that share the
    /// port one by the sender's address, so that a flow stays with its socket.
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

    // ---- calls

    pub(super) fn accept(&mut self, key: Key) -> Result<Key, Errno> {
        match &mut self.socket(key).body {
            Body::Listener(pending) => pending.pop_front().ok_or(Errno::EAGAIN),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn connect(&mut self, key: Key, to: SocketAddr) -> Result<(), Errno> {
        self.changes += 1;
        let to = canonical(to);
        if let Some(errno) = self.socket(key).error.take() {
            return Err(errno);
        }
        let stage = match &self.socket(key).body {
            Body::Listener(_) => return Err(Errno::EISCONN),
            Body::Datagrams(_) => None,
            Body::Stream(stream) => Some(stream.stage),
        };
        match stage {
            Some(Stage::Connecting) => return Err(Errno::EALREADY),
            // The answer to the call that asks after the connection in progress.
            Some(Stage::Connected) if self.socket(key).peer == Some(to) => return Ok(()),
            Some(Stage::Connected) => return Err(Errno::EISCONN),
            Some(Stage::Dead) => return Err(Errno::ECONNABORTED),
            Some(Stage::Fresh) | None => {}
        }
        let local = self.ensure_bound(key)?;
        let socket = self.socket(key);
        socket.peer = Some(to);
        if local.ip().is_unspecified() {
            socket.local = Some(SocketAddr::new(source_towards(to.ip()), local.port()));
        }
        let Some(stream) = self.stream(key) else { return Ok(()) };
        stream.stage = Stage::Connecting;
        self.send_in_order(key, Parcel::Syn { client: key, to });
        Err(Errno::EINPROGRESS)
    }

    pub(super) fn send(&mut self, key: Key, bytes: &[&[u8]]) -> Result<usize, Errno> {
        let socket = self.socket(key);
        if let Some(errno) = socket.error.take() {
            return Err(errno);
        }
        let asked: usize = bytes.iter().map(|b| b.len()).sum();
        let peer = socket.peer;
        let Body::Stream(stream) = &socket.body else {
            let to = peer.ok_or(Errno::EDESTADDRREQ)?;
            return self.send_datagram(key, &bytes.concat(), to, None);
        };
        match stream.stage {
            Stage::Connecting => return Err(Errno::EAGAIN),
            Stage::Connected if !stream.is_half_closed => {}
            _ => return Err(Errno::EPIPE),
        }
        if asked == 0 {
            return Ok(0);
        }
        let (unread, other) = (stream.unread, stream.other);
        let other = other.expect("a connected stream has its other end");
        // A peer that is gone takes it all and answers with a reset.
        let window = self.sockets.get(&other).map_or(asked, |s| s.receive_buffer);
        let room = window.saturating_sub(unread).min(asked);
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        if self.chance(self.config.reset) {
            self.changes += 1;
            if let Some(stream) = self.stream(key) {
                stream.stage = Stage::Dead;
            }
            self.send_in_order(key, Parcel::Reset(other));
            return Err(Errno::ECONNRESET);
        }
        let len = self.shorten(room, self.config.short_writes);
        let mut data = bytes.concat();
        data.truncate(len);
        if let Some(stream) = self.stream(key) {
            stream.unread += len;
        }
        self.send_in_order(key, Parcel::Data { from: key, to: other, bytes: data });
        Ok(len)
    }

    pub(super) fn receive(&mut self, key: Key, into: &mut [u8]) -> Result<usize, Errno> {
        if let Body::Datagrams(_) = self.socket(key).body {
            return self.receive_datagram(key, into).map(|(len, ..)| len);
        }
        self.read(key, into.len(), |bytes| {
            for (to, from) in into.iter_mut().zip(bytes) {
                *to = from;
            }
        })
    }

    /// Throws away up to `len` bytes of a stream.
    pub(super) fn discard(&mut self, key: Key, len: usize) -> Result<usize, Errno> {
        match self.socket(key).body {
            Body::Datagrams(_) => Err(Errno::EFAULT),
            _ => self.read(key, len, |bytes| drop(bytes)),
        }
    }

    /// Takes up to `len` bytes off a stream and hands them to `take`.
    fn read(
        &mut self,
        key: Key,
        len: usize,
        take: impl FnOnce(vec_deque::Drain<'_, u8>),
    ) -> Result<usize, Errno> {
        let available = self.peek(key)?;
        if available == 0 {
            return Ok(0);
        }
        let stream = self.stream(key).ok_or(Errno::ENOTCONN)?;
        let is_open = stream.stage == Stage::Connected && !stream.is_ended;
        if is_open && available < stream.low_water {
            return Err(Errno::EAGAIN);
        }
        let len = self.shorten(available.min(len), self.config.short_reads);
        self.changes += 1;
        let stream = self.stream(key).ok_or(Errno::ENOTCONN)?;
        take(stream.received.drain(..len));
        if let Some(sender) = stream.other.and_then(|other| self.stream(other)) {
            sender.unread -= len;
        }
        Ok(len)
    }

    /// When bytes of a stream arrived last, as if the clock had started at the epoch.
    pub(super) fn arrived(&mut self, key: Key) -> Option<Nanos> {
        self.stream(key).map(|stream| Nanos(stream.arrived.0))
    }

    pub(super) fn reset_on_close(&mut self, key: Key) {
        if let Some(stream) = self.stream(key) {
            stream.resets = true;
        }
    }

    pub(super) fn unread_by_peer(&self, key: Key) -> usize {
        match &self.sockets[&key].body {
            Body::Stream(stream) => stream.unread,
            _ => 0,
        }
    }

    pub(super) fn set_low_water(&mut self, key: Key, bytes: usize) {
        self.changes += 1;
        // As Linux bounds it: else a full buffer might never be read.
        let most = (self.socket(key).receive_buffer / 2).max(1);
        if let Some(stream) = self.stream(key) {
            stream.low_water = bytes.min(most);
        }
    }

    /// How much can be received; zero at the end of the stream.
    pub(super) fn peek(&mut self, key: Key) -> Result<usize, Errno> {
        let socket = self.socket(key);
        match &socket.body {
            Body::Listener(_) => Err(Errno::ENOTCONN),
            Body::Datagrams(queue) => match queue.front() {
                Some(datagram) => Ok(datagram.bytes.len()),
                None => Err(socket.error.take().unwrap_or(Errno::EAGAIN)),
            },
            Body::Stream(stream) if !stream.received.is_empty() => Ok(stream.received.len()),
            // Once the end has come, a later reset is told to sends alone.
            Body::Stream(stream) if stream.is_ended => Ok(0),
            Body::Stream(stream) => match (socket.error.take(), stream.stage) {
                (Some(errno), _) => Err(errno),
                (None, Stage::Fresh | Stage::Connecting) => Err(Errno::ENOTCONN),
                (None, Stage::Dead) => Ok(0),
                (None, Stage::Connected) => Err(Errno::EAGAIN),
            },
        }
    }

    pub(super) fn half_close(&mut self, key: Key) -> Result<(), Errno> {
        self.changes += 1;
        let stream = self.stream(key).ok_or(Errno::ENOTCONN)?;
        if stream.stage != Stage::Connected {
            return Err(Errno::ENOTCONN);
        }
        if !std::mem::replace(&mut stream.is_half_closed, true)
            && let Some(other) = stream.other
        {
            self.send_in_order(key, Parcel::Fin(other));
        }
        Ok(())
    }

    pub(super) fn send_datagram(
        &mut self,
        key: Key,
        bytes: &[u8],
        to: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<usize, Errno> {
        let to = canonical(to);
        if !matches!(self.socket(key).body, Body::Datagrams(_)) {
            return Err(Errno::EISCONN);
        }
        if bytes.len() > DATAGRAM_MAX as usize {
            return Err(Errno::EMSGSIZE);
        }
        if let Some(errno) = self.socket(key).error.take() {
            return Err(errno);
        }
        let local = self.ensure_bound(key)?;
        let ip = match source.map(|ip| ip.to_canonical()) {
            Some(source) => source,
            None if local.ip().is_unspecified() => source_towards(to.ip()),
            None => local.ip(),
        };
        if self.chance(self.config.datagram_loss) {
            return Ok(bytes.len());
        }
        let mut at = self.arrival();
        if self.chance(self.config.datagram_reorder) {
            // Long enough to be overtaken by what is sent within another flight's time.
            at = at + self.config.latency + self.config.jitter + Nanos(1_000);
        }
        let parcel = || Parcel::Datagram {
            sender: key,
            port: to.port(),
            datagram: Datagram {
                from: SocketAddr::new(ip, local.port()),
                to: to.ip(),
                bytes: bytes.to_vec(),
            },
        };
        if self.chance(self.config.datagram_duplicate) {
            let again = self.arrival();
            self.wire.send(again, parcel());
        }
        self.wire.send(at, parcel());
        Ok(bytes.len())
    }

    pub(super) fn receive_datagram(
        &mut self,
        key: Key,
        into: &mut [u8],
    ) -> Result<(usize, DatagramFrom, bool), Errno> {
        let socket = self.socket(key);
        let Body::Datagrams(queue) = &mut socket.body else { return Err(Errno::ENOTCONN) };
        let Some(datagram) = queue.pop_front() else {
            return Err(socket.error.take().unwrap_or(Errno::EAGAIN));
        };
        let len = datagram.bytes.len().min(into.len());
        into[..len].copy_from_slice(&datagram.bytes[..len]);
        let addresses =
            DatagramFrom { from: datagram.from, local: socket.packet_info.then_some(datagram.to) };
        Ok((len, addresses, datagram.bytes.len() > len))
    }
}

/// Whether a socket bound to `bound` takes what is sent to `to`; the IPv6 wildcard is dual stack.
fn covers(bound: IpAddr, to: IpAddr) -> bool {
    bound == to
        || match bound {
            IpAddr::V4(ip) => ip.is_unspecified() && to.is_ipv4(),
            IpAddr::V6(ip) => ip.is_unspecified(),
        }
}

fn overlaps(a: IpAddr, b: IpAddr) -> bool {
    covers(a, b) || covers(b, a)
}

/// The one address that every simulated host has in a family.
const fn source_towards(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}
