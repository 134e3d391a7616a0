//! The ring itself: set up with the best that the kernel has, entered, reaped.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use io_uring::cqueue::CompletionQueue;
use io_uring::squeue::{Entry, Flags, SubmissionQueue};
use io_uring::types::{Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, Submitter, cqueue, opcode, types};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};

use crate::clock::{Clock, MonotonicClock};
use crate::io::{DriverError, OpError};
use tare_units::limits::{RING_ENTRIES, SOCKETS_MAX};
use tare_units::{Instant, Nanos};

/// Entries of the completion queue: room for many turns' worth, so that a burst of multishot
/// receives does not spill into the kernel's slow overflow list.
const COMPLETION_ENTRIES: u32 = 16 * RING_ENTRIES;
/// `user_data` of entries whose completion nobody waits for.
pub(super) const IGNORED: u64 = u64::MAX;
/// `user_data` of the poll that a waker fires.
pub(super) const WOKEN: u64 = u64::MAX - 1;

/// What a ring is set up with. Each field names a setup flag of `io_uring_setup(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SetupFlags {
    no_sqarray: bool,
    defer_taskrun: bool,
    single_issuer: bool,
    coop_taskrun: bool,
    submit_all: bool,
}

/// Steps down from the best setup, in the report's words. Cumulative.
const STEPS: [&str; 5] = [
    "no NO_SQARRAY (needs Linux 6.6)",
    "no DEFER_TASKRUN (needs Linux 6.1)",
    "no SINGLE_ISSUER (needs Linux 6.0)",
    "no COOP_TASKRUN (needs Linux 5.19)",
    "no SUBMIT_ALL (needs Linux 5.18)",
];

impl SetupFlags {
    /// The best setup after so many of the [`STEPS`].
    const fn after(steps: usize) -> Self {
        Self {
            no_sqarray: steps < 1,
            defer_taskrun: steps < 2,
            single_issuer: steps < 3,
            // It stands in for DEFER_TASKRUN.
            coop_taskrun: 2 <= steps && steps < 4,
            submit_all: steps < 5,
        }
    }
}

/// Tries the best setup first and gives up one thing at a time while the answer is `EINVAL`, the
/// kernel's way to say that it does not know a flag.
fn descend<R>(
    mut attempt: impl FnMut(SetupFlags) -> io::Result<R>,
) -> io::Result<(R, Vec<String>)> {
    let mut steps = 0;
    loop {
        match attempt(SetupFlags::after(steps)) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && steps < STEPS.len() => steps += 1,
            answer => {
                return Ok((answer?, STEPS[..steps].iter().map(ToString::to_string).collect()));
            }
        }
    }
}

fn build(flags: SetupFlags) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_cqsize(COMPLETION_ENTRIES);
    if flags.no_sqarray {
        builder.setup_no_sqarray();
    }
    if flags.single_issuer {
        builder.setup_single_issuer();
    }
    if flags.defer_taskrun {
        builder.setup_defer_taskrun();
    }
    if flags.coop_taskrun {
        builder.setup_coop_taskrun();
    }
    if flags.defer_taskrun || flags.coop_taskrun {
        // Says in user memory that task work is pending, so that a spinning turn with nothing to
        // submit costs no system call.
        builder.setup_taskrun_flag();
    }
    if flags.submit_all {
        builder.setup_submit_all();
    }
    builder.build(RING_ENTRIES)
}

/// The operations that the driver cannot do without, and the kernel that brought them.
const NEEDED: [(u8, &str); 8] = [
    (opcode::PollAdd::CODE, "POLL_ADD (needs Linux 5.1)"),
    (opcode::SendMsg::CODE, "SENDMSG (needs Linux 5.3)"),
    (opcode::RecvMsg::CODE, "RECVMSG (needs Linux 5.3)"),
    (opcode::Accept::CODE, "ACCEPT (needs Linux 5.5)"),
    (opcode::Connect::CODE, "CONNECT (needs Linux 5.5)"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL (needs Linux 5.5)"),
    (opcode::Send::CODE, "SEND (needs Linux 5.6)"),
    (opcode::Recv::CODE, "RECV (needs Linux 5.6)"),
];

/// A socket as the kernel finds it: in the ring's own table, or by its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Registered(u32),
    Descriptor(RawFd),
}

