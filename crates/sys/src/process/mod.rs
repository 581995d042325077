//! Processes: born with clone3(2), held by pidfds, waited for, and made less than root before they run foreign code.

mod clone;
mod control;
mod credentials;
mod wait;

pub use clone::{CloneFlags, Cloned, clone3};
pub use control::{
    enter, ignore_child_stop, limit_heap_arenas, reset_signals, session_leader, set_child_subreaper,
    set_dumpable, set_hostname, set_no_new_privs, set_parent_death_signal, set_rlimit, trim_heap, umask,
    unshare,
};
pub use credentials::{
    Capabilities, clear_ambient, drop_bounding, install_seccomp, keep_capabilities, raise_ambient,
    set_capabilities, set_gid, set_groups, set_uid,
};
pub use wait::{Exit, is_gone, kill_group, open_pidfd, send_signal, wait_any, wait_for};

#[cfg(test)]
mod tests;
