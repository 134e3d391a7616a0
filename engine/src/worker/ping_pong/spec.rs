//! What a client worker is given, and what it tells while it runs.

use crate::histogram::Recording;
use crate::proto::hello::WaitMode;
use crate::units::Nanos;
use crate::worker::control::Phase;
use crate::worker::dialogue::DialogueSpec;

/// What one client worker is to do.
#[derive(Debug, Clone)]
pub struct ClientSpec {
    /// With whom each connection talks, and what it says. Its timeout holds for each operation, too.
    pub dialogue: DialogueSpec,
    /// Connections of this worker.
    pub connections: u32,
    /// Message size, bytes.
    pub size_bytes: u32,
    /// Length of the warm-up.
    pub warmup: Nanos,
    /// Length of the measured phase, where it ends by time.
    pub duration: Option<Nanos>,
    /// Operations of this worker, where it ends by count.
    pub count: Option<u64>,
    /// How to wait once the run has started.
    pub wait: WaitMode,
    /// The 99th percentile of a wake-up here: hybrid waiting stops sleeping that much before a send is due.
    pub wakeup: Nanos,
}

/// Figures that the worker's thread shows while it runs. The real one writes padded atomics.
pub trait Gauge {
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
