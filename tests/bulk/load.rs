//! Latency under load: what a path answers in while it carries a bulk transfer.

use serde_json::Value;

use super::number;
use crate::util::{Job, Serve, backends, figure, tare, test_words};

fn under_load(serve: &Serve, load: &str, flags: &str) -> Job {
    let mut command = tare();
    command.args(test_words("lat", serve.address(), flags));
    command.args(["--under-load", load]);
    Job::start(command)
}

#[test]
fn each_step_is_measured_idle_and_loaded() {
    for backend in backends() {
        for load in ["-P 2", "--direction down", "--udp --rate 50M"] {
            let serve = Serve::start("");
            let flags = format!("-d 300ms --size 16,64 --wait block --backend {backend}");
            let report = under_load(&serve, load, &flags).wait().exits(0).report();
            let steps = report["results"].as_array().unwrap();
            assert_eq!(steps.len(), 4);
            for (pair, size) in steps.chunks(2).zip([16, 64]) {
                let [idle, loaded] = pair else { panic!("{load}") };
                for step in pair {
                    assert_eq!(figure(step, "/params/size_bytes"), size);
                    assert!(figure(step, "/operations/completed") > 50, "{step:#}");
                    assert_eq!(step["errors"], serde_json::json!([]));
                }
                assert_eq!(idle["bandwidth"], Value::Null);
                assert_eq!(idle["params"]["under_load"], Value::Null);
                assert!(number(&loaded["bandwidth"], "bits_per_s") > 1e6, "{loaded:#}");
                assert!(!loaded["params"]["under_load"].is_null(), "{:#}", loaded["params"]);
            }
            serve.serves();
            serve.stops();
        }
    }
}

#[test]
fn a_load_that_cannot_be_is_usage() {
    for load in ["--size", "-P 0", "--nonsense", "--direction sideways", "--bytes 5M"] {
        let serve = Serve::start("");
        let ran = under_load(&serve, load, "-n 10").wait().exits(2);
        assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1), "{ran:?}");
        ran.complains(&["--under-load"]);
    }
}
