//! Frames of a stream are the same however the bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tare_proto::frame::{Frame, FrameError, FrameReader};

fn read(pieces: &[&[u8]]) -> (Vec<Frame>, Option<FrameError>) {
    let mut reader = FrameReader::new(4096);
    let mut frames = Vec::new();
    for piece in pieces {
        reader.handle_bytes(piece);
        loop {
            match reader.poll_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (at, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(at).min(bytes.len()));
    assert_eq!(read(&[bytes]), read(&[first, second]));
});
