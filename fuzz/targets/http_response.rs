//! Responses are the same however the bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "responses.rs"]
mod responses;

fuzz_target!(|input: (u8, &[u8])| {
    let (at, bytes) = input;
    responses::compare(bytes, usize::from(at));
});
