//! The command line as a report shows it: what was typed, without the secrets in it.
//!
//! By an allow-list: of tare's own options those are shown whose values cannot be secrets, of
//! addresses and headers the parts that cannot, and nothing of what nobody has put on the list.
//! Reports are made to be handed on. What hooks run is another program's command line, which nobody
//! here can read: it is shown by its first word and a fingerprint.

use std::ffi::OsString;

use tare_engine::http::secret::{REDACTED, shown_path, shows_header};
use tare_host::hooks;
use tare_units::text::is_deceptive;

const SHOWN: &str = "arrivals assert backend baseline baseline-file bind block-duration blocks body-file bytes \
    congestion connect-rate connect-timeout connect-to connection connections content-type count \
    cpus direction dscp duration expect-status format host interval label late method mss \
    observe output percentiles pipeline proto rate rcvbuf requests-per-connection resolve \
    secret-file seed server-delay settle sink size sndbuf stages threads timeout urls wait \
    warmup zerocopy";
pub(crate) const RECORD_HOOKS: &str = "--record-hooks";

#[derive(Debug, Clone, Copy)]
enum Value {
    Shown,
    Header,
    Hook,
    /// Options of tare, with `NAME=` before them or without.
    Options,
    Redacted,
}

impl Value {
    fn of(option: &str) -> Self {
        match option {
            "header" => Self::Header,
            "before" | "after" => Self::Hook,
            "arm-options" | "under-load" => Self::Options,
            _ if SHOWN.split(' ').any(|shown| shown == option) => Self::Shown,
            _ => Self::Redacted,
        }
    }
}

pub(crate) fn hook(command: &str, in_full: bool) -> String {
    if in_full {
        // A control character would end the line, or drive the terminal.
        command.replace(is_deceptive, " ")
    } else {
        hooks::shown(command)
    }
}

/// Knows tare's options, and reads words as clap does.
pub(crate) struct Redactor {
    root: clap::Command,
}

impl Redactor {
    pub(crate) fn new(mut root: clap::Command) -> Self {
        root.build();
        Self { root }
    }

    /// The words of a command line as one line that a shell reads, secrets redacted.
    pub(crate) fn command_line(&self, words: impl IntoIterator<Item = OsString>) -> String {
        let words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
        let mut words: Vec<String> = words.collect();
        // Where the command lies is the machine's business.
        if let Some(name) = words.first().and_then(|word| word.rsplit('/').next()) {
            words[0] = name.to_owned();
        }
        let records_hooks = words.iter().any(|word| word == RECORD_HOOKS);
        self.line(&words, records_hooks)
    }

    /// What the value of an option is; `None` of a flag, which has none. All commands mean the same
    /// by an option's name, as a test holds.
    fn value_of(&self, is_it: impl Fn(&clap::Arg) -> bool) -> Option<Value> {
        let mut options = self.root.get_subcommands().flat_map(clap::Command::get_arguments);
        let Some(option) = options.find(|option| is_it(option)) else {
            return Some(Value::Redacted);
        };
        let takes_value = option.get_action().takes_values();
        takes_value.then(|| Value::of(option.get_long().unwrap_or_default()))
    }

    fn line(&self, words: &[String], records_hooks: bool) -> String {
        let mut shown: Vec<String> = Vec::with_capacity(words.len());
        let mut expected = None;
        for word in words {
            let text = match expected.take() {
                Some(value) => self.shown(value, word, records_hooks),
                None => {
                    let text;
                    (text, expected) = self.word(word, records_hooks);
                    text
                }
            };
            let text = text.replace(is_deceptive, " ");
            let quoted = shlex::try_quote(&text).map(std::borrow::Cow::into_owned);
            shown.push(quoted.unwrap_or_else(|_| REDACTED.to_owned()));
        }
        shown.join(" ")
    }

