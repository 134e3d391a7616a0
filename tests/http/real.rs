//! nginx, Apache and Python's server, as their packages install them.

use nix::sys::signal::Signal;

use super::servers::{PAGE, Server, apache, long_page, nginx, python};
use super::{
    all_went_well, code, errors, for_each_backend, http, measured, operations, result,
    sockets_used, start,
};
use crate::util::{figure, left_out, text};

/// A server that closes each connection after `most` requests.
fn is_limited(server: &Server, path: &str, most: u64) {
    for_each_backend(|backend| {
        for connections in [1, 4] {
            let flags = format!("-n 200 -c {connections} {backend}");
            let result = measured(&server.url(path), &[&flags]);
            all_went_well(&result, 200);
            let used = sockets_used(&result);
            let perfect = 200_u64.div_ceil(most);
            // Each connection may be amid its requests at the end, and the next one may stand
            // ready.
            assert!((perfect..=perfect + 2 * connections).contains(&used), "{result:#}");
            // A reconnect counts once it is established, a socket from its start: at the end of the
            // run each connection may have one that is still connecting.
            let reconnects = figure(&result, "/connections/reconnects");
            let replaced = used - connections;
            assert!(
                (replaced.saturating_sub(connections)..=replaced).contains(&reconnects),
                "{result:#}"
            );
        }
    });
}

#[test]
fn connections_that_a_server_closes_are_replaced() {
    if let Some(server) = nginx() {
        is_limited(&server, "/limited", 10);
    }
    if let Some(server) = apache("MaxKeepAliveRequests 10") {
        // It counts those after the first.
        is_limited(&server, "/page.html", 11);
    }
}

#[test]
fn bodies_of_every_framing_are_read_whole() {
    let Some(server) = nginx() else { return };
    let Some(apache) = apache("MaxKeepAliveRequests 0") else { return };
    for_each_backend(|backend| {
        let body_bytes = |url: &str, flags: &str| {
            let result = measured(url, &["-n 50 -c 2", flags, backend]);
            all_went_well(&result, 50);
            assert_eq!(sockets_used(&result), 2, "{result:#}");
            let body_bytes = figure(&result, "/transfer/body_bytes");
            assert!(figure(&result, "/transfer/received_bytes") > body_bytes);
            body_bytes
        };
        let page = PAGE.len() as u64;
        let long = long_page().len() as u64;
        for (server, path, flags, bytes) in [
            (&server, "/page", "", page),
            // Chunked: its filter makes the page two bytes longer.
            (&server, "/chunked", "", page + 2),
            (&server, "/forwarded", "", 6),
            (&server, "/long.html", "", long),
            (&server, "/page", "-X HEAD", 0),
            (&server, "/chunked", "-X HEAD", 0),
            (&server, "/empty", "", 0),
            (&apache, "/page.html", "", page),
            (&apache, "/long.html", "-X HEAD", 0),
        ] {
            assert_eq!(body_bytes(&server.url(path), flags), 50 * bytes, "{path} {flags}");
        }
        // Chunked, too, since Apache does not know what the compressed length will be.
        let compressed = body_bytes(&apache.url("/long.html"), "-H Accept-Encoding:gzip");
        assert!(compressed < 50 * long, "{compressed}");
    });
}

#[test]
fn bodies_that_are_sent_arrive() {
    let Some(server) = nginx() else { return };
    let Some(apache) = apache("") else { return };
    for_each_backend(|backend| {
        for framing in ["", "--chunked"] {
            let with_body = |url: &str, bytes: usize| {
                let file = server.file_of(bytes);
                let result =
                    measured(url, &["-n 30 -c 3 -X POST --body-file", &file, framing, backend]);
                all_went_well(&result, 30);
                let sent = figure(&result, "/transfer/sent_bytes");
                assert!(sent > 30 * bytes as u64, "{sent}");
                figure(&result, "/transfer/body_bytes")
            };
            assert_eq!(with_body(&apache.url("/reflect"), 700), 30 * 700);
            assert_eq!(with_body(&apache.url("/reflect"), 60_000), 30 * 60_000);
            assert_eq!(with_body(&server.url("/forwarded"), 60_000), 30 * 6);
        }
    });
}

