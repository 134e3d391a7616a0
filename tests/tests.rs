//! The one integration binary: a module per subject.

mod cli;
mod e2e;
mod faults;
mod tidy;
mod util;
