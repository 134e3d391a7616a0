//! What is not the measurement: the machine and what it is good for, processes and control groups,
//! namespaces, names, what a run could use up for others, and commands around a measurement with
//! the journal that undoes them.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::print_stdout, clippy::exit)]

mod cgroup;
pub mod cpus;
pub mod doctor;
pub mod environment;
mod files;
#[cfg(test)]
mod fixtures;
pub mod guard;
pub mod hooks;
pub mod journal;
mod netlink;
pub mod observed;
mod process;
pub mod resolve;
pub mod tuning;
pub mod unavailable;
pub mod usage;
pub mod veth;
