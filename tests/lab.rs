//! `scripts/lab` and `scripts/lab-table`: every path can be made, measured and taken down without a
//! trace. All of it takes root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::util::{Job, Ran, array, eventually, figure, is_root, left_out, tare, text, words};

/// What the scripts exit with where this machine, or its kernel, cannot run them.
pub(crate) const UNAVAILABLE: i32 = 77;

/// A script with the words of a line, and with nothing of the caller's environment that it would
/// heed.
pub(crate) fn script(name: &str, line: &str) -> Command {
    let mut command = Command::new(format!("{}/scripts/{name}", env!("CARGO_MANIFEST_DIR")));
    let variables = "TARE_SECRET TARE_SERVE_ARGS TARE_LAB_NET TARE_LAB_PORT XDG_RUNTIME_DIR";
    for variable in words(variables) {
        command.env_remove(variable);
    }
    command.args(words(line)).env("TARE", tare().get_program());
    command
}

/// What a script printed; none where this machine cannot run it.
pub(crate) fn unless_unavailable(ran: Ran) -> Option<Ran> {
    if ran.code == Some(UNAVAILABLE) {
        assert!(ran.stderr.contains("cannot"), "{ran:#?}");
        left_out(ran.stderr.trim_end());
        return None;
    }
    Some(ran)
}

fn lab(line: &str) -> Command {
    script("lab", line)
}

fn ran(command: Command) -> Ran {
    Job::start(command).wait()
}

/// A directory with a program, to stand first in `$PATH`.
fn program(name: &str, text: &str) -> (TempDir, String) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    (directory, path)
}

/// An `ip` of a kernel without macvlan.
const WITHOUT_MACVLAN: &str = r#"#!/bin/sh
case "$*" in
*"type macvlan"*) echo 'Error: Unknown device type.' >&2; exit 2 ;;
esac
PATH=${PATH#*:} exec ip "$@"
"#;

/// What is there of the lab that the script with this process id made.
fn traces_of(pid: u32) -> Vec<String> {
    let lab = format!("tare-lab-{pid}");
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let namespaces = namespaces.map(|entry| entry.file_name().into_string().unwrap());
    let namespaces = namespaces.filter(|name| name.starts_with(&format!("{lab}-")));
    let paths = [format!("/run/tare-lab/{lab}"), format!("/sys/class/net/tl{pid}")];
    namespaces.chain(paths.into_iter().filter(|path| Path::new(path).exists())).collect()
}

#[track_caller]
fn leaves_nothing(pid: u32) {
    assert_eq!(traces_of(pid), [""; 0]);
}

/// The processes that a lab has written down so far, a line for each.
fn noted(pid: u32) -> String {
    fs::read_to_string(format!("/run/tare-lab/tare-lab-{pid}/pids")).unwrap_or_default()
}

/// The reports of a run over TCP and one over UDP in this lab; none where the kernel cannot make
/// it.
fn measure(topology: &str, flags: &str) -> Option<Vec<Value>> {
    let mut command = lab(&format!("run {flags} {topology} -- sh -c"));
    command.arg(
        r#"for proto in tcp udp; do
            "$TARE" lat "$TARE_TARGET" --proto $proto -n 200 -c 4 --warmup 10ms --wait block --format json || exit
        done"#,
    );
    let job = Job::start(command);
    let pid = job.id();
    let ran = job.wait();
    leaves_nothing(pid);
    let is_made = ran.code != Some(UNAVAILABLE);
    assert!(is_made || ran.stderr.contains("this kernel cannot make it"), "{ran:#?}");
    let ran = unless_unavailable(ran)?.exits(0);
    let reports = serde_json::Deserializer::from_str(&ran.stdout).into_iter();
    let reports: Vec<Value> = reports.map(Result::unwrap).collect();
    assert_eq!(reports.len(), 2, "{ran:#?}");
    Some(reports)
}

/// Asserts that each topology can be measured over one version of IP, through what it is named
/// after.
fn every_topology_is_measured(flags: &str, begin: &str) {
    if !is_root("scripts/lab") {
        return;
    }
    let topologies = ran(lab("topologies")).exits(0).stdout;
    let topologies = words(&topologies);
    assert_eq!(topologies, words("veth bridge dnat routed vxlan macvlan balanced"));
    for topology in topologies {
        for report in measure(topology, flags).into_iter().flatten() {
            let result = &report["results"][0];
            assert_eq!(figure(result, "/operations/completed"), 200, "{topology}");
            assert_eq!(figure(result, "/operations/timed_out"), 0, "{topology}");
            let target = text(&report, "/plan/target");
            assert!(target.starts_with(begin), "{topology}: {target}");
            // The server listens on 7117 alone: at 30117 it is reached through the translation
            // only.
            let is_published = matches!(topology, "dnat" | "balanced");
            let port = if is_published { ":30117" } else { ":7117" };
            assert!(target.ends_with(port), "{topology}: {target}");
            let servers = if topology == "balanced" { 2 } else { 1 };
            assert_eq!(array(result, "/instances").len(), servers, "{topology}: {result:#}");
            let device = &report["environment"]["client"]["device"];
            let mtu = match (topology, flags) {
                ("vxlan", "") => 1450,
                ("vxlan", _) => 1430,
                _ => 1500,
            };
            assert_eq!(figure(device, "/mtu_bytes"), mtu, "{topology}: {device}");
        }
    }
}

#[test]
fn every_topology_is_measured_over_ipv4() {
    every_topology_is_measured("", "198.18.");
}

#[test]
fn every_topology_is_measured_over_ipv6() {
    every_topology_is_measured("--ipv6", "[2001:2:0:");
}

#[test]
fn what_a_killed_lab_left_behind_is_named_and_taken_down() {
    if !is_root("scripts/lab") {
        return;
    }
    // While it comes up, and while its command runs: with as many processes written down by then.
    for (topology, processes) in [("veth", 0), ("balanced", 1), ("veth", 2), ("balanced", 3)] {
        let job = Job::start(lab(&format!("run {topology} -- sleep 60")));
        let pid = job.id();
        eventually("the lab is that far up", || {
            noted(pid).lines().count() >= processes && !traces_of(pid).is_empty()
        });
        job.signal(Signal::SIGKILL);
        let check = ran(lab("check")).exits(1);
        let name = format!("tare-lab-{pid}");
        assert!(check.stderr.contains(&name), "{name}: {check:#?}");
        let noted = noted(pid);
        ran(lab(&format!("down {name}"))).exits(0);
        leaves_nothing(pid);
        for line in noted.lines() {
            let pid = line.split(' ').next().unwrap();
            assert!(has_ended(pid), "{topology}: process {pid} still runs");
        }
        let killed = job.wait();
        assert_eq!(killed.signal, Some(Signal::SIGKILL as i32), "{killed:#?}");
    }
}

/// Whether there is no such process, or nothing of it but its exit code.
fn has_ended(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

#[test]
fn a_lab_that_is_ended_goes_with_its_command() {
    if !is_root("scripts/lab") {
        return;
    }
    let job = Job::start(lab("run bridge -- sleep 60"));
    let pid = job.id();
    eventually("its command runs", || noted(pid).lines().count() == 2);
    job.signal(Signal::SIGTERM);
    job.wait().exits(128 + Signal::SIGTERM as i32);
    leaves_nothing(pid);
}

#[test]
fn a_lab_that_does_not_come_up_says_why_and_leaves_nothing() {
    if !is_root("scripts/lab") {
        return;
    }
    let mut without_server = lab("up dnat");
    without_server.env("TARE", "/bin/false");
    let mut bad_net = lab("up -6 bridge");
    bad_net.env("TARE_LAB_NET", "1.2");
    let mut without_macvlan = lab("up macvlan");
    let (_directory, path) = program("ip", WITHOUT_MACVLAN);
    without_macvlan.env("PATH", path);
    for (command, code, said) in [
        (without_server, 1, "the server did not come up"),
        (bad_net, 1, "1.2 does not begin an IPv6 network"),
        (without_macvlan, UNAVAILABLE, "this kernel cannot make it"),
        (lab("up ring"), 2, "unknown topology 'ring'"),
        (lab("run -6 veth"), 2, "run takes a topology"),
    ] {
        let job = Job::start(command);
        let pid = job.id();
        let ran = job.wait().exits(code);
        assert!(ran.stderr.contains(said), "{said:?} not in {ran:#?}");
        leaves_nothing(pid);
    }
}

/// A `tare` whose `bw` is made up, and fails for one size.
const MADE_UP_BANDWIDTH: &str = r#"#!/bin/sh
case "$*" in
"bw --help") exit 0 ;;
"bw "*"--size 64 "*) echo "tare: the path is cut" >&2; exit 1 ;;
"bw "*) echo '{"results": [{"bandwidth": {"bits_per_s": 12340000000.0}}]}'; exit 0 ;;
esac
exec "$REAL_TARE" "$@"
"#;

