//! Reports of bulk runs.

use tare_stats::compare::blocks;
use tare_stats::result::{
    Bandwidth, BulkParams, CpuUse, Datagrams, Flow, LinkUse, Pacing, Params, Report, StepResult,
    Summary, TcpFigures, ZeroCopyUse,
};
use tare_units::Size;

use super::common::{instruments, steps_troubles, troubles};
use super::document::{Block, Document, Fact, Shown, Table, fact, note, part};
use super::figures::{
    MIB_PER_GIB, Unit, bits, bits_within, bytes_per_s, cpu_per_gib, cpu_per_mib, half_width,
    percent, round_bits, significant, span, volume,
};
use super::{NONE, charts, grouped, phrases, plural, quantile};

/// Sends up to this size get a line on what the kernel made of them, bytes.
const SMALL_SEND: u64 = 16 << 10;
/// Rows of the series that are printed; of a longer one its beginning and its end.
const SERIES_ROWS: usize = 20;
/// The sender's rate is printed where it is above the receiver's by more than this share.
const RATES_DIFFER: f64 = 0.005;

pub(super) const PAYLOAD: &str =
    "Rates are of payload, as the receiving end got it; bits are decimal, KiB MiB GiB binary.";

pub(super) fn build(document: &mut Document, report: &Report) {
    let mut blocks = vec![note(PAYLOAD)];
    let heading = match report.results.as_slice() {
        [] => return,
        [one] => {
            blocks.extend(step(one));
            ""
        }
        steps => {
            blocks.push(Block::Table(sweep(report)));
            let bound = |one: &StepResult| {
                let link = of(one)?.link.as_ref().filter(|link| link.bound)?;
                let text = format!("LINK-BOUND by {}; compare CPU, not bandwidth", link.device);
                Some(fact(super::parameters(&one.params), text))
            };
            let mut found: Vec<Fact> = steps.iter().filter_map(bound).collect();
            found.extend(steps_troubles(report));
            if !found.is_empty() {
                blocks.push(Block::Facts(found));
            }
            "Instrument, in the last step"
        }
    };
    document.add(Shown::Plain, "results", "Results", blocks);
    if let Some(last) = report.results.last() {
        instruments(document, report, last, heading);
    }
    charts::add(document, report, step);
}

/// One step, with everything that is known of it.
fn step(step: &StepResult) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut found = match of(step) {
        Some(bandwidth) => facts(step, bandwidth),
        None => {
            blocks.push(note("Nothing was received in the measured phase."));
            Vec::new()
        }
    };
    found.extend(troubles(step));
    if !found.is_empty() {
        blocks.push(Block::Facts(found));
    }
    blocks.extend(series(step).map(Block::Table));
    blocks
}

/// The bulk figures of a step of a bulk run; none in a latency run, where they would be the load's.
pub(super) fn of(step: &StepResult) -> Option<&Bandwidth> {
    let is_load = step.params.under_load.is_some();
    step.bandwidth.as_ref().filter(|_| !is_load)
}

/// The directions that carried anything, by name.
fn flows(bandwidth: &Bandwidth) -> impl Iterator<Item = (&'static str, &Flow)> {
    let named = [("up", &bandwidth.up), ("down", &bandwidth.down)];
    named.into_iter().filter_map(|(name, flow)| Some((name, flow.as_ref()?)))
}

/// `tcp, 128 KiB, 8 streams both ways`.
pub(super) fn parameters(params: &Params, bulk: &BulkParams) -> String {
    let way = match bulk.direction.as_str() {
        "both" => "both ways",
        way => way,
    };
    format!(
        "{}, {}, {} {way}",
        params.proto,
        Size(params.size_bytes),
        plural(u64::from(params.connections), "stream"),
    )
}

