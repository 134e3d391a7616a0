//! Plots, drawn as SVG within the page.
//!
//! Lines have classes for their roles, whose colours the style sheet gives: so one drawing is read
//! by light, in the dark and on paper. They differ by dashes and marks too, for print in grey and
//! for eyes that see no such colours.

use maud::{Markup, html};

use super::numbers::{significant, trimmed};

const COLOURS: usize = 8;
/// Patterns of dashes in it, the unbroken line among them.
const DASHES: usize = 6;

/// A letter is about so wide, at the size of 30 that the style sheet has.
const LETTER: usize = 13;
/// Figures beyond this are no measurement, and would overflow the arithmetic of a drawing.
const FINITE_MAX: f64 = 1e18;
/// A range as wide as this, largest to smallest, is drawn on a logarithmic scale.
const WIDE: f64 = 12.0;

pub(super) struct Axis {
    name: String,
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    fn new(name: &str, (low, high): (f64, f64), ticks: Vec<(f64, String)>) -> Self {
        Self { name: name.to_owned(), low, high, log: false, ticks }
    }

    /// From the smallest to the largest of `values`: logarithmic where they are wide apart; `show`
    /// names a tick.
    pub(super) fn over(name: &str, values: &[f64], show: &dyn Fn(f64) -> String) -> Self {
        let (low, high) = ends(values.iter().copied()).unwrap_or((0.0, 1.0));
        if low > 0.0 && high / low >= WIDE {
            return Self::logarithmic(name, low, high, show);
        }
        let least = (high.abs().max(low.abs()) * 1e-3).max(1e-9);
        let room = ((high - low) * 0.06).max(least);
        let (low, high) = (low - room, high + room);
        let step = round_step((high - low) / 5.0);
        let first = (low / step).ceil();
        let ticks = (0..12).map(|n| (first + f64::from(n)) * step);
        let ticks = ticks.take_while(|at| *at <= high).map(|at| (at, show(at)));
        Self::new(name, (low, high), ticks.collect())
    }

    /// Plain numbers from `low` to `high`, at most some `ticks` of them named, or whole ones only.
    pub(super) fn linear(name: &str, low: f64, high: f64, ticks: f64, is_whole: bool) -> Self {
        let high = if high > low && high < FINITE_MAX { high } else { low + 1.0 };
        let step = round_step((high - low) / ticks).max(if is_whole { 1.0 } else { 0.0 });
        let ticks = (0..=12).map(|n| low + step * f64::from(n));
        let ticks = ticks.take_while(|at| *at <= high * 1.001);
        let ticks = ticks.map(|at| (at, trimmed(&significant(at, 3)).to_owned()));
        Self::new(name, (low, high), ticks.collect())
    }

    fn logarithmic(name: &str, low: f64, high: f64, show: &dyn Fn(f64) -> String) -> Self {
        let (from, to) = (low.log10() - 0.04, high.log10() + 0.04);
        let steps: &[f64] = match to - from {
            span if span < 2.0 => &[1.0, 2.0, 5.0],
            span if span < 4.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let decades = (from.floor() as i32)..=(to.ceil() as i32);
        let ticks = decades.flat_map(|at| steps.iter().map(move |step| step * 10f64.powi(at)));
        let ticks = ticks.filter(|v| (from..=to).contains(&v.log10()));
        let ticks = ticks.map(|v| (v.log10(), show(v))).collect();
        Self { log: true, ..Self::new(name, (from, to), ticks) }
    }

    /// Percentiles, each decade of what lies beyond as wide as the one before: of 1/(1-q), to
    /// p99.99.
    pub(super) fn percentiles() -> Self {
        let ticks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];
        let ticks = ticks.map(|percent| (beyond(percent), format!("p{percent}")));
        Self::new("percentile", (0.0, 4.05), ticks.into())
    }

    /// Things one beside the other: the first at 0, the next at 1.
    pub(super) fn places(name: &str, names: &[String]) -> Self {
        let last = names.len().saturating_sub(1) as f64;
        let ticks = names.iter().enumerate().map(|(at, name)| (at as f64, short(name)));
        Self::new(name, (-0.6, last + 0.6), ticks.collect())
    }

