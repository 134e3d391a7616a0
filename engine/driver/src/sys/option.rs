//! Options of sockets, and what the kernel made of them.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{SetSockOpt, SockFlag, getsockopt, setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};

use super::socket::{self, is_ipv6, peer_addr};
use crate::io::{OpError, SocketOption, SocketSpec, TcpInfo};
use tare_units::Nanos;
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
pub fn set(fd: impl AsFd, option: &SocketOption) -> Result<(), OpError> {
    match option {
        SocketOption::NoDelay(on) => put(fd, sockopt::TcpNoDelay, on),
        SocketOption::Congestion(name) => {
            put(fd, sockopt::TcpCongestion, &OsString::from(name.as_str()))
        }
        SocketOption::MaxSegment(bytes) => put(fd, sockopt::TcpMaxSeg, bytes),
        SocketOption::TrafficClass(octet) => {
            let octet = i32::from(*octet);
            if is_ipv6(&fd) {
                put(&fd, sockopt::Ipv6TClass, &octet)?;
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

fn put<O: SetSockOpt>(fd: impl AsFd, option: O, value: &O::Val) -> Result<(), OpError> {
    setsockopt(&fd, option, value).map_err(|errno| ("setsockopt", errno).into())
}

pub(crate) fn buffers(fd: impl AsFd) -> Option<(u32, u32)> {
    let send = getsockopt(&fd, sockopt::SndBuf).ok()?;
    let receive = getsockopt(&fd, sockopt::RcvBuf).ok()?;
    Some((u32::try_from(send).ok()?, u32::try_from(receive).ok()?))
}

pub(crate) fn path_mtu(fd: impl AsFd) -> Option<PathMtu> {
    let peer = peer_addr(&fd)?;
    let is_ipv6 = peer.is_ipv6() && !peer.ip().to_canonical().is_ipv4();
    let (level, name) = if is_ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU)
    };
    // SAFETY: it is a number.
    let (bytes, _) = unsafe { get(fd, level, name) }?;
    Some(PathMtu { bytes, is_ipv6 })
}

/// The path's MTU for datagrams to an address, as a socket that is opened and connected for the
/// question is told.
pub fn path_mtu_to(to: SocketAddr) -> Option<PathMtu> {
    let fd = socket::open(&SocketSpec::datagram_to(to), SockFlag::SOCK_NONBLOCK).ok()?;
    socket::connect(&fd, to).ok()?;
    path_mtu(&fd)
}

/// An option that nix does not have, and how many bytes of it the kernel wrote; the rest is zero.
///
/// # Safety
/// `T` consists of integers, so that whatever the kernel writes is a value of it.
unsafe fn get<T>(fd: impl AsFd, level: i32, name: i32) -> Option<(T, usize)> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    let (fd, to) = (fd.as_fd().as_raw_fd(), value.as_mut_ptr().cast());
    // SAFETY: the kernel writes at most `length` bytes to `value`, which is borrowed for the call
    // and so long, and the new length to `length`, which is borrowed likewise.
    let answer = unsafe { libc::getsockopt(fd, level, name, to, &raw mut length) };
    // SAFETY: the caller's promise holds for the zeros and for what the kernel wrote over them.
    let value = unsafe { value.assume_init() };
    (answer == 0).then_some((value, length as usize))
}

/// What TCP says of a connection; `None` where the socket is of another protocol.
pub(crate) fn tcp_info(fd: impl AsFd) -> Option<TcpInfo> {
    // SAFETY: the structure of `linux/tcp.h` consists of integers.
    let (raw, _) = unsafe { get::<libc::tcp_info>(fd, libc::IPPROTO_TCP, libc::TCP_INFO) }?;
    Some(TcpInfo {
        retransmits: raw.tcpi_total_retrans.into(),
        backoff: raw.tcpi_backoff,
        cwnd_segments: raw.tcpi_snd_cwnd,
        mss_bytes: raw.tcpi_snd_mss,
        rtt: Nanos::from_micros(raw.tcpi_rtt.into()),
        min_rtt: Nanos::from_micros(raw.tcpi_min_rtt.into()),
        busy: Nanos::from_micros(raw.tcpi_busy_time),
        rwnd_limited: Nanos::from_micros(raw.tcpi_rwnd_limited),
        sndbuf_limited: Nanos::from_micros(raw.tcpi_sndbuf_limited),
        data_segments_out: raw.tcpi_data_segs_out.into(),
        segments_in: raw.tcpi_segs_in.into(),
        acked_bytes: raw.tcpi_bytes_acked,
    })
}

pub(crate) fn congestion_control(fd: impl AsFd) -> Option<String> {
    let name = getsockopt(&fd, sockopt::TcpCongestion).ok()?;
    let name = name.into_string().ok()?;
    Some(name.trim_end_matches('\0').to_owned())
}

/// Bytes that the kernel still has of what was sent (`SIOCOUTQ`): on a stream those that the
/// peer has not acknowledged.
pub(crate) fn send_queue_bytes(fd: impl AsFd) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one `int` to `bytes`, which is borrowed for the call. `SIOCOUTQ` of
    // `linux/sockios.h` is another name of `TIOCOUTQ`.
    let answer = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    (answer == 0).then(|| u64::try_from(bytes).ok()).flatten()
}

