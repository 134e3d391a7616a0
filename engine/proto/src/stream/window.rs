//! The measured phase of one direction, as one end counts it.

use serde::{Deserialize, Serialize};

use tare_units::limits::INTERVALS_MAX;
use tare_units::{Instant, Nanos};

/// Blocks kept at most; at the end there are between half as many and all of them.
pub const BLOCKS_MAX: usize = 64;
const BLOCK_FIRST: Nanos = Nanos::from_millis(1);

/// Bytes in equal blocks of time, however long it takes: when there are too many, each two become
/// one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Blocks {
    /// Length of a block, nanoseconds.
    pub width_ns: u64,
    /// Bytes of each block; the last one may not be over yet.
    pub bytes: Vec<u64>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { width_ns: BLOCK_FIRST.0, bytes: Vec::with_capacity(BLOCKS_MAX) }
    }
}

impl Blocks {
    /// Adds `bytes` that came `at` after the beginning.
    #[inline]
    pub fn add(&mut self, at: Nanos, bytes: u64) {
        let mut index = at.0 / self.width_ns.max(1);
        while index >= BLOCKS_MAX as u64 {
            self.halve();
            index = at.0 / self.width_ns;
        }
        add_to_entry(&mut self.bytes, index as usize, bytes);
    }

    /// Adds those of another stream of the same time. A stranger's that are not blocks as these are
    /// have no part in it.
    pub fn merge(&mut self, other: &Self) {
        if !self.is_sound() || !other.is_sound() {
            return;
        }
        let mut other = other.clone();
        while self.width_ns < other.width_ns {
            self.halve();
        }
        while other.width_ns < self.width_ns {
            other.halve();
        }
        self.bytes.resize(self.bytes.len().max(other.bytes.len()), 0);
        for (bytes, more) in self.bytes.iter_mut().zip(&other.bytes) {
            *bytes = bytes.saturating_add(*more);
        }
    }

    /// Their width is one that [`Blocks::add`] comes to.
    fn is_sound(&self) -> bool {
        let doubled = self.width_ns / BLOCK_FIRST.0;
        doubled.is_power_of_two() && doubled * BLOCK_FIRST.0 == self.width_ns
    }

    fn halve(&mut self) {
        let count = self.bytes.len();
        for pair in 0..count.div_ceil(2) {
            let second = self.bytes.get(2 * pair + 1).copied().unwrap_or(0);
            self.bytes[pair] = self.bytes[2 * pair].saturating_add(second);
        }
        self.bytes.truncate(count.div_ceil(2));
        self.width_ns = self.width_ns.saturating_mul(2);
    }

    /// Bytes of the blocks that are wholly over after `duration`, those in which nothing came at
    /// its end among them.
    pub fn whole(&self, duration: Nanos) -> Vec<u64> {
        let whole = (duration.0 / self.width_ns.max(1)).min(BLOCKS_MAX as u64) as usize;
        let mut bytes = self.bytes.clone();
        bytes.resize(whole, 0);
        bytes
    }
}

/// Adds to an entry, which may lie behind the last one so far.
#[inline]
fn add_to_entry(entries: &mut Vec<u64>, index: usize, bytes: u64) {
    while entries.len() <= index {
        entries.push(0);
    }
    entries[index] += bytes;
}

/// The measured phase: after the warm-up for a duration, or, with no duration, from the first byte
/// to the last.
#[derive(Debug, Clone)]
pub struct Window {
    warmup: Nanos,
    duration: Nanos,
    began_at: Option<Instant>,
    last_at: Instant,
    bytes: u64,
    blocks: Blocks,
    /// Bytes in entries of a length that was asked for. What lies beyond the last entry there is
    /// room for is added to it.
    series: Vec<u64>,
    interval: Nanos,
    room: usize,
}

impl Window {
    /// For a stream whose measured phase follows `warmup` after the first byte; `duration` is zero
    /// where it lasts to the last.
    pub fn new(warmup: Nanos, duration: Nanos, interval: Nanos) -> Self {
        let interval = Nanos(interval.0.max(1));
        let room = match usize::try_from(duration.0.div_ceil(interval.0)) {
            Ok(wanted @ 1..INTERVALS_MAX) => wanted,
            _ => INTERVALS_MAX,
        };
        Self {
            warmup,
            duration,
            began_at: None,
            last_at: Instant::default(),
            bytes: 0,
            blocks: Blocks::default(),
            series: Vec::with_capacity(room),
            interval,
            room,
        }
    }

    /// The stream begins at `now`.
    pub fn begin(&mut self, now: Instant) {
        if self.began_at.is_none() {
            self.began_at = Some(now + self.warmup);
            self.last_at = now;
        }
    }

    /// It has begun.
    pub const fn has_begun(&self) -> bool {
        self.began_at.is_some()
    }

    /// When the measured phase begins; the far future before the first byte.
    pub fn start(&self) -> Instant {
        self.began_at.unwrap_or(Instant::FAR_FUTURE)
    }

    /// When it ends; the far future where bytes end it.
    pub fn end(&self) -> Instant {
        match self.began_at {
            Some(start) if self.duration > Nanos::ZERO => start + self.duration,
            _ => Instant::FAR_FUTURE,
        }
    }

    /// `now` lies in the measured phase.
    #[inline]
    pub fn contains(&self, now: Instant) -> bool {
        now >= self.start() && now < self.end()
    }

    /// The entry of the series that `now` lies in.
    #[inline]
    pub fn entry(&self, now: Instant) -> usize {
        ((now.since(self.start()).0 / self.interval.0) as usize).min(self.room - 1)
    }

    /// `bytes` were moved at `now`; they count if that lies in the measured phase. Returns whether
    /// it did.
    #[inline]
    pub fn add(&mut self, now: Instant, bytes: u64) -> bool {
        self.begin(now);
        self.last_at = now;
        if !self.contains(now) {
            return false;
        }
        let at = now.since(self.start());
        self.bytes += bytes;
        self.blocks.add(at, bytes);
        let entry = self.entry(now);
        add_to_entry(&mut self.series, entry, bytes);
        true
    }

    /// Bytes of the measured phase so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its length, told at `now`: as asked for if that is over, else what there was of it, to the
    /// last byte where bytes end it.
    pub fn length(&self, now: Instant) -> Nanos {
        let until = if self.duration > Nanos::ZERO { now } else { self.last_at };
        until.min(self.end()).since(self.start())
    }

    /// The blocks and the series.
    pub fn into_parts(self) -> (Blocks, Vec<u64>) {
        (self.blocks, self.series)
    }
}
