//! What `tare serve` answers with.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::server::worker::http::{HttpServer, HttpSettings, Inbox, Stall, StampClock, inbox};
use tare_driver::{Driver, Op, Outcome as Came, SocketSpec, Token, Wait};

type Side = Worker<SimDriver, SimulatedClock, HttpServer<SimSocket>>;

/// The HTTP side of a server, and a door that passes every connection on at once.
pub(super) struct Served {
    door: SimDriver,
    inbox: Inbox<SimSocket>,
    side: Side,
    done: Vec<tare_driver::Completion>,
}

impl Served {
    pub(super) fn new(net: &SimNet, clock: &SimulatedClock) -> Self {
        Self::stalling(net, clock, Vec::new())
    }

    pub(super) fn stalling(net: &SimNet, clock: &SimulatedClock, stalls: Vec<Stall>) -> Self {
        let settings = HttpSettings {
            wait: WaitMode::Block,
            idle: Nanos::from_secs(3_600),
            connections_max: 10_000,
            seed: 1,
            stalls,
        };
        let (inbox, arrivals) = inbox(settings.connections_max);
        let stopping = Arc::new(AtomicBool::new(false));
        let side = HttpServer::new(arrivals, settings, stopping, Box::new(WireClock), clock.now());
        Self {
            door: door(net),
            inbox,
            side: Worker::new(net.driver(), clock.clone(), side),
            done: Vec::new(),
        }
    }
}

/// The simulated wire stamps by its own clock.
#[derive(Debug)]
struct WireClock;

impl StampClock for WireClock {
    fn refresh(&mut self) {}

    fn to_instant(&self, stamp: Nanos) -> Option<Instant> {
        Some(Instant(stamp.0))
    }
}

/// A driver that accepts.
pub(super) fn door(net: &SimNet) -> SimDriver {
    let mut door = net.driver();
    let listener = door.open(&SocketSpec::listener(LISTEN.parse().unwrap())).unwrap();
    let multishot = true;
    door.push(Token(u64::MAX >> 1), Op::Accept { listener, multishot }).unwrap();
    door
}

impl Far for Served {
    fn turn(&mut self, now: Instant) -> usize {
        self.door.turn(now, Wait::Poll, &mut self.done).unwrap();
        let mut count = self.done.len();
        for completion in self.done.drain(..) {
            let Came::Accepted(socket) = completion.outcome else {
                panic!("{completion:?}");
            };
            let arrival = HttpArrival {
                socket: self.door.release(socket).unwrap(),
                bytes: Vec::new(),
                at: now,
                stamp: None,
            };
            assert!(self.inbox.send(arrival));
        }
        count += self.side.turn().unwrap();
        count
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        self.side.role().next_due(now)
    }
}
