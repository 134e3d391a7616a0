//! Requests to the kernel's routing netlink (RFC 3549), one at a time, each waited for.

use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

pub(crate) use tare_driver::io::OpError;

/// A route, as the kernel would take it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Route {
    pub(crate) device: Option<u32>,
    /// The MTU that the route itself has, bytes: configured, or learnt from the path (RFC 1191).
    /// Absent where the device's holds.
    pub(crate) mtu_bytes: Option<u32>,
}

/// A netlink socket. It stays in the network namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, OpError> {
        let failed = |error| OpError::from(("socket(AF_NETLINK)", &error));
        let socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        // Port 0 is the kernel.
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Asks for a change, with `flags` such as `NLM_F_CREATE`, and waits until it is made.
    pub(crate) fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), OpError> {
        self.ask(message, flags | NLM_F_ACK).map(drop)
    }

    /// The route to `to`. Nothing is sent there.
    pub(crate) fn route(&self, to: IpAddr) -> Result<Route, OpError> {
        let mut request = RouteMessage::default();
        let (family, prefix) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        request.header.address_family = family;
        request.header.destination_prefix_length = prefix;
        request.attributes.push(RouteAttribute::Destination(RouteAddress::from(to)));
        let mut found = Route::default();
        let answer = self.ask(RouteNetlinkMessage::GetRoute(request), 0)?;
        let Some(RouteNetlinkMessage::NewRoute(route)) = answer else { return Ok(found) };
        let mtu = |metric: &RouteMetric| match metric {
            RouteMetric::Mtu(bytes) => Some(*bytes),
            _ => None,
        };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => found.device = Some(*index),
                RouteAttribute::Metrics(metrics) => found.mtu_bytes = metrics.iter().find_map(mtu),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Sends one request and reads its one answer: a message, or an acknowledgement.
    fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<RouteNetlinkMessage>, OpError> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        let failed = |call| move |error: std::io::Error| OpError::from((call, &error));
        self.socket.send(&bytes, 0).map_err(failed("send(netlink)"))?;
        let (answer, _) = self.socket.recv_from_full().map_err(failed("recv(netlink)"))?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|_| OpError::from_errno("decoding a netlink answer", libc::EBADMSG))?;
        match answer.payload {
            NetlinkPayload::Error(error) => match error.code {
                None => Ok(None),
                Some(code) => Err(OpError::from_errno("netlink", -code.get())),
            },
            NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn loopback_is_reached_through_lo() {
        let netlink = Netlink::open().unwrap();
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let route = netlink.route(Ipv4Addr::LOCALHOST.into()).unwrap();
        assert_eq!((route.device, route.mtu_bytes), (Some(lo), None));
        match netlink.route(Ipv6Addr::LOCALHOST.into()) {
            Ok(route) => assert_eq!(route.device, Some(lo)),
            Err(error) => crate::fixtures::left_out(&format!("no IPv6 here: {error}")),
        }
    }

    #[test]
    fn an_errno_of_the_kernel_is_handed_on() {
        let netlink = Netlink::open().unwrap();
        let mut link = netlink_packet_route::link::LinkMessage::default();
        link.header.index = u32::MAX >> 1;
        let answer = netlink.change(RouteNetlinkMessage::DelLink(link), 0);
        let errno = answer.unwrap_err().errno().unwrap();
        assert!([libc::ENODEV, libc::EPERM].contains(&errno), "{errno}");
    }
}