impl Target {
    /// The descriptor field of an entry, and the flag that says how to read it. Every operation is
    /// built upon a plain descriptor and marked afterwards, which spares a second copy of each
    /// builder.
    pub(super) const fn field(self) -> (types::Fd, Flags) {
        match self {
            Self::Registered(index) => (types::Fd(index as RawFd), Flags::FIXED_FILE),
            Self::Descriptor(fd) => (types::Fd(fd), Flags::empty()),
        }
    }
}

/// How an enter that waited came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    /// With what was waited for; or, where something was submitted by the same call, perhaps
    /// without.
    Done,
    /// At the deadline.
    TimedOut,
    /// By a signal, or because the kernel asks to reap first.
    Interrupted,
}

/// An io_uring and what it is capable of.
pub(super) struct Ring {
    /// Remembers the ring's registered descriptor; unregistered in `Drop`. Borrows what `ring`
    /// points to, so it is never used after that is freed.
    submitter: Submitter<'static>,
    /// From `Box::leak`, turned back in `Drop`, nowhere else. A raw pointer, so neither `Send` nor
    /// `Sync`: the kernel insists on a single issuer, and its thread's table holds the registered
    /// descriptor.
    ring: NonNull<IoUring>,
    /// Length of the table of registered files; zero where it isn't used.
    files: u32,
    absolute_timeouts: bool,
    pub(super) zero_copy: bool,
}

impl Ring {
    /// Sets up a ring for this thread, with the step downs that it took, in words.
    pub(super) fn new() -> Result<(Self, Vec<String>), DriverError> {
        let (ring, mut step_downs) = descend(build)
            .map_err(|e| DriverError::resources("io_uring_setup", "io_uring_setup", &e))?;
        let ring = NonNull::from(Box::leak(Box::new(ring)));
        // SAFETY: the pointer comes from a box that is turned back only in `Ring::drop`, after the
        // last use of the submitter, which is the only holder of this reference; nothing takes a
        // `&mut` to the ring.
        let shared: &'static IoUring = unsafe { ring.as_ref() };
        let mut ring = Self {
            submitter: shared.submitter(),
            ring,
            files: 0,
            absolute_timeouts: false,
            zero_copy: false,
        };
        ring.check_operations()?;
        if ring.submitter.register_ring_fd().is_err() {
            step_downs.push("no registered ring (needs Linux 5.18)".to_owned());
        }
        if !ring.register_files()? {
            step_downs.push(
                "no registered files (before Linux 6.13 a closed one lingers while others are in use)"
                    .to_owned(),
            );
        }
        ring.absolute_timeouts = ring.try_absolute_timeout()?;
        ring.zero_copy = ring.try_zero_copy()?;
        if !ring.zero_copy {
            step_downs.push("no SEND_ZC with usage report (needs Linux 6.2)".to_owned());
        }
        Ok((ring, step_downs))
    }

    fn check_operations(&self) -> Result<(), DriverError> {
        let mut probe = Probe::new();
        self.submitter
            .register_probe(&mut probe)
            .map_err(|e| DriverError::call("io_uring_register", &e))?;
        for (code, what) in NEEDED {
            if !probe.is_supported(code) {
                return Err(DriverError::Resources { what, source: OpError::NotSupported });
            }
        }
        if self.io().params().is_feature_ext_arg() {
            return Ok(());
        }
        let what = "EXT_ARG (needs Linux 5.11)";
        Err(DriverError::Resources { what, source: OpError::NotSupported })
    }

