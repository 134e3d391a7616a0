//! The command line as a report shows it: what was typed, without the secrets in it.
//!
//! Too much is left out rather than too little: reports are made to be handed on.

use std::ffi::OsString;

use tare_engine::run::plan::secret::{REDACTED, is_header, is_name};

/// Options whose value is a header.
const HEADER_OPTIONS: [&str; 2] = ["-H", "--header"];
/// Options whose value is what a request carries.
const BODY_OPTIONS: [&str; 1] = ["--body"];
/// A command within a command within … : what is nested deeper is left out as a whole.
const DEPTH_MAX: u32 = 4;

/// The words as one line that a shell reads, secrets redacted: the values of headers and options that are secrets by their
/// names, user and password of URLs and their queries, and bodies. Commands that are quoted in it likewise.
pub(crate) fn command_line(words: impl IntoIterator<Item = OsString>) -> String {
    let words = words.into_iter().enumerate().map(|(index, word)| {
        let word = word.to_string_lossy().into_owned();
        // Where the command lies is the machine's business.
        match (index, word.rsplit_once('/')) {
            (0, Some((_, name))) => name.to_owned(),
            _ => word,
        }
    });
    line(words.collect(), 0)
}

/// A hook's command as a report shows it: as typed, secrets redacted.
pub(crate) fn command(typed: &str) -> String {
    nested(typed, 0).unwrap_or_else(|| typed.to_owned())
}

/// A command as a report shows it that was typed as one word, such as a hook's.
fn nested(command: &str, depth: u32) -> Option<String> {
    if depth >= DEPTH_MAX {
        return Some(REDACTED.to_owned());
    }
    let words = shlex::split(command)?;
    if words.len() < 2 {
        return None;
    }
    let shown = line(words.clone(), depth);
    // As it was typed, rather than quoted anew, where nothing was left out.
    let untouched = shlex::split(&shown).is_some_and(|again| again == words);
    Some(if untouched { command.to_owned() } else { shown })
}

fn line(words: Vec<String>, depth: u32) -> String {
    let mut shown: Vec<String> = Vec::with_capacity(words.len());
    let mut before: Option<&str> = None;
    for word in &words {
        let text = match before {
            Some(option) if BODY_OPTIONS.contains(&option) => REDACTED.to_owned(),
            Some(option) if HEADER_OPTIONS.contains(&option) => header(word),
            Some(option) if option.starts_with("--") && is_name(option) => REDACTED.to_owned(),
            _ => one(word, depth),
        };
        // A control character would end the line, or drive the terminal.
        let text = text.replace(char::is_control, " ");
        let quoted = shlex::try_quote(&text).map(std::borrow::Cow::into_owned);
        shown.push(quoted.unwrap_or_else(|_| REDACTED.to_owned()));
        before = (!word.contains('=')).then_some(word.as_str());
    }
    shown.join(" ")
}

/// A word that no option stands before which takes it.
fn one(word: &str, depth: u32) -> String {
    let attached = word.strip_prefix("-H").filter(|value| !value.is_empty());
    if let Some(value) = attached {
        return format!("-H{}", header(value));
    }
    if let Some((name, value)) = word.split_once('=')
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || "-_.".contains(c))
    {
        let value = match name {
            _ if HEADER_OPTIONS.contains(&name) => header(value),
            _ if BODY_OPTIONS.contains(&name) || is_name(name) => REDACTED.to_owned(),
            _ => one(value, depth),
        };
        return format!("{name}={value}");
    }
    // A header that some other option carries, or none.
    if let Some((name, _)) = word.split_once(':')
        && is_header(name)
    {
        return header(word);
    }
    if word.contains(char::is_whitespace) {
        // What is no command that a shell reads can hold anything.
        return nested(word, depth + 1).unwrap_or_else(|| REDACTED.to_owned());
    }
    address(word)
}

/// `Name: value`, without a secret's value.
fn header(text: &str) -> String {
    match text.split_once(':') {
        Some((name, _)) if is_header(name) => format!("{name}: {REDACTED}"),
        _ => text.to_owned(),
    }
}

/// A URL without user, password and query; other words as they are.
fn address(word: &str) -> String {
    let (scheme, rest) = match word.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), word),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // Without a scheme, user and password are only told by the colon between them.
    let host = match authority.rsplit_once('@') {
        Some((user, host)) if !scheme.is_empty() || user.contains(':') => {
            format!("{REDACTED}@{host}")
        }
        _ => authority.to_owned(),
    };
    match path.split_once('?') {
        Some((path, _)) => format!("{scheme}{host}{path}?{REDACTED}"),
        None => format!("{scheme}{host}{path}"),
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
        let line = shown("tare http http://me:x@web:8080/a?b -H 'Authorization: x' -c 4");
        let words = shlex::split(&line).unwrap();
        let expected = [
            "tare",
            "http",
            "http://(redacted)@web:8080/a?(redacted)",
            "-H",
            "Authorization: (redacted)",
            "-c",
            "4",
        ];
        assert_eq!(words, expected);
        let hook = shown("tare compare --before b='sysctl -w net.core.busy_poll=50' -- lat");
        assert!(hook.contains("sysctl -w net.core.busy_poll=50"), "{hook}");
        assert_eq!(shown("tare lat 'a\nb'").lines().count(), 1);
    }
}
