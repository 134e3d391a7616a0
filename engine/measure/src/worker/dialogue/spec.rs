//! With whom a dialogue is held, and what it tells.

use std::net::SocketAddr;

use super::blame;
use crate::worker::errors::Stage;
use tare_driver::{SocketSpec, towards};
use tare_proto::auth::Secret;
use tare_proto::hello::{Accept, Figures, Hello, Transport};
use tare_units::Nanos;
use tare_units::error::Error;

/// A request that fits into one segment together with its hello, whatever the path's MTU, bytes.
const ONE_SEGMENT: u64 = 512;

/// With whom the connections of a worker talk, and how.
#[derive(Debug, Clone)]
pub struct DialogueSpec {
    /// The far end.
    pub to: SocketAddr,
    /// What is opened for each connection.
    pub socket: SocketSpec,
    /// What each connection says, but for `brief`.
    pub hello: Hello,
    /// The shared secret.
    pub secret: Option<Secret>,
    /// For connecting, for the handshake, and for the figures at the end.
    pub timeout: Nanos,
    /// Random: the sessions' nonces are made from it.
    pub nonce: u64,
}

impl DialogueSpec {
    /// A dialogue over sockets without options, of the transport that the hello names.
    #[must_use]
    pub const fn new(
        to: SocketAddr,
        hello: Hello,
        secret: Option<Secret>,
        timeout: Nanos,
        nonce: u64,
    ) -> Self {
        let mut socket = match hello.transport {
            Transport::Tcp => SocketSpec::stream_to(to),
            Transport::Udp => SocketSpec::datagram_to(to),
        };
        socket.brief = hello.connect_each;
        // One segment holds the hello and such a request, and Nagle's algorithm never holds the first one back.
        socket.nodelay &= !(hello.connect_each && hello.size_bytes <= ONE_SEGMENT);
        Self { to, socket, hello, secret, timeout, nonce }
    }

    /// The same over sockets that are bound to `local`, where that is given.
    #[must_use]
    pub fn from_local(mut self, local: Option<SocketAddr>) -> Self {
        self.socket.local = local.map(|local| towards(local, self.to));
        self
    }

    /// TCP or UDP.
    #[inline]
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.hello.transport
    }
}

/// Sizes of a link's buffers, bytes. A dialogue makes them larger where its control frames need it.
#[derive(Debug, Clone, Copy)]
pub struct BufferSizes {
    /// Of the receive buffer.
    pub receive_bytes: usize,
    /// Of the send buffer.
    pub send_bytes: usize,
}

/// Something went wrong.
#[derive(Debug)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// The name in results: an errno's, or a word.
    pub cause: &'static str,
    /// In words fit for the user; absent where the count says all.
    pub error: Option<Box<Error>>,
}

impl Failure {
    /// The cause of a timeout.
    pub const TIMEOUT: &'static str = "timeout";

    /// A failure at `stage`, with words for the user or without.
    #[must_use]
    pub fn new(stage: Stage, cause: &'static str, error: Option<Error>) -> Self {
        Self { stage, cause, error: error.map(Box::new) }
    }

    /// The far end did not answer within the timeout.
    #[must_use]
    pub fn silence(stage: Stage, spec: &DialogueSpec) -> Self {
        let error = blame::silence(spec.to, spec.timeout);
        Self::new(stage, Self::TIMEOUT, Some(error))
    }

    /// The server has ended the session by itself, and its figures say why.
    pub(super) fn ended(figures: &Figures, spec: &DialogueSpec) -> Self {
        let error = blame::ended(spec.to, figures);
        Self::new(Stage::Receive, "ended", Some(error))
    }
}

/// What a dialogue has come to.
#[derive(Debug)]
pub enum News {
    /// Nothing to tell.
    Nothing,
    /// The connection stands; it took so long.
    Connected(Nanos),
    /// There is a session: the dialogue is open, and the exchange the owner's.
    Accepted(Box<Accept>),
    /// The server's figures, as was asked or agreed.
    Figures(Box<Figures>),
    /// The server has ended the session by itself. The owner gives the dialogue up.
    Ended {
        /// Its figures.
        figures: Box<Figures>,
        /// What it means for the run.
        failure: Failure,
    },
    /// The connection has ended as it should, and its socket is closed.
    Over,
    /// Something went wrong. The dialogue stays as it is until its owner gives it up.
    Failed(Failure),
}

impl News {
    /// A failure at `stage`, with words for the user or without.
    #[must_use]
    pub fn failed(stage: Stage, cause: &'static str, error: Option<Error>) -> Self {
        Self::Failed(Failure::new(stage, cause, error))
    }
}

/// What a completion was.
#[derive(Debug)]
pub enum SessionEvent {
    /// The owner's receive brought `len` bytes; over TCP at least one. Only while the dialogue is open.
    Received {
        /// How many bytes.
        len: u32,
    },
    /// Of the owner's send `len` bytes are gone. Also when the dialogue is not open any more.
    Sent {
        /// How many bytes.
        len: u32,
    },
    /// The owner's repeated send has come so far. Also when the dialogue is not open any more.
    SentRepeated {
        /// Whole sends.
        sends: u32,
        /// All bytes that are gone.
        bytes: u64,
    },
    /// The buffer of the owner's zero-copy send is free again.
    Released {
        /// The kernel copied all the same.
        copied: bool,
    },
    /// Something of the dialogue's own.
    News(News),
}
