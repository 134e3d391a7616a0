//! The operations of a driver that are under way.

use slab::Slab;

use super::Token;
use tare_units::limits::{RING_ENTRIES, SOCKETS_MAX};

/// Operations that one driver may have outstanding at once. Unit tests fill it up, so theirs is
/// smaller.
pub(crate) const OPERATIONS_MAX: u32 = if cfg!(test) { 1 << 16 } else { 1 << 20 };

const _: () = assert!(RING_ENTRIES <= OPERATIONS_MAX);
// Each connection may have a receive and a send outstanding, and its close or a cancel besides.
const _: () = assert!(cfg!(test) || 4 * SOCKETS_MAX <= OPERATIONS_MAX);

/// No operation.
const NONE: u32 = u32::MAX;
/// Chains at the start; doubled as more operations come.
const CHAINS: usize = 256;

/// What a driver keeps of each operation, by the place that the operation has until it is removed,
/// and by its token: a cancel must not search all operations, of which there are as many as
/// connections. For that a hash table has chains through the operations, so that nothing is
/// allocated once there were as many before. Several may have the same token.
#[derive(Debug)]
pub(crate) struct Operations<T> {
    links: Slab<Link<T>>,
    /// The first of each chain; a power of two.
    heads: Vec<u32>,
}

#[derive(Debug)]
struct Link<T> {
    token: Token,
    next: u32,
    previous: u32,
    entry: T,
}

impl<T> Operations<T> {
    /// With room for so many; more is made as more come.
    pub(crate) fn with_capacity(room: usize) -> Self {
        Self { links: Slab::with_capacity(room), heads: vec![NONE; CHAINS] }
    }

    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    #[inline]
    pub(crate) fn insert(&mut self, token: Token, entry: T) -> u32 {
        let link = Link { token, next: NONE, previous: NONE, entry };
        let place = self.links.insert(link) as u32;
        assert!(place < OPERATIONS_MAX, "more operations than OPERATIONS_MAX");
        if self.links.len() > self.heads.len() {
            self.grow();
        } else {
            self.chain_up(place);
        }
        place
    }

    /// Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    #[inline]
    const fn chain(&self, token: Token) -> usize {
        let hash = token.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (hash >> 32) as usize & (self.heads.len() - 1)
    }

    #[inline]
    fn chain_up(&mut self, place: u32) {
        let chain = self.chain(self.token(place));
        let next = std::mem::replace(&mut self.heads[chain], place);
        if next != NONE {
            self.links[next as usize].previous = place;
        }
        let link = &mut self.links[place as usize];
        (link.next, link.previous) = (next, NONE);
    }

    #[cold]
    fn grow(&mut self) {
        self.heads = vec![NONE; 2 * self.heads.len()];
        for place in self.places() {
            if self.links.contains(place as usize) {
                self.chain_up(place);
            }
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, place: u32) -> T {
        let link = self.links.remove(place as usize);
        if link.previous == NONE {
            let chain = self.chain(link.token);
            self.heads[chain] = link.next;
        } else {
            self.links[link.previous as usize].next = link.next;
        }
        if link.next != NONE {
            self.links[link.next as usize].previous = link.previous;
        }
        link.entry
    }

    /// The entry of a place, where it is in use.
    #[inline]
    pub(crate) fn find_place(&self, place: u32) -> Option<&T> {
        self.links.get(place as usize).map(|link| &link.entry)
    }

    #[inline]
    pub(crate) fn get(&self, place: u32) -> &T {
        &self.links[place as usize].entry
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, place: u32) -> &mut T {
        &mut self.links[place as usize].entry
    }

    #[inline]
    pub(crate) fn token(&self, place: u32) -> Token {
        self.links[place as usize].token
    }

    /// An operation with that token that `wanted` accepts.
    pub(crate) fn find(&self, token: Token, wanted: impl Fn(&T) -> bool) -> Option<u32> {
        let mut place = self.heads[self.chain(token)];
        while place != NONE {
            let link = &self.links[place as usize];
            if link.token == token && wanted(&link.entry) {
                return Some(place);
            }
            place = link.next;
        }
        None
    }

    /// All places that may be in use.
    pub(crate) fn places(&self) -> std::ops::Range<u32> {
        let end = self.links.iter().next_back().map_or(0, |(last, _)| last as u32 + 1);
        0..end
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.links.iter().map(|(_, link)| &link.entry)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_a_search_finds(
            steps in proptest::collection::vec((0u64..400, any::<bool>()), 1..1500),
        ) {
            let mut operations = Operations::with_capacity(1);
            let mut model: BTreeMap<u32, Token> = BTreeMap::new();
            for (number, (token, inserts)) in steps.into_iter().enumerate() {
                let token = Token(token << 8);
                if inserts || model.is_empty() {
                    model.insert(operations.insert(token, number), token);
                } else {
                    let place = *model.keys().nth(number % model.len()).unwrap();
                    operations.remove(place);
                    model.remove(&place);
                }
                let wanted = |number: &usize| !number.is_multiple_of(3);
                let is_one = |place: u32| {
                    model.get(&place) == Some(&token) && wanted(operations.get(place))
                };
                let found = operations.find(token, wanted);
                prop_assert_eq!(found.is_some(), model.keys().any(|&place| is_one(place)));
                prop_assert!(found.is_none_or(is_one));
            }
            for (&place, &token) in &model {
                let entry = *operations.get(place);
                prop_assert_eq!(operations.token(place), token);
                prop_assert_eq!(operations.find(token, |e| *e == entry), Some(place));
            }
        }
    }
}
