//! Clients that do not read, that leave, and that send more than they should.

use super::*;
use crate::limits::HTTP_MEMORY_MAX;

/// A response that is due while the one before it is still being sent waits for that.
#[test]
fn a_client_that_does_not_read_holds_up_its_own_responses_alone() {
    let request = "GET /echo?delay=1ms&size=1000 HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut web = Web::plain();
    let client = web.client(request);
    web.run_for(Nanos::from_millis(10));
    web.clients[client].deaf = true;
    for _ in 1..200 {
        web.clients[client].outbox.extend(request.bytes());
        web.run_for(Nanos::from_micros(100));
    }
    web.run_for(SECOND);
    let other = web.client(GET);
    web.run_for(SECOND);
    assert!(web.text(other).starts_with("HTTP/1.1 200 "));
    web.clients[client].deaf = false;
    web.run_for(SECOND);
    let text = web.text(client);
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 200);
    // It says how long that response was kept, the client's own slowness and all.
    assert_eq!(timing(&text, "residence", 0), 1_000_000);
    let longest = (0..200).map(|nth| timing(&text, "residence", nth)).max();
    assert!(longest > Some(2 * SECOND.0), "{longest:?}");
}

/// A response that is due is not written to a connection that is being closed.
#[test]
fn what_is_held_for_a_client_that_left_is_forgotten() {
    let mut web = Web::stalling("10ms:5ms");
    let client = web.client(GET);
    web.clients[client].deaf = true;
    web.run_for(Nanos::from_millis(11));
    let request = "GET /echo?delay=1ms&close=true HTTP/1.1\r\nHost: x\r\n\r\n";
    web.clients[client].outbox = request.into();
    web.run_for(Nanos::from_millis(1));
    // With a reset, since it has a response unread: at the end of the stall that and the request
    // are seen at once.
    web.leave(client);
    web.run_for(Nanos::from_millis(5));
    assert!(web.side.role().is_empty());
    assert_eq!(web.side.role().memory_bytes(), 0);
}

/// Nobody can fill the queue up for hours, and who is refused is told so at once.
#[test]
fn the_queue_takes_work_for_a_minute() {
    let mut web = Web::plain();
    let request = "GET /queue?service=10s HTTP/1.1\r\nHost: x\r\n\r\n";
    let clients: Vec<usize> = (0..20).map(|_| web.client(request)).collect();
    web.run_for(SECOND);
    let refused: Vec<usize> = clients
        .iter()
        .copied()
        .filter(|client| web.text(*client).starts_with("HTTP/1.1 503 "))
        .collect();
    assert_eq!(refused.len(), 13, "seven fit, the last one waits for 60 s");
    assert!(!web.text(refused[0]).contains("arrival"));
    web.run_for(Nanos::from_secs(10));
    web.clients[refused[0]].outbox = request.into();
    web.run_for(Nanos::from_secs(71));
    assert!(
        clients
            .iter()
            .all(|client| web.text(*client).contains(" 200 ") || refused.contains(client))
    );
    assert!(web.text(refused[0]).contains(" 200 "), "there is room again");
}

