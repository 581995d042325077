//! What a person's own client asks for that CRI has no field for.

use std::time::Duration;

use berth_model::{ContainerConfig, SandboxConfig};

/// Of a container: its output is not read before somebody attached, and no faster than whoever is attached reads it.
const ATTACH: &str = "berth.attach";
/// Of a sandbox: how many seconds after its last container's end it is removed, with the logs that are its own.
const REMOVE_AFTER: &str = "berth.remove-after";

/// Whether the annotation `berth.attach` is `wait`.
pub fn waits_for_readers(container: &ContainerConfig) -> bool {
    container.annotations.get(ATTACH).is_some_and(|value| value == "wait")
}

/// The annotation `berth.remove-after`; what is no number of seconds is none.
pub fn removed_after(sandbox: &SandboxConfig) -> Option<Duration> {
    let seconds = sandbox.annotations.get(REMOVE_AFTER)?.parse::<u32>().ok()?;
    Some(Duration::from_secs(seconds.into()))
}
