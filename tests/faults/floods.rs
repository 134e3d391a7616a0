//! What a server must bear: garbage, connections that say nothing, and datagrams from whoever
//! claims to send them.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::Way;
use crate::util::{Job, Serve, figure, lat};

/// A fetch of a session that is not there.
const FETCH: &[u8] =
    b"tare\x01\x08\0\x4c{\"session\":\"0000000000000001\",\"document\":\"environment\",\"offset\":0}";

/// Numbers that look random, and are the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

#[test]
fn garbage_does_not_hurt_the_server() {
    let serve = Serve::start("");
    let mut noise = Noise(0x7a7e);
    for round in 0..300 {
        let len = (noise.next() % 3000) as usize;
        let mut bytes = noise.bytes(len);
        // A third begins like a frame of ours, a third like a hello.
        let head: &[u8] = match round % 3 {
            0 => b"",
            1 => b"tare",
            _ => b"tare\x01\x01\x01\x00{\"run_id\":",
        };
        bytes.splice(0..0, head.iter().copied());
        let mut stream = TcpStream::connect(serve.address()).unwrap();
        // It may have hung up by now.
        let _ = stream.write_all(&bytes);
    }
    serve.serves();
    let log = serve.stops();
    assert!(log.contains("127.0.0.1:"), "who sent garbage is logged: {log}");
    assert!(log.is_ascii(), "and what they sent cannot spoil a terminal: {log:?}");
}

/// What the process holds in memory, bytes.
fn memory_of(serve: &Serve) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", serve.job.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = resident.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

/// This process needs as many descriptors as the connections it makes.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
}

#[test]
fn silent_and_dripping_connections_are_closed_and_keep_nobody_out() {
    raise_descriptors();
    // An HTTP client may be silent for that long, as between two requests.
    let serve = Serve::start("--idle-timeout 8s");
    let silent: Vec<TcpStream> =
        (0..2000).map(|_| TcpStream::connect(serve.address()).unwrap()).collect();
    serve.serves();
    let mut drip = TcpStream::connect(serve.address()).unwrap();
    let begun = Instant::now();
    drip.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // A hello of 65,535 bytes that would take hours.
    let hello = b"tare\x01\x01\xff\xff".iter().chain(std::iter::repeat(&b' '));
    for byte in hello {
        assert!(begun.elapsed() < Duration::from_secs(15), "it may drip for ever");
        let sent = drip.write_all(&[*byte]);
        match drip.read(&mut [0; 64]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) && sent.is_ok() => {}
            _ => break,
        }
    }
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let read = stream.read(&mut [0; 1]);
        assert!(!matches!(&read, Ok(1)), "{read:?}");
        assert!(!read.is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "it stays open");
    }
    serve.serves();
    serve.stops();
}

/// A connection from an address of loopback: each has ports of its own.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

#[test]
fn ten_thousand_connections_that_never_say_hello_keep_nobody_out() {
    const MEMORY: u64 = 64 << 20;
    raise_descriptors();
    let serve = Serve::start("");
    serve.serves();
    let before = memory_of(&serve);
    let to: SocketAddr = serve.address().parse().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let silent: Vec<_> = (0..10_000_u16)
                .map(|n| connect_from(Ipv4Addr::new(127, 0, 1, (n % 100) as u8 + 1), to))
                .collect();
            over.store(true, Ordering::Relaxed);
            silent
        });
        // Whoever comes meanwhile is served, whether or not the crowd is there.
        while !over.load(Ordering::Relaxed) {
            lat(serve.address(), "-n 20 --wait block").exits(0);
        }
        let silent = flood.join().unwrap();
        assert_eq!(silent.len(), 10_000);
        serve.serves();
        let held = memory_of(&serve).saturating_sub(before);
        assert!(held < MEMORY, "it holds {held} bytes more");
    });
    serve.serves();
    let log = serve.stops();
    assert!(log.lines().count() <= 10_000, "{}", log.lines().count());
}

/// What a client says first, without a cookie.
fn first_datagram() -> Vec<u8> {
    let ear = UdpSocket::bind("127.0.0.1:0").unwrap();
    ear.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let address = ear.local_addr().unwrap().to_string();
    let _client = Job::lat(&address, "-n 1 --udp --timeout 200ms");
    let mut hello = vec![0; 2048];
    let n = ear.recv(&mut hello).unwrap();
    hello.truncate(n);
    hello
}

