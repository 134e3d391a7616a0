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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureCause {
    Timeout,
    /// A response has no length, and the connection did not end in time.
    NoLength,
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

/// A failure in words: what happened, and what to do about it.
pub(super) fn words(spec: &HttpSpec, stage: Stage, cause: FailureCause) -> Error {
    let to = &spec.to;
    let (message, remedy) = match (stage, cause) {
        (Stage::Connect, FailureCause::Os(error)) => return unconnected(spec, error),
        (Stage::Connect, FailureCause::Timeout) => (
            format!("{to} did not accept a connection within {}", spec.plan.connect_timeout),
            "check the address, the route and the firewall, or raise --connect-timeout",
        ),
        (_, FailureCause::Timeout) => (
            format!("{to} did not answer within {}", spec.run.timeout),
            "see the server's log; raise --timeout if it is to be given more time, or lower the load",
        ),
        (_, FailureCause::NoLength) => (
            format!(
                "{to} gave no length for its response (neither Content-Length nor chunks) and kept the connection open, \
                 so no client can tell where the response ends ({})",
                ResponseError::NO_LENGTH
            ),
            "have the server give a length or close the connection; --connection close asks it to close after each response",
        ),
        (_, FailureCause::Os(OpError::Reset | OpError::BrokenPipe)) => (
            format!("{to} reset a connection"),
            "see the server's log and its limits (requests per connection, workers, backlog)",
        ),
        (stage, FailureCause::Os(error)) => {
            return Error::peer(format!("{} with {to} failed: {error}", stage.name()));
        }
        (_, FailureCause::Peer(cause)) => (
            format!("{to} {} ({cause})", what_peer_did(cause)),
            "see the server's log; `curl -v` shows a single exchange",
        ),
    };
    Error::peer(message).remedy(remedy)
}

fn unconnected(spec: &HttpSpec, error: OpError) -> Error {
    use OpError::{AddressNotAvailable, FamilyNotSupported, Invalid, NetworkUnreachable};
    use OpError::{NotFound, Refused, TooManyFiles};
    let (to, binds) = (&spec.to, &spec.plan.bind);
    if let (AddressNotAvailable | NetworkUnreachable | Invalid, Destination::Tcp(to)) = (error, to)
    {
        let from = |local: &SocketAddr| unavailable::address(*to, Some(towards(*local, *to)));
        let why = match binds.as_slice() {
            [] => unavailable::address(*to, None),
            all => all.iter().find_map(from),
        };
        if let Some(why) = why {
            return why;
        }
    }
    let more = "widen net.ipv4.ip_local_port_range";
    match (error, to) {
        (Refused, Destination::Tcp(_)) => {
            Error::peer(format!("{to} refuses connections (ECONNREFUSED)"))
                .remedy("start the server there, or check the port")
        }
        (Refused, Destination::Unix(path)) if abstract_name(path).is_some() => Error::peer(format!(
            "nobody listens on the abstract socket {to} (ECONNREFUSED)"
        ))
        .remedy("start the server, or check the name: `ss -xl` lists those of this network namespace, each has its own"),
        (Refused, Destination::Unix(_)) => {
            Error::peer(format!("nobody listens on {to} (ECONNREFUSED)"))
                .remedy("start the server: the socket is a leftover of one that has ended")
        }
        (NotFound, Destination::Unix(_)) => Error::peer(format!("there is no socket {to} (ENOENT)"))
            .remedy("check the path, or start the server"),
        (AddressNotAvailable, Destination::Tcp(_)) if binds.is_empty() => {
            Error::environment(format!("no ephemeral port is left towards {to}"))
                .remedy(format!("connect from more addresses (--bind), or {more}"))
        }
        (AddressNotAvailable, Destination::Tcp(_)) => {
            let what = format!("no ephemeral port of an address of --bind is left towards {to}");
            Error::environment(what).remedy(format!("name more addresses, or {more}"))
        }
        (FamilyNotSupported, Destination::Tcp(_)) => {
            Error::environment(format!("no socket for {to} can be opened: {error}"))
                .remedy("IPv6 is switched off here: give an IPv4 address")
        }
        (TooManyFiles, _) => {
            Error::environment("no descriptor is left for another connection (EMFILE)")
                .remedy(format!("raise the limit: ulimit -n {}", spec.run.slots + 1024))
        }
        (error, _) => Error::peer(format!("cannot connect to {to}: {error}"))
            .remedy("check the address, the route and the firewall"),
    }
}

fn what_peer_did(cause: &'static str) -> &'static str {
    match cause {
        "early-close" => "closed a connection before it answered",
        "cut-head" => "closed a connection amid the head of a response",
        "short-body" => "closed a connection before the body was as long as promised",
        "long-body" => "sent more than the body that it promised",
        "unsolicited" => "sent bytes that nobody asked for",
        "interim-too-long" => "sent interim responses (1xx) beyond the limit of 1 MiB",
        "head-too-long" | "too-many-headers" => "sent a response head beyond the limits",
        "upgraded" => "switched to another protocol",
        _ => "sent what is no HTTP/1.1 response",
    }
}
