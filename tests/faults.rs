//! What goes wrong on a network and on a machine: each ends in time, in a line that says whose fault it is,
//! with nothing lost of what was measured; and the server outlives all of it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::util::{
    Job, Ran, Serve, backends, eventually, figure, lat, lat_words, report, run, tare, text,
    warnings,
};

/// A report that was cut short, with something measured in it.
#[track_caller]
fn partial(ran: &Ran) -> Value {
    let report = ran.report();
    assert_eq!(report["partial"], true, "{ran:#?}");
    assert_eq!(report["results"][0]["partial"], true);
    assert!(figure(&report, "/results/0/operations/completed") > 100);
    report
}

/// A client that pings for longer than any test, and has begun to.
fn measuring(serve: &Serve, flags: &str) -> Job {
    let flags = format!("-d 60s --warmup 0 --wait block {flags}");
    let client = Job::lat(serve.address(), &flags);
    client.is_measuring();
    client
}

fn for_each_way(mut test: impl FnMut(&str, &str)) {
    for backend in backends() {
        for proto in ["tcp", "udp"] {
            test(proto, &format!("--proto {proto} --backend {backend}"));
        }
    }
}

/// A server of one connection that a test makes up.
fn stranger(answer: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        answer(stream);
    });
    address
}

/// Reads whatever comes until the other end has closed.
fn drain(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    while matches!(stream.read(&mut bytes), Ok(1..)) {}
}

#[test]
fn nobody_listens() {
    // Bound and not listening: the port is nobody else's meanwhile.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket
        .local_addr()
        .unwrap()
        .as_socket()
        .unwrap()
        .to_string();
    for backend in backends() {
        let ran = lat(&address, &format!("-d 5s --backend {backend}")).exits(1);
        let start = format!("start `tare serve --listen {address}` there");
        let ran = ran.complains(&[&format!("{address} refuses connections"), &start]);
        let report = ran.report();
        assert_eq!(report["partial"], true);
        let errors = &report["results"][0]["errors"];
        assert_eq!(errors[0]["phase"], "connect");
        assert_eq!(errors[0]["cause"], "ECONNREFUSED");
        let ran = lat(&address, &format!("-d 5s --udp --backend {backend}")).exits(1);
        ran.complains(&[&format!("nothing listens on UDP {address}"), &start]);
    }
}

#[test]
fn a_host_that_nobody_knows() {
    let ran = lat("nowhere.invalid", "-n 5").exits(1);
    assert_eq!(ran.stdout, "", "there was nothing to measure");
    ran.complains(&["nowhere.invalid"]);
}

#[test]
fn what_answers_is_not_tare() {
    for backend in backends() {
        let flags = format!("-d 5s --timeout 2s --backend {backend}");
        let says = |answer: &'static [u8], words: &[&str]| {
            let address = stranger(move |mut stream| {
                stream.write_all(answer).unwrap();
                drain(stream);
            });
            let ran = lat(&address, &flags).exits(1);
            let ran = ran.complains(&[&[address.as_str()], words].concat());
            assert_eq!(ran.report()["results"][0]["operations"]["completed"], 0);
            assert!(ran.took < Duration::from_secs(10), "{ran:?}");
        };
        let start = "start `tare serve` there";
        says(
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            &["speaks HTTP, not tare's protocol", start],
        );
        says(
            b"SSH-2.0-OpenSSH_9.9\r\n",
            &["speaks SSH, not tare's protocol", start],
        );
        says(
            b"\xff\x00 gibberish \x07\n",
            &["does not speak tare's protocol", start],
        );
        says(
            b"tare\x02\x05\x00\x02{}",
            &[
                "speaks version 2 of tare's protocol",
                "same tare at both ends",
            ],
        );
        says(
            b"tare\x01\x04\x00\x02[]",
            &["broke tare's protocol", "same tare at both ends"],
        );
        says(b"tare\x01\x04\xff\xff", &["broke tare's protocol"]);
        says(b"tare\x01\x63\x00\x00", &["broke tare's protocol"]);
    }
}

