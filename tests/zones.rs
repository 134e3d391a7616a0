//! Addresses that mean something on this machine alone: of a link, with its zone; and of a family
//! that is off here. All of it takes root.

use crate::netns::{Netns, ip};
use crate::util::{Job, Serve, backends, figure, is_root, lat, run, run_line, text, words};

/// Both ends of a link with an address of the link each, usable at once.
struct Link {
    netns: Netns,
    serve: Serve,
}

const OUTER: &str = "fe80::7117:1";
const INNER: &str = "fe80::7117:2";

impl Link {
    /// Nothing where IPv6 is off.
    fn make() -> Option<Self> {
        if !is_root("ip netns") || std::net::TcpListener::bind("[::1]:0").is_err() {
            return None;
        }
        let netns = Netns::make();
        ip(&format!("addr add {OUTER}/64 dev {} nodad", netns.name)).exits(0);
        ip(&format!("-n {} addr add {INNER}/64 dev inner nodad", netns.name)).exits(0);
        let flags = format!("--listen [{INNER}%inner]:0");
        let serve = Serve::started(netns.tare(&Serve::words(&flags)));
        Some(Self { netns, serve })
    }

    fn port(&self) -> &str {
        self.serve.address().rsplit(':').next().unwrap()
    }
}

#[test]
fn link_local_addresses_are_taken_with_their_zones() {
    let Some(link) = Link::make() else { return };
    let (zone, port) = (&link.netns.name, link.port());
    let target = format!("[{INNER}%{zone}]:{port}");
    let coded = format!("[{INNER}%25{zone}]:{port}");
    for backend in backends() {
        let measured = |words: &str| {
            // A transfer that ends by bytes has no warm-up.
            let warmup = if words.starts_with("bw") { "" } else { "--warmup 10ms" };
            let words = format!("{words} {warmup} --wait block --format json --backend {backend}");
            let report = run_line(&words).exits(0).report();
            assert_eq!(text(&report, "/environment/client/device/name"), zone, "{words}");
            report
        };
        for words in [
            format!("lat {target} -n 20"),
            format!("lat {coded} -n 20 --udp"),
            format!("lat {target} -n 20 --bind {OUTER} --connect-each"),
            format!("lat {target} -n 20 --bind {OUTER}%{zone}"),
            format!("lat {target} -n 20 --bind {OUTER} --udp"),
            format!("bw {target} --bytes 1M --bind {OUTER}"),
            format!("bw {target} --bytes 100k --rate 50M --udp --bind {OUTER}%{zone}"),
        ] {
            let report = measured(&words);
            assert_eq!(report["plan"]["bind"].is_string(), words.contains("--bind"), "{words}");
        }
        let elsewhere = format!("http http://x.test:{port}/ -n 20 -c 2");
        for words in [
            format!("http http://{target}/ -n 20 -c 2"),
            format!("http http://{coded}/ -n 20 -c 2 --bind {OUTER}%{zone}"),
            format!("http http://{coded}/ -n 20 -c 2 --bind {OUTER}"),
            format!("{elsewhere} --resolve x.test:{port}:[{INNER}%{zone}]"),
            format!("{elsewhere} --connect-to {target}"),
        ] {
            let report = measured(&words);
            assert_eq!(figure(&report, "/results/0/operations/completed"), 20, "{words}");
        }
    }
    let arms = format!(
        "compare a={target} b={coded} --blocks 6 --block-duration 50ms --quiet -- lat --wait block"
    );
    let ran = run_line(&arms);
    assert!(matches!(ran.code, Some(0 | 5)), "{ran:?}");
    link.serve.stops();
}

#[test]
fn without_a_zone_a_link_local_address_is_refused_with_what_to_type() {
    let Some(link) = Link::make() else { return };
    for words in [["lat", INNER], ["bw", INNER], ["http", INNER]] {
        let ran = run(&words).exits(2);
        let typed = format!("say on which device: {INNER}%");
        ran.complains(&["link-local", &typed, &link.netns.name]);
    }
    link.serve.stops();
}

#[test]
fn where_ipv6_is_off_that_is_said_and_no_word_of_ports() {
    let Some(netns) = Netns::if_root() else { return };
    netns.sysctl("ipv6/conf/all/disable_ipv6", "1");
    let inside = |line: &str| {
        let ran = Job::start(netns.tare(&words(line))).wait();
        assert!(!ran.stderr.contains("ephemeral"), "{line}: {ran:?}");
        ran
    };
    for backend in backends() {
        for words in [
            "lat [::1]:9310",
            "lat [::1]:9310 --udp",
            "lat [::1]:9310 --bind ::1",
            "lat [2001:db8::1]:9310",
            "bw [::1]:9310",
            "bw [::1]:9310 --udp",
            "http http://[::1]:9310/",
            "http http://[2001:db8::1]:9310/",
        ] {
            let ran = inside(&format!("{words} -d 300ms --backend {backend}")).exits(1);
            ran.complains(&["IPv6 is off here", "give an IPv4 address"]);
        }
        // Where there is another address, the last word is of that.
        for (words, says) in [
            ("lat localhost:9310", "127.0.0.1:9310 refuses connections"),
            ("bw localhost:9310", "127.0.0.1:9310 refuses connections"),
            ("http localhost:9310", "127.0.0.1:9310"),
        ] {
            let ran = inside(&format!("{words} -d 300ms --backend {backend}")).exits(1);
            ran.complains(&[says]);
        }
        let ran = inside("lat 127.0.0.1:9310 --bind 192.0.2.77 -d 300ms").exits(1);
        ran.complains(&["192.0.2.77 is no address of this machine"]);
    }
}

#[test]
fn addresses_that_stand_for_a_machine_are_its_loopback() {
    let serve = Serve::start("--listen 127.0.0.1:0");
    let port = serve.address().rsplit(':').next().unwrap();
    for host in ["0.0.0.0", "[::ffff:127.0.0.1]", "localhost."] {
        lat(&format!("{host}:{port}"), "-n 20 --wait block").exits(0);
    }
    serve.stops();
}
