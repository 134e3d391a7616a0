//! `tare bw`.

use tare_engine::bandwidth::plan::BwPlan;
use tare_engine::run::Finished;
use tare_engine::run::observe::Observer;
use tare_engine::run::plan::Common;
use tare_proto::hello::{Direction, Transport};
use tare_stats::assertion::{Asked, Kind};
use tare_units::control::Interrupt;
use tare_units::error::Result;

use super::measure::{Measured, all, measure};
use crate::args::bw::BwArgs;
use crate::exit::Exit;

pub(super) fn run(args: &BwArgs) -> Result<Exit> {
    measure(&args.common, Some(&args.secret), |secret| args.plan(secret))
}

impl Measured for BwPlan {
    fn common(&mut self) -> &mut Common {
        &mut self.common
    }

    fn asked(&self) -> Asked {
        Asked {
            kind: Kind::Bw,
            sizes: all(&self.sizes),
            connections: all(&self.streams),
            stages: 0,
            rates_per_s: Vec::new(),
            under_load: false,
            datagrams: self.transport == Transport::Udp,
            up: self.direction != Direction::Down,
            down: self.direction != Direction::Up,
        }
    }

    fn carry_out(&self, interrupt: &Interrupt, observer: &mut dyn Observer) -> Result<Finished> {
        tare_engine::bandwidth::measure(self, interrupt, observer)
    }
}
