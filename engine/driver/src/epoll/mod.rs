//! The readiness backend: non-blocking calls, and epoll (through mio) where there is something to wait for.
//!
//! In pods under the default seccomp profile and on hardened distributions this is the normal case. Spinning
//! on few sockets it is the bare loop of non-blocking `send` and `recv`: sockets are not even registered
//! with epoll before a turn has to wait on it, so that no packet pays for a wake-up that nobody needs.

mod alarm;
mod calls;

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};

use super::nonblocking::{Core, Direction, Lane, Until};
use super::{
    Backend, BufferId, Capabilities, Completion, Driver, DriverError, Op, OpError, PoolBuffer,
    SocketId, SocketSpec, Token, Wait, Wake, Waker,
};
use crate::clock::{Clock, MonotonicClock};
use crate::sys::socket;
use alarm::Alarm;
use calls::{EpollSocket, SocketCalls};
use tare_units::Instant;
use tare_units::limits::{COMPLETIONS_PER_TURN, SOCKETS_MAX, SPIN_ATTEMPTS_MAX};

/// The key of the waker's events; sockets have their id.
const WAKER: mio::Token = mio::Token(SOCKETS_MAX as usize);
/// The key of the timerfd's events.
const ALARM: mio::Token = mio::Token(SOCKETS_MAX as usize + 1);

/// While receives are pending, a spinning driver attempts accepts, connects and blocked sends only in every
/// so many turns: each costs a system call, and a turn of the bare loop is two of them.
const SPIN_OTHERS_EVERY: u32 = 16;

/// After so many turns in a row that attempted all receives themselves, these sockets are taken out of epoll: its
/// callback runs for each arrival. Without it at both ends a spinning round trip was 96 and 229 ns shorter (two
/// interleaved runs, 2-core VM). More turns than fit into [`tare_units::limits::HYBRID_SPIN`], since putting them back costs
/// a system call each.
const SPINS_BEFORE_UNWATCHING: u32 = 4096;

/// For [`Capabilities::spinning`].
const SPINNING: &str = "bare non-blocking calls while at most 4 receives are pending, else epoll";
const _: () = assert!(SPIN_ATTEMPTS_MAX == 4, "as the words say");

/// The driver over epoll.
#[derive(Debug)]
pub struct EpollDriver {
    core: Core<SocketCalls>,
    poll: Poll,
    events: Events,
    alarm: Alarm,
    waker: Waker,
    /// A wake-up came in a turn that did not wait; the next one that does returns for it.
    is_woken: bool,
    spins: u32,
    capabilities: Capabilities,
}

#[derive(Debug)]
struct EpollWaker(mio::Waker);

impl Wake for EpollWaker {
    fn wake(&self) {
        // A write to an eventfd that is open fails only when its counter is full, and mio handles that.
        let _ = self.0.wake();
    }
}

fn call_failed(call: &'static str, error: &std::io::Error) -> DriverError {
    DriverError::Call { call, source: (call, error).into() }
}

