//! A histogram from a peer or a file: what it inflates to is bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tare_stats::histogram::Distribution;

fuzz_target!(|text: &str| {
    if let Ok(distribution) = Distribution::decode(text) {
        let count = distribution.count();
        if count > 0 {
            let _ = distribution.at_rank(1);
            assert!(distribution.at_rank(1) <= distribution.at_rank(count));
        }
    }
});
