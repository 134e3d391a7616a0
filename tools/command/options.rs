//! Options that several commands share, and the small types they parse into.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tare_driver::{Backend, BackendChoice};
use tare_engine::run::plan::{Common, Stop};
use tare_host::observed::Observation;
use tare_proto::auth::Secret;
use tare_proto::hello::WaitMode;
use tare_stats::result::quantile_name;
use tare_stats::summary::PERCENTILES;
use tare_units::error::{Error, Result};
use tare_units::{Count, CpuList, Nanos};

use super::{demand, refuse};
use crate::output::{OutputFile, complain};
use crate::report::Format;

/// How long `lat` and `bw` measure by default.
pub(super) const DURATION: Nanos = Nanos::from_secs(5);
const SECRET_VARIABLE: &str = "TARE_SECRET";
/// The longest secret, bytes: far more than a MAC makes use of.
const SECRET_MAX: u64 = 4096;
/// Seeds stay below 2^53, which is where many JSON readers begin to round.
pub(super) const SEED_BITS: u32 = 53;
const INTERVAL_MIN: Nanos = Nanos::from_millis(1);
/// The warm-up where `--warmup` does not say otherwise.
const WARMUP: Nanos = Nanos::from_millis(500);

/// Options of every measuring command. Where the help is that of `tare lat`, the others put theirs
/// in its place (`mut_arg`).
#[derive(Debug, Args)]
pub(super) struct CommonArgs {
    /// Measure each step for that long [default: 5s]
    #[arg(short, long, value_name = "TIME", help_heading = "How long")]
    pub(super) duration: Option<Nanos>,
    /// End each step after that many round trips instead of after a time
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "duration")]
    #[arg(help_heading = "How long")]
    count: Option<Count>,
    /// Run that long before measuring; what happens then is reported apart [default: 500ms]
    #[arg(long, value_name = "TIME", help_heading = "How long")]
    pub(super) warmup: Option<Nanos>,
    /// Give up on an answer, a connect or a handshake after that long
    #[arg(long, value_name = "TIME", default_value = "2s", help_heading = "How long")]
    timeout: Nanos,

    #[command(flatten)]
    workers: WorkerArgs,
    /// Keep CPUs out of deep idle states during the run (holds /dev/cpu_dma_latency at 0; needs
    /// root)
    #[arg(long, help_heading = "The instrument")]
    no_idle: bool,
    /// Repeat the random choices of an earlier run: its report names its seed
    #[arg(long, value_name = "N", help_heading = "The instrument")]
    #[arg(value_parser = clap::value_parser!(u64).range(..1 << SEED_BITS))]
    seed: Option<u64>,

    /// Show what the load costs the target, where it runs on this host: web=comm:nginx (repeatable)
    ///
    /// CPU time, memory, throttling by a CPU limit and context switches of each result's measured
    /// phase, of a process (web=pid:1234), of all processes of a name (web=comm:nginx) or of a
    /// control group with all below it (web=cgroup:system.slice/nginx.service: relative to
    /// /sys/fs/cgroup, absolute, or as /proc/PID/cgroup names it). Of a container: web=pid:$(docker
    /// inspect -f '{{.State.Pid}}' NAME).
    #[arg(long, value_name = "NAME=WHAT", help_heading = "The result")]
    observe: Vec<Observation>,
    /// Choose the quantiles that are printed: 50,99,99.9
    #[arg(long, value_name = "LIST", help_heading = "The result")]
    percentiles: Option<Percentiles>,
    /// Resolve the series over time that finely
    #[arg(long, value_name = "TIME", default_value = "1s", help_heading = "The result")]
    interval: Nanos,
    #[command(flatten)]
    pub(super) result: ResultArgs,
}

