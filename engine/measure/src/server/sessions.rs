//! The sessions alive: how many, how large, of whom and where.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tare_driver::clock::{Clock, MonotonicClock};
use tare_host::cpus::Cpus;
use tare_proto::hello::{Hello, Refuse, RefuseCode};
use tare_units::limits::SESSION_MEMORY_MAX;
use tare_units::{Instant, Nanos};

/// With `--once`, the server ends when the first client has had no session for this long, and twice
/// the pause that it expects itself: between the steps of a sweep it has none for a moment.
const ONCE_GRACE: Nanos = Nanos::from_secs(1);
/// With so many runs remembered, those without a session are looked for.
const RUNS_REMEMBERED: usize = 64;

#[derive(Debug, Default)]
pub(super) struct SessionTable(Mutex<SessionStats>);

#[derive(Debug, Default)]
struct SessionStats {
    alive: u32,
    memory_bytes: u64,
    places: HashMap<(u32, u64), u32>,
    /// What each CPU has to do. It follows from `places` and `runs`, and is kept beside them so
    /// that the time that a hello takes does not grow with the number of sessions.
    loads: HashMap<u32, Load>,
    /// Runs that have a session, and some that had one.
    runs: HashMap<u64, RunCpus>,
    /// With so many runs, those without a session are looked for; always some twice as many as then
    /// were left, so that the search costs each new run the same.
    forget_at: usize,
    first_run: Option<u64>,
    first_run_gap: Nanos,
    first_run_left_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Load {
    sessions: u32,
    /// Runs with a session, anywhere, that have the CPU: more may be to come.
    runs: u32,
}

/// The CPUs of a run: as many as it has workers, and its sessions go round them.
#[derive(Debug, Default)]
struct RunCpus {
    cpus: Vec<u32>,
    next: usize,
    sessions: u32,
}

impl SessionStats {
    /// Counts a session more or less; returns whether it is the first of its run, or was the last.
    fn count(&mut self, cpu: u32, run: u64, by: i32) -> bool {
        let add = |count: &mut u32| {
            *count = count.checked_add_signed(by).expect("what leaves was counted");
            *count
        };
        if add(self.places.entry((cpu, run)).or_default()) == 0 {
            self.places.remove(&(cpu, run));
        }
        add(&mut self.loads.entry(cpu).or_default().sessions);
        let of_run = self.runs.entry(run).or_default();
        let turns = add(&mut of_run.sessions) == u32::from(by > 0);
        if turns {
            for cpu in &of_run.cpus {
                add(&mut self.loads.entry(*cpu).or_default().runs);
            }
        }
        turns
    }

    /// Sessions of other runs on `cpu`.
    fn others_on(&self, cpu: u32, run: u64) -> u32 {
        let all = self.loads.get(&cpu).map_or(0, |load| load.sessions);
        let own = self.places.get(&(cpu, run)).copied().unwrap_or(0);
        all.saturating_sub(own)
    }

    /// The sessions of other runs on a CPU, and those runs themselves, which may open more there.
    fn busy(&self, cpu: u32, run: u64) -> u32 {
        let having = self.loads.get(&cpu).map_or(0, |load| load.runs);
        let own = self.runs.get(&run).is_some_and(|r| r.sessions > 0 && r.cpus.contains(&cpu));
        let others = having.saturating_sub(u32::from(own));
        self.others_on(cpu, run).saturating_add(others)
    }

    fn forget(&mut self) {
        if self.runs.len() >= self.forget_at.max(RUNS_REMEMBERED) {
            self.runs.retain(|_, of_run| of_run.sessions > 0);
            self.forget_at = 2 * self.runs.len();
        }
    }
}

impl SessionTable {
    fn stats(&self) -> MutexGuard<'_, SessionStats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for one more session, of that size.
    pub(super) fn check(&self, sessions_max: u32, bytes: u64) -> Result<(), Refuse> {
        let stats = self.stats();
        let alive = stats.alive;
        if alive >= sessions_max {
            let busy = format!("the server has {alive} sessions and takes no more");
            return Err(Refuse::new(RefuseCode::Busy, busy)
                .remedy("try again later, or start the server with a larger --max-sessions"));
        }
        if stats.memory_bytes + bytes > SESSION_MEMORY_MAX {
            let busy = format!(
                "the messages of the server's {alive} sessions take {} MiB, and one more would exceed the {} MiB that \
                 it grants",
                stats.memory_bytes >> 20,
                SESSION_MEMORY_MAX >> 20
            );
            return Err(Refuse::new(RefuseCode::Busy, busy)
                .remedy("use fewer connections (-c) or a smaller --size, or try again later"));
        }
        Ok(())
    }

