//! Options of sockets, and what the kernel made of them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd};

use nix::sys::socket::{SetSockOpt, getsockopt, setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};

use super::socket::{self, is_ipv6, peer_addr};
use crate::io::{OpError, SocketOption, SocketSpec};
use tare_units::path::PathMtu;

sockopt_impl!(
    /// `SO_RCVLOWAT`, which nix does not have.
    ReceiveLowWater, SetOnly, libc::SOL_SOCKET, libc::SO_RCVLOWAT, libc::c_int
);
sockopt_impl!(
    /// `TCP_NOTSENT_LOWAT`, which nix does not have.
    UnsentLowWater, SetOnly, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, libc::c_int
);

/// Sets an option.
///
/// # Errors
/// As `setsockopt` answers: [`OpError::NotFound`] for a congestion control that the kernel does not
/// have, [`OpError::NoSuchOption`] for an option that the kernel or the protocol does not have.
pub fn set(fd: BorrowedFd<'_>, option: &SocketOption) -> Result<(), OpError> {
    match option {
        SocketOption::NoDelay(on) => put(fd, sockopt::TcpNoDelay, on),
        SocketOption::Congestion(name) => {
            put(fd, sockopt::TcpCongestion, &OsString::from(name.as_str()))
        }
        SocketOption::MaxSegment(bytes) => put(fd, sockopt::TcpMaxSeg, bytes),
        SocketOption::TrafficClass(octet) => {
            let octet = i32::from(*octet);
            if is_ipv6(fd) {
                put(fd, sockopt::Ipv6TClass, &octet)?;
            }
            // Of an IPv6 socket too: its packets to IPv4 addresses take this one.
            put(fd, sockopt::Ipv4Tos, &octet)
        }
        SocketOption::SendBuffer(bytes) => put(fd, sockopt::SndBuf, &(*bytes as usize)),
        SocketOption::ReceiveBuffer(bytes) => put(fd, sockopt::RcvBuf, &(*bytes as usize)),
        SocketOption::ReceiveLowWater(bytes) => put(fd, ReceiveLowWater, &int(*bytes)),
        SocketOption::UnsentLowWater(bytes) => put(fd, UnsentLowWater, &int(*bytes)),
        SocketOption::ResetOnClose => {
            let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
            put(fd, sockopt::Linger, &at_once)
        }
        SocketOption::Segmentation(bytes) => put(fd, sockopt::UdpGsoSegment, &i32::from(*bytes)),
        SocketOption::ReceiveTimestamps(on) => put(fd, sockopt::ReceiveTimestampns, on),
        SocketOption::Coalescing(on) => put(fd, sockopt::UdpGroSegment, on),
    }
}

fn int(bytes: u32) -> libc::c_int {
    libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX)
}

fn put<O: SetSockOpt>(fd: BorrowedFd<'_>, option: O, value: &O::Val) -> Result<(), OpError> {
    setsockopt(&fd, option, value).map_err(|errno| ("setsockopt", errno).into())
}

pub(crate) fn buffers(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let send = getsockopt(&fd, sockopt::SndBuf).ok()?;
    let receive = getsockopt(&fd, sockopt::RcvBuf).ok()?;
    Some((u32::try_from(send).ok()?, u32::try_from(receive).ok()?))
}

pub(crate) fn path_mtu(fd: BorrowedFd<'_>) -> Option<PathMtu> {
    let peer = peer_addr(fd)?;
    let is_ipv6 = peer.is_ipv6() && !peer.ip().to_canonical().is_ipv4();
    let [bytes] = if is_ipv6 {
        get_numbers(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU)?
    } else {
        get_numbers(fd, libc::IPPROTO_IP, libc::IP_MTU)?
    };
    Some(PathMtu { bytes, is_ipv6 })
}

/// The path's MTU for datagrams to an address, as a socket that is opened and connected for the
/// question is told.
pub fn path_mtu_to(to: SocketAddr) -> Option<PathMtu> {
    let fd = socket::open(&SocketSpec::datagram_to(to)).ok()?;
    socket::connect(fd.as_fd(), to).ok()?;
    path_mtu(fd.as_fd())
}

pub(crate) fn receive_overflows(fd: BorrowedFd<'_>) -> Option<u64> {
    memory_info(fd).map(|numbers| u64::from(numbers[MEMINFO_DROPS]))
}

