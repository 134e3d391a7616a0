//! Connections of one operation whose request follows right behind the hello.

use super::*;
use crate::worker::ClientRole;
use tare_proto::handshake::hello_in_one_go;

/// Longer than the listener stays with a worker that has no use for it.
const LEASE_OVER: Nanos = Nanos::from_millis(700);

fn each(change: impl FnOnce(&mut Setup)) -> Setup {
    let mut setup = Setup { connect_each: true, ..Setup::default() };
    change(&mut setup);
    setup
}

/// A hello and its request, as they go out at once.
fn one_go(setup: &Setup) -> Vec<u8> {
    let hello = Hello { connect_each: true, request_follows: true, brief: true, ..setup.hello() };
    let mut bytes = hello_in_one_go(&hello);
    bytes.extend([1; 64]);
    bytes
}

/// The whole answer of a connection that has ended.
fn is_bare_reply(hand: &Hand) -> bool {
    hand.ended && hand.got.concat().len() == 64 && hand.got.concat()[0] == 0
}

#[test]
fn an_operation_takes_the_connect_and_one_round_trip() {
    for connections in [1, 8] {
        let setup = each(|setup| setup.connections = connections);
        let mut world = World::new(&setup);
        world.start();
        world.run_until(|world| world.client().is_finished_now());
        let asked = world.front.role().dispatch().asked;
        let results = world.finish();
        let operations = results.measured.operations;
        // 100 ms, in cycles of two round trips; a third one for the close would leave 166.
        assert!(operations.completed >= 245 * u64::from(connections), "{operations:?}");
        assert_eq!(operations.completed, operations.sent);
        assert_eq!(results.measured.errors.total(), 0);
        assert_eq!(results.spread(Metric::Service), [2 * ROUND_TRIP.0; 3]);
        // The first and the last connection, which tell of the server, and the first of each slot.
        assert!(asked <= 2 + u64::from(connections), "{asked} admissions");
        let figures = results.outcome.figures.last().expect("those of the last connection");
        assert!(figures.cpu_operations >= operations.completed);
    }
}

#[test]
fn a_server_that_does_not_offer_it_is_spoken_to_in_the_old_order() {
    let results = each(|setup| setup.one_go = false).run();
    assert!(results.measured.operations.completed > 120);
    assert_eq!(results.measured.errors.total(), 0);
    assert_eq!(results.spread(Metric::Service), [2 * ROUND_TRIP.0; 3]);
}

#[test]
fn a_refusal_in_place_of_a_reply_names_its_reason() {
    // Room for one session, and two connections at once.
    let results = each(|setup| {
        setup.sessions_max = 1;
        setup.connections = 2;
    })
    .run();
    assert!(results.measured.operations.completed > 100);
    assert!(results.errors("handshake", "refused") > 0, "{:?}", results.measured.errors);
    let failure = results.outcome.failure.expect("a reason");
    assert!(failure.message().contains("no room"), "{failure}");
}

#[test]
fn hello_and_request_may_be_cut_anywhere() {
    let mut world = alone(&Setup::default());
    let bytes = one_go(&world.setup);
    for cut in 1..bytes.len() {
        world.steps = 0;
        // Every other one comes to a worker that has the listener.
        let mut hands = [Hand::tcp(&world)];
        hands[0].send(&bytes[..cut]);
        run(&mut world, &mut hands, Nanos::from_millis(1));
        assert!(hands[0].got.is_empty(), "cut at {cut}");
        hands[0].send(&bytes[cut..]);
        run(&mut world, &mut hands, Nanos::from_millis(1));
        assert!(is_bare_reply(&hands[0]), "cut at {cut}: {:?}", hands[0].got);
        if cut % 8 == 0 {
            run(&mut world, &mut [], LEASE_OVER);
        }
    }
    assert!(world.front.role().dispatch().log.is_empty());
    run(&mut world, &mut [], LEASE_OVER);
    assert_eq!((world.sessions(), world.server.role().len()), (0, 0));
}

