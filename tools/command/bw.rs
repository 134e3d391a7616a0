//! `tare bw`: its flags, and the plan they become.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use clap::Args;
use tare_driver::{Backend, BackendChoice};
use tare_engine::bandwidth::plan::{BwPlan, Sink, ZeroCopy};
use tare_engine::run::plan::{Common, Stop};
use tare_host::resolve::local;
use tare_proto::auth::Secret;
use tare_proto::hello::{Direction, Transport};
use tare_proto::stream::SocketOptions;
use tare_units::error::{Error, Result};
use tare_units::limits::STREAM_DURATION_MAX;
use tare_units::target::Target;
use tare_units::{BitRate, Counts, Nanos, Size, Sizes};

use super::demand;
use super::measure::check_outputs;
use super::options::{CommonArgs, DURATION, SecretArgs, assert_help, choice};
use super::target::{self, TargetArgs, TransportArgs};

/// Bytes per send over TCP, as iperf3 has it.
const STREAM_SIZE: u32 = 128 << 10;
/// Bytes per datagram: what an MTU of 1,450, an overlay's on Ethernet, carries over IPv6 in one
/// piece (1,402).
const DATAGRAM_SIZE: u32 = 1_400;
/// Segment sizes that Linux takes: `TCP_MIN_MSS` to `MAX_TCP_WINDOW` of net/tcp.h.
const MSS: RangeInclusive<u64> = 88..=32_767;
/// The largest socket buffer: the kernel doubles what is asked for, in a signed 32-bit number.
const SOCKET_BUFFER_MAX: u64 = (1 << 30) - 1;
/// The longest name of a congestion control, the kernel's `TCP_CA_NAME_MAX` less its zero.
const CONGESTION_NAME_MAX: usize = 15;

const SOCKETS: &str = "Sockets, at both ends";

const EXAMPLES: &str = "\
Examples:
  tare bw                                     loopback: what this machine moves by itself
  tare bw node-2                              one TCP stream to `tare serve` on node-2, port 7117
  tare bw node-2 -P 1,8 --direction both      one stream, then eight, each way at once
  tare bw node-2 --size 1:256K:*64            one result per size: 1 B, 64 B, 4 KiB, 256 KiB
  tare bw node-2 --bytes 10G -o bw.json       end after 10 GiB instead of after a time
  tare bw pod-ip:30117 --udp --rate 200M      paced datagrams: loss, reordering, jitter
  tare bw node-2 --sink discard               what copying to the receiver costs
  tare bw node-2 --assert 'bandwidth>9Gbit' && echo as fast as the link

Exit codes: 0 measured, 1 could not measure, 2 usage, 3 an assertion failed, 4 disturbed (--strict),
5 cannot tell, 130 interrupted (what was measured is printed).";

/// Measure bulk bandwidth, and the CPU it costs
///
/// Sends as fast as the path takes it, or at --rate. Figures are of payload, and the headline is
/// what the receiving end got.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_arg("count", |arg| arg.help("End each step after that many sends instead of after a time")))]
#[command(mut_arg("timeout", |arg| arg.help("Give up on a connect, a handshake or a silent server after that long")))]
#[command(mut_arg("assertions", |arg| {
    let examples = "'bandwidth>9G', 'streams=8:cpu<800ms'";
    arg.help(format!("Fail with exit code 3 unless this holds: {examples} (repeatable)")).long_help(assert_help(
        examples,
        "bandwidth, bandwidth.up, bandwidth.down, retransmits, lost, loss, errors, rate (share of --rate) and cpu (time \
         per GiB, both ends: 'cpu<800ms'). size=4K and streams=8 select steps.",
    ))
}))]
pub(crate) struct BwArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    traffic: TrafficArgs,
    /// End each step once that much payload was moved over all streams, in each direction: 10G,
    /// 500M
    ///
    /// Then all of it counts: there is no warm-up. A stream that moves less than 5 KiB in five
    /// times the --timeout is given up: what was moved until then is reported, marked partial.
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["duration", "count"])]
    #[arg(help_heading = "How long")]
    bytes: Option<Size>,

    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

