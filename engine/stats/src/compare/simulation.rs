//! Whole experiments with known answers: how often intervals hold the truth, how often paths that
//! are the same are called different, and how often a difference is found. Seeds are fixed, so each
//! run gives the same shares; to see them: `cargo test -p tare-stats --lib
//! compare::simulation -- --nocapture`.

#![expect(clippy::print_stdout, reason = "the shares are for whoever asks with --nocapture")]

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::*;
use crate::binomial;
use crate::fixtures::uniform;
use power::normals;

/// Samples of one visit. With two visits pooled a p99 has ten beyond it: the fewest that a quantile
/// is printed for.
const SAMPLES: usize = 500;
const QUANTILES: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];

/// What the round trips of a path are like, microseconds.
#[derive(Debug, Clone, Copy)]
enum Path {
    /// Two modes and rare stalls; how many go the slow way changes from visit to visit, so that a
    /// visit's median is in one mode or the other.
    Multimodal,
    /// Pareto, with infinite variance.
    HeavyTail,
    /// Lognormal around a level that rises through the whole run, swings, and jumps from visit to
    /// visit: between the first block and the last it moves by far more than the paths differ.
    Drifting,
}

impl Path {
    /// The samples of a visit, the `number`th of the experiment.
    fn visit(self, random: &mut Xoshiro256PlusPlus, number: usize, mut take: impl FnMut(f64)) {
        let [mood, _] = normals(random);
        let number = number as f64;
        let level = 0.3 * number + 4.0 * (number / 9.0).sin() + mood;
        let slow = (0.5 + 0.1 * mood).clamp(0.1, 0.9);
        for _ in 0..SAMPLES / 2 {
            match self {
                Self::HeavyTail => {
                    for _ in 0..2 {
                        take(20.0 * uniform(random).powf(-1.0 / 1.5));
                    }
                }
                Self::Multimodal => {
                    for noise in normals(random) {
                        let way = uniform(random);
                        take(match way {
                            way if way < 0.01 => 200.0 + 20.0 * noise,
                            way if way < slow => 35.0 + 2.0 * noise,
                            _ => 20.0 + noise,
                        });
                    }
                }
                Self::Drifting => {
                    for noise in normals(random) {
                        take(level + (3.0 + 0.5 * noise).exp());
                    }
                }
            }
        }
    }
}

/// How an arm's round trips come from the path's.
#[derive(Debug, Clone, Copy)]
struct Arm {
    times: f64,
    plus: f64,
}

const SAME: Arm = Arm { times: 1.0, plus: 0.0 };

/// The values of each arm in one block, by quantile and then the mean: both passes pooled.
type Values = Vec<[f64; 3]>;

/// A block: all arms in a random order, then in the reverse one.
fn block(random: &mut Xoshiro256PlusPlus, path: Path, arms: &[Arm], visits: &mut usize) -> Values {
    let mut order: Vec<usize> = (0..arms.len()).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, (random.next_u64() % (last as u64 + 1)) as usize);
    }
    let back: Vec<usize> = order.iter().rev().copied().collect();
    let mut pools = vec![Vec::with_capacity(2 * SAMPLES); arms.len()];
    for arm in order.into_iter().chain(back) {
        let Arm { times, plus } = arms[arm];
        path.visit(random, *visits, |sample| {
            pools[arm].push(times * sample + plus);
        });
        *visits += 1;
    }
    let summarise = |pool: &mut Vec<f64>| {
        let mean = pool.iter().sum::<f64>() / pool.len() as f64;
        let mut of = |share: f64| {
            let rank = (share * pool.len() as f64).ceil() as usize;
            *pool.select_nth_unstable_by(rank - 1, f64::total_cmp).1
        };
        [of(QUANTILES[0].1), of(QUANTILES[1].1), mean]
    };
    pools.iter_mut().map(summarise).collect()
}