    /// A word that is no option's value, and what the next one is, where it is this one's value.
    fn word(&self, word: &str, records_hooks: bool) -> (String, Option<Value>) {
        if let Some(long) = word.strip_prefix("--") {
            let attached = long.split_once('=');
            let name = attached.map_or(long, |(name, _)| name);
            if name.is_empty() {
                return (word.to_owned(), None);
            }
            let is_it = |option: &clap::Arg| {
                option.get_long() == Some(name)
                    || option.get_all_aliases().is_some_and(|all| all.contains(&name))
            };
            return match (self.value_of(is_it), attached) {
                (Some(value), Some((_, text))) => {
                    (format!("--{name}={}", self.shown(value, text, records_hooks)), None)
                }
                (Some(value), None) => (word.to_owned(), Some(value)),
                (None, _) => (format!("--{name}"), None),
            };
        }
        let Some(letters) = word.strip_prefix('-') else { return (positional(word), None) };
        for (at, letter) in letters.char_indices() {
            let is_it = |option: &clap::Arg| {
                option.get_short() == Some(letter)
                    || option.get_all_short_aliases().is_some_and(|all| all.contains(&letter))
            };
            if let Some(value) = self.value_of(is_it) {
                let (option, attached) = letters.split_at(at + letter.len_utf8());
                return match attached {
                    "" => (word.to_owned(), Some(value)),
                    text => (format!("-{option}{}", self.shown(value, text, records_hooks)), None),
                };
            }
        }
        (word.to_owned(), None)
    }

    fn shown(&self, value: Value, text: &str, records_hooks: bool) -> String {
        match value {
            Value::Shown => text.to_owned(),
            Value::Redacted => REDACTED.to_owned(),
            Value::Header => match text.split_once(':') {
                Some((name, _)) if shows_header(name.trim_start_matches('=')) => text.to_owned(),
                Some((name, _)) => format!("{name}: {REDACTED}"),
                None => REDACTED.to_owned(),
            },
            Value::Hook => match text.split_once('=') {
                Some((name, command)) => format!("{name}={}", hook(command, records_hooks)),
                None => REDACTED.to_owned(),
            },
            Value::Options => match text.split_once('=') {
                Some((name, options)) if !name.starts_with('-') => {
                    format!("{name}={}", self.options(options))
                }
                _ => self.options(text),
            },
        }
    }

    /// An arm's options as a report shows them: as typed, secrets redacted.
    pub(crate) fn options(&self, typed: &str) -> String {
        // What no shell reads can hold anything.
        let Some(words) = shlex::split(typed) else { return REDACTED.to_owned() };
        let shown = self.line(&words, false);
        // As it was typed, rather than quoted again, where nothing was left out; a comment is among
        // no words.
        let untouched = shlex::split(&shown).is_some_and(|again| again == words);
        if untouched && !typed.contains('#') { typed.to_owned() } else { shown }
    }
}

/// A command's name, a target, or an arm, which is a name and a target.
fn positional(word: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    match word.split_once('=') {
        Some((name, target)) if name.chars().all(is_name) => format!("{name}={}", address(target)),
        _ => address(word),
    }
}

