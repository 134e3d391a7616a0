//! What is kept of the visits' reports beside their figures, and the report that all of it comes
//! to.

use super::Comparing;
use crate::compare::plan::ComparePlan;
use crate::run::observe::Observer;
use tare_driver::probe;
use tare_host::journal::Journal;
use tare_stats::result::{Comparison, Environment, Environments, Report, SCHEMA, Tool, Warning};
use tare_units::error::{Error, Result};

#[derive(Debug)]
struct Counted {
    arm: String,
    warning: Warning,
    visits: u64,
}

#[derive(Debug, Default)]
pub(super) struct ReportNotes {
    started_at: String,
    /// The comparison as the report has it, less what its blocks came to.
    pub(super) comparison: Comparison,
    environment: Environments,
    /// The baseline's plan as its visits resolved it.
    measured_plan: serde_json::Value,
    /// Warnings of the comparison itself.
    own: Vec<Warning>,
    of_visits: Vec<Counted>,
    visits: u64,
}

impl ReportNotes {
    pub(super) fn new(plan: &ComparePlan) -> Result<Self> {
        const NOT_YET: &str = "not agreed on: the comparison ended before";
        let measurement = &plan.arms[0].measurement;
        let chosen = probe::choose(measurement.common().backend)?;
        Ok(Self {
            started_at: jiff::Timestamp::now().to_string(),
            comparison: Comparison {
                measured: measurement.job().kind().to_owned(),
                baseline: plan.arms[0].name.clone(),
                blocks_asked: u64::from(plan.blocks),
                block_duration_ns: plan.block_duration.0,
                settle_ns: plan.settle.0,
                backend: chosen.backend.name().to_owned(),
                backend_reason: NOT_YET.to_owned(),
                wait: measurement.prospect()?.wait.name().to_owned(),
                wait_reason: NOT_YET.to_owned(),
                ..Comparison::default()
            },
            ..Self::default()
        })
    }

    pub(super) fn warnings(&self) -> &[Warning] {
        &self.own
    }

    /// What earlier runs left behind would be measured with every arm: it is told at once.
    pub(super) fn name_leftovers(&mut self, observer: &mut dyn Observer) {
        for leftover in Journal::of_machine().leftovers() {
            observer.leftover(&leftover.warning());
            self.own.push(leftover.warning_in_report());
        }
    }

    /// An end did in a visit what was not agreed on: another server behind the same address, or a
    /// changed one.
    pub(super) fn differed(&mut self, arm: &str, what: &str) {
        let message = format!("not all ends did what was agreed on: {what}");
        let advice = "the difference may be that of the ends: serve every arm alike";
        self.count(arm, Warning::new("ends-differ", message, advice));
    }

    /// The second path of a comparison by default cannot be had.
    pub(super) fn without_veth(&mut self, error: &Error) {
        let why = error.message();
        self.own.push(Warning::new(
            "no-veth",
            format!("loopback is compared with itself, since there is no veth pair: {why}"),
            "run as root (CAP_NET_ADMIN and CAP_SYS_ADMIN), or name the paths: \
             tare compare a=HOST:PORT b=HOST:PORT -- lat",
        ));
    }

    pub(super) fn failed(&mut self, arm: &str, error: &Error) {
        let advice = error.advice().unwrap_or("see `comparison.blocks`");
        self.count(arm, Warning::new("visit-failed", error.message(), advice));
    }

    /// Keeps of a visit's report what is not a figure.
    pub(super) fn visited(&mut self, arm: &str, report: &Report) {
        self.visits += 1;
        if arm == self.comparison.baseline {
            self.measured_plan.clone_from(&report.plan);
            // The series of a comparison has an entry for each visit.
            if let Some(plan) = self.measured_plan.as_object_mut() {
                plan.remove("interval_ns");
            }
            self.environment.client.clone_from(&report.environment.client);
        }
        for server in &report.environment.servers {
            let known = |known: &Environment| known.instance == server.instance;
            if !self.environment.servers.iter().any(known) {
                self.environment.servers.push(server.clone());
            }
        }
        // What a visit has too few samples for, a block or all of them may have; and what was left
        // over was named at the start. A visit of several steps counts once.
        let mut known = vec!["few-samples", "leftover"];
        for warning in &report.warnings {
            if !known.contains(&warning.code.as_str()) {
                known.push(&warning.code);
                self.count(arm, warning.clone());
            }
        }
    }

    fn count(&mut self, arm: &str, warning: Warning) {
        let same = |known: &&mut Counted| known.arm == arm && known.warning.code == warning.code;
        match self.of_visits.iter_mut().find(same) {
            Some(known) => known.visits += 1,
            None => self.of_visits.push(Counted { arm: arm.to_owned(), warning, visits: 1 }),
        }
    }

    /// What trials and the pilot gave rise to says nothing of the blocks.
    pub(super) fn forget_visits(&mut self) {
        self.of_visits.clear();
        self.visits = 0;
    }

    /// One warning for each kind: of the arm that it is about, or of all of them together.
    fn merged(&self, arms: usize) -> Vec<Warning> {
        let mut merged: Vec<Warning> = self.own.clone();
        for (index, Counted { warning, .. }) in self.of_visits.iter().enumerate() {
            let is_same = |other: &&Counted| other.warning.code == warning.code;
            if self.of_visits[..index].iter().any(|other| is_same(&other)) {
                continue;
            }
            let same = || self.of_visits[index..].iter().filter(is_same);
            let visits: u64 = same().map(|counted| counted.visits).sum();
            let names: Vec<&str> = same().map(|counted| counted.arm.as_str()).collect();
            let Warning { code, message, advice } = warning;
            // A visit that failed names its arm itself.
            let whose = match names.len() == arms || message.starts_with("arm ") {
                true => String::new(),
                false => format!("{}: ", names.join(", ")),
            };
            let often = match visits >= self.visits {
                true => String::new(),
                false => format!(" ({visits} of {} visits; the first is shown)", self.visits),
            };
            merged.push(Warning::new(code, format!("{whose}{message}{often}"), advice));
        }
        merged
    }
}

impl Comparing<'_> {
    pub(super) fn report(&self, partial: bool) -> Report {
        let (plan, blocks_done) = (self.plan, self.table.whole_blocks());
        let arms = self.arms.iter().enumerate();
        let cells = self.table.cells(|step, metric| self.detectable(step, metric));
        let mut warnings = self.notes.merged(self.arms.len());
        warnings.extend(self.table.warnings(&cells));
        let comparison = Comparison {
            blocks_done,
            arms: arms.map(|(index, arm)| arm.describe(self.table.instances(index))).collect(),
            steps: self.table.steps() as u64,
            blocks: self.table.blocks.clone(),
            cells,
            ..self.notes.comparison.clone()
        };
        Report {
            schema: SCHEMA.to_owned(),
            tool: Tool { name: "tare".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
            kind: "compare".to_owned(),
            started_at: self.notes.started_at.clone(),
            partial: partial || blocks_done < u64::from(plan.blocks),
            seed: plan.seed,
            // Of what is measured that of the baseline.
            plan: serde_json::json!({
                "command_line": self.arms[0].plan.measurement.common().command_line,
                "blocks": plan.blocks,
                "block_duration_ns": plan.block_duration.0,
                "settle_ns": plan.settle.0,
                "quantiles": plan.quantiles,
                "measured": self.notes.measured_plan,
            }),
            environment: self.notes.environment.clone(),
            results: self.table.results(),
            comparison: Some(Box::new(comparison)),
            assertions: Vec::new(),
            warnings,
        }
    }
}
