//! `tare http`.

use tare_engine::http::plan::HttpPlan;
use tare_engine::run::Finished;
use tare_engine::run::observe::Observer;
use tare_engine::run::plan::Common;
use tare_stats::assertion::{Asked, Kind};
use tare_units::control::Interrupt;
use tare_units::error::Result;

use super::measure::{Measured, all, measure};
use crate::args::http::HttpArgs;
use crate::exit::Exit;

pub(super) fn run(args: &HttpArgs) -> Result<Exit> {
    measure(&args.common, None, |_| args.plan())
}

impl Measured for HttpPlan {
    fn common(&mut self) -> &mut Common {
        &mut self.common
    }

    fn asked(&self) -> Asked {
        let stages = self.open.as_ref().map_or(&[][..], |open| &open.stages);
        let body = self.requests.first().and_then(|w| w.request.body.as_ref());
        Asked {
            kind: Kind::Http,
            sizes: vec![body.map_or(0, |body| body.bytes.len() as u64)],
            connections: all(&self.connections),
            // One alone is not numbered.
            stages: if stages.len() > 1 { stages.len() as u64 } else { 0 },
            rates_per_s: stages.iter().map(|stage| stage.from_per_s).collect(),
            under_load: false,
            datagrams: false,
            up: false,
            down: false,
        }
    }

    fn carry_out(&self, interrupt: &Interrupt, observer: &mut dyn Observer) -> Result<Finished> {
        tare_engine::http::measure(self, interrupt, observer)
    }
}
