//! Connections to Unix listeners.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::{Bench, CLIENT, Harness};
use crate::{Driver, Op, OpError};

pub(super) fn unix_listeners_are_spoken_to<H: Harness>(bench: &mut Bench<H>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo");
    let listener = UnixListener::bind(&path).unwrap();
    let connected = bench.driver(CLIENT).connect_unix(&path);
    if bench.is_simulated() {
        assert_eq!(connected, Err(OpError::NotSupported));
        return;
    }
    let socket = connected.unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    assert_eq!(bench.driver(CLIENT).peer_addr(socket), None);
    assert_eq!(bench.driver(CLIENT).tcp_info(socket), None);

    for round in 0..10u8 {
        bench.send_all(CLIENT, socket, &[round; 1000]);
        let mut bytes = [0; 1000];
        peer.read_exact(&mut bytes).unwrap();
        peer.write_all(&bytes).unwrap();
        assert_eq!(bench.receive_exact(CLIENT, socket, 1000), [round; 1000]);
    }

    bench.driver(CLIENT).provide_pool(4, 64).unwrap();
    let receiving = bench.push(CLIENT, Op::ReceiveMultishot { socket });
    for round in 0..10u8 {
        peer.write_all(&[round; 64]).unwrap();
        assert_eq!(bench.take_pooled(CLIENT, receiving), Some(vec![round; 64]));
    }
    drop(peer);
    assert_eq!(bench.take_pooled(CLIENT, receiving), None);
    bench.close(CLIENT, socket);
}

pub(super) fn a_unix_path_that_cannot_be_reached_is_reported<H: Harness>(bench: &mut Bench<H>) {
    if bench.is_simulated() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("refused");
    let driver = bench.driver(CLIENT);
    assert_eq!(driver.connect_unix(&path), Err(OpError::NotFound));
    // A backlog of zero leaves room for one.
    let listener =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    assert!(driver.connect_unix(&path).is_ok());
    assert_eq!(driver.connect_unix(&path), Err(OpError::TryAgain));
    let (_taken, _) = listener.accept().unwrap();
    assert!(driver.connect_unix(&path).is_ok(), "room again");
    drop(listener);
    assert_eq!(driver.connect_unix(&path), Err(OpError::Refused));
    let long = PathBuf::from("/".to_owned() + &"x".repeat(200));
    assert_eq!(driver.connect_unix(&long), Err(OpError::NameTooLong));
}
