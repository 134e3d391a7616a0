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

/// What connecting again and again may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortBudget {
    conntrack: Option<Fill>,
    /// First and last ephemeral port.
    ports: Option<(u16, u16)>,
    /// Local addresses, each with all those ports.
    sources: u64,
}

impl PortBudget {
    /// What `environment` leaves for connections to one address and port.
    #[must_use]
    pub const fn of(environment: &Environment) -> Self {
        Self { conntrack: environment.conntrack, ports: environment.ephemeral_ports, sources: 1 }
    }

    /// The same with connections dealt out over so many local addresses.
    #[must_use]
    pub const fn with_sources(self, sources: u64) -> Self {
        let sources = if sources == 0 { 1 } else { sources };
        Self { sources, ..self }
    }

    /// Ports over all local addresses, and so connections to one address and port at once.
    fn ports(&self) -> Option<u64> {
        let (first, last) = self.ports?;
        Some((u64::from(last.saturating_sub(first)) + 1) * self.sources)
    }

    /// Warns of what `concurrent` connections at once, and `total` in all if known, will use up.
    ///
    /// A tracked connection stays in the table for two minutes after its end
    /// (`nf_conntrack_tcp_timeout_time_wait`), so each one counts, but a port that is used again
    /// takes its old entry: the ports bound the entries.
    #[must_use]
    pub fn check(&self, concurrent: u64, total: Option<u64>) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let ports = self.ports();
        if let Some(((first, last), ports)) = self.ports.zip(ports)
            && concurrent > ports
        {
            warnings.push(Warning {
                code: "ephemeral-ports".into(),
                message: format!(
                    "{concurrent} connections at once to one address, and {ports} ephemeral ports \
                     ({first}-{last})"
                ),
                advice:
                    "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\", more local addresses \
                         (--bind, where the command has it), or fewer connections"
                        .into(),
            });
        }
        if let Some(Fill { used, max }) = self.conntrack {
            let most = ports.unwrap_or(PORTS_MAX * self.sources);
            let added = total.unwrap_or(most).max(concurrent).min(most);
            let needed = used.saturating_add(added);
            if needed > stop_at(max) {
                warnings.push(Warning {
                    code: "conntrack-budget".into(),
                    message: format!(
                        "up to {added} new entries in a conntrack table that holds {used} of {max}; the \
                         run stops at {TABLE_STOP_PERCENT} %"
                    ),
                    advice: format!(
                        "sysctl -w net.netfilter.nf_conntrack_max={}, or limit the run with --count or \
                         --rate",
                        needed.saturating_mul(2)
                    ),
                });
            }
        }
        warnings
    }
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
    #[must_use]
    pub fn look(&self) -> Room {
        let Some(fill) = conntrack_fill(&self.files) else {
            return Room::Ample;
        };
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
    #[must_use]
    pub fn begin(server: SocketAddr) -> Option<Self> {
        // An address can be bound just where it is one of the machine's own.
        UdpSocket::bind((server.ip(), 0)).ok()?;
        Self::of(Files::default())
    }

    fn of(files: Files) -> Option<Self> {
        let before = listen_overflows(&files)?;
        Some(Self { files, before })
    }

    /// Warns of what was turned away since.
    #[must_use]
    pub fn end(&self) -> Option<Warning> {
        let (before, after) = (self.before, listen_overflows(&self.files)?);
        let count = after.checked_sub(before).filter(|count| *count > 0)?;
        Some(Warning {
            code: "listen-overflows".into(),
            message: format!(
                "listeners of this machine turned connections away {count} times because their queues were full \
                 (ListenOverflows {before} before, {after} after): the client tries each again 1 s later, and its connect \
                 time shows it"
            ),
            advice: "a longer queue: sysctl -w net.core.somaxconn=4096 and the server's own backlog; or connect more \
                     slowly (fewer --connections, a lower rate)"
                .into(),
        })
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

    fn codes(budget: &PortBudget, concurrent: u64, total: Option<u64>) -> Vec<String> {
        let warnings = budget.check(concurrent, total);
        warnings.into_iter().map(|warning| warning.code).collect()
    }

    #[test]
    fn connections_at_once_must_fit_the_ports() {
        let budget = PortBudget { conntrack: None, ports: Some((32_768, 32_867)), sources: 1 };
        assert_eq!(budget.ports(), Some(100));
        assert_eq!(codes(&budget, 100, None), [""; 0]);
        assert_eq!(codes(&budget, 101, None), ["ephemeral-ports"]);
        let three = budget.with_sources(3);
        assert_eq!(codes(&three, 300, None), [""; 0]);
        assert_eq!(codes(&three, 301, None), ["ephemeral-ports"]);
    }

    #[test]
    fn new_entries_must_fit_the_table() {
        let budget = |used, max| PortBudget {
            conntrack: Some(Fill { used, max }),
            ports: Some((10_001, 20_000)),
            sources: 1,
        };
        // Nobody knows how many connections there will be: at most one entry per port.
        assert_eq!(codes(&budget(0, 12_000), 1, None), [""; 0]);
        assert_eq!(codes(&budget(801, 12_000), 1, None), ["conntrack-budget"]);
        // Their number is known.
        assert_eq!(codes(&budget(801, 12_000), 1, Some(500)), [""; 0]);
        assert_eq!(codes(&budget(8_900, 10_000), 1, Some(100)), [""; 0]);
        assert_eq!(codes(&budget(8_900, 10_000), 1, Some(101)), ["conntrack-budget"]);
        let text = &budget(8_900, 10_000).check(1, Some(200))[0];
        assert!(text.message.contains("200 new entries"), "{text:?}");
        assert!(text.advice.contains("nf_conntrack_max=18200"), "{text:?}");
    }

    #[test]
    fn the_run_stops_before_the_table_is_full() {
        let count = "/proc/sys/net/netfilter/nf_conntrack_count";
        let fixture = Fixture::new(&[
            (count, "80000\n"),
            ("/proc/sys/net/netfilter/nf_conntrack_max", "100000\n"),
        ]);
        let guard = ConntrackGuard { files: fixture.files() };
        assert_eq!(guard.look(), Room::Ample);
        for few in ["80001\n", "89999\n"] {
            fixture.write(count, few);
            assert_eq!(guard.look(), Room::Little);
        }
        fixture.write(count, "90000\n");
        let full = Fill { used: 90_000, max: 100_000 };
        assert_eq!(guard.look(), Room::None(full));
    }

    #[test]
    fn without_conntrack_nothing_is_nearly_full() {
        let fixture = Fixture::new(&[]);
        let files = fixture.files();
        assert_eq!(conntrack_fill(&files), None);
        assert_eq!(ConntrackGuard { files }.look(), Room::Ample);
    }

    #[test]
    fn overflows_are_found_by_name() {
        let fixture = Fixture::new(&[(
            "/proc/net/netstat",
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\nIpExt: InNoRoutes\nIpExt: 4\n",
        )]);
        assert_eq!(listen_overflows(&fixture.files()), Some(22));
        assert_eq!(listen_overflows(&Fixture::new(&[]).files()), None);
    }

    #[test]
    fn what_listeners_turned_away_meanwhile_is_told_with_both_figures() {
        let netstat = "/proc/net/netstat";
        let text = |count| format!("TcpExt: ListenDrops ListenOverflows\nTcpExt: 1 {count}\n");
        let fixture = Fixture::new(&[(netstat, &text(7))]);
        let guard = ListenerGuard::of(fixture.files()).unwrap();
        assert_eq!(guard.end().map(|warning| warning.code), None);
        fixture.write(netstat, &text(19));
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
