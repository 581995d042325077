//! What CRI and the image ask for, compiled to what the shim does. Pure: no file is opened, no system call made.
//!
//! `container_spec` writes the OCI runtime spec of a container, the form in which every decision is visible to
//! people; `container_plan` turns it into the flat plan that the cloned child executes, plus the list of descriptors
//! the daemon has to open for it. Sandboxes and execs have no spec of their own.

mod annotations;
mod caps;
mod check;
mod command;
mod devices;
mod error;
mod exec;
mod inputs;
mod launch;
mod mounts;
mod recorded;
mod resources;
mod sandbox;
mod spec;
mod sysctls;
mod user;
mod userns;

pub use annotations::{removed_after, waits_for_readers};
pub use caps::bounding_caps;
pub use check::{validate_container, warnings};
pub use command::stop_signal;
pub use error::PlanError;
pub use exec::exec_plan;
pub use inputs::{
    CompiledFilter, ContainerInputs, ContainerPlan, FdSource, HostDevice, HostFacts, Idmap, LogFile,
    MissingSource, Owner, PodFiles, RequestedDevice, SeccompChoice,
};
pub use launch::container_plan;
pub use mounts::image_mounts;
pub use recorded::RecordedSpec;
pub use resources::{cgroup_limits, updated_resources};
pub use sandbox::{sandbox_plan, validate_sandbox};
pub use spec::{container_spec, seccomp_choice};
pub use user::{ResolvedUser, resolve_user};
pub use userns::validate_user;
