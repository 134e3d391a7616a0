//! What a load costs the processes and control groups that the plan names: sampled right before the
//! measured phase of a step and right after it, from the launching thread.
//!
//! Each sample of a process takes some ten system calls and two for each thread, a fraction of a
//! millisecond in all; one of a group takes fewer. What a sample needs is found before the step, so
//! that at the edges of the measured phase only counters are read. In between, memory is read a few
//! times a second, more rarely where that is dear.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::result::Result as StdResult;

use crate::cgroup::{Cgroups, Group, Level, Throttling};
use crate::files::Files;
use crate::observation::{Observable, Observation};
use crate::process::{self, CpuCount, ProcessSample, Switches};
use tare_driver::clock::{Clock, MonotonicClock};
use tare_stats::result::{self, Observed};
use tare_units::error::{Error, Result};
use tare_units::limits::{OBSERVATIONS_MAX, OBSERVED_PROCESSES_MAX, OBSERVED_THREADS_MAX};
use tare_units::{Instant, Nanos};

/// Readings in between are at least so far apart, …
const BETWEEN: Nanos = Nanos::from_millis(200);
/// … and so many times what one costs, so that they take no more than a hundredth of a CPU.
const BETWEEN_COSTS: u64 = 100;
/// Beside its cost, the first sample is given so much time for the thread's own wake-up. What it
/// begins too early belongs to the warm-up, under the same load.
const WAKE_UP: Nanos = Nanos::from_millis(1);
/// The first sample is never taken longer before the measured phase than that.
const LEAD_MAX: Nanos = Nanos::from_millis(20);

/// Checks before a run that everything observed is there.
///
/// # Errors
/// A usage error for names that cannot stand beside each other; an environment error where nothing,
/// or far too much, is found by one of them.
pub fn check(observations: &[Observation]) -> Result<()> {
    if observations.len() > OBSERVATIONS_MAX {
        let message =
            format!("{} observations are more than {OBSERVATIONS_MAX}", observations.len());
        return Err(Error::usage(message).remedy("observe the control group that they are in"));
    }
    for (index, one) in observations.iter().enumerate() {
        if observations[..index].iter().any(|o| o.name == one.name) {
            let message = format!("two observations are named '{}'", one.name);
            return Err(Error::usage(message).remedy("give each --observe a name of its own"));
        }
    }
    let files = Files::default();
    observations.iter().try_for_each(|one| match Subject::find(&files, one) {
        Ok(_) => Ok(()),
        Err(Missing { what, remedy }) => {
            let message = format!("--observe {}: {what}", one.name);
            Err(Error::environment(message).remedy(remedy))
        }
    })
}

/// What an observation has found.
#[derive(Debug)]
struct Subject {
    files: Files,
    observation: Observation,
    group: Option<Group>,
    /// Its processes; of a group only for their context switches.
    pids: Vec<u32>,
    /// Groups whose quota may hold it back, each once.
    levels: Vec<Level>,
}

/// Why there is nothing to observe.
#[derive(Debug)]
struct Missing {
    what: String,
    remedy: String,
}

impl Subject {
    fn find(files: &Files, observation: &Observation) -> StdResult<Self, Missing> {
        let missing = |what: String, remedy: &str| Missing { what, remedy: remedy.to_owned() };
        let mut group = None;
        let pids = match &observation.what {
            Observable::Pid(pid) => {
                let lives = process::sample(files, *pid).filter(|sample| !sample.is_over);
                lives.map(|_| vec![*pid]).ok_or_else(|| {
                    let remedy = "find its id as this host sees it: pgrep -a NAME";
                    missing(format!("there is no process {pid}"), remedy)
                })?
            }
            Observable::Comm(name) => {
                let pids = process::named(files, name);
                if pids.is_empty() {
                    let remedy = format!("see what its processes are called here: pgrep -l {name}");
                    return Err(missing(format!("no process is named '{name}'"), &remedy));
                }
                pids
            }
            Observable::Cgroup(path) => {
                let found = Group::find(files, path).ok_or_else(|| {
                    let what = format!("there is no control group '{}'", path.display());
                    missing(what, "find it by one of its processes: cat /proc/PID/cgroup")
                })?;
                group.insert(found).processes()
            }
        };
        if group.is_none() && pids.len() > OBSERVED_PROCESSES_MAX {
            return Err(missing(
                format!("{} processes are more than {OBSERVED_PROCESSES_MAX}", pids.len()),
                "observe their control group instead: NAME=cgroup:PATH",
            ));
        }
        let mut levels: Vec<Level> = Vec::new();
        if let Some(group) = &group {
            levels.clone_from(&group.levels);
        } else {
            let groups = pids.iter().filter_map(|pid| Cgroups::of_process(files, *pid));
            for level in groups.flat_map(|groups| groups.levels) {
                if !levels.contains(&level) {
                    levels.push(level);
                }
            }
        }
        Ok(Self { files: files.clone(), observation: observation.clone(), group, pids, levels })
    }

