//! What a run has settled on: of whom, with what, and since when.

use std::net::SocketAddr;

use super::observe::Observer;
use super::peer;
use super::plan::Common;
use super::step::StepPlan;
use crate::worker::SessionSpec;
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

    pub(crate) fn elapsed(&self) -> Nanos {
        MonotonicClock.now().since(self.began)
    }

    /// A step of so many connections, as far as it follows from the setting and from what all plans
    /// have: on no more CPUs than connections.
    pub(crate) fn step_plan<'a>(&'a self, common: &'a Common, connections: u32) -> StepPlan<'a> {
        let workers = self.cpus.len().min(connections as usize).max(1);
        StepPlan {
            at: self,
            common,
            cpus: self.cpus[..workers].to_vec(),
            warmup: common.warmup,
            duration: None,
            wait_is_default: common.wait.is_none(),
            counts_bytes: false,
            needs_all: true,
            guard: None,
            listener: self.address.socket_address(),
        }
    }

    /// The sessions of connections that say `hello`. Their nonces are made from the run's number and
    /// `salt`.
    pub(crate) fn session(
        &self,
        common: &Common,
        local: Option<SocketAddr>,
        salt: u64,
        hello: Hello,
    ) -> Result<SessionSpec> {
        let to = self.address.socket_address().ok_or_else(peer::unix_refused)?;
        let nonce = self.run_id.rotate_left(17) ^ salt;
        let secret = common.secret.clone();
        Ok(SessionSpec::new(to, hello, secret, common.timeout, nonce).from_local(local))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    impl Setting {
        pub(crate) fn at(address: Destination) -> Self {
            Self {
                address,
                cpus: vec![0],
                wait: WaitMode::Block,
                chosen: Chosen { backend: Backend::Epoll, reason: String::new(), advice: None },
                run_id: 1,
                began: MonotonicClock.now(),
                machine: Cpus::of_self(),
                interrupt: Interrupt::default(),
                separate: false,
                begins: None,
            }
        }
    }
}
