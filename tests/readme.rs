//! What the README names is there: its commands, and the scripts that it speaks of.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::util::run;

#[test]
fn the_readme_names_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md is there");
    let lines = || readme.lines().map(|line| line.trim().trim_start_matches("$ "));
    for command in ["cargo run --release -- lat", "cargo test --release"] {
        let mut rests = lines().filter_map(|line| line.strip_prefix(command));
        let shown = rests.any(|rest| rest.is_empty() || rest.trim_start().starts_with('#'));
        assert!(shown, "README.md shows `{command}` as a line of its own");
    }
    let apart = |c: char| c.is_whitespace() || "`()[]<>,;:\"'".contains(c);
    for word in readme.split(apart) {
        let script = word.trim_start_matches("./").trim_end_matches('.');
        if script.starts_with("scripts/") && script != "scripts/" {
            assert!(root.join(script).is_file(), "README.md names {script}, which is not there");
        }
    }
    // What follows `tare` or `cargo run --release --` on the command lines of its code blocks.
    let mut in_code = false;
    let mut commands = BTreeSet::new();
    for line in lines() {
        in_code ^= line.starts_with("```");
        let begins = ["tare ", "./tare ", "cargo run --release -- "];
        let rest = begins.iter().find_map(|begin| line.strip_prefix(begin));
        let word = rest.and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
        if in_code && !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase()) {
            commands.insert(word);
        }
    }
    for command in commands {
        let ran = run(&[command, "--help"]);
        assert_eq!(ran.code, Some(0), "README.md names `tare {command}`, which is no command");
    }
}
