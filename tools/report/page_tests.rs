//! Pages: that they stand alone, hold every number, and let nothing of a file become markup.

use std::time::{Duration, Instant};

use tare_stats::result::{AA, Report, Verdict};
use tare_units::Nanos;

use super::fixtures::compare::{comparison, failed_arm, few_blocks, large, overload};
use super::fixtures::holds;
use super::numbers::{NONE, shown, signed};
use super::{Format, PERCENTILES, fixtures, page, render};

fn small() -> Report {
    large(3, 2, 8)
}

fn html(report: &Report) -> String {
    render(Format::Html, report, &PERCENTILES)
}

/// The tags of a page in order, each with its attributes; panics where one is not closed as it must
/// be.
fn tags(page: &str) -> Vec<&str> {
    const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
    let (mut found, mut open, mut rest) = (Vec::new(), Vec::new(), page);
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').expect("a tag is closed") + at;
        let tag = &rest[at + 1..end];
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(
                open.pop(),
                Some(name),
                "before {}",
                &page[page.len() - rest.len() + at..][..60]
            );
        } else if !VOID.contains(&name) && !tag.ends_with('/') {
            open.push(name);
        }
        found.push(tag);
        rest = &rest[end + 1..];
        if name == "style" && !tag.starts_with('/') {
            let end = rest.find("</style>").expect("styles end");
            assert!(!rest[..end].contains('<'));
            rest = &rest[end..];
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    found
}

/// What is behind `open`, up to `close`.
#[track_caller]
fn inside<'a>(page: &'a str, open: &str, close: &str) -> &'a str {
    page.split_once(open).expect(open).1.split(close).next().unwrap()
}

