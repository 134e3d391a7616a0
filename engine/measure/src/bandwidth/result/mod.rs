//! The result of a bandwidth step.

use super::plan::BwPlan;
use crate::bandwidth::client::{BulkTally, StreamAccount};
use crate::run::instrument;
use crate::run::report::common_result;
use crate::run::step::StepOutcome;
use crate::run::sweep::Setting;
use tare_proto::hello::{Figures, Transport};
use tare_proto::stream::{Blocks, Received, Sent};
use tare_stats::compare::blocks;
use tare_stats::histogram::Distribution;
use tare_stats::result::{
    Bandwidth, Cpu, CpuUse, Datagrams, Flow, Interval, Operations, Pacing, Params, StepResult,
    TcpFigures, TcpInterval, ZeroCopyUse,
};
use tare_stats::{mean, summary};
use tare_units::Nanos;
use tare_units::limits::INTERVALS_MAX;

/// One direction of a stream: what its sender says, and what its receiver does.
#[derive(Debug, Clone, Copy, Default)]
struct Leg<'a> {
    sent: Option<&'a Sent>,
    received: Option<&'a Received>,
}

fn ends(figures: &Option<Figures>) -> (Option<&Sent>, Option<&Received>) {
    let stream = figures.as_ref().and_then(|f| f.stream.as_ref());
    let sent = stream.and_then(|s| s.sent.as_ref());
    (sent, stream.and_then(|s| s.received.as_ref()))
}

fn up(stream: &StreamAccount) -> Leg<'_> {
    Leg { sent: stream.own.sent.as_ref(), received: ends(&stream.theirs).1 }
}

fn down(stream: &StreamAccount) -> Leg<'_> {
    Leg { sent: ends(&stream.theirs).0, received: stream.own.received.as_ref() }
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
    let sum = |of: fn(&Flow) -> u64| flows().map(of).fold(0, u64::saturating_add);
    let count = sum(|flow| flow.sends);
    let unsent = sum(|flow| flow.pacing.as_ref().map_or(0, |p| p.unsent));
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

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// The bulk figures of a step.
#[expect(clippy::cast_precision_loss, reason = "a quotient of measured numbers")]
fn bandwidth(tally: &BulkTally, plan: &BwPlan, cpu: &Cpu) -> Bandwidth {
    let is_udp = plan.transport == Transport::Udp;
    let flow_of = |of: fn(&StreamAccount) -> Leg<'_>| {
        let legs: Vec<Leg<'_>> = tally.streams.iter().map(of).collect();
        flow(&legs, plan.rate_bits_per_s, is_udp, &plan.common.percentiles)
    };
    let up = plan.direction.is_up().then(|| flow_of(up));
    let down = plan.direction.is_down().then(|| flow_of(down));
    let both = || up.iter().chain(&down);
    let sum = |of: fn(&Flow) -> u64| both().map(of).fold(0, u64::saturating_add);
    let datagrams = |of: fn(&Datagrams) -> u64| {
        let each = both().filter_map(|f| f.datagrams.as_ref());
        is_udp.then(|| each.map(of).fold(0, u64::saturating_add))
    };
    let received_bytes = sum(|f| f.received_bytes);
    let gib = received_bytes as f64 / f64::from(1 << 30);
    let per_mib = |c: &CpuUse| c.per_mib_ns;
    // Each byte that is received was moved by both ends; each end's time is per byte that it moved.
    let per_gib = cpu.server.as_ref().and_then(per_mib).zip(per_mib(&cpu.client));
    let working = |c: &CpuUse| c.per_mib_working_ns.or(c.per_mib_ns);
    let polls = cpu.server.iter().chain([&cpu.client]);
    let polls = polls.into_iter().any(|end| end.polling_ns.is_some());
    let working = cpu.server.as_ref().and_then(working).zip(working(&cpu.client));
    Bandwidth {
        bits_per_s: both().filter_map(|f| f.bits_per_s).reduce(|a, b| a + b),
        interval_bits_per_s: both()
            .map(|f| f.interval_bits_per_s)
            .reduce(|a, b| a.zip(b).map(|(a, b)| (a.0 + b.0, a.1 + b.1)))
            .flatten(),
        sent_bytes: sum(|f| f.sent_bytes),
        received_bytes,
        lost_datagrams: datagrams(|d| d.lost),
        reordered_datagrams: datagrams(|d| d.reordered),
        duplicated_datagrams: datagrams(|d| d.duplicated),
        jitter_ns: both().filter_map(|f| f.datagrams?.jitter_ns).max(),
        retransmits: both()
            .filter_map(|f| Some(f.tcp.as_ref()?.retransmits))
            .reduce(u64::saturating_add),
        cpu_s_per_gib: per_gib
            .filter(|_| gib > 0.0)
            .map(|(server, client)| (server + client) * 1024.0 / 1e9),
        cpu_working_s_per_gib: working
            .filter(|_| gib > 0.0 && polls)
            .map(|(server, client)| (server + client) * 1024.0 / 1e9),
        up,
        down,
        // Told once the devices of both ends are known.
        link: None,
    }
}

