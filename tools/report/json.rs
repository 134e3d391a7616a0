//! JSON: one object, or a line for each thing as it comes.

use serde::Serialize;
use serde_json::Value;
use tare_stats::result::{Block, Interval, Params, Report, StepResult};

/// What the report's types hold serialises: their keys are strings, and no `Serialize` of theirs
/// refuses.
const SERIALISES: &str = "a report has string keys only";

#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The step it belongs to, counted from zero; absent where it belongs to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a Params>,
    #[serde(flatten)]
    body: T,
}

pub(super) fn pretty(result: &impl Serialize) -> String {
    serde_json::to_string_pretty(result).expect(SERIALISES) + "\n"
}

pub(super) fn line(result: &impl Serialize) -> String {
    serde_json::to_string(result).expect(SERIALISES) + "\n"
}

pub(super) fn lines(report: &Report) -> String {
    let comparison = report.comparison.as_deref();
    let blocks = comparison.map_or(&[][..], |comparison| &comparison.blocks);
    let mut text: String = blocks.iter().map(block_line).collect();
    for (step, result) in report.results.iter().enumerate() {
        // What a comparison pools has no series that could have been followed.
        for interval in result.intervals.iter().filter(|_| comparison.is_none()) {
            text.push_str(&interval_line(step, &result.params, interval));
        }
        text.push_str(&result_line(step, result));
    }
    text + &report_line(report)
}

pub(crate) fn interval_line(step: usize, params: &Params, interval: &Interval) -> String {
    line(&Line { kind: "interval", step: Some(step), params: Some(params), body: interval })
}

pub(crate) fn block_line(block: &Block) -> String {
    line(&Line { kind: "block", step: None, params: None, body: block })
}

pub(crate) fn result_line(step: usize, result: &StepResult) -> String {
    line(&Line { kind: "result", step: Some(step), params: None, body: result })
}

/// The report without its results, and without a comparison's blocks: these have had their lines.
pub(crate) fn report_line(report: &Report) -> String {
    let mut body = serde_json::to_value(report).expect(SERIALISES);
    if let Value::Object(fields) = &mut body {
        fields.shift_remove("results");
        if let Some(Value::Object(comparison)) = fields.get_mut("comparison") {
            comparison.shift_remove("blocks");
        }
    }
    line(&Line { kind: "report", step: None, params: None, body })
}
