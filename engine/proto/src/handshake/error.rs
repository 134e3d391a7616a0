//! Why a client got no session, and what it can do about it.

use std::fmt;

use crate::VERSION;
use crate::frame::{FrameError, Kind, read_body};
use crate::hello::{Refuse, RefuseCode};
use tare_units::Nanos;
use tare_units::error::{Error, Fault};
use tare_units::limits::DEFAULT_PORT;
use tare_units::text::{excerpt, first_line, protocol_name};

/// Why a client got no session, or no figures.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// What answers there is not tare: the first bytes of its answer, at most
    /// [`tare_units::text::EXCERPT_MAX`].
    NotTare(Vec<u8>),
    /// A tare of another version of the protocol.
    Version(u8),
    /// The server wants a proof of a secret that we don't have.
    SecretMissing,
    /// The server said no.
    Refused(Refuse),
    /// The connection was closed before a single byte of an answer.
    ClosedUnanswered,
    /// The connection was closed in the middle.
    Closed,
    /// Nothing complete came in time.
    TimedOut {
        /// How long was waited.
        after: Nanos,
        /// Something of an answer had come.
        answered: bool,
    },
    /// The server broke the protocol.
    Malformed(String),
    /// Our own hello is longer than the protocol allows: too many CPUs are named in it.
    HelloTooLong,
}

impl HandshakeError {
    /// What a stranger's answer amounts to.
    pub(crate) fn not_tare(answer: &[u8]) -> Self {
        Self::NotTare(first_line(answer).to_vec())
    }

    /// What a refusal amounts to, as a frame holds it.
    pub(crate) fn refused(body: &[u8]) -> Self {
        read_body::<Refuse>(Kind::Refuse, body)
            .map_or_else(Self::from, |refuse| Self::Refused(refuse.cleaned()))
    }

    /// What a frame amounts to that came instead of another.
    pub(crate) fn instead(kind: Kind, of: &str) -> Self {
        Self::Malformed(format!("it sent {} instead of {of}", kind.name()))
    }

    /// A one-word cause for error counts (`closed`, `timeout`, `protocol`, `refused`, …).
    #[must_use]
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::NotTare(_) | Self::Version(_) | Self::Malformed(_) => "protocol",
            Self::SecretMissing | Self::Refused(_) => "refused",
            Self::ClosedUnanswered | Self::Closed => "closed",
            Self::TimedOut { .. } => "timeout",
            Self::HelloTooLong => "hello-too-long",
        }
    }

    /// The error for the public edge; `address` is where the connection went, as the user shall
    /// read it.
    #[must_use]
    pub fn into_error(self, address: impl fmt::Display) -> Error {
        let start = format!(
            "start `tare serve` there, or give the port that it listens on (by default {DEFAULT_PORT})"
        );
        match self {
            Self::NotTare(answer) => Error::peer(match protocol_name(&answer) {
                Some(name) => format!("{address} speaks {name}, not tare's protocol"),
                None => format!(
                    "{address} does not speak tare's protocol: it answered {}",
                    excerpt(&answer)
                ),
            })
            .remedy(start),
            Self::Version(theirs) => Error::peer(format!(
                "{address} speaks version {theirs} of tare's protocol, this tare ({}) version {VERSION}",
                env!("CARGO_PKG_VERSION")
            ))
            .remedy("use the same tare at both ends"),
            Self::SecretMissing => Error::peer(format!("{address} asks for a secret, and none was given"))
                .remedy("give the server's secret with --secret-file"),
            Self::Refused(refuse) => refused(&refuse, &address.to_string()),
            Self::ClosedUnanswered => {
                Error::peer(format!("{address} closed the connection without an answer")).remedy(
                    "check that `tare serve` runs there: proxies and load balancers close so when there is \
                     nothing behind them",
                )
            }
            Self::Closed => Error::peer(format!(
                "{address} closed the connection in the middle of an exchange"
            ))
            .remedy("see what the server logged"),
            Self::TimedOut { after, answered: false } => {
                Error::peer(format!("{address} did not answer the hello within {after}")).remedy(
                    "check that `tare serve` runs there and that no firewall is between, or give a longer --timeout",
                )
            }
            Self::TimedOut { after, answered: true } => {
                Error::peer(format!("{address} stopped answering for {after}"))
                    .remedy("see what the server logged, or give a longer --timeout")
            }
            Self::Malformed(what) => {
                Error::peer(format!("{address} broke tare's protocol: {what}"))
                    .remedy("use the same tare at both ends")
            }
            Self::HelloTooLong => {
                Error::new(Fault::Usage, "the hello names more CPUs than it can hold")
                    .remedy("give fewer --cpus")
            }
        }
    }
}

fn refused(refuse: &Refuse, address: &str) -> Error {
    let Refuse { code, message, remedy } = refuse.cleaned();
    let fixed = match code {
        RefuseCode::SecretRequired => {
            return HandshakeError::SecretMissing.into_error(address);
        }
        RefuseCode::SecretWrong => {
            return Error::peer(format!("{address} has another secret than the one given"))
                .remedy("give the file that the server was started with to --secret-file");
        }
        RefuseCode::Busy => {
            Some("try again later, or start the server with a larger --max-sessions")
        }
        RefuseCode::ShuttingDown => Some("start the server again"),
        RefuseCode::Version => Some("use the same tare at both ends"),
        _ => None,
    };
    let message = if message.is_empty() { code.name() } else { &message };
    let error = Error::peer(format!("{address} refused: {message}"));
    match remedy.as_deref().or(fixed) {
        Some(remedy) => error.remedy(remedy),
        None => error,
    }
}

impl From<FrameError> for HandshakeError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Version(theirs) => Self::Version(theirs),
            other => Self::Malformed(format!("it sent {other}")),
        }
    }
}
