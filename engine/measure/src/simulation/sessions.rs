//! How long the server keeps whom.

use super::*;
use crate::worker::ClientRole;
use tare_driver::Wait;

/// What a session that was ended stays for, so that its client can learn why.
const LINGER: Nanos = Nanos::from_secs(1);

#[test]
fn sessions_end_with_their_client() {
    for setup in Setup::both(|setup| setup.connections = 3) {
        let mut world = World::new(&setup);
        world.start();
        assert_eq!(world.sessions(), 3);
        world.run_to_end();
        // A datagram session lingers for a question that is repeated.
        world.run_for(Nanos::from_secs(3));
        assert_eq!(world.sessions(), 0);
        assert!(world.server.role().is_empty());
    }
}

#[test]
fn a_silent_session_is_closed_and_its_client_is_told() {
    let idle = Nanos::from_secs(2);
    for setup in Setup::both(|setup| {
        setup.limits.idle = idle;
        setup.timeout = Nanos::from_millis(200);
        setup.duration = Some(Nanos::from_millis(100));
    }) {
        let mut world = World::new(&setup);
        world.run_until(|world| world.client().is_ready());
        assert_eq!(world.sessions(), 1);
        let silent_from = world.clock.now();
        let idle = idle + LINGER - ROUND_TRIP - LATENCY;
        world.run_until(|world| world.sessions() == 0);
        let after = world.clock.now().since(silent_from);
        assert!(after >= idle, "{after}");
        assert!(after <= idle + Nanos::from_millis(302), "{after}");
        world.start();
        let results = world.finish();
        assert_eq!(results.measured.operations.completed, 0);
        let operations = results.measured.operations;
        assert!(operations.failed + operations.timed_out > 0, "{operations:?}");
        assert!(results.took < Nanos::from_secs(1), "{}", results.took);
    }
}

#[test]
fn a_session_lives_no_longer_than_allowed() {
    for setup in Setup::both(|setup| {
        setup.limits.duration = Nanos::from_millis(500);
        setup.duration = Some(Nanos::from_secs(10));
        setup.timeout = Nanos::from_millis(100);
    }) {
        let mut world = World::new(&setup);
        world.start();
        world.run_until(|world| world.sessions() == 0);
        let after = world.clock.now().since(world.started_at);
        assert!(after <= Nanos::from_millis(800) + LINGER, "{after}");
        let results = world.finish();
        assert!(results.measured.operations.completed > 1_000);
        assert!(results.outcome.cut_short);
        assert!(results.took < Nanos::from_secs(2), "{}", results.took);
        let failure = results.outcome.failure.expect("the client is told");
        assert!(failure.message().contains("ended the session: "), "{failure}");
        assert!(failure.message().contains("--max-duration"), "{failure}");
        assert_eq!(results.outcome.figures.len(), 1, "what the server measured is not lost");
    }
}

#[test]
fn a_client_that_is_gone_leaves_nothing_behind() {
    for setup in Setup::both(|setup| {
        setup.connections = 2;
        setup.limits.idle = Nanos::from_secs(2);
        setup.duration = Some(Nanos::from_secs(3_600));
    }) {
        // Killed: the kernel closes its sockets.
        let mut world = World::new(&setup);
        world.start();
        world.run_for(Nanos::from_millis(10));
        world.client = None;
        world.run_for(Nanos::from_millis(3_400));
        assert_eq!(world.sessions(), 0);

        // Vanished without a word.
        let mut world = World::new(&setup);
        world.start();
        world.run_for(Nanos::from_millis(10));
        world.net.partition();
        world.client = None;
        world.run_for(Nanos::from_millis(3_400));
        assert_eq!(world.sessions(), 0);
    }
}

