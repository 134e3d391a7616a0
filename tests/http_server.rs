//! `tare serve` as an HTTP server, against plain sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::util::{Serve, backends, eventually};

/// All that a server sends to what closes the connection.
fn ask(serve: &Serve, request: &str) -> String {
    let mut stream = TcpStream::connect(serve.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

fn get(serve: &Serve, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    ask(serve, &request)
}

#[test]
fn http_is_served_beside_sessions() {
    for backend in backends() {
        let serve = Serve::start(&format!("--backend {backend}"));
        assert!(get(&serve, "/").ends_with("\r\n\r\ntare serves\n"));
        assert!(get(&serve, "/healthz").ends_with("\r\n\r\nok\n"));
        assert!(get(&serve, "/none").starts_with("HTTP/1.1 404 Not Found\r\n"));
        let long = get(&serve, "/bytes/3000000");
        let (head, body) = long.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Length: 3000000\r\n"));
        assert_eq!(body.len(), 3_000_000);
        let delayed = get(&serve, "/echo?delay=2ms&status=503");
        assert!(delayed.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        let residence = delayed.split("residence;dur=").nth(1).unwrap();
        let ms: f64 = residence.lines().next().unwrap().parse().unwrap();
        assert!(ms >= 2.0, "{delayed}");
        let queued = get(&serve, "/queue?service=1ms");
        assert!(queued.contains(", arrival;dur="), "{queued}");
        let body = "tare".repeat(20_000);
        let head = "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 80000";
        assert!(ask(&serve, &format!("{head}\r\n\r\n{body}")).ends_with(&body));
        assert!(ask(&serve, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "));
        // Connections that have nothing to say yet are kept.
        let silent: Vec<TcpStream> =
            (0..500).map(|_| TcpStream::connect(serve.address()).unwrap()).collect();
        for mut stream in silent {
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
        }
        serve.serves();
        serve.stops();
    }
}

/// When the queue was joined, by its own record, seconds since the server's start.
fn arrival(answer: &str) -> f64 {
    let arrival = answer.split("arrival;dur=").nth(1).expect("it was queued");
    arrival.lines().next().unwrap().parse::<f64>().unwrap() / 1e3
}

/// Whether no thread of a process runs.
fn is_stopped(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.map(Result::unwrap).all(|thread| {
        let status = fs::read_to_string(thread.path().join("status"));
        status.is_ok_and(|status| status.contains("State:\tT"))
    })
}

/// Two clients connect and ask while the server does not run: it reads both at once, and by the
/// kernel's stamps they came apart.
#[test]
fn the_queue_records_when_the_kernel_got_a_first_request() {
    for backend in backends() {
        let serve = Serve::start(&format!("--backend {backend}"));
        // Stamps begin with the first who asks for the queue, and with the kernel a moment after.
        arrival(&get(&serve, "/queue?service=1us"));
        eventually("the kernel stamps first requests", || {
            serve.job.signal(Signal::SIGSTOP);
            eventually("the server is stopped", || is_stopped(serve.job.id()));
            let [mut first, mut second] = [(); 2].map(|()| {
                let stream = TcpStream::connect(serve.address()).unwrap();
                let patience = Some(Duration::from_millis(50));
                stream.set_read_timeout(patience).unwrap();
                (&stream).write_all(b"GET /queue?service=1us HTTP/1.0\r\n\r\n").unwrap();
                assert!((&stream).read(&mut [0]).is_err(), "the server does not run");
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                stream
            });
            serve.job.signal(Signal::SIGCONT);
            let arrival_on = |stream: &mut TcpStream| {
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                arrival(&answer)
            };
            let apart = arrival_on(&mut second) - arrival_on(&mut first);
            (0.045..5.0).contains(&apart)
        });
        serve.stops();
    }
}

#[test]
fn without_http_its_clients_are_turned_away() {
    let serve = Serve::start("--no-http");
    assert_eq!(get(&serve, "/"), "");
    serve.serves();
    let log = serve.stops();
    assert!(log.contains("--no-http"), "{log}");
}
