use super::*;

const MS: u64 = 1_000_000;

fn spec(extent: Extent, open_loop: bool) -> RecordingSpec {
    RecordingSpec { extent, interval: Nanos::from_millis(100), open_loop }
}

fn sample(service_ns: u64) -> Sample {
    Sample { service: Nanos(service_ns), lateness: None, residence: Some(Nanos(service_ns / 4)) }
}

#[test]
fn blocks_are_cut_by_time_and_the_last_one_takes_the_rest() {
    let mut r = Recording::new(spec(Extent::Time(Nanos::from_millis(320)), false));
    let t0 = Instant(77);
    r.begin(t0);
    for ms in [0, 9, 10, 319, 320, 900] {
        r.record(t0 + Nanos(ms * MS), sample(if ms < 10 { 1_000 } else { 9_000 }));
    }
    // Two in block 0, one in block 1, three in block 31; the share 1/3 is parted exactly.
    assert_eq!(r.block_counts(Metric::Service, 0.33), [(2, 2), (1, 0), (3, 0)]);
    assert_eq!(r.block_counts(Metric::Path, 0.33), [(2, 2), (1, 0), (3, 0)]);
    assert!(r.block_counts(Metric::Response, 0.5).is_empty());
}

#[test]
fn blocks_are_cut_by_count_when_the_length_is_unknown() {
    let mut r = Recording::new(spec(Extent::Count(64), false));
    r.begin(Instant(0));
    for i in 0..64 {
        r.record(Instant(i), sample(if i % 2 == 0 { 100 } else { 10_000 }));
    }
    assert_eq!(r.block_counts(Metric::Service, 0.5), [(2, 1); BLOCKS]);
    // Between identical samples there is no edge.
    let mut same = Recording::new(spec(Extent::Count(100), false));
    (0..100).for_each(|i| same.record(Instant(i), sample(500)));
    assert!(same.block_counts(Metric::Service, 0.5).is_empty());
}

#[test]
fn open_loop_keeps_response_and_lateness_apart() {
    let mut r = Recording::new(spec(Extent::Time(Nanos::from_secs(1)), true));
    r.begin(Instant(0));
    let late =
        Sample { service: Nanos(1_000), lateness: Some(Nanos(500)), residence: Some(Nanos(100)) };
    r.record(Instant(5_000), late);
    r.count_answer(Instant(5_000));
    r.record_censored(Instant(6_000), late);
    r.record_unsent(Instant(7_000), &SameBin::one(Nanos(9_999)));
    let figures = |metric| {
        let d = r.distribution(metric).unwrap();
        (d.count(), d.censored(), d.max_ns())
    };
    assert_eq!(figures(Metric::Service), (2, 1, Some(1_000)));
    assert_eq!(figures(Metric::Response), (3, 2, Some(9_999)));
    assert_eq!(figures(Metric::Lateness), (3, 1, Some(9_999)));
    assert_eq!(figures(Metric::Residence), (1, 0, Some(100)));
    assert_eq!(figures(Metric::Path), (1, 0, Some(900)));
    let series: Vec<_> = r.series(Nanos::from_secs(1)).collect();
    assert_eq!((series[0].completed, series[0].max), (1, Nanos(9_999)));
    // Closed loop has neither.
    let closed = Recording::new(spec(Extent::Count(1), false));
    let of_schedule = [Metric::Response, Metric::Lateness];
    assert!(of_schedule.iter().all(|metric| closed.distribution(*metric).is_none()));
    assert_eq!(closed.headline_metric(), Metric::Service);
}

#[test]
fn the_series_shows_stalls_and_ends_with_the_phase() {
    let mut r = Recording::new(spec(Extent::Time(Nanos::from_millis(350)), false));
    r.begin(Instant(0));
    for i in 0..40 {
        r.record(Instant(i * MS), sample(10_000 + i * 100));
        r.count_answer(Instant(i * MS));
    }
    r.record_error(Instant(150 * MS));
    r.record(Instant(2_000 * MS), sample(1_650 * MS));
    let series: Vec<_> = r.series(Nanos::from_millis(350)).collect();
    let ends: Vec<_> = series.iter().map(|e| e.end.0 / MS).collect();
    assert_eq!(ends, [100, 200, 300, 350]);
    let counts: Vec<_> = series.iter().map(|e| (e.completed, e.errors)).collect();
    // What is answered behind the end is in no entry.
    assert_eq!(counts, [(40, 0), (0, 1), (0, 0), (0, 0)]);
    let p50 = series[0].quantile(50.0).unwrap().0;
    assert!((11_900..=12_000).contains(&p50), "{p50}");
    assert_eq!(series[0].quantile(99.0), None);
    assert_eq!(series[3].max, Nanos(1_650 * MS));
}

#[test]
fn a_long_run_gets_longer_entries() {
    let r = Recording::new(spec(Extent::Time(Nanos::from_secs(200)), false));
    assert_eq!(r.interval(), Nanos::from_millis(300));
    assert!(r.series_counts.len() <= SERIES_MAX);
    let open_ended = Recording::new(spec(Extent::Count(5), false));
    assert_eq!(open_ended.series_counts.len(), SERIES_OPEN_ENDED);
}

#[test]
fn workers_merge_block_by_block() {
    let time = Extent::Time(Nanos::from_millis(320));
    let (mut a, mut b) = (Recording::new(spec(time, false)), Recording::new(spec(time, false)));
    a.record(Instant(0), sample(1_000));
    b.record(Instant(1), sample(8_000));
    b.record(Instant(319 * MS), sample(8_000));
    a.count_answer(Instant(0));
    b.count_answer(Instant(1));
    b.count_answer(Instant(319 * MS));
    b.record_connect(Instant(319 * MS), Nanos(55_000));
    b.record_connect_censored(Instant(319 * MS), Nanos(66_000));
    let mut residence = Distribution::new();
    residence.record(Nanos(42));
    a.merge_residence(&residence);
    a.merge(&b);
    assert_eq!(a.block_counts(Metric::Service, 0.3), [(2, 1), (1, 0)]);
    let count = |metric| a.distribution(metric).map(|d| (d.count(), d.censored()));
    assert_eq!(count(Metric::Service), Some((3, 0)));
    assert_eq!(count(Metric::Connect), Some((2, 1)));
    assert_eq!(count(Metric::Residence), Some((4, 0)));
    assert_eq!(a.series(Nanos::from_millis(320)).map(|e| e.completed).sum::<u64>(), 3);
}
