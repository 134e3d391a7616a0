//! TCP's figures of a connection.

use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::io::TcpInfo;
use tare_units::Nanos;

/// `struct tcp_info` of `linux/tcp.h` as far as it is read; later kernels append to it.
#[repr(C)]
#[derive(Default)]
struct Raw {
    states: [u8; 8],
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
}

const _: () = assert!(
    offset_of!(Raw, total_retrans) == 100
        && offset_of!(Raw, pacing_rate) == 104
        && offset_of!(Raw, delivery_rate) == 160
        && size_of::<Raw>() == 192,
    "the layout of linux/tcp.h"
);

/// What TCP says of a connection; `None` where the socket is of another protocol.
pub(crate) fn tcp_info(fd: BorrowedFd<'_>) -> Option<TcpInfo> {
    let mut raw = Raw::default();
    let mut len = size_of::<Raw>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `raw`, which is that long and borrowed for
    // the call, and the number it wrote to `len`. Every bit pattern is a value of the struct's
    // integers, and what an older kernel does not write stays zero.
    let answer = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut raw).cast(),
            &raw mut len,
        )
    };
    (answer == 0).then(|| raw.into())
}

impl From<Raw> for TcpInfo {
    fn from(raw: Raw) -> Self {
        Self {
            retransmits: raw.total_retrans.into(),
            // `struct tcp_info`: state, state of congestion avoidance, retransmits, probes,
            // backoff.
            backoff: raw.states[4],
            cwnd_segments: raw.snd_cwnd,
            mss_bytes: raw.snd_mss,
            rtt: Nanos::from_micros(raw.rtt.into()),
            min_rtt: Nanos::from_micros(raw.min_rtt.into()),
            busy: Nanos::from_micros(raw.busy_time),
            rwnd_limited: Nanos::from_micros(raw.rwnd_limited),
            sndbuf_limited: Nanos::from_micros(raw.sndbuf_limited),
            data_segments_out: raw.data_segs_out.into(),
            segments_in: raw.segs_in.into(),
            acked_bytes: raw.bytes_acked,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_figures_are_those_of_the_transfer() {
        const BYTES: usize = 100_000;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        let before = tcp_info(sender.as_fd()).unwrap();
        assert_eq!(before.data_segments_out, 0);

        sender.write_all(&[7; BYTES]).unwrap();
        receiver.read_exact(&mut [0; BYTES]).unwrap();
        receiver.write_all(b"!").unwrap();
        // The answer acknowledges all of it.
        sender.read_exact(&mut [0]).unwrap();

        let after = tcp_info(sender.as_fd()).unwrap();
        // The SYN counts as one.
        assert!((BYTES as u64..=BYTES as u64 + 1).contains(&after.acked_bytes));
        assert!((1024..=65_536).contains(&after.mss_bytes), "{after:?}");
        let least = BYTES as u64 / u64::from(after.mss_bytes);
        assert!(after.data_segments_out >= least);
        assert!(after.segments_in > before.segments_in);
        assert!(after.cwnd_segments >= 2);
        assert!(after.rtt > Nanos::ZERO && after.rtt < Nanos::from_secs(1));
        assert!(after.min_rtt <= after.rtt, "{after:?}");
        assert!(after.busy < Nanos::from_secs(60) && after.rwnd_limited <= after.busy);
    }

    #[test]
    fn other_protocols_have_none() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(tcp_info(socket.as_fd()), None);
    }
}
