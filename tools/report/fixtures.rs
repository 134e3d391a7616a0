//! Hand-made reports for the renderers' tests: round numbers, and every shape a report can take.

pub(crate) mod bulk;
pub(crate) mod compare;
pub(crate) mod doctor;
pub(crate) mod http;
pub(crate) mod page;

use std::collections::BTreeMap;

use serde_json::json;
use tare_stats::result::{
    AssertionResult, Connections, Device, Environment, Environments, ErrorCount, INTERVALS_OF_RUN,
    Instrument, Instruments, Interval, Latencies, Observed, Operations, Params, Rate, Report,
    SCHEMA, StepResult, Summary, Tool, Warmup, Warning,
};

fn summary(p50_ns: u64, count: u64) -> Summary {
    let enough = |needed: u64, ns: u64| (count >= needed).then_some(ns);
    let near = |ns: u64| (ns - ns / 100, ns + ns / 50);
    Summary {
        count,
        min_ns: Some(p50_ns * 9 / 10),
        mean_ns: Some(p50_ns as f64 * 1.05),
        stdev_ns: Some(p50_ns as f64 / 8.0),
        p50_ns: Some(p50_ns),
        p75_ns: Some(p50_ns * 11 / 10),
        p90_ns: Some(p50_ns * 12 / 10),
        p95_ns: Some(p50_ns * 13 / 10),
        p99_ns: enough(1_000, p50_ns * 16 / 10),
        p99_9_ns: enough(10_000, p50_ns * 5 / 2),
        p99_99_ns: enough(100_000, p50_ns * 6),
        max_ns: Some(p50_ns * 30),
        intervals_ns: BTreeMap::from([
            ("p50".into(), near(p50_ns)),
            ("p99".into(), near(p50_ns * 16 / 10)),
            ("p99_9".into(), near(p50_ns * 5 / 2)),
        ]),
        errors_ns: BTreeMap::from([
            ("p50".into(), 90),
            ("p99".into(), 310),
            ("p99_9".into(), 1_200),
        ]),
        hdr: "HISTFAAAAA==".into(),
        ..Summary::default()
    }
}

fn instrument(cpu: u32) -> Instrument {
    Instrument {
        backend: "uring".into(),
        backend_reason: "the probe succeeded".into(),
        wait: "spin".into(),
        cpus: vec![cpu],
        clock_ns: 24,
        clock_granularity_ns: 1,
        turn_p50_ns: 310,
        turn_p99_ns: 420,
        turn_max_ns: 18_000,
        gap_p99_ns: 400,
        worker_busy_max: 0.31,
        involuntary_switches: 1,
        steal_ns: Some(0),
        ..Instrument::default()
    }
}

fn step(size_bytes: u64, p50_ns: u64, completed: u64) -> StepResult {
    StepResult {
        params: Params {
            proto: "tcp".into(),
            size_bytes,
            connections: 1,
            connect_each: Some(false),
            server_delay_ns: Some(0),
            timeout_ns: 2_000_000_000,
            target: "node-2:7117".into(),
            address: Some("10.0.0.2:7117".into()),
            ..Params::default()
        },
        duration_ns: 5_000_000_000,
        operations: Operations {
            due: completed + 1,
            sent: completed + 1,
            completed,
            in_flight_at_end: 1,
            ..Operations::default()
        },
        warmup: Warmup { duration_ns: 500_000_000, ..Warmup::default() },
        rate: Rate {
            target_per_s: None,
            achieved_per_s: completed as f64 / 5.0,
            ..Rate::default()
        },
        latency: Latencies {
            service: summary(p50_ns, completed),
            connect: Some(summary(40_000, 1)),
            server_residence: Some(summary(1_100, completed)),
            path: Some(summary(p50_ns - 1_100, completed)),
            ..Latencies::default()
        },
        connections: Connections {
            asked: 1,
            established: 1,
            reconnects: 0,
            sockets_used: 1,
            ..Connections::default()
        },
        latency_error_ns: 425,
        interval_scope: INTERVALS_OF_RUN.into(),
        instrument: Instruments { client: instrument(0), server: Some(instrument(1)) },
        intervals: (1..=2)
            .map(|n| Interval {
                at_ns: n * 1_000_000_000,
                completed: completed / 5,
                errors: 0,
                p50_ns: Some(p50_ns),
                p99_ns: Some(p50_ns * 16 / 10),
                max_ns: Some(p50_ns * 20),
                ..Interval::default()
            })
            .collect(),
        instances: vec!["00c0ffee00c0ffee".into()],
        ..StepResult::default()
    }
}

fn machine(hostname: &str) -> Environment {
    Environment {
        tare_version: "0.1.0".into(),
        hostname: Some(hostname.into()),
        kernel: Some("6.18.1".into()),
        cpu_model: Some("Example CPU @ 2.50GHz".into()),
        cpus_online: Some(2),
        cpus_allowed: Some("0-1".into()),
        governor: Some("performance".into()),
        device: Some(Device { name: "eth0".into(), mtu_bytes: Some(1500), ..Device::default() }),
        ..Environment::default()
    }
}

fn report(results: Vec<StepResult>) -> Report {
    Report {
        schema: SCHEMA.into(),
        tool: Tool { name: "tare".into(), version: "0.1.0".into() },
        kind: "lat".into(),
        started_at: "2025-11-20T12:00:00Z".into(),
        partial: false,
        seed: 7,
        plan: json!({ "target": "node-2:7117", "secret": null }),
        environment: Environments {
            client: machine("node-1"),
            servers: vec![Environment {
                instance: Some("00c0ffee00c0ffee".into()),
                ..machine("node-2")
            }],
        },
        results,
        comparison: None,
        assertions: Vec::new(),
        warnings: Vec::new(),
    }
}

