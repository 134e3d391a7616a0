//! No wait is without a bound: the first signal ends a run within a second, with what was measured,
//! whatever the server does and in whatever phase; and a server, whatever its clients do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use super::full_pipe;
use crate::netns::{Netns, ip};
use crate::util::{Job, Ran, Serve, backends, eventually, is_root, tare};

/// From the signal to the end of the process.
const BOUND: Duration = Duration::from_secs(1);
/// Cells of a table that run at once.
const AT_ONCE: usize = 4;
/// What sends payload, a reply or a figure, byte by byte, does so this often.
const DRIP: Duration = Duration::from_millis(100);
/// A flood pauses this often, so that it does not have the machine for itself.
const FLOOD_EVERY: Duration = Duration::from_micros(500);

/// The tests that a client can do: command and flags.
const TESTS: &[(&str, &str)] = &[
    ("lat", "--proto tcp"),
    ("lat", "--proto udp"),
    ("bw", "--proto tcp --direction up"),
    ("bw", "--proto tcp --direction down --rate 200M"),
    ("bw", "--proto udp --direction up --rate 50M"),
    ("bw", "--proto udp --direction down --rate 50M"),
    ("http", ""),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connect,
    Hello,
    WarmUp,
    Measure,
    Drain,
    Finish,
}

const PHASES: [Phase; 6] =
    [Phase::Connect, Phase::Hello, Phase::WarmUp, Phase::Measure, Phase::Drain, Phase::Finish];

/// What becomes of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It says nothing and takes nothing.
    Silent,
    /// What it says comes byte by byte, or datagram by datagram.
    Drips,
    /// It sends without end.
    Floods,
    /// The process is stopped.
    Stopped,
}

const FATES: [Fate; 4] = [Fate::Silent, Fate::Drips, Fate::Floods, Fate::Stopped];

/// A client, and what it meets.
#[derive(Debug, Clone, Copy)]
struct Cell {
    test: &'static str,
    flags: &'static str,
    backend: &'static str,
    phase: Phase,
    fate: Fate,
}

impl Cell {
    fn is_udp(&self) -> bool {
        self.flags.contains("udp")
    }

    /// Whether there is such a thing.
    fn exists(&self) -> bool {
        match self.phase {
            // Nobody is there to misbehave, and datagrams have no connection.
            Phase::Connect => self.fate == Fate::Silent && !self.is_udp(),
            // HTTP has no hello; its connections are just closed at the end.
            Phase::Hello | Phase::Finish => self.test != "http",
            // A stream has no reply under way.
            Phase::Drain => self.test != "bw",
            Phase::WarmUp | Phase::Measure => true,
        }
    }

    fn run(&self) {
        let server = BadServer::start(self.fate, self.phase, self.is_udp());
        let target = target(self.test, &server.address.to_string());
        let lengths = match self.phase {
            Phase::WarmUp => "-d 60s --warmup 60s",
            Phase::Drain | Phase::Finish => "-d 400ms --warmup 0",
            _ => "-d 60s --warmup 0",
        };
        let (flags, backend) = (self.flags, self.backend);
        let flags =
            format!("{lengths} --timeout 20s --wait block --backend {backend} --quiet {flags}");
        let job = Job::test(self.test, &target, &flags);
        listens(&job);
        server.turns();
        // So long that it has run into it.
        let millis = if self.phase == Phase::Drain { 500 } else { 150 };
        thread::sleep(Duration::from_millis(millis));
        let signal = [Signal::SIGINT, Signal::SIGTERM][usize::from(self.is_udp())];
        ends(job, signal, &format!("{self:?}"));
    }
}

/// What a test connects to.
fn target(test: &str, address: &str) -> String {
    if test == "http" { format!("http://{address}/") } else { address.to_owned() }
}

/// Each of these on each backend.
fn on_each_backend<T: Copy>(items: &[T]) -> Vec<(&'static str, T)> {
    backends().iter().flat_map(|backend| items.iter().map(move |item| (*backend, *item))).collect()
}

