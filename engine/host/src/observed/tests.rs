use super::*;
use crate::fixtures::Fixture;
use crate::process::ns_per_tick;

const MOUNT: (&str, &str) =
    ("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");

#[test]
fn each_kind_is_read_and_written_back() {
    for text in [
        "web=pid:123",
        "web-1=comm:nginx: worker",
        "a.b_c=cgroup:system.slice/docker-0a.scope",
        "x=cgroup:/sys/fs/cgroup/pod=1",
    ] {
        let one: Observation = text.parse().unwrap();
        assert_eq!(format!("{}={}", one.name, one.what), text);
    }
    let what = "w=pid:7".parse::<Observation>().unwrap().what;
    assert_eq!(what, Observable::Pid(7));
}

#[test]
fn what_says_nothing_is_refused_with_an_example() {
    let long = format!("{}=pid:1", "x".repeat(33));
    let nameless = ["", "pid:1", "=pid:1", "a b=pid:1", &long];
    let of_nothing = ["a=1", "a=exe:nginx", "a=comm:", "a=comm:/usr/sbin/nginx", "a=comm:x\n"];
    let no_ids = ["a=pid:", "a=pid:0", "a=pid:-1", "a=pid:99999999999", "a=cgroup:../x"];
    for text in [nameless, of_nothing, no_ids].concat() {
        let error = text.parse::<Observation>().unwrap_err().to_string();
        assert!(error.contains("web=comm:nginx"), "{text}: {error}");
        assert_eq!(error.lines().count(), 1);
    }
}

fn of(text: &str) -> Vec<Observation> {
    vec![text.parse().unwrap()]
}

/// A process of that name that began at `started`, has used so many ticks in either mode and has so
/// much resident now and at its peak, KiB.
fn process(
    fixture: &Fixture,
    (pid, name): (u32, &str),
    started: u64,
    (user, system): (u64, u64),
    (resident, peak): (u64, u64),
) {
    let write = |file: &str, text| fixture.write(&format!("/proc/{pid}/{file}"), text);
    write("comm", format!("{name}\n"));
    let times = format!("{user} {system} 0 0 20 0 1 0 {started} 0 0");
    write("stat", format!("{pid} ({name}) S 1 1 1 0 -1 0 0 0 0 0 {times}"));
    write("status", format!("VmHWM:\t{peak} kB\nVmRSS:\t{resident} kB\n"));
}

fn thread(fixture: &Fixture, pid: u32, tid: u32, voluntary: u64, involuntary: u64) {
    let status = format!(
        "voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n"
    );
    fixture.write(&format!("/proc/{pid}/task/{tid}/status"), status);
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
    let stat = "/sys/fs/cgroup/web/cpu.stat";
    let fixture = Fixture::new(&[
        MOUNT,
        ("/proc/7/cgroup", "0::/web\n"),
        ("/sys/fs/cgroup/web/cpu.max", "50000 100000\n"),
        (stat, "nr_periods 100\nnr_throttled 3\nthrottled_usec 1000\n"),
    ]);
    let web = |used, memory| process(&fixture, (7, "web"), 5, used, memory);
    web((10, 20), (100, 400));
    thread(&fixture, 7, 7, 50, 5);
    thread(&fixture, 7, 8, 10, 1);
    let seen = observed(&fixture, "w=pid:7", |watching| {
        web((12, 23), (300, 400));
        watching.between(Instant::FAR_FUTURE);
        web((14, 26), (200, 400));
        thread(&fixture, 7, 7, 60, 5);
        thread(&fixture, 7, 9, 4, 2);
        fixture.write(stat, "nr_periods 150\nnr_throttled 15\nthrottled_usec 341000\n");
    });
    assert!(seen.span_ns > 0 && seen.cpus.unwrap() > 0.0);
    let expected = Observed {
        name: "w".into(),
        what: "pid:7".into(),
        user_ns: ticks(4),
        system_ns: ticks(6),
        memory_bytes: Some(200 << 10),
        // Seen in between.
        memory_max_bytes: Some(300 << 10),
        cpu_limit: Some(0.5),
        periods: Some(50),
        throttled_periods: Some(12),
        throttled_ns: Some(340_000_000),
        // 10, and 4 of a new thread.
        voluntary_switches: Some(14),
        involuntary_switches: Some(2),
        processes: Some(1),
        span_ns: seen.span_ns,
        cpus: seen.cpus,
        ..Observed::default()
    };
    assert_eq!(seen, expected);
}

