//! What the README names is there: its commands, and the scripts that it speaks of.

use std::fs;
use std::path::Path;
use std::process::Command;

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
            assert!(root().join(script).is_file(), "README.md names {script}, which is not there");
        }
    }
    for command in readme_subcommands(&readme) {
        let help = Command::new(env!("CARGO_BIN_EXE_tare"))
            .args([&command, "--help"])
            .output()
            .expect("the command was built for this test");
        assert!(help.status.success(), "README.md names `tare {command}`, which is no command");
    }
}

/// What follows `tare` or `cargo run --release --` on the command lines of the README's code
/// blocks.
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

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
