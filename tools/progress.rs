//! The progress of a run, for a person at a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tare_engine::run::observe::Progress;
use tare_stats::result::Params;
use tare_units::Nanos;
use tare_units::control::Phase;

use crate::output::complain;
use crate::report;

/// Nanoseconds of a millisecond, which the bar counts.
const MS: u64 = 1_000_000;

pub(crate) struct Bar {
    shown: ProgressBar,
    /// What the running step counts; none where it moves bytes, and counts those.
    counts: Option<&'static str>,
    last: (u64, Nanos),
    /// The rate between the last two updates, bits per second.
    bits_per_s: Option<f64>,
}

impl Bar {
    /// A bar where stderr is a terminal and `quiet` does not forbid it.
    pub(crate) fn new(quiet: bool) -> Self {
        // The engine reports a few times a second; redrawing more often would disturb what is
        // measured.
        let target = match quiet || !std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr_with_hz(5),
        };
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let shown = ProgressBar::with_draw_target(Some(1), target).with_style(style);
        Self { shown, counts: None, last: (0, Nanos::ZERO), bits_per_s: None }
    }

    pub(crate) fn is_shown(&self) -> bool {
        !self.shown.is_hidden()
    }

    pub(crate) fn step(&mut self, params: &Params, index: usize, total: usize) {
        let counts = if params.http.is_some() { "request" } else { "round trip" };
        self.counts = params.bulk.is_none().then_some(counts);
        (self.last, self.bits_per_s) = ((0, Nanos::ZERO), None);
        self.shown.set_prefix(format!("{}/{total} {}", index + 1, report::parameters(params)));
        self.shown.set_position(0);
    }

    pub(crate) fn progress(&mut self, progress: Progress) {
        self.update_rate(progress);
        let done = match (self.counts, self.bits_per_s) {
            (Some(counts), _) => report::plural(progress.completed, counts),
            (None, rate) => rate.map_or_else(String::new, report::bits),
        };
        let phase = match progress.phase {
            Phase::Connect => "connecting",
            Phase::WarmUp => "warming up",
            Phase::Measure => "measuring",
            Phase::Drain => "finishing",
        };
        if let Some(total) = progress.total {
            self.shown.set_length(total.0 / MS);
            self.shown.set_position(progress.elapsed.0 / MS);
        }
        let mut message = format!("{phase} {} {done}", progress.elapsed);
        if progress.errors > 0 {
            message.push_str(&format!(", {} errors", report::grouped(progress.errors)));
        }
        self.shown.set_message(message);
    }

    fn update_rate(&mut self, progress: Progress) {
        if progress.phase != Phase::Measure {
            return;
        }
        let (bytes, at) = self.last;
        let time = (progress.elapsed - at).as_secs_f64();
        if time > 0.0 && progress.completed >= bytes {
            self.bits_per_s = Some((progress.completed - bytes) as f64 * 8.0 / time);
            self.last = (progress.completed, progress.elapsed);
        }
    }

    /// A line on stderr that does not tear the bar.
    pub(crate) fn say(&self, line: &str) {
        self.shown.suspend(|| complain(line));
    }

    pub(crate) fn clear(&self) {
        self.shown.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_since_the_last_update() {
        let mut bar = Bar::new(true);
        let mut update = |phase, ms, bytes| {
            bar.progress(Progress {
                phase,
                elapsed: Nanos::from_millis(ms),
                total: None,
                completed: bytes,
                errors: 0,
            });
            bar.bits_per_s
        };
        assert_eq!(update(Phase::WarmUp, 300, 0), None);
        assert_eq!(update(Phase::Measure, 200, 1_000_000), Some(40e6));
        assert_eq!(update(Phase::Measure, 400, 1_500_000), Some(20e6));
        assert_eq!(update(Phase::Measure, 400, 1_500_000), Some(20e6));
        assert_eq!(update(Phase::Drain, 10, 1_500_000), Some(20e6));
    }
}
