use std::fs;
use std::path::PathBuf;

use super::*;
use crate::fixtures::{Fixture, journal, simulated};
use tare_units::Nanos;
use tare_units::error::Fault;

/// A machine with a journal, and a file that commands write their names to.
struct Place {
    fixture: Fixture,
    interrupt: Interrupt,
    hooks: Hooks,
}

impl Place {
    fn new() -> Self {
        let fixture = Fixture::new(&[("/run/x", "")]);
        let interrupt = Interrupt::default();
        let hooks = Hooks::new(journal(&fixture), &interrupt);
        Self { fixture, interrupt, hooks }
    }

    /// One in which commands may take 500 ms.
    fn impatient() -> Self {
        let mut place = Self::new();
        place.hooks.patience.limit = Nanos::from_millis(500);
        place
    }

    fn log(&self) -> PathBuf {
        self.fixture.files().path("/log")
    }

    /// A command that logs `word`, and then goes on with `rest`.
    fn logging(&self, word: &str, rest: &str) -> Option<String> {
        Some(format!("echo {word} >> {}; {rest}", self.log().display()))
    }

    fn spec(&self, before: &str, after: &str) -> HookSpec {
        HookSpec { before: self.logging("before", before), after: self.logging("after", after) }
    }

    fn logged(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn entries(&self) -> usize {
        self.fixture.files().names("/run/tare").len()
    }

    /// What becomes of entering with such commands.
    fn refused(&self, before: &str, after: &str) -> Refused {
        let spec = self.spec(before, after);
        self.hooks.enter("tuned", &spec, &mut |_| {}).unwrap_err()
    }

    /// The error of entering with such commands, of which the second undoes the first.
    fn failed(&self, before: &str, after: &str) -> Error {
        let refused = self.refused(before, after);
        assert!(refused.unclean.is_none(), "{refused:?}");
        refused.why.unwrap()
    }
}

#[test]
fn the_visit_stands_between_before_and_after() {
    let place = Place::new();
    let spec = place.spec("true", "true");
    for _ in 0..2 {
        let entered = place.hooks.enter("tuned", &spec, &mut |_| {}).unwrap();
        assert_eq!(place.entries(), 1);
        assert_eq!(place.logged().last().unwrap(), "before");
        entered.leave(&mut |_| {}).unwrap();
        assert_eq!(place.entries(), 0);
    }
    assert_eq!(place.logged(), ["before", "after", "before", "after"]);
}

#[test]
fn the_change_is_journaled_before_it_is_made() {
    let place = Place::new();
    let listing = format!("ls {}", place.fixture.files().path("/run/tare").display());
    let spec = place.spec(
        &format!("{listing} >> {}", place.log().display()),
        &format!("{listing} >> {}", place.log().display()),
    );
    let entered = place.hooks.enter("a/b", &spec, &mut |_| {}).unwrap();
    entered.leave(&mut |_| {}).unwrap();
    let logged = place.logged();
    assert!(logged[1].starts_with("a-b-"), "{logged:?}");
    assert_eq!(logged[3], logged[1], "until it is undone");
}

#[test]
fn arms_without_commands_run_and_journal_nothing() {
    let place = Place::new();
    let entered = place.hooks.enter("plain", &HookSpec::default(), &mut |_| {}).unwrap();
    entered.leave(&mut |_| {}).unwrap();
    let only_before = HookSpec { before: place.logging("before", "true"), after: None };
    let entered = place.hooks.enter("tuned", &only_before, &mut |_| {}).unwrap();
    assert_eq!(place.entries(), 0, "nothing would undo it");
    entered.leave(&mut |_| {}).unwrap();
    let only_after = HookSpec { before: None, after: place.logging("after", "true") };
    let entered = place.hooks.enter("tuned", &only_after, &mut |_| {}).unwrap();
    assert_eq!(place.entries(), 1);
    entered.leave(&mut |_| {}).unwrap();
    assert_eq!(place.logged(), ["before", "after"]);
}

#[test]
fn a_failing_before_is_told_and_undone() {
    let place = Place::new();
    let error = place.failed("echo sysctl: permission denied >&2; exit 255", "true");
    assert_eq!(place.logged(), ["before", "after"]);
    assert_eq!(place.entries(), 0);
    assert_eq!(error.fault(), Fault::Environment);
    assert_eq!(
        error.message(),
        "--before tuned='echo …' failed with exit code 255: sysctl: permission denied"
    );
    assert!(error.advice().unwrap().starts_with("mend the command"));
}

#[test]
fn no_error_shows_more_of_a_command_than_its_first_word() {
    assert_eq!(hint("sysctl -w a=1"), "sysctl …");
    assert_eq!(hint(" true "), "true");
    assert_eq!(hint("TOKEN=s3cret login"), "…");
    assert_eq!(hint(""), "");
}

#[test]
fn a_before_that_takes_too_long_is_ended_and_undone() {
    let place = Place::impatient();
    let error = place.failed("echo waiting >&2; sleep 600", "true");
    assert_eq!(
        error.message(),
        "--before tuned='echo …' took longer than 500 ms and was ended: waiting"
    );
    assert_eq!(place.logged(), ["before", "after"]);
    assert_eq!(place.entries(), 0);
}

/// Enters, and interrupts the run while the before-command is under way.
fn interrupted(place: &Place, after: &str) -> Refused {
    let fifo = place.fixture.files().path("/fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let spec = place.spec(&format!("echo > {}; sleep 600", fifo.display()), after);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Once it can be read the command is under way.
            fs::read(&fifo).unwrap();
            place.interrupt.raise();
        });
        place.hooks.enter("tuned", &spec, &mut |_| {}).unwrap_err()
    })
}

