//! What the cloned child does between clone3 and execve: a launch plan, carried out step by step.
//!
//! The child is a copy of the shim, which has one thread, so the allocator's locks are free and memory may be taken;
//! it never returns. Every path inside the container is resolved below its root by openat2(2) into a descriptor once,
//! and mounts go by descriptor: there is no second look at a name that could have become a link meanwhile.

#![allow(unsafe_code)]

mod cgroupfs;
mod child;
mod clone;
mod devices;
mod exec;
mod identity;
mod mounts;
mod process;
mod report;
mod root;
mod userns;

pub use cgroupfs::Hierarchy;
pub use child::{Birth, Streams, launch};
pub use clone::{clone_child, clone_through};
pub use devices::node_name;
pub use exec::{ExecBirth, exec};
pub use report::{Failed, Outcome, Report};
pub use userns::{UserNamespace, become_root_inside, enter_for};
