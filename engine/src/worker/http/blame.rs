//! Whose fault a failure is, and what to type next.

use super::{Blamed, Destination, HttpSpec};
use crate::driver::OpError;
use crate::error::Error;
use crate::worker::errors::Stage;

/// A failure in words fit for the user.
pub(super) fn words(spec: &HttpSpec, stage: Stage, blamed: Blamed) -> Error {
    let to = &spec.to;
    match (stage, blamed) {
        (Stage::Connect, Blamed::Timeout) => Error::peer(format!(
            "{to} did not accept a connection within {}",
            spec.connect_timeout
        ))
        .remedy("check the address, the route and the firewall, or raise --connect-timeout"),
        (Stage::Connect, Blamed::Os(error)) => unconnected(spec, error),
        (_, Blamed::Timeout) => {
            Error::peer(format!("{to} did not answer within {}", spec.timeout)).remedy(
                "see the server's log; raise --timeout if it is to be given more time, or lower the load",
            )
        }
        (_, Blamed::Os(OpError::Reset | OpError::BrokenPipe)) => {
            Error::peer(format!("{to} reset a connection")).remedy(
                "see the server's log and its limits (requests per connection, workers, backlog)",
            )
        }
        (stage, Blamed::Os(error)) => {
            Error::peer(format!("{} with {to} failed: {error}", stage.name()))
        }
        (_, Blamed::Peer(cause)) => peer(to, cause),
    }
}

fn unconnected(spec: &HttpSpec, error: OpError) -> Error {
    let to = &spec.to;
    match (error, to) {
        (OpError::Refused, Destination::Tcp(_)) => {
            Error::peer(format!("{to} refuses connections (ECONNREFUSED)"))
                .remedy("start the server there, or check the port")
        }
        (OpError::Refused, Destination::Unix(_)) => {
            Error::peer(format!("nobody listens on {to} (ECONNREFUSED)"))
                .remedy("start the server: the socket is a leftover of one that has ended")
        }
        (OpError::NotFound, Destination::Unix(_)) => {
            Error::peer(format!("there is no socket {to} (ENOENT)"))
                .remedy("check the path, or start the server")
        }
        (OpError::AddressNotAvailable, Destination::Tcp(_)) if spec.bind.is_empty() => {
            Error::environment(format!("no ephemeral port is left towards {to}")).remedy(
                "connect from more addresses (--bind), or widen net.ipv4.ip_local_port_range",
            )
        }
        (OpError::AddressNotAvailable | OpError::Invalid, Destination::Tcp(_)) => {
            Error::environment(format!(
                "an address of --bind is none of this machine, or no port of it is left towards {to}"
            ))
            .remedy("`ip address` lists those there are; name more of them")
        }
        (OpError::TooManyFiles, _) => {
            Error::environment("no descriptor is left for another connection (EMFILE)").remedy(
                format!("raise the limit: ulimit -n {}", spec.connections + 1024),
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
        "head-too-long" | "too-many-headers" => "sent a response head beyond the limits",
        "upgraded" => "switched to another protocol",
        _ => "sent what is no HTTP/1.1 response",
    };
    Error::peer(format!("{to} {what} ({cause})"))
        .remedy("see the server's log; `curl -v` shows a single exchange")
}
