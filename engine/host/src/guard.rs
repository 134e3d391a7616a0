//! What a run that opens a connection per operation could use up for others: the
//! connection-tracking table and the ephemeral ports, counted before and watched during the run.

use std::net::{SocketAddr, UdpSocket};

use crate::files::Files;
use tare_stats::result::{Environment, Fill, Warning};

/// Entries of one address and port, where the ephemeral ports are not known.
const PORTS_MAX: u64 = 1 << 16;
/// A run warns before, and stops by itself at, this share of the table, per cent.
pub const TABLE_STOP_PERCENT: u64 = 90;
/// With room for fewer entries than this the table is looked at often: so many connections are
/// opened in 200 ms at 50,000 per second.
const ROOM_NEAR: u64 = 10_000;

/// Warns of what connecting again and again to one address and port will use up: `concurrent`
/// connections at once, and `total` in all if known, dealt out over so many local addresses.
///
/// A tracked connection stays in the table for two minutes after its end
/// (`nf_conntrack_tcp_timeout_time_wait`), so each one counts, but a port that is used again
/// takes its old entry: the ports bound the entries.
pub fn port_warnings(
    environment: &Environment,
    sources: u64,
    concurrent: u64,
    total: Option<u64>,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let sources = sources.max(1);
    let mut most = PORTS_MAX * sources;
    if let Some((first, last)) = environment.ephemeral_ports {
        most = (u64::from(last.saturating_sub(first)) + 1) * sources;
        if concurrent > most {
            warnings.push(Warning::new(
                "ephemeral-ports",
                format!(
                    "{concurrent} connections at once to one address, and {most} ephemeral ports \
                     ({first}-{last})"
                ),
                "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\", more local addresses \
                 (--bind, where the command has it), or fewer connections",
            ));
        }
    }
    if let Some(Fill { used, max }) = environment.conntrack {
        let added = total.unwrap_or(most).max(concurrent).min(most);
        let needed = used.saturating_add(added);
        if needed > stop_at(max) {
            let double = needed.saturating_mul(2);
            warnings.push(Warning::new(
                "conntrack-budget",
                format!(
                    "up to {added} new entries in a conntrack table that holds {used} of {max}; the \
                     run stops at {TABLE_STOP_PERCENT} %"
                ),
                format!(
                    "sysctl -w net.netfilter.nf_conntrack_max={double}, or limit the run with \
                     --count or --rate"
                ),
            ));
        }
    }
    warnings
}

/// How much room the conntrack table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Enough for a while, or connections are not tracked.
    Ample,
    /// It could be full soon.
    Little,
    /// It is so full that the run must stop before it is a nuisance to others.
    None(Fill),
}

/// Watches the conntrack table during a run.
#[derive(Debug, Clone, Default)]
pub struct ConntrackGuard {
    files: Files,
}

impl ConntrackGuard {
    /// Looks at the table. Reads two small files: for the launching thread, a few times a second.
    pub fn look(&self) -> Room {
        let Some(fill) = conntrack_fill(&self.files) else { return Room::Ample };
        match stop_at(fill.max).saturating_sub(fill.used) {
            0 => Room::None(fill),
            1..ROOM_NEAR => Room::Little,
            _ => Room::Ample,
        }
    }
}

fn stop_at(max: u64) -> u64 {
    max / 100 * TABLE_STOP_PERCENT + max % 100 * TABLE_STOP_PERCENT / 100
}

