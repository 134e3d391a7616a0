//! Where results go: one format on stdout, and files that are only ever replaced as a whole; and
//! how stdout and stderr are written to, whose readers may be slow, or read no more.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tare_stats::result::{Interval, Params, Report};
use tare_units::bounds::{NAP, OUTPUT_INTERRUPTED};
use tare_units::control::Interrupt;
use tare_units::error::{Error, Result};
use tare_units::text::visible;

use crate::report::{self, Format, histogram, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Result(Format),
    /// A step's percentiles, as HdrHistogram's plotters read them; of several steps a file each.
    Percentiles,
    IntervalLog,
}

/// A file of `-o`; its ending chooses what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputFile {
    path: PathBuf,
    content: Content,
}

impl OutputFile {
    /// The format of the result in it; none where it holds latencies alone.
    pub(crate) const fn format(&self) -> Option<Format> {
        match self.content {
            Content::Result(format) => Some(format),
            Content::Percentiles | Content::IntervalLog => None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The files it comes to, with what they hold now; `steps` is how many the run has.
    fn written(
        &self,
        report: &Report,
        steps: usize,
        percentiles: &[f64],
    ) -> Vec<(PathBuf, String)> {
        let whole = |text| vec![(self.path.clone(), text)];
        let each = || report.results.iter().map(histogram::percentiles);
        match self.content {
            Content::Result(format) => whole(report::render(format, report, percentiles)),
            Content::IntervalLog => whole(histogram::interval_log(report)),
            Content::Percentiles if steps.max(report.results.len()) > 1 => {
                (1..).zip(each()).map(|(step, text)| (numbered(&self.path, step), text)).collect()
            }
            Content::Percentiles => each().flat_map(whole).collect(),
        }
    }
}

/// `x.hgrm` of step 2 is `x-2.hgrm`.
pub(crate) fn numbered(path: &Path, step: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{step}."));
    name.push(path.extension().unwrap_or_default());
    path.with_file_name(name)
}

impl FromStr for OutputFile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let path = PathBuf::from(text);
        let content = match path.extension().and_then(OsStr::to_str) {
            Some("json") => Content::Result(Format::Json),
            Some("jsonl") => Content::Result(Format::Jsonl),
            Some("csv") => Content::Result(Format::Csv),
            Some("md") => Content::Result(Format::Markdown),
            Some("txt") => Content::Result(Format::Text),
            Some("html") => Content::Result(Format::Html),
            Some("hgrm") => Content::Percentiles,
            Some("hlog") => Content::IntervalLog,
            _ => {
                let message = format!("the ending of '{}' names no format", text.escape_debug());
                return Err(Error::usage(message).remedy(
                    "write it as .json .jsonl .csv .md .txt or .html, for latencies also .hgrm or .hlog",
                ));
            }
        };
        Ok(Self { path, content })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Stdout {
    reader_left: bool,
}

impl Stdout {
    /// Writes; a reader that has left is no error, one that does not read is when the run is
    /// interrupted.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.reader_left {
            return Ok(());
        }
        match write_all(&io::stdout(), bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.reader_left = true;
                Ok(())
            }
            result => result,
        }
    }
}

pub(crate) struct Outputs {
    format: Format,
    pub(crate) files: Vec<OutputFile>,
    percentiles: Vec<f64>,
    stdout: Stdout,
    streamed: usize,
    streamed_blocks: usize,
    pub(crate) steps: usize,
    failed: Option<Error>,
}

impl Outputs {
    pub(crate) fn open(
        format: Format,
        files: &[OutputFile],
        percentiles: Vec<f64>,
    ) -> Result<Self> {
        for (index, file) in files.iter().enumerate() {
            if files[..index].iter().any(|other| other.path == file.path) {
                let message = format!("--output {} is given twice", file.path.display());
                return Err(Error::usage(message));
            }
            is_writable(&file.path)?;
        }
        Ok(Self {
            format,
            files: files.to_vec(),
            percentiles,
            stdout: Stdout::default(),
            streamed: 0,
            streamed_blocks: 0,
            steps: 0,
            failed: None,
        })
    }

    pub(crate) fn streams(&self) -> bool {
        self.format == Format::Jsonl
    }

