//! Saved results, shown: every format from the command, what it refuses, and the page in a real
//! browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::util::{Job, Serve, is_valid, left_out, program, run, text, words};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The words of `tare report` with the path of a golden file.
fn shown(name: &str, flags: &[&str]) -> String {
    let path = golden(name);
    run(&[&["report", path.to_str().unwrap()], flags].concat()).exits(0).stdout
}

#[test]
fn a_saved_result_is_shown_as_it_was_when_it_was_measured() {
    for name in ["lat", "bw", "http", "compare"] {
        let saved = format!("saved/{name}.json");
        for (to, ending) in [("text", "txt"), ("markdown", "md"), ("csv", "csv")] {
            let then = fs::read_to_string(golden(&format!("{name}.{ending}"))).unwrap();
            assert_eq!(shown(&saved, &["--to", to]), then, "{name} {to}");
        }
        let then = fs::read_to_string(golden(&saved)).unwrap();
        let [then, now] = [then, shown(&saved, &["--to", "json"])]
            .map(|text| serde_json::from_str::<Value>(&text).unwrap());
        assert_eq!(now, then, "{name}");
    }
    let then = fs::read_to_string(golden("http-breaker.hgrm")).unwrap();
    assert_eq!(shown("saved/http.json", &["--to", "hgrm"]), then);
    let then = fs::read_to_string(golden("lat.txt")).unwrap();
    assert_eq!(shown("saved/lat.json", &[]), then);
}

#[test]
fn the_ending_of_the_file_says_how() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (name, begins) in [
        ("a.html", "<!DOCTYPE html>"),
        ("a.md", "**tare lat"),
        ("a.csv", "schema,"),
        ("a.txt", "tare lat"),
        ("a.json", "{\n"),
    ] {
        assert_eq!(shown("saved/lat.json", &["-o", &path(name)]), "");
        assert!(fs::read_to_string(path(name)).unwrap().starts_with(begins), "{name}");
    }
    assert_eq!(shown("saved/lat.json", &["--to", "csv", "-o", &path("b.txt")]), "");
    assert!(fs::read_to_string(path("b.txt")).unwrap().starts_with("schema,"));
    shown("saved/http-sweep.json", &["-o", &path("c.hgrm")]);
    assert!(dir.path().join("c-1.hgrm").exists() && dir.path().join("c-2.hgrm").exists());
}

#[test]
fn what_cannot_be_shown_is_named_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = fs::read_to_string(golden("saved/lat.json")).unwrap();
    let truncated = file("half.json", &whole[..whole.len() / 2]);
    let later = file("later.json", &whole.replace("tare/1", "tare/2"));
    let other = file("other.json", "{\"a\": 1}");
    let [bandwidth, good] =
        ["saved/bw.json", "saved/lat.json"].map(|name| golden(name).display().to_string());
    for (words, says) in [
        (vec!["/nonexistent.json"], "/nonexistent.json cannot be read"),
        (vec![&*truncated], "half.json ends in the middle of a result"),
        (
            vec![&*later],
            "is of the schema tare/2, and this tare reads tare/1; use the tare that wrote it",
        ),
        (vec![&*good, &*other], "other.json is no result of tare"),
        (vec![&*bandwidth, "--to", "hgrm"], "holds bandwidth, and no latencies; take --to csv"),
        (vec![&*good, "-o", "a.xml"], "names no format; write it as .html"),
        (vec![&*good, "-o", "/nonexistent/a.html"], "there is no directory /nonexistent"),
        (vec![], "<FILE>..."),
    ] {
        let ran = run(&[&["report"][..], &words].concat()).exits(2);
        assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1), "{ran:?}");
        ran.complains(&[says]);
    }
}

