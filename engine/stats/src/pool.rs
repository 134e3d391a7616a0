//! Several measurements of the same step, pooled into one result: counts are added, histograms
//! merged, and of what tells how far a number can be trusted the worst is kept. Percentiles are
//! never averaged.

use std::collections::BTreeMap;

use super::quantile::{BLOCKS_MIN, design_effect};
use super::summary::{summarise, summary_of};
use crate::histogram::{Distribution, Metric, rank};
use crate::number::real;
use crate::result::{
    Bandwidth, CpuUse, ErrorCount, Flow, INTERVALS_OF_RUN, INTERVALS_OF_VISITS, Instrument,
    Interval, Latencies, Observed, StepResult, Summary,
};

/// The step, over all of its measurements: in that order, each with when it began, nanoseconds
/// after the first one did. Its series over time has an entry for each. `None` of none.
pub(crate) fn pool(steps: &[(u64, StepResult)]) -> Option<StepResult> {
    let (_, first) = steps.first()?;
    let mut pooled = StepResult {
        label: first.label.clone(),
        params: first.params.clone(),
        began_at: first.began_at.clone(),
        ..StepResult::default()
    };
    pooled.rate.target_per_s = first.rate.target_per_s;
    pooled.connections.asked = first.connections.asked;
    pooled.connections.established = first.connections.established;
    for (at, step) in steps {
        add(&mut pooled, step);
        pooled.intervals.push(interval_of(*at, step));
    }
    // How fewer visits than that differ is not in their intervals.
    let few = steps.len() < BLOCKS_MIN;
    pooled.interval_scope = if few { INTERVALS_OF_RUN } else { INTERVALS_OF_VISITS }.to_owned();
    let all: Vec<&Latencies> = steps.iter().map(|(_, step)| &step.latency).collect();
    pooled.latency = latencies(&all);
    let carried = steps.iter().map(|(_, step)| Some((step.duration_ns, step.bandwidth.as_ref()?)));
    pooled.bandwidth = bandwidth(&carried.flatten().collect::<Vec<_>>());
    finish_cpu(&mut pooled);
    Some(pooled)
}

fn add(pooled: &mut StepResult, step: &StepResult) {
    add_rate(pooled, step);
    pooled.duration_ns += step.duration_ns;
    pooled.operations.add(&step.operations);
    pooled.warmup.duration_ns += step.warmup.duration_ns;
    pooled.warmup.operations.add(&step.warmup.operations);
    add_errors(&mut pooled.warmup.errors, &step.warmup.errors);
    for (code, own) in &step.status_codes {
        let known = pooled.status_codes.entry(code.clone());
        known.and_modify(|known| known.count += own.count).or_insert(*own);
    }
    add_transfer(pooled, step);
    add_errors(&mut pooled.errors, &step.errors);
    let (all, own) = (&mut pooled.connections, &step.connections);
    all.established = all.established.min(own.established);
    all.reconnects += own.reconnects;
    all.sockets_used += own.sockets_used;
    add_known(&mut all.connecting_ns, own.connecting_ns);
    add_known(&mut all.down_ns, own.down_ns);
    add_known(&mut all.resent, own.resent);
    for (fault, count) in &step.framing_faults {
        *pooled.framing_faults.entry(fault.clone()).or_default() += count;
    }
    add_cpu(&mut pooled.cpu.client, &step.cpu.client);
    if let Some(server) = &step.cpu.server {
        add_cpu(pooled.cpu.server.get_or_insert_default(), server);
    }
    pooled.latency_error_ns = pooled.latency_error_ns.max(step.latency_error_ns);
    add_instrument(&mut pooled.instrument.client, &step.instrument.client);
    if let Some(server) = &step.instrument.server {
        add_instrument(pooled.instrument.server.get_or_insert_default(), server);
    }
    let is_twin = |a: &Observed, b: &Observed| a.name == b.name;
    add_each(&mut pooled.observed, &step.observed, is_twin, Observed::add);
    for instance in &step.instances {
        if !pooled.instances.contains(instance) {
            pooled.instances.push(instance.clone());
        }
    }
    pooled.partial |= step.partial;
}

