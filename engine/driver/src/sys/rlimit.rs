//! Resource limits that a run depends on.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use tare_units::error::{Error, Result};

/// `RLIMIT_NOFILE`, soft; absent where the kernel does not tell.
pub fn descriptors_limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

/// `RLIMIT_NOFILE`, hard; absent where the kernel does not tell.
pub fn descriptors_limit_hard() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard)
}

/// `RLIMIT_MEMLOCK`, soft, bytes; absent where the kernel does not tell. Unlimited is `u64::MAX`.
pub fn memlock_limit_bytes() -> Option<u64> {
    getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft)
}

/// Raises the soft limit on open descriptors to `needed`, where it is lower. Returns the limit that
/// holds then.
///
/// # Errors
/// Where the hard limit is too small: an environment error that says what to type.
pub fn ensure_descriptors(needed: u64) -> Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|errno| Error::environment(format!("cannot read RLIMIT_NOFILE: {errno}")))?;
    if soft >= needed {
        return Ok(soft);
    }
    // The hard limit rises for privileged processes alone (CAP_SYS_RESOURCE).
    setrlimit(Resource::RLIMIT_NOFILE, needed, needed.max(hard)).map_err(|errno| {
        if needed <= hard {
            return Error::environment(format!("cannot raise RLIMIT_NOFILE: {errno}"));
        }
        let message = format!(
            "{needed} open descriptors are needed and only {hard} are allowed (RLIMIT_NOFILE)"
        );
        Error::environment(message).remedy(format!(
            "as root: ulimit -Hn {needed}; for a container: docker run --ulimit nofile={needed}; or fewer connections"
        ))
    })?;
    Ok(needed)
}

/// Raises the soft limit on open descriptors to `wanted`, or as far as the hard limit lets it.
pub fn raise_descriptors(wanted: u64) {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted.min(hard)
    {
        // Whoever then still lacks a descriptor is told so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}

/// Gives the calling thread a table of descriptors of its own, empty but for the three standard
/// streams: what it opens from now on counts against a limit of its own (the limit is on numbers in
/// a table), and no other thread can use it. What the others hold stays theirs. close_range(2),
/// Linux 5.9.
///
/// # Errors
/// Where the kernel does not have it, or has no memory for the table.
pub fn separate_descriptors() -> nix::Result<()> {
    let first: libc::c_uint = 3;
    let flags = libc::CLOSE_RANGE_UNSHARE;
    // SAFETY: with CLOSE_RANGE_UNSHARE the kernel closes the copies in this thread's new table
    // alone, so no descriptor that is owned anywhere is closed under its owner: a thread calls this
    // before it opens or is handed any.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) };
    nix::errno::Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tare_units::error::Fault;

    #[test]
    fn a_thread_with_descriptors_of_its_own_leaves_those_of_others_alone() {
        use std::io::{Read, Write};
        use std::os::fd::AsRawFd;

        let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let number = ours.as_raw_fd();
        let own = std::thread::spawn(move || {
            separate_descriptors().unwrap();
            // The lowest free number, which in the shared table is in use.
            let file = std::fs::File::open("/dev/null").unwrap();
            file.as_raw_fd()
        });
        assert!(own.join().unwrap() <= number);
        theirs.write_all(b"x").unwrap();
        ours.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn the_soft_limit_rises_and_beyond_the_hard_one_the_error_says_what_to_type() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(ensure_descriptors(1).unwrap(), soft);
        if soft < hard {
            assert_eq!(ensure_descriptors(soft + 1).unwrap(), soft + 1);
            assert_eq!(descriptors_limit(), Some(soft + 1));
        }
        // More than fs.nr_open, which binds even root.
        let Some(needed) = hard.max(1 << 32).checked_add(1) else {
            crate::conformance::left_out("RLIMIT_NOFILE is unlimited here");
            return;
        };
        let error = ensure_descriptors(needed).unwrap_err();
        assert_eq!(error.fault(), Fault::Environment);
        let advice = error.advice().unwrap();
        assert!(advice.contains(&format!("ulimit -Hn {needed}")), "{advice}");
    }
}
