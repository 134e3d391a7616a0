//! What a run connects to: a name that is resolved, or a server of this process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::run::observe::unless;
use crate::server::Server;
use crate::server::plan::{HttpSettings, ServePlan};
use crate::worker::destination::Destination;
use tare_driver::BackendChoice;
use tare_host::resolve;
use tare_host::veth::VethNamespace;
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::limits::SESSIONS_MAX;
use tare_units::target::Target;

/// The peer of a run, as found or started.
#[derive(Default)]
pub(crate) struct Peer {
    /// What to connect to, in order of preference; none where the run was interrupted before the
    /// peer was found.
    pub(crate) addresses: Vec<Destination>,
    /// Addresses of the name that did not accept a connection.
    pub(crate) unreached: Vec<Destination>,
    /// An embedded server, until the run is over. Dropped before the namespace it lives in.
    pub(super) server: Option<Server>,
    _namespace: Option<VethNamespace>,
}

/// An embedded server that serves several runs, with its namespace if it has one.
pub(crate) struct SharedServer(Peer);

impl SharedServer {
    /// Starts the server of a target of this process; `None` of other targets.
    pub(crate) fn start(
        target: &Target,
        connections: u32,
        client_cpus: &[u32],
    ) -> Result<Option<Self>> {
        match target {
            Target::Host { .. } | Target::Unix(_) => Ok(None),
            Target::Loopback => Ok(Some(Self(embed(connections, client_cpus, None)?))),
            Target::Veth => {
                let namespace = Some(VethNamespace::create()?);
                Ok(Some(Self(embed(connections, client_cpus, namespace)?)))
            }
        }
    }
}

/// Finds the peer of `target`, or starts one that is to serve `connections` at once and to keep off
/// `client_cpus`. A server that is `shared` already is used as it is.
///
/// # Errors
/// Where a name cannot be resolved within `timeout`, or an embedded server or its namespace cannot
/// be had.
pub(crate) fn find(
    target: &Target,
    timeout: Nanos,
    connections: u32,
    client_cpus: &[u32],
    shared: Option<&SharedServer>,
    interrupt: &Interrupt,
) -> Result<Peer> {
    if let Some(SharedServer(peer)) = shared {
        return Ok(Peer::elsewhere(peer.addresses.clone()));
    }
    let Target::Host { host, port } = target else {
        let started = SharedServer::start(target, connections, client_cpus)?;
        return started.map(|SharedServer(peer)| peer).ok_or_else(unix_refused);
    };
    let (name, port) = (host.clone(), *port);
    let addresses = unless(interrupt, move || resolve::resolve(&name, port, timeout))?;
    if addresses.is_empty() {
        return Err(Error::peer(format!("{host} has no address")));
    }
    Ok(Peer::elsewhere(addresses.into_iter().map(Destination::Tcp).collect()))
}

impl Peer {
    pub(crate) fn elsewhere(addresses: Vec<Destination>) -> Self {
        Self { addresses, ..Self::default() }
    }

    /// All addresses that are known, reached or not.
    pub(crate) fn known(&self) -> Vec<Destination> {
        [self.unreached.as_slice(), &self.addresses].concat()
    }
}

/// The error of commands whose peer is `tare serve`.
pub(super) fn unix_refused() -> Error {
    Error::usage("only tare http takes a Unix socket")
}

fn embed(connections: u32, client_cpus: &[u32], namespace: Option<VethNamespace>) -> Result<Peer> {
    let host =
        namespace.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), VethNamespace::server_address);
    let serve = ServePlan {
        listen: vec![SocketAddr::new(host, 0)],
        listen_is_default: false,
        once: false,
        max_sessions: SESSIONS_MAX.max(connections * 2),
        max_duration: Nanos::MAX,
        idle_timeout: Nanos::MAX,
        allow_spin: false,
        cpus: None,
        backend: BackendChoice::Auto,
        secret: None,
        http: Some(HttpSettings::default()),
    };
    let server =
        Server::start(&serve, client_cpus, namespace.as_ref(), Arc::new(|_: &str, _: &str| {}))?;
    let addresses = server.addresses().iter().copied();
    Ok(Peer {
        addresses: addresses.map(Destination::Tcp).collect(),
        unreached: Vec::new(),
        server: Some(server),
        _namespace: namespace,
    })
}

/// What was found; nothing where the search ended because the run was interrupted.
pub(crate) fn unless_interrupted(found: Result<Peer>, interrupt: &Interrupt) -> Result<Peer> {
    match found {
        Err(_) if interrupt.is_raised() => Ok(Peer::default()),
        found => found,
    }
}
