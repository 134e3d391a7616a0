//! Network namespaces without a name: made on a helper thread, held by a descriptor, gone with it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns, unshare};

pub(crate) use tare_driver::io::OpError;

/// A network namespace of its own. It lives as long as this value, a thread in it, or a socket in it.
#[derive(Debug)]
pub(crate) struct NetworkNamespace {
    descriptor: OwnedFd,
}

impl NetworkNamespace {
    /// Makes a namespace, without moving the calling thread.
    ///
    /// # Errors
    /// [`OpError::NotPermitted`] without `CAP_SYS_ADMIN`.
    pub(crate) fn create() -> Result<Self, OpError> {
        // `unshare` moves a thread for good: so one that has nothing else to do.
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| ("unshare", errno))?;
            let file = File::open("/proc/thread-self/ns/net")
                .map_err(|error| OpError::from(("open(/proc/thread-self/ns/net)", &error)))?;
            Ok(Self { descriptor: file.into() })
        })
    }

    /// Does something inside, on a thread of its own: what it opens stays inside.
    ///
    /// # Errors
    /// [`OpError::NotPermitted`] without `CAP_SYS_ADMIN`, and what `act` fails with.
    pub(crate) fn inside<T: Send>(
        &self,
        act: impl FnOnce() -> Result<T, OpError> + Send,
    ) -> Result<T, OpError> {
        on_a_thread(|| {
            self.enter()?;
            act()
        })
    }

    /// Moves the calling thread, and threads it starts later, into the namespace for good.
    ///
    /// # Errors
    /// [`OpError::NotPermitted`] without `CAP_SYS_ADMIN`.
    pub(crate) fn enter(&self) -> Result<(), OpError> {
        setns(self.descriptor.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(|errno| ("setns", errno).into())
    }

    /// The descriptor's number, as netlink messages name a namespace.
    #[must_use]
    pub(crate) fn raw(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

fn on_a_thread<T: Send>(act: impl FnOnce() -> Result<T, OpError> + Send) -> Result<T, OpError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("tare-namespace".into())
            .spawn_scoped(scope, act)
            .map_err(|error| OpError::from(("clone", &error)))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_enters_and_the_others_stay() {
        let namespace = match NetworkNamespace::create() {
            Ok(namespace) => namespace,
            Err(OpError::NotPermitted) => {
                eprintln!("skipped: making a network namespace is not permitted here");
                return;
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