    /// Counts a session that was admitted, until the permit is dropped.
    pub(super) fn enter(self: &Arc<Self>, hello: &Hello, cpu: u32, bytes: u64) -> SessionPermit {
        let run = hello.run_id.0;
        let mut stats = self.stats();
        stats.alive += 1;
        stats.memory_bytes += bytes;
        stats.count(cpu, run, 1);
        if *stats.first_run.get_or_insert(run) == run {
            stats.first_run_left_at = None;
            stats.first_run_gap = stats.first_run_gap.max(Nanos(hello.gap_ns));
        }
        SessionPermit { table: Arc::clone(self), run, cpu, bytes }
    }

    /// Whether the first client came, and has been gone for so long that it won't come back. A
    /// pause above `pause_max` is not waited for, whoever announces it.
    pub(super) fn is_over(&self, now: Instant, pause_max: Nanos) -> bool {
        let stats = self.stats();
        let pause = stats.first_run_gap.min(pause_max);
        let grace = ONCE_GRACE + pause + pause;
        stats.first_run_left_at.is_some_and(|at| now.since(at) > grace)
    }

    pub(super) fn others_on(&self, cpu: u32, run: u64) -> u32 {
        self.stats().others_on(cpu, run)
    }

    /// The CPU for the next session of a run. `avoid` come last, then those that serve others; the
    /// HTTP worker on `http` counts as a session of another run.
    pub(super) fn place(
        &self,
        hello: &Hello,
        cpus: &Cpus,
        avoid: &[u32],
        http: Option<u32>,
    ) -> u32 {
        let run = hello.run_id.0;
        let mut stats = self.stats();
        let busy = |cpu: u32| stats.busy(cpu, run).saturating_add(u32::from(http == Some(cpu)));
        // A run that has paused keeps its CPUs, unless somebody else came to them meanwhile.
        let stays = stats.runs.get(&run).is_some_and(|of_run| {
            of_run.sessions > 0 || of_run.cpus.iter().all(|&cpu| busy(cpu) == 0)
        });
        if !stays {
            let workers = hello.cpus.len().clamp(1, cpus.allowed.len().max(1));
            let workers = u32::try_from(workers).unwrap_or(1);
            let chosen = cpus.choose_idle(workers, avoid, busy);
            let mut chosen = chosen.map(|choice| choice.cpus).unwrap_or_default();
            if chosen.iter().any(|cpu| !avoid.contains(cpu)) {
                chosen.retain(|cpu| !avoid.contains(cpu));
            }
            stats.forget();
            stats.runs.insert(run, RunCpus { cpus: chosen, ..RunCpus::default() });
        }
        let of_run = stats.runs.entry(run).or_default();
        let cpu = of_run.cpus.get(of_run.next % of_run.cpus.len().max(1));
        of_run.next = of_run.next.wrapping_add(1);
        cpu.copied().unwrap_or(0)
    }
}

/// Counts as one session for as long as it lives.
#[derive(Debug)]
pub(super) struct SessionPermit {
    table: Arc<SessionTable>,
    run: u64,
    cpu: u32,
    bytes: u64,
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        let mut stats = self.table.stats();
        stats.alive -= 1;
        stats.memory_bytes -= self.bytes;
        let is_last = stats.count(self.cpu, self.run, -1);
        if is_last && stats.first_run == Some(self.run) {
            stats.first_run_left_at = Some(MonotonicClock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::session::tests::hello;
    use tare_host::usage::thread_usage;
    use tare_units::text::Id;

    fn machine(count: u32) -> Cpus {
        let mut cpus = Cpus::default();
        cpus.allowed = (0..count).collect();
        cpus
    }

    /// The hello of a run with so many workers.
    fn of(run: u64, workers: usize) -> Hello {
        Hello { run_id: Id(run), cpus: vec![0; workers], ..hello() }
    }

    fn admit(table: &Arc<SessionTable>, hello: &Hello, cpus: &Cpus) -> (u32, SessionPermit) {
        let cpu = table.place(hello, cpus, &[], None);
        (cpu, table.enter(hello, cpu, 1))
    }

    #[test]
    fn two_clients_at_once_get_different_cpus() {
        let (table, cpus) = (Arc::new(SessionTable::default()), machine(3));
        let place = |run| admit(&table, &of(run, 1), &cpus);
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
        let (table, cpus) = (Arc::new(SessionTable::default()), machine(4));
        let held = [1, 2, 1, 2, 1, 1, 2].map(|run| admit(&table, &of(run, 2), &cpus));
        assert_eq!(held.map(|(cpu, _)| cpu), [3, 1, 2, 0, 3, 2, 1]);
    }

    #[test]
    fn the_clients_own_cpus_are_the_last_resort() {
        let table = Arc::new(SessionTable::default());
        let place = |run, avoid: &[u32]| {
            let hello = of(run, 2);
            let cpu = table.place(&hello, &machine(3), avoid, None);
            (cpu, table.enter(&hello, cpu, 1))
        };
        let (first, _held) = place(1, &[2, 1]);
        assert_eq!(first, 0);
        assert_eq!(place(1, &[2, 1]).0, 0, "never those of the client");
        assert_eq!(place(2, &[2, 1]).0, 0, "rather shared with another run");
        assert!(place(3, &[0, 1, 2]).0 < 3);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let table = Arc::new(SessionTable::default());
        for run in 0..1_000 {
            table.place(&of(run, 1), &machine(2), &[], None);
        }
        let stats = table.stats();
        assert!(stats.runs.len() <= RUNS_REMEMBERED);
        assert!(stats.places.is_empty());
    }

    /// Thread CPU time of one admission of a new run beside `alive` others, nanoseconds: the least
    /// of several, so that what else the machine does has no say.
    fn admission_ns(alive: u64) -> u64 {
        let (table, cpus) = (Arc::new(SessionTable::default()), machine(8));
        let admit = |run| admit(&table, &of(run, 2), &cpus);
        let _held: Vec<_> = (0..alive).map(admit).collect();
        let spent = || {
            let used = thread_usage();
            used.user_ns + used.system_ns
        };
        let rounds = (0..8).map(|round| {
            let before = spent();
            let held: Vec<_> = (0..100).map(|n| admit(u64::MAX - 100 * round - n)).collect();
            let spent = spent() - before;
            drop(held);
            spent
        });
        rounds.min().unwrap_or(0) / 100
    }

    /// A search of all sessions for every CPU took a thousand times as long beside 4,000 runs.
    #[test]
    fn a_hello_costs_the_same_beside_four_thousand_runs() {
        let (few, many) = (admission_ns(4), admission_ns(4_000));
        assert!(many < 30 * few.max(2_000), "{few} ns, {many} ns");
    }

    #[test]
    fn what_is_counted_beside_the_sessions_agrees_with_them() {
        let table = Arc::new(SessionTable::default());
        let mut held: Vec<SessionPermit> = Vec::new();
        let mut dice = 0x7a7e_u64;
        for _ in 0..2_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (run, drops) = ((dice >> 33) % 7, (dice >> 50).is_multiple_of(3));
            if drops && !held.is_empty() {
                held.swap_remove((dice >> 20) as usize % held.len());
            } else {
                held.push(admit(&table, &of(run, 1 + run as usize % 3), &machine(4)).1);
            }
            let stats = table.stats();
            for cpu in 0..4 {
                let on = |p: &&((u32, u64), &u32)| p.0.0 == cpu && p.0.1 != run;
                let places: Vec<_> = stats.places.iter().map(|(k, v)| (*k, v)).collect();
                let sessions: u32 = places.iter().filter(on).map(|(_, n)| **n).sum();
                let having = stats.runs.iter().filter(|(other, of_run)| {
                    **other != run
                        && of_run.cpus.contains(&cpu)
                        && places.iter().any(|((_, r), _)| r == *other)
                });
                let busy = sessions + u32::try_from(having.count()).unwrap();
                assert_eq!(stats.busy(cpu, run), busy);
            }
        }
        held.clear();
        let stats = table.stats();
        assert!(stats.loads.values().all(|l| l.sessions + l.runs == 0));
    }

    #[test]
    fn memory_is_counted_and_given_back() {
        let table = Arc::new(SessionTable::default());
        let hello = of(1, 1);
        let large = 32 << 20;
        let mut held = Vec::new();
        while table.check(u32::MAX, large).is_ok() {
            held.push(table.enter(&hello, 0, large));
        }
        assert_eq!(held.len() as u64, SESSION_MEMORY_MAX / large);
        let refusal = table.check(u32::MAX, large).unwrap_err();
        assert_eq!(refusal.code, RefuseCode::Busy);
        assert!(refusal.message.contains("40 sessions take 1280 MiB"), "{refusal}");
        assert!(refusal.remedy.unwrap().contains("--size"));
        held.pop();
        assert!(table.check(u32::MAX, large).is_ok());
        let refusal = table.check(39, 1).unwrap_err();
        assert!(refusal.remedy.unwrap().contains("--max-sessions"));
        held.clear();
        let stats = table.stats();
        assert_eq!((stats.alive, stats.memory_bytes), (0, 0));
    }

    #[test]
    fn a_server_for_one_client_waits_as_long_as_the_client_pauses() {
        let hour = Nanos::from_secs(3_600);
        let over_after = |gap: Nanos, most: Nanos| {
            let table = Arc::new(SessionTable::default());
            assert!(!table.is_over(Instant::FAR_FUTURE, most), "nobody came yet");
            let mut hello = of(1, 1);
            hello.gap_ns = gap.0;
            let permit = table.enter(&hello, 0, 1);
            assert!(!table.is_over(Instant::FAR_FUTURE, most));
            // Whatever the others do.
            hello.run_id.0 = 2;
            hello.gap_ns = u64::MAX;
            let _other = table.enter(&hello, 0, 1);
            drop(permit);
            let left_at = table.stats().first_run_left_at.unwrap();
            move |after: Nanos| table.is_over(left_at + after, most)
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
