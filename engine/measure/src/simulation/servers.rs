//! The servers of a simulated run: one for sessions, and one for HTTP.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam::channel::{Sender, unbounded};

use super::*;
use crate::server::worker::front::{Acceptor, Arrival, Dispatch};
use crate::server::worker::http::{
    HttpArrival, HttpServer, HttpSettings, Inbox, StampClock, inbox,
};
use crate::server::worker::{Admitted, Meter, Sessions};
use crate::worker::TurnCounters;
use tare_proto::auth::CookieKey;
use tare_proto::datagram::UdpServerFront;
use tare_proto::hello::{Accept, Refuse, RefuseCode};
use tare_stats::result::{CpuUse, Instrument};

pub(super) trait Server {
    /// One turn; how many completions it brought.
    fn turn(&mut self, now: Instant) -> usize;
    /// When it does something of which the net knows nothing.
    fn next_due(&self, now: Instant) -> Option<Instant>;
}

/// Admits up to a number of sessions, and sends them to the one session worker; HTTP goes where
/// it is served, if it is.
#[derive(Debug)]
pub(super) struct Admissions {
    http: Option<Inbox<SimSocket>>,
    inbox: Sender<Admitted<SimSocket, Rc<()>>>,
    /// Each session holds one.
    alive: Rc<()>,
    sessions_max: usize,
    one_go: bool,
    /// How often it was asked for a session.
    pub(super) asked: u64,
    /// Sessions over UDP.
    pub(super) sessions: u64,
    pub(super) log: Vec<String>,
}

impl Admissions {
    pub(super) fn new(
        inbox: Sender<Admitted<SimSocket, Rc<()>>>,
        http: Option<Inbox<SimSocket>>,
    ) -> Self {
        let (alive, log) = (Rc::new(()), Vec::new());
        Self { http, inbox, alive, sessions_max: 1, one_go: true, asked: 0, sessions: 0, log }
    }
}

impl Dispatch<SimSocket> for Admissions {
    type Admission = Accept;

    fn admit(&mut self, hello: &Hello, _peer: Option<SocketAddr>) -> Result<Accept, Refuse> {
        self.asked += 1;
        if Rc::strong_count(&self.alive) > self.sessions_max {
            return Err(Refuse::new(RefuseCode::Busy, "no room").remedy("come again"));
        }
        Ok(Accept {
            backend: "sim".to_owned(),
            wait: hello.wait,
            one_go: self.one_go && hello.connect_each,
            ..Accept::default()
        })
    }

    fn hand_over(&mut self, mut accept: Accept, arrival: Arrival<SimSocket>) {
        if arrival.hello.transport == Transport::Udp {
            self.sessions += 1;
            accept.session = Some(Id(self.sessions));
        }
        let permit = Rc::clone(&self.alive);
        self.inbox
            .send(Admitted { arrival, accept, permit })
            .expect("the session worker lives as long");
    }

    fn hand_over_http(&mut self, arrival: HttpArrival<SimSocket>) {
        if let Some(http) = &self.http {
            http.send(arrival);
        }
    }

    fn log(&mut self, _kind: &'static str, line: &str) {
        self.log.push(line.to_owned());
    }

    fn nonce(&mut self) -> [u8; 32] {
        [3; 32]
    }

    fn is_stopping(&self) -> bool {
        false
    }
}

/// Measures nothing, and stops when asked to.
#[derive(Debug, Default, Clone)]
pub(super) struct IdleMeter {
    stop: Rc<Cell<bool>>,
    reads: Rc<Cell<u32>>,
}

impl Meter for IdleMeter {
    fn reset(&mut self) {}

    fn measure_begins(&mut self) {}

    fn read(&mut self, _: &TurnCounters) -> (Instrument, CpuUse) {
        self.reads.set(self.reads.get() + 1);
        (Instrument::default(), CpuUse::default())
    }

    fn is_stopping(&self) -> bool {
        self.stop.get()
    }
}

pub(super) type Front = Acceptor<Admissions, SimSocket>;

pub(super) fn datagrams() -> Arc<UdpServerFront> {
    Arc::new(UdpServerFront::new(CookieKey([5; 32]), None))
}

