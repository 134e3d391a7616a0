//! House rules that the compiler does not hold: which module may use which, where unsafe code and sleeping
//! may stand, how long files and functions grow, and that what the README names is there.
//!
//! The sources are scanned as text with comments, literals and test code blanked out: quick, and enough for
//! formatted code.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules of the engine, and what none of them may use outside its tests. A path is banned with all below it.
const DIRECTION: &[(&[&str], &[&str])] = &[
    // Arithmetic and sans-I/O machines: no socket, no thread, no clock.
    (
        &["proto", "schedule", "analysis", "histogram"],
        &[
            "crate::clock",
            "crate::driver",
            "crate::run",
            "crate::sys",
            "crate::worker",
            "core_affinity",
            "io_uring",
            "libc",
            "mio",
            "netlink_sys",
            "nix",
            "socket2",
            "std::fs",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::UdpSocket",
            "std::os::fd",
            "std::process",
            "std::thread",
            "std::time::Instant",
            "std::time::SystemTime",
            "tokio",
        ],
    ),
    (
        &["schedule"],
        &["crate::proto", "crate::analysis", "crate::result"],
    ),
    (&["proto"], &["crate::schedule", "crate::analysis"]),
    (&["analysis"], &["crate::schedule", "crate::proto"]),
    // tools → run → worker → driver → sys, never back.
    (
        &["sys", "io"],
        &[
            "crate::analysis",
            "crate::driver",
            "crate::proto",
            "crate::run",
            "crate::schedule",
            "crate::worker",
        ],
    ),
    (
        &["driver"],
        &[
            "crate::analysis",
            "crate::proto",
            "crate::result",
            "crate::run",
            "crate::schedule",
            "crate::worker",
        ],
    ),
    (&["io"], &["crate::result", "crate::sys"]),
    (&["worker"], &["crate::analysis", "crate::run"]),
    // What everything uses, uses nothing of what is above.
    (
        &["units", "limits", "error", "clock", "result"],
        &["crate::run", "crate::sys", "crate::worker"],
    ),
    (
        &["units", "limits", "clock"],
        &[
            "crate::analysis",
            "crate::driver",
            "crate::proto",
            "crate::result",
            "crate::schedule",
        ],
    ),
];

/// Plain data that stands in a higher module and is spoken of in lower ones.
const SHARED_TYPES: &[&str] = &["crate::driver::Backend"];

/// Lines of code of a function, as clippy.toml has it. A longer one says why, in the reason of its
/// `expect(clippy::too_many_lines, …)`.
const FUNCTION_LINES_MAX: usize = 80;

/// Files of the engine and of the command that may sleep, and why.
const SLEEPERS: &[(&str, &str)] = &[];