/// How it was sent, as far as that was asked for: `paced at 200 Mbit/s, nodelay, DSCP 46`.
pub(super) fn options(bulk: &BulkParams) -> String {
    let size = |what: &str, bytes: Option<u32>| {
        bytes.map(|bytes| format!("{what} {}", Size(u64::from(bytes))))
    };
    let given = |is: bool, what: &str| is.then(|| what.to_owned());
    let named = |what: &str, name: &Option<String>| name.as_ref().map(|n| format!("{what} {n}"));
    let rate = bulk.rate_bits_per_s;
    let parts = [
        Some(rate.map_or_else(
            || "as fast as it goes".to_owned(),
            |rate| format!("paced at {}", round_bits(rate)),
        )),
        bulk.bytes.map(|bytes| format!("{} to move", volume(bytes))),
        given(bulk.zero_copy == "on", "zero-copy"),
        given(bulk.zero_copy == "off", "no zero-copy"),
        given(bulk.sink == "discard", "discarded on receipt"),
        named("congestion control", &bulk.congestion),
        size("MSS", bulk.mss_bytes),
        given(bulk.nodelay, "nodelay"),
        bulk.dscp.map(|dscp| format!("DSCP {dscp}")),
        size("send buffer", bulk.send_buffer_bytes),
        size("receive buffer", bulk.receive_buffer_bytes),
        named("from", &bulk.bind),
    ];
    phrases(parts)
}

/// Everything known of one step. Where the link decides, CPU comes first: bandwidth tells nothing there.
fn facts(step: &StepResult, bandwidth: &Bandwidth) -> Vec<Fact> {
    let mut facts = cpu(step, bandwidth);
    let received = fact("bandwidth", headline(bandwidth));
    let link = bandwidth.link.as_ref();
    if link.is_some_and(|link| link.bound) {
        facts.extend(link.map(|link| fact("link", link_of(link))));
        facts.push(received);
    } else {
        let link = link.map(|link| fact("link", link_of(link)));
        facts.splice(0..0, std::iter::once(received).chain(link));
    }
    let both = flows(bandwidth).count() > 1;
    for (name, flow) in flows(bandwidth) {
        if both {
            let rate = bits_within(flow.bits_per_s, flow.interval_bits_per_s);
            facts.push(fact(name, rate));
        }
        facts.extend(
            of_flow(flow, &step.params).into_iter().map(|found| Fact { is_part: both, ..found }),
        );
    }
    facts
}

fn link_of(link: &LinkUse) -> String {
    let text = format!(
        "{} of the {} that {} can carry at {}",
        percent(link.share),
        bits(link.ceiling_bits_per_s),
        link.device,
        round_bits(link.speed_bits_per_s)
    );
    match link.bound {
        true => format!("LINK-BOUND: {text}; compare CPU, not bandwidth"),
        false => text,
    }
}

/// What was received, in the words of every tool: bits, bytes, volume.
fn headline(bandwidth: &Bandwidth) -> String {
    let Some(rate) = bandwidth.bits_per_s else {
        return "not reported by the receiver".to_owned();
    };
    let both = flows(bandwidth).count() > 1;
    let short = bandwidth.interval_bits_per_s.is_none();
    format!(
        "{}{} ({}), {} received{}",
        bits_within(bandwidth.bits_per_s, bandwidth.interval_bits_per_s),
        if both { " both ways together" } else { "" },
        bytes_per_s(rate),
        volume(bandwidth.received_bytes),
        if short { ", too short for an interval" } else { "" }
    )
}

/// CPU time for what was received: of both ends, then of each.
fn cpu(step: &StepResult, bandwidth: &Bandwidth) -> Vec<Fact> {
    let total = bandwidth.cpu_s_per_gib;
    let per_mib = total.map(|s| format!(" ({})", cpu_per_mib(s / MIB_PER_GIB * 1e9)));
    let whose = match step.cpu.server {
        Some(_) => "both ends together",
        None => "of the client; the far end did not report its own",
    };
    let mut text = format!("{}{}, {whose}", cpu_per_gib(total), per_mib.unwrap_or_default());
    if let Some(working) = bandwidth.cpu_working_s_per_gib {
        let working = cpu_per_gib(Some(working));
        text += &format!("; {working} without the time in which they polled and found nothing");
    }
    let mut facts = vec![fact("cpu", text)];
    facts.push(part("client", cpu_of(&step.cpu.client, step.duration_ns)));
    let server = step.cpu.server.as_ref();
    facts.extend(server.map(|used| part("far end", cpu_of(used, step.duration_ns))));
    facts
}

