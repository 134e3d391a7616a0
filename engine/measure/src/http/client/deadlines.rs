//! What has waited longest, in constant time.

use tare_units::Instant;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
    since: Instant,
}

/// Requests that await a response, or connections that are being connected, in the order in which
/// they began to: a list threaded through an array.
///
/// All have the same timeout, so the order in which they began is the order of the deadlines, and
/// only the first needs to be looked at.
#[derive(Debug)]
pub(super) struct Deadlines {
    links: Vec<Link>,
    first: u32,
    last: u32,
    len: u32,
}

impl Deadlines {
    pub(super) fn new(most: u32) -> Self {
        let alone = Link { before: NONE, after: NONE, since: Instant::FAR_FUTURE };
        Self { links: vec![alone; most as usize], first: NONE, last: NONE, len: 0 }
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// `index` waits since `since`, which is no earlier than since when any other does.
    #[inline]
    pub(super) fn push(&mut self, index: u32, since: Instant) {
        self.remove(index);
        let before = self.last;
        self.links[index as usize] = Link { before, after: NONE, since };
        match self.links.get_mut(before as usize) {
            Some(link) => link.after = index,
            None => self.first = index,
        }
        self.last = index;
        self.len += 1;
    }

    #[inline]
    pub(super) fn remove(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        if link.since == Instant::FAR_FUTURE {
            return;
        }
        link.since = Instant::FAR_FUTURE;
        self.len -= 1;
        let Link { before, after, .. } = *link;
        match self.links.get_mut(before as usize) {
            Some(link) => link.after = after,
            None => self.first = after,
        }
        match self.links.get_mut(after as usize) {
            Some(link) => link.before = before,
            None => self.last = before,
        }
    }

    /// The one that waits longest, and since when.
    #[inline]
    pub(super) fn first(&self) -> Option<(u32, Instant)> {
        let link = self.links.get(self.first as usize)?;
        Some((self.first, link.since))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_queue_from_which_any_can_leave(steps in prop::collection::vec((0u32..8, any::<bool>()), 0..200)) {
            let mut deadlines = Deadlines::new(8);
            let mut model: Vec<(u32, Instant)> = Vec::new();
            for (time, (index, enters)) in steps.into_iter().enumerate() {
                let now = Instant(time as u64);
                model.retain(|(other, _)| *other != index);
                if enters {
                    model.push((index, now));
                    deadlines.push(index, now);
                } else {
                    deadlines.remove(index);
                }
                prop_assert_eq!(deadlines.first(), model.first().copied());
                prop_assert_eq!(deadlines.len() as usize, model.len());
            }
            while let Some((index, _)) = deadlines.first() {
                prop_assert_eq!(index, model.remove(0).0);
                deadlines.remove(index);
            }
            prop_assert!(model.is_empty());
        }
    }
}
