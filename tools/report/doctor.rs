//! What `tare doctor` found: the worst first, and in the text what is fine in a line each.

use clap::ValueEnum;
use tare_stats::result::{Diagnosis, Finding, Level};
use tare_units::{CpuList, Nanos};

use super::document::{Block, Document, Field, Shown, field, note, part};
use super::{plural, print};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DoctorFormat {
    /// For people
    Text,
    /// One object, of schema/tare-doctor-1.schema.json
    Json,
    /// A table to paste
    Markdown,
}

const LEVELS: [(Level, &str); 4] = [
    (Level::Spoils, "Spoils a microsecond measurement"),
    (Level::Note, "Worth knowing"),
    (Level::Unknown, "Not known here"),
    (Level::Ok, "Fine"),
];

pub(crate) fn render(format: DoctorFormat, diagnosis: &Diagnosis) -> String {
    match format {
        DoctorFormat::Text => print::text(document(diagnosis)),
        DoctorFormat::Json => super::json::pretty(diagnosis),
        DoctorFormat::Markdown => print::markdown(document(diagnosis)),
    }
}

fn asked(diagnosis: &Diagnosis) -> String {
    let cpus = CpuList(diagnosis.cpus.clone());
    let s = if diagnosis.cpus.len() == 1 { "" } else { "s" };
    let target = match (&diagnosis.target, &diagnosis.address) {
        (Some(target), Some(address)) if target != address => format!("to {target} ({address})"),
        (Some(target), _) => format!("to {target}"),
        (None, _) => "of the default route".to_owned(),
    };
    let device = match &diagnosis.device {
        Some(device) => format!("device {device} {target}"),
        None => format!("no device {target}"),
    };
    format!("tare doctor: CPU{s} {cpus}, {device}, watched for {}", Nanos(diagnosis.look_ns))
}

fn counts(diagnosis: &Diagnosis) -> String {
    let count = |level| diagnosis.of(level).count() as u64;
    let spoil = match count(Level::Spoils) {
        0 => "Nothing that is known here spoils a microsecond measurement".to_owned(),
        1 => "1 finding spoils a microsecond measurement".to_owned(),
        n => format!("{} spoil a microsecond measurement", plural(n, "finding")),
    };
    let [known, unknown, fine] = [Level::Note, Level::Unknown, Level::Ok].map(count);
    let version = &diagnosis.tool.version;
    format!("{spoil}; {known} worth knowing, {unknown} not known, {fine} fine. By tare {version}.")
}

fn document(diagnosis: &Diagnosis) -> Document {
    let mut document = Document { title: asked(diagnosis), ..Document::default() };
    document.add(Shown::Plain, "counts", "Findings", vec![note(counts(diagnosis))]);
    for (level, heading) in LEVELS {
        let found = diagnosis.of(level).flat_map(|finding| match level {
            Level::Spoils | Level::Note => in_full(finding),
            Level::Unknown => {
                vec![field(&finding.code, format!("{} ({})", finding.what, finding.show))]
            }
            Level::Ok => vec![field(&finding.code, &finding.what)],
        });
        let found = Block::fields(found).into_iter().collect();
        document.add(Shown::Headed, "findings", heading, found);
    }
    document
}

fn in_full(finding: &Finding) -> Vec<Field> {
    let parts = [
        ("effect", Some(&finding.effect)),
        ("shown by", Some(&finding.show)),
        ("mended by", finding.mend.as_ref()),
        ("undone by", finding.undo.as_ref()),
    ];
    let parts = parts.into_iter().filter_map(|(name, text)| Some(part(name, text?)));
    std::iter::once(field(&finding.code, &finding.what)).chain(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::diagnosis;

    #[test]
    fn a_device_name_drives_no_terminal() {
        let mut diagnosis = diagnosis();
        diagnosis.device = Some("eth\x1b[2J".into());
        for format in [DoctorFormat::Text, DoctorFormat::Markdown] {
            assert!(!render(format, &diagnosis).contains('\x1b'), "{format:?}");
        }
    }

    #[test]
    fn what_is_fine_is_said_so_only_as_far_as_it_is_known() {
        let mut diagnosis = diagnosis();
        diagnosis.findings.retain(|f| f.level != Level::Spoils);
        diagnosis.device = None;
        diagnosis.target = None;
        let text = render(DoctorFormat::Text, &diagnosis);
        assert!(text.contains("Nothing that is known here spoils"), "{text}");
        assert!(text.contains("no device of the default route"), "{text}");
        assert!(text.contains("1 not known"), "{text}");
    }
}
