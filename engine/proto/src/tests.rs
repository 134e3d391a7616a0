//! What the tests of the protocol share.

use proptest::prelude::*;

use super::auth::Secret;
use super::handshake::ClientEvent;
use super::hello::{Accept, BackendAsked, Direction, Hello, Test, Transport, WaitMode};
use tare_units::text::Id;

/// `input` cut at `cuts` (taken modulo its length), in order.
pub(super) fn pieces<'a>(input: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    at.extend([0, input.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect()
}

/// Where to cut `input` so that each byte comes alone.
pub(super) fn each_byte(input: &[u8]) -> Vec<usize> {
    (0..input.len()).collect()
}

/// Any bytes, and such as begin like a frame.
pub(super) fn noise() -> impl Strategy<Value = Vec<u8>> {
    let frame = |(kind, tail): (u8, Vec<u8>)| [b"tare\x01", &[kind % 12, 0][..], &tail].concat();
    prop_oneof![any::<Vec<u8>>(), any::<(u8, Vec<u8>)>().prop_map(frame)]
}

/// A hello that every server takes.
pub(super) fn hello() -> Hello {
    Hello {
        run_id: Id(0x0123_4567_89ab_cdef),
        test: Test::PingPong,
        transport: Transport::Tcp,
        direction: Direction::Both,
        size_bytes: 64,
        connect_each: false,
        wait: WaitMode::Spin,
        backend: BackendAsked::Auto,
        boot_id: None,
        cpus: Vec::new(),
        server_delay_ns: 0,
        timeout_ns: 2_000_000_000,
        stream: None,
        gap_ns: 0,
        request_follows: false,
        brief: false,
        client_version: "0.1.0".into(),
    }
}

/// An answer to it.
pub(super) fn accept() -> Accept {
    Accept {
        instance: Id(0xfeed),
        version: "0.1.0".into(),
        backend: "uring".into(),
        backend_reason: "the default".into(),
        wait: WaitMode::Spin,
        cpus: vec![1],
        ..Accept::default()
    }
}

pub(super) fn secret(text: Option<&str>) -> Option<Secret> {
    text.map(|text| Secret(text.into()))
}

/// `text` as version 0.1.0 would have said it, so that expected messages outlive releases.
pub(super) fn of_0_1_0(text: &str) -> String {
    text.replace(env!("CARGO_PKG_VERSION"), "0.1.0")
}

/// What the user reads of a client's handshake with the address `h:80`: nothing where it went well.
pub(super) fn reported(event: Option<ClientEvent>) -> String {
    match event.expect("an event") {
        ClientEvent::Failed(error) => of_0_1_0(&error.into_error("h:80").to_string()),
        ClientEvent::Accepted(_) => String::new(),
    }
}