/// Everything that is there to be read, tags and styles taken off.
fn words(page: &str) -> String {
    let body = &page[page.find("</style>").unwrap()..];
    let mut text = String::new();
    for piece in body.split('<').skip(1) {
        text.push_str(piece.split_once('>').map_or("", |(_, text)| text));
        text.push(' ');
    }
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

#[test]
fn every_result_is_a_page_that_stands_alone() {
    let mut reports = fixtures::all();
    reports.push(("compare", small()));
    for (name, report) in reports {
        let page = html(&report);
        assert!(
            page.starts_with("<!DOCTYPE html><html lang=\"en\">") && page.ends_with("</html>\n"),
            "{name}"
        );
        let mut ids: Vec<&str> = Vec::new();
        for tag in tags(&page) {
            let element = tag.split([' ', '\n']).next().unwrap();
            let known = "script link iframe img object embed base form image use";
            assert!(!known.split(' ').any(|one| one == element), "{name}: <{tag}>");
            for attribute in ["src=", "srcset=", "xlink", "style=", "url("] {
                assert!(!tag.contains(attribute), "{name}: <{tag}>");
            }
            if let Some((_, href)) = tag.split_once("href=\"") {
                assert!(href.starts_with('#'), "{name}: <{tag}>");
            }
            let id = tag.split_once(" id=\"").map(|(_, id)| id.split('"').next().unwrap());
            assert!(id.is_none_or(|id| !ids.contains(&id)), "{name}: {tag}");
            ids.extend(id);
        }
        assert!(page.contains("default-src 'none'; style-src 'unsafe-inline'"));
        assert!(!page.contains("@import") && !page.contains("url("), "{name}");
        for link in page.split("href=\"#").skip(1) {
            let to = link.split('"').next().unwrap();
            assert!(ids.contains(&to), "{name}: a link to {to}, which is not there");
        }
        for labels in page.split("aria-labelledby=\"").skip(1) {
            for label in labels.split('"').next().unwrap().split(' ') {
                assert!(ids.contains(&label), "{name}: no {label}");
            }
        }
    }
}

#[test]
fn every_figure_can_be_reached_and_has_its_numbers_beside_it() {
    let page = html(&small());
    let figures: Vec<&str> = page.split("<figure ").skip(1).collect();
    // A curve a size, a difference a size and measure, the blocks of each, and a sweep a measure.
    assert_eq!(figures.len(), 2 + 4 + 4 + 2);
    for figure in figures {
        let figure = figure.split("</figure>").next().unwrap();
        assert!(figure.starts_with("tabindex=\"0\" aria-label="), "{figure}");
        holds(figure, "role=\"img\"|<title |<desc |<summary>The numbers</summary>|<tbody><tr>");
    }
}

#[test]
fn every_number_of_a_comparison_is_in_a_table() {
    let report = small();
    let page = html(&report);
    let text = words(&page);
    let comparison = report.comparison.as_ref().unwrap();
    let mut numbers = vec![comparison.baseline.clone(), AA.to_owned()];
    for cell in &comparison.cells {
        let delta = cell.delta.unwrap();
        let (low, high) = delta.interval.unwrap();
        numbers.push(signed("ns", delta.median));
        numbers.push(format!("{} to {}", signed("ns", low), signed("ns", high)));
        numbers.push(format!("± {}", shown("ns", cell.resolution.unwrap())));
        numbers.extend(cell.p_adjusted.map(|p| shown("", p)));
        numbers.extend(cell.verdict.map(|verdict| verdict.name().to_owned()));
        for block in &cell.blocks {
            numbers.push(shown("ns", block.value));
            numbers.push(shown("ns", block.baseline));
        }
    }
    for step in &report.results {
        let service = &step.latency.service;
        numbers.push(Nanos(service.p99_99_ns.unwrap()).to_string());
        numbers.push(Nanos(service.max_ns.unwrap()).to_string());
    }
    for number in numbers {
        assert!(text.contains(&format!(" {number} ")), "{number}");
    }
    holds(&text, "64 B|128 B|tare compare arm-0=10.0.0.1:7117|no difference");
    holds(&text, "uring (the first that all ends have)");
}

#[test]
fn every_number_of_a_plain_result_is_there() {
    let text = |report: &Report| words(&html(report));
    let sweep = "9 µs|11 µs|620 µs|4 KiB|1 MiB|size=64|FAILS|cannot tell|540,000|Latency by size";
    holds(&text(&fixtures::sweep()), sweep);
    holds(&text(&fixtures::bulk::both()), "Gbit/s|Over time");
    holds(&text(&fixtures::http::breaker()), "511|Status codes");
    let partial = "PARTIAL|powersave|SATURATED: its busiest worker|steal 12 ms";
    holds(&text(&fixtures::partial()), partial);
    let rests_on = "tare compare of lat: loopback (baseline) against veth|ECONNRESET in receive × 2|\
                    8 of 8 whole, 48 visits, of which 5 disturbed|Holm's correction|+11.2 µs [";
    holds(&text(&comparison()), rests_on);
    holds(&text(&few_blocks()), "200 ms to settle after each hook");
    let mut nothing = fixtures::one_step();
    nothing.results.clear();
    holds(&html(&nothing), "The machines");
    let page = html(&failed_arm());
    let loud = inside(&page, "class=\"loud\"", "</div>");
    let given_up = "PARTIAL: 2 of 12 blocks were measured in every arm|\
                    FAILED: kata was given up: the server closed the connection; \
                    its 4 visits until then are kept.";
    holds(loud, given_up);
}

#[test]
fn overloaded_paths_have_no_difference() {
    let report = overload();
    let page = html(&report);
    let text = words(&page);
    let cells = &report.comparison.as_ref().unwrap().cells;
    let queues = cells.iter().filter(|cell| cell.verdict == Some(Verdict::Overload));
    assert_eq!(queues.clone().count(), 2);
    for cell in queues {
        let delta = cell.delta.unwrap();
        let median = signed("ns", delta.median);
        assert!(!text.contains(&median), "{median}");
        let (low, high) = delta.interval.unwrap();
        for end in [low, high] {
            assert!(!text.contains(&signed("ns", end)), "{end}");
        }
        // What was measured is there all the same.
        let value = shown("ns", cell.value.unwrap());
        assert!(text.contains(&value), "{value}");
    }
    let rows: Vec<&str> = page.split("<tr>").collect();
    let row = rows.iter().find(|row| row.contains(">overload<") && row.contains(">tuned<"));
    assert_eq!(row.expect("a row of it").matches(">–<").count(), 7);
    // The differences, the sweep, the percentiles and the blocks.
    let overload = "OVERLOAD: the rate asked for was not reached, or a queue grew";
    assert_eq!(text.matches(overload).count(), 4);
    assert!(text.contains("of a queue and not of the path: tuned at stage 3, 20,000/s."));
    // The other arm's figures at the same step stay.
    let figure = inside(&page, "<figcaption>p50: stage 3, 20,000/s</figcaption>", "</figure>");
    assert!(figure.contains(">a/a<") && figure.contains(">overload<"), "{figure}");
    assert!(!html(&comparison()).contains("OVERLOAD"));
}

#[test]
fn what_was_observed_is_there() {
    let seen = fixtures::observed();
    let mut compared = small();
    for (to, from) in compared.results.iter_mut().zip(&seen.results) {
        to.observed.clone_from(&from.observed);
    }
    for (report, arm) in [(&seen, ""), (&compared, "arm-0: ")] {
        let page = html(report);
        assert!(page.contains("<section id=\"r1-observed\""));
        let text = words(&page);
        let parts = "Observed on this host|cgroup:docker/0a1b × 3|0.97 of 1|123,456|\
                     340 ms in 12 of 50 periods|db: there is no process 4711";
        holds(&text, parts);
        holds(&text, &format!("{arm}tcp, 64 B, 1 connection"));
    }
    assert!(words(&html(&seen)).contains("48 % busy (soft interrupts 12 %)"));
    assert!(!html(&fixtures::sweep()).contains("Observed on this host"));
}

#[test]
fn blocks_are_counted_in_whole_numbers() {
    let page = html(&comparison());
    let blocks = inside(&page, "id=\"r1-blocks\"", "</body>");
    let figure = inside(blocks, "role=\"img\"", "</svg>");
    let labels = figure.split("</text>").filter_map(|text| text.rsplit('>').next());
    let labels: Vec<&str> = labels.map(str::trim).collect();
    for number in 1..=8 {
        assert!(labels.contains(&number.to_string().as_str()), "{labels:?}");
    }
    assert!(!labels.iter().any(|label| label.ends_with(".00")), "{labels:?}");
}

#[test]
fn an_arm_that_was_given_up_leaves_the_baseline_its_blocks() {
    let mut report = failed_arm();
    let inner = report.comparison.as_mut().unwrap();
    inner.cells.sort_by_key(|cell| cell.arm != "kata");
    let fewest = inner.cells[0].blocks.len();
    let all = inner.cells.iter().map(|cell| cell.blocks.len()).max();
    assert!(Some(fewest) < all);
    let page = html(&report);
    let blocks = inside(&page, "id=\"r1-blocks\"", "</body>");
    let rows = inside(blocks, "<tbody>", "</tbody>").split("</tr>");
    // The second column is the baseline's.
    let known = rows.filter_map(|row| row.split("<td>").nth(1));
    let known = known.filter(|cell| !cell.contains(NONE));
    assert_eq!(Some(known.count()), all);
}

#[test]
fn an_arm_has_one_line_in_all_figures() {
    let mut report = small();
    report.results.retain(|step| step.arm.as_deref() != Some("arm-1"));
    let page = html(&report);
    let key = |behind: &str| {
        let page = inside(&page, behind, "</body>");
        let key = page.split("<li>").find(|key| key.contains("arm-2")).expect("a key");
        key.split("</ul>").next().unwrap().trim()
    };
    let percentiles = key("<figcaption>Latency by percentile</figcaption>");
    assert_eq!(percentiles, key("id=\"r1-blocks\""));
}

#[test]
fn nothing_of_a_file_becomes_markup() {
    const EVIL: &str =
        "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\u{202e}\u{1b}[2J";
    let report = small();
    let mut value = serde_json::to_value(&report).unwrap();
    let mut names = 0;
    poison(&mut value, &mut names, EVIL);
    assert!(names > 200, "{names}");
    let mut evil: Report = serde_json::from_value(value).unwrap();
    evil.warnings = fixtures::partial().warnings;
    evil.warnings[0].message = EVIL.into();
    evil.assertions = fixtures::sweep().assertions;
    evil.assertions[0].expr = EVIL.into();
    for page in [html(&evil), page(&[(EVIL.into(), &evil), ("b".into(), &evil)], &PERCENTILES)] {
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains('\u{1b}') && !page.contains('\u{202e}'));
        for tag in tags(&page) {
            let element = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap();
            assert!(!["script", "img"].contains(&element), "<{tag}>");
            // What stands in an attribute stays in it.
            assert!(
                !tag.contains("onerror=alert(1)>") && tag.matches('"').count() % 2 == 0,
                "<{tag}>"
            );
        }
    }
    let mut plain = fixtures::http::breaker();
    let mut value = serde_json::to_value(&plain).unwrap();
    poison(&mut value, &mut names, EVIL);
    plain = serde_json::from_value(value).unwrap();
    assert!(
        tags(&html(&plain)).iter().all(|tag| !tag.starts_with("script") && !tag.starts_with("img"))
    );
}

