//! HTML: a page that stands alone. It loads nothing and runs nothing, so it can be mailed, archived and opened anywhere.
//!
//! Whatever comes from a file goes through [`write::text`]; only what this module writes itself is markup.

mod compare;
#[cfg(test)]
pub(crate) mod fixture;
mod later;
mod plain;
mod plot;
#[cfg(test)]
mod tests;
mod write;

use tare_engine::result::{AssertionResult, Params, Report};
use tare_engine::units::{Nanos, Size};

use super::quantity::{known, measure_name, shown, signed};
use super::{Cells, Look, NONE, asked, figures, machines, per_second, warning};
use plot::Axis;
use write::{Figures, details, facts, loud, marked_table, note, section, table};

pub(crate) use later::page as later_page;

/// One or more results as a page, a part each; of several, each under its name.
pub(crate) fn page(reports: &[(String, &Report)], look: &Look) -> String {
    let mut figures = Figures::default();
    let (mut nav, mut body) = (Vec::new(), String::new());
    for (index, (name, report)) in reports.iter().enumerate() {
        let id = format!("r{}", index + 1);
        let parts = parts(&id, report, look, &mut figures);
        if reports.len() > 1 {
            nav.push((id.clone(), name.clone()));
        } else {
            nav.extend(
                parts
                    .iter()
                    .map(|part| (part.id.clone(), part.heading.clone())),
            );
        }
        let inner: String = parts
            .iter()
            .map(|part| section(&part.id, 2, &part.heading, &part.body))
            .collect();
        let inner = format!("{}{inner}", summary(report));
        body.push_str(&match reports.len() {
            1 => inner,
            _ => section(&id, 2, name, &inner),
        });
    }
    let title = match reports {
        [(_, report)] => headline(report),
        _ => format!("tare: {} results", reports.len()),
    };
    write::page(&title, &nav, &body)
}

/// A part of a result's page.
struct Part {
    id: String,
    heading: String,
    body: String,
}

fn part(id: &str, name: &str, heading: &str, body: String) -> Option<Part> {
    (!body.is_empty()).then(|| Part {
        id: format!("{id}-{name}"),
        heading: heading.to_owned(),
        body,
    })
}

fn parts(id: &str, report: &Report, look: &Look, figures: &mut Figures) -> Vec<Part> {
    let mut parts = match super::compare::of(report) {
        Some(view) => compare::parts(id, view, figures),
        None => plain::parts(id, report, look, figures),
    };
    parts.extend(part(id, "observed", "What was observed", observed(report)));
    parts.extend(part(id, "how", "How it was measured", instruments(report)));
    parts.extend(part(id, "machines", "The machines", environment(report)));
    parts.extend(part(
        id,
        "assertions",
        "Assertions",
        assertions(
            &report.assertions,
            if report.comparison.is_some() {
                "95 % interval"
            } else {
                "95 % in this run"
            },
        ),
    ));
    parts
}

/// What the page is about, in a line.
fn headline(report: &Report) -> String {
    match &report.comparison {
        Some(comparison) => {
            let arms = comparison.arms.iter().map(|arm| arm.name.as_str());
            let arms: Vec<&str> = arms.collect();
            format!(
                "tare compare: {} over {}",
                comparison.measured,
                arms.join(", ")
            )
        }
        None => asked(report),
    }
}

/// What stands before everything else: what spoils the numbers, and what was asked.
fn summary(report: &Report) -> String {
    let mut lines = super::spoiled(report);
    lines.extend(
        report
            .warnings
            .iter()
            .map(|found| format!("Warning: {}", warning(found))),
    );
    let mut out = loud(&lines);
    let command = report.plan["command_line"].as_str();
    if let Some(command) = command {
        out.push_str(&format!(
            "<pre><code>{}</code></pre>\n",
            write::text(command)
        ));
    }
    let label = report.results.iter().find_map(|step| step.label.clone());
    let mut told = vec![
        ("Asked", asked(report)),
        ("Label", label.unwrap_or_default()),
        ("Began", report.started_at.clone()),
    ];
    if let Some(comparison) = &report.comparison {
        told.extend(compare::facts(comparison));
    }
    told.push(("Seed", report.seed.to_string()));
    told.push(("Measured by", format!("tare {}", report.tool.version)));
    out.push_str(&facts(&told));
    out
}

/// What the load cost the processes and groups that were looked at, on the host of the client.
fn observed(report: &Report) -> String {
    let Some(cells) = super::observed::table(report) else {
        return String::new();
    };
    let words = super::observed::words(report);
    let mut out = note("On the host that this was run on, in the measured phase of each step.");
    out.push_str(&table("Processes and control groups", &cells, words));
    for text in super::observed::notes(report) {
        out.push_str(&note(&text));
    }
    out
}

