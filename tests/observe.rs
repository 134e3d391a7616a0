//! What a load costs the target: processes and control groups that are looked at beside a
//! measurement.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::util::{
    Job, Serve, array, figure, is_root, left_out, on_backends, program, run, text, warnings,
};

/// What was observed in the only step.
#[track_caller]
fn observed(report: &Value) -> &Value {
    let all = array(report, "/results/0/observed");
    assert_eq!(all.len(), 1);
    &all[0]
}

#[test]
fn a_server_is_accounted_for_beside_every_measurement() {
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    for (backend, (test, flags)) in on_backends([
        ("lat", "-d 200ms --wait block"),
        ("bw", "-d 200ms --wait block"),
        ("http", "-d 200ms -c 2"),
        ("lat", "-n 500 --wait block"),
    ]) {
        let serve = Serve::start("");
        let what = format!("pid:{}", serve.job.id());
        let flags = format!("{flags} --backend {backend} --observe far={what}");
        let report = serve.test(test, &flags).exits(0).report();
        let one = observed(&report);
        assert_eq!((text(one, "/name"), text(one, "/what")), ("far", &*what));
        let span = figure(one, "/span_ns");
        let used = figure(one, "/user_ns") + figure(one, "/system_ns");
        assert!(used > 0 && used <= span * cpus, "{test}: {one:#}");
        let duration = figure(&report, "/results/0/duration_ns");
        // A busy machine wakes the thread that looks late, at either end.
        assert!(span > duration / 2, "{test}: {duration} ns, {one:#}");
        let share = used as f64 / span as f64;
        assert!((one["cpus"].as_f64().unwrap() - share).abs() < 1e-9);
        assert!(figure(one, "/memory_bytes") > 100_000, "{one:#}");
        assert!(figure(one, "/memory_max_bytes") >= figure(one, "/memory_bytes"));
        assert!(figure(one, "/voluntary_switches") > 0, "it sleeps: {one:#}");
        assert_eq!(figure(one, "/processes"), 1);
        assert_eq!(one["note"], Value::Null, "{one:#}");
        let machine = &report["results"][0]["cpu"]["client"];
        let share = |name: &str| machine[name].as_f64().unwrap();
        assert!(share("machine_softirq") <= share("machine_busy"), "{machine:#}");
        assert_eq!(report["plan"]["observe"][0]["what"], what);
    }
}

#[test]
fn what_ends_in_the_measured_phase_is_reported() {
    let serve = Serve::start("");
    let mut sleeper = program("sleep", "60").spawn().unwrap();
    let flags =
        format!("-n 100k --timeout 30s --wait block --warmup 0 --observe it=pid:{}", sleeper.id());
    let client = Job::lat(serve.address(), &flags);
    client.is_measuring();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let ran = client.wait().exits(0);
    let report = ran.report();
    let one = observed(&report);
    assert_eq!(figure(one, "/processes"), 0, "{one:#}");
    assert_eq!(figure(one, "/processes_ended"), 1);
    assert!(text(one, "/note").contains("1 process ended"), "{one:#}");
    assert!(warnings(&report).contains(&"observed-gone"));
    assert!(ran.stderr.contains("it (pid:"), "{}", ran.stderr);
}

#[test]
fn what_is_not_there_is_refused_before_anything_is_measured() {
    for (what, code, words) in [
        ("x=comm:no-such-thing", 1, "pgrep -l no-such-thing"),
        ("x=pid:4194305", 1, "there is no process 4194305"),
        ("x=cgroup:no/such", 1, "there is no control group 'no/such'"),
        ("x=nginx", 2, "web=comm:nginx"),
    ] {
        // Nobody listens there: it is not even tried.
        let ran = run(&["lat", "127.0.0.1:1", "--observe", what]).exits(code);
        assert_eq!(ran.stdout, "", "{what}");
        let said = ran.stderr.lines().any(|line| line.contains(words));
        assert!(said, "{what}: {}", ran.stderr);
    }
}

/// A control group made for a test, and removed after it.
struct Limited {
    directory: PathBuf,
    /// As `--observe` names it.
    name: String,
}

impl Limited {
    /// To a tenth of a CPU; none where the CPU controller cannot be had here.
    fn make() -> Option<Self> {
        let name = format!("tare-test-{}", std::process::id());
        for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"] {
            let directory = PathBuf::from(hierarchy).join(&name);
            let has = |file: &str| PathBuf::from(hierarchy).join(file).exists();
            let is_v1 = has("cpu.cfs_quota_us");
            if !is_v1 && !has("cgroup.controllers") || fs::create_dir(&directory).is_err() {
                continue;
            }
            let (file, limit) =
                if is_v1 { ("cpu.cfs_quota_us", "10000") } else { ("cpu.max", "10000 100000") };
            let made = Self { name: name.clone(), directory };
            let path = made.directory.join(file);
            if path.exists() && fs::write(path, limit).is_ok() {
                return Some(made);
            }
        }
        left_out("no CPU controller to set a limit with");
        None
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let removed = fs::remove_dir(&self.directory);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

#[test]
fn a_throttled_container_is_named_with_its_limit() {
    if !is_root("making a control group") {
        return;
    }
    let Some(limited) = Limited::make() else { return };
    let mut busy = program("sh", "-c");
    busy.arg("while :; do :; done");
    // Declared after the group, so ended before it is removed.
    let busy = Job::start(busy);
    let member = busy.id().to_string();
    fs::write(limited.directory.join("cgroup.procs"), &member).unwrap();
    let serve = Serve::start("");
    let targets = [format!("cgroup:{}", limited.name), format!("pid:{member}")];
    for (backend, what) in on_backends(targets.each_ref()) {
        let flags = format!("-d 500ms --wait block --backend {backend} --observe web={what}");
        let report = serve.lat(&flags).exits(0).report();
        let one = observed(&report);
        assert!(figure(one, "/throttled_ns") > 0, "{one:#}");
        let periods = figure(one, "/throttled_periods");
        assert!(periods > 0 && periods <= figure(one, "/periods"), "{one:#}");
        assert_eq!(one["cpu_limit"], 0.1, "{one:#}");
        let cpus = one["cpus"].as_f64().unwrap_or(0.0);
        assert!(cpus < 0.25 && (cpus > 0.0 || what.starts_with("cgroup")), "{one:#}");
        assert!(warnings(&report).contains(&"observed-throttled"), "{report:#}");
        let mut messages = array(&report, "/warnings").iter().map(|w| text(w, "/message"));
        let words = "web was throttled by its CPU limit of 0.1 in ";
        assert!(messages.any(|message| message.starts_with(words)), "{report:#}");
    }
}
