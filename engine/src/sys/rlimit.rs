//! Resource limits that a run depends on.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::{Error, Result};

/// `RLIMIT_NOFILE`, soft; absent where the kernel does not tell.
#[must_use]
pub fn descriptors_limit() -> Option<u64> {
    soft(Resource::RLIMIT_NOFILE)
}

/// `RLIMIT_MEMLOCK`, soft, bytes; absent where the kernel does not tell. Unlimited is `u64::MAX`.
#[must_use]
pub fn memlock_limit_bytes() -> Option<u64> {
    soft(Resource::RLIMIT_MEMLOCK)
}

fn soft(resource: Resource) -> Option<u64> {
    getrlimit(resource).ok().map(|(soft, _)| soft)
}

/// Raises the soft limit on open descriptors to `needed`, where it is lower. Returns the limit that holds then.
///
/// # Errors
/// Where the hard limit is too small: an environment error that says what to type.
pub fn ensure_descriptors(needed: u64) -> Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|errno| Error::environment(format!("cannot read RLIMIT_NOFILE: {errno}")))?;
    if soft >= needed {
        return Ok(soft);
    }
    if hard < needed {
        return Err(too_small(needed, hard));
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard)
        .map_err(|errno| Error::environment(format!("cannot raise RLIMIT_NOFILE: {errno}")))?;
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

fn too_small(needed: u64, hard: u64) -> Error {
    Error::environment(format!(
        "{needed} open descriptors are needed and only {hard} are allowed (RLIMIT_NOFILE)"
    ))
    .remedy(format!(
        "as root: ulimit -Hn {needed}; for a container: docker run --ulimit nofile={needed}; or fewer connections"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    #[test]
    fn the_soft_limit_rises_and_never_falls() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(ensure_descriptors(1).unwrap(), soft);
        if soft < hard {
            assert_eq!(ensure_descriptors(soft + 1).unwrap(), soft + 1);
            assert_eq!(descriptors_limit(), Some(soft + 1));
        }
    }

    #[test]
    fn beyond_the_hard_limit_the_error_says_what_to_type() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let Some(needed) = hard.checked_add(1) else {
            eprintln!("skipped: RLIMIT_NOFILE is unlimited here");
            return;
        };
        let error = ensure_descriptors(needed).unwrap_err();
        assert_eq!(error.fault(), Fault::Environment);
        let advice = error.advice().unwrap();
        assert!(advice.contains(&format!("ulimit -Hn {needed}")), "{advice}");
    }
}
