use std::io;
use std::path::PathBuf;

use berth_ids::{Classify, ErrorClass};
use berth_shim_wire::StepError;

/// What can go wrong between the daemon and a shim.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("{doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("start the shim")]
    Spawn { source: io::Error },
    #[error("talk to the shim: {0}")]
    Socket(io::Error),
    #[error("the pod's shim is gone")]
    Gone,
    #[error("the shim does not answer within {0:?}")]
    Silent(std::time::Duration),
    #[error("the shim speaks protocol {found}, this Berth speaks {known}")]
    Version { found: u32, known: u32 },
    #[error("the shim gave an answer that does not fit the question")]
    Protocol,
    #[error("the pod's shim is of an older Berth and does not know this; pods made from now on do")]
    OldShim,
    #[error("the reader was more than {limit} bytes behind; what was written since is in the log")]
    Behind { limit: usize },
    #[error("connect to {address} in the pod")]
    Connect { address: std::net::SocketAddr, source: io::Error },
    #[error("{}", describe(.0))]
    Step(StepError),
    #[error("cgroup {path}")]
    Cgroup { path: String, source: berth_cgroup::CgroupError },
    #[error("{field}: {} {problem}", path.display())]
    Source { field: &'static str, path: PathBuf, problem: &'static str },
    #[error("{wanted} descriptors are more than one start can carry ({limit}); use fewer mounts")]
    TooMany { wanted: usize, limit: usize },
    #[error("prepare the root filesystem: {0}")]
    Rootfs(String),
    #[error("container {0} is not running in this pod")]
    NotRunning(String),
    #[error("compile the seccomp profile {name}")]
    Seccomp { name: String, source: berth_seccomp::SeccompError },
}

fn describe(step: &StepError) -> String {
    let cause = if step.errno == 0 {
        String::new()
    } else {
        format!(": {}", io::Error::from_raw_os_error(step.errno))
    };
    let object = if step.object.is_empty() { String::new() } else { format!(" {}", step.object) };
    format!("{}{object}{cause}{}", step.step, hint(step))
}

/// What the kernel's word leaves open, for who wrote the pod: execve(2) has one error for several mistakes.
fn hint(step: &StepError) -> &'static str {
    match (step.step.as_str(), step.errno) {
        ("execve", nix::libc::ENOENT) => "; the image does not have it, or not the interpreter that it names",
        ("execve", nix::libc::EACCES) => "; it is not executable for this user, or lies on a noexec mount",
        ("make the mount point", nix::libc::ENOTDIR) => {
            "; the image has a file there, or on the way there, and the mount needs a directory"
        }
        ("execve", nix::libc::ENOEXEC) => {
            "; it is neither a program for this processor nor a script that begins with #!"
        }
        _ => "",
    }
}

impl Classify for ShimError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Source { .. } | Self::TooMany { .. } => ErrorClass::InvalidArgument,
            Self::Gone | Self::Silent(_) => ErrorClass::Unavailable,
            Self::OldShim => ErrorClass::Unimplemented,
            Self::Behind { .. } => ErrorClass::ResourceExhausted,
            Self::Connect { .. } => ErrorClass::Unavailable,
            Self::NotRunning(_) => ErrorClass::FailedPrecondition,
            Self::Cgroup { source, .. } => source.class(),
            Self::Seccomp { source, .. } => source.class(),
            Self::Step(step) => match step.errno {
                // The shim's word for a container that does not run (any more).
                nix::libc::ESRCH => ErrorClass::FailedPrecondition,
                nix::libc::ENOSPC | nix::libc::EDQUOT | nix::libc::EAGAIN | nix::libc::ENOMEM => {
                    ErrorClass::ResourceExhausted
                }
                _ => ErrorClass::Unknown,
            },
            Self::File { .. }
            | Self::Spawn { .. }
            | Self::Socket(_)
            | Self::Version { .. }
            | Self::Protocol
            | Self::Rootfs(_) => ErrorClass::Internal,
        }
    }
}

impl ShimError {
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_told_for_people() {
        for (step, object, errno, text) in [
            (
                "execve",
                "/x",
                nix::libc::ENOENT,
                "execve /x: No such file or directory (os error 2); the image does not",
            ),
            (
                "execve",
                "/x",
                nix::libc::EACCES,
                "execve /x: Permission denied (os error 13); it is not executable",
            ),
            ("execve", "/x", nix::libc::ENOEXEC, "execve /x: Exec format error (os error 8); it is neither"),
            ("mount", "/x", nix::libc::EBUSY, "mount /x: Device or resource busy (os error 16)"),
            ("clone", "", 0, "clone"),
        ] {
            let told = describe(&StepError { step: step.into(), object: object.into(), errno });
            assert!(told.starts_with(text), "{told}");
            assert_eq!(told.contains(';'), step == "execve", "{told}");
        }
    }
}
