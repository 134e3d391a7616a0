//! What a server tells is held against what can be before any of it becomes a figure of the report.

use tare_proto::hello::Figures;
use tare_proto::stream::{Received, Sent, StreamFigures};
use tare_stats::histogram::{Distribution, Recording};
use tare_stats::result::{CpuUse, Environment, Instrument, Warning};
use tare_units::Nanos;
use tare_units::limits::{CPUS_MAX, DATAGRAM_HEADER};

/// The server counts from the hello to its last word; this end's clock may run slower, by less than
/// that.
const SLACK: Nanos = Nanos::from_secs(1);
/// No machine moves more payload than that in a nanosecond (10 Tbit/s), bytes.
const BYTES_PER_NS: u64 = 1_250;
/// No link is faster (10 Tbit/s), Mbit/s.
const LINK_MAX_MBIT: u64 = 10_000_000;
/// No idle state takes longer to leave, microseconds.
const EXIT_LATENCY_MAX_US: u64 = 1_000_000;
/// What is sent before the measured phase and in its last moments may count at the other end,
/// bytes.
const BEFORE_AND_AFTER: u64 = 1 << 30;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) wall: Nanos,
    /// Requests that this end has sent in it, where none can have come twice.
    pub(crate) requests: Option<u64>,
}

impl Bounds {
    /// Nothing takes longer, nanoseconds, and nothing is done more often than once in a nanosecond.
    fn longest_ns(&self) -> u64 {
        self.wall.0.saturating_add(SLACK.0)
    }

    fn most_bytes(&self) -> u64 {
        self.longest_ns().saturating_mul(BYTES_PER_NS)
    }
}

/// Takes out of a server's figures what cannot be. Returns what it was, in words.
pub(crate) fn vet(figures: &mut Figures, bounds: &Bounds) -> Vec<String> {
    let mut wrong = Vec::new();
    let longest = bounds.longest_ns();
    // Read before the instrument may be left out.
    let is_cpu = cpu_can_be(figures, bounds);
    if let Some(what) = impossible_instrument(&figures.instrument, longest) {
        wrong.push(what);
        figures.instrument = Instrument::default();
    }
    if !is_cpu {
        wrong.push(format!(
            "{} of CPU time for one thread",
            Nanos(figures.cpu.user_ns.saturating_add(figures.cpu.system_ns))
        ));
        figures.cpu = CpuUse::default();
        (figures.cpu_operations, figures.cpu_bytes) = (0, 0);
    }
    let answered = figures.operations.max(figures.residence_count);
    if let Some(requests) = bounds.requests.filter(|requests| answered > *requests) {
        wrong.push(format!("{answered} requests answered of {requests} sent"));
        figures.operations = figures.operations.min(requests);
        (figures.residence_hdr, figures.residence_count) = (None, 0);
    }
    if let Some(text) = &figures.residence_hdr {
        let can_be = |told: Distribution| {
            told.count() == figures.residence_count && told.max_ns().unwrap_or(0) <= longest
        };
        if !Distribution::decode(text).is_ok_and(can_be) {
            wrong.push("residence times that do not add up".to_owned());
            (figures.residence_hdr, figures.residence_count) = (None, 0);
        }
    }
    if let Some(stream) = &mut figures.stream {
        wrong.extend(vet_stream(stream, bounds));
    }
    wrong
}

/// Takes out of what a server tells of its machine what cannot be. Returns what it was, in words.
pub(crate) fn vet_environment(told: &mut Environment) -> Vec<String> {
    let mut wrong = Vec::new();
    let cpus = 0.0..=f64::from(CPUS_MAX);
    if let Some(limit) = told.cgroup_cpu_limit.take_if(|limit| !cpus.contains(limit)) {
        wrong.push(format!("a limit of {limit} CPUs"));
    }
    if told.ephemeral_ports.take_if(|(first, last)| first > last).is_some() {
        wrong.push("a range of ports that ends before it begins".to_owned());
    }
    if told.conntrack.take_if(|fill| fill.used > fill.max).is_some() {
        wrong.push("a conntrack table that is more than full".to_owned());
    }
    let states = told.idle_states.len();
    told.idle_states.retain(|state| state.exit_latency_us <= EXIT_LATENCY_MAX_US);
    if told.idle_states.len() < states {
        wrong.push("an idle state that takes longer than a second to leave".to_owned());
    }
    if let Some(device) = &mut told.device
        && let Some(speed) = device.speed_mbit_per_s.take_if(|mbit| *mbit > LINK_MAX_MBIT)
    {
        wrong.push(format!("a link of {speed} Mbit/s"));
    }
    wrong
}

