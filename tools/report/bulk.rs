//! Reports of bulk runs.

use tare_stats::compare::blocks;
use tare_stats::result::{
    Bandwidth, BulkParams, CpuUse, Datagrams, Flow, LinkUse, Pacing, Params, Report, StepResult,
    Summary, TcpFigures, ZeroCopyUse,
};
use tare_units::Size;

use super::common::{results, troubles};
use super::document::{Block, Document, Field, Table, field, fields, note, part};
use super::numbers::{
    MIB_PER_GIB, NONE, bits, bits_within, bytes_per_s, cpu_per_gib, cpu_per_mib, half_width, known,
    percent, quantile, round_bits, share, significant, time, unit_of_bits, volume,
};
use super::{grouped, list, machines, parameters as parameters_of, phrases, plural};

/// Sends up to this size get a line on what the kernel made of them, bytes.
const SMALL_SEND: u64 = 16 << 10;
/// Rows of the series that are printed; of a longer one its beginning and its end.
const SERIES_ROWS: usize = 20;
/// The sender's rate is printed where it is above the receiver's by more than this share.
const RATES_DIFFER: f64 = 0.005;

pub(super) const PAYLOAD: &str =
    "Rates are of payload, as the receiving end got it; bits are decimal, KiB MiB GiB binary.";

pub(super) fn build(document: &mut Document, report: &Report) {
    let sweep = || {
        let bound = report.results.iter().filter_map(|one| {
            let link = of(one)?.link.as_ref().filter(|link| link.bound)?;
            let text = format!("LINK-BOUND by {}; compare CPU, not bandwidth", link.device);
            Some(field(parameters_of(&one.params), text))
        });
        (vec![Block::Table(sweep(report))], bound.collect())
    };
    let heading = "Instrument, in the last step";
    results(document, report, vec![note(PAYLOAD)], sweep, heading, step);
}

fn step(step: &StepResult) -> Vec<Block> {
    let nothing = || note("Nothing was received in the measured phase.");
    let bandwidth = of(step);
    let facts = bandwidth.map(|bandwidth| facts(step, bandwidth)).unwrap_or_default();
    let mut blocks = Vec::from_iter(bandwidth.is_none().then(nothing));
    blocks.extend(Block::fields(facts.into_iter().chain(troubles(step))));
    blocks.extend(series(step).map(Block::Table));
    blocks
}

/// The bulk figures of a step of a bulk run; none in a latency run, where they would be the load's.
pub(super) fn of(step: &StepResult) -> Option<&Bandwidth> {
    let is_load = step.params.load().is_some();
    step.bandwidth.as_ref().filter(|_| !is_load)
}

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
    let (size, streams) =
        (Size(params.size_bytes), plural(u64::from(params.connections), "stream"));
    format!("{}, {size}, {streams} {way}", params.proto)
}

/// How it was sent, as far as that was asked for: `paced at 200 Mbit/s, nodelay, DSCP 46`.
pub(super) fn options(bulk: &BulkParams) -> String {
    let size = |what: &str, bytes: Option<u32>| {
        bytes.map(|bytes| format!("{what} {}", Size(u64::from(bytes))))
    };
    let given = |is: bool, what: &str| is.then(|| what.to_owned());
    let named = |what: &str, name: &Option<String>| name.as_ref().map(|n| format!("{what} {n}"));
    phrases([
        Some(match bulk.rate_bits_per_s {
            Some(rate) => format!("paced at {}", round_bits(rate)),
            None => "as fast as it goes".to_owned(),
        }),
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
    ])
}

/// Everything known of one step. Where the link decides, CPU comes first: bandwidth tells nothing
/// there.
fn facts(step: &StepResult, bandwidth: &Bandwidth) -> Vec<Field> {
    let link = bandwidth.link.as_ref();
    let received = field("bandwidth", headline(bandwidth));
    let linked = link.map(|link| field("link", link_of(link)));
    let mut first = [vec![received], Vec::from_iter(linked), cpu(step, bandwidth)];
    if link.is_some_and(|link| link.bound) {
        first.reverse();
    }
    let mut facts: Vec<Field> = first.into_iter().flatten().collect();
    let both = flows(bandwidth).count() > 1;
    for (name, flow) in flows(bandwidth) {
        let rate = bits_within(flow.bits_per_s, flow.interval_bits_per_s);
        facts.extend(both.then(|| field(name, rate)));
        let of_flow = of_flow(flow, &step.params).into_iter();
        facts.extend(of_flow.map(|found| Field { is_part: both, ..found }));
    }
    facts
}

