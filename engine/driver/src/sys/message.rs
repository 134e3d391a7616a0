//! What the kernel reads and writes besides the data itself: addresses, message headers, control
//! data, instants. One [`Message`] serves one operation at a time, at an address that does not
//! change.
//!
//! Control messages are laid out by hand (`cmsg(3)`): a header of length, level and type, padded
//! data after it. That keeps their parsing in safe code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr::null_mut;

use nix::sys::socket::{SockaddrLike, SockaddrStorage};

use crate::io::DatagramFrom;
use tare_units::Nanos;
use tare_units::limits::SEGMENTS_MAX;

/// Room for the control messages of one datagram: on a dual-stack socket both kinds of packet info,
/// which take 32 and 40 bytes.
const CONTROL_BYTES: usize = 96;
/// `CMSG_LEN(0)`: a `size_t` and two `int`s, which is a multiple of the alignment on 32 and 64 bits
/// alike.
const CONTROL_HEADER: usize = size_of::<usize>() + 2 * size_of::<i32>();
/// What an address reads as that the kernel did not write.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Storage of one operation. The header's pointers point into the same message (and to the data),
/// so it is filled in where it stays until the kernel is done with it.
pub(super) struct Message {
    header: libc::msghdr,
    segments: [libc::iovec; SEGMENTS_MAX],
    address: SockaddrStorage,
    control: Control,
}

impl Message {
    pub(super) fn new() -> Self {
        const EMPTY: libc::iovec = libc::iovec { iov_base: null_mut(), iov_len: 0 };
        Self {
            header: libc::msghdr {
                msg_name: null_mut(),
                msg_namelen: 0,
                msg_iov: null_mut(),
                msg_iovlen: 0,
                msg_control: null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
            segments: [EMPTY; SEGMENTS_MAX],
            address: SockaddrStorage::from(NO_ADDRESS),
            control: Control([0; CONTROL_BYTES]),
        }
    }

    pub(super) fn address(&mut self, to: SocketAddr) -> (*const libc::sockaddr, libc::socklen_t) {
        self.address = SockaddrStorage::from(to);
        (self.address.as_ptr(), self.address.len())
    }

    /// A header for several ranges on a connected socket.
    pub(super) fn vectored(&mut self, ranges: impl Iterator<Item = (*const u8, usize)>) {
        let mut count = 0;
        for (segment, (base, len)) in self.segments.iter_mut().zip(ranges) {
            *segment = libc::iovec { iov_base: base.cast_mut().cast(), iov_len: len };
            count += 1;
        }
        self.header.msg_name = null_mut();
        self.header.msg_namelen = 0;
        self.header.msg_iov = self.segments.as_mut_ptr();
        self.header.msg_iovlen = count;
        self.set_control(0);
    }

    /// A header for one range to an address, which is in the socket's family, from a local address
    /// if one is given.
    pub(super) fn send_to(
        &mut self,
        range: (*const u8, usize),
        to: SocketAddr,
        source: Option<IpAddr>,
    ) {
        self.vectored(std::iter::once(range));
        let (name, len) = self.address(to);
        self.header.msg_name = name.cast_mut().cast();
        self.header.msg_namelen = len;
        let control = source.map_or(0, |source| write_packet_info(&mut self.control.0, source));
        self.set_control(control);
    }

    /// A header for receiving, with what the kernel tells beside the bytes: of a datagram its
    /// addresses, too.
    pub(super) fn receive(&mut self, range: (*mut u8, usize), is_datagram: bool) {
        self.vectored(std::iter::once((range.0.cast_const(), range.1)));
        self.set_control(CONTROL_BYTES);
        self.header.msg_flags = 0;
        if is_datagram {
            self.header.msg_name = (&raw mut self.address).cast();
            self.header.msg_namelen = size_of::<SockaddrStorage>() as libc::socklen_t;
            self.address = SockaddrStorage::from(NO_ADDRESS);
        }
    }

    /// When what was received arrived, since the epoch, where the kernel wrote it.
    pub(super) fn stamp(&self) -> Option<Nanos> {
        find_control(self.received_control(), |level, kind, data| {
            let is_stamp = (level, kind) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS);
            is_stamp.then(|| read_time(data)).flatten()
        })
    }

    /// The header as it was written last, for the kernel to read, and to write an outcome into.
    pub(super) const fn header(&mut self) -> *mut libc::msghdr {
        &raw mut self.header
    }

    fn set_control(&mut self, len: usize) {
        let control = if len == 0 { null_mut() } else { self.control.0.as_mut_ptr() };
        self.header.msg_control = control.cast();
        self.header.msg_controllen = len;
    }

    fn received_control(&self) -> &[u8] {
        &self.control.0[..self.header.msg_controllen.min(CONTROL_BYTES)]
    }

    /// What the kernel wrote beside a received datagram: its addresses, and whether it was cut off.
    pub(super) fn received(&self) -> (DatagramFrom, bool) {
        let addresses = DatagramFrom {
            from: to_socket_addr(&self.address).unwrap_or(NO_ADDRESS),
            local: read_packet_info(self.received_control()),
        };
        (addresses, self.header.msg_flags & libc::MSG_TRUNC != 0)
    }
}

