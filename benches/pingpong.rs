//! The engine's ping-pong beside the bare loop, pinned and interleaved: `cargo bench --bench
//! pingpong`.
//!
//! Contestants take turns, block by block, and each is compared to its bare loop of the same block:
//! the machine drifts by more than the difference that is looked for, but little within a block.
//! The order is reversed in every other block, so that being second costs everyone the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::{Backend, BackendChoice, probe};
use tare_engine::latency::plan::LatPlan;
use tare_engine::measurement::Measurement;
use tare_engine::run::observe::Unobserved;
use tare_engine::run::plan::{Common, Stop};
use tare_engine::server::Server;
use tare_engine::server::plan::ServePlan;
use tare_proto::hello::{Transport, WaitMode};
use tare_stats::result::Instrument;
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::target::Target;

mod common;

use common::{Config, Cpus, Wait, interleave, median, median_interval, round_trips_ns};

/// One way to play ping-pong: its name, the one of what it is compared to (its own for a bare loop),
/// and how it plays.
struct Contestant {
    name: &'static str,
    against: &'static str,
    play: Play,
}

#[derive(Debug, Clone, Copy)]
enum Play {
    Bare(Wait),
    Engine(Backend, WaitMode),
}

/// What came of a block: the median round-trip time, and what the engine's client says of itself.
struct Played {
    p50_ns: f64,
    instrument: Option<Instrument>,
}

const fn contestant(name: &'static str, against: &'static str, play: Play) -> Contestant {
    Contestant { name, against, play }
}

/// All of them. A contestant stands after the one that it is compared to.
const CONTESTANTS: &[Contestant] = &[
    contestant("bare-spin", "bare-spin", Play::Bare(Wait::Spin)),
    // The same once more: what its difference shows is the resolution of the experiment.
    contestant("bare-spin-aa", "bare-spin", Play::Bare(Wait::Spin)),
    contestant("engine-uring-spin", "bare-spin", Play::Engine(Backend::Uring, WaitMode::Spin)),
    contestant("engine-epoll-spin", "bare-spin", Play::Engine(Backend::Epoll, WaitMode::Spin)),
    contestant("bare-block", "bare-block", Play::Bare(Wait::Block)),
    contestant("engine-uring-block", "bare-block", Play::Engine(Backend::Uring, WaitMode::Block)),
    contestant("engine-epoll-block", "bare-block", Play::Engine(Backend::Epoll, WaitMode::Block)),
];

impl Play {
    /// Plays for the time that the configuration asks. A run of the engine that other work kept
    /// from its CPUs is repeated, at most three times.
    fn play(self, config: &Config) -> Played {
        match self {
            Self::Bare(wait) => {
                let times_ns = round_trips_ns(wait, config);
                assert!(!times_ns.is_empty(), "no round trip within the time");
                let mut times_ns: Vec<f64> = times_ns.into_iter().map(|ns| ns as f64).collect();
                Played { p50_ns: median(&mut times_ns), instrument: None }
            }
            Self::Engine(backend, wait) => (0..3)
                .find_map(|_| engine(backend, wait, config))
                .expect("a median of three runs: the CPUs are in use"),
        }
    }
}

