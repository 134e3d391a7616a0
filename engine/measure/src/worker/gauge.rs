//! What a client worker tells while it runs, whatever it measures.

use tare_stats::histogram::Recording;
use tare_units::control::Phase;

/// Figures that the worker's thread shows while it runs. The real one writes padded atomics.
pub trait ProgressSink {
    /// The phase has changed.
    fn phase(&mut self, phase: Phase);
    /// Operations completed and failed so far in the measured phase.
    fn counts(&mut self, completed: u64, errors: u64);
    /// Responses so far in the measured phase, of an HTTP load.
    fn responses(&mut self, count: u64) {
        let _ = count;
    }
    /// Those of all other workers of the step, as they have told so far.
    fn responses_elsewhere(&self) -> u64 {
        0
    }
    /// The measured phase begins: resource usage counts from here.
    fn measure_begins(&mut self);
    /// The measured phase has ended.
    fn measure_ends(&mut self);
    /// Entry `index` of the series is complete.
    fn entry_ends(&mut self, recording: &Recording, index: usize);
}

/// Figures that the worker's thread shows while it runs.
pub trait BulkGauge {
    /// The phase has changed.
    fn phase(&mut self, phase: Phase);
    /// Payload moved in the measured phase so far, both ways, bytes; and errors.
    fn moved(&mut self, bytes: u64, errors: u64);
    /// The measured phase begins: resource usage counts from here.
    fn measure_begins(&mut self);
    /// The measured phase has ended.
    fn measure_ends(&mut self);
}
