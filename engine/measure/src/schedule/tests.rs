use super::*;

/// The Anderson–Darling statistic of `sample` against the uniform distribution on 0 to 1 (Anderson
/// and Darling 1954).
fn anderson_darling(mut sample: Vec<f64>) -> f64 {
    sample.sort_by(f64::total_cmp);
    let n = sample.len();
    let sum: f64 =
        (0..n).map(|i| (2 * i + 1) as f64 * (sample[i].ln() + (-sample[n - 1 - i]).ln_1p())).sum();
    -(n as f64) - sum / n as f64
}

/// Its critical value at 1 % for a distribution known in full: Stephens, EDF Statistics for
/// Goodness of Fit and Some Comparisons, JASA 69 (1974), table 1, case 0.
const CRITICAL: f64 = 3.857;

fn load(from: f64, to: f64, hold_s: u64, ramp_s: u64) -> Load {
    let (hold, ramp) = (Nanos::from_secs(hold_s), Nanos::from_secs(ramp_s));
    Load { from_per_s: from, to_per_s: to, hold, ramp }
}

/// Arrivals until `t`, from the rate's integral.
fn cumulative(load: &Load, t: Nanos) -> f64 {
    let (t, hold, ramp) = (t.as_secs_f64(), load.hold.as_secs_f64(), load.ramp.as_secs_f64());
    let (from, to) = (load.from_per_s, load.to_per_s);
    let x = (t - hold).clamp(0.0, ramp);
    let ramped = if ramp > 0.0 { from * x + (to - from) * x * x / (2.0 * ramp) } else { 0.0 };
    from * t.min(hold) + ramped + to * (t - hold - ramp).max(0.0)
}

fn whole(load: &Load, arrivals: Arrivals, seed: u64) -> Schedule {
    Schedule::new(load, arrivals, seed, Share::WHOLE).unwrap()
}

#[test]
fn the_statistic_tells_uniform_from_what_is_not() {
    let even: Vec<f64> = (0..1_000).map(|i| (f64::from(i) + 0.5) / 1_000.0).collect();
    assert!(anderson_darling(even.clone()) < 0.1);
    let bent = even.iter().map(|u| u.powf(1.2)).collect();
    assert!(anderson_darling(bent) > CRITICAL);
    // Stephens' statistic of a single observation: -1 - ln u - ln(1 - u).
    assert!((anderson_darling(vec![0.5]) - (4f64.ln() - 1.0)).abs() < 1e-12);
}

#[test]
fn equal_loads_take_the_exact_schedules() {
    let flat = load(7.0, 7.0, 1, 5);
    assert!(whole(&flat, Arrivals::Constant, 3) == Schedule::constant(7.0, Share::WHOLE).unwrap());
    assert!(whole(&flat, Arrivals::Poisson, 3) == Schedule::poisson(7.0, 3, Share::WHOLE).unwrap());
}

#[test]
fn exponential_gaps_pass_the_test_of_anderson_and_darling() {
    const N: usize = 100_000;
    for (rate, seed) in [(1_000.0, 1), (0.5, 2), (20_000.0, 3), (60.0, 4), (150_000.0, 3)] {
        let mut last = 0;
        let gaps: Vec<f64> = whole(&load(rate, rate, 0, 0), Arrivals::Poisson, seed)
            .take(N)
            .map(|due| (due.0 - std::mem::replace(&mut last, due.0)) as f64 * rate / 1e9)
            .collect();
        let root = (N as f64).sqrt();
        let mean = gaps.iter().sum::<f64>() / N as f64;
        assert!((mean - 1.0).abs() < 4.0 / root, "{mean}");
        let lagged = gaps.windows(2).map(|w| (w[0] - 1.0) * (w[1] - 1.0)).sum::<f64>() / N as f64;
        assert!(lagged.abs() < 4.0 / root, "{lagged}");
        // Half a nanosecond is the rounding of the instant.
        let least = 0.5 * rate / 1e9;
        let statistic = anderson_darling(gaps.iter().map(|g| -(-g.max(least)).exp_m1()).collect());
        assert!(statistic < CRITICAL, "{rate}: {statistic}");
    }
}

