//! Whether a bulk result is the link's doing: the payload that a link of the speed its driver
//! states can carry.

use crate::number::real;
use crate::result::{Device, LinkUse};

/// Preamble and start of frame (8), Ethernet header (14) and its check sequence (4), and the gap to
/// the next frame (12), bytes: what each frame takes beside the IP packet in it (IEEE 802.3,
/// clauses 3.1.1 and 4.4.2).
const FRAME_OVERHEAD: u64 = 8 + 14 + 4 + 12;
/// The smallest payload of a frame, bytes: shorter packets are padded.
const FRAME_PAYLOAD_MIN: u64 = 46;
const IPV4_HEADER: u64 = 20;
const IPV6_HEADER: u64 = 40;
/// Of every fragment over IPv6 (RFC 8200, section 4.5), bytes.
const IPV6_FRAGMENT_HEADER: u64 = 8;
/// With the timestamps that Linux sends (RFC 7323), bytes.
const TCP_HEADER: u64 = 20 + 12;
const UDP_HEADER: u64 = 8;

/// From this share of its ceiling a link is the bottleneck …
const BOUND: f64 = 0.97;
/// … and beyond this one the stated speed is not the real one.
const BEYOND: f64 = 1.03;

/// Drivers whose devices have no wire: what speed they state is made up (veth says 10 Gbit/s).
const VIRTUAL: [&str; 15] = [
    "bridge", "dummy", "geneve", "gre", "ipip", "ipvlan", "lo", "loopback", "macvlan", "macvtap",
    "sit", "tap", "tun", "veth", "vxlan",
];

/// What goes into the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Full segments of a stream.
    Tcp {
        /// Payload of a full segment, bytes, where a kernel told; else it is reckoned from the MTU.
        mss_bytes: Option<u32>,
    },
    /// Datagrams.
    Udp {
        /// Payload of each, tare's header in it, bytes.
        size_bytes: u32,
    },
}

/// What a bulk step carried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Carried {
    /// Payload received from the client to the server, bits per second.
    pub up_bits_per_s: Option<f64>,
    /// Payload received from the server to the client, bits per second.
    pub down_bits_per_s: Option<f64>,
    /// In which pieces.
    pub framing: Framing,
    /// Over IPv6.
    pub is_ipv6: bool,
}

/// How the larger direction (links are full duplex) stands to the ceiling of the slower of both
/// ends' devices. None where no device states the speed of a wire, or where more was carried than
/// such a wire can: then what is stated is not what is there.
///
/// Acknowledgements are not reckoned in: they go the other way.
pub fn link_use(
    carried: &Carried,
    client: Option<&Device>,
    server: Option<&Device>,
) -> Option<LinkUse> {
    let rate = carried.up_bits_per_s.into_iter().chain(carried.down_bits_per_s).reduce(f64::max)?;
    let ends = [(client, "client"), (server, "server")];
    let ceilings = ends.into_iter().filter_map(|(device, end)| {
        let device = device?;
        let speed = speed_bits_per_s(device)?;
        let ceiling = speed * payload_share(carried, u64::from(device.mtu_bytes?))?;
        Some((format!("{} ({end})", device.name), speed, ceiling))
    });
    let (device, speed_bits_per_s, ceiling_bits_per_s) =
        ceilings.min_by(|one, other| one.2.total_cmp(&other.2))?;
    let share = rate / ceiling_bits_per_s;
    (share <= BEYOND).then_some(LinkUse {
        device,
        speed_bits_per_s,
        ceiling_bits_per_s,
        share,
        bound: share >= BOUND,
    })
}

/// The speed of the wire behind a device, where there is one.
fn speed_bits_per_s(device: &Device) -> Option<f64> {
    let driver = device.driver.as_deref()?;
    let speed = device.speed_mbit_per_s.filter(|speed| *speed > 0)?;
    (!VIRTUAL.contains(&driver)).then_some(real(speed) * 1e6)
}

