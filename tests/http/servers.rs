//! Servers that others wrote, each started by a test with a configuration of its own, and ended
//! with it.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::util::{Job, eventually, left_out};

/// Below the ports that the kernel gives to clients, which are many here.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// An orderly end takes far less.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a page holds.
pub(super) const PAGE: &str = "<p>hello world</p>\n";

/// A page that stays long when it is compressed.
pub(super) fn long_page() -> String {
    let numbers = (0..40_000u32).map(|n| n.wrapping_mul(2_654_435_761));
    numbers.map(|n| format!("{n:08x}\n")).collect()
}

/// A server that runs until this is dropped.
pub(super) struct Server {
    job: Job,
    directory: TempDir,
    pub(super) port: u16,
}

impl Server {
    /// Starts what `command` makes of a directory and a port. None, after a word about it, where
    /// there is no `program`.
    fn start(program: &str, command: impl FnOnce(&Path, u16) -> Command) -> Option<Self> {
        if !is_installed(program) {
            left_out(&format!("{program} is not installed"));
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        // Workers run as somebody else, who must get in.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(directory.path().join("www")).unwrap();
        fs::write(directory.path().join("www/page.html"), PAGE).unwrap();
        fs::write(directory.path().join("www/long.html"), long_page()).unwrap();
        let port = free_port();
        let mut job = Job::start(command(directory.path(), port));
        eventually("the server listens", || {
            assert!(job.is_running(), "{program} has ended at once");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(Self { job, directory, port })
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(super) fn path(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    /// A file of so many bytes in its directory.
    pub(super) fn file_of(&self, bytes: usize) -> String {
        let path = self.path("body");
        fs::write(&path, "x".repeat(bytes)).unwrap();
        path
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.job.signal(signal);
    }
}

impl Drop for Server {
    /// In order: killed, it would leave its workers behind.
    fn drop(&mut self) {
        if !self.job.is_running() {
            return;
        }
        self.job.signal(Signal::SIGTERM);
        let deadline = Instant::now() + FAREWELL;
        while self.job.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&paths).collect();
    places.push("/usr/sbin".into());
    places.iter().any(|place| place.join(program).is_file())
}

/// By its name, or where Debian installs servers.
fn program(name: &str) -> Command {
    let path = Path::new("/usr/sbin").join(name);
    if path.is_file() { Command::new(path) } else { Command::new(name) }
}

fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = PORTS.end - PORTS.start;
    let own = u16::try_from(std::process::id() % u32::from(range)).unwrap();
    for _ in 0..range {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + own.wrapping_add(next) % range;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// nginx with one worker. It listens on `[::1]` and on `socket` in its directory, too.
pub(super) fn nginx() -> Option<Server> {
    Server::start("nginx", |directory, port| {
        let dir = directory.display();
        let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
        let ipv6 = if TcpListener::bind(("::1", 0)).is_ok() {
            format!("listen [::1]:{port};")
        } else {
            String::new()
        };
        let file = format!("{dir}/www/page.html");
        let configuration = format!(
            "daemon off; worker_processes 1; {user}
            pid {dir}/pid; error_log {dir}/error.log;
            events {{ worker_connections 1024; }}
            http {{
                access_log off; default_type text/plain; keepalive_requests 1000000;
                client_body_temp_path {dir}/body-temp; proxy_temp_path {dir}/proxy-temp;
                fastcgi_temp_path {dir}/fastcgi-temp; uwsgi_temp_path {dir}/uwsgi-temp; scgi_temp_path {dir}/scgi-temp;
                server {{
                    listen 127.0.0.1:{port}; {ipv6} listen unix:{dir}/socket; root {dir}/www;
                    location = / {{ return 200 \"hello\\n\"; }}
                    location = /limited {{ keepalive_requests 10; return 200 \"limited\\n\"; }}
                    location = /chunked {{ alias {file}; sub_filter_types *; sub_filter world weights; }}
                    location = /fails {{ return 500; }}
                    location = /unavailable {{ return 503; }}
                    location = /empty {{ return 204; }}
                    location = /small {{ client_max_body_size 1k; return 200; }}
                    location = /forwarded {{ proxy_pass http://unix:{dir}/socket:/; }}
                    location = /page {{ alias {file}; if_modified_since before; }}
                }}
            }}"
        );
        fs::write(directory.join("nginx.conf"), configuration).unwrap();
        let mut command = program("nginx");
        command.arg("-e").arg(directory.join("error.log"));
        command.arg("-p").arg(directory);
        command.arg("-c").arg(directory.join("nginx.conf"));
        command
    })
}

/// Apache with its threads, and these directives.
pub(super) fn apache(directives: &str) -> Option<Server> {
    Server::start("apache2", |directory, port| {
        let dir = directory.display();
        let modules = "/usr/lib/apache2/modules";
        let mut configuration = format!(
            "ServerName localhost\nServerRoot {dir}\nDefaultRuntimeDir {dir}\nPidFile {dir}/pid\n\
             ErrorLog {dir}/error.log\nListen 127.0.0.1:{port}\nDocumentRoot {dir}/www\n\
             StartServers 1\nThreadsPerChild 25\nMaxRequestWorkers 50\n\
             Redirect 503 /unavailable\nRedirect 500 /fails\n\
             <Location /long.html>\nForceType text/plain\nSetOutputFilter DEFLATE\n</Location>\n\
             <Location /reflect>\nSetHandler reflector\n</Location>\n{directives}\n"
        );
        if nix::unistd::geteuid().is_root() {
            configuration.push_str("User www-data\nGroup www-data\n");
        }
        let modules = ["mpm_event", "authz_core", "alias", "filter", "deflate", "reflector"]
            .map(|name| format!("LoadModule {name}_module {modules}/mod_{name}.so\n"));
        configuration.insert_str(0, &modules.concat());
        fs::write(directory.join("apache.conf"), configuration).unwrap();
        let mut command = program("apache2");
        command.arg("-DFOREGROUND").arg("-f").arg(directory.join("apache.conf"));
        command
    })
}

/// Python's: HTTP/1.0, a connection per request. What is at `/until-close` ends with the
/// connection, and tells no length.
pub(super) fn python() -> Option<Server> {
    const SCRIPT: &str = "
import http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path != '/until-close':
            return super().do_GET()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'x' * 100000)
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";
    Server::start("python3", |directory, port| {
        let mut command = Command::new("python3");
        command.current_dir(directory.join("www"));
        command.args(["-c", SCRIPT, &port.to_string()]);
        command
    })
}
