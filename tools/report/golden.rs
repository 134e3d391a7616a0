//! The printers against files under `tests/golden/`, each once per kind, and the JSON against the
//! schemas, which are generated from the result types. `TARE_GOLDEN=rewrite cargo test` writes
//! both.

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};
use tare_stats::diff;
use tare_stats::result::{Diagnosis, Report};

use super::diff::{DiffReport, Written};
use super::{DisplayOptions, fixtures, render};
use crate::report::Format;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden(name: &str, extension: &str) -> PathBuf {
    root().join("tests/golden").join(format!("{name}.{extension}"))
}

fn check(path: &Path, rendered: &str) {
    if std::env::var_os("TARE_GOLDEN").is_some_and(|value| value == "rewrite") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, rendered).unwrap();
    }
    let golden = fs::read_to_string(path).unwrap_or_default();
    assert!(
        golden == rendered,
        "{} differs; TARE_GOLDEN=rewrite cargo test rewrites it. Rendered:\n{rendered}",
        path.display()
    );
}

/// The formats of the printers, as their files end.
const PRINTED: [(Format, &str); 4] =
    [(Format::Text, "txt"), (Format::Markdown, "md"), (Format::Csv, "csv"), (Format::Html, "html")];

#[test]
fn each_printer_prints_each_kind() {
    for (name, report) in [
        ("lat", fixtures::open_loop()),
        ("bw", fixtures::bulk::one()),
        ("http", fixtures::http::breaker()),
        ("compare", fixtures::compare::failed_arm()),
    ] {
        for (format, extension) in PRINTED {
            let rendered = render(format, &report, &DisplayOptions::default());
            check(&golden(name, extension), &reviewable(format, &rendered));
        }
    }
    let old = fixtures::compare::comparison();
    let mut new = old.clone();
    new.environment.client.governor = Some("powersave".into());
    new.assertions = fixtures::sweep().assertions;
    let later = diff::compare(&old, &new).unwrap();
    let diff = DiffReport {
        before: ("old.json", &old),
        after: ("new.json", &new),
        changes: &later,
        assertions: &new.assertions,
    };
    for (format, extension) in PRINTED {
        let rendered = super::diff::render(format, &diff);
        check(&golden("later", extension), &reviewable(format, &rendered));
    }
    let value = super::diff::render(Format::Json, &diff);
    assert_valid("later-1", &serde_json::from_str(&value).unwrap());
}

/// A page without its drawings and styles, in lines.
fn reviewable(format: Format, rendered: &str) -> String {
    if format != Format::Html {
        return rendered.to_owned();
    }
    let cut = |text: &str, open: &str, close: &str| {
        let mut pieces = text.split(open);
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |text, piece| {
            let rest = piece.split_once(close).map_or("", |(_, rest)| rest);
            format!("{text}{open}{close}{rest}")
        })
    };
    let page = cut(&cut(rendered, "<svg", "</svg>"), "<style>", "</style>");
    let lines = ["<section", "<tr", "<dt", "<h", "<p", "<figure", "<main", "<nav", "<div", "<li"];
    lines.iter().fold(page, |page, tag| page.replace(tag, &format!("\n{tag}")))
}

#[test]
fn results_as_json() {
    for (name, report) in [
        ("lat", fixtures::one_step()),
        ("bw", fixtures::bulk::link_bound()),
        ("http", fixtures::http::one()),
    ] {
        check(&golden(name, "json"), &render(Format::Json, &report, &DisplayOptions::default()));
    }
}

/// Results as they are saved, a line each: what the tests of the command read.
#[test]
fn saved_results() {
    for (name, report) in [
        ("lat", fixtures::open_loop()),
        ("sweep", fixtures::sweep()),
        ("bw", fixtures::bulk::one()),
        ("http", fixtures::http::breaker()),
        ("http-sweep", fixtures::http::sweep()),
        ("compare", fixtures::compare::failed_arm()),
        ("compare-lat", fixtures::compare::comparison()),
    ] {
        let text = serde_json::to_string(&report).unwrap() + "\n";
        check(&root().join(format!("tests/golden/saved/{name}.json")), &text);
    }
}