#[test]
fn an_interrupted_before_is_ended_and_undone() {
    let place = Place::new();
    let refused = interrupted(&place, "sleep 0.05; echo tidy >&2");
    assert!(refused.why.is_none() && refused.unclean.is_none());
    assert_eq!(place.logged(), ["before", "after"]);
    assert_eq!(place.entries(), 0);
}

#[test]
fn what_an_interrupted_before_left_is_told() {
    let place = Place::new();
    let refused = interrupted(&place, "exit 6");
    assert!(refused.why.is_none());
    let unclean = refused.unclean.unwrap();
    assert_eq!(unclean.message(), "--after tuned='echo …' failed with exit code 6");
    assert!(unclean.advice().unwrap().starts_with("to undo it: "));
    assert_eq!(place.entries(), 1);
}

#[test]
fn after_an_interrupt_nothing_is_begun() {
    let place = Place::new();
    place.interrupt.raise();
    let refused = place.refused("true", "true");
    assert!(refused.why.is_none() && refused.unclean.is_none());
    assert_eq!(place.logged(), [""; 0]);
    assert_eq!(place.entries(), 0);
}

#[test]
fn an_interrupt_does_not_cut_undoing_short() {
    let place = Place::new();
    let last = place.logging("whole", "true").unwrap();
    let spec = place.spec("true", &format!("sleep 0.05; {last}"));
    let entered = place.hooks.enter("tuned", &spec, &mut |_| {}).unwrap();
    place.interrupt.raise();
    entered.leave(&mut |_| {}).unwrap();
    assert_eq!(place.logged(), ["before", "after", "whole"]);
}

#[test]
fn a_panic_and_an_early_return_undo() {
    let place = Place::new();
    let spec = place.spec("true", "true");
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _entered = place.hooks.enter("tuned", &spec, &mut |_| {}).unwrap();
        panic!("as a defect would");
    }));
    assert!(result.is_err());
    assert_eq!(place.logged(), ["before", "after"]);
    assert_eq!(place.entries(), 0);
}

#[test]
fn a_failing_after_stays_in_the_journal_and_says_what_to_type() {
    let place = Place::new();
    let flag = place.fixture.files().path("/flag");
    // It fails until the flag is there, as after whatever was in its way is mended.
    let mut spec = place.spec("true", &format!("test -e {} || exit 9", flag.display()));
    spec.after
        .as_mut()
        .unwrap()
        .push_str(&format!("; echo \"$TARE_ARM\" >> {}", place.log().display()));
    let entered = place.hooks.enter("it's", &spec, &mut |_| {}).unwrap();
    let error = entered.leave(&mut |_| {}).unwrap_err();
    assert_eq!(error.message(), "--after it's='echo …' failed with exit code 9");
    assert_eq!(place.entries(), 1);

    let typed = error.advice().unwrap().strip_prefix("to undo it: ").unwrap();
    fs::write(&flag, "").unwrap();
    let status = std::process::Command::new("/bin/sh").args(["-c", typed]).status().unwrap();
    assert!(status.success(), "{typed}");
    assert_eq!(place.logged(), ["before", "after", "after", "it's"]);
    assert_eq!(place.entries(), 0, "and the entry is gone");
}

#[test]
fn when_both_fail_each_is_told_and_the_command_only_to_who_typed_it() {
    let place = Place::new();
    let refused = place.refused("exit 1", "echo still there >&2; exit 2");
    let (why, unclean) = (refused.why.unwrap(), refused.unclean.unwrap());
    let before = "--before tuned='echo …' failed with exit code 1";
    assert_eq!(why.message(), before);
    // It gets into reports.
    assert!(!why.to_string().contains("still there"), "{why}");
    assert_eq!(
        unclean.message(),
        format!("{before}, and --after tuned='echo …' failed with exit code 2: still there")
    );
    let advice = unclean.advice().unwrap();
    assert!(advice.starts_with("to undo it: TARE_ARM=tuned sh -c "), "{advice}");
    assert_eq!(place.entries(), 1);
}

#[test]
fn what_a_killed_run_left_is_named_with_what_undoes_it() {
    let place = Place::new();
    let pid = std::process::id();
    let stat = |started: u32| format!("{pid} (tare) S {} {started} 0", "0 ".repeat(18));
    place.fixture.write(&format!("/proc/{pid}/stat"), &stat(500));
    let journal = simulated(&place.fixture);
    let hooks = Hooks::new(journal.clone(), &place.interrupt);
    let spec =
        HookSpec { before: Some("true".into()), after: Some("sysctl -w a='0 1' # back".into()) };
    let entered = hooks.enter("tuned", &spec, &mut |_| {}).unwrap();
    // As a SIGKILL would: nothing is undone, and the process is gone.
    std::mem::forget(entered);
    assert_eq!(journal.leftovers(), []);
    place.fixture.write(&format!("/proc/{pid}/stat"), &stat(501));
    let leftovers = journal.leftovers();
    assert_eq!(leftovers.len(), 1);
    assert_eq!(leftovers[0].what, "what --before tuned changed");
    let names = place.fixture.files().names("/run/tare");
    let path = place.fixture.files().path("/run/tare").join(&names[0]);
    assert_eq!(
        leftovers[0].undo_command,
        format!("TARE_ARM=tuned sh -c \"sysctl -w a='0 1' # back\" && rm {}", path.display())
    );
}

#[test]
fn without_a_journal_nothing_is_changed() {
    let place = Place::new();
    fs::remove_dir_all(place.fixture.files().path("/run")).unwrap();
    let error = place.failed("true", "true");
    assert!(error.to_string().contains("XDG_RUNTIME_DIR"), "{error}");
    assert_eq!(place.logged(), [""; 0]);
}
