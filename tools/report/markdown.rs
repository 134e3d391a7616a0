//! Markdown: tables to paste into an issue, with what has to stand beside them.

use comfy_table::presets::ASCII_MARKDOWN;
use tare_engine::proto::text::is_deceptive;
use tare_engine::result::{Report, StepResult};
use tare_engine::units::Nanos;

use super::{
    Cells, Look, asked, compare, descriptors, distribution, http, loaded, observed, operations,
    parts, sweep, warning,
};

pub(super) fn render(report: &Report, look: &Look) -> String {
    let mut blocks = vec![format!("**{}**", escape(&asked(report)))];
    match compare::of(report) {
        Some(view) => {
            let lines = compare::spoiled(view);
            blocks.extend(lines.iter().map(|line| format!("**{}**", escape(line))));
        }
        None if report.partial => {
            blocks.push("**Partial**: the run was cut short; this was measured until then.".into());
        }
        None => {}
    }
    let warnings: Vec<String> = report
        .warnings
        .iter()
        .map(|w| format!("- {}", escape(&warning(w))))
        .collect();
    if !warnings.is_empty() {
        blocks.push(format!("Warnings:\n\n{}", warnings.join("\n")));
    }
    match compare::of(report) {
        Some(view) => comparison(view, &mut blocks),
        None => steps(report, look, &mut blocks),
    }
    if let Some(cells) = observed::table(report) {
        blocks.push("Observed on the client's host in the measured phase:".into());
        blocks.push(table(cells, observed::words(report)));
        let notes = observed::notes(report).into_iter();
        let lines: Vec<String> = notes.map(|note| format!("- {}", escape(&note))).collect();
        if !lines.is_empty() {
            blocks.push(lines.join("\n"));
        }
    }
    if !report.results.is_empty() {
        blocks.push(format!("{} tare {}.", meaning(report), report.tool.version));
    }
    if !report.assertions.is_empty() {
        let mut cells = Cells::new(&["assertion", "step", "holds"]);
        for assertion in &report.assertions {
            let holds = match assertion.holds {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "cannot tell",
            };
            let (expr, step) = (assertion.expr.clone(), assertion.step.clone());
            cells.row(vec![expr, step, holds.into()]);
        }
        blocks.push(table(cells, 3));
    }
    blocks.join("\n\n") + "\n"
}

fn steps(report: &Report, look: &Look, blocks: &mut Vec<String>) {
    let pairs = loaded::pairs(report);
    match (report.results.as_slice(), pairs.as_slice()) {
        ([], _) => {}
        (steps, _) if report.kind == "bw" => bulk(report, steps, blocks),
        (steps, _) if report.kind == "http" => http_steps(report, steps, look, blocks),
        (_, [pair]) => {
            blocks.push(table(loaded::distribution(*pair, look), 1));
            blocks.push(format!("Load: {}.", escape(&loaded::carried(*pair))));
        }
        (_, [_, ..]) => blocks.push(table(loaded::sweep(&pairs), 0)),
        ([step], _) => one(step, look, blocks),
        _ => blocks.push(table(sweep(report), 0)),
    }
}

/// What the figures are, in a sentence.
fn meaning(report: &Report) -> &'static str {
    let (measured, of_steps) = match &report.comparison {
        Some(comparison) => (comparison.measured.as_str(), false),
        None => (report.kind.as_str(), true),
    };
    match measured {
        "bw" => "Rates are of payload, as the receiving end got it.",
        "http" if report.results.iter().any(|r| r.latency.response.is_some()) => {
            "Latencies count from when a request was due, by the schedule, to the end of its response."
        }
        "http" => {
            "Latencies count from the send of a request to the end of its response (closed loop)."
        }
        _ if of_steps && loaded::pairs(report).is_empty() => {
            "Full round trips; ½ as qperf and sockperf print them."
        }
        _ => "Full round trips.",
    }
}

/// The arms side by side, to be pasted, then what the words mean and what was done.
fn comparison(view: compare::View<'_>, blocks: &mut Vec<String>) {
    blocks.push(format!("{}.", escape(&compare::how(view))));
    if !view.comparison().cells.is_empty() {
        let (mut cells, left) = compare::columns(view, compare::Layout::Markdown);
        // The arms' names are what was typed. The rows are figures, whose brackets are to be read.
        for name in &mut cells.header {
            *name = escape(name);
        }
        blocks.push(ruled(cells, left.len()));
    }
    let lines: Vec<String> = compare::notes(view, false)
        .into_iter()
        .map(|(name, text)| match name.as_str() {
            "" => format!("  {}", escape(&text)),
            name => format!("- {}: {}", escape(name), escape(&text)),
        })
        .collect();
    blocks.push(lines.join("\n"));
}

