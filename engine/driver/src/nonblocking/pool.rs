//! The buffers that multishot receives fill, where no kernel picks them.

use crate::PoolBuffer;

/// Equal buffers in one block of memory, and which of them are free.
#[derive(Debug, Default)]
pub(super) struct Pool {
    memory: Box<[u8]>,
    buffer_bytes: usize,
    /// How many bytes each buffer was filled with.
    filled: Box<[u32]>,
    free: Vec<u16>,
}

impl Pool {
    pub(super) fn new(count: u16, buffer_bytes: u32) -> Self {
        Self {
            memory: vec![0; usize::from(count) * buffer_bytes as usize].into_boxed_slice(),
            buffer_bytes: buffer_bytes as usize,
            filled: vec![0; usize::from(count)].into_boxed_slice(),
            free: (0..count).rev().collect(),
        }
    }

    /// The buffer that is filled next, if one is free.
    pub(super) fn candidate(&mut self) -> Option<&mut [u8]> {
        let index = usize::from(*self.free.last()?);
        Some(&mut self.memory[index * self.buffer_bytes..][..self.buffer_bytes])
    }

    /// Gives out the candidate, filled with `len` bytes.
    ///
    /// # Panics
    /// When there is no candidate.
    pub(super) fn give_out(&mut self, len: u32) -> PoolBuffer {
        let index = self.free.pop().expect("the candidate was just filled");
        self.filled[usize::from(index)] = len;
        PoolBuffer(index)
    }

    pub(super) fn bytes(&self, buffer: &PoolBuffer) -> &[u8] {
        let index = usize::from(buffer.0);
        &self.memory[index * self.buffer_bytes..][..self.filled[index] as usize]
    }

    pub(super) fn recycle(&mut self, buffer: PoolBuffer) {
        debug_assert!(!self.free.contains(&buffer.0), "recycled twice");
        self.free.push(buffer.0);
    }
}
