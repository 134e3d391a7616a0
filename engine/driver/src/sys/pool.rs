//! The buffers that multishot receives fill, and the ring through which the kernel is given them
//! (`io_uring_register_buf_ring(3)`).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::io::PoolBuffer;

/// The kernel wants the ring of entries page-aligned; 64 KiB is the largest page of the
/// architectures served.
const ALIGN: usize = 64 << 10;

/// A pool of equal buffers. Each is either the kernel's (in the ring of entries, or being filled)
/// or held by the worker; `held` tells which.
pub(super) struct Pool {
    /// `count` entries, then (at `data_offset`) `count` buffers of `len` bytes; from `alloc_zeroed`
    /// with `layout`, freed in `Drop`, nowhere else.
    base: NonNull<u8>,
    layout: Layout,
    data_offset: usize,
    count: u16,
    len: u32,
    tail: u16,
    /// The bytes received, of the buffers that the worker holds.
    held: Vec<Option<u32>>,
}

impl Pool {
    /// A pool with all its buffers the worker's; `None` where `count` is no power of two up to
    /// 2^15, `len` is zero, or the size overflows.
    pub(super) fn new(count: u16, len: u32) -> Option<Self> {
        if !count.is_power_of_two() || len == 0 {
            return None;
        }
        let data_offset = usize::from(count) * size_of::<BufRingEntry>();
        let size = usize::from(count).checked_mul(len as usize)?.checked_add(data_offset)?;
        let layout = Layout::from_size_align(size, ALIGN).ok()?;
        // SAFETY: the layout's size is not zero: it holds at least one entry.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Some(Self {
            base,
            layout,
            data_offset,
            count,
            len,
            tail: 0,
            held: vec![Some(0); usize::from(count)],
        })
    }

    /// The address of the ring of entries, to be registered.
    pub(super) fn ring_address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    pub(super) const fn count(&self) -> u16 {
        self.count
    }

    /// The kernel has filled a buffer: it is the worker's from now on. Only with what a completion
    /// named.
    pub(super) fn filled(&mut self, id: u16, len: u32) -> PoolBuffer {
        let held = &mut self.held[usize::from(id)];
        assert!(held.is_none(), "pool buffer {id} is not the kernel's");
        *held = Some(len.min(self.len));
        PoolBuffer(id)
    }

    pub(super) fn bytes(&self, buffer: &PoolBuffer) -> &[u8] {
        let len = self.held[usize::from(buffer.0)].expect("a pool buffer is read while it is held");
        let data = self.data(buffer.0);
        // SAFETY: `data` is the start of buffer `id` within the allocation, which holds
        // `self.len >= len` bytes there, initialised by `alloc_zeroed` if by nobody else. The
        // worker holds the buffer (just checked), so the kernel does not write to it until `give`,
        // which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(data, len as usize) }
    }

    /// Gives a buffer to the kernel.
    ///
    /// # Panics
    /// When the worker does not hold it.
    #[inline]
    pub(super) fn give(&mut self, id: u16) {
        let held = self.held[usize::from(id)].take();
        assert!(held.is_some(), "pool buffer {id} is not held");
        let data = self.data(id);
        let index = usize::from(self.tail & (self.count - 1));
        let entry = self.base.cast::<BufRingEntry>().as_ptr().wrapping_add(index);
        // SAFETY: `index < count`, so `entry` lies within the allocation, aligned (the base is, and
        // the stride is the entry's size). The kernel does not read this entry: entries at and
        // after the tail are not published, and a buffer was taken from this one before, since only
        // `count` exist. The fields written leave the tail alone, which shares the first entry's
        // memory.
        let entry = unsafe { &mut *entry };
        entry.set_addr(data as u64);
        entry.set_len(self.len);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the base is the address of the first entry of the ring, as `tail` asks.
        let tail = unsafe { BufRingEntry::tail(self.base.cast().as_ptr()) };
        // SAFETY: `tail` points to a live, aligned `u16` in the allocation that this thread
        // accesses only here, atomically, and that the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the entry is written before the kernel sees the new tail.
        tail.store(self.tail, Ordering::Release);
    }

    fn data(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "pool buffer {id} does not exist");
        let offset = self.data_offset + usize::from(id) * self.len as usize;
        self.base.as_ptr().wrapping_add(offset)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: `base` came from `alloc_zeroed` with this layout and is freed nowhere else. The
        // owner (`InFlight::drop`) drops a pool only after the kernel has given up the ring of
        // entries and nothing is in flight, and forgets it otherwise.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
