//! What a network device takes off the CPU's hands, and how it batches what it hands over, by
//! `SIOCETHTOOL`, since sysfs does not tell.

use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

/// Names as results have them, with the `ETHTOOL_G…` command of `linux/ethtool.h` that asks for
/// each.
const OFFLOADS: [(&str, u32); 6] = [
    ("tso", 0x1e),
    ("gso", 0x23),
    ("gro", 0x2b),
    ("rx-checksum", 0x14),
    ("tx-checksum", 0x16),
    ("sg", 0x18),
];
/// `ETHTOOL_GFLAGS`: a set of flags, of which `ETH_FLAG_LRO` is one.
const GET_FLAGS: u32 = 0x25;
const FLAG_LRO: u32 = 1 << 15;
/// `ETHTOOL_GCOALESCE`: fills a `struct ethtool_coalesce`.
const GET_COALESCE: u32 = 0x0e;
/// `ETHTOOL_GRINGPARAM`: fills a `struct ethtool_ringparam`.
const GET_RINGS: u32 = 0x10;
/// Words of 32 bits in `struct ethtool_coalesce`, the largest structure that is asked for. The
/// first of each is the command.
const WORDS: usize = 23;

/// How long a device holds back interrupts in order to raise one for several packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coalescing {
    /// After a packet came in, microseconds.
    pub rx_us: u32,
    /// Or so many packets, whichever is first; zero where they are not counted.
    pub rx_frames: u32,
    /// After a packet was sent, microseconds.
    pub tx_us: u32,
    /// The driver changes the receiving side with the traffic.
    pub adaptive_rx: bool,
    /// The sending side.
    pub adaptive_tx: bool,
}

/// How many packets the rings between driver and device hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rings {
    /// Received ones.
    pub rx: u32,
    /// The most that `rx` can be set to.
    pub rx_max: u32,
    /// Those to be sent.
    pub tx: u32,
    /// The most that `tx` can be set to.
    pub tx_max: u32,
}

/// The offloads of `device` that are on, of `tso`, `gso`, `gro`, `rx-checksum`, `tx-checksum`,
/// `sg`, in the calling thread's network namespace. Empty where the device is not there or does not
/// tell.
pub fn offloads(device: &str) -> Vec<String> {
    let on = |command| ethtool(device, command).is_some_and(|words| words[1] != 0);
    OFFLOADS
        .iter()
        .filter(|(_, command)| on(*command))
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

/// Whether `device` merges packets before the kernel sees them (LRO); absent where it does not
/// tell.
pub fn large_receive_offload(device: &str) -> Option<bool> {
    ethtool(device, GET_FLAGS).map(|words| words[1] & FLAG_LRO != 0)
}

/// How `device` holds back its interrupts; absent where there is nothing to hold back, or its
/// driver does not tell.
pub fn coalescing(device: &str) -> Option<Coalescing> {
    let words = ethtool(device, GET_COALESCE)?;
    // In the order of the structure: command, then four of the receiving side, four of the sending
    // one, the interval of the statistics, the two that adapt, and the settings for low and high
    // rates.
    Some(Coalescing {
        rx_us: words[1],
        rx_frames: words[2],
        tx_us: words[5],
        adaptive_rx: words[10] != 0,
        adaptive_tx: words[11] != 0,
    })
}

/// The rings of `device`; absent where it has none, or its driver does not tell.
pub fn rings(device: &str) -> Option<Rings> {
    // Command, the four largest sizes (rx, mini, jumbo, tx), the four that are set.
    let words = ethtool(device, GET_RINGS)?;
    let rings = Rings { rx: words[5], rx_max: words[1], tx: words[8], tx_max: words[4] };
    // Some virtual devices answer with nothing but zeros.
    (rings.rx_max > 0).then_some(rings)
}

/// Asks for the structure of a command of this module.
fn ethtool(device: &str, command: u32) -> Option<[u32; WORDS]> {
    // With its terminating zero the name must fit.
    if device.len() >= libc::IFNAMSIZ {
        return None;
    }
    // Any socket will do: it only says which network namespace is meant.
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut words = [0u32; WORDS];
    words[0] = command;
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut words).cast() },
    };
    // SAFETY: the descriptor is open for as long as `socket` lives. SIOCETHTOOL reads one `ifreq`,
    // whose name is terminated (checked above), and through `ifru_data` reads and writes the
    // structure of the command: for each of the get commands of this module, the only ones that are
    // passed here, that is `WORDS` words or fewer. `request` and `words` live on this stack,
    // borrowed by nobody else until the call is over.
    let result = unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut request)
    };
    (result == 0).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_scatter_gather_and_neither_rings_nor_interrupts() {
        assert_eq!((rings("lo"), coalescing("lo")), (None, None));
        assert_ne!(large_receive_offload("lo"), Some(true));
        let known = offloads("lo");
        if known.is_empty() {
            crate::conformance::left_out("no ethtool ioctl here");
            return;
        }
        for name in ["sg", "tx-checksum"] {
            assert!(known.iter().any(|known| known == name), "{known:?}");
        }
    }

    #[test]
    fn what_is_no_device_has_none() {
        for name in ["tare-nothing", "a-name-longer-than-any-device", ""] {
            assert_eq!(offloads(name), [""; 0]);
            assert_eq!((coalescing(name), rings(name)), (None, None));
            assert_eq!(large_receive_offload(name), None);
        }
    }
}
