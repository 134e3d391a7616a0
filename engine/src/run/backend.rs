//! Which driver a worker gets.

use super::plan::BackendChoice;
use crate::driver::epoll::EpollDriver;
use crate::driver::probe::{self, Chosen};
use crate::driver::uring::UringDriver;
use crate::driver::{Backend, DriverError};
use crate::error::Result;

/// A driver of either real backend: told apart once, at launch, and never in the loop.
#[derive(Debug)]
pub(super) enum AnyDriver {
    /// io_uring.
    Uring(UringDriver),
    /// epoll.
    Epoll(EpollDriver),
}

/// Probes, and decides.
///
/// # Errors
/// When a backend was insisted on that does not work here.
pub(super) fn choose(choice: BackendChoice) -> Result<Chosen> {
    probe::choose(choice)
}

/// Opens a driver for the calling thread.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn open(backend: Backend) -> std::result::Result<AnyDriver, DriverError> {
    match backend {
        Backend::Uring => UringDriver::new().map(AnyDriver::Uring),
        Backend::Epoll | Backend::Sim => EpollDriver::new().map(AnyDriver::Epoll),
    }
}
