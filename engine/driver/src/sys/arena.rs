//! Buffers that are lent to the kernel, and not touched while they are.
//!
//! An [`Arena`] owns heap blocks and counts the loans of each: *shared* for sends, where the
//! borrower only reads, *exclusive* for receives, where it writes. Safe code gets at the bytes only
//! where no loan forbids it, so what the kernel may write is never aliased by a Rust reference.

use std::ptr::NonNull;

use crate::io::{BufferId, Segment};

/// Who may touch a block besides the arena's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loan {
    None,
    /// That many readers.
    Shared(u32),
    /// One writer, who knows the address.
    Exclusive,
    /// One writer, who has no address and writes through [`Arena::held_bytes_mut`].
    Held,
}

/// One heap block. `data` came from `Box::into_raw` and is turned back in `Drop`, nowhere else.
#[derive(Debug)]
struct Block {
    data: NonNull<[u8]>,
    loan: Loan,
    free_when_released: bool,
}

impl Block {
    fn new(len: usize) -> Self {
        let data = NonNull::from(Box::leak(vec![0u8; len].into_boxed_slice()));
        Self { data, loan: Loan::None, free_when_released: false }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `data` is the pointer that `Box::leak` gave in `Block::new`, and this is the only
        // place that turns it back, once, since a dropped block is gone. The arena drops a block
        // only when no loan is out (`Arena::free`, `Arena::drop`), so nobody else holds the memory.
        drop(unsafe { Box::from_raw(self.data.as_ptr()) });
    }
}

/// Blocks by [`BufferId`]; ids of freed blocks are reused.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    blocks: Vec<Option<Block>>,
    vacant: Vec<u32>,
}

impl Arena {
    /// Allocates a zeroed block of `len` bytes; `None` when ids have run out.
    pub(crate) fn allocate(&mut self, len: usize) -> Option<BufferId> {
        let block = Some(Block::new(len));
        if let Some(index) = self.vacant.pop() {
            self.blocks[index as usize] = block;
            return Some(BufferId(index));
        }
        let index = u32::try_from(self.blocks.len()).ok()?;
        self.blocks.push(block);
        Some(BufferId(index))
    }

    /// Frees a block, at once or at the end of its last loan.
    pub(crate) fn free(&mut self, id: BufferId) {
        let block = self.block_mut(id);
        if block.loan == Loan::None {
            self.blocks[id.0 as usize] = None;
            self.vacant.push(id.0);
        } else {
            block.free_when_released = true;
        }
    }

    #[inline]
    pub(crate) fn bytes(&self, id: BufferId) -> &[u8] {
        let block = self.block(id);
        assert!(
            !matches!(block.loan, Loan::Exclusive | Loan::Held),
            "buffer {} is lent to a receive",
            id.0
        );
        // SAFETY: `data` points to a live, initialised block (`Block::new` zeroed it, and it lives
        // until `Drop`). No one writes to it while the returned reference lives: there is no
        // exclusive loan (just checked), and to make one, or a `&mut` to the bytes, takes `&mut
        // self`, which the borrow forbids.
        unsafe { block.data.as_ref() }
    }

    /// The bytes of a block, to be written.
    #[inline]
    pub(crate) fn bytes_mut(&mut self, id: BufferId) -> &mut [u8] {
        let block = self.block_mut(id);
        assert!(block.loan == Loan::None, "buffer {} is lent", id.0);
        // SAFETY: as in `bytes`, and no loan of either kind is out (just checked), so nobody else
        // reads or writes the block; `&mut self` keeps it so for as long as the reference lives.
        unsafe { block.data.as_mut() }
    }

    /// Lends a range for reading and gives its address. Ends with [`Arena::release`].
    ///
    /// The address stays valid, and the bytes unchanged, until the loan is released.
    #[inline]
    pub(crate) fn lend_shared(&mut self, segment: Segment) -> *const u8 {
        let block = self.block_mut(segment.buffer);
        block.loan = match block.loan {
            Loan::None => Loan::Shared(1),
            Loan::Shared(n) => Loan::Shared(n + 1),
            Loan::Exclusive | Loan::Held => {
                panic!("buffer {} is lent to a receive", segment.buffer.0)
            }
        };
        Self::address(block, segment).cast_const()
    }

    /// Lends a range for writing and gives its address. Ends with [`Arena::release`].
    ///
    /// The address stays valid, and the bytes untouched by Rust, until the loan is released.
    #[inline]
    pub(crate) fn lend_exclusive(&mut self, segment: Segment) -> *mut u8 {
        let block = self.block_mut(segment.buffer);
        assert!(block.loan == Loan::None, "buffer {} is lent already", segment.buffer.0);
        block.loan = Loan::Exclusive;
        Self::address(block, segment)
    }

    /// Lends a range for writing to a driver that has no kernel behind it (epoll, sim): no address
    /// leaves the arena. Ends with [`Arena::release`].
    #[inline]
    pub(crate) fn hold_exclusive(&mut self, segment: Segment) {
        let _ = self.lend_exclusive(segment);
        self.block_mut(segment.buffer).loan = Loan::Held;
    }

    /// The bytes of a range that is held for writing.
    #[inline]
    pub(crate) fn held_bytes_mut(&mut self, segment: Segment) -> &mut [u8] {
        let block = self.block_mut(segment.buffer);
        assert!(block.loan == Loan::Held, "buffer {} is not held by a receive", segment.buffer.0);
        // SAFETY: as in `bytes_mut`: the loan is one of `hold_exclusive`, which gives its address
        // to nobody and excludes every other loan, so this reference is the only way to the bytes
        // while it lives.
        let bytes = unsafe { block.data.as_mut() };
        &mut bytes[segment.start as usize..][..segment.len as usize]
    }