fn link_of(link: &LinkUse) -> String {
    let (share, ceiling) = (percent(link.share), bits(link.ceiling_bits_per_s));
    let (device, speed) = (&link.device, round_bits(link.speed_bits_per_s));
    let text = format!("{share} of the {ceiling} that {device} can carry at {speed}");
    if link.bound { format!("LINK-BOUND: {text}; compare CPU, not bandwidth") } else { text }
}

fn headline(bandwidth: &Bandwidth) -> String {
    let Some(rate) = bandwidth.bits_per_s else { return "not reported by the receiver".to_owned() };
    let interval = bandwidth.interval_bits_per_s;
    let within = bits_within(Some(rate), interval);
    let both = if flows(bandwidth).count() > 1 { " both ways together" } else { "" };
    let short = if interval.is_none() { ", too short for an interval" } else { "" };
    let (bytes, received) = (bytes_per_s(rate), volume(bandwidth.received_bytes));
    format!("{within}{both} ({bytes}), {received} received{short}")
}

fn cpu(step: &StepResult, bandwidth: &Bandwidth) -> Vec<Field> {
    let total = bandwidth.cpu_s_per_gib;
    let per_mib = total.map(|s| format!(" ({})", cpu_per_mib(s / MIB_PER_GIB * 1e9)));
    let whose = match step.cpu.server {
        Some(_) => "both ends together",
        None => "of the client; the server did not report its own",
    };
    let working = bandwidth.cpu_working_s_per_gib.map(|working| {
        let working = cpu_per_gib(Some(working));
        format!("; {working} without the time in which they polled and found nothing")
    });
    let (per_mib, working) = (per_mib.unwrap_or_default(), working.unwrap_or_default());
    let mut found =
        vec![field("cpu", format!("{}{per_mib}, {whose}{working}", cpu_per_gib(total)))];
    found.push(part("client", cpu_of(&step.cpu.client, step.duration_ns)));
    found.extend(step.cpu.server.map(|used| part("server", cpu_of(&used, step.duration_ns))));
    found
}

fn cpu_of(used: &CpuUse, duration_ns: u64) -> String {
    let share = |ns: u64| match duration_ns {
        0 => NONE.to_owned(),
        lasted => percent(ns as f64 / lasted as f64),
    };
    let all = used.user_ns + used.system_ns;
    let (of_all, user, system) = (share(all), share(used.user_ns), share(used.system_ns));
    phrases([
        Some(format!("{of_all} of a CPU (user {user}, kernel {system})")),
        machines::machine(used).map(|machine| format!("its machine {machine}")),
        used.per_mib_ns.map(|ns| {
            let per_gib = cpu_per_gib(Some(ns * MIB_PER_GIB / 1e9));
            format!("{per_gib} ({})", cpu_per_mib(ns))
        }),
        used.polling_ns.map(|polling| {
            format!("{} of it waiting by polling", percent(polling as f64 / all.max(1) as f64))
        }),
    ])
}

