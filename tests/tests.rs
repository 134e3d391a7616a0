//! The one integration binary: a module per subject.

mod cli;
mod tidy;
mod util;
