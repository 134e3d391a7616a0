//! Reports for the renderers' tests, of every shape that a report can take: those saved under
//! `tests/golden`, and what some changes make of them.

pub(crate) mod bulk;
pub(crate) mod compare;
pub(crate) mod http;

use tare_stats::histogram::Distribution;
use tare_stats::result::{
    Diagnosis, Environment, ErrorCount, Finding, Level, Observed, Operations, Report, SCHEMA,
    StepResult, Summary, Tool, Warning,
};
use tare_stats::summary::summarise;
use tare_units::Nanos;

/// Whether the text holds every one of these `|parts|`.
#[track_caller]
pub(crate) fn holds(text: &str, parts: &str) {
    for part in parts.split('|') {
        assert!(text.contains(part), "{part} in {text}");
    }
}

fn saved(name: &str) -> Report {
    let root = env!("CARGO_MANIFEST_DIR");
    let text = std::fs::read(format!("{root}/tests/golden/{name}.json")).expect(name);
    serde_json::from_slice(&text).expect(name)
}

/// Samples about a median, and one far above it.
fn distributed(p50_ns: u64, samples: u64) -> Summary {
    let mut distribution = Distribution::uncensored();
    for n in 0..samples {
        let share = n as f64 / samples as f64;
        let length = p50_ns as f64 * (0.8 + 0.25 * share + 0.2 * share.powi(8));
        distribution.record(Nanos(length as u64));
    }
    distribution.record(Nanos(p50_ns * 30));
    summarise(&distribution, &[], &|_| 1.0)
}

/// The same of `count` samples, of which some stand for the others.
fn summary(p50_ns: u64, count: u64) -> Summary {
    Summary { count, ..distributed(p50_ns, count.min(5_000)) }
}

fn step(size_bytes: u64, service: Summary) -> StepResult {
    let mut step = one_step().results.remove(0);
    step.params.size_bytes = size_bytes;
    step.operations.completed = service.count;
    step.operations.sent = service.count + 1;
    step.operations.due = service.count + 1;
    step.rate.achieved_per_s = service.count as f64 / 5.0;
    step.latency.path = Some(service.clone());
    step.latency.service = service;
    step
}

fn error(phase: &str, cause: &str, count: u64) -> ErrorCount {
    ErrorCount { phase: phase.into(), cause: cause.into(), count }
}

fn report(results: Vec<StepResult>) -> Report {
    Report { results, ..one_step() }
}

/// One step, over TCP, in closed loop, undisturbed.
pub(crate) fn one_step() -> Report {
    saved("lat")
}

/// Three sizes, the last with too few samples for the far quantiles; assertions of every fate.
pub(crate) fn sweep() -> Report {
    saved("saved/sweep")
}

/// A schedule of a thousand a second; a label; a quantile beyond the usual ones.
pub(crate) fn open_loop() -> Report {
    saved("saved/lat")
}

/// Datagrams, of which some were lost, through epoll, with two servers behind one address.
pub(crate) fn udp_losses() -> Report {
    let mut step = step(16, summary(12_000, 100_008));
    step.params.proto = "udp".into();
    step.params.connections = 8;
    step.operations = Operations {
        due: 100_008,
        sent: 100_008,
        completed: 99_900,
        timed_out: 100,
        in_flight_at_end: 8,
        ..Operations::default()
    };
    step.latency.connect = None;
    let service = &mut step.latency.service;
    service.censored = 108;
    service.p99_99_ns = Some(2_000_000_000);
    service.max_ns = Some(2_000_000_000);
    service.lower_bounds = vec!["p99_99".into()];
    step.errors = vec![error("receive", "timeout", 100)];
    step.warmup.errors = vec![error("receive", "timeout", 3)];
    let client = &mut step.instrument.client;
    client.backend = "epoll".into();
    client.backend_reason = "io_uring is denied (EPERM) by the container's seccomp profile".into();
    client.wait = "block".into();
    client.wait_reason = Some("one CPU for both ends".into());
    client.cpus = vec![0, 1, 2, 5];
    client.steal_ns = None;
    step.connections.asked = 8;
    step.connections.established = 8;
    step.instances.push("0ddba110ddba1100".into());
    let mut report = report(vec![step]);
    let servers = &mut report.environment.servers;
    servers.push(Environment {
        instance: Some("0ddba110ddba1100".into()),
        hostname: Some("node-3".into()),
        container: Some("kubernetes".into()),
        cgroup_cpu_limit: Some(1.5),
        ..servers[0].clone()
    });
    report
}

/// Cut short, saturated at one end and disturbed at both, with warnings; the server reported
/// nothing.
pub(crate) fn partial() -> Report {
    let mut step = step(64, summary(9_000, 700));
    step.partial = true;
    step.duration_ns = 1_234_000_000;
    step.errors = vec![error("receive", "ECONNRESET", 1), error("connect", "ECONNREFUSED", 12)];
    step.operations.due += 1;
    step.operations.sent += 1;
    step.operations.failed = 1;
    step.connections.reconnects = 12;
    step.instrument.server = None;
    let client = &mut step.instrument.client;
    client.saturated = true;
    client.worker_busy_max = 0.97;
    client.saturation = Some("its busiest worker was busy 97 % of the time".into());
    client.disturbed = true;
    client.disturbances = vec!["steal 12 ms".into(), "31 involuntary switches".into()];
    client.throttled_ns = Some(5_000_000);
    client.ring_overflows = 2;
    step.latency.server_residence = None;
    step.latency.path = None;
    let mut report = report(vec![step]);
    report.partial = true;
    report.environment.servers.clear();
    report.warnings = vec![
        Warning {
            code: "governor".into(),
            message: "CPU 0 runs under the powersave governor".into(),
            advice: "cpupower frequency-set -g performance".into(),
        },
        Warning {
            code: "generator-saturated".into(),
            message: "the generator, not the path, was the bottleneck".into(),
            advice: String::new(),
        },
    ];
    report
}

