//! What every measuring command asks about the path: against what, over what, in pieces of which
//! size. All targets and URLs are parsed here.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use http::uri::PathAndQuery;
use tare_proto::hello::Transport;
use tare_units::error::{Error, Result};
use tare_units::limits::{
    ADDRESS_CONNECTIONS_MAX, DATAGRAM_HEADER, DATAGRAM_MAX, DEFAULT_PORT, MESSAGE_MAX, STEPS_MAX,
};
use tare_units::target::Target;
use tare_units::{Counts, Size, Sizes};

use super::options::choice;
use super::{demand, no_such, refuse};

/// The port of `http://` (RFC 9110, section 4.2.1).
const HTTP_PORT: u16 = 80;
const FORMS: &str = "write http://HOST[:PORT]/PATH, HOST[:PORT]/PATH, [IPV6]:PORT/PATH, unix:/SOCKET[:/PATH], \
                     unix:@NAME[:/PATH], loopback/PATH or veth/PATH";

#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// Where `tare serve` listens: HOST, HOST:PORT or [IPV6]:PORT [default: loopback]
    ///
    /// The port is 7117 unless given. `loopback` starts a server within this process, on a CPU of
    /// its own; `veth` starts it in a network namespace made for the run (needs root), and undoes
    /// that afterwards.
    #[arg(value_name = "TARGET", value_parser = target)]
    #[arg(default_value = "loopback", hide_default_value = true)]
    pub(super) target: Target,
}

#[derive(Debug, Args)]
pub(super) struct TransportArgs {
    /// Measure over TCP connections (the default)
    #[arg(long, conflicts_with_all = ["udp", "proto"])]
    tcp: bool,
    /// Measure with UDP datagrams; lost ones are counted, and never waited for beyond --timeout
    #[arg(short, long, conflicts_with_all = ["tcp", "proto"])]
    udp: bool,
    /// The same as --tcp or --udp, for scripts
    #[arg(long, value_name = "PROTO")]
    #[arg(value_parser = choice([("tcp", Transport::Tcp), ("udp", Transport::Udp)]))]
    proto: Option<Transport>,
}

impl TransportArgs {
    pub(super) fn transport(&self) -> Transport {
        if self.udp { Transport::Udp } else { self.proto.unwrap_or(Transport::Tcp) }
    }
}

pub(super) fn sizes(asked: &Sizes, transport: Transport) -> Result<Vec<u32>> {
    asked.0.iter().map(|size| check_size(*size, transport)).collect()
}

fn check_size(size: u64, transport: Transport) -> Result<u32> {
    let (min, max) = match transport {
        Transport::Tcp => (1, MESSAGE_MAX),
        Transport::Udp => (DATAGRAM_HEADER, DATAGRAM_MAX),
    };
    let typed = u32::try_from(size).unwrap_or(u32::MAX);
    if (min..=max).contains(&typed) {
        return Ok(typed);
    }
    let (name, size) = (transport.name().to_uppercase(), Size(size));
    let too_large = format!("--size {size} is too large for {name}");
    match transport {
        Transport::Tcp if typed < min => {
            let message = format!("--size {typed} leaves nothing to send");
            refuse(message, format!("write --size {min} or more"))
        }
        Transport::Tcp => refuse(too_large, format!("the largest message is {max} bytes")),
        Transport::Udp if typed < min => {
            let message = format!(
                "--size {typed} is too small for UDP: each datagram carries a header of {min} bytes (session and \
                 sequence number)"
            );
            refuse(message, format!("write --size {min} or more, or leave out --udp"))
        }
        Transport::Udp => refuse(too_large, format!("the largest datagram carries {max} bytes")),
    }
}

pub(super) fn connections(asked: &Counts) -> Result<Vec<u32>> {
    let fits = |count: &u32| (1..=ADDRESS_CONNECTIONS_MAX).contains(count);
    let counts = asked.0.iter().map(|count| u32::try_from(*count).ok().filter(fits));
    counts.collect::<Option<_>>().ok_or_else(|| {
        Error::usage(format!(
            "--connections takes 1 to {ADDRESS_CONNECTIONS_MAX}, one client address has no ports for more"
        ))
    })
}

