use proptest::prelude::*;

use super::*;
use crate::error::Fault;

fn refused<T: FromStr<Err = Error> + fmt::Debug>(text: &str) -> String {
    let error = text.parse::<T>().expect_err(text);
    assert_eq!(error.fault(), Fault::Usage, "{text}");
    assert!(error.advice().is_some(), "{text}");
    error.to_string()
}

#[test]
fn durations_are_exact_and_refuse_what_they_cannot_mean() {
    for (text, ns) in [
        ("500us", 500_000),
        ("500 µs", 500_000),
        ("10ms", 10_000_000),
        ("1.5ms", 1_500_000),
        ("2s", 2_000_000_000),
        ("5m", 300_000_000_000),
        ("1h", 3_600_000_000_000),
        ("7ns", 7),
        ("0", 0),
        ("0.3s", 300_000_000),
        ("1.0ns", 1),
    ] {
        assert_eq!(text.parse::<Nanos>().unwrap(), Nanos(ns), "{text}");
    }
    assert!(refused::<Nanos>("5").contains("no unit"));
    assert!(refused::<Nanos>("1.5ns").contains("whole number"));
    assert!(refused::<Nanos>("99999999999999h").contains("too large"));
    assert!(refused::<Nanos>("5 fortnights").contains("none of ns, us"));
    for text in ["", "s", "-1s", "1e3s", "1..5s", ".5s", "5.s", "1s2"] {
        refused::<Nanos>(text);
    }
}

#[test]
fn sizes_are_binary_in_capitals_and_decimal_in_small_letters() {
    for (text, bytes) in [
        ("64", 64),
        ("4K", 4096),
        ("4KiB", 4096),
        ("1M", 1 << 20),
        ("2G", 2 << 30),
        ("4k", 4000),
        ("4kB", 4000),
        ("1m", 1_000_000),
        ("1.5K", 1536),
        ("64B", 64),
    ] {
        assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
    }
    assert!(refused::<Size>("1.3K").contains("whole number"));
    for text in ["", "K", "KB", "4T", "-4", "0x40", "4 4"] {
        refused::<Size>(text);
    }
}

#[test]
fn sweeps_count_as_qperf_does() {
    for (text, sizes) in [
        ("64", vec![64]),
        ("1,64,4K", vec![1, 64, 4096]),
        ("1:256K:*64", vec![1, 64, 4096, 262_144]),
        ("64:256:64", vec![64, 128, 192, 256]),
        ("64:255:64", vec![64, 128, 192]),
        (":100:*10", vec![1, 10, 100]),
        (":2:1", vec![0, 1, 2]),
        ("1,10:20:10,5", vec![1, 10, 20, 5]),
        ("8:8:*2", vec![8]),
    ] {
        assert_eq!(text.parse::<Sizes>().unwrap().0, sizes, "{text}");
    }
    let nine = "1:64K:*4".parse::<Sizes>().unwrap().0;
    assert_eq!((nine.len(), nine[8]), (9, 65_536));
    assert_eq!("1:1K:*4".parse::<Counts>().unwrap().0.len(), 6);
    // Without end they are refused.
    for (text, why) in [
        ("1:64:*1", "less than 2"),
        ("1:64:*0", "less than 2"),
        ("1:64:*1.5", "whole number"),
        ("0:64:*2", "multiplying 0"),
        ("0:64:0", "adding 0"),
        ("64:1:*2", "above its last"),
        ("1:2000:1", "more than 1000 steps"),
        ("1:18446744073709551615:1", "more than 1000 steps"),
        ("1:64", "three parts"),
        ("1:64:*2:3", "three parts"),
        ("1::*2", "last value"),
        ("1:64:", "a step"),
        ("1,,2", "empty"),
        ("", "empty"),
    ] {
        let message = refused::<Sizes>(text);
        assert!(message.contains(why), "{text}: {message}");
    }
    // The largest value that fits ends a sweep rather than wrapping round.
    assert_eq!("1:18446744073709551615:*2".parse::<Sizes>().unwrap().0.len(), 64);
}

