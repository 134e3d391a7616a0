//! The checks, on made-up machines.

mod cpu;
mod interrupts;
mod kernel;
mod network;

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};

use super::link::Via;
use super::*;
use crate::fixtures::Fixture;
use tare_driver::Backend;
use tare_stats::result::Device;

/// A machine of made-up files, and of whatever is no file.
struct FakeHost {
    fixture: Fixture,
    snapshot: HostSnapshot,
}

impl Deref for FakeHost {
    type Target = HostSnapshot;
    fn deref(&self) -> &HostSnapshot {
        &self.snapshot
    }
}

impl DerefMut for FakeHost {
    fn deref_mut(&mut self) -> &mut HostSnapshot {
        &mut self.snapshot
    }
}

impl FakeHost {
    fn new(files: &[(&str, &str)]) -> Self {
        let fixture = Fixture::new(files);
        let snapshot = HostSnapshot {
            files: fixture.files(),
            cpus: Vec::new(),
            machine: Cpus::default(),
            environment: Environment::default(),
            link: Link::default(),
            sample: Sample::default(),
            descriptors_hard: Some(1 << 20),
            load: None,
            backend: Chosen {
                backend: Backend::Uring,
                reason: "io_uring works here".into(),
                advice: None,
            },
        };
        Self { fixture, snapshot }
    }

    /// Measured on these CPUs, which the process may use.
    fn on(mut self, cpus: &[u32]) -> Self {
        self.cpus = cpus.to_vec();
        self.machine = Cpus::read(&self.files, cpus.to_vec());
        if self.machine.online.is_empty() {
            self.machine.online = vec![0, 1, 2];
            self.machine.online.retain(|cpu| !cpus.contains(cpu));
            self.machine.online.truncate(1);
            self.machine.online.extend(cpus);
        }
        self.environment = Environment {
            descriptors_limit: Some(1 << 20),
            memlock_limit_bytes: Some(u64::MAX),
            ..environment::read(&self.files, cpus, false)
        };
        self
    }

    /// Over a card of this name.
    fn hardware(mut self, name: &str) -> Self {
        self.link = Link {
            via: Via::DefaultRoute,
            device: Some(Device {
                name: name.to_owned(),
                mtu_bytes: Some(1_500),
                offloads: vec!["tx-checksum".into(), "rx-checksum".into(), "tso".into()],
                ..Device::default()
            }),
            hardware: true,
            ..Link::default()
        };
        self
    }

    fn write(&self, path: &str, text: &str) {
        self.fixture.write(path, text);
    }

    fn finding(&self, code: &str) -> Finding {
        checks().find(|check| check.code == code).unwrap().finding(self)
    }

    fn findings(&self) -> Vec<Finding> {
        checks().map(|check| check.finding(self)).collect()
    }
}

#[test]
fn an_empty_machine_is_unknown_not_fine() {
    let host = FakeHost::new(&[]).on(&[0]);
    let findings = host.findings();
    let known: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.level != Level::Unknown)
        .map(|finding| finding.code.as_str())
        .collect();
    // The host has a backend and limits, which are no files.
    assert_eq!(known, ["io-uring", "descriptors", "memlock"]);
}

/// Whether no word in braces was left as it stands in the table.
fn is_filled(finding: &Finding) -> bool {
    let texts = [Some(&finding.effect), Some(&finding.show), finding.mend.as_ref()];
    texts.into_iter().flatten().chain(finding.undo.as_ref()).all(|text| {
        let words = text.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
        words.into_iter().all(|(word, _)| word.contains([' ', ',']))
    })
}

#[test]
fn every_finding_has_a_code_of_its_own_an_effect_and_a_command() {
    for host in [FakeHost::new(&[]).on(&[0]), FakeHost::new(&[]).on(&[0]).hardware("eth0")] {
        let findings = host.findings();
        let codes: BTreeSet<&str> = findings.iter().map(|f| f.code.as_str()).collect();
        assert_eq!(codes.len(), checks().count());
        for finding in &findings {
            let kebab = |c: char| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit();
            assert!(finding.code.chars().all(kebab), "{finding:?}");
            assert!(!finding.what.is_empty(), "{finding:?}");
            assert!(!finding.effect.is_empty(), "{finding:?}");
            assert!(!finding.show.is_empty(), "{finding:?}");
            assert!(is_filled(finding), "{finding:?}");
            assert_eq!(finding.value.is_some(), finding.unit.is_some());
        }
    }
}

#[test]
fn shares_of_round_trips() {
    assert!(pings_hit(1000.0).starts_with("about 1 % of"));
    assert!(pings_hit(250.0).starts_with("about 0.2 % of"));
    assert!(pings_hit(12.0).starts_with("about 0.012 % of"));
    assert!(pings_hit(1e9).starts_with("about 100 % of"));
    assert_eq!(rate_level(0.5), Level::Ok);
    assert_eq!(rate_level(99.0), Level::Note);
    assert_eq!(rate_level(100.0), Level::Spoils);
}

#[test]
fn a_quota_that_the_look_would_use_up_is_left_alone() {
    let machine = |quota| {
        let nothing = Fixture::new(&[]);
        let mut machine = Cpus::read(&nothing.files(), vec![]);
        machine.quota = quota;
        machine
    };
    assert!(has_quota_for(&machine(None), &[0, 1]));
    assert!(has_quota_for(&machine(Some(2.5)), &[0, 1]));
    assert!(!has_quota_for(&machine(Some(2.0)), &[0, 1]));
}

fn plan() -> DoctorPlan {
    DoctorPlan { target: None, cpus: None, look: LOOK_RANGE.0, timeout: Nanos::from_secs(1) }
}

#[test]
fn without_a_target_both_ends_measure() {
    let nothing = Fixture::new(&[]);
    let machine = Cpus::read(&nothing.files(), vec![0, 1, 2]);
    let mut plan = plan();
    assert_eq!(measuring(&machine, &plan).unwrap(), [1, 2]);
    plan.target = Some(Target::Host { host: "node-2".into(), port: 1 });
    assert_eq!(measuring(&machine, &plan).unwrap(), [2]);
    plan.cpus = Some(vec![0, 3]);
    let error = measuring(&machine, &plan).unwrap_err().to_string();
    assert!(error.contains("CPU 3"), "{error}");
}

#[test]
fn this_machine_is_examined_and_a_look_has_bounds() {
    let mut plan = DoctorPlan { target: Some(Target::Loopback), ..plan() };
    let diagnosis = examine(&plan).unwrap();
    assert_eq!(diagnosis.findings.len(), checks().count());
    assert_eq!(diagnosis.device.as_deref(), Some("lo"));
    assert!(diagnosis.look_ns >= plan.look.0);
    for look in [Nanos::ZERO, Nanos::from_secs(61)] {
        plan.look = look;
        let error = examine(&plan).unwrap_err().to_string();
        assert!(error.contains("write 10 ms to 60 s"), "{error}");
    }
}