    /// Values that each have a tick, on a logarithmic scale.
    pub(super) fn steps(name: &str, values: &[(f64, String)]) -> Self {
        let at = |value: f64| value.max(1e-9).log10();
        let (low, high) = ends(values.iter().map(|v| at(v.0))).unwrap_or((0.0, 1.0));
        let room = ((high - low) * 0.04).max(0.1);
        let ticks = values.iter().map(|(value, name)| (at(*value), short(name)));
        Self { log: true, ..Self::new(name, (low - room, high + room), ticks.collect()) }
    }

    fn place(&self, value: f64) -> Option<f64> {
        let at = if self.log { value.log10() } else { value };
        (at.abs() < FINITE_MAX).then_some(at)
    }

    fn scale(&self, from: f64, to: f64) -> impl Fn(f64) -> f64 {
        let (low, length) = (self.low, self.high - self.low);
        move |at| rounded(from + ((at - low) / length).clamp(-1.0, 2.0) * (to - from))
    }

    fn thinned(&self, most: usize) -> impl Iterator<Item = &(f64, String)> {
        let every = self.ticks.len().div_ceil(most.max(1)).max(1);
        self.ticks.iter().step_by(every)
    }
}

/// Where a percentile lies on [`Axis::percentiles`].
pub(super) fn beyond(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).max(1e-9).log10()
}

/// The smallest and the largest of the values that are measurements.
fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let found = values.filter(|v| v.abs() < FINITE_MAX).map(|v| (v, v));
    found.reduce(|(low, high), (v, _)| (low.min(v), high.max(v)))
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].map(|n| n * power);
    round.into_iter().find(|round| *round >= step).unwrap_or(step)
}

/// A name that fits beside an axis.
fn short(name: &str) -> String {
    const LONGEST: usize = 20;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    let kept: String = name.chars().take(LONGEST - 1).collect();
    format!("{kept}…")
}

pub(super) type Points = Vec<(f64, f64)>;

pub(super) struct Line {
    /// Which of the lines it is, from zero: its colour, its dashes and its mark follow from that.
    pub(super) role: usize,
    /// Empty where it is the only one.
    pub(super) name: String,
    pub(super) points: Points,
    pub(super) marks: Points,
}

impl Line {
    pub(super) fn marked(role: usize, name: impl Into<String>, points: Points) -> Self {
        Self { role, name: name.into(), marks: points.clone(), points }
    }
}

/// A value with its interval, on a row of its own.
pub(super) struct Span {
    pub(super) role: usize,
    pub(super) row: f64,
    pub(super) median: f64,
    pub(super) interval: Option<(f64, f64)>,
}

pub(super) struct Plot {
    x: Axis,
    y: Axis,
    pub(super) lines: Vec<Line>,
    spans: Vec<Span>,
    /// A stretch of the x axis that is set off.
    band: Option<(f64, f64)>,
    /// In units of which a letter is about thirty high; the page scales it.
    pub(super) size: (u32, u32),
}

/// To a tenth of a unit: more digits would only make the page larger.
fn rounded(at: f64) -> f64 {
    (at * 10.0).round() / 10.0
}

impl Plot {
    pub(super) const fn lines(x: Axis, y: Axis, lines: Vec<Line>) -> Self {
        Self { x, y, lines, spans: Vec::new(), band: None, size: (1280, 520) }
    }

    /// A row for each of the spans, with a line at zero and, where it is known, the band around it.
    pub(super) fn spans(x: Axis, names: &[String], spans: Vec<Span>, band: Option<f64>) -> Self {
        const ROW: u32 = 44;
        const AROUND: u32 = 130;
        let rows = u32::try_from(names.len()).unwrap_or(1).max(1);
        let (y, size) = (Axis::places("", names), (840, AROUND + ROW * rows));
        let band = band.map(|width| (-width, width));
        Self { spans, band, size, ..Self::lines(x, y, Vec::new()) }
    }

