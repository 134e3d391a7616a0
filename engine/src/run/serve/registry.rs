//! The sessions alive: how many, how large, of whom and where.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::{Clock, MonotonicClock};
use crate::limits::SESSION_MEMORY_MAX;
use crate::proto::hello::{Hello, Refuse, RefuseCode};
use crate::run::cpus::Cpus;
use crate::units::{Instant, Nanos};

/// With `--once`, the server ends when the first client has had no session for this long, and twice the pause
/// that it expects itself: between the steps of a sweep it has none for a moment.
const ONCE_GRACE: Nanos = Nanos::from_secs(1);
/// So many runs without a session are remembered, for the CPUs that they had.
const RUNS_REMEMBERED: usize = 64;

/// Sessions alive, and what they hold.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Census>);

#[derive(Debug, Default)]
struct Census {
    alive: u32,
    memory_bytes: u64,
    /// Sessions by CPU and run.
    places: HashMap<(u32, u64), u32>,
    first_run: Option<u64>,
    /// The longest pause that the first run's sessions announced.
    first_run_gap: Nanos,
    first_run_alive: u32,
    first_run_left_at: Option<Instant>,
}

impl Registry {
    fn census(&self) -> MutexGuard<'_, Census> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for one more session, of that size.
    ///
    /// # Errors
    /// The refusal: the server is busy.
    pub(super) fn check(&self, sessions_max: u32, bytes: u64) -> Result<(), Refuse> {
        let census = self.census();
        let alive = census.alive;
        if alive >= sessions_max {
            let busy = format!("the server has {alive} sessions and takes no more");
            return Err(Refuse::new(RefuseCode::Busy, busy)
                .remedy("try again later, or start the server with a larger --max-sessions"));
        }
        if census.memory_bytes + bytes > SESSION_MEMORY_MAX {
            let busy = format!(
                "the messages of the server's {alive} sessions take {} MiB, and one more would exceed the {} MiB that \
                 it grants",
                census.memory_bytes >> 20,
                SESSION_MEMORY_MAX >> 20
            );
            return Err(Refuse::new(RefuseCode::Busy, busy)
                .remedy("use fewer connections (-c) or a smaller --size, or try again later"));
        }
        Ok(())
    }

    /// Counts a session that was admitted, until the permit is dropped.
    pub(super) fn enter(self: &Arc<Self>, hello: &Hello, cpu: u32, bytes: u64) -> Permit {
        let run = hello.run_id.0;
        let mut census = self.census();
        census.alive += 1;
        census.memory_bytes += bytes;
        *census.places.entry((cpu, run)).or_default() += 1;
        if *census.first_run.get_or_insert(run) == run {
            census.first_run_alive += 1;
            census.first_run_left_at = None;
            census.first_run_gap = census.first_run_gap.max(Nanos(hello.gap_ns));
        }
        Permit {
            registry: Arc::clone(self),
            run,
            cpu,
            bytes,
        }
    }

    /// Whether the first client came, and has been gone for so long that it won't come back. A pause above
    /// `pause_max` is not waited for, whoever announces it.
    pub(super) fn is_over(&self, now: Instant, pause_max: Nanos) -> bool {
        let census = self.census();
        let pause = census.first_run_gap.min(pause_max);
        let grace = ONCE_GRACE + pause + pause;
        census
            .first_run_left_at
            .is_some_and(|at| now.since(at) > grace)
    }

    /// Sessions of other runs on `cpu`.
    pub(super) fn others_on(&self, cpu: u32, run: u64) -> u32 {
        let census = self.census();
        let on_cpu = census.places.iter().filter(|((c, _), _)| *c == cpu);
        on_cpu
            .filter(|((_, r), _)| *r != run)
            .map(|(_, sessions)| sessions)
            .sum()
    }

    fn has_sessions_of(&self, run: u64) -> bool {
        self.census().places.keys().any(|(_, r)| *r == run)
    }
}

/// Counts as one session for as long as it lives.
#[derive(Debug)]
pub(super) struct Permit {
    registry: Arc<Registry>,
    run: u64,
    cpu: u32,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut census = self.registry.census();
        census.alive -= 1;
        census.memory_bytes -= self.bytes;
        let place = (self.cpu, self.run);
        if let Some(sessions) = census.places.get_mut(&place) {
            *sessions -= 1;
            if *sessions == 0 {
                census.places.remove(&place);
            }
        }
        if census.first_run == Some(self.run) {
            census.first_run_alive -= 1;
            if census.first_run_alive == 0 {
                census.first_run_left_at = Some(MonotonicClock.now());
            }
        }
    }
}