#[test]
fn the_kernels_own_mark_tells_a_peak_between_two_looks() {
    let fixture = Fixture::new(&[]);
    process(&fixture, (7, "web"), 5, (0, 0), (100, 400));
    let seen = observed(&fixture, "w=pid:7", |_| {
        process(&fixture, (7, "web"), 5, (0, 0), (100, 900));
    });
    assert_eq!((seen.memory_bytes, seen.memory_max_bytes), (Some(100 << 10), Some(900 << 10)));
    // Neither groups nor threads are to be seen: that is not known.
    assert_eq!((seen.throttled_periods, seen.voluntary_switches), (None, None));
}

#[test]
fn processes_of_a_name_are_counted_as_far_as_they_lived() {
    let fixture = Fixture::new(&[]);
    let nginx = |pid, started, used, memory| {
        process(&fixture, (pid, "nginx"), started, used, (memory, memory));
    };
    nginx(10, 1, (100, 0), 10);
    nginx(11, 2, (100, 0), 20);
    nginx(12, 3, (100, 0), 20);
    process(&fixture, (13, "other"), 3, (0, 0), (1, 1));
    let seen = observed(&fixture, "n=comm:nginx", |watching| {
        nginx(10, 1, (105, 1), 10);
        nginx(11, 2, (103, 2), 20);
        watching.between(Instant::FAR_FUTURE);
        // One ends, one takes the id of another that ended, one comes.
        fixture.remove("/proc/11");
        nginx(12, 99, (4, 0), 20);
        nginx(14, 99, (2, 5), 5);
        process(&fixture, (13, "other"), 3, (500, 500), (1, 1));
    });
    assert_eq!((seen.user_ns, seen.system_ns), (ticks(5 + 3 + 4 + 2), ticks(1 + 2 + 5)));
    assert_eq!((seen.memory_bytes, seen.memory_max_bytes), (Some(35 << 10), Some(50 << 10)));
    assert_eq!((seen.processes, seen.processes_ended, seen.processes_came), (Some(3), 2, 2));
    let note = "2 processes ended: counted until the last look before that; \
                2 processes came: counted from the start";
    assert_eq!(seen.note.as_deref(), Some(note));
}

#[test]
fn a_process_that_vanishes_is_counted_until_it_was_last_seen() {
    let fixture = Fixture::new(&[]);
    process(&fixture, (7, "web"), 5, (10, 0), (100, 100));
    let seen = observed(&fixture, "w=pid:7", |watching| {
        process(&fixture, (7, "web"), 5, (13, 0), (100, 100));
        watching.between(Instant::FAR_FUTURE);
        fixture.remove("/proc/7");
    });
    assert_eq!((seen.user_ns, seen.memory_bytes), (ticks(3), None));
    assert_eq!((seen.processes, seen.processes_ended), (Some(0), 1));
    assert!(seen.note.unwrap().starts_with("1 process ended"));
}

