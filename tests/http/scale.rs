//! As many connections as a machine can have.

use nix::sys::resource::{Resource, getrlimit};

use super::{all_went_well, http, operations, result, sockets_used};
use crate::util::{Serve, is_root};

const MANY: u64 = 20_000;

#[test]
fn twenty_thousand_connections_take_one_command() {
    if !is_root("raising the limit of descriptors") {
        return;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap();
    if hard < MANY + 1_000 && most.trim().parse().unwrap_or(0) < MANY + 1_000 {
        eprintln!("skipped: a process may have {hard} descriptors here");
        return;
    }
    let serve = Serve::start("");
    let url = format!("http://{}/", serve.address());
    // One backend will do: what is many here is connections, not the ways to wait for them.
    let ran = http(
        &url,
        "-c 20000 -R 1000 -d 3s --connect-timeout 10s --timeout 5s",
    )
    .exits(0);
    let result = result(&ran);
    assert_eq!(sockets_used(&result), MANY, "{result:#}");
    assert_eq!(result["connections"]["established"], MANY);
    let due = operations(&result, "due");
    assert!((2_999..=3_001).contains(&due), "{result:#}");
    all_went_well(&result, due);
}