/// Which CPUs serve whom. A run gets as many as it has workers, and its sessions go round them.
#[derive(Debug, Default)]
pub(super) struct Placement {
    runs: HashMap<u64, Round>,
    /// The CPU of the HTTP worker, which counts as a session of another run.
    pub(super) http: Option<u32>,
}

/// The CPUs of a run.
#[derive(Debug, Default)]
struct Round {
    cpus: Vec<u32>,
    next: usize,
}

impl Placement {
    /// The CPU for the next session of a run. `avoid` come last, then those that serve others.
    pub(super) fn place(
        &mut self,
        hello: &Hello,
        cpus: &Cpus,
        avoid: &[u32],
        registry: &Registry,
    ) -> u32 {
        let run = hello.run_id.0;
        let busy = |cpu: u32| self.busy(cpu, run, registry);
        // A run that has paused keeps its CPUs, unless somebody else came to them meanwhile.
        let stays = self.runs.get(&run).is_some_and(|round| {
            registry.has_sessions_of(run) || round.cpus.iter().all(|&cpu| busy(cpu) == 0)
        });
        if !stays {
            let workers = hello.cpus.len().clamp(1, cpus.allowed.len().max(1));
            let workers = u32::try_from(workers).unwrap_or(1);
            let chosen = cpus.choose_idle(workers, avoid, busy);
            let mut chosen = chosen.map(|choice| choice.cpus).unwrap_or_default();
            if chosen.iter().any(|cpu| !avoid.contains(cpu)) {
                chosen.retain(|cpu| !avoid.contains(cpu));
            }
            self.forget(registry);
            self.runs.insert(
                run,
                Round {
                    cpus: chosen,
                    next: 0,
                },
            );
        }
        let round = self.runs.entry(run).or_default();
        let cpu = round.cpus.get(round.next % round.cpus.len().max(1));
        round.next += 1;
        cpu.copied().unwrap_or(0)
    }

    /// What other runs do on a CPU: their sessions there, and that they have it, since more may be to come.
    fn busy(&self, cpu: u32, run: u64, registry: &Registry) -> u32 {
        let others = self.runs.iter().filter(|&(&other, round)| {
            other != run && round.cpus.contains(&cpu) && registry.has_sessions_of(other)
        });
        let others = u32::try_from(others.count()).unwrap_or(u32::MAX);
        let http = u32::from(self.http == Some(cpu));
        registry.others_on(cpu, run).saturating_add(others + http)
    }

