//! `tare serve`: its flags, the plan they become, and its log.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use clap::Args;
use tare_driver::BackendChoice;
use tare_engine::server::plan::{HttpSettings, ServePlan};
use tare_engine::server::worker::http::Stall;
use tare_host::resolve::local;
use tare_proto::auth::Secret;
use tare_proto::hello::WaitMode;
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::limits::{DEFAULT_PORT, HTTP_CONNECTIONS_MAX, SESSIONS_MAX};
use tare_units::{CpuList, Nanos};

use super::options::{BACKENDS, SecretArgs, WAITS, check_time, choice};
use super::target::host_and_port;
use crate::exit::Exit;
use crate::log::Log;

const EXAMPLES: &str = "\
Examples:
  tare serve                                 port 7117, TCP and UDP, all addresses
  tare serve --listen 10.0.0.1:9000 --once   for one client, on one address
  tare serve --cpus 2-3 --allow-spin         with CPUs to spin on, for the finest figures
  tare serve --stall 2s:500ms                HTTP with a known fault, for testing load generators
  tare serve --secret-file /run/secret       lat and bw only for clients that know the secret

HTTP, on the same port:
  /                                  a short text
  /bytes/65536                       so many bytes
  /healthz                           ok
  /echo?status=503:10&delay=5ms:50   the request's body, or what is asked for (:50 is half of the
                                     time), as fortio's: status= delay= size= close= header=
  /queue?service=1ms                 one request at a time; how long it took, in Server-Timing

It prints one line on stdout when it is ready: tare: serving on ADDRESS …
It stops on SIGTERM or Ctrl-C.";

/// Be the server of measurements, for any number of clients
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Listen here, TCP and UDP: ADDRESS:PORT, ADDRESS or :PORT (repeatable) [default: [::]:7117]
    ///
    /// The default takes IPv4 and IPv6, and IPv4 alone where IPv6 is off. Port 0 takes any free
    /// one; the line on stdout names it.
    #[arg(long, value_name = "ADDRESS", value_parser = listen)]
    listen: Vec<SocketAddr>,
    /// Stop when the first client of lat or bw is done; HTTP clients do not count
    #[arg(long)]
    once: bool,
    /// Refuse clients beyond that many sessions at once (a connection, or a UDP ping-pong, is a
    /// session)
    #[arg(long, value_name = "N", default_value_t = SESSIONS_MAX)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=60_000))]
    max_sessions: u32,
    /// End a session after that long, whatever its client wants
    #[arg(long, value_name = "TIME", default_value = "1h")]
    max_duration: Nanos,
    /// Close what has been silent for that long: sessions, HTTP connections, and those that never
    /// say what they want
    ///
    /// An HTTP client that takes nothing of what it is sent for that long is reset, whatever it
    /// sends meanwhile.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    idle_timeout: Nanos,
    /// Spin for clients that ask for it even with no CPU to spare
    ///
    /// Otherwise sessions spin only where two or more CPUs are allowed, with no quota below that;
    /// they block elsewhere, and the client's report says so.
    #[arg(long)]
    allow_spin: bool,
    /// Run sessions on these CPUs: 2-5,7
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,
    /// Freeze the whole HTTP side for a while, so long after its first request: 2s:500ms
    /// (repeatable)
    ///
    /// Requests that arrive meanwhile are answered after it, in order. A generator that tells the
    /// truth shows it.
    #[arg(long, value_name = "AT:FOR")]
    stall: Vec<Stall>,
    /// Let /echo draw the same codes, delays and sizes as an earlier server with this seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Trade CPU for promptness over HTTP: spin polls a core, block sleeps, hybrid spins only near
    /// events
    ///
    /// The last stretch before a held response (delay=, /queue) is spun in any case. Spinning needs
    /// a CPU to spare, or --allow-spin.
    #[arg(long, value_name = "MODE", value_parser = choice(WAITS), default_value = "block")]
    http_wait: WaitMode,
    /// Answer 503 to HTTP connections beyond that many at once
    #[arg(long, value_name = "N", default_value_t = HTTP_CONNECTIONS_MAX)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(HTTP_CONNECTIONS_MAX)))]
    max_connections: u32,
    /// Do not answer HTTP
    ///
    /// HTTP clients cannot prove a secret: whoever reaches the port is answered, with --secret-file
    /// too.
    #[arg(long, conflicts_with_all = ["stall", "http_wait", "max_connections", "seed"])]
    no_http: bool,
    /// Offer clients io_uring or epoll alone; auto offers what works here
    #[arg(long, value_name = "NAME", value_parser = choice(BACKENDS), default_value = "auto")]
    backend: BackendChoice,
    /// Log nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn run(args: &ServeArgs) -> Result<Exit> {
    let plan = args.plan(args.secret.read(args.quiet)?)?;
    let interrupt = Interrupt::default();
    super::stop_on_signals(&interrupt)?;
    let mut ready = |addresses: &[SocketAddr]| {
        // A server is no worse for nobody reading where it listens.
        let _ = super::print(ready_line(addresses).as_bytes());
    };
    let quiet = args.quiet;
    let log = Log::to_stderr()
        .map_err(|error| Error::environment(format!("there is no log: {error}")))?;
    let entry = log.entry();
    let take = move |kind, line: &str| {
        if !quiet {
            entry.line(kind, line);
        }
    };
    let ended = tare_engine::server::serve(&plan, &interrupt, &mut ready, Arc::new(take));
    let exit = match ended {
        Ok(()) => Exit::Measured,
        Err(error) => {
            // On the way that does not wait for a reader.
            log.entry().line("error", &error.to_string());
            Exit::from(&error)
        }
    };
    log.finish();
    Ok(exit)
}