/// The share of 1,000 experiments of 12 blocks whose interval holds the true median block
/// difference, for each quantile.
fn coverage(path: Path, arm: Arm, truth: [f64; 2]) -> [f64; 2] {
    const EXPERIMENTS: usize = 1_000;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(2026);
    let mut held = [0; 2];
    for _ in 0..EXPERIMENTS {
        let mut visits = 0;
        let mut blocks = || block(&mut random, path, &[SAME, arm], &mut visits);
        let values: Vec<Values> = (0..12).map(|_| blocks()).collect();
        for (measure, truth) in truth.into_iter().enumerate() {
            let difference = |arms: &Values| arms[1][measure] - arms[0][measure];
            let differences: Vec<f64> = values.iter().map(difference).collect();
            let estimate = blocks::estimate(&differences).unwrap();
            let (low, high) = estimate.interval.unwrap();
            held[measure] += usize::from((low..=high).contains(&truth));
        }
    }
    held.map(|held| held as f64 / EXPERIMENTS as f64)
}

#[test]
fn intervals_hold_the_truth() {
    // Where an arm is the baseline and a constant, which is which of the two is a coin's toss: less
    // the constant, the block difference is symmetric around zero, and its median is that constant
    // exactly, whatever drifts.
    let shifted = |plus| (Arm { times: 1.0, plus }, [plus; 2]);
    // A fifth slower all over, its p99 most: block differences are not symmetric, and their median
    // has no formula. So it is that of 5,000 blocks from a seed of their own: known to a fiftieth
    // of the spread of one.
    let arm = Arm { times: 1.2, plus: 0.0 };
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut visits = 0;
    let mut difference = |_| {
        let arms = block(&mut random, Path::HeavyTail, &[SAME, arm], &mut visits);
        [arms[1][0] - arms[0][0], arms[1][1] - arms[0][1]]
    };
    let differences: Vec<[f64; 2]> = (0..5_000).map(&mut difference).collect();
    let truth = [0, 1].map(|measure| {
        let of: Vec<f64> = differences.iter().map(|d| d[measure]).collect();
        blocks::median(&of).unwrap()
    });
    println!("HeavyTail: the true median block differences are {truth:?} µs");
    for (path, (arm, truth)) in [
        (Path::Multimodal, shifted(2.0)),
        (Path::Drifting, shifted(1.0)),
        (Path::HeavyTail, (arm, truth)),
    ] {
        for ((name, _), share) in QUANTILES.into_iter().zip(coverage(path, arm, truth)) {
            println!("{path:?}, {name}: the interval holds the truth in {:.1} %", 100.0 * share);
            assert!(share >= 0.936, "{path:?} {name}: {share}");
        }
    }
}

/// Cells of an arm and of the A/A arm, from values by block, arm (baseline, arm, A/A) and measure.
fn cells(values: &[Values], measures: &[(&str, &str)]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (arm, name) in [(1, "arm"), (2, AA)] {
        for (measure, (measure_name, unit)) in measures.iter().enumerate() {
            let blocks = values.iter().zip(1..).map(|(arms, block)| CellBlock {
                block,
                baseline: arms[0][measure],
                value: arms[arm][measure],
            });
            cells.push(Cell {
                arm: name.to_owned(),
                measure: (*measure_name).to_owned(),
                unit: (*unit).to_owned(),
                declared: arm == 1,
                blocks: blocks.collect(),
                ..Cell::default()
            });
        }
    }
    judge(&mut cells);
    cells
}

fn is_difference(cell: &Cell) -> bool {
    matches!(cell.verdict, Some(Verdict::Slower | Verdict::Faster))
}

/// Whether Holm's correction alone shows a difference, with no regard to the resolution.
fn is_significant(cell: &Cell) -> bool {
    cell.p_adjusted.is_some_and(|p| p <= power::LEVEL)
}

