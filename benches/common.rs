//! What the benches share: pinning, the blocks of interleaved contestants with their statistics, and
//! the bare ping-pong: what `send` and `recv` in a loop cost on this machine, with nothing around
//! them. It is what the engine is held against, so it must stay the least that anyone could write.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tare_driver::sys::affinity::allowed_cpus;

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

/// A ping-pong that is never answered is a defect of the bench, not a long measurement.
const STUCK: Duration = Duration::from_secs(10);

/// How both ends wait for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Non-blocking sockets, tried again at once.
    Spin,
    /// Blocking sockets.
    Block,
}

/// One ping-pong, or one transfer, whose client sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    /// Of a message, both ways; of a send.
    pub(crate) size_bytes: usize,
    /// Runs before the measurement and is thrown away.
    pub(crate) warmup: Duration,
    pub(crate) measure: Duration,
    pub(crate) cpus: Cpus,
}

/// The CPUs of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpus {
    pub(crate) client: usize,
    pub(crate) server: usize,
}

impl Cpus {
    /// Those of a bench's `--cpus`, or the first two; prints why there are none.
    pub(crate) fn asked(bench: &str, asked: &[usize]) -> Result<Self, ExitCode> {
        match *asked {
            [client, server] if client != server => Ok(Self { client, server }),
            [] => Self::allowed().ok_or_else(|| {
                eprintln!("{bench}: needs two CPUs, and this process may use one only");
                ExitCode::FAILURE
            }),
            _ => {
                eprintln!("{bench}: --cpus takes two different CPUs, for example --cpus 0,1");
                Err(ExitCode::from(2))
            }
        }
    }

    /// The first two CPUs that this process may use. `None` where there is only one: two ends that
    /// spin on it would measure the scheduler's time slice.
    pub(crate) fn allowed() -> Option<Self> {
        match allowed_cpus()[..] {
            [client, server, ..] => Some(Self { client: client as usize, server: server as usize }),
            _ => None,
        }
    }
}

/// Pins the calling thread to one CPU until it is dropped.
#[derive(Debug)]
pub(crate) struct Pinned(CpuSet);

impl Pinned {
    pub(crate) fn to(cpu: usize) -> Self {
        let before = sched_getaffinity(THIS).expect("a thread may ask for its own affinity");
        let mut one = CpuSet::new();
        one.set(cpu).expect("CPU numbers fit a CPU set");
        sched_setaffinity(THIS, &one).unwrap_or_else(|e| panic!("cannot run on CPU {cpu}: {e}"));
        Self(before)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was allowed before; should it not be so any more, the thread stays where it is.
        let _ = sched_setaffinity(THIS, &self.0);
    }
}

/// Has every contestant play once in each block, in reversed order in every other one: what came of
/// each, block by block.
pub(crate) fn interleave<T, E>(
    contestants: usize,
    blocks: u32,
    mut play: impl FnMut(usize) -> Result<T, E>,
) -> Result<Vec<Vec<T>>, E> {
    let mut played: Vec<Vec<T>> = (0..contestants).map(|_| Vec::new()).collect();
    for block in 0..blocks {
        for place in 0..contestants {
            let index = if block % 2 == 1 { contestants - 1 - place } else { place };
            played[index].push(play(index)?);
        }
    }
    Ok(played)
}

/// Sorts, and gives the median.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    tare_stats::compare::blocks::median(values).expect("times are finite")
}

/// The exact order-statistic interval of the median at 95 % or more, and its coverage: the count of
/// values below the true median is binomial with p = 1/2, whatever the distribution (David and
/// Nagaraja, *Order Statistics*, section 7.1). `sorted` must be sorted. None below six values,
/// which cannot reach 95 %.
pub(crate) fn median_interval(sorted: &[f64]) -> Option<(f64, f64, f64)> {
    let n = sorted.len();
    // The probability that at most `rank` values are below the median, grown term by term.
    let mut term = 0.5f64.powi(i32::try_from(n).ok()?);
    let mut below = term;
    let mut best = None;
    for rank in 0..n / 2 {
        let coverage = 1.0 - 2.0 * below;
        if coverage < 0.95 {
            break;
        }
        best = Some((sorted[rank], sorted[n - 1 - rank], coverage));
        let ratio = (n - rank) as f64 / (rank + 1) as f64;
        term *= ratio;
        below += term;
    }
    best
}

