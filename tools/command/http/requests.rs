//! What is sent: methods, headers, bodies, and the URLs of a file.

use std::path::{Path, PathBuf};

use clap::Args;
use http::{HeaderName, HeaderValue, Method};
use tare_engine::http::plan::Weighted;
use tare_proto::http1::request::{Body, Framing, RequestSpec};
use tare_units::error::{Error, Result};
use tare_units::limits::{REQUESTS_BYTES_MAX, REQUESTS_MAX};
use tare_units::target::Target;

use crate::command::target::{Url, path_and_query};
use crate::command::{demand, no_such, refuse};

/// How often one request may come in a cycle.
const WEIGHT_MAX: u32 = 10_000;
const URLS_BYTES_MAX: u64 = 16 << 20;
/// Headers that follow from other options: from which, and what to write.
const OWN_HEADERS: [(&str, &str, &str); 3] = [
    ("content-length", "--body", "leave it out"),
    ("transfer-encoding", "--chunked", "write --chunked"),
    ("connection", "--connection", "write --connection close or keep-alive"),
];

#[derive(Debug, Args)]
pub(super) struct RequestArgs {
    /// Send to these: http://HOST:PORT/PATH, HOST/PATH, unix:/SOCKET:/PATH, loopback/PATH [default:
    /// loopback]
    ///
    /// The port is 80 unless given, and http:// may be left out. Several are sent in turn, all to
    /// one host and port. `loopback` is a server within this process, on a CPU of its own, `veth`
    /// the same in a network namespace made for the run (needs root). Paths go out exactly as
    /// typed, and stand in the report with their queries, but for the values of parameters such as
    /// key=, token= and password=: what is secret belongs into a header (-H).
    #[arg(value_name = "URL")]
    pub(super) urls: Vec<Url>,
    /// Take the URLs from this file, or - for stdin; a line each: [WEIGHT] [METHOD] URL or /PATH
    ///
    /// A weight of 3 is sent three times as often as one of 1. # begins a comment. Paths alone
    /// belong to the URL of the command line, which names only the server then, or to loopback.
    #[arg(long = "urls", value_name = "FILE", help_heading = "The request")]
    urls_file: Option<PathBuf>,
    /// Ask with this method [default: GET, and POST with a body]
    #[arg(short = 'X', long, value_name = "METHOD", value_parser = method)]
    #[arg(help_heading = "The request")]
    method: Option<String>,
    /// Send this header too (repeatable): 'Accept: application/json'
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    #[arg(help_heading = "The request")]
    headers: Vec<Header>,
    /// Send this Host header instead of the URL's
    #[arg(long, value_name = "HOST", value_parser = host, help_heading = "The request")]
    host: Option<String>,
    /// Send this body
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file", help_heading = "The request")]
    body: Option<String>,
    /// Send this file as the body, or - for stdin
    #[arg(long, value_name = "FILE", help_heading = "The request")]
    body_file: Option<PathBuf>,
    /// Send the body in chunks (Transfer-Encoding: chunked) instead of with a Content-Length
    #[arg(long, help_heading = "The request")]
    chunked: bool,
    /// Say that the body is of this type: application/json
    #[arg(long, value_name = "TYPE", help_heading = "The request")]
    content_type: Option<String>,
}

fn method(text: &str) -> Result<String> {
    let shown = text.escape_debug();
    let upper = text.to_ascii_uppercase();
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT"];
    let is_method = Method::from_bytes(text.as_bytes()).is_ok();
    demand(is_method, format!("'{shown}' is no method"), "write GET, POST, PUT …")?;
    if upper == "CONNECT" {
        return Err(Error::usage("CONNECT makes a tunnel, and is no request to measure"));
    }
    let message = format!("methods are case-sensitive, and '{shown}' is none");
    demand(upper == text || !known.contains(&upper.as_str()), message, format!("write {upper}"))?;
    Ok(text.to_owned())
}

/// A header as typed: the case of its name is kept.
type Header = (String, String);

fn header(text: &str) -> Result<Header> {
    const FORM: &str = "write it as 'Name: value'";
    let check = |holds: bool, why: &str, advice: &str| {
        if holds { Ok(()) } else { Err(no_such("header", text, why, advice)) }
    };
    check(text.contains(':'), "it has no colon", FORM)?;
    let (name, value) = text.split_once(':').unwrap_or_default();
    let value = value.trim_matches([' ', '\t']);
    let is_name = HeaderName::from_bytes(name.as_bytes()).is_ok();
    check(is_name, "its name has a character that no name has", FORM)?;
    check(
        HeaderValue::from_str(value).is_ok(),
        "its value has a character that no header has",
        "leave control characters out",
    )?;
    Ok((name.to_owned(), value.to_owned()))
}

fn host(text: &str) -> Result<String> {
    let fits = |b: u8| b.is_ascii_graphic() && !b"/?#@\\".contains(&b);
    let message = format!("--host '{}' is no host", text.escape_debug());
    let advice = "write it as app.example or app.example:8080";
    demand(!text.is_empty() && text.bytes().all(fits), message, advice)?;
    Ok(text.to_owned())
}

