//! Datagrams: addresses, truncation, the local address, connected sockets.

use std::net::SocketAddr;

use super::{Bench, CLIENT, Harness, SERVER, send};
use crate::{DatagramFrom, Driver, Op, Outcome, SocketId, SocketSpec};

/// A datagram socket on `local`, and its address.
pub(super) fn open<H: Harness>(
    bench: &mut Bench<H>,
    party: usize,
    local: &str,
    packet_info: bool,
) -> (SocketId, SocketAddr) {
    let local: SocketAddr = local.parse().unwrap();
    let spec = SocketSpec {
        local: Some(local),
        packet_info,
        reuse_port: local.port() != 0,
        ..SocketSpec::datagram_to(local)
    };
    let socket = bench.open(party, &spec);
    (socket, bench.driver(party).local_addr(socket).unwrap())
}

fn send_to<H: Harness>(bench: &mut Bench<H>, socket: SocketId, bytes: &[u8], to: SocketAddr) {
    let data = bench.buffer_with(CLIENT, bytes);
    let op = Op::SendTo { socket, data, to, source: None };
    let sent = Outcome::Sent(bytes.len() as u32);
    assert_eq!(bench.perform(CLIENT, op), sent);
}

/// Bytes, addresses, truncated.
fn receive_from<H: Harness>(
    bench: &mut Bench<H>,
    party: usize,
    socket: SocketId,
    len: usize,
) -> (Vec<u8>, DatagramFrom, bool) {
    let into = bench.buffer(party, len);
    match bench.perform(party, Op::ReceiveFrom { socket, into }) {
        Outcome::ReceivedFrom { len, addresses, truncated } => {
            let bytes = &bench.driver(party).buffer(into.buffer)[..len as usize];
            (bytes.to_vec(), addresses, truncated)
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn addresses_come_with_datagrams<H: Harness>() {
    Bench::<H>::run(|bench| {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let (server, to) = open(bench, SERVER, host, false);
            let (client, from) = open(bench, CLIENT, host, false);
            for i in 0..3u8 {
                send_to(bench, client, &[i; 100], to);
                let (bytes, addresses, truncated) = receive_from(bench, SERVER, server, 2048);
                assert_eq!((bytes, truncated), (vec![i; 100], false));
                assert_eq!(addresses, DatagramFrom { from, local: None });
            }
        }
    });
}

pub(super) fn what_is_too_long_is_cut_off<H: Harness>() {
    Bench::<H>::run(|bench| {
        let (server, to) = open(bench, SERVER, "127.0.0.1:0", false);
        let (client, _) = open(bench, CLIENT, "127.0.0.1:0", false);
        send_to(bench, client, b"0123456789", to);
        let (bytes, _, truncated) = receive_from(bench, SERVER, server, 4);
        assert_eq!((bytes.as_slice(), truncated), (b"0123".as_slice(), true));
        send_to(bench, client, b"next", to);
        // The rest of it is gone, and a buffer of just its size is enough.
        let (bytes, _, truncated) = receive_from(bench, SERVER, server, 4);
        assert_eq!((bytes.as_slice(), truncated), (b"next".as_slice(), false));
    });
}

pub(super) fn answers_leave_from_the_address_that_was_asked<H: Harness>() {
    Bench::<H>::run(|bench| {
        for any in ["0.0.0.0:0", "[::]:0"] {
            let (server, local) = open(bench, SERVER, any, true);
            let (client, from) = open(bench, CLIENT, "127.0.0.1:0", false);
            let asked: SocketAddr = ([127, 0, 0, 7], local.port()).into();
            send_to(bench, client, b"who are you", asked);
            let (_, addresses, _) = receive_from(bench, SERVER, server, 64);
            let expected = DatagramFrom { from, local: Some(asked.ip()) };
            assert_eq!(addresses, expected);
            let data = bench.buffer_with(SERVER, b"the one you asked");
            let answer =
                Op::SendTo { socket: server, data, to: addresses.from, source: addresses.local };
            assert_eq!(bench.perform(SERVER, answer), Outcome::Sent(17));
            let (bytes, addresses, _) = receive_from(bench, CLIENT, client, 64);
            assert_eq!(bytes, b"the one you asked");
            assert_eq!(addresses.from, asked);
        }
    });
}

pub(super) fn a_connected_socket_wins_over_the_wildcard<H: Harness>() {
    Bench::<H>::run(|bench| {
        let spec = SocketSpec {
            local: Some("0.0.0.0:0".parse().unwrap()),
            reuse_port: true,
            ..SocketSpec::datagram_to("0.0.0.0:0".parse().unwrap())
        };
        let any = bench.open(SERVER, &spec);
        let port = bench.driver(SERVER).local_addr(any).unwrap().port();
        let (first, first_addr) = open(bench, CLIENT, "127.0.0.1:0", false);
        let (second, second_addr) = open(bench, CLIENT, "127.0.0.1:0", false);
        let (session, to) = open(bench, SERVER, &format!("127.0.0.1:{port}"), false);
        let connect = Op::Connect { socket: session, to: first_addr };
        assert_eq!(bench.perform(SERVER, connect), Outcome::Connected);
        assert_eq!(bench.driver(SERVER).peer_addr(session), Some(first_addr));
        send_to(bench, second, b"new", to);
        send_to(bench, first, b"known", to);
        let (bytes, addresses, _) = receive_from(bench, SERVER, any, 64);
        assert_eq!((bytes.as_slice(), addresses.from), (b"new".as_slice(), second_addr));
        let (bytes, addresses, _) = receive_from(bench, SERVER, session, 64);
        assert_eq!((bytes.as_slice(), addresses.from), (b"known".as_slice(), first_addr));
    });
}

pub(super) fn empty_datagrams_arrive<H: Harness>() {
    Bench::<H>::run(|bench| {
        let (server, to) = open(bench, SERVER, "127.0.0.1:0", false);
        let (client, from) = open(bench, CLIENT, "127.0.0.1:0", false);
        send_to(bench, client, b"", to);
        let (bytes, addresses, truncated) = receive_from(bench, SERVER, server, 8);
        assert_eq!((bytes.len(), addresses.from, truncated), (0, from, false));
    });
}

pub(super) fn connected_datagrams_are_sent_and_received<H: Harness>() {
    Bench::<H>::run(|bench| {
        let (server, to) = open(bench, SERVER, "127.0.0.1:0", false);
        let client = bench.open(CLIENT, &SocketSpec::datagram_to(to));
        let connect = Op::Connect { socket: client, to };
        assert_eq!(bench.perform(CLIENT, connect), Outcome::Connected);
        let data = bench.buffer_with(CLIENT, b"ping");
        assert_eq!(bench.perform(CLIENT, send(client, data)), Outcome::Sent(4));
        let (bytes, addresses, _) = receive_from(bench, SERVER, server, 64);
        assert_eq!(bytes, b"ping");
        assert_eq!(Some(addresses.from), bench.driver(CLIENT).local_addr(client));
        let data = bench.buffer_with(SERVER, b"pong!");
        let answer = Op::SendTo { socket: server, data, to: addresses.from, source: None };
        assert_eq!(bench.perform(SERVER, answer), Outcome::Sent(5));
        assert_eq!(bench.receive(CLIENT, client, 64), b"pong!");
    });
}