/// Puts `evil` into every string that is free, arms' names the same everywhere.
fn poison(value: &mut serde_json::Value, names: &mut u32, evil: &str) {
    use serde_json::Value;
    match value {
        Value::String(text) if text == "bw" || text == "http" => {}
        Value::String(text) => {
            *names += 1;
            text.push_str(evil);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| poison(item, names, evil)),
        Value::Object(fields) => {
            let keep = ["kind", "measure", "unit", "schema", "hdr", "step", "verdict"];
            let free = fields.iter_mut().filter(|(name, _)| !keep.contains(&name.as_str()));
            free.for_each(|(_, field)| poison(field, names, evil));
        }
        _ => {}
    }
}

#[test]
fn figures_that_are_no_measurement_are_no_harm() {
    let mut report = small();
    let odd = [f64::MAX, -f64::MAX, 0.0, f64::MIN_POSITIVE];
    let inner = report.comparison.as_mut().unwrap();
    for (cell, odd) in inner.cells.iter_mut().zip(odd.into_iter().cycle()) {
        for block in &mut cell.blocks {
            (block.block, block.value) = (u64::MAX, odd);
        }
        cell.step = if odd == 0.0 { u64::MAX } else { cell.step };
        cell.delta.as_mut().unwrap().median = odd;
        cell.delta.as_mut().unwrap().interval = Some((odd, -odd));
        cell.resolution = Some(odd);
        cell.value = Some(odd);
    }
    inner.arms.truncate(1);
    for step in &mut report.results {
        step.latency.service.hdr = "HISTFAAAAA==".into();
        step.latency.service.p50_ns = Some(u64::MAX);
    }
    tags(&html(&report));
    let mut plain = fixtures::sweep();
    plain.results[0].intervals[0].at_ns = u64::MAX;
    plain.results[0].intervals[1].p99_ns = Some(0);
    plain.results[1].params.size_bytes = 0;
    tags(&html(&plain));
}

