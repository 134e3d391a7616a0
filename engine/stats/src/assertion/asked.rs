//! Whether a run can answer an assertion at all: told before it, instead of "cannot tell" after it.

use super::{Assertion, Family, Metric, Selector, Way, is_same_rate};
use tare_units::error::{Error, Result};

/// What a run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Round trips.
    Lat,
    /// Bulk transfers.
    Bw,
    /// HTTP requests.
    Http,
}

impl Kind {
    pub(super) const fn command(self) -> &'static str {
        match self {
            Self::Lat => "tare lat",
            Self::Bw => "tare bw",
            Self::Http => "tare http",
        }
    }
}

/// What a run was asked for, as far as assertions select by it or need it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What is measured.
    pub kind: Kind,
    /// Sizes of messages or sends, bytes; none of HTTP.
    pub sizes: Vec<u64>,
    /// Numbers of connections or streams.
    pub connections: Vec<u64>,
    /// Stages of an HTTP load; none without.
    pub stages: u64,
    /// Operations per second, at the begin of each stage; none in closed loop.
    pub rates_per_s: Vec<f64>,
    /// A latency step is measured beside a load, too.
    pub under_load: bool,
    /// Bulk traffic is of datagrams.
    pub datagrams: bool,
    /// Bulk traffic goes to the far end.
    pub up: bool,
    /// Bulk traffic comes from the far end.
    pub down: bool,
}

/// What TCP does not have.
const LOST: &str = "lost datagrams: TCP has none";

impl Assertion {
    /// Checks that the run has steps that this selects, and that they measure what it is about.
    ///
    /// # Errors
    /// A usage error that says which part can never apply.
    pub fn check(&self, asked: &Asked) -> Result<()> {
        check_selectors(&self.expr, &self.selectors, asked)?;
        if let Some((what, instead)) = self.metric.missing_in(asked) {
            let what = format!("this run of {} measures no {what}", asked.kind.command());
            return Err(refused(&self.expr, &what).remedy(instead));
        }
        Ok(())
    }
}

/// The usage error that an assertion is refused with.
pub(super) fn refused(expr: &str, what: &str) -> Error {
    Error::usage(format!("--assert '{expr}': {what}"))
}

/// Checks that the run has steps that the selectors select.
pub(super) fn check_selectors(expr: &str, selectors: &[Selector], asked: &Asked) -> Result<()> {
    if let Some(selector) = selectors.iter().find(|s| !s.selects_in(asked)) {
        let name = selector.name();
        return Err(refused(expr, &format!("no step of this run has {name}"))
            .remedy(format!("leave `{name}` out, or ask for such a step")));
    }
    Ok(())
}

impl Selector {
    fn selects_in(&self, asked: &Asked) -> bool {
        match *self {
            Self::Size(bytes) => asked.sizes.contains(&bytes),
            Self::Connections(n) => asked.connections.contains(&n),
            Self::Loaded(loaded) => !loaded || asked.under_load,
            Self::Stage(stage) => (1..=asked.stages).contains(&stage),
            Self::Rate(rate) => asked.rates_per_s.iter().any(|own| is_same_rate(*own, rate)),
        }
    }
}

