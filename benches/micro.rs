//! Micro-benchmarks: `cargo bench --bench micro`. `cargo test` runs each of them once.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::epoll::EpollDriver;
use tare_driver::uring::UringDriver;
use tare_driver::{Driver, Op, Segment, SocketSpec, Token, Wait};
use tare_engine::schedule::{Schedule, Share};
use tare_engine::worker::TurnCounters;
use tare_proto::datagram::DataHeader;
use tare_proto::hello::{BackendAsked, Direction, Hello, Test, Transport, WaitMode};
use tare_stats::histogram::{Extent, Recording, RecordingSpec, Sample};
use tare_units::text::Id;
use tare_units::{Instant as At, Nanos};

#[expect(dead_code, reason = "the sampled loop and the blocks are for benches/pingpong.rs")]
mod common;

use common::{Cpus, PingPong, Pinned, Wait as BareWait};

/// The message size that the targets are stated for.
const SIZE_BYTES: usize = 64;

/// What one reading of the clock costs; the report's `clock_ns` must agree with it.
fn clock(c: &mut Criterion) {
    let clock = MonotonicClock;
    c.bench_function("clock/monotonic", |b| b.iter(|| clock.now()));
    c.bench_function("clock/std", |b| b.iter(Instant::now));
}

/// The loops that the engine's ping-pong is held against.
fn bare_ping_pong(c: &mut Criterion) {
    let Some(cpus) = Cpus::allowed() else {
        eprintln!("bare ping-pong skipped: it needs two CPUs, and one is allowed");
        return;
    };
    let _pinned = Pinned::to(cpus.client);
    for (name, wait) in [("spin", BareWait::Spin), ("block", BareWait::Block)] {
        let mut ping_pong = PingPong::new(wait, SIZE_BYTES, cpus.server);
        c.bench_function(&format!("bare/{name}/{SIZE_BYTES}"), |b| {
            b.iter(|| black_box(&mut ping_pong).round_trip());
        });
    }
}

/// What recording an operation costs, between its reply and the next request.
fn recording(c: &mut Criterion) {
    for (name, open_loop) in [("closed", false), ("open", true)] {
        let mut recording = Recording::new(RecordingSpec {
            extent: Extent::Time(Nanos::from_secs(60)),
            interval: Nanos::from_secs(1),
            open_loop,
        });
        recording.begin(At(0));
        let mut now = 0;
        c.bench_function(&format!("recording/{name}"), |b| {
            b.iter(|| {
                now += 9_000;
                // Round trips that differ, as they do.
                let sample = Sample {
                    service: Nanos(8_000 + (now & 0x7ff)),
                    lateness: open_loop.then_some(Nanos(now & 0xff)),
                    residence: Some(Nanos(200 + (now & 0x3f))),
                };
                recording.record(At(now), black_box(sample));
            });
        });
    }
    let mut counters = TurnCounters::default();
    let mut turn = 0;
    c.bench_function("recording/turn", |b| {
        b.iter(|| {
            turn += 1;
            let length = Nanos(250 + (turn & 0x3f));
            counters.note(black_box(length), length, 0, 0);
        });
    });
}

fn schedule(c: &mut Criterion) {
    let schedules = [
        ("constant", Schedule::constant(9_999.0, Share::WHOLE)),
        ("poisson", Schedule::poisson(9_999.0, 1, Share::WHOLE)),
    ];
    for (name, schedule) in schedules {
        let mut schedule = schedule.expect("a legal rate");
        c.bench_function(&format!("schedule/{name}"), |b| b.iter(|| schedule.next()));
    }
}

/// A turn that polls while one receive is pending and nothing comes: the grain of a spinning
/// worker.
fn empty_turn<D: Driver>(c: &mut Criterion, name: &str, mut driver: D) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let to: SocketAddr = listener.local_addr().expect("bound");
    let mut done = Vec::with_capacity(16);
    let socket = driver.open(&SocketSpec::stream_to(to)).expect("a socket can be had");
    let connect = Op::Connect { socket, to };
    driver.push(Token(1), connect).expect("the driver is empty");
    while done.is_empty() {
        driver.turn(MonotonicClock.now(), Wait::Poll, &mut done).expect("the driver works");
    }
    let buffer = driver.allocate(64).expect("memory is there");
    let into = Segment { buffer, start: 0, len: 64 };
    let receive = Op::Receive { socket, into };
    driver.push(Token(2), receive).expect("the driver is empty");
    done.clear();
    c.bench_function(&format!("empty-turn/{name}"), |b| {
        b.iter(|| driver.turn(At(1), Wait::Poll, &mut done));
    });
    assert!(done.is_empty(), "nobody sends");
}

fn drivers(c: &mut Criterion) {
    let epoll = EpollDriver::new().expect("epoll is there");
    empty_turn(c, "epoll", epoll);
    match UringDriver::new() {
        Ok(uring) => empty_turn(c, "uring", uring),
        Err(error) => eprintln!("empty-turn/uring skipped: {error}"),
    }
}

fn protocol(c: &mut Criterion) {
    let header = DataHeader { reply: false, flags: 1, sequence: 77, session: Id(42) };
    let mut datagram = [0; SIZE_BYTES];
    c.bench_function("proto/datagram-encode", |b| {
        b.iter(|| black_box(header).encode_into(black_box(&mut datagram)));
    });
    c.bench_function("proto/datagram-decode", |b| {
        b.iter(|| DataHeader::decode(black_box(&datagram)));
    });
    let hello = Hello {
        gap_ns: 0,
        request_follows: false,
        run_id: Id(1),
        test: Test::PingPong,
        transport: Transport::Tcp,
        direction: Direction::Both,
        size_bytes: 64,
        connect_each: false,
        wait: WaitMode::Spin,
        backend: BackendAsked::Auto,
        boot_id: Some("8cbdfb43-5b0f-4e4c-9ac3-4d2f5d9f1b20".to_owned()),
        cpus: vec![0, 1],
        server_delay_ns: 0,
        timeout_ns: 2_000_000_000,
        stream: None,
        brief: false,
        client_version: "0.1.0".to_owned(),
    };
    let json = serde_json::to_vec(&hello).expect("a hello is JSON");
    c.bench_function("proto/hello-parse", |b| {
        b.iter(|| serde_json::from_slice::<Hello>(black_box(&json)));
    });
}

criterion_group!(benches, clock, recording, schedule, drivers, protocol, bare_ping_pong);
criterion_main!(benches);
