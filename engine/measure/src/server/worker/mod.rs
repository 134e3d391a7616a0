//! The server's roles: the [`front`] hears hellos, [`Sessions`] answers, and [`http`] serves HTTP.

mod listener;
mod session;

pub mod front;
pub mod http;

use std::sync::Arc;

use crate::worker::link::slot_of;
use crate::worker::{Role, TurnCounters};
use crossbeam::channel::Receiver;
use tare_driver::{Completion, Driver, DriverError, Wait};
use tare_proto::datagram::UdpServerFront;
use tare_proto::hello::{Accept, Figures, Hello, WaitMode};
use tare_stats::result::{CpuUse, Instrument};
use tare_units::bounds::{CLOSING_MAX, NAP, STOP_MAX};
use tare_units::limits::{HYBRID_SPIN, SESSIONS_MAX};
use tare_units::{Instant, Nanos};

use front::Arrival;
use listener::BorrowedListener;
use session::{Session, Terms, Want};

pub(crate) use session::memory_bytes;

/// What a turn comes to: an error ends the driver.
pub(crate) type Result<T = (), E = DriverError> = std::result::Result<T, E>;

/// A driver whose sockets are `S` outside of it.
pub(crate) trait Io<S>: Driver<Socket = S> {}

impl<D: Driver> Io<D::Socket> for D {}

/// A hybrid session does not sleep so shortly before a send: waking up may take as long.
const WAKEUP: Nanos = Nanos::from_micros(200);
/// A worker goes on spinning for its spinning sessions as long after it last heard of one of them,
/// beside the pause that they made before: a client that pauses for longer is either slow, and then
/// learns so from its own figures, or gone.
const SPIN_PATIENCE: Nanos = Nanos::from_secs(1);
/// A pause above that is not spun through, however regular the client is.
const SPIN_PAUSE_MAX: Nanos = Nanos::from_secs(10);

/// A session with all that was decided for it.
#[derive(Debug)]
pub struct Admitted<S, P> {
    /// Its socket and what the client asked for.
    pub arrival: Arrival<S>,
    /// What the client is answered.
    pub accept: Accept,
    /// Held for as long as the session lives.
    pub permit: P,
}

/// Reads how the worker's thread fared. The real one asks the kernel.
pub trait Meter {
    /// Starts again, which may take as long as reading a few files.
    fn reset(&mut self);
    /// The measured phase begins: what is counted for the thread alone starts again, at once.
    fn measure_begins(&mut self);
    /// The figures since the last reset.
    fn read(&mut self, counters: &TurnCounters) -> (Instrument, CpuUse);
    /// Whether the worker is to end.
    fn is_stopping(&self) -> bool;
}

/// Bounds on a session's life.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Longest silence.
    pub idle: Nanos,
    /// Longest life.
    pub duration: Nanos,
}

/// The role of a session worker: any number of sessions, answered as they ask.
#[derive(Debug)]
pub struct Sessions<S, P, M> {
    inbox: Receiver<Admitted<S, P>>,
    slots: Vec<Option<Session<P>>>,
    vacant: Vec<u32>,
    /// Slots of sessions that ended in this turn, which lists may still name until the next.
    freed: Vec<u32>,
    /// Sessions whose reply is to be sent at the next submission, and those that hold it until an
    /// instant.
    ready: Vec<u32>,
    held: Vec<(Instant, u32)>,
    /// Sessions whose figures are due.
    reports: Vec<u32>,
    /// Sessions that send on a schedule, or may come to.
    paced: Vec<u32>,
    /// Sessions of one operation that wait for their next connection.
    parked: Vec<u32>,
    spinning: usize,
    hybrids: usize,
    /// When a session that asked for spinning last began, or something completed for one; and how
    /// long the worker spins for such sessions.
    spun_at: Instant,
    spins_until: Instant,
    active_at: Instant,
    /// Requests among the completions of this turn.
    timed: u64,
    datagrams: Arc<UdpServerFront>,
    meter: M,
    limits: SessionLimits,
    run_id: Option<u64>,
    /// The present step has come to its measured phase, or has just come to it.
    measuring: bool,
    measure_began: bool,
    /// Figures of that phase were given.
    measure_reported: bool,
    /// Requests answered and payload of streams moved since the meter last started.
    operations: u64,
    bytes: u64,
    checked_at: Instant,
    /// When it was noticed that the worker is to end.
    stopping_since: Option<Instant>,
    /// Sessions that are still there are left to the driver.
    is_overdue: bool,
    listener: Option<BorrowedListener<S>>,
}