/// CPU of one end, of the process and of the machine.
#[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
fn cpu_of(used: &CpuUse, duration_ns: u64) -> String {
    let share = |ns: u64| match duration_ns {
        0 => NONE.to_owned(),
        lasted => percent(ns as f64 / lasted as f64),
    };
    let (user, system) = (used.user_ns, used.system_ns);
    let all = user + system;
    let (of_all, user, system) = (share(all), share(user), share(system));
    phrases([
        Some(format!("{of_all} of a CPU (user {user}, kernel {system})")),
        super::observed::machine(used).map(|machine| format!("its machine {machine}")),
        used.per_mib_ns.map(|ns| {
            let per_gib = cpu_per_gib(Some(ns * MIB_PER_GIB / 1e9));
            format!("{per_gib} ({})", cpu_per_mib(ns))
        }),
        used.polling_ns.map(|polling| {
            format!("{} of it waiting by polling", percent(polling as f64 / all.max(1) as f64))
        }),
    ])
}

/// What is known of streams whose receiver reported nothing.
fn unreported(flow: &Flow) -> String {
    let streams = plural(u64::from(flow.untold_streams), "stream");
    let sent = volume(flow.sent_bytes);
    let acknowledged = flow.acknowledged_bytes;
    phrases([
        Some(format!("{streams} ended without the receiver's account; {sent} sent in all")),
        acknowledged.map(|bytes| format!("of theirs {} acknowledged", volume(bytes))),
    ])
}

fn of_flow(flow: &Flow, params: &Params) -> Vec<Fact> {
    let mut facts = Vec::new();
    if flow.untold_streams > 0 {
        facts.push(fact("unreported", unreported(flow)));
    }
    let received = flow.bits_per_s.unwrap_or_default();
    let more = (flow.sent_bits_per_s - received) / received.max(1.0);
    if more > RATES_DIFFER && flow.untold_streams == 0 {
        let text = format!(
            "{} taken by the sender's kernel, {} more than was received",
            bits(flow.sent_bits_per_s),
            percent(more)
        );
        facts.push(fact("sent", text));
    }
    facts.extend(streams(&flow.streams_bits_per_s));
    if let Some(datagrams) = &flow.datagrams {
        facts.push(fact("datagrams", datagrams_of(datagrams)));
        facts.extend(path_of(datagrams).map(|text| fact("path", text)));
        let reason = flow.per_send_reason.as_ref();
        let sends = reason.map(|why| format!("one for each datagram (no GSO): {why}"));
        facts.extend(sends.map(|text| fact("sends", text)));
        facts.extend(receiving_of(datagrams).map(|text| fact("buffers", text)));
    }
    if let Some(tcp) = &flow.tcp {
        facts.push(fact("tcp", tcp_of(tcp)));
        if params.size_bytes <= SMALL_SEND {
            facts.extend(segments(flow, tcp, params.size_bytes));
        }
        facts.extend(limits(tcp, flow));
    }
    facts.extend(flow.pacing.as_ref().map(|pacing| fact("pacing", pacing_of(pacing))));
    let zero_copy = flow.zero_copy.as_ref();
    facts.extend(zero_copy.map(|used| fact("zero-copy", zero_copy_of(used, flow.sends))));
    facts
}

/// The least, the median and the most of several streams.
pub(super) fn spread(each: &[f64]) -> Option<[f64; 3]> {
    let least = each.iter().copied().min_by(f64::total_cmp)?;
    let most = each.iter().copied().max_by(f64::total_cmp)?;
    Some([least, blocks::median(each)?, most])
}

fn streams(each: &[f64]) -> Option<Fact> {
    let [least, median, most] = spread(each).filter(|_| each.len() > 1)?.map(bits);
    let count = each.len();
    Some(fact("streams", format!("{count}: least {least}, median {median}, most {most}")))
}

