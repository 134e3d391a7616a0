//! Requests that are sent again, since their connection ended before it answered them.
//!
//! They stay in their place's ring, with the instant at which they were first due, and are the first to be sent on the
//! connection that is opened there next. They count as due once and as sent once.

use super::{Blamed, HttpClient, ProgressSink};
use tare_driver::OpError;
use tare_proto::http1::response::ResponseError;

impl<G: ProgressSink> HttpClient<G> {
    /// Whether a connection that had served before was closed without a byte of a response, as happens when a server ends
    /// a keep-alive while the next request is on its way.
    pub(super) fn is_race(&self, index: u32, blamed: Blamed) -> bool {
        let connection = &self.connections[index as usize];
        let closed = match blamed {
            Blamed::Os(error) => matches!(error, OpError::Reset | OpError::BrokenPipe),
            Blamed::Peer(cause) => cause == ResponseError::EarlyClose.cause(),
            Blamed::Timeout | Blamed::NoLength => false,
        };
        let served = connection.is_open() && connection.answered && connection.awaited() > 0;
        closed && served && connection.reader.is_at_start()
    }

    /// Keeps the requests that were sent on a connection and not answered, to be sent on the next one; whether it does.
    ///
    /// A server that said that it would close has not begun them, whatever they are: every such connection has answered
    /// one at least, so this comes to an end. Otherwise it is not known whether they were begun, and all have to be
    /// idempotent (RFC 9110 section 9.2.2); it is done once for each, so that a server that always closes is not asked
    /// for ever.
    pub(super) fn keeps_requests(&mut self, index: u32, never_begun: bool) -> bool {
        if self.course.is_ending() {
            return false;
        }
        self.unsend(index);
        let connection = &mut self.connections[index as usize];
        let entries = self.spec.requests.entries();
        let may_retry = (0..connection.awaited()).all(|nth| {
            let request = self.requests.at(index, connection, nth);
            !request.retried && entries[usize::from(request.entry)].idempotent
        });
        if !never_begun && !may_retry {
            return false;
        }
        for nth in 0..connection.awaited() {
            let request = self.requests.at(index, connection, nth);
            request.resent = true;
            request.retried |= !never_begun;
        }
        connection.careful |= !never_begun;
        connection.unsent = connection.in_flight;
        true
    }
}