#[test]
fn jitter_is_uniform_bounded_and_in_order() {
    for (rate, off, seed) in
        [(1_000.0, 0.1, 1), (1_000.0, 0.5, 2), (3.0, 0.25, 3), (50_000.0, 0.01, 4)]
    {
        let gap = 1e9 / rate;
        let due: Vec<_> =
            whole(&load(rate, rate, 0, 0), Arrivals::Jitter(off), seed).take(20_000).collect();
        assert!(due.is_sorted());
        let places: Vec<f64> =
            due.iter().enumerate().map(|(k, due)| due.0 as f64 - (k as f64 + off) * gap).collect();
        // Half a nanosecond is the rounding of the instant.
        assert!(places.iter().all(|place| place.abs() <= off * gap + 0.5), "{rate}");
        let spread = places
            .iter()
            .map(|place| ((place / (off * gap) + 1.0) / 2.0).clamp(1e-9, 1.0 - 1e-9))
            .collect();
        let statistic = anderson_darling(spread);
        assert!(statistic < CRITICAL, "{rate} {off}: {statistic}");
    }
    let none = whole(&load(250.0, 250.0, 0, 0), Arrivals::Jitter(0.0), 1);
    assert!(none.take(10_000).eq(Schedule::constant(250.0, Share::WHOLE).unwrap().take(10_000)));
}

#[test]
fn ramps_meet_the_closed_form() {
    for (load, count) in [
        (load(1_000.0, 5_000.0, 2, 30), 92_000),
        (load(5_000.0, 1_000.0, 0, 10), 30_000),
        (load(10.0, 20_000.0, 1, 3), 30_025),
        (load(100.0, 300.0, 4, 0), 400),
    ] {
        let end = load.hold + load.ramp;
        let due: Vec<_> =
            whole(&load, Arrivals::Constant, 1).take_while(|due| *due < end).collect();
        assert_eq!(due.len(), count, "{load:?}");
        assert!(due.is_sorted());
        for (k, due) in due.iter().enumerate() {
            let off = cumulative(&load, *due) - k as f64;
            // The cumulative rate at an instant that is rounded to the nanosecond, and its own
            // rounding.
            let rate = load.from_per_s.max(load.to_per_s);
            assert!(off.abs() <= rate * 0.6e-9 + 1e-9, "{load:?} {k}: {off}");
        }
        let beyond: Vec<_> = whole(&load, Arrivals::Constant, 1).skip(count).take(2).collect();
        assert!((beyond[0].0.abs_diff(end.0)) <= 1, "the rate reached is kept");
        let gap = (beyond[1].0 - beyond[0].0) as f64;
        assert!((gap - 1e9 / load.to_per_s).abs() <= 1.0);
    }
}

#[test]
fn ramps_bend_other_arrivals_alike() {
    let ramp = load(1_000.0, 9_000.0, 1, 4);
    let at: Vec<f64> = whole(&ramp, Arrivals::Poisson, 11)
        .take(20_000)
        .map(|due| cumulative(&ramp, due))
        .collect();
    let gaps = at.windows(2).map(|w| -(-(w[1] - w[0]).max(1e-7)).exp_m1()).collect();
    let statistic = anderson_darling(gaps);
    assert!(statistic < CRITICAL, "{statistic}");
    for (k, due) in whole(&ramp, Arrivals::Jitter(0.2), 12).take(20_000).enumerate() {
        let off = cumulative(&ramp, due) - (k as f64 + 0.2);
        assert!(off.abs() <= 0.2 + 1e-5, "{k}: {off}");
    }
}

#[test]
fn the_union_over_workers_is_the_whole() {
    for load in [load(777.7, 777.7, 0, 0), load(100.0, 3_000.0, 1, 5)] {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson, Arrivals::Jitter(0.5)] {
            let all: Vec<_> = whole(&load, arrivals, 42).take(5_000).collect();
            assert!(all.is_sorted());
            for workers in [2, 5] {
                let mut shares: Vec<_> = (0..workers)
                    .map(|w| Schedule::new(&load, arrivals, 42, Share::new(w, workers)).unwrap())
                    .collect();
                for (k, due) in all.iter().enumerate() {
                    assert_eq!(shares[k % workers as usize].next(), Some(*due), "{arrivals} {k}");
                }
            }
            let other = whole(&load, arrivals, 43).take(5_000);
            assert_eq!(other.eq(all), arrivals == Arrivals::Constant);
        }
    }
}

