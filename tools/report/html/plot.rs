//! Plots as SVG within the page.
//!
//! They are drawn in colours that stand for roles, which the page's style sheet replaces: so one drawing is read by light, in
//! the dark and on paper. Lines differ by their dashes and marks too, for print in grey and for eyes that see no such colours.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::element::{Drawable, PointCollection};
use plotters::prelude::*;
use plotters_backend::{BackendCoord, DrawingErrorKind};

use super::figures::{significant, trimmed};

/// Colours of lines in the style sheet.
const COLOURS: usize = 8;
/// Patterns of dashes in it, the unbroken line among them.
const DASHES: usize = 6;
/// Shapes of marks.
const SHAPES: usize = 5;

/// Colours of roles, as the style sheet knows them.
const AXIS: RGBColor = RGBColor(2, 0, 1);
const GRID: RGBColor = RGBColor(2, 0, 2);
const BAND: RGBColor = RGBColor(2, 0, 3);
const TEXT: RGBColor = RGBColor(2, 0, 4);
const ZERO: RGBColor = RGBColor(2, 0, 5);

const FONT: u32 = 30;
/// A letter is about so wide.
const LETTER: usize = 13;
/// The size of a drawing with a row for each of its values.
pub(super) fn rows(count: usize) -> (u32, u32) {
    const ROW: u32 = 44;
    const AROUND: u32 = 130;
    (840, AROUND + ROW * u32::try_from(count).unwrap_or(1).max(1))
}

