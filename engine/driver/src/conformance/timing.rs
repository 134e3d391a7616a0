//! Deadlines and wakers.

use super::{Bench, CLIENT, Harness, Mode};
use crate::{Driver, Wait};
use tare_units::Nanos;

/// The best of many waits, since the machine may be busy: a wait of whole milliseconds could not do
/// it once.
pub(super) fn deadlines_are_kept_to_less_than_a_millisecond<H: Harness>() {
    let Some(mut bench) = Bench::<H>::new(Mode::Until) else {
        return;
    };
    let mut done = Vec::new();
    let mut best = Nanos::MAX;
    // Deadlines that come nearer and go farther, so that an alarm set for one must not delay
    // another.
    for us in (0..40).map(|i| [150, 90, 700, 60][i % 4]) {
        let now = bench.harness.now();
        let deadline = now + Nanos::from_micros(us);
        loop {
            let now = bench.harness.now();
            if now >= deadline {
                break;
            }
            let wait = Wait::Until(deadline);
            bench.driver(CLIENT).turn(now, wait, &mut done).unwrap();
            assert!(done.is_empty());
            if H::SLEEPS {
                assert!(bench.harness.now() >= deadline, "returned early with nothing");
            }
            bench.harness.idle();
        }
        best = best.min(bench.harness.now().since(deadline));
    }
    assert!(best < Nanos::from_micros(500), "best overshoot {best}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the kernel's wait must be under way, and only time tells"
)]
pub(super) fn a_waker_ends_the_wait<H: Harness>() {
    if !H::SLEEPS {
        return;
    }
    let Some(mut bench) = Bench::<H>::new(Mode::Until) else {
        return;
    };
    let waker = bench.driver(CLIENT).waker();
    let start = bench.harness.now();
    let deadline = start + Nanos::from_secs(20);
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(5));
        waker.wake();
    });
    let mut done = Vec::new();
    bench.driver(CLIENT).turn(start, Wait::Until(deadline), &mut done).unwrap();
    assert!(bench.harness.now() < deadline && done.is_empty());
    thread.join().unwrap();
}

pub(super) fn a_wake_before_the_wait_counts<H: Harness>() {
    let Some(mut bench) = Bench::<H>::new(Mode::Until) else {
        return;
    };
    let mut done = Vec::new();
    bench.driver(CLIENT).waker().wake();
    // A turn that does not wait leaves it for the one that does.
    let now = bench.harness.now();
    bench.driver(CLIENT).turn(now, Wait::Poll, &mut done).unwrap();
    let deadline = now + Nanos::from_secs(20);
    let wait = Wait::Until(deadline);
    bench.driver(CLIENT).turn(now, wait, &mut done).unwrap();
    assert!(bench.harness.now() < deadline && done.is_empty());
    // It counts once.
    let now = bench.harness.now();
    let deadline = now + Nanos::from_micros(300);
    let wait = Wait::Until(deadline);
    bench.driver(CLIENT).turn(now, wait, &mut done).unwrap();
    assert!(!H::SLEEPS || bench.harness.now() >= deadline);
}
