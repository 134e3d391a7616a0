//! A network namespace behind a veth pair, made for one run and undone on every exit: the shortest
//! path that container networks are built of.
//!
//! After a SIGKILL the kernel drops the namespace with its last holder, and the pair with it:
//! within 100 ms on Linux 6.18. The link outlives its run only where something else holds the
//! namespace, which is what the journal is for.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sched::{CloneFlags, setns, unshare};

use crate::journal::{Journal, Note};
use crate::netlink::Netlink;
use tare_driver::OpError;
use tare_driver::sys::random;
use tare_units::error::{Error, Result};

type OpResult<T> = std::result::Result<T, OpError>;

const LOOPBACK_INDEX: u32 = 1;
const INNER_LINK: &str = "tare0";
/// 198.18.0.0/15, set apart for benchmarks by RFC 2544 (RFC 6890): never routed on the internet.
const BENCHMARK_NET: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const BENCHMARK_PREFIX: u8 = 15;
/// A pair of hosts, with network and broadcast address.
const PAIR_PREFIX: u8 = 30;

/// Dropping it removes the link; the namespace goes with its last thread and socket.
#[derive(Debug)]
pub struct VethNamespace {
    namespace: Namespace,
    /// In the namespace of the thread that made it.
    outer: Netlink,
    link: String,
    address: Ipv4Addr,
    /// Taken when the link is gone.
    note: Option<Note>,
}

impl VethNamespace {
    /// Makes the namespace and the pair, with addresses that nothing here uses, up at both ends.
    ///
    /// # Errors
    /// An environment error without the capabilities it takes, on a kernel without veth, or where
    /// the change cannot be journaled.
    pub fn create() -> Result<Self> {
        Self::create_noted(&Journal::of_machine())
    }

    fn create_noted(journal: &Journal) -> Result<Self> {
        let random = u32::from_be_bytes(random::bytes()?);
        let link = format!("tare-{random:08x}");
        let pair = free_pair(&used_subnets()?, random).ok_or_else(|| {
            Error::environment("no subnet of 198.18.0.0/15 is free for the veth pair")
                .remedy("use loopback: tare lat loopback")
        })?;
        let [outer_address, inner_address] = [1, 2].map(|host| Ipv4Addr::from(pair | host));
        let step = |what: &'static str| move |error| refused(what, error);

        let outer = Netlink::open().map_err(step("opening netlink"))?;
        let namespace = Namespace::create().map_err(step("making a network namespace"))?;
        let what = format!("the veth device {link}, and the network namespace behind it");
        let create = NLM_F_CREATE | NLM_F_EXCL;
        // From here on dropping `made` undoes whatever was done.
        let made = Self {
            note: Some(journal.note_link(&link, &what)?),
            namespace,
            outer,
            link,
            address: inner_address,
        };
        made.outer
            .change(RouteNetlinkMessage::NewLink(made.pair_message()), create)
            .map_err(step("making a veth pair"))?;
        let outer_index = index_of(&made.link).map_err(step("finding the veth device"))?;
        let (inner, inner_index) = made
            .namespace
            .inside(|| Ok((Netlink::open()?, index_of(INNER_LINK)?)))
            .map_err(step("finding the inner veth device"))?;
        for (netlink, index, address) in
            [(&made.outer, outer_index, outer_address), (&inner, inner_index, inner_address)]
        {
            netlink
                .change(address_message(index, address), create)
                .map_err(step("setting an address"))?;
        }
        for (netlink, index) in
            [(&inner, LOOPBACK_INDEX), (&inner, inner_index), (&made.outer, outer_index)]
        {
            netlink.change(up_message(index), 0).map_err(step("setting a link up"))?;
        }
        Ok(made)
    }

    /// The address that a server inside is reached at.
    pub const fn server_address(&self) -> IpAddr {
        IpAddr::V4(self.address)
    }

    /// Moves the calling thread, and threads it starts later, into the namespace for good.
    ///
    /// # Errors
    /// An environment error without the capability it takes.
    pub fn enter_on_this_thread(&self) -> Result<()> {
        self.namespace.enter().map_err(|error| refused("entering the network namespace", error))
    }

