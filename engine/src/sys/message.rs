//! What the kernel reads and writes besides the data itself: addresses, message headers, control data,
//! instants. One [`Message`] serves one operation at a time, at an address that does not change.
//!
//! Control messages are laid out by hand (`cmsg(3)`): a header of length, level and type, padded data after
//! it. That keeps their parsing in safe code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use io_uring::types::Timespec;

use crate::limits::SEGMENTS_MAX;
use crate::units::Instant;

/// Room for the two control messages that a dual-stack socket may get, with their padding.
const CONTROL_BYTES: usize = 128;
/// `CMSG_LEN(0)`: a `size_t` and two `int`s, which is a multiple of the alignment on 32 and 64 bits alike.
const CONTROL_HEADER: usize = size_of::<usize>() + 2 * size_of::<i32>();
const _: () = assert!(size_of::<libc::sockaddr_in6>() == ADDRESS_BYTES);

#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// A `sockaddr_in` or `sockaddr_in6`, byte by byte as `ip(7)` and `ipv6(7)` lay them out.
#[repr(C, align(8))]
struct Address([u8; ADDRESS_BYTES]);

/// The size of a `sockaddr_in6`, the larger of the two.
const ADDRESS_BYTES: usize = 28;

/// Storage of one operation. The header's pointers point into the same message (and into the arena), so it
/// is filled in where it stays: behind the box that [`Message::new`] gives.
pub(super) struct Message {
    header: libc::msghdr,
    segments: [libc::iovec; SEGMENTS_MAX],
    address: Address,
    control: Control,
    at: Timespec,
}

impl Message {
    pub(super) fn new() -> Box<Self> {
        const EMPTY: libc::iovec = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Box::new(Self {
            header: libc::msghdr {
                msg_name: std::ptr::null_mut(),
                msg_namelen: 0,
                msg_iov: std::ptr::null_mut(),
                msg_iovlen: 0,
                msg_control: std::ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
            segments: [EMPTY; SEGMENTS_MAX],
            address: Address([0; ADDRESS_BYTES]),
            control: Control([0; CONTROL_BYTES]),
            at: Timespec::new(),
        })
    }

    /// Stores an instant of `CLOCK_MONOTONIC`.
    pub(super) fn instant(&mut self, at: Instant) -> *const Timespec {
        self.at = Timespec::new()
            .sec(at.0 / 1_000_000_000)
            .nsec((at.0 % 1_000_000_000) as u32);
        &raw const self.at
    }

    /// Stores an address.
    pub(super) fn address(&mut self, to: SocketAddr) -> (*const libc::sockaddr, libc::socklen_t) {
        let len = write_address(&mut self.address.0, to);
        ((&raw const self.address).cast(), len)
    }

    /// A header for several ranges on a connected socket.
    pub(super) fn vectored(&mut self, ranges: impl Iterator<Item = (*const u8, u32)>) {
        let mut count = 0;
        for (segment, (base, len)) in self.segments.iter_mut().zip(ranges) {
            *segment = libc::iovec {
                iov_base: base.cast_mut().cast(),
                iov_len: len as usize,
            };
            count += 1;
        }
        self.header.msg_name = std::ptr::null_mut();
        self.header.msg_namelen = 0;
        self.header.msg_iov = self.segments.as_mut_ptr();
        self.header.msg_iovlen = count;
        self.set_control(0);
    }

    /// A header for one range to an address, from a local address if one is given.
    pub(super) fn send_to(
        &mut self,
        range: (*const u8, u32),
        to: SocketAddr,
        source: Option<IpAddr>,
    ) {
        self.vectored(std::iter::once(range));
        let (name, len) = self.address(to);
        self.header.msg_name = name.cast_mut().cast();
        self.header.msg_namelen = len;
        let control = source.map_or(0, |source| {
            write_packet_info(&mut self.control.0, source, to)
        });
        self.set_control(control);
    }

    /// A header for receiving one datagram with its addresses.
    pub(super) fn receive_from(&mut self, range: (*mut u8, u32)) {
        self.vectored(std::iter::once((range.0.cast_const(), range.1)));
        self.header.msg_name = (&raw mut self.address).cast();
        self.header.msg_namelen = ADDRESS_BYTES as u32;
        self.address.0.fill(0);
        self.set_control(CONTROL_BYTES);
        self.header.msg_flags = 0;
    }

    /// The header as it was written last.
    pub(super) const fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }

    /// The same, for the kernel to write the outcome into.
    pub(super) const fn header_mut(&mut self) -> *mut libc::msghdr {
        &raw mut self.header
    }

    fn set_control(&mut self, len: usize) {
        self.header.msg_control = if len == 0 {
            std::ptr::null_mut()
        } else {
            self.control.0.as_mut_ptr().cast()
        };
        self.header.msg_controllen = len;
    }

    /// What the kernel wrote beside a received datagram: the sender, the local address, and whether the
    /// datagram was cut off. The sender is `None` for an address of no IP family.
    pub(super) fn received(&self) -> (Option<SocketAddr>, Option<IpAddr>, bool) {
        let len = self.header.msg_controllen.min(CONTROL_BYTES);
        (
            read_address(&self.address.0),
            read_packet_info(&self.control.0[..len]),
            self.header.msg_flags & libc::MSG_TRUNC != 0,
        )
    }
}

