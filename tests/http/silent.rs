//! Servers that keep silent, refuse, or close at once: requests end at their timeouts, and
//! reconnects pause.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::hostile::Hostile;
use super::{
    errors, for_each_backend, for_each_backend_at_once, http, operations, result, sockets_used,
};
use crate::util::figure;

const MS: u64 = 1_000_000;

#[test]
fn requests_without_an_answer_end_at_the_timeout() {
    let server = Hostile::start(super::hostile::Talk::keeps_silent);
    for_each_backend_at_once(|backend| {
        let file = tempfile::NamedTempFile::with_suffix(".txt").unwrap();
        let path = file.path().display();
        let flags = format!("-n 60 -c 30 --timeout 500ms -o {path} {backend}");
        let ran = http(&server.url(), &flags).exits(1);
        let ran = ran.complains(&[&server.address, "did not answer within 500 ms", "--timeout"]);
        assert!(ran.took < Duration::from_secs(5), "{ran:?}");
        let result = result(&ran);
        assert_eq!(operations(&result, "timed_out"), 60, "{result:#}");
        assert_eq!(errors(&result, "receive", "timeout"), 60, "{result:#}");
        // Each connection was replaced, since the answer could still come.
        assert!(sockets_used(&result) >= 60, "{result:#}");
        let service = &result["latency"]["service"];
        assert_eq!(figure(service, "/count"), 60);
        assert_eq!(figure(service, "/censored"), 60);
        assert!(figure(service, "/p50_ns") >= 500 * MS, "{service:#}");
        assert!(figure(service, "/p50_ns") <= 550 * MS, "{service:#}");
        assert!(service["lower_bounds"].as_array().unwrap().contains(&"p50".into()));
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.contains('≥'), "{text}");
    });
}

#[test]
fn an_answer_that_stops_halfway_ends_at_the_timeout() {
    let server = Hostile::start(|mut talk| {
        talk.hears_a_request();
        for byte in b"HTTP/1.1 200 OK\r\nContent-Len" {
            talk.says(&[*byte]);
            talk.pauses(Duration::from_millis(5));
        }
        talk.keeps_silent();
    });
    for_each_backend_at_once(|backend| {
        let flags = format!("-n 2 -c 2 --timeout 400ms {backend}");
        let result = result(&http(&server.url(), &flags).exits(1));
        assert_eq!(operations(&result, "timed_out"), 2, "{result:#}");
        let max = figure(&result, "/latency/service/max_ns");
        assert!((400 * MS..600 * MS).contains(&max), "{result:#}");
    });
}

/// The answer to a request that was given up must not be taken for that to the next one.
#[test]
fn answers_that_come_too_late_are_not_counted() {
    let server = Hostile::start(|mut talk| {
        while talk.hears_a_request() {
            talk.pauses(Duration::from_millis(400));
            talk.says(super::hostile::FINE);
        }
    });
    for_each_backend_at_once(|backend| {
        let flags = format!("-n 6 -c 2 --timeout 200ms {backend}");
        let result = result(&http(&server.url(), &flags).exits(1));
        assert_eq!(operations(&result, "timed_out"), 6, "{result:#}");
        assert_eq!(result["status_codes"], serde_json::json!({}));
    });
}

#[test]
fn requests_under_way_at_the_end_are_counted() {
    let server = Hostile::start(super::hostile::Talk::keeps_silent);
    for_each_backend_at_once(|backend| {
        let job = super::start(&server.url(), &format!("-d 30s -c 3 --timeout 30s {backend}"));
        crate::util::eventually("it is connected", || server.accepted() >= 3);
        // Once all are connected, each sends at once.
        std::thread::sleep(Duration::from_millis(100));
        job.signal(nix::sys::signal::Signal::SIGINT);
        let ran = job.wait().exits(130);
        assert!(ran.took < Duration::from_secs(5), "{ran:?}");
        let report = ran.report();
        assert_eq!(report["partial"], true);
        let result = &report["results"][0];
        assert_eq!(operations(result, "in_flight_at_end"), 3, "{result:#}");
        assert_eq!(figure(result, "/latency/service/censored"), 3);
    });
}

#[test]
fn a_server_that_closes_at_once_is_not_flooded() {
    for_each_backend_at_once(|backend| {
        let server = Hostile::start(drop);
        let ran = http(&server.url(), &format!("-d 1s -c 4 {backend}")).exits(1);
        let ran = ran.complains(&[&server.address]);
        let result = result(&ran);
        assert_eq!(operations(&result, "completed"), 0);
        // The pauses double from 10 ms on, so each connection tries seven times again in a second.
        let accepted = server.accepted();
        assert!((8..=40).contains(&accepted), "{accepted}");
        assert!(sockets_used(&result) <= accepted + 4);
        assert_ne!(result["errors"], serde_json::json!([]));
    });
}

fn bound() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[test]
fn a_port_that_refuses() {
    // Bound and not listening: the port is nobody else's meanwhile.
    let (_socket, address) = bound();
    for_each_backend(|backend| {
        for flags in ["-d 10s", "-n 100", "-R 100 -d 10s"] {
            let flags = format!("{flags} -c 3 {backend}");
            let ran = http(&format!("http://{address}/"), &flags).exits(1);
            assert!(ran.took < Duration::from_secs(5), "{ran:?}");
            let says = format!("{address} refuses connections (ECONNREFUSED)");
            let ran = ran.complains(&[&says, "start the server there"]);
            let report = ran.report();
            assert_eq!(report["partial"], true);
            let result = &report["results"][0];
            assert!(errors(result, "connect", "ECONNREFUSED") >= 1, "{result:#}");
            assert_eq!(operations(result, "sent"), 0);
        }
    });
}

/// A listener whose backlog is full drops what the client sends: it waits as for a firewall.
#[test]
fn a_port_that_never_accepts() {
    let (socket, address) = bound();
    socket.listen(1).unwrap();
    let patience = Duration::from_millis(200);
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, patience) {
        held.push(stream);
        assert!(held.len() < 100, "its backlog never fills");
    }
    for_each_backend_at_once(|backend| {
        let flags = format!("-d 10s -c 2 --connect-timeout 300ms {backend}");
        let ran = http(&format!("http://{address}/"), &flags).exits(1);
        assert!(ran.took < Duration::from_secs(5), "{ran:?}");
        let says = format!("{address} did not accept a connection within 300 ms");
        let ran = ran.complains(&[&says, "--connect-timeout"]);
        let report = ran.report();
        let result = &report["results"][0];
        assert!(errors(result, "connect", "timeout") >= 2, "{result:#}");
        let connect = &result["latency"]["connect"];
        assert_eq!(connect["count"], connect["censored"], "{result:#}");
    });
}