/// Sends a signal, and asserts that the process ends within a bound.
#[track_caller]
fn stopped_by(job: Job, signal: Signal, bound: Duration, what: &str) -> Ran {
    let begun = Instant::now();
    job.signal(signal);
    let ran = job.wait();
    let took = begun.elapsed();
    assert!(took < bound, "{what}: {took:?} after {signal}: {ran:#?}");
    ran
}

/// Asserts that a client ends in time: by this signal, or by itself before it, since what came was
/// no answer.
#[track_caller]
fn ends(mut job: Job, signal: Signal, what: &str) {
    let ran = if job.is_running() { stopped_by(job, signal, BOUND, what) } else { job.wait() };
    match ran.code {
        Some(130) => is_partial(&ran, what),
        // By what came it had all that was measured, or an error.
        Some(0) => {}
        Some(1) => assert!(!ran.stderr.is_empty(), "{what}: {ran:#?}"),
        _ => panic!("{what}: {ran:#?}"),
    }
}

/// Waits until signals are heard: before that there is nothing that could be lost.
fn listens(job: &Job) {
    let tasks = format!("/proc/{}/task", job.id());
    eventually("signals are heard", || {
        let tasks = std::fs::read_dir(&tasks).unwrap().flatten();
        let mut names =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.any(|name| name.trim() == "signals")
    });
}

/// There is a report, and it is marked partial.
#[track_caller]
fn is_partial(ran: &Ran, what: &str) {
    let report: serde_json::Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{what}: {e}: {ran:#?}"));
    assert_eq!(report["partial"], true, "{what}: {ran:#?}");
}

/// Goes through a table, several cells at once, and tells of all that failed.
fn each_of<C: Copy + Send + Sync + std::fmt::Debug>(cells: &[C], test: impl Fn(C) + Sync) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let test = std::panic::AssertUnwindSafe(|| test(*cell));
                    if std::panic::catch_unwind(test).is_err() {
                        failed.lock().unwrap().push(*cell);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), cells.len());
}

/// What a proxy and its test know of each other.
#[derive(Default)]
struct Signs {
    /// From now on the server is as its fate has it.
    has_turned: AtomicBool,
    /// A client is there.
    is_met: AtomicBool,
    /// The test is over, and so is everything else.
    is_over: AtomicBool,
}

/// A server, and before it what becomes of it.
struct BadServer {
    address: SocketAddr,
    serve: Option<Serve>,
    phase: Phase,
    fate: Fate,
    signs: Arc<Signs>,
    /// The backlog that lets nobody in.
    _crowd: Vec<TcpStream>,
}

impl Drop for BadServer {
    fn drop(&mut self) {
        self.signs.is_over.store(true, Ordering::Relaxed);
    }
}

impl BadServer {
    fn start(fate: Fate, phase: Phase, is_udp: bool) -> Self {
        let signs = Arc::<Signs>::default();
        if phase == Phase::Connect {
            let (address, _crowd) = full_backlog();
            return Self { address, serve: None, phase, fate, signs, _crowd };
        }
        let serve = Serve::start("");
        signs.has_turned.store(phase == Phase::Hello, Ordering::Relaxed);
        let proxy = Proxy {
            to: serve.address().parse().unwrap(),
            fate,
            turns_at_end: phase == Phase::Finish,
            signs: Arc::clone(&signs),
        };
        let address = if is_udp { proxy.datagrams() } else { proxy.streams() };
        if fate == Fate::Stopped && phase == Phase::Hello {
            serve.job.signal(Signal::SIGSTOP);
        }
        Self { address, serve: Some(serve), phase, fate, signs, _crowd: Vec::new() }
    }

    /// Waits until the client has come to the phase, and lets the server be what it is to be.
    fn turns(&self) {
        match self.phase {
            Phase::Connect => return,
            Phase::Finish => eventually("the client asks for the figures", || {
                self.signs.has_turned.load(Ordering::Relaxed)
            }),
            _ => {}
        }
        eventually("the client comes", || self.signs.is_met.load(Ordering::Relaxed));
        if self.phase == Phase::Hello {
            return;
        }
        if self.phase != Phase::Finish {
            thread::sleep(Duration::from_millis(150));
        }
        self.signs.has_turned.store(true, Ordering::Relaxed);
        if let (Some(serve), Fate::Stopped) = (&self.serve, self.fate) {
            serve.job.signal(Signal::SIGSTOP);
        }
    }
}