/// Rates are weighted by how long they were measured, and so is what was answered in that time.
fn add_rate(pooled: &mut StepResult, step: &StepResult) {
    let (before_ns, own_ns) = (real(pooled.duration_ns), real(step.duration_ns));
    let (all, own) = (&mut pooled.rate, &step.rate);
    if before_ns + own_ns > 0.0 {
        let sum = all.achieved_per_s * before_ns + own.achieved_per_s * own_ns;
        all.achieved_per_s = sum / (before_ns + own_ns);
    }
    all.backlog_max = all.backlog_max.max(own.backlog_max);
    add_known(&mut all.generator_away_ns, own.generator_away_ns);
    if let Some(own) = own.unloaded {
        let all = all.unloaded.get_or_insert_default();
        let sum = all.mean_ns * real(all.count) + own.mean_ns * real(own.count);
        all.count += own.count;
        all.mean_ns = sum / real(all.count.max(1));
    }
}

fn interval_of(at_ns: u64, step: &StepResult) -> Interval {
    let headline = headline(&step.latency);
    Interval {
        at_ns: at_ns + step.duration_ns,
        completed: step.operations.completed,
        errors: step.operations.failed + step.operations.timed_out,
        p50_ns: headline.p50_ns,
        p99_ns: headline.p99_ns,
        max_ns: headline.max_ns,
        bits_per_s: step.bandwidth.as_ref().and_then(|b| b.bits_per_s),
        ..Interval::default()
    }
}

/// From the intended send where there is a schedule, else from the actual one.
pub fn headline(latency: &Latencies) -> &Summary {
    latency.response.as_ref().unwrap_or(&latency.service)
}

/// Adds to each of `all` its own twin; one without is appended.
fn add_each<T: Clone>(
    all: &mut Vec<T>,
    own: &[T],
    is_twin: fn(&T, &T) -> bool,
    add: fn(&mut T, &T),
) {
    for one in own {
        match all.iter_mut().find(|known| is_twin(known, one)) {
            Some(known) => add(known, one),
            None => all.push(one.clone()),
        }
    }
}

fn add_errors(all: &mut Vec<ErrorCount>, own: &[ErrorCount]) {
    let is_twin = |a: &ErrorCount, b: &ErrorCount| (&a.phase, &a.cause) == (&b.phase, &b.cause);
    add_each(all, own, is_twin, |known, error| known.count += error.count);
}

/// The sum of what is known.
fn add_known(all: &mut Option<u64>, own: Option<u64>) {
    *all = all.iter().copied().chain(own).reduce(|a, b| a + b);
}

fn add_transfer(pooled: &mut StepResult, step: &StepResult) {
    let Some(own) = &step.transfer else { return };
    let all = pooled.transfer.get_or_insert_default();
    all.sent_bytes += own.sent_bytes;
    all.received_bytes += own.received_bytes;
    all.body_bytes += own.body_bytes;
    // The durations up to this one are already in.
    if pooled.duration_ns > 0 {
        all.received_bytes_per_s = real(all.received_bytes) * 1e9 / real(pooled.duration_ns);
    }
}

fn add_cpu(all: &mut CpuUse, own: &CpuUse) {
    all.user_ns += own.user_ns;
    all.system_ns += own.system_ns;
    add_known(&mut all.polling_ns, own.polling_ns);
    // The busiest: a mean would hide the one measurement beside which something else ran.
    let highest = |all: Option<f64>, own| all.into_iter().chain(own).reduce(f64::max);
    all.machine_busy = highest(all.machine_busy, own.machine_busy);
    all.machine_softirq = highest(all.machine_softirq, own.machine_softirq);
    add_known(&mut all.machine_softnet_dropped, own.machine_softnet_dropped);
    add_known(&mut all.machine_softnet_squeezed, own.machine_softnet_squeezed);
}

/// Shares of CPU time, once the sums are known.
fn finish_cpu(pooled: &mut StepResult) {
    let operations = pooled.operations.completed;
    let bytes = pooled.bandwidth.as_ref().map_or(0, |b| b.received_bytes);
    for cpu in std::iter::once(&mut pooled.cpu.client).chain(pooled.cpu.server.as_mut()) {
        let used = real(cpu.user_ns + cpu.system_ns);
        let mib = real(bytes) / f64::from(1 << 20);
        cpu.per_operation_ns = (operations > 0).then(|| used / real(operations));
        cpu.per_mib_ns = (bytes > 0).then(|| used / mib);
        *cpu = cpu.with_polling(cpu.polling_ns);
    }
}

