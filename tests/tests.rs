//! The one integration binary: a module per subject.

mod allocation;
mod cli;
mod tidy;
mod util;
