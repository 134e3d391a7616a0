//! Whatever the wire and the server do, a run ends, and its figures add up.

use proptest::prelude::*;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::scripted::{Do, OK, What, ok, say};
use super::*;

/// What a server that behaves badly, this often in a hundred, does about an event.
fn misbehave(seed: u64, percent: u64, event: Event) -> Acts {
    let place = (event.connection as u64) << 32 | (event.nth as u64) << 2 | event.what as u64;
    let mut dice = SplitMix64::seed_from_u64(seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // An event in five is struck where it is no request.
    let odds = if event.what == What::Request { 100 } else { 500 };
    if dice.next_u64() % odds >= percent {
        return ok(event);
    }
    let half = OK.len() / 2;
    let pause = Do::Wait(Nanos(dice.next_u64() % 8_000_000));
    match dice.next_u64() % 13 {
        0 => vec![Do::Close],
        1 => vec![pause, Do::Close],
        2 => vec![say(OK), Do::Close],
        3 => vec![say(OK), pause, Do::Close],
        4 => vec![say(&OK[..half]), Do::Close],
        5 => vec![say(&OK[..half]), pause, say(&OK[half..])],
        6 => vec![Do::Deafen, say(&OK[..half]), pause, Do::Close],
        7 => vec![say(OK), pause, say("more")],
        8 => vec![say(&empty_close("503 No"))],
        11 => vec![say(&empty_close("200 OK")), Do::Close],
        9 => vec![say("nonsense\r\n\r\n")],
        10 => vec![pause, say(OK)],
        _ => Vec::new(),
    }
}

fn empty_close(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn wires() -> impl Strategy<Value = SimConfig> {
    let chance = || prop_oneof![Just(0.0), 0.0..0.5];
    let reset = prop_oneof![Just(0.0), 0.0..0.03];
    (any::<u64>(), 0..2_000_000u64, 0..500_000u64, chance(), chance(), reset).prop_map(
        |(seed, latency, jitter, short_reads, short_writes, reset)| SimConfig {
            seed,
            latency: Nanos(latency),
            jitter: Nanos(jitter),
            short_reads,
            short_writes,
            reset,
            ..SimConfig::default()
        },
    )
}

fn plans() -> impl Strategy<Value = Plan> {
    let many = (1..=8u32, 1..=4u32, 1..=3u32);
    let extent = prop_oneof![
        (1..60u64).prop_map(|count| (ms(100), Some(count))),
        (1..80u64).prop_map(|length| (ms(length), None)),
    ];
    let arrivals =
        prop_oneof![Just(Arrivals::Constant), Just(Arrivals::Poisson), Just(Arrivals::Jitter(0.3))];
    let load = prop::option::of((100.0..5_000.0, arrivals));
    let most = prop::option::of(1..6u64);
    (wires(), many, extent, load, most, any::<[bool; 3]>(), 0..20u64).prop_map(
        |(wire, (connections, pipeline, workers), (duration, count), load, most, flags, warmup)| {
            let [drops, reconnect_on_error, several] = flags;
            let (other, _) = post("/other");
            let mut requests = vec![get("/")];
            requests.extend(several.then_some((other, 2)));
            Plan {
                wire,
                workers: workers.min(connections),
                connections,
                pipeline,
                requests,
                requests_per_connection: most,
                reconnect_on_error,
                late: if drops { Late::Drop } else { Late::Queue },
                timeout: ms(15),
                connect_timeout: ms(15),
                warmup: ms(warmup),
                duration,
                count,
                load: load.map(|(rate, arrivals)| (Load::steady(rate), arrivals)),
                ..Plan::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_run_ends_and_adds_up(plan in plans(), seed: u64, percent in prop_oneof![Just(0u64), 1..60u64]) {
        let script = move |event| misbehave(seed, percent, event);
        let mut world = plan.with_script(script);
        world.run_until(World::is_finished);
        // The server learns of every end; what is left is what listens.
        world.run_for(SECOND);
        prop_assert_eq!(world.net.sockets() - world.server.open().0, 1);
        let results = world.finish();
        prop_assert_eq!(results.server.open().1, 0);
        let operations = results.operations();
        if let Some(count) = plan.count && results.outcome.established > 0 && !results.outcome.cut_short {
            prop_assert_eq!(operations.due, count);
            prop_assert_eq!(operations.sent + operations.dropped, count);
        }
        prop_assert!(results.outcome.established <= u64::from(plan.connections));
        if plan.late == Late::Drop && plan.load.is_some() {
            prop_assert_eq!(operations.unsent_at_end, 0);
        }
        // With nothing to go wrong, nothing does.
        if percent == 0 && plan.wire.reset == 0.0 {
            prop_assert_eq!(operations.failed, 0);
            prop_assert_eq!(results.tally.record.measured.errors.total(), 0);
        }
    }
}