/// A front and a session worker.
pub(super) struct SessionServer {
    pub(super) front: SimWorker<Front>,
    pub(super) worker: SimWorker<Sessions<SimSocket, Rc<()>, IdleMeter>>,
    /// Held by every session, by the front and here.
    alive: Rc<()>,
    meter: IdleMeter,
    /// The session worker takes no turns in between.
    pub(super) frozen: Option<(Instant, Instant)>,
}

impl SessionServer {
    pub(super) fn new(
        net: &SimNet,
        clock: &SimulatedClock,
        limits: SessionLimits,
        sessions_max: usize,
        one_go: bool,
    ) -> Self {
        let (sender, sessions) = unbounded();
        let admissions = Admissions {
            // The front's own share and the server's do not count.
            sessions_max: sessions_max + 1,
            one_go,
            ..Admissions::new(sender, None)
        };
        let alive = Rc::clone(&admissions.alive);
        let (datagrams, meter) = (datagrams(), IdleMeter::default());
        let mut front = Acceptor::new(admissions, None, Arc::clone(&datagrams), limits.idle);
        let mut driver = net.driver();
        front.listen(&mut driver, listen()).unwrap();
        let sessions = Sessions::new(sessions, limits, datagrams, meter.clone());
        Self {
            front: Worker::new(driver, clock.clone(), front),
            worker: Worker::new(net.driver(), clock.clone(), sessions),
            alive,
            meter,
            frozen: None,
        }
    }

    /// Sessions that the server keeps.
    pub(super) fn sessions(&self) -> usize {
        Rc::strong_count(&self.alive) - 2
    }

    pub(super) fn stop(&self) {
        self.meter.stop.set(true);
    }

    /// How often the meter was read.
    pub(super) fn reads(&self) -> u32 {
        self.meter.reads.get()
    }

    pub(super) fn admissions(&self) -> &Admissions {
        self.front.role().dispatch()
    }

    /// The sessions are gone, and their sockets; the front is still there.
    pub(super) fn restart(&mut self, net: &SimNet, clock: &SimulatedClock) {
        let (_, sessions) = unbounded();
        let sessions = Sessions::new(sessions, FOR_EVER, datagrams(), IdleMeter::default());
        self.worker = Worker::new(net.driver(), clock.clone(), sessions);
    }
}

impl Server for SessionServer {
    fn turn(&mut self, now: Instant) -> usize {
        let completions = self.front.turn().unwrap();
        if self.frozen.is_some_and(|(from, until)| from <= now && now < until) {
            return completions;
        }
        completions + self.worker.turn().unwrap()
    }

    fn next_due(&self, _: Instant) -> Option<Instant> {
        self.frozen.map(|(_, until)| until)
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

/// A front and the HTTP side of a server.
pub(super) struct HttpSide {
    front: SimWorker<Front>,
    pub(super) side: SimWorker<HttpServer<SimSocket>>,
    /// The HTTP side has its turns at multiples of that only, and so has the front.
    pub(super) grid: Nanos,
    pub(super) front_grid: Nanos,
}

impl HttpSide {
    pub(super) fn new(net: &SimNet, clock: &SimulatedClock, settings: HttpSettings) -> Self {
        let (http, arrivals) = inbox(settings.connections_max);
        let idle = settings.idle;
        let front =
            Acceptor::new(Admissions::new(unbounded().0, Some(http)), None, datagrams(), idle);
        let mut front = front.with_http(settings.connections_max, idle);
        let mut driver = net.driver();
        front.listen(&mut driver, listen()).unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let side = HttpServer::new(arrivals, settings, stopping, Box::new(WireClock), clock.now());
        Self {
            front: Worker::new(driver, clock.clone(), front),
            side: Worker::new(net.driver(), clock.clone(), side),
            grid: Nanos(1),
            front_grid: Nanos(1),
        }
    }
}

impl Server for HttpSide {
    fn turn(&mut self, now: Instant) -> usize {
        let mut completions = 0;
        if now.0.is_multiple_of(self.front_grid.0) {
            completions += self.front.turn().unwrap();
        }
        if now.0.is_multiple_of(self.grid.0) {
            completions += self.side.turn().unwrap();
        }
        completions
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let grids = [self.grid.0, self.front_grid.0].into_iter().filter(|grid| *grid > 1);
        let on_grids = grids.map(|grid| Instant((now.0 / grid + 1) * grid));
        let due = self.side.role().next_due(now).filter(|due| *due > now);
        on_grids.chain(due).min()
    }
}
