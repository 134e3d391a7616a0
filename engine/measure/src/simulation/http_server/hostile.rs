//! Clients that do not read, that leave, and that send more than they should.

use super::*;
use crate::limits::HTTP_MEMORY_MAX;

/// Lets a client that does not read take something once.
fn sip(web: &mut Web, client: usize) {
    let now = web.clock.now();
    let hand = &mut web.hands[client];
    hand.deaf = false;
    hand.turn(now);
    hand.deaf = true;
}

fn was_reset(web: &Web, client: usize) -> bool {
    web.hands[client].error == Some(OpError::Reset)
}

/// A response that is due while the one before it is still being sent waits for that.
#[test]
fn a_client_that_does_not_read_holds_up_its_own_responses_alone() {
    let request = request("/echo?delay=1ms&size=1000");
    let mut web = Web::plain();
    let client = web.hand(request.as_str());
    web.run_for(ms(10));
    web.hands[client].deaf = true;
    for _ in 1..200 {
        web.hands[client].send(request.as_str());
        web.run_for(us(100));
    }
    web.run_for(SECOND);
    let other = web.hand(GET);
    web.run_for(SECOND);
    assert!(web.text(other).starts_with("HTTP/1.1 200 "));
    web.hands[client].deaf = false;
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
    let client = web.deaf(GET);
    web.run_for(ms(11));
    web.hands[client].send(request("/echo?delay=1ms&close=true"));
    web.run_for(MS);
    // With a reset, since it has a response unread: at the end of the stall that and the request
    // are seen at once.
    web.hands[client].leave();
    web.run_for(ms(5));
    assert!(web.side().is_empty());
    assert_eq!(web.side().memory_bytes(), 0);
}

/// Nobody can fill the queue up for hours, and who is refused learns of it at once.
#[test]
fn the_queue_takes_work_for_a_minute() {
    let mut web = Web::plain();
    let request = request("/queue?service=10s");
    let clients: Vec<usize> = (0..20).map(|_| web.hand(request.as_str())).collect();
    web.run_for(SECOND);
    let (refused, served): (Vec<usize>, Vec<usize>) =
        clients.iter().partition(|client| web.text(**client).starts_with("HTTP/1.1 503 "));
    assert_eq!(refused.len(), 13, "seven fit, the last one waits for 60 s");
    assert!(!web.text(refused[0]).contains("arrival"));
    web.run_for(secs(10));
    web.hands[refused[0]].send(request);
    web.run_for(secs(71));
    assert!(served.iter().all(|client| web.text(*client).contains(" 200 ")));
    assert!(web.text(refused[0]).contains(" 200 "), "there is room again");
}

/// Those that left the queue hold no connection, and nothing is due for them.
#[test]
fn who_leaves_the_queue_is_forgotten() {
    const COUNT: usize = 1_200;
    let settings = HttpSettings { connections_max: 2 * COUNT as u32, idle: SECOND, ..settings() };
    let mut web = Web::with(settings);
    for _ in 0..5 {
        web.hand(request("/queue?service=10s"));
    }
    web.run_for(MS);
    for _ in 0..COUNT {
        web.hand(request("/queue?service=1us"));
    }
    web.run_for(MS);
    assert_eq!(web.side().len(), COUNT + 5);
    web.hands[5..].iter_mut().for_each(Hand::leave);
    web.run_for(secs(3));
    assert_eq!(web.side().len(), 5, "the silent ones wait for their turn");
    assert!(web.side().due_len() < 100);
}

fn echo(bytes: usize) -> String {
    let body = "y".repeat(bytes);
    format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n{body}")
}

/// Some progress now and then does not keep a response in memory.
#[test]
fn who_trickles_is_closed() {
    let mut web = Web::plain();
    let clients = [web.deaf(echo(200 << 10)), web.deaf(request("/bytes/1000000"))];
    for client in clients {
        web.hands[client].appetite = 8 << 10;
    }
    for seconds in 1..=5 {
        web.run_for(secs(10));
        for client in clients {
            sip(&mut web, client);
        }
        let expected = if seconds <= 3 { 2 } else { 1 };
        assert_eq!(web.side().len(), expected, "{seconds}");
    }
    // What has no memory of its own may take its time.
    assert!(web.hands[clients[1]].bytes().len() > 30 << 10);
}

