//! What the kernel does to this process: clock, quotas, filters, memory, and what runs out.

use super::sample::Sample;
use super::{
    Check, HostSnapshot, Needs, Seen, Texts, check, count, fine, found, noted, spoilt, unknown,
};
use crate::cgroup::{Cgroups, Throttling};
use crate::environment::{CONNTRACK_FULL_PERCENT, is_fast_clock};
use tare_driver::Backend;
use tare_stats::result::{Fill, Level};
use tare_units::Nanos;
use tare_units::limits::DEFAULT_PORT;

/// Reading a clock in user space costs 15 to 60 ns; above this the kernel was entered.
const CLOCK_COST_MAX: Nanos = Nanos(200);
/// With fewer descriptors not even 100 connections fit beside what a process has open.
const DESCRIPTORS_LEAST: u64 = 256;
/// Enough for one connection per ephemeral port.
const DESCRIPTORS_AMPLE: u64 = 65_536;
/// Rings and registered buffers of a few workers.
const MEMLOCK_AMPLE_BYTES: u64 = 8 << 20;
/// Connections per address and port, at once or (with TIME_WAIT) within a minute.
const PORTS_LEAST: u64 = 1_000;
/// What a minute of 500 connections a second leaves in TIME_WAIT: the default range holds it.
const PORTS_AMPLE: u64 = 28_000;

pub(super) const CHECKS: [Check; 12] = [
    check("clock-source", Needs::Nothing, clock_source).texts(Texts {
        effect: "a clock that is read in the kernel costs some 0.2 to 1 µs each time, twice a \
                 round trip",
        show: "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
        mend: "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource  # \
               where the CPU has a stable one: dmesg | grep -i tsc",
        undo: "echo {source} > /sys/devices/system/clocksource/clocksource0/current_clocksource",
    }),
    check("timer-slack", Needs::Nothing, timer_slack).texts(Texts {
        effect: "sleeps end later by up to this much, so that several end together",
        show: "cat /proc/self/timerslack_ns",
        mend: "allow prctl(PR_SET_TIMERSLACK) in the sandbox",
        undo: "",
    }),
    check("cpu-quota", Needs::Nothing, quota).texts(Texts {
        effect: "once the quota of a period (100 ms as a rule) is used up, all threads stand still \
                 to its end: tens of ms",
        show: "{show}",
        mend: "docker update --cpus 4 CONTAINER  # in a pod resources.limits.cpu, in a unit \
               CPUQuota=; or --wait block",
        undo: "",
    }),
    check("cpu-throttling", Needs::Nothing, throttling).texts(Texts {
        effect: "each time all threads of the cgroup stood still, up to 100 ms: read as network \
                 cost, it is none",
        show: "{show}",
        mend: "raise the quota (see cpu-quota), or measure in a cgroup of its own",
        undo: "",
    }),
    check("seccomp", Needs::Nothing, |host| match host.environment.seccomp.as_deref() {
        None => unknown("nothing tells whether system calls are filtered"),
        Some("off") => fine("no filter"),
        Some(mode) => {
            let filters = host.files.value_of("/proc/self/status", "Seccomp_filters");
            let filters = filters.map_or_else(String::new, |n| format!(", {n} filters"));
            found(Level::Note, format!("mode {mode}{filters}"))
        }
    })
    .texts(Texts {
        effect: "each system call passes the filter first: some tens of ns, and a denied io_uring",
        show: "grep Seccomp /proc/self/status",
        mend: "docker run --security-opt seccomp=unconfined IMAGE  # in a pod \
               seccompProfile.type: Unconfined",
        undo: "",
    }),
    check("io-uring", Needs::Nothing, |host| {
        let disabled = host.environment.io_uring_disabled;
        let disabled = disabled
            .map_or_else(String::new, |value| format!("kernel.io_uring_disabled is {value}; "));
        let is_ring = host.backend.backend == Backend::Uring;
        noted(!is_ring, format!("{disabled}{}", host.backend.reason))
            .with("advice", host.backend.advice.as_deref().unwrap_or_default())
    })
    .texts(Texts {
        effect: "epoll is used instead: as exact, with some 10 to 20 % more CPU for a request at \
                 many connections; ends that differ do not compare",
        show: "tare lat -n 1 --backend uring; sysctl kernel.io_uring_disabled",
        mend: "{advice}",
        undo: "",
    }),
    check("huge-pages", Needs::Nothing, |host| {
        // The one in force stands in brackets: `always [madvise] never`.
        let text = host.files.word("/sys/kernel/mm/transparent_hugepage/enabled");
        let after = text.as_deref().and_then(|text| text.split_once('['));
        match after.and_then(|(_, after)| after.split_once(']')) {
            None => unknown("nothing tells whether huge pages are made by themselves"),
            Some(("always", _)) => found(Level::Note, "always"),
            Some((mode, _)) => fine(mode),
        }
    })
    .texts(Texts {
        effect: "the kernel merges pages behind a program's back (khugepaged): now and then a \
                 thread waits for it, some 10 µs to ms",
        show: "cat /sys/kernel/mm/transparent_hugepage/enabled",
        mend: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        undo: "echo always > /sys/kernel/mm/transparent_hugepage/enabled",
    }),
    check("numa-balancing", Needs::Nothing, |host| {
        match host.files.number::<u32>("/proc/sys/kernel/numa_balancing") {
            None => unknown("the kernel has no kernel.numa_balancing, or does not show it"),
            Some(0) => fine("off"),
            Some(mode) => found(Level::Note, format!("on ({mode})")).with("mode", mode),
        }
    })
    .texts(Texts {
        effect: "the kernel unmaps pages in order to see who uses them: a page fault of some µs \
                 each",
        show: "sysctl kernel.numa_balancing",
        mend: "sysctl -w kernel.numa_balancing=0",
        undo: "sysctl -w kernel.numa_balancing={mode}",
    }),
    check("descriptors", Needs::Nothing, descriptors).texts(Texts {
        effect: "each connection takes one: beyond the limit they cannot be opened, and the load \
                 asked for is not made",
        show: "ulimit -Sn; ulimit -Hn",
        mend: "ulimit -n 65536  # as root; for a container docker run --ulimit nofile=65536, in a \
               unit LimitNOFILE=65536",
        undo: "ulimit -n {hard}",
    }),
    check("memlock", Needs::Nothing, |host| match host.environment.memlock_limit_bytes {
        None => unknown("the kernel does not tell RLIMIT_MEMLOCK"),
        Some(u64::MAX) => fine("unlimited"),
        Some(bytes) => {
            let is_little = bytes < MEMLOCK_AMPLE_BYTES;
            let kib = bytes >> 10;
            noted(is_little, format!("{kib} KiB may be locked"))
                .figure(count(bytes), "bytes")
                .with("kib", kib)
        }
    })
    .texts(Texts {
        effect: "io_uring's registered buffers are locked memory: where it is short, workers get \
                 no ring, or copy once more",
        show: "ulimit -l",
        mend: "ulimit -l unlimited  # as root; for a container docker run --ulimit memlock=-1, in \
               a unit LimitMEMLOCK=infinity",
        undo: "ulimit -l {kib}",
    }),
    check("ephemeral-ports", Needs::Nothing, ephemeral_ports).texts(Texts {
        effect: "each connection to one address and port takes one, for 60 s after its end too: \
                 with none left connecting fails, and with few it searches, some µs to ms",
        show: "sysctl net.ipv4.ip_local_port_range; ss -s",
        mend: "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"",
        undo: "sysctl -w net.ipv4.ip_local_port_range=\"{first} {last}\"",
    }),
    check("conntrack", Needs::Nothing, conntrack).texts(Texts {
        effect: "each packet is looked up, some tenths of a µs; once the table is full, new \
                 connections are dropped",
        show: "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
        mend: "{mend}",
        undo: "{undo}",
    }),
];

