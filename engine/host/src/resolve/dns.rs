//! A stub resolver: asks the servers of `/etc/resolv.conf` for the addresses of a name, over UDP,
//! and over TCP where an answer was cut off. The servers do the rest (RFC 1034, section 5.3.1).
//! There is no cache: a run looks up a name once.

use std::io::{self, Read, Write};
use std::iter::repeat_n;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

use crate::unavailable::any_address;
use tare_driver::sys::random;

/// The longest name and label, as text (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// Without EDNS an answer over UDP has at most 512 bytes; some servers send more all the same.
const ANSWER_MAX: usize = 4096;

/// The limits that the C library has, too (resolv.conf(5)).
const NDOTS_MAX: u32 = 15;
const TIMEOUT_MAX: u32 = 30;
const ATTEMPTS_MAX: u32 = 5;

#[derive(Debug)]
pub(super) struct Config {
    pub(super) servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: usize,
    rotate: bool,
}

impl Config {
    /// Reads resolv.conf(5). What is not understood there is passed over, as by the C library.
    pub(super) fn parse(text: &str, port: u16) -> Self {
        let mut config = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
        };
        let mut search = None;
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or("").split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().map(|word| super::address(word, port));
                    config.servers.extend(server.and_then(|server| server.ok().flatten()));
                }
                // The last of them counts.
                Some("domain" | "search") => {
                    let domains = words.map(|word| word.trim_end_matches('.').to_owned());
                    search = Some(domains.filter(|word| is_name(word)).collect());
                }
                Some("options") => words.for_each(|word| config.set(word)),
                _ => {}
            }
        }
        config.search = search.unwrap_or_else(|| own_domain().into_iter().collect());
        config
    }

    fn set(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        match (name, value.parse::<u32>()) {
            ("ndots", Ok(dots)) => self.ndots = dots.min(NDOTS_MAX) as usize,
            ("timeout", Ok(seconds)) => {
                self.timeout = Duration::from_secs(seconds.clamp(1, TIMEOUT_MAX).into());
            }
            ("attempts", Ok(attempts)) => self.attempts = attempts.clamp(1, ATTEMPTS_MAX) as usize,
            ("rotate", _) => self.rotate = true,
            _ => {}
        }
    }

    /// The full names that `host` may mean, in the order of resolv.conf(5): a name with `ndots`
    /// dots is tried as it is before the search list, another one after it.
    pub(super) fn candidates(&self, host: &str) -> Vec<String> {
        if host.ends_with('.') {
            return vec![host.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{host}.{domain}."));
        let mut names: Vec<String> = searched.filter(|name| is_name(name)).collect();
        let is_first = host.matches('.').count() >= self.ndots;
        names.insert(if is_first { 0 } else { names.len() }, format!("{host}."));
        names
    }

    /// Looks the names up one after the other, until one has addresses; within `timeout`
    /// altogether. No address at all, where all of them are known not to have any; else the error
    /// is what a server said instead, or nothing when no answer came in time.
    pub(super) fn lookup(
        &self,
        names: &[String],
        timeout: Duration,
    ) -> Result<Vec<IpAddr>, Option<String>> {
        let deadline = Instant::now() + timeout;
        let mut servers = self.servers.clone();
        if self.rotate {
            let first = random::number().map_err(|error| Some(error.to_string()))?;
            let count = servers.len().max(1);
            servers.rotate_left(first as usize % count);
        }
        // One server that is down must leave time for another.
        let each = self.timeout.min(timeout / 2);
        let ask = |name: &String| {
            let mut failed = None;
            for &server in repeat_n(&servers, self.attempts).flatten() {
                let now = Instant::now();
                if now >= deadline {
                    break;
                }
                match ask_server(server, name, deadline.min(now + each)) {
                    Ok(found) => return Ok(found),
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => failed = Some(format!("{}: {error}", server.ip())),
                }
            }
            Err(failed)
        };
        let mut result = Ok(Vec::new());
        for name in names {
            match ask(name) {
                Ok(found) if found.is_empty() => {}
                Ok(found) => return Ok(found),
                Err(why) => result = Err(why),
            }
        }
        result
    }
}

/// The domain of this machine, which is searched where the file names none.
fn own_domain() -> Option<String> {
    let host = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let (_, domain) = host.split_once('.')?;
    is_name(domain).then(|| domain.to_owned())
}

/// Whether a server can be asked for it: labels of 1 to 63 bytes, with a dot at the end or without.
/// International names have an ASCII form for this purpose.
pub(super) fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    // A backslash would begin an escape (RFC 1035, section 5.1).
    let is_of_label = |c: char| c.is_ascii_graphic() && c != '\\';
    let is_label =
        |label: &str| (1..=LABEL_MAX).contains(&label.len()) && label.chars().all(is_of_label);
    name.len() <= NAME_MAX && name.split('.').all(is_label)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
    left.ok_or_else(|| io::ErrorKind::TimedOut.into())
}

