//! `tare compare --baseline-file`: two saved results, as a script meets them.

use std::fs;

use crate::util::{Ran, run, run_line};

fn golden(name: &str) -> String {
    format!("{}/tests/golden/saved/{name}.json", env!("CARGO_MANIFEST_DIR"))
}

/// Compares a saved result with itself.
fn with_itself(name: &str, flags: &str) -> Ran {
    let file = golden(name);
    run_line(&format!("compare --baseline-file {file} {file} {flags}"))
}

#[test]
fn a_change_that_blocks_do_not_decide_has_an_exit_code_of_its_own() {
    with_itself("compare", "").exits(5);
    for (flags, cautions) in [
        ("--format json", true),
        ("--format json --quiet", false),
        // There it stands in the text.
        ("", false),
    ] {
        let ran = with_itself("compare-lat", flags).exits(0);
        let caution = ran.stderr.contains("not measured in turns");
        assert_eq!(caution, cautions, "{flags}: {}", ran.stderr);
        assert!(ran.stdout.contains("not measured in turns"));
    }
}

#[test]
fn flags_of_a_run_are_refused_without_one() {
    for (flags, says) in [
        ("--strict", "--strict"),
        ("--label x", "--label"),
        ("--percentiles 50", "--percentiles"),
        ("--blocks 7", "--blocks"),
        ("-- lat", "one other saved result"),
    ] {
        let ran = with_itself("compare-lat", flags).exits(2);
        assert!(ran.stderr.contains(says), "{flags}: {}", ran.stderr);
    }
}

#[test]
fn what_is_read_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read_to_string(golden("compare-lat")).unwrap();
    let file = |name: &str| {
        let path = dir.path().join(name);
        fs::write(&path, &whole).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (old, new) = (file("old.json"), file("new-1.hgrm"));
    let percentiles = dir.path().join("new.hgrm");
    let percentiles = percentiles.to_str().unwrap();
    let indirect = format!("{}/./old.json", dir.path().display());
    for words in [
        &["report", &old, "-o", &old][..],
        &["report", &new, &old, "--to", "csv", "-o", &indirect],
        // A file for each step.
        &["report", &new, "-o", percentiles],
        &["compare", "--baseline-file", &new, &old, "-o", &old],
        &["compare", "--baseline-file", &old, &new, "-o", &indirect],
    ] {
        let ran = run(words).exits(2);
        let says = "is a result that is read, and would be lost; name another file";
        assert!(ran.stderr.contains(says), "{words:?}: {}", ran.stderr);
        for file in [&old, &new] {
            assert_eq!(fs::read_to_string(file).unwrap(), whole, "{words:?}");
        }
    }
}
