//! A made-up machine for the tests of the checks.

use super::Scene;
use super::cpu::Load;
use super::limits::Limits;
use super::link::{Link, Via};
use super::look::Look;
use crate::cpus::Cpus;
use crate::environment;
use crate::files::Files;
use crate::files::fixture::Fixture;
use tare_driver::Backend;
use tare_driver::probe::Chosen;
use tare_stats::result::{Device, Environment};

/// A fixture, and everything that is no file.
pub(super) struct Stage {
    fixture: Fixture,
    files: Files,
    pub(super) look: Look,
    pub(super) link: Link,
    pub(super) limits: Limits,
    pub(super) backend: Chosen,
    cpus: Vec<u32>,
    // What the files say of the machine, as of the last `on`.
    machine: Cpus,
    environment: Environment,
}

impl Stage {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let fixture = Fixture::new(files);
        Self {
            files: fixture.files(),
            fixture,
            look: Look::default(),
            link: Link::default(),
            limits: Limits {
                descriptors_soft: Some(1 << 20),
                descriptors_hard: Some(1 << 20),
                memlock_bytes: Some(u64::MAX),
            },
            backend: Chosen {
                backend: Backend::Uring,
                reason: "io_uring works here".into(),
                advice: None,
            },
            cpus: Vec::new(),
            machine: Cpus::default(),
            environment: Environment::default(),
        }
    }

    /// Measured on these CPUs, which the process may use.
    pub(super) fn on(mut self, cpus: &[u32]) -> Self {
        self.cpus = cpus.to_vec();
        self.machine = Cpus::read(&self.files(), cpus.to_vec());
        if self.machine.online.is_empty() {
            self.machine.online = vec![0, 1, 2];
            self.machine.online.retain(|cpu| !cpus.contains(cpu));
            self.machine.online.truncate(1);
            self.machine.online.extend(cpus);
        }
        self.environment = environment::read(&self.files(), cpus, false);
        self
    }

    /// Over a card of this name.
    pub(super) fn hardware(mut self, name: &str) -> Self {
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

    pub(super) fn files(&self) -> Files {
        self.files.clone()
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        self.fixture.write(path, text);
    }

    pub(super) fn scene(&self) -> Scene<'_> {
        Scene {
            files: &self.files,
            cpus: &self.cpus,
            machine: &self.machine,
            environment: &self.environment,
            link: &self.link,
            look: &self.look,
            limits: self.limits,
            load: Load::read(&self.files),
            backend: &self.backend,
        }
    }
}
