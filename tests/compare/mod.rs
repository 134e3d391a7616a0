//! `tare compare`, end to end: its blocks, what it finds, and what becomes of arms that fail.

mod faults;
mod hooks;
mod later;

use serde_json::Value;

use crate::util::{
    Job, Ran, Serve, array, backends, figure, is_root, program, run, run_line, text, words,
};

/// As few blocks as carry a verdict over two cells, each short, and of a quantile that so few
/// samples tell.
const BRIEF: [&str; 6] = ["--blocks", "7", "--block-duration", "40ms", "--percentiles", "50"];

const SAME: [&str; 2] = ["a=loopback", "b=loopback"];

/// Compares `arms` briefly; `measured` stands behind `--`.
fn compare(arms: &[&str], measured: &str) -> Ran {
    run(&brief(arms, measured))
}

fn brief<'a>(arms: &[&'a str], measured: &'a str) -> Vec<&'a str> {
    [&["compare"], arms, &BRIEF, &["--format", "json", "--"], &words(measured)].concat()
}

/// The cell of an arm's measure at the first step.
#[track_caller]
fn cell<'a>(report: &'a Value, arm: &str, measure: &str) -> &'a Value {
    cell_of(report, arm, measure, 0)
}

#[track_caller]
fn cell_of<'a>(report: &'a Value, arm: &str, measure: &str, step: u64) -> &'a Value {
    let cells = array(report, "/comparison/cells");
    let is_it = |c: &&Value| c["arm"] == arm && c["measure"] == measure && c["step"] == step;
    cells.iter().find(is_it).unwrap_or_else(|| panic!("no cell {arm} {measure} in {cells:#?}"))
}

fn blocks(report: &Value) -> &[Value] {
    array(report, "/comparison/blocks")
}

fn visited(block: &Value) -> Vec<&str> {
    array(block, "/visits").iter().map(|visit| text(visit, "/arm")).collect()
}

fn visits_to<'a>(report: &'a Value, arm: &str) -> Vec<&'a Value> {
    let visits = blocks(report).iter().flat_map(|block| array(block, "/visits"));
    visits.filter(|visit| visit["arm"] == arm).collect()
}

#[track_caller]
fn assert_backend(report: &Value, backend: &str) {
    assert_eq!(report["comparison"]["backend"], backend);
    for result in array(report, "/results") {
        for end in ["client", "server"] {
            assert_eq!(result["instrument"][end]["backend"], backend);
            assert_eq!(result["instrument"][end]["wait"], "block");
        }
    }
}

#[test]
fn every_block_visits_all_arms_forth_and_back() {
    for backend in backends() {
        let measured = format!("lat --warmup 5ms --wait block --backend {backend}");
        let seeded = [&SAME[..], &["--seed", "5"]].concat();
        let report = compare(&seeded, &measured).exits(0).report();
        let comparison = &report["comparison"];
        assert_eq!(report["kind"], "compare");
        assert_eq!((report["seed"].as_u64(), &report["partial"]), (Some(5), &false.into()));
        assert_eq!(figure(comparison, "/blocks_done"), 7);
        let mut orders = Vec::new();
        for block in blocks(&report) {
            let order = visited(block);
            let (forth, back) = order.split_at(3);
            assert!(forth.iter().eq(back.iter().rev()), "{order:?}");
            let mut sorted = forth.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, ["a", "a/a", "b"]);
            orders.push(order);
        }
        let again = compare(&seeded, &measured).exits(0).report();
        // However many blocks were made up for, those that both have are alike.
        let pairs = orders.iter().zip(blocks(&again).iter().map(visited));
        assert!(pairs.clone().count() >= 7);
        assert!(pairs.into_iter().all(|(one, other)| *one == other));
        orders.sort_unstable();
        orders.dedup();
        assert!(orders.len() > 1, "the order is drawn again for each block");

        // Both arms and the A/A arm have one and the same server, every visit fresh connections.
        let arms = array(comparison, "/arms");
        assert_eq!(arms.len(), 3);
        assert!(arms.iter().all(|arm| arm["instances"] == arms[0]["instances"]));
        assert_backend(&report, backend);
        let sockets = |result| figure(result, "/connections/sockets_used");
        assert!(array(&report, "/results").iter().all(|result| sockets(result) >= 14));
        let cell = cell(&report, "b", "p50");
        assert_eq!(array(cell, "/blocks").len(), 7);
        assert_ne!(cell["verdict"], Value::Null);
        assert_eq!(cell["blocks_needed"], 6);
    }
}

