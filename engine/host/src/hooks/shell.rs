//! A shell command, run to its end: bounded in time and in what is kept of its output.
//!
//! It is started in a process group of its own, so that Ctrl-C at the terminal reaches this process
//! alone, and by vfork (which the standard library does where nothing has to be done between fork
//! and exec): a fork would share the memory of servers that run in this process copy-on-write, and
//! their next visit would pay for it.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use nix::poll::poll;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use tare_units::Nanos;
use tare_units::bounds::HOOK_GRACE_INTERRUPTED;
use tare_units::control::Interrupt;
use tare_units::limits::HOOK_OUTPUT_MAX;
use tare_units::text::is_deceptive;

/// The shell, as of system(3).
pub(super) const SHELL: &str = "/bin/sh";
/// How often it is looked whether the command ended, milliseconds. Nothing is measured meanwhile.
const LOOK_MS: u8 = 5;
/// How long the end of the output of a command that has ended is waited for. Something in the
/// background may hold it open, and write on and on.
const OUTPUT_WAIT: Nanos = Nanos::from_millis(50);
/// Lines of the output that an error shows, and characters of them.
const LINES_SHOWN: usize = 2;
const CHARACTERS_SHOWN: usize = 300;

/// How long a command may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// In all.
    pub(super) limit: Nanos,
    /// From SIGTERM to SIGKILL.
    pub(super) grace: Nanos,
}

#[derive(Debug)]
pub(super) enum End {
    /// By itself, or by somebody else's signal.
    Exited(ExitStatus),
    /// It took longer than the limit, and was ended.
    TimedOut,
    Interrupted,
    /// It asked for something at the terminal, which it does not have, and was ended.
    WantedTerminal,
    NotStarted(io::Error),
    /// Nobody knows how: its status was lost.
    Lost,
}

#[derive(Debug)]
pub(super) struct Ended {
    pub(super) end: End,
    /// The last lines that it wrote to stderr, or else to stdout, on one line.
    pub(super) said: String,
}

/// Runs `command` with the variable `TARE_ARM` set to `arm`. An interrupt ends it; where there is
/// `on_interrupt`, the command goes on, and that is called once. What it leaves in the background
/// is left alone, unless the command is ended: then the whole process group is.
pub(super) fn run(
    command: &str,
    arm: &str,
    patience: Patience,
    interrupt: &Interrupt,
    mut on_interrupt: Option<&mut dyn FnMut()>,
) -> Ended {
    let started = Instant::now();
    let child = Command::new(SHELL)
        .args(["-c", command])
        .env("TARE_ARM", arm)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Ended { end: End::NotStarted(error), said: String::new() },
    };
    let (stderr, stdout) = (Output::of(child.stderr.take()), Output::of(child.stdout.take()));
    let may_be_interrupted = on_interrupt.is_none();
    // The number is not used again before the process is reaped.
    let raw = i32::try_from(child.id()).expect("the kernel's own pids are positive i32");
    let group = Pid::from_raw(raw);
    let end = loop {
        let state = state(group);
        let is_interrupted = interrupt.is_raised();
        match state {
            State::Gone => break child.try_wait().ok().flatten().map_or(End::Lost, End::Exited),
            State::WantsTerminal => break End::WantedTerminal,
            State::Running if is_interrupted && may_be_interrupted => break End::Interrupted,
            State::Running if started.elapsed() >= patience.limit.into() => break End::TimedOut,
            State::Running => {}
        }
        if let Some(tell) = on_interrupt.take_if(|_| is_interrupted) {
            tell();
        }
        nap();
    };
    let is_gone = matches!(end, End::Exited(_) | End::Lost);
    if is_gone {
        wait(OUTPUT_WAIT, || stderr.is_read() && stdout.is_read());
    }
    // Before it is ended: shells say of the signal what is known already.
    let mut said = stderr.last_words();
    if said.is_empty() {
        said = stdout.last_words();
    }
    if !is_gone {
        let grace = match end {
            End::Interrupted => HOOK_GRACE_INTERRUPTED.min(patience.grace),
            _ => patience.grace,
        };
        kill(group, grace);
        let _ = child.try_wait();
    }
    Ended { end, said }
}