/// Keeps of each figure the worse one; counts are added.
fn add_instrument(all: &mut Instrument, own: &Instrument) {
    if all.backend.is_empty() {
        *all = own.clone();
        return;
    }
    keep_worse(all, own);
    all.involuntary_switches += own.involuntary_switches;
    all.voluntary_switches += own.voluntary_switches;
    add_known(&mut all.run_queue_ns, own.run_queue_ns);
    add_known(&mut all.steal_ns, own.steal_ns);
    add_known(&mut all.throttled_periods, own.throttled_periods);
    add_known(&mut all.throttled_ns, own.throttled_ns);
    all.ring_overflows += own.ring_overflows;
    all.saturated |= own.saturated;
    all.disturbed |= own.disturbed;
    // In the words of the first that has any.
    if all.saturation.is_none() {
        all.saturation.clone_from(&own.saturation);
    }
    if all.disturbances.is_empty() {
        all.disturbances.clone_from(&own.disturbances);
    }
}

/// Keeps of each figure that is an extreme or a quantile the worse one, and the CPUs of both.
pub fn keep_worse(all: &mut Instrument, own: &Instrument) {
    all.clock_ns = all.clock_ns.max(own.clock_ns);
    all.clock_granularity_ns = all.clock_granularity_ns.max(own.clock_granularity_ns);
    all.turn_p50_ns = all.turn_p50_ns.max(own.turn_p50_ns);
    all.turn_p99_ns = all.turn_p99_ns.max(own.turn_p99_ns);
    all.turn_max_ns = all.turn_max_ns.max(own.turn_max_ns);
    all.gap_p99_ns = all.gap_p99_ns.max(own.gap_p99_ns);
    all.wakeup_p99_ns = all.wakeup_p99_ns.max(own.wakeup_p99_ns);
    all.batch_bound_ns = all.batch_bound_ns.max(own.batch_bound_ns);
    all.worker_busy_max = all.worker_busy_max.max(own.worker_busy_max);
    all.cpus.extend(&own.cpus);
    all.cpus.sort_unstable();
    all.cpus.dedup();
}

fn latencies(all: &[&Latencies]) -> Latencies {
    let merge = |metric| {
        summary(&all.iter().filter_map(|latency| summary_of(latency, metric)).collect::<Vec<_>>())
    };
    let mut codes: BTreeMap<&String, Vec<&Summary>> = BTreeMap::new();
    for (code, summary) in all.iter().flat_map(|latency| &latency.by_status) {
        codes.entry(code).or_default().push(summary);
    }
    let codes = codes.into_iter();
    Latencies {
        response: merge(Metric::Response),
        service: merge(Metric::Service).unwrap_or_default(),
        lateness: merge(Metric::Lateness),
        connect: merge(Metric::Connect),
        server_residence: merge(Metric::Residence),
        path: merge(Metric::Path),
        by_status: codes.filter_map(|(code, own)| Some((code.clone(), summary(&own)?))).collect(),
    }
}

/// One distribution of several. Each is a block for the intervals of its quantiles: how much they
/// differ tells what the samples together are worth. What rested on censored samples in any of them
/// does in all.
fn summary(all: &[&Summary]) -> Option<Summary> {
    let measured = all.iter().filter(|summary| summary.count > 0);
    let parts: Vec<(&Summary, Distribution)> = measured
        .filter_map(|summary| Some((*summary, Distribution::decode(&summary.hdr).ok()?)))
        .collect();
    if parts.is_empty() {
        return all.first().map(|s| (*s).clone());
    }
    let mut merged = Distribution::uncensored();
    parts.iter().for_each(|(_, part)| merged.merge(part));
    let effect = |share: f64| {
        let Some(rank) = rank(merged.count(), share * 100.0) else { return 1.0 };
        let at = merged.at_rank(rank);
        let blocks: Vec<(u64, u64)> =
            parts.iter().map(|(_, part)| (part.count(), part.count_up_to(at))).collect();
        design_effect(&blocks)
    };
    let extra = all.iter().flat_map(|summary| summary.extra_ns.keys());
    let mut percentiles: Vec<f64> =
        extra.filter_map(|name| name.strip_prefix('p')?.replace('_', ".").parse().ok()).collect();
    percentiles.sort_by(f64::total_cmp);
    percentiles.dedup();
    let mut pooled = summarise(&merged, &percentiles, &effect);
    // What the encoded histograms round, or do not hold, the summaries tell exactly.
    let own = || parts.iter().map(|(summary, _)| *summary);
    pooled.min_ns = own().filter_map(|s| s.min_ns).min();
    pooled.max_ns = own().filter_map(|s| s.max_ns).max();
    let sum: f64 = own().filter_map(|s| Some(s.mean_ns? * real(s.count))).sum();
    pooled.mean_ns = Some(sum / real(pooled.count.max(1)));
    pooled.censored = own().map(|s| s.censored).sum();
    pooled.lower_bounds = own().flat_map(|s| s.lower_bounds.clone()).collect();
    pooled.lower_bounds.sort_unstable();
    pooled.lower_bounds.dedup();
    // The worst is kept, as of all that tells how far a figure can be trusted.
    for (name, &error) in own().flat_map(|s| &s.errors_ns) {
        if pooled.intervals_ns.contains_key(name) {
            let worst = pooled.errors_ns.entry(name.clone()).or_default();
            *worst = error.max(*worst);
        }
    }
    Some(pooled)
}

