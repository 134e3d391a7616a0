//! Clients that do not read, that leave, and that send more than they should.

use super::*;

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
    // With a reset, since it has a response unread: at the end of the stall that and the request are seen at once.
    web.leave(client);
    web.run_for(Nanos::from_millis(5));
    assert!(web.side.role().is_empty());
    assert_eq!(web.side.role().memory_bytes(), 0);
}