/// Figures beyond this are no measurement, and would overflow the arithmetic of a drawing.
const FINITE_MAX: f64 = 1e18;
/// A range as wide as this, largest to smallest, is drawn on a logarithmic scale.
const WIDE: f64 = 12.0;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// An axis: what lies where on it.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    name: String,
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From the smallest to the largest of `values`: logarithmic where they are wide apart and `show` tells each.
    pub(super) fn over(name: &str, values: &[f64], show: &dyn Fn(f64) -> String) -> Self {
        let values = values.iter().copied().filter(|v| v.abs() < FINITE_MAX);
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        if low > 0.0 && high / low >= WIDE {
            return Self::logarithmic(name, low, high, show);
        }
        let room = ((high - low) * 0.06)
            .max(high.abs().max(low.abs()) * 1e-3)
            .max(1e-9);
        let (low, high) = (low - room, high + room);
        let step = round_step((high - low) / 5.0);
        let first = (low / step).ceil();
        let ticks = (0..12).map(|n| (first + f64::from(n)) * step);
        let ticks = ticks.take_while(|at| *at <= high);
        let ticks = ticks.map(|at| (at, show(at))).collect();
        Self {
            name: name.to_owned(),
            low,
            high,
            log: false,
            ticks,
        }
    }

    /// Plain numbers from `low` to `high`.
    pub(super) fn linear(name: &str, low: f64, high: f64) -> Self {
        let high = above(low, high);
        Self::stepped(name, (low, high), round_step((high - low) / 8.0))
    }

    /// Whole numbers that count something, from `low` to `high`.
    pub(super) fn counts(name: &str, low: f64, high: f64) -> Self {
        let high = above(low, high);
        Self::stepped(name, (low, high), round_step((high - low) / 12.0).max(1.0))
    }

    fn stepped(name: &str, (low, high): (f64, f64), step: f64) -> Self {
        let ticks = (0..=12).map(|n| low + step * f64::from(n));
        let ticks = ticks.take_while(|at| *at <= high * 1.001);
        Self {
            name: name.to_owned(),
            low,
            high,
            log: false,
            ticks: ticks
                .map(|at| (at, trimmed(&significant(at, 3)).to_owned()))
                .collect(),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "exponents below twenty")]
    fn logarithmic(name: &str, low: f64, high: f64, show: &dyn Fn(f64) -> String) -> Self {
        let (from, to) = (low.log10() - 0.04, high.log10() + 0.04);
        let decades = (from.floor() as i32)..=(to.ceil() as i32);
        let steps: &[f64] = match to - from {
            span if span < 2.0 => &[1.0, 2.0, 5.0],
            span if span < 4.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let ticks =
            decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        let ticks = ticks.filter(|v| (from..=to).contains(&v.log10()));
        Self {
            name: name.to_owned(),
            low: from,
            high: to,
            log: true,
            ticks: ticks.map(|v| (v.log10(), show(v))).collect(),
        }
    }

    /// Percentiles, each decade of what lies beyond as wide as the one before: of 1/(1-q), to p99.99.
    pub(super) fn percentiles() -> Self {
        let ticks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];
        Self {
            name: "percentile".to_owned(),
            low: 0.0,
            high: 4.05,
            log: false,
            ticks: ticks
                .map(|percent| (beyond(percent), format!("p{percent}")))
                .into(),
        }
    }

    /// Things one beside the other: the first at 0, the next at 1.
    #[expect(clippy::cast_precision_loss, reason = "a few rows")]
    pub(super) fn places(name: &str, names: &[String]) -> Self {
        let last = names.len().saturating_sub(1) as f64;
        Self {
            name: name.to_owned(),
            low: -0.6,
            high: last + 0.6,
            log: false,
            ticks: names
                .iter()
                .enumerate()
                .map(|(at, name)| (at as f64, short(name)))
                .collect(),
        }
    }

    /// Values that each have a tick, on a logarithmic scale.
    pub(super) fn steps(name: &str, values: &[(f64, String)]) -> Self {
        let at: Vec<f64> = values
            .iter()
            .map(|(value, _)| value.max(1e-9).log10())
            .collect();
        let low = at
            .iter()
            .copied()
            .fold(f64::INFINITY, f64::min)
            .min(FINITE_MAX);
        let high = at
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max)
            .max(low);
        let room = ((high - low) * 0.04).max(0.1);
        Self {
            name: name.to_owned(),
            low: low - room,
            high: high + room,
            log: true,
            ticks: at
                .into_iter()
                .zip(values.iter().map(|(_, name)| short(name)))
                .collect(),
        }
    }

    /// Where a value lies; none where it cannot.
    fn place(&self, value: f64) -> Option<f64> {
        let at = if self.log { value.log10() } else { value };
        (at.abs() < FINITE_MAX).then_some(at)
    }

    /// As it is drawn, with at most `most` ticks: evenly thinned out.
    fn scale(&self, most: usize) -> Scale {
        let every = self.ticks.len().div_ceil(most.max(1)).max(1);
        Scale {
            low: self.low,
            high: self.high,
            ticks: self.ticks.iter().step_by(every).cloned().collect(),
        }
    }
}

/// Where a percentile lies on [`Axis::percentiles`].
pub(super) fn beyond(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).max(1e-9).log10()
}

/// The end of an axis: `high`, where an axis can end there.
fn above(low: f64, high: f64) -> f64 {
    if high > low && high < FINITE_MAX {
        high
    } else {
        low + 1.0
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].map(|n| n * power);
    round
        .into_iter()
        .find(|round| *round >= step)
        .unwrap_or(step)
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

/// An axis as it is drawn: linear, with its ticks where they are told.
struct Scale {
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[expect(
        clippy::cast_possible_truncation,
        reason = "within the drawing, and a cast saturates"
    )]
    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        from + (share.clamp(-1.0, 2.0) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self
            .ticks
            .iter()
            .find(|(at, _)| at.total_cmp(value).is_eq());
        tick.map_or_else(String::new, |(_, name)| name.clone())
    }
}

/// Values of x and y.
pub(super) type Points = Vec<(f64, f64)>;

/// A line, with marks on some of its points.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Which of the lines it is, from zero: its colour, its dashes and its mark follow from that.
    pub(super) role: usize,
    pub(super) points: Points,
    pub(super) marks: Points,
}

