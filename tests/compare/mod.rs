//! `tare compare`, end to end: its blocks, what it finds, and what becomes of arms that fail.

mod faults;
mod hooks;
mod later;

use serde_json::Value;

use crate::util::{Ran, Serve, backends, figure, is_root, run, text};

/// As few blocks as carry a verdict over two cells, each short, and of a quantile that so few
/// samples tell.
const BRIEF: [&str; 6] = ["--blocks", "7", "--block-duration", "40ms", "--percentiles", "50"];

/// Compares `arms` briefly; `measured` stands behind `--`.
fn compare(arms: &[&str], measured: &str) -> Ran {
    run(&words(arms, measured))
}

/// The words of such a comparison.
fn words<'a>(arms: &[&'a str], measured: &'a str) -> Vec<&'a str> {
    let mut words = vec!["compare"];
    words.extend(arms);
    words.extend(BRIEF);
    words.extend(["--format", "json", "--"]);
    words.extend(measured.split_whitespace());
    words
}

/// The cell of an arm's measure at the first step.
#[track_caller]
fn cell<'a>(report: &'a Value, arm: &str, measure: &str) -> &'a Value {
    let cells = report["comparison"]["cells"].as_array().unwrap();
    cells
        .iter()
        .find(|cell| cell["arm"] == arm && cell["measure"] == measure && cell["step"] == 0)
        .unwrap_or_else(|| panic!("no cell {arm} {measure} in {cells:#?}"))
}

fn blocks(report: &Value) -> &Vec<Value> {
    report["comparison"]["blocks"].as_array().unwrap()
}

/// The arms of a block's visits, in order.
fn visited(block: &Value) -> Vec<&str> {
    let visits = block["visits"].as_array().unwrap();
    visits.iter().map(|visit| visit["arm"].as_str().unwrap()).collect()
}

#[test]
fn every_block_visits_all_arms_forth_and_back() {
    for backend in backends() {
        let measured = format!("lat --warmup 5ms --wait block --backend {backend}");
        let ran = compare(&["a=loopback", "b=loopback", "--seed", "5"], &measured);
        let report = ran.exits(0).report();
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
        let same_seed = compare(&["a=loopback", "b=loopback", "--seed", "5"], &measured);
        let again = same_seed.exits(0).report();
        // However many blocks were made up for, those that both have are alike.
        let pairs = orders.iter().zip(blocks(&again).iter().map(visited));
        assert!(pairs.clone().count() >= 7);
        assert!(pairs.into_iter().all(|(one, other)| *one == other));
        orders.sort_unstable();
        orders.dedup();
        assert!(orders.len() > 1, "the order is drawn again for each block");

        // Both arms and the A/A arm have one and the same server, every visit fresh connections.
        let arms = comparison["arms"].as_array().unwrap();
        assert_eq!(arms.len(), 3);
        assert!(arms.iter().all(|arm| arm["instances"] == arms[0]["instances"]));
        assert_eq!(comparison["backend"], *backend);
        for result in report["results"].as_array().unwrap() {
            assert!(figure(result, "/connections/sockets_used") >= 14);
            for end in ["client", "server"] {
                assert_eq!(result["instrument"][end]["backend"], *backend);
                assert_eq!(result["instrument"][end]["wait"], "block");
            }
        }
        let cell = cell(&report, "b", "p50");
        assert_eq!(cell["blocks"].as_array().unwrap().len(), 7);
        assert_ne!(cell["verdict"], Value::Null);
        assert_eq!(cell["blocks_needed"], 6);
    }
}

/// A block's histograms are both visits', and the result's those of all visits.
#[test]
fn what_the_visits_measured_is_pooled_and_nothing_is_lost() {
    let ran = compare(&["a=loopback", "b=loopback"], "lat --warmup 5ms --wait block --size 64,1K");
    let report = ran.exits(0).report();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 6);
    for (index, result) in results.iter().enumerate() {
        let arm = text(result, "/arm");
        let visits = blocks(&report)
            .iter()
            .flat_map(|block| block["visits"].as_array().unwrap())
            .filter(|visit| visit["arm"] == arm);
        let steps: Vec<&Value> = visits.map(|visit| &visit["steps"][index % 2]).collect();
        assert!(steps.len() >= 14);
        let sum: u64 = steps.iter().map(|step| figure(step, "/completed")).sum();
        assert_eq!(figure(result, "/operations/completed"), sum);
        assert_eq!(figure(result, "/latency/service/count"), sum);
        let longest = steps.iter().filter_map(|step| step["max_ns"].as_u64());
        assert_eq!(Some(figure(result, "/latency/service/max_ns")), longest.max());
        assert_eq!(result["intervals"].as_array().unwrap().len(), steps.len());
    }
}