/// Memory that the kernel holds for a socket's queues, bytes, its own bookkeeping included.
pub(crate) fn memory_bytes(fd: impl AsFd) -> Option<u64> {
    let numbers = memory_info(fd)?;
    let number = |index: libc::c_int| u64::from(numbers[index as usize]);
    Some(number(libc::SK_MEMINFO_RMEM_ALLOC) + number(libc::SK_MEMINFO_WMEM_QUEUED))
}

pub(crate) fn receive_overflows(fd: impl AsFd) -> Option<u64> {
    memory_info(fd).map(|numbers| u64::from(numbers[MEMINFO_DROPS]))
}

/// `SO_MEMINFO` of `asm-generic/socket.h`.
const SO_MEMINFO: libc::c_int = 55;
/// `SK_MEMINFO_DROPS` of `linux/sock_diag.h`, and how many numbers `SO_MEMINFO` has with it.
const MEMINFO_DROPS: usize = 8;
const MEMINFO_COUNT: usize = MEMINFO_DROPS + 1;

/// `None` also where the kernel gives fewer of them.
fn memory_info(fd: impl AsFd) -> Option<[u32; MEMINFO_COUNT]> {
    // SAFETY: they are numbers.
    let (numbers, len) = unsafe { get(fd, libc::SOL_SOCKET, SO_MEMINFO) }?;
    (len == size_of_val(&numbers)).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::OwnedFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn stream(address: &str) -> OwnedFd {
        let spec = SocketSpec::stream_to(address.parse().unwrap());
        socket::open(&spec, SockFlag::SOCK_NONBLOCK).unwrap()
    }

    fn datagrams() -> OwnedFd {
        let spec = SocketSpec::datagram_to("127.0.0.1:0".parse().unwrap());
        socket::open(&spec, SockFlag::SOCK_NONBLOCK).unwrap()
    }

    /// A connection: who sends, who receives.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (sender, listener.accept().unwrap().0)
    }

    #[test]
    fn what_is_set_is_there() {
        let tcp = stream("127.0.0.1:1");
        set(&tcp, &SocketOption::NoDelay(false)).unwrap();
        assert_eq!(getsockopt(&tcp, sockopt::TcpNoDelay), Ok(false));
        set(&tcp, &SocketOption::MaxSegment(1200)).unwrap();
        assert_eq!(getsockopt(&tcp, sockopt::TcpMaxSeg), Ok(1200));
        set(&tcp, &SocketOption::SendBuffer(20_000)).unwrap();
        set(&tcp, &SocketOption::ReceiveBuffer(30_000)).unwrap();
        assert_eq!(buffers(&tcp), Some((40_000, 60_000)), "the kernel doubles");
        set(&tcp, &SocketOption::Congestion("reno".into())).unwrap();
        assert_eq!(congestion_control(&tcp).as_deref(), Some("reno"));
        set(&tcp, &SocketOption::TrafficClass(0xb8)).unwrap();
        assert_eq!(getsockopt(&tcp, sockopt::Ipv4Tos), Ok(0xb8));
        let dual = stream("[::1]:1");
        set(&dual, &SocketOption::TrafficClass(0xb8)).unwrap();
        assert_eq!(getsockopt(&dual, sockopt::Ipv6TClass), Ok(0xb8));
        assert_eq!(getsockopt(&dual, sockopt::Ipv4Tos), Ok(0xb8));

        let udp = datagrams();
        for bytes in [1200, 0] {
            set(&udp, &SocketOption::Segmentation(bytes)).unwrap();
            assert_eq!(getsockopt(&udp, sockopt::UdpGsoSegment), Ok(bytes.into()));
        }
        set(&udp, &SocketOption::Coalescing(true)).unwrap();
        assert_eq!(getsockopt(&udp, sockopt::UdpGroSegment), Ok(true));
    }

    #[test]
    fn below_the_low_water_mark_a_socket_is_not_readable() {
        let (mut sender, receiver) = pair();
        set(&receiver, &SocketOption::ReceiveLowWater(1000)).unwrap();
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
    fn what_cannot_be_is_refused() {
        let (tcp, udp) = (stream("127.0.0.1:1"), datagrams());
        let congestion_of = |name: &str| SocketOption::Congestion(name.to_owned());
        for (fd, option, error) in [
            (&tcp, congestion_of("nosuchthing"), OpError::NotFound),
            (&tcp, congestion_of(&"x".repeat(100)), OpError::NotFound),
            (&tcp, SocketOption::MaxSegment(1), OpError::Invalid),
            (&tcp, SocketOption::Segmentation(1200), OpError::NoSuchOption),
            (&udp, SocketOption::MaxSegment(1200), OpError::NoSuchOption),
        ] {
            assert_eq!(set(fd, &option), Err(error), "{option:?}");
        }
        assert_eq!(congestion_control(&udp), None);
        assert_eq!(tcp_info(&udp), None);
    }

    #[test]
    fn the_path_mtu_is_that_of_the_route() {
        let four = path_mtu_to("127.0.0.1:9".parse().unwrap()).unwrap();
        assert!(!four.is_ipv6 && four.bytes >= 1280, "{four:?}");
        assert_eq!(path_mtu(datagrams()), None, "not connected");
        // IPv6 may be off, but where it is not, an IPv4 address within it is IPv4's path.
        let within = |address: &str| {
            let dual = UdpSocket::bind("[::]:0").ok()?;
            dual.connect(address.parse::<SocketAddr>().unwrap()).ok()?;
            path_mtu(dual)
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
        set(&to, &SocketOption::ReceiveBuffer(1)).unwrap();
        assert_eq!(receive_overflows(&to), Some(0));
        for _ in 0..100 {
            from.send_to(&[0; 1_000], to.local_addr().unwrap()).unwrap();
        }
        let overflows = receive_overflows(&to).unwrap();
        assert!((50..100).contains(&overflows), "{overflows}");
    }

    #[test]
    fn the_send_queue_is_what_nobody_has_acknowledged() {
        let (mut sender, receiver) = pair();
        assert_eq!(send_queue_bytes(&sender), Some(0));
        sender.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(n) = sender.write(&[0; 65_536]) {
            sent += n as u64;
        }
        let queued = send_queue_bytes(&sender).unwrap();
        assert!(queued > 0 && queued < sent, "{queued} of {sent}");
        let memory = memory_bytes(&sender).unwrap();
        assert!(memory >= queued, "{memory} for {queued}");
        assert!(memory_bytes(&receiver).unwrap() > 0, "what it has not read");
    }

    #[test]
    fn a_close_that_resets_leaves_nothing_behind() {
        let (mut sender, mut receiver) = pair();
        sender.write_all(b"x").unwrap();
        set(&sender, &SocketOption::ResetOnClose).unwrap();
        drop(sender);
        let error = receiver.read_to_end(&mut Vec::new()).expect_err("it is reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn the_figures_of_tcp_are_those_of_the_transfer() {
        const BYTES: usize = 100_000;
        let (mut sender, mut receiver) = pair();
        let before = tcp_info(&sender).unwrap();
        assert_eq!(before.data_segments_out, 0);

        sender.write_all(&[7; BYTES]).unwrap();
        receiver.read_exact(&mut [0; BYTES]).unwrap();
        receiver.write_all(b"!").unwrap();
        // The answer acknowledges all of it.
        sender.read_exact(&mut [0]).unwrap();

        let after = tcp_info(&sender).unwrap();
        // The SYN counts as one.
        assert!((BYTES as u64..=BYTES as u64 + 1).contains(&after.acked_bytes));
        assert!((1024..=65_536).contains(&after.mss_bytes), "{after:?}");
        let least = BYTES as u64 / u64::from(after.mss_bytes);
        assert!(after.data_segments_out >= least);
        assert!(after.segments_in > before.segments_in);
        assert!(after.cwnd_segments >= 2);
        assert!(after.rtt > Nanos::ZERO && after.rtt < Nanos::from_secs(1));
        assert!(after.min_rtt <= after.rtt, "{after:?}");
        assert!(after.busy < Nanos::from_secs(60) && after.rwnd_limited <= after.busy);
    }
}