    /// Registers an empty table, unless this kernel keeps a file that was taken out of it alive for
    /// as long as older requests upon other files are in flight (so before 6.13): a closed
    /// connection would then not send its FIN. Tried out, since distributions carry the repair
    /// back.
    fn register_files(&mut self) -> Result<bool, DriverError> {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let files = u32::try_from(limit).map_or(SOCKETS_MAX, |l| l.min(SOCKETS_MAX));
        if files < 2 || self.submitter.register_files_sparse(files).is_err() {
            return Ok(false);
        }
        let pair = || {
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|e| DriverError::resources("socketpair", "socketpair", e))
        };
        let ((watched, _other), (closed, end)) = (pair()?, pair()?);
        self.update_file(0, watched.as_raw_fd())?;
        self.update_file(1, closed.as_raw_fd())?;
        let poll = opcode::PollAdd::new(Fixed(0), libc::POLLIN as u32).build();
        // SAFETY: a poll names no memory.
        unsafe { self.push(&poll.user_data(IGNORED)) }?;
        self.enter(0, None)?;
        self.update_file(1, -1)?;
        drop(closed);
        let at_once = recv(end.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) == Ok(0);
        let cancel = opcode::AsyncCancel::new(IGNORED).build().user_data(IGNORED);
        // SAFETY: a cancellation names no memory.
        unsafe { self.push(&cancel) }?;
        self.enter(2, None)?;
        while self.reap().is_some() {}
        self.update_file(0, -1)?;
        self.files = if at_once { files } else { 0 };
        Ok(at_once)
    }

    /// Whether a wait can be given an absolute deadline (Linux 6.12) that the kernel reads on this
    /// process's clock. In a time namespace it reads the host's: a deadline may then lie days
    /// ahead, or be over before it was set. So both are tried, beside a timer that ends the try.
    fn try_absolute_timeout(&mut self) -> Result<bool, DriverError> {
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG | EnterFlags::ABS_TIMER;
        let timer = Timespec::new().nsec(50_000);
        let timeout = opcode::Timeout::new(&raw const timer).build();
        // SAFETY: the kernel copies the timespec when the entry is submitted, which is in `enter`,
        // below.
        unsafe { self.push(&timeout.user_data(IGNORED)) }?;
        self.enter(0, None)?;
        let now = MonotonicClock.now();
        let ends = |deadline: Instant| {
            let deadline = timespec(deadline.0);
            let args = SubmitArgs::new().timespec(&deadline);
            // SAFETY: waits with a timespec that lives across the call; nothing is submitted.
            unsafe { self.submitter.enter(0, 1, flags.bits(), Some(&args)) }
        };
        let past = ends(now).is_err_and(|e| e.raw_os_error() == Some(libc::ETIME));
        let future = ends(now + Nanos::from_secs(1)).is_ok();
        self.enter(1, None)?;
        while self.reap().is_some() {}
        Ok(past && future)
    }

    /// Whether zero-copy sends report if they copied. An entry for no file at all is refused as
    /// such (`EBADF`) by a kernel that knows the flag, and as invalid by one that does not.
    fn try_zero_copy(&mut self) -> Result<bool, DriverError> {
        let send = opcode::SendZc::new(types::Fd(-1), std::ptr::null(), 0)
            .zc_flags(REPORT_USAGE)
            .build()
            .user_data(IGNORED);
        // SAFETY: the send names a range of length zero.
        unsafe { self.push(&send) }?;
        self.enter(1, None)?;
        let mut known = false;
        while let Some(entry) = self.reap() {
            known |= entry.result() == -libc::EBADF;
        }
        Ok(known)
    }

    fn io(&self) -> &IoUring {
        // SAFETY: `ring` points to a live `IoUring` until `Drop`, and nothing takes a `&mut` to it
        // before.
        unsafe { self.ring.as_ref() }
    }

    /// Puts a socket into the table; where it does not fit, its descriptor serves.
    pub(super) fn register(&self, index: u32, fd: &OwnedFd) -> Target {
        if index < self.files && self.update_file(index, fd.as_raw_fd()).is_ok() {
            Target::Registered(index)
        } else {
            Target::Descriptor(fd.as_raw_fd())
        }
    }

    pub(super) fn unregister(&self, target: Target) -> Result<(), DriverError> {
        match target {
            Target::Registered(index) => self.update_file(index, -1),
            Target::Descriptor(_) => Ok(()),
        }
    }

    fn update_file(&self, index: u32, fd: RawFd) -> Result<(), DriverError> {
        let updated = self.submitter.register_files_update(index, &[fd]);
        updated.map(drop).map_err(|e| DriverError::call("io_uring_register", &e))
    }

    #[inline]
    fn submissions(&mut self) -> SubmissionQueue<'_> {
        // SAFETY: the queue borrows `self` mutably, so it is the only one for as long as it lives.
        unsafe { self.io().submission_shared() }
    }

    #[inline]
    fn completions(&mut self) -> CompletionQueue<'_> {
        // SAFETY: as in `submissions`; `overflows`, which borrows `self` too, has dropped its
        // queue.
        unsafe { self.io().completion_shared() }
    }

    /// Queues an entry, submitting what is queued first if there is no room.
    ///
    /// # Safety
    /// All memory that the entry names stays valid, and is not touched against the operation's
    /// nature, until its last completion was reaped.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: &Entry) -> Result<(), DriverError> {
        // SAFETY: the caller's promise.
        if unsafe { self.submissions().push(entry) }.is_ok() {
            return Ok(());
        }
        self.enter(0, None)?;
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.submissions().push(entry) };
        pushed.map_err(|_| DriverError::Call { call: "io_uring_enter", source: OpError::NoMemory })
    }

    /// Registers the ring through which a pool's buffers are given.
    ///
    /// # Safety
    /// The memory of `count` entries at `address` stays valid until [`Ring::unregister_pool`] or
    /// the ring's drop.
    pub(super) unsafe fn register_pool(&self, address: u64, count: u16) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.submitter.register_buf_ring_with_flags(address, count, 0, 0) }
    }

    pub(super) fn unregister_pool(&self) -> io::Result<()> {
        self.submitter.unregister_buf_ring(0)
    }

    /// Registers a buffer, under index 0.
    ///
    /// # Safety
    /// The range stays valid until the ring's drop.
    #[cfg(any(test, feature = "benches"))]
    pub(super) unsafe fn register_buffer(&self, range: libc::iovec) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.submitter.register_buffers(&[range]) }
    }

    #[inline]
    pub(super) fn queued(&mut self) -> usize {
        self.submissions().len()
    }

    #[inline]
    pub(super) fn has_completions(&mut self) -> bool {
        !self.completions().is_empty()
    }

    #[inline]
    pub(super) fn reap(&mut self) -> Option<cqueue::Entry> {
        self.completions().next()
    }

    /// Completions that did not fit the queue and were kept by the kernel, at a price.
    pub(super) fn overflows(&self) -> u64 {
        // SAFETY: only a counter is read, and the queue dropped unchanged; this thread is the only
        // one that moves the head, and it does so in no other call that is still running.
        u64::from(unsafe { self.io().completion_shared() }.overflow())
    }

    /// Submits what is queued and runs pending task work, without sleeping; no system call where
    /// there is neither.
    #[inline]
    pub(super) fn poll(&mut self) -> Result<(), DriverError> {
        let queue = self.submissions();
        let (queued, pending) = (queue.len(), queue.taskrun() || queue.cq_overflow());
        drop(queue);
        if queued == 0 && !pending {
            return Ok(());
        }
        let flags = if pending { EnterFlags::GETEVENTS } else { EnterFlags::empty() };
        self.enter_with(queued, 0, flags, None).map(|_| ())
    }

    /// Submits what is queued and waits for `want` completions, until `until` (with the caller's
    /// latest reading of the clock).
    pub(super) fn enter(
        &mut self,
        want: u32,
        until: Option<(Instant, Instant)>,
    ) -> Result<Entered, DriverError> {
        let queued = self.queued();
        let Some((now, until)) = until else {
            return self.enter_with(queued, want, EnterFlags::GETEVENTS, None);
        };
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // Absolute where that works: the time that the submission itself takes does not add up.
        let time = if self.absolute_timeouts {
            flags |= EnterFlags::ABS_TIMER;
            until.0
        } else {
            until.since(now).0
        };
        let time = timespec(time);
        let args = SubmitArgs::new().timespec(&time);
        self.enter_with(queued, want, flags, Some(&args))
    }

    #[inline]
    fn enter_with(
        &self,
        queued: usize,
        want: u32,
        flags: EnterFlags,
        args: Option<&SubmitArgs<'_, '_>>,
    ) -> Result<Entered, DriverError> {
        // SAFETY: the entries queued were pushed under `push`'s promise; `args`, if any, and the
        // timespec in it outlive the call, and its size is that of the kernel's structure, which
        // `SubmitArgs` wraps.
        let answer = unsafe { self.submitter.enter(queued as u32, want, flags.bits(), args) };
        match answer {
            Ok(_) => Ok(Entered::Done),
            Err(e) => match e.raw_os_error() {
                Some(libc::ETIME) => Ok(Entered::TimedOut),
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(Entered::Interrupted),
                _ => Err(DriverError::call("io_uring_enter", &e)),
            },
        }
    }

    #[cfg(any(test, feature = "benches"))]
    pub(super) fn cancel_all(&mut self) -> Result<(), DriverError> {
        let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        // SAFETY: a cancellation names no memory.
        unsafe { self.push(&cancel.user_data(IGNORED)) }
    }
}