#[test]
fn error_codes_are_counted_each() {
    let Some(nginx) = nginx() else { return };
    let Some(apache) = apache("") else { return };
    for_each_backend(|backend| {
        for server in [&nginx, &apache] {
            for (path, status) in [("/nowhere", "404"), ("/fails", "500"), ("/unavailable", "503")]
            {
                let flags = format!("-n 40 -c 4 --threads 1 {backend}");
                let ran = http(&server.url(path), &flags).exits(1);
                let ran = ran.complains(&[status]);
                let result = result(&ran);
                assert_eq!(operations(&result, "failed"), 40, "{result:#}");
                assert_eq!(code(&result, status), 40, "{result:#}");
                let codes = &result["status_codes"][status];
                assert_eq!(codes["expected"], false);
                assert_eq!(codes["first_ordinal"], 1);
                assert!(figure(codes, "/first_at_ns") <= figure(&result, "/duration_ns"));
                let of_code = &result["latency"]["by_status"][status];
                assert_eq!(figure(of_code, "/count"), 40);
                assert_ne!(figure(of_code, "/max_ns"), 0);
                assert_eq!(result["rate"]["achieved_per_s"], 0.0, "goodput");

                let flags = format!("{flags} --expect-status {status}");
                all_went_well(&measured(&server.url(path), &[&flags]), 40);
            }
        }
    });
}

#[test]
fn a_page_that_has_not_changed_has_no_body_and_a_body_that_is_too_large_is_refused() {
    let Some(server) = nginx() else { return };
    for_each_backend(|backend| {
        let (url, flags) = (server.url("/page"), format!("-n 20 -c 2 {backend}"));
        let mut words = super::words(&url, &flags);
        words.extend(["-H", "If-Modified-Since: Tue, 01 Jan 2030 00:00:00 GMT"]);
        let unchanged = result(&crate::util::run(&words).exits(0));
        all_went_well(&unchanged, 20);
        assert_eq!(code(&unchanged, "304"), 20);
        assert_eq!(figure(&unchanged, "/transfer/body_bytes"), 0);
        assert_eq!(sockets_used(&unchanged), 2);

        let flags = format!("{flags} -X POST --body-file {}", server.file_of(5_000));
        let result = result(&http(&server.url("/small"), &flags).exits(1));
        assert_eq!(code(&result, "413"), 20, "{result:#}");
        assert_eq!(operations(&result, "failed"), 20);
    });
}

#[test]
fn a_reload_amid_the_run_is_survived() {
    let Some(server) = nginx() else { return };
    for_each_backend(|backend| {
        let flags = format!("-d 1500ms -c 8 --wait block --interval 250ms {backend}");
        let job = start(&server.url("/"), &flags);
        job.is_measuring();
        server.signal(Signal::SIGHUP);
        let result = result(&job.wait().exits(0));
        // The old worker closes the connections that are idle, and answers the others with
        // `Connection: close`; a request that crosses a close is lost.
        assert!(sockets_used(&result) > 8, "{result:#}");
        let failed = operations(&result, "failed");
        assert!(failed <= 8, "{result:#}");
        let reported = errors(&result, "receive", "early-close")
            + errors(&result, "receive", "ECONNRESET")
            + errors(&result, "send", "EPIPE")
            + errors(&result, "send", "ECONNRESET");
        assert!(reported >= failed, "{result:#}");
        assert_eq!(operations(&result, "timed_out"), 0);
        let last = result["intervals"].as_array().unwrap().last().unwrap();
        assert!(figure(last, "/completed") > 0, "{result:#}");
    });
}

#[test]
fn ipv6_and_unix_sockets_are_ways_to_get_there() {
    let Some(server) = nginx() else { return };
    for_each_backend(|backend| {
        let flags = format!("-n 100 -c 5 {backend}");
        let unix = format!("unix:{}", server.path("socket"));
        let paged = format!("{unix}:/page");
        for (url, body) in [(&unix, 6), (&paged, PAGE.len() as u64)] {
            let result = measured(url, &[&flags]);
            all_went_well(&result, 100);
            assert_eq!(figure(&result, "/transfer/body_bytes"), 100 * body);
            assert_eq!(sockets_used(&result), 5);
        }
        if std::net::TcpListener::bind(("::1", 0)).is_err() {
            left_out("there is no IPv6 here");
            return;
        }
        let url = format!("http://[::1]:{}/", server.port);
        let result = measured(&url, &[&flags]);
        all_went_well(&result, 100);
        assert!(text(&result, "/params/address").starts_with("[::1]:"));
    });
}

#[test]
fn a_server_of_http_1_0_ends_bodies_with_the_connection() {
    let Some(server) = python() else { return };
    for_each_backend(|backend| {
        for (path, bytes) in [("/page.html", PAGE.len() as u64), ("/until-close", 100_000)] {
            let result = measured(&server.url(path), &["-n 40 -c 2", backend]);
            all_went_well(&result, 40);
            assert_eq!(figure(&result, "/transfer/body_bytes"), 40 * bytes);
            let used = sockets_used(&result);
            assert!((40..=42).contains(&used), "{result:#}");
        }
        let flags = format!("-n 4 -c 1 {backend}");
        let result = result(&http(&server.url("/nowhere"), &flags).exits(1));
        assert_eq!(code(&result, "404"), 4, "{result:#}");
    });
}