/// A URL without user and password and the secrets of its query; other words as they are.
fn address(word: &str) -> String {
    let (scheme, rest) = match word.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), word),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // Without a scheme, user and password are only told by the colon between them.
    let host = match authority.rsplit_once('@') {
        // Of a Unix socket it is the first letter of an abstract name.
        Some(("unix:", _)) => authority.to_owned(),
        Some((user, host)) if !scheme.is_empty() || user.contains(':') => {
            format!("{REDACTED}@{host}")
        }
        _ => authority.to_owned(),
    };
    format!("{scheme}{host}{}", shown_path(path))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::command::Cli;

    fn shown(command: &str) -> String {
        let words = shlex::split(command).expect(command);
        Redactor::new(Cli::command()).command_line(words.into_iter().map(OsString::from))
    }

    #[test]
    fn what_holds_no_secret_stays_as_it_was_typed() {
        for command in [
            "tare lat node-2:7117 --size 64,4K -d 5s -o 'my result.json'",
            "tare http 'http://web:8080/a/b' -R 1000 -H 'Accept: */*' --secret-file /etc/key",
            "tare lat --label a@b --under-load '-P 4 --direction down'",
            "tare compare plain=10.0.0.2:7117 'tuned=[fd00::1]:7117' --assert 'p99<2ms' -- lat",
            "tare http 'http://web/a?delay=5ms:20&size=1K' -c 4",
            "tare lat curl -d 5s --label login",
            "tare bw h -uP 8 --rate 1G --nodelay -d 1s",
            "tare http unix:@docker:/a -c 4",
            "tare lat h --insecure-secret-file --secret-file /etc/key --bind fe80::1%eth0",
            "tare compare a=x b=y --arm-options b='-c 4 --nodelay' --settle 1s -- bw --udp",
            "tare lat h --under-load '-P 4 --rate 1G'",
        ] {
            let again = shlex::split(&shown(command));
            assert_eq!(again, shlex::split(command), "{}", shown(command));
        }
        let line = Redactor::new(Cli::command())
            .command_line(["/usr/local/bin/tare", "lat"].map(OsString::from));
        assert_eq!(line, "tare lat");
    }

    #[test]
    fn secrets_are_left_out_wherever_they_stand() {
        for command in [
            "tare http h -H 'Authorization: Bearer hunter2'",
            "tare http h -H'authorization:hunter2'",
            "tare http h --header='Cookie: sid=hunter2'",
            "tare http h --header 'X-Auth-Token: hunter2'",
            "tare http http://me:hunter2@web/a",
            "tare http me:hunter2@web/a",
            "tare http 'http://web/a?key=hunter2&b=c'",
            "tare http 'web:80/?key=hunter2'",
            "tare http 'unix:/run/s:/a?key=hunter2'",
            "tare http 'unix:@s:/a?key=hunter2'",
            "tare http 'http+unix://%2Frun%2Fs/a?key=hunter2'",
            "tare compare 'a=web:80/?key=hunter2' -- http",
            "tare compare -- http 'loopback/a?key=hunter2=3'",
            "tare http h --body '{\"pin\": \"hunter2\"}'",
            "tare http h --body=hunter2",
            "tare http h --body hunter2 --chunked",
            "tare http h --unknown hunter2",
            "tare http h -H hunter2",
            "tare lat h --under-load '-c 4 --unknown=hunter2'",
            "tare lat h --under-load 'hunter2 \"'",
            "tare compare a=x b=http://me:hunter2@y/z --before 'b=curl -u \"Authorization: hunter2\" http://h'",
            "tare compare --before 'b=PGPASSWORD=hunter2 psql -c \"select 1\"' -- lat",
            "tare compare --before b='sh -c \"curl -H \\\"Cookie: hunter2\\\" h\"' -- lat",
            "tare compare --arm-options b='--header \"Authorization: hunter2\"' -- http",
            "tare compare --before b='echo \"hunter2' -- lat",
            "tare http h -H 'X-Auth: hunter2'",
            "tare compare --arm-options b=-HX-Auth:hunter2 -- http",
            "tare compare --before b='curl -u me:hunter2 h' -- lat",
            "tare compare --before b='curl -d \"{\\\"user\\\": \\\"x\\\", \\\"pin\\\": \\\"hunter2\\\"}\" h' -- lat",
            "tare compare --before b='id=$(curl -u me:hunter2 h)' -- lat",
            "tare compare --before b='true;TOKEN=hunter2 x' -- lat",
            "tare compare --before b='true # hunter2' -- lat --label x",
            "tare compare --before b='docker login -u me -p hunter2' -- lat",
        ] {
            let words: Vec<OsString> = match shlex::split(command) {
                Some(words) => words.into_iter().map(OsString::from).collect(),
                None => panic!("{command}"),
            };
            let line = Redactor::new(Cli::command()).command_line(words);
            assert!(!line.contains("hunter2"), "{line}");
            let tells = line.contains(REDACTED) || line.contains(" (SHA-256 ");
            assert!(tells, "{line}");
            assert!(shlex::split(&line).is_some(), "{line}");
        }
    }

    #[test]
    fn what_stands_beside_a_secret_stays() {
        let line =
            shown("tare http 'http://me:x@web:8080/a?b&key=x&c=d' -H 'Authorization: x' -c 4");
        let expected = "tare http 'http://(redacted)@web:8080/a?b&key=(redacted)&c=d' \
                        -H 'Authorization: (redacted)' -c 4";
        assert_eq!(shlex::split(&line), shlex::split(expected));
        let options =
            shown("tare compare --arm-options b='-H \"X-Auth: y\" --body z -c 4' -- http");
        let words = shlex::split(&options).unwrap();
        assert_eq!(words[3], "b=-H 'X-Auth: (redacted)' --body '(redacted)' -c 4");
        let options = shown("tare compare --arm-options b='--header \"X-Token: y\" -c 4' -- http");
        assert!(options.contains("-c 4"), "{options}");
        assert_eq!(shown("tare lat 'a\nb'").lines().count(), 1);
    }

    #[test]
    fn hooks_are_shown_by_their_first_word_unless_they_are_recorded() {
        let typed = "tare compare --before b='sysctl -w net.core.busy_poll=50' -- lat";
        let line = shown(typed);
        assert!(line.contains("b=sysctl … (SHA-256 ") && !line.contains("busy_poll"), "{line}");
        let recorded = typed.replacen("compare", "compare --record-hooks", 1);
        assert_eq!(shlex::split(&shown(&recorded)), shlex::split(&recorded));
        assert_eq!(hook("a b\nc", true), "a b c");
        // Two that differ are told apart.
        assert_ne!(hook("sysctl -w a=1", false), hook("sysctl -w a=2", false));
        let variable = hook("PGPASSWORD=hunter2 psql", false);
        assert!(variable.starts_with("… (SHA-256 "), "{variable}");
    }

    /// Whoever adds an option says here whether its values may be shown.
    #[test]
    fn every_option_is_on_one_list() {
        const REDACTED_OPTIONS: [&str; 1] = ["body"];
        let mut root = Cli::command();
        root.build();
        let mut known = Vec::new();
        for command in ["lat", "bw", "http", "compare"] {
            let command = root.find_subcommand(command).expect("a command");
            let options = command.get_arguments().filter(|o| o.get_action().takes_values());
            for long in options.filter_map(clap::Arg::get_long) {
                let is_redacted = matches!(Value::of(long), Value::Redacted);
                assert_eq!(is_redacted, REDACTED_OPTIONS.contains(&long), "--{long}");
                known.push(long);
            }
        }
        for option in SHOWN.split(' ') {
            assert!(known.contains(&option), "there is no --{option}");
        }
    }

    /// So that a word is read the same whatever command it belongs to.
    #[test]
    fn an_option_takes_a_value_in_all_commands_or_in_none() {
        let mut root = Cli::command();
        root.build();
        let measured = ["lat", "bw", "http", "compare"];
        let commands = measured.map(|name| root.find_subcommand(name).expect("a command"));
        let options = || commands.iter().flat_map(|command| command.get_arguments());
        for one in options() {
            for other in options() {
                let is_same = one.get_long().is_some() && one.get_long() == other.get_long()
                    || one.get_short().is_some() && one.get_short() == other.get_short();
                let takes_value = |option: &clap::Arg| option.get_action().takes_values();
                assert!(!is_same || takes_value(one) == takes_value(other), "{one} {other}");
            }
        }
    }
}
