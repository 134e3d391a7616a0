//! A page about two saved results, before a change and after it.

use tare_engine::analysis::later::{Change, Later};

use super::super::later::{self, Between};
use super::super::{Cells, NONE, plural};
use super::plot::{Axis, Plot, Span, rows};
use super::write::{Figures, facts, loud, note, section, table};
use super::{known, signed};

pub(crate) fn page(between: &Between<'_>) -> String {
    let later = between.later;
    let mut figures = Figures::default();
    let mut body = loud(&[later::caution(later)]);
    body.push_str(&facts(&[
        ("Before", between.told_of(between.before)),
        ("After", between.told_of(between.after)),
        ("Not compared", later.left_out.join("; ")),
    ]));
    for (side, report) in [("Before", between.before.1), ("After", between.after.1)] {
        if let Some(command) = report.plan["command_line"].as_str() {
            let command = super::write::text(command);
            body.push_str(&format!(
                "<p class=\"note\">{side}:</p>\n<pre><code>{command}</code></pre>\n"
            ));
        }
    }
    let parts = [
        (
            "changes",
            "What has changed",
            table("Before and after", &later::changes(later), 4),
        ),
        ("moved", "How far, and how sure", moved(later, &mut figures)),
        (
            "surroundings",
            "What else has changed",
            surroundings(between),
        ),
        (
            "assertions",
            "Assertions",
            super::assertions(between.assertions, "95 % interval"),
        ),
    ];
    let mut nav = Vec::new();
    for (id, heading, inner) in parts.into_iter().filter(|(_, _, inner)| !inner.is_empty()) {
        nav.push((id.to_owned(), heading.to_owned()));
        body.push_str(&section(id, 2, heading, &inner));
    }
    super::write::page(
        &format!("tare compare: {}, before and after", later.measured),
        &nav,
        &body,
    )
}

/// The intervals of the changes, a figure for each step and measure.
#[expect(clippy::cast_precision_loss, reason = "a few rows")]
fn moved(later: &Later, figures: &mut Figures) -> String {
    if !later.has_blocks {
        return String::new();
    }
    let mut groups: Vec<(String, Vec<&Change>)> = Vec::new();
    for change in &later.changes {
        let title = format!(
            "{}: {}",
            later::measure(change),
            super::step_name(&change.params)
        );
        match groups.iter_mut().find(|(name, _)| *name == title) {
            Some((_, changes)) => changes.push(change),
            None => groups.push((title, vec![change])),
        }
    }
    let mut out = String::new();
    for (title, changes) in groups {
        let told: Vec<_> = changes
            .iter()
            .filter(|change| !later::is_queue(change))
            .filter_map(|change| Some((*change, change.delta?)))
            .collect();
        let Some((first, _)) = told.first() else {
            continue;
        };
        let (unit, mut values, mut names, mut spans) =
            (first.unit.as_str(), vec![0.0], Vec::new(), Vec::new());
        let mut cells = Cells::new(&["", "change", "95 % interval", "verdict"]);
        for (index, (change, delta)) in told.iter().enumerate() {
            let name = later::subject(change);
            spans.push(Span {
                role: index,
                row: (told.len() - 1 - index) as f64,
                median: delta.median,
                interval: delta.interval,
            });
            values.push(delta.median);
            let ends = delta.interval.map(|(low, high)| [low, high]);
            values.extend(ends.into_iter().flatten());
            names.insert(0, name);
        }
        for change in changes {
            let delta = change.delta.filter(|_| !later::is_queue(change));
            cells.row(vec![
                later::subject(change),
                known(delta.map(|delta| delta.median), |value| signed(unit, value)),
                delta.map_or_else(|| NONE.to_owned(), |_| later::interval(change)),
                later::verdict(change),
            ]);
        }
        let plot = Plot {
            x: Axis::over("change", &values, &|value| signed(unit, value)),
            y: Axis::places("", &names),
            lines: Vec::new(),
            size: rows(names.len()),
            spans,
            band: None,
            zero: true,
        };
        let about = "How far each value has moved, with its interval. The table holds the numbers.";
        out.push_str(&figures.figure(&title, about, &plot, &[], &table(&title, &cells, 1)));
    }
    format!("<div class=\"grid\">\n{out}</div>\n")
}

fn surroundings(between: &Between<'_>) -> String {
    let cells = later::surroundings(between);
    let text = match cells.rows.len() {
        0 => "Nothing that both tell of their machines and ways of measuring is different."
            .to_owned(),
        count => format!(
            "{} not as before: any of it may stand in the differences above.",
            plural(count as u64, "thing")
        ),
    };
    if cells.rows.is_empty() {
        return note(&text);
    }
    note(&text) + &table("Machines and ways of measuring", &cells, 4)
}

#[cfg(test)]
mod tests {
    use tare_engine::analysis::later::compare;

    use super::*;
    use crate::report::NONE;
    use crate::report::html::fixture::{Shape, comparison};

    #[test]
    fn how_far_a_queue_has_moved_is_not_drawn() {
        let old = comparison(Shape {
            arms: 3,
            sizes: 2,
            blocks: 8,
        });
        let mut new = old.clone();
        let cells = &mut new.comparison.as_mut().unwrap().cells;
        let mut cells = cells.iter_mut();
        let cell = cells.find(|cell| cell.arm == "arm-1" && cell.step == 1);
        cell.expect("it is compared").overloaded = true;
        let later = compare(&old, &new).unwrap();
        let page = moved(&later, &mut Figures::default());
        let at = |size: &str| {
            let mut figures = page.split("<figure ");
            let figure = figures.find(|figure| figure.contains("p50: ") && figure.contains(size));
            let figure = figure.expect(size).split("</figure>").next().unwrap();
            figure.split_once("</svg>").expect("it is drawn")
        };
        let ((path, _), (queue, numbers)) = (at("64 B"), at("128 B"));
        assert!(path.contains("arm-1"), "{path}");
        // The drawing leaves it out, the numbers say why.
        assert!(
            !queue.contains("arm-1") && queue.contains("arm-2"),
            "{queue}"
        );
        assert!(
            numbers.contains(">arm-1<") && numbers.contains(">overload<"),
            "{numbers}"
        );
        let cells = later::changes(&later);
        let told = |row: &&Vec<String>| row.contains(&"overload".to_owned());
        let row = cells.rows.iter().find(told).expect("of arm-1");
        assert_eq!(row[6..8], [NONE, NONE], "no change, no interval: {row:?}");
    }
}
