//! Text of an HTTP run.

use tare_engine::result::{HttpParams, Report, StepResult};

use super::{fact, instruments, machines, notes, put, steps_troubles};
use crate::report::{Look, distribution, errors, headline, histogram, http, parameters, parts};

pub(super) fn render(out: &mut String, report: &Report, steps: &[StepResult], look: &Look) {
    match steps {
        [step] => {
            if let Some(asked) = http::of(step) {
                one(out, report, step, asked, look);
            }
        }
        _ => several(out, report),
    }
}

/// One step on one screen.
fn one(out: &mut String, report: &Report, step: &StepResult, asked: &HttpParams, look: &Look) {
    out.push('\n');
    for (name, text) in http::facts(step, asked) {
        fact(out, name, &text);
    }
    troubles(out, step);
    out.push('\n');
    if headline(&step.latency).count == 0 {
        out.push_str("  Nothing was answered as expected in the measured phase, so there is no latency to tell.\n\n");
    } else {
        latencies(out, step, look);
    }
    if let Some(codes) = http::codes(step) {
        put(out, codes);
        out.push('\n');
    }
    fact(out, "connections", &http::connections(step, asked));
    if let Some(text) = http::cpu(step) {
        fact(out, "cpu", &text);
    }
    instruments(out, step);
    machines(out, report);
}

fn latencies(out: &mut String, step: &StepResult, look: &Look) {
    put(out, distribution(step, look));
    notes(out, step, look, "unanswered request");
    let plain: &[&str] = match step.latency.response {
        Some(_) => &http::OPEN_LOOP,
        None => &http::CLOSED_LOOP,
    };
    for line in plain {
        out.push_str(&format!("  {line}\n"));
    }
    if step.status_codes.values().any(|code| !code.expected) {
        out.push_str(
            "  Responses that were not expected stand under their codes, and in no latency here.\n",
        );
    }
    out.push('\n');
    let bars = histogram::bars(step);
    for bar in &bars {
        out.push_str(&format!("  {bar}\n"));
    }
    if !bars.is_empty() {
        out.push('\n');
    }
    if let Some(parts) = parts(&step.latency) {
        put(out, parts);
        out.push('\n');
    }
}

fn troubles(out: &mut String, step: &StepResult) {
    if !step.errors.is_empty() {
        fact(out, "errors", &errors(&step.errors));
    }
    if !step.warmup.errors.is_empty() {
        let text = format!("{} (in no figure above)", errors(&step.warmup.errors));
        fact(out, "in warm-up", &text);
    }
    if step.instances.len() > 1 {
        let text = format!(
            "{} answered: {}",
            step.instances.len(),
            step.instances.join(" ")
        );
        fact(out, "servers", &text);
    }
}

/// A sweep: a row per step, then the codes of each that had more than one, and what is odd.
fn several(out: &mut String, report: &Report) {
    out.push('\n');
    put(out, http::sweep(report));
    out.push('\n');
    for step in report
        .results
        .iter()
        .filter(|step| step.status_codes.len() > 1)
    {
        let codes = step.status_codes.iter();
        let codes: Vec<String> = codes
            .map(|(code, seen)| format!("{code} × {}", crate::report::grouped(seen.count)))
            .collect();
        out.push_str(&format!(
            "  {}: {}\n",
            parameters(&step.params),
            codes.join(", ")
        ));
    }
    steps_troubles(out, report);
    if let Some(last) = report.results.last() {
        out.push_str("Instrument, in the last step:\n");
        instruments(out, last);
    }
    machines(out, report);
}