#[test]
fn every_shape_in_every_format() {
    for (name, report) in fixtures::all() {
        let options = DisplayOptions::default();
        for format in PRINTED.map(|(format, _)| format) {
            let rendered = render(format, &report, &options);
            assert!(rendered.ends_with('\n') && !rendered.ends_with("\n\n"), "{name}");
        }
        let value = serde_json::to_value(&report).unwrap();
        assert_valid("1", &value);
        assert_eq!(value, rejoined(&render(Format::Jsonl, &report, &options)), "{name}");
        let comparison = report.comparison.as_ref();
        comparison.into_iter().for_each(|_| is_of_one_piece(&value));
    }
}

/// The report that a stream of lines amounts to.
fn rejoined(lines: &str) -> Value {
    let mut results: Vec<Value> = Vec::new();
    let mut blocks = Vec::new();
    for line in lines.lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let kind = line.as_object_mut().unwrap().shift_remove("type").unwrap();
        match kind.as_str().unwrap() {
            "interval" => {
                assert_eq!(line["step"], results.len());
                assert!(line["params"]["proto"].is_string());
            }
            "block" => blocks.push(line),
            "result" => {
                let step = line.as_object_mut().unwrap().shift_remove("step");
                assert_eq!(step, Some(json!(results.len())));
                results.push(line);
            }
            other => {
                assert_eq!(other, "report");
                line["results"] = results.into();
                if line["kind"] == "compare" {
                    line["comparison"]["blocks"] = blocks.into();
                }
                return line;
            }
        }
    }
    panic!("the report comes last")
}

/// Results, visits and cells of a comparison are of the same arms and steps, and only what is
/// declared has a verdict.
fn is_of_one_piece(report: &Value) {
    let comparison = &report["comparison"];
    let list = |value: &Value| value.as_array().unwrap().clone();
    let arms: Vec<Value> =
        list(&comparison["arms"]).into_iter().map(|arm| arm["name"].clone()).collect();
    let steps = comparison["steps"].as_u64().unwrap();
    assert_eq!(arms[0], comparison["baseline"]);
    let of_results: Vec<Value> =
        list(&report["results"]).iter().map(|result| result["arm"].clone()).collect();
    let expected = arms.iter().flat_map(|arm| (0..steps).map(move |_| arm.clone()));
    assert_eq!(of_results, expected.collect::<Vec<_>>());
    for visit in list(&comparison["blocks"]).iter().flat_map(|block| list(&block["visits"])) {
        assert!(arms.contains(&visit["arm"]));
    }
    for cell in list(&comparison["cells"]) {
        assert!(arms[1..].contains(&cell["arm"]) && cell["step"].as_u64() < Some(steps));
        assert_eq!(cell["declared"], cell["verdict"] != Value::Null);
        assert_eq!(cell["declared"], cell["p_adjusted"] != Value::Null);
    }
}

#[test]
fn formats_of_the_plotters() {
    let report = fixtures::http::breaker();
    let percentiles = super::histogram::percentiles(&report.results[0]);
    check(&golden("http-breaker", "hgrm"), &percentiles);
    let log = super::histogram::interval_log(&fixtures::http::stages());
    check(&golden("http-stages", "hlog"), &log);
}

#[test]
fn findings() {
    use super::doctor::DoctorFormat;
    let diagnosis = fixtures::doctor::diagnosis();
    for (format, extension) in [(DoctorFormat::Text, "txt"), (DoctorFormat::Markdown, "md")] {
        let rendered = super::doctor::render(format, &diagnosis);
        check(&golden("doctor", extension), &rendered);
    }
    let json = super::doctor::render(DoctorFormat::Json, &diagnosis);
    assert_valid("doctor-1", &serde_json::from_str(&json).unwrap());
}