/// Bytes are added; rates are those of all bytes over all the time.
fn bandwidth(all: &[(u64, &Bandwidth)]) -> Option<Bandwidth> {
    let (_, first) = all.first()?;
    let mut pooled = Bandwidth {
        bits_per_s: mean_over_time(all, |b| b.bits_per_s),
        link: first.link.clone(),
        ..Bandwidth::default()
    };
    for (_, own) in all {
        pooled.sent_bytes += own.sent_bytes;
        pooled.received_bytes += own.received_bytes;
        add_known(&mut pooled.lost_datagrams, own.lost_datagrams);
        add_known(&mut pooled.reordered_datagrams, own.reordered_datagrams);
        add_known(&mut pooled.duplicated_datagrams, own.duplicated_datagrams);
        pooled.jitter_ns = pooled.jitter_ns.max(own.jitter_ns);
        add_known(&mut pooled.retransmits, own.retransmits);
    }
    let cpu_s: f64 =
        all.iter().filter_map(|(_, b)| Some(b.cpu_s_per_gib? * real(b.received_bytes))).sum();
    let is_known = all.iter().all(|(_, b)| b.cpu_s_per_gib.is_some());
    pooled.cpu_s_per_gib =
        (is_known && pooled.received_bytes > 0).then(|| cpu_s / real(pooled.received_bytes));
    pooled.up = flow(all, |b| b.up.as_ref());
    pooled.down = flow(all, |b| b.down.as_ref());
    Some(pooled)
}

fn flow(all: &[(u64, &Bandwidth)], of: fn(&Bandwidth) -> Option<&Flow>) -> Option<Flow> {
    let flows: Vec<&Flow> = all.iter().filter_map(|(_, b)| of(b)).collect();
    let mut tcp = flows.first()?.tcp.clone();
    if let Some(tcp) = &mut tcp {
        tcp.retransmits = flows.iter().flat_map(|flow| &flow.tcp).map(|own| own.retransmits).sum();
    }
    let sum = |of: fn(&Flow) -> u64| flows.iter().map(|flow| of(flow)).sum();
    Some(Flow {
        bits_per_s: mean_over_time(all, |b| of(b)?.bits_per_s),
        sent_bits_per_s: mean_over_time(all, |b| Some(of(b)?.sent_bits_per_s)).unwrap_or_default(),
        duration_ns: sum(|flow| flow.duration_ns),
        sent_bytes: sum(|flow| flow.sent_bytes),
        received_bytes: sum(|flow| flow.received_bytes),
        untold_streams: flows.iter().map(|flow| flow.untold_streams).sum(),
        sends: sum(|flow| flow.sends),
        tcp,
        ..Flow::default()
    })
}

fn mean_over_time(
    all: &[(u64, &Bandwidth)],
    of: impl Fn(&Bandwidth) -> Option<f64>,
) -> Option<f64> {
    let known = || all.iter().filter_map(|(ns, own)| Some((of(own)?, real(*ns))));
    let bits: f64 = known().map(|(rate, time)| rate * time).sum();
    let time: f64 = known().map(|(_, time)| time).sum();
    (time > 0.0).then(|| bits / time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tare_units::Nanos;

    #[test]
    fn what_the_intervals_speak_for_needs_visits_enough() {
        let visit = |p50_error: u64| {
            let mut distribution = Distribution::uncensored();
            (1..=100).for_each(|n| distribution.record(Nanos(n * 1_000)));
            let mut step = StepResult::default();
            step.latency.service = summarise(&distribution, &[], &|_| 1.0);
            step.latency.service.errors_ns = [("p50".to_owned(), p50_error)].into();
            step
        };
        let visits: Vec<(u64, StepResult)> = (1..=8).map(|n| (0, visit(n * 10))).collect();
        assert_eq!(pool(&visits[..7]).unwrap().interval_scope, INTERVALS_OF_RUN);
        let all = pool(&visits).unwrap();
        assert_eq!(all.interval_scope, INTERVALS_OF_VISITS);
        assert_eq!(all.latency.service.errors_ns["p50"], 80);
    }
}
