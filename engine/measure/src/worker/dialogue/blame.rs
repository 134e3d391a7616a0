//! Whose fault a failure is, and what to type next.

use std::net::SocketAddr;

use super::DialogueSpec;
use crate::worker::errors::Stage;
use tare_driver::{OpError, SocketSpec, TcpInfo};
use tare_host::unavailable;
use tare_proto::hello::{Figures, Test};
use tare_units::Nanos;
use tare_units::error::Error;

/// A socket could not be opened: nothing that the far end could help.
pub(super) fn cannot_open(error: OpError, spec: &SocketSpec) -> Error {
    if let (Some(local), OpError::AddressNotAvailable | OpError::Invalid) = (spec.local, error) {
        return unavailable::source(local);
    }
    let what = Error::environment(format!("no socket can be opened: {error}"));
    match error {
        OpError::TooManyFiles => what.remedy("raise the limit: ulimit -n 65536"),
        OpError::FamilyNotSupported => {
            what.remedy("IPv6 is switched off here: give an IPv4 address")
        }
        OpError::AddressInUse => {
            what.remedy("no port is left: wait a minute, or widen net.ipv4.ip_local_port_range")
        }
        _ => what,
    }
}

/// A failed operation, over a socket that is bound to `local` where that is given.
pub(super) fn operation(
    to: SocketAddr,
    local: Option<SocketAddr>,
    stage: Stage,
    error: OpError,
) -> Error {
    if let (Stage::Connect, OpError::AddressNotAvailable | OpError::NetworkUnreachable) =
        (stage, error)
        && let Some(error) = unavailable::address(to, local)
    {
        return error;
    }
    match (stage, error) {
        (Stage::Connect, OpError::Refused) => Error::peer(format!("{to} refuses connections"))
            .remedy(format!("start `tare serve --listen {to}` there, or check the port")),
        (Stage::Handshake, OpError::Refused) => Error::peer(format!("nothing listens on UDP {to}"))
            .remedy(format!("start `tare serve --listen {to}` there, or check the port")),
        // With no port left for a datagram socket, connect says EAGAIN.
        (Stage::Connect, OpError::AddressNotAvailable | OpError::TryAgain) => {
            Error::environment(format!("no ephemeral port is left towards {to}"))
                .remedy("wait a minute, or widen net.ipv4.ip_local_port_range")
        }
        (Stage::Connect, error) => Error::peer(format!("cannot connect to {to}: {error}"))
            .remedy("check the address, the route and the firewall"),
        (Stage::Receive | Stage::Send, OpError::Reset | OpError::BrokenPipe) => {
            Error::peer(format!("{to} reset the connection: the server has died or was ended"))
                .remedy("look at the server's log, and start it again")
        }
        (Stage::Receive | Stage::Send, OpError::Refused) => Error::peer(format!(
            "nothing listens on UDP {to} any more: the server has died or was ended"
        ))
        .remedy("look at the server's log, and start it again"),
        (stage, error) => Error::peer(format!("{} with {to} failed: {error}", stage.name())),
    }
}

/// No answer within the timeout.
pub(super) fn silence(to: SocketAddr, timeout: Nanos) -> Error {
    Error::peer(format!("{to} does not answer within {timeout}"))
        .remedy("check the address, the route and the firewall, or raise --timeout")
}

/// The far end is there, and acknowledged nothing as large as a full segment, however often it was sent: where the path
/// loses large packets and says nothing of it (RFC 2923, 2.1).
pub(super) fn black_hole(spec: &DialogueSpec, info: &TcpInfo) -> Option<Error> {
    let stuck = info.retransmits >= 2 && info.backoff > 0;
    if !stuck || info.segments_in == 0 || info.acked_bytes >= info.mss_bytes.into() {
        return None;
    }
    let (to, acked) = (spec.to, info.acked_bytes);
    let what = format!(
        "large packets vanish on this path to {to}: MTU black hole? Segments of up to {} bytes were sent, and nothing \
         above {acked} bytes was acknowledged",
        info.mss_bytes
    );
    let remedy = match spec.hello.test {
        Test::Stream => "try --mss 500, or here",
        _ => "try here",
    };
    Some(Error::peer(what).remedy(format!(
        "{remedy} `sysctl -w net.ipv4.tcp_mtu_probing=1`; then mend the MTU, or let ICMP through"
    )))
}

/// The connection was closed in the middle of the run.
pub(super) fn closed(to: SocketAddr) -> Error {
    Error::peer(format!("{to} closed the connection: the server has died or was ended"))
        .remedy("look at the server's log, and start it again")
}

/// The server ended the session, and said why.
pub(super) fn ended(to: SocketAddr, figures: &Figures) -> Error {
    let why = figures.cut_short.as_deref().unwrap_or("it did not say why");
    Error::peer(format!("{to} ended the session: {why}"))
        .remedy("look at the server's log and at its limits (tare serve --help)")
}

/// The server does not know the session (UDP).
pub(super) fn unknown(to: SocketAddr) -> Error {
    Error::peer(format!(
        "{to} does not know the session: it was restarted, or has ended the session"
    ))
    .remedy("look at the server's log, and run again")
}
