//! The HTTP side answers without allocating.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam::channel::unbounded;
use tare_engine::clock::{Clock, MonotonicClock};
use tare_engine::driver::epoll::EpollDriver;
use tare_engine::driver::probe;
use tare_engine::driver::uring::UringDriver;
use tare_engine::driver::{Backend, Driver};
use tare_engine::run::plan::{BackendChoice, WaitMode};
use tare_engine::units::{Instant, Nanos};
use tare_engine::worker::Worker;
use tare_engine::worker::server::http::{HttpArrival, HttpSettings, HttpSide, StampClock};

/// Each names the same connection's next exchange; those of one client are answered one after the other.
const REQUESTS: [&str; 3] = [
    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /echo HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
    "GET /bytes/612 HTTP/1.1\r\nHost: x\r\n\r\n",
];
const CLIENTS: usize = 6;
const ROUNDS: usize = 200;

/// Nothing here is stamped.
#[derive(Debug)]
struct Unstamped;

impl StampClock for Unstamped {
    fn refresh(&mut self) {}

    fn to_instant(&self, _: Nanos) -> Option<Instant> {
        None
    }
}

type Side<D> = Worker<D, MonotonicClock, HttpSide<OwnedFd>>;

/// Each client sends a request, and has its response before the next.
fn exchange<D: Driver<Socket = OwnedFd>>(
    side: &mut Side<D>,
    clients: &mut [TcpStream],
    rounds: usize,
) {
    let mut response = [0; 4096];
    for round in 0..rounds {
        for client in &mut *clients {
            let request = REQUESTS[round % REQUESTS.len()];
            client.write_all(request.as_bytes()).expect("it is open");
        }
        for client in &mut *clients {
            loop {
                side.turn().expect("the driver works");
                match client.read(&mut response) {
                    Ok(len) => {
                        assert!(response[..len].starts_with(b"HTTP/1.1 200 OK\r\n"));
                        break;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        }
    }
}

fn check<D: Driver<Socket = OwnedFd>>(driver: D) {
    let (inbox, arrivals) = unbounded();
    let settings = HttpSettings {
        wait: WaitMode::Spin,
        idle: Nanos::from_secs(60),
        connections_max: 100,
        seed: 1,
        stalls: Vec::new(),
    };
    let now = MonotonicClock.now();
    let role = HttpSide::new(arrivals, settings, Arc::default(), Box::new(Unstamped), now);
    let mut side = Worker::new(driver, MonotonicClock, role);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let to = listener.local_addr().expect("it is bound");
    let mut clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let client = TcpStream::connect(to).expect("it listens");
            client.set_nonblocking(true).expect("it is open");
            let (socket, _) = listener.accept().expect("one has connected");
            let (socket, bytes, at) = (socket.into(), Vec::new(), now);
            let arrival = HttpArrival { socket, bytes, at };
            inbox.send(arrival).expect("the side is there");
            client
        })
        .collect();
    exchange(&mut side, &mut clients, ROUNDS);
    let info = allocation_counter::measure(|| exchange(&mut side, &mut clients, ROUNDS));
    assert_eq!(info.count_total, 0, "in {} requests", ROUNDS * CLIENTS);
}

#[test]
fn http_is_answered_without_allocating_on_epoll() {
    check(EpollDriver::new().expect("epoll is there"));
}

#[test]
fn http_is_answered_without_allocating_on_uring() {
    if let Err(error) = probe::choose(BackendChoice::Only(Backend::Uring)) {
        eprintln!("skipped: {error}");
        return;
    }
    check(UringDriver::new().expect("the probe says that it works"));
}