    /// The processes that there are by now.
    fn processes_now(&self) -> Vec<u32> {
        match (&self.observation.what, &self.group) {
            (Observable::Comm(name), _) => process::named(&self.files, name),
            (_, Some(group)) => group.processes(),
            _ => self.pids.clone(),
        }
    }

    /// Those processes, and the memory of the whole. A group accounts for its processes; those are
    /// read for their threads alone.
    fn memory(&self, pids: &[u32]) -> (Processes, Option<u64>) {
        if let Some(group) = &self.group {
            return (Processes::new(), group.memory_bytes());
        }
        let samples =
            pids.iter().filter_map(|pid| Some((*pid, process::sample(&self.files, *pid)?)));
        let processes: Processes = samples.collect();
        let memory_bytes = resident(&processes);
        (processes, memory_bytes)
    }

    /// The threads of those processes, as far as they show them; absent where there are too many.
    fn threads(&self, pids: &[u32]) -> Option<BTreeMap<u32, Threads>> {
        let mut room = OBSERVED_THREADS_MAX;
        let mut all = BTreeMap::new();
        for pid in pids {
            let threads = process::switches(&self.files, *pid, &mut room)?;
            if !threads.is_empty() {
                all.insert(*pid, threads);
            }
        }
        Some(all)
    }
}

/// Processes by id.
type Processes = BTreeMap<u32, ProcessSample>;
/// The threads of a process by id, and how often each was switched.
type Threads = BTreeMap<u32, Switches>;

/// What is resident of all of them, bytes.
fn resident(processes: &Processes) -> Option<u64> {
    processes.values().filter_map(|process| process.memory_bytes).reduce(u64::saturating_add)
}

/// Everything at one time.
#[derive(Debug)]
struct Sample {
    at: Instant,
    /// Of a group as a whole.
    cpu: Option<CpuCount>,
    throttling: Vec<Option<Throttling>>,
    processes: Processes,
    /// Absent where there were too many threads.
    threads: Option<BTreeMap<u32, Threads>>,
    memory_bytes: Option<u64>,
    /// The kernel's own mark of the peak, where there is one for the whole.
    peak_bytes: Option<u64>,
    /// How many processes there are, counted or not.
    number: usize,
}

impl Sample {
    /// Reads what moves fastest first: CPU time, throttling, memory, then a file for each thread.
    fn take(subject: &Subject) -> Self {
        let at = MonotonicClock.now();
        let cpu = subject.group.as_ref().and_then(Group::cpu);
        let (processes, memory_bytes) = subject.memory(&subject.pids);
        let throttling = subject.levels.iter().map(Level::throttling).collect();
        let peak_bytes = match (&subject.group, &subject.pids[..]) {
            (Some(group), _) => group.memory_peak_bytes(),
            (None, [pid]) => processes.get(pid).and_then(|process| process.memory_peak_bytes),
            _ => None,
        };
        let threads = subject.threads(&subject.pids);
        let number = processes.len();
        Self { at, cpu, throttling, processes, threads, memory_bytes, peak_bytes, number }
    }

    /// Adds the processes that came since the first sample.
    fn add_late(&mut self, subject: &Subject) {
        let now = subject.processes_now();
        let room = OBSERVED_PROCESSES_MAX.saturating_sub(subject.pids.len());
        let came = now.iter().copied().filter(|pid| !subject.pids.contains(pid));
        let came: Vec<u32> = came.take(room).collect();
        self.processes.extend(subject.memory(&came).0);
        if let Some(all) = &mut self.threads
            && let Some(more) = subject.threads(&came)
        {
            all.extend(more);
        }
        if subject.group.is_none() {
            self.memory_bytes = resident(&self.processes);
        }
        self.number = match subject.observation.what {
            Observable::Pid(_) => self.processes.values().filter(|one| !one.is_over).count(),
            Observable::Comm(_) | Observable::Cgroup(_) => now.len(),
        };
    }
}