fn flow(legs: &[Leg<'_>], rate: Option<f64>, is_udp: bool, percentiles: &[f64]) -> Flow {
    let sent = || legs.iter().filter_map(|leg| leg.sent);
    let received = || legs.iter().filter_map(|leg| leg.received);
    let (sent_bytes, received_bytes) = (
        sent().map(|s| s.bytes).fold(0, u64::saturating_add),
        received().map(|r| r.bytes).fold(0, u64::saturating_add),
    );
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
        sends: sent().map(|s| s.sends).fold(0, u64::saturating_add),
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

/// The measured phase by the receiver's own clock. Datagrams cannot have come faster than they were sent: a receiver that
/// first looked when some had waited for it saw too short a time, and one that got a single one saw none.
fn received_ns(leg: &Leg<'_>) -> Option<u64> {
    let received = leg.received?;
    match leg.sent {
        Some(sent) if received.datagrams > 0 || received.duration_ns == 0 => {
            Some(received.duration_ns.max(sent.duration_ns))
        }
        _ => Some(received.duration_ns),
    }
}

/// What is known to have arrived of what no receiver told of. It takes what is not acknowledged for the last of what
/// was measured.
fn acknowledged(legs: &[Leg<'_>]) -> Option<u64> {
    let untold = legs.iter().filter(|leg| leg.received.is_none());
    let each = untold.filter_map(|leg| {
        let sent = leg.sent?;
        Some(sent.bytes.saturating_sub(sent.unacknowledged_bytes?))
    });
    each.reduce(u64::saturating_add)
}

/// Of the mean over the blocks of all streams together. A stream that ended early brought nothing from then on.
fn interval(legs: &[Leg<'_>], duration: Nanos) -> Option<(f64, f64)> {
    let mut all = Blocks::default();
    for received in legs.iter().filter_map(|leg| leg.received) {
        all.merge(&received.blocks);
    }
    mean::interval(&all.whole(duration), Nanos(all.width_ns))
}

fn datagrams(legs: &[Leg<'_>]) -> Datagrams {
    let mut all = Datagrams::default();
    for leg in legs {
        let sent = leg.sent.map_or(0, |s| s.datagrams);
        all.sent = all.sent.saturating_add(sent);
        all.per_send = all.per_send.max(leg.sent.map_or(0, |s| s.per_send));
        all.fragments = all.fragments.max(leg.sent.and_then(|s| s.fragments));
        all.path_mtu_bytes = least(all.path_mtu_bytes, leg.sent.and_then(|s| s.path_mtu_bytes));
        all.send_buffer_bytes =
            least(all.send_buffer_bytes, leg.sent.and_then(|s| s.send_buffer_bytes));
        if let Some(received) = leg.received {
            all.received = all.received.saturating_add(received.datagrams);
            all.lost = all.lost.saturating_add(sent.saturating_sub(received.datagrams));
            all.reordered = all.reordered.saturating_add(received.reordered);
            all.duplicated = all.duplicated.saturating_add(received.duplicated);
            all.jitter_ns = all.jitter_ns.max(received.jitter_ns);
            all.coalesced_on_receipt |= received.coalesced;
            all.receive_buffer_bytes =
                least(all.receive_buffer_bytes, received.receive_buffer_bytes);
            all.receive_buffer_overflows = [all.receive_buffer_overflows, received.overflows]
                .into_iter()
                .flatten()
                .reduce(u64::saturating_add);
        }
    }
    if all.per_send > 1 {
        // Datagrams of one send were sent at one instant: their spacing says nothing of the path.
        all.jitter_ns = None;
    }
    all
}

/// The smaller of what is known.
fn least(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    a.into_iter().chain(b).min()
}

/// Why an unpaced sender hands datagrams over one by one; absent where it does not.
fn per_send_reason(legs: &[Leg<'_>], datagrams: &Datagrams) -> Option<String> {
    let told = || legs.iter().find_map(|leg| leg.sent?.per_send_reason.clone());
    let fragments = datagrams.fragments.filter(|count| *count > 1);
    if datagrams.per_send > 1 {
        return None;
    }
    fragments.map(|_| "fragments cannot be cut by the kernel's offload".to_owned()).or_else(told)
}

/// The median of times that streams told, nanoseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "times stay below 2^52 ns, and the median lies among them"
)]
fn median_ns(values: impl Iterator<Item = u64>) -> u64 {
    let values: Vec<f64> = values.map(|ns| ns as f64).collect();
    blocks::median(&values).map_or(0, |median| median as u64)
}

fn tcp(legs: &[Leg<'_>]) -> Option<TcpFigures> {
    let told: Vec<&TcpFigures> = legs.iter().filter_map(|leg| leg.sent?.tcp.as_ref()).collect();
    let first = *told.first()?;
    let sum = |of: fn(&TcpFigures) -> u64| told.iter().map(|t| of(t)).fold(0, u64::saturating_add);
    let sum_of = |of: fn(&TcpFigures) -> Option<u64>| {
        let each: Option<Vec<u64>> = told.iter().map(|t| of(t)).collect();
        each.map(|all| all.into_iter().fold(0, u64::saturating_add))
    };
    Some(TcpFigures {
        retransmits: sum(|t| t.retransmits),
        segments: sum_of(|t| t.segments),
        cwnd_bytes: sum(|t| t.cwnd_bytes),
        rtt_ns: median_ns(told.iter().map(|t| t.rtt_ns)),
        min_rtt_ns: told.iter().filter_map(|t| t.min_rtt_ns).min(),
        mss_bytes: first.mss_bytes,
        busy_ns: sum_of(|t| t.busy_ns),
        rwnd_limited_ns: sum_of(|t| t.rwnd_limited_ns),
        sndbuf_limited_ns: sum_of(|t| t.sndbuf_limited_ns),
        congestion: first.congestion.clone(),
        send_buffer_bytes: first.send_buffer_bytes,
        receive_buffer_bytes: legs.iter().find_map(|leg| leg.received?.receive_buffer_bytes),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn zero_copy(legs: &[Leg<'_>]) -> Option<ZeroCopyUse> {
    let told: Vec<&ZeroCopyUse> =
        legs.iter().filter_map(|leg| leg.sent?.zero_copy.as_ref()).collect();
    let count = told.len();
    (count > 0).then(|| ZeroCopyUse {
        sends: told.iter().map(|z| z.sends).fold(0, u64::saturating_add),
        copied_share: told.iter().map(|z| z.copied_share).sum::<f64>() / count as f64,
        reason: told.iter().find_map(|z| z.reason.clone()),
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
        unsent: sent().map(|s| s.unsent).fold(0, u64::saturating_add),
    }
}

/// The series: what was received in each entry, by each receiver's clock, and what the senders' kernels said.
fn intervals(tally: &BulkTally, interval: Nanos, duration_ns: u64) -> Vec<Interval> {
    let legs = || tally.streams.iter().flat_map(|s| [up(s), down(s)]);
    // Where nothing came at the end, that is told as well.
    let told = usize::try_from(duration_ns / interval.0.max(1)).unwrap_or(INTERVALS_MAX);
    let longest = legs()
        .filter_map(|leg| Some(leg.received?.series.len()))
        .max()
        .map(|longest| longest.max(told).min(INTERVALS_MAX));
    let entry = |index: usize| {
        let begin = interval.0 * index as u64;
        let end = (begin + interval.0).min(duration_ns.max(begin + 1));
        let bytes: u64 = legs()
            .filter_map(|leg| leg.received?.series.get(index).copied())
            .fold(0, u64::saturating_add);
        let told: Vec<&TcpInterval> =
            legs().filter_map(|leg| leg.sent?.tcp_series.get(index)).collect();
        let tcp_info = (!told.is_empty()).then(|| TcpInterval {
            retransmits: told.iter().map(|t| t.retransmits).fold(0, u64::saturating_add),
            cwnd_bytes: told.iter().map(|t| t.cwnd_bytes).fold(0, u64::saturating_add),
            rtt_ns: median_ns(told.iter().map(|t| t.rtt_ns)),
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

/// Makes one entry of the last two where the last is a sliver: receivers of datagrams measure a little longer than was
/// asked for, and a rate over that little says nothing.
#[expect(clippy::cast_precision_loss, reason = "a mean of two rates")]
fn join_sliver(entries: &mut Vec<Interval>, interval: Nanos) {
    let [.., before, last] = entries.as_mut_slice() else {
        return;
    };
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