#[derive(Debug, Args)]
pub(super) struct ResultArgs {
    /// Fail with exit code 3 unless this holds: 'p99<2ms', 'size=64:p50<=20us' (repeatable)
    #[arg(long = "assert", value_name = "EXPR", help_heading = "The result")]
    #[arg(long_help = assert_help("'p99<2ms', 'size=64:p50<=20us'", "\
        p50, p99.9 … min, mean, max, stdev (after service. response. lateness. connect. residence. or path. for \
        another latency), errors, timeouts, ops, loss and rate. With --under-load also bandwidth, bandwidth.up, \
        bandwidth.down and retransmits of the load. size=4K, connections=8, rate=1000, and with --under-load idle and \
        loaded select steps: 'loaded:p99<5ms'."))]
    pub(super) assertions: Vec<String>,
    /// Fail with exit code 4 if the generator was saturated or the run disturbed
    #[arg(long, help_heading = "The result")]
    pub(super) strict: bool,
    /// Put this text into the result, to tell runs apart
    #[arg(long, value_name = "TEXT", value_parser = label, help_heading = "The result")]
    pub(super) label: Option<String>,
    /// Print the result on stdout as this
    #[arg(long, value_enum, default_value = "text", help_heading = "The result")]
    pub(super) format: Format,
    /// Write the result to a file too, as its ending says: .json .jsonl .csv .md .txt .html
    /// (repeatable)
    ///
    /// The file is rewritten as a whole after each step, so that it is never half there. Of
    /// latencies also .hgrm (the percentiles, as HdrHistogram's plotters read them; a file per
    /// step: x-1.hgrm, x-2.hgrm, …; of a comparison arm by arm, the a/a one last, and step by step)
    /// and .hlog (HdrHistogram's interval log, steps or arms as tags).
    #[arg(short, long, value_name = "FILE", help_heading = "The result")]
    pub(super) output: Vec<OutputFile>,
    /// Print no progress and no warnings on stderr; errors are still printed
    #[arg(short, long, help_heading = "The result")]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// Trade CPU for precision: spin polls a core, block sleeps in the kernel, hybrid spins only
    /// near events
    ///
    /// Spinning costs a whole CPU at each end and is worth some 45 µs a round trip on a virtual
    /// machine. By default lat spins where both ends have a CPU of their own and blocks elsewhere,
    /// and bw and http block; with --rate all are hybrid where there are two CPUs. The report says
    /// what each end really did.
    #[arg(long, value_name = "MODE", value_parser = choice(WAITS), help_heading = "The instrument")]
    wait: Option<WaitMode>,
    /// Use this many worker threads, a CPU each [default: a CPU each for up to 4]
    #[arg(long, value_name = "N", help_heading = "The instrument")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Pin the workers to these CPUs, in this order: 2-5,7
    #[arg(long, value_name = "LIST", help_heading = "The instrument")]
    cpus: Option<CpuList>,
    /// Insist on io_uring or epoll, at both ends; auto takes io_uring where it works and says why
    /// not
    #[arg(long, value_name = "NAME", value_parser = choice(BACKENDS), default_value = "auto")]
    #[arg(help_heading = "The instrument")]
    backend: BackendChoice,
}

#[derive(Debug, Args)]
pub(super) struct SecretArgs {
    /// Prove, or demand, knowledge of the secret in this file (or in the variable TARE_SECRET)
    ///
    /// A file that its group or others may read is refused, as ssh does: chmod 600 FILE, or in a
    /// pod defaultMode: 0400. A file of root's may be read by a group that other users need to read
    /// it by (mode 0440).
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Take the secret file whoever may read it
    #[arg(long, requires = "secret_file")]
    insecure_secret_file: bool,
}

pub(super) fn choice<T: Copy + Send + Sync + 'static, const N: usize>(
    names: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    let possible = PossibleValuesParser::new(names.map(|(name, _)| name));
    possible.try_map(move |typed| {
        let found = names.iter().find(|(name, _)| *name == typed);
        found.map(|(_, value)| *value).ok_or("it is none of these names")
    })
}

pub(super) const WAITS: [(&str, WaitMode); 3] =
    [("spin", WaitMode::Spin), ("block", WaitMode::Block), ("hybrid", WaitMode::Hybrid)];
pub(super) const BACKENDS: [(&str, BackendChoice); 3] = [
    ("auto", BackendChoice::Auto),
    ("uring", BackendChoice::Only(Backend::Uring)),
    ("epoll", BackendChoice::Only(Backend::Epoll)),
];

/// Quantiles to print, per cent, ascending, each once.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Percentiles(pub(super) Vec<f64>);

impl FromStr for Percentiles {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut percentiles = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let percent = part.parse().ok().filter(|p| *p > 0.0 && *p < 100.0);
            // Names are made of the digits, and more of them than this resolve nothing a run could
            // hold.
            let percent: f64 = percent.filter(|_| part.len() <= 9).ok_or_else(|| {
                let shown = part.escape_debug();
                Error::usage(format!("'{shown}' is no percentile between 0 and 100"))
                    .remedy("write them as 50,95,99.9")
            })?;
            percentiles.push(percent);
        }
        percentiles.sort_by(f64::total_cmp);
        percentiles.dedup_by(|a, b| quantile_name(*a) == quantile_name(*b));
        Ok(Self(percentiles))
    }
}

/// The help of `--assert`, of a command with such expressions and metrics.
pub(super) fn assert_help(examples: &str, metrics: &str) -> String {
    format!(
        "Fail with exit code 3 unless this holds: {examples} (repeatable)\n\n{metrics}\n\nWhere a quantile has an \
         interval, the assertion holds or fails only if the whole interval does; otherwise the exit code is 5: cannot \
         tell. The interval is that of this run alone: of the next one nothing is asserted. What can never apply is refused."
    )
}

