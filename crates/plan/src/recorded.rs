//! What is kept of a container's spec: its text. An exec reads the few fields it needs of it; the whole is for people.

use std::sync::Arc;

use oci_spec::runtime::{PosixRlimitType, Spec};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::PlanError;

/// The spec that a container was started with, as JSON. Cloning it copies nothing.
///
/// Text and not [`Spec`]: that is kept for each container and read by execs and verbose status alone.
#[derive(Debug, Clone)]
pub struct RecordedSpec(Arc<RawValue>);

impl RecordedSpec {
    pub fn of(spec: &Spec) -> Result<Self, PlanError> {
        match serde_json::value::to_raw_value(spec) {
            Ok(text) => Ok(Self(text.into())),
            Err(error) => Err(PlanError::invalid("spec", error.to_string())),
        }
    }

    pub(crate) fn process(&self) -> Result<Process, PlanError> {
        #[derive(Deserialize)]
        struct Whole {
            process: Process,
        }
        let read = serde_json::from_str::<Whole>(self.0.get());
        read.map(|whole| whole.process).map_err(|error| PlanError::invalid("spec.process", error.to_string()))
    }
}

impl Serialize for RecordedSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RecordedSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

/// Of `process` in a spec, what a container's processes have in common (OCI runtime spec, config.md).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    #[serde(default)]
    pub env: Vec<String>,
    pub cwd: String,
    pub user: User,
    #[serde(default)]
    pub rlimits: Vec<Limit>,
    #[serde(default)]
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    pub umask: Option<u32>,
    #[serde(default)]
    pub additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Limit {
    #[serde(rename = "type")]
    pub kind: PosixRlimitType,
    pub soft: u64,
    pub hard: u64,
}

impl From<&oci_spec::runtime::Process> for Process {
    fn from(process: &oci_spec::runtime::Process) -> Self {
        let user = process.user();
        let limits = process.rlimits().iter().flatten();
        Self {
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().to_string_lossy().into_owned(),
            user: User {
                uid: user.uid(),
                gid: user.gid(),
                umask: user.umask(),
                additional_gids: user.additional_gids().clone().unwrap_or_default(),
            },
            rlimits: limits
                .map(|limit| Limit { kind: limit.typ(), soft: limit.soft(), hard: limit.hard() })
                .collect(),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: process.oom_score_adj(),
        }
    }
}
