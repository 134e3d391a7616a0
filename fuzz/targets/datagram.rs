//! What a UDP server answers to an address that has not been verified is no longer than what came
//! from it.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use tare_proto::auth::CookieKey;
use tare_proto::datagram::{DataHeader, FrontAction, UdpServerFront};
use tare_proto::stream::StreamHeader;
use tare_units::Instant;

fuzz_target!(|datagram: &[u8]| {
    let server = UdpServerFront::new(CookieKey([7; 32]), None);
    let from = SocketAddr::from(([192, 0, 2, 1], 9));
    if let FrontAction::Reply(reply) = server.handle_datagram(datagram, from, Instant(0)) {
        assert!(reply.len() <= datagram.len(), "amplified: {} for {}", reply.len(), datagram.len());
    }
    if let Some(header) = DataHeader::decode(datagram) {
        let mut copy = datagram.to_vec();
        header.encode_into(&mut copy);
        assert_eq!(DataHeader::decode(&copy), Some(header));
    }
    let _ = StreamHeader::decode(datagram);
});