fn label(text: &str) -> Result<String> {
    if text.is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
        return Err(Error::usage("a label is one line of 1 to 200 bytes"));
    }
    Ok(text.to_owned())
}

impl CommonArgs {
    pub(super) fn percentiles(&self) -> Vec<f64> {
        self.percentiles.as_ref().map_or_else(|| PERCENTILES.to_vec(), |list| list.0.clone())
    }

    /// The part of a plan that these options make up, of a command whose steps last that long where
    /// nothing says otherwise.
    pub(super) fn plan(&self, by_default: Nanos, secret: Option<Secret>) -> Result<Common> {
        let duration = self.duration.unwrap_or(by_default);
        check_time("--duration", duration)?;
        check_time("--timeout", self.timeout)?;
        if self.interval < INTERVAL_MIN {
            return Err(Error::usage(format!("--interval must be at least {INTERVAL_MIN}")));
        }
        let count = self.count.map(|Count(count)| count);
        demand(count != Some(0), "--count must be above zero", "write 1 or more")?;
        let stop = count.map_or(Stop::After(duration), Stop::Count);
        let mut common = Common {
            stop,
            warmup: self.warmup.unwrap_or(WARMUP),
            timeout: self.timeout,
            percentiles: self.percentiles(),
            seed: self.seed.unwrap_or_else(random_seed),
            interval: self.interval,
            label: self.result.label.clone(),
            secret,
            no_idle: self.no_idle,
            observe: self.observe.clone(),
            ..Common::default()
        };
        self.workers.set(&mut common)?;
        Ok(common)
    }
}

pub(super) fn check_time(flag: &str, time: Nanos) -> Result<()> {
    demand(time > Nanos::ZERO, format!("{flag} must be above zero"), "write it as 2s")
}

impl WorkerArgs {
    /// Writes these options into what a plan has of them.
    pub(super) fn set(&self, common: &mut Common) -> Result<()> {
        let cpus = self.cpus.as_ref().map(|CpuList(cpus)| cpus);
        if let Some((threads, cpus)) = self.threads.zip(cpus) {
            let message = format!("--threads {threads} is more than the {} of --cpus", cpus.len());
            demand(threads as usize <= cpus.len(), message, "name a CPU for each thread")?;
        }
        common.threads = self.threads;
        common.cpus = cpus.cloned();
        common.wait = self.wait;
        common.backend = self.backend;
        Ok(())
    }
}

/// A seed that differs from run to run: the standard library keys its hashers at random.
pub(super) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> (u64::BITS - SEED_BITS)
}

impl SecretArgs {
    /// Reads the secret, from the file if one is named, else from the environment, and unless
    /// `quiet` warns of what is wrong about where it came from.
    pub(super) fn read(&self, quiet: bool) -> Result<Option<Secret>> {
        let Some(path) = &self.secret_file else {
            let value = std::env::var_os(SECRET_VARIABLE);
            let bytes = value.map(std::os::unix::ffi::OsStringExt::into_vec);
            return bytes.map(|bytes| secret(bytes, SECRET_VARIABLE)).transpose();
        };
        let (secret, warning) = read_file(path, self.insecure_secret_file)?;
        if let Some(warning) = warning.filter(|_| !quiet) {
            complain(&format!("warning: {warning}"));
        }
        Ok(Some(secret))
    }
}

/// Who but its owner can read or change a file: of its mode, the owner, and who reads it. A file of
/// root's cannot be read by anybody else but as one of its group (PostgreSQL's rule for keys).
const fn exposed_to(mode: u32, owner: u32, reader: u32) -> Option<&'static str> {
    let through_group = owner == 0 && reader != 0;
    match mode {
        mode if mode & 0o007 != 0 => Some("everybody on this machine"),
        mode if mode & 0o030 != 0 || (mode & 0o040 != 0 && !through_group) => Some("its group"),
        _ => None,
    }
}

