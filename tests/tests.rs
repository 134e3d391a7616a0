//! The one integration binary: a module per subject.

mod allocation;
mod cli;
mod e2e;
mod tidy;
mod util;
