//! Micro-benchmarks: `cargo bench --bench micro`. `cargo test` runs each of them once.

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use tare_engine::clock::{Clock, MonotonicClock};

#[path = "bare.rs"]
#[expect(dead_code, reason = "the sampled loop is for benches/pingpong.rs")]
mod bare;

use bare::{Cpus, PingPong, Pinned, Wait};

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
    for (name, wait) in [("spin", Wait::Spin), ("block", Wait::Block)] {
        let mut ping_pong = PingPong::new(wait, SIZE_BYTES, cpus.server);
        c.bench_function(&format!("bare/{name}/{SIZE_BYTES}"), |b| {
            b.iter(|| black_box(&mut ping_pong).round_trip());
        });
    }
}

criterion_group!(benches, clock, bare_ping_pong);
criterion_main!(benches);