impl EpollDriver {
    /// A driver with an epoll instance, a timerfd and an eventfd of its own.
    ///
    /// # Errors
    /// When these cannot be had, mostly for want of descriptors (`RLIMIT_NOFILE`).
    pub fn new() -> Result<Self, DriverError> {
        let resources = |what: &'static str, call: &'static str| {
            move |error: std::io::Error| DriverError::Resources {
                what,
                source: OpError::from((call, &error)),
            }
        };
        let poll = Poll::new().map_err(resources("an epoll instance", "epoll_create1"))?;
        let waker =
            mio::Waker::new(poll.registry(), WAKER).map_err(resources("an eventfd", "eventfd"))?;
        let alarm = Alarm::new()?;
        let raw = alarm.as_fd().as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&raw), ALARM, Interest::READABLE)
            .map_err(resources("a watch on the timerfd", "epoll_ctl"))?;
        Ok(Self {
            core: Core::new(SocketCalls),
            poll,
            events: Events::with_capacity(COMPLETIONS_PER_TURN),
            alarm,
            waker: Waker(Arc::new(EpollWaker(waker))),
            is_woken: false,
            spins: 0,
            capabilities: Capabilities {
                backend: Backend::Epoll,
                zero_copy: false,
                batch_wait: false,
                spinning: SPINNING,
                step_downs: Vec::new(),
            },
        })
    }

    /// Attempts what is parked, without sleeping: directly while that is little, else on readiness.
    #[inline]
    fn poll_once(&mut self) -> Result<(), DriverError> {
        let receives = self.core.parked(Lane::Receives);
        let others = self.core.parked(Lane::Others);
        if receives <= SPIN_ATTEMPTS_MAX && others <= SPIN_ATTEMPTS_MAX {
            self.core.attempt_lane(Lane::Receives, Until::Short);
            self.spins = self.spins.wrapping_add(1);
            if self.spins.is_multiple_of(SPINS_BEFORE_UNWATCHING) {
                self.unwatch()?;
            }
            if others > 0 && (receives == 0 || self.spins.is_multiple_of(SPIN_OTHERS_EVERY)) {
                self.core.attempt_lane(Lane::Others, Until::Dry);
            }
            return Ok(());
        }
        self.watch()?;
        self.reap(Some(Duration::ZERO))?;
        Ok(())
    }

    /// Takes the sockets whose receives are attempted in every turn out of epoll, until a turn waits again.
    #[cold]
    fn unwatch(&mut self) -> Result<(), DriverError> {
        let registry = self.poll.registry();
        self.core.unwatch_receives(|socket| {
            if socket.interest.take().is_none() {
                return Ok(false);
            }
            let raw = socket.fd.as_raw_fd();
            registry.deregister(&mut SourceFd(&raw)).map_err(|e| call_failed("epoll_ctl", &e))?;
            Ok(true)
        })
    }

    /// Sleeps until something completes, the deadline, a wake-up or a signal.
    fn sleep(&mut self, mut now: Instant, deadline: Instant) -> Result<(), DriverError> {
        self.spins = 0;
        self.watch()?;
        loop {
            let blocks = deadline > now && !self.is_woken;
            let timeout = if blocks {
                self.alarm.arm(deadline, now)?;
                None
            } else {
                Some(Duration::ZERO)
            };
            let is_interrupted = self.reap(timeout)?;
            if !blocks || is_interrupted || self.is_woken || self.core.has_completed() {
                return Ok(());
            }
            now = MonotonicClock.now();
            if now >= deadline {
                return Ok(());
            }
        }
    }

    /// Registers every socket on which something is parked and that epoll does not watch yet. An edge that came
    /// between the attempt and this is not lost: registering reports what is ready already.
    fn watch(&mut self) -> Result<(), DriverError> {
        let registry = self.poll.registry();
        while let Some((id, socket, [input, output])) = self.core.next_unwatched() {
            // A stream's write space wakes nobody unless a send found none, so it is watched from the start.
            // A datagram socket's does with every datagram that the far end takes.
            let readable = (input || socket.is_stream).then_some(Interest::READABLE);
            let writable = (output || socket.is_stream).then_some(Interest::WRITABLE);
            let wanted = [socket.interest, readable, writable];
            let wanted = wanted.into_iter().flatten().reduce(|all, i| all | i);
            if let Some(interest) = wanted
                && wanted != socket.interest
            {
                let raw = socket.fd.as_raw_fd();
                let key = mio::Token(id as usize);
                match socket.interest {
                    None => registry.register(&mut SourceFd(&raw), key, interest),
                    Some(_) => registry.reregister(&mut SourceFd(&raw), key, interest),
                }
                .map_err(|e| call_failed("epoll_ctl", &e))?;
                socket.interest = wanted;
            }
        }
        Ok(())
    }

    /// Asks epoll, and attempts what it says is ready. `true` when a signal interrupted the wait.
    fn reap(&mut self, timeout: Option<Duration>) -> Result<bool, DriverError> {
        if let Err(error) = self.poll.poll(&mut self.events, timeout) {
            return if error.kind() == std::io::ErrorKind::Interrupted {
                Ok(true)
            } else {
                Err(call_failed("epoll_wait", &error))
            };
        }
        for event in &self.events {
            match event.token() {
                WAKER => self.is_woken = true,
                ALARM => self.alarm.rang(),
                mio::Token(socket) => {
                    // An error or a hang-up shows as both.
                    let failed = event.is_error();
                    let ended = failed || event.is_read_closed();
                    if ended || event.is_readable() {
                        // The end of a stream shows here once, be it behind what is to be received.
                        let until = if ended { Until::Dry } else { Until::Short };
                        self.core.ready(socket, Direction::In, until);
                    }
                    if failed || event.is_writable() || event.is_write_closed() {
                        self.core.ready(socket, Direction::Out, Until::Dry);
                    }
                }
            }
        }
        Ok(false)
    }
}