#[test]
fn quantiles_that_were_asked_for() {
    let options = DisplayOptions { percentiles: vec![50.0, 97.5] };
    let mut report = fixtures::open_loop();
    let response = report.results[0].latency.response.as_mut().unwrap();
    response.extra_ns.insert("p97_5".into(), 71_000);
    for (format, figure) in [
        (Format::Text, "\n  p97.5 "),
        (Format::Markdown, "\n| p97.5 |"),
        (Format::Csv, ",response_p97_5_ns,"),
    ] {
        let rendered = render(format, &report, &options);
        assert!(rendered.contains(figure) && rendered.contains("71"), "{rendered}");
        assert!(format == Format::Csv || !rendered.contains("p95"), "{rendered}");
    }
}

#[test]
fn what_no_receiver_told_is_no_zero() {
    let mut report = fixtures::bulk::one();
    let bandwidth = report.results[0].bandwidth.as_mut().unwrap();
    let up = bandwidth.up.as_mut().unwrap();
    (bandwidth.bits_per_s, bandwidth.interval_bits_per_s) = (None, None);
    (up.bits_per_s, up.interval_bits_per_s, up.untold_streams) = (None, None, 1);
    let value = serde_json::to_value(&report).unwrap();
    let told = &value["results"][0]["bandwidth"];
    assert_eq!((&told["bits_per_s"], &told["up"]["bits_per_s"]), (&Value::Null, &Value::Null));
    assert!(validator().is_valid(&value));
    let options = DisplayOptions::default();
    for format in [Format::Text, Format::Markdown] {
        let rendered = render(format, &report, &options);
        assert!(rendered.contains("not reported by the receiver"), "{rendered}");
    }
    let csv = render(Format::Csv, &report, &options);
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let (names, row) = (rows.next().unwrap(), rows.next().unwrap());
    let at = names.iter().position(|name| *name == "bits_per_s").unwrap();
    assert_eq!(row[at], "");
}

#[test]
fn no_step_at_all() {
    let mut report = fixtures::partial();
    report.results.clear();
    for format in [Format::Text, Format::Json, Format::Jsonl, Format::Markdown] {
        let rendered = render(format, &report, &DisplayOptions::default());
        assert!(rendered.contains("lat"), "{rendered}");
    }
    let csv = render(Format::Csv, &report, &DisplayOptions::default());
    let full = render(Format::Csv, &fixtures::one_step(), &DisplayOptions::default());
    assert_eq!(csv.lines().collect::<Vec<_>>(), full.lines().take(1).collect::<Vec<_>>());
}

/// The schema of a type, as readable as one by hand: no titles but the first, no formats that JSON
/// does not have, comments without links to types.
fn schema<T: JsonSchema>(name: &str, about: &str) -> Value {
    fn tidy(schema: &mut Schema) {
        schema.remove("title");
        schema.remove("format");
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = text.replace("[`", "`").replace("`]", "`").replace('\n', " ");
        }
        // What is not known may be left out later on, but is never guessed at.
        schema.remove("default");
        schemars::transform::transform_subschemas(&mut tidy, schema);
    }
    let settings = SchemaSettings::draft2020_12().for_serialize().with_transform(tidy);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("$id".into(), format!("urn:tare:schema:{name}").into());
    schema.insert("title".into(), about.into());
    let mut schema = schema.to_value();
    strict(&mut schema);
    let definitions = schema.get_mut("$defs").and_then(Value::as_object_mut);
    let definitions = definitions.into_iter().flatten();
    // The parameters of bulk and HTTP runs are among the others, so they are optional and may be
    // null.
    definitions.filter(|(name, _)| *name != "Params").for_each(|(_, inner)| strict(inner));
    schema
}

