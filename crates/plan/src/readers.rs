//! What a person's own client asks for that CRI has no field for.

use berth_model::ContainerConfig;

/// Of a container: its output is not read before somebody attached, and no faster than whoever is attached reads it.
const ATTACH: &str = "berth.attach";

/// Whether the annotation `berth.attach` is `wait`.
pub fn waits_for_readers(container: &ContainerConfig) -> bool {
    container.annotations.get(ATTACH).is_some_and(|value| value == "wait")
}
