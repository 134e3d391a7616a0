//! A look at what is observed, and the difference of two.

use std::collections::BTreeMap;

use super::{One, Subject};
use crate::cgroup::{Group, Level, Throttling};
use crate::observation::Observable;
use crate::process;
use crate::process::{CpuCount, ProcessLook, Switches};
use tare_driver::clock::{Clock, MonotonicClock};
use tare_stats::result;
use tare_stats::result::Observed;
use tare_units::Instant;
use tare_units::limits::OBSERVED_THREADS_MAX;

/// The threads of a process, and how often each was switched.
type Threads = BTreeMap<u32, Switches>;

/// Processes by id.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen(BTreeMap<u32, ProcessLook>);

impl Seen {
    /// Takes over what is newer; of what has gone the last is kept.
    pub(super) fn update(&mut self, newer: &Self) {
        self.0.extend(newer.0.iter().map(|(pid, look)| (*pid, *look)));
    }

    /// What is resident of all that live, bytes.
    fn memory_bytes(&self) -> Option<u64> {
        let each = self.0.values().filter_map(|look| look.memory_bytes);
        each.reduce(u64::saturating_add)
    }
}

/// Everything at one time.
#[derive(Debug, Clone)]
pub(super) struct Look {
    at: Instant,
    /// Of a group as a whole.
    cpu: Option<CpuCount>,
    throttling: Vec<Option<Throttling>>,
    pub(super) seen: Seen,
    /// Absent where there were too many threads.
    threads: Option<BTreeMap<u32, Threads>>,
    pub(super) memory_bytes: Option<u64>,
    /// The kernel's own mark of the peak, where there is one for the whole.
    peak_bytes: Option<u64>,
    /// Processes that there are, counted or not.
    processes: usize,
}

impl Look {
    /// Reads what moves fastest first: CPU time, throttling, memory, then a file for each thread.
    pub(super) fn take(subject: &Subject, pids: &[u32]) -> Self {
        let at = MonotonicClock.now();
        let group = subject.group.as_ref();
        let cpu = group.and_then(Group::cpu);
        let (seen, memory_bytes) = Self::glance_at(subject, pids);
        let throttling = subject.levels.iter();
        let throttling = throttling.map(Level::throttling).collect();
        let peak_bytes = match (group, pids) {
            (Some(group), _) => group.memory_peak_bytes(),
            (None, [pid]) => seen.0.get(pid).and_then(|look| look.memory_peak_bytes),
            _ => None,
        };
        let mut room = OBSERVED_THREADS_MAX;
        Self {
            at,
            cpu,
            throttling,
            processes: seen.0.len(),
            threads: threads(subject, pids, &mut room),
            seen,
            memory_bytes,
            peak_bytes,
        }
    }

    /// Adds processes that came since the first look; `now` is how many there are in all.
    pub(super) fn add_late(&mut self, subject: &Subject, came: &[u32], now: usize) {
        let (late, _) = Self::glance_at(subject, came);
        let mut room = OBSERVED_THREADS_MAX;
        if let Some(all) = &mut self.threads
            && let Some(more) = threads(subject, came, &mut room)
        {
            all.extend(more);
        }
        self.seen.update(&late);
        if subject.group.is_none() {
            self.memory_bytes = self.seen.memory_bytes();
        }
        self.processes = match subject.observation.what {
            Observable::Pid(_) => self.seen.0.values().filter(|look| !look.is_over).count(),
            Observable::Comm(_) | Observable::Cgroup(_) => now,
        };
    }

    /// The processes known from the beginning, and the memory of the whole.
    pub(super) fn glance(subject: &Subject) -> (Seen, Option<u64>) {
        match &subject.group {
            Some(group) => (Seen::default(), group.memory_bytes()),
            None => Self::glance_at(subject, &subject.pids),
        }
    }

    fn glance_at(subject: &Subject, pids: &[u32]) -> (Seen, Option<u64>) {
        if let Some(group) = &subject.group {
            // The group accounts for its processes; those are looked at for their threads alone.
            return (Seen::default(), group.memory_bytes());
        }
        let looks = pids.iter().filter_map(|pid| {
            let look = process::look(&subject.files, *pid)?;
            Some((*pid, look))
        });
        let seen = Seen(looks.collect());
        let memory_bytes = seen.memory_bytes();
        (seen, memory_bytes)
    }
}

/// The threads of those processes, as far as they show them; absent where there are too many.
fn threads(subject: &Subject, pids: &[u32], room: &mut usize) -> Option<BTreeMap<u32, Threads>> {
    let mut all = BTreeMap::new();
    for pid in pids {
        let threads = process::switches(&subject.files, *pid, room)?;
        if !threads.is_empty() {
            all.insert(*pid, threads);
        }
    }
    Some(all)
}

