//! How long the server keeps whom.

use super::*;
use tare_driver::Wait;

/// What a session that was ended stays for, so that its client can learn why.
const LINGER: Nanos = SECOND;

#[test]
fn sessions_end_with_their_client() {
    let setup = Setup { connections: 3, ..Setup::default() };
    for setup in setup.over_both() {
        let mut world = setup.started();
        assert_eq!(world.server.sessions(), 3);
        world.run_until(World::is_finished);
        // A datagram session lingers for a question that is repeated.
        world.run_to(secs(3));
        assert_eq!(world.server.sessions(), 0);
        assert!(world.server.worker.role().is_empty());
    }
}

#[test]
fn a_silent_session_is_closed_and_its_client_fails() {
    let idle = secs(2);
    let limits = SessionLimits { idle, ..FOR_EVER };
    let setup = Setup { limits, timeout: ms(200), ..Setup::default() };
    for setup in setup.over_both() {
        let mut world = setup.world();
        world.run_until(|world| world.client().is_ready());
        assert_eq!(world.server.sessions(), 1);
        let silent_from = world.clock.now();
        let idle = idle + LINGER - ROUND_TRIP - LATENCY;
        world.run_until(|world| world.server.sessions() == 0);
        let after = world.clock.now().since(silent_from);
        assert!(after >= idle && after <= idle + ms(302), "{after}");
        let results = world.started().finish();
        let operations = results.operations();
        assert_eq!(operations.completed, 0);
        assert!(operations.failed + operations.timed_out > 0, "{operations:?}");
        assert!(results.took < SECOND, "{}", results.took);
    }
}

#[test]
fn a_session_lives_no_longer_than_allowed() {
    let limits = SessionLimits { duration: ms(500), ..FOR_EVER };
    let setup = Setup { limits, duration: secs(10), timeout: ms(100), ..Setup::default() };
    for setup in setup.over_both() {
        let mut world = setup.started();
        world.run_until(|world| world.server.sessions() == 0);
        assert!(world.now() <= ms(800) + LINGER, "{}", world.now());
        let results = world.finish();
        assert!(results.operations().completed > 1_000);
        assert!(results.outcome.cut_short);
        assert!(results.took < secs(2), "{}", results.took);
        results.assert_failure("ended the session: ");
        results.assert_failure("--max-duration");
        assert_eq!(results.outcome.figures.len(), 1, "what the server measured is not lost");
    }
}

#[test]
fn a_client_that_is_gone_leaves_nothing_behind() {
    let limits = SessionLimits { idle: secs(2), ..FOR_EVER };
    let setup = Setup { limits, connections: 2, duration: secs(3_600), ..Setup::default() };
    for setup in setup.over_both() {
        // Killed, when the kernel closes its sockets; or vanished without a word.
        for vanishes in [false, true] {
            let mut world = setup.started();
            world.run_to(ms(10));
            if vanishes {
                world.net.partition();
            }
            world.clients.clear();
            world.run_to(ms(3_400));
            assert_eq!(world.server.sessions(), 0, "{vanishes}");
        }
    }
}

#[test]
fn a_connection_that_says_nothing_is_not_kept() {
    let setup = Setup::default();
    let mut world = setup.started();
    world.run_until(World::is_finished);
    let mute = world.hand("");
    world.run_until(|world| world.hands[mute].ended);
    assert_eq!((world.hands[mute].error, world.hands[mute].got.len()), (None, 0));
    // The next one is served all the same.
    world.clients.clear();
    world.add(|interrupt| setup.client(listen(), interrupt));
    world.run_until(|world| world.client().is_ready());
    assert_eq!(world.client().accepts().len(), 1);
}

#[test]
fn a_server_that_is_to_stop_closes_its_sessions() {
    let setup = Setup { duration: secs(60), timeout: ms(100), ..Setup::default() };
    for setup in setup.over_both() {
        let mut world = setup.started();
        world.run_to(ms(10));
        world.server.stop();
        world.run_to(ms(300) + LINGER);
        assert_eq!(world.server.sessions(), 0);
        assert!(Role::<SimDriver>::is_finished(world.server.worker.role()));
        if setup.transport == Transport::Tcp {
            let results = world.finish();
            assert!(results.outcome.cut_short);
            assert_eq!(results.operations().failed, 1);
        }
    }
}

fn spins(world: &World) -> bool {
    let now = world.clock.now();
    Role::<SimDriver>::poll_wait(world.server.worker.role(), now) == Wait::Poll
}

/// A worker spins for those that are there, and not for those that were.
#[test]
fn nobody_spins_for_a_client_that_is_gone() {
    let setup = Setup {
        wait: WaitMode::Spin,
        connections: 4,
        duration: secs(3_600),
        step: ms(50),
        ..Setup::default()
    };
    for setup in setup.over_both() {
        // From the first second: a client that only said hello. Later: one that measured.
        for measures in [false, true] {
            let mut world = setup.world();
            world.run_until(|world| world.client().is_ready());
            if measures {
                world = world.started();
                world.run_to(ms(20));
            }
            world.net.partition();
            world.clients.clear();
            assert!(spins(&world));
            world.run_for(ms(1_200));
            assert_eq!(world.server.sessions(), 4, "they are still there");
            assert!(!spins(&world));
        }
    }
}

/// One that sends seldom is spun for all the same, once it has shown how seldom.
#[test]
fn a_client_that_pauses_regularly_is_spun_for() {
    let mut world =
        Setup { wait: WaitMode::Spin, duration: secs(60), step: ms(50), ..Setup::at(1.0 / 3.0) }
            .started();
    for seconds in 7..30 {
        world.run_to(secs(seconds));
        assert!(spins(&world), "after {seconds} s");
    }
}
