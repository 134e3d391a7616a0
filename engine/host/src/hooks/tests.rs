use std::fs;

use super::*;
use crate::fixtures::Fixture;
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
        let fixture = Fixture::new(&[]);
        let interrupt = Interrupt::default();
        let hooks = Hooks::new(fixture.journal(), &interrupt);
        Self { fixture, interrupt, hooks }
    }

    /// A command that logs `word`, and then goes on with `rest`.
    fn logging(&self, word: &str, rest: &str) -> String {
        format!("echo {word} >> {}; {rest}", self.fixture.path("/log").display())
    }

    fn spec(&self, before: &str, after: &str) -> HookSpec {
        let [before, after] = [("before", before), ("after", after)]
            .map(|(word, rest)| Some(self.logging(word, rest)));
        HookSpec { before, after }
    }

    fn logged(&self) -> Vec<String> {
        let text = self.fixture.files().text("/log").unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn has(&self, logged: &[&str], entries: usize) {
        assert_eq!(self.logged(), logged);
        assert_eq!(self.fixture.entries().len(), entries);
    }

    fn enter(&self, spec: &HookSpec) -> StdResult<Entered<'_>, Refused> {
        self.hooks.enter("tuned", spec, &mut |_| {})
    }

    /// Goes through a whole visit.
    fn visit(&self, spec: &HookSpec) -> Result<()> {
        self.enter(spec).unwrap().leave(&mut |_| {})
    }

    /// What becomes of entering with such commands.
    fn refused(&self, before: &str, after: &str) -> Refused {
        self.enter(&self.spec(before, after)).unwrap_err()
    }
}

const BOTH: [&str; 2] = ["before", "after"];

#[test]
fn the_visit_stands_between_before_and_after() {
    let place = Place::new();
    let spec = place.spec("true", "true");
    for visits in 1..=2 {
        let entered = place.enter(&spec).unwrap();
        place.has(&[BOTH, BOTH].concat()[..2 * visits - 1], 1);
        entered.leave(&mut |_| {}).unwrap();
        place.has(&[BOTH, BOTH].concat()[..2 * visits], 0);
    }
}

#[test]
fn the_change_is_journaled_before_it_is_made() {
    let place = Place::new();
    let [journal, log] = ["/run/tare", "/log"].map(|path| place.fixture.path(path));
    let listing = format!("ls {} >> {}", journal.display(), log.display());
    let entered = place.hooks.enter("a/b", &place.spec(&listing, &listing), &mut |_| {}).unwrap();
    entered.leave(&mut |_| {}).unwrap();
    let logged = place.logged();
    assert!(logged[1].starts_with("a-b-"), "{logged:?}");
    assert_eq!(logged[3], logged[1], "until it is undone");
}

#[test]
fn arms_without_commands_run_and_journal_nothing() {
    let place = Place::new();
    place.visit(&HookSpec::default()).unwrap();
    let both = place.spec("true", "true");
    let entered = place.enter(&HookSpec { after: None, ..both.clone() }).unwrap();
    place.has(&["before"], 0);
    entered.leave(&mut |_| {}).unwrap();
    let entered = place.enter(&HookSpec { before: None, ..both }).unwrap();
    place.has(&["before"], 1);
    entered.leave(&mut |_| {}).unwrap();
    place.has(&BOTH, 0);
}

#[test]
fn a_before_that_fails_or_takes_too_long_is_reported_and_undone() {
    for (before, message, advice) in [
        (
            "echo sysctl: permission denied >&2; exit 255",
            "failed with exit code 255: sysctl: permission denied",
            "mend the command",
        ),
        (
            "echo waiting >&2; sleep 600",
            "took longer than 500 ms and was ended: waiting",
            "make it end sooner",
        ),
    ] {
        let mut place = Place::new();
        place.hooks.patience.limit = Nanos::from_millis(500);
        let refused = place.refused(before, "true");
        assert!(refused.unclean.is_none(), "{refused:?}");
        let error = refused.why.unwrap();
        assert_eq!(error.fault(), Fault::Environment);
        assert_eq!(error.message(), format!("--before tuned='echo …' {message}"));
        assert!(error.advice().unwrap().starts_with(advice));
        place.has(&BOTH, 0);
    }
}

#[test]
fn no_error_shows_more_of_a_command_than_its_first_word() {
    for (command, hinted) in
        [("sysctl -w a=1", "sysctl …"), (" true ", "true"), ("TOKEN=s3cret login", "…"), ("", "")]
    {
        assert_eq!(hint(command), hinted);
    }
}