/// A value with its interval, lying on a row of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) role: usize,
    pub(super) row: f64,
    pub(super) median: f64,
    pub(super) interval: Option<(f64, f64)>,
}

/// A drawing: two axes and what lies between them.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    pub(super) spans: Vec<Span>,
    /// A stretch of the x axis that is set off.
    pub(super) band: Option<(f64, f64)>,
    /// A line stands where x is zero.
    pub(super) zero: bool,
    /// In units of which a letter is about thirty high; the page scales it.
    pub(super) size: (u32, u32),
}

impl Plot {
    /// Lines between two axes.
    pub(super) fn lines(x: Axis, y: Axis, lines: Vec<Line>) -> Self {
        Self {
            x,
            y,
            lines,
            spans: Vec::new(),
            band: None,
            zero: false,
            size: (1280, 520),
        }
    }

    /// The drawing, with a title and a description for those who do not see it, both escaped already. None where it
    /// cannot be drawn.
    pub(super) fn svg(&self, id: &str, title: &str, about: &str) -> Option<String> {
        let mut drawn = String::new();
        {
            let area = SVGBackend::with_string(&mut drawn, self.size).into_drawing_area();
            self.draw(&area).ok()?;
            area.present().ok()?;
        }
        let open = format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\n\
             <title id=\"{id}-t\">{title}</title>\n<desc id=\"{id}-d\">{about}</desc>\n",
            self.size.0, self.size.1
        );
        Some(reopened(&drawn, &open))
    }

    fn draw(&self, area: &Area<'_>) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let (x, y) = (self.x.scale(self.size.0 as usize / 105), self.y.scale(40));
        let ticks = (x.ticks.len(), y.ticks.len());
        let letters = y.ticks.iter().map(|(_, name)| name.chars().count()).max();
        let style = ("sans-serif", FONT, &TEXT).into_text_style(area);
        let wide = u32::try_from(letters.unwrap_or(0) * LETTER).unwrap_or(self.size.0 / 2);
        let mut chart = ChartBuilder::on(area)
            .margin_top(14)
            .margin_right(48)
            .x_label_area_size(if self.x.name.is_empty() { 44 } else { 84 })
            .y_label_area_size(wide + if self.y.name.is_empty() { 24 } else { 64 })
            .build_cartesian_2d(x, y)?;
        if let Some((from, to)) = self.band {
            let ends = [
                (from.max(self.x.low), self.y.low),
                (to.min(self.x.high), self.y.high),
            ];
            chart.draw_series([Rectangle::new(ends, BAND.filled())])?;
        }
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .label_style(style.clone())
            .axis_desc_style(style)
            .x_labels(ticks.0)
            .y_labels(ticks.1)
            .x_desc(self.x.name.clone())
            .y_desc(self.y.name.clone())
            .draw()?;
        if self.zero && self.x.low < 0.0 && self.x.high > 0.0 {
            let ends = vec![(0.0, self.y.low), (0.0, self.y.high)];
            chart.draw_series([PathElement::new(ends, ZERO.stroke_width(2))])?;
        }
        for line in &self.lines {
            let placed = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
                let place = |&(x, y): &(f64, f64)| Some((self.x.place(x)?, self.y.place(y)?));
                points.iter().filter_map(place).collect()
            };
            let style = colour(line.role).stroke_width(4);
            chart.draw_series(LineSeries::new(placed(&line.points), style))?;
            let marks = placed(&line.marks);
            chart.draw_series(marks.into_iter().map(|at| Mark {
                at,
                role: line.role,
            }))?;
        }
        for span in &self.spans {
            let ends = span
                .interval
                .and_then(|(low, high)| Some((self.x.place(low)?, self.x.place(high)?)));
            if let Some((low, high)) = ends {
                let style = unbroken(span.role).stroke_width(5);
                let end = |x: f64| {
                    PathElement::new(vec![(x, span.row - 0.22), (x, span.row + 0.22)], style)
                };
                let whole = PathElement::new(vec![(low, span.row), (high, span.row)], style);
                chart.draw_series([whole, end(low), end(high)])?;
            }
            let at = self.x.place(span.median).map(|x| (x, span.row));
            chart.draw_series(at.into_iter().map(|at| Mark {
                at,
                role: span.role,
            }))?;
        }
        Ok(())
    }
}