fn tcp_of(tcp: &TcpFigures) -> String {
    let share = |all| super::share(tcp.retransmits, all);
    let retransmits = match tcp.retransmits {
        0 => "no retransmits".to_owned(),
        count => plural(count, "retransmit") + &tcp.segments.map_or_else(String::new, share),
    };
    let min = tcp.min_rtt_ns.map(|min| format!(" (min {})", span(min)));
    let buffer = |what, bytes: Option<u32>| {
        bytes.map(|bytes| format!("{what} buffer {}", volume(u64::from(bytes))))
    };
    phrases([
        Some(retransmits),
        Some(format!("rtt {}{}", span(tcp.rtt_ns), min.unwrap_or_default())),
        Some(format!("cwnd {}", volume(tcp.cwnd_bytes))),
        Some(format!("MSS {} B", grouped(u64::from(tcp.mss_bytes)))),
        tcp.congestion.clone(),
        buffer("send", tcp.send_buffer_bytes),
        buffer("receive", tcp.receive_buffer_bytes),
    ])
}

/// What the kernel (Nagle, and segments that wait for their turn) made of small sends.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn segments(flow: &Flow, tcp: &TcpFigures, size_bytes: u64) -> Option<Fact> {
    let segments = tcp.segments.filter(|segments| *segments > 0)?;
    let per_segment = flow.sends as f64 / segments as f64;
    let merged = if per_segment > 1.05 {
        format!("the kernel merged {} into each", significant(per_segment, 3))
    } else if per_segment < 0.95 {
        format!("{} for each send", significant(1.0 / per_segment, 3))
    } else {
        "none merged".to_owned()
    };
    let text = format!(
        "{} of {} left in {}: {merged}",
        plural(flow.sends, "send"),
        Size(size_bytes),
        plural(segments, "segment")
    );
    Some(fact("segments", text))
}

/// What the streams waited for, as shares of their time.
#[expect(clippy::cast_precision_loss, reason = "2^53 ns is 104 days")]
fn limits(tcp: &TcpFigures, flow: &Flow) -> Option<Fact> {
    let time = flow.duration_ns as f64 * flow.streams_bits_per_s.len().max(1) as f64;
    if time == 0.0 {
        return None;
    }
    let share = |ns: u64| (ns as f64 / time).min(1.0);
    let (busy, rwnd) = (tcp.busy_ns?, tcp.rwnd_limited_ns?);
    let parts = [
        (share(rwnd), "by the receiver's window"),
        (share(tcp.sndbuf_limited_ns?), "by the send buffer (--sndbuf)"),
        (
            1.0 - share(busy),
            "by the sender (nothing to send: it was off its CPU, or at other streams)",
        ),
    ];
    let parts = parts.into_iter().filter(|(share, _)| *share >= 0.01);
    let parts = parts.map(|(share, by)| format!("{} of the time {by}", percent(whole(share))));
    let parts: Vec<String> = parts.collect();
    let text = if parts.is_empty() {
        "neither the receiver's window nor the send buffer; there was always data to send".into()
    } else {
        parts.join(", ")
    };
    Some(fact("limited by", text))
}

/// A share of time to the whole per cent: more digits would be the sampling's.
fn whole(share: f64) -> f64 {
    (share * 100.0).round() / 100.0
}

fn datagrams_of(datagrams: &Datagrams) -> String {
    let (lost, per_send) = (datagrams.lost, datagrams.per_send);
    let share = if lost == 0 { String::new() } else { super::share(lost, datagrams.sent) };
    phrases([
        Some(format!("{} sent", grouped(datagrams.sent))),
        Some(format!("{} received", grouped(datagrams.received))),
        Some(format!("{} lost{share}", grouped(lost))),
        Some(format!("{} reordered", grouped(datagrams.reordered))),
        Some(format!("{} duplicated", grouped(datagrams.duplicated))),
        datagrams.jitter_ns.map(|jitter| format!("jitter {}", span(jitter))),
        (per_send > 1).then(|| format!("{per_send} to a send (GSO)")),
        datagrams.coalesced_on_receipt.then(|| "GRO at the receiver".to_owned()),
    ])
}

/// Datagrams that do not fit the path's MTU.
fn path_of(datagrams: &Datagrams) -> Option<String> {
    let fragments = datagrams.fragments.filter(|count| *count > 1)?;
    let mtu = grouped(u64::from(datagrams.path_mtu_bytes?));
    Some(format!("each datagram left as {fragments} IP fragments: the path's MTU is {mtu} B"))
}

