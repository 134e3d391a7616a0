//! Which backend to use here, and why: found out by setting up a ring and using it, not by version
//! numbers.

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::uring::UringDriver;
use super::{Backend, Completion, Driver, DriverError, Op, OpError, Outcome, Segment, Token, Wait};
use crate::BackendChoice;
use crate::clock::{Clock, MonotonicClock};
use tare_units::bounds::PROBE_MAX;
use tare_units::error::{Error, Result};

/// The backend to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Which.
    pub backend: Backend,
    /// Why that one, in words fit for the report.
    pub reason: String,
    /// What to type for the faster one, where it is denied.
    pub advice: Option<String>,
}

/// Chooses the backend: for `Auto` io_uring where a try-out shows that it works, else epoll.
///
/// # Errors
/// An environment error with the reason and the remedy when io_uring was asked for and does not
/// work; a usage error for a backend that moves no real packets.
pub fn choose(choice: BackendChoice) -> Result<Chosen> {
    match choice {
        BackendChoice::Auto | BackendChoice::Only(Backend::Uring) => {}
        BackendChoice::Only(backend @ Backend::Epoll) => {
            return Ok(Chosen { backend, reason: "asked for".to_owned(), advice: None });
        }
        #[cfg(any(test, feature = "sim"))]
        BackendChoice::Only(backend) => {
            let message = format!("the backend {} moves no real packets", backend.name());
            return Err(Error::usage(message).remedy("use --backend auto, uring or epoll"));
        }
    }
    let asked = choice != BackendChoice::Auto;
    match try_out() {
        Ok(step_downs) => {
            let asked_for = if asked { "asked for; " } else { "" };
            let works = "io_uring works here: the operations it needs were probed";
            let words: String = step_downs.iter().map(|words| format!("; {words}")).collect();
            let reason = format!("{asked_for}{works}{words}");
            Ok(Chosen { backend: Backend::Uring, reason, advice: None })
        }
        Err(trouble) => {
            let (reason, advice) = explain(&trouble, &Surroundings::look());
            if asked {
                let remedy = format!("use --backend epoll, or --backend auto ({advice})");
                return Err(Error::environment(reason).remedy(remedy));
            }
            let reason = format!("{reason}; using epoll");
            Ok(Chosen { backend: Backend::Epoll, reason, advice: Some(advice) })
        }
    }
}

