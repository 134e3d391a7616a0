//! Assertions, of each kind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tare_stats::assertion::{Assertion, ChangeAssertion, ComparisonAssertion};

fuzz_target!(|expr: &str| {
    if let Ok(assertion) = Assertion::parse(expr) {
        assert!(Assertion::parse(assertion.expr()).is_ok());
    }
    if let Ok(assertion) = ComparisonAssertion::parse(expr) {
        assert!(ComparisonAssertion::parse(assertion.expr()).is_ok());
    }
    let _ = ChangeAssertion::parse(expr);
});
