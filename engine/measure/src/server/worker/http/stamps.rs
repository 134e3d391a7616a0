//! When requests arrived, by the kernel's own stamps.

use tare_units::{Instant, Nanos};

/// Maps the kernel's stamps to instants: the wall clock, which the kernel stamps by, against the worker's.
pub trait StampClock: std::fmt::Debug {
    /// Compares the clocks anew; asked for every 100 ms.
    fn refresh(&mut self);

    /// The instant of a stamp, which is since the epoch; `None` for one that has none.
    fn to_instant(&self, stamp: Nanos) -> Option<Instant>;
}
