//! Which driver a worker gets.

use tare_driver::epoll::EpollDriver;
use tare_driver::uring::UringDriver;
use tare_driver::{Backend, DriverError};
use tare_units::error::Error;

/// A driver of either real backend: told apart once, at launch, and never in the loop.
#[derive(Debug)]
pub(crate) enum AnyDriver {
    Uring(UringDriver),
    Epoll(EpollDriver),
}

pub(crate) fn open(backend: Backend) -> Result<AnyDriver, DriverError> {
    match backend {
        Backend::Uring => UringDriver::new().map(AnyDriver::Uring),
        _ => EpollDriver::new().map(AnyDriver::Epoll),
    }
}

/// A driver that was chosen could not be opened: what was there for the first is used up by others.
pub(crate) fn unopened(backend: Backend, error: &DriverError) -> Error {
    let error = Error::environment(format!("a worker gets no {}: {error}", backend.name()));
    match backend {
        Backend::Uring => error.remedy(
            "use --backend epoll or fewer --threads, or raise the memory that may be locked: ulimit -l unlimited, \
             docker run --ulimit memlock=-1",
        ),
        _ => error.remedy("raise the limit on descriptors: ulimit -n"),
    }
}
