//! Whoever means harm: servers that lie, clients that do not read, that vanish, and that fill the
//! log.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::{full_pipe, stranger};
use crate::util::{Job, Ran, Serve, backends, eventually, lat, tare, text, warnings};

/// One frame of the protocol.
fn frame(kind: u8, body: &serde_json::Value) -> Vec<u8> {
    let body = body.to_string();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"tare\x01".as_slice(), &[kind], &length, body.as_bytes()].concat()
}

/// A server of one session whose words drive a terminal and a spreadsheet, and whose figures cannot
/// be. Each reply claims to have been held for an hour.
fn liar(evil: &'static str) -> String {
    stranger(move |mut stream| {
        let mut head = [0; 8];
        stream.read_exact(&mut head).unwrap();
        let length = usize::from(u16::from_be_bytes([head[6], head[7]]));
        stream.read_exact(&mut vec![0; length]).unwrap();
        let accept = json!({
            "instance": "00000000000000aa", "version": evil, "backend": evil, "backend_reason": evil, "wait": "block",
            "wait_reason": evil, "cpus": [0],
            "environment": {
                "tare_version": evil, "hostname": evil, "kernel": evil, "cpu_model": evil, "governor": evil,
                "clock_source": evil, "hypervisor": evil, "container": evil, "congestion_control": evil,
                "idle_states": [{"name": evil, "exit_latency_us": u64::MAX, "disabled": false}],
                "conntrack": {"used": u64::MAX, "max": 1}, "ephemeral_ports": [65535, 1],
                "memlock_limit_bytes": u64::MAX, "descriptors_limit": 0, "cgroup_cpu_limit": -1e308,
                "device": {"name": evil, "speed_mbit_per_s": u64::MAX, "mtu_bytes": 0, "offloads": [evil]},
            },
        });
        stream.write_all(&frame(4, &accept)).unwrap();
        let mut request = [0; 64];
        while stream.read_exact(&mut request).is_ok() {
            let mut reply = [0; 64];
            reply[..8].copy_from_slice(&3_600_000_000_000_u64.to_be_bytes());
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
        let figures = json!({
            "operations": u64::MAX, "received_bytes": u64::MAX, "sent_bytes": u64::MAX, "residence_count": u64::MAX,
            "cpu_operations": u64::MAX, "cpu_bytes": u64::MAX,
            "cpu": {"user_ns": u64::MAX, "system_ns": u64::MAX, "machine_busy": 1e308, "per_operation_ns": -1.0},
            "instrument": {
                "backend": evil, "backend_reason": evil, "wait": evil, "cpus": [0], "turn_max_ns": u64::MAX,
                "steal_ns": u64::MAX, "throttled_ns": u64::MAX, "worker_busy_max": -7.0,
                "disturbances": [evil], "saturation": evil,
            },
            "errors": [{"phase": evil, "cause": evil, "count": u64::MAX}],
        });
        let _ = stream.write_all(&frame(6, &figures));
    })
}

#[track_caller]
fn is_harmless(what: &str, text: &str) {
    let bad = |c: &char| {
        (c.is_control() && *c != '\n')
            || matches!(*c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
    };
    let found: Vec<char> = text.chars().filter(bad).collect();
    assert!(found.is_empty(), "{what}: {found:?} in {text}");
}

#[test]
fn what_a_lying_server_says_drives_no_terminal_and_no_spreadsheet() {
    const EVIL: &str = "=cmd|'/C calc'!A0\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\u{200b}\n\r\tx";
    for backend in backends() {
        for format in ["text", "markdown", "csv", "json"] {
            let flags = format!("-n 50 --wait block --backend {backend} --format {format}");
            let ran = lat(&liar(EVIL), &flags).exits(0);
            is_harmless("stderr", &ran.stderr);
            is_harmless(format, &ran.stdout);
            if format == "csv" {
                let mut lines = ran.stdout.lines().skip(1);
                let cells = lines.next().unwrap().split(',');
                let formulas = cells.filter(|cell| cell.trim_matches('"').starts_with('='));
                assert_eq!(formulas.count(), 0, "{}", ran.stdout);
            }
            if format == "json" {
                lies_are_left_out(&ran);
            }
        }
    }
}

fn lies_are_left_out(ran: &Ran) {
    let report = ran.report();
    assert!(warnings(&report).contains(&"impossible-figures"));
    let result = &report["results"][0];
    assert!(result["instrument"]["server"].is_null(), "{result:#}");
    assert!(result["cpu"]["server"].is_null());
    let residence = &result["latency"]["server_residence"];
    assert!(residence.is_null() || residence["count"] == 0, "{residence}");
    let server = &report["environment"]["servers"][0];
    assert!(text(server, "/governor").contains("\\u{1b}]0;owned\\u{7}"));
    ran.stderr
        .lines()
        .find(|line| line.contains("the server reported impossible figures: "))
        .expect("it is said");
}

/// Every line that names a client: those shown, and those counted.
fn lines_of(log: &str, words: &str) -> u64 {
    let mut count = 0;
    for line in log.lines().filter(|line| line.contains(words)) {
        let more = line.strip_prefix("tare: ").and_then(|line| {
            let (number, _) = line.split_once(" more such lines, the last: ")?;
            number.parse::<u64>().ok()
        });
        count += more.unwrap_or(1);
    }
    count
}

#[test]
fn a_flood_of_garbage_is_summed_up_in_the_log() {
    const COUNT: u64 = 3_000;
    let serve = Serve::start("");
    for _ in 0..COUNT {
        let mut stream = TcpStream::connect(serve.address()).unwrap();
        stream.write_all(b"\xff\xfenonsense\n").unwrap();
        // Until it has hung up: so each was heard.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0; 64]);
    }
    lat(serve.address(), "-n 50 --wait block").exits(0);
    let log = serve.stops();
    assert_eq!(lines_of(&log, "does not speak tare's protocol"), COUNT, "{log}");
    // A few of a kind at first, then one a second.
    assert!(log.lines().count() < 200, "{}", log.lines().count());
}

/// Ends the process when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_service_nor_the_end() {
    let (_reader, writer) = full_pipe();
    let mut command = tare();
    command.args(Serve::words(""));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(writer);
    let mut server = Ended(command.spawn().unwrap());
    let mut line = String::new();
    let mut stdout = BufReader::new(server.0.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("tare: serving on ").unwrap();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(b"nonsense\n");
    }
    lat(address, "-n 200 --wait block").exits(0);
    let pid = nix::unistd::Pid::from_raw(server.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    let begun = Instant::now();
    eventually("the server ends", || server.0.try_wait().unwrap().is_some());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
}

/// CPU time of a process, all its threads.
fn cpu_of(serve: &Serve) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", serve.job.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Time that the server spends on its CPUs while nothing is asked of it, over three seconds.
fn idles(serve: &Serve) -> Duration {
    let before = cpu_of(serve);
    thread::sleep(Duration::from_secs(3));
    cpu_of(serve) - before
}

#[test]
fn nobody_spins_for_clients_that_have_vanished_or_stand_still() {
    for backend in backends() {
        let serve = Serve::start(&format!("--allow-spin --backend {backend}"));
        for proto in ["tcp", "udp"] {
            let flags = format!("-d 60s -c 8 --proto {proto} --wait spin --warmup 0");
            let client = Job::lat(serve.address(), &flags);
            let busy = || cpu_of(&serve) > Duration::from_millis(200);
            eventually("the server serves", busy);
            // Over UDP nobody learns that it is gone; over TCP its kernel goes on for it while it
            // stands still.
            let signal = if proto == "udp" { Signal::SIGKILL } else { Signal::SIGSTOP };
            client.signal(signal);
            thread::sleep(Duration::from_millis(1_500));
            let spent = idles(&serve);
            assert!(spent < Duration::from_millis(750), "{backend}, {proto}: {spent:?} of 3 s");
        }
        lat(serve.address(), "-n 50 --wait block").exits(0);
    }
}

/// What the kernel has for the connections of a local port that their clients have not taken,
/// bytes, by their states.
fn unsent_of(port: u16) -> Vec<(u8, u64)> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.split_once(':')?;
        let (queued, _) = fields.get(4)?.split_once(':')?;
        let state = u8::from_str_radix(fields.get(3)?, 16).ok()?;
        let is_ours = u16::from_str_radix(local, 16).ok()? == port;
        is_ours.then(|| (state, u64::from_str_radix(queued, 16).unwrap()))
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

const LISTENS: u8 = 10;
const TIME_WAIT: u8 = 6;

#[test]
fn clients_that_do_not_read_hold_little_in_the_kernel_and_leave_no_orphan() {
    const COUNT: usize = 150;
    // What is on its way to the client's own buffer, and what may wait beside it.
    const EACH: u64 = 640 << 10;
    for backend in backends() {
        let serve = Serve::start(&format!("--idle-timeout 3s --backend {backend}"));
        let port = serve.address().rsplit(':').next().unwrap().parse().unwrap();
        let request = b"GET /bytes/1073741824 HTTP/1.1\r\nHost: x\r\n\r\n";
        let deaf: Vec<TcpStream> = (0..COUNT)
            .map(|_| {
                let mut stream = TcpStream::connect(serve.address()).unwrap();
                stream.write_all(request).unwrap();
                stream
            })
            .collect();
        eventually("they are all sent to", || {
            unsent_of(port).iter().filter(|(_, bytes)| *bytes > 0).count() == COUNT
        });
        let queued: u64 = unsent_of(port).iter().map(|(_, bytes)| bytes).sum();
        assert!(queued < COUNT as u64 * EACH, "{queued} bytes for {COUNT}");
        lat(serve.address(), "-n 50 --wait block").exits(0);
        eventually("they are reset", || {
            let mut left = unsent_of(port).into_iter();
            left.all(|(state, _)| state == LISTENS || state == TIME_WAIT)
        });
        drop(deaf);
        lat(serve.address(), "-n 50 --wait block").exits(0);
        serve.stops();
    }
}
