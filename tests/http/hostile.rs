//! Servers that a test makes up, which answer as no server should.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// A server whose connections go as the test says, each in a thread of its own.
pub(super) struct Hostile {
    pub(super) address: String,
    accepted: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Hostile {
    pub(super) fn start(conversation: impl Fn(Talk) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accepted = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let (count, is_over) = (Arc::clone(&accepted), Arc::clone(&over));
        let conversation = Arc::new(conversation);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let conversation = Arc::clone(&conversation);
                thread::spawn(move || conversation(Talk::over(stream.unwrap())));
            }
        });
        Self { address, accepted, over }
    }

    /// One that answers each request with the same bytes.
    pub(super) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |mut talk| {
            while talk.hears_a_request() {
                talk.says(&answer);
            }
        })
    }

    /// One that answers one request with these bytes, and closes.
    pub(super) fn answering_once(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |mut talk| {
            if talk.hears_a_request() {
                talk.says(&answer);
            }
        })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Connections so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

/// A connection, seen by the server. What fails, since the client has gone, is none of the test's
/// business.
pub(super) struct Talk(BufReader<TcpStream>);

impl Talk {
    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// Reads the head of a request that has no body; false if none came.
    pub(super) fn hears_a_request(&mut self) -> bool {
        self.hears_a_head().is_some()
    }

    pub(super) fn hears_a_head(&mut self) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match self.0.read_line(&mut head) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        Some(head)
    }

    /// The client's address.
    pub(super) fn peer(&self) -> IpAddr {
        self.0.get_ref().peer_addr().unwrap().ip()
    }

    pub(super) fn says(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    /// Listens for that long, whatever comes: the pace is the fault, nothing waits for it.
    pub(super) fn pauses(&mut self, pause: Duration) {
        let _ = self.0.get_mut().set_read_timeout(Some(pause));
        let _ = self.0.get_mut().read(&mut [0; 1]);
        let _ = self.0.get_mut().set_read_timeout(None);
    }

    /// Hears everything, says nothing.
    pub(super) fn keeps_silent(mut self) {
        let _ = std::io::copy(&mut self.0, &mut std::io::sink());
    }

    /// Closes with a reset.
    pub(super) fn resets(self) {
        let stream = socket2::SockRef::from(self.0.get_ref());
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A whole answer.
pub(super) const FINE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
