use super::*;
use crate::fixtures::Fixture;
use crate::process::ns_per_tick;

const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

fn of(text: &str) -> Vec<Observation> {
    vec![text.parse().unwrap()]
}

/// A process of that name that began at `started`, has used so many ticks in either mode and has so
/// much resident, KiB.
fn process(
    fixture: &Fixture,
    pid: u32,
    name: &str,
    started: u64,
    (user, system): (u64, u64),
    (resident, peak): (u64, u64),
) {
    let at = |file: &str| format!("/proc/{pid}/{file}");
    fixture.write(&at("comm"), &format!("{name}\n"));
    let stat =
        format!("{pid} ({name}) S 1 1 1 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 1 0 {started} 0 0");
    fixture.write(&at("stat"), &stat);
    let status = format!("VmHWM:\t{peak} kB\nVmRSS:\t{resident} kB\n");
    fixture.write(&at("status"), &status);
}

fn thread(fixture: &Fixture, pid: u32, tid: u32, voluntary: u64, involuntary: u64) {
    let status = format!(
        "voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n"
    );
    fixture.write(&format!("/proc/{pid}/task/{tid}/status"), &status);
}

fn ends(fixture: &Fixture, pid: u32) {
    let path = fixture.files().path(format!("/proc/{pid}"));
    std::fs::remove_dir_all(path).unwrap();
}

