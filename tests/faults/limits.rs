//! What a machine or a container does not grant: io_uring, descriptors, locked memory.

use std::net::TcpStream;
use std::process::Command;
use std::thread;

use super::limited;
use crate::util::{
    Job, Serve, backends, is_root, lat, lat_words, run, tare, test_words, text, warnings,
};

/// Runs `body` on a thread on which the io_uring system calls fail with `errno`; its children
/// inherit that.
fn without_uring<T: Send + 'static>(errno: i32, body: impl FnOnce() -> T + Send + 'static) -> T {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let denied = [
        nix::libc::SYS_io_uring_setup,
        nix::libc::SYS_io_uring_enter,
        nix::libc::SYS_io_uring_register,
    ];
    let filter = SeccompFilter::new(
        denied.into_iter().map(|call| (call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    let denied = thread::spawn(move || {
        apply_filter(&program).unwrap();
        body()
    });
    denied.join().unwrap()
}

#[test]
fn where_seccomp_denies_io_uring_epoll_serves_and_says_why() {
    for (errno, name) in [(nix::libc::EPERM, "EPERM"), (nix::libc::ENOSYS, "ENOSYS")] {
        without_uring(errno, move || {
            let serve = Serve::start("");
            let ran = lat(serve.address(), "-n 100 --wait block").exits(0);
            let report = ran.report();
            for end in ["client", "server"] {
                let instrument = &report["results"][0]["instrument"][end];
                assert_eq!(instrument["backend"], "epoll", "{end}");
                let reason = text(instrument, "/backend_reason");
                assert!(reason.contains(name) && reason.contains("seccomp"), "{end}: {reason}");
            }
            assert!(warnings(&report).contains(&"backend"), "{:?}", warnings(&report));
            ran.complains(&["warning:", name, "--security-opt seccomp="]);

            let ran = lat(serve.address(), "-n 100 --backend uring").exits(1);
            assert_eq!(ran.stdout, "");
            ran.complains(&[name, "seccomp", "use --backend epoll"]);
            // A server that is told to offer nothing else does not even start.
            let ran = run(&["serve", "--listen", "127.0.0.1:0", "--backend", "uring"]).exits(1);
            assert_eq!(ran.stdout, "");
            ran.complains(&[name, "seccomp"]);
        });
    }
}

#[test]
fn a_server_without_io_uring_refuses_whoever_insists_on_it() {
    if !backends().contains(&"uring") {
        return;
    }
    let serve = without_uring(nix::libc::EPERM, || Serve::start(""));
    let ran = lat(serve.address(), "-n 100 --backend uring").exits(1);
    ran.complains(&["refused: io_uring is denied (EPERM)", "seccomp"]);
    let report = lat(serve.address(), "-n 100 --wait block").exits(0).report();
    let instrument = &report["results"][0]["instrument"];
    assert_eq!(instrument["client"]["backend"], "uring");
    assert_eq!(instrument["server"]["backend"], "epoll");
    assert!(text(instrument, "/server/backend_reason").contains("EPERM"));
}

#[test]
fn a_client_out_of_descriptors_says_what_to_type() {
    let serve = Serve::start("");
    for test in ["lat", "bw"] {
        let words = test_words(test, serve.address(), "-n 1000 -c 200 --wait block");
        let ran = Job::start(limited("ulimit -n 100", &words)).wait().exits(1);
        assert_eq!(ran.stdout, "");
        ran.complains(&[
            "open descriptors are needed and only 100 are allowed",
            "ulimit -Hn 2",
            "--ulimit nofile=",
        ]);
        // A soft limit is no obstacle.
        Job::start(limited("ulimit -Sn 100", &words)).wait().exits(0);
    }
}

#[test]
fn a_server_out_of_descriptors_makes_room() {
    let mut serve = Serve::started(limited("ulimit -n 100", &Serve::words("")));
    let silent: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(serve.address()).unwrap()).collect();
    serve
        .job
        .logs("no descriptor is left for another client (EMFILE); raise the limit (ulimit -n)");
    serve.serves();
    drop(silent);
    let log = serve.stops();
    assert!(log.lines().count() < 20, "it does not flood its log: {log}");

    // A soft limit is raised by itself.
    let serve = Serve::started(limited("ulimit -Sn 100", &Serve::words("")));
    let _silent: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(serve.address()).unwrap()).collect();
    serve.serves();
    assert_eq!(serve.stops(), "");
}

/// Runs `tare` with that much memory to lock, and without the capability that sets it aside.
fn memlocked(kib: u32, words: &[&str]) -> Command {
    let mut command = Command::new("prlimit");
    command.env_remove("TARE_SECRET");
    let bytes = u64::from(kib) << 10;
    command.arg(format!("--memlock={bytes}:{bytes}"));
    command.args(["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]);
    command.arg(tare().get_program()).args(words);
    command
}

/// Where the kernel counts a ring as locked memory it is denied, elsewhere it works; the report
/// tells which.
#[test]
fn too_little_memory_to_lock_is_reported_and_epoll_serves() {
    if !is_root("dropping CAP_IPC_LOCK") || !backends().contains(&"uring") {
        return;
    }
    for (test, kib) in [("lat", 0), ("lat", 64), ("bw", 0), ("bw", 64)] {
        let words = Serve::words("");
        let serve = Serve::started(memlocked(kib, &words));
        let words = test_words(test, serve.address(), "-n 200 --wait block");
        let ran = Job::start(memlocked(kib, &words)).wait().exits(0);
        let report = ran.report();
        assert_eq!(report["environment"]["client"]["memlock_limit_bytes"], kib << 10);
        let limit = format!("RLIMIT_MEMLOCK is {kib} KiB");
        let mut denied = false;
        for end in ["client", "server"] {
            let instrument = &report["results"][0]["instrument"][end];
            let reason = text(instrument, "/backend_reason");
            match text(instrument, "/backend") {
                "epoll" => {
                    denied = true;
                    assert!(
                        reason.contains("ENOMEM") && reason.contains(&limit),
                        "{end}: {reason}"
                    );
                }
                "uring" => assert!(reason.starts_with("io_uring works here"), "{end}: {reason}"),
                other => panic!("{end}: {other}"),
            }
        }
        assert_eq!(warnings(&report).contains(&"backend"), denied);
        if denied {
            ran.complains(&["warning:", &limit, "ulimit -l unlimited", "--ulimit memlock=-1"]);
            let words = test_words(test, serve.address(), "-n 5 --backend uring");
            let ran = Job::start(memlocked(kib, &words)).wait().exits(1);
            ran.complains(&[&limit, "use --backend epoll"]);
        }
        serve.serves();
        serve.stops();
    }
}

/// A ring fits, and perhaps not another: whoever is denied one says so, or does without.
#[test]
fn memory_to_lock_that_is_enough_for_some_rings() {
    if !is_root("dropping CAP_IPC_LOCK") || !backends().contains(&"uring") {
        return;
    }
    for kib in [512, 1024] {
        let serve = Serve::started(memlocked(kib, &Serve::words("")));
        for flags in ["", "--udp", "-c 2 --connect-each"] {
            let flags = format!("-n 100 --wait block {flags}");
            // The server does without; and tells.
            let report = lat(serve.address(), &flags).exits(0).report();
            let server = &report["results"][0]["instrument"]["server"];
            if server["backend"] == "epoll" {
                assert!(text(server, "/backend_reason").contains("ENOMEM"), "{server}");
            }
        }
        // A client may be denied its ring after the first one was tried.
        let words = lat_words(serve.address(), "-n 100 --wait block -c 2 --threads 2");
        let ran = Job::start(memlocked(kib, &words)).wait();
        if ran.code != Some(0) {
            let ran = ran.exits(1);
            ran.complains(&["ENOMEM", "use --backend epoll", "ulimit -l unlimited"]);
        }
        serve.serves();
        serve.stops();
    }
}
