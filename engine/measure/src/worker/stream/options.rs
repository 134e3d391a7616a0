//! The options that were asked for, on a socket.

use tare_driver::{Driver, OpError, SocketId, SocketOption};
use tare_proto::hello::Transport;
use tare_proto::stream::SocketOptions;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedOption {
    option: SocketOption,
    error: OpError,
}

impl RefusedOption {
    /// What is the matter, in words; `kernel` tells whose it is.
    pub(crate) fn message(&self, kernel: &str) -> String {
        let error = self.error;
        match &self.option {
            SocketOption::Congestion(name) => {
                format!("{kernel} does not offer congestion control '{name}': {error}")
            }
            option => format!("{kernel} refuses {option:?}: {error}"),
        }
    }

    /// What to do about it, on that kernel's machine.
    pub(crate) const fn remedy(&self) -> &'static str {
        match self.option {
            SocketOption::Congestion(_) => {
                "sysctl net.ipv4.tcp_available_congestion_control names them; modprobe tcp_NAME adds one"
            }
            _ => "leave that option out",
        }
    }
}

/// Sets what was asked for, as far as it is for sockets of that transport.
pub(crate) fn set_options<D: Driver>(
    io: &mut D,
    socket: SocketId,
    asked: &SocketOptions,
    transport: Transport,
) -> Result<(), RefusedOption> {
    for option in of(asked, transport) {
        io.set_option(socket, &option).map_err(|error| RefusedOption { option, error })?;
    }
    Ok(())
}

fn of(asked: &SocketOptions, transport: Transport) -> impl Iterator<Item = SocketOption> {
    let tcp = transport == Transport::Tcp;
    let options = [
        asked.congestion.clone().filter(|_| tcp).map(SocketOption::Congestion),
        asked.mss_bytes.filter(|_| tcp).map(SocketOption::MaxSegment),
        tcp.then_some(SocketOption::NoDelay(asked.nodelay)),
        asked.dscp.map(|dscp| SocketOption::TrafficClass(dscp << 2)),
        asked.send_buffer_bytes.map(SocketOption::SendBuffer),
        asked.receive_buffer_bytes.map(SocketOption::ReceiveBuffer),
    ];
    options.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transport_has_its_own() {
        let asked = SocketOptions {
            congestion: Some("reno".to_owned()),
            mss_bytes: Some(1_000),
            nodelay: true,
            dscp: Some(46),
            send_buffer_bytes: Some(1),
            receive_buffer_bytes: Some(2),
        };
        let common = [
            SocketOption::TrafficClass(46 << 2),
            SocketOption::SendBuffer(1),
            SocketOption::ReceiveBuffer(2),
        ];
        assert_eq!(of(&asked, Transport::Udp).collect::<Vec<_>>(), common);
        let tcp: Vec<_> = of(&asked, Transport::Tcp).collect();
        assert_eq!(tcp[2], SocketOption::NoDelay(true));
        assert_eq!(tcp[3..], common);
        assert_eq!(tcp.len(), 6);
        // Nagle's algorithm is as the kernel has it, whatever this program sets elsewhere.
        let none = SocketOptions::default();
        assert_eq!(of(&none, Transport::Tcp).collect::<Vec<_>>(), [SocketOption::NoDelay(false)]);
    }

    #[test]
    fn a_refusal_says_whose_kernel_and_what_to_do() {
        let refused =
            RefusedOption { option: SocketOption::MaxSegment(1), error: OpError::Invalid };
        let message = refused.message("the server's kernel");
        assert!(message.starts_with("the server's kernel refuses MaxSegment(1): "));
        assert_eq!(refused.remedy(), "leave that option out");
    }
}