    /// Whether going on is for nobody: the stream's reader left, and no file is written.
    pub(crate) const fn nobody_reads(&self) -> bool {
        self.stdout.reader_left && self.files.is_empty()
    }

    pub(crate) fn interval(&mut self, step: usize, params: &Params, interval: &Interval) {
        if self.streams() {
            self.print(&json::interval_line(step, params, interval));
        }
    }

    /// A step is over: its result is streamed, and the files are replaced.
    pub(crate) fn step(&mut self, report: &Report) {
        self.stream(report, false);
        self.replace_files(report);
    }

    pub(crate) fn finish(&mut self, report: &Report) -> Result<()> {
        if self.streams() {
            self.stream(report, true);
            self.print(&json::report_line(report));
        } else {
            self.print(&report::render(self.format, report, &self.percentiles));
        }
        self.replace_files(report);
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Streams what is over and was not streamed yet.
    fn stream(&mut self, report: &Report, is_last: bool) {
        if !self.streams() {
            return;
        }
        let comparison = report.comparison.as_deref();
        let blocks = comparison.map_or(&[][..], |comparison| &comparison.blocks);
        for block in blocks.iter().skip(self.streamed_blocks) {
            self.print(&json::block_line(block));
        }
        self.streamed_blocks = self.streamed_blocks.max(blocks.len());
        // Of a comparison the results are pooled over its blocks: none is final before the end.
        let is_final = is_last || comparison.is_none();
        for (step, result) in
            report.results.iter().enumerate().filter(|_| is_final).skip(self.streamed)
        {
            self.print(&json::result_line(step, result));
            self.streamed = step + 1;
        }
    }

    fn print(&mut self, text: &str) {
        if let Err(error) = self.stdout.write(text.as_bytes()) {
            self.fail("stdout", &error);
        }
    }

    fn replace_files(&mut self, report: &Report) {
        for file in self.files.clone() {
            for (path, text) in file.written(report, self.steps, &self.percentiles) {
                if let Err(error) = replace(&path, text.as_bytes()) {
                    self.fail(&path.display().to_string(), &error);
                }
            }
        }
    }

    /// Keeps the first failure for the end: the run goes on, since the other outputs may still be
    /// good.
    fn fail(&mut self, what: &str, error: &io::Error) {
        if self.failed.is_none() {
            let error = unwritable(what, error);
            complain(&format!("warning: {error}"));
            self.failed = Some(error);
        }
    }
}

enum Sink {
    /// A temporary file beside that of the path, which it replaces as a whole: whoever reads it
    /// sees the old one or the new.
    File(tempfile::NamedTempFile, PathBuf),
    /// A pipe, a terminal, `/dev/null`: renaming would remove it, so it is written to.
    Device(File),
}

fn sink(path: &Path) -> io::Result<Sink> {
    let (path, mode) = match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        // A link stays a link: the file that it leads to is replaced.
        Ok(found) if found.is_file() => (path.canonicalize()?, found.permissions().mode()),
        Ok(_) => return File::options().write(true).open(path).map(Sink::Device),
        Err(error) if error.kind() == ErrorKind::NotFound => (path.to_owned(), 0o666),
        Err(error) => return Err(error),
    };
    // Renaming stays within one file system.
    let here = Path::new(".");
    let directory = path.parent().filter(|parent| *parent != Path::new(""));
    let file = tempfile::Builder::new()
        .prefix(".tare-")
        .permissions(Permissions::from_mode(mode & 0o777))
        .tempfile_in(directory.unwrap_or(here))
        // The temporary file's name, which the error carries, is nobody's business.
        .map_err(|error| io::Error::from(error.kind()))?;
    Ok(Sink::File(file, path))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match sink(path)? {
        Sink::File(mut file, path) => {
            file.write_all(bytes)?;
            file.persist(path).map(drop).map_err(|failed| failed.error)
        }
        Sink::Device(device) => write_all(&device, bytes),
    }
}

fn is_writable(path: &Path) -> Result<()> {
    let shown = path.display();
    let directory = path.parent().filter(|parent| *parent != Path::new(""));
    if let Some(none) = directory.filter(|directory| !directory.exists()) {
        let none = none.display();
        let message = format!("--output {shown}: there is no directory {none}");
        return Err(
            Error::usage(message).remedy(format!("create it (mkdir -p {none}) or name another"))
        );
    }
    sink(path).map(drop).map_err(|error| {
        Error::usage(format!("--output {shown} cannot be written: {error}"))
            .remedy("name a file in a directory that is yours")
    })
}