/// The share of what goes over the wire that is payload. None where the MTU leaves no room for any.
fn payload_share(carried: &Carried, mtu: u64) -> Option<f64> {
    let ip_header = if carried.is_ipv6 { IPV6_HEADER } else { IPV4_HEADER };
    let on_wire = |packet: u64| packet.max(FRAME_PAYLOAD_MIN) + FRAME_OVERHEAD;
    let (payload, wire) = match carried.framing {
        Framing::Tcp { mss_bytes } => {
            let room = mtu.checked_sub(ip_header + TCP_HEADER)?;
            let payload = mss_bytes.map_or(room, |mss| room.min(u64::from(mss)));
            (payload, on_wire(payload + TCP_HEADER + ip_header))
        }
        Framing::Udp { size_bytes } => {
            let payload = u64::from(size_bytes);
            let packet = payload + UDP_HEADER;
            let wire = if packet + ip_header <= mtu {
                on_wire(packet + ip_header)
            } else {
                let header = match carried.is_ipv6 {
                    true => ip_header + IPV6_FRAGMENT_HEADER,
                    false => ip_header,
                };
                // All fragments but the last carry a multiple of eight bytes (RFC 791, RFC 8200).
                let room = mtu.checked_sub(header)? / 8 * 8;
                let last = packet.checked_rem(room)?;
                let whole = packet / room * on_wire(room + header);
                whole + if last > 0 { on_wire(last + header) } else { 0 }
            };
            (payload, wire)
        }
    };
    (payload > 0).then(|| real(payload) / real(wire))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Framing = Framing::Tcp { mss_bytes: None };

    fn device(driver: &str, speed_mbit_per_s: u64, mtu: u32) -> Device {
        Device {
            name: "eth0".into(),
            mtu_bytes: Some(mtu),
            speed_mbit_per_s: Some(speed_mbit_per_s),
            driver: Some(driver.into()),
            ..Device::default()
        }
    }

    fn carried(up_bits_per_s: f64, framing: Framing) -> Carried {
        let up_bits_per_s = Some(up_bits_per_s);
        Carried { up_bits_per_s, down_bits_per_s: None, framing, is_ipv6: false }
    }

    #[test]
    fn ceilings_are_those_of_the_textbook() {
        let v6 = |framing| Carried { is_ipv6: true, ..carried(1e9, framing) };
        let udp = |size_bytes| Framing::Udp { size_bytes };
        let mss = |mss| Framing::Tcp { mss_bytes: Some(mss) };
        for (carried, mtu, gbit) in [
            // 1448 of 1538 bytes, 1428 of 1538, 8948 of 9038.
            (carried(1e9, TCP), 1_500, 9.415),
            (v6(TCP), 1_500, 9.285),
            (carried(1e9, TCP), 9_000, 9.9),
            // 536 of 626: a smaller segment than the MTU allows; a larger one is cut by the
            // offload.
            (carried(1e9, mss(536)), 1_500, 8.562),
            (carried(1e9, mss(32_741)), 1_500, 9.415),
            // 1472 of 1538; 1400 of 1466 and, over IPv6, 1486.
            (carried(1e9, udp(1_472)), 1_500, 9.571),
            (carried(1e9, udp(1_400)), 1_500, 9.55),
            (v6(udp(1_400)), 1_500, 9.421),
            // Padded: 16 of 46 + 38.
            (carried(1e9, udp(16)), 1_500, 1.905),
            // 1473 + 8 in fragments of 1480 and 1 byte: 1538 and 46 + 38.
            (carried(1e9, udp(1_473)), 1_500, 9.081),
            // 2888 + 8 over IPv6 in two fragments of 1448: 2 × (1448 + 48 + 38).
            (v6(udp(2_888)), 1_500, 9.413),
        ] {
            let used = link_use(&carried, Some(&device("ice", 10_000, mtu)), None).unwrap();
            assert_eq!((used.ceiling_bits_per_s / 1e6).round() / 1e3, gbit, "{carried:?}");
        }
    }

    #[test]
    fn a_link_is_bound_near_its_ceiling_only() {
        let ceiling = 10e9 * 1_448.0 / 1_538.0;
        let eth = device("ice", 10_000, 1_500);
        let (free, bound) = (Some(false), Some(true));
        let near = [(0.5, free), (0.969, free), (0.971, bound), (1.0, bound), (1.029, bound)];
        for (share, expected) in near.into_iter().chain([(1.031, None), (4.0, None)]) {
            let used = link_use(&carried(ceiling * share, TCP), Some(&eth), None);
            assert_eq!(used.as_ref().map(|u| u.bound), expected, "{share}");
            if let Some(used) = used {
                assert!((used.share - share).abs() < 1e-9);
                assert_eq!((used.device.as_str(), used.speed_bits_per_s), ("eth0 (client)", 10e9));
            }
        }
    }

    #[test]
    fn the_slower_end_and_the_larger_direction_count() {
        let (fast, slow) = (device("mlx5_core", 25_000, 1_500), device("ice", 10_000, 1_500));
        let both =
            Carried { up_bits_per_s: Some(2e9), down_bits_per_s: Some(9.4e9), ..carried(0.0, TCP) };
        let used = link_use(&both, Some(&fast), Some(&slow)).unwrap();
        assert_eq!(used.device, "eth0 (server)");
        assert!(used.bound && (0.99..1.0).contains(&used.share), "{used:?}");
        // The one device that states a speed is the one to go by.
        assert!(link_use(&both, None, Some(&slow)).is_some());
    }

    #[test]
    fn what_has_no_wire_has_no_ceiling() {
        let load = carried(1e9, TCP);
        let none = |device: &Device| {
            let used = link_use(&load, Some(device), Some(device));
            assert_eq!(used, None, "{device:?}");
        };
        VIRTUAL.iter().for_each(|driver| none(&device(driver, 10_000, 1_500)));
        let wired = device("ice", 10_000, 1_500);
        // veth, bridges and tunnels have no driver in sysfs at all.
        none(&Device { driver: None, ..wired.clone() });
        none(&Device { speed_mbit_per_s: Some(0), ..wired.clone() });
        none(&Device { speed_mbit_per_s: None, ..wired });
        assert_eq!(link_use(&load, None, None), None);
    }

    #[test]
    fn an_absurd_mtu_is_no_division_by_zero() {
        for mtu in [0, 20, 27, 28, 48, 52, 72] {
            for framing in [TCP, Framing::Udp { size_bytes: 1_400 }] {
                for is_ipv6 in [false, true] {
                    let load = Carried { is_ipv6, ..carried(1.0, framing) };
                    let used = link_use(&load, Some(&device("ice", 10_000, mtu)), None);
                    assert!(used.is_none_or(|used| used.ceiling_bits_per_s > 0.0));
                }
            }
        }
    }
}