fn nap() {
    // A signal, the only failure there is, is as good as the end of the wait.
    let _ = poll(&mut [], LOOK_MS);
}

/// Naps until that is so, or for so long.
fn wait(limit: Nanos, is_over: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_over() && started.elapsed() < limit.into() {
        nap();
    }
}

enum State {
    Running,
    /// Stopped because it used the terminal from the background.
    WantsTerminal,
    /// Ended and not reaped yet, or out of sight.
    Gone,
}

fn state(process: Pid) -> State {
    let flags =
        WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(process), flags) {
        Ok(WaitStatus::Stopped(_, Signal::SIGTTIN | Signal::SIGTTOU)) => State::WantsTerminal,
        Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => State::Gone,
        Ok(_) | Err(nix::errno::Errno::EINTR) => State::Running,
        // Killed by a signal without a name, or reaped by the kernel since SIGCHLD is ignored.
        Err(_) => State::Gone,
    }
}

/// Ends a whole process group whose leader was not reaped yet: asks, and after the grace insists.
fn kill(group: Pid, grace: Nanos) {
    // What is stopped has to go on to hear the signal; SIGKILL is also for those whose shell is
    // gone already. Each wait is bounded: what waits for a dead disk cannot even be killed.
    for signals in [&[Signal::SIGTERM, Signal::SIGCONT][..], &[Signal::SIGKILL]] {
        for signal in signals {
            let _ = killpg(group, *signal);
        }
        wait(grace, || matches!(state(group), State::Gone));
    }
}

