//! A process inside a running container: who the container's process is, with another command.

use berth_ids::ContainerId;
use berth_model::ContainerSecurity;
use berth_shim_wire::{ExecPlan, Identity};

use crate::launch::{identity, rlimits, text, texts};
use crate::{CompiledFilter, HostFacts, PlanError, RecordedSpec, caps};

/// The exec id, cgroups and standard streams are filled in by whoever opens them.
pub fn exec_plan(
    container: &ContainerId,
    spec: &RecordedSpec,
    security: &ContainerSecurity,
    command: &[String],
    tty: bool,
    seccomp: Option<CompiledFilter>,
    host: &HostFacts,
) -> Result<ExecPlan, PlanError> {
    let process = spec.process()?;
    let mut env = process.env.clone();
    if tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    Ok(ExecPlan {
        container_id: container.to_string(),
        exec_id: 0,
        argv: texts("cmd", command)?,
        env: texts("config.envs", &env)?,
        cwd: text("config.working_dir", &process.cwd)?,
        identity: Identity { caps: caps::sets(security, host)?, ..identity(&process, seccomp) },
        rlimits: rlimits(&process),
        oom_score_adj: process.oom_score_adj,
        cgroup_procs: Vec::new(),
        cgroup_dir: None,
        stdio: [None, None, None],
        tty,
        die_with_daemon: false,
        cgroup_kill: None,
    })
}
