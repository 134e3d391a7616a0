//! A command line that is refused: what is wrong with it, in one line that says what to type.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::{Cli, habits};
use crate::exit::Exit;

pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Refused> {
    let words: Vec<OsString> = words.into_iter().collect();
    Cli::try_parse_from(&words).map_err(|error| {
        // clap takes hey's -h2 for -h.
        let asks_for_help = words.iter().any(|word| word == "-h" || word == "--help");
        let habit = match error.kind() {
            ErrorKind::DisplayVersion => None,
            ErrorKind::DisplayHelp if asks_for_help => None,
            _ => habits::hint(&Cli::command(), &words),
        };
        Refused { error, habit }
    })
}

/// What there is to say instead of a command line: a mistake, or the help that was asked for.
#[derive(Debug)]
pub(crate) struct Refused {
    error: clap::Error,
    /// What to write for a flag of another tool.
    habit: Option<String>,
}

impl From<clap::Error> for Refused {
    fn from(error: clap::Error) -> Self {
        Self { error, habit: None }
    }
}

impl Refused {
    /// Prints help and version as clap does, and a mistake as one line on stderr.
    pub(crate) fn print(&self) -> Exit {
        match self.error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion if self.habit.is_none() => {
                // Whoever stops reading the help has read enough.
                let _ = self.error.print();
                Exit::Measured
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = self.error.print();
                Exit::Usage
            }
            _ => {
                crate::progress::complain(&self.line());
                Exit::Usage
            }
        }
    }

    /// clap's paragraphs as one line: what is wrong, then its tips; usage and pointers to the help
    /// dropped.
    pub(super) fn line(&self) -> String {
        if let Some(habit) = &self.habit {
            return habit.clone();
        }
        let text = self.error.render().to_string();
        let mut parts: Vec<String> = text
            .trim_start_matches("error: ")
            .split("\n\n")
            .take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more info"))
            .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
            .map(|part| part.trim_start_matches("tip: ").to_owned())
            // "to pass '-x' as a value, use '-- -x'" would make a URL or a host of it.
            .filter(|part| !part.is_empty() && !part.starts_with("to pass "))
            .collect();
        match self.error.kind() {
            ErrorKind::InvalidSubcommand if parts.len() == 1 => {
                let command = Cli::command();
                let names = command.get_subcommands().map(clap::Command::get_name);
                let names: Vec<&str> = names.collect();
                parts.push(format!("the commands are {}", names.join(", ")));
            }
            ErrorKind::ArgumentConflict => parts.push("keep one of the two".to_owned()),
            ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
                parts[0] = with_what_is_allowed(&parts[0]);
            }
            _ => {}
        }
        if parts.len() == 1 && !parts[0].contains("; ") {
            parts.push("see --help".to_owned());
        }
        parts.join("; ")
    }
}