#[test]
fn what_listens_closes_or_keeps_silent() {
    for backend in backends() {
        let flags = format!("-d 20s --timeout 400ms --backend {backend}");
        let closes = stranger(|mut stream| {
            // Read first: closing over unread bytes would be a reset.
            let _ = stream.read(&mut [0; 4096]);
        });
        lat(&closes, &flags)
            .exits(1)
            .complains(&["closed the connection without an answer"]);

        let resets = stranger(|stream| {
            let linger = socket2::SockRef::from(&stream);
            linger.set_linger(Some(Duration::ZERO)).unwrap();
        });
        lat(&resets, &flags).exits(1).complains(&[&resets]);

        let silent = lat(&stranger(drain), &flags).exits(1);
        assert!(silent.took < Duration::from_secs(5), "{silent:?}");
        silent.complains(&["did not answer the hello within 400 ms", "--timeout"]);

        let slow = stranger(|mut stream| {
            for byte in b"tare\x01\x04\x00\x90".iter().cycle() {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
                // The pace is the fault; nothing waits for it.
                let _ = socket_pause(&stream, Duration::from_millis(100));
            }
        });
        let slow = lat(&slow, &flags).exits(1);
        assert!(slow.took < Duration::from_secs(5), "{slow:?}");
        slow.complains(&["stopped answering"]);

        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = nobody.local_addr().unwrap().to_string();
        let silent = lat(&address, &format!("{flags} --udp")).exits(1);
        assert!(silent.took < Duration::from_secs(5), "{silent:?}");
        silent.complains(&["did not answer the hello within 400 ms"]);
    }
}

/// Reads for that long what is never sent.
fn socket_pause(mut stream: &TcpStream, pause: Duration) -> std::io::Result<usize> {
    stream.set_read_timeout(Some(pause))?;
    stream.read(&mut [0; 4096])
}

#[test]
fn a_client_of_another_version_is_told_and_logged() {
    let mut serve = Serve::start("");
    let mut stream = TcpStream::connect(serve.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(b"tare\x09\x01\x00\x02{}").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    // The header is frozen: this server's version, and a refusal.
    assert_eq!(&answer[..6], b"tare\x01\x05");
    let refusal: Value = serde_json::from_slice(&answer[8..]).unwrap();
    assert_eq!(refusal["code"], "version");
    assert!(
        text(&refusal, "/message").contains("version 9"),
        "{refusal}"
    );
    serve.job.logs("version 9");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut hello = vec![0; 1200];
    hello[..10].copy_from_slice(b"tare\x09\x01\x00\x02{}");
    socket.send_to(&hello, serve.address()).unwrap();
    let mut answer = [0; 2048];
    let n = socket.recv(&mut answer).unwrap();
    assert_eq!(&answer[..6], b"tare\x01\x05");
    assert!(String::from_utf8_lossy(&answer[..n]).contains("version 9"));
    serve.serves();
}

#[test]
fn the_server_dies_in_the_middle() {
    for_each_way(|_, flags| {
        let mut serve = Serve::start("");
        let client = measuring(&serve, &format!("{flags} --timeout 1s"));
        let died = Instant::now();
        serve.job.signal(Signal::SIGKILL);
        let ran = client.wait().exits(1);
        assert!(
            died.elapsed() < Duration::from_secs(5),
            "{flags}: {:?}",
            died.elapsed()
        );
        assert!(!serve.job.is_running());
        let report = partial(&ran);
        let result = &report["results"][0];
        assert!(figure(result, "/operations/failed") <= 1, "{flags}");
        assert_eq!(
            report["environment"]["servers"].as_array().unwrap().len(),
            1
        );
        ran.complains(&[
            serve.address(),
            "the server has died or was ended",
            "start it again",
        ]);
    });
}

#[test]
fn the_server_is_ended_in_the_middle() {
    for_each_way(|_, flags| {
        let serve = Serve::start("");
        let client = measuring(&serve, &format!("{flags} --timeout 1s"));
        let address = serve.address().to_owned();
        serve.stops();
        let ran = client.wait().exits(1);
        partial(&ran);
        ran.complains(&[&address, "ended the session: the server was told to stop"]);
    });
}

#[test]
fn the_client_dies_in_the_middle() {
    for_each_way(|proto, flags| {
        // Over UDP nobody tells the server; its place is free when it has been idle for long enough.
        let serve = Serve::start("--max-sessions 1 --idle-timeout 1s");
        let client = measuring(&serve, flags);
        client.signal(Signal::SIGKILL);
        let died = Instant::now();
        assert_eq!(client.wait().signal, Some(Signal::SIGKILL as i32));
        let words = format!("-n 5 --warmup 0 --wait block {flags}");
        eventually("the next client is served", || {
            let ran = lat(serve.address(), &words);
            assert!(matches!(ran.code, Some(0 | 1)), "{ran:?}");
            ran.code == Some(0)
        });
        let patience = if proto == "tcp" { 2 } else { 5 };
        assert!(
            died.elapsed() < Duration::from_secs(patience),
            "{flags}: {:?}",
            died.elapsed()
        );
        serve.stops();
    });
}

#[test]
fn an_interrupted_client_prints_what_it_has() {
    for_each_way(|_, flags| {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let serve = Serve::start("");
            let client = measuring(&serve, &format!("-c 3 --threads 2 {flags}"));
            client.signal(signal);
            let asked = Instant::now();
            let ran = client.wait().exits(130);
            assert!(
                asked.elapsed() < Duration::from_secs(3),
                "{flags}: {:?}",
                asked.elapsed()
            );
            let report = partial(&ran);
            let result = &report["results"][0];
            assert!(figure(result, "/duration_ns") < 40_000_000_000);
            assert_eq!(result["operations"]["failed"], 0);
            assert_eq!(result["errors"], serde_json::json!([]), "{flags}");
            // It took its leave: the server's figures are there.
            assert!(
                result["instrument"]["server"].is_object(),
                "{flags}: {result:#}"
            );
            serve.serves();
            serve.stops();
        }
    });
}

