//! What is on its way, and when it arrives.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use tare_units::Instant;

/// A socket of the net. Keys are never reused, so what arrives late finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(pub(super) u64);

/// A datagram on its way or in a queue.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: IpAddr,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug)]
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
    Refuse(Key),
    Data {
        from: Key,
        to: Key,
        bytes: Vec<u8>,
    },
    Fin(Key),
    Reset(Key),
    Datagram {
        sender: Key,
        port: u16,
        datagram: Datagram,
    },
    /// Not on the wire: the harness planned that every connection is reset.
    ResetAll,
}

/// Parcels by arrival; those that arrive at the same instant in the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct Wire {
    due: BTreeMap<(Instant, u64), Parcel>,
    sent: u64,
}

impl Wire {
    pub(super) fn send(&mut self, at: Instant, parcel: Parcel) {
        self.due.insert((at, self.sent), parcel);
        self.sent += 1;
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Parcel> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
