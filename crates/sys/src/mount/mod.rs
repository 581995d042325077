//! The mount interface by descriptors: fsopen(2), fsconfig(2), fsmount(2), move_mount(2), open_tree(2),
//! mount_setattr(2), and the root filesystem of a container made with it.
//!
//! A mount made here is detached: it has no place in any mount namespace until [`attach`] gives it one, and it goes
//! away with its descriptor. Nothing here allocates except [`overlay`].

mod attributes;
mod context;
mod legacy;
mod overlay;
mod tree;

pub use attributes::{Attributes, Propagation, set_attributes, set_idmap, set_propagation};
pub use context::Context;
pub use overlay::{Layer, MAX_LAYERS, Overlay, overlay, overlay_takes_layers_one_by_one};
pub use tree::{attach, attach_at, clone_below, clone_path, clone_tree, detach, pivot_to};

#[cfg(test)]
mod tests;
