//! What was tried for bulk transfers, pinned and interleaved: `cargo bench --bench bulk`.
//!
//! One stream over loopback TCP. Every way to send is held, block by block, against a loop of
//! blocking `send`, with the same receiver; and every way to receive against a loop of blocking
//! `recv`, with the same sender. The order is reversed in every other block.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tare_driver::Backend;
use tare_driver::sys::benches::{Receiving, Sending};
use tare_units::Sizes;

#[path = "bare.rs"]
#[expect(dead_code, reason = "the ping-pong is for benches/pingpong.rs")]
mod bare;
#[path = "ends.rs"]
mod ends;
#[path = "statistics.rs"]
mod statistics;

use bare::Cpus;
use ends::{Config, Receiver, Sender, Transferred, transfer};
use statistics::{interleave, median, median_interval};

/// What everyone is compared to.
const PLAIN: Contestant = ("plain", Sender::Blocking, Receiver::Blocking);

/// A name, and the two ends.
type Contestant = (&'static str, Sender, Receiver);

const fn sending(name: &'static str, sender: Sender) -> Contestant {
    (name, sender, Receiver::Blocking)
}

const fn receiving(name: &'static str, receiver: Receiver) -> Contestant {
    (name, Sender::Blocking, receiver)
}

const URING: Backend = Backend::Uring;
const EPOLL: Backend = Backend::Epoll;

/// All of them but [`PLAIN`].
const CONTESTANTS: &[Contestant] = &[
    // The same once more: what its ratio shows is the resolution of the experiment.
    sending("plain-aa", Sender::Blocking),
    sending("send-nonblocking", Sender::NonBlocking),
    sending("send-ring-1", Sender::Ring(Sending::Plain, 1)),
    sending("send-ring-16", Sender::Ring(Sending::Plain, 16)),
    sending("send-ring-64", Sender::Ring(Sending::Plain, 64)),
    sending("send-ring-256", Sender::Ring(Sending::Plain, 256)),
    sending("send-waitall-16", Sender::Ring(Sending::WaitAll, 16)),
    sending("send-bundle-64", Sender::Ring(Sending::Bundle, 64)),
    sending("send-fixed-16", Sender::Ring(Sending::Fixed, 16)),
    sending("send-zc-1", Sender::Ring(Sending::ZeroCopy, 1)),
    sending("send-zc-16", Sender::Ring(Sending::ZeroCopy, 16)),
    sending("send-zc-fixed-16", Sender::Ring(Sending::ZeroCopyFixed, 16)),
    sending("send-engine-uring", Sender::Engine(URING)),
    sending("send-engine-epoll", Sender::Engine(EPOLL)),
    receiving("recv-readiness", Receiver::Readiness(None)),
    receiving("recv-lowat-64k", Receiver::Readiness(Some(64 << 10))),
    receiving("recv-lowat-128k", Receiver::Readiness(Some(128 << 10))),
    receiving("recv-spinning", Receiver::Spinning),
    receiving("recv-discard", Receiver::Discarding),
    receiving("recv-ring-single", Receiver::Ring(Receiving::Single)),
    receiving("recv-ring-multishot", Receiver::Ring(Receiving::Multishot)),
    receiving("recv-ring-bundle", Receiver::Ring(Receiving::Bundle)),
    receiving("recv-ring-discard", Receiver::Ring(Receiving::Discard)),
    receiving("recv-engine-uring", Receiver::Engine(URING, false)),
    receiving("recv-engine-epoll", Receiver::Engine(EPOLL, false)),
    receiving("recv-engine-discard", Receiver::Engine(URING, true)),
    ("engine-uring", Sender::Engine(URING), Receiver::Engine(URING, false)),
    ("engine-epoll", Sender::Engine(EPOLL), Receiver::Engine(EPOLL, false)),
];

/// Moves bulk data over loopback TCP in every way that was tried, interleaved, and prints what each
/// gains or loses against blocking `send` and `recv`.
#[derive(Debug, Parser)]
struct Args {
    /// Blocks; in each of them every contestant plays once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    blocks: u32,
    /// Milliseconds that a contestant plays in each block
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    ms: u64,
    /// Bytes per send
    #[arg(long, default_value = "1,64,4K,128K,256K")]
    sizes: Sizes,
    /// Bytes per receive
    #[arg(long, default_value = "64K,128K,256K")]
    receives: Sizes,
    /// CPUs of the sender and of the receiver; by default the first two that are allowed
    #[arg(long, value_delimiter = ',', num_args = 1..=2)]
    cpus: Vec<usize>,
    /// Only contestants whose name contains this, and the plain pair
    filter: Option<String>,
    /// Said by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// The largest send or receive.
const LEN_MAX: u64 = 16 << 20;

fn main() -> ExitCode {
    let args = Args::parse();
    let cpus = match Cpus::asked("bulk", &args.cpus) {
        Ok(cpus) => cpus,
        Err(code) => return code,
    };
    let lens = |sizes: &Sizes| -> Option<Vec<u32>> {
        let len = |&size: &u64| u32::try_from(size).ok().filter(|_| (1..=LEN_MAX).contains(&size));
        sizes.0.iter().map(len).collect()
    };
    let (Some(sizes), Some(receives)) = (lens(&args.sizes), lens(&args.receives)) else {
        eprintln!("bulk: sends and receives are of 1 byte to 16 MiB");
        return ExitCode::from(2);
    };
    let mut config = Config {
        size_bytes: 64 << 10,
        receive_bytes: 64 << 10,
        warmup: Duration::from_millis(args.ms / 5),
        measure: Duration::from_millis(args.ms),
        cpus,
    };
    let playing = able(args.filter.as_deref(), &config);
    println!(
        "One TCP stream over loopback, {} blocks of {} ms, sender on CPU {}, receiver on CPU {}",
        args.blocks, args.ms, cpus.client, cpus.server
    );
    println!(
        "medians of the blocks and of the paired ratios to the plain pair; CPU time is both ends'"
    );
    for &receive_bytes in &receives {
        for &size_bytes in &sizes {
            config = Config { size_bytes, receive_bytes, ..config };
            let played = interleave(playing.len(), args.blocks, |index| {
                let (name, sender, receiver) = playing[index];
                transfer(sender, receiver, &config).map_err(|error| format!("{name}: {error}"))
            });
            match played {
                Ok(played) => print_table(&playing, &played, &config),
                Err(error) => {
                    eprintln!("bulk: {error}");
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}

/// The plain pair and the contestants asked for, but for those that this kernel does not let play.
fn able(filter: Option<&str>, config: &Config) -> Vec<Contestant> {
    let trial =
        Config { warmup: Duration::from_millis(1), measure: Duration::from_millis(5), ..*config };
    let wanted =
        CONTESTANTS.iter().filter(|(name, ..)| filter.is_none_or(|part| name.contains(part)));
    let able = wanted.filter(|(name, sender, receiver)| {
        let trial = transfer(*sender, *receiver, &trial);
        if let Err(error) = &trial {
            eprintln!("bulk: {name} is left out: {error}");
        }
        trial.is_ok()
    });
    std::iter::once(&PLAIN).chain(able).copied().collect()
}

fn print_table(playing: &[Contestant], played: &[Vec<Transferred>], config: &Config) {
    println!("\n{} B per send, {} B per receive\n", config.size_bytes, config.receive_bytes);
    println!(
        "{:<20} {:>8} {:>23}   {:>8} {:>23}   {:>6}",
        "contestant", "Gbit/s", "ratio", "s/GiB", "ratio", "copied"
    );
    let plain = &played[0];
    for ((name, ..), blocks) in playing.iter().zip(played) {
        print!("{name:<20}");
        for (digits, figure) in
            [(2, (|t| t.gbit_per_s) as fn(&Transferred) -> f64), (3, |t| t.cpu_s_per_gib)]
        {
            let mut own: Vec<f64> = blocks.iter().map(figure).collect();
            let mut ratios: Vec<f64> =
                own.iter().zip(plain).map(|(own, plain)| own / figure(plain)).collect();
            let own = median(&mut own);
            let ratio = if *name == PLAIN.0 { String::new() } else { ratio(&mut ratios) };
            print!(" {own:>8.digits$} {ratio:>23}  ");
        }
        let mut shares: Vec<f64> = blocks.iter().filter_map(|t| t.copied_share).collect();
        if !shares.is_empty() {
            print!(" {:>4.0} %", median(&mut shares) * 100.0);
        }
        println!();
    }
}

/// The median of ratios and its interval, where the blocks are enough for one.
fn ratio(ratios: &mut [f64]) -> String {
    let middle = median(ratios);
    match median_interval(ratios) {
        Some((low, high, _)) => format!("{middle:.3} [{low:.3}, {high:.3}]"),
        None => format!("{middle:.3}"),
    }
}