fn is_timeout(error: &io::Error) -> bool {
    // A receive whose timeout ran out says that it would block.
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Asks one server for the addresses of both families, at once. The addresses of one are enough,
/// where the other has no answer: some servers drop the questions that they do not understand.
fn ask_server(server: SocketAddr, name: &str, deadline: Instant) -> io::Result<Vec<IpAddr>> {
    // Connected, so that only its answers arrive, and an unreachable one is known at once.
    let socket = UdpSocket::bind(any_address(server))?;
    socket.connect(server)?;
    let mut unanswered = vec![Query::new(name, TYPE::AAAA)?, Query::new(name, TYPE::A)?];
    for query in &unanswered {
        socket.send(&query.packet)?;
    }
    let mut bytes = [0; ANSWER_MAX];
    let (mut found, mut failed) = (Vec::new(), None);
    while !unanswered.is_empty() {
        let received = left(deadline).and_then(|left| {
            socket.set_read_timeout(Some(left))?;
            socket.recv(&mut bytes)
        });
        let answer = match received {
            Ok(len) => &bytes[..len],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                failed.get_or_insert(error);
                break;
            }
        };
        // The first two bytes of a message are its id (RFC 1035, section 4.1.1).
        let is_answered = |query: &Query<'_>| answer.starts_with(&query.id.to_be_bytes());
        let Some(at) = unanswered.iter().position(is_answered) else { continue };
        let query = unanswered.remove(at);
        let whole = query.read(answer).transpose();
        match whole.unwrap_or_else(|| over_tcp(server, &query, deadline)) {
            Ok(addresses) => found.extend(addresses),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

struct Query<'a> {
    id: u16,
    question: Question<'a>,
    packet: Vec<u8>,
}

impl<'a> Query<'a> {
    fn new(name: &'a str, kind: TYPE) -> io::Result<Self> {
        let id = u16::from_be_bytes(random::bytes().map_err(io::Error::other)?);
        let name = Name::new(name).map_err(io::Error::other)?;
        let question = Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false);
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(question.clone());
        let packet = packet.build_bytes_vec().map_err(io::Error::other)?;
        Ok(Self { id, question, packet })
    }

    /// The addresses in an answer; `None`, where it was cut off.
    fn read(&self, answer: &[u8]) -> io::Result<Option<Vec<IpAddr>>> {
        // Asked of the bytes: the record that was cut through cannot be parsed.
        let is_cut = answer.get(2).is_some_and(|flags| flags & 0b10 != 0);
        if is_cut {
            return Ok(None);
        }
        let refuse = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        let packet = Packet::parse(answer)
            .map_err(|error| refuse(&format!("its answer cannot be read ({error})")))?;
        if !matches!(packet.rcode(), RCODE::NoError | RCODE::NameError) {
            return Err(refuse(&format!("it answered {:?}", packet.rcode())));
        }
        let Question { qname, qtype, .. } = &self.question;
        let asked = packet.questions.first();
        let is_ours = asked.is_some_and(|asked| asked.qname == *qname && asked.qtype == *qtype);
        if !is_ours || !packet.has_flags(PacketFlag::RESPONSE) {
            return Err(refuse("its answer is to another question"));
        }
        // Those of an alias come with it.
        let wanted = packet.answers.iter().filter(|record| record.match_qtype(*qtype));
        let found = wanted.filter_map(|record| match &record.rdata {
            RData::A(a) => Some(Ipv4Addr::from(a.address).into()),
            RData::AAAA(aaaa) => Some(Ipv6Addr::from(aaaa.address).into()),
            _ => None,
        });
        Ok(Some(found.collect()))
    }
}

/// Messages over TCP have their length before them (RFC 1035, section 4.2.2).
fn over_tcp(server: SocketAddr, query: &Query<'_>, deadline: Instant) -> io::Result<Vec<IpAddr>> {
    let mut stream = TcpStream::connect_timeout(&server, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let len = u16::try_from(query.packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), query.packet.as_slice()].concat())?;
    let mut len = [0; 2];
    read_whole(&mut stream, &mut len, deadline)?;
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    read_whole(&mut stream, &mut answer, deadline)?;
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "its answer over TCP is cut off");
    query.read(&answer)?.ok_or_else(cut)
}

/// As `read_exact`, with a bound that bytes trickling in do not extend.
fn read_whole(stream: &mut TcpStream, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !into.is_empty() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => into = &mut into[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
