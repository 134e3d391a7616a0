//! What a load costs the processes and control groups that the plan names: looked at right before the measured phase of a
//! step and right after it, from the launching thread.
//!
//! Each look at a process takes some ten system calls and two for each thread, a fraction of a millisecond in all; one at
//! a group takes fewer. What a look needs is found before the step, so that at the edges of the measured phase only counters
//! are read. In between, memory is looked at a few times a second, more rarely where that is dear.

mod look;
#[cfg(test)]
mod tests;

use crate::cgroup::{Cgroups, Group, Level};
use crate::files::Files;
use crate::observation::{Observable, Observation};
use crate::process;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_stats::result::Observed;
use tare_units::error::{Error, Result};
use tare_units::limits::OBSERVED_PROCESSES_MAX;
use tare_units::{Instant, Nanos};

use look::{Look, Seen, total};

/// Looks in between are at least so far apart, …
const BETWEEN: Nanos = Nanos::from_millis(200);
/// … and so many times what one costs, so that they take no more than a hundredth of a CPU.
const BETWEEN_COSTS: u64 = 100;
/// Beside its cost, the first look is given so much time for the thread's own wake-up. What it begins too early belongs to
/// the warm-up, under the same load.
const WAKE_UP: Nanos = Nanos::from_millis(1);
/// The first look is never taken longer before the measured phase than that.
const LEAD_MAX: Nanos = Nanos::from_millis(20);

/// Checks before a run that everything observed is there.
///
/// # Errors
/// A usage error for names that cannot stand beside each other; an environment error where nothing, or far too much, is
/// found by one of them.
pub fn check(observations: &[Observation]) -> Result<()> {
    crate::observation::check(observations)?;
    let files = Files::default();
    observations.iter().try_for_each(|one| Subject::find(&files, one).map(drop))
}

