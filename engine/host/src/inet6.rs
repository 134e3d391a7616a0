//! The IPv6 addresses of this network namespace, as `/proc/net/if_inet6` lists them.

use std::net::Ipv6Addr;

use super::files::Files;

/// `IFA_F_DADFAILED` and `IFA_F_TENTATIVE` of `linux/if_addr.h`: another machine of the link has the address, and it is
/// not known yet whether one has. Nothing is sent from such an address.
const DUPLICATE: u32 = 0x08;
const TENTATIVE: u32 = 0x40;

/// An IPv6 address of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    /// The address.
    pub(crate) ip: Ipv6Addr,
    /// The number of its device.
    pub(crate) index: u32,
    /// The name of its device.
    pub(crate) device: String,
    flags: u32,
}

impl Own {
    /// Another machine of the link has it, too.
    #[must_use]
    pub(crate) const fn is_duplicate(&self) -> bool {
        self.flags & DUPLICATE != 0
    }

    /// The link is still being asked whether another machine has it.
    #[must_use]
    pub(crate) const fn is_tentative(&self) -> bool {
        self.flags & TENTATIVE != 0 && !self.is_duplicate()
    }
}

/// All of them; none where there is no IPv6.
#[must_use]
pub(crate) fn addresses(files: &Files) -> Vec<Own> {
    let text = files.text("/proc/net/if_inet6").unwrap_or_default();
    text.lines().filter_map(line).collect()
}

/// Address, device's number, length of the prefix, scope, flags (all in hexadecimal), and the device's name.
fn line(text: &str) -> Option<Own> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [ip, index, _, _, flags, device] = words[..] else {
        return None;
    };
    Some(Own {
        ip: Ipv6Addr::from_bits(u128::from_str_radix(ip, 16).ok()?),
        index: u32::from_str_radix(index, 16).ok()?,
        device: device.to_owned(),
        flags: u32::from_str_radix(flags, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::fixture::Fixture;

    #[test]
    fn addresses_are_read_with_their_devices_and_states() {
        let fixture = Fixture::new(&[(
            "/proc/net/if_inet6",
            "00000000000000000000000000000001 01 80 10 80       lo\n\
             fe80000000000000000000fffe000001 0c 40 20 c0     eth0\n\
             fd000000000000000000000000000005 0c 40 00 88     eth0\nodd\n",
        )]);
        let all = addresses(&fixture.files());
        let shown = |own: &Own| format!("{} {} {}", own.ip, own.index, own.device);
        let shown: Vec<String> = all.iter().map(shown).collect();
        assert_eq!(shown, ["::1 1 lo", "fe80::ff:fe00:1 12 eth0", "fd00::5 12 eth0"]);
        let states = |own: &Own| (own.is_tentative(), own.is_duplicate());
        let states: Vec<_> = all.iter().map(states).collect();
        assert_eq!(states, [(false, false), (true, false), (false, true)]);
        assert!(addresses(&Fixture::new(&[]).files()).is_empty());
    }
}
