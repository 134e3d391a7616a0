//! Opens sockets, until `crate::sys::socket::open` does.

use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::driver::{OpError, SocketKind, SocketSpec};

/// A socket as `spec` asks.
pub(super) fn open_socket(spec: &SocketSpec) -> Result<OwnedFd, OpError> {
    fn step<T>(call: &'static str, result: std::io::Result<T>) -> Result<T, OpError> {
        result.map_err(|e| OpError::from((call, &e)))
    }
    let ipv6 = spec.local.map_or(spec.ipv6, |l| l.is_ipv6());
    let kind = match spec.kind {
        SocketKind::Stream | SocketKind::Listener => Type::STREAM,
        SocketKind::Datagram => Type::DGRAM,
    };
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = step("socket", Socket::new(domain, kind, None))?;
    let option = |result| step("setsockopt", result);
    let wildcard = spec.local.is_some_and(|l| l.ip().is_unspecified());
    if ipv6 && wildcard && spec.kind != SocketKind::Stream {
        option(socket.set_only_v6(false))?;
    }
    if spec.kind == SocketKind::Listener {
        option(socket.set_reuse_address(true))?;
    }
    if spec.reuse_port {
        option(socket.set_reuse_port(true))?;
    }
    if spec.nodelay && spec.kind != SocketKind::Datagram {
        option(socket.set_tcp_nodelay(true))?;
    }
    if let Some(bytes) = spec.send_buffer {
        option(socket.set_send_buffer_size(bytes as usize))?;
    }
    if let Some(bytes) = spec.receive_buffer {
        option(socket.set_recv_buffer_size(bytes as usize))?;
    }
    if spec.packet_info {
        let set = if ipv6 {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
        };
        option(set.map_err(Into::into))?;
    }
    if let Some(local) = spec.local {
        step("bind", socket.bind(&local.into()))?;
    }
    if spec.kind == SocketKind::Listener {
        step("listen", socket.listen(4096))?;
    }
    Ok(socket.into())
}