#[derive(Debug)]
enum Trouble {
    /// The driver could not be made, or broke down.
    Driver(DriverError),
    /// An operation (with the kernel that brought it) failed, or gave no answer.
    Operation { what: &'static str, answer: Option<OpError> },
}

impl From<DriverError> for Trouble {
    fn from(error: DriverError) -> Self {
        Self::Driver(error)
    }
}

/// Makes a driver and uses it; gives its steps down.
fn try_out() -> std::result::Result<Vec<String>, Trouble> {
    let mut driver = UringDriver::new()?;
    let failed = |what| move |e: OpError| Trouble::Operation { what, answer: Some(e) };
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
    let (a, b) = pair.map_err(|e| failed("socketpair")(("socketpair", e).into()))?;
    let a = driver.adopt(a).map_err(failed("adopting a socket"))?;
    let b = driver.adopt(b).map_err(failed("adopting a socket"))?;
    let buffer = driver.allocate(8)?;
    let segment = Segment { buffer, start: 0, len: 8 };
    let send = |socket| Op::Send { socket, data: segment, zero_copy: false };
    let sent = |o: &Outcome| matches!(o, Outcome::Sent(8));
    let driver = &mut driver;
    perform(driver, "SEND", send(a), sent)?;
    let receive = Op::Receive { socket: b, into: segment };
    perform(driver, "RECV", receive, |o| matches!(o, Outcome::Received(8)))?;
    driver.provide_pool(2, 8)?;
    perform(driver, "SEND", send(b), sent)?;
    let (multishot, what) =
        (Op::ReceiveMultishot { socket: a }, "multishot RECV (needs Linux 6.0)");
    perform(driver, what, multishot, |o| matches!(o, Outcome::ReceivedInPool { len: 8, .. }))?;
    // A multishot receive is armed on it.
    let (close, what) = (Op::Close { socket: a }, "cancelling by file (needs Linux 6.0)");
    perform(driver, what, close, |o| matches!(o, Outcome::Closed))?;
    Ok(driver.capabilities().step_downs.clone())
}

/// Carries out one operation and looks at its first completion.
fn perform(
    driver: &mut UringDriver,
    what: &'static str,
    op: Op,
    expected: impl Fn(&Outcome) -> bool,
) -> std::result::Result<(), Trouble> {
    // Each operation is waited for before the next, but for the multishot receive, whose later
    // completions are to be passed over.
    let token = Token(u64::from(matches!(op, Op::ReceiveMultishot { .. })));
    driver.push(token, op)?;
    let deadline = MonotonicClock.now() + PROBE_MAX;
    let mut done: Vec<Completion> = Vec::new();
    let answer = loop {
        driver.turn(MonotonicClock.now(), Wait::Until(deadline), &mut done)?;
        match done.iter().find(|c| c.token == token).map(|c| &c.outcome) {
            Some(outcome) if expected(outcome) => return Ok(()),
            Some(Outcome::Failed(error)) => break Some(*error),
            Some(_) => break None,
            None if MonotonicClock.now() >= deadline => break None,
            None => {}
        }
    };
    Err(Trouble::Operation { what, answer })
}

/// What decides how a refusal is to be read.
#[derive(Debug, Clone, Default)]
struct Surroundings {
    /// `kernel.io_uring_disabled`, where the kernel has it (6.6).
    io_uring_disabled: Option<u32>,
    seccomp_filter: bool,
    kernel: String,
    /// Soft limits: `RLIMIT_MEMLOCK` and `RLIMIT_NOFILE`.
    memlock_bytes: u64,
    descriptors: u64,
}

impl Surroundings {
    fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let limit = |resource| getrlimit(resource).map_or(0, |(soft, _)| soft);
        // The thread's own status: filters are laid on threads, and `/proc/self` is the first
        // thread's.
        let status = read("/proc/thread-self/status");
        Self {
            io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled").trim().parse().ok(),
            seccomp_filter: status
                .lines()
                .filter_map(|l| l.strip_prefix("Seccomp:"))
                .any(|mode| mode.trim() == "2"),
            kernel: release(&read("/proc/sys/kernel/osrelease"), &read("/proc/version")),
            memlock_bytes: limit(Resource::RLIMIT_MEMLOCK),
            descriptors: limit(Resource::RLIMIT_NOFILE),
        }
    }
}

/// The kernel's release: what it says itself or, in gVisor, which has no such setting, the third
/// word of its version.
fn release(setting: &str, version: &str) -> String {
    let named = setting.split_ascii_whitespace().next();
    let release = named.or_else(|| version.split_ascii_whitespace().nth(2));
    release.unwrap_or("unknown").to_owned()
}

const ALLOW_IN_SECCOMP: &str = "to allow it: docker run --security-opt seccomp=unconfined, or \
    --security-opt seccomp=PROFILE.json with io_uring_setup, io_uring_enter and io_uring_register allowed; in \
    Kubernetes securityContext.seccompProfile.type: Unconfined, or Localhost with such a profile";

/// Why io_uring is not used, in one line, and what to type or to do about it.
fn explain(trouble: &Trouble, around: &Surroundings) -> (String, String) {
    let Surroundings { kernel, memlock_bytes, descriptors, .. } = around;
    let newer = format!("it needs Linux 6.0 or newer; this is {kernel}");
    let (what, source) = match trouble {
        Trouble::Operation { what, answer: Some(error) } => {
            return (format!("io_uring is there, but {what} failed: {error}"), newer);
        }
        Trouble::Operation { what, answer: None } => {
            return (format!("io_uring is there, but {what} gave no usable answer"), newer);
        }
        Trouble::Driver(DriverError::Resources { what, source }) => (*what, *source),
        Trouble::Driver(DriverError::Call { call, source }) => (*call, *source),
        Trouble::Driver(error) => return (format!("io_uring failed: {error}"), newer),
    };
    match source {
        OpError::NotPermitted | OpError::AccessDenied => denied(source, around),
        OpError::NotImplemented if around.seccomp_filter => (
            format!(
                "io_uring is hidden (ENOSYS): the container's seccomp profile blocks it, or the kernel \
                 ({kernel}) was built without it"
            ),
            ALLOW_IN_SECCOMP.into(),
        ),
        OpError::NotImplemented => (
            format!(
                "io_uring is missing (ENOSYS): the kernel ({kernel}) does not have it, or a sandbox hides it"
            ),
            "it needs Linux 6.0 or newer, built with CONFIG_IO_URING, and no sandbox such as gVisor".into(),
        ),
        OpError::NotSupported => (format!("io_uring lacks an operation: {what}"), newer),
        OpError::Invalid => (
            format!(
                "io_uring is refused (EINVAL from {what}): the kernel ({kernel}) is too old, or a sandbox \
                 offers no more than a part of it, as gVisor does"
            ),
            newer,
        ),
        OpError::NoMemory => (
            format!(
                "io_uring gets no memory (ENOMEM from {what}): RLIMIT_MEMLOCK is {} KiB, or the cgroup's \
                 memory limit is reached",
                memlock_bytes >> 10
            ),
            "raise it: ulimit -l unlimited, docker run --ulimit memlock=-1, or LimitMEMLOCK=infinity in a \
             systemd unit".into(),
        ),
        OpError::TooManyFiles | OpError::TooManyFilesSystem => (
            format!(
                "io_uring gets no descriptor ({} from {what}): RLIMIT_NOFILE is {descriptors}",
                source.name()
            ),
            "raise it: ulimit -n 65536, or docker run --ulimit nofile=65536".into(),
        ),
        other => (format!("io_uring failed: {what}: {other}"), newer),
    }
}