#[derive(Debug, Args)]
pub(super) struct TrafficArgs {
    #[command(flatten)]
    transport: TransportArgs,
    /// Keep that many streams going at once; a list makes one result each: 1,8,64
    #[arg(short, long, value_name = "N", default_value = "1")]
    #[arg(visible_short_alias = 'P', visible_alias = "streams")]
    connections: Counts,
    /// Send up (to the server), down (from it) or both ways at once [default: up]
    #[arg(long, value_name = "WAY", value_parser = choice(WAYS))]
    #[arg(conflicts_with_all = ["reverse", "bidir"])]
    direction: Option<Direction>,
    /// The same as --direction down
    #[arg(long, conflicts_with = "bidir")]
    reverse: bool,
    /// The same as --direction both
    #[arg(long)]
    bidir: bool,
    /// Send pieces of this size, one send each; a list or a sweep makes one result each: 1:256K:*64
    ///
    /// By default 128K over TCP, and over UDP 1400, which is not fragmented where the MTU is 1500,
    /// nor in an overlay's 1450, over IPv4 or IPv6. tare joins no two sends; whether the kernel
    /// does (Nagle) is up to --nodelay, and the report tells. Over UDP the size is a datagram's
    /// payload with tare's header of 16 bytes in it. K M G are binary, k m g decimal. Sweeps are
    /// FIRST:LAST:STEP, where a step of *4 multiplies, as qperf writes them.
    #[arg(long, value_name = "SIZES")]
    size: Option<Sizes>,
    /// Pace the payload evenly to that many bits a second over all streams, in each direction: 1G,
    /// 200M
    ///
    /// Each send has its own due time: no bursts. The report tells how far the gaps were from the
    /// schedule.
    #[arg(long, value_name = "BITRATE")]
    rate: Option<BitRate>,
    /// Send from the buffer itself, without the kernel's copy: auto does where that pays [default:
    /// auto]
    ///
    /// The report tells which share the kernel copied all the same; on loopback and veth it copies
    /// all.
    #[arg(long, value_name = "WHEN", value_parser = choice(ZERO_COPY))]
    zerocopy: Option<ZeroCopy>,
    /// Have receivers copy what comes, as applications do, or have the kernel discard it (TCP)
    /// [default: copy]
    #[arg(long, value_name = "HOW", value_parser = choice(SINKS))]
    sink: Option<Sink>,

    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Debug, Args)]
struct SocketArgs {
    /// Use this congestion control (TCP): cubic, bbr, dctcp
    #[arg(long, value_name = "NAME", help_heading = SOCKETS)]
    congestion: Option<String>,
    /// Send segments of at most that many bytes (TCP)
    #[arg(long, value_name = "BYTES", help_heading = SOCKETS)]
    mss: Option<Size>,
    /// Do not wait to fill a segment: small sends leave one by one (TCP)
    #[arg(long, help_heading = SOCKETS)]
    nodelay: bool,
    /// Mark packets with this DSCP: 0 to 63, CS0 to CS7, AF11 to AF43, EF, LE
    #[arg(long, value_name = "DSCP", value_parser = dscp, help_heading = SOCKETS)]
    dscp: Option<u8>,
    /// Ask for that much send buffer; the kernel's own tuning is off then
    #[arg(long, value_name = "SIZE", help_heading = SOCKETS)]
    sndbuf: Option<Size>,
    /// Ask for that much receive buffer; the kernel's own tuning is off then
    #[arg(long, value_name = "SIZE", help_heading = SOCKETS)]
    rcvbuf: Option<Size>,
    /// Send from this address of this machine: 10.0.0.1, fe80::1%eth0
    #[arg(long, value_name = "ADDRESS", value_parser = local, help_heading = SOCKETS)]
    bind: Option<SocketAddr>,
}