#[test]
fn more_than_the_request_is_no_request() {
    let mut world = alone(&Setup::default());
    let mut bytes = one_go(&world.setup);
    bytes.push(0);
    // To the front, then to the worker that has the listener.
    for _ in 0..2 {
        let mut hands = [Hand::tcp(&world)];
        hands[0].send(bytes.clone());
        run(&mut world, &mut hands, Nanos::from_millis(2));
        assert!(hands[0].ended && hands[0].got.is_empty(), "{:?}", hands[0].got);
        let mut hands = [Hand::tcp(&world)];
        hands[0].send(one_go(&world.setup));
        run(&mut world, &mut hands, Nanos::from_millis(2));
        assert!(is_bare_reply(&hands[0]));
    }
}

/// Whoever else comes while a worker has the listener is served as ever, at once or when it speaks.
#[test]
fn other_clients_are_given_back_to_the_front() {
    let mut world = alone(&Setup::default());
    let lend = |world: &mut World| {
        let mut hands = [Hand::tcp(world)];
        hands[0].send(one_go(&world.setup));
        run(world, &mut hands, Nanos::from_millis(1));
        assert!(is_bare_reply(&hands[0]));
    };
    lend(&mut world);
    // Two of them: one takes the place of the session that is kept, the other finds none.
    let mut hands = [Hand::tcp(&world), Hand::tcp(&world)];
    for hand in &mut hands {
        hand.send(hello_frame(&world.setup));
    }
    run(&mut world, &mut hands, Nanos::from_millis(3));
    for hand in &hands {
        assert_eq!(hand.frames(0)[0].kind, FrameKind::Accept);
        assert!(!hand.ended);
    }
    // One that begins as the known hello does, and another that says nothing for now.
    lend(&mut world);
    lend(&mut world);
    let mut hands = [Hand::tcp(&world), Hand::tcp(&world)];
    hands[0].send(*b"tare\x01\x01");
    run(&mut world, &mut hands, Nanos::from_millis(300));
    assert_eq!(world.front.role().waiting(), 2, "they are the front's to wait for");
    for hand in &mut hands {
        hand.half_close();
    }
    run(&mut world, &mut hands, Nanos::from_millis(2));
    let log = &world.front.role().dispatch().log;
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains("in the middle of the handshake"), "{log:?}");
}

#[test]
fn the_listener_goes_home_and_nothing_is_left_behind() {
    let mut world = alone(&each(|_| ()));
    let idle_buffers = buffers_in_use(world.front.parts_mut().1);
    for _ in 0..3 {
        let bytes = one_go(&world.setup);
        let mut hands: Vec<Hand> = (0..20).map(|_| Hand::tcp(&world)).collect();
        for (number, hand) in hands.iter_mut().enumerate() {
            // Some break off, some say nothing, some are something else.
            match number % 5 {
                0 => {}
                1 => hand.send(&bytes[..number]),
                2 => hand.send(*b"GET / HTTP/1.1\r\n\r\n"),
                _ => hand.send(bytes.clone()),
            }
        }
        run(&mut world, &mut hands, Nanos::from_millis(2));
        assert!(is_bare_reply(&hands[3]) && is_bare_reply(&hands[19]));
        drop(hands);
        run(&mut world, &mut [], LEASE_OVER + SECOND);
        world.steps = 0;
    }
    assert_eq!((world.sessions(), world.server.role().len()), (0, 0));
    assert_eq!(buffers_in_use(world.front.parts_mut().1), idle_buffers);
    assert_eq!(buffers_in_use(world.server.parts_mut().1), 0);
    // The front listens, and a server that is to stop does.
    let mut hands = session(&mut world);
    run(&mut world, &mut hands, Nanos::from_millis(1));
    let mut last = [Hand::tcp(&world)];
    last[0].send(one_go(&world.setup));
    run(&mut world, &mut last, Nanos::from_millis(2));
    world.stop.set(true);
    run(&mut world, &mut hands, SECOND + SECOND);
    assert!(Role::<SimDriver>::is_finished(world.server.role()));
}

#[test]
fn faults_of_the_wire_lose_no_operation() {
    let mut completed = 0;
    for seed in 0..20 {
        let setup = each(|setup| {
            setup.wire.seed = seed;
            setup.wire.short_reads = 0.3;
            setup.wire.short_writes = 0.3;
            setup.wire.reset = 0.02;
            setup.connections = 3;
            setup.timeout = Nanos::from_millis(20);
        });
        // That the counts add up is checked at the end of every run. One whose first connection is
        // reset does not start.
        completed += setup.run().measured.operations.completed;
    }
    assert!(completed > 500, "{completed}");
}