/// The ways in which a privilege is missing, the surest sign first.
fn denied(source: OpError, around: &Surroundings) -> (String, String) {
    let (why, advice) = match around.io_uring_disabled {
        Some(2) => (
            ": kernel.io_uring_disabled is 2, which forbids it to all",
            "to allow it, as root on the host: sysctl -w kernel.io_uring_disabled=0",
        ),
        Some(1) => (
            ": kernel.io_uring_disabled is 1, which forbids it without CAP_SYS_ADMIN outside the group of \
             kernel.io_uring_group",
            "to allow it, as root on the host: sysctl -w kernel.io_uring_disabled=0, or sysctl -w \
             kernel.io_uring_group=GID for a group of yours",
        ),
        _ if around.seccomp_filter => {
            (": the container's seccomp profile blocks it", ALLOW_IN_SECCOMP)
        }
        _ => (
            ", neither by seccomp nor by kernel.io_uring_disabled: a security module forbids it",
            "look for the denial in the host's audit log: ausearch -m avc, or journalctl -k",
        ),
    };
    // A process that the sysctl lets pass can still be stopped by its filter, so both are named.
    let names_both = around.io_uring_disabled == Some(1) && around.seccomp_filter;
    let both = if names_both { " (and a seccomp profile is in force)" } else { "" };
    (format!("io_uring is denied ({}){why}{both}", source.name()), advice.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
    use tare_units::error::Fault;

    /// Runs `f` on a thread on which `syscall` fails with `errno`, as under a container's profile.
    fn filtered<T: Send + 'static>(
        syscall: i64,
        errno: i32,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let run = move || {
            let filter = SeccompFilter::new(
                [(syscall, vec![])].into(),
                SeccompAction::Allow,
                SeccompAction::Errno(u32::try_from(errno).unwrap()),
                std::env::consts::ARCH.try_into().unwrap(),
            );
            let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
            apply_filter(&program).unwrap();
            f()
        };
        std::thread::spawn(run).join().unwrap()
    }

    /// What is chosen where `syscall` fails with `errno`.
    fn chosen_where(syscall: i64, errno: i32) -> Chosen {
        filtered(syscall, errno, || choose(BackendChoice::Auto)).unwrap()
    }

    #[test]
    fn a_kernel_without_a_release_setting_is_known_by_its_version() {
        let version = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016";
        assert_eq!(release("6.8.0\n", version), "6.8.0");
        assert_eq!(release("", version), "4.4.0");
        assert_eq!(release("", ""), "unknown");
    }

    #[test]
    fn io_uring_is_chosen_where_it_works() {
        let chosen = choose(BackendChoice::Auto).unwrap();
        assert_eq!(chosen.backend, Backend::Uring, "{}", chosen.reason);
        assert!(chosen.reason.starts_with("io_uring works here"));
        assert_eq!(chosen.advice, None);
        let asked = choose(BackendChoice::Only(Backend::Uring)).unwrap();
        assert!(asked.reason.starts_with("asked for; io_uring works here"));
        let epoll = choose(BackendChoice::Only(Backend::Epoll)).unwrap();
        assert_eq!((epoll.backend, epoll.reason.as_str()), (Backend::Epoll, "asked for"));
        let sim = choose(BackendChoice::Only(Backend::Sim)).unwrap_err();
        assert_eq!(sim.fault(), Fault::Usage);
    }

    #[test]
    fn a_seccomp_profile_that_denies_io_uring_is_named() {
        const DENIED: &str =
            "io_uring is denied (EPERM): the container's seccomp profile blocks it";
        // Whichever of the calls a profile leaves out.
        for syscall in
            [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register]
        {
            let chosen = chosen_where(syscall, libc::EPERM);
            assert_eq!(chosen.backend, Backend::Epoll);
            assert_eq!(chosen.reason, format!("{DENIED}; using epoll"));
            let advice = chosen.advice.unwrap();
            assert!(advice.contains("--security-opt seccomp="), "{advice}");
            assert!(advice.contains("seccompProfile"), "{advice}");
        }
        let uring = || choose(BackendChoice::Only(Backend::Uring));
        let error = filtered(libc::SYS_io_uring_setup, libc::EPERM, uring).unwrap_err();
        assert_eq!((error.fault(), error.message()), (Fault::Environment, DENIED));
        let remedy = error.advice().unwrap();
        assert!(remedy.starts_with("use --backend epoll, or --backend auto"));
    }

    #[test]
    fn a_profile_or_sandbox_that_hides_io_uring_differs_from_one_that_denies_it() {
        for (errno, reason) in [
            (libc::ENOSYS, "io_uring is hidden (ENOSYS)"),
            (libc::EINVAL, "io_uring is refused (EINVAL"),
        ] {
            let chosen = chosen_where(libc::SYS_io_uring_setup, errno);
            assert_eq!(chosen.backend, Backend::Epoll);
            assert!(chosen.reason.starts_with(reason), "{}", chosen.reason);
            assert_eq!(chosen.reason.contains("gVisor"), errno == libc::EINVAL);
        }
    }

    fn around() -> Surroundings {
        Surroundings {
            kernel: "5.15.0".to_owned(),
            memlock_bytes: 64 << 10,
            descriptors: 256,
            ..Surroundings::default()
        }
    }

    fn check(trouble: &Trouble, around: &Surroundings, reason: &str, advice: &str) {
        let denial = explain(trouble, around);
        assert!(denial.0.contains(reason), "{denial:?}");
        assert!(denial.1.contains(advice), "{denial:?}");
        for text in [denial.0, denial.1] {
            assert!(!text.contains('\n') && !text.contains("  "), "{text}");
        }
    }

    fn setup(source: OpError) -> Trouble {
        Trouble::Driver(DriverError::Resources { what: "io_uring_setup", source })
    }

    #[test]
    fn each_denial_has_its_reason_and_remedy() {
        for (io_uring_disabled, seccomp_filter, reason, advice) in [
            (Some(2), true, "is 2, which", "io_uring_disabled=0"),
            (Some(1), false, "CAP_SYS_ADMIN", "io_uring_group=GID"),
            (Some(1), true, "a seccomp profile is in force", "=0"),
            (Some(0), true, "seccomp profile blocks", "docker run"),
            (Some(0), false, "a security module", "ausearch"),
            (None, false, "a security module", "ausearch"),
        ] {
            let around = Surroundings { io_uring_disabled, seccomp_filter, ..around() };
            check(&setup(OpError::NotPermitted), &around, reason, advice);
        }
        let resources = |what, source| Trouble::Driver(DriverError::Resources { what, source });
        let operation = |answer| Trouble::Operation { what: "multishot (needs Linux 6.0)", answer };
        let accept = resources("ACCEPT (needs Linux 5.5)", OpError::NotSupported);
        for (trouble, reason, advice) in [
            (setup(OpError::AccessDenied), "(EACCES)", "ausearch"),
            (setup(OpError::NotImplemented), "(5.15.0) does not", "6.0"),
            (setup(OpError::Invalid), "as gVisor does", "this is 5.15.0"),
            (setup(OpError::NoMemory), "MEMLOCK is 64 KiB", "ulimit -l"),
            (setup(OpError::TooManyFiles), "NOFILE is 256", "ulimit -n"),
            (accept, "lacks an operation: ACCEPT (needs", "this is 5.15.0"),
            (operation(Some(OpError::Invalid)), "(needs Linux 6.0) failed: ", "this is 5.15.0"),
            (operation(None), "gave no usable answer", "newer"),
        ] {
            check(&trouble, &around(), reason, advice);
        }
    }
}
