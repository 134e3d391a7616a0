//! What answers is not what was expected: nobody, another program, another version.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::{drain, each_test, stranger};
use crate::util::{Job, Serve, lat, run, text};

#[test]
fn nobody_listens() {
    // Bound and not listening: the port is nobody else's meanwhile.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    for (test, backend) in each_test() {
        let run = |flags: &str| {
            let flags = format!("-d 5s --backend {backend} {flags}");
            Job::test(test, &address, &flags).wait().exits(1)
        };
        let ran = run("");
        let start = format!("start `tare serve --listen {address}` there");
        let ran = ran.complains(&[&format!("{address} refuses connections"), &start]);
        let report = ran.report();
        assert_eq!(report["partial"], true);
        let errors = &report["results"][0]["errors"];
        assert_eq!(errors[0]["phase"], "connect");
        assert_eq!(errors[0]["cause"], "ECONNREFUSED");
        let ran = run("--udp");
        ran.complains(&[&format!("nothing listens on UDP {address}"), &start]);
    }
}

#[test]
fn a_host_that_nobody_knows() {
    let ran = lat("nowhere.invalid", "-n 5").exits(1);
    assert_eq!(ran.stdout, "", "there was nothing to measure");
    ran.complains(&["nowhere.invalid"]);
}

#[test]
fn what_answers_is_not_tare() {
    for (test, backend) in each_test() {
        let flags = format!("-d 5s --timeout 2s --backend {backend}");
        let says = |answer: &'static [u8], words: &[&str]| {
            let address = stranger(move |mut stream| {
                stream.write_all(answer).unwrap();
                drain(stream);
            });
            let ran = Job::test(test, &address, &flags).wait().exits(1);
            let ran = ran.complains(&[&[address.as_str()], words].concat());
            assert_eq!(ran.report()["results"][0]["operations"]["completed"], 0);
            assert!(ran.took < Duration::from_secs(10), "{ran:?}");
        };
        let start = "start `tare serve` there";
        says(b"HTTP/1.1 400 Bad Request\r\n\r\n", &["speaks HTTP, not tare's protocol", start]);
        says(b"SSH-2.0-OpenSSH_9.9\r\n", &["speaks SSH, not tare's protocol", start]);
        says(b"\xff\x00 gibberish \x07\n", &["does not speak tare's protocol", start]);
        says(
            b"tare\x02\x05\x00\x02{}",
            &["speaks version 2 of tare's protocol", "same tare at both ends"],
        );
        says(b"tare\x01\x04\x00\x02[]", &["broke tare's protocol", "same tare at both ends"]);
        says(b"tare\x01\x04\xff\xff", &["broke tare's protocol"]);
        says(b"tare\x01\x63\x00\x00", &["broke tare's protocol"]);
    }
}

#[test]
fn what_listens_closes_or_keeps_silent() {
    for (test, backend) in each_test() {
        let closes = stranger(|mut stream| {
            // Read first: closing over unread bytes would be a reset.
            let _ = stream.read(&mut [0; 4096]);
        });
        let resets = stranger(|stream| {
            let linger = socket2::SockRef::from(&stream);
            linger.set_linger(Some(Duration::ZERO)).unwrap();
        });
        let drips = stranger(|mut stream| {
            for byte in b"tare\x01\x04\x00\x90".iter().cycle() {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
                // The pace is the fault; nothing waits for it.
                let _ = socket_pause(&stream, Duration::from_millis(100));
            }
        });
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = nobody.local_addr().unwrap().to_string();
        for (address, flags, says) in [
            (closes, "", "closed the connection without an answer"),
            (resets, "", ""),
            (stranger(drain), "", "did not answer the hello within 400 ms"),
            (drips, "", "stopped answering"),
            (nobody, "--udp", "did not answer the hello within 400 ms"),
        ] {
            let flags = format!("-d 20s --timeout 400ms --backend {backend} {flags}");
            let ran = Job::test(test, &address, &flags).wait().exits(1);
            assert!(ran.took < Duration::from_secs(5), "{ran:?}");
            let advice = if says.contains("hello") { "--timeout" } else { "" };
            ran.complains(&[&address, says, advice]);
        }
    }
}

/// Reads for that long what is never sent.
fn socket_pause(mut stream: &TcpStream, pause: Duration) -> std::io::Result<usize> {
    stream.set_read_timeout(Some(pause))?;
    stream.read(&mut [0; 4096])
}

#[test]
fn a_client_of_another_version_is_answered_and_logged() {
    let mut serve = Serve::start("");
    let mut stream = TcpStream::connect(serve.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"tare\x09\x01\x00\x02{}").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    // The header is frozen: this server's version, and a refusal.
    assert_eq!(&answer[..6], b"tare\x01\x05");
    let refusal: Value = serde_json::from_slice(&answer[8..]).unwrap();
    assert_eq!(refusal["code"], "version");
    assert!(text(&refusal, "/message").contains("version 9"), "{refusal}");
    serve.job.logs("version 9");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut hello = vec![0; 1200];
    hello[..10].copy_from_slice(b"tare\x09\x01\x00\x02{}");
    socket.send_to(&hello, serve.address()).unwrap();
    let mut answer = [0; 2048];
    let n = socket.recv(&mut answer).unwrap();
    assert_eq!(&answer[..6], b"tare\x01\x05");
    assert!(String::from_utf8_lossy(&answer[..n]).contains("version 9"));
    serve.serves();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let serve = Serve::start("");
    let ran = run(&["serve", "--listen", serve.address()]).exits(1);
    assert_eq!(ran.stdout, "");
    let taken = format!("cannot listen on {}", serve.address());
    ran.complains(&[&taken, "another program has the port", "--listen"]);
    let ran = run(&["serve", "--listen", "192.0.2.1:0"]).exits(1);
    ran.complains(&["cannot listen on 192.0.2.1:0", "the address is not on this machine"]);
}

/// A UDP server that a test makes up: gives each datagram the same answer.
fn datagram_stranger(answer: &'static [u8]) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(answer, from);
        }
    });
    address
}

#[test]
fn what_answers_over_udp_is_not_tare() {
    for (test, backend) in each_test() {
        let flags = format!("-d 20s --timeout 400ms --udp --backend {backend}");
        let refused = &|gibberish: &'static [u8]| {
            let address = datagram_stranger(gibberish);
            let ran = Job::test(test, &address, &flags).wait().exits(1);
            assert!(ran.took < Duration::from_secs(5), "{ran:?}");
            assert_eq!(ran.report()["results"][0]["operations"]["completed"], 0);
            let said = ran.stderr.clone();
            assert!(said.is_ascii(), "what it sent cannot spoil a terminal: {said:?}");
            let (not_ours, no_answer) =
                ("does not speak tare's protocol", "did not answer the hello");
            assert!(said.contains(not_ours) || said.contains(no_answer), "{said}");
            ran.complains(&[&address]);
        };
        let all = [
            &b""[..],
            b"\xff\x00 gibberish \x07",
            b"tare",
            b"tare\x01\x04\xff\xff",
            b"tare\x01\x63\0\0",
            b"\xd2\x01\0\0\0\0\0\x01sessions",
        ];
        thread::scope(|scope| {
            for gibberish in all {
                scope.spawn(move || refused(gibberish));
            }
        });

        let newer = datagram_stranger(b"tare\x02\x05\0\x02{}");
        let ran = Job::test(test, &newer, &flags).wait().exits(1);
        ran.complains(&[&newer, "speaks version 2 of tare's protocol", "same tare at both ends"]);
    }
}
