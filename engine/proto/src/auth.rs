//! The shared secret: a client shows that it knows it without sending it.
//!
//! The server sends 32 fresh random bytes, the *nonce* (over UDP both ends derive it from the
//! cookie). The client answers with
//!
//! ```text
//! proof = HMAC-SHA256(key: secret, message: "tare/1 proof" || nonce || SHA256(hello body))
//! ```
//!
//! where the hello body is the JSON of the hello exactly as it was sent. So a proof is good for one
//! nonce and one hello. This keeps strangers from making a server work for them. It hides nothing,
//! does not show that the *server* knows the secret, and does not protect what follows from
//! somebody who sits on the path.
//!
//! HMAC: RFC 2104, SHA-256: FIPS 180-4. Proofs and cookies are compared in constant time.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// A shared secret. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// The key from which a server makes its UDP cookies: 32 random bytes, drawn again at each start,
/// known to nobody else. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct CookieKey(pub [u8; 32]);

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(redacted)")
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key)
        .expect("HMAC takes keys of every length (RFC 2104)");
    for part in parts {
        mac.update(part);
    }
    mac
}

fn proof_mac(secret: &Secret, nonce: &[u8; 32], hello_body: &[u8]) -> Hmac<Sha256> {
    let digest = Sha256::digest(hello_body);
    mac(&secret.0, &[b"tare/1 proof", nonce, &digest])
}

/// The proof that the sender of `hello_body` knows `secret`.
pub(crate) fn proof(secret: &Secret, nonce: &[u8; 32], hello_body: &[u8]) -> [u8; 32] {
    proof_mac(secret, nonce, hello_body).finalize().into_bytes().into()
}

/// Whether `proof` is the right one, in constant time.
pub(crate) fn verify(secret: &Secret, nonce: &[u8; 32], hello: &[u8], proof: &[u8; 32]) -> bool {
    proof_mac(secret, nonce, hello).verify_slice(proof).is_ok()
}

/// The nonce of a UDP handshake: `SHA256("tare/1 nonce" || cookie)`.
pub(crate) fn nonce_of_cookie(cookie: &[u8; 32]) -> [u8; 32] {
    Sha256::digest([&b"tare/1 nonce"[..], cookie].concat()).into()
}

fn cookie_mac(key: &CookieKey, from: SocketAddr, slot: u64) -> Hmac<Sha256> {
    let ip = match from.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let port = from.port().to_be_bytes();
    mac(&key.0, &[b"tare/1 cookie", &ip.octets(), &port, &slot.to_be_bytes()])
}

/// The cookie of an address in a time slot: `HMAC-SHA256(key, "tare/1 cookie" || IPv6 or
/// IPv4-mapped address || port || slot)`. Only its maker reads it.
pub(crate) fn cookie(key: &CookieKey, from: SocketAddr, slot: u64) -> [u8; 32] {
    cookie_mac(key, from, slot).finalize().into_bytes().into()
}

/// Whether `cookie` was made for `from` in `slot` or in the one before, in constant time.
pub(crate) fn verify_cookie(
    key: &CookieKey,
    from: SocketAddr,
    slot: u64,
    cookie: &[u8; 32],
) -> bool {
    let good = |slot| cookie_mac(key, from, slot).verify_slice(cookie).is_ok();
    good(slot) || slot.checked_sub(1).is_some_and(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_proof() {
        // Computed apart, with Python's hmac and hashlib.
        let proof = proof(&Secret(b"swordfish".to_vec()), &[0x11; 32], b"{}");
        let hex: String = proof.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "ca27af4e2fafb013d4a613c4e91ac73b41a174474c5bb54bee08a003b9dcf83d");
    }

    #[test]
    fn a_proof_is_good_for_one_secret_nonce_and_hello() {
        let secret = Secret(b"one".to_vec());
        let nonce = [7; 32];
        let right = proof(&secret, &nonce, b"hello");
        assert!(verify(&secret, &nonce, b"hello", &right));
        assert!(!verify(&Secret(b"two".to_vec()), &nonce, b"hello", &right));
        assert!(!verify(&secret, &[8; 32], b"hello", &right));
        assert!(!verify(&secret, &nonce, b"hellp", &right));
        assert!(!verify(&secret, &nonce, b"hello", &[0; 32]));
    }

    #[test]
    fn a_cookie_is_good_for_one_address_and_two_slots() {
        let (key, from) = (CookieKey([3; 32]), "192.0.2.1:5000");
        let made = cookie(&key, from.parse().unwrap(), 9);
        for (key, from, slot, good) in [
            (&key, from, 9, true),
            (&key, from, 10, true),
            (&key, from, 11, false),
            (&key, from, 8, false),
            (&key, from, 0, false),
            (&key, "192.0.2.1:5001", 9, false),
            (&key, "192.0.2.2:5000", 9, false),
            // A dual-stack socket gives the same peer as an IPv4-mapped address.
            (&key, "[::ffff:192.0.2.1]:5000", 9, true),
            (&CookieKey([4; 32]), from, 9, false),
        ] {
            let verified = verify_cookie(key, from.parse().unwrap(), slot, &made);
            assert_eq!(verified, good, "{from} in {slot}");
        }
        assert!(!verify_cookie(&key, from.parse().unwrap(), 0, &[0; 32]));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret(b"abc".to_vec())), "Secret(redacted)");
        assert_eq!(format!("{:?}", CookieKey([0x41; 32])), "CookieKey(redacted)");
    }
}
