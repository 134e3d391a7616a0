//! Deadlines to the nanosecond: a timerfd in the poll set, since mio's own timeout is whole milliseconds.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::DriverError;
use tare_units::Instant;

/// A timerfd, and what it is set to. It is never read: setting it anew resets it, and an edge-triggered watch
/// reports each expiry once.
#[derive(Debug)]
pub(super) struct Alarm {
    fd: TimerFd,
    armed: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> Result<Self, DriverError> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(|errno| {
            DriverError::Resources { what: "a timerfd", source: ("timerfd_create", errno).into() }
        })?;
        Ok(Self { fd, armed: None })
    }

    /// Sees to it that it rings at `due` or before. One that rings before costs one turn of the wait; to move it
    /// at every turn would cost a system call each, and deadlines mostly move on before they come.
    pub(super) fn arm(&mut self, due: Instant, now: Instant) -> Result<(), DriverError> {
        let is_covered = self.armed.is_some_and(|armed| armed > now && armed <= due);
        if is_covered || due == Instant::FAR_FUTURE {
            return Ok(());
        }
        let seconds = i64::try_from(due.0 / 1_000_000_000).unwrap_or(i64::MAX);
        let at = TimeSpec::new(seconds, (due.0 % 1_000_000_000) as i64);
        self.fd.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME).map_err(
            |errno| DriverError::Call {
                call: "timerfd_settime",
                source: ("timerfd_settime", errno).into(),
            },
        )?;
        self.armed = Some(due);
        Ok(())
    }

    /// It has rung, so it rings no more.
    pub(super) const fn rang(&mut self) {
        self.armed = None;
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
