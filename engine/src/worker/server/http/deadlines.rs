//! What a connection may cost the others: for how long, and how much memory.

use super::HttpSide;
use super::connection::Ending;
use crate::bounds::{LINGER, REQUEST_MAX};
use crate::driver::{Driver, DriverError};
use crate::limits::HTTP_MEMORY_MAX;
use crate::proto::http1::incoming::RequestError;
use crate::units::Instant;

const LATE: RequestError = RequestError {
    status: 408,
    reason: "the request was not whole in time",
};
/// Connections whose deadlines are looked at in one nap.
const LOOKS: usize = 8192;
/// Where memory runs out, connections are closed until they hold no more than that: so the search for them pays.
const MEMORY_LEFT: u64 = HTTP_MEMORY_MAX / 8 * 7;

impl<S> HttpSide<S> {
    /// Closes what has been silent for too long, or is too slow at reading what lies in memory for it.
    pub(super) fn check_deadlines<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        let idle = self.settings.idle;
        let request = idle.min(REQUEST_MAX);
        for _ in 0..self.slots.len().min(LOOKS) {
            self.look = (self.look + 1) % self.slots.len();
            let Some(conn) = &self.slots[self.look] else {
                continue;
            };
            // Who waits for a response may be silent, but has to be there.
            let waits = conn.held.is_some() && !conn.ended;
            let is_silent = now.since(conn.active_at) > idle && !waits;
            let is_slow = conn.lent_since.is_some_and(|at| now.since(at) > idle);
            let is_over = match conn.ending {
                Ending::Lingering(until) => now > until,
                Ending::Closing => false,
                _ => is_silent || is_slow,
            };
            let is_late = conn.since.is_some_and(|since| now.since(since) > request);
            if (is_over || is_late)
                && let Some(mut conn) = self.slots[self.look].take()
            {
                if is_late {
                    conn.input = None;
                    let head = conn.reader.gathered().to_vec();
                    self.desk.refuse(&mut conn, LATE, &head);
                } else {
                    conn.close(io)?;
                }
                self.settle(io, conn, now)?;
            }
        }
        Ok(())
    }

    /// Has all deadlines begin anew: no client could meet them while nothing was done here.
    #[cold]
    pub(super) fn begin_deadlines_anew(&mut self, now: Instant) {
        for conn in self.slots.iter_mut().flatten() {
            conn.active_at = now;
            conn.since = conn.since.map(|_| now);
            conn.lent_since = conn.lent_since.map(|_| now);
            if let Ending::Lingering(until) = &mut conn.ending {
                *until = now + LINGER;
            }
        }
    }

    /// Closes those that have sat on their memory for longest, so that others can be served.
    #[cold]
    pub(super) fn make_room<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let holders = self.slots.iter().flatten().filter(|conn| conn.charged > 0);
        let mut holders: Vec<(Instant, u32)> = holders
            .map(|conn| (conn.stale_since(), conn.slot()))
            .collect();
        holders.sort_unstable();
        for (_, slot) in holders {
            if self.memory <= MEMORY_LEFT {
                break;
            }
            if let Some(conn) = &mut self.slots[slot as usize] {
                conn.close(io)?;
                self.memory -= std::mem::take(&mut conn.charged);
            }
        }
        Ok(())
    }
}