#[test]
fn a_known_difference_is_found_and_told_apart_from_the_path() {
    for backend in backends() {
        let arms = ["a=loopback", "b=loopback", "--arm-options", "b=--server-delay 300us"];
        let measured = format!("lat --warmup 5ms --wait block --backend {backend}");
        let report = compare(&arms, &measured).exits(0).report();
        let found = cell(&report, "b", "p50");
        assert_eq!(found["verdict"], "slower", "{found:#}");
        let ends = found["delta"]["interval"].as_array().unwrap();
        assert!(ends[0].as_f64() > Some(250e3) && ends[1].as_f64() < Some(900e3), "{ends:?}");
        assert!(found["ratio"]["median"].as_f64() > Some(1.5));
        let held = cell(&report, "b", "residence_p50")["delta"]["median"].as_f64();
        assert!(held > Some(295e3) && held < Some(400e3), "{held:?}");
        assert_eq!(report["comparison"]["arms"][1]["options"], "--server-delay 300us");
    }
}

#[test]
fn bulk_and_http_are_compared_too() {
    let words = "compare a=loopback b=loopback --blocks 7 --block-duration 40ms --format json -- bw --size 4K,64K";
    let words: Vec<&str> = words.split_whitespace().collect();
    let report = run(&words).exits(0).report();
    let bandwidth = cell(&report, "b", "bandwidth");
    assert_eq!((&bandwidth["unit"], &bandwidth["declared"]), (&"bit/s".into(), &true.into()));
    assert!(bandwidth["baseline"].as_f64() > Some(1e7), "{bandwidth:#}");

    let measured = "http -c 2 --stages 500,1000 --warmup 5ms";
    let ran = compare(&["a=loopback", "b=loopback"], measured);
    // Four cells take eight blocks.
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
    let slow = "slow=loopback/queue?service=5ms";
    let arms = ["fast=loopback/queue?service=10us", slow, "--block-duration", "100ms"];
    let mut words = vec!["compare"];
    words.extend(arms);
    words.extend(["--blocks", "8", "--format", "json", "--percentiles", "50", "--"]);
    words.extend("http -c 50 -R 1000 --warmup 0".split(' '));
    let report = run(&words).exits(0).report();
    let p50 = cell(&report, "slow", "p50");
    assert_eq!((&p50["overloaded"], &p50["verdict"]), (&true.into(), &"overload".into()));
    let goodput = cell(&report, "slow", "goodput");
    assert_eq!(goodput["verdict"], "slower", "{goodput:#}");
}

/// Nineteen in twenty of what is due are answered in time, and the rest is too little to be missed:
/// but each waits longer than the one before.
#[test]
fn a_queue_that_grows_slowly_is_overload() {
    let mut words: Vec<&str> = "compare idle=loopback/queue?service=10us \
        half=loopback/queue?service=500us full=loopback/queue?service=1040us \
        --blocks 8 --block-duration 200ms --percentiles 50 --format json --"
        .split_whitespace()
        .collect();
    words.extend("http -c 50 -R 1000 --arrivals constant --warmup 10ms --wait block".split(' '));
    let ran = run(&words);
    let report = ran.report();
    let of_arm = |arm: &str| {
        let cell = cell(&report, arm, "p50");
        (cell["overloaded"].as_bool(), cell["verdict"] == "overload")
    };
    assert_eq!(of_arm("full"), (Some(true), true), "{report:#}");
    assert_eq!(of_arm("half"), (Some(false), false), "{report:#}");
    let visits = blocks(&report).iter().flat_map(|block| block["visits"].as_array().unwrap());
    let full: Vec<&Value> = visits.filter(|visit| visit["arm"] == "full").collect();
    let by_count = full.iter().filter(|visit| visit["steps"][0]["overloaded"] == true);
    assert!(by_count.count() * 2 < full.len(), "by what is missing alone it would not show");
    let named: Vec<&str> = report["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|warning| warning["code"] == "queue-grows")
        .map(|warning| warning["message"].as_str().unwrap())
        .collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].starts_with("full: its queue grows"), "{named:?}");
}

