//! The two ends of a bulk transfer over loopback TCP, in every way that was tried, and what each of
//! them took.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use tare_driver::clock::{Clock, MonotonicClock};
use tare_driver::epoll::EpollDriver;
use tare_driver::sys::benches::{ReceiveRing, Receiving, SendRing, Sending};
use tare_driver::sys::{option, socket};
use tare_driver::uring::UringDriver;
use tare_driver::{Backend, Completion, Driver, Op, Outcome, Segment, SocketOption, Token, Wait};
use tare_units::Nanos;

use crate::bare::{Cpus, Pinned};

/// So many sends between two readings of the clock, whichever way they go.
const BURST: u32 = 64;

/// How one end sends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sender {
    /// A loop of blocking `send`.
    Blocking,
    /// A loop of non-blocking `send`, and `poll` where there is no room.
    NonBlocking,
    /// A ring, so many sends per system call.
    Ring(Sending, u16),
    /// The engine's repeated sends.
    Engine(Backend),
}

/// How the other end receives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Receiver {
    /// A loop of blocking `recv`.
    Blocking,
    /// A loop of blocking `recv` with `MSG_TRUNC`.
    Discarding,
    /// A loop of non-blocking `recv`, and `poll` after one that was not filled; bytes of
    /// `SO_RCVLOWAT`.
    Readiness(Option<u32>),
    /// Non-blocking `recv`, tried again at once.
    Spinning,
    /// A ring.
    Ring(Receiving),
    /// The engine's receives, or its discards.
    Engine(Backend, bool),
}

/// One transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    pub(crate) size_bytes: u32,
    pub(crate) receive_bytes: u32,
    pub(crate) warmup: Duration,
    pub(crate) measure: Duration,
    /// The sender is the client.
    pub(crate) cpus: Cpus,
}

/// What came of a transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transferred {
    pub(crate) gbit_per_s: f64,
    /// CPU time of both ends.
    pub(crate) cpu_s_per_gib: f64,
    /// Of the zero-copy sends, those that the kernel copied all the same.
    pub(crate) copied_share: Option<f64>,
}

/// What one call of an end moved; zero bytes are the end of the stream.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    bytes: u64,
    released: u64,
    copied: u64,
}

impl Moved {
    const fn of(bytes: u64) -> Self {
        Self { bytes, released: 0, copied: 0 }
    }
}

/// An end, set up: moves something each time that it is called.
type End = Box<dyn FnMut() -> Result<Moved, String>>;

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
        let more = end()?;
        moved.bytes += more.bytes;
        moved.released += more.released;
        moved.copied += more.copied;
        let elapsed = began.elapsed();
        if elapsed >= config.measure {
            let cpu = cpu_time() - cpu;
            return Ok(Share { elapsed, cpu, moved });
        }
    }
}

