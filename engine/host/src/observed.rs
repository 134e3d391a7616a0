//! What a load costs the processes and control groups that `--observe` names: sampled right before
//! the measured phase of a step and right after it, from the launching thread.
//!
//! Each sample of a process takes some ten system calls and two for each thread, a fraction of a
//! millisecond in all; one of a group takes fewer. What a sample needs is found before the step, so
//! that at the edges of the measured phase only counters are read. In between, memory is read a few
//! times a second, more rarely where that is dear.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, PathBuf};
use std::result::Result as StdResult;
use std::str::FromStr;

use crate::cgroup::{Cgroups, Group, Level, Throttling};
use crate::files::Files;
use crate::process::{self, CpuCount, ProcessSample, Switches};
use tare_driver::clock::{Clock, MonotonicClock};
use tare_stats::result::{self, Observed};
use tare_units::error::{Error, Result};
use tare_units::limits::{OBSERVATIONS_MAX, OBSERVED_PROCESSES_MAX, OBSERVED_THREADS_MAX};
use tare_units::{Instant, Nanos};

/// Names become parts of column names.
const NAME_BYTES_MAX: usize = 32;
const HELP: &str =
    "write it as web=comm:nginx, web=pid:1234 or web=cgroup:system.slice/nginx.service";
/// Readings in between are at least so far apart, …
const BETWEEN: Nanos = Nanos::from_millis(200);
/// … and so many times what one costs, so that they take no more than a hundredth of a CPU.
const BETWEEN_COSTS: u64 = 100;
/// Beside its cost, the first sample is given so much time for the thread's own wake-up. What it
/// begins too early belongs to the warm-up, under the same load.
const WAKE_UP: Nanos = Nanos::from_millis(1);
/// The first sample is never taken longer before the measured phase than that.
const LEAD_MAX: Nanos = Nanos::from_millis(20);

/// A process, several of one name, or a control group, and what results call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The name in results: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What it is.
    pub what: Observable,
}

/// What can be observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observable {
    /// A process with all its threads.
    Pid(u32),
    /// All processes of this name, as `pgrep -x` finds them.
    Comm(String),
    /// A control group with all below it: absolute, relative to `/sys/fs/cgroup`, or as
    /// `/proc/PID/cgroup` names it.
    Cgroup(PathBuf),
}

impl fmt::Display for Observable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Comm(name) => write!(f, "comm:{name}"),
            Self::Cgroup(path) => write!(f, "cgroup:{}", path.display()),
        }
    }
}

impl FromStr for Observation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(80).collect();
            let message = format!("'{}' cannot be observed: {why}", shown.escape_debug());
            Err(Error::usage(message).remedy(HELP))
        };
        let Some((name, what)) = text.split_once('=') else { return refuse("it has no name") };
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_allowed) {
            return refuse("a name is 1 to 32 letters, digits, dashes, dots or underscores");
        }
        let (kind, value) = what.split_once(':').unwrap_or_default();
        let says_nothing = value.is_empty() || value.chars().any(char::is_control);
        let what = match kind {
            _ if says_nothing && what.contains(':') => return refuse("it says nothing of what"),
            "pid" => match value.parse() {
                Ok(pid @ 1..) => Observable::Pid(pid),
                _ => return refuse("a process id is a number above zero"),
            },
            "comm" if value.contains('/') => return refuse("a process's name is no path"),
            "comm" => Observable::Comm(value.to_owned()),
            "cgroup" => {
                let path = PathBuf::from(value);
                if path.components().any(|part| part == Component::ParentDir) {
                    return refuse("a group's path has no '..'");
                }
                Observable::Cgroup(path)
            }
            _ => return refuse("say pid:, comm: or cgroup:"),
        };
        Ok(Self { name: name.to_owned(), what })
    }
}

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
    for one in observations {
        Subject::find(&Files::default(), one).map_err(|missing| {
            Error::environment(format!("--observe {}: {}", one.name, missing.message()))
                .remedy(missing.advice().unwrap_or_default())
        })?;
    }
    Ok(())
}

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