#[test]
fn random_datagrams_are_not_amplified() {
    let serve = Serve::start("");
    let hello = first_datagram();

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(serve.address()).unwrap();
    let mut noise = Noise(0x4dd1);
    let mut answered = 0;
    for round in 0..400 {
        let mut datagram = match round % 8 {
            0 | 1 => hello.clone(),
            // A request of a session that is not there, a reply, a fetch.
            2 => b"\xd1\x01\0\0\0\0\0\x01sessions".to_vec(),
            3 => b"\xd2\x01\0\0\0\0\0\x01sessions".to_vec(),
            4 => FETCH.to_vec(),
            _ => Vec::new(),
        };
        if round % 8 >= 4 {
            let len = (noise.next() % 1500) as usize;
            datagram.extend(noise.bytes(len));
        }
        if round % 8 == 1 {
            let at = (noise.next() as usize) % datagram.len();
            datagram[at] ^= 1 << (noise.next() % 8);
        }
        socket.send(&datagram).unwrap();
        // Whoever answers does so at once; a lone hello shows that all before it were heard.
        socket
            .set_read_timeout(Some(Duration::from_millis(if round % 8 == 0 { 5000 } else { 2 })))
            .unwrap();
        let mut answer = [0; 65_536];
        let mut back = 0;
        while let Ok(n) = socket.recv(&mut answer) {
            back += n;
            answered += 1;
            if round % 8 == 0 {
                break;
            }
        }
        assert!(back <= datagram.len(), "{back} bytes for {}: {datagram:x?}", datagram.len());
    }
    assert!(answered >= 50, "each lone hello has its answer: {answered}");
    serve.serves();
    serve.stops();
}

/// What comes from addresses that nobody verified, in every shape that a server answers at all.
fn unverified(hello: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut datagram = hello.to_vec();
    match noise.next() % 7 {
        0 => {}
        // A cookie and a proof, both wrong; or a hello that is none.
        1 => {
            let at = datagram.len() - 64;
            datagram.splice(at.., noise.bytes(64));
        }
        2 => datagram[8..40].fill(b'x'),
        // The least that a hello of another version can be.
        3 => datagram = b"tare\x09\x01\0\x02{}".to_vec(),
        // A request and a fetch of sessions that are not there.
        4 => {
            datagram = b"\xd1\x01\0\0\0\0\0\x01".to_vec();
            datagram.extend(noise.bytes(8));
        }
        // Payload and signals of streams that are not there.
        5 => {
            let kind = 0xd3 + (noise.next() % 2) as u8;
            let length = 16 + (noise.next() % 1400) as usize;
            datagram = noise.bytes(length);
            datagram[0] = kind;
        }
        _ => {
            datagram.fill(0);
            datagram[..FETCH.len()].copy_from_slice(FETCH);
        }
    }
    datagram
}

#[test]
fn a_flood_of_datagrams_from_unverified_addresses_is_not_amplified() {
    const SOURCES: usize = 64;
    let serve = Serve::start("");
    serve.serves();
    let before = memory_of(&serve);
    let hello = first_datagram();
    let mut noise = Noise(0xf100d);
    let sources: Vec<UdpSocket> = (0..SOURCES)
        .map(|n| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 2, n as u8 + 1), 0)).unwrap();
            socket.connect(serve.address()).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let mut came = [0; SOURCES];
    let mut went = [0; SOURCES];
    let mut answer = [0; 65_536];
    let mut hear = |came: &mut [usize; SOURCES]| {
        for (source, came) in sources.iter().zip(came) {
            while let Ok(n) = source.recv(&mut answer) {
                *came += n;
            }
        }
    };
    // As fast as it goes, with a client in between.
    let way = Way { test: "lat", proto: "udp", flags: "--udp".to_owned(), own: "" };
    let client = way.measuring(&serve, "--timeout 5s");
    for _ in 0..200 {
        for (source, went) in sources.iter().zip(&mut went) {
            let datagram = unverified(&hello, &mut noise);
            // A full queue is the sender's loss.
            if source.send(&datagram).is_ok() {
                *went += datagram.len();
            }
        }
        hear(&mut came);
    }
    client.signal(nix::sys::signal::Signal::SIGINT);
    let report = client.wait().exits(130).report();
    let operations = &report["results"][0]["operations"];
    assert_eq!(figure(operations, "/failed") + figure(operations, "/timed_out"), 0);
    // All that was heard before this was answered before this.
    serve.serves();
    hear(&mut came);
    let total: (usize, usize) = (came.iter().sum(), went.iter().sum());
    assert!(total.0 > 0, "it answers at least some");
    for (came, went) in came.iter().zip(&went) {
        assert!(came <= went, "{came} bytes for {went}");
    }
    let held = memory_of(&serve).saturating_sub(before);
    assert!(held < 16 << 20, "it holds {held} bytes more");
    let log = serve.stops();
    assert!(log.lines().count() < 100, "{}", log.lines().count());
}