#[test]
fn the_table_has_a_row_per_size_and_a_column_per_path() {
    if !is_root("scripts/lab") {
        return;
    }
    let (directory, _) = program("tare", MADE_UP_BANDWIDTH);
    let record = directory.path().join("table.json");
    let (_ip, path) = program("ip", WITHOUT_MACVLAN);
    let flags = "--brief --rounds 2 --wait block --sizes 64:4K:*64 --paths host,bridge,macvlan";
    let mut command = script("lab-table", flags);
    command.arg("--json").arg(&record).env("PATH", path);
    command.env("REAL_TARE", tare().get_program()).env("TARE", directory.path().join("tare"));
    let ran = ran(command).exits(1);
    assert_eq!(ran.stderr, "", "no progress but on a terminal");
    let rows: Vec<Vec<_>> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows[0], ["message", "host", "bridge"], "{ran:#?}");
    assert_eq!((rows[2][0], rows[3][0]), ("64 B", "4 KiB"));
    for column in [1, 2] {
        let (cut, whole) = (rows[2][column], rows[3][column]);
        assert!(cut.contains(" µs / ") && cut.ends_with("<br>failed"), "{cut}");
        assert!(whole.contains(" µs / ") && whole.ends_with("<br>12.3 Gbit/s"), "{whole}");
    }
    for line in
        ["Failed: bridge, 64 B, bw: exit code 1: the path is cut", "Not on this kernel: macvlan: "]
    {
        assert!(ran.stdout.contains(line), "{line:?} not in {ran:#?}");
    }
    let record: Value = serde_json::from_str(&fs::read_to_string(&record).unwrap()).unwrap();
    assert_eq!(array(&record, "/failed").len(), 2, "{ran:#?}");
    let rounds = array(&record, "/cells").iter().map(|cell| array(cell, "/rounds/p50_ns").len());
    assert!(rounds.eq([2; 4]), "{record:#}");
}
