//! The command line as a report shows it: what was typed, without the secrets in it.
//!
//! Too much is left out rather than too little: reports are made to be handed on.

use std::ffi::OsString;

use tare_engine::proto::text::is_deceptive;
use tare_engine::run::plan::secret::{REDACTED, is_header, is_name, shown_path, shows_header};

/// Options whose value is a header.
const HEADER_OPTIONS: [&str; 3] = ["-H", "--header", "--proxy-header"];
/// Options whose value is what a request carries, or user and password, whoever's they are; those that begin with
/// `--data` besides.
const SECRET_OPTIONS: [&str; 5] = [
    "--body",
    "--body-data",
    "--post-data",
    "--creds",
    "--proxy-user",
];
/// Options whose value is a user, or user and password with a colon between them.
const USER_OPTIONS: [&str; 2] = ["-u", "--user"];
/// A command within a command within … : what is nested deeper is left out as a whole.
const DEPTH_MAX: u32 = 4;

/// A command that hooks run, and that takes secrets by options whose names do not say so.
struct Tool {
    /// Its name, or that of its part which logs in.
    name: &'static str,
    /// The short options with a value, which may stand behind others and one dash, and before their value.
    valued: &'static str,
    /// Those among them whose value holds a secret.
    secret: &'static str,
    /// The long options whose value holds one.
    long: &'static [&'static str],
}

/// By their manuals: curl(1), sshpass(1), docker-login(1) and its kin (helm, podman, az, oc), mysql(1), redis-cli.
const TOOLS: [Tool; 6] = [
    Tool {
        name: "curl",
        valued: "AbcCdDeEFHKmoPQrtTuUwxXyYz",
        secret: "bdEFuU",
        long: &[
            "--cert",
            "--cookie",
            "--form",
            "--form-string",
            "--json",
            "--pass",
            "--user",
        ],
    },
    Tool {
        name: "sshpass",
        valued: "dfpP",
        secret: "p",
        long: &[],
    },
    Tool {
        name: "login",
        valued: "ptu",
        secret: "p",
        long: &[],
    },
    Tool {
        name: "mysql",
        valued: "DePhpSu",
        secret: "p",
        long: &[],
    },
    Tool {
        name: "mariadb",
        valued: "DePhpSu",
        secret: "p",
        long: &[],
    },
    Tool {
        name: "redis-cli",
        valued: "adhinprsu",
        secret: "au",
        long: &[],
    },
];

impl Tool {
    /// Whether it is what this word runs: `/usr/bin/curl`, `id=$(curl`.
    fn is_run_by(&self, word: &str) -> bool {
        let is_of_name = |c: char| c.is_alphanumeric() || "-_".contains(c);
        word.rsplit(|c| !is_of_name(c)).next() == Some(self.name)
    }

    /// Of a word such as `-sSu`: what the value of the last option is, and where in the word that value begins.
    fn short(&self, word: &str) -> Option<(Value, usize)> {
        let letters = word
            .strip_prefix('-')
            .filter(|rest| !rest.starts_with('-'))?;
        let mut letters = letters.char_indices();
        let (at, letter) = letters.find(|(_, letter)| self.valued.contains(*letter))?;
        let value = match letter {
            'H' => Value::Header,
            _ if self.secret.contains(letter) => Value::Secret,
            _ => Value::Any,
        };
        Some((value, 1 + at + letter.len_utf8()))
    }
}

/// What the value of an option is.
#[derive(Debug, Clone, Copy)]
enum Value {
    /// What it looks like.
    Any,
    Header,
    /// With a password where it holds a colon.
    User,
    Secret,
}

impl Value {
    /// That of a long option, a variable, or a short option that stands alone.
    fn of(name: &str, tool: Option<&Tool>) -> Self {
        let of_tool = tool.is_some_and(|tool| tool.long.contains(&name));
        if HEADER_OPTIONS.contains(&name) {
            Self::Header
        } else if of_tool
            || SECRET_OPTIONS.contains(&name)
            || name.starts_with("--data")
            || is_name(name)
        {
            Self::Secret
        } else if USER_OPTIONS.contains(&name) {
            Self::User
        } else {
            Self::Any
        }
    }