impl Subject {
    fn find(files: &Files, observation: &Observation) -> Result<Self> {
        let missing = |what: String, remedy: &str| Error::environment(what).remedy(remedy);
        let (mut group, mut levels) = (None, Vec::new());
        let pids = match &observation.what {
            Observable::Pid(pid) => {
                if process::sample(files, *pid).is_none_or(|sample| sample.is_over) {
                    let remedy = "find its id as this host sees it: pgrep -a NAME";
                    return Err(missing(format!("there is no process {pid}"), remedy));
                }
                vec![*pid]
            }
            Observable::Comm(name) => {
                let pids = process::named(files, name);
                if pids.is_empty() {
                    let remedy = format!("see what its processes are called here: pgrep -l {name}");
                    return Err(missing(format!("no process is named '{name}'"), &remedy));
                } else if pids.len() > OBSERVED_PROCESSES_MAX {
                    return Err(missing(
                        format!("{} processes are more than {OBSERVED_PROCESSES_MAX}", pids.len()),
                        "observe their control group instead: NAME=cgroup:PATH",
                    ));
                }
                pids
            }
            Observable::Cgroup(path) => {
                let found = Group::find(files, path).ok_or_else(|| {
                    let what = format!("there is no control group '{}'", path.display());
                    missing(what, "find it by one of its processes: cat /proc/PID/cgroup")
                })?;
                levels.clone_from(&found.levels);
                group.insert(found).processes()
            }
        };
        if group.is_none() {
            let groups = pids.iter().filter_map(|pid| Cgroups::of(files, &pid.to_string()));
            for level in groups.flat_map(|groups| groups.levels) {
                if !levels.contains(&level) {
                    levels.push(level);
                }
            }
        }
        Ok(Self { files: files.clone(), observation: observation.clone(), group, pids, levels })
    }

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
        let sample = |pid: &u32| Some((*pid, process::sample(&self.files, *pid)?));
        let processes: Processes = pids.iter().filter_map(sample).collect();
        let memory_bytes = resident(&processes);
        (processes, memory_bytes)
    }

    /// The threads of those processes, as far as they show them; absent where there are too many.
    fn threads(&self, pids: &[u32]) -> Option<BTreeMap<u32, Threads>> {
        let mut room = OBSERVED_THREADS_MAX;
        let mut all = BTreeMap::new();
        for pid in pids {
            all.insert(*pid, process::switches(&self.files, *pid, &mut room)?);
        }
        all.retain(|_, threads| !threads.is_empty());
        Some(all)
    }
}

/// Processes by id.
type Processes = BTreeMap<u32, ProcessSample>;
/// The threads of a process by id, and how often each was switched.
type Threads = BTreeMap<u32, Switches>;

