//! A sandbox's verbs, one file each.

mod connect;
mod connection;
mod expire;
mod remove;
mod run;
mod status;
mod stop;
mod update;

pub(crate) use connect::connect;
pub use connection::Connection;
pub(crate) use connection::{connection, connections, resolv_conf};
pub(crate) use expire::expire;
pub(crate) use remove::{finish_removal, remove};
pub(crate) use run::run;
pub(crate) use status::{describe, list, matching, status};
pub(crate) use stop::{release, stop};
pub(crate) use update::update;
