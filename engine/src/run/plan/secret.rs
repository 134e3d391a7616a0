//! What is secret of what was typed, by its name.

/// What stands in a report for a secret.
pub const REDACTED: &str = "(redacted)";

/// Headers whose values are secrets; in lower case.
const HEADERS: [&str; 4] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
];
/// What the name of a secret holds, in lower case without `-` and `_`: of headers, options and variables.
const WORDS: [&str; 8] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "credential",
];

/// Whether the value of a header of this name is a secret.
#[must_use]
pub fn is_header(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    HEADERS.contains(&name.as_str()) || is_name(&name)
}

/// Whether what has this name (an option, a variable, a field) is a secret by it. A file that holds one is none: its name
/// tells nothing.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .collect::<String>()
        .to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word)) && !name.ends_with("file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "Authorization",
            " COOKIE ",
            "X-API-Key",
            "X-Auth-Token",
            "Client_Secret",
        ] {
            assert!(is_header(name), "{name}");
        }
        for name in ["Accept", "Cookie-Policy", "X-Request-Id", ""] {
            assert!(!is_header(name), "{name}");
        }
        for name in [
            "--password",
            "PGPASSWORD",
            "--api-key",
            "AWS_SECRET_ACCESS_KEY",
            "token",
        ] {
            assert!(is_name(name), "{name}");
        }
        for name in ["--secret-file", "--size", "key", "-c"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
