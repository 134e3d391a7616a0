//! From where to where: local addresses, and names that mean something else here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::hostile::{FINE, Hostile};
use super::{all_went_well, for_each_backend, http, result};
use crate::util::text;

/// A server that remembers who came and which hosts they asked for.
struct Witness {
    server: Hostile,
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl Witness {
    fn start() -> Self {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let notes = Arc::clone(&seen);
        let server = Hostile::start(move |mut talk| {
            notes.lock().unwrap().insert(format!("from {}", talk.peer()));
            while let Some(head) = talk.hears_a_head() {
                let host = head.lines().find_map(|line| line.strip_prefix("Host: "));
                notes.lock().unwrap().insert(format!("host {}", host.unwrap_or("none")));
                talk.says(FINE);
            }
        });
        Self { server, seen }
    }

    fn port(&self) -> &str {
        self.server.address.rsplit(':').next().unwrap()
    }

    /// What was noted since.
    fn noted(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap()).into_iter().collect()
    }
}

#[test]
fn local_addresses_take_turns() {
    let witness = Witness::start();
    for_each_backend(|backend| {
        let flags = format!("-n 40 -c 4 --bind 127.0.0.2,127.0.0.3 {backend}");
        all_went_well(&result(&http(&witness.server.url(), &flags).exits(0)), 40);
        let host = format!("host {}", witness.server.address);
        assert_eq!(witness.noted(), ["from 127.0.0.2", "from 127.0.0.3", &host]);
    });
}

#[test]
fn a_local_address_that_is_none_is_refused() {
    let witness = Witness::start();
    for_each_backend(|backend| {
        let flags = format!("-n 4 -c 1 --bind 192.0.2.1 {backend}");
        let ran = http(&witness.server.url(), &flags).exits(2);
        ran.complains(&["192.0.2.1", "--bind"]);
    });
}

#[test]
fn names_go_where_the_flags_say() {
    let witness = Witness::start();
    let port = witness.port();
    for_each_backend(|backend| {
        let url = format!("http://shop.example:{port}/");
        let flags = format!("-n 4 -c 2 --resolve shop.example:{port}:127.0.0.1 {backend}");
        let result = result(&http(&url, &flags).exits(0));
        all_went_well(&result, 4);
        assert_eq!(text(&result, "/params/address"), witness.server.address);
        let host = format!("host shop.example:{port}");
        assert_eq!(witness.noted(), ["from 127.0.0.1", &host]);

        let address = &witness.server.address;
        let flags = format!("-n 4 -c 2 --connect-to {address} {backend}");
        all_went_well(&super::result(&http("http://shop.example/", &flags).exits(0)), 4);
        assert_eq!(witness.noted(), ["from 127.0.0.1", "host shop.example"]);

        let flags = format!("-n 4 -c 2 --host other.example {backend}");
        all_went_well(&super::result(&http(&witness.server.url(), &flags).exits(0)), 4);
        assert_eq!(witness.noted(), ["from 127.0.0.1", "host other.example"]);
    });
}