/// One of the requests that are sent, as far as it differs from the others.
struct Asked {
    weight: u32,
    method: Option<String>,
    path: String,
    /// That of its own URL; a path alone has none.
    host: Option<String>,
}

impl From<&Url> for Asked {
    fn from(Url { path, host, .. }: &Url) -> Self {
        Self { weight: 1, method: None, path: path.clone(), host: Some(host.clone()) }
    }
}

/// What a line of a file of URLs asks for, and the URL in it, which a path alone is not.
fn line(text: &str) -> Result<(Asked, Option<Url>)> {
    let mut words = text.split_ascii_whitespace().peekable();
    let digits = words.next_if(|word| word.bytes().all(|b| b.is_ascii_digit()));
    let weight = digits.map_or(Some(1), |digits| digits.parse().ok());
    let weight = weight.filter(|weight| (1..=WEIGHT_MAX).contains(weight)).ok_or_else(|| {
        Error::usage("its weight is out of range")
            .remedy(format!("write one from 1 to {WEIGHT_MAX}"))
    })?;
    let form = || Error::usage("it is no URL").remedy("write lines as [WEIGHT] [METHOD] URL");
    let (first, second) = (words.next().ok_or_else(form)?, words.next());
    let (typed, url) = second.map_or((None, first), |url| (Some(first), url));
    let method = typed.map(method).transpose()?;
    let message = "it has too many words";
    let advice = "write lines as [WEIGHT] [METHOD] URL, and a space in a path as %20";
    demand(words.next().is_none(), message, advice)?;
    if url.starts_with('/') {
        return Ok((Asked { weight, method, path: path_and_query(url)?, host: None }, None));
    }
    let url: Url = url.parse()?;
    Ok((Asked { weight, method, ..Asked::from(&url) }, Some(url)))
}

fn listed(text: &str, source: &str) -> Result<(Option<Url>, Vec<Asked>)> {
    let (mut server, mut requests) = (None, Vec::new());
    for (index, text) in text.lines().enumerate() {
        // A fragment of a URL follows it at once; a comment stands at the beginning or after a
        // blank.
        let text = text.trim_start();
        let text = text.find(" #").map_or(text, |at| &text[..at]);
        if text.starts_with('#') || text.trim().is_empty() {
            continue;
        }
        let at = |error: Error| {
            let placed = Error::usage(format!("{source}, line {}: {}", index + 1, error.message()));
            match error.advice() {
                Some(advice) => placed.remedy(advice),
                None => placed,
            }
        };
        let (asked, url) = line(text).map_err(at)?;
        requests.push(asked);
        if let (Some(server), Some(url)) = (&server, &url) {
            same_server(server, url).map_err(at)?;
        }
        server = server.or(url);
    }
    let message = format!("{source} lists no URL");
    demand(!requests.is_empty(), message, "write lines as [WEIGHT] [METHOD] URL")?;
    Ok((server, requests))
}

fn same_server(first: &Url, other: &Url) -> Result<()> {
    let message = format!(
        "all URLs of a run go to one host and port, and {} and {} are two",
        first.target, other.target
    );
    demand(first.target == other.target, message, "run tare http once for each")
}

fn contents(path: &Path, flag: &str, max: u64) -> Result<Vec<u8>> {
    let shown = format!("{flag} {}", path.display());
    crate::saved::contents(path, &shown, max, "name a file that is there and yours")
}

impl RequestArgs {
    /// The server, and what is sent to it; `close` asks it to close after each.
    pub(super) fn requests(&self, close: bool) -> Result<(Target, Vec<Weighted>)> {
        let like = self.pattern(close)?;
        let (server, asked) = self.asked()?;
        let weighted = asked.into_iter().map(|asked| Weighted {
            weight: asked.weight,
            request: RequestSpec {
                method: asked.method.unwrap_or_else(|| like.method.clone()),
                target: asked.path,
                host: self.host().cloned().or(asked.host).unwrap_or_else(|| server.host.clone()),
                ..like.clone()
            },
        });
        let weighted: Vec<Weighted> = weighted.collect();
        if weighted.len() > REQUESTS_MAX {
            return Err(Error::usage(format!("more than {REQUESTS_MAX} URLs")));
        }
        Ok((server.target, weighted))
    }

    fn asked(&self) -> Result<(Url, Vec<Asked>)> {
        let first = self.urls.first();
        for url in &self.urls {
            same_server(first.unwrap_or(url), url)?;
        }
        let loopback = || "loopback".parse().expect("it is a built-in target");
        let Some(file) = &self.urls_file else {
            let server: Url = first.cloned().unwrap_or_else(loopback);
            let urls =
                if self.urls.is_empty() { std::slice::from_ref(&server) } else { &self.urls };
            let asked = urls.iter().map(Asked::from).collect();
            return Ok((server, asked));
        };
        let message = "with --urls the URL of the command line names only the server";
        let advice = "write it without a path, or put it into the file";
        demand(self.urls.len() <= 1 && first.is_none_or(|url| url.path == "/"), message, advice)?;
        let source = format!("--urls {}", file.display());
        let text = String::from_utf8(contents(file, "--urls", URLS_BYTES_MAX)?)
            .map_err(|_| Error::usage(format!("{source} is no text")))?;
        let (named, requests) = listed(&text, &source)?;
        let server = match (first, named) {
            (Some(typed), Some(named)) => {
                same_server(typed, &named)?;
                typed.clone()
            }
            (typed, named) => typed.cloned().or(named).unwrap_or_else(loopback),
        };
        Ok((server, requests))
    }

