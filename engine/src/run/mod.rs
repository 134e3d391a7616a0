//! Runs: the validated plan, its launch over workers, and what comes back.

pub mod cpus;
pub mod environment;
pub mod guard;
pub mod journal;
pub mod observe;
pub mod plan;
pub mod resolve;
pub mod veth;

use crate::error::{Error, Result};
use crate::result::Report;
use observe::{Interrupt, Observer};
use plan::{LatPlan, ServePlan};

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
    let _ = (plan, interrupt, observer);
    Err(Error::bug("not built yet"))
}

/// Serves until `interrupt` is raised (or, with `once`, until the first client is done). `ready` is called
/// with the addresses served, once clients can connect.
///
/// # Errors
/// When an address cannot be listened on, or no backend works here.
pub fn serve(
    plan: &ServePlan,
    interrupt: &Interrupt,
    ready: &mut dyn FnMut(&[std::net::SocketAddr]),
    log: &(dyn Fn(&str) + Send + Sync),
) -> Result<()> {
    let _ = (plan, interrupt, ready, log);
    Err(Error::bug("not built yet"))
}
