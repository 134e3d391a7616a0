//! Heads that a strict parser refuses and clients take: control characters, bare carriage returns,
//! lines that are no field. Whatever could be a field that frames the body has to be exactly right.

use super::ResponseError;
use crate::http1::is_token;

/// Whether the bytes begin as a status line of HTTP/1 does, so that another look at what follows is
/// worth it.
pub(super) fn has_status_line(bytes: &[u8]) -> bool {
    match bytes {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor, b' ', code @ ..] => {
            let mut code = code.trim_ascii_start().iter().take(3);
            minor.is_ascii_digit() && code.all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

/// Writes the whole lines of a head to `clean`, without what a strict parser refuses in them.
/// Returns the length of the head, if its end is there.
///
/// * Control characters in values become spaces, as RFC 9110 section 5.5 has it for those that are
///   dangerous. So do bare carriage returns (RFC 9112 section 2.2).
/// * Lines without a proper name are left out, and so is what begins with white space before the
///   first field (section 2.2). White space before the colon makes a name improper.
/// * A minor version above 1 is read as 1 (RFC 9110 section 2.5).
///
/// # Errors
/// [`ResponseError::BadFraming`] where any of this concerns `Content-Length` or
/// `Transfer-Encoding`.
pub(super) fn clean(bytes: &[u8], clean: &mut Vec<u8>) -> Result<Option<usize>, ResponseError> {
    let mut at = 0;
    // Whether the line before was left out, and whether it was a field that frames the body.
    let (mut left_out, mut frames) = (true, false);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(line_in) = line.strip_suffix(b"\n") else { break };
        let content = line_in.strip_suffix(b"\r").unwrap_or(line_in);
        let is_first = at == 0;
        at += line.len();
        if is_first {
            push(clean, content);
            if clean[7] > b'1' {
                clean[7] = b'1';
            }
            continue;
        }
        if content.is_empty() {
            push(clean, content);
            return Ok(Some(at));
        }
        let is_folded = matches!(content[0], b' ' | b'\t');
        if !is_folded || left_out {
            let name = content.split(|byte| *byte == b':').next().unwrap_or(content);
            let is_proper = name.len() < content.len()
                && !name.is_empty()
                && name.iter().copied().all(is_token);
            frames = could_frame(name, is_proper);
            left_out = !is_proper;
        }
        if frames && (left_out || content.iter().any(|byte| is_refused(*byte))) {
            return Err(ResponseError::BadFraming);
        }
        if !left_out {
            push(clean, content);
        }
    }
    Ok(None)
}

/// Writes a line without control characters, which leaves its length as it is.
fn push(clean: &mut Vec<u8>, line: &[u8]) {
    let harmless = |byte: &u8| if is_refused(*byte) { b' ' } else { *byte };
    clean.extend(line.iter().map(harmless));
    clean.extend_from_slice(b"\r\n");
}

const fn is_refused(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// Whether a name is that of a field that frames the body, or, where it is no proper name, begins
/// like it but for what another reader may pass over.
fn could_frame(name: &[u8], is_proper: bool) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let plain = || {
        let bytes = name.iter().copied().filter(is_of_name);
        bytes.map(|byte| byte.to_ascii_lowercase())
    };
    [&b"content-length"[..], b"transfer-encoding"].iter().any(|field| {
        let most = if is_proper { usize::MAX } else { field.len() };
        plain().take(most).eq(field.iter().copied())
    })
}
