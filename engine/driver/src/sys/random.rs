//! Random bytes from the kernel.
//!
//! The system call, and not a crate: those look the C function up at run time, which a static
//! binary cannot, and fall back to `/dev/urandom`, which an image from scratch may not have.

use tare_units::error::{Error, Result};

/// `N` bytes that nobody can guess.
///
/// # Errors
/// An environment error where the kernel has no `getrandom` (before Linux 3.17), or a sandbox
/// denies it.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    const { assert!(N <= 256, "getrandom gives up to 256 bytes whole") };
    let mut bytes = [0u8; N];
    // SAFETY: the pointer and the length are those of `bytes`, which lives and is not otherwise
    // used until the call returns; the kernel writes at most that many bytes.
    let written = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    if usize::try_from(written) == Ok(N) {
        return Ok(bytes);
    }
    let errno = nix::errno::Errno::last();
    Err(Error::environment(format!("no random bytes from the kernel: getrandom: {}", errno.desc())))
}

/// A number that nobody can guess.
///
/// # Errors
/// As [`bytes`].
pub fn number() -> Result<u64> {
    bytes().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_draws_differ() {
        assert_ne!(super::bytes::<32>().unwrap(), super::bytes::<32>().unwrap());
    }
}
