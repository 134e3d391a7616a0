//! The progress of a run, for a person at a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tare_engine::run::observe::Progress;
use tare_stats::result::Params;
use tare_units::Nanos;
use tare_units::control::Phase;

use crate::output::complain;
use crate::report;

pub(crate) struct Bar {
    shown: Option<ProgressBar>,
    /// What the running step counts; none where it moves bytes, and counts those.
    counts: Option<&'static str>,
    last: (u64, Nanos),
    /// The rate between the last two updates, bits per second.
    bits_per_s: Option<f64>,
}

impl Bar {
    /// A bar where stderr is a terminal and `quiet` does not forbid it.
    pub(crate) fn new(quiet: bool) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self::on(None);
        }
        // The engine reports a few times a second; redrawing more often would disturb what is
        // measured.
        let target = ProgressDrawTarget::stderr_with_hz(5);
        let bar = ProgressBar::with_draw_target(Some(1), target);
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self::on(Some(bar.with_style(style)))
    }

    const fn on(shown: Option<ProgressBar>) -> Self {
        Self { shown, counts: None, last: (0, Nanos::ZERO), bits_per_s: None }
    }

    pub(crate) const fn is_shown(&self) -> bool {
        self.shown.is_some()
    }

    pub(crate) fn step(&mut self, params: &Params, index: usize, total: usize) {
        let counts = if params.http.is_some() { "request" } else { "round trip" };
        self.counts = params.bulk.is_none().then_some(counts);
        (self.last, self.bits_per_s) = ((0, Nanos::ZERO), None);
        if let Some(bar) = &self.shown {
            bar.set_prefix(format!("{}/{total} {}", index + 1, report::parameters(params)));
            bar.set_position(0);
        }
    }

    pub(crate) fn progress(&mut self, progress: Progress) {
        self.update_rate(progress);
        let done = match (self.counts, self.bits_per_s) {
            (Some(counts), _) => report::plural(progress.completed, counts),
            (None, rate) => rate.map_or_else(String::new, report::bits),
        };
        let Some(bar) = &self.shown else { return };
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
        let mut message = format!("{phase} {} {done}", progress.elapsed);
        if progress.errors > 0 {
            message.push_str(&format!(", {} errors", report::grouped(progress.errors)));
        }
        bar.set_message(message);
    }

    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
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

    pub(crate) fn say(&self, line: &str) {
        match &self.shown {
            Some(bar) => bar.suspend(|| complain(line)),
            None => complain(line),
        }
    }

    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_since_the_last_look() {
        let mut bar = Bar::on(None);
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