fn of_flow(flow: &Flow, params: &Params) -> Vec<Field> {
    let silent = flow.untold_streams;
    // What is known of streams whose receiver reported nothing.
    let unreported = (silent > 0).then(|| {
        let streams = plural(u64::from(silent), "stream");
        let sent = volume(flow.sent_bytes);
        let acknowledged = flow.acknowledged_bytes;
        phrases([
            Some(format!("{streams} ended without the receiver's account; {sent} sent in all")),
            acknowledged.map(|bytes| format!("of theirs {} acknowledged", volume(bytes))),
        ])
    });
    let received = flow.bits_per_s.unwrap_or_default();
    let more = (flow.sent_bits_per_s - received) / received.max(1.0);
    let sent = (more > RATES_DIFFER && silent == 0).then(|| {
        let (rate, more) = (bits(flow.sent_bits_per_s), percent(more));
        format!("{rate} taken by the sender's kernel, {more} more than was received")
    });
    let datagrams = flow.datagrams.as_ref();
    let one_by_one = flow.per_send_reason.as_ref().filter(|_| datagrams.is_some());
    let tcp = flow.tcp.as_ref();
    let zero_copy = flow.zero_copy.as_ref();
    fields([
        ("unreported", unreported),
        ("sent", sent),
        ("streams", streams(&flow.streams_bits_per_s)),
        ("datagrams", datagrams.map(datagrams_of)),
        ("path", datagrams.and_then(path_of)),
        ("sends", one_by_one.map(|why| format!("one for each datagram (no GSO): {why}"))),
        ("buffers", datagrams.and_then(receiving_of)),
        ("tcp", tcp.map(tcp_of)),
        ("segments", tcp.and_then(|tcp| segments(flow, tcp, params.size_bytes))),
        ("limited by", tcp.and_then(|tcp| limits(tcp, flow))),
        ("pacing", flow.pacing.as_ref().map(pacing_of)),
        ("zero-copy", zero_copy.map(|used| zero_copy_of(used, flow.sends))),
    ])
}

pub(super) fn spread(each: &[f64]) -> Option<[f64; 3]> {
    let least = each.iter().copied().min_by(f64::total_cmp)?;
    let most = each.iter().copied().max_by(f64::total_cmp)?;
    Some([least, blocks::median(each)?, most])
}

fn streams(each: &[f64]) -> Option<String> {
    let [least, median, most] = spread(each).filter(|_| each.len() > 1)?.map(bits);
    Some(format!("{}: least {least}, median {median}, most {most}", each.len()))
}

fn tcp_of(tcp: &TcpFigures) -> String {
    let of_all = tcp.segments.map(|all| share(tcp.retransmits, all));
    let buffer = |what, bytes: Option<u32>| {
        bytes.map(|bytes| format!("{what} buffer {}", volume(u64::from(bytes))))
    };
    let min = tcp.min_rtt_ns.map(|min| format!(" (min {})", time(min)));
    phrases([
        Some(match tcp.retransmits {
            0 => "no retransmits".to_owned(),
            count => plural(count, "retransmit") + &of_all.unwrap_or_default(),
        }),
        Some(format!("rtt {}{}", time(tcp.rtt_ns), min.unwrap_or_default())),
        Some(format!("cwnd {}", volume(tcp.cwnd_bytes))),
        Some(format!("MSS {} B", grouped(u64::from(tcp.mss_bytes)))),
        tcp.congestion_control.clone(),
        buffer("send", tcp.send_buffer_bytes),
        buffer("receive", tcp.receive_buffer_bytes),
    ])
}

/// What the kernel (Nagle, and segments that wait for their turn) made of small sends.
fn segments(flow: &Flow, tcp: &TcpFigures, size_bytes: u64) -> Option<String> {
    let segments = tcp.segments.filter(|segments| *segments > 0 && size_bytes <= SMALL_SEND)?;
    let per_segment = flow.sends as f64 / segments as f64;
    let merged = if per_segment > 1.05 {
        format!("the kernel merged {} into each", significant(per_segment, 3))
    } else if per_segment < 0.95 {
        format!("{} for each send", significant(1.0 / per_segment, 3))
    } else {
        "none merged".to_owned()
    };
    let (sends, segments) = (plural(flow.sends, "send"), plural(segments, "segment"));
    Some(format!("{sends} of {} left in {segments}: {merged}", Size(size_bytes)))
}

/// What the streams waited for, as shares of their time.
fn limits(tcp: &TcpFigures, flow: &Flow) -> Option<String> {
    let all = flow.duration_ns as f64 * flow.streams_bits_per_s.len().max(1) as f64;
    let share = |ns: u64| (all > 0.0).then(|| (ns as f64 / all).min(1.0));
    let idle = "by the sender (nothing to send: it was off its CPU, or at other streams)";
    let shares = [
        (share(tcp.rwnd_limited_ns?)?, "by the receiver's window"),
        (share(tcp.sndbuf_limited_ns?)?, "by the send buffer (--sndbuf)"),
        (1.0 - share(tcp.busy_ns?)?, idle),
    ];
    // To the whole per cent: more digits would be the sampling's.
    let whole = |share: f64| percent((share * 100.0).round() / 100.0);
    let shares = shares.into_iter().filter(|(share, _)| *share >= 0.01);
    let text = list(shares.map(|(share, by)| format!("{} of the time {by}", whole(share))));
    let none = "neither the receiver's window nor the send buffer; there was always data to send";
    Some(if text.is_empty() { none.to_owned() } else { text })
}

