//! Documents over UDP: fetched in chunks, several at a time, each repeated until it comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::client::{Backoff, Due};
use super::{Chunk, Control, Document, Fetch};
use crate::frame::{self, FrameError, HEADER_LEN, Kind};
use crate::handshake::HandshakeError;
use crate::hello::Refuse;
use tare_units::limits::{CONTROL_DATAGRAM, DOCUMENT_MAX};
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

/// Data in one chunk, bytes (the last one may hold less).
const CHUNK_DATA: usize = 1024;
/// Fetches under way at once: enough to fetch a histogram in few round trips, and no burden for any
/// path.
const WINDOW: usize = 8;
/// The longest head of a chunk, bytes.
const CHUNK_HEAD_MAX: usize = 128;

const _: () = assert!(HEADER_LEN + CHUNK_HEAD_MAX + CHUNK_DATA <= CONTROL_DATAGRAM);

/// The server's answer to a fetch that came as a datagram of full length. `None` where there is
/// nothing to answer: an offset that no client of ours asks for, or a document over
/// [`DOCUMENT_MAX`]. The answer is never longer than the fetch. The document must not change
/// between fetches, and the fetch must come from the address of its session.
#[must_use]
pub fn serve_document(fetch: &Fetch, document: &[u8]) -> Option<Vec<u8>> {
    let start = usize::try_from(fetch.offset).ok()?;
    if document.len() > DOCUMENT_MAX || start > document.len() || start % CHUNK_DATA != 0 {
        return None;
    }
    let head = Chunk {
        session: fetch.session,
        document: fetch.document,
        offset: fetch.offset,
        total: document.len() as u64,
    };
    let mut datagram = frame::encode(Kind::Chunk, &head).ok()?;
    let end = document.len().min(start + CHUNK_DATA);
    datagram.extend_from_slice(&document[start..end]);
    (datagram.len() <= CONTROL_DATAGRAM).then_some(datagram)
}

/// What became of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchEvent {
    /// The whole document: JSON.
    Done(Vec<u8>),
    /// It cannot be had.
    Failed(HandshakeError),
}

/// Fetches one document: the client's end. Gives up when nothing new has come for as long as the
/// timeout.
///
/// * `handle_datagram`, `handle_timeout`
/// * `poll_transmit` (call it until it gives none), `poll_timeout`, `poll_event`
#[derive(Debug)]
pub struct DocumentFetch {
    session: Id,
    document: Document,
    timeout: Nanos,
    /// Length of the document, once the first chunk has told it.
    total: Option<usize>,
    chunks: BTreeMap<usize, Vec<u8>>,
    /// Offsets that were asked for, and have not come.
    under_way: BTreeSet<usize>,
    /// The first offset that was never asked for.
    next: usize,
    transmit: VecDeque<usize>,
    backoff: Backoff,
    over: bool,
    event: Option<FetchEvent>,
}

impl DocumentFetch {
    /// Begins: the first fetch is there to be sent.
    #[must_use]
    pub fn new(session: Id, document: Document, now: Instant, timeout: Nanos) -> Self {
        Self {
            session,
            document,
            timeout,
            total: None,
            chunks: BTreeMap::new(),
            under_way: BTreeSet::from([0]),
            next: CHUNK_DATA,
            transmit: VecDeque::from([0]),
            backoff: Backoff::new(now, timeout),
            over: false,
            event: None,
        }
    }