#[test]
fn a_path_does_not_differ_from_itself() {
    // Any of three declared cells called a difference is a false alarm, and at most one experiment
    // in twenty may give one. Were it exactly one in twenty, 400 experiments would give more than
    // `bound` once in a thousand times: no sound implementation fails by chance, and more than that
    // is no chance.
    const EXPERIMENTS: u64 = 400;
    let bound = (0..).find(|most| binomial::at_most(*most, EXPERIMENTS, 0.05) >= 0.999).unwrap();
    assert_eq!(bound, 35);
    for path in [Path::Multimodal, Path::HeavyTail, Path::Drifting] {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(2027);
        let (mut alarms, mut significant) = (0, 0);
        for _ in 0..EXPERIMENTS {
            let mut visits = 0;
            let mut blocks = || block(&mut random, path, &[SAME; 3], &mut visits);
            let values: Vec<Values> = (0..12).map(|_| blocks()).collect();
            let cells = cells(&values, &[("p50", "ns"), ("p99", "ns"), ("goodput", "1/s")]);
            assert!(cells[..3].iter().all(|cell| cell.verdict.is_some()));
            alarms += u64::from(cells.iter().any(is_difference));
            significant += u64::from(cells.iter().any(is_significant));
        }
        println!(
            "{path:?}: {alarms} of {EXPERIMENTS} called different, {significant} without regard to the resolution"
        );
        assert!(alarms <= EXPERIMENTS / 20 && significant <= bound);
    }
}

/// The shares of 2,000 experiments with two declared cells, one of which differs by `spreads`
/// standard deviations of a block's difference, that find it: as judged, and without regard to the
/// resolution.
fn found(spreads: f64, blocks: usize) -> (f64, f64) {
    const EXPERIMENTS: usize = 2_000;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(2028);
    let (mut judged, mut significant) = (0, 0);
    for _ in 0..EXPERIMENTS {
        // Two values of variance ½ differ by one of variance 1.
        let mut arm = |plus: f64| {
            let [a, b] = normals(&mut random).map(|z| z * std::f64::consts::FRAC_1_SQRT_2);
            [a + plus, b, 0.0]
        };
        let values: Vec<Values> =
            (0..blocks).map(|_| vec![arm(0.0), arm(spreads), arm(0.0)]).collect();
        let cells = cells(&values, &[("p50", "ns"), ("p99", "ns")]);
        judged += usize::from(is_difference(&cells[0]));
        significant += usize::from(is_significant(&cells[0]));
    }
    let share = |count: usize| count as f64 / EXPERIMENTS as f64;
    (share(judged), share(significant))
}

#[test]
fn differences_are_found_as_often_as_the_docs_say() {
    // The table of docs/method/comparing.md, per cent.
    for (blocks, spreads, judged, significant) in [
        (12, 0.5, 2, 7),
        (12, 1.0, 25, 39),
        (12, 1.5, 70, 80),
        (12, 2.0, 94, 97),
        (30, 0.5, 20, 38),
        (30, 1.0, 88, 96),
        (30, 1.5, 100, 100),
        (30, 2.0, 100, 100),
    ] {
        let (ours, without) = found(spreads, blocks);
        let (ours, without) = (100.0 * ours, 100.0 * without);
        println!(
            "{blocks} blocks, {spreads} sd: {ours:.1} %, {without:.1} % without the resolution"
        );
        assert!((ours - f64::from(judged)).abs() < 1.0, "{ours} {judged}");
        assert!((without - f64::from(significant)).abs() < 1.0, "{without} {significant}");
    }
}

#[test]
fn what_is_detectable_is_found_in_four_runs_of_five() {
    for blocks in [8, 12, 30] {
        let spreads = power::detectable_in_spreads(blocks, 2).unwrap();
        let (judged, _) = found(spreads, usize::try_from(blocks).unwrap());
        println!("{blocks} blocks: {spreads:.2} sd is found in {:.1} %", 100.0 * judged);
        assert!((judged - 0.8).abs() < 0.03, "{blocks}: {judged}");
    }
}
