//! What a network device takes off the CPU's hands, by `SIOCETHTOOL`, since sysfs does not tell.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd as _;

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Names as results have them, with the `ETHTOOL_G…` command of `linux/ethtool.h` that asks for each.
const OFFLOADS: [(&str, u32); 6] = [
    ("tso", 0x1e),
    ("gso", 0x23),
    ("gro", 0x2b),
    ("rx-checksum", 0x14),
    ("tx-checksum", 0x16),
    ("sg", 0x18),
];

/// The offloads of `device` that are on, of `tso`, `gso`, `gro`, `rx-checksum`, `tx-checksum`, `sg`, in the calling
/// thread's network namespace. Empty where the device is not there or does not tell.
#[must_use]
pub fn offloads(device: &str) -> Vec<String> {
    // Any socket will do: it only says which network namespace is meant.
    let Ok(socket) = std::net::UdpSocket::bind("127.0.0.1:0") else {
        return Vec::new();
    };
    OFFLOADS
        .iter()
        .filter(|(_, command)| ethtool_get(&socket, device, *command) == Some(true))
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

/// Asks for one on-or-off setting.
fn ethtool_get(socket: &std::net::UdpSocket, device: &str, command: u32) -> Option<bool> {
    // With its terminating zero the name must fit.
    if device.len() >= libc::IFNAMSIZ {
        return None;
    }
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut value = EthtoolValue { command, data: 0 };
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    // SAFETY: the descriptor is open for as long as `socket` is borrowed. SIOCETHTOOL reads one `ifreq`,
    // whose name is terminated (checked above), and through `ifru_data`, for each of the get commands in
    // `OFFLOADS`, reads and writes one `struct ethtool_value`; `request` and `value` are both such objects,
    // live on this stack and borrowed by nobody else until the call is over.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCETHTOOL as libc::Ioctl,
            &raw mut request,
        )
    };
    (result == 0).then_some(value.data != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_scatter_gather_as_ever() {
        let known = offloads("lo");
        if known.is_empty() {
            eprintln!("skipped: no ethtool ioctl here");
            return;
        }
        assert!(known.iter().any(|name| name == "sg"), "{known:?}");
        assert!(known.iter().any(|name| name == "tx-checksum"), "{known:?}");
    }

    #[test]
    fn what_is_no_device_has_none() {
        assert_eq!(offloads("tare-nothing"), [""; 0]);
        assert_eq!(offloads("a-name-longer-than-any-device"), [""; 0]);
        assert_eq!(offloads(""), [""; 0]);
    }
}