fn large() -> String {
    request("/bytes/1073741824")
}

/// Sending does not count as reading, and what was not read is not left to the kernel.
#[test]
fn who_does_not_read_is_reset_whatever_it_sends() {
    let mut web = Web::plain();
    let [silent, talks, reads] = [(); 3].map(|()| web.deaf(large()));
    web.hands[reads].appetite = 4 << 10;
    for seconds in 1..=40 {
        web.run_for(SECOND);
        web.hands[talks].send("G");
        if seconds % 10 == 0 {
            sip(&mut web, reads);
        }
        let expected = if seconds <= 30 { 3 } else { 1 };
        assert_eq!(web.side().len(), expected, "{seconds}");
    }
    web.hands[silent].deaf = false;
    web.run_for(SECOND);
    assert!(was_reset(&web, silent) && was_reset(&web, talks));
    assert!(!web.hands[reads].ended, "slow, and it reads");
}

/// All together they have a bound, and whoever has taken something last stays.
#[test]
fn what_the_kernel_holds_for_clients_that_do_not_read_is_bounded() {
    let mut web = Web::plain();
    let deaf = |web: &mut Web| {
        let client = web.deaf(large());
        web.run_for(SECOND);
        client
    };
    let first = deaf(&mut web);
    let (role, io) = web.server.side.parts_mut();
    let each = role.queued(io);
    assert!(each > 0);
    role.bound_queued(each * 7 / 2);
    let others = [(); 3].map(|()| deaf(&mut web));
    let honest = web.hand(GET);
    web.run_for(SECOND);
    assert_eq!(web.side().len(), 4);
    web.hands[first].deaf = false;
    web.run_for(SECOND);
    assert!(was_reset(&web, first), "the one that is stuck for longest");
    assert!(others.iter().all(|client| !web.hands[*client].ended));
    assert!(web.text(honest).contains(" 200 "));
}

/// Where memory runs out, those that sit on it are closed, and not those that come.
#[test]
fn memory_is_taken_from_those_that_sit_on_it() {
    let mut web = Web::with(HttpSettings { connections_max: 1_000, ..settings() });
    let most = (HTTP_MEMORY_MAX / (256 << 10)) as usize;
    let request = echo(256 << 10);
    for _ in 0..most + 10 {
        web.deaf(request.as_str());
    }
    web.run_for(SECOND);
    assert!(web.side().memory_bytes() > HTTP_MEMORY_MAX / 4 * 3);
    let clients: Vec<usize> = (0..50).map(|_| web.hand(request.as_str())).collect();
    web.run_for(SECOND);
    for client in clients {
        assert!(web.text(client).starts_with("HTTP/1.1 200 "));
        assert!(web.hands[client].bytes().len() > 256 << 10);
    }
    assert!(web.side().memory_bytes() <= HTTP_MEMORY_MAX);
    assert!(web.side().len() > most / 2, "no more than it takes");
}

/// Where the server ends a connection, requests that are on their way do not have the response
/// lost.
#[test]
fn a_close_does_not_overtake_the_last_response() {
    let last = "GET /bytes/50000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (requests, later) in [
        (request("/echo?close=true&size=50000"), GET),
        (format!("{last}{GET}"), GET),
        (last.to_owned(), ""),
    ] {
        let mut web = Web::plain();
        let client = web.deaf(requests);
        web.run_for(ms(5));
        // Nothing is waited for where nothing is to come.
        assert_eq!(web.side().is_empty(), later.is_empty());
        web.hands[client].send(later);
        web.run_for(ms(5));
        web.hands[client].deaf = false;
        web.run_for(ms(5));
        assert!(web.hands[client].ended);
        let text = web.text(client);
        assert!(text.ends_with(&"x".repeat(50_000)), "{} bytes", text.len());
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1);
        web.run_for(secs(2));
        assert!(web.side().is_empty());
    }
}