fn datagrams_of(datagrams: &Datagrams) -> String {
    let (lost, per_send) = (datagrams.lost, datagrams.per_send);
    let share = if lost == 0 { String::new() } else { share(lost, datagrams.sent) };
    phrases([
        Some(format!("{} sent", grouped(datagrams.sent))),
        Some(format!("{} received", grouped(datagrams.received))),
        Some(format!("{} lost{share}", grouped(lost))),
        Some(format!("{} reordered", grouped(datagrams.reordered))),
        Some(format!("{} duplicated", grouped(datagrams.duplicated))),
        datagrams.jitter_ns.map(|jitter| format!("jitter {}", time(jitter))),
        (per_send > 1).then(|| format!("{per_send} to a send (GSO)")),
        datagrams.coalesced_on_receipt.then(|| "GRO at the receiver".to_owned()),
    ])
}

fn path_of(datagrams: &Datagrams) -> Option<String> {
    let fragments = datagrams.fragments.filter(|count| *count > 1)?;
    let mtu = grouped(u64::from(datagrams.path_mtu_bytes?));
    Some(format!("each datagram left as {fragments} IP fragments: the path's MTU is {mtu} B"))
}

fn receiving_of(datagrams: &Datagrams) -> Option<String> {
    let times = datagrams.receive_buffer_overflows.filter(|times| *times > 0)?;
    let by_gro = ", each time for one datagram or, by GRO, for several";
    let several = if datagrams.coalesced_on_receipt { by_gro } else { "" };
    let size = datagrams.receive_buffer_bytes;
    let size = size.map_or_else(String::new, |bytes| format!(" of {}", volume(bytes.into())));
    Some(format!("the receiver's{size} had no room {}{several}", plural(times, "time")))
}

fn pacing_of(pacing: &Pacing) -> String {
    let both = |of: &Summary| format!("p50 {}, p99 {}", quantile(of, 50.0), quantile(of, 99.0));
    let unsent = match pacing.unsent {
        0 => String::new(),
        count => format!("; {} due but never made", plural(count, "send")),
    };
    let (rate, gap) = (round_bits(pacing.target_bits_per_s), time(pacing.gap_ns));
    let (off, late) = (both(&pacing.gap_deviation), both(&pacing.lateness));
    format!("{rate} asked, a send every {gap}; gaps off by {off}; late by {late}{unsent}")
}

fn zero_copy_of(used: &ZeroCopyUse, sends: u64) -> String {
    let reason = used.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    if used.sends == 0 {
        return format!("not used{reason}");
    }
    let [share, copied] = [used.sends as f64 / sends.max(1) as f64, used.copied_share].map(percent);
    let sends = plural(used.sends, "send");
    format!("{sends} ({share} of all), of which the kernel copied {copied} all the same{reason}")
}

fn series(step: &StepResult) -> Option<Table> {
    let all = &step.intervals;
    let tcp = all.iter().any(|entry| entry.tcp_info.is_some());
    let table = Table::of(
        all,
        &[
            ("until", &|entry| time(entry.at_ns)),
            ("received", &|entry| known(entry.bits_per_s, bits)),
            ("retransmits", &|entry| known(entry.tcp_info, |info| grouped(info.retransmits))),
            ("cwnd", &|entry| known(entry.tcp_info, |info| volume(info.cwnd_bytes))),
            ("rtt", &|entry| known(entry.tcp_info, |info| time(info.rtt_ns))),
        ],
    );
    let table = table.only_if(tcp, &["retransmits", "cwnd", "rtt"]).shortened(SERIES_ROWS);
    (all.len() > 1).then_some(table.named("Over time"))
}

