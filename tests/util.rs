//! Running the built command: to its end, or beside the test; and reading what it says.
//!
//! Everything is bounded in time, and every process started here is ended when its handle is
//! dropped.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use jsonschema::Validator;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub(crate) use quiet::Quiet;

/// Nothing here takes anywhere near that long, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// The built `tare`, with nothing of the caller's environment that it would heed.
pub(crate) fn tare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tare"));
    command.env_remove("TARE_SECRET");
    command
}

/// What a finished command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Ran {
    /// The report on stdout, which must be valid.
    pub(crate) fn report(&self) -> Value {
        report(&self.stdout)
    }

    /// Asserts the exit code, showing everything if it is another.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Asserts that what failed is said in one line with these words, whatever was printed before
    /// it.
    #[track_caller]
    pub(crate) fn complains(self, words: &[&str]) -> Self {
        let line = self.stderr.lines().find(|line| {
            line.starts_with("tare: ") && words.iter().all(|words| line.contains(words))
        });
        assert!(line.is_some(), "no line with {words:?} in {self:#?}");
        self
    }
}

pub(crate) fn run(words: &[&str]) -> Ran {
    Job::tare(words).wait()
}

pub(crate) fn run_line(line: &str) -> Ran {
    run(&words(line))
}

pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Another program, with the words of a line.
pub(crate) fn program(name: &str, line: &str) -> Command {
    let mut command = Command::new(name);
    command.args(words(line));
    command
}

/// Runs `tare lat` against a target, with a short warm-up and JSON on stdout.
pub(crate) fn lat(target: &str, flags: &str) -> Ran {
    Job::lat(target, flags).wait()
}

#[track_caller]
pub(crate) fn report(text: &str) -> Value {
    let value: Value =
        serde_json::from_str(text).unwrap_or_else(|e| panic!("no JSON ({e}): {text:?}"));
    is_valid(&value);
    value
}

/// Asserts that a report is of the schema, and that its operations add up.
#[track_caller]
pub(crate) fn is_valid(report: &Value) {
    static VALIDATOR: OnceLock<Validator> = OnceLock::new();
    let validator = VALIDATOR.get_or_init(|| {
        let schema = include_str!("../schema/tare-1.schema.json");
        let schema = serde_json::from_str(schema).expect("the schema is JSON");
        jsonschema::draft202012::new(&schema).expect("the schema compiles")
    });
    let errors: Vec<String> =
        validator.iter_errors(report).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?} in {report:#}");
    for result in array(report, "/results") {
        for operations in [&result["operations"], &result["warmup"]["operations"]] {
            let count = |name: &str| operations[name].as_u64().unwrap();
            let sent = count("sent");
            let ended = count("completed") + count("failed") + count("timed_out");
            let unsent = count("dropped") + count("unsent_at_end");
            assert_eq!(count("due"), sent + unsent, "{operations}");
            assert_eq!(sent, ended + count("in_flight_at_end"), "{operations}");
        }
        if report["kind"] == "bw" || report["comparison"]["measured"] == "bw" {
            continue;
        }
        let completed = figure(result, "/operations/completed");
        let censored = figure(result, "/latency/service/censored");
        assert!(figure(result, "/latency/service/count") >= completed + censored.min(1));
    }
}

/// A figure of a report that must be there, by its JSON pointer.
#[track_caller]
pub(crate) fn figure(report: &Value, pointer: &str) -> u64 {
    let value = report.pointer(pointer).and_then(Value::as_u64);
    value.unwrap_or_else(|| panic!("no figure at {pointer} in {report:#}"))
}

/// A text of a report that must be there, by its JSON pointer.
#[track_caller]
pub(crate) fn text<'a>(report: &'a Value, pointer: &str) -> &'a str {
    let value = report.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_else(|| panic!("no text at {pointer} in {report:#}"))
}

/// A list of a report that must be there, by its JSON pointer.
#[track_caller]
pub(crate) fn array<'a>(report: &'a Value, pointer: &str) -> &'a [Value] {
    let value = report.pointer(pointer).and_then(Value::as_array);
    value.unwrap_or_else(|| panic!("no list at {pointer} in {report:#}"))
}

pub(crate) fn warnings(report: &Value) -> Vec<&str> {
    array(report, "/warnings").iter().map(|warning| text(warning, "/code")).collect()
}

/// The real backends of this machine; why one is left out is printed once.
pub(crate) fn backends() -> &'static [&'static str] {
    static BACKENDS: OnceLock<Vec<&str>> = OnceLock::new();
    BACKENDS.get_or_init(|| {
        let probe = run(&["lat", "-n", "1", "--warmup", "0", "--backend", "uring"]);
        if probe.code == Some(0) {
            vec!["uring", "epoll"]
        } else {
            left_out(&format!("all on io_uring: {}", probe.stderr.trim_end()));
            vec!["epoll"]
        }
    })
}

/// Each of those with each of these.
pub(crate) fn on_backends<T: Copy, const N: usize>(
    cases: [T; N],
) -> impl Iterator<Item = (&'static str, T)> {
    backends().iter().flat_map(move |backend| cases.map(|case| (*backend, case)))
}

