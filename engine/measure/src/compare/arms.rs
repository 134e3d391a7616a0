//! The arms of a comparison, with the servers of this process started for them.

use std::rc::Rc;

use super::notes::ReportNotes;
use crate::compare::plan::{ArmPlan, ComparePlan};
use crate::measurement::Measurement;
use crate::run::peer::Peer;
use crate::run::sweep::{Step, cpus_of, needs_of};
use tare_host::cpus::Cpus;
use tare_host::observed;
use tare_proto::hello::WaitMode;
use tare_stats::result::{AA, Arm};
use tare_units::error::{Error, Fault, Result};
use tare_units::target::Target;

pub(super) struct RunningArm {
    pub(super) plan: ArmPlan,
    /// The server of its target, where that is of this process; arms of the same target share it.
    pub(super) server: Option<Rc<Peer>>,
    /// Visits in a row that could not be measured.
    pub(super) failures: u32,
    /// Why it is not visited any more.
    pub(super) failed: Option<Error>,
    /// Visits that were measured in full.
    pub(super) visits: u64,
}

impl RunningArm {
    const fn new(plan: ArmPlan, server: Option<Rc<Peer>>) -> Self {
        Self { plan, server, failures: 0, failed: None, visits: 0 }
    }

    /// The error with the arm's name.
    pub(super) fn blame(&self, error: &Error) -> Error {
        let message = format!("arm {}: {}", self.plan.name, error.message());
        let named = Error::new(error.fault(), message);
        match error.advice() {
            Some(advice) => named.remedy(advice),
            None => named,
        }
    }

    /// As the result has it, answered by those servers.
    pub(super) fn describe(&self, instances: Vec<String>) -> Arm {
        let plan = &self.plan;
        Arm {
            name: plan.name.clone(),
            target: plan.measurement.job().target().to_string(),
            options: plan.options.clone(),
            before: plan.shown.before.clone(),
            after: plan.shown.after.clone(),
            instances,
            visits: self.visits,
            failed: self.failed.as_ref().map(ToString::to_string),
        }
    }
}

impl Measurement {
    pub(super) fn prospect(&self) -> Result<Prospect> {
        let (job, machine) = (self.job(), Cpus::of_self());
        job.check()?;
        let needs = needs_of(job, &machine);
        Ok(Prospect {
            cpus: cpus_of(job, &machine, needs.workers)?.cpus,
            connections: needs.connections,
            wait: needs.wait,
            steps: job.steps(),
        })
    }
}

/// What a run would settle on by itself.
#[derive(Debug)]
pub(super) struct Prospect {
    steps: Vec<Step>,
    cpus: Vec<u32>,
    connections: u32,
    pub(super) wait: WaitMode,
}

/// The arms of `plan` with their servers, the A/A arm last, and how many steps each visit to one of
/// them has. The arms must measure the same steps.
pub(super) fn set_up(
    plan: &ComparePlan,
    notes: &mut ReportNotes,
) -> Result<(Vec<RunningArm>, usize)> {
    let mut prospects = Vec::new();
    for arm in &plan.arms {
        observed::check(&arm.measurement.common().observe)?;
        prospects.push(arm.measurement.prospect()?);
    }
    let baseline = &prospects[0];
    for (arm, prospect) in plan.arms.iter().zip(&prospects) {
        if prospect.steps != baseline.steps {
            let message = format!(
                "arm {} would measure other steps than {}, and only the same can be compared",
                arm.name, plan.arms[0].name
            );
            return Err(Error::usage(message)
                .remedy("sizes, connections and stages go behind --, for all arms alike"));
        }
    }
    // The servers of this process, one for each target, which keep off the client's CPUs.
    let mut started: Vec<(Target, Rc<Peer>)> = Vec::new();
    let mut server_of = |target: &Target, connections| -> Result<Option<Rc<Peer>>> {
        if let Some((_, known)) = started.iter().find(|(of, _)| of == target) {
            return Ok(Some(Rc::clone(known)));
        }
        let server = Peer::start(target, connections, &baseline.cpus)?.map(Rc::new);
        started.extend(server.iter().map(|server| (target.clone(), Rc::clone(server))));
        Ok(server)
    };
    let mut arms = Vec::new();
    for (arm, prospect) in plan.arms.iter().zip(&prospects) {
        let mut arm = arm.clone();
        let server = match server_of(arm.measurement.job().target(), prospect.connections) {
            Err(error) if plan.by_default && error.fault() == Fault::Environment => {
                notes.without_veth(&error);
                arm.name = "loopback-again".to_owned();
                arm.measurement = arm.measurement.at(&Target::Loopback);
                server_of(&Target::Loopback, prospect.connections)?
            }
            server => server?,
        };
        arms.push(RunningArm::new(arm, server));
    }
    // The baseline once more: nothing of it is different but its name.
    let again = ArmPlan { name: AA.to_owned(), ..arms[0].plan.clone() };
    arms.push(RunningArm::new(again, arms[0].server.clone()));
    Ok((arms, baseline.steps.len()))
}
