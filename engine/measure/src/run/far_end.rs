//! The far end of a run: a name that is resolved, or a server of this process.

use crate::run::observe::unless;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::server::Server;
use crate::server::plan::{HttpServing, ServePlan};
use crate::worker::destination::Destination;
use tare_driver::BackendChoice;
use tare_host::resolve;
use tare_host::veth::VethNamespace;
use tare_units::Nanos;
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::limits::SESSIONS_MAX;
use tare_units::target::Target;

/// The far end of a run, as found or started.
pub(crate) struct FarEnd {
    /// What to connect to, in order of preference: at least one.
    pub(crate) addresses: Vec<Destination>,
    /// Addresses of the name that did not accept a connection.
    pub(crate) unreached: Vec<Destination>,
    /// An embedded server, until the run is over. Dropped before the namespace it lives in.
    pub(super) server: Option<Server>,
    _namespace: Option<VethNamespace>,
}

/// An embedded server that serves several runs, with its namespace if it has one.
pub(crate) struct Held(FarEnd);

impl Held {
    /// Starts the server of a target of this process; `None` of other targets.
    ///
    /// # Errors
    /// Where the server or its namespace cannot be had.
    pub(crate) fn start(
        target: &Target,
        connections: u32,
        client_cpus: &[u32],
    ) -> Result<Option<Self>> {
        match target {
            Target::Host { .. } | Target::Unix(_) => Ok(None),
            Target::Loopback | Target::Veth => {
                let never = Interrupt::default();
                let far_end = find(target, Nanos::ZERO, connections, client_cpus, None, &never)?;
                Ok(Some(Self(far_end)))
            }
        }
    }
}

/// Finds the far end of `target`, or starts one: it is to serve `connections` at once, and to keep off `client_cpus`.
/// One that is held already is used as it is.
///
/// # Errors
/// Where a name cannot be resolved within `timeout`, or an embedded server or its namespace cannot be had.
pub(crate) fn find(
    target: &Target,
    timeout: Nanos,
    connections: u32,
    client_cpus: &[u32],
    held: Option<&Held>,
    interrupt: &Interrupt,
) -> Result<FarEnd> {
    if let Some(Held(far_end)) = held {
        return Ok(FarEnd::elsewhere(far_end.addresses.clone()));
    }
    let (host, port) = match target {
        Target::Host { host, port } => (host, *port),
        Target::Unix(_) => return Err(unix_refused()),
        Target::Loopback => return embed(connections, client_cpus, None),
        Target::Veth => {
            let namespace = VethNamespace::create()?;
            return embed(connections, client_cpus, Some(namespace));
        }
    };
    let name = host.clone();
    let addresses = unless(interrupt, move || resolve::resolve(&name, port, timeout))?;
    if addresses.is_empty() {
        return Err(Error::peer(format!("{host} has no address")));
    }
    Ok(FarEnd::elsewhere(addresses.into_iter().map(Destination::Tcp).collect()))
}

impl FarEnd {
    /// One that is none of this process.
    pub(crate) const fn elsewhere(addresses: Vec<Destination>) -> Self {
        Self { addresses, unreached: Vec::new(), server: None, _namespace: None }
    }

    /// All that is known to connect to, reached or not.
    pub(super) fn known(&self) -> Vec<Destination> {
        [self.unreached.as_slice(), &self.addresses].concat()
    }
}

/// Of commands whose far end is `tare serve`.
pub(super) fn unix_refused() -> Error {
    Error::usage("only tare http takes a Unix socket")
}

fn embed(
    connections: u32,
    client_cpus: &[u32],
    namespace: Option<VethNamespace>,
) -> Result<FarEnd> {
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
        http: Some(HttpServing::default()),
    };
    let server =
        Server::start(&serve, client_cpus, namespace.as_ref(), Arc::new(|_: &str, _: &str| {}))?;
    let addresses = server.addresses().iter().copied();
    Ok(FarEnd {
        addresses: addresses.map(Destination::Tcp).collect(),
        unreached: Vec::new(),
        server: Some(server),
        _namespace: namespace,
    })
}