/// What is so, without the flag in front of it.
fn why(observation: &Observation, error: &Error) -> String {
    let said = error.message();
    let flag = format!("--observe {}: ", observation.name);
    said.strip_prefix(&flag).unwrap_or(said).to_owned()
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

impl Subject {
    fn find(files: &Files, observation: &Observation) -> Result<Self> {
        let missing = |what: String, remedy: String| {
            let message = format!("--observe {}: {what}", observation.name);
            Err(Error::environment(message).remedy(remedy))
        };
        let mut group = None;
        let mut pids = Vec::new();
        match &observation.what {
            Observable::Pid(pid) => {
                if process::look(files, *pid).is_none_or(|look| look.is_over) {
                    let remedy = "find its id as this host sees it: pgrep -a NAME";
                    return missing(format!("there is no process {pid}"), remedy.to_owned());
                }
                pids.push(*pid);
            }
            Observable::Comm(name) => {
                pids = process::named(files, name);
                if pids.is_empty() {
                    let remedy = format!("see what its processes are called here: pgrep -l {name}");
                    return missing(format!("no process is named '{name}'"), remedy);
                }
            }
            Observable::Cgroup(path) => {
                group = Group::find(files, path);
                let Some(group) = &group else {
                    let remedy = "find it by one of its processes: cat /proc/PID/cgroup";
                    let what = format!("there is no control group '{}'", path.display());
                    return missing(what, remedy.to_owned());
                };
                pids = group.processes();
            }
        }
        if group.is_none() && pids.len() > OBSERVED_PROCESSES_MAX {
            return missing(
                format!("{} processes are more than {OBSERVED_PROCESSES_MAX}", pids.len()),
                "observe their control group instead: NAME=cgroup:PATH".to_owned(),
            );
        }
        let mut levels: Vec<Level> = Vec::new();
        if let Some(group) = &group {
            levels.extend_from_slice(group.levels());
        } else {
            let groups = pids.iter().filter_map(|pid| Cgroups::of_process(files, *pid));
            for level in groups.flat_map(|groups| groups.levels().to_vec()) {
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
}

/// An observation of a step under way.
#[derive(Debug)]
struct One {
    subject: Subject,
    begin: Option<Look>,
    end: Option<Look>,
    /// The last that was seen of each process.
    latest: Seen,
    memory_max_bytes: Option<u64>,
}

impl One {
    fn note_memory(&mut self, memory_bytes: Option<u64>) {
        self.memory_max_bytes = self.memory_max_bytes.max(memory_bytes);
    }
}

/// All observations of a step.
#[derive(Debug, Default)]
pub struct Watching {
    found: Vec<std::result::Result<One, Box<Observed>>>,
    /// What a look at all of them takes.
    cost: Nanos,
    next: Instant,
}

impl Watching {
    /// Finds what there is to observe, before a step begins. What has gone since the run began is told in its place.
    pub fn find(observations: &[Observation]) -> Self {
        Self::find_below(&Files::default(), observations)
    }

    fn find_below(files: &Files, observations: &[Observation]) -> Self {
        let found = observations.iter().map(|observation| {
            let subject = Subject::find(files, observation).map_err(|error| {
                Box::new(Observed {
                    name: observation.name.clone(),
                    what: observation.what.to_string(),
                    processes: Some(0),
                    note: Some(why(observation, &error)),
                    ..Observed::default()
                })
            })?;
            Ok(One {
                latest: Seen::default(),
                begin: None,
                end: None,
                memory_max_bytes: None,
                subject,
            })
        });
        let mut watching = Self { found: found.collect(), ..Self::default() };
        // A rehearsal: what a look costs is how long before the measured phase it has to begin.
        let before = MonotonicClock.now();
        for one in watching.found.iter().flatten() {
            let _ = Look::take(&one.subject, &one.subject.pids);
        }
        watching.cost = MonotonicClock.now().since(before);
        watching
    }

    /// How long before the measured phase [`Watching::begin`] is to be called.
    pub fn lead(&self) -> Nanos {
        if self.found.iter().all(std::result::Result::is_err) {
            return Nanos::ZERO;
        }
        Nanos(2 * self.cost.0 + WAKE_UP.0).min(LEAD_MAX)
    }

    /// Takes the first look.
    pub fn begin(&mut self) {
        for one in self.found.iter_mut().flatten() {
            let look = Look::take(&one.subject, &one.subject.pids);
            one.latest.clone_from(&look.seen);
            one.note_memory(look.memory_bytes);
            one.begin = Some(look);
        }
        self.rest(MonotonicClock.now());
    }

    fn rest(&mut self, now: Instant) {
        self.next = now + BETWEEN.max(Nanos(self.cost.0.saturating_mul(BETWEEN_COSTS)));
    }

    /// Looks at the memory in between, if it is time.
    pub fn between(&mut self, now: Instant) {
        if now < self.next || self.found.is_empty() {
            return;
        }
        for one in self.found.iter_mut().flatten() {
            let (seen, memory_bytes) = Look::glance(&one.subject);
            one.latest.update(&seen);
            one.note_memory(memory_bytes);
        }
        self.rest(now);
    }

    /// Takes the last look.
    pub fn end(&mut self) {
        for one in self.found.iter_mut().flatten() {
            // What was there is read first and at once; then who has come.
            let mut look = Look::take(&one.subject, &one.subject.pids);
            let now = one.subject.processes_now();
            let came = now.iter().filter(|pid| !one.subject.pids.contains(pid));
            let room = OBSERVED_PROCESSES_MAX.saturating_sub(one.subject.pids.len());
            let came: Vec<u32> = came.copied().collect();
            look.add_late(&one.subject, &came[..came.len().min(room)], now.len());
            one.note_memory(look.memory_bytes);
            one.end = Some(look);
        }
    }

    /// What was seen; of a step that never came to its measured phase, nothing.
    pub fn into_observed(self) -> Vec<Observed> {
        let told = self.found.into_iter().filter_map(|found| match found {
            Ok(one) => {
                let (begin, end) = (one.begin.as_ref()?, one.end.as_ref()?);
                Some(total(&one, begin, end))
            }
            Err(missing) => Some(*missing),
        });
        told.collect()
    }
}
