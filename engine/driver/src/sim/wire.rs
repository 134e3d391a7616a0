//! What is on its way, and when it arrives.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};

use tare_units::Instant;

/// A socket of the net. Keys are never reused, so what arrives late finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(pub(super) u64);

/// A datagram on its way or in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: IpAddr,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parcel {
    /// `client` asks for a connection to an address.
    Syn {
        client: Key,
        to: SocketAddr,
    },
    /// The server's end stands.
    SynAck {
        client: Key,
        server: Key,
    },
    /// Nobody listens, or no socket takes the datagram.
    Refuse {
        to: Key,
    },
    Data {
        from: Key,
        to: Key,
        bytes: Vec<u8>,
    },
    Fin {
        to: Key,
    },
    Reset {
        to: Key,
    },
    Datagram {
        sender: Key,
        port: u16,
        datagram: Datagram,
    },
    /// Not on the wire: the harness planned that every connection is reset.
    ResetAll,
}

#[derive(Debug, PartialEq, Eq)]
struct Due {
    at: Instant,
    order: u64,
    parcel: Parcel,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Parcels by arrival; those that arrive at the same instant in the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct Wire {
    due: BinaryHeap<Reverse<Due>>,
    sent: u64,
}

impl Wire {
    pub(super) fn send(&mut self, at: Instant, parcel: Parcel) {
        let order = self.sent;
        self.sent += 1;
        self.due.push(Reverse(Due { at, order, parcel }));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse(due)| due.at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Parcel> {
        if self.next()? > now {
            return None;
        }
        self.due.pop().map(|Reverse(due)| due.parcel)
    }
}