impl<S, P, M: Meter> Sessions<S, P, M> {
    /// A worker that takes its sessions from `inbox`.
    pub fn new(
        inbox: Receiver<Admitted<S, P>>,
        limits: SessionLimits,
        datagrams: Arc<UdpServerFront>,
        meter: M,
    ) -> Self {
        let list = || Vec::with_capacity(SESSIONS_MAX as usize);
        Self {
            inbox,
            slots: Vec::with_capacity(SESSIONS_MAX as usize),
            vacant: list(),
            freed: list(),
            ready: list(),
            held: Vec::with_capacity(SESSIONS_MAX as usize),
            reports: list(),
            paced: list(),
            parked: list(),
            spinning: 0,
            hybrids: 0,
            spun_at: Instant::default(),
            spins_until: Instant::default(),
            active_at: Instant::default(),
            timed: 0,
            datagrams,
            meter,
            limits,
            run_id: None,
            measuring: false,
            measure_began: false,
            measure_reported: false,
            operations: 0,
            bytes: 0,
            checked_at: Instant::default(),
            stopping_since: None,
            is_overdue: false,
            listener: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len() - self.freed.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn adopt(
        &mut self,
        io: &mut impl Io<S>,
        admitted: Admitted<S, P>,
        now: Instant,
        counters: &mut TurnCounters,
    ) -> Result {
        let Admitted { arrival, accept, permit } = admitted;
        let Arrival { socket, hello, peer, nonce, early, listener } = arrival;
        let run_id = hello.run_id.0;
        if self.run_id != Some(run_id) || self.begins_step(&hello) {
            self.run_id = Some(run_id);
            (self.measuring, self.measure_reported) = (false, false);
            counters.reset();
            self.reset_meter();
        }
        let Ok(socket) = io.adopt(socket) else {
            return Ok(());
        };
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("bounded by the driver's sockets")
        });
        match accept.wait {
            WaitMode::Spin => {
                self.spinning += 1;
                self.spun_at = now;
                self.note_spun(now);
            }
            WaitMode::Hybrid => self.hybrids += 1,
            WaitMode::Block => {}
        }
        if let Some(listener) = listener {
            self.borrow_listener(io, listener, now)?;
        }
        let terms = Terms { hello, peer, nonce, accept };
        let front = Arc::clone(&self.datagrams);
        let mut session = Session::new(io, (slot, socket), terms, front, permit, now)?;
        let want = if session.terms.hello.request_follows {
            self.active_at = now;
            session.begin_in_one_go(io, &early, now)?
        } else {
            session.begin(io)?;
            Want::Nothing
        };
        if session::is_paced(&session.terms.hello) {
            self.paced.push(slot);
        }
        self.note_measured(session.measured);
        self.slots[slot as usize] = Some(session);
        self.act(io, slot, want)
    }

    /// A request of the measured phase has come, or one of the warm-up.
    fn note_measured(&mut self, measured: bool) {
        if !self.measuring && measured {
            (self.measuring, self.measure_began) = (true, true);
        }
    }

