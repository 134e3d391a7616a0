//! Flags of other tools, typed out of habit: what to write here instead.
//!
//! They are looked for only in a command line that is refused anyway, so none of them can take a
//! flag of tare's away.

use std::ffi::OsString;

use clap::{Arg, Command};

/// Names of one flag in other tools, parted by blanks, and what to do here.
pub(super) type Habit = (&'static str, &'static str);

/// Of wrk, wrk2, hey, ab, fortio, h2load, oha, bombardier, vegeta and curl.
pub(super) const HTTP: &[Habit] = &[
    (
        "-t",
        "threads in wrk (write --threads N), duration in fortio (write -d TIME), timeout in hey (write --timeout TIME)",
    ),
    ("-L --latency --latencies --u_latency", "percentiles are always printed; leave it out"),
    (
        "-U --latency-correction",
        "response time (from when a request was due) and service time (from when it was sent) are both printed; leave it out",
    ),
    (
        "-s --script",
        "tare runs no scripts, and is silent with --quiet; write --urls FILE for several requests, -X, -H and --body \
         for what is in them",
    ),
    ("-m", "write -X METHOD for a method, -c N for connections, -d TIME for a time"),
    ("--request -I --head", "write -X METHOD"),
    ("-T", "write --content-type TYPE, with --body or --body-file"),
    ("-D", "write --body-file FILE for a body, -d TIME for a duration"),
    ("--data --data-raw --data-binary -payload --payload", "write --body TEXT or --body-file FILE"),
    ("-payload-file --payload-file", "write --body-file FILE"),
    ("-b --cookie", "write --body TEXT for a body, -H 'Cookie: …' for cookies"),
    ("-a --user", "write -H 'Authorization: Basic …' for a user and a password"),
    ("-A --user-agent", "write -H 'Accept: …' or -H 'User-Agent: …'"),
    ("-k --keepalive -keepalive", KEPT),
    ("--insecure", "https is not built yet, so there is no certificate to check; leave it out"),
    (
        "-x --proxy",
        "tare asks no proxy; leave it out, or write --connect-to HOST:PORT to connect elsewhere",
    ),
    ("--json -json", "write --format json, or -o FILE.json; a body is --body TEXT"),
    ("-h2 --h2 --http2", "HTTP/2 is not built; leave it out"),
    ("--h1 --http1.1 -http1.0", "HTTP/1.1 is all that tare speaks; leave it out"),
    ("-disable-keepalive --disable-keepalive --no-keepalive", "write --connection close"),
    (
        "-disable-compression --disable-compression",
        "compression is asked for only with -H 'Accept-Encoding: …'; leave it out",
    ),
    ("-disable-redirects --location", "redirects are never followed; leave it out"),
    ("--concurrency --concurrent --clients --vus", "write -c N"),
    ("--requests --iterations", "write -n N"),
    ("-z --time", "write -d TIME"),
    ("-qps --qps --rps", "write -R RATE, over all connections together"),
    (
        "-p",
        "write --percentiles LIST for fortio's, --body-file FILE for ab's, --pipeline N for a pipeline",
    ),
    ("-i", "write -X HEAD"),
    ("--targets -targets", "write --urls FILE"),
    ("-r", "errors end no run here; leave it out"),
];

const KEPT: &str = "connections are kept unless --connection close is given, and there is no https whose certificate were to be \
     checked; leave it out";

/// Of iperf3, and of iperf where they are the same.
pub(super) const BW: &[Habit] = &[
    ("-R", "write --reverse, or --direction down"),
    ("-b --bandwidth --bitrate", "write --rate BITRATE: 200M, 1G"),
    ("-t --time", "write -d TIME: 10s"),
    ("-l --len --length", "write --size BYTES"),
    ("-i", "write --interval TIME: 1s"),
    ("-w --window", "write --sndbuf SIZE and --rcvbuf SIZE"),
    ("-C", "write --congestion NAME"),
    ("-J --json", "write --format json, or -o FILE.json"),
    ("-Z", "write --zerocopy on"),
    ("-M --set-mss", "write --mss BYTES"),
    ("-N --no-delay", "write --nodelay"),
    ("-S --tos", "write --dscp DSCP"),
    ("-O --omit", "write --warmup TIME"),
    ("-A --affinity", "write --cpus LIST"),
    ("-B", "write --bind ADDRESS"),
    ("-p --port", "write the port after the host: HOST:PORT"),
    ("--parallel", "write -P N"),
    ("-k --blockcount", "write -n N"),
    ("-s --server", "the server is tare serve"),
    ("--client", "write the host alone, without a flag"),
    ("-V --verbose -f", "the report says everything; leave it out"),
];

/// Flags of what is measured, given to the comparison itself.
pub(super) const COMPARE: &[Habit] = &[
    (
        "--size --connections -c --parallel -P --rate -R --stages --udp -u --tcp --proto \
         --direction --reverse --wait --backend --threads --cpus --timeout --warmup \
         --interval --observe --secret-file --server-delay --under-load --connect-each \
         --no-idle --header -H",
        "it is about what each visit measures: write it behind --, as in tare compare a=… b=… -- lat --size 64",
    ),
    ("-d --duration -n --count", "write --block-duration TIME and --blocks N"),
];

/// What to say of the first word of a refused command line that is another tool's flag.
pub(super) fn hint(root: &Command, words: &[OsString]) -> Option<String> {
    let words: Vec<&str> = words.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let (name, words) = words.split_first()?;
    let (command, habits) = match (root.find_subcommand(name)?, *name) {
        (command, "http") => (command, HTTP),
        (command, "bw") => (command, BW),
        (command, "compare") => (command, COMPARE),
        _ => return None,
    };
    let words = words.iter().take_while(|word| **word != "--");
    words.filter(|word| word.starts_with('-')).find_map(|word| habit(command, habits, word))
}

/// A short flag may have its value right behind it.
fn habit(command: &Command, habits: &[Habit], word: &str) -> Option<String> {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let find = |name: &str| {
        let (_, advice) =
            habits.iter().find(|(names, _)| names.split(' ').any(|one| one == name))?;
        Some(format!("{name}: {advice}"))
    };
    // As Go's flags are written: -timeout 3s.
    let with_one_dash = || {
        let long = name.strip_prefix('-').filter(|long| long.len() > 1)?;
        let mut own = command.get_arguments().filter_map(Arg::get_long);
        own.any(|own| own == long).then(|| format!("{name}: write -{name}"))
    };
    let glued = || find(name.get(..2).filter(|short| *short != "--")?);
    find(name).or_else(with_one_dash).or_else(glued)
}
