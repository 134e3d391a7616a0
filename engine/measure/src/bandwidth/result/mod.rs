//! The result of a bandwidth step.

use super::plan::BwPlan;
use crate::bandwidth::client::{BulkTally, StreamAccount};
use crate::run::instrument;
use crate::run::report::common_result;
use crate::run::setting::Setting;
use crate::run::step::StepOutcome;
use tare_proto::hello::Transport;
use tare_proto::stream::{Blocks, Received, Sent, StreamFigures};
use tare_stats::compare::blocks;
use tare_stats::histogram::Distribution;
use tare_stats::result::{
    Bandwidth, Cpu, CpuUse, Datagrams, Flow, Interval, Operations, Pacing, Params, StepResult,
    TcpFigures, TcpInterval, ZeroCopyUse,
};
use tare_stats::{quantile, summary};
use tare_units::Nanos;
use tare_units::limits::INTERVALS_MAX;

/// One direction of a stream: what its sender says, and what its receiver does.
#[derive(Debug, Clone, Copy, Default)]
struct Leg<'a> {
    sent: Option<&'a Sent>,
    received: Option<&'a Received>,
}

fn theirs(stream: &StreamAccount) -> Option<&StreamFigures> {
    stream.theirs.as_ref()?.stream.as_ref()
}

fn up(stream: &StreamAccount) -> Leg<'_> {
    let received = theirs(stream).and_then(|theirs| theirs.received.as_ref());
    Leg { sent: stream.own.sent.as_ref(), received }
}

fn down(stream: &StreamAccount) -> Leg<'_> {
    let sent = theirs(stream).and_then(|theirs| theirs.sent.as_ref());
    Leg { sent, received: stream.own.received.as_ref() }
}

pub(super) fn of_step(
    at: &Setting,
    plan: &BwPlan,
    params: Params,
    outcome: &StepOutcome<BulkTally>,
) -> StepResult {
    let tally = &outcome.workers.tally;
    let mut step = common_result(at, &plan.common, params, outcome, (0, tally.moved_bytes));
    let bandwidth = bandwidth(tally, plan, &step.cpu);
    let flows = || bandwidth.up.iter().chain(&bandwidth.down);
    let count = sum(flows().map(|flow| flow.sends));
    let unsent = sum(flows().filter_map(|flow| Some(flow.pacing.as_ref()?.unsent)));
    step.duration_ns = flows().map(|flow| flow.duration_ns).max().unwrap_or(0);
    step.operations = Operations {
        due: count.saturating_add(unsent),
        sent: count,
        completed: count,
        unsent_at_end: unsent,
        ..Operations::default()
    };
    step.rate.achieved_per_s = per_second(count, Nanos(step.duration_ns).as_secs_f64());
    step.errors = tally.errors.to_counts();
    step.connections.asked = streams_asked(&step.params);
    step.latency_error_ns = instrument::latency_error(&step.instrument.client).0;
    step.intervals = intervals(tally, plan.common.interval, step.duration_ns);
    step.bandwidth = Some(bandwidth);
    step
}

/// Streams without a byte to send are not opened.
fn streams_asked(params: &Params) -> u64 {
    let bytes = params.bulk.as_ref().and_then(|bulk| bulk.bytes);
    let streams = u64::from(params.connections);
    bytes.map_or(streams, |bytes| bytes.min(streams))
}

/// What peers tell may be anything, so no sum overflows.
fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

