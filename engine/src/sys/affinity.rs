//! Which CPUs this thread may run on, and pinning it to one of them.

use std::fmt::Write as _;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::io::OpError;

/// The calling thread: what pid 0 means to the `sched_*affinity` calls.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// The CPUs that the calling thread may run on, ascending; empty where the kernel does not tell.
///
/// Sees CPUs up to 1023, the size of the C library's fixed set.
#[must_use]
pub fn allowed_cpus() -> Vec<u32> {
    let Ok(set) = sched_getaffinity(THIS_THREAD) else {
        return Vec::new();
    };
    (0u32..)
        .take(CpuSet::count())
        .filter(|&cpu| set.is_set(cpu as usize).unwrap_or(false))
        .collect()
}

/// Pins the calling thread to `cpu`; threads it starts later inherit that.
///
/// # Errors
/// [`OpError::Invalid`] where the CPU does not exist or is not allowed here.
pub fn pin_current_thread(cpu: u32) -> Result<(), OpError> {
    let failed = |errno| OpError::from(("sched_setaffinity", errno));
    let mut set = CpuSet::new();
    set.set(cpu as usize).map_err(failed)?;
    sched_setaffinity(THIS_THREAD, &set).map_err(failed)
}

/// Prints CPUs the way the kernel does: ascending, with runs shortened: `0-3,6`.
#[must_use]
pub fn format_cpus(cpus: &[u32]) -> String {
    let mut cpus = cpus.to_vec();
    cpus.sort_unstable();
    cpus.dedup();
    let mut text = String::new();
    for run in cpus.chunk_by(|a, b| a + 1 == *b) {
        if !text.is_empty() {
            text.push(',');
        }
        let (first, last) = (run[0], run[run.len() - 1]);
        let written = if first == last {
            write!(text, "{first}")
        } else {
            write!(text, "{first}-{last}")
        };
        written.expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_printed_as_the_kernel_prints_them() {
        assert_eq!(format_cpus(&[]), "");
        assert_eq!(format_cpus(&[4]), "4");
        assert_eq!(format_cpus(&[6, 0, 1, 3, 2, 1]), "0-3,6");
        assert_eq!(format_cpus(&[0, 1]), "0-1");
    }

    #[test]
    fn a_pinned_thread_may_run_on_its_cpu_alone() {
        let cpu = *allowed_cpus().last().unwrap();
        let seen = std::thread::spawn(move || pin_current_thread(cpu).map(|()| allowed_cpus()))
            .join()
            .unwrap();
        assert_eq!(seen, Ok(vec![cpu]));
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        assert_eq!(pin_current_thread(1023), Err(OpError::Invalid));
        assert_eq!(pin_current_thread(70_000), Err(OpError::Invalid));
    }
}