    /// This datagram came from the server's address. What does not belong to this document is
    /// ignored.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        if self.over {
            return;
        }
        let outcome = match Control::decode(datagram) {
            Ok(control) if control.kind == Kind::Chunk => self.handle_chunk(&control, now),
            Ok(control) if control.kind == Kind::Refuse => {
                frame::read_body::<Refuse>(control.kind, control.body)
                    .map(|refuse| Err(HandshakeError::Refused(refuse.cleaned())))
                    .unwrap_or(Ok(()))
            }
            Err(FrameError::Version(theirs)) => Err(HandshakeError::Version(theirs)),
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            self.end(FetchEvent::Failed(error));
        }
    }

    fn handle_chunk(&mut self, control: &Control<'_>, now: Instant) -> Result<(), HandshakeError> {
        let chunk: Chunk = frame::read_body(control.kind, control.body)?;
        if (chunk.session, chunk.document) != (self.session, self.document) {
            return Ok(());
        }
        let wrong = |what: &str| Err(HandshakeError::Malformed(what.into()));
        let total = match usize::try_from(chunk.total) {
            Ok(total) if total <= DOCUMENT_MAX => total,
            _ => return wrong("it offers a document that is too long"),
        };
        if *self.total.get_or_insert(total) != total {
            return wrong("its document changed while it was fetched");
        }
        let Some(offset) =
            usize::try_from(chunk.offset).ok().filter(|offset| self.under_way.contains(offset))
        else {
            return Ok(());
        };
        if control.tail.len() != total.saturating_sub(offset).min(CHUNK_DATA) {
            return wrong("it sent a chunk of the wrong length");
        }
        self.under_way.remove(&offset);
        self.chunks.insert(offset, control.tail.to_vec());
        if self.document == Document::Environment {
            // Small, and not worth waiting for while it trickles in.
            self.backoff.start_over(now);
        } else {
            self.backoff.progress(now);
        }
        while self.next < total && self.under_way.len() < WINDOW {
            self.under_way.insert(self.next);
            self.transmit.push_back(self.next);
            self.next += CHUNK_DATA;
        }
        if self.under_way.is_empty() {
            let chunks = std::mem::take(&mut self.chunks);
            self.end(FetchEvent::Done(chunks.into_values().flatten().collect()));
        }
        Ok(())
    }

    /// It is later than [`Self::poll_timeout`] told (or not: then nothing happens).
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.over {
            return;
        }
        match self.backoff.due(now) {
            Due::Nothing => {}
            Due::Repeat => self.transmit = self.under_way.iter().copied().collect(),
            Due::GiveUp => self.end(FetchEvent::Failed(HandshakeError::TimedOut {
                after: self.timeout,
                answered: true,
            })),
        }
    }

    fn end(&mut self, event: FetchEvent) {
        self.over = true;
        self.transmit.clear();
        self.event = Some(event);
    }

    /// The datagram to be sent next.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let offset = self.transmit.pop_front()? as u64;
        Some(Fetch { session: self.session, document: self.document, offset }.encode())
    }

    /// When [`Self::handle_timeout`] wants to be called; `None` once it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.over).then(|| self.backoff.next())
    }

    /// What became of it, once it is known.
    pub fn poll_event(&mut self) -> Option<FetchEvent> {
        self.event.take()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, TIMEOUT, from, front};
    use super::super::{FrontAction, UdpServerFront};
    use super::*;
    use proptest::prelude::*;

    /// Fetches `document` over a wire that loses and doubles datagrams as told; gives how it ended
    /// and how long it took.
    fn fetch(document: &[u8], lost: &[usize], twice: bool) -> (Option<FetchEvent>, Nanos) {
        let front = front(None);
        let mut machine = DocumentFetch::new(Id(5), Document::Figures, NOW, TIMEOUT);
        let (mut now, mut sent) = (NOW, 0);
        for _ in 0..10_000 {
            let mut answers = Vec::new();
            while let Some(datagram) = machine.poll_transmit() {
                let FrontAction::Fetch(wanted) = front.handle_datagram(&datagram, from(), now)
                else {
                    panic!("no fetch");
                };
                let answer = serve_document(&wanted, document).unwrap();
                assert!(answer.len() <= datagram.len());
                if !lost.contains(&sent) {
                    answers.extend(vec![answer; 1 + usize::from(twice)]);
                }
                sent += 1;
            }
            // Answers overtake each other.
            answers.iter().rev().for_each(|answer| machine.handle_datagram(answer, now));
            match (machine.poll_timeout(), answers.is_empty()) {
                (None, _) => break,
                (Some(at), true) => {
                    now = at;
                    machine.handle_timeout(now);
                }
                _ => {}
            }
        }
        (machine.poll_event(), now.since(NOW))
    }

    #[test]
    fn documents_of_every_length_arrive() {
        for len in [0, 1, 1023, 1024, 1025, 9 * 1024, 60_001, DOCUMENT_MAX] {
            let document: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            assert_eq!(
                fetch(&document, &[], true),
                (Some(FetchEvent::Done(document)), Nanos(0)),
                "{len}"
            );
        }
    }

    #[test]
    fn a_fetch_gives_up_only_when_nothing_comes() {
        let all: Vec<usize> = (0..100).collect();
        let (event, took) = fetch(b"{}", &all, false);
        let Some(FetchEvent::Failed(error)) = event else { panic!("{event:?}") };
        assert_eq!(
            error.into_error("h:7117").to_string(),
            "h:7117 stopped answering for 2 s; see what the server logged, or give a longer --timeout"
        );
        assert_eq!(took, TIMEOUT);
    }

    #[test]
    fn chunks_that_do_not_fit_together_end_the_fetch() {
        let fetched = |datagrams: &[Vec<u8>]| {
            let mut machine = DocumentFetch::new(Id(5), Document::Figures, NOW, TIMEOUT);
            datagrams.iter().for_each(|datagram| machine.handle_datagram(datagram, NOW));
            machine.poll_event()
        };
        let wanted = Fetch { session: Id(5), document: Document::Figures, offset: 0 };
        let chunk = |fetch: Fetch, len| serve_document(&fetch, &vec![b'x'; len]).unwrap();
        let failed = |datagrams: &[Vec<u8>]| match fetched(datagrams) {
            Some(FetchEvent::Failed(HandshakeError::Malformed(what))) => what,
            other => panic!("{other:?}"),
        };
        let second = Fetch { offset: 1024, ..wanted };
        assert_eq!(
            failed(&[chunk(wanted, 3000), chunk(second, 4000)]),
            "its document changed while it was fetched"
        );
        let mut cut = chunk(wanted, 3000);
        cut.pop();
        assert_eq!(failed(&[cut]), "it sent a chunk of the wrong length");
        let huge = Chunk { session: Id(5), document: Document::Figures, offset: 0, total: 1 << 40 };
        assert_eq!(
            failed(&[frame::encode(Kind::Chunk, &huge).unwrap()]),
            "it offers a document that is too long"
        );
        assert_eq!(
        fetched(&[UdpServerFront::unknown_session()]).map(|event| match event {
            FetchEvent::Failed(error) => error.into_error("h:7117").to_string(),
            FetchEvent::Done(_) => String::new(),
        }),
        Some(
            "h:7117 refused: the server does not know this session: it was restarted, or the session expired; run \
             the measurement again; behind a load balancer, give a server's own address"
                .into()
        )
    );
        // Of another session, of another document, and never asked for: ignored.
        let other = Fetch { session: Id(6), ..wanted };
        let environment = Fetch { document: Document::Environment, ..wanted };
        assert_eq!(fetched(&[chunk(other, 10), chunk(environment, 10), chunk(second, 3000)]), None);
    }

    #[test]
    fn fetches_out_of_bounds_are_not_answered() {
        let at = |offset| Fetch { session: Id(5), document: Document::Figures, offset };
        assert_eq!(serve_document(&at(1), &[0; 4096]), None);
        assert_eq!(serve_document(&at(8192), &[0; 4096]), None);
        assert_eq!(serve_document(&at(u64::MAX), &[0; 4096]), None);
        assert_eq!(serve_document(&at(0), &vec![0; DOCUMENT_MAX + 1]), None);
        assert!(serve_document(&at(4096), &[0; 4096]).is_some());
    }

    proptest! {
        #[test]
        fn fetches_survive_loss(len in 0usize..20_000, lost in prop::collection::vec(0usize..30, 0..6)) {
            // A chunk is asked for six times within the timeout, so five losses never end a fetch.
            let document = vec![b'd'; len];
            let (event, _) = fetch(&document, &lost, false);
            prop_assert_eq!(event, Some(FetchEvent::Done(document)));
        }
    }
}