#[test]
fn the_command_line_is_shown_without_its_secrets() {
    let serve = Serve::start("");
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("a.html");
    let url = format!("{}/?key=hunter2&b=c", serve.address());
    let line = format!("http {url} -n 20 -c 1 --expect-status 2xx,4xx --format json -o");
    let mut words = words(&line);
    words.extend([page.to_str().unwrap(), "--body", "hunter2"]);
    words.extend(["-H", "Authorization: Bearer hunter2", "-H", "Accept: */*"]);
    let ran = run(&words).exits(0);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let line = text(&report, "/plan/command_line");
    assert!(line.starts_with("tare http ") && line.contains("Accept: */*"), "{line}");
    assert!(!line.contains("hunter2"), "{line}");
    assert_eq!(line.matches("(redacted)").count(), 3, "{line}");
    // The path of the result, and of the plan, is that of the command line.
    let path = "/?key=(redacted)&b=c";
    assert!(line.contains(path), "{line}");
    assert_eq!(text(&report, "/results/0/params/path"), path);
    assert_eq!(text(&report, "/plan/requests/0/path"), path);
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("Authorization: (redacted)") && !page.contains("hunter2"));

    let report = serve.lat("-n 20 --wait block").exits(0).report();
    let line = text(&report, "/plan/command_line");
    assert!(line.starts_with(&format!("tare lat {} ", serve.address())), "{line}");
}

#[test]
fn no_format_shows_the_secrets_of_an_arm() {
    let serve = Serve::start("");
    let dir = tempfile::tempdir().unwrap();
    let arms = ["a", "b"].map(|name| format!("{name}={}", serve.address()));
    let files = ["json", "jsonl", "csv", "md", "txt", "html"]
        .map(|ending| dir.path().join(format!("a.{ending}")).display().to_string());
    let mut line = vec!["compare", &arms[0], &arms[1]];
    line.extend(["--arm-options", "b=-H 'X-Auth: hunter2' --body hunter2"]);
    line.extend(["--before", "b=true curl -u me:hunter2 -d pin=hunter2 h"]);
    line.extend(["--after", "b=true docker login -p hunter2"]);
    for file in &files {
        line.extend(["-o", file]);
    }
    line.extend(words("--blocks 7 --block-duration 20ms --percentiles 50 --format json --"));
    line.extend(words("http -c 1 --expect-status 2xx,4xx"));
    let ran = run(&line).exits(0);
    let report = ran.report();
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
    for file in &files {
        let written = fs::read_to_string(file).unwrap();
        assert!(!written.contains("hunter2"), "{file}: {written}");
    }
    let arm = &report["comparison"]["arms"][1];
    assert_eq!(text(arm, "/options"), "-H 'X-Auth: (redacted)' --body '(redacted)'");
    let after = text(arm, "/after");
    assert!(after.starts_with("true … (SHA-256 "), "{after}");
}

/// A saved comparison, one of whose arms has a name that would be markup if it could.
fn comparison() -> Value {
    let saved = fs::read_to_string(golden("saved/compare-lat.json")).unwrap();
    let name = "\"<script>document.title='run'</script>\"";
    serde_json::from_str(&saved.replace("\"veth\"", name)).unwrap()
}

/// Chromium, where there is one, with a profile of its own.
struct Browser {
    dir: tempfile::TempDir,
}