/// Whether this is root; a test that needs it and is not is left out.
pub(crate) fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        left_out(&format!("{what} takes root"));
    }
    root
}

/// Says that a test is left out, or a part of it, and why. It is written past the capture of a
/// passing test's output, so that `.ci/run` can count these lines.
pub(crate) fn left_out(why: &str) {
    let test = thread::current();
    let line = format!("left out: {}: {why}\n", test.name().unwrap_or_default());
    // Nobody reads it where stderr is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Waits until something becomes so. For what the kernel tells nobody about; everything else is
/// awaited.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[derive(Debug)]
pub(crate) struct Job {
    child: Child,
    started: Instant,
    stdout: Lines,
    stderr: Lines,
    _busy: Option<quiet::Busy>,
}

impl Job {
    pub(crate) fn start(command: Command) -> Self {
        Self::start_into(command, Stdio::piped())
    }

    /// With a stdout that the test reads itself, or not.
    pub(crate) fn start_into(command: Command, stdout: impl Into<Stdio>) -> Self {
        Self::start_between(command, stdout, Stdio::piped())
    }

    /// The same of stderr.
    pub(crate) fn start_between(
        mut command: Command,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Self {
        let busy = quiet::Busy::begin();
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let started = Instant::now();
        let mut child = command.spawn().expect("the command starts");
        let (stdout, stderr) = (Lines::of(child.stdout.take()), Lines::of(child.stderr.take()));
        Self { child, started, stdout, stderr, _busy: busy }
    }

    pub(crate) fn tare(words: &[&str]) -> Self {
        let mut command = tare();
        command.args(words);
        Self::start(command)
    }

    /// `tare lat` with a short warm-up and JSON on stdout.
    pub(crate) fn lat(target: &str, flags: &str) -> Self {
        Self::tare(&lat_words(target, flags))
    }

    /// A test by its command's name, as [`Job::lat`].
    pub(crate) fn test(test: &str, target: &str, flags: &str) -> Self {
        Self::tare(&test_words(test, target, flags))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a process id"));
        kill(pid, signal).expect("it has not been waited for");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_none()
    }

    /// Waits for a line of stderr that holds these words.
    #[track_caller]
    pub(crate) fn logs(&mut self, words: &str) {
        let found = self.stderr.wait_for(words);
        assert!(found, "{words:?} was not logged: {:?}", self.stderr.seen);
    }

    /// Waits until a worker of a test with `--wait block --warmup 0` has measured for a while: each
    /// of its operations sleeps at least once, or it is at work all the time.
    pub(crate) fn is_measuring(&self) {
        const SLEEPS: u64 = 1000;
        const CPU: Duration = Duration::from_millis(40);
        let tasks = format!("/proc/{}/task", self.id());
        let has_slept = |directory: std::fs::DirEntry| {
            let status = std::fs::read_to_string(directory.path().join("status")).ok()?;
            let field = |name| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                Some(line.trim_start_matches(':').trim())
            };
            let sleeps: u64 = field("voluntary_ctxt_switches")?.parse().ok()?;
            let name = field("Name")?;
            let times = std::fs::read_to_string(directory.path().join("schedstat")).ok()?;
            let on_cpu = Duration::from_nanos(times.split(' ').next()?.parse().ok()?);
            Some(name.starts_with("tare-client-") && (sleeps > SLEEPS || on_cpu > CPU))
        };
        eventually("the client measures", || {
            let tasks = std::fs::read_dir(&tasks).expect("the client runs");
            let mut tasks = tasks.flatten().map(has_slept);
            let is_over = || {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()));
                stat.is_ok_and(|stat| stat.contains(") Z "))
            };
            tasks.any(|task| task == Some(true)) || {
                assert!(!is_over(), "it has ended before it measured");
                false
            }
        });
    }

    #[track_caller]
    pub(crate) fn wait(mut self) -> Ran {
        let deadline = self.started + PATIENCE;
        let mut pause = Duration::from_micros(500);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
                panic!("it hangs; stdout: {stdout}; stderr: {stderr}");
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        };
        Ran {
            code: status.code(),
            signal: status.signal(),
            took: self.started.elapsed(),
            stdout: self.stdout.rest(),
            stderr: self.stderr.rest(),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn lat_words<'a>(target: &'a str, flags: &'a str) -> Vec<&'a str> {
    test_words("lat", target, flags)
}

/// The words of a test by its command's name, with a short warm-up and JSON on stdout.
pub(crate) fn test_words<'a>(test: &'a str, target: &'a str, flags: &'a str) -> Vec<&'a str> {
    let mut words = vec![test, target];
    if !flags.contains("--format") {
        words.extend(["--format", "json"]);
    }
    // A transfer that ends by bytes has none: all of it counts.
    let by_bytes = test == "bw" && (flags.contains("--bytes") || flags.contains("-n "));
    if !flags.contains("--warmup") && !by_bytes {
        words.extend(["--warmup", "10ms"]);
    }
    words.extend(flags.split_whitespace());
    words
}

/// A `tare serve` on a free port of loopback, or wherever `--listen` says.
#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) job: Job,
    /// What it serves on, as its ready line says.
    pub(crate) addresses: Vec<String>,
}