#[test]
fn a_connection_that_says_nothing_is_not_kept() {
    use tare_driver::{Driver, Op, Outcome as Done, SocketSpec, Token};
    let mut world = World::new(&Setup::default());
    world.start();
    world.run_to_end();
    let mut mute = world.net.driver();
    let to = "127.0.0.1:7117".parse().unwrap();
    let socket = mute.open(&SocketSpec::stream_to(to)).unwrap();
    mute.push(Token(1), Op::Connect { socket, to }).unwrap();
    let buffer = mute.allocate(1).unwrap();
    let into = tare_driver::Segment { buffer, start: 0, len: 1 };
    let mut done = Vec::new();
    let mut ended = None;
    while ended.is_none() {
        mute.turn(world.clock.now(), Wait::Poll, &mut done).unwrap();
        for completion in done.drain(..) {
            match completion.outcome {
                Done::Connected => mute.push(Token(2), Op::Receive { socket, into }).unwrap(),
                other => ended = Some(other),
            }
        }
        world.settle();
        world.advance();
    }
    assert_eq!(ended, Some(Done::Received(0)));
    // The next one is served all the same.
    let mut second = world.net.driver();
    let (setup, interrupt) = (world.setup.clone(), Interrupt::default());
    let mut client = setup.client(to, interrupt, Seen::default());
    client.connect(&mut second, world.clock.now()).unwrap();
    world.seen = Seen::default();
    world.client = Some(Worker::new(second, world.clock.clone(), client));
    world.run_until(|world| world.client().is_ready());
    assert_eq!(world.client().accepts().len(), 1);
}

#[test]
fn a_server_that_is_told_to_stop_closes_its_sessions() {
    for setup in Setup::both(|setup| {
        setup.duration = Some(Nanos::from_secs(60));
        setup.timeout = Nanos::from_millis(100);
    }) {
        let mut world = World::new(&setup);
        world.start();
        world.run_for(Nanos::from_millis(10));
        world.stop.set(true);
        world.run_for(Nanos::from_millis(300) + LINGER);
        assert_eq!(world.sessions(), 0);
        assert!(Role::<SimDriver>::is_finished(world.server.role()));
        if setup.transport == Transport::Tcp {
            let results = world.finish();
            assert!(results.outcome.cut_short);
            assert!(results.measured.operations.failed == 1);
        }
    }
}

/// A worker spins for those that are there, and not for those that were.
#[test]
fn nobody_spins_for_a_client_that_is_gone() {
    for setup in Setup::both(|setup| {
        setup.wait = WaitMode::Spin;
        setup.connections = 4;
        setup.duration = Some(Nanos::from_secs(3_600));
        setup.step = Nanos::from_millis(50);
    }) {
        // From the first second: a client that only said hello. Later: one that measured.
        for measures in [false, true] {
            let mut world = World::new(&setup);
            world.run_until(|world| world.client().is_ready());
            world.started_at = world.clock.now();
            if measures {
                world.start();
                world.run_for(Nanos::from_millis(20));
            }
            world.net.partition();
            world.client = None;
            let left_at = world.clock.now().since(world.started_at);
            let spins = |world: &World| {
                Role::<SimDriver>::poll_wait(world.server.role(), world.clock.now()) == Wait::Poll
            };
            assert!(spins(&world));
            world.run_for(left_at + Nanos::from_millis(1_200));
            assert_eq!(world.sessions(), 4, "they are still there");
            assert!(!spins(&world));
        }
    }
}

/// One that sends seldom is spun for all the same, once it has shown how seldom.
#[test]
fn a_client_that_pauses_regularly_is_spun_for() {
    let setup = Setup {
        wait: WaitMode::Spin,
        rate_per_s: Some(1.0 / 3.0),
        duration: Some(Nanos::from_secs(60)),
        step: Nanos::from_millis(50),
        ..Setup::default()
    };
    let mut world = World::new(&setup);
    world.start();
    world.run_for(Nanos::from_secs(7));
    for seconds in 7..30 {
        world.run_for(Nanos::from_secs(seconds));
        let now = world.clock.now();
        let wait = Role::<SimDriver>::poll_wait(world.server.role(), now);
        assert_eq!(wait, Wait::Poll, "after {seconds} s");
    }
}
