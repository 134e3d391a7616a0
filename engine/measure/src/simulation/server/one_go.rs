//! Connections of one operation whose request follows right behind the hello.

use super::*;
use tare_proto::handshake::hello_in_one_go;

/// Longer than the listener stays with a worker that has no use for it.
const LEASE_OVER: Nanos = ms(700);

fn each() -> Setup {
    Setup { connect_each: true, ..Setup::default() }
}

/// A hello and its request, as they go out at once.
fn one_go() -> Vec<u8> {
    let hello = Hello { request_follows: true, brief: true, ..each().hello() };
    let mut bytes = hello_in_one_go(&hello);
    bytes.extend([1; 64]);
    bytes
}

/// The whole answer of a connection that has ended.
fn is_bare_reply(hand: &Hand) -> bool {
    let bytes = hand.bytes();
    hand.ended && bytes.len() == 64 && bytes[0] == 0
}

/// One client after the other.
fn next_client(world: &mut World, bytes: Vec<u8>) {
    world.hands.clear();
    world.hand(bytes);
    world.run_for(MS);
}

/// An operation, behind which the worker has the listener.
fn operate(world: &mut World) {
    next_client(world, one_go());
    assert!(is_bare_reply(&world.hands[0]), "{:?}", world.hands[0].got);
}

#[test]
fn an_operation_takes_the_connect_and_one_round_trip() {
    for connections in [1, 8] {
        let mut world = Setup { connections, ..each() }.started();
        world.run_until(World::is_finished);
        let asked = world.server.admissions().asked;
        let results = world.finish();
        let operations = results.operations();
        // 100 ms, in cycles of two round trips; a third one for the close would leave 166.
        assert!(operations.completed >= 245 * u64::from(connections), "{operations:?}");
        assert_eq!(operations.completed, operations.sent);
        results.assert_no_errors();
        results.assert_each(Metric::Service, ROUND_TRIP + ROUND_TRIP);
        // The first and the last connection, which tell of the server, and the first of each slot.
        assert!(asked <= 2 + u64::from(connections), "{asked} admissions");
        let figures = results.outcome.figures.last().expect("those of the last connection");
        assert!(figures.cpu_operations >= operations.completed);
    }
}

#[test]
fn a_server_that_does_not_offer_it_is_spoken_to_in_the_old_order() {
    let results = Setup { one_go: false, ..each() }.run();
    assert!(results.operations().completed > 120);
    results.assert_no_errors();
    results.assert_each(Metric::Service, ROUND_TRIP + ROUND_TRIP);
}

#[test]
fn a_refusal_in_place_of_a_reply_names_its_reason() {
    // Room for one session, and two connections at once.
    let results = Setup { sessions_max: 1, connections: 2, ..each() }.run();
    assert!(results.operations().completed > 100);
    assert!(results.errors("handshake", "refused") > 0);
    results.assert_failure("no room");
}

#[test]
fn hello_and_request_may_be_cut_anywhere() {
    let mut world = alone(&Setup::default());
    let bytes = one_go();
    for cut in 1..bytes.len() {
        // Every other one comes to a worker that has the listener.
        next_client(&mut world, bytes[..cut].to_vec());
        assert!(world.hands[0].got.is_empty(), "cut at {cut}");
        world.hands[0].send(&bytes[cut..]);
        world.run_for(MS);
        assert!(is_bare_reply(&world.hands[0]), "cut at {cut}: {:?}", world.hands[0].got);
        if cut % 8 == 0 {
            world.hands.clear();
            world.run_for(LEASE_OVER);
        }
    }
    assert!(world.server.admissions().log.is_empty());
    world.hands.clear();
    world.run_for(LEASE_OVER);
    assert_nothing_kept(&world);
}

#[test]
fn more_than_the_request_is_no_request() {
    let mut world = alone(&Setup::default());
    // To the front, then to the worker that has the listener.
    for _ in 0..2 {
        next_client(&mut world, [one_go(), vec![0]].concat());
        let hand = &world.hands[0];
        assert!(hand.ended && hand.got.is_empty(), "{:?}", hand.got);
        operate(&mut world);
    }
}

/// Whoever else comes while a worker has the listener is served as ever, at once or when it speaks.
#[test]
fn other_clients_are_given_back_to_the_front() {
    let setup = Setup::default();
    let mut world = alone(&setup);
    operate(&mut world);
    // Two of them: one takes the place of the session that is kept, the other finds none.
    world.hands.clear();
    world.hand(hello_frame(&setup));
    world.hand(hello_frame(&setup));
    world.run_for(ms(3));
    for hand in &world.hands {
        assert_eq!(frames(hand, 0)[0].kind, FrameKind::Accept);
        assert!(!hand.ended);
    }
    // One that begins as the known hello does, and another that says nothing for now.
    operate(&mut world);
    operate(&mut world);
    world.hands.clear();
    world.hand(*b"tare\x01\x01");
    world.hand("");
    world.run_for(ms(300));
    assert_eq!(waiting(&world), 2, "they are the front's to wait for");
    world.hands.iter_mut().for_each(Hand::half_close);
    world.run_for(ms(2));
    assert_logged(&world, "in the middle of the handshake");
}

#[test]
fn the_listener_goes_home_and_nothing_is_left_behind() {
    let mut world = alone(&each());
    let idle_buffers = buffers_in_use(&mut world);
    let bytes = one_go();
    for _ in 0..3 {
        for number in 0..20 {
            // Some break off, some say nothing, some are something else.
            world.hand(match number % 5 {
                0 => "".into(),
                1 => bytes[..number].to_vec(),
                2 => "GET / HTTP/1.1\r\n\r\n".into(),
                _ => bytes.clone(),
            });
        }
        world.run_for(ms(2));
        assert!(is_bare_reply(&world.hands[3]) && is_bare_reply(&world.hands[19]));
        world.hands.clear();
        world.run_for(LEASE_OVER + SECOND);
    }
    assert_nothing_kept(&world);
    assert_eq!(buffers_in_use(&mut world), idle_buffers);
    assert_eq!(idle_buffers[1], 0);
    // The front listens, and a server that is to stop does.
    begin_session(&mut world, &each());
    world.run_for(MS);
    world.hand(one_go());
    world.run_for(ms(2));
    world.server.stop();
    world.run_for(SECOND + SECOND);
    assert!(Role::<SimDriver>::is_finished(world.server.worker.role()));
}

#[test]
fn faults_of_the_wire_lose_no_operation() {
    let mut completed = 0;
    for seed in 0..20 {
        let wire = SimConfig { seed, short_reads: 0.3, short_writes: 0.3, reset: 0.02, ..wire() };
        // That the counts add up is checked at the end of every run. One whose first connection is
        // reset does not start.
        let setup = Setup { wire, connections: 3, timeout: ms(20), ..each() };
        completed += setup.run().operations().completed;
    }
    assert!(completed > 500, "{completed}");
}
