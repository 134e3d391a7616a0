//! Whether a bulk result is the link's doing: the payload that a link of the speed its driver
//! states can carry.

use crate::number::real;
use crate::result::{Bandwidth, Device, Environments, LinkUse, Params};

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

/// How the larger direction of a bulk step (links are full duplex) stands to the ceiling of the
/// slower of both ends' devices. None where no device states the speed of a wire, or where more was
/// carried than such a wire can: then what is stated is not what is there.
///
/// Acknowledgements are not reckoned in: they go the other way.
pub fn link_use(
    bandwidth: &Bandwidth,
    params: &Params,
    environment: &Environments,
) -> Option<LinkUse> {
    let flows = || [&bandwidth.up, &bandwidth.down].into_iter().flatten();
    let rate = flows().filter_map(|flow| flow.bits_per_s).reduce(f64::max)?;
    let mss = flows().find_map(|flow| Some(flow.tcp.as_ref()?.mss_bytes));
    let server = environment.servers.first().and_then(|server| server.device.as_ref());
    let ends = [(environment.client.device.as_ref(), "client"), (server, "server")];
    let ceilings = ends.into_iter().filter_map(|(device, end)| {
        let device = device?;
        let speed = speed_bits_per_s(device)?;
        let ceiling = speed * payload_share(params, mss, device.mtu_bytes?.into())?;
        Some((format!("{} ({end})", device.name), speed, ceiling))
    });
    let (device, speed_bits_per_s, ceiling_bits_per_s) =
        ceilings.min_by(|one, other| one.2.total_cmp(&other.2))?;
    let share = rate / ceiling_bits_per_s;
    let bound = share >= BOUND;
    let used = LinkUse { device, speed_bits_per_s, ceiling_bits_per_s, share, bound };
    (share <= BEYOND).then_some(used)
}

/// The speed of the wire behind a device, where there is one.
fn speed_bits_per_s(device: &Device) -> Option<f64> {
    let driver = device.driver.as_deref()?;
    let speed = device.speed_mbit_per_s.filter(|speed| *speed > 0)?;
    (!VIRTUAL.contains(&driver)).then_some(real(speed) * 1e6)
}