/// An observation of a step under way.
#[derive(Debug)]
struct Watched {
    subject: Subject,
    begin: Option<Sample>,
    end: Option<Sample>,
    /// The last that was seen of each process.
    latest: Processes,
    memory_max_bytes: Option<u64>,
}

/// All observations of a step.
#[derive(Debug, Default)]
pub struct Watching {
    found: Vec<StdResult<Watched, Box<Observed>>>,
    /// What a sample of all of them takes.
    cost: Nanos,
    next: Instant,
}

impl Watching {
    /// Finds what there is to observe, before a step begins. What has gone since the run began is
    /// told in its place.
    pub fn find(observations: &[Observation]) -> Self {
        Self::find_below(&Files::default(), observations)
    }

    fn find_below(files: &Files, observations: &[Observation]) -> Self {
        let found = observations.iter().map(|observation| {
            let subject = Subject::find(files, observation).map_err(|missing| Observed {
                name: observation.name.clone(),
                what: observation.what.to_string(),
                processes: Some(0),
                note: Some(missing.what),
                ..Observed::default()
            })?;
            let (begin, end, latest) = (None, None, Processes::new());
            Ok(Watched { subject, begin, end, latest, memory_max_bytes: None })
        });
        let mut watching = Self { found: found.collect(), ..Self::default() };
        // A rehearsal: what a sample costs is how long before the measured phase it has to begin.
        let before = MonotonicClock.now();
        for one in watching.found.iter().flatten() {
            let _ = Sample::take(&one.subject);
        }
        watching.cost = MonotonicClock.now().since(before);
        watching
    }

    /// How long before the measured phase [`Watching::begin`] is to be called.
    pub fn lead(&self) -> Nanos {
        if self.found.iter().all(StdResult::is_err) {
            return Nanos::ZERO;
        }
        Nanos(2 * self.cost.0 + WAKE_UP.0).min(LEAD_MAX)
    }

    /// Takes the first sample.
    pub fn begin(&mut self) {
        for one in self.found.iter_mut().flatten() {
            let sample = Sample::take(&one.subject);
            one.latest.clone_from(&sample.processes);
            one.memory_max_bytes = one.memory_max_bytes.max(sample.memory_bytes);
            one.begin = Some(sample);
        }
        self.rest(MonotonicClock.now());
    }

    fn rest(&mut self, now: Instant) {
        self.next = now + BETWEEN.max(Nanos(self.cost.0.saturating_mul(BETWEEN_COSTS)));
    }

    /// Reads the memory in between, if it is time.
    pub fn between(&mut self, now: Instant) {
        if now < self.next || self.found.is_empty() {
            return;
        }
        for one in self.found.iter_mut().flatten() {
            let (processes, memory_bytes) = one.subject.memory(&one.subject.pids);
            one.latest.extend(processes);
            one.memory_max_bytes = one.memory_max_bytes.max(memory_bytes);
        }
        self.rest(now);
    }

    /// Takes the last sample: of what was there first and at once, then of who has come.
    pub fn end(&mut self) {
        for one in self.found.iter_mut().flatten() {
            let mut sample = Sample::take(&one.subject);
            sample.add_late(&one.subject);
            one.memory_max_bytes = one.memory_max_bytes.max(sample.memory_bytes);
            one.end = Some(sample);
        }
    }

    /// What was seen; of a step that never came to its measured phase, nothing.
    pub fn into_observed(self) -> Vec<Observed> {
        let observed = self.found.into_iter().filter_map(|found| match found {
            Ok(one) => Some(total(&one, one.begin.as_ref()?, one.end.as_ref()?)),
            Err(missing) => Some(*missing),
        });
        observed.collect()
    }
}

