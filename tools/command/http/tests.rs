use tare_engine::schedule::Arrivals;
use tare_proto::http1::request::RequestSpec;

use super::*;
use crate::command::Command;
use crate::command::measure::Measuring;
use crate::command::tests::{parsed, refuses};

fn plan(flags: &str) -> Result<HttpPlan> {
    match parsed(&format!("http {flags}")) {
        Command::Measure(Measuring::Http(args)) => args.plan(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let plan = plan("").unwrap();
    assert_eq!(plan.target, Target::Loopback);
    assert_eq!((plan.connections, plan.pipeline), (vec![10], 1));
    assert_eq!(plan.common.stop, Stop::After(Nanos::from_secs(10)));
    assert!(plan.open.is_none() && plan.common.secret.is_none());
    assert_eq!(plan.expect.text(), "2xx,3xx");
    let [only] = plan.requests.as_slice() else {
        panic!("{:?}", plan.requests);
    };
    assert_eq!((only.request.method.as_str(), only.request.target.as_str()), ("GET", "/"));
}

#[test]
fn every_flag_reaches_the_plan() {
    let plan = plan(
        "http://node-2:81/a?b 'node-2:81/c' -X PUT -H 'Accept: */*' -H 'Host: app' --body hi --chunked \
         --content-type text/plain -c 2,4 -R 60/m --arrivals poisson --late drop --pipeline 4 \
         --requests-per-connection 100 --reconnect-on-error --connect-timeout 1s --connect-rate 500 \
         --expect-status 2xx,511 --resolve Proxy.:8080:10.0.0.2 --connect-to proxy:8080 \
         --bind 127.0.0.1-127.0.0.3 -d 3s --timeout 4s",
    )
    .unwrap();
    assert_eq!(plan.target.to_string(), "node-2:81");
    let paths: Vec<_> = plan.requests.iter().map(|r| r.request.target.as_str()).collect();
    assert_eq!(paths, ["/a?b", "/c"]);
    let first = &plan.requests[0].request;
    assert_eq!((first.method.as_str(), first.host.as_str()), ("PUT", "app"));
    assert_eq!(first.headers.len(), 2, "Host stands apart");
    assert_eq!(first.body.as_ref().unwrap().bytes, b"hi");
    assert_eq!(plan.connections, [2, 4]);
    let open = plan.open.unwrap();
    assert_eq!((open.arrivals, open.late), (Arrivals::Poisson, Late::Drop));
    assert_eq!((open.stages[0].from_per_s, open.stages.len()), (1.0, 1));
    assert_eq!((plan.pipeline, plan.requests_per_connection), (4, Some(100)));
    assert!(plan.reconnect_on_error && plan.expect.contains(511) && !plan.expect.contains(304));
    assert_eq!((plan.connect_timeout, plan.connect_rate_per_s), (Nanos::from_secs(1), Some(500.0)));
    assert_eq!((plan.resolve.len(), plan.bind.len()), (1, 3));
    assert_eq!(plan.connect_to, Some(("proxy".into(), 8080)));
    assert_eq!(plan.common.stop, Stop::After(Nanos::from_secs(3)));
    assert_eq!(plan.common.timeout, Nanos::from_secs(4));
}

#[test]
fn what_follows_from_other_flags() {
    assert_eq!(plan("--body x").unwrap().requests[0].request.method, "POST");
    assert_eq!(plan("--body x -X PUT").unwrap().requests[0].request.method, "PUT");
    let closing = plan("--connection close").unwrap();
    assert_eq!(closing.requests_per_connection, Some(1));
    assert!(closing.requests[0].request.close);
    let counted = plan("-n 1000 --stages 10,20").unwrap();
    assert_eq!(counted.common.stop, Stop::Count(1000));
    assert_eq!(counted.open.unwrap().stages.len(), 2);
    let named = plan("node-2:81 --host app").unwrap();
    assert_eq!(named.requests[0].request.host, "app");
    assert!(plan("unix:/run/a.sock -c 100").is_ok());
    assert!(plan("Shop.:81 --resolve shop:81:10.0.0.2 --resolve shop:81:::1").is_ok());
    assert!(plan("node-2 -c 120000 --bind 127.0.0.1-127.0.0.2").is_ok());
}

#[test]
fn bodies_and_urls_come_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("body"), b"\0\xff").unwrap();
    std::fs::write(path("urls"), "9 /a\nPOST /b\n").unwrap();
    let plan =
        plan(&format!("node-2 --urls {} --body-file {}", path("urls"), path("body"))).unwrap();
    assert_eq!(plan.target.to_string(), "node-2:80");
    for (sent, (weight, target)) in plan.requests.iter().zip([(9, "/a"), (1, "/b")]) {
        let RequestSpec { method, target: path, host, body, .. } = &sent.request;
        assert_eq!((sent.weight, method.as_str(), path.as_str()), (weight, "POST", target));
        assert_eq!((host.as_str(), &*body.as_ref().unwrap().bytes), ("node-2", &b"\0\xff"[..]));
    }
    assert_eq!(plan.requests.len(), 2);
    let cases = [
        (&*format!("node-2/x --urls {}", path("urls")), "names only the server"),
        (&*format!("--body-file {}", path("none")), "cannot be read"),
        ("--urls - --body-file -", "both read stdin"),
    ];
    refuses(self::plan, &cases);
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let cases = [
        ("a/ b/", "run tare http once for each"),
        ("a:80/ a:81/", "one host and port"),
        ("-c 0", "out of range"),
        ("-c 10000000", "out of range"),
        ("-c 200000", "name 4 addresses of this machine with --bind"),
        ("--late drop", "give a rate with -R"),
        ("--arrivals poisson", "give a rate with -R"),
        ("--chunked", "give one with --body"),
        ("--content-type a/b", "give one with --body"),
        ("--connection close --requests-per-connection 2", "leave one of the two out"),
        ("--connection close --pipeline 2", "needs connections that last"),
        ("--requests-per-connection 0", "above zero"),
        ("--connect-timeout 0", "above zero"),
        ("-n 5 --stages 10:1s", "without times"),
        ("-n 5 --stages 10-20", "write a time after it"),
        ("-d 5s --stages 10:1s", "leave it out"),
        ("--resolve a:80:1.1.1.1", "loopback is none"),
        (
            "shop:9 --resolve shop:80:127.0.0.1",
            "--resolve shop:80:127.0.0.1 is for shop:80, and the URL asks for shop:9; write --resolve shop:9:127.0.0.1",
        ),
        ("shop --resolve shop:80:::1 --resolve shpo:80:::1", "write --resolve shop:80:::1"),
        ("127.0.0.1:9 --resolve shop:9:127.0.0.1", "leave it out"),
        (
            "shop:9 --connect-to proxy:8080 --resolve shop:9:127.0.0.1",
            "and --connect-to asks for proxy:8080",
        ),
        (
            "-H 'Content-Length: 5'",
            "-H Content-Length: tare writes that header itself, from --body; leave it out",
        ),
        ("-H 'connection: close'", "write --connection close"),
        ("-H 'Transfer-Encoding: chunked'", "write --chunked"),
        ("--body @order.json", "write --body-file order.json"),
        ("unix:/x --bind 127.0.0.1", "Unix socket has none"),
        ("-H 'Host: a' --host b", "keep one"),
        ("--body x --content-type a -H 'content-type: b'", "given twice"),
        ("-d 0", "--duration must be above zero"),
        ("-n 0", "--count must be above zero"),
        ("--stages 1,2 -c 1:501:1", "1002 steps"),
    ];
    refuses(plan, &cases);
}