/// A throttled container, a process of which little is known, and one that ended; the machine
/// beside them.
pub(crate) fn observed() -> Report {
    let mut report = report(sweep().results);
    report.results.truncate(2);
    let throttled = Observed {
        name: "nginx".into(),
        what: "cgroup:docker/0a1b".into(),
        span_ns: 5_000_900_000,
        user_ns: Some(2_100_000_000),
        system_ns: Some(2_750_000_000),
        cpus: Some(0.97),
        memory_bytes: Some(12 << 20),
        memory_max_bytes: Some(13 << 20),
        cpu_limit: Some(1.0),
        periods: Some(50),
        throttled_periods: Some(12),
        throttled_ns: Some(340_000_000),
        voluntary_switches: Some(123_456),
        involuntary_switches: Some(789),
        processes: Some(3),
        ..Observed::default()
    };
    let unthrottled =
        Observed { throttled_periods: Some(0), throttled_ns: Some(0), ..throttled.clone() };
    let gone = Observed {
        name: "db".into(),
        what: "pid:4711".into(),
        processes: Some(0),
        note: Some("there is no process 4711".into()),
        ..Observed::default()
    };
    let ended = Observed {
        span_ns: 5_000_900_000,
        user_ns: Some(30_000_000),
        system_ns: Some(0),
        cpus: Some(0.006),
        memory_max_bytes: Some(700 << 10),
        throttled_periods: Some(0),
        throttled_ns: Some(0),
        processes_ended: 1,
        note: Some("1 process ended: counted until the last look before that".into()),
        ..gone.clone()
    };
    report.results[0].observed = vec![throttled, ended];
    report.results[1].observed = vec![unthrottled, gone];
    for step in &mut report.results {
        let used = &mut step.cpu.client;
        used.machine_busy = Some(0.48);
        used.machine_softirq = Some(0.12);
        used.machine_softnet_dropped = Some(0);
        used.machine_softnet_squeezed = Some(3);
    }
    report
}

/// Every report of a measurement, by name.
pub(crate) fn all() -> Vec<(&'static str, Report)> {
    vec![
        ("one-step", one_step()),
        ("sweep", sweep()),
        ("open-loop", open_loop()),
        ("udp-losses", udp_losses()),
        ("partial", partial()),
        ("observed", observed()),
        ("observed-once", report(vec![observed().results.remove(0)])),
        ("bw-one", bulk::one()),
        ("bw-sweep", bulk::sweep()),
        ("bw-both", bulk::both()),
        ("bw-udp", bulk::udp()),
        ("bw-link-bound", bulk::link_bound()),
        ("bw-partial", bulk::partial()),
        ("under-load", bulk::under_load(&[64])),
        ("under-load-sweep", bulk::under_load(&[64, 65_536])),
        ("http-one", http::one()),
        ("http-breaker", http::breaker()),
        ("http-sweep", http::sweep()),
        ("http-stages", http::stages()),
        ("http-nothing", http::nothing()),
        ("compare-lat", compare::comparison()),
        ("compare-few-blocks", compare::few_blocks()),
        ("compare-overload", compare::overload()),
        ("compare-failed-arm", compare::failed_arm()),
    ]
}

/// What a doctor found: a finding of each level, of a machine with a card.
pub(crate) fn diagnosis() -> Diagnosis {
    let finding = |code: &str, level, what: &str, [effect, show]: [&str; 2]| Finding {
        code: code.into(),
        level,
        what: what.into(),
        effect: effect.into(),
        show: show.into(),
        ..Finding::default()
    };
    let governor = [
        "the clock rate follows the load (here down to 800 of 4200 MHz)",
        "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    ];
    let governor = Finding {
        mend: Some("cpupower -c 3 frequency-set -g performance".into()),
        undo: Some("cpupower -c 3 frequency-set -g powersave".into()),
        ..finding("governor", Level::Spoils, "powersave on CPU 3", governor)
    };
    let load = [
        "whoever else wants a CPU takes the measuring ones too",
        "cat /proc/loadavg; top -b -n 1 | head -20",
    ];
    let load = Finding {
        value: Some(0.4),
        unit: Some("tasks".into()),
        mend: Some("end or move what else runs".into()),
        ..finding("load", Level::Note, "0.4 tasks wanted to run", load)
    };
    let turbo = ["some per cent from run to run", "cat /sys/devices/system/cpu/cpufreq/boost"];
    let turbo = finding("turbo", Level::Unknown, "nothing tells", turbo);
    let clock = [
        "a clock that is read in the kernel costs some 0.2 to 1 µs each time",
        "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
    ];
    let what = "tsc; reading the clock costs 19 ns";
    let clock = Finding {
        value: Some(19.0),
        unit: Some("ns".into()),
        ..finding("clock-source", Level::Ok, what, clock)
    };
    Diagnosis {
        schema: SCHEMA.into(),
        kind: "doctor".into(),
        tool: Tool { name: "tare".into(), version: "0.1.0".into() },
        started_at: "2026-03-01T12:00:00Z".into(),
        look_ns: 1_000_000_000,
        cpus: vec![3],
        target: Some("node-2".into()),
        address: Some("192.0.2.2".into()),
        device: Some("eth0".into()),
        environment: Environment {
            tare_version: "0.1.0".into(),
            kernel: Some("6.8.0".into()),
            ..Environment::default()
        },
        findings: vec![clock, governor, turbo, load],
    }
}
