//! Operations by token.

use super::Token;

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

/// The tokens of operations, which have a number each, and from the token back to the number: a cancel must not
/// search all operations, of which there are as many as connections. A hash table with chains through the
/// operations, so that nothing is allocated once there were as many before. Several may have the same token.
#[derive(Debug)]
pub(crate) struct TokenIndex {
    links: Vec<Link>,
    /// The first of each chain; a power of two.
    heads: Vec<u32>,
}

impl TokenIndex {
    pub(crate) fn new() -> Self {
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
    pub(crate) fn insert(&mut self, operation: u32, token: Token) {
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
    pub(crate) fn remove(&mut self, operation: u32) {
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

    /// The token of an operation, even if it was forgotten just now.
    #[inline]
    pub(crate) fn token(&self, operation: u32) -> Token {
        self.links[operation as usize].token
    }

    /// An operation with that token that `wanted` accepts.
    pub(crate) fn find(&self, token: Token, wanted: impl Fn(u32) -> bool) -> Option<u32> {
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
                prop_assert_eq!(index.token(operation), token);
                prop_assert_eq!(index.find(token, |o| o == operation), Some(operation));
            }
        }
    }
}