pub(super) fn check_steps(steps: usize) -> Result<()> {
    let message = format!("--size times --connections makes {steps} steps");
    demand(steps <= STEPS_MAX, message, format!("at most {STEPS_MAX} are measured"))
}

pub(super) fn target(text: &str) -> Result<Target> {
    if let Some(target) = embedded(text) {
        return Ok(target);
    }
    let advice = "write HOST:PORT, [IPV6]:PORT, loopback or veth";
    let wrong = |why: &str| no_such("target", text, why, advice);
    if text.contains("://") {
        return Err(wrong("it is a URL"));
    }
    if let Some((ip, _)) = text.split_once('/')
        && ip.parse::<IpAddr>().is_ok()
    {
        return Err(wrong("it has the length of a prefix").remedy(format!("write {ip}")));
    }
    let (host, port) = named_host(text).map_err(wrong)?;
    Ok(Target::Host { host, port: port.unwrap_or(DEFAULT_PORT) })
}

fn embedded(name: &str) -> Option<Target> {
    match name {
        "loopback" => Some(Target::Loopback),
        "veth" => Some(Target::Veth),
        _ => None,
    }
}

/// A host and a port: `node-2:8080`, `[::1]:80`.
pub(super) fn endpoint(text: &str) -> Result<(String, u16)> {
    let advice = "write HOST:PORT or [IPV6]:PORT";
    let wrong = |why: &str| no_such("place to connect to", text, why, advice);
    let (host, port) = named_host(text).map_err(wrong)?;
    Ok((host, port.ok_or_else(|| wrong(NO_PORT))?))
}

/// A host by its name or address, and its port where one is typed.
fn named_host(text: &str) -> std::result::Result<(String, Option<u16>), &'static str> {
    let (host, digits) = host_and_port(text)?;
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/@[]?#".contains(c);
    match digits {
        _ if host.is_empty() || host.len() > HOST_MAX || host.contains(odd) => Err(NO_HOST),
        Some("") => Err("its port is missing"),
        digits => Ok((host.to_owned(), digits.map(port).transpose()?)),
    }
}

const NO_HOST: &str = "that is no host name";
const NO_PORT: &str = "its port is no number from 1 to 65535";
/// The longest name of a host (RFC 1035, section 2.3.4, as text).
const HOST_MAX: usize = 253;

pub(super) fn port(digits: &str) -> std::result::Result<u16, &'static str> {
    let is_number = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|port| is_number && *port != 0).ok_or(NO_PORT)
}

/// Why an IPv6 address with a port, or what looks like one, is not taken.
const NEEDS_BRACKETS: &str = "an IPv6 address with a port needs brackets";

/// Splits `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`, and a bare IPv6 address, which cannot carry a
/// port.
pub(super) fn host_and_port(text: &str) -> std::result::Result<(&str, Option<&str>), &'static str> {
    let is_v6 = |host: &str| {
        let address = host.split_once('%').map_or(host, |(address, _)| address);
        address.parse::<Ipv6Addr>().is_ok()
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("its bracket is not closed")?;
        if !is_v6(host) {
            return Err("the brackets hold no IPv6 address");
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("only :PORT may follow the brackets"),
        };
    }
    let split = text.rsplit_once(':');
    // ::1:80 is an address, too, but of a kind that has long been given up (RFC 4291, section
    // 2.5.5.1). And no device's name has a colon.
    let is_given_up = |address: Ipv6Addr| {
        let segments = address.segments();
        segments[..6] == [0; 6] && segments[6] != 0
    };
    let has_port = |(host, port): (&str, &str)| {
        is_v6(host)
            && !port.is_empty()
            && port.bytes().all(|b| b.is_ascii_digit())
            && (text.contains('%') || text.parse().is_ok_and(is_given_up))
    };
    if is_v6(text) && !split.is_some_and(has_port) {
        return Ok((text, None));
    }
    match split {
        Some((host, _)) if host.contains(':') => Err(NEEDS_BRACKETS),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

/// Refuses an address of another family than the target's, where that is an address itself.
pub(super) fn check_bind(bind: Option<SocketAddr>, target: &Target) -> Result<()> {
    let (Some(bind), Target::Host { host, .. }) = (bind, target) else { return Ok(()) };
    let ip = host.split('%').next().unwrap_or_default();
    let Ok(target) = ip.parse::<IpAddr>().map(|ip| ip.to_canonical()) else { return Ok(()) };
    let bind = bind.ip();
    let message = format!("--bind {bind} cannot reach {target}: one is IPv4, the other IPv6");
    demand(target.is_ipv4() == bind.is_ipv4(), message, "name addresses of one family")
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) target: Target,
    /// Path and query exactly as typed, at least `/`.
    pub(super) path: String,
    pub(super) host: String,
}

