//! The way of connections from the front to the HTTP side, with a bound.

use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::HttpArrival;
use tare_units::limits::HTTP_TURNED_AWAY_MAX;

/// Held by a connection from its hand-over to its end; the inbox counts those who hold one.
pub(super) type ConnectionPermit = Arc<()>;

/// Where connections are handed over.
#[derive(Debug)]
pub struct Inbox<S> {
    to: Sender<(HttpArrival<S>, ConnectionPermit)>,
    seat: ConnectionPermit,
    seats: usize,
}

/// Where they come out.
#[derive(Debug)]
pub struct Arrivals<S>(pub(super) Receiver<(HttpArrival<S>, ConnectionPermit)>);

/// Both ends, for an HTTP side that serves so many connections and tells a few more that they are too many.
#[must_use]
pub fn inbox<S>(connections_max: u32) -> (Inbox<S>, Arrivals<S>) {
    let (to, from) = unbounded();
    let inbox = Inbox {
        to,
        seat: ConnectionPermit::default(),
        seats: connections_max as usize + HTTP_TURNED_AWAY_MAX,
    };
    (inbox, Arrivals(from))
}

impl<S> Inbox<S> {
    /// Hands a connection over. Returns whether it was taken: it is dropped where all seats are, be they of connections
    /// that are served or of those that wait for it, as in a stall; and where there is no HTTP side any more.
    pub fn send(&self, arrival: HttpArrival<S>) -> bool {
        let taken = Arc::strong_count(&self.seat) - 1;
        taken < self.seats && self.to.send((arrival, Arc::clone(&self.seat))).is_ok()
    }
}