/// `tare lat` and `tare serve` through the library, to the bins of the report's histogram (0.1 %);
/// `None` where there were too few round trips for a median.
fn engine(backend: Backend, wait: WaitMode, config: &Config) -> Option<Played> {
    let cpu = |number: usize| u32::try_from(number).expect("CPU numbers are small");
    let serve = ServePlan {
        listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        listen_is_default: false,
        once: false,
        max_sessions: 8,
        max_duration: Nanos::MAX,
        idle_timeout: Nanos::MAX,
        allow_spin: true,
        cpus: Some(vec![cpu(config.cpus.server)]),
        backend: BackendChoice::Only(backend),
        secret: None,
        http: None,
    };
    let tell = Arc::new(|_: &str, line: &str| eprintln!("{line}"));
    let server = Server::start(&serve, &[], None, tell).expect("loopback has free ports");
    let plan = LatPlan {
        target: Target::Host { host: "127.0.0.1".to_owned(), port: server.addresses()[0].port() },
        transport: Transport::Tcp,
        sizes: vec![u32::try_from(config.size_bytes).expect("bounded by the flag")],
        connections: vec![1],
        connect_each: false,
        rate_per_s: None,
        server_delay: Nanos::ZERO,
        under_load: None,
        bind: None,
        common: Common {
            stop: Stop::After(config.measure.into()),
            warmup: config.warmup.into(),
            timeout: Nanos::from_secs(2),
            threads: None,
            cpus: Some(vec![cpu(config.cpus.client)]),
            wait: Some(wait),
            backend: BackendChoice::Only(backend),
            percentiles: Vec::new(),
            seed: 0,
            interval: Nanos::from_secs(1),
            label: None,
            secret: None,
            no_idle: false,
            command_line: None,
            observe: Vec::new(),
        },
    };
    let finished = Measurement::Lat(plan)
        .measure(&Interrupt::default(), &mut Unobserved)
        .expect("the engine runs here");
    assert!(finished.error.is_none(), "{:?}", finished.error);
    let result = &finished.report.results[0];
    let server_wait = result.instrument.server.as_ref().map(|i| i.wait.as_str());
    assert_eq!(server_wait, Some(wait.name()), "the server waits as asked");
    let p50_ns = result.latency.service.p50_ns?;
    let p50_ns = p50_ns as f64;
    Some(Played { p50_ns, instrument: Some(result.instrument.client.clone()) })
}

/// Plays ping-pong over loopback TCP in every way there is, interleaved, and prints what each costs
/// beyond its bare loop.
#[derive(Debug, Parser)]
struct Args {
    /// Blocks; in each of them every contestant plays once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    blocks: u32,
    /// Milliseconds that a contestant plays in each block
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    ms: u64,
    /// Message size in bytes, both ways
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    size: u32,
    /// CPUs of the client and of the server; by default the first two that are allowed
    #[arg(long, value_delimiter = ',', num_args = 1..=2)]
    cpus: Vec<usize>,
    /// Only contestants whose name contains this, and what they are compared to
    filter: Option<String>,
    /// Said by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let cpus = match Cpus::asked("pingpong", &args.cpus) {
        Ok(cpus) => cpus,
        Err(code) => return code,
    };
    let playing = chosen(args.filter.as_deref());
    if playing.is_empty() {
        eprintln!("pingpong: no contestant has that name");
        return ExitCode::from(2);
    }
    let config = Config {
        size_bytes: args.size as usize,
        warmup: Duration::from_millis(args.ms / 5),
        measure: Duration::from_millis(args.ms),
        cpus,
    };
    let played = interleave(playing.len(), args.blocks, |index| {
        Ok::<_, std::convert::Infallible>(playing[index].play.play(&config))
    });
    let played = played.expect("playing cannot fail");
    let medians_ns: Vec<Vec<f64>> =
        played.iter().map(|blocks| blocks.iter().map(|block| block.p50_ns).collect()).collect();
    print_table(&playing, &medians_ns, &args, cpus);
    print_instruments(&playing, &played);
    ExitCode::SUCCESS
}

/// The contestants asked for, each with what it is compared to, but for those that this kernel does
/// not let play.
fn chosen(filter: Option<&str>) -> Vec<&'static Contestant> {
    let wanted = |name: &str| filter.is_none_or(|part| name.contains(part));
    let can_play = |contestant: &&Contestant| match contestant.play {
        Play::Engine(backend @ Backend::Uring, _) => {
            let chosen = probe::choose(BackendChoice::Only(backend));
            if let Err(error) = &chosen {
                eprintln!("pingpong: {} is left out: {error}", contestant.name);
            }
            chosen.is_ok()
        }
        _ => true,
    };
    let is_asked = |candidate: &&Contestant| {
        let is_needed = |c: &Contestant| c.name == candidate.name || c.against == candidate.name;
        CONTESTANTS.iter().any(|c| wanted(c.name) && is_needed(c))
    };
    CONTESTANTS.iter().filter(is_asked).filter(can_play).collect()
}