    /// The pair, its inner end born in the namespace.
    fn pair_message(&self) -> LinkMessage {
        let mut inner = LinkMessage::default();
        inner.attributes = vec![
            LinkAttribute::IfName(INNER_LINK.into()),
            LinkAttribute::NetNsFd(self.namespace.0.as_raw_fd()),
        ];
        let mut outer = LinkMessage::default();
        outer.attributes = vec![
            LinkAttribute::IfName(self.link.clone()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inner))),
            ]),
        ];
        outer
    }
}

impl Drop for VethNamespace {
    fn drop(&mut self) {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(self.link.clone())];
        let removed = self.outer.change(RouteNetlinkMessage::DelLink(message), 0);
        let is_gone = removed.err().is_none_or(|error| error.errno() == Some(libc::ENODEV));
        // Otherwise the entry stays, and the next start names the link.
        if let Some(note) = self.note.take().filter(|_| is_gone) {
            note.settle();
        }
    }
}

/// It lives as long as this value, a thread in it, or a socket in it.
#[derive(Debug)]
struct Namespace(OwnedFd);

impl Namespace {
    fn create() -> OpResult<Self> {
        // `unshare` moves a thread for good: so one that has nothing else to do.
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| ("unshare", errno))?;
            let file = File::open("/proc/thread-self/ns/net")
                .map_err(|error| OpError::from(("open(/proc/thread-self/ns/net)", &error)))?;
            Ok(Self(file.into()))
        })
    }

    /// Does something inside, on a thread of its own: what it opens stays inside.
    fn inside<T: Send>(&self, act: impl FnOnce() -> OpResult<T> + Send) -> OpResult<T> {
        on_a_thread(|| {
            self.enter()?;
            act()
        })
    }

    /// Moves the calling thread, and threads it starts later, into the namespace for good.
    fn enter(&self) -> OpResult<()> {
        setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| ("setns", errno).into())
    }
}

fn on_a_thread<T: Send>(act: impl FnOnce() -> OpResult<T> + Send) -> OpResult<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("tare-namespace".into())
            .spawn_scoped(scope, act)
            .map_err(|error| OpError::from(("clone", &error)))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn index_of(link: &str) -> OpResult<u32> {
    nix::net::if_::if_nametoindex(link).map_err(|errno| ("if_nametoindex", errno).into())
}

fn up_message(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

fn address_message(index: u32, address: Ipv4Addr) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = PAIR_PREFIX;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    RouteNetlinkMessage::NewAddress(message)
}

fn refused(what: &str, error: OpError) -> Error {
    match error {
        OpError::NotPermitted | OpError::AccessDenied => Error::environment(format!(
            "{what} is not permitted: it takes CAP_NET_ADMIN and CAP_SYS_ADMIN"
        ))
        .remedy("run as root, or use loopback: tare lat loopback"),
        OpError::NotSupported => Error::environment(format!("{what}: the kernel has no veth"))
            .remedy("modprobe veth, or use loopback: tare lat loopback"),
        error => Error::environment(format!("{what} failed: {error}"))
            .remedy("use loopback: tare lat loopback"),
    }
}

/// The IPv4 subnets of this namespace's devices, as address and mask.
fn used_subnets() -> Result<Vec<(u32, u32)>> {
    let interfaces = getifaddrs().map_err(|errno| {
        Error::environment(format!("cannot list this machine's addresses: {errno}"))
    })?;
    let subnet = |interface: InterfaceAddress| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        let mask = interface.netmask.and_then(|mask| Some(mask.as_sockaddr_in()?.ip()));
        Some((u32::from(address), mask.map_or(u32::MAX, u32::from)))
    };
    Ok(interfaces.filter_map(subnet).collect())
}

