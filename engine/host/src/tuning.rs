//! What a run sets for itself so that its sleeps end on time, and how late they still end.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use nix::errno::Errno;
use nix::sys::prctl::set_timerslack;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

use crate::files::Files;
use tare_driver::clock::{Clock as _, MonotonicClock};
use tare_driver::io::OpError;
use tare_units::Nanos;
use tare_units::limits::HYBRID_SPIN;

const PROBE_SLEEP: Nanos = Nanos::from_micros(100);

/// Sets the calling thread's timer slack: how much later than asked the kernel may end its sleeps,
/// in order to end several together. The default is 50,000 ns, also named 0.
///
/// # Errors
/// As `prctl` answers, in sandboxes that lack it.
pub fn set_timer_slack_ns(ns: u32) -> Result<(), OpError> {
    set_timerslack(ns.into()).map_err(|errno| ("prctl", errno).into())
}

/// Keeps all CPUs out of idle states that take time to leave, by `/dev/cpu_dma_latency` (the
/// kernel's `power/pm_qos_interface`), for as long as the file is open.
///
/// # Errors
/// [`OpError::AccessDenied`] or [`OpError::NotPermitted`] without root; `ENOENT` where the device
/// is not there, as in most containers.
pub fn hold_cpu_dma_latency() -> Result<File, OpError> {
    hold_cpu_dma_latency_below(&Files::default())
}

fn hold_cpu_dma_latency_below(files: &Files) -> Result<File, OpError> {
    let call = "open(/dev/cpu_dma_latency)";
    let path = files.path("/dev/cpu_dma_latency");
    let mut held =
        OpenOptions::new().write(true).open(path).map_err(|error| match error.raw_os_error() {
            // Worth the name of the device.
            Some(errno @ libc::ENOENT) => OpError::Os { call, errno },
            _ => OpError::from((call, &error)),
        })?;
    held.write_all(&0i32.to_ne_bytes())
        .map_err(|error| OpError::from(("write(/dev/cpu_dma_latency)", &error)))?;
    Ok(held)
}

/// How late a thread woke from each of some sleeps.
#[derive(Debug, Clone)]
pub struct Wakeups(Vec<Nanos>);

impl Wakeups {
    fn of(mut late: Vec<Nanos>) -> Self {
        late.sort_unstable();
        Self(late)
    }

    /// All of them, the least late first.
    pub fn ascending(&self) -> &[Nanos] {
        &self.0
    }

    /// The 99th percentile (nearest rank).
    pub fn p99(&self) -> Nanos {
        self.percentile(99)
    }

    /// How long before a due time a hybrid wait stops sleeping: twice the median, which covers all
    /// but the disturbed wake-ups, and never more than it spins for a reply. The tail must not
    /// decide: on a busy machine it is milliseconds, and then nothing is left of the sleep.
    pub fn lead(&self) -> Nanos {
        let median = self.percentile(50);
        (median + median).min(HYBRID_SPIN)
    }

    fn percentile(&self, percent: usize) -> Nanos {
        self.0[(self.0.len() * percent).div_ceil(100) - 1]
    }

    /// Of two threads with as many sleeps, the later one at each rank.
    pub fn worse(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
        self
    }
}

/// Measures how late the calling thread wakes from `samples` sleeps of 100 µs. Takes about
/// `samples` × 150 µs. The thread's pinning and timer slack count, so both are to be set before.
pub fn measure_wakeup(samples: u32) -> Wakeups {
    let clock = MonotonicClock;
    let late = (0..samples.max(1)).map(|_| {
        let due = clock.now() + PROBE_SLEEP;
        let until = TimeSpec::from_duration(Nanos(due.0).into());
        let flags = ClockNanosleepFlags::TIMER_ABSTIME;
        // The deadline is absolute, so a sleep that a signal cut short is just slept again.
        while clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &until) == Err(Errno::EINTR) {}
        clock.now().since(due)
    });
    Wakeups::of(late.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;

    #[test]
    fn the_slack_is_set_for_the_thread() {
        let seen = std::thread::spawn(|| {
            set_timer_slack_ns(1)?;
            nix::sys::prctl::get_timerslack().map_err(|errno| ("prctl", errno).into())
        })
        .join()
        .unwrap();
        assert_eq!(seen, Ok::<_, OpError>(1));
    }

    #[test]
    fn zero_latency_is_asked_for_in_four_bytes_and_a_missing_device_is_named() {
        let fixture = Fixture::new(&[]);
        let error = hold_cpu_dma_latency_below(&fixture.files()).unwrap_err();
        assert!(error.to_string().contains("/dev/cpu_dma_latency"), "{error}");
        assert_eq!(error.errno(), Some(libc::ENOENT));
        fixture.write("/dev/cpu_dma_latency", "");
        let _held = hold_cpu_dma_latency_below(&fixture.files()).unwrap();
        let written = std::fs::read(fixture.path("/dev/cpu_dma_latency")).unwrap();
        assert_eq!(written, [0; 4]);
    }

    #[test]
    fn a_wakeup_takes_some_time_but_not_for_ever() {
        let wakeups = measure_wakeup(20);
        let late = wakeups.p99();
        assert!(late > Nanos::ZERO);
        assert!(late < Nanos::from_secs(5), "{late}");
        assert!(wakeups.ascending().is_sorted() && wakeups.ascending().last() == Some(&late));
    }

    #[test]
    fn of_two_threads_the_later_wake_ups_are_kept() {
        let wakeups = |late: [u64; 3]| Wakeups(late.map(Nanos).to_vec());
        let worse = wakeups([1, 5, 6]).worse(&wakeups([2, 3, 9]));
        assert_eq!(worse.ascending(), [2, 5, 9].map(Nanos));
        assert_eq!(worse.p99(), Nanos(9));
    }

    #[test]
    fn how_long_a_hybrid_wait_spins_follows_the_median_and_not_the_tail() {
        // As on a machine that is busy with something else: two wake-ups of a hundred take
        // milliseconds.
        let mut late = vec![Nanos::from_micros(50); 98];
        late.extend([Nanos::from_millis(8); 2]);
        let busy = Wakeups::of(late);
        assert_eq!(busy.p99(), Nanos::from_millis(8));
        assert_eq!(busy.lead(), Nanos::from_micros(100));
        // Nor does it spin for longer than for a reply where every wake-up is slow.
        let slow = Wakeups::of(vec![Nanos::from_millis(3); 5]);
        assert_eq!(slow.lead(), HYBRID_SPIN);
    }
}