/// What comes through a pipe, read by a thread of its own to the pipe's end: a closed one would
/// kill what the command left in the background, a full one stop it.
struct Output {
    /// The last [`HOOK_OUTPUT_MAX`] bytes.
    last: Arc<Mutex<Vec<u8>>>,
    /// Absent where no thread was to be had, and the pipe is closed.
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn of(source: Option<impl Read + Send + 'static>) -> Self {
        let last: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = Arc::clone(&last);
        let read = move || {
            let Some(mut source) = source else { return };
            let mut chunk = [0; 16 << 10];
            loop {
                match source.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => return,
                    Ok(length) => {
                        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                        kept.extend_from_slice(&chunk[..length]);
                        let surplus = kept.len().saturating_sub(HOOK_OUTPUT_MAX);
                        kept.drain(..surplus);
                    }
                }
            }
        };
        Self { last, reader: Builder::new().name("hook-output".into()).spawn(read).ok() }
    }

    fn is_read(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn last_words(&self) -> String {
        last_words(&self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The last lines that say something, on one line and without what moves a terminal's cursor.
fn last_words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let said = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut last: Vec<&str> = said.rev().take(LINES_SHOWN).collect();
    last.reverse();
    let line: Vec<char> = last.join(" / ").chars().filter(|c| !is_deceptive(*c)).collect();
    let surplus = line.len().saturating_sub(CHARACTERS_SHOWN);
    let dots = if surplus > 0 { "…" } else { "" };
    format!("{dots}{}", String::from_iter(&line[surplus..]))
}

/// In words: `exit code 3`, `signal 9 (SIGKILL)`.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(name) => format!("signal {signal} ({name})"),
            Err(_) => format!("signal {signal}"),
        },
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Fixture;
    use std::fs::read_to_string;

    const PATIENCE: Patience =
        Patience { limit: Nanos::from_secs(60), grace: Nanos::from_secs(10) };
    /// For commands that would not end by themselves.
    const SHORT: Patience = Patience { limit: Nanos::from_millis(500), ..PATIENCE };

    fn plain(command: &str) -> Ended {
        run(command, "tuned", PATIENCE, &Interrupt::default(), None)
    }

    /// Runs what does not end by itself.
    fn endless(command: &str, patience: Patience) -> String {
        let ended = run(command, "a", patience, &Interrupt::default(), None);
        assert!(matches!(ended.end, End::TimedOut), "{ended:?}");
        ended.said
    }

    fn exit_code(ended: &Ended) -> Option<i32> {
        match &ended.end {
            End::Exited(status) => status.code(),
            _ => None,
        }
    }

    #[test]
    fn the_end_and_the_last_words_are_reported() {
        for (command, code, said) in [
            (
                "echo result; echo one >&2; echo two >&2; echo >&2; printf three >&2",
                0,
                "two / three",
            ),
            // Nothing is on stdin.
            ("echo \"$TARE_ARM\"; cat; exit 3", 3, "tuned"),
            // Outputs that are closed early are no end.
            ("exec >&- 2>&-; sleep 0.05; exit 4", 4, ""),
        ] {
            let ended = plain(command);
            assert_eq!((exit_code(&ended), ended.said.as_str()), (Some(code), said));
        }
        let End::Exited(status) = plain("kill -KILL $$").end else { panic!("it did end") };
        assert_eq!(describe(status), "signal 9 (SIGKILL)");
        assert!(matches!(plain("kill -TTIN $$; exit 5").end, End::WantedTerminal));
        assert!(matches!(plain("a\0b").end, End::NotStarted(_)));
    }

    #[test]
    fn more_than_is_kept_stops_nothing() {
        let line = "x".repeat(99);
        let ended = plain(&format!(
            "yes {line} | head -n 10000; yes {line} | head -n 10000 >&2; printf '\\033[31mlast\\r\\n' >&2"
        ));
        assert_eq!(exit_code(&ended), Some(0));
        assert!(ended.said.ends_with("x / [31mlast"), "{}", ended.said);

        let long = "é".repeat(CHARACTERS_SHOWN + 1);
        assert_eq!(last_words(long.as_bytes()), format!("…{}", "é".repeat(CHARACTERS_SHOWN)));
    }

    #[test]
    fn what_takes_too_long_is_ended_with_all_its_group() {
        let pid = endless("sleep 600 & echo $!; sleep 600", SHORT);
        assert!(!pid.is_empty());
        // It was killed, and is a zombie until somebody else reaps it.
        let runs =
            || read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        wait(Nanos::from_secs(10), || !runs());
        assert!(!runs(), "{pid} goes on");
        // What does not listen is killed, and no zombie of our own is left.
        let patience = Patience { grace: Nanos::from_millis(20), ..SHORT };
        let pid = endless("trap '' TERM; echo $$; while :; do sleep 600; done", patience);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn what_is_asked_to_end_may_tidy_up() {
        let fixture = Fixture::new(&[("/x", "")]);
        let path = fixture.path("/x");
        let tidy = format!("echo tidy >&2; echo tidy > {}; exit 0", path.display());
        let command = format!("echo at work >&2; trap '{tidy}' TERM; while :; do sleep 0.01; done");
        assert_eq!(endless(&command, SHORT), "at work");
        assert_eq!(read_to_string(path).unwrap(), "tidy\n");
    }

    #[test]
    fn an_interrupt_ends_only_what_may_be_interrupted() {
        let interrupt = Interrupt::default();
        interrupt.raise();
        let ended = run("sleep 600", "a", PATIENCE, &interrupt, None);
        assert!(matches!(ended.end, End::Interrupted), "{ended:?}");
        let mut calls = 0;
        let mut call = || calls += 1;
        let ended = run("sleep 0.1; exit 7", "a", PATIENCE, &interrupt, Some(&mut call));
        assert_eq!((exit_code(&ended), calls), (Some(7), 1));
    }

    #[test]
    fn what_stays_in_the_background_holds_nobody_up_and_may_write_on() {
        // It holds both pipes open, fills them more than once and fails if one is closed.
        let fixture = Fixture::new(&[("/x", "")]);
        let [go, done] = ["/go", "/done"].map(|name| fixture.path(name));
        let command = format!(
            "mkfifo {go} {done}; (read line < {go}; yes | head -c 200000 && yes | head -c 200000 >&2; echo $? > {done}) &",
            go = go.display(),
            done = done.display()
        );
        let started = Instant::now();
        assert_eq!(exit_code(&plain(&command)), Some(0));
        // Else it would be ended at the limit, with its shell.
        assert!(started.elapsed() < PATIENCE.limit.into());
        std::fs::write(&go, "go\n").unwrap();
        assert_eq!(read_to_string(&done).unwrap(), "0\n");
    }
}
