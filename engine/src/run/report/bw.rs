//! The result of a bandwidth step.

use super::{
    Inputs, client_instrument, connections, cpu_use, instances, server_cpu, server_instrument,
};
use crate::analysis::link::{Carried, Framing};
use crate::analysis::{health, link, mean, summary};
use crate::histogram::Distribution;
use crate::proto::hello::{Direction, Figures};
use crate::proto::stream::{Blocks, Received, Sent};
use crate::result::{
    Bandwidth, Cpu, CpuUse, Datagrams, Flow, Instruments, Interval, LinkUse, Operations, Pacing,
    Rate, StepResult, TcpFigures, TcpInterval, Warmup, ZeroCopyUse,
};
use crate::run::instrument;
use crate::units::Nanos;
use crate::worker::bulk::{BulkTally, StreamAccount};

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
    Leg {
        sent: stream.own.sent.as_ref(),
        received: ends(&stream.theirs).1,
    }
}

fn down(stream: &StreamAccount) -> Leg<'_> {
    Leg {
        sent: ends(&stream.theirs).0,
        received: stream.own.received.as_ref(),
    }
}

/// The step's result.
pub(in crate::run) fn step(inputs: &Inputs<'_, BulkTally>, direction: Direction) -> StepResult {
    let result = &inputs.outcome.result;
    let (tally, outcome) = (&result.tally, &result.outcome);
    let client = client_instrument(inputs);
    let server = server_instrument(&outcome.figures);
    let own = cpu_use(
        result.usage.user_ns,
        result.usage.system_ns,
        inputs.outcome.disturbance.machine_busy,
        0,
        tally.moved_bytes,
    );
    let cpu = Cpu {
        client: own,
        server: server_cpu(&outcome.figures),
    };
    let bandwidth = bandwidth(inputs, direction, &cpu);
    let longest = |f: &Option<Flow>| f.as_ref().map_or(0, |f| f.duration_ns);
    let duration_ns = longest(&bandwidth.up).max(longest(&bandwidth.down));
    let sends = |f: &Option<Flow>| f.as_ref().map_or(0, |f| f.sends);
    let count = sends(&bandwidth.up).saturating_add(sends(&bandwidth.down));
    let unsent = |f: &Option<Flow>| {
        let pacing = f.as_ref().and_then(|f| f.pacing.as_ref());
        pacing.map_or(0, |p| p.unsent)
    };
    let unsent = unsent(&bandwidth.up).saturating_add(unsent(&bandwidth.down));
    let seconds = Nanos(duration_ns).as_secs_f64();
    let mut step = StepResult {
        label: inputs.common.label.clone(),
        params: inputs.params.clone(),
        duration_ns,
        operations: Operations {
            due: count.saturating_add(unsent),
            sent: count,
            completed: count,
            unsent_at_end: unsent,
            ..Operations::default()
        },
        warmup: Warmup {
            duration_ns: outcome.warmup.0,
            ..Warmup::default()
        },
        rate: Rate {
            target_per_s: None,
            achieved_per_s: per_second(count, seconds),
            backlog_max: None,
        },
        errors: tally.errors.to_counts(),
        connections: connections(inputs),
        cpu,
        latency_error_ns: instrument::latency_error(&client).0,
        instrument: Instruments { client, server },
        intervals: intervals(tally, inputs.common.interval, duration_ns),
        instances: instances(outcome),
        partial: outcome.cut_short || inputs.outcome.stopped.is_some(),
        bandwidth: Some(bandwidth),
        ..StepResult::default()
    };
    health::judge(&mut step);
    step
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

/// The bulk figures of a step.
#[expect(clippy::cast_precision_loss, reason = "a quotient of measured numbers")]
fn bandwidth(inputs: &Inputs<'_, BulkTally>, direction: Direction, cpu: &Cpu) -> Bandwidth {
    let streams = &inputs.outcome.result.tally.streams;
    let rate = inputs.params.bulk.as_ref().and_then(|b| b.rate_bits_per_s);
    let is_udp = inputs.params.proto == "udp";
    let flow_of = |of: fn(&StreamAccount) -> Leg<'_>| {
        let legs: Vec<Leg<'_>> = streams.iter().map(of).collect();
        flow(&legs, rate, is_udp, &inputs.common.percentiles)
    };
    let up = direction.is_up().then(|| flow_of(up));
    let down = direction.is_down().then(|| flow_of(down));
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
    let per_gib = cpu
        .server
        .as_ref()
        .and_then(per_mib)
        .zip(per_mib(&cpu.client));
    let mut bandwidth = Bandwidth {
        bits_per_s: both().map(|f| f.bits_per_s).sum(),
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
        up,
        down,
        link: None,
    };
    bandwidth.link = link_use(&bandwidth, inputs);
    bandwidth
}

