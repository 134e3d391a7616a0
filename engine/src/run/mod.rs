//! Runs: the validated plan, its launch over workers, and what comes back.

pub mod plan;