fn sweep(report: &Report) -> Table {
    let steps = report.results.iter().filter_map(|step| Some((step, of(step)?)));
    let steps: Vec<(&StepResult, &Bandwidth)> = steps.collect();
    let fastest = steps.iter().filter_map(|(_, b)| b.bits_per_s).fold(0.0, f64::max);
    let unit = unit_of_bits(fastest);
    let rate = |rate: Option<f64>| known(rate, |rate| significant(rate / unit.1, 4));
    let of_way = |flow: &Option<Flow>| rate(flow.as_ref().and_then(|flow| flow.bits_per_s));
    let streams = steps.iter().any(|(s, _)| s.params.connections != steps[0].0.params.connections);
    let both = steps.iter().any(|(_, b)| b.up.is_some() && b.down.is_some());
    let udp = steps.iter().any(|(step, _)| step.params.proto == "udp");
    let table = Table::of(
        steps,
        &[
            ("size", &|(step, _)| Size(step.params.size_bytes).to_string()),
            ("streams", &|(step, _)| step.params.connections.to_string()),
            (unit.0, &|(_, found)| rate(found.bits_per_s)),
            ("±", &|(_, found)| known(found.interval_bits_per_s, |ends| half_width(ends, unit))),
            ("up", &|(_, found)| of_way(&found.up)),
            ("down", &|(_, found)| of_way(&found.down)),
            ("CPU s/GiB", &|(_, found)| known(found.cpu_s_per_gib, |s| significant(s, 3))),
            ("lost", &|(_, found)| known(found.lost_datagrams, grouped)),
            ("lost %", &|(_, found)| known(loss(found), |loss| significant(loss * 100.0, 3))),
            ("jitter", &|(_, found)| time(found.jitter_ns)),
            ("retransmits", &|(_, found)| known(found.retransmits, grouped)),
            ("segments/send", &|(_, found)| known(per_send(found), |of| significant(of, 3))),
            ("rtt", &|(_, found)| time(tcp(found).map(|(_, tcp)| tcp.rtt_ns).max())),
        ],
    );
    let table = table.only_if(streams, &["streams"]).only_if(both, &["up", "down"]);
    let table = table.only_if(udp, &["lost", "lost %", "jitter"]);
    table.only_if(!udp, &["retransmits", "segments/send", "rtt"])
}

fn loss(bandwidth: &Bandwidth) -> Option<f64> {
    let sent: u64 = flows(bandwidth).filter_map(|(_, flow)| Some(flow.datagrams?.sent)).sum();
    Some(bandwidth.lost_datagrams? as f64 / sent.max(1) as f64)
}

fn tcp(bandwidth: &Bandwidth) -> impl Iterator<Item = (u64, &TcpFigures)> {
    flows(bandwidth).filter_map(|(_, flow)| Some((flow.sends, flow.tcp.as_ref()?)))
}

fn per_send(bandwidth: &Bandwidth) -> Option<f64> {
    let sends: u64 = tcp(bandwidth).map(|(sends, _)| sends).sum();
    let segments: u64 = tcp(bandwidth).filter_map(|(_, tcp)| tcp.segments).sum();
    (sends > 0 && segments > 0).then(|| segments as f64 / sends as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::bulk::udp;

    #[track_caller]
    fn has(report: &Report, fact: &str) {
        let step = &report.results[0];
        let facts = facts(step, step.bandwidth.as_ref().unwrap()).into_iter();
        let all: Vec<String> = facts.map(|f| format!("{}: {}", f.name, f.text)).collect();
        assert!(all.iter().any(|text| text.contains(fact)), "{fact}: {all:#?}");
    }

    #[test]
    fn what_the_kernels_made_of_datagrams_is_reported() {
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
    fn what_polling_cost_is_reported_apart() {
        let mut report = udp();
        let step = &mut report.results[0];
        let used = step.cpu.client.user_ns + step.cpu.client.system_ns;
        step.cpu.client = step.cpu.client.with_polling(Some(used * 3 / 4));
        step.bandwidth.as_mut().unwrap().cpu_working_s_per_gib = Some(1.5);
        has(&report, "75 % of it waiting by polling");
        has(&report, "; 1.50 s/GiB without the time in which they polled and found nothing");
    }
}