    #[inline]
    pub(crate) fn release(&mut self, id: BufferId) {
        let block = self.block_mut(id);
        block.loan = match block.loan {
            Loan::Shared(n) if n > 1 => Loan::Shared(n - 1),
            Loan::Shared(_) | Loan::Exclusive | Loan::Held => Loan::None,
            Loan::None => panic!("buffer {} is not lent", id.0),
        };
        if block.loan == Loan::None && block.free_when_released {
            self.blocks[id.0 as usize] = None;
            self.vacant.push(id.0);
        }
    }

    /// The bytes of a range that a driver without a kernel loan (epoll, sim) holds for reading.
    #[inline]
    pub(crate) fn lent_bytes(&self, segment: Segment) -> &[u8] {
        let block = self.block(segment.buffer);
        assert!(
            matches!(block.loan, Loan::Shared(_)),
            "buffer {} is not lent to a send",
            segment.buffer.0
        );
        // SAFETY: as in `bytes`: the loan is shared, so nobody writes while the reference lives.
        let bytes = unsafe { block.data.as_ref() };
        &bytes[segment.start as usize..][..segment.len as usize]
    }

    #[inline]
    fn address(block: &Block, segment: Segment) -> *mut u8 {
        let end = u64::from(segment.start) + u64::from(segment.len);
        assert!(
            end <= block.data.len() as u64,
            "range {segment:?} exceeds a buffer of {}",
            block.data.len()
        );
        block.data.as_ptr().cast::<u8>().wrapping_add(segment.start as usize)
    }

    #[inline]
    fn block(&self, id: BufferId) -> &Block {
        self.blocks.get(id.0 as usize).and_then(Option::as_ref).expect("the buffer id is live")
    }

    #[inline]
    fn block_mut(&mut self, id: BufferId) -> &mut Block {
        self.blocks.get_mut(id.0 as usize).and_then(Option::as_mut).expect("the buffer id is live")
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Blocks still lent are leaked: the borrower may write into them at any time. A driver
        // drains before it drops its arena, so this is the last resort that `driver`'s contract
        // names.
        for block in self.blocks.drain(..).flatten() {
            if block.loan == Loan::None {
                drop(block);
            } else {
                std::mem::forget(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(buffer: BufferId, start: u32, len: u32) -> Segment {
        Segment { buffer, start, len }
    }

    fn any_lent(arena: &Arena) -> bool {
        arena.blocks.iter().flatten().any(|b| b.loan != Loan::None)
    }

    #[test]
    fn a_freed_block_is_reused_only_after_its_loan() {
        let mut arena = Arena::default();
        let a = arena.allocate(8).unwrap();
        arena.lend_exclusive(segment(a, 0, 8));
        arena.free(a);
        let b = arena.allocate(8).unwrap();
        assert_ne!(a, b, "still lent");
        arena.release(a);
        assert_eq!(arena.allocate(8), Some(a));
    }

    #[test]
    fn sends_may_share_and_still_be_read() {
        let mut arena = Arena::default();
        let a = arena.allocate(4).unwrap();
        arena.bytes_mut(a).copy_from_slice(b"tare");
        arena.lend_shared(segment(a, 0, 4));
        arena.lend_shared(segment(a, 1, 2));
        assert_eq!(arena.bytes(a), b"tare");
        assert_eq!(arena.lent_bytes(segment(a, 1, 2)), b"ar");
        arena.release(a);
        arena.release(a);
        arena.bytes_mut(a)[0] = b'T';
        assert!(!any_lent(&arena));
    }

    #[test]
    fn a_held_range_is_written_by_its_holder_alone() {
        let mut arena = Arena::default();
        let a = arena.allocate(4).unwrap();
        arena.hold_exclusive(segment(a, 1, 2));
        arena.held_bytes_mut(segment(a, 1, 2)).copy_from_slice(b"ar");
        assert!(any_lent(&arena));
        arena.release(a);
        assert_eq!(arena.bytes(a), b"\0ar\0");
    }

    #[test]
    #[should_panic(expected = "lent to a receive")]
    fn a_held_buffer_cannot_be_read() {
        let mut arena = Arena::default();
        let a = arena.allocate(4).unwrap();
        arena.hold_exclusive(segment(a, 0, 4));
        let _ = arena.bytes(a);
    }

    #[test]
    #[should_panic(expected = "is not held")]
    fn a_range_whose_address_was_given_away_is_not_written_here() {
        let mut arena = Arena::default();
        let a = arena.allocate(4).unwrap();
        arena.lend_exclusive(segment(a, 0, 4));
        let _ = arena.held_bytes_mut(segment(a, 0, 4));
    }

    #[test]
    #[should_panic(expected = "lent to a receive")]
    fn a_buffer_being_received_into_cannot_be_read() {
        let mut arena = Arena::default();
        let a = arena.allocate(4).unwrap();
        arena.lend_exclusive(segment(a, 0, 4));
        let _ = arena.bytes(a);
    }

    #[test]
    #[should_panic(expected = "exceeds a buffer")]
    fn a_range_beyond_the_buffer_is_a_defect() {
        let mut arena = Arena::default();
        let a = arena.allocate(4).unwrap();
        arena.lend_shared(segment(a, 2, 3));
    }
}