fn one(step: &StepResult, look: &Look, blocks: &mut Vec<String>) {
    blocks.push(table(distribution(step, look), 1));
    if let Some(parts) = parts(&step.latency) {
        blocks.push(table(parts, 1));
    }
    let instrument = &step.instrument;
    let far_end = instrument
        .server
        .as_ref()
        .map_or_else(String::new, |server| {
            format!(", far end {} {}", server.backend, server.wait)
        });
    let text = format!(
        "{}. A single latency ± {} (99 in 100) by the instrument (client {} {}{far_end}).",
        operations(step),
        Nanos(step.latency_error_ns),
        instrument.client.backend,
        instrument.client.wait,
    );
    blocks.push(escape(&text));
}

fn http_steps(report: &Report, steps: &[StepResult], look: &Look, blocks: &mut Vec<String>) {
    let [step] = steps else {
        blocks.push(table(http::sweep(report), 0));
        return;
    };
    let Some(asked) = http::of(step) else { return };
    let mut facts = http::facts(step, asked);
    if !step.errors.is_empty() {
        facts.push(("errors", super::errors(&step.errors)));
    }
    facts.push(("connections", http::connections(step, asked)));
    facts.extend(descriptors(report).map(|text| ("descriptors", text)));
    facts.extend(http::cpu(step).map(|text| ("cpu", text)));
    let lines = facts
        .iter()
        .map(|(name, text)| format!("- {name}: {}", escape(text)));
    blocks.push(lines.collect::<Vec<_>>().join("\n"));
    if super::headline(&step.latency).count > 0 {
        blocks.push(table(distribution(step, look), 1));
    }
    if let Some(codes) = http::codes(step) {
        blocks.push(table(codes, 1));
    }
    let client = &step.instrument.client;
    let error = Nanos(step.latency_error_ns);
    let text = format!(
        "A single latency ± {error} (99 in 100) by the instrument ({} {}).",
        client.backend, client.wait
    );
    blocks.push(escape(&text));
}

fn bulk(report: &Report, steps: &[StepResult], blocks: &mut Vec<String>) {
    let [step] = steps else {
        blocks.push(table(super::bulk::sweep(report), 0));
        return;
    };
    let Some(bandwidth) = super::bulk::of(step) else {
        blocks.push("Nothing was received in the measured phase.".into());
        return;
    };
    let lines: Vec<String> = super::bulk::facts(step, bandwidth)
        .into_iter()
        .map(|fact| {
            let indent = if fact.is_part { "  " } else { "" };
            format!("{indent}- {}: {}", fact.name, escape(&fact.text))
        })
        .collect();
    blocks.push(lines.join("\n"));
    if let Some((cells, left_out)) = super::bulk::series(step) {
        blocks.push(table(cells, 0));
        if left_out > 0 {
            blocks.push(format!("{left_out} entries in the middle are left out."));
        }
    }
    let instrument = &step.instrument;
    let far_end = instrument.server.as_ref();
    let far_end = far_end.map(|s| format!(", far end {} {}", s.backend, s.wait));
    blocks.push(format!(
        "Client {} {}{}.",
        instrument.client.backend,
        instrument.client.wait,
        far_end.unwrap_or_default()
    ));
}

/// The table, whatever stands in its cells, with colons where Markdown wants to be told that a column is set to the right.
pub(super) fn table(mut cells: Cells, left: usize) -> String {
    for cell in cells
        .header
        .iter_mut()
        .chain(cells.rows.iter_mut().flatten())
    {
        *cell = escape(cell);
    }
    ruled(cells, left)
}

/// The table, with colons where Markdown wants to be told that a column is set to the right.
fn ruled(cells: Cells, left: usize) -> String {
    let text = cells.table(ASCII_MARKDOWN, left).trim_fmt();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Some(rule) = lines.get_mut(1) {
        let columns: Vec<String> = rule
            .trim_matches('|')
            .split('|')
            .enumerate()
            .map(|(index, dashes)| match dashes.strip_suffix('-') {
                Some(shorter) if index >= left => format!("{shorter}:"),
                _ => dashes.to_owned(),
            })
            .collect();
        *rule = format!("|{}|", columns.join("|"));
    }
    lines.join("\n")
}

/// What a host name or a label holds must not become a table's bar, a tag or emphasis.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '|' | '<' | '`' | '*' | '_' | '[' | '\\') {
            escaped.push('\\');
        }
        escaped.push(if is_deceptive(c) { ' ' } else { c });
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_break_the_table() {
        let mut cells = Cells::new(&["a", "b"]);
        cells.row(vec!["x|y".into(), "1\n2".into()]);
        let text = table(cells, 1);
        assert_eq!(text, "| a    |   b |\n|------|----:|\n| x\\|y | 1 2 |");
    }
}
