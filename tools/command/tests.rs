//! Command lines, as they are typed and as they are refused.

use std::collections::HashSet;
use std::fmt::Debug;
use std::os::unix::fs::symlink;

use super::usage::parse;
use super::*;
use crate::report::fixtures::holds;

/// What `tare` and these words become.
pub(super) fn parsed(words: &str) -> Command {
    let words = shlex::split(&format!("tare {words}")).expect(words);
    parse(words.into_iter().map(Into::into)).expect("the flags themselves are fine").command
}

/// Of each flags, why no plan comes of them: in a line.
pub(super) fn refuses<T: Debug>(plan: impl Fn(&str) -> Result<T>, cases: &[(&str, &str)]) {
    for (flags, why) in cases {
        let message = plan(flags).expect_err(flags).to_string();
        assert!(message.contains(why) && !message.contains('\n'), "{flags}: {message}");
    }
}

fn line(words: &str) -> String {
    let line = parse(words.split_whitespace().map(Into::into)).expect_err(words).line();
    assert!(!line.contains('\n') && !line.starts_with("error"), "{words}: {line}");
    line
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
        ("lat", "[default: 5s]|round trips instead|[default: 1]", ["http", "goodput"]),
        ("bw", "[default: 5s]|sends instead|'bandwidth>9G'", ["http", "p99"]),
        ("http", "[default: 10s]|requests instead|have --connect-timeout", ["bw", "bandwidth"]),
    ] {
        let mut root = Cli::command();
        let command = root.find_subcommand_mut(name).unwrap();
        let all = command.render_long_help().to_string();
        let (flags, _) = all.rsplit_once("Examples:").unwrap();
        let flags = flags.split_whitespace().collect::<Vec<_>>().join(" ");
        holds(&flags, says);
        let help = |id: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id).unwrap();
            let (short, long) = (arg.get_help().unwrap(), arg.get_long_help());
            format!("{short} {}", long.unwrap_or(short))
        };
        for id in ["duration", "count", "timeout", "threads", "assertions"] {
            for never in never {
                assert!(!help(id).contains(never), "{name}: {id}: {}", help(id));
            }
        }
    }
}

#[test]
fn mistakes_are_one_line_that_says_what_to_type() {
    for (words, parts) in [
        ("tare lat --sise 64", "'--sise'|'--size'"),
        ("tare serv", "'serv'|'serve'"),
        ("tare ping", "'ping'|lat, bw, http, compare, serve, doctor, report, completions, man"),
        ("tare lat --wait spinning", "spinning|spin, block, hybrid"),
        ("tare lat -d 5", "--duration|no unit|write it as 500us"),
        ("tare lat --size 1:64:*1", "--size|never ends"),
        ("tare lat --udp --connect-each", "--udp|--connect-each"),
        ("tare lat -n 5 -d 5s", "--count|--duration|keep one of the two"),
        ("tare lat --tcp --udp", "--tcp|--udp|keep one"),
        ("tare completions", "<SHELL>"),
        ("tare lat a b", "'b'"),
        ("tare lat --assert", "--assert"),
        ("tare http https://node/", "not built yet|http://"),
        ("tare http node -R 0", "--rate|'0'"),
        ("tare http node -R 5 --stages 1:1s", "--rate|--stages"),
        ("tare http -X get node", "write GET"),
        ("tare http --secret-file x", "--secret-file"),
        // An unknown flag is not advised to be a value.
        ("tare http -Y node", "see --help"),
        ("tare lat --zzz", "see --help"),
        ("tare bw -Y", "see --help"),
    ] {
        let line = line(words);
        holds(&line, parts);
        assert!(!line.contains("-- -"), "{line}");
    }
}

/// Each habit is told what to write, with a value behind it and without; and so is a flag that
/// is glued to its value, or is one of tare's own with one dash.
#[test]
fn flags_of_other_tools_are_answered_by_what_to_write() {
    for (command, habits) in [("http", habits::HTTP), ("bw", habits::BW)] {
        for (names, advice) in habits {
            for name in names.split(' ') {
                for words in [format!("{name} 5"), format!("{name}=5"), name.to_owned()] {
                    let line = line(&format!("tare {command} {words} node"));
                    assert_eq!(line, format!("{name}: {advice}"), "{command} {words}");
                }
            }
        }
    }
    for (words, says) in [
        ("http -t4 -c 100 node", "threads in wrk (write --threads N)"),
        ("http -t 1m node", "duration in fortio (write -d TIME)"),
        ("http -t 20 node", "timeout in hey (write --timeout TIME)"),
        ("http -h2 node", "-h2: HTTP/2 is not built; leave it out"),
        ("http -z 10s node", "-z: write -d TIME"),
        ("http -timeout 3s node", "-timeout: write --timeout"),
        ("http -host a node", "-host: write --host"),
        ("bw -b1G node", "-b: write --rate"),
        ("bw -w 1M node", "-w: write --sndbuf"),
        ("compare a=x b=y -d 5s", "write --block-duration TIME"),
        (
            "compare a=x b=y --observe web=pid:1",
            "--observe: it is about what each visit measures: write it behind --",
        ),
    ] {
        let line = line(&format!("tare {words}"));
        assert!(line.contains(says), "{words}: {line}");
    }
    let help = parse("tare http -h -t 4".split(' ').map(Into::into));
    assert_eq!(help.expect_err("help").print(), Exit::Measured);
}

#[test]
fn no_habit_is_a_flag_of_tares_own_and_none_is_there_twice() {
    let root = Cli::command();
    for (name, habits) in [("http", habits::HTTP), ("bw", habits::BW), ("compare", habits::COMPARE)]
    {
        let command = root.find_subcommand(name).unwrap();
        let mut seen = HashSet::new();
        for flag in habits.iter().flat_map(|(names, _)| names.split(' ')) {
            assert!(seen.insert(flag), "{name} {flag}");
            let own = command.get_arguments().any(|arg| {
                let shorts = arg.get_short_and_visible_aliases().unwrap_or_default();
                let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
                shorts.iter().any(|short| flag == format!("-{short}"))
                    || longs.iter().any(|long| flag == format!("--{long}"))
            });
            assert!(!own, "{name} {flag} is a flag of its own");
        }
    }
}

#[test]
fn nothing_is_written_over_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("in.json"), "{}").unwrap();
    fs::write(path("other.json"), "{}").unwrap();
    symlink(path("in.json"), path("link.json")).unwrap();
    fs::hard_link(path("in.json"), path("same.json")).unwrap();
    let inputs = [path("gone.json"), path("in.json")];
    for (name, is_spared) in [
        ("in.json", false),
        ("link.json", false),
        ("same.json", false),
        ("other.json", true),
        ("new.json", true),
        ("gone.json", true),
    ] {
        let refused = spares(&path(name), &inputs).err();
        assert_eq!(refused.is_none(), is_spared, "{name}: {refused:?}");
    }
    // What is no file is not lost by writing to it.
    assert!(spares(Path::new("/dev/null"), &["/dev/null"]).is_ok());
}