fn is_share(share: f64) -> bool {
    (0.0..=1.0).contains(&share)
}

fn impossible_instrument(told: &Instrument, longest: u64) -> Option<String> {
    let most = u64::from(CPUS_MAX);
    let cpus = u64::try_from(told.cpus.len()).map_or(1, |n| n.clamp(1, most));
    let in_loop = |ns| ("in its loop", ns, 1);
    let times = [
        ("of steal", told.steal_ns.unwrap_or(0), cpus),
        ("throttled", told.throttled_ns.unwrap_or(0), most),
        in_loop(told.clock_ns),
        in_loop(told.clock_granularity_ns),
        in_loop(told.turn_p50_ns),
        in_loop(told.turn_p99_ns),
        in_loop(told.turn_max_ns),
        in_loop(told.gap_p99_ns),
        in_loop(told.wakeup_p99_ns.unwrap_or(0)),
        in_loop(told.batch_bound_ns),
    ];
    let is_beyond = |(_, ns, threads): &(&str, u64, u64)| *ns > longest.saturating_mul(*threads);
    if let Some((what, ns, _)) = times.into_iter().find(is_beyond) {
        return Some(format!("{} {what}", Nanos(ns)));
    }
    let counts = [
        told.involuntary_switches,
        told.voluntary_switches,
        told.throttled_periods.unwrap_or(0),
        told.ring_overflows,
    ];
    if let Some(count) = counts.into_iter().find(|count| *count > longest) {
        return Some(format!("{count} events in its loop"));
    }
    (!is_share(told.worker_busy_max)).then(|| "a share of busy time beyond the whole".to_owned())
}

/// CPU time is that of one thread, and counts are of what one thread did.
fn cpu_can_be(figures: &Figures, bounds: &Bounds) -> bool {
    let cpu = &figures.cpu;
    let used = cpu.user_ns.checked_add(cpu.system_ns);
    let shares = [cpu.machine_busy, cpu.machine_softirq];
    used.is_some_and(|used| used <= bounds.longest_ns())
        && shares.into_iter().flatten().all(is_share)
        && figures.cpu_operations <= bounds.longest_ns()
        && figures.cpu_bytes <= bounds.most_bytes()
}

fn vet_stream(stream: &mut StreamFigures, bounds: &Bounds) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(sent) = stream.sent.take_if(|sent| !sent_can_be(sent, bounds)) {
        wrong.push(format!("{} bytes sent in {}", sent.bytes, Nanos(sent.duration_ns)));
    }
    if let Some(received) = stream.received.take_if(|r| !received_can_be(r, bounds)) {
        wrong.push(format!("{} bytes received in {}", received.bytes, Nanos(received.duration_ns)));
    }
    wrong
}

fn sent_can_be(sent: &Sent, bounds: &Bounds) -> bool {
    let longest = bounds.longest_ns();
    let tcp = sent.tcp.as_ref();
    let times = [
        sent.duration_ns,
        tcp.map_or(0, |tcp| tcp.rtt_ns),
        tcp.and_then(|tcp| tcp.busy_ns).unwrap_or(0),
        tcp.and_then(|tcp| tcp.rwnd_limited_ns).unwrap_or(0),
        tcp.and_then(|tcp| tcp.sndbuf_limited_ns).unwrap_or(0),
    ];
    let sends = [sent.sends, sent.datagrams];
    let copied = sent.zero_copy.as_ref().map_or(0.0, |zero| zero.copied_share);
    let lateness = sent.lateness_hdr.as_deref().map(Distribution::decode);
    let latest = lateness.and_then(|read| read.ok()?.max_ns());
    times.into_iter().all(|ns| ns <= longest)
        && sends.into_iter().all(|count| count <= bounds.longest_ns())
        && sent.bytes <= bounds.most_bytes()
        && sent.unsent <= bounds.most_bytes()
        && is_share(copied)
        && latest.unwrap_or(0) <= longest
}

