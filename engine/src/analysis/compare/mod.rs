//! Statistics of comparisons.

pub mod unpaired;