/// One step, over TCP, in closed loop, undisturbed.
pub(crate) fn one_step() -> Report {
    report(vec![step(64, 9_000, 540_000)])
}

/// Three sizes, the last with too few samples for the far quantiles; assertions of every fate.
pub(crate) fn sweep() -> Report {
    let mut report = report(vec![
        step(64, 9_000, 540_000),
        step(4_096, 11_000, 430_000),
        step(1 << 20, 620_000, 8_000),
    ]);
    let fates = [Some(true), Some(false), None];
    for (holds, size) in fates.into_iter().zip(["64", "4096", "1048576"]) {
        report.assertions.push(AssertionResult {
            expr: "p99<15us".into(),
            step: format!("size={size}"),
            actual: Some(14_400.0),
            interval: Some((14_256.0, 14_688.0)),
            holds,
        });
    }
    report
}

/// A schedule of a thousand a second; a label; a quantile beyond the usual ones.
pub(crate) fn open_loop() -> Report {
    let mut step = step(64, 52_000, 5_000);
    step.params.rate_per_s = Some(1_000.0);
    step.rate.target_per_s = Some(1_000.0);
    step.label = Some("tuned | <b>idle off</b>".into());
    let mut response = summary(53_000, 5_000);
    response.extra_ns.insert("p99_5".into(), 90_000);
    step.latency.response = Some(response);
    step.latency.lateness = Some(summary(800, 5_000));
    for end in [Some(&mut step.instrument.client), step.instrument.server.as_mut()] {
        let end = end.expect("both ends are there");
        end.wait = "hybrid".into();
        end.wakeup_p99_ns = Some(48_000);
    }
    report(vec![step])
}

/// Datagrams, of which some were lost, through epoll, with two servers behind one address.
pub(crate) fn udp_losses() -> Report {
    let mut step = step(16, 12_000, 99_900);
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
    service.count = 100_008;
    service.p99_99_ns = Some(2_000_000_000);
    service.max_ns = Some(2_000_000_000);
    service.lower_bounds = vec!["p99_99".into()];
    step.errors = vec![ErrorCount { phase: "receive".into(), cause: "timeout".into(), count: 100 }];
    step.warmup.errors =
        vec![ErrorCount { phase: "receive".into(), cause: "timeout".into(), count: 3 }];
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
    report.environment.servers.push(Environment {
        instance: Some("0ddba110ddba1100".into()),
        container: Some("kubernetes".into()),
        cgroup_cpu_limit: Some(1.5),
        ..machine("node-3")
    });
    report
}

/// Cut short, saturated at one end and disturbed at both, with warnings; the server told nothing.
pub(crate) fn partial() -> Report {
    let mut step = step(64, 9_000, 700);
    step.partial = true;
    step.duration_ns = 1_234_000_000;
    step.errors = vec![
        ErrorCount { phase: "receive".into(), cause: "ECONNRESET".into(), count: 1 },
        ErrorCount { phase: "connect".into(), cause: "ECONNREFUSED".into(), count: 12 },
    ];
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
    let mut steps = vec![step(64, 9_000, 540_000), step(4_096, 11_000, 430_000)];
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
    let ended = Observed {
        name: "db".into(),
        what: "pid:4711".into(),
        span_ns: 5_000_900_000,
        user_ns: Some(30_000_000),
        system_ns: Some(0),
        cpus: Some(0.006),
        memory_max_bytes: Some(700 << 10),
        throttled_periods: Some(0),
        throttled_ns: Some(0),
        processes: Some(0),
        processes_ended: 1,
        note: Some("1 process ended: counted until the last look before that".into()),
        ..Observed::default()
    };
    let gone = Observed {
        name: "db".into(),
        what: "pid:4711".into(),
        processes: Some(0),
        note: Some("there is no process 4711".into()),
        ..Observed::default()
    };
    let unthrottled =
        Observed { throttled_periods: Some(0), throttled_ns: Some(0), ..throttled.clone() };
    steps[0].observed = vec![throttled, ended];
    steps[1].observed = vec![unthrottled, gone];
    for step in &mut steps {
        let used = &mut step.cpu.client;
        used.machine_busy = Some(0.48);
        used.machine_softirq = Some(0.12);
        used.machine_softnet_dropped = Some(0);
        used.machine_softnet_squeezed = Some(3);
    }
    report(steps)
}

/// The same of one step.
pub(crate) fn observed_once() -> Report {
    let mut report = observed();
    report.results.truncate(1);
    report
}

/// Every hand-made report, by name.
pub(crate) fn all() -> Vec<(&'static str, Report)> {
    vec![
        ("one-step", one_step()),
        ("sweep", sweep()),
        ("open-loop", open_loop()),
        ("udp-losses", udp_losses()),
        ("partial", partial()),
        ("observed", observed()),
        ("observed-once", observed_once()),
        ("bw-one", bulk::one()),
        ("bw-sweep", bulk::sweep()),
        ("bw-both", bulk::both()),
        ("bw-udp", bulk::udp()),
        ("bw-link-bound", bulk::link_bound()),
        ("bw-partial", bulk::partial()),
        ("under-load", bulk::under_load()),
        ("under-load-sweep", bulk::under_load_sweep()),
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
