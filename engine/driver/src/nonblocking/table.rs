//! Operations that are under way, by index.

use crate::limits::OPERATIONS_MAX;
use crate::{Op, OpError, Token, TokenIndex};

/// Operations and sockets for which room is made at the start; more is made as more come.
pub(super) const ROOM: usize = 1024;
/// No operation.
pub(super) const NONE: u32 = u32::MAX;

/// On which list a blocked operation waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Receives, which a spinning driver attempts in every turn.
    Receives,
    /// Accepts, connects and blocked sends.
    Others,
}

impl Lane {
    pub(super) const fn of(op: &Op) -> Self {
        if op.is_single_receive() || matches!(op, Op::ReceiveMultishot { .. }) {
            Self::Receives
        } else {
            Self::Others
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// Pushed, not yet attempted.
    Queued,
    /// Pushed and refused; completes with that in the next turn.
    Refused(OpError),
    /// Attempted, and would have blocked; the place in its lane.
    Parked(Lane, u32),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) op: Op,
    pub(super) state: State,
    /// The turn in which it was attempted last and stayed parked.
    pub(super) tried: u32,
}

/// The operations; indices are reused.
#[derive(Debug)]
pub(super) struct Table {
    entries: Vec<Entry>,
    tokens: TokenIndex,
    vacant: Vec<u32>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::with_capacity(ROOM),
            tokens: TokenIndex::new(),
            vacant: Vec::with_capacity(ROOM),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.vacant.is_empty() && self.entries.len() >= OPERATIONS_MAX as usize
    }

    pub(super) fn insert(&mut self, token: Token, op: Op, state: State, tried: u32) -> u32 {
        let entry = Entry { op, state, tried };
        if let Some(index) = self.vacant.pop() {
            self.entries[index as usize] = entry;
            self.tokens.insert(index, token);
            return index;
        }
        let index = self.entries.len() as u32;
        self.entries.push(entry);
        self.tokens.insert(index, token);
        index
    }

    /// Frees an entry and gives its token.
    pub(super) fn remove(&mut self, index: u32) -> Token {
        self.entries[index as usize].state = State::Free;
        self.vacant.push(index);
        self.tokens.remove(index);
        self.tokens.token(index)
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }

    #[inline]
    pub(super) fn token(&self, index: u32) -> Token {
        self.tokens.token(index)
    }

    /// The started operation that carries `token`.
    pub(super) fn find_started(&self, token: Token) -> Option<u32> {
        self.tokens.find(token, |index| matches!(self.get(index).state, State::Parked(..)))
    }

    /// All operations that are not free.
    pub(super) fn live(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|e| e.state != State::Free)
    }
}