fn received_can_be(received: &Received, bounds: &Bounds) -> bool {
    let adds_up = |parts: &[u64]| {
        let sum = parts.iter().try_fold(0_u64, |sum, b| sum.checked_add(*b));
        sum.is_some_and(|sum| sum <= received.bytes)
    };
    let least = received.datagrams.checked_mul(u64::from(DATAGRAM_HEADER));
    received.duration_ns <= bounds.longest_ns()
        && received.bytes <= bounds.most_bytes()
        && received.jitter_ns.unwrap_or(0) <= bounds.longest_ns()
        && least.is_some_and(|least| least <= received.bytes)
        && received.reordered <= received.datagrams
        && received.duplicated <= bounds.longest_ns()
        && adds_up(&received.blocks.bytes)
        && adds_up(&received.series)
}

/// The two ends' accounts of one stream over TCP held against each other: nobody receives what
/// nobody sent, beyond what was under way around the measured phase.
pub(crate) fn vet_against(own: &StreamFigures, theirs: &mut StreamFigures) -> Option<String> {
    let most = |bytes: u64| bytes.saturating_mul(2).saturating_add(BEFORE_AND_AFTER);
    if let Some(Sent { bytes: went, .. }) = &own.sent
        && let Some(received) = theirs.received.take_if(|told| told.bytes > most(*went))
    {
        return Some(format!("{} bytes received of {went} sent", received.bytes));
    }
    let came = own.received.as_ref()?.bytes;
    let sent = theirs.sent.take_if(|told| told.bytes > most(came))?;
    Some(format!("{} bytes sent, of which {came} came", sent.bytes))
}

/// Replies that were told to have been held for longer than they took in all, which were not
/// recorded; in words.
pub(crate) fn residences(recording: &Recording) -> Vec<String> {
    match recording.impossible_residences {
        0 => Vec::new(),
        count => vec![format!("{count} replies held for longer than their whole round trip")],
    }
}