fn link_use(bandwidth: &Bandwidth, inputs: &Inputs<'_, BulkTally>) -> Option<LinkUse> {
    let rate = |flow: &Option<Flow>| flow.as_ref().map(|f| f.bits_per_s);
    let tcp = |flow: &Option<Flow>| Some(flow.as_ref()?.tcp.as_ref()?.mss_bytes);
    let size_bytes = u32::try_from(inputs.params.size_bytes).unwrap_or(u32::MAX);
    let address = inputs.params.address.as_deref().unwrap_or_default();
    let carried = Carried {
        up_bits_per_s: rate(&bandwidth.up),
        down_bits_per_s: rate(&bandwidth.down),
        framing: if inputs.params.proto == "udp" {
            Framing::Udp { size_bytes }
        } else {
            Framing::Tcp {
                mss_bytes: tcp(&bandwidth.up).or_else(|| tcp(&bandwidth.down)),
            }
        },
        is_ipv6: address.starts_with('['),
    };
    let server = inputs.environment.servers.first();
    link::link_use(
        &carried,
        inputs.environment.client.device.as_ref(),
        server.and_then(|s| s.device.as_ref()),
    )
}

fn flow(legs: &[Leg<'_>], rate: Option<f64>, is_udp: bool, percentiles: &[f64]) -> Flow {
    let sent = || legs.iter().filter_map(|leg| leg.sent);
    let received = || legs.iter().filter_map(|leg| leg.received);
    let streams_bits_per_s: Vec<f64> = legs.iter().map(received_rate).collect();
    let datagrams = is_udp.then(|| datagrams(legs));
    Flow {
        bits_per_s: streams_bits_per_s.iter().sum(),
        interval_bits_per_s: interval(legs),
        sent_bits_per_s: sent()
            .map(|s| {
                per_second(
                    s.bytes.saturating_mul(8),
                    Nanos(s.duration_ns).as_secs_f64(),
                )
            })
            .sum(),
        duration_ns: received().map(|r| r.duration_ns).max().unwrap_or(0),
        sent_bytes: sent().map(|s| s.bytes).fold(0, u64::saturating_add),
        received_bytes: received().map(|r| r.bytes).fold(0, u64::saturating_add),
        sends: sent().map(|s| s.sends).fold(0, u64::saturating_add),
        streams_bits_per_s,
        tcp: tcp(legs),
        datagrams,
        zero_copy: zero_copy(legs),
        pacing: rate.map(|rate| pacing(legs, rate, percentiles)),
    }
}

/// Of the mean over the blocks of all streams together.
fn interval(legs: &[Leg<'_>]) -> Option<(f64, f64)> {
    let mut all: Option<(Blocks, Nanos)> = None;
    for received in legs.iter().filter_map(|leg| leg.received) {
        let duration = Nanos(received.duration_ns);
        match &mut all {
            None => all = Some((received.blocks.clone(), duration)),
            Some((blocks, shortest)) => {
                blocks.merge(&received.blocks);
                *shortest = duration.min(*shortest);
            }
        }
    }
    let (blocks, duration) = all?;
    mean::interval(blocks.whole(duration), Nanos(blocks.width_ns))
}

/// By the receiver's own clock.
fn received_rate(leg: &Leg<'_>) -> f64 {
    let Some(received) = leg.received else {
        return 0.0;
    };
    let duration = match (received.duration_ns, leg.sent) {
        // A single datagram tells no time.
        (0, Some(sent)) => sent.duration_ns,
        (ns, _) => ns,
    };
    per_second(
        received.bytes.saturating_mul(8),
        Nanos(duration).as_secs_f64(),
    )
}

fn datagrams(legs: &[Leg<'_>]) -> Datagrams {
    let mut all = Datagrams::default();
    for leg in legs {
        let sent = leg.sent.map_or(0, |s| s.datagrams);
        all.sent = all.sent.saturating_add(sent);
        all.per_send = all.per_send.max(leg.sent.map_or(0, |s| s.per_send));
        if let Some(received) = leg.received {
            all.received = all.received.saturating_add(received.datagrams);
            all.lost = all
                .lost
                .saturating_add(sent.saturating_sub(received.datagrams));
            all.reordered = all.reordered.saturating_add(received.reordered);
            all.duplicated = all.duplicated.saturating_add(received.duplicated);
            all.jitter_ns = all.jitter_ns.max(received.jitter_ns);
            all.coalesced_on_receipt |= received.coalesced;
        }
    }
    if all.per_send > 1 {
        // Datagrams of one send were sent at one instant: their spacing says nothing of the path.
        all.jitter_ns = None;
    }
    all
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn tcp(legs: &[Leg<'_>]) -> Option<TcpFigures> {
    let told: Vec<&TcpFigures> = legs
        .iter()
        .filter_map(|leg| leg.sent?.tcp.as_ref())
        .collect();
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
        rtt_ns: median(told.iter().map(|t| t.rtt_ns).collect()),
        min_rtt_ns: told.iter().filter_map(|t| t.min_rtt_ns).min(),
        mss_bytes: first.mss_bytes,
        busy_ns: sum_of(|t| t.busy_ns),
        rwnd_limited_ns: sum_of(|t| t.rwnd_limited_ns),
        sndbuf_limited_ns: sum_of(|t| t.sndbuf_limited_ns),
        congestion: first.congestion.clone(),
        send_buffer_bytes: first.send_buffer_bytes,
        receive_buffer_bytes: legs
            .iter()
            .find_map(|leg| leg.received?.receive_buffer_bytes),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn zero_copy(legs: &[Leg<'_>]) -> Option<ZeroCopyUse> {
    let told: Vec<&ZeroCopyUse> = legs
        .iter()
        .filter_map(|leg| leg.sent?.zero_copy.as_ref())
        .collect();
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
    let longest = legs()
        .filter_map(|leg| Some(leg.received?.series.len()))
        .max();
    let entry = |index: usize| {
        let begin = interval.0 * index as u64;
        let end = (begin + interval.0).min(duration_ns.max(begin + 1));
        let bytes: u64 = legs()
            .filter_map(|leg| leg.received?.series.get(index).copied())
            .fold(0, u64::saturating_add);
        let told: Vec<&TcpInterval> = legs()
            .filter_map(|leg| leg.sent?.tcp_series.get(index))
            .collect();
        let tcp_info = (!told.is_empty()).then(|| TcpInterval {
            retransmits: told
                .iter()
                .map(|t| t.retransmits)
                .fold(0, u64::saturating_add),
            cwnd_bytes: told
                .iter()
                .map(|t| t.cwnd_bytes)
                .fold(0, u64::saturating_add),
            rtt_ns: median(told.iter().map(|t| t.rtt_ns).collect()),
        });
        Interval {
            at_ns: end,
            bits_per_s: Some(per_second(
                bytes.saturating_mul(8),
                Nanos(end - begin).as_secs_f64(),
            )),
            tcp_info,
            ..Interval::default()
        }
    };
    (0..longest.unwrap_or(0)).map(entry).collect()
}