/// An option of `N` 32-bit numbers that nix does not have; `None` also where the kernel gives fewer
/// of them.
fn get_numbers<const N: usize>(fd: BorrowedFd<'_>, level: i32, name: i32) -> Option<[u32; N]> {
    let mut numbers = [0; N];
    let mut length = size_of::<[u32; N]>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `numbers`, which is borrowed for the call
    // and so long, and the new length to `length`, which is borrowed likewise; every bit pattern is
    // a number.
    let answer = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, numbers.as_mut_ptr().cast(), &raw mut length)
    };
    (answer == 0 && length as usize == size_of::<[u32; N]>()).then_some(numbers)
}

pub(crate) fn congestion_control(fd: BorrowedFd<'_>) -> Option<String> {
    let name = getsockopt(&fd, sockopt::TcpCongestion).ok()?;
    let name = name.into_string().ok()?;
    Some(name.trim_end_matches('\0').to_owned())
}

/// Bytes that the kernel still has of what was sent (`SIOCOUTQ`): on a stream those that the far
/// end has not acknowledged.
pub(crate) fn send_queue_bytes(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one `int` to `bytes`, which is borrowed for the call. `SIOCOUTQ` of
    // `linux/sockios.h` is another name of `TIOCOUTQ`.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    (answer == 0).then(|| u64::try_from(bytes).ok()).flatten()
}

/// Memory that the kernel holds for a socket's queues, bytes, its own bookkeeping included.
pub(crate) fn memory_bytes(fd: BorrowedFd<'_>) -> Option<u64> {
    let numbers = memory_info(fd)?;
    let number = |index: libc::c_int| u64::from(numbers[index as usize]);
    Some(number(libc::SK_MEMINFO_RMEM_ALLOC) + number(libc::SK_MEMINFO_WMEM_QUEUED))
}

/// `SO_MEMINFO` of `asm-generic/socket.h`.
const SO_MEMINFO: libc::c_int = 55;
/// `SK_MEMINFO_DROPS` of `linux/sock_diag.h`, and how many numbers `SO_MEMINFO` has with it.
const MEMINFO_DROPS: usize = 8;
const MEMINFO_COUNT: usize = MEMINFO_DROPS + 1;