    fn pattern(&self, close: bool) -> Result<RequestSpec> {
        let stdin = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
        let message = "--urls - and --body-file - both read stdin";
        let advice = "name a file for one of them";
        demand(!stdin(&self.urls_file) || !stdin(&self.body_file), message, advice)?;
        if let Some(file) = self.body.as_deref().and_then(|body| body.strip_prefix('@')) {
            let shown: String = file.chars().take(80).collect();
            let shown = shown.escape_debug();
            return refuse(
                format!("--body @{shown} would send just that text"),
                format!(
                    "write --body-file {shown}, or --body-file - to send a text that begins with @ from stdin"
                ),
            );
        }
        let bytes = match (&self.body, &self.body_file) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(file)) => Some(contents(file, "--body-file", REQUESTS_BYTES_MAX as u64)?),
            (None, None) => None,
        };
        let framing = if self.chunked { Framing::Chunked } else { Framing::Length };
        let body = bytes.map(|bytes| Body { bytes, framing });
        for (given, flag) in
            [(self.chunked, "--chunked"), (self.content_type.is_some(), "--content-type")]
        {
            let message = format!("{flag} is about a body, and there is none");
            demand(!given || body.is_some(), message, "give one with --body or --body-file")?;
        }
        let usual = if body.is_some() { "POST" } else { "GET" };
        let method = self.method.clone().unwrap_or_else(|| usual.to_owned());
        Ok(RequestSpec {
            method,
            headers: self.headers()?,
            body,
            close,
            ..RequestSpec::get("/", "")
        })
    }

    /// All but `Host`, which stands apart.
    fn headers(&self) -> Result<Vec<(String, String)>> {
        let is = |header: &Header, name: &str| header.0.eq_ignore_ascii_case(name);
        for header in &self.headers {
            for (own, flag, advice) in OWN_HEADERS {
                let message =
                    format!("-H {}: tare writes that header itself, from {flag}", header.0);
                demand(!is(header, own), message, advice)?;
            }
        }
        let is_host = |header: &&Header| is(header, "host");
        let hosts = self.headers.iter().filter(is_host).count() + usize::from(self.host.is_some());
        let message = "a request has one Host header, and several are given";
        demand(hosts <= 1, message, "keep one")?;
        let others = self.headers.iter().filter(|header| !is_host(header));
        let mut headers: Vec<Header> = others.cloned().collect();
        if let Some(kind) = &self.content_type {
            let is_twice = headers.iter().any(|header| is(header, "content-type"));
            let message = "the content's type is given twice";
            demand(!is_twice, message, "keep --content-type or -H")?;
            headers.push(header(&format!("Content-Type: {kind}"))?);
        }
        Ok(headers)
    }

    fn host(&self) -> Option<&String> {
        let typed = self.headers.iter().find(|header| header.0.eq_ignore_ascii_case("host"));
        self.host.as_ref().or_else(|| typed.map(|header| &header.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::refuses;

    #[test]
    fn a_file_of_urls() {
        let text = "# all of them\n/a\n3 /b?x=1 # thrice\n\nPOST /c\n  2 HEAD node:8080/d#e\n";
        let (server, requests) = listed(text, "--urls f").unwrap();
        assert_eq!(server.unwrap().target.to_string(), "node:8080");
        let found = requests
            .iter()
            .map(|one| (one.weight, one.method.as_deref(), one.path.as_str(), one.host.as_deref()));
        let asked = [
            (1, None, "/a", None),
            (3, None, "/b?x=1", None),
            (1, Some("POST"), "/c", None),
            (2, Some("HEAD"), "/d", Some("node:8080")),
        ];
        assert_eq!(found.collect::<Vec<_>>(), asked);
        let cases = [
            ("", "lists no URL"),
            ("# x\n", "lists no URL"),
            ("/a\n0 /b", "line 2: its weight"),
            ("7", "line 1: it is no URL"),
            ("/a b", "line 1: '/a' is no method"),
            ("GET /a b", "write lines as"),
            ("get /a", "write GET"),
            ("/a\nhttps://node/", "line 2: https is not built"),
            ("a/x\nb/x", "line 2: all URLs of a run go to one host and port"),
        ];
        refuses(|text| listed(text, "--urls f").map(drop), &cases);
    }

    #[test]
    fn headers_are_checked() {
        assert_eq!(header("X-a:  b:c ").unwrap(), ("X-a".into(), "b:c".into()));
        let cases = [
            ("X-a", "no colon"),
            ("X a: b", "no name has"),
            (": b", "no name has"),
            ("X: a\nY: b", "no header has"),
        ];
        refuses(header, &cases);
    }
}
