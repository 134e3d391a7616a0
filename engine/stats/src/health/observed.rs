//! What was seen of the observed processes and groups that spoils a result.

use crate::result::{Observed, StepResult, Warning};
use tare_units::Nanos;

/// Stopped in a larger share of its periods than that, the middle of the latencies is the limit's doing and not only their
/// tail.
const THROTTLED_SHARE: f64 = 0.1;

/// The warnings that the observations of a step give rise to.
pub(super) fn warnings(step: &StepResult) -> impl Iterator<Item = Warning> {
    step.observed.iter().flat_map(|one| [throttled(one), gone(one)]).flatten()
}

fn throttled(one: &Observed) -> Option<Warning> {
    let throttled = one.throttled_periods.filter(|count| *count > 0)?;
    let limit = one.cpu_limit.map_or_else(String::new, |cpus| format!(" of {cpus}"));
    // Groups counted since before there were periods to count: never fewer than were throttled.
    let periods = one.periods.unwrap_or(0).max(throttled);
    let time = Nanos(one.throttled_ns.unwrap_or(0));
    #[expect(clippy::cast_precision_loss, reason = "periods of a tenth of a second")]
    let share = throttled as f64 / periods as f64;
    let meaning = if share > THROTTLED_SHARE {
        "what was measured is the quota, not the network"
    } else {
        "the longest latencies are the quota's, not the network's"
    };
    Some(Warning {
        code: "observed-throttled".to_owned(),
        message: format!(
            "{} was throttled by its CPU limit{limit} in {throttled} of {periods} periods ({time}): {meaning}",
            one.name
        ),
        advice: "raise the limit, or lower the rate".to_owned(),
    })
}

fn gone(one: &Observed) -> Option<Warning> {
    // A group may well be empty: of that its CPU time is known all the same.
    let is_gone = one.processes == Some(0) && (one.processes_ended > 0 || one.user_ns.is_none());
    is_gone.then(|| Warning {
        code: "observed-gone".to_owned(),
        message: format!(
            "{} ({}) was not there to the end: {}",
            one.name,
            one.what,
            one.note.as_deref().unwrap_or("nothing is left of it")
        ),
        advice: "see whether it crashed or was restarted, and measure again".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(one: Observed) -> Vec<String> {
        let step = StepResult { observed: vec![one], ..StepResult::default() };
        let warnings = warnings(&step);
        warnings.map(|w| format!("{}: {}", w.code, w.message)).collect()
    }

    fn nginx() -> Observed {
        Observed {
            name: "nginx".into(),
            what: "comm:nginx".into(),
            user_ns: Some(1),
            cpu_limit: Some(1.0),
            periods: Some(50),
            throttled_periods: Some(12),
            throttled_ns: Some(340_000_000),
            processes: Some(3),
            ..Observed::default()
        }
    }

    #[test]
    fn a_throttled_target_is_named_with_its_limit() {
        let expected = "observed-throttled: nginx was throttled by its CPU limit of 1 in 12 of 50 periods (340 ms): what \
                        was measured is the quota, not the network";
        assert_eq!(codes(nginx()), [expected]);
        let seldom = Observed { throttled_periods: Some(1), cpu_limit: None, ..nginx() };
        let said = codes(seldom);
        assert!(said[0].contains("its CPU limit in 1 of 50 periods"), "{said:?}");
        assert!(said[0].ends_with("the longest latencies are the quota's, not the network's"));
        for throttled_periods in [None, Some(0)] {
            let quiet = Observed { throttled_periods, ..nginx() };
            assert_eq!(codes(quiet), Vec::<String>::new());
        }
    }

    #[test]
    fn what_has_gone_is_told_and_what_was_restarted_in_part_is_not() {
        let quiet = Observed { throttled_periods: None, ..nginx() };
        let reloaded = Observed { processes_ended: 2, ..quiet.clone() };
        assert_eq!(codes(reloaded), Vec::<String>::new());
        let crashed = Observed {
            processes: Some(0),
            processes_ended: 3,
            note: Some("3 processes ended".into()),
            ..quiet
        };
        let said = codes(crashed);
        assert_eq!(
            said,
            ["observed-gone: nginx (comm:nginx) was not there to the end: 3 processes ended"]
        );
    }
}