/// What is said of a server whose figures cannot be.
pub(crate) fn warning(mut wrong: Vec<String>) -> Option<Warning> {
    wrong.sort_unstable();
    wrong.dedup();
    let more = wrong.len().saturating_sub(3);
    wrong.truncate(3);
    let mut what = wrong.join(", ");
    if more > 0 {
        what += &format!(", and {more} more");
    }
    let message =
        format!("the server reported impossible figures: {what}; they are left out of the report");
    let advice = "the server or its machine is broken, or something else answers in its place: check what listens there";
    (!what.is_empty()).then(|| Warning::new("impossible-figures", message, advice))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use tare_proto::stream::Blocks;

    fn bounds() -> Bounds {
        Bounds { wall: Nanos::from_secs(5), requests: Some(1_000) }
    }

    fn honest() -> Figures {
        let mut residence = Distribution::uncensored();
        for _ in 0..900 {
            residence.record(Nanos::from_micros(5));
        }
        Figures {
            operations: 1_000,
            residence_count: 900,
            residence_hdr: Some(residence.encode()),
            instrument: Instrument {
                backend: "epoll".to_owned(),
                cpus: vec![1],
                turn_max_ns: 4_000_000_000,
                steal_ns: Some(3_000_000_000),
                worker_busy_max: 1.0,
                ..Instrument::default()
            },
            cpu: CpuUse {
                user_ns: 2_000_000_000,
                system_ns: 3_000_000_000,
                machine_busy: Some(1.0),
                ..CpuUse::default()
            },
            cpu_operations: 5_000,
            stream: Some(StreamFigures {
                sent: Some(Sent {
                    duration_ns: 4_500_000_000,
                    bytes: 50_000_000_000,
                    sends: 50_000,
                    ..Sent::default()
                }),
                received: Some(Received {
                    duration_ns: 4_500_000_000,
                    bytes: 1_600_000,
                    datagrams: 100_000,
                    reordered: 5,
                    blocks: Blocks { bytes: vec![800_000, 800_000], ..Blocks::default() },
                    series: vec![1_600_000],
                    ..Received::default()
                }),
            }),
            ..Figures::default()
        }
    }

    #[test]
    fn what_cannot_be_is_left_out_and_said() {
        let mut figures = honest();
        assert_eq!(vet(&mut figures, &bounds()), Vec::<String>::new());
        assert_eq!(figures, honest(), "what can be is left as it is");
        assert_eq!(warning(Vec::new()), None);
        type Change = fn(&mut Figures);
        let steal: Change = |f| f.instrument.steal_ns = Some(u64::MAX);
        let cases: [(Change, &str); 10] = [
            (steal, "of steal"),
            (|f| f.instrument.steal_ns = Some(7_000_000_000), "of steal"),
            (|f| f.instrument.turn_p99_ns = u64::MAX, "in its loop"),
            (|f| f.instrument.worker_busy_max = -0.5, "a share"),
            (|f| f.cpu.user_ns = u64::MAX, "of CPU time"),
            (|f| f.cpu.machine_busy = Some(f64::NAN), "of CPU time"),
            (|f| f.operations = 1_001, "1001 requests answered of 1000 sent"),
            (|f| f.residence_count = 899, "residence times"),
            (|f| f.stream.as_mut().unwrap().sent.as_mut().unwrap().bytes = u64::MAX, "bytes sent"),
            (
                |f| f.stream.as_mut().unwrap().received.as_mut().unwrap().reordered = u64::MAX,
                "bytes received",
            ),
        ];
        for (change, says) in cases {
            let mut figures = honest();
            change(&mut figures);
            let wrong = vet(&mut figures, &bounds());
            assert!(wrong.len() == 1 && wrong[0].contains(says), "{wrong:?}");
            assert_eq!(vet(&mut figures, &bounds()), Vec::<String>::new(), "what is left can be");
            let warning = warning(wrong).unwrap();
            assert_eq!(warning.code, "impossible-figures");
            assert!(warning.message.contains(says), "{}", warning.message);
        }
    }

    #[test]
    fn a_machine_that_cannot_be_is_not_shown() {
        let told: Environment = serde_json::from_value(json!({
            "hostname": "far", "cgroup_cpu_limit": -1e308, "ephemeral_ports": [65_535, 1],
            "conntrack": {"used": u64::MAX, "max": 1},
            "idle_states": [
                {"name": "C1", "exit_latency_us": 1, "disabled": false},
                {"name": "C9", "exit_latency_us": u64::MAX, "disabled": false},
            ],
            "device": {"name": "eth0", "speed_mbit_per_s": u64::MAX},
        }))
        .unwrap();
        let mut left = told.clone();
        assert_eq!(vet_environment(&mut left).len(), 5);
        assert_eq!(vet_environment(&mut left), Vec::<String>::new());
        assert_eq!(left.hostname, told.hostname);
        assert_eq!(left.idle_states.len(), 1);
        assert_eq!((left.cgroup_cpu_limit, left.conntrack), (None, None));
    }

    #[test]
    fn nobody_receives_what_nobody_sent() {
        let sent = Some(Sent { bytes: 1_000, ..Sent::default() });
        let own = StreamFigures { sent, received: None };
        let theirs = |bytes| StreamFigures {
            sent: None,
            received: Some(Received { bytes, ..Received::default() }),
        };
        assert_eq!(vet_against(&own, &mut theirs(900)), None);
        let mut more = theirs(1 << 40);
        let wrong = vet_against(&own, &mut more).unwrap();
        assert_eq!(
            (wrong.as_str(), more.received),
            ("1099511627776 bytes received of 1000 sent", None)
        );
    }

    /// Every number of the document in turn, and all at once, as a hostile server may write it.
    #[test]
    fn no_number_gets_through_or_makes_it_panic() {
        let document = serde_json::to_value(honest()).unwrap();
        let mut leaves = Vec::new();
        numbers(&document, String::new(), &mut leaves);
        assert!(leaves.len() > 30, "{leaves:?}");
        for value in [json!(u64::MAX), json!(1e308), json!(-1.0), json!(0)] {
            let mut all = document.clone();
            for leaf in &leaves {
                *all.pointer_mut(leaf).unwrap() = value.clone();
                let mut one = document.clone();
                *one.pointer_mut(leaf).unwrap() = value.clone();
                for document in [one, all.clone()] {
                    let Ok(mut figures) = serde_json::from_value::<Figures>(document) else {
                        continue;
                    };
                    vet(&mut figures, &bounds());
                    assert_eq!(vet(&mut figures, &bounds()), Vec::<String>::new(), "{leaf}");
                    let instrument = &figures.instrument;
                    assert!(instrument.steal_ns.unwrap_or(0) <= 6_000_000_000);
                    assert!(figures.cpu.user_ns <= 6_000_000_000);
                }
            }
        }
    }

    fn numbers(value: &Value, at: String, leaves: &mut Vec<String>) {
        match value {
            Value::Number(_) => leaves.push(at),
            Value::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    numbers(value, format!("{at}/{index}"), leaves);
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    numbers(value, format!("{at}/{name}"), leaves);
                }
            }
            _ => {}
        }
    }
}
