//! What a worker of an HTTP step does.

use crate::http::client::{HttpClient, HttpSpec, HttpTally};
use crate::http::plan::Stage;
use crate::run::plan::Common;
use crate::run::step::{Job, LiveProgress, deal};
use crate::schedule::Arrivals;
use crate::schedule::{Load, Schedule, Share};
use crate::worker::outcome::Outcome;
use tare_proto::hello::WaitMode;
use tare_stats::histogram::{Extent, Recording, RecordingSpec};
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::Result;

/// A worker's share of an HTTP step.
#[derive(Debug)]
pub(crate) struct HttpJob {
    spec: HttpSpec,
    recording: RecordingSpec,
    schedule: Option<Schedule>,
    seed: u64,
}

impl HttpJob {
    /// Deals a step out: `whole` says what all workers do together.
    ///
    /// # Errors
    /// A usage error for a rate that cannot be scheduled.
    pub(crate) fn deal(
        whole: &HttpSpec,
        schedule: Option<(Stage, Arrivals)>,
        common: &Common,
        workers: u32,
    ) -> Result<Vec<Self>> {
        let mut first = 0;
        let share = |worker| {
            let connections = deal(u64::from(whole.connections), worker, workers);
            let connections = u32::try_from(connections).unwrap_or(u32::MAX);
            let count = whole.count.map(|count| deal(count, worker, workers));
            let extent = match (count, whole.duration) {
                (Some(count), _) => Extent::Count(count),
                (None, duration) => Extent::Time(duration.unwrap_or(Nanos::from_secs(1))),
            };
            let own = Share::new(worker, workers);
            let schedule = schedule
                .map(|(stage, arrivals)| scheduled(stage, arrivals, whole, common.seed, own));
            let spec = HttpSpec { first, connections, count, ..whole.clone() };
            first += connections;
            // Each worker begins elsewhere in the order of the requests.
            let cycle = whole.requests.order().len() as u64;
            Ok(Self {
                spec,
                recording: RecordingSpec {
                    extent,
                    interval: common.interval,
                    open_loop: schedule.is_some(),
                },
                schedule: schedule.transpose()?,
                seed: cycle * u64::from(worker) / u64::from(workers),
            })
        };
        (0..workers).map(share).collect()
    }
}

/// A worker's arrivals: the rate is held during the warm-up, and changes in the measured phase.
fn scheduled(
    stage: Stage,
    arrivals: Arrivals,
    whole: &HttpSpec,
    seed: u64,
    share: Share,
) -> Result<Schedule> {
    let load = Load {
        from_per_s: stage.from_per_s,
        to_per_s: stage.to_per_s,
        hold: whole.warmup,
        ramp: whole.duration.unwrap_or(Nanos::ZERO),
    };
    Schedule::new(&load, arrivals, seed, share)
}

impl Job for HttpJob {
    type Tally = HttpTally;
    type Client = HttpClient<LiveProgress>;
    /// A connection that was refused is tried again, so how connections are dealt out to workers decides nothing.
    const NEEDS_ALL: bool = false;

    fn client(self, wakeup: Nanos, gauge: LiveProgress, interrupt: Interrupt) -> Self::Client {
        let spec = HttpSpec { wakeup, ..self.spec };
        let recording = Recording::new(self.recording);
        HttpClient::new(spec, recording, self.schedule, self.seed, gauge, interrupt)
    }

    fn wait(&self) -> WaitMode {
        self.spec.wait
    }

    fn results(client: Self::Client) -> (HttpTally, Outcome, LiveProgress) {
        client.into_results()
    }

    fn merge(tally: &mut HttpTally, other: HttpTally) {
        tally.merge(&other);
    }
}
