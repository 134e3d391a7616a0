//! What a server reads of a connection, in one piece or in two.

use tare_proto::http1::Spare;
use tare_proto::http1::incoming::{Event, RequestReader};

/// Heads, bytes of bodies, requests whose body has ended, and whether it ended in an error.
fn read(pieces: &[&[u8]]) -> (usize, usize, usize, bool) {
    let (mut reader, mut spare) = (RequestReader::new(), Spare::new(1, 1024));
    let (mut heads, mut body, mut ended) = (0, 0, 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let Ok((read, event)) = reader.handle_bytes(rest, &mut spare) else {
                return (heads, body, ended, true);
            };
            match event {
                Some(Event::Head(_)) => heads += 1,
                Some(Event::Body { bytes, last }) => {
                    body += bytes.len();
                    ended += usize::from(last);
                }
                None => assert_eq!(read, rest.len(), "without an event all was read"),
            }
            rest = &rest[read..];
        }
    }
    (heads, body, ended, false)
}

pub fn compare(bytes: &[u8], at: usize) {
    let (first, second) = bytes.split_at(at.min(bytes.len()));
    let (whole, split) = (read(&[bytes]), read(&[first, second]));
    // A head in pieces is parsed at its line ends, so what is wrong with the last line may not be
    // known yet.
    let is_late = whole.3 && !split.3;
    assert_eq!(whole, if is_late { (split.0, split.1, split.2, true) } else { split });
}