fn bandwidth(tally: &BulkTally, plan: &BwPlan, cpu: &Cpu) -> Bandwidth {
    let is_udp = plan.transport == Transport::Udp;
    let flow_of = |of: fn(&StreamAccount) -> Leg<'_>| {
        let legs: Vec<Leg<'_>> = tally.streams.iter().map(of).collect();
        flow(&legs, plan.rate_bits_per_s, is_udp, &plan.common.percentiles)
    };
    let up = plan.direction.is_up().then(|| flow_of(up));
    let down = plan.direction.is_down().then(|| flow_of(down));
    let both = || up.iter().chain(&down);
    let datagrams = |of: fn(&Datagrams) -> u64| {
        is_udp.then(|| sum(both().filter_map(|f| f.datagrams.as_ref()).map(of)))
    };
    let received_bytes = sum(both().map(|f| f.received_bytes));
    // Each byte that is received was moved by both ends; each end's time is per byte that it moved.
    let per_gib = |of: fn(&CpuUse) -> Option<f64>| {
        let both = cpu.server.as_ref().and_then(of).zip(of(&cpu.client));
        both.filter(|_| received_bytes > 0).map(|(server, client)| (server + client) * 1024.0 / 1e9)
    };
    let mut ends = cpu.server.iter().chain([&cpu.client]);
    let polls = ends.any(|end| end.polling_ns.is_some());
    let working = per_gib(|c| c.per_mib_working_ns.or(c.per_mib_ns));
    Bandwidth {
        bits_per_s: both().filter_map(|f| f.bits_per_s).reduce(|a, b| a + b),
        interval_bits_per_s: both()
            .map(|f| f.interval_bits_per_s)
            .reduce(|a, b| a.zip(b).map(|(a, b)| (a.0 + b.0, a.1 + b.1)))
            .flatten(),
        sent_bytes: sum(both().map(|f| f.sent_bytes)),
        received_bytes,
        lost_datagrams: datagrams(|d| d.lost),
        reordered_datagrams: datagrams(|d| d.reordered),
        duplicated_datagrams: datagrams(|d| d.duplicated),
        jitter_ns: both().filter_map(|f| f.datagrams?.jitter_ns).max(),
        retransmits: both()
            .filter_map(|f| Some(f.tcp.as_ref()?.retransmits))
            .reduce(u64::saturating_add),
        cpu_s_per_gib: per_gib(|c| c.per_mib_ns),
        cpu_working_s_per_gib: working.filter(|_| polls),
        up,
        down,
        // Told once the devices of both ends are known.
        link: None,
    }
}