#[test]
fn rates_and_bit_rates_are_decimal() {
    for (text, rate) in [
        ("1000", 1000.0),
        ("2.5", 2.5),
        ("10k", 10_000.0),
        ("10K", 10_000.0),
        ("1M", 1e6),
        ("60/m", 1.0),
        ("5/s", 5.0),
        ("36/h", 0.01),
    ] {
        assert_eq!(text.parse::<PerSecond>().unwrap(), PerSecond(rate), "{text}");
    }
    for text in ["", "0", "-1", "10m", "1/d", "2G", "1/0", "nan", "inf", "1e3", "1/m/s"] {
        refused::<PerSecond>(text);
    }
    for (text, rate) in [
        ("1G", 1_000_000_000),
        ("200M", 200_000_000),
        ("1.5Gbit", 1_500_000_000),
        ("9600 bit/s", 9600),
    ] {
        assert_eq!(text.parse::<BitRate>().unwrap(), BitRate(rate), "{text}");
    }
    for text in ["0", "0.5", "1GiB", "fast", "", "1Gbyte"] {
        refused::<BitRate>(text);
    }
}

#[test]
fn cpus_keep_their_order() {
    assert_eq!("7,2-5".parse::<CpuList>().unwrap().0, [7, 2, 3, 4, 5]);
    assert_eq!("0".parse::<CpuList>().unwrap().0, [0]);
    for (text, why) in [
        ("", "no number"),
        ("5-2", "backwards"),
        ("1,1", "CPU 1 twice"),
        ("0-3,2", "CPU 2 twice"),
        ("8192", "end at 8191"),
        ("0-4294967295", "end at 8191"),
        ("+1", "no number"),
        ("1-2-3", "no number"),
        ("all", "no number"),
    ] {
        let message = refused::<CpuList>(text);
        assert!(message.contains(why), "{text}: {message}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(
        any in "\\PC{0,24}",
        looks_right in "[0-9]{0,22}[.:,/*-]?[0-9KMGkmgsuhn]{0,4}[:*,-]{0,2}[0-9KMs]{0,20}",
    ) {
        for text in [any, looks_right] {
            let _ = text.parse::<Nanos>();
            let _ = text.parse::<Sizes>();
            let _ = text.parse::<Counts>();
            let _ = text.parse::<PerSecond>();
            let _ = text.parse::<BitRate>();
            let _ = text.parse::<CpuList>();
        }
    }

    #[test]
    fn printed_durations_parse_to_what_was_printed(ns in any::<u64>()) {
        // Three digits are printed, so half of the third is lost at most; nothing below a
        // microsecond is.
        let parsed = Nanos(ns).to_string().parse::<Nanos>().unwrap();
        let lost = parsed.0.abs_diff(ns);
        prop_assert!(lost <= ns / 190, "{ns} as {} is off by {lost}", Nanos(ns));
        prop_assert!(ns >= 1_000 || lost == 0);
    }

    #[test]
    fn whole_durations_parse_exactly(n in 0..1_000_000_000u64) {
        for (unit, factor) in [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)] {
            prop_assert_eq!(format!("{n}{unit}").parse::<Nanos>().unwrap(), Nanos(n * factor));
        }
        let milli = format!("{}.{:03}ms", n / 1000, n % 1000);
        prop_assert_eq!(milli.parse::<Nanos>().unwrap(), Nanos(n * 1000));
    }

    #[test]
    fn printed_sizes_parse_back(n in 1..=u64::MAX, shift in 0..40u32) {
        for bytes in [n, n << shift, (n >> shift) << shift] {
            prop_assert_eq!(Size(bytes).to_string().parse::<Size>().unwrap(), Size(bytes));
        }
    }

    #[test]
    fn printed_cpus_parse_back(cpus in proptest::collection::hash_set(0..CPUS_MAX, 1..40)) {
        let cpus = CpuList(cpus.into_iter().collect());
        prop_assert_eq!(cpus.to_string().parse::<CpuList>().unwrap(), cpus);
    }

    #[test]
    fn sweeps_hold_their_bounds(first in 1..100u64, last in 1..100_000u64, step in 2..50u64) {
        if let Ok(Sizes(sizes)) = format!("{first}:{last}:*{step}").parse() {
            prop_assert!(sizes.iter().all(|size| (first..=last).contains(size)));
            prop_assert!(sizes.windows(2).all(|pair| pair[1] == pair[0] * step));
            prop_assert!(sizes[sizes.len() - 1] * step > last);
        }
    }
}
