//! A wire in memory, on a simulated clock: minutes of traffic are tested in milliseconds, and the same seed
//! gives the same run.
//!
//! Every [`SimDriver`] of a [`SimNet`] is a worker of its own; which host it is on does not matter, since all
//! addresses are of one space. A turn never blocks and never moves the clock: where it has nothing to hand
//! over it returns at once, before its deadline, which is the one departure from the driver contract.
//! Whoever runs the simulation moves the clock, in steps:
//!
//! 1. run each party's turn (and what the party does about it) until none gets a completion;
//! 2. advance the clock to [`SimNet::next_event`], and go on.
//!
//! ```
//! use tare_driver::clock::{Clock, SimulatedClock};
//! use tare_driver::sim::{SimConfig, SimNet};
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
mod wire;

use std::cell::RefCell;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use super::nonblocking::{Calls, Core, Direction, Lane, Until};
use super::{
    Backend, BufferId, Capabilities, Completion, DatagramFrom, Driver, DriverError, Op, OpError,
    PoolBuffer, SocketId, SocketOption, SocketSpec, Token, Wait, Wake, Waker,
};
use crate::clock::SimulatedClock;
use net::{State, Waiter};
use tare_units::{Instant, Nanos};
use wire::Key;

/// The congestion controls that a simulated host has, by name: as many as Linux has without a module.
const CONGESTION_CONTROLS: [&str; 2] = ["cubic", "reno"];

/// What the wire is like. Probabilities are in `0.0..=1.0`. The default is a perfect wire without latency.
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
    #[must_use]
    pub fn new(config: SimConfig, clock: SimulatedClock) -> Self {
        Self(Rc::new(RefCell::new(State::new(config, clock))))
    }

    /// A new party of this net.
    #[must_use]
    pub fn driver(&self) -> SimDriver {
        let mut state = self.0.borrow_mut();
        let zero_copy = state.config.zero_copy;
        state.waiters.push(Some(Waiter::default()));
        let party = state.waiters.len() - 1;
        SimDriver {
            core: Core::new(SimCalls(self.clone())),
            party,
            wake: Arc::new(SimWake(AtomicBool::new(false))),
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

    /// From now on the wire swallows everything, what is under way included: every far end has vanished without
    /// a FIN.
    pub fn partition(&self) {
        self.0.borrow_mut().is_partitioned = true;
    }

    /// Resets every connection that stands at that instant, at both its ends.
    pub fn plan_reset(&self, at: Instant) {
        self.0.borrow_mut().plan_reset(at);
    }

    /// Sockets that exist, at whichever end.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.0.borrow().sockets()
    }

    /// When something happens next: an arrival, or the deadline with which a driver last waited in vain.
    /// `None`: nothing ever will by itself. To be asked after every party had its turn at the present instant.
    #[must_use]
    pub fn next_event(&self) -> Option<Instant> {
        let state = self.0.borrow();
        let now = state.now();
        // What was due by now has been seen by its party already, if that still takes turns.
        let waits = state.waiters.iter().flatten();
        let waits = waits.filter_map(|w| w.until).filter(|until| *until > now);
        waits.chain(state.next_arrival()).min()
    }
}

/// A socket of a [`SimNet`], to be adopted by any of its drivers. Dropping the last handle on it closes it.
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

#[derive(Debug)]
struct SimCalls(SimNet);

impl SimCalls {
    fn state(&mut self) -> std::cell::RefMut<'_, State> {
        self.0.0.borrow_mut()
    }
}

impl Calls for SimCalls {
    type Socket = SimSocket;

    fn accept(&mut self, listener: &SimSocket) -> Result<SimSocket, Errno> {
        let key = self.state().accept(listener.key)?;
        Ok(SimSocket { net: self.0.clone(), key, handles: Rc::default() })
    }

    fn connect(&mut self, socket: &SimSocket, to: SocketAddr) -> Result<(), Errno> {
        self.state().connect(socket.key, to)
    }

    fn send(&mut self, socket: &SimSocket, bytes: &[u8]) -> Result<usize, Errno> {
        self.state().send(socket.key, &[bytes])
    }

