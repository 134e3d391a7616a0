//! What goes over loopback to a port, with the kernel's own timestamps (packet(7),
//! `SO_TIMESTAMPNS`): whoever is measured does not certify himself.
//!
//! It is read all the while, on the CPU of the server, which has time to spare: what queues up
//! would need fresh memory, and a virtual machine pays for each page of that with a fault, amid the
//! path that is measured.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};
use nix::unistd::Pid;
use socket2::{SockFilter, SockRef};

/// Bytes of the capture's buffer: some 1.5 KiB for each packet.
const BUFFER: usize = 1 << 26;
/// `PACKET_OUTGOING` of packet(7): on loopback each packet comes by twice, and this is its sending.
const OUTGOING: u8 = 4;
const ETHERNET: usize = 14;

/// A TCP segment with payload.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    /// When the kernel handed it to the device, nanoseconds since 1970.
    pub(super) at_ns: i64,
    /// From the client to the server.
    pub(super) to_server: bool,
    pub(super) payload: Vec<u8>,
}

/// A capture under way.
#[derive(Debug)]
pub(super) struct Capture {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Packet>>,
}

impl Capture {
    /// Captures from now on what a server on `port` of 127.0.0.1 receives and sends, and reads it
    /// on `cpu`. Needs root.
    pub(super) fn begin(port: u16, cpu: Option<usize>) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::EthAll;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)
            .expect("root may capture");
        SockRef::from(&socket).attach_filter(&filter(port)).expect("the kernel takes the filter");
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).expect("root may");
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).expect("the kernel stamps");
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20)).expect("it can");
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            if let Some(cpu) = cpu {
                let mut set = CpuSet::new();
                set.set(cpu).expect("a CPU's number");
                sched_setaffinity(Pid::from_raw(0), &set).expect("the CPU is allowed");
            }
            read(&socket, port, &stopping)
        });
        Self { stop, reader }
    }

    /// Ends it: all segments with payload, in order.
    pub(super) fn finish(self) -> Vec<Packet> {
        self.stop.store(true, Ordering::Relaxed);
        self.reader.join().expect("it reads")
    }
}

/// Reads until it is to stop and nothing more is there.
fn read(socket: &OwnedFd, port: u16, stop: &AtomicBool) -> Vec<Packet> {
    let mut packets = Vec::with_capacity(1 << 16);
    let mut buffer = vec![0; 65_536 + ETHERNET];
    let mut control = nix::cmsg_space!(TimeSpec);
    loop {
        let mut ranges = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<LinkAddr>(
            socket.as_raw_fd(),
            &mut ranges,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let message = match message {
            Ok(message) => message,
            Err(Errno::EAGAIN) if stop.load(Ordering::Relaxed) => return packets,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => panic!("the capture broke: {error}"),
        };
        let stamp = message.cmsgs().expect("it fits").find_map(|c| match c {
            ControlMessageOwned::ScmTimestampns(at) => Some(at),
            _ => None,
        });
        let len = message.bytes;
        let Some(stamp) = stamp else { continue };
        let at_ns = stamp.tv_sec() * 1_000_000_000 + stamp.tv_nsec();
        packets.extend(segment(&buffer[..len], port, at_ns));
    }
}

/// Lets pass what is sent from or to `port` over IPv4 with more than a bare acknowledgement, so
/// that the capture costs the path little else (classic BPF, linux/filter.h; offsets of Ethernet,
/// IPv4 without options, TCP).
fn filter(port: u16) -> [SockFilter; 10] {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // `SKF_AD_OFF + SKF_AD_PKTTYPE`.
    const PACKET_TYPE: u32 = (-0x1000_i32 + 4) as u32;
    let port = u32::from(port);
    [
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(EQUAL, 0, 7, u32::from(OUTGOING)),
        SockFilter::new(LOAD, 0, 0, 16),
        SockFilter::new(ABOVE, 0, 5, 52),
        SockFilter::new(LOAD, 0, 0, 34),
        SockFilter::new(EQUAL, 2, 0, port),
        SockFilter::new(LOAD, 0, 0, 36),
        SockFilter::new(EQUAL, 0, 1, port),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// A segment of the connection with `port`, if the frame is one and has payload.
fn segment(frame: &[u8], port: u16, at_ns: i64) -> Option<Packet> {
    let ip = frame.get(ETHERNET..)?;
    let is_tcp = ip.first()? >> 4 == 4 && *ip.get(9)? == 6;
    let header = usize::from(ip[0] & 15) * 4;
    let whole = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let tcp = ip.get(header..whole)?;
    let number = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let (from, to) = (number(0)?, number(2)?);
    let payload = tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?;
    let ours = is_tcp && (from == port || to == port) && !payload.is_empty();
    ours.then(|| Packet { at_ns, to_server: to == port, payload: payload.to_vec() })
}