impl Browser {
    fn find() -> Option<Self> {
        let found = program("chromium", "--version").stdin(Stdio::null()).output();
        if !found.is_ok_and(|ran| ran.status.success()) {
            left_out("the page in a browser takes chromium (apt-get install chromium)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        Some(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens a page with these flags. Gives what came to stdout, and every line that the page
    /// caused on the console.
    fn open(&self, page: &Path, flags: &[String]) -> (String, Vec<String>) {
        let mut command = program(
            "chromium",
            "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
             --disable-background-networking --disable-component-update --disable-sync \
             --disable-extensions --enable-logging=stderr --v=0 --hide-scrollbars \
             --window-size=1200,1600",
        );
        command
            // What the browser asks for on its own account, it does not find.
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={}", self.path("profile").display()))
            .args(flags)
            .arg(format!("file://{}", page.display()));
        let ran = Job::start(command).wait().exits(0);
        let said = ran.stderr.lines().filter(|line| line.contains(":CONSOLE"));
        (ran.stdout, said.map(str::to_owned).collect())
    }

    /// Writes the page of a comparison, and gives its path.
    fn page_of(&self, report: &Value) -> PathBuf {
        let (saved, page) = (self.path("saved.json"), self.path("page.html"));
        fs::write(&saved, report.to_string()).unwrap();
        run(&["report", saved.to_str().unwrap(), "-o", page.to_str().unwrap()]).exits(0);
        page
    }
}

/// The addresses that a page asked for, but for files: a net log has a line for each request, and
/// those that the browser makes on its own account have no origin.
fn requested(net_log: &Path) -> Vec<String> {
    let text = fs::read_to_string(net_log).unwrap();
    let of_pages = text.lines().filter(|line| {
        line.contains("\"initiator\":\"") && !line.contains("\"initiator\":\"not an origin\"")
    });
    let urls = of_pages.filter_map(|line| line.split_once("\"url\":\"")?.1.split('"').next());
    urls.filter(|url| !url.starts_with("file:")).map(str::to_owned).collect()
}

#[test]
fn a_browser_shows_the_page_and_asks_for_nothing_else() {
    let Some(browser) = Browser::find() else { return };
    let report = comparison();
    is_valid(&report);
    let page = browser.page_of(&report);
    let net_log = browser.path("net.json");
    let log = format!("--log-net-log={}", net_log.display());
    let (dom, said) = browser.open(&page, &["--dump-dom".to_owned(), log.clone()]);
    assert_eq!(said, Vec::<String>::new());
    // The title is as it was written.
    let title = "<title>tare compare of lat: loopback (baseline)";
    let markup = ["<svg", "&lt;script&gt;document.title", "</html>", title];
    for part in ["Verdicts", "slower", "no difference shown", "+11.2 µs"].into_iter().chain(markup)
    {
        assert!(dom.contains(part), "no {part} in {dom}");
    }
    assert_eq!(requested(&net_log), Vec::<String>::new());

    // Whoever adds something to a page that runs or loads is stopped by the browser: the two checks
    // see what they are for.
    let tampered = browser.path("tampered.html");
    let text = fs::read_to_string(&page).unwrap();
    let added = "<script>document.title='run'</script><img src=\"http://127.0.0.1:9/x\"></main>";
    fs::write(&tampered, text.replace("</main>", added)).unwrap();
    let (dom, said) = browser.open(&tampered, &["--dump-dom".to_owned(), log.clone()]);
    assert!(said.len() >= 2, "{said:?}");
    assert!(dom.contains(title));
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
    let open = text.replace(policy, "");
    fs::write(&tampered, open.replace("</main>", added)).unwrap();
    browser.open(&tampered, &["--dump-dom".to_owned(), log]);
    let urls = requested(&net_log);
    assert!(urls.iter().any(|url| url.contains("127.0.0.1:9")), "{urls:?}");
}

#[test]
fn the_page_is_drawn_by_light_in_the_dark_and_on_paper() {
    let Some(browser) = Browser::find() else { return };
    let page = browser.page_of(&comparison());
    let mut shots = Vec::new();
    // As Blink counts: 0 is dark, 1 is light.
    for scheme in [0, 1] {
        let shot = browser.path(&format!("{scheme}.png"));
        let flags = [
            format!("--blink-settings=preferredColorScheme={scheme}"),
            format!("--screenshot={}", shot.display()),
        ];
        let (_, said) = browser.open(&page, &flags);
        assert_eq!(said, Vec::<String>::new());
        let png = fs::read(&shot).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 20_000, "{} bytes", png.len());
        shots.push(png);
    }
    assert_ne!(shots[0], shots[1], "the two look alike");
    let pdf = browser.path("page.pdf");
    let (_, said) = browser.open(&page, &[format!("--print-to-pdf={}", pdf.display())]);
    assert_eq!(said, Vec::<String>::new());
    let pdf = fs::read(&pdf).unwrap();
    assert!(pdf.starts_with(b"%PDF-") && pdf.len() > 20_000, "{} bytes", pdf.len());
    if let Some(kept) = std::env::var_os("TARE_SHOTS") {
        let kept = PathBuf::from(kept);
        for (name, bytes) in [("dark.png", &shots[0]), ("light.png", &shots[1]), ("page.pdf", &pdf)]
        {
            fs::write(kept.join(name), bytes).unwrap();
        }
    }
}
