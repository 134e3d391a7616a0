//! What a receiver of datagrams can tell of them: which came, came late, came twice, and how
//! evenly.

use tare_units::{Instant, Nanos};

/// Sequence numbers back from the highest within which a second coming is known from a late first:
/// 65,536.
const MEMORY: u64 = 1 << 16;

/// The datagrams of one direction as they arrive.
///
/// *Reordered* is what RFC 4737, section 3.3 calls so: a datagram with a smaller sequence number
/// than one that came before it. *Jitter* is the smoothed difference of transit times of RFC 3550,
/// section 6.4.1, J += (|D| − J)/16, in nanoseconds instead of timestamp units; the clocks of the
/// two ends need not agree, since only differences count.
#[derive(Debug, Clone)]
pub struct Arrivals {
    /// The next sequence number above all that came.
    next: u64,
    seen: Box<[u64; (MEMORY / 64) as usize]>,
    received: u64,
    reordered: u64,
    duplicated: u64,
    jitter_ns: f64,
    timed: u64,
    last_transit: Option<i128>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            next: 0,
            seen: Box::new([0; (MEMORY / 64) as usize]),
            received: 0,
            reordered: 0,
            duplicated: 0,
            jitter_ns: 0.0,
            timed: 0,
            last_transit: None,
        }
    }
}

impl Arrivals {
    /// The memory that it takes beside itself, bytes.
    pub const BYTES: usize = MEMORY as usize / 8;

    /// Forgets the counts and goes on with what is known of the sequence: the measured phase
    /// begins.
    pub fn restart_counts(&mut self) {
        (self.received, self.reordered, self.duplicated) = (0, 0, 0);
        (self.jitter_ns, self.timed, self.last_transit) = (0.0, 0, None);
    }

    /// A datagram came. Returns whether it came for the first time, as far as is remembered: one
    /// that is older than 65,536 others counts as late, not as double.
    #[inline]
    pub fn handle(&mut self, sequence: u64) -> bool {
        let (word, bit) = Self::place(sequence);
        if sequence >= self.next {
            self.forget_until(sequence);
            self.next = sequence + 1;
            self.seen[word] |= bit;
        } else {
            if self.next - sequence <= MEMORY {
                if self.seen[word] & bit != 0 {
                    self.duplicated += 1;
                    return false;
                }
                self.seen[word] |= bit;
            }
            self.reordered += 1;
        }
        self.received += 1;
        true
    }

    /// It had been sent at `sent_at` by the sender's clock, and came at `now` by this one's.
    #[inline]
    pub fn handle_transit(&mut self, sent_at: Instant, now: Instant) {
        let transit = i128::from(now.0) - i128::from(sent_at.0);
        if let Some(last) = self.last_transit.replace(transit) {
            let difference = (transit - last).unsigned_abs() as f64;
            self.jitter_ns += (difference - self.jitter_ns) / 16.0;
            self.timed += 1;
        }
    }

    const fn place(sequence: u64) -> (usize, u64) {
        let place = sequence % MEMORY;
        ((place / 64) as usize, 1 << (place % 64))
    }

    /// Clears the marks of the numbers from `next` up to `sequence`, whose places older ones held.
    #[inline]
    fn forget_until(&mut self, sequence: u64) {
        if sequence - self.next >= MEMORY {
            self.seen.fill(0);
            return;
        }
        // By words: a peer that skips as many as it may in each datagram must not cost a step for
        // each of them.
        let mut passed = self.next;
        while passed <= sequence {
            let (word, bit) = Self::place(passed);
            let left = sequence - passed + 1;
            if bit == 1 && left >= 64 {
                self.seen[word] = 0;
                passed += 64;
            } else {
                self.seen[word] &= !bit;
                passed += 1;
            }
        }
    }

    /// Datagrams that came, each once.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Those of them that came after one sent later.
    pub const fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Datagrams that came again.
    pub const fn duplicated(&self) -> u64 {
        self.duplicated
    }

    /// Interarrival jitter; `None` before the second datagram that tells its time.
    pub fn jitter(&self) -> Option<Nanos> {
        (self.timed > 0).then(|| Nanos(self.jitter_ns.round() as u64))
    }
}
