//! What a client worker is given.

use crate::worker::dialogue::DialogueSpec;
use tare_proto::hello::WaitMode;
use tare_units::Nanos;

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
    /// Hybrid waiting stops sleeping that much before a send is due: from the median of the wake-ups here.
    pub wakeup: Nanos,
}