#[test]
fn an_interrupted_before_is_ended_and_undone() {
    // Enters, and interrupts the run while the before-command is under way.
    let interrupted = |place: &Place, after: &str| {
        let fifo = place.fixture.path("/fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = std::thread::scope(|scope| {
            scope.spawn(|| {
                // Once it can be read the command is under way.
                fs::read(&fifo).unwrap();
                place.interrupt.raise();
            });
            place.refused(&format!("echo > {}; sleep 600", fifo.display()), after)
        });
        assert!(refused.why.is_none());
        refused.unclean
    };
    let place = Place::new();
    assert!(interrupted(&place, "sleep 0.05; echo tidy >&2").is_none());
    place.has(&BOTH, 0);

    let place = Place::new();
    let unclean = interrupted(&place, "exit 6").unwrap();
    assert_eq!(unclean.message(), "--after tuned='echo …' failed with exit code 6");
    assert!(unclean.advice().unwrap().starts_with("to undo it: "));
    place.has(&BOTH, 1);
}

#[test]
fn after_an_interrupt_nothing_is_begun_and_undoing_is_not_cut_short() {
    let place = Place::new();
    let last = place.logging("whole", "true");
    let entered = place.enter(&place.spec("true", &format!("sleep 0.05; {last}"))).unwrap();
    place.interrupt.raise();
    entered.leave(&mut |_| {}).unwrap();
    let logged = ["before", "after", "whole"];
    place.has(&logged, 0);
    let refused = place.refused("true", "true");
    assert!(refused.why.is_none() && refused.unclean.is_none());
    place.has(&logged, 0);
}

#[test]
fn a_panic_and_an_early_return_undo() {
    let place = Place::new();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _entered = place.enter(&place.spec("true", "true")).unwrap();
        panic!("as a defect would");
    }));
    assert!(result.is_err());
    place.has(&BOTH, 0);
}

#[test]
fn a_failing_after_stays_in_the_journal_and_says_what_to_type() {
    let place = Place::new();
    let flag = place.fixture.path("/flag");
    // It fails until the flag is there, as after whatever was in its way is mended.
    let own_name = place.logging("\"$TARE_ARM\"", "true");
    let spec = place.spec("true", &format!("test -e {} || exit 9; {own_name}", flag.display()));
    let entered = place.hooks.enter("it's", &spec, &mut |_| {}).unwrap();
    let error = entered.leave(&mut |_| {}).unwrap_err();
    assert_eq!(error.message(), "--after it's='echo …' failed with exit code 9");
    place.has(&BOTH, 1);

    let typed = error.advice().unwrap().strip_prefix("to undo it: ").unwrap();
    fs::write(&flag, "").unwrap();
    let status = std::process::Command::new("/bin/sh").args(["-c", typed]).status().unwrap();
    assert!(status.success(), "{typed}");
    place.has(&["before", "after", "after", "it's"], 0);
}

#[test]
fn when_both_fail_each_is_reported_and_the_command_only_to_who_typed_it() {
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
    place.has(&BOTH, 1);
}

#[test]
fn what_a_killed_run_left_is_named_with_what_undoes_it() {
    let fixture = Fixture::new(&[]);
    fixture.started(500);
    let journal = fixture.simulated_journal();
    let hooks = Hooks::new(journal.clone(), &Interrupt::default());
    let spec =
        HookSpec { before: Some("true".into()), after: Some("sysctl -w a='0 1' # back".into()) };
    // As a SIGKILL would: nothing is undone, and the process is gone.
    std::mem::forget(hooks.enter("tuned", &spec, &mut |_| {}).unwrap());
    assert_eq!(journal.leftovers(), []);
    fixture.started(501);
    let leftovers = journal.leftovers();
    assert_eq!(leftovers.len(), 1);
    assert_eq!(leftovers[0].what, "what --before tuned changed");
    let path = fixture.path("/run/tare").join(&fixture.entries()[0]);
    assert_eq!(
        leftovers[0].undo_command,
        format!("TARE_ARM=tuned sh -c \"sysctl -w a='0 1' # back\" && rm {}", path.display())
    );
}

#[test]
fn without_a_journal_nothing_is_changed() {
    let place = Place::new();
    place.fixture.remove("/run");
    let refused = place.refused("true", "true");
    assert!(refused.unclean.is_none());
    let error = refused.why.unwrap().to_string();
    assert!(error.contains("XDG_RUNTIME_DIR"), "{error}");
    place.has(&[], 0);
}
