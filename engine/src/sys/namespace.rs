//! Network namespaces without a name: made on a helper thread, held by a descriptor, gone with it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns, unshare};

use super::netlink::Netlink;
use crate::driver::OpError;

/// A network namespace of its own. It lives as long as this value, a thread in it, or a socket in it.
#[derive(Debug)]
pub struct NetworkNamespace {
    descriptor: OwnedFd,
}

impl NetworkNamespace {
    /// Makes a namespace, and a netlink socket in it, without moving the calling thread.
    ///
    /// # Errors
    /// [`OpError::NotPermitted`] without `CAP_SYS_ADMIN`.
    pub fn create() -> Result<(Self, Netlink), OpError> {
        // `unshare` moves a thread for good: so one that has nothing else to do.
        std::thread::Builder::new()
            .name("tare-namespace".into())
            .spawn(|| -> Result<_, OpError> {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| ("unshare", errno))?;
                let file = File::open("/proc/thread-self/ns/net")
                    .map_err(|error| OpError::from(("open(/proc/thread-self/ns/net)", &error)))?;
                let namespace = Self {
                    descriptor: file.into(),
                };
                Ok((namespace, Netlink::open()?))
            })
            .map_err(|error| OpError::from(("clone", &error)))?
            .join()
            .expect("the helper thread has nothing to panic at")
    }

    /// Moves the calling thread, and threads it starts later, into the namespace for good.
    ///
    /// # Errors
    /// [`OpError::NotPermitted`] without `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> Result<(), OpError> {
        setns(self.descriptor.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(|errno| ("setns", errno).into())
    }

    /// The descriptor's number, as netlink messages name a namespace.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_enters_and_the_others_stay() {
        let namespace = match NetworkNamespace::create() {
            Ok((namespace, _)) => namespace,
            Err(OpError::NotPermitted) => {
                eprintln!("skipped: making a network namespace is not permitted here");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = here();
        let inside = std::thread::scope(|scope| {
            let thread = scope.spawn(|| namespace.enter().map(|()| here()));
            thread.join().unwrap().unwrap()
        });
        assert_ne!(inside, before);
        assert_eq!(here(), before);
    }
}
