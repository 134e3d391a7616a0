//! Random operations on a connected pair, against a synchronous oracle.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::streams::pattern;
use super::{Bench, Harness, MODES, Mode, PATIENCE};
use crate::{Driver, Op, OpError, Outcome, Segment, SocketId, Token};
use tare_units::limits::SEGMENTS_MAX;

const BUFFER: usize = 8192;

#[derive(Debug, Clone, Copy)]
enum Sending {
    Plain,
    ZeroCopy,
    Vectored,
    Repeated(u32),
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Send(usize, usize, Sending),
    Receive(usize, usize),
    Discard(usize, usize),
    HalfClose(usize),
    CancelReceive(usize),
    CancelSend(usize),
    Round,
}

fn step() -> impl Strategy<Value = Step> {
    let side = 0..2usize;
    let sending = prop_oneof![
        Just(Sending::Plain),
        Just(Sending::ZeroCopy),
        Just(Sending::Vectored),
        (0..5u32).prop_map(Sending::Repeated),
    ];
    prop_oneof![
        6 => (side.clone(), 0..=BUFFER, sending).prop_map(|(s, n, k)| Step::Send(s, n, k)),
        6 => (side.clone(), 0..=BUFFER).prop_map(|(s, n)| Step::Receive(s, n)),
        2 => (side.clone(), 0..=BUFFER).prop_map(|(s, n)| Step::Discard(s, n)),
        1 => side.clone().prop_map(Step::HalfClose),
        2 => side.clone().prop_map(Step::CancelReceive),
        1 => side.prop_map(Step::CancelSend),
        6 => Just(Step::Round),
    ]
}

/// One end, and the oracle of what it sends.
struct End {
    socket: SocketId,
    out: Segment,
    into: Segment,
    /// The operation under way and the bytes it may still move: those it asked for, or none while
    /// only the notification of a zero-copy send is missing.
    sending: Option<(Token, u32)>,
    /// The same of a receive, and whether it discards.
    receiving: Option<(Token, u32, bool)>,
    half_closing: Option<Token>,
    /// All that it has sent, and what the send under way asks for.
    stream: Vec<u8>,
    received: usize,
    is_half_closed: bool,
    has_seen_end: bool,
}

impl End {
    /// Bytes that it has sent for certain.
    fn sent(&self) -> usize {
        let under_way = self.sending.map_or(0, |(_, asked)| asked as usize);
        self.stream.len() - under_way
    }
}

struct Oracle<H: Harness> {
    bench: Bench<H>,
    ends: [End; 2],
}