/// How each step's two ends measured, and how far they can be trusted.
fn instruments(report: &Report) -> String {
    if report.results.is_empty() {
        return String::new();
    }
    let header = [
        "step",
        "arm",
        "end",
        "backend",
        "wait",
        "state",
        "error ±",
        "turn p99",
        "turn max",
        "busiest worker",
        "forced off the CPU",
    ];
    let mut cells = Cells::new(&header);
    let mut troubles: Vec<(String, String)> = Vec::new();
    for step in &report.results {
        let client = [("client", &step.instrument.client)];
        let server = step
            .instrument
            .server
            .iter()
            .map(|server| ("far end", server));
        for (end, instrument) in client.into_iter().chain(server) {
            let state = match (instrument.saturated, instrument.disturbed) {
                (false, false) => "undisturbed",
                (true, false) => "SATURATED",
                (false, true) => "DISTURBED",
                (true, true) => "SATURATED, DISTURBED",
            };
            let reasons = instrument.saturation.iter().chain(&instrument.disturbances);
            let reasons: Vec<&str> = reasons.map(String::as_str).collect();
            if !reasons.is_empty() {
                let arm = step.arm.iter().map(String::as_str);
                let name = [step_name(&step.params).as_str(), end].join(", ");
                let name = arm.chain([name.as_str()]).collect::<Vec<_>>().join(": ");
                troubles.push((name, format!("{state}: {}", reasons.join(", "))));
            }
            cells.row(vec![
                step_name(&step.params),
                step.arm.clone().unwrap_or_else(|| NONE.to_owned()),
                end.to_owned(),
                instrument.backend.clone(),
                instrument.wait.clone(),
                state.to_owned(),
                Nanos(step.latency_error_ns).to_string(),
                Nanos(instrument.turn_p99_ns).to_string(),
                Nanos(instrument.turn_max_ns).to_string(),
                figures::percent(instrument.worker_busy_max),
                super::grouped(instrument.involuntary_switches),
            ]);
        }
    }
    let text = "The error is what 99 of 100 single latencies are wrong by at most through the instrument itself; the tables of latencies tell that of each quantile.";
    let out = note(text) + &table("Both ends of each step", &cells, 6);
    if troubles.is_empty() {
        return out;
    }
    let told: Vec<(&str, String)> = troubles
        .iter()
        .map(|(name, why)| (name.as_str(), why.clone()))
        .collect();
    out + &details("What saturated or disturbed them", &facts(&told))
}

fn environment(report: &Report) -> String {
    let machines = machines::of(report);
    let text = match machines.differing.len() {
        0 => "Nothing that is known of both differs between them.".to_owned(),
        count => format!(
            "What differs between them is marked with ≠ ({}).",
            super::plural(count as u64, "row")
        ),
    };
    note(&text)
        + &marked_table(
            "Machines side by side",
            &machines.cells,
            9,
            &machines.differing,
        )
}

fn assertions(assertions: &[AssertionResult], interval: &str) -> String {
    if assertions.is_empty() {
        return String::new();
    }
    let mut cells = Cells::new(&["assertion", "step", "holds", "found", interval]);
    for assertion in assertions {
        let holds = match assertion.holds {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "cannot tell",
        };
        let number = |number: f64| figures::significant(number, 4);
        let interval = assertion
            .interval
            .map(|(low, high)| format!("{} to {}", number(low), number(high)));
        cells.row(vec![
            assertion.expr.clone(),
            assertion.step.clone(),
            holds.to_owned(),
            assertion.actual.map_or_else(|| NONE.to_owned(), number),
            interval.unwrap_or_default(),
        ]);
    }
    table("Assertions: times in nanoseconds", &cells, 3)
}

/// A step's parameters, shortly.
fn step_name(params: &Params) -> String {
    super::parameters(params)
}

/// What the steps of a sweep differ by.
struct Sweep {
    /// Its name.
    name: &'static str,
    /// Each step's place on the axis, and its name.
    steps: Vec<(f64, String)>,
}

impl Sweep {
    /// None where there is one step only. Where several parameters vary, steps stand one after the other.
    #[expect(clippy::cast_precision_loss, reason = "sizes and numbers of steps")]
    fn of(steps: &[&Params]) -> Option<Self> {
        let varies =
            |of: &dyn Fn(&Params) -> u64| steps.windows(2).any(|two| of(two[0]) != of(two[1]));
        let sizes = varies(&|p| p.size_bytes);
        let connections = varies(&|p| u64::from(p.connections));
        let rates = varies(&|p| p.rate_per_s.unwrap_or(0.0).to_bits());
        if steps.len() < 2 {
            return None;
        }
        let numbered = |steps: &[&Params]| {
            let names = steps.iter().enumerate();
            names
                .map(|(at, params)| (at as f64 + 1.0, step_name(params)))
                .collect()
        };
        Some(match (sizes, connections, rates) {
            (true, false, false) => Self {
                name: "size",
                steps: steps
                    .iter()
                    .map(|p| (p.size_bytes as f64, Size(p.size_bytes).to_string()))
                    .collect(),
            },
            (false, true, false) => Self {
                name: "connections",
                steps: steps
                    .iter()
                    .map(|p| (f64::from(p.connections), p.connections.to_string()))
                    .collect(),
            },
            (false, false, true)
                if steps
                    .iter()
                    .all(|p| p.rate_per_s.is_some_and(|rate| rate > 0.0)) =>
            {
                Self {
                    name: "rate",
                    steps: steps
                        .iter()
                        .map(|p| p.rate_per_s.unwrap_or_default())
                        .map(|rate| (rate, per_second(rate)))
                        .collect(),
                }
            }
            _ => Self {
                name: "step",
                steps: numbered(steps),
            },
        })
    }

    fn axis(&self) -> Axis {
        if self.name == "step" {
            let names: Vec<String> = (1..=self.steps.len())
                .map(|step| step.to_string())
                .collect();
            return Axis::places("step", &names);
        }
        Axis::steps(self.name, &self.steps)
    }

    /// Where a step lies.
    fn at(&self, step: usize) -> Option<f64> {
        let (at, _) = self.steps.get(step)?;
        Some(if self.name == "step" { at - 1.0 } else { *at })
    }
}
