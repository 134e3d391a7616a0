//! Assertions, of each kind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tare_stats::assertion::Assertion;

fuzz_target!(|expr: &str| {
    for parse in [Assertion::parse, Assertion::parse_comparison, Assertion::parse_diff] {
        if let Ok(assertion) = parse(expr) {
            assert!(parse(assertion.expr()).is_ok());
        }
    }
});
