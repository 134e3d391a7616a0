//! What a worker of a latency step does.

use crate::latency::client::{Client, ClientSpec};
use crate::run::step::{Job, LiveProgress, deal};
use crate::schedule::{Arrivals, Load, Schedule, Share};
use crate::worker::outcome::Outcome;
pub(crate) use crate::worker::tally::Record as LatTally;
use tare_proto::hello::WaitMode;
use tare_stats::histogram::{Extent, Recording, RecordingSpec};
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::Result;

/// A worker's share of a latency step.
#[derive(Debug)]
pub(crate) struct LatJob {
    spec: ClientSpec,
    recording: RecordingSpec,
    schedule: Option<Schedule>,
}

impl LatJob {
    /// Deals a step out: `whole` says what all workers do together.
    pub(crate) fn deal(
        whole: &ClientSpec,
        rate_per_s: Option<f64>,
        interval: Nanos,
        workers: u32,
    ) -> Result<Vec<Self>> {
        let share = |worker| {
            let connections = deal(u64::from(whole.connections), worker, workers);
            let count = whole.count.map(|count| deal(count, worker, workers));
            let extent = match (count, whole.duration) {
                (Some(count), _) => Extent::Count(count),
                (None, duration) => Extent::Time(duration.unwrap_or(Nanos::from_secs(1))),
            };
            let constant = |rate| {
                let share = Share::new(worker, workers);
                Schedule::new(&Load::steady(rate), Arrivals::Constant, 0, share)
            };
            Ok(Self {
                spec: ClientSpec {
                    connections: connections.try_into().unwrap_or(u32::MAX),
                    count,
                    ..whole.clone()
                },
                recording: RecordingSpec { extent, interval, open_loop: rate_per_s.is_some() },
                schedule: rate_per_s.map(constant).transpose()?,
            })
        };
        (0..workers).map(share).collect()
    }
}

impl Job for LatJob {
    type Tally = LatTally;
    type Client = Client<LiveProgress>;

    fn client(self, wakeup: Nanos, gauge: LiveProgress, interrupt: Interrupt) -> Self::Client {
        let spec = ClientSpec { wakeup, ..self.spec };
        let recording = Recording::new(self.recording);
        Client::new(spec, recording, self.schedule, gauge, interrupt)
    }

    fn wait(&self) -> WaitMode {
        self.spec.wait
    }

    fn results(client: Self::Client) -> (LatTally, Outcome, LiveProgress) {
        client.into_results()
    }

    fn merge(tally: &mut LatTally, other: LatTally) {
        tally.merge(&other);
    }
}