    /// Whether a session of the present run is the first of a step: the sessions of the step before
    /// have given their figures. A session of one ping tells nothing, its step has one before and
    /// one after them that do.
    fn begins_step(&self, hello: &Hello) -> bool {
        let amid = hello.connect_each && self.measuring && !self.measure_reported;
        let mut sessions = self.slots.iter().flatten();
        !hello.brief
            && !amid
            && sessions.all(|session| session.terms.hello.brief || session.is_ended())
    }

    /// A spinning session has shown that it is there.
    #[inline]
    fn note_spun(&mut self, now: Instant) {
        let pause = now.since(self.spun_at).min(SPIN_PAUSE_MAX);
        self.spun_at = now;
        self.spins_until = self.spins_until.max(now + SPIN_PATIENCE + pause);
    }

    fn reset_meter(&mut self) {
        (self.operations, self.bytes) = (0, 0);
        self.meter.reset();
    }

    fn act(&mut self, io: &mut impl Io<S>, slot: u32, want: Want) -> Result {
        match want {
            Want::Nothing => {}
            Want::Reply(at) => {
                self.timed += 1;
                match at {
                    None => self.ready.push(slot),
                    Some(at) => self.held.push((at, slot)),
                }
            }
            Want::Report => self.reports.push(slot),
            Want::Close => {
                if let Some(session) = self.slots[slot as usize].as_mut() {
                    session.link.close(io)?;
                }
            }
            Want::GiveBack => self.give_back(io, slot)?,
        }
        self.reap(io, slot);
        Ok(())
    }

    /// Frees a session that is closed and has nothing outstanding.
    fn reap(&mut self, io: &mut impl Driver, slot: u32) {
        if self.keep(slot) {
            return;
        }
        if self.slots[slot as usize].as_ref().is_some_and(Session::is_over)
            && let Some(session) = self.slots[slot as usize].take()
        {
            match session.terms.accept.wait {
                WaitMode::Spin => self.spinning -= 1,
                WaitMode::Hybrid => self.hybrids -= 1,
                WaitMode::Block => {}
            }
            self.freed.push(slot);
            session.link.free(io);
        }
    }

    /// Takes the ended sessions out of all lists at once: `lat --connect-each` ends one each time.
    fn forget_freed(&mut self) {
        if self.freed.is_empty() {
            return;
        }
        let slots = &self.slots;
        for list in [&mut self.ready, &mut self.reports, &mut self.paced, &mut self.parked] {
            list.retain(|slot| slots[*slot as usize].is_some());
        }
        self.held.retain(|(_, slot)| slots[*slot as usize].is_some());
        self.vacant.append(&mut self.freed);
    }

    fn check_limits(&mut self, io: &mut impl Io<S>, now: Instant) -> Result {
        let stopping = self.meter.is_stopping();
        if stopping {
            let since = *self.stopping_since.get_or_insert(now);
            self.is_overdue = now >= since + STOP_MAX + CLOSING_MAX;
        }
        let closes = self.stopping_since.is_some_and(|at| now >= at + STOP_MAX);
        let leaving = self.check_lease(io, now)?;
        for index in 0..self.slots.len() {
            let Some(session) = &mut self.slots[index] else {
                continue;
            };
            let want = match closes {
                true => Want::Close,
                false if session.handle_slow_opening(io, now, leaving)? => continue,
                false => session.handle_limits(io, now, self.active_at, self.limits, stopping)?,
            };
            if want == Want::Close {
                session.abandon(io, closes);
            }
            let slot = u32::try_from(index).expect("bounded by the driver's sockets");
            self.act(io, slot, want)?;
        }
        Ok(())
    }

    /// Gives the figures that are due. Reading the meter may take as long as reading a few files:
    /// it is read once for all that end together.
    fn report(&mut self, io: &mut impl Io<S>, counters: &TurnCounters) -> Result {
        let mut reading = None;
        while let Some(slot) = self.reports.pop() {
            let Some(session) = self.slots[slot as usize].as_mut() else {
                continue;
            };
            let figures = session.needs_reading().then(|| {
                self.measure_reported |= self.measuring;
                let read = || {
                    let (instrument, cpu) = self.meter.read(counters);
                    let (cpu_operations, cpu_bytes) = (self.operations, self.bytes);
                    Figures { instrument, cpu, cpu_operations, cpu_bytes, ..Figures::default() }
                };
                reading.get_or_insert_with(read).clone()
            });
            let want = session.report(io, figures)?;
            self.act(io, slot, want)?;
        }
        Ok(())
    }