/// A listener whose queue is full: the kernel answers no further connect.
fn full_backlog() -> (SocketAddr, Vec<TcpStream>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let short = Duration::from_millis(100);
    let crowd = (0..8).map_while(|_| TcpStream::connect_timeout(&address, short).ok());
    let mut held: Vec<TcpStream> = crowd.collect();
    held.push(listener.into());
    (address, held)
}

/// Stands before a server, and passes on what both say until it turns.
#[derive(Clone)]
struct Proxy {
    to: SocketAddr,
    fate: Fate,
    /// It turns when the client ends.
    turns_at_end: bool,
    signs: Arc<Signs>,
}

impl Proxy {
    /// A stopped server is no business of the proxy's.
    fn is_honest(&self) -> bool {
        self.fate == Fate::Stopped || !self.signs.has_turned.load(Ordering::Relaxed)
    }

    /// The client has come, and perhaps to its end. Whether a server that is being stopped then is
    /// not to hear of that.
    fn meets(&self, at_end: bool) -> bool {
        self.signs.is_met.store(true, Ordering::Relaxed);
        let turns = self.turns_at_end && at_end;
        if turns {
            self.signs.has_turned.store(true, Ordering::Relaxed);
        }
        turns && self.fate == Fate::Stopped
    }

    fn streams(self) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, own) = (client.unwrap(), self.clone());
                let server = TcpStream::connect(own.to).unwrap();
                let (from, to, up) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap(), self.clone());
                thread::spawn(move || up.pass_up(from, &to));
                thread::spawn(move || own.pass_down(server, client));
            }
        });
        address
    }

    fn pass_up(&self, mut from: TcpStream, mut to: &TcpStream) {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let n = from.read(&mut bytes).unwrap_or(0);
            let stops = self.meets(n == 0);
            if n == 0 {
                if (self.is_honest() && !stops) || self.fate == Fate::Drips {
                    let _ = to.shutdown(Shutdown::Write);
                }
                return;
            }
            // What drips takes what it is sent, as it says what it has to say: slowly.
            if !self.is_honest() && self.fate == Fate::Silent {
                // Held, and never read again.
                return std::mem::forget(from);
            }
            if to.write_all(&bytes[..n]).is_err() {
                return;
            }
        }
    }

    fn pass_down(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = vec![0; 64 << 10];
        let tick = Duration::from_millis(10);
        from.set_read_timeout(Some(tick)).unwrap();
        loop {
            if !self.is_honest() {
                match self.fate {
                    Fate::Silent => return std::mem::forget((from, to)),
                    Fate::Floods => {
                        // A payload's bytes, which no frame begins with.
                        bytes.fill(0xc1);
                        while to.write_all(&bytes).is_ok() {
                            thread::sleep(FLOOD_EVERY);
                        }
                        return;
                    }
                    Fate::Drips => {
                        let mut one = [0];
                        match from.read(&mut one) {
                            Ok(0) => return std::mem::forget(to),
                            Ok(_) if to.write_all(&one).is_err() => return,
                            _ => thread::sleep(DRIP),
                        }
                        continue;
                    }
                    Fate::Stopped => {}
                }
            }
            match from.read(&mut bytes) {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(n) if to.write_all(&bytes[..n]).is_err() => return,
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn datagrams(self) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        server.connect(self.to).unwrap();
        let client = Arc::new(OnceLock::new());
        let (own, to) = (socket.try_clone().unwrap(), server.try_clone().unwrap());
        let (up, known) = (self.clone(), Arc::clone(&client));
        thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok((n, from)) = own.recv_from(&mut bytes) {
                known.get_or_init(|| from);
                let asks = bytes[..n.min(200)].windows(9).any(|part| part == b"\"figures\"");
                let stops = up.meets(asks);
                if (up.is_honest() && !stops) || matches!(up.fate, Fate::Drips | Fate::Floods) {
                    let _ = to.send(&bytes[..n]);
                }
                if up.signs.is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(n) = server.recv(&mut bytes) {
                let Some(to) = client.get() else { continue };
                let mut repeats = 1;
                if !self.is_honest() {
                    match self.fate {
                        Fate::Silent => continue,
                        Fate::Drips => thread::sleep(DRIP),
                        Fate::Floods => repeats = u32::MAX,
                        Fate::Stopped => {}
                    }
                }
                for count in 0..repeats {
                    if count % 64 == 63 {
                        thread::sleep(FLOOD_EVERY);
                    }
                    let _ = socket.send_to(&bytes[..n], to);
                    if self.signs.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        });
        address
    }
}

fn cells(wanted: impl Fn(&Cell) -> bool) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (backend, (test, flags)) in on_each_backend(TESTS) {
        for phase in PHASES {
            cells.extend(FATES.map(|fate| Cell { test, flags, backend, phase, fate }));
        }
    }
    cells.retain(|cell| cell.exists() && wanted(cell));
    cells
}

#[test]
fn the_first_signal_ends_a_client_in_every_phase_whatever_its_server_does() {
    let only = std::env::var("TARE_CELLS").unwrap_or_default();
    let cells = cells(|cell| format!("{cell:?}").contains(&only));
    each_of(&cells, |cell| cell.run());
}

#[test]
fn the_second_signal_ends_a_client_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let server = BadServer::start(Fate::Silent, Phase::Measure, false);
        let flags = "-d 60s --warmup 0 --timeout 20s --wait block --quiet";
        let job = Job::lat(&server.address.to_string(), flags);
        server.turns();
        job.signal(signal);
        // It awaits the reply that is under way.
        thread::sleep(Duration::from_millis(50));
        job.signal(signal);
        let ran = job.wait();
        assert_eq!((ran.signal, ran.code), (Some(signal as i32), None), "{ran:#?}");
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_name() {
    if !is_root("a name server of its own") {
        return;
    }
    let silent = Ipv4Addr::new(127, 0, 53, 2);
    let _server = UdpSocket::bind((silent, 53)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("resolv.conf");
    std::fs::write(&conf, format!("nameserver {silent}\n")).unwrap();
    for test in ["lat", "bw", "http"] {
        let mut command = std::process::Command::new("unshare");
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        command.args(["-m", "sh", "-c", script]).arg(&conf);
        command.arg(tare().get_program());
        command.args([test, &target(test, "silent.example")]);
        command.args(["--timeout", "20s", "--format", "json"]);
        if test == "http" {
            command.args(["--connect-timeout", "20s"]);
        }
        let job = Job::start(command);
        thread::sleep(Duration::from_millis(400));
        is_partial(&stopped_by(job, Signal::SIGINT, BOUND, test).exits(130), test);
    }
}

#[test]
fn the_first_signal_ends_a_server_whatever_its_clients_do() {
    let clients: Vec<_> =
        TESTS.iter().flat_map(|test| [false, true].map(|stopped| (*test, stopped))).collect();
    each_of(&on_each_backend(&clients), |client| {
        let (backend, ((test, flags), stopped)) = client;
        let serve = Serve::start(&format!("--backend {backend}"));
        // Connections that say nothing, and one that asks for much and reads nothing.
        let mut idle: Vec<TcpStream> =
            (0..3).map(|_| TcpStream::connect(serve.address()).unwrap()).collect();
        idle[0].write_all(b"GET /bytes/1073741824 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        idle[1].write_all(b"tare\x01\x01").unwrap();
        let flags = format!("-d 60s --warmup 0 --wait block --quiet {flags}");
        let job = Job::test(test, &target(test, serve.address()), &flags);
        thread::sleep(Duration::from_millis(500));
        if stopped {
            job.signal(Signal::SIGSTOP);
            thread::sleep(Duration::from_millis(100));
        }
        stopped_by(serve.job, Signal::SIGTERM, BOUND, &format!("{client:?}")).exits(0);
    });
}

#[test]
fn a_server_that_drips_does_not_prolong_a_measured_phase() {
    let cells =
        cells(|cell| cell.fate == Fate::Drips && cell.phase == Phase::Measure && cell.test == "bw");
    each_of(&cells, |cell| {
        let server = BadServer::start(Fate::Drips, Phase::Measure, cell.is_udp());
        let flags = format!(
            "-d 600ms --warmup 0 --timeout 700ms --wait block --backend {} {}",
            cell.backend, cell.flags
        );
        let job = Job::test("bw", &server.address.to_string(), &flags);
        server.turns();
        let ran = job.wait();
        // What there was on its way is taken for a while: twice what it takes at the rate of the
        // stream.
        assert!(ran.took < Duration::from_secs(8), "{cell:?}: {ran:#?}");
    });
}

#[test]
fn in_a_time_namespace_waits_are_as_long_as_outside() {
    if !is_root("a time namespace") {
        return;
    }
    let serve = Serve::start("");
    let address = serve.address().to_owned();
    let tests = [
        ("lat", "--wait block"),
        ("lat", "--rate 200 --wait hybrid"),
        ("lat", "--rate 200 --wait block"),
        ("http", "-R 200"),
        ("bw", "--rate 10M --size 10K"),
    ];
    let offsets = ["1000000", "-100"].into_iter().filter(|offset| can_be_behind(offset));
    let cells: Vec<_> = offsets.flat_map(|offset| tests.map(|test| (offset, test))).collect();
    let in_namespace = |offset: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["-T", "--fork", "--kill-child", "--monotonic", offset]);
        command.arg(tare().get_program());
        command
    };
    each_of(&on_each_backend(&cells), |(backend, (offset, (test, flags)))| {
        let mut command = in_namespace(offset);
        command.args([test, &target(test, &address), "-d", "400ms", "--warmup", "50ms"]);
        command.args(["--format", "json"]);
        command.args(["--backend", backend]).args(flags.split(' '));
        let report = Job::start(command).wait().exits(0).report();
        let result = &report["results"][0];
        let lasted = result["duration_ns"].as_u64().unwrap();
        assert!((300_000_000..2_000_000_000).contains(&lasted), "{result:#}");
        if test != "bw" {
            // How many of them the machine manages is its business.
            let operations = &result["operations"];
            let is_rate = flags.contains("200");
            assert!(!is_rate || operations["due"] == 80, "{result:#}");
            assert_ne!(operations["completed"], 0, "{result:#}");
        }
    });
    // A server in one, which a client outside measures.
    let mut command = in_namespace("1000000");
    command.args(Serve::words(""));
    let inside = Serve::started(command);
    inside.serves();
}

/// Whether the clock of this machine has been going for long enough to be set back by that.
fn can_be_behind(offset: &str) -> bool {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    offset.parse::<f64>().unwrap() + uptime > 10.0
}

#[test]
fn a_black_hole_is_named_within_the_timeout_and_a_signal_ends_it() {
    if !is_root("a network namespace") {
        return;
    }
    let netns = Netns::make();
    let serve = netns.serve();
    let address = serve.address().to_owned();
    // Else several segments cross the pair of devices as one packet.
    ip(&format!("link set {} gso_max_segs 1", netns.name)).exits(0);
    // Hellos have 500 bytes and some.
    netns.nft(
        "table inet t {\nchain i {\ntype filter hook input priority 0;\nmeta length > 700 drop\n}\n}\n",
    );
    let mut cells = on_each_backend(&["--zerocopy auto", "--zerocopy on", "--zerocopy off"]);
    // Epoll has no zero-copy sends.
    cells.retain(|cell| *cell != ("epoll", "--zerocopy on"));
    each_of(&cells, |(backend, flags)| {
        let flags = format!("-d 500ms --backend {backend} {flags}");
        let ran = Job::test("bw", &address, &flags).wait().exits(1);
        assert!(ran.took < Duration::from_secs(5), "{ran:#?}");
        ran.complains(&["MTU black hole?", "nothing above", "--mss 500"]);
        let job = Job::test("bw", &address, &format!("{flags} --timeout 20s"));
        listens(&job);
        thread::sleep(Duration::from_millis(300));
        ends(job, Signal::SIGTERM, &flags);
        // What the error says to type.
        let report = Job::test("bw", &address, &format!("{flags} --mss 500"));
        let report = report.wait().exits(0).report();
        assert_ne!(report["results"][0]["bandwidth"]["received_bytes"], 0);
    });
}

/// What was due and not sent is counted, not walked along: 1,000 million sends a second were due.
#[test]
fn a_rate_that_cannot_be_holds_up_no_other_session_and_no_stop() {
    let serve = Serve::start("");
    let flags = "--direction down --rate 8G --size 1 -d 1s";
    let jobs = [(); 2].map(|()| Job::test("bw", serve.address(), flags));
    for job in jobs {
        let ran = job.wait().exits(0);
        assert!(ran.took < Duration::from_secs(6), "{ran:#?}");
    }
    serve.serves();
    let begun = Instant::now();
    serve.stops();
    assert!(begun.elapsed() < BOUND);
}

/// What a comparison is about when the signal comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparing {
    /// A visit whose server says nothing any more.
    Visit,
    /// The rest between a command and its visit.
    Rest,
    /// The command before a visit.
    Before,
}

