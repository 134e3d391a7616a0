//! What only comparisons have: the blocks that were measured, and the differences that they show.

use serde::{Deserialize, Serialize};

/// The name of the arm that visits the baseline's target a second time in each pass of a block, and
/// so shows what the experiment takes for a difference where there is none. No arm can be given it:
/// names hold no `/`.
pub const AA: &str = "a/a";

/// A comparison of several paths by blocks. In each block all arms are visited in a random order
/// and then in the reverse one, each visit on fresh connections.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Comparison {
    /// What each visit measured: `lat`, `bw` or `http`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["lat", "bw", "http"])))]
    pub measured: String,
    /// The name of the arm that the others are compared with.
    pub baseline: String,
    /// Blocks asked for.
    pub blocks_asked: u64,
    /// Blocks in which every arm was measured in both passes.
    pub blocks_done: u64,
    /// Length of a step's measured phase within a visit, nanoseconds.
    pub block_duration_ns: u64,
    /// Rest after each hook, nanoseconds.
    pub settle_ns: u64,
    /// The backend that every end was made to use, and why that one.
    pub backend: String,
    /// In words: what it was chosen from.
    pub backend_reason: String,
    /// How every end was made to wait: `spin`, `block`, `hybrid`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["spin", "block", "hybrid"])))]
    pub wait: String,
    /// In words: what it was chosen from.
    pub wait_reason: String,
    /// The arms: the baseline, the others as given, and [`AA`] last.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub arms: Vec<Arm>,
    /// Steps of the sweep that each visit goes through; `results` of the report are arm by arm, in
    /// the order of `arms`, and step by step.
    pub steps: u64,
    /// The blocks, those among them in which a visit failed or that were cut short; for the former
    /// others were made up.
    pub blocks: Vec<Block>,
    /// What the blocks show: a cell for each arm but the baseline, step and measure.
    pub cells: Vec<Cell>,
}

/// One of the paths.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// Against what, as typed.
    pub target: String,
    /// Options that only this arm has, secrets redacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<String>,
    /// The command run before each visit: its first word and the beginning of its SHA-256, or all
    /// of it with --record-hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The command run after each visit, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The distinct server instances that answered, in all visits.
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = super::INSTANCE))))]
    pub instances: Vec<String>,
    /// Visits that measured every step.
    pub visits: u64,
    /// Why it was given up, if it was; its blocks until then are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// A block: each arm visited twice.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Block {
    /// Its number, from 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub number: u64,
    /// Every arm was measured in both passes.
    pub whole: bool,
    /// The visits in the order in which they took place.
    pub visits: Vec<Visit>,
}

/// One arm measured once, all steps of the sweep.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Visit {
    /// The arm's name.
    pub arm: String,
    /// When it began, RFC 3339 by the wall clock.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = super::TIME)))]
    pub began_at: String,
    /// The steps, in order; fewer than asked for where it failed.
    pub steps: Vec<VisitStep>,
    /// Why it measured less than it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a step of a visit came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VisitStep {
    /// Which step of the sweep, from 0.
    pub step: u64,
    /// Length of the measured phase, nanoseconds.
    pub duration_ns: u64,
    /// Operations answered as expected in it.
    pub completed: u64,
    /// Operations failed and timed out in it.
    pub errors: u64,
    /// Operations answered as expected, per second; of HTTP the goodput.
    pub achieved_per_s: f64,
    /// Payload received, bits per second; bulk only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_s: Option<f64>,
    /// Median of the headline latency (response time in open loop, service time otherwise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ns: Option<u64>,
    /// 90th percentile of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p90_ns: Option<u64>,
    /// 99th percentile of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ns: Option<u64>,
    /// 99.9th percentile of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_9_ns: Option<u64>,
    /// Largest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ns: Option<u64>,
    /// Median of the server's residence time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residence_p50_ns: Option<u64>,
    /// Open loop at one rate, from 20 samples on: the median response time in the first third of
    /// the measured phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_first_ns: Option<u64>,
    /// Open loop at one rate: the same of the last third. If it is longer in most blocks, a queue
    /// grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_last_ns: Option<u64>,
    /// The headline latencies as a histogram: base64 of the HdrHistogram V2 compressed encoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hdr: Option<String>,
    /// The target rate was not reached: what was measured is the queue, not the path.
    pub overloaded: bool,
    /// The run's own instrument says that it was disturbed.
    pub disturbed: bool,
}

/// One comparison: an arm against the baseline, of one step and one measure.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cell {
    /// The arm's name.
    pub arm: String,
    /// Which step of the sweep, from 0.
    pub step: u64,
    /// `p50`, `p99_9`, …, `bandwidth`, `goodput`.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = super::MEASURE)))]
    pub measure: String,
    /// `ns`, `bit/s` or `1/s`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["ns", "bit/s", "1/s"])))]
    pub unit: String,
    /// A verdict is given over it, and the others' share in the error is taken into account. [`AA`]
    /// is never declared.
    pub declared: bool,
    /// One of its ends was overloaded in most blocks, or in most of them its queue grew: latencies
    /// are those of a queue.
    pub overloaded: bool,
    /// The baseline's median over the blocks.
    pub baseline: Option<f64>,
    /// The arm's median over the blocks.
    pub value: Option<f64>,
    /// How far the instrument alone can shift the difference, either way: half a look of a spinning
    /// client, and the width of the histogram's bins. Both ends of the intervals of `delta` and
    /// `ratio` stand off by it. Absent of what has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub instrument_error: Option<f64>,
    /// Median over the blocks of the arm's value less the baseline's, with its interval.
    pub delta: Option<Estimate>,
    /// Median over the blocks of the arm's value over the baseline's, with its interval.
    pub ratio: Option<Estimate>,
    /// Two-sided p of the sign test over the blocks.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub p: Option<f64>,
    /// The same after Holm's correction over the declared cells; absent where it is not one.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub p_adjusted: Option<f64>,
    /// What the same path shows against itself: the largest difference that the A/A cell's interval
    /// allows.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub resolution: Option<f64>,
    /// Told before the run: the difference that so many blocks find in four runs of five.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub detectable: Option<f64>,
    /// Blocks that it takes for a verdict over so many cells.
    pub blocks_needed: u64,
    /// The verdict; absent of cells that are not declared.
    pub verdict: Option<Verdict>,
    /// The blocks that it rests on.
    pub blocks: Vec<CellBlock>,
}

/// A median over blocks.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Its 95 % interval, by order statistics; absent with fewer than six blocks.
    pub interval: Option<(f64, f64)>,
}

/// What a block says of a cell: both passes of an arm pooled.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CellBlock {
    /// The block's number.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub block: u64,
    /// The baseline's value.
    pub baseline: f64,
    /// The arm's.
    pub value: f64,
}

/// What the blocks say of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Verdict {
    /// The arm is slower: longer latencies, or less bandwidth or goodput.
    #[serde(rename = "slower")]
    Slower,
    /// The arm is faster.
    #[serde(rename = "faster")]
    Faster,
    /// There may be one all the same, smaller than this experiment shows.
    #[serde(rename = "no difference shown")]
    NoDifferenceShown,
    /// Even if all blocks agreed it would not be enough for so many cells.
    #[serde(rename = "not enough blocks")]
    NotEnoughBlocks,
    /// A latency under overload is a queue's, not the path's: compare the goodput.
    #[serde(rename = "overload")]
    Overload,
}

impl Verdict {
    /// As it is printed and serialised.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::NoDifferenceShown => "no difference shown",
            Self::NotEnoughBlocks => "not enough blocks",
            Self::Overload => "overload",
        }
    }
}
