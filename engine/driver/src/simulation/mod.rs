//! A wire in memory, on a simulated clock: minutes of traffic are tested in milliseconds, and the
//! same seed gives the same run.
//!
//! Every [`SimDriver`] of a [`SimNet`] is a worker of its own; which host it is on does not matter,
//! since all addresses are of one space. A turn never blocks and never moves the clock: where it
//! has nothing to hand over it returns at once, before its deadline, which is the one departure
//! from the driver contract. Whoever runs the simulation moves the clock, in steps:
//!
//! 1. run each party's turn (and what the party does about it) until none gets a completion;
//! 2. advance the clock to [`SimNet::next_event`], and go on.
//!
//! ```
//! use tare_driver::clock::{Clock, SimulatedClock};
//! use tare_driver::simulation::{SimConfig, SimNet};
//! use tare_driver::{Driver, Op, Outcome, Segment, SocketSpec, Token, Wait};
//! use tare_units::{Instant, Nanos};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = SimulatedClock::new(Instant(0));
//! let net = SimNet::new(SimConfig { latency: Nanos::from_micros(10), ..SimConfig::default() }, clock.clone());
//! let mut parties = [net.driver(), net.driver()];
//!
//! let address = "127.0.0.1:7117".parse()?;
//! let listener = parties[0].open(&SocketSpec::listener(address))?;
//! parties[0].push(Token(1), Op::Accept { listener, multishot: false })?;
//! let socket = parties[1].open(&SocketSpec::stream_to(address))?;
//! parties[1].push(Token(2), Op::Connect { socket, to: address })?;
//!
//! let mut done = Vec::new();
//! let mut connected_at = None;
//! while connected_at.is_none() {
//!     done.clear();
//!     for party in &mut parties {
//!         party.turn(clock.now(), Wait::Until(Instant::FAR_FUTURE), &mut done)?;
//!     }
//!     if done.iter().any(|c| c.outcome == Outcome::Connected) {
//!         connected_at = Some(clock.now());
//!     }
//!     if done.is_empty() {
//!         clock.advance_to(net.next_event().expect("the connection is on its way"));
//!     }
//! }
//! assert_eq!(connected_at, Some(Instant(20_000)), "there and back");
//! # Ok(())
//! # }
//! ```

mod net;
#[cfg(test)]
mod tests;

use std::cell::{RefCell, RefMut};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use crate::clock::SimulatedClock;
use crate::io::Direction;
use crate::nonblocking::{Core, Lane, Pool, Socket, Until};
use crate::{
    Backend, BufferId, Capabilities, Completion, DatagramFrom, Driver, DriverError, Op, OpError,
    PoolBuffer, SocketId, SocketOption, SocketSpec, Token, Wait, Waker,
};
use net::{Key, State};
use tare_units::{Instant, Nanos};

/// The congestion controls that a simulated host has, by name: as many as Linux has without a
/// module.
const CONGESTION_CONTROLS: [&str; 2] = ["cubic", "reno"];

/// What the wire is like. Probabilities are in `0.0..=1.0`. The default is a perfect wire without
/// latency.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SimConfig {
    /// Seeds everything that is left to chance.
    pub seed: u64,
    /// How long anything takes in one direction.
    pub latency: Nanos,
    /// Up to that much more, evenly distributed. Streams keep their order; datagrams may overtake.
    pub jitter: Nanos,
    /// Probability that a receive gets less than is there.
    pub short_reads: f64,
    /// Probability that a send takes less than it could.
    pub short_writes: f64,
    /// Probability that a datagram is lost.
    pub datagram_loss: f64,
    /// Probability that a datagram takes at least twice as long.
    pub datagram_reorder: f64,
    /// Probability that a datagram comes twice.
    pub datagram_duplicate: f64,
    /// Probability that a send on a stream resets the connection instead.
    pub reset: f64,
    /// Zero-copy sends are taken; as on a loopback, all of them are copied.
    pub zero_copy: bool,
}

/// A simulated net; see the [module](self). Clones are the same net.
#[derive(Debug, Clone)]
pub struct SimNet(Rc<RefCell<State>>);

impl SimNet {
    /// An empty net on `clock`.
    pub fn new(config: SimConfig, clock: SimulatedClock) -> Self {
        Self(Rc::new(RefCell::new(State::new(config, clock))))
    }

