//! What runs out: descriptors, memory that may be locked, ports, the table of connections.

use super::kernel::count;
use super::{About, Scene};
use crate::environment::CONNTRACK_FULL_PERCENT;
use tare_driver::sys::rlimit;
use tare_stats::result::{Fill, Finding, Level};
use tare_units::limits::DEFAULT_PORT;

/// With fewer descriptors than this not even the usual loads of 100 connections fit beside what a process has open.
const DESCRIPTORS_LEAST: u64 = 256;
/// Enough for one connection per ephemeral port.
const DESCRIPTORS_AMPLE: u64 = 65_536;
/// Rings and registered buffers of a few workers.
const MEMLOCK_AMPLE_BYTES: u64 = 8 << 20;
/// Connections per address and port, at once or (with TIME_WAIT) within a minute.
const PORTS_LEAST: u64 = 1_000;
/// What a minute of 500 connections a second leaves in TIME_WAIT: the default range holds it.
const PORTS_AMPLE: u64 = 28_000;

/// Resource limits of this process. Absent where the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) descriptors_soft: Option<u64>,
    pub(super) descriptors_hard: Option<u64>,
    pub(super) memlock_bytes: Option<u64>,
}

impl Limits {
    pub(super) fn of_self() -> Self {
        Self {
            descriptors_soft: rlimit::descriptors_limit(),
            descriptors_hard: rlimit::descriptors_limit_hard(),
            memlock_bytes: rlimit::memlock_limit_bytes(),
        }
    }
}

/// Open files, and so connections.
pub(super) fn descriptors(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "descriptors",
        "each connection takes one: beyond the limit they cannot be opened, and the load asked for is not made",
        "ulimit -Sn; ulimit -Hn",
    );
    let Limits { descriptors_soft: Some(soft), descriptors_hard: Some(hard), .. } = scene.limits
    else {
        return about.unknown("the kernel does not tell RLIMIT_NOFILE");
    };
    let level = match hard {
        ..DESCRIPTORS_LEAST => Level::Spoils,
        DESCRIPTORS_LEAST..DESCRIPTORS_AMPLE => Level::Note,
        DESCRIPTORS_AMPLE.. => Level::Ok,
    };
    let what = if soft == hard {
        format!("{hard} may be open")
    } else {
        format!("{soft} may be open; tare raises that by itself, up to {hard}")
    };
    about
        .finds(level, what)
        .figure(count(hard), "descriptors")
        .mend(format!(
            "ulimit -n {DESCRIPTORS_AMPLE}  # as root; for a container docker run --ulimit nofile={DESCRIPTORS_AMPLE}, in a \
             unit LimitNOFILE={DESCRIPTORS_AMPLE}"
        ))
        .undo(format!("ulimit -n {hard}"))
}

/// Memory that may be locked.
pub(super) fn memlock(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "memlock",
        "io_uring's registered buffers are locked memory: where it is short, workers get no ring, or copy once more",
        "ulimit -l",
    );
    let Some(bytes) = scene.limits.memlock_bytes else {
        return about.unknown("the kernel does not tell RLIMIT_MEMLOCK");
    };
    if bytes == u64::MAX {
        return about.finds(Level::Ok, "unlimited");
    }
    let level = if bytes < MEMLOCK_AMPLE_BYTES { Level::Note } else { Level::Ok };
    about
        .finds(level, format!("{} KiB may be locked", bytes >> 10))
        .figure(count(bytes), "bytes")
        .mend("ulimit -l unlimited  # as root; for a container docker run --ulimit memlock=-1, in a unit LimitMEMLOCK=infinity")
        .undo(format!("ulimit -l {}", bytes >> 10))
}

/// Ports for outgoing connections, and how many are in use.
pub(super) fn ephemeral_ports(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "ephemeral-ports",
        "each connection to one address and port takes one, for 60 s after its end too: with none left connecting fails, and \
         with few it searches, some µs to ms",
        "sysctl net.ipv4.ip_local_port_range; ss -s",
    );
    let Some((first, last)) = scene.environment.ephemeral_ports else {
        return about.unknown("net.ipv4.ip_local_port_range does not show");
    };
    let ports = u64::from(last.saturating_sub(first)) + 1;
    let sockets = tcp_sockets(scene);
    let free = ports.saturating_sub(sockets.unwrap_or(0));
    let level = match free {
        ..PORTS_LEAST => Level::Spoils,
        PORTS_LEAST..PORTS_AMPLE => Level::Note,
        PORTS_AMPLE.. => Level::Ok,
    };
    let used = sockets.map_or_else(
        || "how many are in use does not show".to_owned(),
        |sockets| format!("{sockets} TCP sockets hold one at most each"),
    );
    about
        .finds(level, format!("{ports} ({first}-{last}); {used}"))
        .figure(count(free), "ports")
        .mend("sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"")
        .undo(format!("sysctl -w net.ipv4.ip_local_port_range=\"{first} {last}\""))
}

/// TCP sockets in use or in TIME_WAIT, by `/proc/net/sockstat`: `TCP: inuse 5 orphan 0 tw 3 alloc 9 mem 1`.
fn tcp_sockets(scene: &Scene<'_>) -> Option<u64> {
    let line = scene.files.value_of("/proc/net/sockstat", "TCP")?;
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let of = |name: &str| -> Option<u64> {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1)?.parse().ok()
    };
    Some(of("inuse")? + of("tw")?)
}