/// What was used from the first sample to the last.
fn total(one: &Watched, begin: &Sample, end: &Sample) -> Observed {
    let subject = &one.subject;
    let span_ns = end.at.since(begin.at).0;
    let mut observed = Observed {
        name: subject.observation.name.clone(),
        what: subject.observation.what.to_string(),
        span_ns,
        memory_bytes: end.memory_bytes,
        memory_max_bytes: one.memory_max_bytes,
        processes: u64::try_from(end.number).ok(),
        ..Observed::default()
    };
    // The kernel's peak counts from the start of the process; it is reported only if it grew
    // meanwhile.
    if end.peak_bytes > begin.peak_bytes && begin.peak_bytes.is_some() {
        observed.memory_max_bytes = observed.memory_max_bytes.max(end.peak_bytes);
    }
    let used = if subject.group.is_some() {
        begin.cpu.zip(end.cpu).map(|(a, b)| b.since(a))
    } else {
        cpu_of_processes(&mut observed, begin, end, &one.latest)
    };
    (observed.user_ns, observed.system_ns) = used.unzip();
    observed.cpus = result::cpus(observed.user_ns, observed.system_ns, span_ns);
    switches(&mut observed, begin, end);
    throttling(&mut observed, subject, begin, end);
    observed.note = note(subject, begin, end, &observed);
    observed
}

/// CPU time of processes, of which some may have come or gone.
fn cpu_of_processes(
    observed: &mut Observed,
    begin: &Sample,
    end: &Sample,
    latest: &Processes,
) -> Option<(u64, u64)> {
    let mut used = Vec::new();
    for (pid, before) in &begin.processes {
        let is_same = |other: &&ProcessSample| other.started == before.started;
        let now = end.processes.get(pid).filter(is_same);
        if now.is_none_or(|now| now.is_over) {
            observed.processes_ended += 1;
        }
        let last = now.or_else(|| latest.get(pid).filter(is_same));
        used.extend(last.map(|last| last.cpu.since(before.cpu)));
    }
    for (pid, now) in &end.processes {
        if begin.processes.get(pid).is_none_or(|before| before.started != now.started) {
            observed.processes_came += 1;
            let nothing = CpuCount { total_ns: now.cpu.total_ns.map(|_| 0), ..CpuCount::default() };
            used.push(now.cpu.since(nothing));
        }
    }
    used.into_iter().reduce(|(user, system), more| (user + more.0, system + more.1))
}

/// Context switches of all threads; one that came counts from its start, of one that has gone
/// nothing is known.
fn switches(observed: &mut Observed, begin: &Sample, end: &Sample) {
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
fn throttling(observed: &mut Observed, subject: &Subject, begin: &Sample, end: &Sample) {
    let samples = begin.throttling.iter().zip(&end.throttling);
    let limits = subject.levels.iter().zip(samples).filter_map(|(level, (before, now))| {
        let (quota, throttling) = (level.quota(), now.as_ref()?.since((*before)?));
        (quota.is_some() || throttling.periods > 0).then_some((quota, throttling))
    });
    let cpus = |quota: Option<f64>| quota.unwrap_or(f64::INFINITY);
    let first = limits.min_by(|(a_quota, a), (b_quota, b)| {
        b.ns.cmp(&a.ns).then(cpus(*a_quota).total_cmp(&cpus(*b_quota)))
    });
    if let Some((quota, throttling)) = first {
        observed.cpu_limit = quota;
        observed.periods = Some(throttling.enforced);
        observed.throttled_periods = Some(throttling.periods);
        observed.throttled_ns = Some(throttling.ns);
    } else if end.throttling.iter().any(Option::is_some) {
        // Groups that nothing limits: known, and none.
        observed.throttled_periods = Some(0);
        observed.throttled_ns = Some(0);
    }
}

fn note(subject: &Subject, begin: &Sample, end: &Sample, observed: &Observed) -> Option<String> {
    let mut parts = Vec::new();
    let some = |count: u64| match count {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    if subject.group.as_ref().is_some_and(|group| !group.exists()) {
        parts.push("the group was removed".to_owned());
    }
    if observed.processes_ended > 0 {
        let ended = some(observed.processes_ended);
        parts.push(format!("{ended} ended: counted until the last look before that"));
    }
    if observed.processes_came > 0 {
        let came = some(observed.processes_came);
        parts.push(format!("{came} came: counted from the start"));
    }
    if let (Some(before), Some(now), Some(_)) = (&begin.threads, &end.threads, &subject.group) {
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