/// The receiver's buffer, where it was too small.
fn receiving_of(datagrams: &Datagrams) -> Option<String> {
    let times = datagrams.receive_buffer_overflows.filter(|times| *times > 0)?;
    let several = match datagrams.coalesced_on_receipt {
        true => ", each time for one datagram or, by GRO, for several",
        false => "",
    };
    let size = datagrams.receive_buffer_bytes;
    let size = size.map_or_else(String::new, |bytes| format!(" of {}", volume(bytes.into())));
    let times = plural(times, "time");
    Some(format!("the receiver's{size} had no room {times}{several}"))
}

fn pacing_of(pacing: &Pacing) -> String {
    let both = |of: &Summary| format!("p50 {}, p99 {}", quantile(of, 50.0), quantile(of, 99.0));
    let unsent = match pacing.unsent {
        0 => String::new(),
        count => format!("; {} due but never made", plural(count, "send")),
    };
    format!(
        "{} asked, a send every {}; gaps off by {}; late by {}{unsent}",
        round_bits(pacing.target_bits_per_s),
        span(pacing.gap_ns),
        both(&pacing.gap_deviation),
        both(&pacing.lateness),
    )
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn zero_copy_of(used: &ZeroCopyUse, sends: u64) -> String {
    let mut text = match used.sends {
        0 => "not used".to_owned(),
        count => format!(
            "{} ({} of all), of which the kernel copied {} all the same",
            plural(count, "send"),
            percent(count as f64 / sends.max(1) as f64),
            percent(used.copied_share)
        ),
    };
    if let Some(reason) = &used.reason {
        text.push_str(&format!(": {reason}"));
    }
    text
}

/// The series over time, of which a screen holds the beginning and the end; none where it has but one entry.
fn series(step: &StepResult) -> Option<Table> {
    let all = &step.intervals;
    if all.len() < 2 {
        return None;
    }
    let tcp = all.iter().any(|entry| entry.tcp_info.is_some());
    let mut cells = Table::new(&["until", "received"]);
    if tcp {
        let more = ["retransmits", "cwnd", "rtt"];
        cells.header.extend(more.map(str::to_owned));
    }
    let left_out = all.len().saturating_sub(SERIES_ROWS);
    let half = SERIES_ROWS / 2;
    for (index, entry) in all.iter().enumerate() {
        if left_out > 0 && (half..half + left_out).contains(&index) {
            continue;
        }
        let rate = entry.bits_per_s.map_or_else(|| NONE.to_owned(), bits);
        let mut row = vec![span(entry.at_ns), rate];
        if tcp {
            row.extend(entry.tcp_info.map_or_else(
                || [NONE; 3].map(str::to_owned),
                |info| [grouped(info.retransmits), volume(info.cwnd_bytes), span(info.rtt_ns)],
            ));
        }
        cells.row(row);
    }
    if left_out > 0 {
        let text = format!("{left_out} entries in the middle are left out; JSON has them all");
        cells.notes.push(text);
    }
    Some(cells.named("Over time"))
}

/// A sweep: a row per step.
fn sweep(report: &Report) -> Table {
    let steps: Vec<(&StepResult, &Bandwidth)> =
        report.results.iter().filter_map(|step| Some((step, of(step)?))).collect();
    let fastest = steps.iter().filter_map(|(_, b)| b.bits_per_s);
    let fastest = fastest.fold(0.0, f64::max);
    let unit = Unit::of_bits(fastest);
    let streams =
        steps.iter().any(|(step, _)| step.params.connections != steps[0].0.params.connections);
    let both = steps.iter().any(|(_, b)| b.up.is_some() && b.down.is_some());
    let udp = steps.iter().any(|(step, _)| step.params.proto == "udp");
    let mut header = vec!["size"];
    header.extend(streams.then_some("streams"));
    header.extend([unit.name, "±"]);
    header.extend(both.then_some(["up", "down"]).into_iter().flatten());
    header.push("CPU s/GiB");
    header.extend(if udp {
        ["lost", "lost %", "jitter"]
    } else {
        ["retransmits", "segments/send", "rtt"]
    });
    let mut cells = Table::new(&header);
    for (step, bandwidth) in steps {
        let mut row = vec![Size(step.params.size_bytes).to_string()];
        row.extend(streams.then(|| step.params.connections.to_string()));
        let rate =
            |rate: Option<f64>| rate.map_or_else(|| NONE.into(), |rate| unit.number(rate, 4));
        row.push(rate(bandwidth.bits_per_s));
        let interval = bandwidth.interval_bits_per_s;
        row.push(interval.map_or_else(|| NONE.into(), |ends| half_width(ends, unit)));
        if both {
            let ways = [&bandwidth.up, &bandwidth.down];
            row.extend(ways.map(|flow| rate(flow.as_ref().and_then(|f| f.bits_per_s))));
        }
        let cpu = bandwidth.cpu_s_per_gib;
        row.push(cpu.map_or_else(|| NONE.into(), |s| significant(s, 3)));
        row.extend(if udp { lossy(bandwidth) } else { reliable(bandwidth) });
        cells.row(row);
    }
    cells
}

/// What a sweep tells of a step over UDP.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn lossy(bandwidth: &Bandwidth) -> [String; 3] {
    let sent: u64 = flows(bandwidth).filter_map(|(_, flow)| Some(flow.datagrams?.sent)).sum();
    let lost = bandwidth.lost_datagrams;
    let share = lost.map(|lost| lost as f64 / sent.max(1) as f64);
    [
        lost.map_or_else(|| NONE.into(), grouped),
        share.map_or_else(|| NONE.into(), |share| significant(share * 100.0, 3)),
        super::time(bandwidth.jitter_ns),
    ]
}

