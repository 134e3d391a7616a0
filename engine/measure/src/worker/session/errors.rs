//! Whose fault a failure is, and what to type next.

use super::{Failure, SessionEvent, SessionSpec};
use crate::worker::tally::Stage;
use tare_driver::{OpError, SocketSpec, TcpInfo};
use tare_host::unavailable;
use tare_proto::hello::{Figures, Test};
use tare_units::error::Error;

/// A socket could not be opened, which is nothing that the server could help.
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

pub(super) fn operation(spec: &SessionSpec, stage: Stage, error: OpError) -> Error {
    let to = spec.to;
    if let (Stage::Connect, OpError::AddressNotAvailable | OpError::NetworkUnreachable) =
        (stage, error)
        && let Some(error) = unavailable::address(to, spec.socket.local)
    {
        return error;
    }
    let absent = |sign: String| {
        let remedy = format!("start `tare serve --listen {to}` there, or check the port");
        Error::peer(sign).remedy(remedy)
    };
    match (stage, error) {
        (Stage::Connect, OpError::Refused) => absent(format!("{to} refuses connections")),
        (Stage::Handshake, OpError::Refused) => absent(format!("nothing listens on UDP {to}")),
        // With no port left for a datagram socket, connect says EAGAIN.
        (Stage::Connect, OpError::AddressNotAvailable | OpError::TryAgain) => {
            Error::environment(format!("no ephemeral port is left towards {to}"))
                .remedy("wait a minute, or widen net.ipv4.ip_local_port_range")
        }
        (Stage::Connect, error) => Error::peer(format!("cannot connect to {to}: {error}"))
            .remedy("check the address, the route and the firewall"),
        (Stage::Receive | Stage::Send, OpError::Reset | OpError::BrokenPipe) => {
            died(format!("{to} reset the connection"))
        }
        (Stage::Receive | Stage::Send, OpError::Refused) => {
            died(format!("nothing listens on UDP {to} any more"))
        }
        (stage, error) => Error::peer(format!("{} with {to} failed: {error}", stage.name())),
    }
}

pub(super) fn silence(spec: &SessionSpec) -> Error {
    let SessionSpec { to, timeout, .. } = spec;
    Error::peer(format!("{to} does not answer within {timeout}"))
        .remedy("check the address, the route and the firewall, or raise --timeout")
}

/// The server is there, and acknowledged nothing as large as a full segment, however often it was
/// sent: where the path loses large packets and says nothing of it (RFC 2923, 2.1).
pub(super) fn black_hole(spec: &SessionSpec, info: &TcpInfo) -> Option<Error> {
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
pub(super) fn closed(spec: &SessionSpec) -> Error {
    died(format!("{} closed the connection", spec.to))
}

fn died(sign: String) -> Error {
    Error::peer(format!("{sign}: the server has died or was ended"))
        .remedy("look at the server's log, and start it again")
}

/// The server ended the session by itself, and its figures say why.
pub(super) fn ended(spec: &SessionSpec, figures: Figures) -> SessionEvent {
    let why = figures.cut_short.as_deref().unwrap_or("it did not say why");
    let error = Error::peer(format!("{} ended the session: {why}", spec.to))
        .remedy("look at the server's log and at its limits (tare serve --help)");
    let failure = Failure::new(Stage::Receive, "ended", Some(error));
    SessionEvent::Ended { figures: Box::new(figures), failure }
}

/// The server does not know the session (UDP).
pub(super) fn unknown(spec: &SessionSpec) -> Error {
    let why = "it was restarted, or has ended the session";
    Error::peer(format!("{} does not know the session: {why}", spec.to))
        .remedy("look at the server's log, and run again")
}