fn clock_source(host: &HostSnapshot) -> Seen {
    let cost = host.sample.clock_cost;
    let Some(source) = &host.environment.clock_source else {
        let what = "the clock source does not show";
        return match cost {
            Nanos::ZERO => unknown(what),
            _ => unknown(format!("{what} (reading the clock costs {cost})")),
        };
    };
    let is_slow = !is_fast_clock(source) || cost > CLOCK_COST_MAX;
    spoilt(is_slow, format!("{source}; reading the clock costs {cost}"))
        .figure(count(cost.0), "ns")
        .with("source", source)
}

fn timer_slack(host: &HostSnapshot) -> Seen {
    let slack = host.files.number::<u64>("/proc/self/timerslack_ns").map(Nanos);
    if host.sample.slack_set {
        let others = slack.map_or_else(String::new, |slack| format!("; other tools' have {slack}"));
        return fine(format!("tare's threads set theirs to 1 ns{others}")).figure(1.0, "ns");
    }
    let Some(slack) = slack else {
        return unknown("it cannot be set here (prctl), and does not show");
    };
    found(Level::Note, format!("it cannot be set here (prctl): sleeps end up to {slack} late"))
        .figure(count(slack.0), "ns")
}

/// The command that shows what stands in these files of the cgroup and of those above it.
fn show_cgroups(host: &HostSnapshot, word: &str, names: &[&str]) -> String {
    let files = Cgroups::of_self(&host.files).map_or_else(Vec::new, |groups| groups.files(names));
    if files.is_empty() {
        return "cat /proc/self/cgroup".to_owned();
    }
    format!("grep -H '{word}' {}", files.join(" "))
}