fn ready_line(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    format!("tare: serving on {}\n", addresses.join(" "))
}

impl ServeArgs {
    fn plan(&self, secret: Option<Secret>) -> Result<ServePlan> {
        check_time("--max-duration", self.max_duration)?;
        check_time("--idle-timeout", self.idle_timeout)?;
        for (index, address) in self.listen.iter().enumerate() {
            if address.port() != 0 && self.listen[..index].contains(address) {
                return Err(Error::usage(format!("--listen {address} is given twice")));
            }
        }
        let mut listen = self.listen.clone();
        let listen_is_default = listen.is_empty();
        if listen_is_default {
            listen.push(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DEFAULT_PORT));
        }
        Ok(ServePlan {
            listen,
            listen_is_default,
            once: self.once,
            max_sessions: self.max_sessions,
            max_duration: self.max_duration,
            idle_timeout: self.idle_timeout,
            allow_spin: self.allow_spin,
            cpus: self.cpus.as_ref().map(|list| list.0.clone()),
            backend: self.backend,
            secret,
            http: (!self.no_http).then(|| HttpSettings {
                wait: self.http_wait,
                idle: self.idle_timeout,
                connections_max: self.max_connections,
                seed: self.seed,
                stalls: self.stall.clone(),
            }),
        })
    }
}

fn listen(text: &str) -> Result<SocketAddr> {
    let refuse = |why: &str| {
        let message = format!("'{}' is no address of this machine{why}", text.escape_debug());
        Error::usage(message).remedy("write 10.0.0.1:7117, [::1]:7117 or :7117")
    };
    let (host, port) =
        host_and_port(text).map_err(|why| refuse(&format!(" to listen on: {why}")))?;
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port.parse().map_err(|_| refuse(": its port is no number to 65535"))?,
    };
    if host.is_empty() && text.starts_with(':') {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    let mut address = local(host)?;
    address.set_port(port);
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::command::tests::{parsed, refuses};

    fn plan(flags: &str) -> Result<ServePlan> {
        match parsed(&format!("serve {flags}")) {
            Command::Serve(args) => args.plan(None),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults() {
        let plan = plan("").unwrap();
        assert_eq!(plan.listen, ["[::]:7117".parse().unwrap()]);
        assert!(plan.listen_is_default);
        assert_eq!(plan.max_sessions, SESSIONS_MAX);
        assert_eq!(plan.idle_timeout, Nanos::from_secs(30));
        assert_eq!(plan.http.unwrap().connections_max, HTTP_CONNECTIONS_MAX);
    }

    #[test]
    fn http_is_served_as_asked_or_not_at_all() {
        let http =
            plan("--stall 2s:500ms --stall 9s:1s --http-wait spin --max-connections 9 --seed 3");
        let http = http.unwrap().http.unwrap();
        assert_eq!(http.stalls[0].length, Nanos::from_millis(500));
        assert_eq!((http.stalls.len(), http.connections_max, http.seed), (2, 9, 3));
        assert_eq!(http.wait, WaitMode::Spin);
        assert!(plan("--no-http").unwrap().http.is_none());
    }

    #[test]
    fn addresses() {
        for (text, address) in [
            ("10.0.0.1:9000", "10.0.0.1:9000"),
            ("10.0.0.1", "10.0.0.1:7117"),
            ("::1", "[::1]:7117"),
            ("[::1]", "[::1]:7117"),
            (":9000", "[::]:9000"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("fd00::1:2", "[fd00::1:2]:7117"),
            ("[fd00::1]:2", "[fd00::1]:2"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("::", "[::]:7117"),
        ] {
            assert_eq!(listen(text).unwrap(), address.parse().unwrap(), "{text}");
        }
        let zoned = listen("[fe80::1%lo]:80").unwrap();
        assert!(zoned.to_string().starts_with("[fe80::1%") && zoned.port() == 80);
        let cases = [
            ("", "no IP address"),
            ("node-2", "no IP address"),
            ("node-2:80", "no IP address"),
            (":x", "no number"),
            ("1.2.3.4:99999", "no number"),
            ("1.2.3.4:", "no number"),
            ("[::1]x", "only :PORT may follow"),
            ("lo", "a network device"),
            ("10.0.0.1/24", "write 10.0.0.1"),
        ];
        refuses(listen, &cases);
        let cases = [
            ("--idle-timeout 0", "above zero"),
            ("--max-duration 0", "above zero"),
            ("--listen :80 --listen :80", "twice"),
        ];
        refuses(plan, &cases);
        let plan = plan("--listen 127.0.0.1:0 --listen 127.0.0.1:0").unwrap();
        assert_eq!((plan.listen.len(), plan.listen_is_default), (2, false));
        let addresses = ["[::]:7117".parse().unwrap(), "10.0.0.1:9".parse().unwrap()];
        assert_eq!(ready_line(&addresses), "tare: serving on [::]:7117 10.0.0.1:9\n");
    }
}