    /// That of the word behind `word`.
    fn behind(word: &str, tool: Option<&Tool>) -> Self {
        if !word.starts_with('-') || word.contains('=') {
            return Self::Any;
        }
        match tool.and_then(|tool| tool.short(word)) {
            Some((value, at)) if at == word.len() => value,
            Some(_) => Self::Any,
            None => Self::of(word, tool),
        }
    }

    fn shown(self, text: &str, tool: Option<&Tool>, depth: u32) -> String {
        match self {
            Self::Secret => REDACTED.to_owned(),
            Self::User if has_password(text) => REDACTED.to_owned(),
            Self::Header => match text.split_once(':') {
                Some((name, _)) if !shows_header(name) => format!("{name}: {REDACTED}"),
                Some(_) => text.to_owned(),
                None => one(text, tool, depth),
            },
            Self::User | Self::Any => one(text, tool, depth),
        }
    }
}

/// Whether `-u` was given more than a user: `1000:1000` is one, with a group.
fn has_password(user: &str) -> bool {
    user.contains(':') && !user.chars().all(|c| c.is_ascii_digit() || c == ':')
}

/// The words as one line that a shell reads, secrets redacted: the values of all but harmless headers, of options,
/// variables and parameters that are secrets by their names, user and password of URLs, and bodies. Commands that are
/// quoted in it likewise, and of those that are known what else they take.
pub(crate) fn command_line(words: impl IntoIterator<Item = OsString>) -> String {
    let words = words.into_iter().enumerate().map(|(index, word)| {
        let word = word.to_string_lossy().into_owned();
        // Where the command lies is the machine's business.
        match (index, word.rsplit_once('/')) {
            (0, Some((_, name))) => name.to_owned(),
            _ => word,
        }
    });
    line(&words.collect::<Vec<_>>(), true, 0)
}

/// A hook's command, or an arm's options, as a report shows them: as typed, secrets redacted.
pub(crate) fn command(typed: &str) -> String {
    nested(typed, 0)
}

/// A command, or options, as a report shows them that were typed as one word.
fn nested(command: &str, depth: u32) -> String {
    // What no shell reads can hold anything.
    let words = match shlex::split(command) {
        Some(words) if depth < DEPTH_MAX => words,
        _ => return REDACTED.to_owned(),
    };
    let is_ours = words.first().is_some_and(|first| first.starts_with('-'));
    let shown = line(&words, is_ours, depth);
    // As it was typed, rather than quoted anew, where nothing was left out; a comment is among no words.
    let untouched = shlex::split(&shown).is_some_and(|again| again == words);
    if untouched && !command.contains('#') {
        command.to_owned()
    } else {
        shown
    }
}

/// `is_ours`: the options are those of tare, and what looks like a command is a target, or a label.
fn line(words: &[String], is_ours: bool, depth: u32) -> String {
    let mut shown: Vec<String> = Vec::with_capacity(words.len());
    let mut tool: Option<&Tool> = None;
    let mut value = Value::Any;
    for word in words {
        let text = value.shown(word, tool, depth);
        // A control character would end the line, or drive the terminal.
        let text = text.replace(is_deceptive, " ");
        let quoted = shlex::try_quote(&text).map(std::borrow::Cow::into_owned);
        shown.push(quoted.unwrap_or_else(|_| REDACTED.to_owned()));
        // A header without quotes: nobody knows how many words its value has.
        let begins_header = word.strip_suffix(':').is_some_and(is_header);
        if begins_header && matches!(value, Value::Any) {
            shown.push(format!("'{REDACTED}'"));
            break;
        }
        if !is_ours {
            tool = TOOLS.iter().find(|tool| tool.is_run_by(word)).or(tool);
        }
        value = Value::behind(word, tool);
        if word.ends_with(';') || ["&", "&&", "|", "||"].contains(&word.as_str()) {
            tool = None;
        }
    }
    shown.join(" ")
}

