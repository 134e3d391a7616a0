//! Chunked bodies are the same however the bytes arrive: of a request, and of a response.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "requests.rs"]
mod requests;
#[path = "responses.rs"]
mod responses;

fuzz_target!(|input: (u8, &[u8])| {
    let (at, body) = input;
    let with = |head: &[u8]| [head, body].concat();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    requests::compare(&with(head), head.len() + usize::from(at));
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    responses::compare(&with(head), head.len() + usize::from(at));
});
