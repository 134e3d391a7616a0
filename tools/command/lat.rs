//! `tare lat`.

use tare_engine::latency::plan::LatPlan;
use tare_engine::run::Finished;
use tare_engine::run::observe::Observer;
use tare_engine::run::plan::Common;
use tare_proto::hello::{Direction, Transport};
use tare_stats::assertion::{Asked, Kind};
use tare_units::control::Interrupt;
use tare_units::error::Result;

use super::measure::{Measured, all, measure};
use crate::args::lat::LatArgs;
use crate::exit::Exit;

pub(super) fn run(args: &LatArgs) -> Result<Exit> {
    measure(&args.common, Some(&args.secret), |secret| args.plan(secret))
}

impl Measured for LatPlan {
    fn common(&mut self) -> &mut Common {
        &mut self.common
    }

    fn asked(&self) -> Asked {
        let load = self.under_load.as_ref();
        let way = load.map(|load| load.plan.direction);
        Asked {
            kind: Kind::Lat,
            sizes: all(&self.sizes),
            connections: all(&self.connections),
            stages: 0,
            rates_per_s: self.rate_per_s.into_iter().collect(),
            under_load: load.is_some(),
            datagrams: load.is_some_and(|load| load.plan.transport == Transport::Udp),
            up: way.is_some_and(|way| way != Direction::Down),
            down: way.is_some_and(|way| way != Direction::Up),
        }
    }

    fn carry_out(&self, interrupt: &Interrupt, observer: &mut dyn Observer) -> Result<Finished> {
        tare_engine::latency::measure(self, interrupt, observer)
    }
}