fn read_file(path: &Path, is_insecure_allowed: bool) -> Result<(Secret, Option<String>)> {
    let shown = path.display();
    let unreadable =
        |error| Error::usage(format!("the secret file {shown} cannot be read: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    // Of the file that was opened: in a pod the path is a link to it.
    let about = file.metadata().map_err(unreadable)?;
    let exposed = if about.is_file() {
        // Without /proc as root, whose rule is the stricter one.
        let reader = std::fs::metadata("/proc/self").map_or(0, |own| own.uid());
        exposed_to(about.mode(), about.uid(), reader)
    } else if about.file_type().is_fifo() {
        None
    } else {
        let message = format!("the secret file {shown} is neither a file nor a pipe");
        return refuse(message, "name a file, or write <(COMMAND)");
    };
    let exposed = exposed.map(|who| {
        let mode = about.mode() & 0o7777;
        format!("the secret file {shown} is open to {who} (mode {mode:04o})")
    });
    demand(
        exposed.is_none() || is_insecure_allowed,
        exposed.clone().unwrap_or_default(),
        format!(
            "chmod 600 {shown}, in a pod set defaultMode: 0400 of its volume; or add --insecure-secret-file"
        ),
    )?;
    let mut bytes = Vec::new();
    file.take(SECRET_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let warning = exposed.map(|message| format!("{message}; chmod 600 {shown}"));
    Ok((secret(bytes, &shown.to_string())?, warning))
}

/// Checks a secret's length; an editor's newline at its end is no part of it.
fn secret(mut bytes: Vec<u8>, source: &str) -> Result<Secret> {
    if bytes.pop_if(|last| *last == b'\n').is_some() {
        bytes.pop_if(|last| *last == b'\r');
    }
    let wrong = match bytes.len() as u64 {
        0 => "is empty".to_owned(),
        1..=SECRET_MAX => return Ok(Secret(bytes)),
        _ => format!("is longer than {SECRET_MAX} bytes"),
    };
    Err(Error::usage(format!("the secret in {source} {wrong}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn written(bytes: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn secrets_lose_one_newline_and_nothing_else() {
        let read = |bytes: &[u8]| read_file(written(bytes, 0o600).path(), false);
        for (bytes, secret) in [
            (&b"key\n"[..], &b"key"[..]),
            (b"key\r\n", b"key"),
            (b"key\n\n", b"key\n"),
            (b" key ", b" key "),
        ] {
            assert_eq!(read(bytes).unwrap(), (Secret(secret.to_vec()), None));
        }
        let long = [b'x'; 5000];
        for (bytes, why) in
            [(&b""[..], "is empty"), (b"\n", "is empty"), (&long, "longer than 4096")]
        {
            let message = read(bytes).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
        let missing = read_file(Path::new("/nonexistent/secret"), true).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/secret"));
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_unless_allowed() {
        let modes = [0o644, 0o604, 0o666, 0o640, 0o620];
        for (mode, who) in
            modes.into_iter().zip(["everybody"; 3].into_iter().chain(["its group"; 2]))
        {
            let file = written(b"key", mode);
            let refused = read_file(file.path(), false).unwrap_err().to_string();
            let chmod = format!("chmod 600 {}", file.path().display());
            for part in [who, &format!("(mode {mode:04o})"), &chmod, "defaultMode: 0400"] {
                assert!(refused.contains(part), "{refused}");
            }
            // A link to it, as a pod has, says nothing of who can read it.
            let link = file.path().with_extension("link");
            std::os::unix::fs::symlink(file.path(), &link).unwrap();
            let by_link = read_file(&link, false);
            std::fs::remove_file(&link).unwrap();
            assert!(by_link.is_err());
            let found = read_file(file.path(), true).unwrap();
            assert_eq!(found.0, Secret(b"key".to_vec()));
            assert!(found.1.unwrap().contains(who));
        }
        for mode in [0o600, 0o400] {
            let found = read_file(written(b"key", mode).path(), false).unwrap();
            assert_eq!(found.1, None);
        }
    }

    #[test]
    fn roots_files_are_read_by_their_group() {
        assert_eq!(exposed_to(0o440, 0, 1000), None);
        assert_eq!(exposed_to(0o640, 0, 1000), None);
        assert!(exposed_to(0o660, 0, 1000).is_some());
        assert!(exposed_to(0o444, 0, 1000).is_some());
        assert!(exposed_to(0o440, 0, 0).is_some());
        assert!(exposed_to(0o440, 1000, 1000).is_some());
        assert_eq!(exposed_to(0o600, 1000, 0), None);
    }

    #[test]
    fn a_secret_comes_from_a_file_or_a_pipe() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"key\n").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let found = read_file(Path::new(&path), false).unwrap();
        assert_eq!(found.0, Secret(b"key".to_vec()));
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path(), Path::new("/dev/zero")] {
            let error = read_file(path, true).unwrap_err().to_string();
            assert!(error.contains("neither a file nor a pipe"), "{error}");
        }
    }

    #[test]
    fn percentiles_are_sorted_and_unique() {
        let parsed: Percentiles = "99.9, 50,99.90,99.5".parse().unwrap();
        assert_eq!(parsed.0, [50.0, 99.5, 99.9]);
        for text in ["", "0", "100", "-1", "p99", "nan", "inf", "50,,99", "99.99999999"] {
            assert!(text.parse::<Percentiles>().is_err(), "{text}");
        }
    }

    #[test]
    fn seeds_survive_json() {
        assert!(random_seed() < 1 << 53);
        assert_ne!((random_seed(), random_seed()), (0, 0));
    }

    proptest! {
        #[test]
        fn percentiles_never_panic(text in "[0-9.,e+ -]{0,16}") {
            if let Ok(list) = text.parse::<Percentiles>() {
                prop_assert!(list.0.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }
    }
}