#[test]
fn a_client_is_interrupted_before_it_measures() {
    let flags = "-d 20s --timeout 20s";
    let address = stranger(drain);
    let client = Job::lat(&address, flags);
    // It has got as far as waiting for an answer when the stranger's end of the connection is there.
    let port = address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let local = format!("0100007F:{port:04X}");
    eventually("it is connected", || {
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        sockets.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (from, _, state) = (words.next(), words.next(), words.next());
            from == Some(local.as_str()) && state == Some("01")
        })
    });
    client.signal(Signal::SIGINT);
    let ran = client.wait().exits(130);
    assert!(ran.took < Duration::from_secs(10), "{ran:?}");
    assert_eq!(ran.report()["partial"], true);
}

#[test]
fn a_server_ends_when_asked_whatever_is_connected() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let serve = Serve::start("");
        let _silent = TcpStream::connect(serve.address()).unwrap();
        let client = measuring(&serve, "-c 2");
        serve.job.signal(signal);
        let ran = serve.job.wait().exits(0);
        assert!(ran.stdout.starts_with("tare: serving on ") && ran.stdout.lines().count() == 1);
        client.wait().exits(1);
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let serve = Serve::start("");
    let ran = run(&["serve", "--listen", serve.address()]).exits(1);
    assert_eq!(ran.stdout, "");
    let taken = format!("cannot listen on {}", serve.address());
    ran.complains(&[&taken, "another program has the port", "--listen"]);
    let ran = run(&["serve", "--listen", "192.0.2.1:0"]).exits(1);
    ran.complains(&[
        "cannot listen on 192.0.2.1:0",
        "the address is not on this machine",
    ]);
}

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
    let mut http = TcpStream::connect(serve.address()).unwrap();
    http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    http.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut answer = Vec::new();
    let closed = http.read_to_end(&mut answer);
    assert!(closed.is_ok_and(|n| n == 0), "HTTP is not served yet");
    serve.serves();
    let log = serve.stops();
    assert!(
        log.contains("127.0.0.1:"),
        "who sent garbage is logged: {log}"
    );
    assert!(
        log.is_ascii(),
        "and what they sent cannot spoil a terminal: {log:?}"
    );
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
    let serve = Serve::start("");
    let silent: Vec<TcpStream> = (0..2000)
        .map(|_| TcpStream::connect(serve.address()).unwrap())
        .collect();
    serve.serves();
    let mut drip = TcpStream::connect(serve.address()).unwrap();
    let begun = Instant::now();
    drip.set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    // A hello of 65,535 bytes that would take hours.
    let hello = b"tare\x01\x01\xff\xff"
        .iter()
        .chain(std::iter::repeat(&b' '));
    for byte in hello {
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "it may drip for ever"
        );
        let sent = drip.write_all(&[*byte]);
        match drip.read(&mut [0; 64]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) && sent.is_ok() => {}
            _ => break,
        }
    }
    for mut stream in silent {
        stream
            .set_read_timeout(Some(Duration::from_secs(15)))
            .unwrap();
        let read = stream.read(&mut [0; 1]);
        assert!(!matches!(&read, Ok(1)), "{read:?}");
        assert!(
            !read.is_err_and(|e| e.kind() == ErrorKind::WouldBlock),
            "it stays open"
        );
    }
    serve.serves();
    serve.stops();
}

