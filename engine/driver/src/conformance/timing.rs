//! Deadlines and wakers.

use super::{Bench, CLIENT, Harness};
use crate::{Driver, Wait};
use tare_units::{Instant, Nanos};

/// A turn of the client that brings nothing, and the instant at which it is over.
fn empty_turn<H: Harness>(bench: &mut Bench<H>, wait: Wait) -> Instant {
    let (now, mut done) = (bench.harness.now(), Vec::new());
    bench.driver(CLIENT).turn(now, wait, &mut done).unwrap();
    assert!(done.is_empty(), "{done:?}");
    bench.harness.now()
}

/// The best of many waits, since the machine may be busy: a wait of whole milliseconds could not do
/// it once.
pub(super) fn deadlines_are_kept_to_less_than_a_millisecond<H: Harness>(bench: &mut Bench<H>) {
    let mut best = Nanos::MAX;
    // Deadlines that come nearer and go farther, so that an alarm set for one must not delay
    // another.
    for us in (0..40).map(|i| [150, 90, 700, 60][i % 4]) {
        let deadline = bench.harness.now() + Nanos::from_micros(us);
        while bench.harness.now() < deadline {
            let returned = empty_turn(bench, Wait::Until(deadline));
            assert!(!H::SLEEPS || returned >= deadline, "returned early with nothing");
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
pub(super) fn a_waker_ends_the_wait<H: Harness>(bench: &mut Bench<H>) {
    for _ in 0..if H::SLEEPS { 3 } else { 0 } {
        let waker = bench.driver(CLIENT).waker();
        let deadline = bench.harness.now() + Nanos::from_secs(20);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(5));
            waker.wake();
        });
        assert!(empty_turn(bench, Wait::Until(deadline)) < deadline);
        thread.join().unwrap();
    }
}

pub(super) fn a_wake_before_the_wait_counts<H: Harness>(bench: &mut Bench<H>) {
    bench.driver(CLIENT).waker().wake();
    // Turns that do not wait leave it for the one that does.
    empty_turn(bench, Wait::Poll);
    empty_turn(bench, Wait::Poll);
    let deadline = bench.harness.now() + Nanos::from_secs(20);
    assert!(empty_turn(bench, Wait::Until(deadline)) < deadline);
    // It counts once.
    let deadline = bench.harness.now() + Nanos::from_micros(300);
    let returned = empty_turn(bench, Wait::Until(deadline));
    assert!(!H::SLEEPS || returned >= deadline);
}
