//! What a comparison runs around each visit of an arm: a command, and on every exit its undoing.
//!
//! What an after-command is to undo is journaled before the before-command starts. The
//! after-command runs when the visit is over, when it fails, panics or is interrupted, and when the
//! before-command fails half-way. Where even that is cut short (SIGKILL, a second Ctrl-C), or the
//! after-command fails, the journal names it at the next start.

mod shell;

use std::borrow::Cow;
use std::result::Result as StdResult;

use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use crate::journal::{Journal, Note};
use shell::{End, Ended, Patience, SHELL};
use tare_units::bounds::{HOOK_GRACE, HOOK_MAX};
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};

/// The commands of an arm, as typed; a shell runs them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookSpec {
    /// Before each visit.
    pub before: Option<String>,
    /// After each visit; it undoes what the other changed.
    pub after: Option<String>,
}

/// Runs the commands of all arms.
///
/// They run by `/bin/sh -c`, with `TARE_ARM` set to the arm's name, nothing on stdin, and a process
/// group of their own. Each may take [`HOOK_MAX`]. Only the last words of their outputs are kept,
/// for errors. What they leave in the background goes on.
///
/// They inherit the CPUs, the timer slack and the network namespace of the calling thread.
#[derive(Debug)]
pub struct Hooks {
    journal: Journal,
    interrupt: Interrupt,
    patience: Patience,
}

impl Hooks {
    /// Hooks that write down in `journal` what is to be undone.
    pub fn new(journal: Journal, interrupt: &Interrupt) -> Self {
        let patience = Patience { limit: HOOK_MAX, grace: HOOK_GRACE };
        Self { journal, interrupt: interrupt.clone(), patience }
    }

    /// Runs the before-command of `arm` to its end. `announce` is as for [`Entered::leave`].
    ///
    /// # Errors
    /// Where the run was interrupted before or meanwhile, where the change cannot be journaled
    /// (then nothing was run), or where the before-command fails or takes too long. Whatever was
    /// begun was ended and its after-command run; whether that failed too is told apart, because
    /// what is measured next is measured with it.
    pub fn enter(
        &self,
        arm: &str,
        spec: &HookSpec,
        announce: &mut dyn FnMut(&str),
    ) -> StdResult<Entered<'_>, Refused> {
        if self.interrupt.is_raised() {
            return Err(Refused::default());
        }
        let mut entered = Entered { hooks: self, arm: arm.to_owned(), pending: None };
        if let Some(after) = &spec.after {
            let what = match spec.before {
                Some(_) => format!("what --before {arm} changed"),
                None => format!("what --after {arm} undoes"),
            };
            // As `leave` does. A NUL cannot be quoted, but neither can such a command start.
            let words = [arm, after].map(|word| shlex::try_quote(word).unwrap_or_default());
            let undo = format!("TARE_ARM={} sh -c {}", words[0], words[1]);
            let note = self.journal.note_command(arm, &what, undo);
            let note = note.map_err(|error| Refused { why: Some(error), unclean: None })?;
            entered.pending = Some((after.clone(), note));
        }
        let Some(before) = &spec.before else { return Ok(entered) };
        let ended = shell::run(before, arm, self.patience, &self.interrupt, None);
        if matches!(ended.end, End::Interrupted) {
            return Err(Refused { why: None, unclean: entered.leave(announce).err() });
        }
        let Some(error) = self.failure("--before", arm, before, &ended) else { return Ok(entered) };
        let unclean = entered.leave(announce).err().map(|undoing| {
            Error::environment(format!("{}, and {}", error.message(), undoing.message()))
                .remedy(undoing.advice().unwrap_or_default())
        });
        Err(Refused { why: Some(error), unclean })
    }

    /// What went wrong, if anything did. The command itself is only hinted at: it may hold a
    /// secret, and errors get into reports.
    fn failure(&self, flag: &str, arm: &str, command: &str, ended: &Ended) -> Option<Error> {
        let (how, remedy) = match &ended.end {
            End::Exited(status) if status.success() => return None,
            End::Exited(status) => {
                // POSIX: 126 cannot be executed, 127 not found. No user's rights change that.
                let is_command = matches!(status.code(), Some(126 | 127));
                let remedy = match geteuid().is_root() || is_command {
                    true => "mend the command",
                    false => "mend the command, or run as root",
                };
                (format!("failed with {}", shell::describe(*status)), remedy)
            }
            End::TimedOut => (
                format!("took longer than {} and was ended", self.patience.limit),
                "make it end sooner; what is to keep running belongs in the background (&)",
            ),
            End::Interrupted => ("was interrupted".into(), "run it again"),
            End::WantedTerminal => (
                "asked for something at the terminal, and was ended".into(),
                "nobody is there to answer: let it ask nothing (sudo -n), or run tare as root",
            ),
            End::NotStarted(error) => (
                format!("cannot be started: {SHELL}: {error}"),
                "run where there is a shell, /bin/sh",
            ),
            End::Lost => (
                "ended, and its exit code was lost".into(),
                "start tare where SIGCHLD is not ignored",
            ),
        };
        let colon = if ended.said.is_empty() { "" } else { ": " };
        let message = format!("{flag} {arm}='{}' {how}{colon}{}", hint(command), ended.said);
        Some(Error::environment(message).remedy(remedy))
    }
}