/// What may be left out is never null.
fn strict(schema: &mut Value) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    let properties = properties.into_iter().flatten();
    for (_, property) in properties.filter(|(name, _)| !required.contains(&json!(name))) {
        if let Some([kind, Value::String(null)]) = property["type"].as_array().map(Vec::as_slice)
            && null == "null"
        {
            property["type"] = kind.clone();
        }
        if let Some([one, _null]) = property["anyOf"].as_array().map(Vec::as_slice) {
            let reference = one["$ref"].clone();
            let fields = property.as_object_mut().unwrap();
            fields.shift_remove("anyOf");
            fields.insert("$ref".into(), reference);
        }
    }
}

/// JSON whose values are on one line each where they fit in.
fn compact(value: &Value, indent: usize) -> String {
    const WIDTH: usize = 400;
    let line = value.to_string();
    let (open, close, inner): (_, _, Vec<String>) = match value {
        Value::Object(fields) if line.len() + indent > WIDTH => {
            let field = |(name, value)| format!("{}: {}", json!(name), compact(value, indent + 1));
            ('{', '}', fields.iter().map(field).collect())
        }
        Value::Array(items) if line.len() + indent > WIDTH => {
            ('[', ']', items.iter().map(|item| compact(item, indent + 1)).collect())
        }
        _ => return line,
    };
    let (space, end) = (" ".repeat(indent + 1), " ".repeat(indent));
    let inner: Vec<String> = inner.iter().map(|line| format!("{space}{line}")).collect();
    format!("{open}\n{}\n{end}{close}", inner.join(",\n"))
}

#[test]
fn schemas_are_those_of_the_types() {
    for (file, schema) in [
        ("tare-1", schema::<Report>("tare/1", "A result of tare, schema tare/1")),
        (
            "tare-doctor-1",
            schema::<Diagnosis>("tare-doctor/1", "What tare doctor found, schema tare/1"),
        ),
        (
            "tare-later-1",
            schema::<Written<'_>>(
                "tare-later/1",
                "Two results of tare, before a change and after it",
            ),
        ),
    ] {
        jsonschema::meta::validate(&schema).expect("the schema itself is valid");
        let path = root().join(format!("schema/{file}.schema.json"));
        check(&path, &(compact(&schema, 0) + "\n"));
    }
}

fn validator() -> Validator {
    of_schema("1")
}

fn of_schema(name: &str) -> Validator {
    let text = fs::read_to_string(root().join(format!("schema/tare-{name}.schema.json"))).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    jsonschema::draft202012::new(&schema).expect("the schema compiles")
}

