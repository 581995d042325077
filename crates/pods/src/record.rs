//! What the store keeps of pods and containers. Fields are only added, each with a default: a newer Berth reads what
//! an older one wrote.

use berth_ids::{ContainerId, ImageId, SandboxId};
use berth_model::{ContainerConfig, ContainerState, ExitReason, Resources, SandboxConfig, Signal, UnixNanos};
use berth_plan::{RecordedSpec, ResolvedUser};
use berth_shim_wire::ExitStatus;
use serde::{Deserialize, Serialize};

use crate::ports::Attachment;

/// How far a sandbox is; written before the step it names, so that a restart knows what to undo or finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Being made: a restart takes it down again.
    Creating,
    Ready,
    /// Stopped, or its shim is gone: nothing of it runs.
    NotReady,
    /// Being removed: a restart finishes that.
    Removing,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub id: SandboxId,
    pub phase: Phase,
    pub created_at: UnixNanos,
    pub config: SandboxConfig,
    /// The cgroup below which its containers' cgroups are.
    pub cgroup_parent: String,
    #[serde(default)]
    pub attachment: Option<Attachment>,
    /// What UpdatePodSandboxResources said last.
    #[serde(default)]
    pub resources: Option<Resources>,
    #[serde(default)]
    pub overhead: Option<Resources>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: ContainerId,
    pub sandbox_id: SandboxId,
    pub created_at: UnixNanos,
    pub config: ContainerConfig,
    pub image_id: ImageId,
    pub image_ref: String,
    pub user: ResolvedUser,
    pub stop_signal: Signal,
    /// Absolute; empty for no log.
    pub log_path: String,
    pub cgroup_path: String,
    pub run: ContainerRun,
    /// As it was started with; exec takes environment, user and limits from it.
    #[serde(default)]
    pub spec: Option<RecordedSpec>,
    /// Images mounted as volumes, in the order of the configuration's mounts that name one.
    #[serde(default)]
    pub image_volumes: Vec<ImageId>,
    /// Being removed: a restart finishes that.
    #[serde(default)]
    pub removing: bool,
    /// What was asked for and could not be given in full.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The part of a container that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRun {
    pub state: ContainerState,
    /// On the host; 0 unless it runs.
    pub pid: u32,
    pub started_at: UnixNanos,
    pub finished_at: UnixNanos,
    pub exit_code: i32,
    pub reason: Option<ExitReason>,
    pub message: String,
}

impl ContainerRun {
    pub(crate) fn created() -> Self {
        Self {
            state: ContainerState::Created,
            pid: 0,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: None,
            message: String::new(),
        }
    }

    pub(crate) fn running(&mut self, pid: u32, started_at: UnixNanos) {
        (self.state, self.pid, self.started_at) = (ContainerState::Running, pid, started_at);
    }

    pub(crate) fn ended(&mut self, status: ExitStatus) {
        self.state = ContainerState::Exited;
        self.pid = 0;
        self.finished_at = status.finished_at.max(self.started_at);
        self.exit_code = status.code;
        self.reason = Some(match status {
            ExitStatus { oom_killed: true, .. } => ExitReason::OomKilled,
            ExitStatus { code: 0, .. } => ExitReason::Completed,
            _ => ExitReason::Error,
        });
    }

    /// It never ran: exit code 128 (what the kubelet knows as StartError).
    pub(crate) fn start_failed(&mut self, at: UnixNanos, message: String) {
        self.state = ContainerState::Exited;
        (self.started_at, self.finished_at, self.exit_code) = (at, at, 128);
        (self.reason, self.message) = (Some(ExitReason::StartError), message);
    }

    /// Nobody saw the end: exit code 255.
    pub(crate) fn lost(&mut self, at: UnixNanos, message: &str) {
        self.state = ContainerState::Exited;
        self.pid = 0;
        (self.finished_at, self.exit_code) = (at.max(self.started_at), 255);
        (self.reason, self.message) = (Some(ExitReason::Unknown), message.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_an_end() {
        let exit = |code, signal, oom_killed| ExitStatus { code, signal, oom_killed, finished_at: 5 };
        for (status, reason) in [
            (exit(0, 0, false), ExitReason::Completed),
            (exit(3, 0, false), ExitReason::Error),
            (exit(137, 9, false), ExitReason::Error),
            (exit(137, 9, true), ExitReason::OomKilled),
        ] {
            let mut run = ContainerRun::created();
            run.running(9, 3);
            run.ended(status);
            assert_eq!((run.reason, run.exit_code, run.pid), (Some(reason), status.code, 0), "{status:?}");
        }
    }

    #[test]
    fn an_end_is_never_before_its_start() {
        let mut run = ContainerRun::created();
        run.running(9, 10);
        run.ended(ExitStatus { code: 0, signal: 0, oom_killed: false, finished_at: 4 });
        assert_eq!(run.finished_at, 10);
    }
}
