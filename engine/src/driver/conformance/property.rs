//! Random operations on a connected pair, against a synchronous oracle.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::streams::pattern;
use super::{Bench, Harness, MODES, Mode, PATIENCE};
use crate::driver::{Driver, Op, OpError, Outcome, Segment, SocketId, Token};
use crate::limits::SEGMENTS_MAX;

const BUFFER: usize = 8192;

#[derive(Debug, Clone, Copy)]
enum Sending {
    Plain,
    ZeroCopy,
    Vectored,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Send(usize, usize, Sending),
    Receive(usize, usize),
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
        Just(Sending::Vectored)
    ];
    prop_oneof![
        6 => (side.clone(), 0..=BUFFER, sending).prop_map(|(s, n, k)| Step::Send(s, n, k)),
        6 => (side.clone(), 0..=BUFFER).prop_map(|(s, n)| Step::Receive(s, n)),
        1 => side.clone().prop_map(Step::HalfClose),
        2 => side.clone().prop_map(Step::CancelReceive),
        1 => side.prop_map(Step::CancelSend),
        6 => Just(Step::Round),
    ]
}

/// One end, and the oracle of what it sends: a queue of the pattern's bytes, by its two counts.
struct End {
    socket: SocketId,
    out: Segment,
    into: Segment,
    /// The operation under way and the bytes it may still move: those it asked for, or none while only the
    /// notification of a zero-copy send is missing.
    sending: Option<(Token, u32)>,
    receiving: Option<(Token, u32)>,
    half_closing: Option<Token>,
    sent: usize,
    received: usize,
    is_half_closed: bool,
    has_seen_end: bool,
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
            sent: 0,
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
            Step::Receive(side, len) => self.receive(side, len),
            Step::HalfClose(side) => {
                let end = &mut self.ends[side];
                let socket = end.socket;
                if end.sending.is_none() && end.half_closing.is_none() && !end.is_half_closed {
                    end.half_closing = Some(self.bench.push(side, Op::HalfClose { socket }));
                }
            }
            Step::CancelReceive(side) => self.cancel(side, self.ends[side].receiving),
            Step::CancelSend(side) => self.cancel(side, self.ends[side].sending),
            Step::Round => self.round(),
        }
    }

    fn cancel(&mut self, side: usize, operation: Option<(Token, u32)>) {
        if let Some((token, _)) = operation {
            self.bench.push(side, Op::Cancel { token });
        }
    }

    fn send(&mut self, side: usize, len: usize, sending: Sending) {
        let end = &mut self.ends[side];
        if end.sending.is_some() || end.half_closing.is_some() {
            return;
        }
        let bytes = pattern(end.sent, len);
        let out = end.out;
        self.bench.driver(side).buffer_mut(out.buffer)[..len].copy_from_slice(&bytes);
        let part = |start: usize, len: usize| Segment {
            start: start as u32,
            len: len as u32,
            ..out
        };
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
            Sending::Plain | Sending::ZeroCopy => Op::Send {
                socket,
                data: part(0, len),
                zero_copy: matches!(sending, Sending::ZeroCopy),
            },
        };
        end.sending = Some((self.bench.push(side, op), len as u32));
    }

    fn receive(&mut self, side: usize, len: usize) {
        let end = &mut self.ends[side];
        if end.receiving.is_none() {
            let into = Segment {
                len: len as u32,
                ..end.into
            };
            let socket = end.socket;
            let op = Op::Receive { socket, into };
            end.receiving = Some((self.bench.push(side, op), len as u32));
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
        if let Some((token, asked)) = end.sending {
            while let Some(completion) = self.bench.try_take(side, token) {
                match completion.outcome {
                    Outcome::Sent(n) => {
                        assert!(n <= asked && (n > 0 || asked == 0), "{n} of {asked}");
                        assert!(!end.is_half_closed || n == 0, "sent after the end");
                        end.sent += n as usize;
                    }
                    Outcome::Failed(OpError::Canceled) | Outcome::Released { .. } => {}
                    Outcome::Failed(OpError::BrokenPipe) => assert!(end.is_half_closed),
                    other => panic!("{other:?}"),
                }
                end.sending = completion.more.then_some((token, 0));
            }
        }
        if let Some(completion) = end.half_closing.and_then(|t| self.bench.try_take(side, t)) {
            assert_eq!(completion.outcome, Outcome::HalfClosed);
            end.is_half_closed = true;
            end.half_closing = None;
        }
    }

    fn settle_receive(&mut self, side: usize) {
        let Some((token, asked)) = self.ends[side].receiving else {
            return;
        };
        let Some(completion) = self.bench.try_take(side, token) else {
            return;
        };
        self.ends[side].receiving = None;
        let (sent, far_is_closed) = {
            let far = &self.ends[1 - side];
            // The bytes of a send may arrive before its completion is handed over.
            let in_flight = far.sending.map_or(0, |(_, asked)| asked as usize);
            (far.sent + in_flight, far.is_half_closed)
        };
        let end = &mut self.ends[side];
        match completion.outcome {
            Outcome::Received(0) if asked == 0 => {}
            Outcome::Received(0) => {
                assert!(far_is_closed, "an end that nobody sent");
                assert_eq!(end.received, sent, "the end comes after the last byte");
                end.has_seen_end = true;
            }
            Outcome::Received(n) => {
                assert!(n <= asked && !end.has_seen_end);
                let bytes = &self.bench.driver(side).buffer(end.into.buffer)[..n as usize];
                assert!(bytes == pattern(end.received, n as usize), "bytes differ");
                end.received += n as usize;
                assert!(end.received <= sent, "received what nobody sent");
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
            // A real wire is given time, not rounds: a zero-copy send is released when its bytes are acknowledged,
            // which the far end may delay by 40 ms, and spinning that is more than any bound on rounds.
            let took = self.bench.harness.now().since(began);
            let is_stuck = if H::SLEEPS {
                took > PATIENCE
            } else {
                rounds > 100_000
            };
            assert!(!is_stuck, "it does not end");
        }
        for side in 0..2 {
            assert_eq!(self.ends[side].received, self.ends[1 - side].sent);
        }
    }
}

pub(super) fn random_operations_match_the_oracle<H: Harness>() {
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
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