    fn reply(&mut self, io: &mut impl Driver, slot: u32, now: Instant) -> Result {
        if let Some(session) = self.slots[slot as usize].as_mut()
            && session.reply(io, now)?
        {
            self.operations += 1;
        }
        Ok(())
    }
}

impl<D: Driver, P, M: Meter> Role<D> for Sessions<D::Socket, P, M> {
    fn handle_completion(&mut self, io: &mut D, completion: Completion, now: Instant) -> Result {
        let (slot, purpose) = slot_of(completion.token);
        if slot >= listener::ORPHAN {
            return self.handle_listener(io, &completion, now);
        }
        let Some(session) = self.slots[slot as usize].as_mut() else {
            return Ok(());
        };
        self.active_at = now;
        let want = session.handle_completion(io, purpose, &completion, now)?;
        let spins = session.terms.accept.wait == WaitMode::Spin;
        self.bytes += session.take_moved();
        let measured = session.measured;
        self.note_measured(measured);
        if spins {
            self.note_spun(now);
        }
        self.act(io, slot, want)
    }

    fn handle_time(&mut self, io: &mut D, now: Instant, counters: &mut TurnCounters) -> Result {
        self.forget_freed();
        // Asking first costs a spinning turn two loads in place of a fence.
        while !self.inbox.is_empty()
            && let Ok(admitted) = self.inbox.try_recv()
        {
            self.adopt(io, admitted, now, counters)?;
        }
        if std::mem::take(&mut self.measure_began) {
            // The warm-up is over, and what disturbed it is no concern of the figures.
            counters.reset();
            (self.operations, self.bytes) = (0, 0);
            self.meter.measure_begins();
        }
        if now.since(self.checked_at) >= NAP {
            self.checked_at = now;
            self.check_limits(io, now)?;
            if !self.measuring && !self.is_empty() {
                // Nobody announces the measured phase: so little of the warm-up counts with it.
                self.reset_meter();
            }
        }
        self.report(io, counters)
    }

    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result {
        let mut ready = std::mem::take(&mut self.ready);
        for slot in ready.drain(..) {
            self.reply(io, slot, now)?;
        }
        self.ready = ready;
        let mut held = std::mem::take(&mut self.held);
        for (_, slot) in held.extract_if(.., |(at, _)| *at <= now) {
            self.reply(io, slot, now)?;
        }
        self.held = held;
        for &slot in &self.paced {
            if let Some(session) = self.slots[slot as usize].as_mut() {
                session.poll_stream(io, now)?;
            }
        }
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        // For a held reply it spins in any mode: the delay is there to check the instrument.
        let fresh = self.hybrids > 0 && now.since(self.active_at) < HYBRID_SPIN;
        let spins = self.spinning > 0 && now < self.spins_until;
        if spins || !self.held.is_empty() || fresh {
            return Wait::Poll;
        }
        let sessions = self.paced.iter().filter_map(|slot| self.slots[*slot as usize].as_ref());
        let due = sessions.filter_map(Session::due).min().unwrap_or(Instant::FAR_FUTURE);
        if self.hybrids > 0 && due.since(now) < WAKEUP {
            return Wait::Poll;
        }
        Wait::Until(due.min(now + NAP))
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.held.is_empty() || !self.paced.is_empty()
    }

    fn take_timed(&mut self) -> u64 {
        std::mem::take(&mut self.timed)
    }

    fn is_finished(&self) -> bool {
        self.meter.is_stopping() && (self.is_empty() || self.is_overdue)
    }
}
