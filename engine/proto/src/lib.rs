//! The wire protocol, both ends of it, without I/O: no socket, no thread, no clock. Time is an
//! argument.
//!
//! What follows, with the messages' fields in [`hello`], is all that a second implementation needs.
//! Numbers are big-endian, sizes are in bytes, times in nanoseconds. The bounds are those of
//! [`tare_units::limits`].
//!
//! # One port
//!
//! A server listens on one TCP port and on the UDP port of the same number, by default
//! [`DEFAULT_PORT`](tare_units::limits::DEFAULT_PORT). The client opens every connection; each one
//! says in its first message all that the server must know, and gets the server's figures back on
//! itself. So nothing breaks where a load balancer sends two connections to two servers; the
//! `instance` of each accept tells them apart.
//!
//! On TCP the first bytes decide: `tare` begins a hello; an HTTP method and a space (`GET `, `HEAD
//! `, `POST `, `PUT `, `DELETE `, `OPTIONS `, `PATCH `, `CONNECT `, `TRACE `) begins an HTTP
//! request; anything else is closed unanswered.
//!
//! # Frames and versions
//!
//! Control messages are frames: a header of eight bytes and a JSON object ([`frame`]).
//!
//! ```text
//! 74 61 72 65   "tare"
//! 01            version, 1
//! 05            kind: 1 hello, 2 challenge, 3 proof, 4 accept, 5 refuse, 6 figures; UDP: 7 cookie, 8 fetch, 9 chunk
//! 00 0f         length of the body, at most FRAME_BODY_MAX; from a client at most hello::HELLO_BODY_MAX
//! 7b 22 63 6f 64 65 22 3a 22 62 75 73 79 22 7d      {"code":"busy"}
//! ```
//!
//! **The header's layout, the kinds 1 (hello) and 5 (refuse), and the rule that an answer over UDP
//! is never longer than what it answers, are frozen for all versions.** Within a version fields may
//! be added; a reader ignores those it does not know, and a field that is added has a default. What
//! changes the meaning of bytes that are already there is another version. A server answers a hello
//! of another version with a refuse frame *of its own version*, code `version`, and closes; a
//! client that reads a frame of another version does not look at the body, and tells the user both
//! versions.
//!
//! # TCP
//!
//! ```text
//! client                                  server
//! Hello  ────────────────────────────▶
//!        ◀────────────────────────────    Challenge        only where the server has a secret
//! Proof  ────────────────────────────▶
//!        ◀────────────────────────────    Accept           or Refuse, and close
//! request ───────────────────────────▶
//!        ◀────────────────────────────    reply            as often as the client likes
//! half-close ────────────────────────▶
//!        ◀────────────────────────────    Figures, and close: the server closes first
//! ```
//!
//! * The hello's JSON ends with a newline (JSON allows it), so that a server of some line-based
//!   protocol answers with an error at once instead of waiting for the line to end.
//! * But for what is said below, the client sends nothing between hello (or proof) and accept; the
//!   server nothing that was not asked for. Both are errors.
//! * Challenge and proof are in [`auth`]. What a hello asks for is looked at only after the proof.
//! * Messages of the data phase are bare: [`ping_pong`] and [`stream`] have the bytes.
//! * A server that ends the session by itself sends its figures early, instead of a reply or right
//!   after one, with `cut_short` saying why, and closes. The first byte tells: a reply's is 0, a
//!   frame's is `t`.
//! * Before it closes, a server should read what is still arriving, or its last frame may be lost
//!   to a reset. It need not wait for that longer than a second, nor for a client that does not
//!   read longer than five.
//!
//! ## In one go
//!
//! A connection of one operation (`connect_each`) may carry its request right behind its hello,
//! where the accept of an earlier connection said `one_go`. The hello says `request_follows` then,
//! and no accept is sent:
//!
//! ```text
//! Hello, request ────────────────────▶
//!        ◀────────────────────────────    reply, and close  or Refuse (Figures, with `cut_short`), and close
//! ```
//!
//! A server with a secret does not offer it, since it must hear the proof first: there each such
//! connection begins with hello, challenge, proof and accept.
//!
//! # UDP
//!
//! The layouts are in [`datagram`].
//!
//! ```text
//! client                                  server
//! Hello, no cookie ──────────────────▶
//!        ◀────────────────────────────    Cookie            nothing is kept for this client yet
//! Hello, cookie, proof ──────────────▶
//!        ◀────────────────────────────    Accept (session)  or Refuse
//! Fetch environment ─────────────────▶
//!        ◀────────────────────────────    Chunk             as many as it takes
//! request (d1) ──────────────────────▶
//!        ◀────────────────────────────    reply (d2)        as often as the client likes
//! Fetch figures ─────────────────────▶                      ends the session
//!        ◀────────────────────────────    Chunk
//! ```
//!
//! * The client repeats a hello after 50, 100, 200 … ms until it is answered. A hello with the same
//!   nonce from the same address must get the same accept, however often it comes.
//! * A cookie is good for 30 to 60 s and only at the address it was made for; where it is not, a
//!   new one is the answer.
//! * Until an address has shown a good cookie it gets at most a cookie or a refusal, and never more
//!   bytes than it sent. A request or reply has exactly the `size_bytes` of the hello; requests of
//!   other sizes are ignored.
//! * Fetches ask for offsets that are multiples of 1024, and get 1024 bytes each (at the end
//!   fewer). The document, at most [`DOCUMENT_MAX`](tare_units::limits::DOCUMENT_MAX) long, stays
//!   as it is until the session is forgotten. A session that is not known is refused with
//!   `unknown-session`.
//! * A session that the server ends by itself answers requests with the flag `ENDED` for a second
//!   more, in which its figures, with `cut_short`, can be fetched; each fetch of them grants
//!   another second.
//! * A hello with another nonce, on the socket of a session, ends that session: its client was
//!   started again.
//!
//! # Refusals
//!
//! `{"code": …, "message": …, "remedy": …}`, the codes being those of [`hello::RefuseCode`]; a code
//! that is not known is shown with its message. Texts of a peer are shown without control
//! characters, and cut.
//!
//! # Worked example
//!
//! A hello as tare sends it, an accept in pieces, and what a 9-byte ping-pong looks like:
//!
//! ```
//! use tare_proto::frame::{FrameReader, Kind};
//! use tare_proto::handshake::ClientHandshake;
//! use tare_proto::hello::{Accept, Hello, WaitMode};
//! use tare_proto::ping_pong;
//! use tare_units::Nanos;
//!
//! let json = concat!(
//!     r#"{"run_id":"0123456789abcdef","test":"ping_pong","transport":"tcp","direction":"both","#,
//!     r#""size_bytes":9,"connect_each":false,"wait":"spin","backend":"auto","server_delay_ns":0,"#,
//!     r#""timeout_ns":2000000000,"brief":false,"client_version":"0.1.0"}"#,
//! );
//! let hello: Hello = serde_json::from_str(json).expect("a hello");
//! let sent = ClientHandshake::new(&hello, None).poll_transmit().expect("begins with the hello");
//! assert_eq!(sent, [b"tare\x01\x01\x00\xec", json.as_bytes(), b"\n"].concat());
//!
//! let mut reader = FrameReader::new(tare_units::limits::FRAME_BODY_MAX);
//! reader.handle_bytes(b"tare\x01\x04\x00\x48");
//! reader.handle_bytes(br#"{"instance":"00000000000000ff","#);
//! assert_eq!(reader.poll_frame()?, None, "the body is not whole yet");
//! reader.handle_bytes(br#""backend":"uring","wait":"spin","new":[]}"#);
//! let frame = reader.poll_frame()?.expect("the body is whole");
//! assert_eq!(frame.kind, Kind::Accept);
//! let accept: Accept = frame.read()?;
//! assert_eq!((accept.instance.0, accept.wait), (255, WaitMode::Spin));
//!
//! let mut request = [0; 9];
//! ping_pong::put_flags(&mut request, true);
//! assert_eq!(request, [1, 0, 0, 0, 0, 0, 0, 0, 0]);
//! let mut reply = [0; 9];
//! ping_pong::put_residence(&mut reply, Nanos(2_500));
//! assert_eq!(reply, [0, 0, 0, 0, 0, 0, 0x09, 0xc4, 0]);
//! # Ok::<(), tare_proto::frame::FrameError>(())
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::print_stdout, clippy::exit)]

pub mod auth;
pub mod datagram;
pub mod frame;
pub mod handshake;
pub mod hello;
pub mod http1;
pub mod ping_pong;
pub mod stream;

/// The version of the protocol.
pub const VERSION: u8 = 1;

#[cfg(test)]
mod tests;
