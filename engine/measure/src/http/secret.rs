//! What is secret of what was typed, by its name.

/// What stands in a report for a secret.
pub const REDACTED: &str = "(redacted)";

/// Headers whose values a report may show: what any other is called tells nobody whether it is a
/// secret. In lower case.
const SHOWN_HEADERS: &str = "accept accept-charset accept-encoding accept-language cache-control connection \
    content-encoding content-length content-type date expect host pragma range te transfer-encoding upgrade user-agent";
/// What the name of a secret holds, in lower case without `-` and `_`: of headers, options and
/// variables.
const WORDS: &str =
    "password passwd passphrase pwd secret token bearer apikey accesskey privatekey credential";
/// Parameters of a query that are secrets too; elsewhere such names stand for other things as well.
/// In lower case.
const PARAMETERS: [&str; 7] = ["auth", "code", "jwt", "pin", "session", "sid", "sig"];

/// Whether a report may show the value of a header of this name that is sent. Too few are shown
/// rather than too many.
#[must_use]
pub fn shows_header(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    SHOWN_HEADERS.split(' ').any(|shown| shown == name)
}

/// Whether what has this name (an option, a variable, a field) is a secret by it. A file that holds
/// one is none: its name tells nothing.
fn is_name(name: &str) -> bool {
    let name = letters(name);
    let is_pass = name.ends_with("pass") && !name.ends_with("bypass");
    (is_pass || WORDS.split(' ').any(|word| name.contains(word))) && !name.ends_with("file")
}

/// Whether the value of a query's parameter of this name is a secret.
fn is_parameter(name: &str) -> bool {
    let letters = letters(name);
    is_name(name)
        || PARAMETERS.contains(&letters.as_str())
        || ["key", "signature", "sessionid"].iter().any(|end| letters.ends_with(end))
}

/// A request's path and query as a report shows it: without the values of parameters that are
/// secrets by their names.
#[must_use]
pub fn shown_path(path: &str) -> String {
    // Each part begins behind a separator and ends with the next one; the first is the path itself.
    let parts = path.split_inclusive(['?', '&', ';', '#']);
    let part = |(index, part): (usize, &str)| match part.split_once('=') {
        Some((name, value)) if index > 0 && is_parameter(name) => {
            let separator = value.matches(['?', '&', ';', '#']).next();
            format!("{name}={REDACTED}{}", separator.unwrap_or_default())
        }
        _ => part.to_owned(),
    };
    parts.enumerate().map(part).collect()
}

/// A name in lower case, letters and digits alone.
fn letters(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        let secrets = "--password PGPASSWORD MYSQL_PWD DB_PASS --api-key AWS_SECRET_ACCESS_KEY token user[password]";
        for name in secrets.split(' ') {
            assert!(is_name(name), "{name}");
        }
        for name in ["--secret-file", "--size", "--bypass", "key", "-c"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn of_headers_that_are_sent_only_harmless_ones_are_shown() {
        for name in ["Accept", " HOST ", "content-type"] {
            assert!(shows_header(name), "{name}");
        }
        for name in ["X-Auth", "Authorization", "Cookie", "X-Request-Id", ""] {
            assert!(!shows_header(name), "{name}");
        }
    }

    #[test]
    fn a_path_is_shown_without_the_values_of_secret_parameters() {
        for (path, shown) in [
            ("/", "/"),
            ("/a/b?delay=5ms:20&x", "/a/b?delay=5ms:20&x"),
            ("/token=a?monitor=b", "/token=a?monitor=b"),
            ("/?key=hunter2&b=c", "/?key=(redacted)&b=c"),
            ("/?a=b&API_KEY=hunter2=3#x", "/?a=b&API_KEY=(redacted)#x"),
            ("/?X-Amz-Signature=hunter2", "/?X-Amz-Signature=(redacted)"),
            ("/?user[password]=hunter2", "/?user[password]=(redacted)"),
            ("/a;jsessionid=hunter2?b=c", "/a;jsessionid=(redacted)?b=c"),
            ("/?token=", "/?token=(redacted)"),
        ] {
            assert_eq!(shown_path(path), shown);
        }
    }
}