fn memory_info(fd: BorrowedFd<'_>) -> Option<[u32; MEMINFO_COUNT]> {
    get_numbers(fd, libc::SOL_SOCKET, SO_MEMINFO)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::OwnedFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn stream(address: &str) -> OwnedFd {
        let address: SocketAddr = address.parse().unwrap();
        socket::open(&SocketSpec::stream_to(address)).unwrap()
    }

    fn datagrams() -> OwnedFd {
        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket::open(&SocketSpec::datagram_to(address)).unwrap()
    }

    #[test]
    fn what_is_set_is_there() {
        let fd = stream("127.0.0.1:1");
        let fd = fd.as_fd();
        set(fd, &SocketOption::NoDelay(false)).unwrap();
        assert_eq!(getsockopt(&fd, sockopt::TcpNoDelay), Ok(false));
        set(fd, &SocketOption::MaxSegment(1200)).unwrap();
        assert_eq!(getsockopt(&fd, sockopt::TcpMaxSeg), Ok(1200));
        set(fd, &SocketOption::SendBuffer(20_000)).unwrap();
        set(fd, &SocketOption::ReceiveBuffer(30_000)).unwrap();
        assert_eq!(buffers(fd), Some((40_000, 60_000)), "the kernel doubles");
        set(fd, &SocketOption::Congestion("reno".into())).unwrap();
        assert_eq!(congestion_control(fd).as_deref(), Some("reno"));
    }

    #[test]
    fn below_the_low_water_mark_a_socket_is_not_readable() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        set(receiver.as_fd(), &SocketOption::ReceiveLowWater(1000)).unwrap();
        let is_readable = |timeout: PollTimeout| {
            let mut fds = [PollFd::new(receiver.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, timeout).unwrap() == 1
        };
        sender.write_all(&[0; 999]).unwrap();
        assert!(!is_readable(PollTimeout::from(20u8)));
        sender.write_all(&[0]).unwrap();
        assert!(is_readable(PollTimeout::from(10_000u16)));
    }

    #[test]
    fn the_traffic_class_is_that_of_both_families() {
        let four = stream("127.0.0.1:1");
        set(four.as_fd(), &SocketOption::TrafficClass(0xb8)).unwrap();
        assert_eq!(getsockopt(&four, sockopt::Ipv4Tos), Ok(0xb8));
        let dual = stream("[::1]:1");
        set(dual.as_fd(), &SocketOption::TrafficClass(0xb8)).unwrap();
        assert_eq!(getsockopt(&dual, sockopt::Ipv6TClass), Ok(0xb8));
        assert_eq!(getsockopt(&dual, sockopt::Ipv4Tos), Ok(0xb8));
    }

    #[test]
    fn datagrams_are_cut_and_joined() {
        let from = datagrams();
        let to = datagrams();
        set(from.as_fd(), &SocketOption::Segmentation(1200)).unwrap();
        assert_eq!(getsockopt(&from, sockopt::UdpGsoSegment), Ok(1200));
        set(from.as_fd(), &SocketOption::Segmentation(0)).unwrap();
        assert_eq!(getsockopt(&from, sockopt::UdpGsoSegment), Ok(0));
        set(to.as_fd(), &SocketOption::Coalescing(true)).unwrap();
        assert_eq!(getsockopt(&to, sockopt::UdpGroSegment), Ok(true));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let tcp = stream("127.0.0.1:1");
        let refused = |option: SocketOption| set(tcp.as_fd(), &option).unwrap_err();
        let unknown = SocketOption::Congestion("nosuchthing".into());
        assert_eq!(refused(unknown), OpError::NotFound);
        let name_too_long = SocketOption::Congestion("x".repeat(100));
        assert_eq!(refused(name_too_long), OpError::NotFound);
        assert_eq!(refused(SocketOption::MaxSegment(1)), OpError::Invalid);
        assert_eq!(refused(SocketOption::Segmentation(1200)), OpError::NoSuchOption);
        let udp = datagrams();
        assert_eq!(congestion_control(udp.as_fd()), None);
        assert_eq!(
            set(udp.as_fd(), &SocketOption::MaxSegment(1200)).unwrap_err(),
            OpError::NoSuchOption
        );
    }

    #[test]
    fn the_path_mtu_is_that_of_the_route() {
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let four = path_mtu_to(to).unwrap();
        assert!(!four.is_ipv6 && four.bytes >= 1280, "{four:?}");
        assert_eq!(path_mtu(datagrams().as_fd()), None, "not connected");
        // IPv6 may be off, but where it is not, an IPv4 address within it is IPv4's path.
        let within = |address: &str| {
            let dual = UdpSocket::bind("[::]:0").ok()?;
            dual.connect(address.parse::<SocketAddr>().unwrap()).ok()?;
            path_mtu(dual.as_fd())
        };
        if let Some(six) = within("[::1]:9") {
            assert!(six.is_ipv6, "{six:?}");
            assert_eq!(within("[::ffff:127.0.0.1]:9"), Some(four));
        }
    }

    #[test]
    fn a_full_receive_buffer_is_counted() {
        let to = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let from = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        set(to.as_fd(), &SocketOption::ReceiveBuffer(1)).unwrap();
        assert_eq!(receive_overflows(to.as_fd()), Some(0));
        for _ in 0..100 {
            from.send_to(&[0; 1_000], to.local_addr().unwrap()).unwrap();
        }
        let overflows = receive_overflows(to.as_fd()).unwrap();
        assert!((50..100).contains(&overflows), "{overflows}");
    }

    #[test]
    fn the_send_queue_is_what_nobody_has_acknowledged() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        assert_eq!(send_queue_bytes(sender.as_fd()), Some(0));
        sender.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(n) = sender.write(&[0; 65_536]) {
            sent += n as u64;
        }
        let queued = send_queue_bytes(sender.as_fd()).unwrap();
        assert!(queued > 0 && queued < sent, "{queued} of {sent}");
        let memory = memory_bytes(sender.as_fd()).unwrap();
        assert!(memory >= queued, "{memory} for {queued}");
        let unread = memory_bytes(receiver.as_fd()).unwrap();
        assert!(unread > 0, "what it has not read");
    }

    #[test]
    fn a_close_that_resets_leaves_nothing_behind() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.write_all(b"x").unwrap();
        set(sender.as_fd(), &SocketOption::ResetOnClose).unwrap();
        drop(sender);
        let mut bytes = Vec::new();
        let read = std::io::Read::read_to_end(&mut receiver, &mut bytes);
        let error = read.expect_err("it is reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
