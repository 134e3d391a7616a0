//! Requests are the same however the bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "requests.rs"]
mod requests;

fuzz_target!(|input: (u8, &[u8])| {
    let (at, bytes) = input;
    requests::compare(bytes, usize::from(at));
});