#[test]
fn a_group_accounts_for_itself_and_the_limit_that_held_it_is_reported() {
    let fixture = Fixture::new(&[MOUNT]);
    let pod = |name: &str, text: &str| fixture.write(&format!("/sys/fs/cgroup/pod/{name}"), text);
    let cpu = |us, throttled| {
        format!(
            "usage_usec {us}\nuser_usec {us}\nsystem_usec 0\nnr_periods 9\nnr_throttled {throttled}\nthrottled_usec {throttled}\n"
        )
    };
    pod("cgroup.procs", "7\n");
    pod("cpu.stat", &cpu(1_000, 0));
    pod("cpu.max", "100000 100000\n");
    pod("memory.current", "4096\n");
    pod("memory.peak", "4096\n");
    pod("web/cgroup.procs", "8\n");
    pod("web/cpu.stat", &cpu(500, 0));
    pod("web/cpu.max", "200000 100000\n");
    thread(&fixture, 7, 7, 1, 1);
    thread(&fixture, 8, 8, 1, 1);
    let seen = observed(&fixture, "pod=cgroup:pod", |_| {
        pod("cpu.stat", &cpu(4_000, 0));
        pod("web/cpu.stat", &cpu(3_000, 2));
        pod("memory.peak", "16384\n");
        pod("web/cgroup.procs", "9\n");
        thread(&fixture, 9, 9, 5, 0);
        fixture.remove("/proc/8");
    });
    assert_eq!((seen.user_ns, seen.system_ns), (Some(3_000_000), Some(0)));
    assert_eq!(seen.cpu_limit, Some(2.0), "not the tightest, the one that stopped it");
    assert_eq!((seen.throttled_periods, seen.throttled_ns), (Some(2), Some(2_000)));
    assert_eq!((seen.memory_bytes, seen.memory_max_bytes), (Some(4_096), Some(16_384)));
    assert_eq!((seen.voluntary_switches, seen.processes), (Some(5), Some(2)));
    let note = "the context switches of 1 process that ended are not counted";
    assert_eq!(seen.note.as_deref(), Some(note));
}

#[test]
fn what_has_gone_says_so() {
    let fixture = Fixture::new(&[
        MOUNT,
        ("/sys/fs/cgroup/pod/cgroup.procs", ""),
        ("/sys/fs/cgroup/pod/cpu.stat", "usage_usec 5\nuser_usec 5\nsystem_usec 0\n"),
    ]);
    for (text, note) in
        [("w=comm:web", "no process is named 'web'"), ("pod=cgroup:pod", "the group was removed")]
    {
        let seen = observed(&fixture, text, |watching| {
            if watching.lead() > Nanos::ZERO {
                fixture.remove("/sys/fs/cgroup/pod");
            }
        });
        assert_eq!((seen.user_ns, seen.processes), (None, Some(0)));
        assert_eq!(seen.note.as_deref(), Some(note));
    }
}

#[test]
fn nothing_is_reported_of_a_step_that_was_never_measured() {
    let fixture = Fixture::new(&[]);
    process(&fixture, (7, "web"), 5, (0, 0), (1, 1));
    let watching = Watching::find_below(&fixture.files(), &of("w=pid:7"));
    assert!(watching.lead() > Nanos::ZERO);
    assert_eq!(watching.into_observed(), []);
    assert_eq!(Watching::find(&[]).lead(), Nanos::ZERO);
}

#[test]
fn what_cannot_be_observed_is_refused_with_what_to_type() {
    let refused = |observations: &[Observation], words: &[&str]| {
        let said = check(observations).unwrap_err().to_string();
        assert!(words.iter().all(|words| said.contains(words)), "{said}");
        assert_eq!(said.lines().count(), 1);
    };
    for (text, words) in [
        ("w=pid:4194305", ["--observe w: there is no process 4194305", "pgrep -a"]),
        ("w=comm:no-such-thing", ["no process is named 'no-such-thing'", "pgrep -l"]),
        ("w=cgroup:no/such", ["there is no control group 'no/such'", "/proc/PID/cgroup"]),
    ] {
        refused(&of(text), &words);
    }
    let me = std::process::id();
    let one = |name: usize| format!("n{name}=pid:{me}").parse().unwrap();
    let many: Vec<Observation> = (0..=OBSERVATIONS_MAX).map(one).collect();
    assert!(check(&many[1..]).is_ok());
    refused(&many, &["17 observations"]);
    refused(&[one(1), one(2), one(1)], &["two observations are named 'n1'"]);

    let fixture = Fixture::new(&[]);
    let most = u32::try_from(OBSERVED_PROCESSES_MAX).unwrap();
    for pid in 1..=most + 1 {
        process(&fixture, (pid, "sh"), 1, (0, 0), (0, 0));
    }
    let missing = Subject::find(&fixture.files(), &of("w=comm:sh")[0]).unwrap_err();
    assert!(missing.advice().unwrap().contains("NAME=cgroup:PATH"), "{missing:?}");
}
