//! Seccomp profiles compiled to BPF: our own compiler, some microseconds a profile, and a cache.
//!
//! A filter is a balanced tree over ranges of system call numbers: the kernel walks it once for every number when the
//! filter is installed, so its depth is what a start pays for.

mod cache;
mod compile;
mod default;
mod error;
mod profile;
mod syscalls;

pub use cache::Cache;
pub use compile::{Program, compile};
pub use default::default_profile;
pub use error::SeccompError;
pub use profile::{Action, Compare, Condition, Profile, Rule};