impl Driver for EpollDriver {
    type Socket = OwnedFd;

    #[inline]
    fn push(&mut self, token: Token, op: Op) -> Result<(), DriverError> {
        self.core.push(token, op)
    }

    #[inline]
    fn turn(
        &mut self,
        now: Instant,
        wait: Wait,
        done: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        self.core.begin_turn();
        match wait {
            Wait::Until(deadline) | Wait::Batch { deadline, .. } => {
                if !self.core.has_completed() {
                    self.sleep(now, deadline)?;
                } else if self.core.has_untried() {
                    self.poll_once()?;
                }
                self.is_woken = false;
            }
            Wait::Poll if self.core.has_untried() => self.poll_once()?,
            Wait::Poll => {}
        }
        self.core.deliver(done);
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn open(&mut self, spec: &SocketSpec) -> Result<SocketId, OpError> {
        let fd = socket::open(spec)?;
        self.core.insert(EpollSocket::opened(fd, spec))
    }

    fn connect_unix(&mut self, path: &Path) -> Result<SocketId, OpError> {
        self.adopt(socket::connect_unix(path)?)
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<SocketId, OpError> {
        socket2::SockRef::from(&socket)
            .set_nonblocking(true)
            .map_err(|e| OpError::from(("fcntl", &e)))?;
        self.core.insert(EpollSocket::new(socket))
    }

    fn release(&mut self, socket: SocketId) -> Result<OwnedFd, OpError> {
        let socket = self.core.release(socket)?;
        if socket.interest.is_some() {
            let raw = socket.fd.as_raw_fd();
            // It can only fail for a descriptor that was not registered.
            let _ = self.poll.registry().deregister(&mut SourceFd(&raw));
        }
        Ok(socket.fd)
    }

    fn share(socket: &OwnedFd) -> Option<OwnedFd> {
        socket.try_clone().ok()
    }

    fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        socket::local_addr(self.descriptor(socket)?)
    }

    fn peer_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        socket::peer_addr(self.descriptor(socket)?)
    }

    fn descriptor(&self, socket: SocketId) -> Option<BorrowedFd<'_>> {
        Some(self.core.socket(socket)?.fd.as_fd())
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
        self.waker.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;
    use crate::{Outcome, Segment};
    use tare_units::Nanos;

    fn now() -> Instant {
        MonotonicClock.now()
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel's wait must be under way, and only time tells"
    )]
    fn spinning_takes_its_sockets_out_of_epoll_and_waiting_puts_them_back() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let mut driver = EpollDriver::new().unwrap();
        let socket = driver.adopt(OwnedFd::from(ours)).unwrap();
        let buffer = driver.allocate(8).unwrap();
        let into = Segment { buffer, start: 0, len: 8 };
        let is_watched = |driver: &EpollDriver| {
            let socket = driver.core.socket(socket);
            socket.is_some_and(|socket| socket.interest.is_some())
        };
        let mut done = Vec::new();
        for round in 0..2 {
            driver.push(Token(round), Op::Receive { socket, into }).unwrap();
            let soon = now() + Nanos::from_millis(1);
            driver.turn(now(), Wait::Until(soon), &mut done).unwrap();
            assert!(is_watched(&driver) && done.is_empty());
            for _ in 0..SPINS_BEFORE_UNWATCHING {
                driver.turn(now(), Wait::Poll, &mut done).unwrap();
            }
            assert!(!is_watched(&driver) && done.is_empty());

            // What comes is found by polling, or waiting wakes up for it: be it there before, or come later.
            theirs.write_all(b"one").unwrap();
            if round == 0 {
                while done.is_empty() {
                    driver.turn(now(), Wait::Poll, &mut done).unwrap();
                }
            } else {
                let late = now() + Nanos::from_secs(10);
                driver.turn(now(), Wait::Until(late), &mut done).unwrap();
                assert!(is_watched(&driver));
            }
            assert_eq!(done.pop().map(|c| c.outcome), Some(Outcome::Received(3)));
        }
        driver.push(Token(9), Op::Receive { socket, into }).unwrap();
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            theirs.write_all(b"two!").unwrap();
        });
        let late = now() + Nanos::from_secs(10);
        while done.is_empty() {
            driver.turn(now(), Wait::Until(late), &mut done).unwrap();
        }
        assert!(now() < late, "the wait ended by itself");
        assert_eq!(done[0].outcome, Outcome::Received(4));
        later.join().unwrap();
    }
}