/// Of round trips as of requests; and where each stage has a length of its own.
#[test]
fn growing_queues_are_found_in_every_step_that_has_a_rate() {
    let words = "compare a=loopback b=loopback --arm-options b=--server-delay=520us \
        --blocks 8 --block-duration 100ms --format json -- lat --rate 2000 --warmup 10ms --wait block";
    let words: Vec<&str> = words.split_whitespace().collect();
    let report = run(&words).report();
    assert_eq!(cell(&report, "b", "p50")["overloaded"], true, "{report:#}");
    assert_eq!(cell(&report, "b", "residence_p50")["overloaded"], true);

    let words = "compare a=loopback/queue?service=10us b=loopback/queue?service=520us \
        --blocks 8 --block-duration 100ms --format json -- \
        http -c 50 --stages 1000:100ms,2000:120ms --warmup 10ms --wait block";
    let words: Vec<&str> = words.split_whitespace().collect();
    let report = run(&words).report();
    let cells = report["comparison"]["cells"].as_array().unwrap();
    let of_step = |step: u64| {
        let mut cells = cells.iter();
        let cell = cells.find(|cell| cell["arm"] == "b" && cell["step"] == step);
        cell.unwrap()["overloaded"].as_bool()
    };
    assert_eq!((of_step(0), of_step(1)), (Some(false), Some(true)));
    let visits = blocks(&report).iter().flat_map(|block| block["visits"].as_array().unwrap());
    for visit in visits.filter(|visit| visit["arm"] == "b") {
        for step in visit["steps"].as_array().unwrap() {
            assert!(step["response_first_ns"].is_u64() && step["response_last_ns"].is_u64());
        }
    }
}

#[test]
fn a_server_without_io_uring_makes_all_arms_use_epoll() {
    let plain = Serve::start("");
    let without = Serve::start("--backend epoll");
    let arms = [format!("plain={}", plain.address()), format!("without={}", without.address())];
    let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
    let report = compare(&arms, "lat --warmup 5ms --wait block").exits(0).report();
    assert_eq!(report["comparison"]["backend"], "epoll");
    if backends().len() > 1 {
        let reason = text(&report, "/comparison/backend_reason");
        assert!(reason.starts_with("the server of without: "), "{reason}");
    }
    for result in report["results"].as_array().unwrap() {
        for end in ["client", "server"] {
            assert_eq!(result["instrument"][end]["backend"], "epoll");
        }
    }
    let servers = report["environment"]["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2);
    plain.stops();
    without.stops();
}

#[test]
fn arms_without_a_common_backend_are_refused() {
    if backends().len() < 2 {
        return;
    }
    let one = Serve::start("--backend uring");
    let other = Serve::start("--backend epoll");
    let arms = [format!("one={}", one.address()), format!("other={}", other.address())];
    let arms: Vec<&str> = arms.iter().map(String::as_str).collect();
    compare(&arms, "lat --wait block").exits(1).complains(&[
        "no backend in common",
        "the server of other",
        "--backend auto",
    ]);
    one.stops();
    other.stops();
}

#[test]
fn by_default_loopback_is_compared_with_a_veth_pair() {
    if !is_root("tare compare") {
        return;
    }
    let mut words = vec!["compare"];
    words.extend(BRIEF);
    words.extend(["--format", "json", "--", "lat", "--wait", "block"]);
    let ran = run(&words);
    assert!(matches!(ran.code, Some(0 | 5)), "{ran:#?}");
    let report = ran.report();
    let arms = report["comparison"]["arms"].as_array().unwrap();
    let names: Vec<&str> = arms.iter().map(|arm| text(arm, "/name")).collect();
    assert_eq!(names, ["loopback", "veth", "a/a"]);
    assert_eq!(figure(&report, "/comparison/blocks_done"), 7);
    assert!(ran.stderr.contains("7 blocks of 2 visits"), "{}", ran.stderr);
}

#[test]
fn without_privileges_loopback_is_compared_with_itself() {
    if !is_root("to drop capabilities") {
        return;
    }
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups"]);
    command.arg(env!("CARGO_BIN_EXE_tare")).arg("compare").args(BRIEF);
    command.args(["--format", "json", "--", "lat", "--wait", "block"]);
    let ran = crate::util::Job::start(command).wait();
    assert!(matches!(ran.code, Some(0 | 5)), "{ran:#?}");
    let report = ran.report();
    assert_eq!(report["comparison"]["arms"][1]["target"], "loopback");
    ran.complains(&["compared with itself", "not permitted", "run as root"]);
}