const WAYS: [(&str, Direction); 3] =
    [("up", Direction::Up), ("down", Direction::Down), ("both", Direction::Both)];
const ZERO_COPY: [(&str, ZeroCopy); 3] =
    [("auto", ZeroCopy::Auto), ("on", ZeroCopy::On), ("off", ZeroCopy::Off)];
const SINKS: [(&str, Sink); 2] = [("copy", Sink::Copy), ("discard", Sink::Discard)];

/// A DSCP, as a number or by its name of RFC 2474 (CS), RFC 2597 (AF), RFC 3246 (EF) or RFC 8622
/// (LE).
fn dscp(text: &str) -> Result<u8> {
    let digit = |byte: u8, range: RangeInclusive<u8>| {
        let digit = byte.wrapping_sub(b'0');
        range.contains(&digit).then_some(digit)
    };
    let upper = text.trim().to_ascii_uppercase();
    let value = match upper.as_bytes() {
        b"EF" => Some(46),
        b"LE" => Some(1),
        [b'C', b'S', class] => digit(*class, 0..=7).map(|class| class * 8),
        [b'A', b'F', class, drop] => {
            digit(*class, 1..=4).zip(digit(*drop, 1..=3)).map(|(class, drop)| class * 8 + drop * 2)
        }
        digits if digits.iter().all(u8::is_ascii_digit) => upper.parse().ok(),
        _ => None,
    };
    value.filter(|dscp| *dscp <= 63).ok_or_else(|| {
        Error::usage(format!("'{}' is no DSCP", text.escape_debug()))
            .remedy("write a number from 0 to 63, CS0 to CS7, AF11 to AF43, EF or LE")
    })
}

impl BwArgs {
    pub(super) fn plan(&self, secret: Option<Secret>) -> Result<BwPlan> {
        check_outputs(&self.common.result.output)?;
        let mut common = self.common.plan(DURATION, secret)?;
        let bytes = self.bytes.map(|size| size.0);
        if bytes == Some(0) {
            return Err(Error::usage("--bytes must be above zero"));
        }
        if bytes.is_some() || matches!(common.stop, Stop::Count(_)) {
            let message =
                "--warmup says when to begin counting; with --bytes and --count all of it counts";
            let is_warmed_up = self.common.warmup.is_some_and(|time| time > Nanos::ZERO);
            demand(!is_warmed_up, message, "leave one of the two out")?;
            common.warmup = Nanos::ZERO;
        }
        let plan = self.traffic.plan(self.target.target.clone(), common)?;
        let plan = BwPlan { bytes, ..plan };
        check_amount(&plan)?;
        Ok(plan)
    }
}

impl TrafficArgs {
    /// The plan of such traffic to `target`, ending as `common` says.
    pub(super) fn plan(&self, target: Target, common: Common) -> Result<BwPlan> {
        let transport = self.transport.transport();
        self.check_transport(transport)?;
        let (is_on, backend) = (self.zerocopy == Some(ZeroCopy::On), common.backend);
        let message = "--zerocopy on needs io_uring, and --backend epoll is without it";
        let advice = "leave one of the two out";
        demand(!is_on || backend != BackendChoice::Only(Backend::Epoll), message, advice)?;
        let sizes = match &self.size {
            Some(asked) => target::sizes(asked, transport)?,
            None if transport == Transport::Udp => vec![DATAGRAM_SIZE],
            None => vec![STREAM_SIZE],
        };
        let streams = target::connections(&self.connections)?;
        target::check_steps(sizes.len() * streams.len())?;
        let bind = self.socket.bind;
        target::check_bind(bind, &target)?;
        Ok(BwPlan {
            target,
            transport,
            sizes,
            streams,
            direction: self.direction(),
            rate_bits_per_s: self.rate.map(|BitRate(rate)| rate as f64),
            bytes: None,
            zero_copy: self.zerocopy.unwrap_or_default(),
            sink: self.sink.unwrap_or_default(),
            socket: self.socket.options()?,
            bind,
            common,
        })
    }