fn resident(processes: &Processes) -> Option<u64> {
    processes.values().filter_map(|process| process.memory_bytes).reduce(u64::saturating_add)
}

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
        if let Some(all) = &mut self.threads {
            all.extend(subject.threads(&came).into_iter().flatten());
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
    /// reported in its place.
    pub fn find(observations: &[Observation]) -> Self {
        Self::find_below(&Files::default(), observations)
    }

    fn find_below(files: &Files, observations: &[Observation]) -> Self {
        let found = observations.iter().map(|observation| {
            let subject = Subject::find(files, observation).map_err(|missing| Observed {
                name: observation.name.clone(),
                what: observation.what.to_string(),
                processes: Some(0),
                note: Some(missing.message().to_owned()),
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
        let observed = |found: StdResult<Watched, Box<Observed>>| match found {
            Ok(one) => one.observed(),
            Err(missing) => Some(*missing),
        };
        self.found.into_iter().filter_map(observed).collect()
    }
}

impl Watched {
    /// What was used from the first sample to the last.
    fn observed(&self) -> Option<Observed> {
        let (subject, begin, end) = (&self.subject, self.begin.as_ref()?, self.end.as_ref()?);
        let span_ns = end.at.since(begin.at).0;
        let (of_processes, processes_ended, processes_came) = self.cpu_of_processes(begin, end);
        let of_group = begin.cpu.zip(end.cpu).map(|(before, now)| now.since(before));
        let used = if subject.group.is_some() { of_group } else { of_processes };
        let (user_ns, system_ns) = used.unzip();
        // The kernel's peak counts from the start of the process; it is reported only if it grew
        // meanwhile.
        let grew = begin.peak_bytes.is_some() && end.peak_bytes > begin.peak_bytes;
        let peak_bytes = end.peak_bytes.filter(|_| grew);
        let switches = switches(begin, end);
        let (cpu_limit, periods, throttling) = limit(subject, begin, end);
        Some(Observed {
            name: subject.observation.name.clone(),
            what: subject.observation.what.to_string(),
            span_ns,
            user_ns,
            system_ns,
            cpus: result::cpus(user_ns, system_ns, span_ns),
            memory_bytes: end.memory_bytes,
            memory_max_bytes: self.memory_max_bytes.max(peak_bytes),
            cpu_limit,
            periods,
            throttled_periods: throttling.map(|throttling| throttling.periods),
            throttled_ns: throttling.map(|throttling| throttling.ns),
            voluntary_switches: switches.map(|switches| switches.voluntary),
            involuntary_switches: switches.map(|switches| switches.involuntary),
            processes: u64::try_from(end.number).ok(),
            processes_ended,
            processes_came,
            note: note(subject, begin, end, processes_ended, processes_came),
        })
    }

    /// CPU time of processes, user and system, and how many of them ended and came meanwhile.
    fn cpu_of_processes(&self, begin: &Sample, end: &Sample) -> (Option<(u64, u64)>, u64, u64) {
        let (mut used, mut ended, mut came) = (Vec::new(), 0, 0);
        for (pid, before) in &begin.processes {
            let is_same = |other: &&ProcessSample| other.started == before.started;
            let now = end.processes.get(pid).filter(is_same);
            ended += u64::from(now.is_none_or(|now| now.is_over));
            let last = now.or_else(|| self.latest.get(pid).filter(is_same));
            used.extend(last.map(|last| last.cpu.since(before.cpu)));
        }
        for (pid, now) in &end.processes {
            if begin.processes.get(pid).is_none_or(|before| before.started != now.started) {
                came += 1;
                let total_ns = now.cpu.total_ns.map(|_| 0);
                used.push(now.cpu.since(CpuCount { total_ns, ..CpuCount::default() }));
            }
        }
        let used = used.into_iter().reduce(|(user, system), more| (user + more.0, system + more.1));
        (used, ended, came)
    }
}

/// Context switches of all threads; one that came counts from its start, of one that has gone
/// nothing is known.
fn switches(begin: &Sample, end: &Sample) -> Option<Switches> {
    let (before, now) = begin.threads.as_ref().zip(end.threads.as_ref())?;
    let mut all = Switches::default();
    for (pid, threads) in now {
        for (tid, switches) in threads {
            let earlier = before.get(pid).and_then(|threads| threads.get(tid));
            let earlier = earlier.copied().unwrap_or_default();
            all.voluntary += switches.voluntary.saturating_sub(earlier.voluntary);
            all.involuntary += switches.involuntary.saturating_sub(earlier.involuntary);
        }
    }
    (!now.is_empty()).then_some(all)
}

/// The limit that held it back longest; where none did, the tightest: its quota, the periods in
/// which it was enforced, and how it throttled.
fn limit(
    subject: &Subject,
    begin: &Sample,
    end: &Sample,
) -> (Option<f64>, Option<u64>, Option<Throttling>) {
    let samples = begin.throttling.iter().zip(&end.throttling);
    let limits = subject.levels.iter().zip(samples).filter_map(|(level, (before, now))| {
        let (quota, throttling) = (level.quota(), now.as_ref()?.since((*before)?));
        (quota.is_some() || throttling.periods > 0).then_some((quota, throttling))
    });
    let cpus = |quota: Option<f64>| quota.unwrap_or(f64::INFINITY);
    let first = limits.min_by(|(a_quota, a), (b_quota, b)| {
        b.ns.cmp(&a.ns).then(cpus(*a_quota).total_cmp(&cpus(*b_quota)))
    });
    match first {
        Some((quota, throttling)) => (quota, Some(throttling.enforced), Some(throttling)),
        // Groups that nothing limits: known, and none.
        None => {
            let is_known = end.throttling.iter().any(Option::is_some);
            (None, None, is_known.then(Throttling::default))
        }
    }
}

fn note(subject: &Subject, begin: &Sample, end: &Sample, ended: u64, came: u64) -> Option<String> {
    let mut parts = Vec::new();
    let some = |count: u64| match count {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    if subject.group.as_ref().is_some_and(|group| !group.exists()) {
        parts.push("the group was removed".to_owned());
    }
    if ended > 0 {
        parts.push(format!("{} ended: counted until the last look before that", some(ended)));
    }
    if came > 0 {
        parts.push(format!("{} came: counted from the start", some(came)));
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