fn assert_valid(schema: &str, value: &Value) {
    let validator = of_schema(schema);
    let errors = validator.iter_errors(value);
    let errors: Vec<String> = errors.map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn the_schema_lets_later_versions_add_fields() {
    let mut value = serde_json::to_value(fixtures::one_step()).unwrap();
    value["results"][0]["latency"]["service"]["p99_999_ns"] = json!(1);
    value["moon_phase"] = json!("full");
    assert!(validator().is_valid(&value));
}

#[test]
fn the_schema_refuses_what_is_none() {
    let validator = validator();
    let report = serde_json::to_value(fixtures::udp_losses()).unwrap();
    for (pointer, replacement) in [
        ("/schema", json!("tare/2")),
        ("/seed", json!(-1)),
        ("/started_at", json!("yesterday")),
        ("/partial", json!("no")),
        ("/plan", json!([])),
        ("/environment/servers", json!({})),
        ("/results", json!({})),
        ("/results/0/params/proto", json!("sctp")),
        ("/results/0/params/size_bytes", json!(64.5)),
        ("/results/0/operations/completed", json!(-1)),
        ("/results/0/operations/timed_out", json!(null)),
        ("/results/0/latency/service", json!(null)),
        ("/results/0/latency/service/p50_ns", json!("12 µs")),
        ("/results/0/latency/service/hdr", json!(null)),
        ("/results/0/latency/service/intervals_ns/p50", json!([1])),
        ("/results/0/latency/service/lower_bounds/0", json!("median")),
        ("/results/0/errors/0/count", json!(0.5)),
        ("/results/0/latency_error_ns", json!(null)),
        ("/results/0/instrument/client", json!(null)),
        ("/results/0/instrument/client/worker_busy_max", json!(97)),
        ("/results/0/intervals/0/at_ns", json!("1s")),
        ("/results/0/instances/0", json!("no id")),
    ] {
        let mut mutated = report.clone();
        *mutated.pointer_mut(pointer).expect(pointer) = replacement;
        assert!(!validator.is_valid(&mutated), "{pointer}");
    }
    refuses_without(&validator, &report, &LEAST);
}

#[test]
fn the_schema_refuses_observations_that_are_none() {
    let validator = validator();
    let report = serde_json::to_value(fixtures::observed()).unwrap();
    for (pointer, replacement) in [
        ("/results/0/observed", json!({})),
        ("/results/0/observed/0/name", json!(1)),
        ("/results/0/observed/0/what", json!(null)),
        ("/results/0/observed/0/span_ns", json!(0.5)),
        ("/results/0/observed/0/cpus", json!("0.97")),
        ("/results/0/observed/0/throttled_ns", json!(null)),
        ("/results/0/observed/0/processes", json!(-1)),
        ("/results/0/cpu/client/machine_softirq", json!(12)),
    ] {
        let mut mutated = report.clone();
        *mutated.pointer_mut(pointer).expect(pointer) = replacement;
        assert!(!validator.is_valid(&mutated), "{pointer}");
    }
}

#[test]
fn what_was_observed_has_columns_only_where_something_was() {
    let options = DisplayOptions::default();
    let plain = render(Format::Csv, &fixtures::sweep(), &options);
    assert!(!plain.contains("observed_"));
    let csv = render(Format::Csv, &fixtures::observed(), &options);
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = rows.next().unwrap();
    let at = |name: &str| names.iter().position(|n| *n == name).unwrap();
    let (first, second) = (rows.next().unwrap(), rows.next().unwrap());
    assert_eq!(first[at("observed_nginx_cpus")], "0.97");
    assert_eq!(first[at("observed_nginx_throttled_ns")], "340000000");
    assert_eq!(second[at("observed_db_user_ns")], "", "not known");
}

#[test]
fn the_schema_refuses_bulk_figures_that_are_none() {
    let validator = validator();
    let tcp = serde_json::to_value(fixtures::bulk::both()).unwrap();
    let udp = serde_json::to_value(fixtures::bulk::udp()).unwrap();
    for (report, pointer, replacement) in [
        (&tcp, "/params/direction", json!("sideways")),
        (&tcp, "/params/dscp", json!(64)),
        (&tcp, "/params/zero_copy", json!(true)),
        (&tcp, "/bandwidth", json!([])),
        (&tcp, "/bandwidth/bits_per_s", json!("9 Gbit/s")),
        (&tcp, "/bandwidth/interval_bits_per_s", json!([1.0])),
        (&tcp, "/bandwidth/up/sends", json!(1.5)),
        (&tcp, "/bandwidth/up/streams_bits_per_s/0", json!(null)),
        (&tcp, "/bandwidth/down/tcp/rtt_ns", json!(-1)),
        (&tcp, "/bandwidth/down/zero_copy/copied_share", json!(2)),
        (&tcp, "/intervals/0/bits_per_s", json!("fast")),
        (&tcp, "/intervals/0/tcp_info/cwnd_bytes", json!(null)),
        (&udp, "/bandwidth/up/datagrams/lost", json!(null)),
        (&udp, "/bandwidth/up/pacing/gap_deviation", json!(null)),
    ] {
        let mut mutated = report.clone();
        let pointer = format!("/results/0{pointer}");
        *mutated.pointer_mut(&pointer).expect(&pointer) = replacement;
        assert!(!validator.is_valid(&mutated), "{pointer}");
    }
    let least = [
        "/results/0/bandwidth",
        "/results/0/bandwidth/bits_per_s",
        "/results/0/bandwidth/sent_bytes",
        "/results/0/bandwidth/received_bytes",
        "/results/0/bandwidth/lost_datagrams",
        "/results/0/bandwidth/reordered_datagrams",
        "/results/0/bandwidth/duplicated_datagrams",
        "/results/0/bandwidth/jitter_ns",
        "/results/0/bandwidth/retransmits",
        "/results/0/bandwidth/up",
        "/results/0/bandwidth/down",
        "/results/0/bandwidth/up/tcp",
    ];
    refuses_without(&validator, &tcp, &least);
}

#[test]
fn the_schema_refuses_http_figures_that_are_none() {
    let validator = validator();
    let report = serde_json::to_value(fixtures::http::breaker()).unwrap();
    for (pointer, replacement) in [
        ("/params/method", json!(1)),
        ("/params/pipeline", json!(0)),
        ("/params/late", json!("perhaps")),
        ("/params/stage", json!(1.5)),
        ("/began_at", json!("yesterday")),
        ("/status_codes/511", json!(101)),
        ("/status_codes/511/count", json!("101")),
        ("/status_codes/511/first_ordinal", json!(0)),
        ("/status_codes/511/expected", json!(null)),
        ("/latency/by_status/511", json!(null)),
        ("/transfer/received_bytes", json!(-1)),
        ("/intervals/0/status_codes/200", json!(0.5)),
    ] {
        let mut mutated = report.clone();
        let pointer = format!("/results/0{pointer}");
        *mutated.pointer_mut(&pointer).expect(&pointer) = replacement;
        assert!(!validator.is_valid(&mutated), "{pointer}");
    }
    let mut mutated = report.clone();
    mutated["results"][0]["status_codes"]["teapot"] =
        report["results"][0]["status_codes"]["511"].clone();
    assert!(!validator.is_valid(&mutated), "a code is three digits");
    let least = [
        "/results/0/status_codes/511/count",
        "/results/0/status_codes/511/first_at_ns",
        "/results/0/status_codes/511/first_ordinal",
        "/results/0/status_codes/511/expected",
        "/results/0/transfer/sent_bytes",
        "/results/0/transfer/received_bytes",
        "/results/0/transfer/body_bytes",
        "/results/0/transfer/received_bytes_per_s",
    ];
    refuses_without(&validator, &report, &least);
}

#[test]
fn the_schema_refuses_comparisons_that_are_none() {
    let validator = validator();
    let report = serde_json::to_value(fixtures::compare::comparison()).unwrap();
    for (pointer, replacement) in [
        ("", json!([])),
        ("/measured", json!("compare")),
        ("/baseline", json!(null)),
        ("/blocks_done", json!(-1)),
        ("/wait", json!("often")),
        ("/arms", json!([])),
        ("/arms/0/instances/0", json!("no id")),
        ("/blocks/0/number", json!(0)),
        ("/blocks/0/whole", json!(null)),
        ("/blocks/0/visits/0/arm", json!(1)),
        ("/blocks/0/visits/0/began_at", json!("noon")),
        ("/blocks/0/visits/0/steps/0/p50_ns", json!(1.5)),
        ("/blocks/0/visits/0/steps/0/disturbed", json!("no")),
        ("/cells/0/measure", json!("99 %")),
        ("/cells/0/unit", json!("µs")),
        ("/cells/0/delta/interval", json!([1])),
        ("/cells/0/delta", json!(11_200)),
        ("/cells/0/p", json!(1.01)),
        ("/cells/0/p_adjusted", json!(-0.1)),
        ("/cells/0/resolution", json!(-1)),
        ("/cells/0/verdict", json!("much slower")),
        ("/cells/0/blocks/0/value", json!(null)),
    ] {
        let mut mutated = report.clone();
        let pointer = format!("/comparison{pointer}");
        *mutated.pointer_mut(&pointer).expect(&pointer) = replacement;
        assert!(!validator.is_valid(&mutated), "{pointer}");
    }
    let least = [
        "/comparison",
        "/results/0/arm",
        "/comparison/measured",
        "/comparison/baseline",
        "/comparison/arms",
        "/comparison/steps",
        "/comparison/blocks",
        "/comparison/cells",
        "/comparison/arms/0/name",
        "/comparison/arms/0/instances",
        "/comparison/blocks/0/visits",
        "/comparison/blocks/0/visits/0/steps",
        "/comparison/blocks/0/visits/0/steps/0/completed",
        "/comparison/cells/0/declared",
        "/comparison/cells/0/delta",
        "/comparison/cells/0/delta/median",
        "/comparison/cells/0/verdict",
        "/comparison/cells/0/blocks/0/baseline",
    ];
    refuses_without(&validator, &report, &least);
    let mut other = serde_json::to_value(fixtures::one_step()).unwrap();
    other["kind"] = json!("compare");
    assert!(!validator.is_valid(&other), "a comparison has one");
}

#[test]
fn csv_of_a_comparison_has_its_cells() {
    let options = DisplayOptions::default();
    let mut report = fixtures::compare::overload();
    let csv = render(Format::Csv, &report, &options);
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let names = reader.headers().unwrap().clone();
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    let comparison = report.comparison.as_ref().unwrap();
    assert_eq!(rows.len(), comparison.cells.len());
    for (row, cell) in rows.iter().zip(&comparison.cells) {
        let at = |name: &str| &row[names.iter().position(|n| n == name).expect(name)];
        assert_eq!((at("arm"), at("measure")), (&*cell.arm, &*cell.measure));
        let (low, high) = cell.delta.unwrap().interval.unwrap();
        assert_eq!(at("delta_low"), low.to_string());
        assert_eq!(at("delta_high"), high.to_string());
        let rate = ["1000", "20000"][usize::try_from(cell.step).unwrap()];
        assert_eq!(at("rate_target_per_s"), rate);
        let verdict = cell.verdict.map_or("", |verdict| verdict.name());
        assert_eq!(at("verdict"), verdict);
    }
    report.comparison.as_mut().unwrap().cells.clear();
    let empty = render(Format::Csv, &report, &options);
    assert_eq!(empty.lines().collect::<Vec<_>>(), [csv.lines().next().unwrap()]);
}

/// What DESIGN §5 calls the least that must be there.
const LEAST: [&str; 28] = [
    "/schema",
    "/tool",
    "/kind",
    "/started_at",
    "/partial",
    "/seed",
    "/plan",
    "/environment",
    "/results",
    "/assertions",
    "/warnings",
    "/results/0/params",
    "/results/0/duration_ns",
    "/results/0/operations",
    "/results/0/operations/due",
    "/results/0/warmup",
    "/results/0/rate",
    "/results/0/latency",
    "/results/0/latency/service",
    "/results/0/latency/service/hdr",
    "/results/0/latency/service/p99_9_ns",
    "/results/0/errors",
    "/results/0/connections",
    "/results/0/cpu",
    "/results/0/latency_error_ns",
    "/results/0/instrument",
    "/results/0/instrument/client/saturated",
    "/results/0/intervals",
];

fn refuses_without(validator: &Validator, report: &Value, pointers: &[&str]) {
    for pointer in pointers {
        let mut mutated = report.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = mutated.pointer_mut(parent).unwrap();
        let removed = parent.as_object_mut().unwrap().shift_remove(name);
        assert!(removed.is_some(), "{pointer}");
        assert!(!validator.is_valid(&mutated), "without {pointer}");
    }
}