#[test]
fn several_results_are_a_part_each() {
    let (one, two) = (fixtures::one_step(), small());
    let page = page(&[("host.json".into(), &one), ("pod.json".into(), &two)], &PERCENTILES);
    let text = words(&page);
    holds(&text, "tare: 2 results| host.json | pod.json ");
    assert!(page.contains("<section id=\"r1\"") && page.contains("<section id=\"r2-verdicts\""));
    tags(&page);
}

/// Colours of the style sheet, each with its name, in order: those by light first, then those in
/// the dark.
fn palettes() -> [Vec<(String, [f64; 3])>; 2] {
    let style = super::print::html::STYLE;
    let mut halves = style.split("@media screen and (prefers-color-scheme:dark)");
    let mut of = || {
        let css = halves.next().expect("both are there");
        let declared = css.split("--").skip(1).filter_map(|part| {
            let (name, rest) = part.split_once(":#")?;
            let channel = |at: usize| u8::from_str_radix(rest.get(at..at + 2)?, 16).ok();
            let rgb = [channel(0)?, channel(2)?, channel(4)?].map(|byte| f64::from(byte) / 255.0);
            Some((name.to_owned(), rgb))
        });
        declared.collect()
    };
    [of(), of()]
}

/// By the Web Content Accessibility Guidelines 2.2, relative luminance and contrast ratio.
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let linear = |c: f64| {
        if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    let luminance =
        |[r, g, b]: [f64; 3]| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn lines_and_words_stand_out_by_light_and_in_the_dark() {
    for palette in palettes() {
        let colour = |wanted: &str| palette.iter().find(|(name, _)| name == wanted).unwrap().1;
        for ground in ["paper", "panel", "mark"] {
            for (name, least) in [("ink", 7.0), ("bad", 4.5)] {
                let found = contrast(colour(name), colour(ground));
                assert!(found >= least, "{name} on {ground}: {found:.2}");
            }
        }
        for name in ["soft", "link"] {
            assert!(contrast(colour(name), colour("paper")) >= 4.5, "{name}");
        }
        for line in 0..8 {
            for ground in ["paper", "band"] {
                let found = contrast(colour(&format!("s{line}")), colour(ground));
                assert!(found >= 3.0, "s{line} on {ground}: {found:.2}");
            }
        }
    }
}

#[test]
fn a_large_comparison_is_a_small_page_and_soon_there() {
    let report = large(8, 10, 12);
    let started = Instant::now();
    let page = html(&report);
    let took = started.elapsed();
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    // It takes a tenth of that by itself; other tests run beside it.
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 2 });
    assert!(took < limit, "{took:?}");
    tags(&page);
}
