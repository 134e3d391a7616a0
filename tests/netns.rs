//! Network namespaces for tests: a link that can be cut, sysctls of one's own, tables that nobody
//! else uses. All of it takes root.

use std::fs;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::util::{Job, Ran, Serve, array, is_root, program, tare, text, words};

pub(crate) fn ip(words: &str) -> Ran {
    Job::start(program("ip", words)).wait()
}

/// A namespace behind a veth pair, made with `ip` and removed when dropped.
pub(crate) struct Netns {
    /// Of the namespace, and of this end's device.
    pub(crate) name: String,
    /// Its address, and that of this end.
    pub(crate) inner: String,
    pub(crate) outer: String,
}

impl Netns {
    /// None for those who are not root; the test is left out then.
    pub(crate) fn if_root() -> Option<Self> {
        is_root("ip netns").then(Self::make)
    }

    pub(crate) fn make() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        // 198.51.100.0/24 is for documentation (RFC 5737): /30s of it, apart from those of other
        // runs by chance.
        let pair = (process::id() + number) % 64 * 4;
        let made = Self {
            name: format!("tt-{}-{number}", process::id()),
            inner: format!("198.51.100.{}", pair + 2),
            outer: format!("198.51.100.{}", pair + 1),
        };
        let Self { name, inner, outer } = &made;
        for words in [
            format!("netns add {name}"),
            format!("link add {name} type veth peer name inner netns {name}"),
            format!("addr add {outer}/30 dev {name}"),
            format!("-n {name} addr add {inner}/30 dev inner"),
            format!("-n {name} link set lo up"),
            format!("-n {name} link set inner up"),
            format!("link set {name} up"),
        ] {
            ip(&words).exits(0);
        }
        made
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.env_remove("TARE_SECRET");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a program inside with the words of a line.
    pub(crate) fn run(&self, program: &str, line: &str) -> Ran {
        let mut command = self.command(program);
        command.args(words(line));
        Job::start(command).wait().exits(0)
    }

    pub(crate) fn tare(&self, words: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_tare"));
        command.args(words);
        command
    }

    /// A command that runs `tare` inside, once a shell has run `first` there.
    pub(crate) fn tare_after(&self, first: &str, words: &[&str]) -> Command {
        let mut command = self.command("sh");
        command.args(["-c", &format!("{first} && exec \"$0\" \"$@\"")]);
        command.arg(tare().get_program()).args(words);
        command
    }

    pub(crate) fn serve(&self) -> Serve {
        let flags = format!("--listen {}:0", self.inner);
        Serve::started(self.tare(&Serve::words(&flags)))
    }

    /// The link goes down; this end keeps its address and its routes.
    pub(crate) fn cut(&self) {
        ip(&format!("-n {} link set inner down", self.name)).exits(0);
    }

    /// It comes up again, with the address that it had.
    pub(crate) fn restore(&self) {
        ip(&format!("-n {} link set inner up", self.name)).exits(0);
    }

    /// Sets a network sysctl of the namespace: `ipv4/ip_local_port_range`.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        let mut command = self.command("sh");
        command.args(["-c", &format!("echo {value} >/proc/sys/net/{name}")]);
        Job::start(command).wait().exits(0);
    }

    /// Carries out rules of nftables inside. They go with the namespace.
    pub(crate) fn nft(&self, rules: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), rules).unwrap();
        self.run("nft", &format!("-f {}", file.path().display()));
    }

    /// The packets that the named counters of those rules have seen.
    pub(crate) fn counters(&self) -> Value {
        let listed = self.run("nft", "--json list counters").stdout;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let counters = array(&listed, "/nftables").iter().filter_map(|entry| entry.get("counter"));
        let named = counters.map(|c| (text(c, "/name").to_owned(), c["packets"].clone()));
        Value::Object(named.collect())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The link first: the namespace may live on for as long as a socket of it does.
        for words in [format!("link del {}", self.name), format!("netns del {}", self.name)] {
            let _ = Command::new("ip").args(words.split_whitespace()).status();
        }
    }
}