#[test]
fn modules_use_only_what_is_below_them() {
    let mut found = String::new();
    for source in sources(&["engine/src"]) {
        for (modules, banned) in DIRECTION {
            if !modules.contains(&source.engine_module()) {
                continue;
            }
            for (line, path) in source.paths() {
                let shared = SHARED_TYPES.iter().any(|shared| is_within(&path, shared));
                if !shared && banned.iter().any(|banned| is_within(&path, banned)) {
                    let _ = writeln!(found, "{}:{line}: uses {path}", source.name);
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "against the direction of the modules:\n{found}"
    );
}

#[test]
fn unsafe_code_stands_in_sys_alone() {
    let sources = sources(&["engine/src", "tools", "benches"]);
    let offenders = sources
        .iter()
        .filter(|s| !s.name.starts_with("engine/src/sys/"));
    assert_none("unsafe code outside engine/src/sys/", offenders, |code| {
        words(code)
            .filter(|(_, word)| *word == "unsafe")
            .map(|(at, _)| at)
            .collect()
    });
}

#[test]
fn nothing_unwraps_outside_tests() {
    assert_none(
        "unwrap() outside tests (an expect says why it cannot fail)",
        sources(&["engine/src", "tools"]).iter(),
        |code| code.match_indices(".unwrap()").map(|(at, _)| at).collect(),
    );
}

#[test]
fn nothing_sleeps() {
    let sources = sources(&["engine/src", "tools"]);
    let awake = sources.iter().filter(|s| !is_listed(SLEEPERS, &s.name));
    assert_none("sleeping outside tests", awake, |code| {
        code.match_indices("thread::sleep")
            .map(|(at, _)| at)
            .collect()
    });
}

#[test]
fn functions_stay_short() {
    let mut found = String::new();
    for source in sources(&["engine/src", "tools", "benches", "tests"]) {
        for function in functions(&source.code) {
            if function.lines > FUNCTION_LINES_MAX && !source.gives_a_reason(&function) {
                let line = line_of(&source.code, function.at);
                let _ = writeln!(
                    found,
                    "{}:{line}: fn {} has {} lines of code",
                    source.name, function.name, function.lines
                );
            }
        }
    }
    assert!(
        found.is_empty(),
        "too long (split it, or list it with its reason):\n{found}"
    );
}

#[test]
fn exceptions_name_files_that_are_there() {
    for (name, reason) in SLEEPERS {
        assert!(
            root().join(name).is_file(),
            "{name} is listed, and is not there"
        );
        assert!(!reason.is_empty(), "{name} is listed without a reason");
    }
    for (modules, _) in DIRECTION {
        for module in *modules {
            let path = root().join("engine/src").join(module);
            let there = path.with_extension("rs").is_file() || path.is_dir();
            assert!(
                there,
                "the rules speak of a module {module}, and it is not there"
            );
        }
    }
}

#[test]
fn the_readme_names_what_is_there() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md is there");
    for command in ["cargo run --release -- lat", "cargo test --release"] {
        let shown = readme.lines().any(|line| {
            let line = line.trim().trim_start_matches("$ ");
            line.strip_prefix(command)
                .is_some_and(|rest| rest.is_empty() || rest.trim_start().starts_with('#'))
        });
        assert!(shown, "README.md shows `{command}` as a line of its own");
    }
    let named = |c: char| c.is_whitespace() || "`()[]<>,;:\"'".contains(c);
    for word in readme.split(named) {
        let script = word.trim_start_matches("./").trim_end_matches('.');
        if script.starts_with("scripts/") && script != "scripts/" {
            assert!(
                root().join(script).is_file(),
                "README.md names {script}, which is not there"
            );
        }
    }
    for command in readme_subcommands(&readme) {
        let help = Command::new(env!("CARGO_BIN_EXE_tare"))
            .args([&command, "--help"])
            .output()
            .expect("the command was built for this test");
        assert!(
            help.status.success(),
            "README.md names `tare {command}`, which is no command"
        );
    }
}

/// What follows `tare` or `cargo run --release --` on the command lines of the README's code blocks.
fn readme_subcommands(readme: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut in_code = false;
    for line in readme.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
            continue;
        }
        let line = line.trim().trim_start_matches("$ ");
        let rest = ["tare ", "./tare ", "cargo run --release -- "]
            .iter()
            .find_map(|start| line.strip_prefix(start));
        let Some(word) = rest.and_then(|rest| rest.split_whitespace().next()) else {
            continue;
        };
        if in_code
            && word.chars().all(|c| c.is_ascii_lowercase())
            && !commands.contains(&word.into())
        {
            commands.push(word.into());
        }
    }
    commands
}

/// A file, as it is and as the rules look at it.
struct Source {
    /// From the root of the repository.
    name: String,
    text: String,
    /// `text` with comments and literals blanked, byte for byte.
    code: String,
    /// `code` with test code blanked too.
    shipped: String,
}

impl Source {
    /// The top module of the engine that the file belongs to.
    fn engine_module(&self) -> &str {
        let inside = self.name.strip_prefix("engine/src/").unwrap_or("");
        inside.split(['/', '.']).next().unwrap_or("")
    }

    /// Every absolute path that shipped code names, with its line; those of a `use` group one by one.
    fn paths(&self) -> Vec<(usize, String)> {
        let mut paths = Vec::new();
        let mut last = 0;
        for (at, word) in words(&self.shipped) {
            let before = self.shipped[..at].trim_end();
            let rest = &self.shipped[at + word.len()..];
            // The middle of a path, or of a group that was expanded already.
            if at < last || before.ends_with("::") {
                continue;
            }
            let is_use = words(before).next_back().is_some_and(|(_, w)| w == "use");
            if rest.starts_with("::") || is_use {
                let mut found = Vec::new();
                let length = expand(&self.shipped[at..], "", &mut found);
                last = at + length;
                let line = line_of(&self.shipped, at);
                paths.extend(found.into_iter().map(|path| (line, path)));
            }
        }
        paths
    }

