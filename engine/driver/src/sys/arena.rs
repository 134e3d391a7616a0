//! Buffers that are lent to the kernel, and not touched while they are.
//!
//! An [`Arena`] owns heap blocks and counts the loans of each: *shared* for sends, where the
//! borrower only reads, *exclusive* for receives, where it writes. Safe code gets at the bytes only
//! where no loan forbids it, so what the kernel may write is never aliased by a Rust reference.

use std::ptr::NonNull;

use slab::Slab;

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

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `data` is the pointer that `Box::leak` gave in `Arena::allocate`, and this is the only
        // place that turns it back, once, since a dropped block is gone. The arena drops a block
        // only when no loan is out (`Arena::free`, `Arena::drop`), so nobody else holds the memory.
        drop(unsafe { Box::from_raw(self.data.as_ptr()) });
    }
}

/// Blocks by [`BufferId`]; ids of freed blocks are reused.
#[derive(Debug, Default)]
pub(crate) struct Arena(Slab<Block>);

impl Arena {
    /// Allocates a zeroed block of `len` bytes; `None` when ids have run out.
    pub(crate) fn allocate(&mut self, len: usize) -> Option<BufferId> {
        let id = BufferId(u32::try_from(self.0.vacant_key()).ok()?);
        let data = NonNull::from(Box::leak(vec![0u8; len].into_boxed_slice()));
        self.0.insert(Block { data, loan: Loan::None, free_when_released: false });
        Some(id)
    }

    /// Frees a block, at once or at the end of its last loan.
    pub(crate) fn free(&mut self, id: BufferId) {
        let block = self.block_mut(id);
        block.free_when_released = true;
        if block.loan == Loan::None {
            self.0.remove(id.0 as usize);
        }
    }

    #[inline]
    pub(crate) fn bytes(&self, id: BufferId) -> &[u8] {
        let block = self.block(id);
        let is_written = matches!(block.loan, Loan::Exclusive | Loan::Held);
        assert!(!is_written, "buffer {} is lent to a receive", id.0);
        // SAFETY: `data` points to a live, initialised block (`Arena::allocate` zeroed it, and it lives
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
            self.0.remove(id.0 as usize);
        }
    }

    /// The bytes of a range that a driver without a kernel loan (epoll, sim) holds for reading.
    #[inline]
    pub(crate) fn lent_bytes(&self, segment: Segment) -> &[u8] {
        let block = self.block(segment.buffer);
        let is_lent = matches!(block.loan, Loan::Shared(_));
        assert!(is_lent, "buffer {} is not lent to a send", segment.buffer.0);
        // SAFETY: as in `bytes`: the loan is shared, so nobody writes while the reference lives.
        let bytes = unsafe { block.data.as_ref() };
        &bytes[segment.start as usize..][..segment.len as usize]
    }

    #[inline]
    fn address(block: &Block, segment: Segment) -> *mut u8 {
        let (end, len) = (u64::from(segment.start) + u64::from(segment.len), block.data.len());
        assert!(end <= len as u64, "range {segment:?} exceeds a buffer of {len}");
        block.data.as_ptr().cast::<u8>().wrapping_add(segment.start as usize)
    }

    #[inline]
    fn block(&self, id: BufferId) -> &Block {
        self.0.get(id.0 as usize).expect("the buffer id is live")
    }

    #[inline]
    fn block_mut(&mut self, id: BufferId) -> &mut Block {
        self.0.get_mut(id.0 as usize).expect("the buffer id is live")
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Blocks still lent are leaked: the borrower may write into them at any time. A driver
        // drains before it drops its arena, so this is the last resort that `driver`'s contract
        // names.
        for block in self.0.drain() {
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
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn arena_with(len: usize) -> (Arena, BufferId) {
        let mut arena = Arena::default();
        let buffer = arena.allocate(len).unwrap();
        (arena, buffer)
    }

    const fn segment(buffer: BufferId, start: u32, len: u32) -> Segment {
        Segment { buffer, start, len }
    }

    #[test]
    fn a_freed_block_is_reused_only_after_its_loan() {
        let (mut arena, a) = arena_with(8);
        arena.lend_exclusive(segment(a, 0, 8));
        arena.free(a);
        let b = arena.allocate(8).unwrap();
        assert_ne!(a, b, "still lent");
        arena.release(a);
        assert_eq!(arena.allocate(8), Some(a));
    }

    #[test]
    fn sends_may_share_and_still_be_read() {
        let (mut arena, a) = arena_with(4);
        arena.bytes_mut(a).copy_from_slice(b"tare");
        arena.lend_shared(segment(a, 0, 4));
        arena.lend_shared(segment(a, 1, 2));
        assert_eq!(arena.bytes(a), b"tare");
        assert_eq!(arena.lent_bytes(segment(a, 1, 2)), b"ar");
        arena.release(a);
        arena.release(a);
        arena.bytes_mut(a)[0] = b'T';
        assert_eq!(arena.block(a).loan, Loan::None);
    }

    #[test]
    fn a_held_range_is_written_by_its_holder_alone() {
        let (mut arena, a) = arena_with(4);
        arena.hold_exclusive(segment(a, 1, 2));
        arena.held_bytes_mut(segment(a, 1, 2)).copy_from_slice(b"ar");
        assert_ne!(arena.block(a).loan, Loan::None);
        arena.release(a);
        assert_eq!(arena.bytes(a), b"\0ar\0");
    }

    #[test]
    fn touching_a_buffer_against_its_loan_is_a_defect() {
        type Touch = fn(&mut Arena, BufferId);
        let touches: [(&str, Touch); 4] = [
            ("is lent to a receive", |arena, a| {
                arena.hold_exclusive(segment(a, 0, 4));
                let _ = arena.bytes(a);
            }),
            ("is lent to a receive", |arena, a| {
                arena.lend_exclusive(segment(a, 0, 4));
                let _ = arena.bytes(a);
            }),
            ("is not held", |arena, a| {
                arena.lend_exclusive(segment(a, 0, 4));
                let _ = arena.held_bytes_mut(segment(a, 0, 4));
            }),
            ("exceeds a buffer", |arena, a| {
                arena.lend_shared(segment(a, 2, 3));
            }),
        ];
        for (expected, touch) in touches {
            let (mut arena, a) = arena_with(4);
            let panic = catch_unwind(AssertUnwindSafe(|| touch(&mut arena, a))).unwrap_err();
            let message = panic.downcast_ref::<String>().unwrap();
            assert!(message.contains(expected), "{message}");
        }
    }
}
