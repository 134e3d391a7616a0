//! The engine of `tare`: what measures a network path, without any command line around it.
//!
//! # Shape
//!
//! A folder per job ([`latency`], [`bandwidth`], [`http`], [`server`], [`compare`]) holds its plan,
//! what its workers do, and its result. A [`run`] is dealt out over per-core [`worker`]s. A worker
//! owns one driver (io_uring, epoll or the simulated wire), its connections, its share of the
//! [`schedule`] and its histograms, and runs one turn after the other: stamp and submit, wait,
//! reap, act. What travels on the wire is decided by the sans-I/O machines of [`tare_proto`]:
//! `tare`'s own protocol for round trips and bulk, HTTP/1.1 for the servers of others. What was
//! measured ends in one versioned [`result`](tare_stats::result), over which [`tare_stats`]
//! computes statistics.
//!
//! # Examples
//!
//! The round trip over loopback, with both ends in this process; then an HTTP server of one's own
//! under 200 requests a second, whose latencies count from when each was due:
//!
//! ```
//! use tare_engine::http::plan::{HttpPlan, Late, OpenLoop, Stage};
//! use tare_engine::latency::plan::LatPlan;
//! use tare_engine::measurement::Measurement;
//! use tare_engine::run::observe::Unobserved;
//! use tare_engine::run::plan::{Common, Stop};
//! use tare_engine::schedule::Arrivals;
//! use tare_units::Nanos;
//! use tare_units::control::Interrupt;
//! use tare_units::target::Target;
//!
//! # fn main() -> tare_units::error::Result<()> {
//! let common = Common {
//!     warmup: Nanos::from_millis(10),
//!     stop: Stop::After(Nanos::from_millis(100)),
//!     ..Common::default()
//! };
//! let plan = LatPlan { common: common.clone(), ..LatPlan::to(Target::Loopback) };
//! let finished = Measurement::Lat(plan).measure(&Interrupt::default(), &mut Unobserved)?;
//! let step = &finished.report.results[0];
//! let median = step.latency.service.p50_ns.map(Nanos);
//! println!("median {} ± {}", median.unwrap_or_default(), Nanos(step.latency_error_ns));
//! assert!(step.operations.adds_up());
//!
//! let stage = Stage { from_per_s: 200.0, to_per_s: 200.0, duration: None };
//! let open = OpenLoop { stages: vec![stage], arrivals: Arrivals::Constant, late: Late::Queue };
//! let plan = HttpPlan { open: Some(open), common, ..HttpPlan::to(Target::Loopback) };
//! let plan = Measurement::Http(Box::new(plan));
//! let finished = plan.measure(&Interrupt::default(), &mut Unobserved)?;
//! let step = &finished.report.results[0];
//! println!("{} of {} due", step.operations.completed, step.operations.due);
//! assert!(step.operations.adds_up());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::print_stdout, clippy::exit)]

pub mod bandwidth;
pub mod compare;
pub mod http;
pub mod latency;
mod limits;
pub mod measurement;
pub mod run;
pub mod schedule;
pub mod server;
#[cfg(test)]
mod simulation;
pub mod worker;
