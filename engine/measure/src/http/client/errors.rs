//! Whose fault a failure is, and what to type next.

use std::net::SocketAddr;

use super::HttpSpec;
use crate::worker::destination::Destination;
use crate::worker::tally::Stage;
use tare_driver::sys::socket::abstract_name;
use tare_driver::{OpError, towards};
use tare_host::unavailable;
use tare_proto::http1::response::ResponseError;
use tare_units::error::Error;

/// What went wrong with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureCause {
    /// Nothing came in time.
    Timeout,
    /// A response has no length, and the connection did not end in time.
    NoLength,
    /// A system call failed.
    Os(OpError),
    /// Something that the server did, by its name in results.
    Peer(&'static str),
}

impl FailureCause {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::NoLength => ResponseError::NO_LENGTH,
            Self::Os(error) => error.name(),
            Self::Peer(cause) => cause,
        }
    }
}

pub(super) fn words(spec: &HttpSpec, stage: Stage, cause: FailureCause) -> Error {
    let to = &spec.to;
    match (stage, cause) {
        (Stage::Connect, FailureCause::Timeout) => Error::peer(format!(
            "{to} did not accept a connection within {}",
            spec.plan.connect_timeout
        ))
        .remedy("check the address, the route and the firewall, or raise --connect-timeout"),
        (Stage::Connect, FailureCause::Os(error)) => unconnected(spec, error),
        (_, FailureCause::Timeout) => {
            Error::peer(format!("{to} did not answer within {}", spec.run.timeout)).remedy(
                "see the server's log; raise --timeout if it is to be given more time, or lower the load",
            )
        }
        (_, FailureCause::NoLength) => Error::peer(format!(
            "{to} gave no length for its response (neither Content-Length nor chunks) and kept the connection open, so \
             no client can tell where the response ends ({})",
            ResponseError::NO_LENGTH
        ))
        .remedy(
            "have the server give a length or close the connection; --connection close asks it to close after each response",
        ),
        (_, FailureCause::Os(OpError::Reset | OpError::BrokenPipe)) => {
            Error::peer(format!("{to} reset a connection")).remedy(
                "see the server's log and its limits (requests per connection, workers, backlog)",
            )
        }
        (stage, FailureCause::Os(error)) => {
            Error::peer(format!("{} with {to} failed: {error}", stage.name()))
        }
        (_, FailureCause::Peer(cause)) => peer(to, cause),
    }
}

fn unconnected(spec: &HttpSpec, error: OpError) -> Error {
    let to = &spec.to;
    if let (
        OpError::AddressNotAvailable | OpError::NetworkUnreachable | OpError::Invalid,
        Destination::Tcp(to),
    ) = (error, to)
    {
        let from = |local: &SocketAddr| unavailable::address(*to, Some(towards(*local, *to)));
        let why = match spec.plan.bind.as_slice() {
            [] => unavailable::address(*to, None),
            all => all.iter().find_map(from),
        };
        if let Some(why) = why {
            return why;
        }
    }
    match (error, to) {
        (OpError::Refused, Destination::Tcp(_)) => {
            Error::peer(format!("{to} refuses connections (ECONNREFUSED)"))
                .remedy("start the server there, or check the port")
        }
        (OpError::Refused, Destination::Unix(path)) if abstract_name(path).is_some() => {
            Error::peer(format!("nobody listens on the abstract socket {to} (ECONNREFUSED)"))
                .remedy(
                    "start the server, or check the name: `ss -xl` lists those of this network namespace, each has its own",
                )
        }
        (OpError::Refused, Destination::Unix(_)) => {
            Error::peer(format!("nobody listens on {to} (ECONNREFUSED)"))
                .remedy("start the server: the socket is a leftover of one that has ended")
        }
        (OpError::NotFound, Destination::Unix(_)) => {
            Error::peer(format!("there is no socket {to} (ENOENT)"))
                .remedy("check the path, or start the server")
        }
        (OpError::AddressNotAvailable, Destination::Tcp(_)) if spec.plan.bind.is_empty() => {
            Error::environment(format!("no ephemeral port is left towards {to}")).remedy(
                "connect from more addresses (--bind), or widen net.ipv4.ip_local_port_range",
            )
        }
        (OpError::AddressNotAvailable, Destination::Tcp(_)) => Error::environment(format!(
            "no ephemeral port of an address of --bind is left towards {to}"
        ))
        .remedy("name more addresses, or widen net.ipv4.ip_local_port_range"),
        (OpError::FamilyNotSupported, Destination::Tcp(_)) => {
            Error::environment(format!("no socket for {to} can be opened: {error}"))
                .remedy("IPv6 is switched off here: give an IPv4 address")
        }
        (OpError::TooManyFiles, _) => {
            Error::environment("no descriptor is left for another connection (EMFILE)").remedy(
                format!("raise the limit: ulimit -n {}", spec.run.slots + 1024),
            )
        }
        (error, _) => Error::peer(format!("cannot connect to {to}: {error}"))
            .remedy("check the address, the route and the firewall"),
    }
}

fn peer(to: &Destination, cause: &'static str) -> Error {
    let what = match cause {
        "early-close" => "closed a connection before it answered",
        "cut-head" => "closed a connection amid the head of a response",
        "short-body" => "closed a connection before the body was as long as promised",
        "long-body" => "sent more than the body that it promised",
        "unsolicited" => "sent bytes that nobody asked for",
        "interim-too-long" => "sent interim responses (1xx) beyond the limit of 1 MiB",
        "head-too-long" | "too-many-headers" => "sent a response head beyond the limits",
        "upgraded" => "switched to another protocol",
        _ => "sent what is no HTTP/1.1 response",
    };
    Error::peer(format!("{to} {what} ({cause})"))
        .remedy("see the server's log; `curl -v` shows a single exchange")
}