/// How full the connection-tracking table is; absent where connections are not tracked.
pub(crate) fn conntrack_fill(files: &Files) -> Option<Fill> {
    let number = |name| files.number(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    let fill = Fill { used: number("count")?, max: number("max")? };
    (fill.max > 0).then_some(fill)
}

/// Watches the listeners of this network namespace during a step against one of its addresses.
#[derive(Debug)]
pub struct ListenerGuard {
    files: Files,
    before: u64,
}

impl ListenerGuard {
    /// Takes the first reading. `None` where `server` is not an address of this machine: then
    /// listeners here have nothing to do with the run.
    pub fn begin(server: SocketAddr) -> Option<Self> {
        // An address can be bound just where it is one of the machine's own.
        UdpSocket::bind((server.ip(), 0)).ok()?;
        let files = Files::default();
        Some(Self { before: listen_overflows(&files)?, files })
    }

    /// Warns of what was turned away since.
    pub fn end(&self) -> Option<Warning> {
        let (before, after) = (self.before, listen_overflows(&self.files)?);
        let count = after.checked_sub(before).filter(|count| *count > 0)?;
        Some(Warning::new(
            "listen-overflows",
            format!(
                "listeners of this machine turned connections away {count} times because their \
                 queues were full (ListenOverflows {before} before, {after} after): the client tries \
                 each again 1 s later, and its connect time shows it"
            ),
            "a longer queue: sysctl -w net.core.somaxconn=4096 and the server's own backlog; or \
             connect more slowly (fewer --connections, a lower rate)",
        ))
    }
}

/// Connections that listeners of this network namespace turned away since boot because nobody
/// accepted them in time (`ListenOverflows` in `/proc/net/netstat`).
fn listen_overflows(files: &Files) -> Option<u64> {
    let text = files.text("/proc/net/netstat")?;
    // Lines come in pairs: the names, then the numbers.
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split_ascii_whitespace().position(|name| name == "ListenOverflows")?;
    numbers.split_ascii_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;

    #[test]
    fn connections_must_fit_the_ports_and_the_table() {
        let ports = Some((10_001, 20_000));
        let table = |used, max| Some(Fill { used, max });
        for (ephemeral_ports, conntrack, sources, concurrent, total, code) in [
            (Some((32_768, 32_867)), None, 1, 100, None, None),
            (Some((32_768, 32_867)), None, 1, 101, None, Some("ephemeral-ports")),
            (Some((32_768, 32_867)), None, 3, 300, None, None),
            (Some((32_768, 32_867)), None, 3, 301, None, Some("ephemeral-ports")),
            // Nobody knows how many connections there will be: at most one entry per port.
            (ports, table(0, 12_000), 1, 1, None, None),
            (ports, table(801, 12_000), 1, 1, None, Some("conntrack-budget")),
            (ports, table(801, 12_000), 1, 1, Some(500), None),
            (ports, table(8_900, 10_000), 1, 1, Some(100), None),
            (ports, table(8_900, 10_000), 1, 1, Some(101), Some("conntrack-budget")),
        ] {
            let environment = Environment { conntrack, ephemeral_ports, ..Environment::default() };
            let found = port_warnings(&environment, sources, concurrent, total);
            let codes: Vec<&str> = found.iter().map(|warning| warning.code.as_str()).collect();
            assert_eq!(codes, Vec::from_iter(code), "{concurrent} {total:?}");
        }
        let conntrack = table(8_900, 10_000);
        let environment =
            Environment { conntrack, ephemeral_ports: ports, ..Environment::default() };
        let text = &port_warnings(&environment, 1, 1, Some(200))[0];
        assert!(text.message.contains("200 new entries"), "{text:?}");
        assert!(text.advice.contains("nf_conntrack_max=18200"), "{text:?}");
    }

    #[test]
    fn the_run_stops_before_the_table_is_full() {
        let fixture = Fixture::new(&[("/proc/sys/net/netfilter/nf_conntrack_max", "100000\n")]);
        let guard = ConntrackGuard { files: fixture.files() };
        assert_eq!(conntrack_fill(&guard.files), None);
        assert_eq!(guard.look(), Room::Ample, "nothing is tracked");
        for (used, room) in [
            (80_000, Room::Ample),
            (80_001, Room::Little),
            (89_999, Room::Little),
            (90_000, Room::None(Fill { used: 90_000, max: 100_000 })),
        ] {
            fixture.write("/proc/sys/net/netfilter/nf_conntrack_count", format!("{used}\n"));
            assert_eq!(guard.look(), room);
        }
    }

    #[test]
    fn what_listeners_turned_away_meanwhile_is_reported_with_both_figures() {
        let fixture = Fixture::new(&[]);
        assert_eq!(listen_overflows(&fixture.files()), None);
        let overflows = |count| {
            let text = format!(
                "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 {count} 333\n\
                 IpExt: InNoRoutes\nIpExt: 4\n"
            );
            fixture.write("/proc/net/netstat", text);
        };
        overflows(7);
        let guard = ListenerGuard { before: 7, files: fixture.files() };
        assert_eq!(listen_overflows(&guard.files), Some(7));
        assert_eq!(guard.end(), None);
        overflows(19);
        let warning = guard.end().unwrap();
        assert!(warning.message.contains("away 12 times"), "{warning:?}");
        assert!(warning.message.contains("7 before, 19 after"), "{warning:?}");
    }

    #[test]
    fn listeners_elsewhere_are_not_this_machines() {
        // Of the block for documentation (RFC 5737), which no machine has.
        assert!(ListenerGuard::begin("192.0.2.1:80".parse().unwrap()).is_none());
        assert!(ListenerGuard::begin("127.0.0.1:80".parse().unwrap()).is_some());
    }
}