impl Metric {
    /// What the run does not measure, and what to type where an option would change that.
    fn missing_in(self, asked: &Asked) -> Option<(&'static str, &'static str)> {
        let (lat, bw) = (asked.kind == Kind::Lat, asked.kind == Kind::Bw);
        let moves_bulk = bw || asked.under_load;
        let (is_there, what, instead) = match self {
            Self::Latency(..) if bw => (false, "latency", "take tare lat, or --under-load of it"),
            Self::Latency(Family::Response | Family::Lateness, _) => (
                !asked.rates_per_s.is_empty(),
                "lateness, nor response time from when something was due",
                "give a rate with -R, or write service.",
            ),
            Self::Status(..) => (!lat && !bw, "status codes", "leave it out"),
            Self::Bandwidth(Way::Up) if moves_bulk => {
                (asked.up, "bandwidth upwards", "write --direction both")
            }
            Self::Bandwidth(Way::Down) if moves_bulk => {
                (asked.down, "bandwidth downwards", "write --direction both")
            }
            Self::Retransmits if moves_bulk => {
                (!asked.datagrams, "segments sent again: datagrams are not", "write lost or loss")
            }
            Self::Bandwidth(_) | Self::Retransmits => {
                (moves_bulk, "bandwidth", "leave it out, or take tare bw")
            }
            Self::Loss | Self::Lost if bw => {
                (asked.datagrams, LOST, "write retransmits, or add --udp")
            }
            Self::Lost => (false, "lost datagrams of bulk traffic", "write loss or timeouts"),
            Self::Cpu => (bw, "CPU time per GiB", "leave it out, or take tare bw"),
            Self::Latency(..)
            | Self::Errors
            | Self::Timeouts
            | Self::Operations
            | Self::Loss
            | Self::Rate
            | Self::Goodput => (true, "", ""),
        };
        (!is_there).then_some((what, instead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expr: &str, asked: &Asked) -> Result<()> {
        Assertion::parse(expr).unwrap().check(asked)
    }

    /// Of two numbers of connections in closed loop.
    fn asked(kind: Kind) -> Asked {
        Asked {
            kind,
            sizes: vec![64],
            connections: vec![1, 8],
            stages: 0,
            rates_per_s: Vec::new(),
            under_load: false,
            datagrams: false,
            up: kind == Kind::Bw,
            down: false,
        }
    }

    #[test]
    fn what_can_never_apply_is_refused() {
        let scheduled = Asked { stages: 2, rates_per_s: vec![10.0, 20.0], ..asked(Kind::Http) };
        let loaded = Asked { under_load: true, up: true, ..asked(Kind::Lat) };
        let datagrams = Asked { datagrams: true, ..asked(Kind::Bw) };
        for (asked, refused, fine) in [
            (
                asked(Kind::Lat),
                "status.5xx==0 bandwidth>1G retransmits<5 cpu<1s lost<1 response.p99<1s size=65:p99<1s \
                 loaded:p99<1s stage=1:p99<1s rate=5:p99<1s",
                "size=64,connections=8:p99<1s idle:p50<1s residence.p50<1s path.p50<1s connect.max<1s errors==0 \
                 loss<0.1% rate>5",
            ),
            (
                loaded,
                "bandwidth.down>1G lost<1",
                "loaded:p99<1s bandwidth.up>1G bandwidth>1G retransmits<5",
            ),
            (
                asked(Kind::Bw),
                "p99<1s bandwidth.down>1G status.200>1 lost<1 loss<1%",
                "streams=8:bandwidth>1G bandwidth.up>1G cpu<1s retransmits<1 rate>0.9",
            ),
            (datagrams, "retransmits<1 p99<1s", "bandwidth>1G lost<1 loss<1%"),
            (
                asked(Kind::Http),
                "bandwidth>1G lateness.p50<1s connections=99:p99<1s",
                "p99<1s status.5xx==0 path.p50<1s goodput>5 ops>5 connect.p50<1s",
            ),
            (
                scheduled,
                "stage=3:p99<1s stage=0:p99<1s rate=30:p99<1s",
                "stage=2:p99<1s rate=20:response.p99<1s lateness.p50<1s",
            ),
        ] {
            for expr in fine.split(' ') {
                check(expr, &asked).expect(expr);
            }
            for expr in refused.split(' ') {
                let error = check(expr, &asked).expect_err(expr);
                assert!(error.message().contains(expr), "{error}");
                let advice = error.advice();
                assert!(advice.is_some_and(|advice| !advice.is_empty()), "{error}");
            }
        }
        let error = check("stage=2:p99<1s", &asked(Kind::Http)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--assert 'stage=2:p99<1s': no step of this run has stage=2; leave `stage=2` out, or ask for such a step"
        );
    }
}