#[test]
fn the_first_signal_ends_a_comparison_in_a_visit_and_between_visits() {
    let abouts = [Comparing::Visit, Comparing::Rest, Comparing::Before];
    let signals = [Signal::SIGINT, Signal::SIGTERM];
    let cells = abouts.map(|about| signals.map(|signal| (about, signal))).concat();
    each_of(&on_each_backend(&cells), |(backend, (about, signal))| {
        let server = BadServer::start(Fate::Silent, Phase::Measure, false);
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("trace");
        let visits = || std::fs::read_to_string(&trace).unwrap_or_default().lines().count();
        // The first one is that of the trial.
        let shown = trace.display();
        let mut before = format!("b=echo visit >> {shown}");
        if about == Comparing::Before {
            before += &format!("; [ $(wc -l < {shown}) -lt 4 ] || sleep 600");
        }
        let arms = ["a", "b"].map(|arm| format!("{arm}={}", server.address));
        let settle = if about == Comparing::Rest { "30s" } else { "1ms" };
        let words = [
            &["compare", &arms[0], &arms[1], "--before", &before][..],
            &["--after", "b=true", "--settle", settle, "--quiet"],
            &["--blocks", "500", "--block-duration", "50ms"],
            &["--format", "json", "--", "lat", "--backend", backend],
            &["--warmup", "1ms", "--timeout", "20s", "--wait", "block"],
        ];
        let job = Job::tare(&words.concat());
        let least = if about == Comparing::Rest { 1 } else { 4 };
        eventually("visits", || visits() >= least);
        if about == Comparing::Visit {
            server.turns();
        }
        thread::sleep(Duration::from_millis(150));
        let what = format!("{backend} {about:?}");
        let ran = stopped_by(job, signal, BOUND, &what).exits(130);
        if about != Comparing::Rest {
            is_partial(&ran, &what);
        }
    });
}