    /// Whether the function says why it is long.
    fn gives_a_reason(&self, function: &Function<'_>) -> bool {
        let attributes = self.code[..function.at]
            .rfind(['}', ';', '{'])
            .map_or(0, |end| end + 1);
        let attributes = &self.text[attributes..function.at];
        attributes.contains("too_many_lines") && attributes.contains("reason")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust sources below these directories, but for the modules that are declared as tests.
fn sources(directories: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    for directory in directories {
        collect(&root().join(directory), &mut files);
    }
    files.sort();
    assert!(!files.is_empty(), "no sources under {directories:?}");
    let mut test_modules: Vec<PathBuf> = Vec::new();
    let mut sources = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source is readable text");
        let code = blank_literals(&text);
        let (shipped, modules) = blank_tests(&code);
        // `foo.rs`, `foo/mod.rs` and `lib.rs` hold their modules in `foo/` and beside themselves.
        let stem = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or("");
        let inside = match stem {
            "mod" | "lib" | "main" => file.with_file_name(""),
            _ => file.with_extension(""),
        };
        test_modules.extend(modules.iter().map(|module| inside.join(module)));
        let name = file.strip_prefix(root()).expect("found below the root");
        sources.push((
            file.clone(),
            Source {
                name: name.display().to_string(),
                text,
                code,
                shipped,
            },
        ));
    }
    for (file, source) in &mut sources {
        if test_modules
            .iter()
            .any(|test| file.with_extension("") == *test || file.starts_with(test))
        {
            source.shipped = String::new();
        }
    }
    sources.into_iter().map(|(_, source)| source).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", directory.display()));
    for entry in entries {
        let path = entry.expect("a directory's entry is readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn is_listed(list: &[(&str, &str)], name: &str) -> bool {
    list.iter().any(|(listed, _)| *listed == name)
}

fn is_within(path: &str, of: &str) -> bool {
    path.strip_prefix(of)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn assert_none<'a>(
    what: &str,
    sources: impl Iterator<Item = &'a Source>,
    find: impl Fn(&str) -> Vec<usize>,
) {
    let mut found = String::new();
    for source in sources {
        for at in find(&source.shipped) {
            let _ = writeln!(found, "{}:{}", source.name, line_of(&source.shipped, at));
        }
    }
    assert!(found.is_empty(), "{what}:\n{found}");
}

/// The identifiers and keywords of blanked code, with where they stand.
fn words(code: &str) -> impl DoubleEndedIterator<Item = (usize, &str)> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// Expands the path or `use` tree that `code` starts with, and gives its length in bytes.
fn expand(code: &str, prefix: &str, found: &mut Vec<String>) -> usize {
    let mut at = code.len() - code.trim_start().len();
    if code[at..].starts_with('{') {
        at += 1;
        loop {
            at += code[at..].len() - code[at..].trim_start_matches([',', ' ', '\n']).len();
            match code[at..].chars().next() {
                Some('}') => return at + 1,
                None => return at,
                _ => {}
            }
            let length = expand(&code[at..], prefix, found);
            // What follows a path in a group (`as name`) is passed over.
            let rest = &code[at + length..];
            at += length + rest.find([',', '}']).unwrap_or(rest.len());
        }
    }
    let word = words(&code[at..])
        .next()
        .map_or("", |(start, word)| if start == 0 { word } else { "" });
    let path = match (prefix, word) {
        (_, "") | (_, "self") => prefix.to_owned(),
        ("", word) => word.to_owned(),
        (prefix, word) => format!("{prefix}::{word}"),
    };
    at += word.len();
    if !word.is_empty() && code[at..].starts_with("::") {
        return at + 2 + expand(&code[at + 2..], &path, found);
    }
    found.push(path);
    // At least one byte, so that whatever stands here (`*`, `<`) is passed.
    at.max(1)
}

struct Function<'a> {
    name: &'a str,
    /// Where its `fn` stands.
    at: usize,
    /// Lines of its body with code on them.
    lines: usize,
}

/// The functions with a body in blanked code.
fn functions(code: &str) -> Vec<Function<'_>> {
    let mut functions = Vec::new();
    for (at, _) in words(code).filter(|(_, word)| *word == "fn") {
        let Some((_, name)) = words(&code[at + 2..]).next() else {
            continue;
        };
        let Some(open) = code[at..].find(['{', ';']).map(|open| at + open) else {
            continue;
        };
        if code[open..].starts_with(';') || !code[at + 2..].trim_start().starts_with(name) {
            // Only declared, or the type of a function pointer.
            continue;
        }
        let body = &code[open..matching(code, open)];
        let lines = body
            .lines()
            .skip(1)
            .filter(|line| !line.trim().is_empty())
            .count();
        functions.push(Function { name, at, lines });
    }
    functions
}

/// Where the brace at `open` is closed: the offset after it.
fn matching(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Blanks what is compiled for tests only, and names the modules in files of their own that are.
fn blank_tests(code: &str) -> (String, Vec<String>) {
    let mut blanked = code.as_bytes().to_vec();
    let mut modules = Vec::new();
    let mut from = 0;
    while let Some(at) = ["#[cfg(test)]", "#[cfg(all(test", "#[test]"]
        .iter()
        .filter_map(|mark| code[from..].find(mark))
        .min()
        .map(|at| from + at)
    {
        // Over this and further attributes to the item.
        let mut item = at;
        while code[item..].trim_start().starts_with("#[") {
            item += code[item..]
                .find("]\n")
                .map_or(code.len() - item, |end| end + 2);
        }
        let end = code[item..]
            .find(['{', ';'])
            .map_or(code.len(), |end| item + end);
        let mut header = words(&code[item..end]).map(|(_, word)| word);
        if code[end..].starts_with(';') && header.any(|word| word == "mod") {
            modules.extend(header.next().map(str::to_owned));
        }
        from = if code[end..].starts_with('{') {
            matching(code, end)
        } else {
            end
        };
        blank(&mut blanked[at..from]);
    }
    (text_of(blanked), modules)
}

/// Blanks comments, strings and character literals.
fn blank_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut blanked = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(text, at);
        match end {
            Some(end) => {
                blank(&mut blanked[at..end]);
                at = end;
            }
            None => at += 1,
        }
    }
    text_of(blanked)
}