impl<H: Harness> Oracle<H> {
    fn new(mut bench: Bench<H>) -> Self {
        let pair = bench.pair();
        let mut end = |party, socket| End {
            socket,
            out: bench.buffer(party, BUFFER),
            into: bench.buffer(party, BUFFER),
            sending: None,
            receiving: None,
            half_closing: None,
            stream: Vec::new(),
            received: 0,
            is_half_closed: false,
            has_seen_end: false,
        };
        let ends = [end(0, pair.client), end(1, pair.server)];
        Self { bench, ends }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(side, len, sending) => self.send(side, len, sending),
            Step::Receive(side, len) => self.receive(side, len, false),
            Step::Discard(side, len) => self.receive(side, len, true),
            Step::HalfClose(side) => {
                let end = &mut self.ends[side];
                let socket = end.socket;
                if end.sending.is_none() && end.half_closing.is_none() && !end.is_half_closed {
                    end.half_closing = Some(self.bench.push(side, Op::HalfClose { socket }));
                }
            }
            Step::CancelReceive(side) => {
                let receiving = self.ends[side].receiving.map(|(token, ..)| token);
                self.cancel(side, receiving);
            }
            Step::CancelSend(side) => {
                let sending = self.ends[side].sending.map(|(token, _)| token);
                self.cancel(side, sending);
            }
            Step::Round => self.round(),
        }
    }

    fn cancel(&mut self, side: usize, operation: Option<Token>) {
        if let Some(token) = operation {
            self.bench.push(side, Op::Cancel { token });
        }
    }

    fn send(&mut self, side: usize, len: usize, sending: Sending) {
        let end = &mut self.ends[side];
        if end.sending.is_some() || end.half_closing.is_some() {
            return;
        }
        let bytes = pattern(end.stream.len(), len);
        let times = match sending {
            Sending::Repeated(count) => count,
            _ => 1,
        };
        for _ in 0..times {
            end.stream.extend(&bytes);
        }
        let out = end.out;
        self.bench.driver(side).buffer_mut(out.buffer)[..len].copy_from_slice(&bytes);
        let part =
            |start: usize, len: usize| Segment { start: start as u32, len: len as u32, ..out };
        let socket = end.socket;
        let op = match sending {
            Sending::Vectored => {
                let mut data = [None; SEGMENTS_MAX];
                let third = len / 3;
                data[0] = Some(part(0, third));
                data[1] = Some(part(third, third));
                data[2] = Some(part(2 * third, len - 2 * third));
                Op::SendVectored { socket, data }
            }
            Sending::Repeated(count) => Op::SendRepeated { socket, data: part(0, len), count },
            Sending::Plain | Sending::ZeroCopy => Op::Send {
                socket,
                data: part(0, len),
                zero_copy: matches!(sending, Sending::ZeroCopy),
            },
        };
        end.sending = Some((self.bench.push(side, op), len as u32 * times));
    }

    fn receive(&mut self, side: usize, len: usize, discards: bool) {
        let end = &mut self.ends[side];
        if end.receiving.is_none() {
            let (socket, len) = (end.socket, len as u32);
            let into = Segment { len, ..end.into };
            let op =
                if discards { Op::Discard { socket, len } } else { Op::Receive { socket, into } };
            end.receiving = Some((self.bench.push(side, op), len, discards));
        }
    }

    fn round(&mut self) {
        self.bench.round();
        // Sends first: what was received in this round was sent by its end.
        for side in 0..2 {
            self.settle_sends(side);
        }
        for side in 0..2 {
            self.settle_receive(side);
        }
    }

    fn settle_sends(&mut self, side: usize) {
        let end = &mut self.ends[side];
        while let Some((token, asked)) = end.sending
            && let Some(completion) = self.bench.try_take(side, token)
        {
            let taken = match completion.outcome {
                Outcome::Sent(n) => {
                    assert!(n > 0 || asked == 0, "nothing of {asked}");
                    n
                }
                Outcome::SentRepeated { bytes, .. } => {
                    assert!(bytes > 0 || asked == 0, "nothing of {asked}");
                    u32::try_from(bytes).unwrap()
                }
                Outcome::Failed(OpError::Canceled) | Outcome::Released { .. } => 0,
                Outcome::Failed(OpError::BrokenPipe) => {
                    assert!(end.is_half_closed);
                    0
                }
                other => panic!("{other:?}"),
            };
            assert!(taken <= asked, "{taken} of {asked}");
            assert!(!end.is_half_closed || taken == 0, "sent after the end");
            end.stream.truncate(end.stream.len() - (asked - taken) as usize);
            end.sending = completion.more.then_some((token, 0));
        }
        if let Some(completion) = end.half_closing.and_then(|t| self.bench.try_take(side, t)) {
            assert_eq!(completion.outcome, Outcome::HalfClosed);
            end.is_half_closed = true;
            end.half_closing = None;
        }
    }

    fn settle_receive(&mut self, side: usize) {
        let Some((token, asked, discards)) = self.ends[side].receiving else { return };
        let Some(completion) = self.bench.try_take(side, token) else { return };
        let (first, last) = self.ends.split_at_mut(1);
        let (end, far) = match side {
            0 => (&mut first[0], &last[0]),
            _ => (&mut last[0], &first[0]),
        };
        end.receiving = None;
        match completion.outcome {
            Outcome::Received(0) if asked == 0 => {}
            Outcome::Received(0) => {
                assert!(far.is_half_closed, "an end that nobody sent");
                // What is under way after the end can only fail.
                assert_eq!(end.received, far.sent(), "the end comes after the last byte");
                end.has_seen_end = true;
            }
            Outcome::Received(n) => {
                assert!(n <= asked && !end.has_seen_end);
                // The bytes of a send may arrive before its completion is handed over.
                let sent = far.stream.get(end.received..end.received + n as usize);
                let sent = sent.expect("received what nobody sent");
                let bytes = &self.bench.driver(side).buffer(end.into.buffer)[..n as usize];
                assert!(discards || bytes == sent, "bytes differ");
                end.received += n as usize;
            }
            Outcome::Failed(OpError::Canceled) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Lets everything that was begun come to its end: all that was sent is received, then the end.
    fn finish(mut self) {
        let began = self.bench.harness.now();
        let mut rounds = 0;
        while self.ends.iter().any(|end| !end.has_seen_end) {
            for side in 0..2 {
                self.step(Step::HalfClose(side));
                if !self.ends[side].has_seen_end {
                    self.step(Step::Receive(side, BUFFER));
                }
            }
            self.round();
            rounds += 1;
            // A real wire is given time, not rounds: a zero-copy send is released when its bytes
            // are acknowledged, which the peer may delay by 40 ms, and spinning that is more
            // than any bound on rounds.
            let took = self.bench.harness.now().since(began);
            let is_stuck = if H::SLEEPS { took > PATIENCE } else { rounds > 100_000 };
            assert!(!is_stuck, "it does not end");
        }
        for side in 0..2 {
            assert_eq!(self.ends[side].received, self.ends[1 - side].sent());
        }
    }
}

pub(super) fn random_operations_match_the_oracle<H: Harness>() {
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let modes = proptest::sample::select(MODES.to_vec());
    let steps = proptest::collection::vec(step(), 1..80);
    TestRunner::new(config)
        .run(&(modes, steps), |(mode, steps): (Mode, Vec<Step>)| {
            if let Some(bench) = Bench::<H>::new(mode) {
                let mut oracle = Oracle::new(bench);
                for step in steps {
                    oracle.step(step);
                }
                oracle.finish();
            }
            Ok(())
        })
        .unwrap();
}