/// A command that undoes a change has its time, and whoever waits for it knows what for.
#[test]
fn a_signal_does_not_cut_short_what_undoes_a_change() {
    let serve = Serve::start("");
    let arms = ["a", "b"].map(|arm| format!("{arm}={}", serve.address()));
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let text = || std::fs::read_to_string(&trace).unwrap_or_default();
    let shown = trace.display();
    let after = format!(
        "b=echo leaves >> {shown}; [ $(wc -l < {shown}) -lt 7 ] || sleep 1.5; echo left >> {shown}"
    );
    let words = [
        &["compare", &arms[0], &arms[1], "--after", &after, "--settle", "1ms"][..],
        &["--blocks", "500", "--block-duration", "50ms", "--format", "json"],
        &["--", "lat", "--warmup", "1ms", "--wait", "block"],
    ];
    let job = Job::tare(&words.concat());
    eventually("a slow end of a visit", || {
        text().lines().count() >= 7 && text().ends_with("leaves\n")
    });
    let bound = Duration::from_millis(1_500) + BOUND;
    let ran = stopped_by(job, Signal::SIGINT, bound, "a slow --after").exits(130);
    assert!(text().ends_with("leaves\nleft\n"), "{}", text());
    let ran = ran.complains(&["waiting for --after b='echo …'", "for at most 300 s"]);
    is_partial(&ran, "the end of a visit");
}