/// If a comment or a literal starts at `at`, where it ends.
fn literal_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let rest = bytes.get(at..)?;
    let to = |needle: &str, from: usize| {
        text.get(from..)
            .and_then(|rest| rest.find(needle))
            .map_or(text.len(), |end| from + end + needle.len())
    };
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return Some(to("\n", at).saturating_sub(1).max(at + 2));
    }
    if rest.starts_with(b"/*") {
        return Some(to("*/", at + 2));
    }
    if rest[0] == b'r' && (!in_word || bytes[at - 1] == b'b') {
        let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            return Some(to(&format!("\"{}", "#".repeat(hashes)), at + 2 + hashes));
        }
    }
    let quote = rest[0];
    // A lifetime has no closing quote after its first character.
    let is_char = quote == b'\''
        && (rest.get(1) == Some(&b'\\') || text[at + 1..].chars().nth(1) == Some('\''));
    if quote == b'"' || is_char {
        let mut end = at + 1;
        while end < bytes.len() && bytes[end] != quote {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        return Some((end + 1).min(bytes.len()));
    }
    None
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("whole characters were blanked")
}

#[test]
fn the_scanner_sees_code_only() {
    let text = "let a = \"unsafe \\\" { // no\"; // unsafe\nlet b = '\"'; let c: &'a str = r#\"unsafe\" {\"#;\n";
    let code = blank_literals(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.lines().count(), 2);
    assert!(
        !code.contains("unsafe") && !code.contains('{') && !code.contains('"'),
        "{code}"
    );
    assert!(code.contains("let c: &'a str ="), "{code}");

    let (shipped, modules) = blank_tests(
        "fn a() { x(); }\n#[cfg(test)]\nmod far;\n#[cfg(test)]\n#[expect(x)]\nmod tests {\n  fn t() { y() }\n}\nfn z() {}\n",
    );
    assert!(
        shipped.contains("x()") && shipped.contains("fn z") && !shipped.contains("y()"),
        "{shipped}"
    );
    assert_eq!(modules, ["far"]);
}

#[test]
fn the_scanner_expands_paths() {
    let code = "use crate::{\n    driver::{self, op::Op as O},\n    units::*,\n};\nuse libc;\nfn f() { std::thread::spawn(|| crate::clock::now::<u8>()) }\n";
    let source = Source {
        name: "engine/src/proto/hello.rs".into(),
        text: code.into(),
        code: code.into(),
        shipped: code.into(),
    };
    let paths: Vec<_> = source.paths();
    let expected = [
        (1, "crate::driver"),
        (1, "crate::driver::op::Op"),
        (1, "crate::units"),
        (5, "libc"),
        (6, "std::thread::spawn"),
        (6, "crate::clock::now"),
    ];
    for (line, path) in expected {
        assert!(
            paths.contains(&(line, path.to_owned())),
            "{path} in {paths:?}"
        );
    }
    assert_eq!(source.engine_module(), "proto");
    assert!(is_within("crate::driver::op::Op", "crate::driver"));
    assert!(!is_within("crate::driverless", "crate::driver"));
}

#[test]
fn the_scanner_measures_functions() {
    let code = "impl A {\n    fn one(&self) -> u8 {\n        1\n\n    }\n    fn declared();\n}\ntype F = fn(u8) -> u8;\n";
    let functions = functions(code);
    assert_eq!(functions.len(), 1);
    assert_eq!((functions[0].name, functions[0].lines), ("one", 2));
}