/// The table of tracked connections.
pub(super) fn conntrack(scene: &Scene<'_>) -> Finding {
    let about = About::new(
        "conntrack",
        "each packet is looked up, some tenths of a µs; once the table is full, new connections are dropped",
        "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
    );
    let Some(Fill { used, max }) = scene.environment.conntrack else {
        // The table's sysctls come with its module, so without them there is none; unless nothing shows at all.
        return if scene.files.exists("/proc/sys/net/core") {
            about.finds(Level::Ok, "connections are not tracked")
        } else {
            about.unknown("nothing tells whether connections are tracked")
        };
    };
    let percent = used.saturating_mul(100) / max.max(1);
    let level = if percent >= CONNTRACK_FULL_PERCENT { Level::Spoils } else { Level::Note };
    let what = format!("{used} of {max} entries are in use ({percent} %)");
    let finding = about.finds(level, what).figure(count(percent), "%");
    if level == Level::Spoils {
        let more = max.saturating_mul(2);
        return finding
            .mend(format!("sysctl -w net.netfilter.nf_conntrack_max={more}"))
            .undo(format!("sysctl -w net.netfilter.nf_conntrack_max={max}"));
    }
    // Both ways, since a connection's answers would be tracked otherwise.
    let untracked = |hook: &str| {
        let port = |side| format!("meta l4proto {{ tcp, udp }} th {side} {DEFAULT_PORT} notrack;");
        let (from, to) = (port("sport"), port("dport"));
        format!("chain {hook} {{ type filter hook {hook} priority raw; {from} {to} }};")
    };
    let (incoming, outgoing) = (untracked("prerouting"), untracked("output"));
    finding
        .mend(format!("nft 'table inet tare {{ {incoming} {outgoing} }}'"))
        .undo("nft delete table inet tare")
}

#[cfg(test)]
mod tests {
    use super::super::stage::Stage;
    use super::*;

    #[test]
    fn the_hard_limit_of_descriptors_counts() {
        let of = |soft, hard| {
            let mut stage = Stage::new(&[]).on(&[0]);
            stage.limits.descriptors_soft = soft;
            stage.limits.descriptors_hard = hard;
            descriptors(&stage.scene())
        };
        assert_eq!(of(Some(100), Some(255)).level, Level::Spoils);
        assert_eq!(of(Some(1_024), Some(4_096)).level, Level::Note);
        let fine = of(Some(1_024), Some(1 << 20));
        assert_eq!(fine.level, Level::Ok);
        assert!(fine.what.contains("raises that by itself"), "{fine:?}");
        assert_eq!(of(None, None).level, Level::Unknown);
    }

    #[test]
    fn little_locked_memory_is_noted() {
        let of = |bytes| {
            let mut stage = Stage::new(&[]).on(&[0]);
            stage.limits.memlock_bytes = bytes;
            memlock(&stage.scene())
        };
        let little = of(Some(65_536));
        assert_eq!((little.level, little.value), (Level::Note, Some(65_536.0)));
        assert_eq!(little.undo.as_deref(), Some("ulimit -l 64"));
        assert_eq!(of(Some(8 << 20)).level, Level::Ok);
        assert_eq!(of(Some(u64::MAX)).value, None);
        assert_eq!(of(None).level, Level::Unknown);
    }

    #[test]
    fn ports_in_use_are_not_free() {
        let of = |range: &str, sockstat: &str| {
            let stage = Stage::new(&[
                ("/proc/sys/net/ipv4/ip_local_port_range", range),
                ("/proc/net/sockstat", sockstat),
            ]);
            ephemeral_ports(&stage.on(&[0]).scene())
        };
        let idle = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 3 alloc 9 mem 1\n";
        let fine = of("32768\t60999\n", idle);
        assert_eq!((fine.level, fine.value), (Level::Ok, Some(28_224.0)));
        let busy = "TCP: inuse 200 orphan 0 tw 27500 alloc 9 mem 1\n";
        assert_eq!(of("32768\t60999\n", busy).level, Level::Spoils);
        assert_eq!(of("32768\t42767\n", idle).level, Level::Note);
        assert_eq!(of("", idle).level, Level::Unknown);
        assert_eq!(of("32768\t60999\n", "").value, Some(28_232.0));
    }

    #[test]
    fn a_full_table_spoils_and_no_table_is_fine() {
        let of = |used: &str| {
            let stage = Stage::new(&[
                ("/proc/sys/net/core/somaxconn", "4096"),
                ("/proc/sys/net/netfilter/nf_conntrack_count", used),
                ("/proc/sys/net/netfilter/nf_conntrack_max", "1000"),
            ]);
            conntrack(&stage.on(&[0]).scene())
        };
        assert_eq!(of("799").level, Level::Note);
        let full = of("800");
        assert_eq!((full.level, full.value), (Level::Spoils, Some(80.0)));
        assert!(full.mend.unwrap().ends_with("nf_conntrack_max=2000"));
        assert!(of("0").mend.unwrap().contains("th sport 7117 notrack"));
        assert_eq!(of("").level, Level::Ok);
    }
}
