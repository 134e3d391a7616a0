//! What a run has settled on: of whom, with what, and since when.

use std::net::SocketAddr;

use super::observe::Observer;
use super::peer;
use super::plan::Common;
use super::step::StepPlan;
use crate::worker::destination::Destination;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::probe::Chosen;
use tare_driver::{Backend, BackendChoice};
use tare_host::cpus::Cpus;
use tare_host::usage::boot_id;
use tare_proto::hello::{BackendAsked, Direction, Hello, Test, Transport, WaitMode};
use tare_stats::result::Params;
use tare_units::control::Interrupt;
use tare_units::error::Result;
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

/// What a run has settled on, for all its steps.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) address: Destination,
    pub(crate) cpus: Vec<u32>,
    pub(crate) wait: WaitMode,
    pub(crate) chosen: Chosen,
    pub(crate) run_id: u64,
    pub(crate) began: Instant,
    pub(crate) machine: Cpus,
    pub(crate) interrupt: Interrupt,
    /// Each worker has a table of descriptors of its own.
    pub(crate) separate: bool,
    /// Which step begins, and of how many; absent where it is tried again on another address.
    pub(crate) begins: Option<(usize, usize)>,
}

impl Setting {
    pub(crate) fn announce(&self, params: &Params, observer: &mut dyn Observer) {
        if let Some((index, total)) = self.begins {
            observer.step_started(params, index, total);
        }
    }

    /// How long the run has lasted.
    pub(crate) fn elapsed(&self) -> Nanos {
        MonotonicClock.now().since(self.began)
    }

    /// The CPUs of the workers of so many connections: not more workers than that.
    pub(crate) fn cpus_for(&self, connections: u32) -> Vec<u32> {
        let workers = self.cpus.len().min(connections as usize).max(1);
        self.cpus[..workers].to_vec()
    }

    /// The address, of a peer that only TCP and UDP reach.
    pub(crate) fn socket_address(&self) -> Result<SocketAddr> {
        self.address.socket_address().ok_or_else(peer::unix_refused)
    }

    /// A step on those CPUs, as far as it follows from the setting and from what all plans have.
    pub(crate) fn step_plan(&self, common: &Common, cpus: Vec<u32>) -> StepPlan {
        StepPlan {
            cpus,
            separate: self.separate,
            backend: self.chosen.backend,
            warmup: common.warmup,
            duration: None,
            wait: self.wait,
            wait_is_default: common.wait.is_none(),
            interval: common.interval,
            counts_bytes: false,
            needs_all: true,
            observe: common.observe.clone(),
            guard: None,
            listener: self.address.socket_address(),
            interrupt: self.interrupt.clone(),
        }
    }

    /// What every connection says, whatever is measured.
    pub(crate) fn hello(
        &self,
        common: &Common,
        test: Test,
        transport: Transport,
        size: u32,
        cpus: &[u32],
    ) -> Hello {
        Hello {
            run_id: Id(self.run_id),
            test,
            transport,
            direction: Direction::Both,
            size_bytes: u64::from(size),
            connect_each: false,
            wait: self.wait,
            backend: match common.backend {
                BackendChoice::Only(Backend::Uring) => BackendAsked::Uring,
                BackendChoice::Only(_) => BackendAsked::Epoll,
                BackendChoice::Auto => BackendAsked::Auto,
            },
            boot_id: boot_id(),
            cpus: cpus.to_vec(),
            server_delay_ns: 0,
            timeout_ns: common.timeout.0,
            stream: None,
            gap_ns: 0,
            request_follows: false,
            brief: false,
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
