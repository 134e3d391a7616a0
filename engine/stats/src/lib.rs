//! Results, what latencies are recorded in, statistics over both, and judgement. No socket, thread
//! or clock.

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::print_stdout, clippy::exit)]

pub mod assertion;
mod binomial;
pub mod compare;
pub mod diff;
#[cfg(test)]
mod fixtures;
pub mod health;
pub mod histogram;
pub mod link;
mod number;
pub mod pool;
pub mod quantile;
pub mod result;
pub mod summary;