/// Those that left the queue hold no connection, and nothing is due for them.
#[test]
fn who_leaves_the_queue_is_forgotten() {
    const COUNT: u32 = 1_200;
    let mut web =
        Web::with(HttpSettings { connections_max: 2 * COUNT, idle: SECOND, ..settings() });
    for _ in 0..5 {
        web.client("GET /queue?service=10s HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    web.run_for(Nanos::from_millis(1));
    let request = "GET /queue?service=1us HTTP/1.1\r\nHost: x\r\n\r\n";
    let clients: Vec<usize> = (0..COUNT).map(|_| web.client(request)).collect();
    web.run_for(Nanos::from_millis(1));
    assert_eq!(web.side.role().len(), COUNT as usize + 5);
    for client in clients {
        web.leave(client);
    }
    web.run_for(Nanos::from_secs(3));
    assert_eq!(web.side.role().len(), 5, "the silent ones wait for their turn");
    assert!(web.side.role().due_len() < 100);
}

fn echo(bytes: usize) -> String {
    let body = "y".repeat(bytes);
    format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n{body}")
}

/// Some progress now and then does not keep a response in memory.
#[test]
fn who_trickles_is_closed() {
    let mut web = Web::plain();
    let clients =
        [web.client(echo(200 << 10)), web.client("GET /bytes/1000000 HTTP/1.1\r\nHost: x\r\n\r\n")];
    for client in clients {
        web.clients[client].deaf = true;
        web.clients[client].appetite = 8 << 10;
    }
    for seconds in 1..=5 {
        web.run_for(Nanos::from_secs(10));
        let now = web.clock.now();
        for client in &mut web.clients {
            client.deaf = false;
            client.turn(now);
            client.deaf = true;
        }
        let expected = if seconds <= 3 { 2 } else { 1 };
        assert_eq!(web.side.role().len(), expected, "{seconds}");
    }
    // What has no memory of its own may take its time.
    assert!(web.clients[clients[1]].got.len() > 30 << 10);
}

const LARGE: &str = "GET /bytes/1073741824 HTTP/1.1\r\nHost: x\r\n\r\n";

/// Sending does not count as reading, and what was not read is not left to the kernel.
#[test]
fn who_does_not_read_is_reset_whatever_it_sends() {
    let mut web = Web::plain();
    let silent = web.client(LARGE);
    let talks = web.client(LARGE);
    let reads = web.client(LARGE);
    for client in [silent, talks] {
        web.clients[client].deaf = true;
    }
    web.clients[reads].appetite = 4 << 10;
    web.clients[reads].deaf = true;
    for seconds in 1..=40 {
        web.run_for(SECOND);
        web.clients[talks].outbox.extend(b"G");
        if seconds % 10 == 0 {
            web.clients[reads].deaf = false;
            let now = web.clock.now();
            web.clients[reads].turn(now);
            web.clients[reads].deaf = true;
        }
        let expected = if seconds <= 30 { 3 } else { 1 };
        assert_eq!(web.side.role().len(), expected, "{seconds}");
    }
    web.clients[silent].deaf = false;
    web.run_for(SECOND);
    assert!(web.clients[silent].reset && web.clients[talks].reset);
    assert!(!web.clients[reads].ended, "slow, and it reads");
}

/// All together they have a bound, and whoever has taken something last stays.
#[test]
fn what_the_kernel_holds_for_clients_that_do_not_read_is_bounded() {
    let mut web = Web::plain();
    let deaf = |web: &mut Web| {
        let client = web.client(LARGE);
        web.clients[client].deaf = true;
        web.run_for(SECOND);
        client
    };
    let first = deaf(&mut web);
    let each = {
        let (role, io) = web.side.parts_mut();
        role.queued(io)
    };
    assert!(each > 0);
    web.side.parts_mut().0.bound_queued(each * 7 / 2);
    let others: Vec<usize> = (0..3).map(|_| deaf(&mut web)).collect();
    let honest = web.client(GET);
    web.run_for(SECOND);
    assert_eq!(web.side.role().len(), 4);
    web.clients[first].deaf = false;
    web.run_for(SECOND);
    assert!(web.clients[first].reset, "the one that is stuck for longest");
    assert!(others.iter().all(|client| !web.clients[*client].ended));
    assert!(web.text(honest).contains(" 200 "));
}

/// Where memory runs out, those that sit on it are closed, and not those that come.
#[test]
fn memory_is_taken_from_those_that_sit_on_it() {
    let mut web = Web::with(HttpSettings { connections_max: 1_000, ..settings() });
    let most = (HTTP_MEMORY_MAX / (256 << 10)) as usize;
    let request = echo(256 << 10);
    for _ in 0..most + 10 {
        let client = web.client(&request);
        web.clients[client].deaf = true;
    }
    web.run_for(SECOND);
    assert!(web.side.role().memory_bytes() > HTTP_MEMORY_MAX / 4 * 3);
    let clients: Vec<usize> = (0..50).map(|_| web.client(&request)).collect();
    web.run_for(SECOND);
    for client in clients {
        assert!(web.text(client).starts_with("HTTP/1.1 200 "));
        assert!(web.clients[client].got.len() > 256 << 10);
    }
    assert!(web.side.role().memory_bytes() <= HTTP_MEMORY_MAX);
    assert!(web.side.role().len() > most / 2, "no more than it takes");
}

/// Where the server ends a connection, requests that are on their way do not have the response
/// lost.
#[test]
fn a_close_does_not_overtake_the_last_response() {
    let last = "Host: x\r\nConnection: close\r\n\r\n";
    for (requests, later) in [
        ("GET /echo?close=true&size=50000 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), GET),
        (format!("GET /bytes/50000 HTTP/1.1\r\n{last}{GET}"), GET),
        (format!("GET /bytes/50000 HTTP/1.1\r\n{last}"), ""),
    ] {
        let mut web = Web::plain();
        let client = web.client(requests);
        web.clients[client].deaf = true;
        web.run_for(Nanos::from_millis(5));
        // Nothing is waited for where nothing is to come.
        assert_eq!(web.side.role().is_empty(), later.is_empty());
        web.clients[client].outbox = later.into();
        web.run_for(Nanos::from_millis(5));
        web.clients[client].deaf = false;
        web.run_for(Nanos::from_millis(5));
        assert!(web.clients[client].ended);
        let text = web.text(client);
        assert!(text.ends_with(&"x".repeat(50_000)), "{} bytes", text.len());
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1);
        web.run_for(Nanos::from_secs(2));
        assert!(web.side.role().is_empty());
    }
}
