//! The readiness backend: non-blocking calls, and epoll (through mio) where there is something to
//! wait for.
//!
//! In pods under the default seccomp profile and on hardened distributions this is the normal case.
//! Spinning on few sockets it is the bare loop of non-blocking `send` and `recv`: sockets are not
//! even registered with epoll before a turn has to wait on it, so that no packet pays for a wake-up
//! that nobody needs.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, Shutdown, SockFlag, SockaddrStorage, recv, send, sendmsg, shutdown,
};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::clock::{Clock, MonotonicClock};
use crate::io::Direction;
use crate::nonblocking::{Core, Lane, Pool, Socket, Until};
use crate::sys::socket;
use crate::{
    Backend, BufferId, Capabilities, Completion, DatagramFrom, Driver, DriverError, Op, OpError,
    PoolBuffer, SocketId, SocketKind, SocketSpec, Token, Wait, Waker,
};
use tare_units::limits::{COMPLETIONS_PER_TURN, SOCKETS_MAX, SPIN_ATTEMPTS_MAX};
use tare_units::{Instant, Nanos};

/// The key of the waker's events; sockets have their id.
const WAKER: mio::Token = mio::Token(SOCKETS_MAX as usize);
/// The key of the timerfd's events.
const ALARM: mio::Token = mio::Token(SOCKETS_MAX as usize + 1);

/// While receives are pending, a spinning driver attempts accepts, connects and blocked sends only
/// in every so many turns: each costs a system call, and a turn of the bare loop is two of them.
const SPIN_OTHERS_EVERY: u32 = 16;

/// After so many turns in a row that attempted all receives themselves, these sockets are taken out
/// of epoll: its callback runs for each arrival. Without it at both ends a spinning round trip was
/// 96 and 229 ns shorter (two interleaved runs, 2-core VM). More turns than fit into
/// [`tare_units::limits::HYBRID_SPIN`], since putting them back costs a system call each.
const SPINS_BEFORE_UNWATCHING: u32 = 4096;

/// For [`Capabilities::spinning`].
const SPINNING: &str = "bare non-blocking calls while at most 4 receives are pending, else epoll";
const _: () = assert!(SPIN_ATTEMPTS_MAX == 4, "as the words say");

/// The driver over epoll.
#[derive(Debug)]
pub struct EpollDriver {
    core: Core<EpollSocket>,
    poll: Poll,
    events: Events,
    alarm: Alarm,
    waker: Waker,
    /// A wake-up came in a turn that did not wait; the next one that does returns for it.
    is_woken: bool,
    spins: u32,
    capabilities: Capabilities,
}