/// What the reports say of their own cost, medians over the blocks, beside what is measured here.
fn print_instruments(playing: &[&Contestant], played: &[Vec<Played>]) {
    let over_blocks = |blocks: &[Played], figure: fn(&Instrument) -> u64| {
        let instruments = blocks.iter().filter_map(|block| block.instrument.as_ref());
        median(&mut instruments.map(|i| figure(i) as f64).collect::<Vec<_>>())
    };
    println!("\nreading the clock costs {:.1} ns here; the reports say:\n", clock_cost_ns());
    type Figure = (&'static str, fn(&Instrument) -> u64);
    let figures: [Figure; 4] = [
        ("clock_ns", |i| i.clock_ns),
        ("turn p50", |i| i.turn_p50_ns),
        ("turn p99", |i| i.turn_p99_ns),
        ("gap p99", |i| i.gap_p99_ns),
    ];
    print!("{:<18}", "contestant");
    for (name, _) in figures {
        print!(" {name:>10}");
    }
    println!();
    for (contestant, blocks) in playing.iter().zip(played) {
        if blocks.iter().any(|block| block.instrument.is_some()) {
            print!("{:<18}", contestant.name);
            for (_, figure) in figures {
                print!(" {:>10.0}", over_blocks(blocks, figure));
            }
            println!();
        }
    }
}

/// The median over batches of readings, taken by another clock type than the engine's own figure.
fn clock_cost_ns() -> f64 {
    const BATCHES: usize = 101;
    const READINGS: u32 = 1_000;
    let mut costs_ns = [(); BATCHES].map(|()| {
        let begin = std::time::Instant::now();
        for _ in 0..READINGS {
            std::hint::black_box(MonotonicClock.now());
        }
        begin.elapsed().as_secs_f64() * 1e9 / f64::from(READINGS)
    });
    median(&mut costs_ns)
}

fn print_table(playing: &[&Contestant], medians_ns: &[Vec<f64>], args: &Args, cpus: Cpus) {
    println!(
        "TCP ping-pong of {} B over loopback, {} blocks of {} ms, client on CPU {}, server on CPU {}",
        args.size, args.blocks, args.ms, cpus.client, cpus.server
    );
    println!("medians of the blocks' p50 and of the paired differences, ns, full round trips\n");
    println!("{:<18} {:>10} {:>10} {:>12}  interval", "contestant", "p50", "rel.", "difference");
    for (contestant, own_ns) in playing.iter().zip(medians_ns) {
        let p50_ns = median(&mut own_ns.clone());
        print!("{:<18} {p50_ns:>10.0}", contestant.name);
        if contestant.against == contestant.name {
            println!();
            continue;
        }
        let bare_ns = playing
            .iter()
            .zip(medians_ns)
            .find(|(c, _)| c.name == contestant.against)
            .map(|(_, bare_ns)| bare_ns)
            .expect("what a contestant is compared to plays with it");
        let mut differences_ns: Vec<f64> =
            own_ns.iter().zip(bare_ns).map(|(own, bare)| own - bare).collect();
        let difference_ns = median(&mut differences_ns);
        let relative = p50_ns / median(&mut bare_ns.clone());
        print!(" {relative:>10.3} {difference_ns:>+12.0}");
        match median_interval(&differences_ns) {
            Some((low, high, coverage)) => {
                println!("  [{low:+.0}, {high:+.0}] at {:.1} %", coverage * 100.0);
            }
            None => println!("  none: needs 6 blocks"),
        }
    }
}
