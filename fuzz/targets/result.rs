//! A saved result: what can be read is written as JSON that can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tare_stats::result::Report;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(report) = serde_json::from_slice::<Report>(bytes) {
        let written = serde_json::to_vec(&report).expect("a result is numbers and texts");
        serde_json::from_slice::<Report>(&written).expect("it is read as it was written");
    }
});