fn flow(legs: &[Leg<'_>], rate: Option<f64>, is_udp: bool, percentiles: &[f64]) -> Flow {
    let sent = || legs.iter().filter_map(|leg| leg.sent);
    let received = || legs.iter().filter_map(|leg| leg.received);
    let sent_bytes = sum(sent().map(|s| s.bytes));
    let received_bytes = sum(received().map(|r| r.bytes));
    let sent_ns = sent().map(|s| s.duration_ns).max();
    let duration_ns = legs.iter().filter_map(received_ns).max().unwrap_or(0);
    let untold = legs.iter().filter(|leg| leg.received.is_none()).count();
    let datagrams = is_udp.then(|| datagrams(legs));
    let unpaced = datagrams.as_ref().filter(|_| rate.is_none());
    Flow {
        bits_per_s: (untold < legs.len()).then(|| rate_of(received_bytes, duration_ns)),
        interval_bits_per_s: interval(legs, Nanos(duration_ns)),
        sent_bits_per_s: rate_of(sent_bytes, sent_ns.unwrap_or(0)),
        duration_ns,
        sent_bytes,
        received_bytes,
        untold_streams: u32::try_from(untold).unwrap_or(u32::MAX),
        acknowledged_bytes: acknowledged(legs),
        sends: sum(sent().map(|s| s.sends)),
        streams_bits_per_s: legs
            .iter()
            .filter_map(|leg| Some(rate_of(leg.received?.bytes, received_ns(leg)?)))
            .collect(),
        tcp: tcp(legs),
        per_send_reason: unpaced.and_then(|unpaced| per_send_reason(legs, unpaced)),
        datagrams,
        zero_copy: zero_copy(legs),
        pacing: rate.map(|rate| pacing(legs, rate, percentiles)),
    }
}

fn rate_of(bytes: u64, duration_ns: u64) -> f64 {
    per_second(bytes.saturating_mul(8), Nanos(duration_ns).as_secs_f64())
}

/// The measured phase by the receiver's own clock. Datagrams cannot have come faster than they were
/// sent: a receiver that first looked when some had waited for it saw too short a time, and one
/// that got a single one saw none.
fn received_ns(leg: &Leg<'_>) -> Option<u64> {
    let received = leg.received?;
    match leg.sent {
        Some(sent) if received.datagrams > 0 || received.duration_ns == 0 => {
            Some(received.duration_ns.max(sent.duration_ns))
        }
        _ => Some(received.duration_ns),
    }
}

/// What is known to have arrived of what no receiver told of. It takes what is not acknowledged for
/// the last of what was measured.
fn acknowledged(legs: &[Leg<'_>]) -> Option<u64> {
    let untold = legs.iter().filter(|leg| leg.received.is_none());
    let each = untold.filter_map(|leg| {
        let sent = leg.sent?;
        Some(sent.bytes.saturating_sub(sent.unacknowledged_bytes?))
    });
    each.reduce(u64::saturating_add)
}

/// Of the mean over the blocks of all streams. One that ended early brought nothing from then on.
fn interval(legs: &[Leg<'_>], duration: Nanos) -> Option<(f64, f64)> {
    let mut all = Blocks::default();
    for received in legs.iter().filter_map(|leg| leg.received) {
        all.merge(&received.blocks);
    }
    quantile::mean_rate(&all.whole(duration), Nanos(all.width_ns))
}

fn datagrams(legs: &[Leg<'_>]) -> Datagrams {
    let sent = || legs.iter().filter_map(|leg| leg.sent);
    let received = || legs.iter().filter_map(|leg| leg.received);
    // What no receiver told of is not lost: it is not known.
    let lost = legs.iter().filter_map(|leg| {
        let sent = leg.sent.map_or(0, |s| s.datagrams);
        Some(sent.saturating_sub(leg.received?.datagrams))
    });
    let mut all = Datagrams {
        sent: sum(sent().map(|s| s.datagrams)),
        received: sum(received().map(|r| r.datagrams)),
        lost: sum(lost),
        reordered: sum(received().map(|r| r.reordered)),
        duplicated: sum(received().map(|r| r.duplicated)),
        jitter_ns: received().filter_map(|r| r.jitter_ns).max(),
        per_send: sent().map(|s| s.per_send).max().unwrap_or(0),
        fragments: sent().filter_map(|s| s.fragments).max(),
        path_mtu_bytes: sent().filter_map(|s| s.path_mtu_bytes).min(),
        send_buffer_bytes: sent().filter_map(|s| s.send_buffer_bytes).min(),
        receive_buffer_bytes: received().filter_map(|r| r.receive_buffer_bytes).min(),
        receive_buffer_overflows: received()
            .filter_map(|r| r.overflows)
            .reduce(u64::saturating_add),
        coalesced_on_receipt: received().any(|r| r.coalesced),
    };
    if all.per_send > 1 {
        // Datagrams of one send were sent at one instant: their spacing says nothing of the path.
        all.jitter_ns = None;
    }
    all
}

/// Why an unpaced sender hands datagrams over one by one; absent where it does not.
fn per_send_reason(legs: &[Leg<'_>], datagrams: &Datagrams) -> Option<String> {
    match (datagrams.per_send, datagrams.fragments) {
        (2.., _) => None,
        (_, Some(2..)) => Some("fragments cannot be cut by the kernel's offload".to_owned()),
        _ => legs.iter().find_map(|leg| leg.sent?.per_send_reason.clone()),
    }
}

/// The median of times of several streams, nanoseconds.
fn median_ns(values: impl Iterator<Item = u64>) -> u64 {
    let values: Vec<f64> = values.map(|ns| ns as f64).collect();
    blocks::median(&values).map_or(0, |median| median as u64)
}

fn tcp(legs: &[Leg<'_>]) -> Option<TcpFigures> {
    let known: Vec<&TcpFigures> = legs.iter().filter_map(|leg| leg.sent?.tcp.as_ref()).collect();
    let first = *known.first()?;
    let sum_of = |of: fn(&TcpFigures) -> Option<u64>| {
        let each: Option<Vec<u64>> = known.iter().map(|t| of(t)).collect();
        each.map(|all| sum(all.into_iter()))
    };
    Some(TcpFigures {
        retransmits: sum(known.iter().map(|t| t.retransmits)),
        segments: sum_of(|t| t.segments),
        cwnd_bytes: sum(known.iter().map(|t| t.cwnd_bytes)),
        rtt_ns: median_ns(known.iter().map(|t| t.rtt_ns)),
        min_rtt_ns: known.iter().filter_map(|t| t.min_rtt_ns).min(),
        busy_ns: sum_of(|t| t.busy_ns),
        rwnd_limited_ns: sum_of(|t| t.rwnd_limited_ns),
        sndbuf_limited_ns: sum_of(|t| t.sndbuf_limited_ns),
        receive_buffer_bytes: legs.iter().find_map(|leg| leg.received?.receive_buffer_bytes),
        ..first.clone()
    })
}

fn zero_copy(legs: &[Leg<'_>]) -> Option<ZeroCopyUse> {
    let known: Vec<&ZeroCopyUse> =
        legs.iter().filter_map(|leg| leg.sent?.zero_copy.as_ref()).collect();
    let count = known.len();
    (count > 0).then(|| ZeroCopyUse {
        sends: sum(known.iter().map(|z| z.sends)),
        copied_share: known.iter().map(|z| z.copied_share).sum::<f64>() / count as f64,
        reason: known.iter().find_map(|z| z.reason.clone()),
    })
}

fn pacing(legs: &[Leg<'_>], rate: f64, percentiles: &[f64]) -> Pacing {
    let merged = |of: fn(&Sent) -> Option<&String>| {
        let mut all = Distribution::uncensored();
        for text in legs.iter().filter_map(|leg| of(leg.sent?)) {
            if let Ok(one) = Distribution::decode(text) {
                all.merge(&one);
            }
        }
        summary::summarise(&all, percentiles, &|_| 1.0)
    };
    let sent = || legs.iter().filter_map(|leg| leg.sent);
    Pacing {
        target_bits_per_s: rate,
        gap_ns: sent().map(|s| s.gap_ns).max().unwrap_or(0),
        gap_deviation: merged(|s| s.gap_deviation_hdr.as_ref()),
        lateness: merged(|s| s.lateness_hdr.as_ref()),
        unsent: sum(sent().map(|s| s.unsent)),
    }
}

/// The series: what each receiver got in each entry, and what the senders' kernels said.
fn intervals(tally: &BulkTally, interval: Nanos, duration_ns: u64) -> Vec<Interval> {
    let legs = || tally.streams.iter().flat_map(|s| [up(s), down(s)]);
    // Where nothing came at the end, that is shown as well.
    let known = usize::try_from(duration_ns / interval.0.max(1)).unwrap_or(INTERVALS_MAX);
    let longest = legs()
        .filter_map(|leg| Some(leg.received?.series.len()))
        .max()
        .map(|longest| longest.max(known).min(INTERVALS_MAX));
    let entry = |index: usize| {
        let begin = interval.0 * index as u64;
        let end = (begin + interval.0).min(duration_ns.max(begin + 1));
        let bytes = sum(legs().filter_map(|leg| leg.received?.series.get(index).copied()));
        let known: Vec<&TcpInterval> =
            legs().filter_map(|leg| leg.sent?.tcp_series.get(index)).collect();
        let tcp_info = (!known.is_empty()).then(|| TcpInterval {
            retransmits: sum(known.iter().map(|t| t.retransmits)),
            cwnd_bytes: sum(known.iter().map(|t| t.cwnd_bytes)),
            rtt_ns: median_ns(known.iter().map(|t| t.rtt_ns)),
        });
        Interval {
            at_ns: end,
            bits_per_s: Some(per_second(bytes.saturating_mul(8), Nanos(end - begin).as_secs_f64())),
            tcp_info,
            ..Interval::default()
        }
    };
    let mut entries: Vec<Interval> = (0..longest.unwrap_or(0)).map(entry).collect();
    join_sliver(&mut entries, interval);
    entries
}

/// Makes one entry of the last two where the last is a sliver: receivers of datagrams measure a
/// little longer than was asked for, and a rate over that little says nothing.
fn join_sliver(entries: &mut Vec<Interval>, interval: Nanos) {
    let [.., before, last] = entries.as_mut_slice() else { return };
    let length = last.at_ns - before.at_ns;
    if length >= interval.0 / 10 {
        return;
    }
    let mean = |full: f64, sliver: f64| {
        let (full_ns, sliver_ns) = (interval.0 as f64, length as f64);
        (full * full_ns + sliver * sliver_ns) / (full_ns + sliver_ns)
    };
    before.bits_per_s = before.bits_per_s.zip(last.bits_per_s).map(|(a, b)| mean(a, b));
    before.at_ns = last.at_ns;
    entries.pop();
}

#[cfg(test)]
mod tests;
