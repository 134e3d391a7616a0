//! What a connection may cost the others: for how long, and how much memory.

use super::HttpServer;
use super::connection::Ending;
use crate::limits::HTTP_MEMORY_MAX;
use tare_driver::{Driver, DriverError};
use tare_proto::http1::incoming::RequestError;
use tare_units::bounds::{LINGER, REQUEST_MAX};
use tare_units::{Instant, Nanos};

const LATE: RequestError =
    RequestError { status: 408, reason: "the request was not whole in time" };
/// Connections whose deadlines are looked at in one nap.
const LOOKS: usize = 8192;
/// A send that the kernel has not taken for so long is looked at: its client does not read, or not fast.
const UNREAD_FOR: Nanos = Nanos::from_millis(100);
/// Where memory runs out, connections are closed until they hold no more than that: so the search for them pays.
const MEMORY_LEFT: u64 = HTTP_MEMORY_MAX / 8 * 7;

impl<S> HttpServer<S> {
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
            if self.look == 0 {
                self.end_round(io)?;
            }
            let Some(conn) = &mut self.slots[self.look] else {
                continue;
            };
            let unread_for = if conn.sending { now.since(conn.pushed_at) } else { Nanos::ZERO };
            conn.queued_bytes = if unread_for > UNREAD_FOR {
                io.kernel_bytes(conn.socket()).unwrap_or(0)
            } else {
                0
            };
            self.queued_bytes += conn.queued_bytes;
            // Who waits for a response may be silent, but has to be there.
            let waits = conn.held.is_some() && !conn.ended;
            let is_silent = now.since(conn.active_at) > idle && !waits;
            let is_slow = conn.lent_since.is_some_and(|at| now.since(at) > idle);
            // Bytes that it sends meanwhile do not count as reading.
            let is_stuck = unread_for > idle;
            let is_over = match conn.ending {
                Ending::Lingering(until) => now > until,
                Ending::Closing => false,
                _ => is_silent || is_slow || is_stuck,
            };
            let is_late = conn.since.is_some_and(|since| now.since(since) > request);
            if (is_over || is_late)
                && let Some(mut conn) = self.slots[self.look].take()
            {
                if is_late {
                    conn.input = None;
                    let head = conn.reader.gathered().to_vec();
                    self.desk.refuse(&mut conn, LATE, &head);
                } else if conn.sending {
                    conn.reset(io)?;
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
            conn.pushed_at = now;
            conn.since = conn.since.map(|_| now);
            conn.lent_since = conn.lent_since.map(|_| now);
            if let Ending::Lingering(until) = &mut conn.ending {
                *until = now + LINGER;
            }
        }
    }

    /// All connections were looked at. Where the kernel holds too much for those that do not read, those go that have taken
    /// nothing for longest, so that it has memory for others, here and in other processes.
    fn end_round<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let mut held = std::mem::take(&mut self.queued_bytes);
        if held <= self.queued_max {
            return Ok(());
        }
        let unread = self.slots.iter().flatten();
        let unread = unread.filter(|conn| conn.sending && conn.queued_bytes > 0);
        let mut unread: Vec<(Instant, u32)> =
            unread.map(|conn| (conn.pushed_at, conn.slot())).collect();
        unread.sort_unstable();
        for (_, slot) in unread {
            if held <= self.queued_max / 8 * 7 {
                break;
            }
            if let Some(conn) = &mut self.slots[slot as usize] {
                held = held.saturating_sub(conn.queued_bytes);
                conn.reset(io)?;
                self.memory -= std::mem::take(&mut conn.charged);
            }
        }
        Ok(())
    }

    /// Closes those that have sat on their memory for longest, so that others can be served.
    #[cold]
    pub(super) fn make_room<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let holders = self.slots.iter().flatten().filter(|conn| conn.charged > 0);
        let mut holders: Vec<(Instant, u32)> =
            holders.map(|conn| (conn.stale_since(), conn.slot())).collect();
        holders.sort_unstable();
        for (_, slot) in holders {
            if self.memory <= MEMORY_LEFT {
                break;
            }
            if let Some(conn) = &mut self.slots[slot as usize] {
                if conn.sending {
                    conn.reset(io)?;
                } else {
                    conn.close(io)?;
                }
                self.memory -= std::mem::take(&mut conn.charged);
            }
        }
        Ok(())
    }
}
