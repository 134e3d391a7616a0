//! The loop of [`Op::SendRepeated`](super::Op::SendRepeated), over whichever call sends.

use nix::errno::Errno;

use super::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repeated {
    /// Whole ones.
    sends: u32,
    bytes: u64,
    /// What ended it after some were sent; the kernel tells it once, so whoever sends next must be
    /// told.
    pub(crate) error: Option<Errno>,
}

impl Repeated {
    /// Sends `len` bytes `count` times, until one is taken in part or not at all.
    ///
    /// # Errors
    /// As `send` answers where nothing was sent before, `EAGAIN` among them.
    #[inline]
    pub(crate) fn run(
        count: u32,
        len: u32,
        mut send: impl FnMut() -> Result<usize, Errno>,
    ) -> Result<Self, Errno> {
        let mut done = Self { sends: 0, bytes: 0, error: None };
        while done.sends < count {
            match send() {
                Ok(taken) => {
                    done.bytes += taken as u64;
                    if taken < len as usize {
                        break;
                    }
                    done.sends += 1;
                }
                Err(errno) if done.sends == 0 => return Err(errno),
                Err(Errno::EAGAIN) => break,
                Err(errno) => {
                    done.error = Some(errno);
                    break;
                }
            }
        }
        Ok(done)
    }

    #[inline]
    pub(crate) const fn outcome(self) -> Outcome {
        Outcome::SentRepeated { sends: self.sends, bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        count: u32,
        answers: &[Result<usize, Errno>],
    ) -> Result<(u32, u64, Option<Errno>), Errno> {
        let mut answers = answers.iter().copied();
        let done = Repeated::run(count, 10, || answers.next().expect("one send too many"))?;
        assert_eq!(answers.next(), None, "one send too few");
        Ok((done.sends, done.bytes, done.error))
    }

    #[test]
    fn it_ends_with_the_count_or_a_full_buffer() {
        assert_eq!(run(0, &[]), Ok((0, 0, None)));
        assert_eq!(run(3, &[Ok(10), Ok(10), Ok(10)]), Ok((3, 30, None)));
        assert_eq!(run(9, &[Ok(10), Ok(4)]), Ok((1, 14, None)), "cut");
        assert_eq!(run(9, &[Ok(3)]), Ok((0, 3, None)), "the first is cut");
        assert_eq!(run(9, &[Ok(10), Err(Errno::EAGAIN)]), Ok((1, 10, None)));
        assert_eq!(run(9, &[Err(Errno::EAGAIN)]), Err(Errno::EAGAIN));
    }

    #[test]
    fn an_error_waits_where_something_was_sent() {
        let reset = Errno::ECONNRESET;
        assert_eq!(run(9, &[Err(reset)]), Err(reset));
        assert_eq!(run(9, &[Ok(10), Err(reset)]), Ok((1, 10, Some(reset))));
    }
}
