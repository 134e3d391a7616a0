//! What `tare doctor` finds: a document of its own, whose schema is
//! `schema/tare-doctor-1.schema.json`.

use serde::{Deserialize, Serialize};

use super::{Environment, Tool};

/// What on a machine would spoil a measurement, and what would not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Diagnosis {
    /// [`super::SCHEMA`].
    #[cfg_attr(feature = "schema", schemars(extend("const" = super::SCHEMA)))]
    pub schema: String,
    /// Always `doctor`.
    #[cfg_attr(feature = "schema", schemars(extend("const" = "doctor")))]
    pub kind: String,
    /// Which tare wrote it.
    pub tool: Tool,
    /// When it looked, RFC 3339, by the wall clock.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = super::TIME)))]
    pub started_at: String,
    /// For how long it watched the counters that grow, nanoseconds.
    pub look_ns: u64,
    /// The CPUs that would measure.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub cpus: Vec<u32>,
    /// The target as typed; absent where none was given.
    pub target: Option<String>,
    /// Its address.
    pub address: Option<String>,
    /// The device that was examined: that of the route to the target, or of the default route.
    /// Absent without a route.
    pub device: Option<String>,
    /// The machine.
    pub environment: Environment,
    /// One per check, in a fixed order, whatever came of it.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// The findings of one level.
    pub fn of(&self, level: Level) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.level == level)
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    #[default]
    Ok,
    /// Worth knowing: it costs something, or makes two machines differ.
    Note,
    /// It can be seen in a measurement to the microsecond.
    Spoils,
    /// Nothing here tells: neither good nor bad.
    Unknown,
}

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// Stable name, `kebab-case`.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = super::KEBAB)))]
    pub code: String,
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub what: String,
    /// The figure that `what` rests on, where there is one.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: Option<String>,
    /// What this does to a measurement where it is not as it should be.
    pub effect: String,
    /// The command that shows it.
    pub show: String,
    /// The command that mends it, where one does.
    pub mend: Option<String>,
    /// The command that undoes that.
    pub undo: Option<String>,
}