/// A block's histograms are both visits', and the result's those of all visits.
#[test]
fn what_the_visits_measured_is_pooled_and_nothing_is_lost() {
    let ran = compare(&SAME, "lat --warmup 5ms --wait block --size 64,1K");
    let report = ran.exits(0).report();
    let results = array(&report, "/results");
    assert_eq!(results.len(), 6);
    for (index, result) in results.iter().enumerate() {
        let visits = visits_to(&report, text(result, "/arm"));
        let steps: Vec<&Value> = visits.iter().map(|visit| &visit["steps"][index % 2]).collect();
        assert!(steps.len() >= 14);
        let sum: u64 = steps.iter().map(|step| figure(step, "/completed")).sum();
        assert_eq!(figure(result, "/operations/completed"), sum);
        assert_eq!(figure(result, "/latency/service/count"), sum);
        let longest = steps.iter().filter_map(|step| step["max_ns"].as_u64());
        assert_eq!(Some(figure(result, "/latency/service/max_ns")), longest.max());
        assert_eq!(array(result, "/intervals").len(), steps.len());
    }
}

#[test]
fn a_known_difference_is_found_and_is_not_the_paths() {
    for backend in backends() {
        let arms = ["a=loopback", "b=loopback", "--arm-options", "b=--server-delay 300us"];
        let measured = format!("lat --warmup 5ms --wait block --backend {backend}");
        let report = compare(&arms, &measured).exits(0).report();
        let found = cell(&report, "b", "p50");
        assert_eq!(found["verdict"], "slower", "{found:#}");
        let ends = array(found, "/delta/interval");
        assert!(ends[0].as_f64() > Some(250e3) && ends[1].as_f64() < Some(900e3), "{ends:?}");
        assert!(found["ratio"]["median"].as_f64() > Some(1.5));
        let held = cell(&report, "b", "residence_p50")["delta"]["median"].as_f64();
        assert!(held > Some(295e3) && held < Some(400e3), "{held:?}");
        assert_eq!(report["comparison"]["arms"][1]["options"], "--server-delay 300us");
    }
}

#[test]
fn bulk_and_http_are_compared_too() {
    let words = "--blocks 7 --block-duration 40ms --format json -- bw --size 4K,64K";
    let report = run_line(&format!("compare a=loopback b=loopback {words}")).exits(0).report();
    let bandwidth = cell(&report, "b", "bandwidth");
    assert_eq!((&bandwidth["unit"], &bandwidth["declared"]), (&"bit/s".into(), &true.into()));
    assert!(bandwidth["baseline"].as_f64() > Some(1e7), "{bandwidth:#}");

    // Four cells take eight blocks.
    let ran = compare(&SAME, "http -c 2 --stages 500,1000 --warmup 5ms");
    let report = ran.exits(5).report();
    assert_eq!(report["comparison"]["steps"], 2);
    let goodput = cell(&report, "b", "goodput");
    assert_eq!((&goodput["unit"], &goodput["declared"]), (&"1/s".into(), &true.into()));
    let value = goodput["value"].as_f64();
    assert!(value > Some(300.0) && value < Some(600.0), "{goodput:#}");
    assert_eq!(cell(&report, "b", "p50")["declared"], true);
}

/// More is due than a server gets done that takes a millisecond for each: what its latencies show
/// is the queue.
#[test]
fn an_arm_that_is_overloaded_is_compared_by_its_goodput() {
    let report = run_line(
        "compare fast=loopback/queue?service=10us slow=loopback/queue?service=5ms --blocks 8 \
         --block-duration 100ms --format json --percentiles 50 -- http -c 50 -R 1000 --warmup 0",
    )
    .exits(0)
    .report();
    let p50 = cell(&report, "slow", "p50");
    assert_eq!((&p50["overloaded"], &p50["verdict"]), (&true.into(), &"overload".into()));
    let goodput = cell(&report, "slow", "goodput");
    assert_eq!(goodput["verdict"], "slower", "{goodput:#}");
}

/// Nineteen in twenty of what is due are answered in time, and the rest is too little to be missed:
/// but each waits longer than the one before.
#[test]
fn a_queue_that_grows_slowly_is_overload() {
    let report = run_line(
        "compare idle=loopback/queue?service=10us half=loopback/queue?service=500us \
         full=loopback/queue?service=1040us --blocks 8 --block-duration 200ms --percentiles 50 \
         --format json -- http -c 50 -R 1000 --arrivals constant --warmup 10ms --wait block",
    )
    .report();
    let of_arm = |arm: &str| {
        let cell = cell(&report, arm, "p50");
        (cell["overloaded"].as_bool(), cell["verdict"] == "overload")
    };
    assert_eq!(of_arm("full"), (Some(true), true), "{report:#}");
    assert_eq!(of_arm("half"), (Some(false), false), "{report:#}");
    let full = visits_to(&report, "full");
    let by_count = full.iter().filter(|visit| visit["steps"][0]["overloaded"] == true);
    assert!(by_count.count() * 2 < full.len(), "by what is missing alone it would not show");
    let grows = array(&report, "/warnings").iter().filter(|w| w["code"] == "queue-grows");
    let named: Vec<&str> = grows.map(|warning| text(warning, "/message")).collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].starts_with("full: its queue grows"), "{named:?}");
}