    /// A new party of this net.
    pub fn driver(&self) -> SimDriver {
        let mut state = self.0.borrow_mut();
        let zero_copy = state.config.zero_copy;
        state.waiters.push(None);
        let party = state.waiters.len() - 1;
        SimDriver {
            core: Core::new(),
            net: self.clone(),
            party,
            is_woken: Arc::default(),
            seen: u64::MAX,
            capabilities: Capabilities {
                backend: Backend::Sim,
                zero_copy,
                batch_wait: false,
                spinning: "simulated",
                step_downs: Vec::new(),
            },
        }
    }

    /// From now on the wire swallows everything, what is under way included: every peer has
    /// vanished without a FIN.
    pub fn partition(&self) {
        self.0.borrow_mut().is_partitioned = true;
    }

    /// Resets every connection that stands at that instant, at both its ends.
    pub fn plan_reset(&self, at: Instant) {
        self.0.borrow_mut().plan_reset(at);
    }

    /// Sockets that exist, at whichever end.
    pub fn sockets(&self) -> usize {
        self.0.borrow().sockets.len()
    }

    /// When something happens next: an arrival, or the deadline with which a driver last waited in
    /// vain. `None`: nothing ever will by itself. To be asked after every party had its turn at the
    /// present instant.
    pub fn next_event(&self) -> Option<Instant> {
        let state = self.0.borrow();
        let now = state.now();
        // What was due by now has been seen by its party already, if that still takes turns.
        let waits = state.waiters.iter().flatten().copied().filter(|until| *until > now);
        waits.chain(state.next_arrival()).min()
    }
}

/// A socket of a [`SimNet`], to be adopted by any of its drivers. Dropping the last handle on it
/// closes it.
#[derive(Debug)]
pub struct SimSocket {
    net: SimNet,
    key: Key,
    /// Counts the handles.
    handles: Rc<()>,
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        if Rc::strong_count(&self.handles) == 1 {
            self.net.0.borrow_mut().close(self.key);
        }
    }
}

impl SimSocket {
    fn state(&self) -> RefMut<'_, State> {
        self.net.0.borrow_mut()
    }
}

impl Socket for SimSocket {
    fn accept(&self) -> Result<Self, Errno> {
        let key = self.state().accept(self.key)?;
        Ok(Self { net: self.net.clone(), key, handles: Rc::default() })
    }

    fn connect(&self, to: SocketAddr) -> Result<(), Errno> {
        self.state().connect(self.key, to)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        self.state().send(self.key, &[bytes])
    }

    fn send_vectored(&self, ranges: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let ranges: Vec<&[u8]> = ranges.iter().map(|range| &**range).collect();
        self.state().send(self.key, &ranges)
    }

    fn send_to(
        &self,
        bytes: &[u8],
        to: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<usize, Errno> {
        self.state().send_datagram(self.key, bytes, to, source)
    }

    fn receive(&self, into: &mut [u8]) -> Result<usize, Errno> {
        self.state().receive(self.key, into)
    }

    fn discard(&self, len: u32) -> Result<usize, Errno> {
        self.state().discard(self.key, len as usize)
    }

    fn peek(&self) -> Result<usize, Errno> {
        self.state().peek(self.key)
    }

    fn receive_from(&self, into: &mut [u8]) -> Result<(usize, DatagramFrom, bool), Errno> {
        self.state().receive_datagram(self.key, into)
    }

    fn receive_stamped(&self, into: &mut [u8]) -> Result<(usize, Option<Nanos>), Errno> {
        let mut state = self.state();
        let len = state.receive(self.key, into)?;
        Ok((len, state.arrived(self.key).filter(|_| len > 0)))
    }

    fn half_close(&self) -> Result<(), Errno> {
        self.state().half_close(self.key)
    }

    fn is_stream(&self) -> bool {
        self.state().is_stream(self.key)
    }

    fn is_watched(&self, _: Direction) -> bool {
        // Everything is attempted in every turn before which anything has changed.
        true
    }
}

/// One party of a [`SimNet`].
#[derive(Debug)]
pub struct SimDriver {
    core: Core<SimSocket>,
    net: SimNet,
    party: usize,
    is_woken: Arc<AtomicBool>,
    /// [`State::changes`] when what is parked was last attempted.
    seen: u64,
    capabilities: Capabilities,
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        self.net.0.borrow_mut().waiters[self.party] = None;
    }
}

