//! Sockets: opened as a [`SocketSpec`] asks, addressed without regard to IPv4-mapped forms, and
//! datagrams with their addresses.
//!
//! Whatever is reported from here is normalised: an IPv4 peer of a dual-stack socket is an IPv4
//! address. Whatever is sent through here is mapped the other way where the socket needs it.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self as sock, AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, UnixAddr,
    sockopt,
};

use super::message::{Message, to_socket_addr};
use crate::io::{DatagramFrom, OpError, SocketKind, SocketSpec};
use tare_units::Nanos;

/// Connections that a listener's queue holds, at most; the kernel lowers it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Opens with `SOCK_NONBLOCK` or not, sets up and, where asked, binds and listens. Closed on exec. A
/// ring needs it blocking: it takes a non-blocking descriptor at its word and gives `EAGAIN` instead
/// of waiting.
///
/// An IPv6 socket that is bound to the wildcard, or not at all, serves IPv4 too.
pub(crate) fn open(spec: &SocketSpec, flags: SockFlag) -> Result<OwnedFd, OpError> {
    let ipv6 = spec.is_ipv6();
    let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let kind = match spec.kind {
        SocketKind::Stream | SocketKind::Listener => SockType::Stream,
        SocketKind::Datagram => SockType::Datagram,
    };
    let fd = sock::socket(family, kind, flags | SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| ("socket", e))?;
    set_options(&fd, spec, ipv6).map_err(|e| ("setsockopt", e))?;
    if let Some(local) = spec.local {
        sock::bind(fd.as_raw_fd(), &SockaddrStorage::from(local)).map_err(|e| ("bind", e))?;
    }
    if spec.kind == SocketKind::Listener {
        let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
        sock::listen(&fd, backlog).map_err(|e| ("listen", e))?;
    }
    Ok(fd)
}