/// Of round trips as of requests; and where each stage has a length of its own.
#[test]
fn growing_queues_are_found_in_every_step_that_has_a_rate() {
    let report = run_line(
        "compare a=loopback b=loopback --arm-options b=--server-delay=520us --blocks 8 \
         --block-duration 100ms --format json -- lat --rate 2000 --warmup 10ms --wait block",
    )
    .report();
    for measure in ["p50", "residence_p50"] {
        assert_eq!(cell(&report, "b", measure)["overloaded"], true, "{measure}: {report:#}");
    }

    let report = run_line(
        "compare a=loopback/queue?service=10us b=loopback/queue?service=520us --blocks 8 \
         --block-duration 100ms --format json -- \
         http -c 50 --stages 1000:100ms,2000:120ms --warmup 10ms --wait block",
    )
    .report();
    for (step, overloaded) in [(0, false), (1, true)] {
        let cells = array(&report, "/comparison/cells").iter();
        let mut cells = cells.filter(|cell| cell["arm"] == "b" && cell["step"] == step);
        assert_eq!(cells.next().unwrap()["overloaded"], overloaded, "{step}");
    }
    for visit in visits_to(&report, "b") {
        for step in array(visit, "/steps") {
            assert!(step["response_first_ns"].is_u64() && step["response_last_ns"].is_u64());
        }
    }
}

#[test]
fn a_server_without_io_uring_makes_all_arms_use_epoll() {
    let serves = [Serve::start(""), Serve::start("--backend epoll")];
    let arms = [("plain", &serves[0]), ("without", &serves[1])].map(arm);
    let report = compare(&[&arms[0], &arms[1]], "lat --warmup 5ms --wait block").exits(0).report();
    if backends().len() > 1 {
        let reason = text(&report, "/comparison/backend_reason");
        assert!(reason.starts_with("the server of without: "), "{reason}");
    }
    assert_backend(&report, "epoll");
    assert_eq!(array(&report, "/environment/servers").len(), 2);
    for serve in serves {
        serve.stops();
    }
}

fn arm((name, serve): (&str, &Serve)) -> String {
    format!("{name}={}", serve.address())
}

#[test]
fn arms_without_a_common_backend_are_refused() {
    if backends().len() < 2 {
        return;
    }
    let serves = ["uring", "epoll"].map(|name| Serve::start(&format!("--backend {name}")));
    let arms = [("one", &serves[0]), ("other", &serves[1])].map(arm);
    let ran = compare(&[&arms[0], &arms[1]], "lat --wait block").exits(1);
    ran.complains(&["no backend in common", "the server of other", "--backend auto"]);
    for serve in serves {
        serve.stops();
    }
}

#[test]
fn by_default_loopback_is_compared_with_a_veth_pair() {
    if !is_root("tare compare") {
        return;
    }
    let ran = compare(&[], "lat --wait block");
    assert!(matches!(ran.code, Some(0 | 5)), "{ran:#?}");
    let report = ran.report();
    let names = array(&report, "/comparison/arms").iter().map(|arm| text(arm, "/name"));
    assert!(names.eq(["loopback", "veth", "a/a"]), "{report:#}");
    assert_eq!(figure(&report, "/comparison/blocks_done"), 7);
    assert!(ran.stderr.contains("7 blocks of 2 visits"), "{}", ran.stderr);
}

#[test]
fn without_privileges_loopback_is_compared_with_itself() {
    if !is_root("to drop capabilities") {
        return;
    }
    let without = "--bounding-set=-all --inh-caps=-all --reuid=65534 --clear-groups";
    let mut command = program("setpriv", without);
    command.arg(env!("CARGO_BIN_EXE_tare")).args(brief(&[], "lat --wait block"));
    let ran = Job::start(command).wait();
    assert!(matches!(ran.code, Some(0 | 5)), "{ran:#?}");
    let report = ran.report();
    assert_eq!(report["comparison"]["arms"][1]["target"], "loopback");
    ran.complains(&["compared with itself", "not permitted", "run as root"]);
}
