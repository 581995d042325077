//! Control groups through one interface, whatever the host mounted: v2, v1, or v1 with a bare v2 tree beside it.
//!
//! Blocking, file system only (the cgroupfs driver). Never touches a directory other than those it is given and their
//! descendants, and never moves a process it was not given.

mod error;
mod group;
mod hierarchy;
mod leaf;
mod limits;
mod path;
mod processes;
mod usage;
mod v1;
mod v2;
mod v2_devices;
mod writes;

pub use error::CgroupError;
pub use group::Cgroup;
pub use hierarchy::{Cgroups, Kind};
pub use leaf::ExecLeaf;
pub use limits::Limits;
pub use path::CgroupPath;
