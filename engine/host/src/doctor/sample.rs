//! What only shows over time: the kernel's counters twice, and meanwhile the CPUs themselves, spun
//! on as a measuring worker would spin.

use std::collections::BTreeMap;
use std::thread;

use super::interrupts::Interrupts;
use crate::cgroup::Cgroups;
use crate::files::Files;
use crate::tuning::{measure_wakeup, set_timer_slack_ns};
use crate::usage::Counters;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::sys::affinity::pin_current_thread;
use tare_units::Nanos;

/// A spinning thread that is away for longer was interrupted: reading the clock takes some 20 ns.
pub(super) const GAP_MIN: Nanos = Nanos::from_micros(5);
const WAKEUPS: u32 = 200;
/// What such a sleep takes at least.
const SLEEP: Nanos = Nanos::from_micros(100);

/// How often, and for how long, a thread that never sleeps was kept from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Noise {
    pub(super) span: Nanos,
    /// Times it was away for [`GAP_MIN`] or longer.
    pub(super) gaps: u64,
    pub(super) longest: Nanos,
    pub(super) away: Nanos,
}

impl Noise {
    fn listen(clock: &impl Clock, span: Nanos) -> Self {
        let start = clock.now();
        let mut last = start;
        let mut noise = Self::default();
        while noise.span < span {
            let now = clock.now();
            let gap = now.since(last);
            if gap >= GAP_MIN {
                noise.gaps += 1;
                noise.away = noise.away + gap;
                noise.longest = noise.longest.max(gap);
            }
            last = now;
            noise.span = now.since(start);
        }
        noise
    }
}

#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) before: Counters,
    pub(super) after: Counters,
    pub(super) interrupts_before: Interrupts,
    pub(super) interrupts: Interrupts,
    pub(super) span: Nanos,
    /// Of each CPU that could be spun on.
    pub(super) noise: BTreeMap<u32, Noise>,
    /// How late a thread on the first CPU wakes, 99th percentile.
    pub(super) wakeup: Option<Nanos>,
    /// The first CPU's thread was given a timer slack of its own.
    pub(super) slack_set: bool,
    pub(super) clock_cost: Nanos,
}

impl Sample {
    /// Looks for `span`. With `spin` a thread on each of `cpus` uses it up; a cgroup without quota
    /// for that is left in peace, and only slept in.
    pub(super) fn take(files: &Files, cpus: &[u32], span: Nanos, spin: bool) -> Self {
        let clock = MonotonicClock;
        let started = clock.now();
        let cgroups = Cgroups::of_self(files);
        let read = || (Counters::read(files, cgroups.as_ref()), Interrupts::read(files));
        let mut sample = Self::default();
        (sample.before, sample.interrupts_before) = read();
        if spin {
            sample.noise = listen_on(cpus, span);
        } else {
            let sleeps = u32::try_from(span.0.div_ceil(SLEEP.0)).unwrap_or(u32::MAX);
            sample.sleep_on(cpus, sleeps);
        }
        (sample.after, sample.interrupts) = read();
        sample.span = clock.now().since(started);
        if spin {
            sample.sleep_on(cpus, WAKEUPS);
        }
        sample.clock_cost = clock.quality().cost;
        sample
    }

    fn sleep_on(&mut self, cpus: &[u32], samples: u32) {
        let Some(&cpu) = cpus.first() else { return };
        let slept = thread::spawn(move || {
            let slack_set = set_timer_slack_ns(1).is_ok();
            pin_current_thread(cpu).ok()?;
            Some((slack_set, measure_wakeup(samples).p99()))
        });
        if let Ok(Some((slack_set, late))) = slept.join() {
            self.slack_set = slack_set;
            self.wakeup = Some(late);
        }
    }
}

/// Listens on all of `cpus` at once. A CPU that a thread cannot be pinned to is left out.
fn listen_on(cpus: &[u32], span: Nanos) -> BTreeMap<u32, Noise> {
    let listen = |cpu: u32| {
        let thread = thread::spawn(move || {
            pin_current_thread(cpu).ok()?;
            Some(Noise::listen(&MonotonicClock, span))
        });
        (cpu, thread)
    };
    // All are started before the first is waited for.
    let threads: Vec<_> = cpus.iter().copied().map(listen).collect();
    threads.into_iter().filter_map(|(cpu, thread)| Some((cpu, thread.join().ok()??))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tare_driver::sys::affinity::allowed_cpus;
    use tare_units::Instant;

    /// A clock that jumps at each reading, by a list of steps that is repeated.
    struct Jumping {
        steps: Vec<u64>,
        reads: Cell<usize>,
        now: Cell<u64>,
    }

    impl Clock for Jumping {
        fn now(&self) -> Instant {
            let at = self.reads.get();
            self.reads.set(at + 1);
            self.now.set(self.now.get() + self.steps[at % self.steps.len()]);
            Instant(self.now.get())
        }
    }

    #[test]
    fn only_times_away_are_gaps() {
        let clock = Jumping {
            steps: vec![20, 4_999, 5_000, 80_000],
            reads: Cell::new(0),
            now: Cell::new(0),
        };
        // Twice through the list: the first reading starts it.
        let noise = Noise::listen(&clock, Nanos(90_019 * 2 - 20));
        assert_eq!(noise.gaps, 4);
        assert_eq!(noise.longest, Nanos(80_000));
        assert_eq!(noise.away, Nanos(170_000));
    }

    #[test]
    fn a_look_listens_and_sleeps_on_its_cpus() {
        let cpu = *allowed_cpus().last().unwrap();
        let span = Nanos::from_millis(5);
        let look = Sample::take(&Files::default(), &[cpu], span, true);
        assert!(look.span >= span);
        assert!(look.noise[&cpu].span >= span);
        assert!(look.wakeup.is_some_and(|late| late > Nanos::ZERO));
        assert!(look.clock_cost > Nanos::ZERO);
        let gently = Sample::take(&Files::default(), &[cpu], span, false);
        assert!(gently.noise.is_empty() && gently.wakeup.is_some());
        assert!(gently.span >= span);
    }

    #[test]
    fn a_cpu_that_cannot_be_had_is_left_out() {
        assert!(listen_on(&[1_023], Nanos(1)).is_empty());
    }
}
