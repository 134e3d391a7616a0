//! What a run connects to: a name that is resolved, or a server of this process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, bounded};

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

/// How often a wait for another thread looks whether the run was interrupted.
const LOOK: Duration = Duration::from_millis(20);

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

impl Peer {
    pub(crate) fn elsewhere(addresses: Vec<Destination>) -> Self {
        Self { addresses, ..Self::default() }
    }

    /// Starts the server of a target of this process, which is to serve so many connections at once
    /// and to keep off `client_cpus`; `None` of other targets.
    pub(crate) fn start(
        target: &Target,
        connections: u32,
        client_cpus: &[u32],
    ) -> Result<Option<Self>> {
        let namespace = match target {
            Target::Host { .. } | Target::Unix(_) => return Ok(None),
            Target::Loopback => None,
            Target::Veth => Some(VethNamespace::create()?),
        };
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let host = namespace.as_ref().map_or(localhost, VethNamespace::server_address);
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
        let log = Arc::new(|_: &str, _: &str| {});
        let server = Server::start(&serve, client_cpus, namespace.as_ref(), log)?;
        Ok(Some(Self {
            addresses: server.addresses().iter().copied().map(Destination::Tcp).collect(),
            unreached: Vec::new(),
            server: Some(server),
            _namespace: namespace,
        }))
    }
}

/// What the search for a peer goes by, beside the target.
#[derive(Clone, Copy)]
pub(crate) struct Search<'a> {
    pub(crate) connections: u32,
    /// CPUs that a server of this process keeps off.
    pub(crate) cpus: &'a [u32],
    /// A server of this process that serves several runs.
    pub(crate) shared: Option<&'a Peer>,
    pub(crate) interrupt: &'a Interrupt,
}

impl Search<'_> {
    /// Finds the peer of `target`, or starts one.
    ///
    /// # Errors
    /// Where a name cannot be resolved within `timeout`, or an embedded server or its namespace
    /// cannot be had.
    pub(crate) fn find(self, target: &Target, timeout: Nanos) -> Result<Peer> {
        if let Some(peer) = self.shared {
            return Ok(Peer::elsewhere(peer.addresses.clone()));
        }
        let Target::Host { host, port } = target else {
            return Peer::start(target, self.connections, self.cpus)?.ok_or_else(unix_refused);
        };
        let addresses = resolve(host, *port, timeout, self.interrupt)?;
        Ok(Peer::elsewhere(addresses.into_iter().map(Destination::Tcp).collect()))
    }
}

/// The addresses of a name, at least one.
pub(crate) fn resolve(
    host: &str,
    port: u16,
    timeout: Nanos,
    interrupt: &Interrupt,
) -> Result<Vec<SocketAddr>> {
    let name = host.to_owned();
    let addresses = unless(interrupt, move || resolve::resolve(&name, port, timeout))?;
    if addresses.is_empty() {
        return Err(Error::peer(format!("{host} has no address")));
    }
    Ok(addresses)
}

/// Does what cannot be interrupted, on a thread that is left behind when the run is: it holds
/// nothing, and ends by bounds of its own.
///
/// # Errors
/// Those of `work`; where the run was interrupted before it was done, an environment error.
pub(crate) fn unless<T: Send + 'static>(
    interrupt: &Interrupt,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done_tx, done) = bounded(1);
    std::thread::Builder::new()
        .name("tare-find".to_owned())
        .spawn(move || done_tx.try_send(work()))
        .map_err(|e| Error::environment(format!("no thread to look for the server: {e}")))?;
    loop {
        match done.recv_timeout(LOOK) {
            Ok(found) => return found,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::bug("looking for the server panicked"));
            }
            Err(RecvTimeoutError::Timeout) if interrupt.is_raised() => {
                return Err(Error::environment("interrupted"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The error of commands whose peer is `tare serve`.
pub(super) fn unix_refused() -> Error {
    Error::usage("only tare http takes a Unix socket")
}
