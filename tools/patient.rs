//! Writing to stdout and stderr, whose readers may be slow, or read no more: the first signal ends
//! the wait for them.
//!
//! What is written to a pipe that is full is not written: its reader is waited for with poll(2),
//! and the signal is looked for meanwhile. The descriptor stays blocking, since it is shared with
//! whoever started the command.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;
use tare_units::bounds::{NAP, OUTPUT_INTERRUPTED};
use tare_units::control::Interrupt;

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
    let patience = Duration::from(OUTPUT_INTERRUPTED);
    DEADLINE.get_or_init(|| Instant::now() + patience);
    is_past()
}

/// Writes everything, however long its reader takes, unless the run is interrupted.
///
/// # Errors
/// Of kind `TimedOut` where it was; else what the kernel says.
pub(crate) fn write_all(to: &impl AsFd, bytes: &[u8]) -> io::Result<()> {
    write_until(to, bytes, is_over)
}

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
        match write(to, &left[..left.len().min(CHUNK)]) {
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
        let told = error.to_string();
        assert!(told.contains("983040 of 1048576 bytes"), "{told}");
    }

    #[test]
    fn a_reader_that_left_is_told_from_one_that_does_not_read() {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let error = write_until(&writer, b"x", || true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