    fn send_vectored(
        &mut self,
        socket: &SimSocket,
        ranges: &[IoSlice<'_>],
    ) -> Result<usize, Errno> {
        let ranges: Vec<&[u8]> = ranges.iter().map(|range| &**range).collect();
        self.state().send(socket.key, &ranges)
    }

    fn send_to(
        &mut self,
        socket: &SimSocket,
        bytes: &[u8],
        to: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<usize, Errno> {
        self.state().send_datagram(socket.key, bytes, to, source)
    }

    fn receive(&mut self, socket: &SimSocket, into: &mut [u8]) -> Result<usize, Errno> {
        self.state().receive(socket.key, into)
    }

    fn discard(&mut self, socket: &SimSocket, len: u32) -> Result<usize, Errno> {
        self.state().discard(socket.key, len as usize)
    }

    fn peek(&mut self, socket: &SimSocket) -> Result<usize, Errno> {
        self.state().peek(socket.key)
    }

    fn receive_from(
        &mut self,
        socket: &SimSocket,
        into: &mut [u8],
    ) -> Result<(usize, DatagramFrom, bool), Errno> {
        self.state().receive_datagram(socket.key, into)
    }

    fn receive_stamped(
        &mut self,
        socket: &SimSocket,
        into: &mut [u8],
    ) -> Result<(usize, Option<Nanos>), Errno> {
        let mut state = self.state();
        let len = state.receive(socket.key, into)?;
        Ok((len, state.arrived(socket.key).filter(|_| len > 0)))
    }

    fn half_close(&mut self, socket: &SimSocket) -> Result<(), Errno> {
        self.state().half_close(socket.key)
    }

    fn is_stream(&self, socket: &SimSocket) -> bool {
        self.0.0.borrow().is_stream(socket.key)
    }

    fn is_watched(&self, _: &SimSocket, _: Direction) -> bool {
        // Everything is attempted in every turn before which anything has changed.
        true
    }
}

#[derive(Debug)]
struct SimWake(AtomicBool);

impl Wake for SimWake {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// One party of a [`SimNet`].
#[derive(Debug)]
pub struct SimDriver {
    core: Core<SimCalls>,
    party: usize,
    wake: Arc<SimWake>,
    /// [`State::changes`] when what is parked was last attempted.
    seen: u64,
    capabilities: Capabilities,
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        self.core.calls.state().waiters[self.party] = None;
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
        self.core.calls.state().deliver();
        self.core.begin_turn();
        // Where nothing has changed, what could not be done then cannot be done now.
        let changes = self.core.calls.state().changes;
        if std::mem::replace(&mut self.seen, changes) != changes {
            self.core.attempt_lane(Lane::Receives, Until::Dry);
            self.core.attempt_lane(Lane::Others, Until::Dry);
        }
        let deadline = match wait {
            Wait::Poll => None,
            Wait::Until(deadline) | Wait::Batch { deadline, .. } => {
                let is_woken = self.wake.0.swap(false, Ordering::Acquire);
                let waits = !is_woken && !self.core.has_completed();
                (waits && deadline != Instant::FAR_FUTURE).then_some(deadline)
            }
        };
        self.core.calls.state().waiters[self.party] = Some(Waiter { until: deadline });
        self.core.deliver(done);
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn open(&mut self, spec: &SocketSpec) -> Result<SocketId, OpError> {
        let key = self.core.calls.state().open(spec)?;
        let net = self.core.calls.0.clone();
        let handles = Rc::default();
        self.core.insert(SimSocket { net, key, handles })
    }

    fn adopt(&mut self, socket: SimSocket) -> Result<SocketId, OpError> {
        let ours = &self.core.calls.0;
        assert!(Rc::ptr_eq(&ours.0, &socket.net.0), "a socket of another net");
        self.core.insert(socket)
    }

    fn release(&mut self, socket: SocketId) -> Result<SimSocket, OpError> {
        self.core.release(socket)
    }

    fn share(socket: &SimSocket) -> Option<SimSocket> {
        Some(SimSocket {
            net: socket.net.clone(),
            key: socket.key,
            handles: Rc::clone(&socket.handles),
        })
    }

    fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        let key = self.core.socket(socket)?.key;
        self.core.calls.0.0.borrow().local_addr(key)
    }

    fn peer_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        let key = self.core.socket(socket)?.key;
        self.core.calls.0.0.borrow().peer_addr(key)
    }

    fn descriptor(&self, _: SocketId) -> Option<BorrowedFd<'_>> {
        None
    }

    fn kernel_bytes(&self, socket: SocketId) -> Option<u64> {
        let key = self.core.socket(socket)?.key;
        Some(self.core.calls.0.0.borrow().unread_by_peer(key) as u64)
    }

    fn set_option(&mut self, socket: SocketId, option: &SocketOption) -> Result<(), OpError> {
        let key = self.core.socket(socket).ok_or(OpError::BadSocket)?.key;
        match option {
            SocketOption::ReceiveLowWater(bytes) => {
                let mut state = self.core.calls.state();
                state.set_low_water(key, *bytes as usize);
                Ok(())
            }
            SocketOption::ResetOnClose => {
                self.core.calls.state().reset_on_close(key);
                Ok(())
            }
            SocketOption::Segmentation(_) | SocketOption::Coalescing(_) => {
                Err(OpError::NotSupported)
            }
            SocketOption::Congestion(name) if !CONGESTION_CONTROLS.contains(&name.as_str()) => {
                Err(OpError::NotFound)
            }
            _ => Ok(()),
        }
    }

    fn allocate(&mut self, len: usize) -> Result<BufferId, DriverError> {
        self.core.allocate(len)
    }

    fn free(&mut self, buffer: BufferId) {
        self.core.free(buffer);
    }

    #[inline]
    fn buffer(&self, buffer: BufferId) -> &[u8] {
        self.core.buffer(buffer)
    }

    #[inline]
    fn buffer_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        self.core.buffer_mut(buffer)
    }

    fn provide_pool(&mut self, count: u16, len: u32) -> Result<(), DriverError> {
        self.core.provide_pool(count, len);
        Ok(())
    }

    fn pool_bytes(&self, buffer: &PoolBuffer) -> &[u8] {
        self.core.pool_bytes(buffer)
    }

    fn recycle(&mut self, buffer: PoolBuffer) {
        self.core.recycle(buffer);
    }

    fn waker(&self) -> Waker {
        Waker(self.wake.clone())
    }
}
