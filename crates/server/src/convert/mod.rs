//! Proto to model and back. What a field may not hold is refused by its name as the proto spells it.

mod container;
mod image;
mod sandbox;
mod security;
mod stats;
mod status;
mod streams;

pub(crate) use container::{container_config, resources, to_resources};
pub(crate) use image::{auth, image, image_spec, to_image_spec};
pub(crate) use sandbox::sandbox_config;
pub(crate) use security::to_namespaces;
pub(crate) use stats::{
    container_stats, container_stats_filter, filesystem, life_event, sandbox_stats, sandbox_stats_filter,
};
pub(crate) use status::{
    container_filter, container_status, container_summary, sandbox_filter, sandbox_status, sandbox_summary,
};
pub(crate) use streams::streams;

use std::collections::HashMap;

use berth_ids::ErrorClass;
use berth_model::StringMap;

use crate::Failure;

pub(crate) fn invalid(field: impl std::fmt::Display, problem: impl std::fmt::Display) -> Failure {
    Failure::new(ErrorClass::InvalidArgument, format!("{field}: {problem}"))
}

/// An id field that must name something.
pub(crate) fn id<'a>(field: &str, text: &'a str) -> Result<&'a str, Failure> {
    if text.is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    // Ids are hex; what is longer or has other characters names nothing, and a path least of all.
    if text.len() > 64 || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(Failure::new(
            ErrorClass::NotFound,
            format!("{field}: no object {:?}", text.chars().take(80).collect::<String>()),
        ));
    }
    Ok(text)
}

/// Labels, annotations and the like: kept byte for byte, bounded in number and size.
pub(crate) fn map(field: &str, map: HashMap<String, String>) -> Result<StringMap, Failure> {
    const BYTES: usize = 1024 * 1024;
    let size: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    match size > BYTES {
        true => Err(invalid(field, "is larger than 1 MiB")),
        false => Ok(map.into_iter().collect()),
    }
}

pub(crate) fn to_map(map: StringMap) -> HashMap<String, String> {
    map.into_iter().collect()
}

/// An enum field; a number the contract does not know is refused, not taken as the default.
pub(crate) fn known<T: TryFrom<i32>>(field: impl std::fmt::Display, number: i32) -> Result<T, Failure> {
    T::try_from(number).map_err(|_| invalid(field, format!("unknown value {number}")))
}
