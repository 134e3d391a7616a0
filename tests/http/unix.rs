//! Unix sockets: their connects are done at once, or refused for the moment.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::hostile::FINE;
use super::{all_went_well, errors, for_each_backend, http, measured, result, sockets_used};
use crate::util::figure;

/// A listener whose queue holds `backlog` + 1 connections.
fn listen(path: &Path, backlog: i32) -> UnixListener {
    let listener =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(path).unwrap()).unwrap();
    listener.listen(backlog).unwrap();
    listener.into()
}

fn answer_all(stream: UnixStream, answer: &[u8]) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        if line == "\r\n" && stream.get_mut().write_all(answer).is_err() {
            return;
        }
        line.clear();
    }
}

/// Where a server listens that answers each request with the same bytes.
struct Local(TempDir);

impl Local {
    /// It accepts no second connection until `pause` after the first.
    fn start(backlog: i32, pause: Duration, answer: &'static [u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = listen(&directory.path().join("socket"), backlog);
        thread::spawn(move || {
            let mut first = true;
            while let Ok((mut stream, _)) = listener.accept() {
                if std::mem::take(&mut first) && !pause.is_zero() {
                    // No request comes before all connections stand.
                    stream.set_read_timeout(Some(pause)).unwrap();
                    stream.read(&mut [0]).unwrap_err();
                    stream.set_read_timeout(None).unwrap();
                }
                thread::spawn(move || answer_all(stream, answer));
            }
        });
        Self(directory)
    }

    fn url(&self) -> String {
        format!("unix:{}/socket", self.0.path().display())
    }
}

#[test]
fn a_connection_for_each_request_costs_no_wait() {
    let local = Local::start(100, Duration::ZERO, FINE);
    for_each_backend(|backend| {
        let result = measured(&local.url(), &["-n 100 -c 1 --connection close", backend]);
        all_went_well(&result, 100);
        assert_eq!(sockets_used(&result), 100);
        // Where each connect is noticed at the next look at the interrupt, it takes ten seconds.
        let took = figure(&result, "/duration_ns");
        assert!(took < 5_000_000_000, "{result:#}");
    });
}

#[test]
fn a_full_queue_is_waited_for() {
    for_each_backend(|backend| {
        let local = Local::start(1, Duration::from_millis(50), FINE);
        let result = measured(&local.url(), &["-n 40 -c 20", backend]);
        all_went_well(&result, 40);
        assert_eq!(figure(&result, "/connections/established"), 20);
        assert_eq!(sockets_used(&result), 20);
    });
}

#[test]
fn a_queue_that_stays_full_is_a_timeout() {
    let directory = tempfile::tempdir().unwrap();
    for_each_backend(|backend| {
        let path = directory.path().join(backend.replace(' ', "="));
        let _listener = listen(&path, 1);
        let url = format!("unix:{}", path.display());
        let flags = format!("-n 10 -c 5 --connect-timeout 100ms --timeout 100ms {backend}");
        let result = result(&http(&url, &flags).exits(1));
        // Two wait in the queue for ever, the others find no room.
        assert!(errors(&result, "connect", "timeout") >= 3, "{result:#}");
        assert_eq!(errors(&result, "connect", "EAGAIN"), 0, "{result:#}");
    });
}

#[test]
fn sockets_are_named_as_others_name_them() {
    let local = Local::start(100, Duration::ZERO, FINE);
    let path = local.0.path().join("socket");
    let coded = path.to_str().unwrap().replace('/', "%2F");
    let name = format!("tare-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || answer_all(stream, FINE));
        }
    });
    for_each_backend(|backend| {
        for url in [
            format!("http+unix://{coded}/x"),
            format!("unix://{}:/x", path.display()),
            format!("unix:@{name}:/x"),
            format!("http+unix://%40{name}/x"),
        ] {
            let ran = http(&url, &format!("-n 10 -c 2 {backend}")).exits(0);
            all_went_well(&result(&ran), 10);
        }
        let ran = http("unix:@tare-test-none", &format!("-n 1 {backend}")).exits(1);
        ran.complains(&["nobody listens on the abstract socket unix:@tare-test-none", "ss -xl"]);
    });
}
