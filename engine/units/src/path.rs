//! What a path makes of datagrams of a size.

/// Headers of IPv4, IPv6 and UDP without options, and IPv6's fragment header, bytes (RFC 791, RFC
/// 8200, RFC 768).
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
const UDP_HEADER: u32 = 8;
const FRAGMENT_HEADER: u32 = 8;

/// The path's maximum transmission unit, as the kernel of the sending end knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMtu {
    /// The longest packet that it carries, bytes (`IP_MTU`, `IPV6_MTU`).
    pub bytes: u32,
    /// Packets are IPv6's.
    pub is_ipv6: bool,
}

impl PathMtu {
    const fn ip_header(self) -> u32 {
        if self.is_ipv6 { IPV6_HEADER } else { IPV4_HEADER }
    }

    /// The largest payload of a datagram that leaves in one packet, bytes.
    pub const fn whole(self) -> u32 {
        self.bytes.saturating_sub(self.ip_header() + UDP_HEADER)
    }

    /// How many IP packets a datagram with a payload of `size_bytes` leaves in: one where it fits,
    /// else its fragments. All of them but the last carry a multiple of eight bytes (RFC 791,
    /// section 3.2; RFC 8200, section 4.5); over IPv6 Linux holds the last one to the same length
    /// as the others (`__ip6_append_data`).
    pub const fn fragments(self, size_bytes: u32) -> u32 {
        if size_bytes <= self.whole() {
            return 1;
        }
        let extra = if self.is_ipv6 { FRAGMENT_HEADER } else { 0 };
        let most = self.bytes.saturating_sub(self.ip_header() + extra);
        let each = if most < 8 { 8 } else { most & !7 };
        let last = if self.is_ipv6 { each } else { most };
        let all = size_bytes.saturating_add(UDP_HEADER);
        all.saturating_sub(last).div_ceil(each) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_leaves_whole_and_one_byte_more_in_two() {
        for (bytes, is_ipv6, whole) in [
            (1500, false, 1472),
            (1500, true, 1452),
            (1400, false, 1372),
            (1280, true, 1232),
            (9000, false, 8972),
            (65_536, false, 65_508),
        ] {
            let path = PathMtu { bytes, is_ipv6 };
            assert_eq!(path.whole(), whole);
            let fragments = [1, whole, whole + 1].map(|size| path.fragments(size));
            assert_eq!(fragments, [1, 1, 2], "{path:?}");
        }
    }

    #[test]
    fn fragments_carry_multiples_of_eight_but_for_the_last() {
        for (bytes, is_ipv6, size, fragments) in [
            // 20,488 bytes with UDP's header: 13 × 1480 = 19,240 and 1,248.
            (1500, false, 20_480, 14),
            // 1448 each: 14 × 1448 = 20,272 and 216.
            (1500, true, 20_480, 15),
            (1500, true, 2 * 1448 - 8, 2),
            (1500, true, 2 * 1448 - 7, 3),
            // 1,479 = 1,472 + 7: two full ones of 1,472 leave 1,479 for the last.
            (1499, false, 2 * 1472 + 1479 - 8, 3),
            (1499, false, 2 * 1472 + 1479 - 7, 4),
            // No such path, and no panic.
            (0, true, 1, 2),
            (65_536, true, 65_507, 2),
            (65_536, false, 65_507, 1),
        ] {
            let path = PathMtu { bytes, is_ipv6 };
            assert_eq!(path.fragments(size), fragments, "{path:?} {size}");
        }
    }
}
