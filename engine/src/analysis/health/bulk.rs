//! The same judgement of bulk runs, where nobody waits for an answer.
//!
//! Without a pace the sender's CPU is as much a part of what is measured as the path is, so a busy sender spoils
//! nothing. With one it does, as soon as the schedule is not kept.

use super::{BUSY_OPEN_LOOP, SENT_SHARE};
use crate::result::{Flow, StepResult};

/// The directions of a bulk step that carried anything; empty of any other step.
pub(super) fn flows(step: &StepResult) -> impl Iterator<Item = (&'static str, &Flow)> {
    let own = step.params.bulk.is_some() && step.params.under_load.is_none();
    let bandwidth = step.bandwidth.as_ref().filter(|_| own);
    let flows = bandwidth.map(|b| [("up", b.up.as_ref()), ("down", b.down.as_ref())]);
    let flows = flows.into_iter().flatten();
    flows.filter_map(|(name, flow)| Some((name, flow?)))
}

/// The first direction whose sender made too few of the sends that were due, with the share that it made.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
fn behind(step: &StepResult) -> Option<(&'static str, &Flow, f64)> {
    flows(step).find_map(|(name, flow)| {
        let due = flow.sends + flow.pacing.as_ref()?.unsent;
        let share = flow.sends as f64 / due.max(1) as f64;
        (due > 0 && share < SENT_SHARE).then_some((name, flow, share))
    })
}

/// Why the client, busy with sending, did not keep to the pace that was asked for.
pub(super) fn saturation(step: &StepResult) -> Option<String> {
    let busy = step.instrument.client.worker_busy_max;
    let (_, flow, share) = behind(step)
        .filter(|(way, ..)| *way == "up")
        .filter(|_| busy >= BUSY_OPEN_LOOP)?;
    Some(format!(
        "it made {} of the sends that were due ({:.1} %), and its busiest worker was busy {:.0} % of the time",
        flow.sends,
        share * 100.0,
        busy * 100.0
    ))
}

/// What the figures themselves show to be weak.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
pub(super) fn warnings(step: &StepResult, warn: &mut dyn FnMut(&str, String, &str)) {
    if let Some((way, _, share)) = behind(step)
        && saturation(step).is_none()
    {
        warn(
            "rate-not-reached",
            format!(
                "the path took {:.1} % of the sends that --rate asked for ({way})",
                share * 100.0
            ),
            "lower --rate to what it carries, or leave it out to see how much that is",
        );
    }
    for (way, flow) in flows(step).filter(|(_, flow)| flow.pacing.is_some()) {
        if let Some(datagrams) = flow.datagrams.filter(|datagrams| datagrams.lost > 0) {
            warn(
                "datagrams-lost",
                format!(
                    "{} of {} datagrams never came ({:.2} %, {way})",
                    datagrams.lost,
                    datagrams.sent,
                    datagrams.lost as f64 / datagrams.sent.max(1) as f64 * 100.0
                ),
                "lower --rate, or give the receiver more --rcvbuf if it is disturbed for moments",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::analysis::health;
    use crate::result::{Bandwidth, BulkParams, Datagrams, Flow, Pacing, StepResult};

    /// A paced step up, of a thousand sends less those unsent, at a sender that is busy so much.
    fn paced(unsent: u64, busy: f64, lost: u64) -> StepResult {
        let mut step = StepResult::default();
        step.params.connections = 4;
        step.params.bulk = Some(BulkParams::default());
        step.operations.completed = 1_000;
        step.instrument.client.worker_busy_max = busy;
        step.bandwidth = Some(Bandwidth {
            up: Some(Flow {
                sends: 1_000 - unsent,
                pacing: Some(Pacing {
                    unsent,
                    ..Pacing::default()
                }),
                datagrams: Some(Datagrams {
                    sent: 1_000 - unsent,
                    lost,
                    ..Datagrams::default()
                }),
                ..Flow::default()
            }),
            ..Bandwidth::default()
        });
        step
    }

    fn codes(step: &StepResult) -> Vec<String> {
        let warnings = health::warnings(step).into_iter();
        warnings.map(|warning| warning.code).collect()
    }

    #[test]
    fn a_pace_that_is_not_kept_is_the_senders_fault_or_the_paths() {
        assert_eq!(codes(&paced(10, 0.95, 0)), [""; 0]);
        assert_eq!(codes(&paced(11, 0.95, 0)), ["generator-saturated"]);
        assert_eq!(codes(&paced(11, 0.5, 0)), ["rate-not-reached"]);
        assert_eq!(codes(&paced(0, 0.5, 1)), ["datagrams-lost"]);
        let mut untold = paced(0, 0.5, 0);
        if let Some(up) = untold.bandwidth.as_mut().and_then(|b| b.up.as_mut()) {
            up.sends = 0;
        }
        assert_eq!(codes(&untold), [""; 0], "nothing is known of the sender");
        let message = health::warnings(&paced(500, 0.99, 0))
            .swap_remove(0)
            .message;
        assert!(
            message.contains("500 of the sends that were due (50.0 %)"),
            "{message}"
        );
    }

    #[test]
    fn a_sender_as_fast_as_it_goes_is_busy_and_that_is_right() {
        let mut step = paced(0, 1.0, 5);
        if let Some(up) = step.bandwidth.as_mut().and_then(|b| b.up.as_mut()) {
            up.pacing = None;
        }
        assert_eq!(codes(&step), [""; 0]);
        health::judge(&mut step);
        assert!(!step.instrument.client.saturated);
    }

    #[test]
    fn a_loads_figures_are_not_the_steps() {
        let mut step = paced(500, 1.0, 5);
        step.params.bulk = None;
        step.params.under_load = Some(String::new());
        step.params.connections = 1;
        assert_eq!(codes(&step), ["few-samples"]);
    }
}