/// Writes the control message that sets a datagram's source address, and gives its length with
/// padding.
///
/// An IPv4 source goes as `IP_PKTINFO` on a dual-stack socket too: the kernel hands a datagram to a
/// mapped address to its IPv4 side, which reads that form (`ip_cmsg_send`).
fn write_packet_info(control: &mut [u8], source: IpAddr) -> usize {
    match source.to_canonical() {
        IpAddr::V4(address) => {
            // in_pktinfo: interface index, address to send from, header address (ip(7)).
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&address.octets());
            write_control(control, libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
        }
        IpAddr::V6(address) => {
            // in6_pktinfo: address, interface index (RFC 3542, section 6.1).
            let mut info = [0; 20];
            info[..16].copy_from_slice(&address.octets());
            write_control(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
        }
    }
}

fn write_control(control: &mut [u8], level: i32, kind: i32, data: &[u8]) -> usize {
    let len = CONTROL_HEADER + data.len();
    let padded = len.next_multiple_of(size_of::<usize>());
    control[..padded].fill(0);
    let (size, rest) = control.split_at_mut(size_of::<usize>());
    size.copy_from_slice(&len.to_ne_bytes());
    rest[..4].copy_from_slice(&level.to_ne_bytes());
    rest[4..8].copy_from_slice(&kind.to_ne_bytes());
    rest[8..8 + data.len()].copy_from_slice(data);
    padded
}

/// The first control message of which `read` makes something, given its level, type and data;
/// malformed ones end the search.
fn find_control<T>(mut control: &[u8], read: impl Fn(i32, i32, &[u8]) -> Option<T>) -> Option<T> {
    while let Some((header, _)) = control.split_at_checked(CONTROL_HEADER) {
        let (size, kind) = header.split_at(size_of::<usize>());
        let len = usize::from_ne_bytes(size.try_into().ok()?);
        let level = i32::from_ne_bytes(kind[..4].try_into().ok()?);
        let kind = i32::from_ne_bytes(kind[4..].try_into().ok()?);
        if let Some(found) = read(level, kind, control.get(CONTROL_HEADER..len)?) {
            return Some(found);
        }
        control = control.get(len.next_multiple_of(size_of::<usize>())..)?;
    }
    None
}

/// The local address among control messages, in its canonical form.
fn read_packet_info(control: &[u8]) -> Option<IpAddr> {
    find_control(control, |level, kind, data| match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // The second field, the local address, differs from the third, the header's
            // destination, for broadcasts only; the answer must leave from the former.
            let octets: [u8; 4] = data.get(4..8)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let octets: [u8; 16] = data.get(..16)?.try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
        }
        _ => None,
    })
}

/// A `struct timespec`, whose two fields are words of the machine. Zero is no time.
fn read_time(data: &[u8]) -> Option<Nanos> {
    let (seconds, rest) = data.split_at_checked(size_of::<isize>())?;
    let nanos = rest.get(..size_of::<isize>())?;
    let seconds = isize::from_ne_bytes(seconds.try_into().ok()?);
    let nanos = isize::from_ne_bytes(nanos.try_into().ok()?);
    let seconds = u64::try_from(seconds).ok().filter(|s| *s > 0)?;
    Some(Nanos(seconds * 1_000_000_000 + u64::try_from(nanos).ok()?))
}

/// An IPv4-mapped address as the IPv4 address it means; any other as it is.
pub(crate) const fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(IpAddr::V4(ip), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// An address as the kernel wrote it, in its canonical form; `None` where it is of no IP family.
pub(super) fn to_socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => SocketAddr::V4((*v4).into()),
        (_, Some(v6)) => SocketAddr::V6((*v6).into()),
        _ => return None,
    };
    Some(canonical(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_info_reads_back_in_canonical_form() {
        for (source, expected) in
            [("10.0.0.2", "10.0.0.2"), ("::ffff:10.0.0.2", "10.0.0.2"), ("fe80::1", "fe80::1")]
        {
            let mut control = [0xAA; CONTROL_BYTES];
            let len = write_packet_info(&mut control, source.parse().unwrap());
            let read = read_packet_info(&control[..len]);
            assert_eq!(read, Some(expected.parse().unwrap()));
        }
    }

    #[test]
    fn an_address_that_the_kernel_left_alone_reads_as_none_in_particular() {
        let mut message = Message::new();
        message.address("10.0.0.1:7117".parse().unwrap());
        message.receive((null_mut(), 0), true);
        message.set_control(0);
        let expected = DatagramFrom { from: NO_ADDRESS, local: None };
        assert_eq!(message.received(), (expected, false));
    }

    #[test]
    fn other_control_messages_are_skipped_and_broken_ones_end_the_search() {
        let mut control = [0; CONTROL_BYTES];
        let first = write_control(&mut control, libc::SOL_SOCKET, 1, &[7; 3]);
        let second = write_packet_info(&mut control[first..], "10.0.0.2".parse().unwrap());
        let all = &control[..first + second];
        assert_eq!(read_packet_info(all), Some("10.0.0.2".parse().unwrap()));
        for cut in 0..all.len() - 4 {
            assert_eq!(read_packet_info(&all[..cut]), None, "cut at {cut}");
        }
        control[..8].fill(0xFF);
        assert_eq!(read_packet_info(&control), None);
        assert_eq!(read_packet_info(&[0; 32]), None, "a length of zero must not loop");
    }
}
