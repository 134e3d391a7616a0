//! Histograms as results carry them, opened: for bars, and for HdrHistogram's own formats.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use jiff::Timestamp;
use tare_stats::result::{Comparison, Report, StepResult};
use tare_units::Nanos;

use super::{grouped, headline};

/// Bars of a distribution, about; the last is for what lies above them.
const BARS: u64 = 10;
/// The longest bar, characters: a line of them stays within 80.
const BAR_WIDTH: u64 = 40;
/// Up to this quantile the bars are linear, so that one outlier does not flatten the rest.
const LINEAR_UPTO: f64 = 0.99;
/// Rows of a table of percentiles each time that the distance to 100 % is halved, as HdrHistogram's
/// tools print them.
const TICKS_PER_HALF_DISTANCE: u32 = 5;
/// Nanoseconds of a millisecond, the unit of the plotters.
const MS: f64 = 1e6;

/// The histogram of a summary or an interval; none where it holds no sample, or is no encoding.
pub(super) fn decode(hdr: &str) -> Option<Histogram<u64>> {
    tare_stats::histogram::read(hdr).ok().filter(|read| !read.is_empty())
}

/// The latencies of a step as bars, as boom and hey print them; nothing where there are none.
pub(super) fn bars(step: &StepResult) -> Vec<String> {
    let Some(histogram) = decode(&headline(&step.latency).hdr) else { return Vec::new() };
    let (low, high) = (histogram.min(), histogram.value_at_quantile(LINEAR_UPTO));
    // Narrower than a hundredth, and two edges would be printed alike.
    let width = round_up((high - low).div_ceil(BARS).max(high / 100).max(1));
    let mut edge = low / width * width;
    let (mut rows, mut counted) = (Vec::new(), 0);
    while rows.is_empty() || edge < high {
        edge += width;
        // A bin on the edge is counted below it: what is printed is where bins end.
        let upto = histogram.count_between(0, edge);
        rows.push((format!("up to {}", Nanos(edge)), upto - counted));
        counted = upto;
    }
    if counted < histogram.len() {
        rows.push(("and above".to_owned(), histogram.len() - counted));
    }
    let longest = rows.iter().map(|row| row.1).max().unwrap_or(1).max(1);
    let digits = grouped(longest).len();
    let bar = |(name, count): (String, u64)| {
        let length = u128::from(count) * u128::from(BAR_WIDTH) / u128::from(longest);
        let bar = "∎".repeat(usize::try_from(length).unwrap_or_default());
        format!("{name:<13} {:>digits$}  {bar}", grouped(count)).trim_end().to_owned()
    };
    rows.into_iter().map(bar).collect()
}

/// The next of 1, 2 and 5 times a power of ten: edges that read well.
fn round_up(width: u64) -> u64 {
    let power = 10u64.pow(width.ilog10());
    let steps = [1, 2, 5, 10].map(|step| step * power);
    steps.into_iter().find(|step| *step >= width).unwrap_or(width)
}

/// The percentiles of a step in the format of HdrHistogram's plotters, milliseconds.
pub(crate) fn percentiles(step: &StepResult) -> String {
    let empty = || Histogram::new(3).ok();
    let Some(histogram) = decode(&headline(&step.latency).hdr).or_else(empty) else {
        return String::new();
    };
    let mut out = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut counted = 0;
    for at in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        counted += at.count_since_last_iteration();
        let (value, share) = (at.value_iterated_to() as f64 / MS, at.quantile_iterated_to());
        out.push_str(&format!("{value:>12.6} {share:>14.12} {counted:>10}"));
        if share < 1.0 {
            out.push_str(&format!(" {:>14.2}", 1.0 / (1.0 - share)));
        }
        out.push('\n');
    }
    // How finely it resolves: the power of two above twice the precision's units, and its doublings
    // up to the range.
    let sub_buckets = (2 * 10u64.pow(histogram.sigfig().into())).next_power_of_two();
    let doublings = (histogram.high().max(sub_buckets) - 1).ilog2() + 1 - sub_buckets.ilog2();
    let (mean, stdev) = (histogram.mean() / MS, histogram.stdev() / MS);
    let (max, total, buckets) = (histogram.max() as f64 / MS, histogram.len(), doublings + 1);
    out + &format!(
        "#[Mean    = {mean:>12.6}, StdDeviation   = {stdev:>12.6}]\n\
         #[Max     = {max:>12.6}, Total count    = {total:>12}]\n\
         #[Buckets = {buckets:>12}, SubBuckets     = {sub_buckets:>12}]\n"
    )
}

struct Span<'a> {
    tag: String,
    begin: Duration,
    length: Duration,
    hdr: &'a str,
}