/// What was used from the first look to the last.
pub(super) fn total(one: &One, begin: &Look, end: &Look) -> Observed {
    let subject = &one.subject;
    let span_ns = end.at.since(begin.at).0;
    let mut observed = Observed {
        name: subject.observation.name.clone(),
        what: subject.observation.what.to_string(),
        span_ns,
        memory_bytes: end.memory_bytes,
        memory_max_bytes: one.memory_max_bytes,
        processes: u64::try_from(end.processes).ok(),
        ..Observed::default()
    };
    // The mark is that of all time: only where it rose since the first look it was set in the span.
    if let Some((before, after)) = begin.peak_bytes.zip(end.peak_bytes)
        && after > before
    {
        observed.memory_max_bytes = observed.memory_max_bytes.max(Some(after));
    }
    let used = if subject.group.is_some() {
        begin.cpu.zip(end.cpu).map(|(a, b)| b.since(a))
    } else {
        processes(&mut observed, begin, end, &one.latest)
    };
    (observed.user_ns, observed.system_ns) = used.unzip();
    observed.cpus = result::cpus(observed.user_ns, observed.system_ns, span_ns);
    switches(&mut observed, begin, end);
    throttling(&mut observed, one, begin, end);
    observed.note = note(one, begin, end, &observed);
    observed
}

/// CPU time of processes, of which some may have come or gone.
fn processes(
    observed: &mut Observed,
    begin: &Look,
    end: &Look,
    latest: &Seen,
) -> Option<(u64, u64)> {
    let mut used: Option<(u64, u64)> = None;
    let mut add = |(user, system): (u64, u64)| {
        let (user_before, system_before) = used.unwrap_or_default();
        used = Some((user_before + user, system_before + system));
    };
    let is_same = |a: &ProcessLook, b: &ProcessLook| a.started == b.started;
    for (pid, before) in &begin.seen.0 {
        let now = end.seen.0.get(pid).filter(|now| is_same(before, now));
        let last = latest.0.get(pid).filter(|last| is_same(before, last));
        if now.is_none_or(|now| now.is_over) {
            observed.processes_ended += 1;
        }
        if let Some(last) = now.or(last) {
            add(last.cpu.since(before.cpu));
        }
    }
    for (pid, now) in &end.seen.0 {
        let before = begin.seen.0.get(pid);
        if before.is_some_and(|before| is_same(before, now)) {
            continue;
        }
        observed.processes_came += 1;
        let nothing = CpuCount { total_ns: now.cpu.total_ns.map(|_| 0), ..CpuCount::default() };
        add(now.cpu.since(nothing));
    }
    used
}

/// Context switches of all threads; one that came counts from its start, of one that has gone nothing is known.
fn switches(observed: &mut Observed, begin: &Look, end: &Look) {
    let (Some(before), Some(now)) = (&begin.threads, &end.threads) else {
        return;
    };
    let (mut voluntary, mut involuntary) = (0, 0);
    for (pid, threads) in now {
        for (tid, switches) in threads {
            let earlier = before.get(pid).and_then(|threads| threads.get(tid));
            let earlier = earlier.copied().unwrap_or_default();
            voluntary += switches.voluntary.saturating_sub(earlier.voluntary);
            involuntary += switches.involuntary.saturating_sub(earlier.involuntary);
        }
    }
    if !now.is_empty() {
        observed.voluntary_switches = Some(voluntary);
        observed.involuntary_switches = Some(involuntary);
    }
}

/// The limit that held it back longest; where none did, the tightest.
fn throttling(observed: &mut Observed, one: &One, begin: &Look, end: &Look) {
    let levels = one.subject.levels.iter();
    let looks = begin.throttling.iter().zip(&end.throttling);
    let mut limits: Vec<(Option<f64>, Throttling)> = levels
        .zip(looks)
        .filter_map(|(level, (before, now))| Some((level.quota(), now.as_ref()?.since((*before)?))))
        .filter(|(quota, throttling)| quota.is_some() || throttling.periods > 0)
        .collect();
    let cpus = |quota: Option<f64>| quota.unwrap_or(f64::INFINITY);
    limits.sort_by(|(a_quota, a), (b_quota, b)| {
        let longest = b.ns.cmp(&a.ns);
        longest.then(cpus(*a_quota).total_cmp(&cpus(*b_quota)))
    });
    if let Some((quota, throttling)) = limits.first() {
        observed.cpu_limit = *quota;
        observed.periods = Some(throttling.enforced);
        observed.throttled_periods = Some(throttling.periods);
        observed.throttled_ns = Some(throttling.ns);
    } else if end.throttling.iter().any(Option::is_some) {
        // Groups that nothing limits: known, and none.
        observed.throttled_periods = Some(0);
        observed.throttled_ns = Some(0);
    }
}

fn note(one: &One, begin: &Look, end: &Look, observed: &Observed) -> Option<String> {
    let mut parts = Vec::new();
    let is_group_gone = one.subject.group.as_ref().is_some_and(|g| !g.exists());
    if is_group_gone {
        parts.push("the group was removed".to_owned());
    }
    let some = |count: u64| match count {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    if observed.processes_ended > 0 {
        let ended = some(observed.processes_ended);
        parts.push(format!("{ended} ended: counted until the last look before that"));
    }
    if observed.processes_came > 0 {
        let came = some(observed.processes_came);
        parts.push(format!("{came} came: counted from the start"));
    }
    if let (Some(before), Some(now), true) =
        (&begin.threads, &end.threads, one.subject.group.is_some())
    {
        let ended = before.keys().filter(|pid| !now.contains_key(pid)).count();
        if ended > 0 {
            let ended = some(ended as u64);
            parts.push(format!("the context switches of {ended} that ended are not counted"));
        }
    }
    if end.threads.is_none() {
        parts.push(format!(
            "context switches of more than {OBSERVED_THREADS_MAX} threads are not counted"
        ));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}
