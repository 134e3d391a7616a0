//! What a run is against.

use std::path::PathBuf;

/// What to measure against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An embedded server of this process, over loopback, on a CPU of its own.
    Loopback,
    /// An embedded server in a network namespace made for the run, behind a veth pair.
    Veth,
    /// A server elsewhere: `HOST:PORT`, `[v6]:PORT`, or `HOST` with the default port.
    Host {
        /// The name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket; HTTP only.
    Unix(PathBuf),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Veth => f.write_str("veth"),
            Self::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
