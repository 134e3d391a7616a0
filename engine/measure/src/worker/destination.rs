//! Where a client's connections go.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a Unix socket; a name that begins with `@` is in the abstract namespace (unix(7)).
    Unix(PathBuf),
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Destination {
    /// The address, of a peer that TCP and UDP reach.
    pub(crate) const fn socket_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}
