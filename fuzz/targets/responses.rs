//! What a client reads of a connection, in one piece or in two.

use tare_proto::http1::response::{ResponseReader, Shared};

/// Status and bytes of each response, and whether it ended in an error.
fn read(pieces: &[&[u8]]) -> (Vec<(u16, u64)>, bool) {
    let (mut reader, mut shared) = (ResponseReader::default(), Shared::new(1, 1024));
    let mut found = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let Ok((read, response)) = reader.handle_bytes(rest, &mut shared) else {
                return (found, true);
            };
            match response {
                Some(response) => found.push((response.status, response.body_bytes)),
                None => assert_eq!(read, rest.len(), "without a response all was read"),
            }
            rest = &rest[read..];
        }
    }
    let last = reader.handle_end(&mut shared);
    found.extend(last.map(|response| (response.status, response.body_bytes)));
    (found, false)
}

pub fn compare(bytes: &[u8], at: usize) {
    let (first, second) = bytes.split_at(at.min(bytes.len()));
    let (whole, split) = (read(&[bytes]), read(&[first, second]));
    // A head in pieces is parsed at its line ends, so what is wrong with the last line may not be
    // known yet.
    let is_late = whole.1 && !split.1;
    assert_eq!(whole, if is_late { (split.0, true) } else { split });
}