impl Serve {
    pub(crate) fn start(flags: &str) -> Self {
        let mut command = tare();
        command.args(Self::words(flags));
        Self::started(command)
    }

    pub(crate) fn words(flags: &str) -> Vec<&str> {
        let mut words = vec!["serve"];
        if !flags.contains("--listen") {
            words.extend(["--listen", "127.0.0.1:0"]);
        }
        words.extend(flags.split_whitespace());
        words
    }

    pub(crate) fn started(command: Command) -> Self {
        let mut job = Job::start(command);
        let line = job.stdout.next();
        let line = line.unwrap_or_else(|| panic!("no ready line: {}", job.stderr.rest()));
        let addresses = line.strip_prefix("tare: serving on ");
        let addresses = addresses.unwrap_or_else(|| panic!("no ready line: {line:?}"));
        let addresses = addresses.trim_end().split(' ').map(str::to_owned).collect();
        Self { job, addresses }
    }

    /// Runs a test by its command's name against it, as [`Job::test`].
    pub(crate) fn test(&self, test: &str, flags: &str) -> Ran {
        Job::test(test, self.address(), flags).wait()
    }

    pub(crate) fn lat(&self, flags: &str) -> Ran {
        self.test("lat", flags)
    }

    pub(crate) fn address(&self) -> &str {
        &self.addresses[0]
    }

    /// Asserts that clients are served now, at full speed: what a server does late it does after a
    /// nap (100 ms) or a delayed acknowledgement (40 ms); that others want its CPU costs the median
    /// less.
    #[track_caller]
    pub(crate) fn serves(&self) {
        for flags in ["-c 4", "--udp"] {
            let flags = format!("-n 200 --wait block {flags}");
            let report = self.lat(&flags).exits(0).report();
            let result = &report["results"][0];
            assert_eq!(figure(result, "/operations/completed"), 200);
            assert_eq!(result["errors"], serde_json::json!([]), "{flags}");
            let median = Duration::from_nanos(figure(result, "/latency/service/p50_ns"));
            assert!(median < Duration::from_millis(10), "{flags}: {median:?}");
        }
    }

    /// Asks it to end, and asserts that it does so in order. Returns what it logged.
    #[track_caller]
    pub(crate) fn stops(self) -> String {
        self.job.signal(Signal::SIGTERM);
        let ran = self.job.wait().exits(0);
        // The one line was read already.
        assert_eq!(ran.stdout, format!("tare: serving on {}\n", self.addresses.join(" ")));
        ran.stderr
    }
}

/// A pipe, read line by line by a thread of its own.
#[derive(Debug)]
struct Lines {
    lines: Receiver<String>,
    seen: String,
}

impl Lines {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe?);
            let mut line = Vec::new();
            while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8(std::mem::take(&mut line));
                sender.send(text.expect("tare prints UTF-8")).ok()?;
            }
            Some(())
        });
        Self { lines, seen: String::new() }
    }

    fn next(&mut self) -> Option<String> {
        let line = self.lines.recv_timeout(PATIENCE);
        assert_ne!(line, Err(RecvTimeoutError::Timeout), "a pipe stays silent, and open");
        let line = line.ok()?;
        self.seen.push_str(&line);
        Some(line)
    }

    fn wait_for(&mut self, words: &str) -> bool {
        self.seen.lines().any(|line| line.contains(words))
            || std::iter::from_fn(|| self.next()).any(|line| line.contains(words))
    }

    /// Everything, once the writer has ended.
    fn rest(&mut self) -> String {
        while self.next().is_some() {}
        std::mem::take(&mut self.seen)
    }
}

/// Tests that measure want the machine for themselves, as far as this binary goes.
mod quiet {
    use std::cell::Cell;
    use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

    /// Processes that other tests run.
    static BUSY: Mutex<usize> = Mutex::new(0);
    static CHANGED: Condvar = Condvar::new();

    thread_local! {
        static MEASURES: Cell<bool> = const { Cell::new(false) };
    }

    fn busy() -> MutexGuard<'static, usize> {
        BUSY.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process of a test runs. None for those of a test that has the machine for itself.
    #[derive(Debug)]
    pub(crate) struct Busy;

    impl Busy {
        pub(super) fn begin() -> Option<Self> {
            if MEASURES.get() {
                return None;
            }
            *busy() += 1;
            Some(Self)
        }
    }

    impl Drop for Busy {
        fn drop(&mut self) {
            *busy() -= 1;
            CHANGED.notify_all();
        }
    }

    /// While it lives no other test of this binary starts a process.
    #[derive(Debug)]
    pub(crate) struct Quiet(#[expect(dead_code, reason = "held")] MutexGuard<'static, usize>);

    impl Quiet {
        pub(crate) fn begin() -> Self {
            let guard = CHANGED.wait_while(busy(), |running| *running > 0);
            MEASURES.set(true);
            Self(guard.unwrap_or_else(PoisonError::into_inner))
        }
    }

    impl Drop for Quiet {
        fn drop(&mut self) {
            MEASURES.set(false);
        }
    }
}