/// What a sweep tells of a step over TCP.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn reliable(bandwidth: &Bandwidth) -> [String; 3] {
    let known = flows(bandwidth).filter_map(|(_, flow)| Some((flow.sends, flow.tcp.as_ref()?)));
    let (mut sends, mut segments, mut rtt_ns) = (0, 0, None);
    for (sent, tcp) in known {
        sends += sent;
        segments += tcp.segments.unwrap_or_default();
        rtt_ns = rtt_ns.max(Some(tcp.rtt_ns));
    }
    let per_send = (sends > 0 && segments > 0).then(|| segments as f64 / sends as f64);
    [
        bandwidth.retransmits.map_or_else(|| NONE.into(), grouped),
        per_send.map_or_else(|| NONE.into(), |ratio| significant(ratio, 3)),
        super::time(rtt_ns),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::bulk::udp;

    fn told(report: &Report) -> Vec<String> {
        let step = &report.results[0];
        let facts = facts(step, step.bandwidth.as_ref().unwrap());
        facts.iter().map(|f| format!("{}: {}", f.name, f.text)).collect()
    }

    #[track_caller]
    fn has(report: &Report, fact: &str) {
        let all = told(report);
        assert!(all.iter().any(|text| text.contains(fact)), "{fact}: {all:#?}");
    }

    #[test]
    fn what_the_kernels_made_of_datagrams_is_told() {
        let mut report = udp();
        let bandwidth = report.results[0].bandwidth.as_mut().unwrap();
        let flow = bandwidth.up.iter_mut().chain(&mut bandwidth.down).next().unwrap();
        flow.per_send_reason = Some("fragments".to_owned());
        let datagrams = flow.datagrams.as_mut().unwrap();
        datagrams.coalesced_on_receipt = false;
        (datagrams.fragments, datagrams.path_mtu_bytes) = (Some(14), Some(1500));
        datagrams.receive_buffer_bytes = Some(212_992);
        datagrams.receive_buffer_overflows = Some(1);
        has(&report, "path: each datagram left as 14 IP fragments: the path's MTU is 1,500 B");
        has(&report, "sends: one for each datagram (no GSO): fragments");
        has(&report, "buffers: the receiver's of 208 KiB had no room 1 time");
    }

    #[test]
    fn what_polling_cost_is_told_apart() {
        let mut report = udp();
        let step = &mut report.results[0];
        let used = step.cpu.client.user_ns + step.cpu.client.system_ns;
        step.cpu.client = step.cpu.client.with_polling(Some(used * 3 / 4));
        step.bandwidth.as_mut().unwrap().cpu_working_s_per_gib = Some(1.5);
        has(&report, "75 % of it waiting by polling");
        has(&report, "; 1.50 s/GiB without the time in which they polled and found nothing");
    }
}