    /// The drawing, with a title and a description for those who do not see it.
    pub(super) fn svg(&self, id: &str, title: &str, about: &str) -> Markup {
        let (width, height) = (f64::from(self.size.0), f64::from(self.size.1));
        let letters = self.y.ticks.iter().map(|(_, name)| name.chars().count()).max();
        let names = (letters.unwrap_or(0) * LETTER) as f64;
        let left = names + if self.y.name.is_empty() { 24.0 } else { 64.0 };
        let bottom = height - if self.x.name.is_empty() { 44.0 } else { 84.0 };
        let (right, top) = (width - 48.0, 14.0);
        let middle = f64::midpoint(top, bottom);
        let (x_of, y_of) = (self.x.scale(left, right), self.y.scale(bottom, top));
        let placed = |values: &[(f64, f64)]| -> Points {
            let places = values.iter();
            let places = places.filter_map(|(x, y)| Some((self.x.place(*x)?, self.y.place(*y)?)));
            places.map(|(x, y)| (x_of(x), y_of(y))).collect()
        };
        html! {
            svg viewBox={ "0 0 " (width) " " (height) } role="img"
                aria-labelledby={ (id) "-t " (id) "-d" } {
                title id={ (id) "-t" } { (title) }
                desc id={ (id) "-d" } { (about) }
                @if let Some((from, to)) = self.band {
                    @let (from, to) = (x_of(from.max(self.x.low)), x_of(to.min(self.x.high)));
                    rect class="band" x=(from) y=(top) width=(rounded((to - from).max(0.0)))
                        height=(bottom - top) {}
                }
                @for (at, name) in self.x.thinned(self.size.0 as usize / 105) {
                    @let x = x_of(*at);
                    path class="grid" d={ "M" (x) " " (top) "V" (bottom) } {}
                    text x=(x) y=(bottom + 32.0) text-anchor="middle" { (name) }
                }
                @for (at, name) in self.y.thinned(40) {
                    @let y = y_of(*at);
                    path class="grid" d={ "M" (left) " " (y) "H" (right) } {}
                    text x=(left - 10.0) y=(y + 10.0) text-anchor="end" { (name) }
                }
                path class="axis" d={ "M" (left) " " (top) "V" (bottom) "H" (right) } {}
                @if !self.x.name.is_empty() {
                    text x=(f64::midpoint(left, right)) y=(height - 12.0) text-anchor="middle" {
                        (self.x.name)
                    }
                }
                @if !self.y.name.is_empty() {
                    text x="30" y=(middle) text-anchor="middle"
                        transform={ "rotate(-90 30 " (middle) ")" } { (self.y.name) }
                }
                @if !self.spans.is_empty() && self.x.low < 0.0 && self.x.high > 0.0 {
                    path class="zero" d={ "M" (x_of(0.0)) " " (top) "V" (bottom) } {}
                }
                @for line in &self.lines {
                    (stroke(line.role, &placed(&line.points)))
                    @for at in placed(&line.marks) { (mark(line.role, at)) }
                }
                @for span in &self.spans {
                    @let place = |value| self.x.place(value).map(&x_of);
                    @let (row, above, below) =
                        (y_of(span.row), y_of(span.row + 0.22), y_of(span.row - 0.22));
                    @let ends = span.interval.and_then(|(low, high)| place(low).zip(place(high)));
                    @if let Some((low, high)) = ends {
                        path class={ "l s" (span.role % COLOURS) } d={
                            "M" (low) " " (row) "H" (high) "M" (low) " " (above) "V" (below)
                            "M" (high) " " (above) "V" (below)
                        } {}
                    }
                    @if let Some(at) = place(span.median) { (mark(span.role, (at, row))) }
                }
            }
        }
    }
}

/// A line. One whose colour comes round again has other dashes.
fn stroke(role: usize, points: &[(f64, f64)]) -> Markup {
    let class = format!("l s{} d{}", role % COLOURS, (role + role / COLOURS) % DASHES);
    let points = points.iter().enumerate().map(|(index, (x, y))| {
        let step = if index == 0 { "M" } else { "L" };
        format!("{step}{x} {y}")
    });
    html! { path class=(class) d=(points.collect::<String>()) {} }
}

fn mark(role: usize, (x, y): (f64, f64)) -> Markup {
    let shape = [
        "m-8 0a8 8 0 1 0 16 0a8 8 0 1 0 -16 0z",
        "m-7 -7h14v14h-14z",
        "m0 -10l9 17h-18z",
        "m0 10l9 -17h-18z",
        "m0 -10l8 10l-8 10l-8 -10z",
    ];
    let shape = shape[role % shape.len()];
    html! {
        path class={ "m s" (role % COLOURS) } d={ "M" (rounded(x)) " " (rounded(y)) (shape) } {}
    }
}

/// A line and its mark, as they are beside its name.
pub(super) fn key(role: usize) -> Markup {
    html! {
        svg viewBox="0 0 96 30" aria-hidden="true" {
            (stroke(role, &[(0.0, 15.0), (96.0, 15.0)]))
            (mark(role, (48.0, 15.0)))
        }
    }
}