/// The report as an interval log of HdrHistogram, version 1.3: nanoseconds, the maximum in
/// milliseconds, steps as tags. A step whose intervals carry no histogram is one line. Of a
/// comparison a line per step of a visit, with the arm as the tag.
pub(crate) fn interval_log(report: &Report) -> String {
    const IN_MEMORY: &str = "it is written to memory, and counts stay below 2^63";
    let started = clock(&report.started_at).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    writeln!(log, "#[Histogram log format version 1.3]").expect(IN_MEMORY);
    let mut writer = IntervalLogWriterBuilder::new()
        .with_start_time(started)
        .with_max_value_divisor(MS)
        .begin_log_with(&mut log, &mut serializer)
        .expect(IN_MEMORY);
    let spans = match &report.comparison {
        Some(comparison) => visits(comparison, started),
        None => steps(report, started),
    };
    for Span { tag, begin, length, hdr } in spans {
        if let Some(histogram) = decode(hdr) {
            let written = writer.write_histogram(&histogram, begin, length, Tag::new(&tag));
            written.expect(IN_MEMORY);
        }
    }
    String::from_utf8(log).expect("a log's base64 is ASCII, and its tags are UTF-8")
}

fn clock(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().map(SystemTime::from).ok()
}

fn since(started: SystemTime, at: Option<&str>) -> Option<Duration> {
    at.and_then(clock)?.duration_since(started).ok()
}

fn steps(report: &Report, started: SystemTime) -> Vec<Span<'_>> {
    let mut all = Vec::new();
    let mut begin = Duration::ZERO;
    for (index, step) in report.results.iter().enumerate() {
        begin = since(started, step.began_at.as_deref())
            .unwrap_or_else(|| begin + Duration::from_nanos(step.warmup.duration_ns));
        let mut add = |from, upto: u64, hdr| {
            let (tag, from) = (format!("step-{}", index + 1), Duration::from_nanos(from));
            let length = Duration::from_nanos(upto).saturating_sub(from);
            all.push(Span { tag, begin: begin + from, length, hdr });
        };
        let mut from = 0;
        for interval in &step.intervals {
            interval.hdr.iter().for_each(|hdr| add(from, interval.at_ns, hdr));
            from = interval.at_ns;
        }
        if step.intervals.iter().all(|interval| interval.hdr.is_none()) {
            add(0, step.duration_ns, &headline(&step.latency).hdr);
        }
        begin += Duration::from_nanos(step.duration_ns);
    }
    all
}