/// The colour of a line, in which its dashes are told too.
#[expect(
    clippy::cast_possible_truncation,
    reason = "remainders of small numbers"
)]
fn colour(role: usize) -> RGBColor {
    // A line whose colour comes round again has other dashes.
    let dashes = (role + role / COLOURS) % DASHES;
    RGBColor(1, dashes as u8, (role % COLOURS) as u8)
}

/// The same without its dashes.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a remainder of a small number"
)]
fn unbroken(role: usize) -> RGBColor {
    RGBColor(1, 0, (role % COLOURS) as u8)
}

/// The mark of a line on one of its points.
struct Mark {
    at: (f64, f64),
    role: usize,
}

impl<'a> PointCollection<'a, (f64, f64)> for &'a Mark {
    type Point = &'a (f64, f64);
    type IntoIter = std::iter::Once<&'a (f64, f64)>;

    fn point_iter(self) -> Self::IntoIter {
        std::iter::once(&self.at)
    }
}

impl<DB: DrawingBackend> Drawable<DB> for Mark {
    fn draw<I: Iterator<Item = BackendCoord>>(
        &self,
        mut places: I,
        backend: &mut DB,
        _whole: (u32, u32),
    ) -> Result<(), DrawingErrorKind<DB::ErrorType>> {
        let Some((x, y)) = places.next() else {
            return Ok(());
        };
        let style = colour(self.role).filled();
        let corners: &[BackendCoord] = match self.role % SHAPES {
            0 => return backend.draw_circle((x, y), 8, &style, true),
            1 => &[(-7, -7), (7, -7), (7, 7), (-7, 7)],
            2 => &[(0, -10), (9, 7), (-9, 7)],
            3 => &[(0, 10), (9, -7), (-9, -7)],
            _ => &[(0, -10), (8, 0), (0, 10), (-8, 0)],
        };
        let corners = corners.iter().map(|(right, down)| (x + right, y + down));
        backend.fill_polygon(corners, &style)
    }
}

/// A line and its mark, as they stand beside its name.
pub(super) fn key(role: usize) -> String {
    const SIZE: (u32, u32) = (96, 30);
    let mut drawn = String::new();
    {
        let area = SVGBackend::with_string(&mut drawn, SIZE).into_drawing_area();
        let scale = |high| Scale {
            low: 0.0,
            high,
            ticks: Vec::new(),
        };
        let whole = (0..96, 0..30);
        let area = area.apply_coord_spec(Cartesian2d::<Scale, Scale>::new(
            scale(96.0),
            scale(30.0),
            whole,
        ));
        let line = PathElement::new(
            vec![(0.0, 15.0), (96.0, 15.0)],
            colour(role).stroke_width(4),
        );
        // In memory, between fixed bounds: nothing refuses it.
        let _ = area.draw(&line).and_then(|()| {
            area.draw(&Mark {
                at: (48.0, 15.0),
                role,
            })
        });
    }
    reopened(&drawn, "<svg viewBox=\"0 0 96 30\" aria-hidden=\"true\">")
}

/// A drawing under another opening tag, without what says nothing.
fn reopened(drawn: &str, open: &str) -> String {
    let body = drawn.split_once('>').map_or("", |(_, body)| body);
    let void = [
        " opacity=\"1\"",
        " stroke=\"none\"",
        " font-family=\"sans-serif\"",
        " stroke-width=\"1\"",
    ];
    let body = void
        .iter()
        .fold(body.to_owned(), |body, void| body.replace(void, ""));
    format!("{open}{body}")
}
