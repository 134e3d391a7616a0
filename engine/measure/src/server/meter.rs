//! How a session worker's thread fared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::run::instrument;
use crate::run::report::tell_machine;
use crate::server::worker::Meter;
use crate::worker::TurnCounters;
use tare_driver::clock::{ClockQuality, MonotonicClock};
use tare_host::usage::{CpuTimes, DisturbanceProbe, RunQueue};
use tare_stats::result::{CpuUse, Instrument};

#[derive(Debug)]
pub(super) struct ServerMeter {
    cpu: u32,
    clock: ClockQuality,
    probe: DisturbanceProbe,
    queue: RunQueue,
    usage: CpuTimes,
    stopping: Arc<AtomicBool>,
}

impl ServerMeter {
    pub(super) fn new(cpu: u32, stopping: Arc<AtomicBool>) -> Self {
        let queue = RunQueue::of_this_thread();
        Self {
            cpu,
            clock: MonotonicClock.quality(),
            probe: DisturbanceProbe::start(&[cpu]),
            usage: queue.usage(),
            queue,
            stopping,
        }
    }
}

impl Meter for ServerMeter {
    fn reset(&mut self) {
        self.probe = DisturbanceProbe::start(&[self.cpu]);
        self.usage = self.queue.usage();
    }

    fn measure_begins(&mut self) {
        self.usage = self.queue.usage();
    }

    fn read(&mut self, counters: &TurnCounters) -> (Instrument, CpuUse) {
        let used = self.queue.usage() - self.usage;
        let disturbance = self.probe.finish();
        let mut instrument = instrument::of_worker(counters, self.clock, &used);
        instrument.cpus = vec![self.cpu];
        instrument::disturb(&mut instrument, &disturbance);
        let mut cpu =
            CpuUse { user_ns: used.user_ns, system_ns: used.system_ns, ..CpuUse::default() }
                .with_polling(Some(instrument::polling_ns(counters, &used)));
        tell_machine(&mut cpu, &disturbance);
        (instrument, cpu)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
