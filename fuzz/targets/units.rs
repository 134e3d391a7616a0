//! Sizes, counts, durations, rates and lists of CPUs, as they are typed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tare_units::{BitRate, Count, Counts, CpuList, Nanos, PerSecond, Size, Sizes};

fuzz_target!(|text: &str| {
    let _ = text.parse::<Size>();
    let _ = text.parse::<Sizes>();
    let _ = text.parse::<Count>();
    let _ = text.parse::<Counts>();
    let _ = text.parse::<PerSecond>();
    let _ = text.parse::<BitRate>();
    let _ = text.parse::<CpuList>();
    let _ = text.parse::<Nanos>();
});