/// The two ends of a ping-pong over loopback, the answering one on a thread and a CPU of its own.
#[derive(Debug)]
pub(crate) struct PingPong {
    stream: TcpStream,
    message: Vec<u8>,
    wait: Wait,
    server: Option<JoinHandle<()>>,
}

impl PingPong {
    /// Connects the two ends. The caller pins its own thread.
    pub(crate) fn new(wait: Wait, size_bytes: usize, server_cpu: usize) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let server = thread::spawn(move || {
            let _pinned = Pinned::to(server_cpu);
            let (stream, _) = listener.accept().expect("the client connects");
            let mut stream = prepare(stream, wait);
            let mut message = vec![0; size_bytes];
            while receive(&mut stream, &mut message, wait) {
                send(&mut stream, &message, wait);
            }
        });
        let stream = prepare(TcpStream::connect(address).expect("the server listens"), wait);
        Self { stream, message: vec![0x5a; size_bytes], wait, server: Some(server) }
    }

    #[inline]
    pub(crate) fn round_trip(&mut self) {
        send(&mut self.stream, &self.message, self.wait);
        let answered = receive(&mut self.stream, &mut self.message, self.wait);
        assert!(answered, "the answering end has closed");
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        // The answering thread ends with the stream.
        let _ = self.stream.shutdown(Shutdown::Write);
        if let Some(server) = self.server.take() {
            let ended = server.join();
            assert!(ended.is_ok() || thread::panicking(), "the answering end has failed");
        }
    }
}

fn prepare(stream: TcpStream, wait: Wait) -> TcpStream {
    stream.set_nodelay(true).expect("TCP has TCP_NODELAY");
    match wait {
        Wait::Spin => stream.set_nonblocking(true),
        Wait::Block => stream.set_read_timeout(Some(STUCK)),
    }
    .expect("a connected socket takes these options");
    stream
}

/// Calls until something was moved. An io_uring that is being dismantled interrupts what its thread
/// waits for.
#[inline]
fn moved(wait: Wait, mut call: impl FnMut() -> std::io::Result<usize>) -> usize {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock && wait == Wait::Spin => {}
            result => return result.expect("the connection holds"),
        }
    }
}

/// Sends all of `message`.
#[inline]
fn send(stream: &mut TcpStream, message: &[u8], wait: Wait) {
    let mut sent = 0;
    while sent < message.len() {
        sent += moved(wait, || stream.write(&message[sent..]));
    }
}

/// Receives all of `message`; false where the peer has closed before.
#[inline]
fn receive(stream: &mut TcpStream, message: &mut [u8], wait: Wait) -> bool {
    let mut received = 0;
    while received < message.len() {
        match moved(wait, || stream.read(&mut message[received..])) {
            0 => return false,
            bytes => received += bytes,
        }
    }
    true
}

/// The round-trip times of one ping-pong, nanoseconds: from right before the send to right after
/// the receive that completes the answer, as the engine stamps them.
pub(crate) fn round_trips_ns(wait: Wait, config: &Config) -> Vec<u64> {
    let _pinned = Pinned::to(config.cpus.client);
    let mut ping_pong = PingPong::new(wait, config.size_bytes, config.cpus.server);
    let warm = Instant::now() + config.warmup;
    while Instant::now() < warm {
        ping_pong.round_trip();
    }
    // As much as the fastest loopback could fill, so that nothing is allocated while measuring.
    let capacity = usize::try_from(config.measure.as_micros() / 2).unwrap_or(usize::MAX);
    let mut times_ns = Vec::with_capacity(capacity.max(1));
    let begin = Instant::now();
    let mut received = begin;
    while received.duration_since(begin) < config.measure && times_ns.len() < times_ns.capacity() {
        let sent = Instant::now();
        ping_pong.round_trip();
        received = Instant::now();
        let time = received.duration_since(sent).as_nanos();
        times_ns.push(u64::try_from(time).unwrap_or(u64::MAX));
    }
    times_ns
}