impl EpollDriver {
    /// A driver with an epoll instance, a timerfd and an eventfd of its own.
    ///
    /// # Errors
    /// When these cannot be had, mostly for want of descriptors (`RLIMIT_NOFILE`).
    pub fn new() -> Result<Self, DriverError> {
        let poll = Poll::new()
            .map_err(|e| DriverError::resources("an epoll instance", "epoll_create1", &e))?;
        let waker = mio::Waker::new(poll.registry(), WAKER)
            .map_err(|e| DriverError::resources("an eventfd", "eventfd", &e))?;
        let alarm = Alarm::new()?;
        let raw = alarm.fd.as_fd().as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&raw), ALARM, Interest::READABLE)
            .map_err(|e| DriverError::resources("a watch on the timerfd", "epoll_ctl", &e))?;
        Ok(Self {
            core: Core::new(),
            poll,
            events: Events::with_capacity(COMPLETIONS_PER_TURN),
            alarm,
            // A write to an eventfd that is open fails only when its counter is full, and mio handles
            // that.
            waker: Waker(Arc::new(move || drop(waker.wake()))),
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

    fn hold(&mut self, fd: OwnedFd, is_stream: bool, is_ipv6: bool) -> Result<SocketId, OpError> {
        self.core.insert(EpollSocket { fd, is_stream, is_ipv6, interest: None })
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

    /// Takes the sockets whose receives are attempted in every turn out of epoll, until a turn
    /// waits again.
    #[cold]
    fn unwatch(&mut self) -> Result<(), DriverError> {
        let registry = self.poll.registry();
        self.core.unwatch_receives(|socket| {
            if socket.interest.take().is_none() {
                return Ok(false);
            }
            let forgotten = registry.deregister(&mut SourceFd(&socket.fd.as_raw_fd()));
            forgotten.map(|()| true).map_err(|e| DriverError::call("epoll_ctl", &e))
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

    /// Registers every socket on which something is parked and that epoll does not watch yet. An
    /// edge that came between the attempt and this is not lost: registering reports what is ready
    /// already.
    fn watch(&mut self) -> Result<(), DriverError> {
        let registry = self.poll.registry();
        self.core.watch_parked(|id, socket, [input, output]| {
            // A stream's write space wakes nobody unless a send found none, so it is watched from
            // the start. A datagram socket's does with every datagram that the peer takes.
            let readable = (input || socket.is_stream).then_some(Interest::READABLE);
            let writable = (output || socket.is_stream).then_some(Interest::WRITABLE);
            let wanted = [socket.interest, readable, writable];
            let wanted = wanted.into_iter().flatten().reduce(|all, i| all | i);
            let Some(interest) = wanted.filter(|_| wanted != socket.interest) else {
                return Ok(());
            };
            let (raw, key) = (socket.fd.as_raw_fd(), mio::Token(id as usize));
            match socket.interest {
                None => registry.register(&mut SourceFd(&raw), key, interest),
                Some(_) => registry.reregister(&mut SourceFd(&raw), key, interest),
            }
            .map_err(|e| DriverError::call("epoll_ctl", &e))?;
            socket.interest = wanted;
            Ok(())
        })
    }

    /// Asks epoll, and attempts what it says is ready. `true` when a signal interrupted the wait.
    fn reap(&mut self, timeout: Option<Duration>) -> Result<bool, DriverError> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return Ok(true),
            polled => polled.map_err(|e| DriverError::call("epoll_wait", &e))?,
        }
        for event in &self.events {
            match event.token() {
                WAKER => self.is_woken = true,
                ALARM => self.alarm.armed = None,
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
        self.hold(
            socket::open(spec, SockFlag::SOCK_NONBLOCK)?,
            spec.kind != SocketKind::Datagram,
            spec.is_ipv6(),
        )
    }

    fn connect_unix(&mut self, path: &Path) -> Result<SocketId, OpError> {
        self.adopt(socket::connect_unix(path)?)
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<SocketId, OpError> {
        let set = socket2::SockRef::from(&socket).set_nonblocking(true);
        set.map_err(|e| OpError::from(("fcntl", &e)))?;
        let (is_stream, is_ipv6) = (socket::is_stream(&socket), socket::is_ipv6(&socket));
        self.hold(socket, is_stream, is_ipv6)
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

    fn descriptor(&self, socket: SocketId) -> Option<BorrowedFd<'_>> {
        Some(self.core.socket(socket)?.fd.as_fd())
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
        self.waker.clone()
    }
}

/// A descriptor with what is asked of it often enough not to ask the kernel.
#[derive(Debug)]
struct EpollSocket {
    fd: OwnedFd,
    is_stream: bool,
    is_ipv6: bool,
    /// What it is registered for with epoll.
    interest: Option<Interest>,
}

impl Socket for EpollSocket {
    fn accept(&self) -> Result<Self, Errno> {
        // An accept makes a socket and a file before it finds that nobody has come. Asking first
        // took a fifth off the server's CPU per connection of `lat --connect-each`.
        if !socket::is_readable(&self.fd) {
            return Err(Errno::EAGAIN);
        }
        let fd = socket::accept(&self.fd)?;
        Ok(Self { fd, is_stream: true, is_ipv6: self.is_ipv6, interest: None })
    }

    fn connect(&self, to: SocketAddr) -> Result<(), Errno> {
        socket::connect(&self.fd, socket::for_family(self.is_ipv6, to))
    }

    #[inline]
    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)
    }

    fn send_vectored(&self, ranges: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let raw = self.fd.as_raw_fd();
        sendmsg::<SockaddrStorage>(raw, ranges, &[], MsgFlags::MSG_NOSIGNAL, None)
    }

    fn send_to(
        &self,
        bytes: &[u8],
        to: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<usize, Errno> {
        let to = socket::for_family(self.is_ipv6, to);
        socket::send_to(&self.fd, bytes, to, source)
    }

    #[inline]
    fn receive(&self, into: &mut [u8]) -> Result<usize, Errno> {
        recv(self.fd.as_raw_fd(), into, MsgFlags::empty())
    }

    fn discard(&self, len: u32) -> Result<usize, Errno> {
        socket::discard(&self.fd, len)
    }

    fn peek(&self) -> Result<usize, Errno> {
        recv(self.fd.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK)
    }

    fn receive_from(&self, into: &mut [u8]) -> Result<(usize, DatagramFrom, bool), Errno> {
        socket::receive_from(&self.fd, into)
    }

    fn receive_stamped(&self, into: &mut [u8]) -> Result<(usize, Option<Nanos>), Errno> {
        socket::receive_stamped(&self.fd, into)
    }

    fn half_close(&self) -> Result<(), Errno> {
        shutdown(self.fd.as_raw_fd(), Shutdown::Write)
    }

    fn is_stream(&self) -> bool {
        self.is_stream
    }

    #[inline]
    fn is_watched(&self, direction: Direction) -> bool {
        self.interest.is_some_and(|interest| match direction {
            Direction::In => interest.is_readable(),
            Direction::Out => interest.is_writable(),
        })
    }
}

/// Deadlines to the nanosecond: a timerfd in the poll set, since mio's own timeout is whole
/// milliseconds. It is never read: setting it again resets it, and an edge-triggered watch reports
/// each expiry once.
#[derive(Debug)]
struct Alarm {
    fd: TimerFd,
    /// What it is set to.
    armed: Option<Instant>,
}

impl Alarm {
    fn new() -> Result<Self, DriverError> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)
            .map_err(|e| DriverError::resources("a timerfd", "timerfd_create", e))?;
        Ok(Self { fd, armed: None })
    }

    /// Sees to it that it rings at `due` or before. One that rings before costs one turn of the
    /// wait; to move it at every turn would cost a system call each, and deadlines mostly move on
    /// before they come.
    fn arm(&mut self, due: Instant, now: Instant) -> Result<(), DriverError> {
        let is_covered = self.armed.is_some_and(|armed| armed > now && armed <= due);
        if is_covered || due == Instant::FAR_FUTURE {
            return Ok(());
        }
        let seconds = i64::try_from(due.0 / 1_000_000_000).unwrap_or(i64::MAX);
        let at = TimeSpec::new(seconds, (due.0 % 1_000_000_000) as i64);
        self.fd
            .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .map_err(|e| DriverError::call("timerfd_settime", e))?;
        self.armed = Some(due);
        Ok(())
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

            // What comes is found by polling, or waiting wakes up for it: be it there before, or
            // come later.
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
