//! A server's end of the handshake takes any bytes, in any pieces, and buffers no more than a
//! hello.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tare_proto::frame::{self, Kind};
use tare_proto::handshake::ServerHandshake;
use tare_proto::hello::{Accept, Figures, Hello, Refuse};

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let mut server = ServerHandshake::new(None, [7; 32]);
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        server.handle_bytes(piece);
        while server.poll_event().is_some() {}
        while server.poll_transmit().is_some() {}
    }
    server.handle_timeout();
    server.handle_closed();
    let _ = frame::read_body::<Hello>(Kind::Hello, bytes);
    let _ = frame::read_body::<Accept>(Kind::Accept, bytes);
    let _ = frame::read_body::<Refuse>(Kind::Refuse, bytes);
    let _ = Figures::decode(bytes);
});
