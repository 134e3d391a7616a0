//! Which CPUs this thread may run on, and pinning it to one of them.
//!
//! The C library's fixed set of CPUs, which `core_affinity` and `nix` use, ends at CPU 1023; Linux
//! does not. So `core_affinity` pins to those that it can name, and the kernel's mask is read, and
//! set for the others, at its full length.

use core_affinity::{CoreId, set_for_current};
use nix::errno::Errno;

use crate::io::OpError;
use tare_units::CpuList;
use tare_units::limits::CPUS_MAX;

/// The kernel's mask of CPUs, a bit each.
type Mask = [libc::c_ulong; (CPUS_MAX / libc::c_ulong::BITS) as usize];

/// The word of a mask in which the bit of `cpu` is, and that bit.
const fn bit_of(cpu: u32) -> (usize, libc::c_ulong) {
    let bits = libc::c_ulong::BITS;
    ((cpu / bits) as usize, 1 << (cpu % bits))
}

/// The CPUs that the calling thread may run on, ascending; empty where the kernel does not tell.
pub fn allowed_cpus() -> Vec<u32> {
    let mut mask: Mask = [0; _];
    // SAFETY: the pointer and the length are those of `mask`, which lives and is not otherwise used
    // until the call returns; the kernel and the C library write at most that many bytes. Zero is
    // the calling thread. Where the call fails, the mask stays empty.
    unsafe { libc::sched_getaffinity(0, size_of::<Mask>(), mask.as_mut_ptr().cast()) };
    let is_set = |&cpu: &u32| {
        let (word, bit) = bit_of(cpu);
        mask[word] & bit != 0
    };
    (0..CPUS_MAX).filter(is_set).collect()
}

/// Pins the calling thread to `cpu`; threads it starts later inherit that.
///
/// # Errors
/// [`OpError::Invalid`] where the CPU does not exist or is not allowed here.
pub fn pin_current_thread(cpu: u32) -> Result<(), OpError> {
    let id = cpu as usize;
    let is_named = id < libc::CPU_SETSIZE as usize;
    let is_pinned = if is_named { set_for_current(CoreId { id }) } else { pin_by_mask(cpu) };
    if is_pinned {
        return Ok(());
    }
    // The call was the last that was made.
    Err(("sched_setaffinity", Errno::last()).into())
}

/// Leaves the reason of a failure in `errno`, as the C library does.
fn pin_by_mask(cpu: u32) -> bool {
    if cpu >= CPUS_MAX {
        Errno::EINVAL.set();
        return false;
    }
    let mut mask: Mask = [0; _];
    let (word, bit) = bit_of(cpu);
    mask[word] = bit;
    // SAFETY: the pointer and the length are those of `mask`, which lives until the call returns;
    // the kernel reads at most that many bytes. Zero is the calling thread.
    unsafe { libc::sched_setaffinity(0, size_of::<Mask>(), mask.as_ptr().cast()) == 0 }
}

/// Prints CPUs the way the kernel does: ascending, with runs shortened: `0-3,6`.
pub fn format_cpus(cpus: &[u32]) -> String {
    let mut cpus = cpus.to_vec();
    cpus.sort_unstable();
    cpus.dedup();
    CpuList(cpus).to_string()
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

    /// By the long mask as well, as CPUs beyond 1023 are pinned to, which few machines have.
    #[test]
    fn a_pinned_thread_may_run_on_its_cpu_alone() {
        let cpu = *allowed_cpus().last().unwrap();
        for pin in [|cpu| pin_current_thread(cpu).is_ok(), pin_by_mask] {
            let seen = std::thread::spawn(move || pin(cpu).then(allowed_cpus));
            assert_eq!(seen.join().unwrap(), Some(vec![cpu]));
        }
        let bits = libc::c_ulong::BITS;
        assert_eq!(bit_of(1024), (1024 / bits as usize, 1));
        assert_eq!(bit_of(65), ((65 / bits) as usize, 1 << (65 % bits)));
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        for cpu in [1023, 1024, CPUS_MAX - 1, CPUS_MAX, 70_000] {
            assert_eq!(pin_current_thread(cpu), Err(OpError::Invalid), "{cpu}");
        }
    }
}