/// What is observed while `meanwhile` happens.
fn observed(fixture: &Fixture, text: &str, meanwhile: impl FnOnce(&mut Watching)) -> Observed {
    let mut watching = Watching::find_below(&fixture.files(), &of(text));
    watching.begin();
    meanwhile(&mut watching);
    watching.end();
    let mut all = watching.into_observed();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn ticks(count: u64) -> Option<u64> {
    Some(count * ns_per_tick())
}

#[test]
fn a_process_is_all_its_threads_and_its_groups_limit() {
    let group = "/sys/fs/cgroup/web";
    let fixture = Fixture::new(&[
        ("/proc/self/mountinfo", V2),
        ("/proc/7/cgroup", "0::/web\n"),
        (&format!("{group}/cpu.max"), "50000 100000\n"),
        (&format!("{group}/cpu.stat"), "nr_periods 100\nnr_throttled 3\nthrottled_usec 1000\n"),
    ]);
    process(&fixture, 7, "web", 5, (10, 20), (100, 400));
    thread(&fixture, 7, 7, 50, 5);
    thread(&fixture, 7, 8, 10, 1);
    let seen = observed(&fixture, "w=pid:7", |watching| {
        process(&fixture, 7, "web", 5, (12, 23), (300, 400));
        watching.between(Instant::FAR_FUTURE);
        process(&fixture, 7, "web", 5, (14, 26), (200, 400));
        thread(&fixture, 7, 7, 60, 5);
        thread(&fixture, 7, 9, 4, 2);
        fixture.write(
            &format!("{group}/cpu.stat"),
            "nr_periods 150\nnr_throttled 15\nthrottled_usec 341000\n",
        );
    });
    assert_eq!((seen.name.as_str(), seen.what.as_str()), ("w", "pid:7"));
    assert_eq!((seen.user_ns, seen.system_ns), (ticks(4), ticks(6)));
    assert!(seen.span_ns > 0 && seen.cpus.unwrap() > 0.0);
    assert_eq!(seen.memory_bytes, Some(200 << 10));
    assert_eq!(seen.memory_max_bytes, Some(300 << 10), "seen in between");
    assert_eq!(seen.cpu_limit, Some(0.5));
    assert_eq!((seen.periods, seen.throttled_periods), (Some(50), Some(12)));
    assert_eq!(seen.throttled_ns, Some(340_000_000));
    assert_eq!(seen.voluntary_switches, Some(14), "10, and 4 of a new thread");
    assert_eq!(seen.involuntary_switches, Some(2));
    assert_eq!((seen.processes, seen.note), (Some(1), None));
}

#[test]
fn the_kernels_own_mark_tells_a_peak_between_two_looks() {
    let fixture = Fixture::new(&[]);
    process(&fixture, 7, "web", 5, (0, 0), (100, 400));
    let seen = observed(&fixture, "w=pid:7", |_| {
        process(&fixture, 7, "web", 5, (0, 0), (100, 900));
    });
    assert_eq!(seen.memory_bytes, Some(100 << 10));
    assert_eq!(seen.memory_max_bytes, Some(900 << 10));
    // Neither groups nor threads are to be seen: that is not known.
    assert_eq!((seen.throttled_periods, seen.voluntary_switches), (None, None));
}

#[test]
fn processes_of_a_name_are_counted_as_far_as_they_lived() {
    let fixture = Fixture::new(&[]);
    process(&fixture, 10, "nginx", 1, (100, 0), (10, 10));
    process(&fixture, 11, "nginx", 2, (100, 0), (20, 20));
    process(&fixture, 12, "nginx", 3, (100, 0), (20, 20));
    process(&fixture, 13, "other", 3, (0, 0), (1, 1));
    let seen = observed(&fixture, "n=comm:nginx", |watching| {
        process(&fixture, 10, "nginx", 1, (105, 1), (10, 10));
        process(&fixture, 11, "nginx", 2, (103, 2), (20, 20));
        watching.between(Instant::FAR_FUTURE);
        // One ends, one takes the id of another that ended, one comes.
        ends(&fixture, 11);
        process(&fixture, 12, "nginx", 99, (4, 0), (20, 20));
        process(&fixture, 14, "nginx", 99, (2, 5), (5, 5));
        process(&fixture, 13, "other", 3, (500, 500), (1, 1));
    });
    assert_eq!(seen.user_ns, ticks(5 + 3 + 4 + 2));
    assert_eq!(seen.system_ns, ticks(1 + 2 + 5));
    assert_eq!(seen.memory_bytes, Some(35 << 10));
    assert_eq!(seen.memory_max_bytes, Some(50 << 10));
    assert_eq!(seen.processes, Some(3));
    assert_eq!((seen.processes_ended, seen.processes_came), (2, 2));
    assert_eq!(
        seen.note.as_deref(),
        Some(
            "2 processes ended: counted until the last look before that; 2 processes came: counted from the start"
        )
    );
}

#[test]
fn a_process_that_vanishes_is_counted_until_it_was_last_seen() {
    let fixture = Fixture::new(&[]);
    process(&fixture, 7, "web", 5, (10, 0), (100, 100));
    let seen = observed(&fixture, "w=pid:7", |watching| {
        process(&fixture, 7, "web", 5, (13, 0), (100, 100));
        watching.between(Instant::FAR_FUTURE);
        ends(&fixture, 7);
    });
    assert_eq!(seen.user_ns, ticks(3));
    assert_eq!((seen.processes, seen.processes_ended), (Some(0), 1));
    assert_eq!(seen.memory_bytes, None);
    assert!(seen.note.unwrap().starts_with("1 process ended"));
}

#[test]
fn a_step_begins_without_what_has_gone_since_the_last() {
    let fixture = Fixture::new(&[]);
    let seen = observed(&fixture, "w=comm:web", |_| {});
    assert_eq!((seen.processes, seen.user_ns), (Some(0), None));
    assert_eq!(seen.note.as_deref(), Some("no process is named 'web'"));
}

#[test]
fn a_group_accounts_for_itself_and_the_limit_that_held_it_is_told() {
    let pod = "/sys/fs/cgroup/pod";
    let at = |name: &str| format!("{pod}/{name}");
    let cpu = |us, throttled| {
        format!(
            "usage_usec {us}\nuser_usec {us}\nsystem_usec 0\nnr_periods 9\nnr_throttled {throttled}\nthrottled_usec {throttled}\n"
        )
    };
    let fixture = Fixture::new(&[
        ("/proc/self/mountinfo", V2),
        (&at("cgroup.procs"), "7\n"),
        (&at("cpu.stat"), &cpu(1_000, 0)),
        (&at("cpu.max"), "100000 100000\n"),
        (&at("memory.current"), "4096\n"),
        (&at("memory.peak"), "4096\n"),
        (&at("web/cgroup.procs"), "8\n"),
        (&at("web/cpu.stat"), &cpu(500, 0)),
        (&at("web/cpu.max"), "200000 100000\n"),
    ]);
    thread(&fixture, 7, 7, 1, 1);
    thread(&fixture, 8, 8, 1, 1);
    let seen = observed(&fixture, "pod=cgroup:pod", |_| {
        fixture.write(&at("cpu.stat"), &cpu(4_000, 0));
        fixture.write(&at("web/cpu.stat"), &cpu(3_000, 2));
        fixture.write(&at("memory.peak"), "16384\n");
        fixture.write(&at("web/cgroup.procs"), "9\n");
        thread(&fixture, 9, 9, 5, 0);
        ends(&fixture, 8);
    });
    assert_eq!((seen.user_ns, seen.system_ns), (Some(3_000_000), Some(0)));
    assert_eq!(seen.cpu_limit, Some(2.0), "not the tightest, the one that stopped it");
    assert_eq!((seen.throttled_periods, seen.throttled_ns), (Some(2), Some(2_000)));
    assert_eq!(seen.memory_bytes, Some(4_096));
    assert_eq!(seen.memory_max_bytes, Some(16_384));
    assert_eq!((seen.voluntary_switches, seen.processes), (Some(5), Some(2)));
    assert_eq!(
        seen.note.as_deref(),
        Some("the context switches of 1 process that ended are not counted")
    );
}

#[test]
fn a_group_that_is_removed_says_so() {
    let fixture = Fixture::new(&[
        ("/proc/self/mountinfo", V2),
        ("/sys/fs/cgroup/pod/cgroup.procs", ""),
        ("/sys/fs/cgroup/pod/cpu.stat", "usage_usec 5\nuser_usec 5\nsystem_usec 0\n"),
    ]);
    let seen = observed(&fixture, "pod=cgroup:pod", |_| {
        let path = fixture.files().path("/sys/fs/cgroup/pod");
        std::fs::remove_dir_all(path).unwrap();
    });
    assert_eq!((seen.user_ns, seen.processes), (None, Some(0)));
    assert_eq!(seen.note.as_deref(), Some("the group was removed"));
}

#[test]
fn nothing_is_told_of_a_step_that_was_never_measured() {
    let fixture = Fixture::new(&[]);
    process(&fixture, 7, "web", 5, (0, 0), (1, 1));
    let watching = Watching::find_below(&fixture.files(), &of("w=pid:7"));
    assert!(watching.lead() > Nanos::ZERO);
    assert_eq!(watching.into_observed(), []);
    assert_eq!(Watching::find(&[]).lead(), Nanos::ZERO);
}

#[test]
fn what_is_not_there_is_refused_with_what_to_type() {
    for (text, words) in [
        ("w=pid:4194305", ["--observe w: there is no process 4194305", "pgrep -a"]),
        ("w=comm:no-such-thing", ["no process is named 'no-such-thing'", "pgrep -l"]),
        ("w=cgroup:no/such", ["there is no control group 'no/such'", "/proc/PID/cgroup"]),
    ] {
        let said = check(&of(text)).unwrap_err().to_string();
        assert!(words.iter().all(|words| said.contains(words)), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
    let me = format!("me=pid:{}", std::process::id());
    assert!(check(&of(&me)).is_ok());
    let fixture = Fixture::new(&[]);
    let most = u32::try_from(OBSERVED_PROCESSES_MAX).unwrap();
    for pid in 1..=most + 1 {
        process(&fixture, pid, "sh", 1, (0, 0), (0, 0));
    }
    let missing = Subject::find(&fixture.files(), &of("w=comm:sh")[0]).unwrap_err();
    assert!(missing.remedy.contains("NAME=cgroup:PATH"), "{missing:?}");
}

#[test]
fn names_are_told_apart_and_not_too_many() {
    let me = std::process::id();
    let one = |name: usize| format!("n{name}=pid:{me}").parse().unwrap();
    let many: Vec<Observation> = (0..=OBSERVATIONS_MAX).map(one).collect();
    assert!(check(&many[1..]).is_ok());
    let said = check(&many).unwrap_err().to_string();
    assert!(said.contains("17 observations"), "{said}");
    let said = check(&[one(1), one(2), one(1)]).unwrap_err().to_string();
    assert!(said.contains("two observations are named 'n1'"), "{said}");
}
