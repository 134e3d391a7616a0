//! Runs: the validated plan, its launch over workers, and what comes back.

mod backend;
mod bw;
mod compare;
pub mod cpus;
pub mod doctor;
pub mod environment;
mod far_end;
pub mod guard;
pub mod hooks;
mod http;
mod instrument;
pub mod journal;
mod lat;
mod load;
pub mod observe;
mod observed;
pub mod plan;
mod report;
pub mod resolve;
pub mod serve;
mod step;
mod sweep;
pub mod veth;

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::result::Report;
use observe::{Interrupt, Observer};
use plan::{BwPlan, ComparePlan, HttpPlan, LatPlan, ServePlan};
use sweep::Part;

/// How often a serving command looks whether it was interrupted.
const SERVE_LOOK: Duration = Duration::from_millis(50);

/// What a measuring run came to.
#[derive(Debug)]
pub struct Finished {
    /// All that was measured, however the run ended.
    pub report: Report,
    /// What ended it early, if anything did.
    pub error: Option<Error>,
    /// It was interrupted.
    pub interrupted: bool,
}

/// Measures ping-pong latency, one step per size and number of connections.
///
/// # Errors
/// Only when not even a report can be made: the plan cannot be carried out at all (usage), or this machine
/// does not allow it. Whatever fails later ends in [`Finished::error`], beside what was measured.
pub fn lat(plan: &LatPlan, interrupt: &Interrupt, observer: &mut dyn Observer) -> Result<Finished> {
    sweep::run(plan, Part::Whole, interrupt, observer)
}

/// Measures bulk bandwidth, one step per size and number of streams.
///
/// # Errors
/// As [`lat()`].
pub fn bw(plan: &BwPlan, interrupt: &Interrupt, observer: &mut dyn Observer) -> Result<Finished> {
    sweep::run(plan, Part::Whole, interrupt, observer)
}

/// Measures an HTTP load, one step per stage and number of connections.
///
/// # Errors
/// As [`lat()`].
pub fn http(
    plan: &HttpPlan,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    sweep::run(&http::HttpRun::new(plan)?, Part::Whole, interrupt, observer)
}

/// Compares paths by blocks.
///
/// # Errors
/// As [`lat()`]; also where an arm cannot be measured at all, which is tried before the first block.
pub fn compare(
    plan: &ComparePlan,
    interrupt: &Interrupt,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    compare::run(plan, interrupt, observer)
}

/// Serves until `interrupt` is raised (or, with `once`, until the first client is done). `ready` is called
/// with the addresses served, once clients can connect.
///
/// # Errors
/// When an address cannot be listened on, no backend works here, or the server ends by itself and not as it should.
pub fn serve(
    plan: &ServePlan,
    interrupt: &Interrupt,
    ready: &mut dyn FnMut(&[SocketAddr]),
    log: serve::Log,
) -> Result<()> {
    let server = serve::Server::start(plan, &[], None, log)?;
    ready(server.addresses());
    while !interrupt.is_raised() {
        if let Some(end) = server.wait(SERVE_LOOK) {
            return end;
        }
    }
    server.stop()
}
