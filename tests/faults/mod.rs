//! What goes wrong on a network and on a machine: each ends in time, in a line that says whose
//! fault it is, with nothing lost of what was measured; and the server outlives all of it, and
//! serves on at full speed.

mod bounds;
mod deaths;
mod floods;
mod hostile;
mod instances;
mod limits;
mod paths;
mod strangers;
mod sweeps;
mod tables;

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use nix::fcntl::{FcntlArg, fcntl};
use serde_json::Value;

use crate::netns::Netns;
use crate::util::{Job, Ran, Serve, backends, figure, is_root, tare};

/// The tests that go through the faults, by their commands, with their flags and the transports to
/// go over.
///
/// What leaves in datagrams is paced, since what is lost because the machine is busy is no fault;
/// and so is one of the others, since scenarios run at once.
const TESTS: &[(&str, &str, &[&str])] = &[
    ("lat", "", &["tcp", "udp"]),
    ("bw", "--direction up", &["tcp"]),
    ("bw", "--direction down --rate 500M", &["tcp"]),
    ("bw", "--direction up --rate 100M", &["udp"]),
    ("bw", "--direction down --rate 100M", &["udp"]),
];

/// A test, over a transport, on a backend.
struct Way {
    test: &'static str,
    proto: &'static str,
    /// The flags for the transport and the backend.
    flags: String,
    /// Those of this test alone.
    own: &'static str,
}

impl Way {
    fn all_flags(&self) -> String {
        format!("{} {}", self.flags, self.own)
    }

    /// Starts it with these flags as well.
    fn start(&self, target: &str, flags: &str) -> Job {
        Job::test(self.test, target, &format!("{} {flags}", self.all_flags()))
    }

    /// A client that measures for longer than any test, and has begun to.
    fn measuring(&self, serve: &Serve, flags: &str) -> Job {
        let flags = format!("-d 60s --warmup 0 --wait block {flags}");
        let client = self.start(serve.address(), &flags);
        client.is_measuring();
        client
    }
}

/// Each test by its command, on each backend.
fn each_test() -> impl Iterator<Item = (&'static str, &'static str)> {
    let tests = ["lat", "bw"].into_iter();
    tests.flat_map(|test| backends().iter().map(move |backend| (test, *backend)))
}

fn for_each_way(mut scenario: impl FnMut(&Way)) {
    each(&["tcp", "udp"], |way| scenario(&way));
}

/// For scenarios that mostly wait: all at once.
fn for_each_way_at_once(scenario: impl Fn(&Way) + Sync) {
    at_once(&["tcp", "udp"], scenario);
}

/// All at once, each with a namespace of its own, where there may be some.
fn in_namespaces(protos: &[&'static str], scenario: impl Fn(&Way, &Netns) + Sync) {
    if is_root("ip netns") {
        at_once(protos, |way| scenario(way, &Netns::make()));
    }
}

fn at_once(protos: &[&'static str], scenario: impl Fn(&Way) + Sync) {
    let scenario = &scenario;
    thread::scope(|scope| {
        each(protos, |way| {
            scope.spawn(move || scenario(&way));
        });
    });
}

fn each(protos: &[&'static str], mut scenario: impl FnMut(Way)) {
    for (test, own, over) in TESTS {
        for backend in backends() {
            for proto in over.iter().filter(|proto| protos.contains(proto)) {
                let flags = format!("--proto {proto} --backend {backend}");
                let (test, proto) = (*test, *proto);
                scenario(Way { test, proto, flags, own });
            }
        }
    }
}

/// `tare lat` that pings for longer than any test, and has begun to.
fn measuring(serve: &Serve, flags: &str) -> Job {
    let flags = format!("-d 60s --warmup 0 --wait block {flags}");
    let client = Job::lat(serve.address(), &flags);
    client.is_measuring();
    client
}

/// A report that was cut short, with something measured in it.
#[track_caller]
fn partial(ran: &Ran) -> Value {
    let report = ran.report();
    assert_eq!(report["partial"], true, "{ran:#?}");
    assert_eq!(report["results"][0]["partial"], true);
    let result = &report["results"][0];
    if report["kind"] == "bw" {
        // What was sent to an end that is no more, that end cannot tell; and what it sent, neither.
        let moved =
            ["sent", "received"].map(|way| figure(result, &format!("/bandwidth/{way}_bytes")));
        assert!(moved.iter().any(|bytes| *bytes > 100_000), "{result:#}");
    } else {
        assert!(figure(result, "/operations/completed") > 100);
    }
    report
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

/// A pipe without room, and its reader, which does not read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    writer.write_all(&vec![b'x'; size as usize]).unwrap();
    (reader, writer)
}

/// A shell that runs `tare` within limits.
fn limited(limits: &str, words: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.env_remove("TARE_SECRET");
    command.args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")]);
    command.arg(tare().get_program()).args(words);
    command
}
