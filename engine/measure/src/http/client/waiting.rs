//! How long to wait, and for how much.

use super::{BATCH, BATCH_PAUSE, HttpClient, Late, ProgressSink, REST_LOOK};
pub(crate) use crate::worker::course::Stand;
use tare_proto::hello::WaitMode;
use tare_units::Instant;
use tare_units::bounds::NAP;

impl<G: ProgressSink> HttpClient<G> {
    /// Whether responses are to be gathered before they are acted on.
    pub(super) fn gathers(&self) -> bool {
        self.batches
            && self.batch_pause == 0
            && self.spec.wait == WaitMode::Block
            && self.course.stand != Stand::Ready
            && !self.course.pacer.is_open_loop()
    }

    /// Notes whether gathering was worth its while.
    pub(super) fn judge_batch(&mut self) {
        if self.batch_pause > 0 {
            self.batch_pause -= 1;
        } else if self.gathers() && self.responses < BATCH / 4 {
            self.batch_pause = BATCH_PAUSE;
        }
        (self.responses, self.sends) = (0, 0);
    }

    /// When an arrival is to be seen to: given to a free connection, or dropped because there is none. Were that seen to
    /// later, the connection that is free by then would take what found none.
    pub(super) fn wake_at(&self) -> Instant {
        let wake_at = match self.spec.late {
            Late::Queue => self.course.pacer.wake_at(),
            Late::Drop => self.course.pacer.next_arrival(),
        };
        wake_at.unwrap_or(Instant::FAR_FUTURE)
    }

    /// When the worker has something to do by itself.
    pub(super) fn next_event(&self, now: Instant) -> Instant {
        let due = self.wake_at();
        let phase_end = self.course.phase_end();
        let answer_by = |first: Option<(u32, Instant)>, timeout| {
            first.map_or(Instant::FAR_FUTURE, |(_, since)| since + timeout)
        };
        // Over a Unix socket the last connect may have been done in the submission, and nothing else completes.
        let connect_at = if self.course.stand == Stand::Connecting && self.unsettled == 0 {
            now
        } else {
            self.next_connect().unwrap_or(Instant::FAR_FUTURE)
        };
        let nap = if self.resting.is_empty() { NAP } else { REST_LOOK };
        (now + nap)
            .min(due)
            .min(phase_end)
            .min(answer_by(self.awaiting.first(), self.spec.timeout))
            .min(answer_by(self.connecting.first(), self.spec.connect_timeout))
            .min(connect_at)
    }
}