/// What was measured in each visit of a comparison; where it has several steps they follow each
/// other, for only the visit's begin is told.
fn visits(comparison: &Comparison, started: SystemTime) -> Vec<Span<'_>> {
    let mut all = Vec::new();
    let mut begin = Duration::ZERO;
    for visit in comparison.blocks.iter().flat_map(|block| &block.visits) {
        begin = since(started, Some(&visit.began_at)).unwrap_or(begin);
        let arm = visit.arm.replace([',', ' ', '\r', '\n'], "_");
        for step in &visit.steps {
            let length = Duration::from_nanos(step.duration_ns);
            let tag = match comparison.steps {
                0 | 1 => arm.clone(),
                _ => format!("{arm}-step-{}", step.step + 1),
            };
            all.extend(step.hdr.as_deref().map(|hdr| Span { tag, begin, length, hdr }));
            begin += length;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use tare_stats::histogram::Distribution;

    use super::*;
    use crate::report::fixtures;

    fn step(lengths: impl IntoIterator<Item = u64>) -> StepResult {
        let mut distribution = Distribution::uncensored();
        for ns in lengths {
            distribution.record(Nanos(ns));
        }
        let mut step = StepResult::default();
        step.latency.service.hdr = distribution.encode();
        step
    }

    #[test]
    fn an_outlier_does_not_flatten_the_bars() {
        let mut lengths: Vec<u64> = (0..10_000).map(|n| 40_000 + n * 4).collect();
        lengths.push(3_000_000_000);
        let bars = bars(&step(lengths));
        assert!((5..=12).contains(&bars.len()), "{bars:?}");
        assert!(bars.iter().all(|bar| bar.chars().count() <= 76), "{bars:?}");
        let widths = bars.iter().map(|bar| bar.matches('∎').count());
        assert!(widths.clone().filter(|width| *width > 20).count() >= 6, "{bars:?}");
        assert!(bars.last().unwrap().starts_with("and above"));
        let counts = bars.iter().map(|bar| bar[13..].split_whitespace().next().unwrap());
        let counted: u64 = counts.map(|n| n.replace(',', "").parse::<u64>().unwrap_or(0)).sum();
        assert!(counted >= 10_000, "{counted}: {bars:?}");
    }

    #[test]
    fn bars_of_little() {
        assert!(bars(&StepResult::default()).is_empty());
        assert!(bars(&step([])).is_empty());
        let one = bars(&step([1_234_567]));
        assert_eq!(one.len(), 1, "{one:?}");
        assert_eq!(one[0].matches('∎').count(), 40);
        assert_eq!(bars(&step([1])).len(), 1);
    }

    #[test]
    fn edges_read_well() {
        let edges = [1, 3, 6, 10, 11, 999, 2_001].map(round_up);
        assert_eq!(edges, [1, 5, 10, 10, 20, 1_000, 5_000]);
    }

    #[test]
    fn percentiles_are_those_of_the_histogram() {
        let text = percentiles(&step((1..=1_000).map(|n| n * 1_000_000)));
        let rows: Vec<Vec<f64>> = text
            .lines()
            .filter(|line| !line.contains("Value") && !line.starts_with('#') && !line.is_empty())
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        let (first, last) = (&rows[0], rows.last().unwrap());
        assert!((first[0] - 1.0).abs() < 0.01 && first[2] < 1.5);
        assert!((last[0] - 1000.0).abs() < 1.0 && last.len() == 3, "{last:?}");
        assert_eq!((last[1], last[2]), (1.0, 1000.0));
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]));
        for row in &rows[..rows.len() - 1] {
            assert!((row[0] - row[2]).abs() < 1.0, "{row:?}");
            assert!((row[3] * (1.0 - row[1]) - 1.0).abs() < 0.01, "{row:?}");
        }
        assert!(text.contains("#[Mean    =") && text.contains("Total count    =         1000]"));
        assert!(percentiles(&StepResult::default()).contains("Total count    =            0]"));
    }

    #[test]
    fn a_log_is_read_back_by_another_reader() {
        let mut report = fixtures::one_step();
        let mut first = step([5_000_000]);
        first.warmup.duration_ns = 500_000_000;
        first.duration_ns = 1_500_000_000;
        for (at_ns, ns) in [(1_000_000_000, 2_000_000), (1_500_000_000, 3_000_000)] {
            let hdr = Some(step([ns]).latency.service.hdr);
            first.intervals.push(tare_stats::result::Interval { at_ns, hdr, ..Default::default() });
        }
        let mut second = step([7_000_000]);
        second.duration_ns = 1_000_000_000;
        second.began_at = Some("2025-11-20T12:00:02.250000000Z".into());
        report.results = vec![first, second];
        let log = interval_log(&report);
        let head = "#[Histogram log format version 1.3]\n#[StartTime: 1763640000.000";
        assert!(log.starts_with(head), "{log}");
        let first = ["step-1 at 500 for 1000: 2 of 2", "step-1 at 1500 for 500: 3 of 3"];
        assert_eq!(read_back(&log), [&first[..], &["step-2 at 2250 for 1000: 7 of 7"]].concat());
    }

    /// Of each interval its tag, when it began and how long it was, its maximum, and that of its
    /// histogram, all in milliseconds.
    fn read_back(log: &str) -> Vec<String> {
        let lines = IntervalLogIterator::new(log.as_bytes()).filter_map(|entry| {
            let LogEntry::Interval(line) = entry.unwrap() else { return None };
            let latency = decode(line.encoded_histogram()).unwrap().max() / 1_000_000;
            let (tag, max) = (line.tag().unwrap(), line.max().round());
            let [at, length] = [line.start_timestamp(), line.duration()].map(|d| d.as_millis());
            Some(format!("{} at {at} for {length}: {max} of {latency}", tag.as_str()))
        });
        lines.collect()
    }

    #[test]
    fn a_log_of_a_comparison_has_a_line_per_visit_with_its_arm() {
        let mut report = fixtures::compare::comparison();
        let comparison = report.comparison.as_mut().unwrap();
        comparison.blocks.truncate(1);
        let hdr = step([5_000_000]).latency.service.hdr;
        for visit in &mut comparison.blocks[0].visits {
            for step in &mut visit.steps {
                step.hdr = Some(hdr.clone());
            }
        }
        comparison.blocks[0].visits[1].steps[1].hdr = None;
        comparison.blocks[0].visits[5].arm = "a b,c".into();
        let log = interval_log(&report);
        let found = read_back(&log);
        assert_eq!(found.len(), 11, "{log}");
        let first = ["veth-step-1 at 0", "veth-step-2 at 500", "a/a-step-1 at 500"];
        for (found, wanted) in
            found.iter().zip(first.into_iter().chain(["loopback-step-1 at 1000"]))
        {
            assert_eq!(found.split(" for ").next(), Some(wanted));
        }
        assert!(found[10].starts_with("a_b_c-step-2 "));
        let comparison = report.comparison.as_mut().unwrap();
        comparison.steps = 1;
        assert!(interval_log(&report).contains("Tag=veth,0.000,0.500,"));
    }
}
