//! What a worker of a bandwidth step does.

use crate::bandwidth::client::{BulkClient, BulkSpec, BulkTally};
use crate::run::step::{Job, LiveProgress, deal};
use crate::worker::outcome::Outcome;
use tare_proto::hello::WaitMode;
use tare_units::Nanos;
use tare_units::control::Interrupt;

/// A worker's share of a bandwidth step.
#[derive(Debug)]
pub(crate) struct BwJob {
    spec: BulkSpec,
}

impl BwJob {
    /// Deals a step out: `whole` says what all workers do together.
    pub(crate) fn deal(whole: &BulkSpec, workers: u32) -> Vec<Self> {
        let mut first = 0;
        let share = |worker| {
            let streams = deal(u64::from(whole.streams), worker, workers);
            let streams = streams.try_into().unwrap_or(u32::MAX);
            let spec = BulkSpec { streams, first, ..whole.clone() };
            first += streams;
            Self { spec }
        };
        (0..workers).map(share).collect()
    }
}

impl Job for BwJob {
    type Tally = BulkTally;
    type Client = BulkClient<LiveProgress>;

    fn client(self, wakeup: Nanos, gauge: LiveProgress, interrupt: Interrupt) -> Self::Client {
        let spec = BulkSpec { wakeup, ..self.spec };
        BulkClient::new(spec, gauge, interrupt)
    }

    fn wait(&self) -> WaitMode {
        self.spec.wait
    }

    fn results(client: Self::Client) -> (BulkTally, Outcome, LiveProgress) {
        client.into_results()
    }

    fn merge(tally: &mut BulkTally, other: BulkTally) {
        tally.merge(other);
    }
}