/// Why a visit is not begun.
#[derive(Debug, Default)]
pub struct Refused {
    /// An environment error, or nothing: the run was interrupted. It hints at the commands and
    /// holds neither, and so can stand in a report.
    pub why: Option<Error>,
    /// The after-command failed too, and what it should have undone stays in the journal: an
    /// environment error that says both failures. Its advice is the whole command to type, which
    /// may hold a secret and so must get into no report.
    pub unclean: Option<Error>,
}

/// The first word of a command, unless it sets a variable, which may hold a secret.
fn hint(command: &str) -> Cow<'_, str> {
    let mut words = command.split_whitespace();
    match (words.next().unwrap_or_default(), words.next()) {
        (first, _) if first.contains('=') || first.chars().any(char::is_control) => "…".into(),
        (first, None) => first.into(),
        (first, Some(_)) => format!("{first} …").into(),
    }
}

/// A command as a report shows it: its first word, and the beginning of its SHA-256, by which two
/// results tell whether they ran the same. Its other words may be secrets.
pub fn shown(command: &str) -> String {
    let digest = Sha256::digest(command);
    let digest: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} (SHA-256 {digest}…)", hint(command))
}

/// A visit under way. Dropping it runs the after-command; [`Entered::leave`] says how that ended.
#[derive(Debug)]
#[must_use = "dropping it ends the visit"]
pub struct Entered<'a> {
    hooks: &'a Hooks,
    arm: String,
    /// The after-command and its entry in the journal, taken when it is run.
    pending: Option<(String, Note)>,
}

impl Entered<'_> {
    /// Runs the after-command to its end; on an interrupt `announce` says what is waited for.
    ///
    /// # Errors
    /// An environment error where it fails or takes too long. What it should have undone stays in
    /// the journal then, and the error's advice, which holds the whole command, is what to type; it
    /// is for no report, as [`Refused::unclean`].
    pub fn leave(mut self, announce: &mut dyn FnMut(&str)) -> Result<()> {
        self.undo(announce)
    }

    fn undo(&mut self, announce: &mut dyn FnMut(&str)) -> Result<()> {
        let Some((after, note)) = self.pending.take() else { return Ok(()) };
        let (arm, Hooks { patience, interrupt, .. }) = (&self.arm, self.hooks);
        let mut tell = || {
            announce(&format!(
                "interrupted: waiting for --after {arm}='{}', which undoes a change, for at most {}; a \
                 second signal leaves it undone",
                hint(&after),
                patience.limit
            ));
        };
        let ended = shell::run(&after, arm, *patience, interrupt, Some(&mut tell));
        if let Some(error) = self.hooks.failure("--after", arm, &after, &ended) {
            return Err(error.remedy(format!("to undo it: {}", note.undo_command)));
        }
        note.settle();
        Ok(())
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // Nobody is there to be told; what is not undone stays in the journal.
        let _ = self.undo(&mut |_| {});
    }
}

#[cfg(test)]
mod tests;
