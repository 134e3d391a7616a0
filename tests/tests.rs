//! The one integration binary: a module per subject.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests are tests: where something is not as it must be, they end"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the black-box tests wait for other processes, whose state only a later look can show"
)]

mod accuracy;
mod allocation;
mod bulk;
mod cli;
mod compare;
mod containers;
mod doctor;
mod e2e;
mod faults;
mod http;
mod http_server;
mod lab;
mod namespaces;
mod netns;
mod observe;
mod readme;
mod report;
mod schema;
mod util;
mod zones;
