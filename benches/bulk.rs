//! What was tried for bulk transfers, pinned and interleaved: `cargo bench --bench bulk`.
//!
//! One stream over loopback TCP. Every way to send is held, block by block, against a loop of
//! blocking `send`, with the same receiver; and every way to receive against a loop of blocking
//! `recv`, with the same sender. The order is reversed in every other block.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::epoll::EpollDriver;
use tare_driver::sys::benches::{Moved, ReceiveRing, Receiving, SendRing, Sending};
use tare_driver::sys::{option, socket};
use tare_driver::uring::UringDriver;
use tare_driver::{Completion, Driver, Op, Outcome, Segment, SocketOption, Token, Wait};
use tare_units::{Nanos, Sizes};

#[expect(dead_code, reason = "the ping-pong is for benches/pingpong.rs")]
mod common;

use common::{Config, Cpus, Pinned, interleave, median, median_interval};

/// So many sends between two readings of the clock, whichever way they go.
const BURST: u32 = 64;

/// An end, set up: moves something each time that it is called; zero bytes are the end of the
/// stream.
type End = Box<dyn FnMut() -> Result<Moved, String>>;
/// Sets an end up that sends, or receives, so many bytes at once.
type Setup = fn(TcpStream, usize) -> Result<End, String>;
/// A name, and the two ends.
type Contestant = (&'static str, Setup, Setup);

/// What everyone is compared to.
const PLAIN: Contestant = ("plain", blocking_sender, blocking_receiver);

const fn sending(name: &'static str, sender: Setup) -> Contestant {
    (name, sender, blocking_receiver)
}

const fn receiving(name: &'static str, receiver: Setup) -> Contestant {
    (name, blocking_sender, receiver)
}

/// All of them but [`PLAIN`]. The number behind a ring is how many sends go by one system call.
const CONTESTANTS: &[Contestant] = &[
    // The same once more: what its ratio shows is the resolution of the experiment.
    sending("plain-aa", blocking_sender),
    sending("send-nonblocking", nonblocking_sender),
    sending("send-ring-1", |s, len| ring_sender(s, len, Sending::Plain, 1)),
    sending("send-ring-16", |s, len| ring_sender(s, len, Sending::Plain, 16)),
    sending("send-ring-64", |s, len| ring_sender(s, len, Sending::Plain, 64)),
    sending("send-ring-256", |s, len| ring_sender(s, len, Sending::Plain, 256)),
    sending("send-waitall-16", |s, len| ring_sender(s, len, Sending::WaitAll, 16)),
    sending("send-bundle-64", |s, len| ring_sender(s, len, Sending::Bundle, 64)),
    sending("send-fixed-16", |s, len| ring_sender(s, len, Sending::Fixed, 16)),
    sending("send-zc-1", |s, len| ring_sender(s, len, Sending::ZeroCopy, 1)),
    sending("send-zc-16", |s, len| ring_sender(s, len, Sending::ZeroCopy, 16)),
    sending("send-zc-fixed-16", |s, len| ring_sender(s, len, Sending::ZeroCopyFixed, 16)),
    sending("send-engine-uring", uring_sender),
    sending("send-engine-epoll", epoll_sender),
    receiving("recv-readiness", |s, len| readiness_receiver(s, len, None)),
    receiving("recv-lowat-64k", |s, len| readiness_receiver(s, len, Some(64 << 10))),
    receiving("recv-lowat-128k", |s, len| readiness_receiver(s, len, Some(128 << 10))),
    receiving("recv-spinning", spinning_receiver),
    receiving("recv-discard", discarding_receiver),
    receiving("recv-ring-single", |s, len| ring_receiver(s, len, Receiving::Single)),
    receiving("recv-ring-multishot", |s, len| ring_receiver(s, len, Receiving::Multishot)),
    receiving("recv-ring-bundle", |s, len| ring_receiver(s, len, Receiving::Bundle)),
    receiving("recv-ring-discard", |s, len| ring_receiver(s, len, Receiving::Discard)),
    receiving("recv-engine-uring", uring_receiver),
    receiving("recv-engine-epoll", epoll_receiver),
    receiving("recv-engine-discard", |stream, len| {
        engine_receiver(UringDriver::new().map_err(text)?, stream, len, true)
    }),
    ("engine-uring", uring_sender, uring_receiver),
    ("engine-epoll", epoll_sender, epoll_receiver),
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
    if args.sizes.0.iter().chain(&args.receives.0).any(|len| !(1..=LEN_MAX).contains(len)) {
        eprintln!("bulk: sends and receives are of 1 byte to 16 MiB");
        return ExitCode::from(2);
    }
    let lens = |sizes: &Sizes| sizes.0.iter().map(|len| *len as usize).collect::<Vec<_>>();
    let mut config = Config {
        size_bytes: 64 << 10,
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
    for receive_bytes in lens(&args.receives) {
        for size_bytes in lens(&args.sizes) {
            config = Config { size_bytes, ..config };
            let played = interleave(playing.len(), args.blocks, |index| {
                let (name, sender, receiver) = playing[index];
                transfer(sender, receiver, receive_bytes, &config)
                    .map_err(|error| format!("{name}: {error}"))
            });
            match played {
                Ok(played) => {
                    println!("\n{size_bytes} B per send, {receive_bytes} B per receive\n");
                    print_table(&playing, &played);
                }
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
        let trial = transfer(*sender, *receiver, 64 << 10, &trial);
        if let Err(error) = &trial {
            eprintln!("bulk: {name} is left out: {error}");
        }
        trial.is_ok()
    });
    std::iter::once(&PLAIN).chain(able).copied().collect()
}

fn print_table(playing: &[Contestant], played: &[Vec<Transferred>]) {
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

/// What came of a transfer.
#[derive(Debug, Clone, Copy)]
struct Transferred {
    gbit_per_s: f64,
    /// CPU time of both ends.
    cpu_s_per_gib: f64,
    /// Of the zero-copy sends, those that the kernel copied all the same.
    copied_share: Option<f64>,
}

/// What an end did within its measured time.
#[derive(Debug, Clone, Copy)]
struct Share {
    elapsed: Duration,
    /// Of both ends.
    cpu: Duration,
    moved: Moved,
}

/// Of the whole process: both ends, and the kernel's worker threads of their rings.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    time.expect("every process has a CPU clock").into()
}

/// Runs an end for the warm-up, and then until the measured time is over.
fn measure(end: &mut End, config: &Config) -> Result<Share, String> {
    let warm = Instant::now() + config.warmup;
    while Instant::now() < warm {
        end()?;
    }
    let (began, cpu) = (Instant::now(), cpu_time());
    let mut moved = Moved::default();
    loop {
        moved += end()?;
        let elapsed = began.elapsed();
        if elapsed >= config.measure {
            return Ok(Share { elapsed, cpu: cpu_time() - cpu, moved });
        }
    }
}

/// Transfers for the time that the configuration asks; fails with what this kernel cannot do.
fn transfer(
    sender: Setup,
    receiver: Setup,
    receive_bytes: usize,
    config: &Config,
) -> Result<Transferred, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    let sending = TcpStream::connect(listener.local_addr().map_err(text)?).map_err(text)?;
    let (receiving, _) = listener.accept().map_err(text)?;
    let config = *config;
    // Both ends stand before the first byte goes, and an end that could not be set up ends the
    // other.
    let (ready, is_ready) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let is_over = Arc::new(AtomicBool::new(false));
    let receiver_is_over = Arc::clone(&is_over);
    let thread = thread::spawn(move || {
        let _pinned = Pinned::to(config.cpus.client);
        let hang_up = sending.try_clone().map_err(text)?;
        let end = sender(sending, config.size_bytes);
        let _ = ready.send(());
        let share = match (end, may_go.recv()) {
            (Ok(mut end), Ok(())) => measure(&mut end, &config).and_then(|share| {
                while !receiver_is_over.load(Ordering::Relaxed) {
                    end()?;
                }
                Ok(share)
            }),
            (Err(error), _) => Err(error),
            (Ok(_), Err(_)) => Err("the receiver was not set up".to_owned()),
        };
        let _ = hang_up.shutdown(Shutdown::Both);
        share
    });
    let _pinned = Pinned::to(config.cpus.server);
    let end = receiver(receiving, receive_bytes);
    let _ = is_ready.recv();
    let received = end.and_then(|mut end| {
        let _ = go.send(());
        let share = measure(&mut end, &config);
        is_over.store(true, Ordering::Relaxed);
        while share.is_ok() && end()?.bytes > 0 {}
        share
    });
    drop(go);
    let sent = thread.join().map_err(|_| "the sender failed".to_owned())?;
    match (sent, received) {
        (Ok(sent), Ok(received)) if received.moved.bytes > 0 => Ok(summary(sent, received)),
        (Ok(_), Ok(_)) => Err("nothing arrived".to_owned()),
        (sent, received) => {
            Err([sent.err(), received.err()].into_iter().flatten().collect::<Vec<_>>().join("; "))
        }
    }
}

fn summary(sent: Share, received: Share) -> Transferred {
    let bytes_per_s = received.moved.bytes as f64 / received.elapsed.as_secs_f64();
    let gib = received.moved.bytes as f64 / f64::from(1 << 30);
    let released = sent.moved.released;
    Transferred {
        gbit_per_s: bytes_per_s * 8e-9,
        cpu_s_per_gib: received.cpu.as_secs_f64() / gib,
        copied_share: (released > 0).then(|| sent.moved.copied as f64 / released as f64),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Waits until the socket is ready.
fn wait_for(stream: &TcpStream, events: PollFlags) -> Result<(), String> {
    let mut fds = [PollFd::new(stream.as_fd(), events)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(text(errno)),
    }
}

fn blocking_sender(stream: TcpStream, len: usize) -> Result<End, String> {
    Ok(plain_sender(stream, len))
}

/// With `poll` where there is no room.
fn nonblocking_sender(stream: TcpStream, len: usize) -> Result<End, String> {
    stream.set_nonblocking(true).map_err(text)?;
    Ok(plain_sender(stream, len))
}

fn plain_sender(mut stream: TcpStream, len: usize) -> End {
    let message = vec![0x5a; len];
    Box::new(move || {
        let mut bytes = 0;
        for _ in 0..BURST {
            match stream.write(&message) {
                Ok(n) => bytes += n as u64,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    wait_for(&stream, PollFlags::POLLOUT)?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(text(e)),
            }
        }
        Ok(Moved::of(bytes))
    })
}

fn ring_sender(stream: TcpStream, len: usize, how: Sending, batch: u16) -> Result<End, String> {
    let mut ring = SendRing::new(stream.into(), len as u32, how, batch).map_err(text)?;
    let batches = BURST.div_ceil(batch.into());
    Ok(Box::new(move || {
        let mut moved = Moved::default();
        for _ in 0..batches {
            moved += ring.send_batch().map_err(text)?;
        }
        Ok(moved)
    }))
}

fn blocking_receiver(mut stream: TcpStream, len: usize) -> Result<End, String> {
    let mut buffer = vec![0; len];
    Ok(repeating(move || stream.read(&mut buffer)))
}

fn spinning_receiver(stream: TcpStream, len: usize) -> Result<End, String> {
    stream.set_nonblocking(true).map_err(text)?;
    blocking_receiver(stream, len)
}

fn discarding_receiver(stream: TcpStream, len: usize) -> Result<End, String> {
    Ok(repeating(move || Ok(socket::discard(&stream, len as u32)?)))
}

/// With `poll` after a receive that was not filled; bytes of `SO_RCVLOWAT`.
fn readiness_receiver(
    mut stream: TcpStream,
    len: usize,
    low_water: Option<u32>,
) -> Result<End, String> {
    stream.set_nonblocking(true).map_err(text)?;
    if let Some(bytes) = low_water {
        option::set(&stream, &SocketOption::ReceiveLowWater(bytes)).map_err(text)?;
    }
    let (mut buffer, mut was_short) = (vec![0; len], true);
    Ok(repeating(move || {
        if was_short {
            wait_for(&stream, PollFlags::POLLIN).map_err(std::io::Error::other)?;
        }
        let received = stream.read(&mut buffer);
        was_short = !received.as_ref().is_ok_and(|n| *n == buffer.len());
        received
    }))
}

fn ring_receiver(stream: TcpStream, len: usize, how: Receiving) -> Result<End, String> {
    let mut ring = ReceiveRing::new(stream.into(), len as u32, how).map_err(text)?;
    Ok(Box::new(move || ring.receive().map(Moved::of).map_err(text)))
}

fn uring_sender(stream: TcpStream, len: usize) -> Result<End, String> {
    engine_sender(UringDriver::new().map_err(text)?, stream, len)
}

fn epoll_sender(stream: TcpStream, len: usize) -> Result<End, String> {
    engine_sender(EpollDriver::new().map_err(text)?, stream, len)
}

fn uring_receiver(stream: TcpStream, len: usize) -> Result<End, String> {
    engine_receiver(UringDriver::new().map_err(text)?, stream, len, false)
}

fn epoll_receiver(stream: TcpStream, len: usize) -> Result<End, String> {
    engine_receiver(EpollDriver::new().map_err(text)?, stream, len, false)
}

/// An end that calls again while it is interrupted, or would block.
fn repeating(mut receive: impl FnMut() -> std::io::Result<usize> + 'static) -> End {
    Box::new(move || {
        loop {
            match receive() {
                Ok(n) => return Ok(Moved::of(n as u64)),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(text(e)),
            }
        }
    })
}

/// Pushes an operation and runs turns until it has completed.
fn perform(
    driver: &mut impl Driver,
    op: &Op,
    done: &mut Vec<Completion>,
) -> Result<Outcome, String> {
    driver.push(Token(0), op.clone()).map_err(text)?;
    loop {
        let now = MonotonicClock.now();
        let wait = Wait::Until(now + Nanos::from_secs(1));
        driver.turn(now, wait, done).map_err(text)?;
        if let Some(completion) = done.pop() {
            return Ok(completion.outcome);
        }
    }
}

fn engine_sender(
    mut driver: impl Driver<Socket = OwnedFd> + 'static,
    stream: TcpStream,
    len: usize,
) -> Result<End, String> {
    let socket = driver.adopt(stream.into()).map_err(text)?;
    let buffer = driver.allocate(len).map_err(text)?;
    let data = Segment { buffer, start: 0, len: len as u32 };
    let op = Op::SendRepeated { socket, data, count: BURST };
    let mut done = Vec::new();
    Ok(Box::new(move || match perform(&mut driver, &op, &mut done)? {
        Outcome::SentRepeated { bytes, .. } => Ok(Moved::of(bytes)),
        other => Err(format!("{other:?}")),
    }))
}

fn engine_receiver(
    mut driver: impl Driver<Socket = OwnedFd> + 'static,
    stream: TcpStream,
    len: usize,
    discards: bool,
) -> Result<End, String> {
    let socket = driver.adopt(stream.into()).map_err(text)?;
    let buffer = driver.allocate(len).map_err(text)?;
    let len = len as u32;
    let receive = Op::Receive { socket, into: Segment { buffer, start: 0, len } };
    let op = if discards { Op::Discard { socket, len } } else { receive };
    let mut done = Vec::new();
    Ok(Box::new(move || match perform(&mut driver, &op, &mut done)? {
        Outcome::Received(bytes) => Ok(Moved::of(bytes.into())),
        other => Err(format!("{other:?}")),
    }))
}