impl FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| no_such("URL", text, why, FORMS);
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix(rest).ok_or_else(|| wrong("unix: is followed by the path of a socket"))?;
        }
        if let Some((scheme, rest)) = text.split_once("://")
            && ["http+unix", "unix+http"].contains(&scheme.to_ascii_lowercase().as_str())
        {
            let (socket, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            let socket = unescaped(socket);
            let socket = socket.ok_or_else(|| {
                wrong("the socket's path stands where a host would, percent-encoded")
                    .remedy("write http+unix://%2Frun%2Fapp.sock/PATH or unix:/run/app.sock:/PATH")
            })?;
            return path_and_query(path).map(|path| of_socket(socket, path));
        }
        let rest = without_scheme(text)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let path = path_and_query(path)?;
        if rest.len() == text.len()
            && let Some(target) = embedded(authority)
        {
            let host = target.to_string();
            return Ok(Self { target, path, host });
        }
        if authority.contains('@') {
            return Err(wrong("user and password do not belong into it")
                .remedy("write them as -H 'Authorization: Basic …'"));
        }
        if !authority.is_empty() && authority.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong("a number is no host")
                .remedy("write -R RATE for a rate, -c N for connections, -n N for requests"));
        }
        let (host, port) = host_and_port(authority).map_err(|why| {
            let typed = authority.rsplit_once(':').filter(|_| why == NEEDS_BRACKETS);
            match typed {
                Some((host, port)) => {
                    wrong(why).remedy(format!("write http://[{host}]:{port}{path}"))
                }
                None => wrong(why),
            }
        })?;
        // What holds a colon has been found to be an IPv6 address.
        let odd = |c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c);
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        if host.len() > HOST_MAX || (!host.contains(':') && host.contains(odd)) {
            return Err(wrong(NO_HOST));
        }
        let port = match port {
            // An empty one is the default (RFC 3986, section 3.2.3).
            None | Some("") => HTTP_PORT,
            Some(digits) => self::port(digits).map_err(wrong)?,
        };
        Ok(Self {
            host: host_header(host, port),
            target: Target::Host { host: host.to_ascii_lowercase(), port },
            path,
        })
    }
}

/// What follows `http://`; the text itself where it has no scheme.
fn without_scheme(text: &str) -> Result<&str> {
    // A query may hold a URL of its own, so a scheme counts only before anything else.
    let Some((scheme, rest)) = text
        .split_once("://")
        .filter(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+'))
    else {
        return Ok(text);
    };
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok(rest),
        "https" => refuse(
            "https is not built yet",
            "measure the http:// port behind the TLS endpoint, or put a local terminator before it (stunnel, \
             socat TCP-LISTEN:8080,fork OPENSSL:HOST:443) and measure that",
        ),
        other => {
            let shown = other.escape_debug();
            refuse(format!("'{shown}://' is no protocol that tare speaks"), FORMS)
        }
    }
}