#[test]
fn shares_add_up_to_the_whole() {
    for (count, workers) in [(0, 1), (1, 4), (7, 3), (64, 64), (1_000_003, 7)] {
        let sum: u64 = (0..workers).map(|w| Share::new(w, workers).of(count)).sum();
        assert_eq!(sum, count);
    }
    assert_eq!(Share::new(1, 3).of(2), 1);
    assert_eq!(Share::new(2, 3).of(2), 0);
}

#[test]
fn what_cannot_be_scheduled_is_refused_with_advice() {
    for (load, arrivals) in [
        (load(0.0, 10.0, 0, 1), Arrivals::Constant),
        (load(10.0, f64::NAN, 0, 1), Arrivals::Poisson),
        (load(10.0, 2e9, 0, 1), Arrivals::Jitter(0.1)),
        (load(10.0, 10.0, 0, 1), Arrivals::Jitter(0.51)),
        (load(10.0, 10.0, 0, 1), Arrivals::Jitter(f64::NAN)),
    ] {
        let error = Schedule::new(&load, arrivals, 1, Share::WHOLE).unwrap_err();
        assert!(error.advice().is_some(), "{load:?}");
    }
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-7, 1.1e9] {
        let (constant, poisson) =
            (Schedule::constant(rate, Share::WHOLE), Schedule::poisson(rate, 1, Share::WHOLE));
        for error in [constant.unwrap_err(), poisson.unwrap_err()] {
            assert_eq!(error.fault(), tare_units::error::Fault::Usage);
            assert!(error.advice().is_some_and(|a| a.contains("for example")));
        }
    }
}

/// Requests are walked along one by one, twice; datagrams that are paced many at a time are not.
#[test]
fn requests_have_a_rate_that_can_be_walked() {
    let at = |rate| Schedule::new(&Load::steady(rate), Arrivals::Constant, 1, Share::WHOLE);
    assert!(at(ARRIVALS_MAX_PER_S).is_ok());
    let error = at(1.1 * ARRIVALS_MAX_PER_S).unwrap_err();
    assert!(error.advice().is_some_and(|a| a.contains("20000000")), "{error}");
    assert!(Schedule::constant(1.1 * ARRIVALS_MAX_PER_S, Share::WHOLE).is_ok());
}

#[test]
fn arrivals_parse_and_print() {
    for (text, arrivals, printed) in [
        ("constant", Arrivals::Constant, "constant"),
        (" poisson ", Arrivals::Poisson, "poisson"),
        ("jitter", Arrivals::Jitter(0.1), "jitter:10%"),
        ("jitter:7%", Arrivals::Jitter(0.07), "jitter:7%"),
        ("jitter:12.5 %", Arrivals::Jitter(0.125), "jitter:12.5%"),
        ("jitter:50%", Arrivals::Jitter(0.5), "jitter:50%"),
        ("jitter:0%", Arrivals::Jitter(0.0), "jitter:0%"),
    ] {
        assert_eq!(text.parse::<Arrivals>().unwrap(), arrivals, "{text}");
        assert_eq!(arrivals.to_string(), printed);
        assert_eq!(printed.parse::<Arrivals>().unwrap(), arrivals);
        assert!(printed.starts_with(arrivals.name()));
    }
}

#[test]
fn other_arrivals_are_refused_with_advice() {
    let words = ["", "Poisson", "uniform", "jitter:", "jitter:10", "jitter 10%"];
    let shares = ["%", "51%", "-1%", "1e1%", "nan%", "inf%", "1.2.3%"];
    let shares = shares.map(|share| format!("jitter:{share}"));
    for text in words.into_iter().chain(shares.iter().map(String::as_str)) {
        let error = text.parse::<Arrivals>().expect_err(text);
        assert!(error.advice().is_some_and(|advice| advice.contains("jitter:10%")), "{text}");
    }
}
