use super::plan::{Late, OpenLoop, Stage, host};
use super::*;
use crate::schedule::Arrivals;
use tare_units::error::Fault;

fn stage(from_per_s: f64, to_per_s: f64, seconds: Option<u64>) -> Stage {
    Stage { from_per_s, to_per_s, duration: seconds.map(Nanos::from_secs) }
}

fn staged(stages: &[Stage]) -> HttpPlan {
    HttpPlan {
        open: Some(OpenLoop {
            stages: stages.to_vec(),
            arrivals: Arrivals::Poisson,
            late: Late::Drop,
        }),
        connections: vec![10, 100],
        ..HttpPlan::to(Target::Loopback)
    }
}

#[test]
fn a_step_for_each_stage_of_each_number_of_connections() {
    let plan = staged(&[stage(1_000.0, 1_000.0, Some(3)), stage(1_000.0, 5_000.0, None)]);
    let steps = plan.steps();
    let told: Vec<_> = steps.iter().map(|s| (s.connections, s.stage)).collect();
    assert_eq!(told, [(10, 0), (10, 1), (100, 0), (100, 1)]);
    assert_eq!(plan.extent(steps[0]), (Some(Nanos::from_secs(3)), None));
    assert_eq!(plan.extent(steps[1]), (Some(Nanos::from_secs(10)), None));
    let at = Destination::Unix("/x".into());
    let params = plan::params(&plan, steps[1], &at, &plan.written(Some(&at)).unwrap());
    let http = params.http.unwrap();
    assert_eq!((params.rate_per_s, http.rate_to_per_s), (Some(1_000.0), Some(5_000.0)));
    assert_eq!((http.stage, http.late.as_deref()), (Some(2), Some("drop")));
    assert_eq!(params.address.as_deref(), Some("unix:/x"));

    let closed = HttpPlan::to(Target::Loopback);
    let steps = closed.steps();
    let params = plan::params(&closed, steps[0], &at, &closed.written(Some(&at)).unwrap());
    let http = params.http.unwrap();
    assert_eq!(steps.len(), 1);
    assert_eq!((params.rate_per_s, http.stage, http.arrivals), (None, None, None));
}

#[test]
fn every_load_over_tcp_is_guarded_however_long_its_connections_last() {
    let guards = |address: Destination| {
        let plan = HttpPlan::to(Target::Loopback);
        step_plan(&plan, &Setting::at(address), plan.steps()[0]).guard.is_some()
    };
    assert!(guards(Destination::Tcp("127.0.0.1:80".parse().unwrap())));
    assert!(!guards(Destination::Unix("/x".into())));
}

#[test]
fn plans_that_cannot_be_carried_out_are_refused_with_advice() {
    let ramp = stage(1.0, 2.0, None);
    let mut counted = staged(&[ramp]);
    counted.common.stop = Stop::Count(100);
    let mut nothing = HttpPlan::to(Target::Loopback);
    nothing.requests.clear();
    let plan = || HttpPlan::to(Target::Loopback);
    for plan in [
        counted,
        nothing,
        staged(&[]),
        HttpPlan { connections: vec![1, 0], ..plan() },
        HttpPlan { pipeline: 0, ..plan() },
        HttpPlan { requests_per_connection: Some(0), ..plan() },
        HttpPlan { connect_rate_per_s: Some(0.0), ..plan() },
    ] {
        let error = plan.check().unwrap_err();
        assert_eq!((error.fault(), error.advice().is_some()), (Fault::Usage, true));
    }
    assert!(staged(&[ramp]).check().is_ok(), "ten seconds by default");
}

#[test]
fn the_host_is_the_one_given_or_the_address() {
    let tcp = Destination::Tcp("127.0.0.1:4000".parse().unwrap());
    let unix = Destination::Unix("/x".into());
    let elsewhere = Target::Host { host: "web".to_owned(), port: 80 };
    for (target, asked, address, is) in [
        (&Target::Loopback, "loopback", &tcp, "127.0.0.1:4000"),
        (&Target::Veth, "", &tcp, "127.0.0.1:4000"),
        (&Target::Loopback, "web", &tcp, "web"),
        (&Target::Unix("/x".into()), "unix:/x", &unix, "localhost"),
        (&elsewhere, "web", &tcp, "web"),
    ] {
        assert_eq!(host(target, asked, Some(address)), is);
    }
    let plan = HttpPlan::to(Target::Loopback);
    let written = plan.written(Some(&tcp)).unwrap();
    let text = String::from_utf8_lossy(written.bytes());
    assert!(text.contains("Host: 127.0.0.1:4000\r\n"), "{text}");
    let params = plan::params(&plan, plan.steps()[0], &tcp, &written).http.unwrap();
    assert_eq!(params.request_bytes, written.bytes().len() as u64);
}

#[test]
fn connects_are_paced_over_all_workers_together() {
    assert_eq!(connect_gap(None, 4), Nanos::ZERO);
    assert_eq!(connect_gap(Some(1_000.0), 1), Nanos::from_millis(1));
    assert_eq!(connect_gap(Some(1_000.0), 4), Nanos::from_millis(4));
    assert_eq!(connect_gap(Some(1e12), 1), Nanos(1));
}

#[test]
fn connections_that_are_replaced_are_counted_beforehand() {
    let mut plan = HttpPlan::to(Target::Loopback);
    plan.common.stop = Stop::Count(1_001);
    assert_eq!(opened(&plan, 10), Some(10));
    plan.requests_per_connection = Some(10);
    assert_eq!(opened(&plan, 10), Some(101));
    plan.requests[0].request.close = true;
    assert_eq!(opened(&plan, 10), Some(1_001));
    // Each request may be an error.
    let mut plan = HttpPlan::to(Target::Loopback);
    plan.common.stop = Stop::Count(1_000);
    assert!(!plan.renews_connections());
    plan.reconnect_on_error = true;
    assert!(plan.renews_connections());
    assert_eq!(opened(&plan, 10), Some(1_000));
}