/// A word that no option stands before which tells what it is.
fn one(word: &str, tool: Option<&Tool>, depth: u32) -> String {
    if let Some((value @ (Value::Header | Value::Secret), at)) =
        tool.and_then(|tool| tool.short(word))
        && at < word.len()
    {
        let (option, attached) = word.split_at(at);
        return format!("{option}{}", value.shown(attached, tool, depth));
    }
    // A blank behind it tells options from a header.
    let attached = word
        .strip_prefix("-H")
        .filter(|value| value.starts_with(|c: char| !c.is_whitespace()));
    if let Some(value) = attached {
        return format!("-H{}", Value::Header.shown(value, tool, depth));
    }
    if let Some((name, value)) = word.split_once('=')
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || "-_.".contains(c))
    {
        let shown = Value::of(name, tool).shown(value, tool, depth);
        return format!("{name}={shown}");
    }
    // A header that some other option carries, or none.
    if let Some((name, _)) = word.split_once(':')
        && is_header(name)
        && !name.trim().contains(char::is_whitespace)
    {
        return format!("{name}: {REDACTED}");
    }
    if word.contains(char::is_whitespace) {
        return nested(word, depth + 1);
    }
    let shown = address(word);
    if shown == word { pairs(word) } else { shown }
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

/// A word up to the value of the first field in it that is a secret by its name, as of a form, of JSON or of a list:
/// nobody knows where that value ends.
fn pairs(word: &str) -> String {
    let is_secret = |at: usize| {
        let before = &word[..at];
        // In JSON a name ends with a quote; other colons stand before a port.
        let ends = word[at..].starts_with('=') || before.ends_with(['"', '\'']);
        let name = before.rsplit(['&', ';', ',', '{', '?', '|', '/', '=']);
        ends && name.into_iter().next().is_some_and(is_name)
    };
    let mut separators = word.match_indices(['=', ':']);
    match separators.find(|(at, _)| is_secret(*at)) {
        Some((at, _)) => format!("{}{REDACTED}", &word[..=at]),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(command: &str) -> String {
        let words = shlex::split(command).expect(command);
        command_line(words.into_iter().map(OsString::from))
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
            "tare http unix:@docker:/a -c 4",
            "tare lat h --insecure-secret-file --secret-file /etc/key --bind fe80::1%eth0",
            "tare compare --before b='docker run -d -u 1000:1000 -p 80:80 nginx:1.29' -- lat",
            "tare compare --before b='iptables -t nat -A OUTPUT -p tcp -d 10.0.0.2 -j ACCEPT' -- lat",
            "tare compare --before b='iptables -F && sudo -u root ethtool -K eth0 gro off' -- lat",
            "tare compare --before b='curl -so /dev/null -XPOST -H \"Accept: */*\" http://web:8080/a' -- lat",
            "tare compare --before b='curl h; docker run -d -p 80:80 nginx' -- lat",
            "tare compare --before b='tc qdisc add dev eth0 root netem delay 1ms' --arm-options b='-c 4' -- lat",
        ] {
            let again = shlex::split(&shown(command));
            assert_eq!(again, shlex::split(command), "{}", shown(command));
        }
        let line = command_line(["/usr/local/bin/tare", "lat"].map(OsString::from));
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
            "tare compare a=x b=http://me:hunter2@y/z --before 'b=curl -u \"Authorization: hunter2\" http://h'",
            "tare compare --before 'b=PGPASSWORD=hunter2 psql -c \"select 1\"' -- lat",
            "tare compare --before 'b=vault --token hunter2' -- lat",
            "tare compare --before b='sh -c \"curl -H \\\"Cookie: hunter2\\\" h\"' -- lat",
            "tare compare --before b='sh -c \"curl http://me:hunter2@h\"' -- lat",
            "tare compare --arm-options b='--header \"Authorization: hunter2\"' -- http",
            "tare compare --before b='echo \"hunter2' -- lat",
            "tare http h -H 'X-Auth: hunter2'",
            "tare compare --arm-options b=-HX-Auth:hunter2 -- http",
            "tare compare --before b='curl -u me:hunter2 h' -- lat",
            "tare compare --before b='curl -u hunter2 h' -- lat",
            "tare compare --before b='/usr/bin/curl -sSume:hunter2 h' -- lat",
            "tare compare --before b='curl -sSd hunter2 h' -- lat",
            "tare compare --before b='curl -d \"user=x&password=hunter2\" h' -- lat",
            "tare compare --before b='curl -d \"user[password]=hunter2\" h' -- lat",
            "tare compare --before b='curl -d \"{\\\"user\\\": \\\"x\\\", \\\"pin\\\": \\\"hunter2\\\"}\" h' -- lat",
            "tare compare --before b='curl --data-raw hunter2 h' -- lat",
            "tare compare --before b='curl --json=hunter2 h' -- lat",
            "tare compare --before b='curl -F pin=hunter2 h' -- lat",
            "tare compare --before b='curl -sH \"X-Auth: hunter2\" h' -- lat",
            "tare compare --before b='curl -H X-Auth:hunter2 h' -- lat",
            "tare compare --before b='wget --user=me:hunter2 h' -- lat",
            "tare compare --before b='wget --header=\"X-Auth: hunter2\" h' -- lat",
            "tare compare --before b='id=$(curl -u me:hunter2 h)' -- lat",
            "tare compare --before b='ip netns exec x curl -u hunter2 h' -- lat",
            "tare compare --before b='http --form POST h user=x password=hunter2' -- lat",
            "tare compare --before b='post h user=x&password=hunter2' -- lat",
            "tare compare --before b='post h \"{\\\"user\\\":1,\\\"password\\\":\\\"a,hunter2\\\"}\"' -- lat",
            "tare compare --before b='echo Authorization: Bearer hunter2' -- lat",
            "tare compare --before b='true;TOKEN=hunter2 x' -- lat",
            "tare compare --before b='mount -o user=x,password=a,hunter2 y' -- lat",
            "tare compare --before b='true # hunter2' -- lat --label token=x",
            "tare compare --before b='docker login -u me -p hunter2' -- lat",
            "tare compare --before b='docker login -phunter2 h' -- lat",
            "tare compare --before b='sshpass -p hunter2 ssh h' -- lat",
            "tare compare --before b='mysql -phunter2 -e x' -- lat",
            "tare compare --before b='redis-cli -a hunter2 ping' -- lat",
            "tare compare --before b='app -password hunter2' -- lat",
            "tare compare --before b='DB_PASS=hunter2 app' -- lat",
        ] {
            let words: Vec<OsString> = match shlex::split(command) {
                Some(words) => words.into_iter().map(OsString::from).collect(),
                None => panic!("{command}"),
            };
            let line = command_line(words);
            assert!(!line.contains("hunter2"), "{line}");
            assert!(line.contains(REDACTED), "{line}");
            assert!(shlex::split(&line).is_some(), "{line}");
        }
    }

    #[test]
    fn what_stands_beside_a_secret_stays() {
        let line =
            shown("tare http 'http://me:x@web:8080/a?b&key=x&c=d' -H 'Authorization: x' -c 4");
        let words = shlex::split(&line).unwrap();
        let expected = [
            "tare",
            "http",
            "http://(redacted)@web:8080/a?b&key=(redacted)&c=d",
            "-H",
            "Authorization: (redacted)",
            "-c",
            "4",
        ];
        assert_eq!(words, expected);
        let hook = shown("tare compare --before b='sysctl -w net.core.busy_poll=50' -- lat");
        assert!(hook.contains("sysctl -w net.core.busy_poll=50"), "{hook}");
        let options =
            shown("tare compare --arm-options b='-H \"X-Auth: y\" --body z -c 4' -- http");
        let words = shlex::split(&options).unwrap();
        assert_eq!(
            words[3],
            "b=-H 'X-Auth: (redacted)' --body '(redacted)' -c 4"
        );
        let options = shown("tare compare --arm-options b='--header \"X-Token: y\" -c 4' -- http");
        assert!(options.contains("-c 4"), "{options}");
        assert_eq!(shown("tare lat 'a\nb'").lines().count(), 1);
    }
}