/// Writes `to` as the kernel wants it and gives the length of it.
fn write_address(bytes: &mut [u8; ADDRESS_BYTES], to: SocketAddr) -> libc::socklen_t {
    bytes.fill(0);
    bytes[2..4].copy_from_slice(&to.port().to_be_bytes());
    match to {
        SocketAddr::V4(to) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&to.ip().octets());
            size_of::<libc::sockaddr_in>() as u32
        }
        SocketAddr::V6(to) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&to.flowinfo().to_ne_bytes());
            bytes[8..24].copy_from_slice(&to.ip().octets());
            bytes[24..].copy_from_slice(&to.scope_id().to_ne_bytes());
            ADDRESS_BYTES as u32
        }
    }
}

/// The address that the kernel wrote, by its own family; bytes that it left alone read as none.
fn read_address(bytes: &[u8; ADDRESS_BYTES]) -> Option<SocketAddr> {
    let [f0, f1, p0, p1, rest @ ..] = *bytes;
    let port = u16::from_be_bytes([p0, p1]);
    match i32::from(u16::from_ne_bytes([f0, f1])) {
        libc::AF_INET => {
            let octets: [u8; 4] = rest[..4].try_into().ok()?;
            Some(SocketAddrV4::new(octets.into(), port).into())
        }
        libc::AF_INET6 => {
            let flow = u32::from_ne_bytes(rest[..4].try_into().ok()?);
            let octets: [u8; 16] = rest[4..20].try_into().ok()?;
            let scope = u32::from_ne_bytes(rest[20..].try_into().ok()?);
            Some(SocketAddrV6::new(octets.into(), port, flow, scope).into())
        }
        _ => None,
    }
}

/// Writes the control message that sends from `source`, in the form that the family of `to` asks for, and
/// gives its length with padding. An IPv4 source towards an IPv6 (so IPv4-mapped) address is mapped too.
fn write_packet_info(control: &mut [u8], source: IpAddr, to: SocketAddr) -> usize {
    match (to, source) {
        (SocketAddr::V4(_), source) => {
            let address = match source.to_canonical() {
                IpAddr::V4(address) => address,
                // No IPv4 source can be made of it: the kernel picks one.
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            };
            // struct in_pktinfo: interface index, local address, header destination (unused in sends).
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&address.octets());
            write_control(control, libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
        }
        (SocketAddr::V6(_), source) => {
            let address = match source {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            // struct in6_pktinfo: address, interface index.
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

/// The local address among control messages; malformed ones end the search.
fn read_packet_info(mut control: &[u8]) -> Option<IpAddr> {
    while let Some((header, _)) = control.split_at_checked(CONTROL_HEADER) {
        let (size, kind) = header.split_at(size_of::<usize>());
        let len = usize::from_ne_bytes(size.try_into().ok()?);
        let level = i32::from_ne_bytes(kind[..4].try_into().ok()?);
        let kind = i32::from_ne_bytes(kind[4..].try_into().ok()?);
        let data = control.get(CONTROL_HEADER..len)?;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // The second field, the local address, differs from the third, the header's destination,
                // for broadcasts only; the answer must leave from the former.
                let octets: [u8; 4] = data.get(4..8)?.try_into().ok()?;
                return Some(Ipv4Addr::from(octets).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets: [u8; 16] = data.get(..16)?.try_into().ok()?;
                return Some(Ipv6Addr::from(octets).into());
            }
            _ => control = control.get(len.next_multiple_of(size_of::<usize>())..)?,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back() {
        for text in ["10.0.0.1:7117", "[fe80::1%3]:65535", "[::ffff:1.2.3.4]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut bytes = [0xAA; ADDRESS_BYTES];
            write_address(&mut bytes, address);
            assert_eq!(read_address(&bytes), Some(address));
        }
        assert_eq!(read_address(&[0; ADDRESS_BYTES]), None);
    }

    #[test]
    fn packet_info_reads_back_in_the_family_of_the_destination() {
        let v4: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let v6: SocketAddr = "[::ffff:10.0.0.1]:1".parse().unwrap();
        let source: IpAddr = "10.0.0.2".parse().unwrap();
        let mapped: IpAddr = "::ffff:10.0.0.2".parse().unwrap();
        for (to, source, expected) in [
            (v4, source, source),
            (v4, mapped, source),
            (v6, source, mapped),
            (v6, mapped, mapped),
        ] {
            let mut control = [0xAA; CONTROL_BYTES];
            let len = write_packet_info(&mut control, source, to);
            assert_eq!(read_packet_info(&control[..len]), Some(expected));
        }
    }

    #[test]
    fn other_control_messages_are_skipped_and_broken_ones_end_the_search() {
        let mut control = [0; CONTROL_BYTES];
        let first = write_control(&mut control, libc::SOL_SOCKET, 1, &[7; 3]);
        let to: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let second = write_packet_info(&mut control[first..], "10.0.0.2".parse().unwrap(), to);
        let all = &control[..first + second];
        assert_eq!(read_packet_info(all), Some("10.0.0.2".parse().unwrap()));
        for cut in 0..all.len() - 4 {
            assert_eq!(read_packet_info(&all[..cut]), None, "cut at {cut}");
        }
        control[..8].fill(0xFF);
        assert_eq!(read_packet_info(&control), None);
        assert_eq!(
            read_packet_info(&[0; 32]),
            None,
            "a length of zero must not loop"
        );
    }
}
