//! A sandbox's verbs, one file each.

mod remove;
mod run;
mod status;
mod stop;

pub(crate) use remove::{finish_removal, remove};
pub(crate) use run::run;
pub(crate) use status::{list, status};
pub(crate) use stop::{release, stop};
