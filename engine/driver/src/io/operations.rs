//! The operations of a driver that are under way.

use super::Token;
use tare_units::limits::{RING_ENTRIES, SOCKETS_MAX};

/// Operations that one driver may have outstanding at once. Unit tests fill it up, so theirs is
/// smaller.
pub(crate) const OPERATIONS_MAX: u32 = if cfg!(test) { 1 << 16 } else { 1 << 20 };

const _: () = assert!(RING_ENTRIES <= OPERATIONS_MAX);
// Each connection may have a receive and a send outstanding, and its close or a cancel besides.
const _: () = assert!(cfg!(test) || 4 * SOCKETS_MAX <= OPERATIONS_MAX);

/// What a driver keeps of each operation, at a place that the operation has until it is removed; by
/// place and by token.
#[derive(Debug)]
pub(crate) struct Operations<T> {
    entries: Vec<Option<T>>,
    tokens: TokenIndex,
    vacant: Vec<u32>,
}

impl<T> Operations<T> {
    /// With room for so many; more is made as more come.
    pub(crate) fn with_capacity(room: usize) -> Self {
        Self {
            entries: Vec::with_capacity(room),
            tokens: TokenIndex::new(),
            vacant: Vec::with_capacity(room),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }

    #[inline]
    pub(crate) fn insert(&mut self, token: Token, entry: T) -> u32 {
        let place = if let Some(place) = self.vacant.pop() {
            self.entries[place as usize] = Some(entry);
            place
        } else {
            let place = self.entries.len() as u32;
            assert!(place < OPERATIONS_MAX, "more operations than OPERATIONS_MAX");
            self.entries.push(Some(entry));
            place
        };
        self.tokens.insert(place, token);
        place
    }

    #[inline]
    pub(crate) fn remove(&mut self, place: u32) -> T {
        let entry = self.entries[place as usize].take().expect("a place is in use until `remove`");
        self.tokens.remove(place);
        self.vacant.push(place);
        entry
    }

    /// The entry of a place, where it is in use.
    #[inline]
    pub(crate) fn find_place(&self, place: u32) -> Option<&T> {
        self.entries.get(place as usize)?.as_ref()
    }

    #[inline]
    pub(crate) fn get(&self, place: u32) -> &T {
        self.find_place(place).expect("a place is in use until `remove`")
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, place: u32) -> &mut T {
        let entry = self.entries.get_mut(place as usize).and_then(Option::as_mut);
        entry.expect("a place is in use until `remove`")
    }

    /// The token of an operation, even if it was removed just now.
    #[inline]
    pub(crate) fn token(&self, place: u32) -> Token {
        self.tokens.links[place as usize].token
    }

    /// An operation with that token that `wanted` accepts.
    pub(crate) fn find(&self, token: Token, wanted: impl Fn(&T) -> bool) -> Option<u32> {
        self.tokens.find(token, |place| wanted(self.get(place)))
    }

    /// All places that are, or were, in use.
    pub(crate) fn places(&self) -> std::ops::Range<u32> {
        0..self.entries.len() as u32
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }
}

/// No operation.
const NONE: u32 = u32::MAX;
/// In `next`: the place is vacant.
const VACANT: u32 = u32::MAX - 1;
/// Chains at the start; doubled as more operations come.
const CHAINS: usize = 256;

#[derive(Debug, Clone, Copy)]
struct Link {
    token: Token,
    next: u32,
    previous: u32,
}

/// The tokens of operations, which have a number each, and from the token back to the number: a
/// cancel must not search all operations, of which there are as many as connections. A hash table
/// with chains through the operations, so that nothing is allocated once there were as many before.
/// Several may have the same token.
#[derive(Debug)]
struct TokenIndex {
    links: Vec<Link>,
    /// The first of each chain; a power of two.
    heads: Vec<u32>,
}

impl TokenIndex {
    fn new() -> Self {
        Self { links: Vec::with_capacity(CHAINS), heads: vec![NONE; CHAINS] }
    }

    /// Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    #[inline]
    const fn chain(&self, token: Token) -> usize {
        let hash = token.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (hash >> 32) as usize & (self.heads.len() - 1)
    }

    /// Notes an operation. Its number is vacant, and at most one above the highest before.
    #[inline]
    fn insert(&mut self, operation: u32, token: Token) {
        let link = Link { token, next: VACANT, previous: NONE };
        if operation as usize == self.links.len() {
            self.links.push(link);
            if self.links.len() > self.heads.len() {
                self.grow();
            }
        } else {
            self.links[operation as usize] = link;
        }
        self.chain_up(operation);
    }

    #[inline]
    fn chain_up(&mut self, operation: u32) {
        let chain = self.chain(self.links[operation as usize].token);
        let next = std::mem::replace(&mut self.heads[chain], operation);
        if next != NONE {
            self.links[next as usize].previous = operation;
        }
        let link = &mut self.links[operation as usize];
        (link.next, link.previous) = (next, NONE);
    }

    #[cold]
    fn grow(&mut self) {
        let chains = 2 * self.heads.len();
        self.heads.clear();
        self.heads.resize(chains, NONE);
        for operation in 0..self.links.len() {
            if self.links[operation].next != VACANT {
                self.chain_up(operation as u32);
            }
        }
    }

    /// Forgets an operation that was noted.
    #[inline]
    fn remove(&mut self, operation: u32) {
        let link = self.links[operation as usize];
        if link.previous == NONE {
            let chain = self.chain(link.token);
            self.heads[chain] = link.next;
        } else {
            self.links[link.previous as usize].next = link.next;
        }
        if link.next != NONE {
            self.links[link.next as usize].previous = link.previous;
        }
        self.links[operation as usize].next = VACANT;
    }

    fn find(&self, token: Token, wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let mut operation = self.heads[self.chain(token)];
        while operation != NONE {
            let link = self.links[operation as usize];
            if link.token == token && wanted(operation) {
                return Some(operation);
            }
            operation = link.next;
        }
        None
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
            let mut index = TokenIndex::new();
            let mut model: BTreeMap<u32, Token> = BTreeMap::new();
            let mut vacant: Vec<u32> = Vec::new();
            let mut used = 0;
            for (number, inserts) in steps {
                let token = Token(number << 8);
                if inserts || model.is_empty() {
                    let operation = vacant.pop().unwrap_or_else(|| {
                        used += 1;
                        used - 1
                    });
                    index.insert(operation, token);
                    model.insert(operation, token);
                } else {
                    let operation = *model.keys().nth(number as usize % model.len()).unwrap();
                    index.remove(operation);
                    model.remove(&operation);
                    vacant.push(operation);
                }
                let wanted = |operation: u32| !operation.is_multiple_of(3);
                let there = model.iter().any(|(&o, &t)| t == token && wanted(o));
                let found = index.find(token, wanted);
                prop_assert_eq!(found.is_some(), there);
                prop_assert!(found.is_none_or(|o| wanted(o) && model.get(&o) == Some(&token)));
            }
            for (&operation, &token) in &model {
                prop_assert_eq!(index.links[operation as usize].token, token);
                prop_assert_eq!(index.find(token, |o| o == operation), Some(operation));
            }
        }
    }
}
