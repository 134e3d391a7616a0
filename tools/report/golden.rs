//! The printers against files under `tests/golden/`, each once per kind, and the JSON against the
//! schemas, which are generated from the result types. `TARE_GOLDEN=rewrite cargo test` writes
//! both.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};
use tare_stats::diff;
use tare_stats::result::{Diagnosis, Report};

use super::diff::{DiffReport, Written};
use super::{PERCENTILES, fixtures, render};
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
            let rendered = render(format, &report, &PERCENTILES);
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

/// Results as they are saved: what the tests of the command read, and of which most of the
/// fixtures are made.
#[test]
fn saved_results() {
    for (name, report) in [
        ("lat", fixtures::one_step()),
        ("bw", fixtures::bulk::link_bound()),
        ("http", fixtures::http::one()),
    ] {
        check(&golden(name, "json"), &render(Format::Json, &report, &PERCENTILES));
    }
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
        check(&golden(&format!("saved/{name}"), "json"), &text);
    }
}

#[test]
fn every_shape_in_every_format() {
    for (name, report) in fixtures::all() {
        let options = PERCENTILES;
        for format in PRINTED.map(|(format, _)| format) {
            let rendered = render(format, &report, &options);
            assert!(rendered.ends_with('\n') && !rendered.ends_with("\n\n"), "{name}");
        }
        let value = serde_json::to_value(&report).unwrap();
        assert_valid("1", &value);
        assert_eq!(value, rejoined(&render(Format::Jsonl, &report, &options)), "{name}");
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
    let diagnosis = fixtures::diagnosis();
    for (format, extension) in [(DoctorFormat::Text, "txt"), (DoctorFormat::Markdown, "md")] {
        let rendered = super::doctor::render(format, &diagnosis);
        check(&golden("doctor", extension), &rendered);
    }
    let json = super::doctor::render(DoctorFormat::Json, &diagnosis);
    assert_valid("doctor-1", &serde_json::from_str(&json).unwrap());
}

#[test]
fn quantiles_that_were_asked_for() {
    let options = [50.0, 97.5];
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
fn what_no_receiver_reported_is_no_zero() {
    let mut report = fixtures::bulk::one();
    let bandwidth = report.results[0].bandwidth.as_mut().unwrap();
    let up = bandwidth.up.as_mut().unwrap();
    (bandwidth.bits_per_s, bandwidth.interval_bits_per_s) = (None, None);
    (up.bits_per_s, up.interval_bits_per_s, up.untold_streams) = (None, None, 1);
    let value = serde_json::to_value(&report).unwrap();
    let found = &value["results"][0]["bandwidth"];
    assert_eq!((&found["bits_per_s"], &found["up"]["bits_per_s"]), (&Value::Null, &Value::Null));
    assert!(of_schema("1").is_valid(&value));
    let options = PERCENTILES;
    for format in [Format::Text, Format::Markdown] {
        let rendered = render(format, &report, &options);
        assert!(rendered.contains("not reported by the receiver"), "{rendered}");
    }
    let row = rows(&report).remove(0);
    assert_eq!(row["bits_per_s"], "");
}

/// The rows of a report as CSV, by the names of their columns.
pub(super) fn rows(report: &Report) -> Vec<HashMap<String, String>> {
    let csv = render(Format::Csv, report, &PERCENTILES);
    csv::Reader::from_reader(csv.as_bytes()).deserialize().map(Result::unwrap).collect()
}

#[test]
fn no_step_at_all() {
    let mut report = fixtures::partial();
    report.results.clear();
    for format in [Format::Text, Format::Json, Format::Jsonl, Format::Markdown] {
        let rendered = render(format, &report, &PERCENTILES);
        assert!(rendered.contains("lat"), "{rendered}");
    }
    let csv = render(Format::Csv, &report, &PERCENTILES);
    let full = render(Format::Csv, &fixtures::one_step(), &PERCENTILES);
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
    let doctor = "What tare doctor found, schema tare/1";
    let later = "Two results of tare, before a change and after it";
    for (file, schema) in [
        ("tare-1", schema::<Report>("tare/1", "A result of tare, schema tare/1")),
        ("tare-doctor-1", schema::<Diagnosis>("tare-doctor/1", doctor)),
        ("tare-later-1", schema::<Written<'_>>("tare-later/1", later)),
    ] {
        jsonschema::meta::validate(&schema).expect("the schema itself is valid");
        let path = root().join(format!("schema/{file}.schema.json"));
        check(&path, &(compact(&schema, 0) + "\n"));
    }
}

fn of_schema(name: &str) -> Validator {
    let text = fs::read_to_string(root().join(format!("schema/tare-{name}.schema.json"))).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    jsonschema::draft202012::new(&schema).expect("the schema compiles")
}

pub(crate) fn assert_valid(schema: &str, value: &Value) {
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
    assert!(of_schema("1").is_valid(&value));
}

/// Each word of `wrong` is a pointer below `at` and what it is replaced by, which the schema
/// refuses; and it refuses to be without any of `least`.
fn refuses(report: &Report, at: &str, wrong: &str, least: &str) {
    refuses_of("1", &serde_json::to_value(report).unwrap(), at, wrong, least);
}

pub(crate) fn refuses_of(schema: &str, report: &Value, at: &str, wrong: &str, least: &str) {
    let validator = of_schema(schema);
    assert!(validator.is_valid(report));
    for word in wrong.split_whitespace() {
        let (pointer, replacement) = word.split_once('=').unwrap();
        let mut mutated = report.clone();
        let replaced = mutated.pointer_mut(&format!("{at}{pointer}")).expect(word);
        *replaced = serde_json::from_str(replacement).expect(word);
        assert!(!validator.is_valid(&mutated), "{at}{word}");
    }
    for pointer in least.split_whitespace() {
        let mut mutated = report.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = mutated.pointer_mut(&format!("{at}{parent}")).unwrap();
        assert!(parent.as_object_mut().unwrap().shift_remove(name).is_some(), "{pointer}");
        assert!(!validator.is_valid(&mutated), "without {at}{pointer}");
    }
}

#[test]
fn the_schema_refuses_what_is_none() {
    refuses(
        &fixtures::udp_losses(),
        "",
        r#"/schema="tare/2" /seed=-1 /started_at="yesterday" /partial="no" /plan=[]
           /environment/servers={} /results={}"#,
        "/schema /tool /kind /started_at /partial /seed /plan /environment /results /assertions
         /warnings",
    );
    refuses(
        &fixtures::udp_losses(),
        "/results/0",
        r#"/params/proto="sctp" /params/size_bytes=64.5 /operations/completed=-1
           /operations/timed_out=null /latency/service=null /latency/service/p50_ns="12µs"
           /latency/service/hdr=null /latency/service/intervals_ns/p50=[1]
           /latency/service/lower_bounds/0="median" /errors/0/count=0.5 /latency_error_ns=null
           /instrument/client=null /instrument/client/worker_busy_max=97
           /intervals/0/at_ns="1s" /instances/0="none""#,
        "/params /duration_ns /operations /operations/due /warmup /rate /latency /latency/service
         /latency/service/hdr /latency/service/p99_9_ns /errors /connections /cpu
         /latency_error_ns /instrument /instrument/client/saturated /intervals",
    );
    refuses(
        &fixtures::observed(),
        "/results/0",
        r#"/observed={} /observed/0/name=1 /observed/0/what=null /observed/0/span_ns=0.5
           /observed/0/cpus="0.97" /observed/0/throttled_ns=null /observed/0/processes=-1
           /cpu/client/machine_softirq=12"#,
        "",
    );
    refuses(
        &fixtures::bulk::both(),
        "/results/0",
        r#"/params/direction="sideways" /params/dscp=64 /params/zero_copy=true /bandwidth=[]
           /bandwidth/bits_per_s="9Gbit/s" /bandwidth/interval_bits_per_s=[1.0]
           /bandwidth/up/sends=1.5 /bandwidth/up/streams_bits_per_s/0=null
           /bandwidth/down/tcp/rtt_ns=-1 /bandwidth/down/zero_copy/copied_share=2
           /intervals/0/bits_per_s="fast" /intervals/0/tcp_info/cwnd_bytes=null"#,
        "/bandwidth /bandwidth/bits_per_s /bandwidth/sent_bytes /bandwidth/received_bytes
         /bandwidth/lost_datagrams /bandwidth/reordered_datagrams
         /bandwidth/duplicated_datagrams /bandwidth/jitter_ns /bandwidth/retransmits
         /bandwidth/up /bandwidth/down /bandwidth/up/tcp",
    );
    let paced = "/datagrams/lost=null /pacing/gap_deviation=null";
    refuses(&fixtures::bulk::udp(), "/results/0/bandwidth/up", paced, "");
    refuses(
        &fixtures::http::breaker(),
        "/results/0",
        r#"/params/method=1 /params/pipeline=0 /params/late="perhaps" /params/stage=1.5
           /began_at="yesterday" /status_codes/511=101 /status_codes/511/count="101"
           /status_codes/511/first_ordinal=0 /status_codes/511/expected=null
           /latency/by_status/511=null /transfer/received_bytes=-1
           /intervals/0/status_codes/200=0.5
           /status_codes={"teapot":{"count":101,"first_at_ns":1,"first_ordinal":1,"expected":false}}"#,
        "/status_codes/511/count /status_codes/511/first_at_ns /status_codes/511/first_ordinal
         /status_codes/511/expected /transfer/sent_bytes /transfer/received_bytes
         /transfer/body_bytes /transfer/received_bytes_per_s",
    );
    refuses(
        &fixtures::compare::comparison(),
        "/comparison",
        r#"=[] /measured="compare" /baseline=null /blocks_done=-1 /wait="often" /arms=[]
           /arms/0/instances/0="none" /blocks/0/number=0 /blocks/0/whole=null
           /blocks/0/visits/0/arm=1 /blocks/0/visits/0/began_at="noon"
           /blocks/0/visits/0/steps/0/p50_ns=1.5 /blocks/0/visits/0/steps/0/disturbed="no"
           /cells/0/measure="99%" /cells/0/unit="µs" /cells/0/delta/interval=[1]
           /cells/0/delta=11200 /cells/0/p=1.01 /cells/0/p_adjusted=-0.1
           /cells/0/resolution=-1 /cells/0/verdict="much" /cells/0/blocks/0/value=null"#,
        "/measured /baseline /arms /steps /blocks /cells /arms/0/name /arms/0/instances
         /blocks/0/visits /blocks/0/visits/0/steps /blocks/0/visits/0/steps/0/completed
         /cells/0/declared /cells/0/delta /cells/0/delta/median /cells/0/verdict
         /cells/0/blocks/0/baseline",
    );
    refuses(&fixtures::compare::comparison(), "", "", "/comparison /results/0/arm");
    refuses(&fixtures::one_step(), "", r#"/kind="compare""#, "");
}

#[test]
fn what_was_observed_has_columns_only_where_something_was() {
    assert!(!rows(&fixtures::sweep())[0].keys().any(|name| name.contains("observed_")));
    let rows = rows(&fixtures::observed());
    assert_eq!(rows[0]["observed_nginx_cpus"], "0.97");
    assert_eq!(rows[0]["observed_nginx_throttled_ns"], "340000000");
    assert_eq!(rows[1]["observed_db_user_ns"], "", "not known");
}

#[test]
fn csv_of_a_comparison_has_its_cells() {
    let mut report = fixtures::compare::overload();
    let comparison = report.comparison.as_mut().unwrap();
    let cells = std::mem::take(&mut comparison.cells);
    let options = PERCENTILES;
    let header = render(Format::Csv, &report, &options);
    report.comparison.as_mut().unwrap().cells.clone_from(&cells);
    let csv = render(Format::Csv, &report, &options);
    assert_eq!(header.lines().collect::<Vec<_>>(), [csv.lines().next().unwrap()]);
    let rows = rows(&report);
    assert_eq!(rows.len(), cells.len());
    for (row, cell) in rows.iter().zip(&cells) {
        let (low, high) = cell.delta.unwrap().interval.unwrap();
        let rate = ["1000", "20000"][usize::try_from(cell.step).unwrap()];
        for (name, wanted) in [
            ("arm", cell.arm.clone()),
            ("measure", cell.measure.clone()),
            ("delta_low", low.to_string()),
            ("delta_high", high.to_string()),
            ("rate_target_per_s", rate.to_owned()),
            ("verdict", cell.verdict.map_or("", |verdict| verdict.name()).to_owned()),
        ] {
            assert_eq!(row[name], wanted, "{name}");
        }
    }
}