/// `/run/app.sock`, `/run/app.sock:/path`, `@name:/path`; none where there is no socket in it.
fn unix(text: &str) -> Option<Result<Url>> {
    // As Docker writes them: unix:///run/app.sock.
    let text = text.strip_prefix("//").filter(|rest| rest.starts_with(['/', '@'])).unwrap_or(text);
    let (socket, path) = match text.find(":/") {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };
    if socket.trim_start_matches('@').is_empty() || socket.contains('\0') {
        return None;
    }
    Some(path_and_query(path).map(|path| of_socket(PathBuf::from(socket), path)))
}

fn of_socket(socket: PathBuf, path: String) -> Url {
    Url {
        target: Target::Unix(socket),
        path,
        // As curl has it: a socket has no name, and HTTP/1.1 wants one.
        host: "localhost".to_owned(),
    }
}

/// A path that is percent-encoded; none where that is not well-formed, or names nothing.
fn unescaped(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        // A sign would be taken for part of the number.
        let is_hex = code.bytes().all(|b| b.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(code, 16).ok().filter(|b| is_hex && *b != 0)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let names = bytes.iter().any(|b| *b != b'@');
    (names && !bytes.contains(&0)).then(|| OsString::from_vec(bytes).into())
}

/// RFC 9110, section 7.2; a zone says nothing to the other end (RFC 6874, section 1).
fn host_header(host: &str, port: u16) -> String {
    let name = host.split_once('%').map_or(host, |(address, _)| address);
    let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    match port {
        HTTP_PORT => name,
        port => format!("{name}:{port}"),
    }
}

/// Path and query as they are sent: exactly as typed, but for a fragment, which stays at the client
/// (RFC 9110, section 4.2.5).
pub(super) fn path_and_query(text: &str) -> Result<String> {
    let text = text.split_once('#').map_or(text, |(sent, _)| sent);
    let path = match text {
        text if text.starts_with('/') => text.to_owned(),
        text => format!("/{text}"),
    };
    let shown: String = path.chars().take(120).collect();
    let wrong = |why: &str, advice: &str| {
        Error::usage(format!("the path '{}' {why}", shown.escape_debug())).remedy(advice)
    };
    if path.contains(' ') {
        return Err(wrong("has a space in it", "write it as %20"));
    }
    if let Some(odd) = path.chars().find(|c| c.is_control() || !c.is_ascii()) {
        let mut utf8 = [0; 4];
        let coded: String =
            odd.encode_utf8(&mut utf8).bytes().map(|b| format!("%{b:02X}")).collect();
        let why = format!("has '{}' in it", odd.escape_debug());
        return Err(wrong(&why, &format!("write it as {coded}")));
    }
    match path.parse::<PathAndQuery>() {
        Ok(_) => Ok(path),
        Err(_) => Err(wrong(
            "has a character in it that no URL has",
            "write it percent-encoded: < is %3C, ^ is %5E, | is %7C",
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::tests::refuses;

    #[test]
    fn targets() {
        let host = |host: &str, port| {
            let host = host.to_owned();
            Target::Host { host, port }
        };
        for (text, expected) in [
            ("node-2", host("node-2", 7117)),
            ("node-2:80", host("node-2", 80)),
            ("10.0.0.1:80", host("10.0.0.1", 80)),
            ("[::1]:80", host("::1", 80)),
            ("[::1]", host("::1", 7117)),
            ("::1", host("::1", 7117)),
            ("fe80::1", host("fe80::1", 7117)),
            ("fe80::1:a", host("fe80::1:a", 7117)),
            // The brackets are for a port: without them all of it is the address.
            ("fd00::1:2", host("fd00::1:2", 7117)),
            ("2001:db8::5:1234", host("2001:db8::5:1234", 7117)),
            ("fe80::1:3133", host("fe80::1:3133", 7117)),
            ("fe80::1:2%eth0", host("fe80::1:2%eth0", 7117)),
            ("2001:db8:1:2:3:4:5:80", host("2001:db8:1:2:3:4:5:80", 7117)),
            ("[2001:db8::5]:1234", host("2001:db8::5", 1234)),
            ("[fd00::1:2]:3", host("fd00::1:2", 3)),
            ("::", host("::", 7117)),
            ("::ffff:10.0.0.1", host("::ffff:10.0.0.1", 7117)),
            ("[::ffff:10.0.0.1]:80", host("::ffff:10.0.0.1", 80)),
            ("0.0.0.0:80", host("0.0.0.0", 80)),
            ("localhost.:80", host("localhost.", 80)),
            ("[fe80::1:80]", host("fe80::1:80", 7117)),
            ("[fe80::1%eth0]:80", host("fe80::1%eth0", 80)),
            ("loopback", Target::Loopback),
            ("veth", Target::Veth),
        ] {
            assert_eq!(target(text).unwrap(), expected, "{text}");
        }
        let cases = [
            ("", "no host name"),
            (":80", "no host name"),
            ("a b", "no host name"),
            ("node/24", "no host name"),
            ("http://node", "URL"),
            ("node:0", "1 to 65535"),
            ("node:65536", "1 to 65535"),
            ("node:+80", "1 to 65535"),
            ("node:", "its port is missing"),
            ("[::1]:", "its port is missing"),
            ("node:http", "1 to 65535"),
            ("10.0.0.1/24", "write 10.0.0.1"),
            ("fd00::1/64", "write fd00::1"),
            ("[::1", "not closed"),
            ("[node]:80", "no IPv6 address"),
            ("[::1]80", "may follow"),
            ("a:b:80", "needs brackets"),
            ("::1:80", "needs brackets"),
            ("fe80::1:31337", "needs brackets"),
            ("2001:db8:1:2:3:4:5:6:80", "needs brackets"),
            ("fe80::1%eth0:80", "needs brackets"),
        ];
        refuses(target, &cases);
    }

    proptest! {
        #[test]
        fn targets_never_panic(text in "\\PC{0,20}|[\\[\\]:%.a-f0-9]{0,20}") {
            let _ = target(&text);
        }

        #[test]
        fn printed_addresses_parse_back(address: SocketAddr) {
            prop_assume!(address.port() != 0);
            let parsed = target(&address.to_string()).unwrap();
            let port = address.port();
            let Target::Host { host, port: found } = parsed else {
                panic!("{address} became a built-in target");
            };
            prop_assert_eq!(found, port);
            let host = host.split('%').next().unwrap().to_owned();
            prop_assert_eq!(host.parse::<IpAddr>().unwrap(), address.ip());
        }
    }

    #[test]
    fn every_form_is_understood() {
        let host = |host: &str, port| Target::Host { host: host.to_owned(), port };
        for (text, target, path, header) in [
            ("http://node-2", host("node-2", 80), "/", "node-2"),
            ("HTTP://Node-2:80/", host("node-2", 80), "/", "Node-2"),
            ("http://n:8080/a?b=c", host("n", 8080), "/a?b=c", "n:8080"),
            ("node-2/a%20b", host("node-2", 80), "/a%20b", "node-2"),
            ("node-2:99", host("node-2", 99), "/", "node-2:99"),
            ("n?q=http://x/", host("n", 80), "/?q=http://x/", "n"),
            ("n/a#top?x", host("n", 80), "/a", "n"),
            ("http://n:/x", host("n", 80), "/x", "n"),
            ("http://[::1]:", host("::1", 80), "/", "[::1]"),
            ("http://n?x=1", host("n", 80), "/?x=1", "n"),
            ("http://n/a/../b/./c", host("n", 80), "/a/../b/./c", "n"),
            ("http://n/%c3%BC?a[]=1&b={}", host("n", 80), "/%c3%BC?a[]=1&b={}", "n"),
            ("[::1]:81/x", host("::1", 81), "/x", "[::1]:81"),
            ("http://[fe80::1%eth0]/", host("fe80::1%eth0", 80), "/", "[fe80::1]"),
            ("::1", host("::1", 80), "/", "[::1]"),
            ("loopback", Target::Loopback, "/", "loopback"),
            ("loopback/echo?status=511:20", Target::Loopback, "/echo?status=511:20", "loopback"),
            ("veth/x", Target::Veth, "/x", "veth"),
            ("http://loopback/", host("loopback", 80), "/", "loopback"),
            // Zones and empty ports are nothing to the server.
            ("http://[fe80::1%25eth0]/x", host("fe80::1%25eth0", 80), "/x", "[fe80::1]"),
            ("[fe80::1%eth0]:81/x", host("fe80::1%eth0", 81), "/x", "[fe80::1]:81"),
            ("fd00::1:2/x", host("fd00::1:2", 80), "/x", "[fd00::1:2]"),
            ("http://fe80::1:8080/x", host("fe80::1:8080", 80), "/x", "[fe80::1:8080]"),
            ("http://[::ffff:1.2.3.4]:81/", host("::ffff:1.2.3.4", 81), "/", "[::ffff:1.2.3.4]:81"),
            ("http://localhost./x", host("localhost.", 80), "/x", "localhost."),
            ("unix:/run/a.sock", Target::Unix("/run/a.sock".into()), "/", "localhost"),
            ("unix:/run/a.sock:/x?y", Target::Unix("/run/a.sock".into()), "/x?y", "localhost"),
        ] {
            let url: Url = text.parse().expect(text);
            assert_eq!((url.target, url.path.as_str(), url.host.as_str()), (target, path, header));
        }
    }

    #[test]
    fn sockets_are_named_as_others_name_them() {
        for (text, socket, path) in [
            ("unix:///run/a.sock:/x", "/run/a.sock", "/x"),
            ("unix:@bus/1:/x", "@bus/1", "/x"),
            ("http+unix://%2Frun%2Fa%20b.sock/x?y", "/run/a b.sock", "/x?y"),
            ("HTTP+UNIX://%40bus", "@bus", "/"),
        ] {
            let url: Url = text.parse().expect(text);
            let (target, host) = (Target::Unix(socket.into()), "localhost".to_owned());
            assert_eq!(url, Url { target, path: path.to_owned(), host });
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_advice() {
        for (text, why) in [
            ("https://node-2/", "not built yet"),
            ("HTTPS://node-2/", "measure the http:// port"),
            ("ftp://node-2/", "'ftp://' is no protocol"),
            ("", "names no host"),
            ("/echo", "names no host"),
            ("http:///x", "names no host"),
            ("http://u:p@node/", "-H 'Authorization"),
            ("node/a b", "write it as %20"),
            ("node/\u{fc}", "write it as %C3%BC"),
            ("node/a\rb", "write it as %0D"),
            ("node/<x>", "percent-encoded"),
            ("no de/", "no host name"),
            ("node:0/", "1 to 65535"),
            ("node:x/", "1 to 65535"),
            ("[::1/", "not closed"),
            ("http://::1:9/", "write http://[::1]:9/"),
            ("http://node:http/", "1 to 65535"),
            ("200", "-R RATE"),
            ("unix:", "path of a socket"),
            ("unix:@", "path of a socket"),
            ("http+unix:///run/a.sock", "write http+unix://%2Frun%2Fapp.sock"),
            ("http+unix://%40/x", "percent-encoded"),
            ("http+unix://%2/x", "percent-encoded"),
            ("http+unix://a%00b/x", "percent-encoded"),
            ("http+unix://%+1/x", "percent-encoded"),
        ] {
            let error = text.parse::<Url>().expect_err(text);
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(error.advice().is_some() && !error.to_string().contains('\n'), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_a_request_line_or_refused(text in "\\PC{0,30}|[a-z:/?#@%\\[\\]. ]{0,30}") {
            if let Ok(url) = text.parse::<Url>() {
                prop_assert!(url.path.starts_with('/'));
                prop_assert!(url.path.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(!url.path.contains('#'));
                prop_assert!(url.host.bytes().all(|b| b.is_ascii_graphic()) && !url.host.is_empty());
            }
        }
    }
}
