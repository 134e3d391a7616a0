//! Which request is answered how.

use rand_xoshiro::Xoshiro256PlusPlus;

use super::connection::Ending;
use super::echo::Echo;
use super::reply::{Body, ContentType, Reply};
use super::request::Request;
use tare_units::Nanos;
use tare_units::limits::RESPONSE_BODY_MAX;

/// What there is, for those who ask for something else.
const ROUTES: &str = "there is no such route. There are:
/                      a short text
/bytes/N               N bytes, at most 1073741824
/healthz               ok
/echo?status=&delay=&size=&close=&header=
                       the request's body, or what the query asks for, as fortio's echo server
/queue?service=1ms     one server with a queue for all connections; its times are in Server-Timing
";
const ALLOW: &[u8] = b"Allow: GET, HEAD\r\n";
const GREETING: &str = "tare serves\n";

/// How long `/queue` serves one request at most.
const SERVICE_MAX: Nanos = Nanos::from_secs(10);

/// When a response is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// At once.
    Not,
    /// That long after the request has arrived.
    Delay(Nanos),
    /// When it was served that long, after all others.
    Queue(Nanos),
}

/// The response to `request`, and when it is to be sent.
pub(super) fn route(request: &Request<'_>, dice: &mut Xoshiro256PlusPlus) -> (Reply, Hold) {
    let (path, query) = split(request.target);
    let mut hold = Hold::Not;
    let is_read = matches!(request.method, b"GET" | b"HEAD");
    let mut reply = match path {
        "/echo" => {
            let (reply, delay) = echo(request, query, dice);
            hold = delay.map_or(Hold::Not, Hold::Delay);
            reply
        }
        // What the server as a whole can do (RFC 9110 section 9.3.7).
        "*" if request.method == b"OPTIONS" => {
            Reply { headers: ALLOW.to_vec(), ..Reply::text(200, "") }
        }
        _ if !path.starts_with('/') => Reply::text(404, ROUTES),
        "/" if is_read => Reply::text(200, GREETING),
        "/healthz" if is_read => Reply::text(200, "ok\n"),
        "/queue" if is_read => match service(query) {
            Some(service) => {
                hold = Hold::Queue(service);
                Reply::text(200, "served\n")
            }
            None => Reply::text(400, "write /queue?service=1ms, 10 s at most\n"),
        },
        "/" | "/healthz" | "/queue" => not_allowed(),
        _ => match path.strip_prefix("/bytes/").map(str::parse::<u64>) {
            Some(Ok(len)) if !is_read && len <= RESPONSE_BODY_MAX => not_allowed(),
            Some(Ok(len)) if len <= RESPONSE_BODY_MAX => Reply {
                content_type: ContentType::Octets,
                body: Body::Fill(len),
                ..Reply::text(200, "")
            },
            Some(_) => Reply::text(400, "write /bytes/N, with N from 0 to 1073741824\n"),
            None => Reply::text(404, ROUTES),
        },
    };
    reply.head = request.method == b"HEAD";
    if request.close {
        reply.ending = Ending::Last;
    }
    reply.tell_keep_alive = request.tell_keep_alive && reply.ending == Ending::No;
    (reply, hold)
}

/// Path and query of a target, in origin or absolute form.
fn split(target: &str) -> (&str, &str) {
    let mut origin = target;
    let scheme = target.get(.."http://".len()).unwrap_or_default();
    if scheme.eq_ignore_ascii_case("http://") {
        let absolute = &target[scheme.len()..];
        origin = absolute.find(['/', '?']).map_or("/", |at| &absolute[at..]);
    }
    let origin = origin.split('#').next().unwrap_or(origin);
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    // An absolute form may have no path (RFC 9110 section 4.2.3).
    (if path.is_empty() { "/" } else { path }, query)
}

fn not_allowed() -> Reply {
    Reply { headers: ALLOW.to_vec(), ..Reply::text(405, "only GET and HEAD\n") }
}

fn service(query: &str) -> Option<Nanos> {
    let mut pairs = query.split('&');
    let text = pairs.find_map(|pair| pair.strip_prefix("service="))?;
    text.parse().ok().filter(|service| *service <= SERVICE_MAX)
}

fn echo(
    request: &Request<'_>,
    query: &str,
    dice: &mut Xoshiro256PlusPlus,
) -> (Reply, Option<Nanos>) {
    let echo = Echo::parse(query, dice);
    let (body, content_type) = match (echo.size, request.content_type) {
        (Some(size), _) => (Body::Fill(size), ContentType::Octets),
        (None, Some(mime)) => {
            (Body::Bytes(request.body.to_vec()), ContentType::Same(mime.to_vec()))
        }
        (None, None) => (Body::Bytes(request.body.to_vec()), ContentType::Text),
    };
    let named = echo.names_type && content_type == ContentType::Text;
    let headers =
        if echo.names_type && !named { without_type(&echo.headers) } else { echo.headers };
    let reply = Reply {
        status: echo.status.unwrap_or(200),
        headers,
        content_type: if named { ContentType::Named } else { content_type },
        body,
        ending: if echo.close { Ending::LastOfMore } else { Ending::No },
        ..Reply::text(200, "")
    };
    (reply, echo.delay)
}

/// The header lines less `Content-Type`: the one of the body comes first.
fn without_type(headers: &[u8]) -> Vec<u8> {
    let is_type = |line: &&[u8]| {
        let name = line.get(.."content-type:".len());
        name.is_some_and(|name| name.eq_ignore_ascii_case(b"content-type:"))
    };
    let lines = headers.split_inclusive(|b| *b == b'\n');
    lines.filter(|line| !is_type(line)).flatten().copied().collect()
}
