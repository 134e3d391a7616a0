use super::*;
use crate::server::plan::HttpSettings;
use crossbeam::channel::bounded;
use tare_units::Nanos;
use tare_units::limits::{MESSAGE_MAX, SESSION_MEMORY_MAX, SESSIONS_MAX};

fn dispatcher() -> Dispatcher {
    let plan = ServePlan {
        listen: Vec::new(),
        listen_is_default: false,
        once: false,
        max_sessions: SESSIONS_MAX,
        max_duration: Nanos::from_secs(60),
        idle_timeout: Nanos::from_secs(30),
        allow_spin: false,
        cpus: None,
        backend: BackendChoice::Only(Backend::Epoll),
        secret: None,
        http: Some(HttpSettings::default()),
    };
    Dispatcher::new(&plan, &[], Arc::default(), Arc::new(|_: &str, _: &str| {})).unwrap()
}

fn hello(transport: &str, size_bytes: u32) -> Hello {
    serde_json::from_value(serde_json::json!({
        "run_id": "0000000000000001", "test": "ping_pong", "transport": transport, "size_bytes": size_bytes, "wait": "block",
        "timeout_ns": 1,
    }))
    .unwrap()
}

#[test]
fn the_largest_messages_are_not_taken_by_the_thousand() {
    let mut dispatcher = dispatcher();
    let hello = hello("tcp", MESSAGE_MAX);
    let mut held = Vec::new();
    let refusal = loop {
        match dispatcher.admit(&hello, None) {
            Ok(admission) => held.push(admission),
            Err(refusal) => break refusal,
        }
        assert!(held.len() < 100);
    };
    assert_eq!(refusal.code, RefuseCode::Busy);
    assert!(held.len() as u64 * 2 * u64::from(MESSAGE_MAX) <= SESSION_MEMORY_MAX);
    held.pop();
    assert!(dispatcher.admit(&hello, None).is_ok());
}

#[test]
fn as_many_small_sessions_as_a_server_takes_by_default_fit() {
    for (transport, size) in [("tcp", 1), ("tcp", 64), ("udp", 16), ("udp", 64)] {
        let mut dispatcher = dispatcher();
        let hello = hello(transport, size);
        let mut held = Vec::new();
        for _ in 0..SESSIONS_MAX {
            held.push(dispatcher.admit(&hello, None).expect("there is room"));
        }
        let refusal = dispatcher.admit(&hello, None).unwrap_err();
        assert!(refusal.remedy.unwrap().contains("--max-sessions"));
    }
}

/// As after an error of the front's driver, when nobody has asked the server to stop.
#[test]
fn the_threads_end_with_the_front_whatever_it_ended_by() {
    let mut dispatcher = dispatcher();
    let cpu = dispatcher.cpus.allowed[0];
    dispatcher.ensure_worker(Backend::Epoll, cpu).unwrap();
    dispatcher.ensure_http().unwrap();
    let (ended, end) = bounded(1);
    std::thread::spawn(move || {
        dispatcher.join();
        ended.send(()).unwrap();
    });
    let patience = std::time::Duration::from_secs(20);
    assert_eq!(end.recv_timeout(patience), Ok(()));
}