#[test]
fn a_signal_ends_the_doctor() {
    let (crowded, _crowd) = full_backlog();
    // Not SIGINT: it handles no signal, and a shell has what it runs in the background ignore that
    // one.
    for after in [0, 20, 100] {
        let job = Job::tare(&["doctor", &crowded.to_string()]);
        thread::sleep(Duration::from_millis(after));
        stopped_by(job, Signal::SIGTERM, BOUND, "the doctor");
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_reader_that_does_not_read() {
    let serve = Serve::start("");
    let cells = [
        ("json", "-n 200", false),
        ("json", "-n 200", true),
        ("text", "-n 200", true),
        ("jsonl", "-d 60s --interval 100ms", false),
        ("jsonl", "-d 60s --interval 100ms", true),
    ];
    let address = serve.address().to_owned();
    each_of(&cells, |(format, length, is_stderr_full)| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.json");
        let flags = format!("--warmup 0 --wait block --format {format} {length}");
        let mut command = tare();
        command.args(["lat", &address, "-o"]).arg(&file);
        command.args(flags.split(' '));
        let (_reader, stdout) = full_pipe();
        let (_other, stderr) = full_pipe();
        let job = if is_stderr_full {
            Job::start_between(command, stdout, stderr)
        } else {
            Job::start_into(command, stdout)
        };
        listens(&job);
        if length.starts_with("-n") && !is_stderr_full {
            // The file of a step is written when that is over, and stdout after it.
            eventually("the run ends", || file.exists());
        } else if !length.starts_with("-n") {
            job.is_measuring();
        }
        thread::sleep(Duration::from_millis(250));
        let what = format!("{format}, a full stderr: {is_stderr_full}");
        let ran = stopped_by(job, Signal::SIGINT, BOUND, &what).exits(130);
        if !is_stderr_full {
            ran.complains(&["stdout cannot be written", "bytes were not written"]);
        }
        // What has another place is there.
        let text = std::fs::read_to_string(&file).unwrap();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_ne!(report["results"][0]["operations"]["completed"], 0);
    });
}

/// Bytes have no clock: a server that sends one now and again would prolong the run for ever.
#[test]
fn a_server_that_drips_does_not_prolong_a_transfer_by_bytes() {
    each_of(backends(), |backend| {
        let server = BadServer::start(Fate::Drips, Phase::Measure, false);
        let flags = format!(
            "--bytes 100G --timeout 400ms --wait block --backend {backend} --direction down"
        );
        let job = Job::test("bw", &server.address.to_string(), &flags);
        thread::sleep(Duration::from_millis(200));
        server.turns();
        let begun = Instant::now();
        let ran = job.wait().exits(1);
        // Two stretches of five timeouts, and the end.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}: {ran:#?}");
        is_partial(&ran, backend);
    });
}

/// What was due and never sent is recorded when the run is over, and there may be hundreds of
/// millions of it.
#[test]
fn a_signal_ends_a_rate_that_cannot_be() {
    let serve = Serve::start("");
    let url = format!("http://{}/", serve.address());
    for (backend, arrivals) in on_each_backend(&["constant", "poisson"]) {
        let flags = format!(
            "-R 20M -c 4 -d 60s --warmup 0 --wait block --quiet --backend {backend} --arrivals \
             {arrivals}"
        );
        let job = Job::test("http", &url, &flags);
        listens(&job);
        thread::sleep(Duration::from_secs(3));
        ends(job, Signal::SIGINT, &flags);
    }
}