    /// Forgets runs without a session, when there are many of them.
    fn forget(&mut self, registry: &Registry) {
        if self.runs.len() >= RUNS_REMEMBERED {
            self.runs.retain(|&run, _| registry.has_sessions_of(run));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(run: u64, workers: usize) -> Hello {
        serde_json::from_value(serde_json::json!({
            "run_id": format!("{run:016x}"), "test": "ping_pong", "transport": "tcp", "size_bytes": 64,
            "wait": "block", "timeout_ns": 1, "cpus": vec![0; workers],
        }))
        .unwrap()
    }

    fn machine(count: u32) -> Cpus {
        let mut cpus = Cpus::default();
        cpus.allowed = (0..count).collect();
        cpus
    }

    #[test]
    fn two_clients_at_once_get_different_cpus() {
        let (mut placement, registry, cpus) = (
            Placement::default(),
            Arc::new(Registry::default()),
            machine(3),
        );
        let mut place = |run| {
            let hello = hello(run, 1);
            let cpu = placement.place(&hello, &cpus, &[], &registry);
            (cpu, registry.enter(&hello, cpu, 1))
        };
        let (a, _held_a) = place(1);
        let (b, held_b) = place(2);
        let (c, _held_c) = place(3);
        assert_eq!((a, b, c), (2, 1, 0));
        // All serve one each: the first again; what a run has it keeps.
        let (d, _held_d) = place(4);
        assert_eq!((d, place(2).0), (2, 1));
        // Back from a pause, to a CPU that is nobody's, and to one that was taken.
        drop(held_b);
        assert_eq!(place(2).0, 1);
        let (e, _held_e) = place(5);
        assert_eq!(e, 1);
        let (f, _held_f) = place(6);
        assert_eq!((f, place(2).0), (1, 0));
    }

    #[test]
    fn sessions_go_round_their_runs_cpus_whoever_comes_between() {
        let (mut placement, registry, cpus) = (
            Placement::default(),
            Arc::new(Registry::default()),
            machine(4),
        );
        let mut held = Vec::new();
        let mut place = |run| {
            let hello = hello(run, 2);
            let cpu = placement.place(&hello, &cpus, &[], &registry);
            held.push(registry.enter(&hello, cpu, 1));
            cpu
        };
        let order: Vec<u32> = [1, 2, 1, 2, 1, 1, 2].map(&mut place).to_vec();
        assert_eq!(order, [3, 1, 2, 0, 3, 2, 1]);
    }

    #[test]
    fn the_clients_own_cpus_are_the_last_resort() {
        let (mut placement, registry) = (Placement::default(), Arc::new(Registry::default()));
        let mut place = |run, avoid: &[u32]| {
            let hello = hello(run, 2);
            let cpu = placement.place(&hello, &machine(3), avoid, &registry);
            (cpu, registry.enter(&hello, cpu, 1))
        };
        let (first, _held) = place(1, &[2, 1]);
        assert_eq!(first, 0);
        assert_eq!(place(1, &[2, 1]).0, 0, "never those of the client");
        assert_eq!(place(2, &[2, 1]).0, 0, "rather shared with another run");
        assert!(place(3, &[0, 1, 2]).0 < 3);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut placement, registry) = (Placement::default(), Arc::new(Registry::default()));
        for run in 0..1_000 {
            placement.place(&hello(run, 1), &machine(2), &[], &registry);
        }
        assert!(placement.runs.len() <= RUNS_REMEMBERED);
        assert!(registry.census().places.is_empty());
    }

    #[test]
    fn memory_is_counted_and_given_back() {
        let registry = Arc::new(Registry::default());
        let hello = hello(1, 1);
        let large = 32 << 20;
        let mut held = Vec::new();
        while registry.check(u32::MAX, large).is_ok() {
            held.push(registry.enter(&hello, 0, large));
        }
        assert_eq!(held.len() as u64, SESSION_MEMORY_MAX / large);
        let refusal = registry.check(u32::MAX, large).unwrap_err();
        assert_eq!(refusal.code, RefuseCode::Busy);
        assert!(
            refusal.message.contains("40 sessions take 1280 MiB"),
            "{refusal}"
        );
        assert!(refusal.remedy.unwrap().contains("--size"));
        held.pop();
        assert!(registry.check(u32::MAX, large).is_ok());
        let refusal = registry.check(39, 1).unwrap_err();
        assert!(refusal.remedy.unwrap().contains("--max-sessions"));
        held.clear();
        let census = registry.census();
        assert_eq!((census.alive, census.memory_bytes), (0, 0));
    }

    #[test]
    fn a_server_for_one_client_waits_as_long_as_the_client_pauses() {
        let hour = Nanos::from_secs(3_600);
        let over_after = |gap: Nanos, most: Nanos| {
            let registry = Arc::new(Registry::default());
            assert!(
                !registry.is_over(Instant::FAR_FUTURE, most),
                "nobody came yet"
            );
            let mut hello = hello(1, 1);
            hello.gap_ns = gap.0;
            let permit = registry.enter(&hello, 0, 1);
            assert!(!registry.is_over(Instant::FAR_FUTURE, most));
            // Whatever the others do.
            hello.run_id.0 = 2;
            hello.gap_ns = u64::MAX;
            let _other = registry.enter(&hello, 0, 1);
            drop(permit);
            let left_at = registry.census().first_run_left_at.unwrap();
            move |after: Nanos| registry.is_over(left_at + after, most)
        };
        let second = Nanos::from_secs(1);
        let none = over_after(Nanos::ZERO, hour);
        assert!(!none(second) && none(second + Nanos(1)));
        let two = over_after(Nanos::from_secs(2), hour);
        assert!(!two(Nanos::from_secs(5)) && two(Nanos::from_secs(5) + Nanos(1)));
        let bounded = over_after(Nanos::MAX, Nanos::from_secs(10));
        assert!(!bounded(Nanos::from_secs(21)) && bounded(Nanos::from_secs(22)));
    }
}
