//! What is said on stderr: errors always, progress only to a person at a terminal.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tare_engine::result::Params;
use tare_engine::run::observe::{Phase, Progress};

use crate::report;

/// One line on stderr. A closed stderr changes nothing.
pub(crate) fn complain(line: &str) {
    // What a peer said may be part of the line; it stays one line, and drives no terminal.
    let line = line.replace(char::is_control, " ");
    let _ = writeln!(std::io::stderr().lock(), "tare: {line}");
}

/// The progress of a run, on a terminal; nothing in a pipe.
#[derive(Debug)]
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    /// A bar where stderr is a terminal and `quiet` does not forbid it.
    pub(crate) fn new(quiet: bool) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        // The engine reports a few times a second; redrawing more often would disturb what is measured.
        let target = ProgressDrawTarget::stderr_with_hz(5);
        let bar = ProgressBar::with_draw_target(Some(1), target);
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}");
        Self(Some(bar.with_style(
            style.unwrap_or_else(|_| ProgressStyle::default_bar()),
        )))
    }

    pub(crate) const fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn step(&self, params: &Params, index: usize, total: usize) {
        if let Some(bar) = &self.0 {
            bar.set_prefix(format!(
                "{}/{total} {}",
                index + 1,
                report::parameters(params)
            ));
            bar.set_position(0);
        }
    }

    pub(crate) fn progress(&self, progress: Progress) {
        let Some(bar) = &self.0 else { return };
        let phase = match progress.phase {
            Phase::Connect => "connecting",
            Phase::WarmUp => "warming up",
            Phase::Measure => "measuring",
            Phase::Drain => "finishing",
        };
        if let Some(total) = progress.total {
            bar.set_length(millis(total.into()));
            bar.set_position(millis(progress.elapsed.into()));
        }
        let mut message = format!(
            "{phase} {} {}",
            progress.elapsed,
            report::round_trips(progress.completed)
        );
        if progress.errors > 0 {
            message.push_str(&format!(", {} errors", report::grouped(progress.errors)));
        }
        bar.set_message(message);
    }

    /// A line on stderr that does not tear the bar.
    pub(crate) fn say(&self, line: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| complain(line)),
            None => complain(line),
        }
    }

    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
