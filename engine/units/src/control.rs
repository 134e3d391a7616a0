//! What passes between a worker and whoever launched it: how to stop it, and where it stands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Ends a run early: what was measured until then is reported, marked partial.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    level: Arc<AtomicU8>,
    outer: Option<Arc<Self>>,
}

/// It is to end in order.
const WOUND_UP: u8 = 1;
/// It is to end within [`INTERRUPTED_MAX`](crate::bounds::INTERRUPTED_MAX).
const URGENT: u8 = 2;

impl Interrupt {
    /// One of a part of a run: it is raised by itself, and with the run's.
    pub fn of_part(&self) -> Self {
        Self { level: Arc::default(), outer: Some(Arc::new(self.clone())) }
    }

    /// Asks the run to end. Safe to call from a signal handler's thread.
    pub fn raise(&self) {
        self.level.store(URGENT, Ordering::Relaxed);
    }

    /// Asks what goes on beside a measurement to end: it has more time for that.
    pub fn wind_up(&self) {
        self.level.fetch_max(WOUND_UP, Ordering::Relaxed);
    }

    #[inline]
    fn level(&self) -> u8 {
        let outer = self.outer.as_ref().map_or(0, |outer| outer.level());
        self.level.load(Ordering::Relaxed).max(outer)
    }

    /// Whether it was asked.
    #[inline]
    pub fn is_raised(&self) -> bool {
        self.level() >= WOUND_UP
    }

    /// Whether it was asked to end at once.
    #[inline]
    pub fn is_urgent(&self) -> bool {
        self.level() >= URGENT
    }
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Opening connections.
    Connect,
    /// Warming up.
    WarmUp,
    /// Measuring.
    Measure,
    /// Waiting for what is still under way.
    Drain,
}