/// `IORING_SEND_ZC_REPORT_USAGE` of `linux/io_uring.h`, which the crate does not export.
pub(super) const REPORT_USAGE: u16 = 1 << 3;

pub(super) const fn timespec(ns: u64) -> Timespec {
    Timespec::new().sec(ns / 1_000_000_000).nsec((ns % 1_000_000_000) as u32)
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The thread's table would keep the ring open. Where none was registered this answers
        // EINVAL.
        let _ = self.submitter.unregister_ring_fd();
        // SAFETY: the pointer came from `Box::leak` in `new` and is turned back once, here. The
        // submitter that borrows from it is not used any more: it has no drop code, and its owner
        // is being dropped.
        drop(unsafe { Box::from_raw(self.ring.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags with which a kernel that refuses some is content, or its error, after how many
    /// attempts, and what was given up.
    fn kernel(
        errno: i32,
        refuses: impl Fn(SetupFlags) -> bool,
    ) -> (Result<SetupFlags, Option<i32>>, usize, Vec<String>) {
        let mut attempts = 0;
        let answer = descend(|flags| {
            attempts += 1;
            if refuses(flags) { Err(io::Error::from_raw_os_error(errno)) } else { Ok(flags) }
        });
        match answer {
            Ok((flags, given_up)) => (Ok(flags), attempts, given_up),
            Err(error) => (Err(error.raw_os_error()), attempts, Vec::new()),
        }
    }

    #[test]
    fn steps_down_one_flag_at_a_time() {
        let (flags, _, given_up) = kernel(libc::EINVAL, |_| false);
        assert!(flags.unwrap().defer_taskrun && given_up.is_empty());

        let (flags, _, given_up) = kernel(libc::EINVAL, |f| f.no_sqarray);
        assert!(flags.unwrap().defer_taskrun);
        assert_eq!(given_up, ["no NO_SQARRAY (needs Linux 6.6)"]);

        // Linux 6.0.
        let (flags, _, given_up) = kernel(libc::EINVAL, |f| f.no_sqarray || f.defer_taskrun);
        assert!(flags.is_ok_and(|f| f.single_issuer && f.coop_taskrun));
        assert_eq!(given_up, STEPS[..2]);
        assert_eq!(given_up[1], "no DEFER_TASKRUN (needs Linux 6.1)");

        // Linux 5.10 knows none of them.
        let (flags, _, given_up) = kernel(libc::EINVAL, |f| {
            f.no_sqarray || f.defer_taskrun || f.single_issuer || f.coop_taskrun || f.submit_all
        });
        assert!(flags.is_ok());
        assert_eq!(given_up, STEPS);

        let sandbox = kernel(libc::EINVAL, |_| true);
        assert_eq!(sandbox.0, Err(Some(libc::EINVAL)), "a sandbox that refuses them all");
        // Another error is not stepped over.
        assert_eq!(kernel(libc::EPERM, |_| true), (Err(Some(libc::EPERM)), 1, vec![]));
    }

    #[test]
    fn a_dropped_ring_leaves_no_registered_descriptor() {
        // A thread has sixteen places; a leak would show as a step down.
        for _ in 0..20 {
            let (_, step_downs) = Ring::new().unwrap();
            assert!(!step_downs.iter().any(|s| s.contains("registered ring")), "{step_downs:?}");
        }
    }
}