pub(crate) fn write_file(path: &Path, text: &str) -> Result<()> {
    is_writable(path)?;
    replace(path, text.as_bytes()).map_err(|error| unwritable(&path.display().to_string(), &error))
}

pub(crate) fn unwritable(what: &str, error: &io::Error) -> Error {
    Error::environment(format!("{what} cannot be written: {error}"))
}

/// One line on stderr. A closed stderr changes nothing, nor does one that nobody reads once the run
/// is interrupted.
pub(crate) fn complain(line: &str) {
    // What a peer said may be part of the line; it stays one line, and drives no terminal.
    let line = format!("tare: {}\n", visible(line));
    let _ = write_all(&io::stderr(), line.as_bytes());
}

/// A pipe that is writable takes so much without blocking (POSIX: `PIPE_BUF`, 4,096 on Linux).
const CHUNK: usize = 4096;

/// The interrupt of the process, once signals are heard.
static INTERRUPT: OnceLock<Interrupt> = OnceLock::new();
/// Once a reader was waited for under it: when that ends, for all that is still to be written.
static DEADLINE: OnceLock<Instant> = OnceLock::new();

/// From here on this interrupt ends every wait for a reader.
pub(crate) fn heed(interrupt: &Interrupt) {
    // The first one is the process's own.
    let _ = INTERRUPT.set(interrupt.clone());
}

fn is_past() -> bool {
    DEADLINE.get().is_some_and(|end| Instant::now() >= *end)
}

fn is_over() -> bool {
    if !INTERRUPT.get().is_some_and(Interrupt::is_urgent) {
        return false;
    }
    DEADLINE.get_or_init(|| Instant::now() + Duration::from(OUTPUT_INTERRUPTED));
    is_past()
}

/// Writes everything, however long its reader takes, unless the run is interrupted; the error is
/// of kind `TimedOut` then.
fn write_all(to: &impl AsFd, bytes: &[u8]) -> io::Result<()> {
    write_until(to, bytes, is_over)
}

