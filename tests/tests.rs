//! The one integration binary: a module per subject.

mod accuracy;
mod allocation;
mod cli;
mod e2e;
mod faults;
mod namespaces;
mod schema;
mod tidy;
mod util;