impl Driver for SimDriver {
    type Socket = SimSocket;

    fn push(&mut self, token: Token, op: Op) -> Result<(), DriverError> {
        self.core.push(token, op)
    }

    fn turn(
        &mut self,
        _now: Instant,
        wait: Wait,
        done: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        self.net.0.borrow_mut().deliver();
        self.core.begin_turn();
        // Where nothing has changed, what could not be done then cannot be done now.
        let changes = self.net.0.borrow_mut().changes;
        if std::mem::replace(&mut self.seen, changes) != changes {
            self.core.attempt_lane(Lane::Receives, Until::Dry);
            self.core.attempt_lane(Lane::Others, Until::Dry);
        }
        let deadline = match wait {
            Wait::Poll => None,
            Wait::Until(deadline) | Wait::Batch { deadline, .. } => {
                let is_woken = self.is_woken.swap(false, Ordering::Acquire);
                let waits = !is_woken && !self.core.has_completed();
                (waits && deadline != Instant::FAR_FUTURE).then_some(deadline)
            }
        };
        self.net.0.borrow_mut().waiters[self.party] = deadline;
        self.core.deliver(done);
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn open(&mut self, spec: &SocketSpec) -> Result<SocketId, OpError> {
        let key = self.net.0.borrow_mut().open(spec)?;
        self.core.insert(SimSocket { net: self.net.clone(), key, handles: Rc::default() })
    }

    fn adopt(&mut self, socket: SimSocket) -> Result<SocketId, OpError> {
        assert!(Rc::ptr_eq(&self.net.0, &socket.net.0), "a socket of another net");
        self.core.insert(socket)
    }

    fn release(&mut self, socket: SocketId) -> Result<SimSocket, OpError> {
        self.core.release(socket)
    }

    fn share(socket: &SimSocket) -> Option<SimSocket> {
        let SimSocket { net, key, handles } = socket;
        Some(SimSocket { net: net.clone(), key: *key, handles: Rc::clone(handles) })
    }

    fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        let key = self.core.socket(socket)?.key;
        self.net.0.borrow().sockets[&key].local
    }

    fn peer_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        let key = self.core.socket(socket)?.key;
        self.net.0.borrow().sockets[&key].peer
    }

    fn descriptor(&self, _: SocketId) -> Option<BorrowedFd<'_>> {
        None
    }

    fn kernel_bytes(&self, socket: SocketId) -> Option<u64> {
        let key = self.core.socket(socket)?.key;
        Some(self.net.0.borrow().unread_by_peer(key) as u64)
    }

    fn set_option(&mut self, socket: SocketId, option: &SocketOption) -> Result<(), OpError> {
        let key = self.core.socket(socket).ok_or(OpError::BadSocket)?.key;
        let mut state = self.net.0.borrow_mut();
        match option {
            SocketOption::ReceiveLowWater(bytes) => state.set_low_water(key, *bytes as usize),
            SocketOption::ResetOnClose => state.reset_on_close(key),
            SocketOption::Segmentation(_) | SocketOption::Coalescing(_) => {
                return Err(OpError::NotSupported);
            }
            SocketOption::Congestion(name) if !CONGESTION_CONTROLS.contains(&name.as_str()) => {
                return Err(OpError::NotFound);
            }
            _ => {}
        }
        Ok(())
    }

    fn allocate(&mut self, len: usize) -> Result<BufferId, DriverError> {
        self.core.allocate(len)
    }

    fn free(&mut self, buffer: BufferId) {
        self.core.arena.free(buffer);
    }

    #[inline]
    fn buffer(&self, buffer: BufferId) -> &[u8] {
        self.core.arena.bytes(buffer)
    }

    #[inline]
    fn buffer_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        self.core.arena.bytes_mut(buffer)
    }

    fn provide_pool(&mut self, count: u16, len: u32) -> Result<(), DriverError> {
        self.core.pool = Pool::new(count, len);
        Ok(())
    }

    fn pool_bytes(&self, buffer: &PoolBuffer) -> &[u8] {
        self.core.pool.bytes(buffer)
    }

    fn recycle(&mut self, buffer: PoolBuffer) {
        self.core.pool.recycle(buffer);
    }

    fn waker(&self) -> Waker {
        let is_woken = Arc::clone(&self.is_woken);
        Waker(Arc::new(move || is_woken.store(true, Ordering::Release)))
    }
}
