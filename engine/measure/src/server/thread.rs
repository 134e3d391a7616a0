//! A thread that runs a role on a CPU.

use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, bounded};

use super::Log;
use crate::run::backend::{self, AnyDriver};
use crate::worker::{Role, Worker};
use tare_driver::clock::MonotonicClock;
use tare_driver::epoll::EpollDriver;
use tare_driver::sys::affinity;
use tare_driver::uring::UringDriver;
use tare_driver::{Backend, Driver, DriverError, Waker};
use tare_host::tuning;
use tare_units::error::{Error, Result};

#[derive(Debug)]
pub(super) struct WorkerThread {
    pub(super) waker: Waker,
    thread: JoinHandle<()>,
}

impl WorkerThread {
    /// Starts it, and waits until it runs. `who` it is, errors and the log say; `role` is made on the thread itself.
    pub(super) fn start<R>(
        who: &'static str,
        name: String,
        backend: Backend,
        cpu: u32,
        log: Log,
        role: impl FnOnce() -> R + Send + 'static,
    ) -> Result<Self>
    where
        R: Role<UringDriver> + Role<EpollDriver>,
    {
        let (started_tx, started) = bounded(1);
        let body = move || {
            if let Err(error) = affinity::pin_current_thread(cpu) {
                log("worker", &format!("{who} could not be pinned to CPU {cpu}: {error}"));
            }
            let _ = tuning::set_timer_slack_ns(1);
            let role = role();
            let end = match backend::open(backend) {
                Ok(AnyDriver::Uring(driver)) => run(driver, role, &started_tx),
                Ok(AnyDriver::Epoll(driver)) => run(driver, role, &started_tx),
                Err(error) => {
                    let _ = started_tx.try_send(Err(error));
                    return;
                }
            };
            if let Err(error) = end {
                log("worker", &format!("{who} has ended: {error}"));
            }
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(body)
            .map_err(|e| Error::environment(format!("no thread for {who}: {e}")))?;
        let waker = match started.recv() {
            Ok(Ok(waker)) => waker,
            Ok(Err(error)) => return Err(backend::unopened(backend, &error)),
            Err(_) => return Err(Error::bug(format!("{who} ended before it had started"))),
        };
        Ok(Self { waker, thread })
    }

    pub(super) fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits for its end, once the server is stopping.
    pub(super) fn join(self) {
        self.waker.wake();
        let _ = self.thread.join();
    }
}

type Started = Sender<std::result::Result<Waker, DriverError>>;

fn run<D, R>(driver: D, role: R, started: &Started) -> std::result::Result<(), DriverError>
where
    D: Driver<Socket = OwnedFd>,
    R: Role<D>,
{
    let _ = started.try_send(Ok(driver.waker()));
    Worker::new(driver, MonotonicClock, role).run_until(R::is_finished)
}
