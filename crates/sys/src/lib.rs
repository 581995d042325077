//! The one home of unsafe system calls: each raw call private, a safe function public, with its manual page.
//!
//! Linked by the shim: libc and nix only. Owned descriptors in, owned descriptors out; no raw fd or bare pid crosses.
#![allow(unsafe_code)]

/// Device programs of cgroup v2.
pub mod bpf;
/// Descriptors over sockets, memfds, close_range.
pub mod fd;
/// Files that are whole or not there.
pub mod file;
/// fsopen, fsmount, move_mount, open_tree, mount_setattr, overlay.
pub mod mount;
/// Sockets for another namespace's owner.
pub mod net;
/// Work in another network namespace, on a thread of its own.
pub mod netns;
/// openat2: paths inside an untrusted root.
pub mod path;
/// clone3, pidfds, waitid, prctl, capabilities, seccomp install.
pub mod process;
/// Pseudo terminals by descriptor.
pub mod tty;
pub mod userns;
