//! The kernel's non-blocking socket calls.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::Interest;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, SockaddrStorage, recv, send, sendmsg, shutdown};

use crate::nonblocking::{Calls, Direction};
use crate::sys::socket;
use crate::{DatagramFrom, SocketKind, SocketSpec};
use tare_units::Nanos;

/// A descriptor with what is asked of it often enough not to ask the kernel.
#[derive(Debug)]
pub(super) struct EpollSocket {
    pub(super) fd: OwnedFd,
    pub(super) is_stream: bool,
    is_ipv6: bool,
    /// What it is registered for with epoll.
    pub(super) interest: Option<Interest>,
}

impl EpollSocket {
    /// One that was opened as `spec` says.
    pub(super) fn opened(fd: OwnedFd, spec: &SocketSpec) -> Self {
        Self {
            is_stream: spec.kind != SocketKind::Datagram,
            is_ipv6: spec.is_ipv6(),
            fd,
            interest: None,
        }
    }

    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            is_stream: socket::is_stream(fd.as_fd()),
            is_ipv6: socket::is_ipv6(fd.as_fd()),
            fd,
            interest: None,
        }
    }
}

#[derive(Debug)]
pub(super) struct SocketCalls;

impl Calls for SocketCalls {
    type Socket = EpollSocket;

    fn accept(&mut self, listener: &EpollSocket) -> Result<EpollSocket, Errno> {
        // An accept makes a socket and a file before it finds that nobody has come. Asking first took a fifth off the
        // server's CPU per connection of `lat --connect-each`.
        if !socket::is_readable(listener.fd.as_fd()) {
            return Err(Errno::EAGAIN);
        }
        Ok(EpollSocket {
            fd: socket::accept(listener.fd.as_fd())?,
            is_stream: true,
            is_ipv6: listener.is_ipv6,
            interest: None,
        })
    }

    fn connect(&mut self, socket: &EpollSocket, to: SocketAddr) -> Result<(), Errno> {
        socket::connect(socket.fd.as_fd(), socket::for_family(socket.is_ipv6, to))
    }

    #[inline]
    fn send(&mut self, socket: &EpollSocket, bytes: &[u8]) -> Result<usize, Errno> {
        send(socket.fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)
    }

    fn send_vectored(
        &mut self,
        socket: &EpollSocket,
        ranges: &[IoSlice<'_>],
    ) -> Result<usize, Errno> {
        let raw = socket.fd.as_raw_fd();
        sendmsg::<SockaddrStorage>(raw, ranges, &[], MsgFlags::MSG_NOSIGNAL, None)
    }

    fn send_to(
        &mut self,
        socket: &EpollSocket,
        bytes: &[u8],
        to: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<usize, Errno> {
        let to = socket::for_family(socket.is_ipv6, to);
        socket::send_to(socket.fd.as_fd(), bytes, to, source)
    }

    #[inline]
    fn receive(&mut self, socket: &EpollSocket, into: &mut [u8]) -> Result<usize, Errno> {
        recv(socket.fd.as_raw_fd(), into, MsgFlags::empty())
    }

    fn discard(&mut self, socket: &EpollSocket, len: u32) -> Result<usize, Errno> {
        socket::discard(socket.fd.as_fd(), len)
    }

    fn peek(&mut self, socket: &EpollSocket) -> Result<usize, Errno> {
        recv(socket.fd.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK)
    }

    fn receive_from(
        &mut self,
        socket: &EpollSocket,
        into: &mut [u8],
    ) -> Result<(usize, DatagramFrom, bool), Errno> {
        socket::receive_from(socket.fd.as_fd(), into)
    }

    fn receive_stamped(
        &mut self,
        socket: &EpollSocket,
        into: &mut [u8],
    ) -> Result<(usize, Option<Nanos>), Errno> {
        socket::receive_stamped(socket.fd.as_fd(), into)
    }

    fn half_close(&mut self, socket: &EpollSocket) -> Result<(), Errno> {
        shutdown(socket.fd.as_raw_fd(), Shutdown::Write)
    }

    fn is_stream(&self, socket: &EpollSocket) -> bool {
        socket.is_stream
    }

    #[inline]
    fn is_watched(&self, socket: &EpollSocket, direction: Direction) -> bool {
        socket.interest.is_some_and(|interest| match direction {
            Direction::In => interest.is_readable(),
            Direction::Out => interest.is_writable(),
        })
    }
}