fn set_options(fd: &OwnedFd, spec: &SocketSpec, ipv6: bool) -> Result<(), Errno> {
    if ipv6 && spec.local.is_none_or(|local| local.ip().is_unspecified()) {
        sock::setsockopt(fd, sockopt::Ipv6V6Only, &false)?;
    }
    if spec.kind == SocketKind::Listener || spec.reuse_port {
        sock::setsockopt(fd, sockopt::ReuseAddr, &true)?;
    }
    if spec.reuse_port {
        sock::setsockopt(fd, sockopt::ReusePort, &true)?;
    }
    if !spec.nagle && spec.kind != SocketKind::Datagram {
        // Sockets that a listener accepts inherit it.
        sock::setsockopt(fd, sockopt::TcpNoDelay, &true)?;
    }
    if spec.kind == SocketKind::Stream && spec.local.is_some_and(|local| local.port() == 0) {
        // The port is chosen at the connect and need only be free towards that peer (ip(7)), so
        // that one source has 64k ports towards each of them. A kernel without the option chooses
        // at the bind.
        let _ = sock::setsockopt(fd, sockopt::IpBindAddressNoPort, &true);
    }
    if spec.packet_info {
        // On a dual-stack socket IPv4 datagrams come with the IPv4 form as well; either is
        // understood.
        sock::setsockopt(fd, sockopt::Ipv4PacketInfo, &true)?;
        if ipv6 {
            sock::setsockopt(fd, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    if let Some(bytes) = spec.receive_buffer {
        sock::setsockopt(fd, sockopt::RcvBuf, &(bytes as usize))?;
    }
    Ok(())
}

/// The name of a Unix socket in the abstract namespace, which is written with an `@` where the
/// kernel has a zero byte.
pub fn abstract_name(path: &Path) -> Option<&[u8]> {
    path.as_os_str().as_bytes().strip_prefix(b"@")
}

/// A stream socket that is connected to the Unix listener at `path`: non-blocking, closed on exec.
pub(crate) fn connect_unix(path: &Path) -> Result<OwnedFd, OpError> {
    let address = match abstract_name(path) {
        Some(name) => UnixAddr::new_abstract(name),
        None => UnixAddr::new(path),
    };
    let address = address.map_err(|e| ("connect", e))?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = sock::socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|e| ("socket", e))?;
    sock::connect(fd.as_raw_fd(), &address).map_err(|e| ("connect", e))?;
    Ok(fd)
}

fn raw(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}

/// Whether an accept or a receive would find something, an error included.
pub(crate) fn is_readable(fd: impl AsFd) -> bool {
    let mut asked = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    // Where the kernel does not say, the call itself will.
    poll(&mut asked, PollTimeout::ZERO) != Ok(0)
}

/// Takes a connection off a listener: non-blocking, closed on exec.
pub(crate) fn accept(listener: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let raw = sock::accept4(raw(&listener), flags)?;
    // SAFETY: `accept4` succeeded, so `raw` is a descriptor it has just made; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Starts a connection, or asks how the one in progress stands: `Ok` is connected; `EINPROGRESS`
/// and `EALREADY` are not yet. On a datagram socket it sets the peer. `to` is in the socket's
/// family (see [`for_family`]).
pub(crate) fn connect(fd: impl AsFd, to: SocketAddr) -> Result<(), Errno> {
    sock::connect(raw(&fd), &SockaddrStorage::from(to))
}

/// Ends a TCP connection at once: what was not sent, or not acknowledged, is dropped, and the peer
/// gets a reset. The kernel then lets go of the memory of zero-copy sends.
pub(crate) fn disconnect(fd: impl AsFd) -> Result<(), Errno> {
    let nobody =
        libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let len = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the kernel reads one `sockaddr` from `nobody`, which is borrowed for the call, and
    // whose size it is told.
    let answer = unsafe { libc::connect(raw(&fd), &raw const nobody, len) };
    Errno::result(answer).map(drop)
}

/// Sends the end of a stream behind what is on its way, and has the kernel reset the connection
/// where that is not acknowledged for `within`. One that is to be reset on its close is reset now.
pub(crate) fn end_within(fd: impl AsFd, within: Nanos) {
    let resets = sock::getsockopt(&fd, sockopt::Linger)
        .is_ok_and(|linger| linger.l_onoff != 0 && linger.l_linger == 0);
    let bound = u32::try_from(within.0 / 1_000_000).unwrap_or(u32::MAX);
    // Where the bound cannot be set, nothing else would free the memory in time.
    if resets || sock::setsockopt(&fd, sockopt::TcpUserTimeout, &bound).is_err() {
        let _ = disconnect(fd);
    } else {
        let _ = sock::shutdown(raw(&fd), sock::Shutdown::Both);
    }
}

pub(crate) fn is_stream(fd: impl AsFd) -> bool {
    sock::getsockopt(&fd, sockopt::SockType) == Ok(SockType::Stream)
}

pub(crate) fn is_ipv6(fd: impl AsFd) -> bool {
    sock::getsockname::<SockaddrStorage>(raw(&fd))
        .is_ok_and(|address| address.as_sockaddr_in6().is_some())
}

pub(crate) fn local_addr(fd: impl AsFd) -> Option<SocketAddr> {
    to_socket_addr(&sock::getsockname(raw(&fd)).ok()?)
}

pub(crate) fn peer_addr(fd: impl AsFd) -> Option<SocketAddr> {
    to_socket_addr(&sock::getpeername(raw(&fd)).ok()?)
}

/// Sends one datagram to `to`, which is in the socket's family (see [`for_family`]), from `source`
/// where given. Allocates nothing.
pub(crate) fn send_to(
    fd: impl AsFd,
    bytes: &[u8],
    to: SocketAddr,
    source: Option<IpAddr>,
) -> Result<usize, Errno> {
    let Some(source) = source else {
        return sock::sendto(raw(&fd), bytes, &SockaddrStorage::from(to), MsgFlags::MSG_NOSIGNAL);
    };
    // nix would allocate the control buffer of each message.
    let mut message = Message::new();
    message.send_to((bytes.as_ptr(), bytes.len()), to, Some(source));
    // SAFETY: the header names `bytes`, and the message's own address and control data, all of
    // which live across the call; the lengths in it are theirs, and the kernel only reads.
    let sent = unsafe { libc::sendmsg(raw(&fd), message.header(), libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(isize::unsigned_abs)
}

/// Receives one datagram: the bytes stored, its addresses, and whether it was cut off. Allocates
/// nothing.
pub(crate) fn receive_from(
    fd: impl AsFd,
    into: &mut [u8],
) -> Result<(usize, DatagramFrom, bool), Errno> {
    let (len, (addresses, truncated)) = receive(fd, into, true, Message::received)?;
    Ok((len, addresses, truncated))
}

/// Receives from a stream: the bytes stored, and when they arrived, since the epoch, where the
/// kernel stamps them. Allocates nothing.
pub(crate) fn receive_stamped(
    fd: impl AsFd,
    into: &mut [u8],
) -> Result<(usize, Option<Nanos>), Errno> {
    receive(fd, into, false, Message::stamp)
}

#[inline]
fn receive<T>(
    fd: impl AsFd,
    into: &mut [u8],
    is_datagram: bool,
    read: impl FnOnce(&Message) -> T,
) -> Result<(usize, T), Errno> {
    let mut message = Message::new();
    message.receive((into.as_mut_ptr(), into.len()), is_datagram);
    // SAFETY: the header names `into`, which is borrowed for the call, and the message's own
    // storage for address and control data; the lengths in it are theirs.
    let received = unsafe { libc::recvmsg(raw(&fd), message.header(), 0) };
    Ok((Errno::result(received)?.unsigned_abs(), read(&message)))
}

/// Receives up to `len` bytes of a TCP stream without copying them anywhere (`MSG_TRUNC`,
/// `tcp(7)`).
///
/// # Errors
/// As `recv` answers, `EAGAIN` among them; `EFAULT` where data is there and the socket is not TCP.
pub fn discard(fd: impl AsFd, len: u32) -> Result<usize, Errno> {
    let (nowhere, len) = (std::ptr::null_mut(), len as usize);
    // SAFETY: with `MSG_TRUNC` TCP writes nothing, and any other protocol finds that nothing can be
    // written at the null address, which the kernel checks.
    let received = unsafe { libc::recv(raw(&fd), nowhere, len, libc::MSG_TRUNC) };
    Errno::result(received).map(isize::unsigned_abs)
}

/// `to` as a socket of that family takes it: an IPv6 socket reaches IPv4 by mapped addresses.
pub(crate) const fn for_family(ipv6: bool, to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) if ipv6 => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
        }
        _ => to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn udp(local: &str, packet_info: bool) -> OwnedFd {
        let local: SocketAddr = local.parse().unwrap();
        let spec = SocketSpec { local: Some(local), packet_info, ..SocketSpec::datagram_to(local) };
        open(&spec, SockFlag::SOCK_NONBLOCK).unwrap()
    }

    fn until_ready<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> T {
        for _ in 0..1_000_000 {
            match attempt() {
                Err(Errno::EAGAIN) => std::thread::yield_now(),
                other => return other.unwrap(),
            }
        }
        panic!("nothing came");
    }

    #[test]
    fn a_dual_stack_socket_answers_ipv4_from_the_address_that_was_asked() {
        let server = udp("[::]:0", true);
        let client = udp("127.0.0.1:0", false);
        let port = local_addr(&server).unwrap().port();
        let asked: IpAddr = "127.0.0.7".parse().unwrap();
        send_to(&client, b"ping", (asked, port).into(), None).unwrap();

        let mut bytes = [0u8; 16];
        let (len, addresses, truncated) = until_ready(|| receive_from(&server, &mut bytes));
        assert_eq!((&bytes[..len], truncated), (&b"ping"[..], false));
        assert_eq!(Some(addresses.from), local_addr(&client));
        assert_eq!(addresses.local, Some(asked));

        let to = for_family(is_ipv6(&server), addresses.from);
        send_to(&server, b"pong", to, addresses.local).unwrap();
        let (_, addresses, _) = until_ready(|| receive_from(&client, &mut bytes));
        assert_eq!(addresses.from, (asked, port).into());
        assert_eq!(addresses.local, None, "not asked for");
    }

    #[test]
    fn packet_info_works_over_ipv6_and_truncation_shows() {
        let server = udp("[::1]:0", true);
        let client = udp("[::1]:0", false);
        let to = local_addr(&server).unwrap();
        send_to(&client, b"0123456789", to, Some(to.ip())).unwrap();
        let mut bytes = [0u8; 4];
        let (len, addresses, truncated) = until_ready(|| receive_from(&server, &mut bytes));
        assert_eq!((len, truncated), (4, true));
        assert_eq!(addresses.local, Some(to.ip()));
    }

    /// The kernel may give two connections of one source the same port, since they go to different
    /// peers.
    #[test]
    fn a_stream_from_an_address_gets_its_port_when_it_connects() {
        let listeners = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap());
        for (listener, source) in listeners.iter().zip(["127.0.0.9:0", "[::1]:0"]) {
            let source: SocketAddr = source.parse().unwrap();
            let spec = SocketSpec { local: Some(source), ..SocketSpec::stream_to(source) };
            let fd = open(&spec, SockFlag::SOCK_NONBLOCK).unwrap();
            assert_eq!(local_addr(&fd), Some(source), "no port yet");
            let connected = connect(&fd, listener.local_addr().unwrap());
            assert!(matches!(connected, Ok(()) | Err(Errno::EINPROGRESS)));
            let local = local_addr(&fd).unwrap();
            assert!(local.ip() == source.ip() && local.port() != 0);
        }
    }

    #[test]
    fn a_listener_is_readable_while_a_connection_waits() {
        let local = "127.0.0.1:0".parse().unwrap();
        let listener = open(&SocketSpec::listener(local), SockFlag::SOCK_NONBLOCK).unwrap();
        assert!(!is_readable(&listener));
        let client = TcpStream::connect(local_addr(&listener).unwrap()).unwrap();
        assert!(is_readable(&listener));
        let accepted = accept(&listener).unwrap();
        assert_eq!(peer_addr(&accepted), client.local_addr().ok());
        assert!(!is_readable(&listener));
    }

    #[test]
    fn a_taken_port_is_reported() {
        let first = udp("127.0.0.1:0", false);
        let local = local_addr(&first).unwrap();
        let spec = SocketSpec { local: Some(local), ..SocketSpec::datagram_to(local) };
        assert_eq!(open(&spec, SockFlag::SOCK_NONBLOCK).unwrap_err(), OpError::AddressInUse);
    }
}
