//! A made-up comparison of any size, with histograms as large as real ones.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
use serde_json::json;
use tare_engine::result::{
    AA, Arm, Block, Cell, CellBlock, Comparison, Estimate, Report, StepResult, Summary, Verdict,
    Visit, VisitStep,
};

use crate::report::fixtures;

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) arms: usize,
    pub(crate) sizes: usize,
    pub(crate) blocks: u64,
}

/// Some randomness that is the same every time (Steele, Lea & Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn name(arm: usize, arms: usize) -> String {
    if arm == arms {
        AA.to_owned()
    } else {
        format!("arm-{arm}")
    }
}

fn base(size: usize) -> f64 {
    9_000.0 + 700.0 * 2f64.powi(i32::try_from(size).unwrap())
}

fn cost(arm: usize, arms: usize) -> f64 {
    if arm == arms {
        0.0
    } else {
        5_500.0 * arm as f64
    }
}

/// A long-tailed distribution about a median, and its encoding.
fn summary(median: f64, samples: u64, dice: &mut Dice) -> Summary {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 1 << 42, 3).unwrap();
    for _ in 0..samples {
        let tail = 1.0 / (1.0 - dice.next() * 0.999_95);
        let value = median * (0.86 + 0.2 * dice.next()) * tail.powf(0.12);
        histogram.saturating_record(value as u64);
    }
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(&histogram, &mut bytes)
        .unwrap();
    let at = |quantile| Some(histogram.value_at_quantile(quantile));
    Summary {
        count: samples,
        min_ns: Some(histogram.min()),
        mean_ns: Some(histogram.mean()),
        stdev_ns: Some(histogram.stdev()),
        p50_ns: at(0.5),
        p75_ns: at(0.75),
        p90_ns: at(0.9),
        p95_ns: at(0.95),
        p99_ns: at(0.99),
        p99_9_ns: at(0.999),
        p99_99_ns: at(0.9999),
        max_ns: Some(histogram.max()),
        hdr: base64(&bytes),
        ..Summary::default()
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn cell(arm: usize, step: usize, measure: &str, shape: Shape, dice: &mut Dice) -> Cell {
    let tail = if measure == "p99" { 2.0 } else { 1.0 };
    // The same for all arms, whose blocks share the baseline.
    let mut shared = Dice(step as u64);
    let blocks: Vec<CellBlock> = (1..=shape.blocks)
        .map(|block| {
            let baseline = tail * base(step) * (1.0 + 0.02 * shared.next());
            let own = cost(arm, shape.arms) * (1.0 + 0.05 * dice.next());
            CellBlock {
                block,
                baseline,
                value: baseline + tail * own + 60.0 * (dice.next() - 0.5),
            }
        })
        .collect();
    let over = |of: &dyn Fn(&CellBlock) -> f64| {
        let mut values: Vec<f64> = blocks.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let interval = (values[1], values[values.len() - 2]);
        Estimate {
            median: values[values.len() / 2],
            interval: Some(interval),
        }
    };
    let delta = over(&|block| block.value - block.baseline);
    let declared = arm < shape.arms;
    Cell {
        arm: name(arm, shape.arms),
        step: step as u64,
        measure: measure.into(),
        unit: "ns".into(),
        declared,
        baseline: Some(over(&|block| block.baseline).median),
        value: Some(over(&|block| block.value).median),
        delta: Some(delta),
        ratio: Some(over(&|block| block.value / block.baseline)),
        p: Some(0.000_488),
        p_adjusted: declared.then_some(0.0195),
        resolution: Some(tail * 40.0),
        detectable: Some(tail * 120.0),
        blocks_needed: 9,
        verdict: declared.then_some(Verdict::Slower),
        blocks,
        ..Cell::default()
    }
}

/// Arms `arm-0` (the baseline), `arm-1`, … and the A/A arm, each slower than the one before, at sizes from 64 bytes
/// upwards.
pub(crate) fn comparison(shape: Shape) -> Report {
    let mut dice = Dice(7);
    let mut report = fixtures::one_step();
    let template = report.results.remove(0);
    for arm in 0..=shape.arms {
        for size in 0..shape.sizes {
            let mut step = StepResult {
                arm: Some(name(arm, shape.arms)),
                intervals: Vec::new(),
                ..template.clone()
            };
            step.params.size_bytes = 64 << size;
            step.params.target = format!("10.0.0.{}:7117", arm + 1);
            let median = base(size) + cost(arm, shape.arms);
            step.latency.service = summary(median, 200_000, &mut dice);
            step.latency.path = None;
            report.results.push(step);
        }
    }
    let mut cells = Vec::new();
    for arm in 1..=shape.arms {
        for step in 0..shape.sizes {
            for measure in ["p50", "p99"] {
                cells.push(cell(arm, step, measure, shape, &mut dice));
            }
        }
    }
    report.kind = "compare".into();
    report.plan =
        json!({ "command_line": "tare compare arm-0=10.0.0.1:7117 arm-1=10.0.0.2:7117 -- lat" });
    report.comparison = Some(Box::new(Comparison {
        measured: "lat".into(),
        baseline: name(0, shape.arms),
        blocks_asked: shape.blocks,
        blocks_done: shape.blocks,
        block_duration_ns: 500_000_000,
        backend: "uring".into(),
        backend_reason: "the first that all ends have".into(),
        wait: "block".into(),
        arms: (0..=shape.arms)
            .map(|arm| Arm {
                name: name(arm, shape.arms),
                target: format!("10.0.0.{}:7117", arm + 1),
                instances: vec!["00c0ffee00c0ffee".into()],
                visits: 2 * shape.blocks,
                ..Arm::default()
            })
            .collect(),
        steps: shape.sizes as u64,
        blocks: (1..=shape.blocks)
            .map(|number| block(number, shape, &report))
            .collect(),
        cells,
        ..Comparison::default()
    }));
    report
}

/// A block whose visits carry histograms, as real ones do.
fn block(number: u64, shape: Shape, report: &Report) -> Block {
    let visit = |arm: usize| Visit {
        arm: name(arm, shape.arms),
        began_at: "2025-11-20T12:00:00Z".into(),
        steps: (0..shape.sizes)
            .map(|size| {
                let pooled = &report.results[arm * shape.sizes + size].latency.service;
                VisitStep {
                    step: size as u64,
                    duration_ns: 500_000_000,
                    completed: pooled.count / 24,
                    p50_ns: pooled.p50_ns,
                    p99_ns: pooled.p99_ns,
                    hdr: Some(pooled.hdr.clone()),
                    ..VisitStep::default()
                }
            })
            .collect(),
        error: None,
    };
    Block {
        number,
        whole: true,
        visits: (0..=shape.arms)
            .chain((0..=shape.arms).rev())
            .map(visit)
            .collect(),
    }
}