#[test]
fn random_datagrams_are_not_amplified() {
    let serve = Serve::start("");
    // What a client says first.
    let ear = UdpSocket::bind("127.0.0.1:0").unwrap();
    ear.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let address = ear.local_addr().unwrap().to_string();
    let client = Job::lat(&address, "-n 1 --udp --timeout 200ms");
    let mut hello = [0; 2048];
    let n = ear.recv(&mut hello).unwrap();
    let hello = hello[..n].to_vec();
    drop(client);

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
            4 => b"tare\x01\x08\0\x4c{\"session\":\"0000000000000001\",\"document\":\"environment\",\"offset\":0}".to_vec(),
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
            .set_read_timeout(Some(Duration::from_millis(if round % 8 == 0 {
                5000
            } else {
                2
            })))
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
        assert!(
            back <= datagram.len(),
            "{back} bytes for {}: {datagram:x?}",
            datagram.len()
        );
    }
    assert!(answered >= 50, "each lone hello has its answer: {answered}");
    serve.serves();
    serve.stops();
}

/// Runs `body` on a thread on which the io_uring system calls fail with `errno`; its children inherit that.
fn without_uring<T: Send + 'static>(errno: i32, body: impl FnOnce() -> T + Send + 'static) -> T {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let denied = [
        nix::libc::SYS_io_uring_setup,
        nix::libc::SYS_io_uring_enter,
        nix::libc::SYS_io_uring_register,
    ];
    let filter = SeccompFilter::new(
        denied.into_iter().map(|call| (call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    let denied = thread::spawn(move || {
        apply_filter(&program).unwrap();
        body()
    });
    denied.join().unwrap()
}

#[test]
fn where_seccomp_denies_io_uring_epoll_serves_and_says_why() {
    for (errno, name) in [(nix::libc::EPERM, "EPERM"), (nix::libc::ENOSYS, "ENOSYS")] {
        without_uring(errno, move || {
            let serve = Serve::start("");
            let ran = lat(serve.address(), "-n 100 --wait block").exits(0);
            let report = ran.report();
            for end in ["client", "server"] {
                let instrument = &report["results"][0]["instrument"][end];
                assert_eq!(instrument["backend"], "epoll", "{end}");
                let reason = text(instrument, "/backend_reason");
                assert!(
                    reason.contains(name) && reason.contains("seccomp"),
                    "{end}: {reason}"
                );
            }
            assert!(
                warnings(&report).contains(&"backend"),
                "{:?}",
                warnings(&report)
            );
            ran.complains(&["warning:", name, "--security-opt seccomp="]);

            let ran = lat(serve.address(), "-n 100 --backend uring").exits(1);
            assert_eq!(ran.stdout, "");
            ran.complains(&[name, "seccomp", "use --backend epoll"]);
            // A server that is told to offer nothing else does not even start.
            let ran = run(&["serve", "--listen", "127.0.0.1:0", "--backend", "uring"]).exits(1);
            assert_eq!(ran.stdout, "");
            ran.complains(&[name, "seccomp"]);
        });
    }
}

#[test]
fn a_server_without_io_uring_refuses_whoever_insists_on_it() {
    if !backends().contains(&"uring") {
        return;
    }
    let serve = without_uring(nix::libc::EPERM, || Serve::start(""));
    let ran = lat(serve.address(), "-n 100 --backend uring").exits(1);
    ran.complains(&["refused: io_uring is denied (EPERM)", "seccomp"]);
    let report = lat(serve.address(), "-n 100 --wait block")
        .exits(0)
        .report();
    let instrument = &report["results"][0]["instrument"];
    assert_eq!(instrument["client"]["backend"], "uring");
    assert_eq!(instrument["server"]["backend"], "epoll");
    assert!(text(instrument, "/server/backend_reason").contains("EPERM"));
}

/// A shell that runs `tare` within limits.
fn limited(limits: &str, words: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.env_remove("TARE_SECRET");
    command.args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")]);
    command.arg(tare().get_program()).args(words);
    command
}

#[test]
fn a_client_out_of_descriptors_says_what_to_type() {
    let serve = Serve::start("");
    let words = lat_words(serve.address(), "-n 1000 -c 200 --wait block");
    let ran = Job::start(limited("ulimit -n 100", &words)).wait().exits(1);
    assert_eq!(ran.stdout, "");
    let words = [
        "open descriptors are needed and only 100 are allowed",
        "ulimit -Hn 2",
        "--ulimit nofile=",
    ];
    ran.complains(&words);
    // A soft limit is no obstacle.
    let words = lat_words(serve.address(), "-n 1000 -c 200 --wait block");
    Job::start(limited("ulimit -Sn 100", &words))
        .wait()
        .exits(0);
}

#[test]
fn a_server_out_of_descriptors_makes_room() {
    let mut serve = Serve::started(limited("ulimit -n 100", &Serve::words("")));
    let silent: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(serve.address()).unwrap())
        .collect();
    serve
        .job
        .logs("no descriptor is left for another client (EMFILE); raise the limit (ulimit -n)");
    serve.serves();
    drop(silent);
    let log = serve.stops();
    assert!(log.lines().count() < 20, "it does not flood its log: {log}");

    // A soft limit is raised by itself.
    let serve = Serve::started(limited("ulimit -Sn 100", &Serve::words("")));
    let _silent: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(serve.address()).unwrap())
        .collect();
    serve.serves();
    assert_eq!(serve.stops(), "");
}

#[test]
fn output_that_cannot_be_written() {
    // Not even root makes files there.
    let ran = run(&["lat", "-n", "5", "-o", "/sys/tare.json"]).exits(2);
    assert_eq!(ran.stdout, "");
    ran.complains(&[
        "--output /sys/tare.json cannot be written",
        "name a file in a directory",
    ]);

    // What becomes impossible later costs the file alone.
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let file = inner.join("a.json");
    let serve = Serve::start("");
    let client = measuring(&serve, &format!("-o {}", file.display()));
    fs::remove_dir_all(&inner).unwrap();
    client.signal(Signal::SIGINT);
    let ran = client.wait().exits(130);
    partial(&ran);
    ran.complains(&["a.json cannot be written"]);

    let full = fs::OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_CLOEXEC)
        .open("/dev/full");
    let output = tare()
        .args(lat_words(serve.address(), "-n 5 --wait block"))
        .stdout(full.unwrap())
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stdout cannot be written"));
}

#[test]
fn a_sweep_keeps_what_it_had_when_the_server_dies() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sweep.json");
    let serve = Serve::start("");
    let flags = format!(
        "-d 300ms --size 1:1K:*2 --wait block --timeout 1s --warmup 0 -o {}",
        file.display()
    );
    let client = Job::lat(serve.address(), &flags);
    eventually("a step is in the file", || {
        fs::read_to_string(&file).is_ok_and(|text| !text.is_empty())
    });
    serve.job.signal(Signal::SIGKILL);
    let ran = client.wait().exits(1);
    let on_disk = report(&fs::read_to_string(&file).unwrap());
    assert_eq!(ran.report(), on_disk);
    assert_eq!(on_disk["partial"], true);
    let steps = on_disk["results"].as_array().unwrap();
    assert!((1..11).contains(&steps.len()), "{}", steps.len());
    assert_eq!(steps[0]["partial"], false, "the first was whole");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no scratch file is left"
    );
}
