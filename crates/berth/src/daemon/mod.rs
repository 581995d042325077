//! The daemon around the runtime: what any node daemon needs, and nothing about pods.
//!
//! Order: directories, lock, log, admin socket, [`crate::wiring::build`], CRI socket, READY; then until SIGTERM,
//! SIGINT or a reset: serve; then STOPPING and a bounded drain. The pods never notice.

mod error;
mod heap;
mod limits;
mod lock;
mod logging;
mod paths;
mod serve;
mod signals;
mod socket;

pub(crate) use error::DaemonError;
pub(crate) use paths::{boot_id, find_shim};
pub(crate) use serve::{Wired, serve};