/// The share of what goes over the wire that is payload: of datagrams, or of full segments, as
/// large as a kernel says or else as the MTU allows. None where the MTU leaves no room for any.
fn payload_share(params: &Params, mss_bytes: Option<u32>, mtu: u64) -> Option<f64> {
    let ip_header = if params.is_ipv6() { IPV6_HEADER } else { IPV4_HEADER };
    let on_wire = |packet: u64| packet.max(FRAME_PAYLOAD_MIN) + FRAME_OVERHEAD;
    let (payload, wire) = if params.proto != "udp" {
        let room = mtu.checked_sub(ip_header + TCP_HEADER)?;
        let payload = mss_bytes.map_or(room, |mss| room.min(mss.into()));
        (payload, on_wire(payload + TCP_HEADER + ip_header))
    } else {
        let packet = params.size_bytes + UDP_HEADER;
        let wire = if packet + ip_header <= mtu {
            on_wire(packet + ip_header)
        } else {
            let of_fragment = if params.is_ipv6() { IPV6_FRAGMENT_HEADER } else { 0 };
            let header = ip_header + of_fragment;
            // All fragments but the last carry a multiple of eight bytes (RFC 791, RFC 8200).
            let room = mtu.checked_sub(header)? / 8 * 8;
            let last = packet.checked_rem(room)?;
            let whole = packet / room * on_wire(room + header);
            whole + if last > 0 { on_wire(last + header) } else { 0 }
        };
        (params.size_bytes, wire)
    };
    (payload > 0).then(|| real(payload) / real(wire))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Environment, Flow, TcpFigures};

    fn device(driver: &str, speed_mbit_per_s: u64, mtu: u32) -> Device {
        Device {
            name: "eth0".into(),
            mtu_bytes: Some(mtu),
            speed_mbit_per_s: Some(speed_mbit_per_s),
            driver: Some(driver.into()),
            ..Device::default()
        }
    }

    /// Of datagrams of that size, or of a stream.
    fn params(datagram_bytes: Option<u64>, is_ipv6: bool) -> Params {
        Params {
            proto: if datagram_bytes.is_some() { "udp" } else { "tcp" }.to_owned(),
            size_bytes: datagram_bytes.unwrap_or(1 << 20),
            address: is_ipv6.then(|| "[fd00::1]:7117".to_owned()),
            ..Params::default()
        }
    }

    /// Of the rates up and down, and the devices of client and server.
    fn used(
        rates: [Option<f64>; 2],
        mss_bytes: Option<u32>,
        params: &Params,
        devices: [Option<&Device>; 2],
    ) -> Option<LinkUse> {
        let tcp = mss_bytes.map(|mss_bytes| TcpFigures { mss_bytes, ..TcpFigures::default() });
        let [up, down] =
            rates.map(|bits_per_s| Some(Flow { bits_per_s, tcp: tcp.clone(), ..Flow::default() }));
        let bandwidth = Bandwidth { up, down, ..Bandwidth::default() };
        let [client, server] =
            devices.map(|device| Environment { device: device.cloned(), ..Environment::default() });
        link_use(&bandwidth, params, &Environments { client, servers: vec![server] })
    }

    #[test]
    fn ceilings_are_those_of_the_textbook() {
        for (datagram, is_ipv6, mss, mtu, gbit) in [
            // 1448 of 1538 bytes, 1428 of 1538, 8948 of 9038.
            (None, false, None, 1_500, 9.415),
            (None, true, None, 1_500, 9.285),
            (None, false, None, 9_000, 9.9),
            // 536 of 626: a smaller segment than the MTU allows; a larger one is cut by the
            // offload.
            (None, false, Some(536), 1_500, 8.562),
            (None, false, Some(32_741), 1_500, 9.415),
            // 1472 of 1538; 1400 of 1466 and, over IPv6, 1486.
            (Some(1_472), false, None, 1_500, 9.571),
            (Some(1_400), false, None, 1_500, 9.55),
            (Some(1_400), true, None, 1_500, 9.421),
            // Padded: 16 of 46 + 38.
            (Some(16), false, None, 1_500, 1.905),
            // 1473 + 8 in fragments of 1480 and 1 byte: 1538 and 46 + 38.
            (Some(1_473), false, None, 1_500, 9.081),
            // 2888 + 8 over IPv6 in two fragments of 1448: 2 × (1448 + 48 + 38).
            (Some(2_888), true, None, 1_500, 9.413),
        ] {
            let (params, device) = (params(datagram, is_ipv6), device("ice", 10_000, mtu));
            let used = used([Some(1e9), None], mss, &params, [Some(&device), None]).unwrap();
            let ceiling = (used.ceiling_bits_per_s / 1e6).round() / 1e3;
            assert_eq!(ceiling, gbit, "{datagram:?} {is_ipv6} {mss:?} {mtu}");
        }
    }

    #[test]
    fn a_link_is_bound_near_its_ceiling_only() {
        let ceiling = 10e9 * 1_448.0 / 1_538.0;
        let eth = device("ice", 10_000, 1_500);
        let (free, bound) = (Some(false), Some(true));
        let near = [(0.5, free), (0.969, free), (0.971, bound), (1.0, bound), (1.029, bound)];
        for (share, expected) in near.into_iter().chain([(1.031, None), (4.0, None)]) {
            let rates = [Some(ceiling * share), None];
            let used = used(rates, None, &params(None, false), [Some(&eth), None]);
            assert_eq!(used.as_ref().map(|u| u.bound), expected, "{share}");
            if let Some(used) = used {
                assert!((used.share - share).abs() < 1e-9);
                assert_eq!((used.device.as_str(), used.speed_bits_per_s), ("eth0 (client)", 10e9));
            }
        }
        // The slower end and the larger direction count.
        let fast = device("mlx5_core", 25_000, 1_500);
        let both = [Some(2e9), Some(9.4e9)];
        let stream = params(None, false);
        let slower = used(both, None, &stream, [Some(&fast), Some(&eth)]).unwrap();
        assert_eq!(slower.device, "eth0 (server)");
        assert!(slower.bound && (0.99..1.0).contains(&slower.share), "{slower:?}");
        // The one device that states a speed is the one to go by.
        assert!(used(both, None, &stream, [None, Some(&eth)]).is_some());
    }

    #[test]
    fn what_has_no_wire_has_no_ceiling() {
        let none = |device: &Device| {
            let devices = [Some(device), Some(device)];
            let found = used([Some(1e9), None], None, &params(None, false), devices);
            assert_eq!(found, None, "{device:?}");
        };
        VIRTUAL.iter().for_each(|driver| none(&device(driver, 10_000, 1_500)));
        let wired = device("ice", 10_000, 1_500);
        // veth, bridges and tunnels have no driver in sysfs at all.
        none(&Device { driver: None, ..wired.clone() });
        none(&Device { speed_mbit_per_s: Some(0), ..wired.clone() });
        none(&Device { speed_mbit_per_s: None, ..wired });
        assert_eq!(used([Some(1e9), None], None, &params(None, false), [None, None]), None);
    }

    #[test]
    fn an_absurd_mtu_is_no_division_by_zero() {
        for mtu in [0, 20, 27, 28, 48, 52, 72] {
            for datagram in [None, Some(1_400)] {
                for is_ipv6 in [false, true] {
                    let device = device("ice", 10_000, mtu);
                    let params = params(datagram, is_ipv6);
                    let used = used([Some(1.0), None], None, &params, [Some(&device), None]);
                    assert!(used.is_none_or(|used| used.ceiling_bits_per_s > 0.0));
                }
            }
        }
    }
}