/// A /30 of the benchmark net that overlaps none of `used`, looked for from a random one on.
fn free_pair(used: &[(u32, u32)], random: u32) -> Option<u32> {
    const PAIRS: u32 = 1 << (PAIR_PREFIX - BENCHMARK_PREFIX);
    const HOSTS: u32 = 1 << (32 - PAIR_PREFIX);
    const MASK: u32 = !(HOSTS - 1);
    // Two subnets overlap where they agree in the bits that both fix.
    let overlap = |pair: u32, (address, mask): &(u32, u32)| (address ^ pair) & mask & MASK == 0;
    let pairs =
        (0..PAIRS).map(|n| u32::from(BENCHMARK_NET) + (random.wrapping_add(n) % PAIRS) * HOSTS);
    pairs.into_iter().find(|pair| !used.iter().any(|subnet| overlap(*pair, subnet)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Fixture, left_out};
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_pair_keeps_clear_of_the_subnets_in_use() {
        for (used, prefix, random, pair) in [
            ("127.0.0.1", 8, 0, Some("198.18.0.0")),
            ("127.0.0.1", 8, 65, Some("198.18.1.4")),
            ("127.0.0.1", 8, u32::MAX, Some("198.19.255.252")),
            // A single address of the pair is enough to leave it.
            ("198.18.0.3", 32, 0, Some("198.18.0.4")),
            ("198.18.7.1", 16, 9, Some("198.19.0.0")),
            ("198.18.7.1", 15, 9, None),
        ] {
            let used = u32::from(used.parse::<Ipv4Addr>().unwrap());
            let found = free_pair(&[(used, u32::MAX << (32 - prefix))], random);
            let found = found.map(|pair| Ipv4Addr::from(pair).to_string());
            assert_eq!(found.as_deref(), pair);
        }
    }

    #[test]
    fn what_is_not_permitted_says_what_to_type() {
        let error = refused("making a network namespace", OpError::NotPermitted);
        assert!(error.advice().unwrap().contains("run as root"), "{error}");
    }

    /// Whatever is done with a namespace, neither link nor entry is left. Where none can be made
    /// the test is left out.
    fn leaves_nothing(act: impl FnOnce(VethNamespace, &Fixture) + Send) {
        let fixture = Fixture::new(&[]);
        let made = match VethNamespace::create_noted(&fixture.journal()) {
            Ok(made) => made,
            Err(error) if error.message().contains("not permitted") => {
                return left_out(&error.to_string());
            }
            Err(error) => panic!("{error}"),
        };
        let link = made.link.clone();
        assert!(index_of(&link).is_ok());
        assert_eq!(fixture.entries(), [format!("{link}.json")]);
        act(made, &fixture);
        assert!(index_of(&link).is_err());
        assert_eq!(fixture.entries(), [""; 0]);
    }

    #[test]
    fn a_server_inside_is_reached_and_nothing_is_left() {
        leaves_nothing(|made, _| {
            let listener = std::thread::scope(|scope| {
                let inside = scope.spawn(|| {
                    made.enter_on_this_thread().unwrap();
                    assert!(index_of(&made.link).is_err(), "the outer end is not inside");
                    TcpListener::bind((made.server_address(), 0)).unwrap()
                });
                inside.join().unwrap()
            });
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.write_all(b"tare").unwrap();
            let mut received = [0; 4];
            let (mut server, from) = listener.accept().unwrap();
            server.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"tare");
            assert_ne!(from.ip(), made.server_address());
            // The sockets still hold the namespace; the link goes all the same.
            let link = made.link.clone();
            drop(made);
            assert!(index_of(&link).is_err());
        });
    }

    #[test]
    fn a_panic_leaves_nothing() {
        leaves_nothing(|made, _| {
            let panicked = std::thread::spawn(move || {
                let _made = made;
                panic!("as a defect would");
            });
            assert!(panicked.join().is_err());
        });
    }

    #[test]
    fn a_link_that_somebody_else_removed_is_no_leftover() {
        leaves_nothing(|made, fixture| {
            let mut message = LinkMessage::default();
            message.attributes = vec![LinkAttribute::IfName(made.link.clone())];
            let removed = made.outer.change(RouteNetlinkMessage::DelLink(message), 0);
            assert_eq!(removed, Ok(()));
            assert_eq!(fixture.entries().len(), 1);
        });
    }

    #[test]
    fn a_thread_enters_and_the_others_stay() {
        let namespace = match Namespace::create() {
            Ok(namespace) => namespace,
            Err(OpError::NotPermitted) => {
                return left_out("making a network namespace is not permitted here");
            }
            Err(error) => panic!("{error}"),
        };
        let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = here();
        let inside = namespace.inside(|| Ok(here())).unwrap();
        assert_ne!(inside, before);
        assert_eq!(here(), before);
    }
}