/// clap's lists and ranges as advice.
fn with_what_is_allowed(mistake: &str) -> String {
    if let Some((wrong, allowed)) = mistake.rsplit_once(" [possible values: ") {
        return format!("{wrong}; write one of {}", allowed.trim_end_matches(']'));
    }
    let range = mistake.rsplit_once(" is not in ");
    match range.and_then(|(wrong, range)| Some((wrong, range.split_once("..=")?))) {
        Some((wrong, (low, high))) => format!("{wrong} is out of range; write {low} to {high}"),
        None => mistake.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &str) -> String {
        parse(words.split_whitespace().map(Into::into)).expect_err(words).line()
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_ends_in_examples() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            let examples = help.rsplit_once("Examples:").map(|(_, examples)| examples);
            let shown = examples.is_some_and(|examples| examples.contains("tare "));
            assert!(shown, "{}", command.get_name());
        }
    }

    /// What flags have in common is said in each command's own terms.
    #[test]
    fn the_help_of_a_command_is_about_it_alone() {
        for (name, says, never) in [
            ("lat", ["[default: 5s]", "round trips instead", "[default: 1]"], ["http", "goodput"]),
            ("bw", ["[default: 5s]", "sends instead", "'bandwidth>9G'"], ["http", "p99"]),
            (
                "http",
                ["[default: 10s]", "requests instead", "connects have --connect-timeout"],
                ["bw", "bandwidth"],
            ),
        ] {
            let mut root = Cli::command();
            let command = root.find_subcommand_mut(name).unwrap();
            let all = command.render_long_help().to_string();
            let (flags, _) = all.rsplit_once("Examples:").unwrap();
            let flags = flags.split_whitespace().collect::<Vec<_>>().join(" ");
            for says in says {
                assert!(flags.contains(says), "{name}: no {says} in {flags}");
            }
            let told = |id: &str| {
                let arg = command.get_arguments().find(|arg| arg.get_id() == id).unwrap();
                let (short, long) = (arg.get_help().unwrap(), arg.get_long_help());
                format!("{short} {}", long.unwrap_or(short))
            };
            for id in ["duration", "count", "timeout", "threads", "assertions"] {
                for never in never {
                    assert!(!told(id).contains(never), "{name}: {id}: {}", told(id));
                }
            }
        }
    }

    #[test]
    fn mistakes_are_one_line_that_says_what_to_type() {
        for (words, parts) in [
            ("tare lat --sise 64", vec!["'--sise'", "'--size'"]),
            ("tare serv", vec!["'serv'", "'serve'"]),
            (
                "tare ping",
                vec!["'ping'", "lat, bw, http, compare, serve, doctor, report, completions, man"],
            ),
            ("tare lat --wait spinning", vec!["spinning", "spin, block, hybrid"]),
            ("tare lat -d 5", vec!["--duration", "no unit", "write it as 500us"]),
            ("tare lat --size 1:64:*1", vec!["--size", "never ends"]),
            ("tare lat --udp --connect-each", vec!["--udp", "--connect-each"]),
            ("tare lat -n 5 -d 5s", vec!["--count", "--duration", "keep one of the two"]),
            ("tare lat --tcp --udp", vec!["--tcp", "--udp", "keep one"]),
            ("tare completions", vec!["<SHELL>"]),
            ("tare lat a b", vec!["'b'"]),
            ("tare lat --assert", vec!["--assert"]),
            ("tare http https://node/", vec!["not built yet", "http://"]),
            ("tare http node -R 0", vec!["--rate", "'0'"]),
            ("tare http node -R 5 --stages 1:1s", vec!["--rate", "--stages"]),
            ("tare http -t4 -c 100 node", vec!["write --threads N"]),
            ("tare http -q 200 node", vec!["write -R RATE"]),
            ("tare http -X get node", vec!["write GET"]),
            ("tare http --secret-file x", vec!["--secret-file"]),
        ] {
            let line = line(words);
            assert!(!line.contains('\n'), "{line}");
            assert!(!line.starts_with("error"), "{line}");
            for part in parts {
                assert!(line.contains(part), "{words}: no {part} in: {line}");
            }
        }
    }

    #[test]
    fn flags_of_other_tools_are_told_what_to_write() {
        for (words, says) in [
            (
                "compare a=x b=y --observe web=pid:1",
                "--observe: it is about what each visit measures: write it behind --",
            ),
            ("compare a=x b=y -d 5s", "write --block-duration TIME"),
            ("http -L node", "-L: percentiles are always printed"),
            ("http --latency node", "--latency: percentiles are always"),
            ("http -U node", "leave it out"),
            ("http -s x.lua node", "write --urls FILE"),
            ("http -m POST node", "-m: write -X METHOD"),
            ("http -T text/plain node", "write --content-type"),
            ("http -D body node", "write --body-file FILE"),
            ("http -a u:p node", "-H 'Authorization: Basic"),
            ("http -k node", "connections are kept"),
            ("http -x proxy:80 node", "--connect-to HOST:PORT"),
            ("http -b x=y node", "write --body TEXT"),
            ("http --json node", "--format json"),
            ("http --http2 node", "HTTP/2 is not built"),
            ("http -h2 node", "-h2: HTTP/2 is not built; leave it out"),
            ("http --insecure node", "no certificate"),
            ("http --concurrency 5 node", "write -c N"),
            ("http --requests=5 node", "--requests: write -n N"),
            ("http --data x node", "write --body TEXT"),
            ("http -disable-keepalive node", "write --connection close"),
            ("http -t 1m node", "duration in fortio (write -d TIME)"),
            ("http -t 20 node", "timeout in hey (write --timeout TIME)"),
            ("http -t4 -c 100 node", "threads in wrk (write --threads N)"),
            ("http -z 10s node", "write -d TIME"),
            ("http -qps 200 node", "write -R RATE"),
            ("http --qps 200 node", "write -R RATE"),
            ("http -timeout 3s node", "-timeout: write --timeout"),
            ("http -host a node", "-host: write --host"),
            ("bw -R node", "write --reverse"),
            ("bw -b 1G node", "write --rate"),
            ("bw -b1G node", "-b: write --rate"),
            ("bw -t 10 node", "write -d TIME"),
            ("bw -l 128K node", "write --size"),
            ("bw -i 1 node", "write --interval"),
            ("bw -w 1M node", "write --sndbuf"),
            ("bw -C bbr node", "write --congestion"),
        ] {
            let refused = parse(format!("tare {words}").split(' ').map(Into::into));
            let refused = refused.expect_err(words);
            let line = refused.line();
            assert!(line.contains(says), "{words}: {line}");
            assert!(!line.contains('\n'), "{words}: {line}");
        }
    }

    #[test]
    fn an_unknown_flag_is_not_advised_to_be_a_value() {
        for words in ["tare http -Y node", "tare lat --zzz", "tare bw -Y"] {
            let line = line(words);
            assert!(!line.contains("-- -"), "{line}");
            assert!(line.ends_with("see --help"), "{line}");
        }
        let help = parse("tare http -h -t 4".split(' ').map(Into::into));
        assert_eq!(help.expect_err("help").print(), Exit::Measured);
    }
}