/// Transfers for the time that the configuration asks.
///
/// # Errors
/// What this kernel cannot do.
pub(crate) fn transfer(
    sender: Sender,
    receiver: Receiver,
    config: &Config,
) -> Result<Transferred, String> {
    let failed = |error: std::io::Error| error.to_string();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let sending = TcpStream::connect(listener.local_addr().map_err(failed)?).map_err(failed)?;
    let (receiving, _) = listener.accept().map_err(failed)?;
    let config = *config;
    // Both ends stand before the first byte goes, and an end that could not be set up ends the
    // other.
    let (ready, is_ready) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let is_over = Arc::new(AtomicBool::new(false));
    let receiver_is_over = Arc::clone(&is_over);
    let thread = thread::spawn(move || {
        let _pinned = Pinned::to(config.cpus.client);
        let hang_up = sending.try_clone().map_err(|e| e.to_string())?;
        let end = sender_end(sender, sending, &config);
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
    let end = receiver_end(receiver, receiving, &config);
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

#[expect(clippy::cast_precision_loss, reason = "bytes are far below 2^52")]
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

fn sender_end(sender: Sender, mut stream: TcpStream, config: &Config) -> Result<End, String> {
    let size = config.size_bytes;
    let message = vec![0x5a; size as usize];
    Ok(match sender {
        Sender::Blocking | Sender::NonBlocking => {
            let waits = matches!(sender, Sender::Blocking);
            stream.set_nonblocking(!waits).map_err(text)?;
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
        Sender::Ring(sending, batch) => {
            let mut ring = SendRing::new(stream.into(), size, sending, batch).map_err(text)?;
            let batches = BURST.div_ceil(batch.into());
            Box::new(move || {
                let mut moved = Moved::default();
                for _ in 0..batches {
                    let sent = ring.send_batch().map_err(text)?;
                    moved.bytes += sent.bytes;
                    moved.released += sent.released;
                    moved.copied += sent.copied;
                }
                Ok(moved)
            })
        }
        Sender::Engine(Backend::Uring) => {
            engine_sender(UringDriver::new().map_err(text)?, stream, size)?
        }
        Sender::Engine(_) => engine_sender(EpollDriver::new().map_err(text)?, stream, size)?,
    })
}

fn receiver_end(receiver: Receiver, mut stream: TcpStream, config: &Config) -> Result<End, String> {
    let len = config.receive_bytes;
    let mut buffer = vec![0; len as usize];
    Ok(match receiver {
        Receiver::Blocking => Box::new(move || {
            loop {
                match stream.read(&mut buffer) {
                    Ok(n) => return Ok(Moved::of(n as u64)),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(text(e)),
                }
            }
        }),
        Receiver::Discarding => Box::new(move || {
            loop {
                match socket::discard(stream.as_fd(), len) {
                    Ok(n) => return Ok(Moved::of(n as u64)),
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(text(errno)),
                }
            }
        }),
        Receiver::Readiness(low_water) => {
            stream.set_nonblocking(true).map_err(text)?;
            if let Some(bytes) = low_water {
                let low_water = SocketOption::ReceiveLowWater(bytes);
                option::set(stream.as_fd(), &low_water).map_err(text)?;
            }
            let mut was_short = true;
            Box::new(move || {
                loop {
                    if was_short {
                        wait_for(&stream, PollFlags::POLLIN)?;
                    }
                    match stream.read(&mut buffer) {
                        Ok(n) => {
                            was_short = n < buffer.len();
                            return Ok(Moved::of(n as u64));
                        }
                        Err(e) if e.kind() == ErrorKind::WouldBlock => was_short = true,
                        Err(e) if e.kind() == ErrorKind::Interrupted => {}
                        Err(e) => return Err(text(e)),
                    }
                }
            })
        }
        Receiver::Spinning => {
            stream.set_nonblocking(true).map_err(text)?;
            Box::new(move || {
                loop {
                    match stream.read(&mut buffer) {
                        Ok(n) => return Ok(Moved::of(n as u64)),
                        Err(e)
                            if matches!(
                                e.kind(),
                                ErrorKind::WouldBlock | ErrorKind::Interrupted
                            ) => {}
                        Err(e) => return Err(text(e)),
                    }
                }
            })
        }
        Receiver::Ring(receiving) => {
            let mut ring = ReceiveRing::new(stream.into(), len, receiving).map_err(text)?;
            Box::new(move || ring.receive().map(Moved::of).map_err(text))
        }
        Receiver::Engine(Backend::Uring, discards) => {
            engine_receiver(UringDriver::new().map_err(text)?, stream, len, discards)?
        }
        Receiver::Engine(_, discards) => {
            engine_receiver(EpollDriver::new().map_err(text)?, stream, len, discards)?
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
    size: u32,
) -> Result<End, String> {
    let socket = driver.adopt(stream.into()).map_err(text)?;
    let buffer = driver.allocate(size as usize).map_err(text)?;
    let op =
        Op::SendRepeated { socket, data: Segment { buffer, start: 0, len: size }, count: BURST };
    let mut done = Vec::new();
    Ok(Box::new(move || match perform(&mut driver, &op, &mut done)? {
        Outcome::SentRepeated { bytes, .. } => Ok(Moved::of(bytes)),
        other => Err(format!("{other:?}")),
    }))
}

fn engine_receiver(
    mut driver: impl Driver<Socket = OwnedFd> + 'static,
    stream: TcpStream,
    len: u32,
    discards: bool,
) -> Result<End, String> {
    let socket = driver.adopt(stream.into()).map_err(text)?;
    let op = if discards {
        Op::Discard { socket, len }
    } else {
        let buffer = driver.allocate(len as usize).map_err(text)?;
        let into = Segment { buffer, start: 0, len };
        Op::Receive { socket, into }
    };
    let mut done = Vec::new();
    Ok(Box::new(move || match perform(&mut driver, &op, &mut done)? {
        Outcome::Received(bytes) => Ok(Moved::of(bytes.into())),
        other => Err(format!("{other:?}")),
    }))
}