    const fn direction(&self) -> Direction {
        match self.direction {
            Some(direction) => direction,
            None if self.reverse => Direction::Down,
            None if self.bidir => Direction::Both,
            None => Direction::Up,
        }
    }

    fn check_transport(&self, transport: Transport) -> Result<()> {
        let socket = &self.socket;
        let discards = self.sink == Some(Sink::Discard);
        let is_on = self.zerocopy == Some(ZeroCopy::On);
        for (given, flag, why) in [
            (socket.nodelay, "--nodelay", "datagrams never wait"),
            (socket.mss.is_some(), "--mss", "--size is a datagram's payload"),
            (socket.congestion.is_some(), "--congestion", "UDP has none, --rate paces it"),
            (discards, "--sink discard", "datagrams have a header to be read"),
            (is_on, "--zerocopy on", "datagrams are too small for it to pay"),
        ] {
            let message = format!("{flag} is for TCP: {why}");
            demand(transport == Transport::Tcp || !given, message, "leave it out, or --udp")?;
        }
        Ok(())
    }
}

impl SocketArgs {
    fn options(&self) -> Result<SocketOptions> {
        if let Some(name) = &self.congestion {
            let odd = |c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c));
            let message = format!("no congestion control is called '{}'", name.escape_debug());
            let advice = "sysctl net.ipv4.tcp_available_congestion_control names them";
            demand(
                !name.is_empty() && name.len() <= CONGESTION_NAME_MAX && !name.contains(odd),
                message,
                advice,
            )?;
        }
        let within = |flag: &str, size: Option<Size>, range: RangeInclusive<u64>| {
            let Some(Size(bytes)) = size else { return Ok(None) };
            let fitting = u32::try_from(bytes).ok().filter(|_| range.contains(&bytes));
            fitting.map(Some).ok_or_else(|| {
                let (low, high) = range.into_inner();
                Error::usage(format!("{flag} takes {low} to {high} bytes"))
            })
        };
        Ok(SocketOptions {
            congestion: self.congestion.clone(),
            mss_bytes: within("--mss", self.mss, MSS)?,
            nodelay: self.nodelay,
            dscp: self.dscp,
            send_buffer_bytes: within("--sndbuf", self.sndbuf, 1..=SOCKET_BUFFER_MAX)?,
            receive_buffer_bytes: within("--rcvbuf", self.rcvbuf, 1..=SOCKET_BUFFER_MAX)?,
        })
    }
}

fn check_amount(plan: &BwPlan) -> Result<()> {
    let size = u64::from(plan.sizes.iter().copied().max().unwrap_or_default());
    let streams = u64::from(plan.streams.iter().copied().max().unwrap_or_default());
    let (flag, sends) = match (plan.bytes, plan.common.stop) {
        (Some(bytes), _) => (format!("--bytes {}", Size(bytes)), bytes.div_ceil(size)),
        (None, Stop::Count(count)) => (format!("--count {count}"), count),
        (None, Stop::After(duration)) => {
            let message = format!("--duration {duration} is longer than a stream lasts");
            let advice = format!("at most {STREAM_DURATION_MAX}, --warmup with it");
            demand(duration + plan.common.warmup <= STREAM_DURATION_MAX, message, advice)?;
            // What all streams together send at once, and how long that takes at the rate: below
            // 2^53 ns, or as good as endless.
            let round = (streams * size) as f64 * 8.0;
            let gap = plan.rate_bits_per_s.map(|rate| Nanos((round / rate * 1e9) as u64));
            let gap = gap.unwrap_or_default();
            let message = format!(
                "at that --rate a stream sends once in {gap}, which is longer than --duration {duration}"
            );
            return demand(gap <= duration, message, "raise --rate, or write a smaller --size");
        }
    };
    let message =
        format!("{flag} is less than one send of {} for each of {streams} streams", Size(size));
    demand(sends >= streams, message, "raise it, or take fewer streams")
}

#[cfg(test)]
#[path = "bw/tests.rs"]
mod tests;
