//! `tare compare --baseline-file`: two saved results, as a script meets them.

use std::fs;
use std::path::Path;

use crate::util::run;

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    path.join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_change_that_blocks_do_not_decide_has_an_exit_code_of_its_own() {
    for (name, exit) in [("saved/compare-lat.json", 0), ("saved/compare.json", 5)] {
        let file = golden(name);
        run(&["compare", "--baseline-file", &file, &file]).exits(exit);
    }
}

#[test]
fn flags_of_a_run_are_refused_without_one() {
    let file = golden("saved/compare-lat.json");
    let words = ["compare", "--baseline-file", &file, &file];
    for flags in
        [&["--strict"][..], &["--label", "x"], &["--percentiles", "50"], &["--blocks", "7"]]
    {
        let ran = run(&[&words[..], flags].concat()).exits(2);
        assert!(ran.stderr.contains(flags[0]), "{}", ran.stderr);
    }
    let measured = run(&[&words[..], &["--", "lat"]].concat()).exits(2);
    assert!(measured.stderr.contains("one other saved result"));
}

#[test]
fn the_caution_is_told_beside_what_scripts_read_unless_quiet() {
    let file = golden("saved/compare-lat.json");
    let words = ["compare", "--baseline-file", &file, &file];
    for (flags, is_told) in [
        (&["--format", "json"][..], true),
        (&["--format", "json", "--quiet"], false),
        // There it stands in the text.
        (&[], false),
    ] {
        let ran = run(&[&words[..], flags].concat()).exits(0);
        let caution = ran.stderr.contains("not measured in turns");
        assert_eq!(caution, is_told, "{flags:?}: {}", ran.stderr);
        assert!(ran.stdout.contains("not measured in turns"));
    }
}

#[test]
fn what_is_read_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read_to_string(golden("saved/compare-lat.json")).unwrap();
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
