//! What a driver's connections cost: memory of each that is idle, and the time to close them all.
//!
//! A program of its own, since it reads the memory of its process.

#![allow(clippy::unwrap_used, reason = "a test program")]

use std::time::{Duration, Instant as Wall};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::epoll::EpollDriver;
use tare_driver::uring::UringDriver;
use tare_driver::{Completion, Driver, Op, Outcome, SocketId, SocketSpec, Token, Wait};

/// What an idle connection may take, bytes.
const BYTES_PER_CONNECTION: u64 = 600;
/// Memory that a process takes for other reasons meanwhile, bytes.
const SLACK_BYTES: u64 = 1 << 20;

/// The anonymous memory of this process, bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn turn<D: Driver>(driver: &mut D, wait: Wait, done: &mut Vec<Completion>) {
    driver.turn(MonotonicClock.now(), wait, done).unwrap();
}

/// Arms a receive on each of so many sockets, and tells the memory that came on top; with the
/// sockets.
fn armed<D: Driver>(driver: &mut D, count: usize) -> (u64, Vec<SocketId>) {
    // One descriptor each, and nothing comes: unconnected datagram sockets, which cost a driver
    // what a connection does.
    let spec = SocketSpec::datagram_to("127.0.0.1:1".parse().unwrap());
    let mut sockets = vec![SocketId(1); count];
    let mut done = Vec::with_capacity(1024);
    let before = memory();
    for (n, socket) in sockets.iter_mut().enumerate() {
        *socket = driver.open(&spec).unwrap();
        let receive = Op::ReceiveMultishot { socket: *socket };
        driver.push(Token(n as u64), receive).unwrap();
        if n % 512 == 0 {
            turn(driver, Wait::Poll, &mut done);
        }
    }
    turn(driver, Wait::Poll, &mut done);
    assert!(done.is_empty(), "nothing was sent");
    (memory().saturating_sub(before), sockets)
}

/// Closes all, and tells how long that took.
fn close<D: Driver>(driver: &mut D, sockets: &[SocketId]) -> Duration {
    let mut done = Vec::with_capacity(1024);
    let started = Wall::now();
    let (mut pushed, mut closed) = (0, 0);
    while closed < sockets.len() {
        for &socket in &sockets[pushed..(pushed + 512).min(sockets.len())] {
            driver.push(Token(u64::MAX / 2), Op::Close { socket }).unwrap();
            pushed += 1;
        }
        turn(driver, Wait::Poll, &mut done);
        closed += done.iter().filter(|c| c.outcome == Outcome::Closed).count();
        done.clear();
        assert!(started.elapsed() < Duration::from_secs(60), "{closed} closed");
    }
    started.elapsed()
}

fn case<D: Driver>(name: &str, count: usize, new: impl Fn() -> D) {
    let mut driver = new();
    driver.provide_pool(16, 1024).unwrap();
    let (bytes, sockets) = armed(&mut driver, count);
    let took = close(&mut driver, &sockets);
    let each = bytes / count as u64;
    println!("{name}: {count} idle connections, {each} bytes each, closed in {took:?}");
    assert!(bytes < count as u64 * BYTES_PER_CONNECTION + SLACK_BYTES, "{name}: {each} bytes each");
    drop(driver);

    // The end of a driver with all of them armed.
    let mut driver = new();
    driver.provide_pool(16, 1024).unwrap();
    let _ = armed(&mut driver, count);
    let started = Wall::now();
    drop(driver);
    let took = started.elapsed();
    println!("{name}: dropped with {count} armed in {took:?}");
    assert!(took < Duration::from_secs(20), "{name}: {count} dropped in {took:?}");
}

#[test]
fn idle_connections_are_cheap_and_close_in_time() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = 50_100.max(hard);
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted) {
        Ok(()) => wanted,
        Err(_) => {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
            hard
        }
    };
    let count: usize = std::env::var("CONNECTIONS").map_or(50_000, |n| n.parse().unwrap());
    let count = count.min(limit as usize - 100);
    for count in [count / 5, count] {
        case("epoll", count, || EpollDriver::new().unwrap());
        if UringDriver::new().is_ok() {
            case("uring", count, || UringDriver::new().unwrap());
        }
    }
}