fn quota(host: &HostSnapshot) -> Seen {
    let environment = &host.environment;
    match (&environment.cgroup_version, environment.cgroup_cpu_limit) {
        (None, _) => unknown("no control groups show here"),
        (Some(version), None) => fine(format!("none that shows (cgroup {version})")),
        (Some(_), Some(limit)) => {
            let level = if limit < 2.0 { Level::Spoils } else { Level::Note };
            found(level, format!("the cgroup may use {limit} CPUs")).figure(limit, "CPUs")
        }
    }
    .with("show", show_cgroups(host, "", &["cpu.max", "cpu.cfs_quota_us"]))
}

fn throttling(host: &HostSnapshot) -> Seen {
    let Sample { before, after, .. } = &host.sample;
    let seen = if let Some(Throttling { periods, ns, .. }) = after.throttling {
        let grown = periods.saturating_sub(before.throttling.map_or(periods, |old| old.periods));
        let stood = format!(
            "in {periods} periods so far, for {} in all; {grown} of them within the look",
            Nanos(ns)
        );
        match (grown, periods) {
            (1.., _) => found(Level::Spoils, stood),
            (0, 1..) => found(Level::Note, stood),
            (0, 0) => fine("never so far"),
        }
        .figure(count(periods), "periods")
    } else {
        unknown("the cgroup does not count throttling")
    };
    seen.with("show", show_cgroups(host, "throttled", &["cpu.stat"]))
}

fn descriptors(host: &HostSnapshot) -> Seen {
    let limits = (host.environment.descriptors_limit, host.descriptors_hard);
    let (Some(soft), Some(hard)) = limits else {
        return unknown("the kernel does not tell RLIMIT_NOFILE");
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
    found(level, what).figure(count(hard), "descriptors").with("hard", hard)
}

fn ephemeral_ports(host: &HostSnapshot) -> Seen {
    let Some((first, last)) = host.environment.ephemeral_ports else {
        return unknown("net.ipv4.ip_local_port_range does not show");
    };
    let ports = u64::from(last.saturating_sub(first)) + 1;
    let sockets = tcp_sockets(host);
    let free = ports.saturating_sub(sockets.unwrap_or(0));
    let level = match free {
        ..PORTS_LEAST => Level::Spoils,
        PORTS_LEAST..PORTS_AMPLE => Level::Note,
        PORTS_AMPLE.. => Level::Ok,
    };
    let used = match sockets {
        None => "how many are in use does not show".to_owned(),
        Some(sockets) => format!("{sockets} TCP sockets hold one at most each"),
    };
    found(level, format!("{ports} ({first}-{last}); {used}"))
        .figure(count(free), "ports")
        .with("first", first)
        .with("last", last)
}

/// TCP sockets in use or in TIME_WAIT: `TCP: inuse 5 orphan 0 tw 3 alloc 9 mem 1`.
fn tcp_sockets(host: &HostSnapshot) -> Option<u64> {
    let line = host.files.value_of("/proc/net/sockstat", "TCP")?;
    let of = |name| {
        let mut words = line.split_ascii_whitespace().skip_while(|word| *word != name);
        words.nth(1)?.parse::<u64>().ok()
    };
    Some(of("inuse")? + of("tw")?)
}

fn conntrack(host: &HostSnapshot) -> Seen {
    let Some(Fill { used, max }) = host.environment.conntrack else {
        // Without the table's sysctls there is no table; unless nothing shows at all.
        return match host.files.exists("/proc/sys/net/core") {
            true => fine("connections are not tracked"),
            false => unknown("nothing tells whether connections are tracked"),
        };
    };
    let percent = used.saturating_mul(100) / max.max(1);
    let (level, mend, undo) = if percent >= CONNTRACK_FULL_PERCENT {
        let set = |max: u64| format!("sysctl -w net.netfilter.nf_conntrack_max={max}");
        (Level::Spoils, set(max.saturating_mul(2)), set(max))
    } else {
        // Both ways, since a connection's answers would be tracked otherwise.
        let untracked = ["prerouting", "output"].map(|hook| {
            let [from, to] = ["sport", "dport"].map(|side| {
                format!("meta l4proto {{ tcp, udp }} th {side} {DEFAULT_PORT} notrack;")
            });
            format!("chain {hook} {{ type filter hook {hook} priority raw; {from} {to} }};")
        });
        let table = format!("nft 'table inet tare {{ {} }}'", untracked.join(" "));
        (Level::Note, table, "nft delete table inet tare".to_owned())
    };
    found(level, format!("{used} of {max} entries are in use ({percent} %)"))
        .figure(count(percent), "%")
        .with("mend", mend)
        .with("undo", undo)
}