/// To a pipe that is full nothing is written: its reader is waited for with poll(2), and the signal
/// is looked for meanwhile. The descriptor stays blocking, since it is shared with whoever started
/// the command.
fn write_until(to: &impl AsFd, bytes: &[u8], is_over: impl Fn() -> bool) -> io::Result<()> {
    let nap = PollTimeout::try_from(Duration::from(NAP)).unwrap_or(PollTimeout::ZERO);
    let mut left = bytes;
    while !left.is_empty() {
        let mut polled = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
        let wait = if is_past() { PollTimeout::ZERO } else { nap };
        match poll(&mut polled, wait) {
            Ok(0) | Err(Errno::EINTR) => {
                if is_over() {
                    let (missing, all) = (left.len(), bytes.len());
                    let message =
                        format!("nobody reads it: {missing} of {all} bytes were not written");
                    return Err(io::Error::new(ErrorKind::TimedOut, message));
                }
                continue;
            }
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match nix::unistd::write(to, &left[..left.len().min(CHUNK)]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => left = &left[written..],
            // Whoever shares the descriptor may have made it non-blocking.
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::report::fixtures;

    fn outputs(files: &[&Path]) -> Result<Outputs> {
        let files: Vec<OutputFile> =
            files.iter().map(|path| path.to_str().unwrap().parse().unwrap()).collect();
        Outputs::open(Format::Text, &files, report::PERCENTILES.to_vec())
    }

    #[test]
    fn the_ending_chooses_the_format() {
        for (name, format) in [
            ("a.json", Some(Format::Json)),
            ("b/a.jsonl", Some(Format::Jsonl)),
            ("a.csv", Some(Format::Csv)),
            ("a.md", Some(Format::Markdown)),
            ("a.b.txt", Some(Format::Text)),
            ("a.html", Some(Format::Html)),
            ("a.hgrm", None),
            ("a.hlog", None),
        ] {
            assert_eq!(name.parse::<OutputFile>().unwrap().format(), format, "{name}");
        }
        for name in ["a", "a.xml", ".json", ""] {
            assert!(name.parse::<OutputFile>().is_err(), "{name}");
        }
    }

    #[test]
    fn percentiles_of_several_steps_are_a_file_each() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("a.b.hgrm"), dir.path().join("a.hlog"));
        let mut many = outputs(&[&file, &log]).unwrap();
        let mut report = fixtures::http::sweep();
        many.steps = report.results.len();
        let all = report.results.split_off(1);
        many.step(&report);
        let there = |name: &str| dir.path().join(name).exists();
        assert!(there("a.b-1.hgrm") && !there("a.b-2.hgrm") && !there("a.b.hgrm"));
        report.results.extend(all);
        many.step(&report);
        assert!(there("a.b-2.hgrm") && !there("a.b.hgrm"));
        assert!(fs::read_to_string(&log).unwrap().contains("Tag=step-2,"));
        assert!(many.failed.is_none());
        let file = dir.path().join("one.hgrm");
        let mut one = outputs(&[&file]).unwrap();
        one.steps = 1;
        one.step(&fixtures::http::one());
        assert!(fs::read_to_string(&file).unwrap().contains("1/(1-Percentile)"));
        assert!(!there("one-1.hgrm"));
    }

    #[test]
    fn files_are_refused_before_anything_is_measured_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        let message = |files: &[&Path]| outputs(files).err().unwrap().to_string();
        let (none, lost) = (dir.path().join("none"), dir.path().join("none/a.json"));
        let none = none.display();
        assert_eq!(
            message(&[&lost]),
            format!(
                "--output {none}/a.json: there is no directory {none}; create it (mkdir -p {none}) or name another"
            )
        );
        assert!(message(&[&file, &file]).contains("twice"));
        fs::create_dir(&file).unwrap();
        assert!(message(&[&file]).contains("directory"));
    }

    #[test]
    fn a_step_replaces_the_file_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a.json"), dir.path().join("b.csv"));
        fs::write(dir.path().join("target.csv"), "old").unwrap();
        std::os::unix::fs::symlink("target.csv", &link).unwrap();
        let mut outputs = outputs(&[&file, &link]).unwrap();
        assert!(!file.exists(), "nothing is written before there is something");
        let mut report = fixtures::sweep();
        let all = report.results.split_off(1);
        outputs.step(&report);
        let steps = |path: &Path| {
            let report: Report = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            report.results.len()
        };
        assert_eq!(steps(&file), 1);
        report.results.extend(all);
        outputs.step(&report);
        assert_eq!(steps(&file), report.results.len());
        assert!(link.is_symlink());
        let rows = fs::read_to_string(dir.path().join("target.csv")).unwrap();
        assert_eq!(rows.lines().count(), 1 + report.results.len());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert!(outputs.failed.is_none());
    }

    #[test]
    fn modes_and_devices_stay() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.txt");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        replace(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let null = dir.path().join("null.json");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        replace(&null, b"{}").unwrap();
        assert!(null.is_symlink());
    }

    #[test]
    fn what_cannot_be_written_is_reported_at_the_end_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (gone, kept) = (dir.path().join("gone/a.json"), dir.path().join("b.json"));
        fs::create_dir(dir.path().join("gone")).unwrap();
        let mut outputs = outputs(&[&gone, &kept]).unwrap();
        fs::remove_dir(dir.path().join("gone")).unwrap();
        outputs.replace_files(&fixtures::one_step());
        assert!(kept.exists());
        let error = outputs.failed.expect("the failure is kept");
        assert!(error.to_string().contains("gone/a.json"));
    }

    #[test]
    fn all_is_written_in_order_to_whoever_reads() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sent: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        let expected = sent.clone();
        let writing = std::thread::spawn(move || write_until(&writer, &sent, || false));
        let mut came = Vec::new();
        reader.read_to_end(&mut came).unwrap();
        writing.join().unwrap().unwrap();
        assert!(came == expected);
    }

    #[test]
    fn nobody_is_waited_for_once_it_is_over() {
        let (_reader, writer) = io::pipe().unwrap();
        let error = write_until(&writer, &[0; 1 << 20], || true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let message = error.to_string();
        assert!(message.contains("983040 of 1048576 bytes"), "{message}");
    }

    #[test]
    fn a_reader_that_left_is_not_taken_for_one_that_does_not_read() {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let error = write_until(&writer, b"x", || true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
