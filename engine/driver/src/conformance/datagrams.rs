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
    let sent = bench.perform(CLIENT, Op::SendTo { socket, data, to, source: None });
    assert_eq!(sent, Outcome::Sent(bytes.len() as u32));
}

/// Receives one datagram of those bytes, whole, and gives its addresses.
fn expect<H: Harness>(
    bench: &mut Bench<H>,
    party: usize,
    socket: SocketId,
    bytes: &[u8],
) -> DatagramFrom {
    let (addresses, truncated) = receive(bench, party, socket, 2048, bytes);
    assert!(!truncated);
    addresses
}

fn receive<H: Harness>(
    bench: &mut Bench<H>,
    party: usize,
    socket: SocketId,
    room: usize,
    bytes: &[u8],
) -> (DatagramFrom, bool) {
    let into = bench.buffer(party, room);
    match bench.perform(party, Op::ReceiveFrom { socket, into }) {
        Outcome::ReceivedFrom { len, addresses, truncated } => {
            assert_eq!(&bench.driver(party).buffer(into.buffer)[..len as usize], bytes);
            (addresses, truncated)
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn addresses_come_with_datagrams<H: Harness>(bench: &mut Bench<H>) {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let (server, to) = open(bench, SERVER, host, false);
        let (client, from) = open(bench, CLIENT, host, false);
        // The last one is empty.
        for len in [100, 200, 0] {
            send_to(bench, client, &vec![7; len], to);
            let addresses = expect(bench, SERVER, server, &vec![7; len]);
            assert_eq!(addresses, DatagramFrom { from, local: None });
        }
    }
}

pub(super) fn what_is_too_long_is_cut_off<H: Harness>(bench: &mut Bench<H>) {
    let (server, to) = open(bench, SERVER, "127.0.0.1:0", false);
    let (client, _) = open(bench, CLIENT, "127.0.0.1:0", false);
    // The rest of the first is gone, and a buffer of just its size is enough for the second.
    for (sent, received, is_cut) in [(&b"0123456789"[..], b"0123", true), (b"next", b"next", false)]
    {
        send_to(bench, client, sent, to);
        let (_, truncated) = receive(bench, SERVER, server, 4, received);
        assert_eq!(truncated, is_cut);
    }
}

pub(super) fn answers_leave_from_the_address_that_was_asked<H: Harness>(bench: &mut Bench<H>) {
    for any in ["0.0.0.0:0", "[::]:0"] {
        let (server, local) = open(bench, SERVER, any, true);
        let (client, from) = open(bench, CLIENT, "127.0.0.1:0", false);
        let asked: SocketAddr = ([127, 0, 0, 7], local.port()).into();
        send_to(bench, client, b"who are you", asked);
        let addresses = expect(bench, SERVER, server, b"who are you");
        assert_eq!(addresses, DatagramFrom { from, local: Some(asked.ip()) });
        let data = bench.buffer_with(SERVER, b"the one you asked");
        let DatagramFrom { from: to, local: source } = addresses;
        let answer = Op::SendTo { socket: server, data, to, source };
        assert_eq!(bench.perform(SERVER, answer), Outcome::Sent(17));
        assert_eq!(expect(bench, CLIENT, client, b"the one you asked").from, asked);
    }
}

pub(super) fn a_connected_socket_wins_over_the_wildcard<H: Harness>(bench: &mut Bench<H>) {
    let local: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let spec =
        SocketSpec { local: Some(local), reuse_port: true, ..SocketSpec::datagram_to(local) };
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
    assert_eq!(expect(bench, SERVER, any, b"new").from, second_addr);
    assert_eq!(expect(bench, SERVER, session, b"known").from, first_addr);
}

pub(super) fn connected_datagrams_are_sent_and_received<H: Harness>(bench: &mut Bench<H>) {
    let (server, to) = open(bench, SERVER, "127.0.0.1:0", false);
    let client = bench.open(CLIENT, &SocketSpec::datagram_to(to));
    assert_eq!(bench.perform(CLIENT, Op::Connect { socket: client, to }), Outcome::Connected);
    let data = bench.buffer_with(CLIENT, b"ping");
    assert_eq!(bench.perform(CLIENT, send(client, data)), Outcome::Sent(4));
    let to = expect(bench, SERVER, server, b"ping").from;
    assert_eq!(Some(to), bench.driver(CLIENT).local_addr(client));
    let data = bench.buffer_with(SERVER, b"pong!");
    let answer = Op::SendTo { socket: server, data, to, source: None };
    assert_eq!(bench.perform(SERVER, answer), Outcome::Sent(5));
    assert_eq!(bench.receive(CLIENT, client, 64), b"pong!");
}
