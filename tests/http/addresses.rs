//! From where to where: local addresses, and names that mean something else here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::hostile::{FINE, Hostile};
use super::{all_went_well, for_each_backend, http, measured};
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
fn local_addresses_take_turns_where_they_are_of_this_machine() {
    let witness = Witness::start();
    let url = witness.server.url();
    for_each_backend(|backend| {
        all_went_well(&measured(&url, &["-n 40 -c 4 --bind 127.0.0.2,127.0.0.3", backend]), 40);
        let host = format!("host {}", witness.server.address);
        assert_eq!(witness.noted(), ["from 127.0.0.2", "from 127.0.0.3", &host]);
        let ran = http(&url, &format!("-n 4 -c 1 --bind 192.0.2.1 {backend}")).exits(2);
        ran.complains(&["192.0.2.1", "--bind"]);
    });
}

#[test]
fn names_go_where_the_flags_say() {
    let witness = Witness::start();
    let (port, address) = (witness.port(), &witness.server.address);
    let shop = format!("http://shop.example:{port}/");
    for_each_backend(|backend| {
        for (url, flags, host) in [
            (
                &*shop,
                format!("--resolve shop.example:{port}:127.0.0.1"),
                format!("host shop.example:{port}"),
            ),
            (
                "http://shop.example/",
                format!("--connect-to {address}"),
                "host shop.example".to_owned(),
            ),
            (
                &witness.server.url(),
                "--host other.example".to_owned(),
                "host other.example".to_owned(),
            ),
        ] {
            let result = measured(url, &["-n 4 -c 2", &flags, backend]);
            all_went_well(&result, 4);
            assert_eq!(text(&result, "/params/address"), address);
            assert_eq!(witness.noted(), ["from 127.0.0.1", &host]);
        }
    });
}
