//! Connections to Unix listeners.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::{Bench, CLIENT, Harness, Mode};
use crate::{Driver, Op, OpError, Outcome};

/// A path in the directory for such, removed when dropped.
struct Path(PathBuf);

impl Path {
    fn new(name: &str) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("tare-{}-{count}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) fn unix_listeners_are_spoken_to<H: Harness>() {
    Bench::<H>::run(|bench| {
        let path = Path::new("echo");
        let listener = UnixListener::bind(&path.0).unwrap();
        let connected = bench.driver(CLIENT).connect_unix(&path.0);
        if bench.is_simulated() {
            assert_eq!(connected, Err(OpError::NotSupported));
            return;
        }
        let socket = connected.unwrap();
        let (mut far, _) = listener.accept().unwrap();
        assert_eq!(bench.driver(CLIENT).peer_addr(socket), None);
        assert_eq!(bench.driver(CLIENT).tcp_info(socket), None);

        for round in 0..10u8 {
            bench.send_all(CLIENT, socket, &[round; 1000]);
            let mut bytes = [0; 1000];
            far.read_exact(&mut bytes).unwrap();
            far.write_all(&bytes).unwrap();
            let back = bench.receive_exact(CLIENT, socket, 1000);
            assert_eq!(back, [round; 1000]);
        }

        bench.driver(CLIENT).provide_pool(4, 64).unwrap();
        let receiving = bench.push(CLIENT, Op::ReceiveMultishot { socket });
        for round in 0..10u8 {
            far.write_all(&[round; 64]).unwrap();
            let done = bench.take(CLIENT, receiving);
            let Outcome::ReceivedInPool { buffer: Some(buffer), len: 64 } = done.outcome else {
                panic!("{done:?}");
            };
            assert_eq!(bench.driver(CLIENT).pool_bytes(&buffer), [round; 64]);
            bench.driver(CLIENT).recycle(buffer);
        }
        drop(far);
        let end = Outcome::ReceivedInPool { buffer: None, len: 0 };
        assert_eq!(bench.wait_for(CLIENT, receiving), end);
        bench.close(CLIENT, socket);
    });
}

pub(super) fn a_unix_path_that_cannot_be_reached_is_told<H: Harness>() {
    let Some(mut bench) = Bench::<H>::new(Mode::Until) else {
        return;
    };
    if bench.is_simulated() {
        return;
    }
    let path = Path::new("refused");
    let driver = bench.driver(CLIENT);
    assert_eq!(driver.connect_unix(&path.0), Err(OpError::NotFound));
    // A backlog of zero leaves room for one.
    let listener =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let address = socket2::SockAddr::unix(&path.0).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    assert!(driver.connect_unix(&path.0).is_ok());
    assert_eq!(driver.connect_unix(&path.0), Err(OpError::TryAgain));
    let (_taken, _) = listener.accept().unwrap();
    assert!(driver.connect_unix(&path.0).is_ok(), "room again");
    drop(listener);
    assert_eq!(driver.connect_unix(&path.0), Err(OpError::Refused));
    let long = PathBuf::from("/".to_owned() + &"x".repeat(200));
    assert_eq!(driver.connect_unix(&long), Err(OpError::NameTooLong));
}
