//! Ways out of a container that other runtimes had, tried on this one. Each check names the class of CVE it stands for; what
//! cannot be tried through the socket is tried in the tests of the crate that the table names.
//!
//! | rule | class | where it is tried |
//! |---|---|---|
//! | R1 | CVE-2019-5736: the runtime's binary is overwritten | here: `own_program` |
//! | R2 | CVE-2019-16884, CVE-2023-27561: something over /proc | here: `over_proc`; `crates/plan/src/check.rs` |
//! | R3 | CVE-2021-30465, CVE-2026-41579: links in the root | here: `links`; `crates/shim-client/src/log.rs` |
//! | R4 | CVE-2025-31133: the mask's source is replaced | here: `masks` |
//! | R5 | CVE-2024-21626: a leaked directory as working directory | here: `working_directory`, `descriptors` |
//! | R6 | CVE-2021-43784: lengths in the message to the child | `crates/shim-wire/src/tests.rs` |
//! | R7 | CVE-2022-29162, CVE-2023-25809: capabilities, writable cgroups | here: `privileges` |
//! | R8 | CVE-2024-40635, CVE-2026-30892, CVE-2023-25173: user and groups | here: `identity`; `crates/plan/src/user.rs` |
//! | R9 | CVE-2025-4437, CVE-2022-4318: files of the image, lines in ours | here: `files`; `crates/plan/src/sandbox.rs` |
//! | R10 | CVE-2020-15257: the shim's socket in reach | here: `sockets` |
//! | R11 | CVE-2022-0811, CVE-2022-0532, CVE-2026-53488: sysctls and labels that do more | here: `sysctls` |
//! | R13 | CVE-2022-1708: output without end | the process lane's ExecSync of 18 MiB |
//! | R14 | CVE-2025-47291: outside its cgroup | here: `cgroup` |
//! | R15 | CVE-2020-15157: credentials for another host | `crates/registry/src/client.rs` |
//! | R16 | CVE-2020-10749: router advertisements | here: `routers` |

use std::path::Path;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;

use crate::checks::Checks;
use crate::client::{Client, Spec, args, pod};
use crate::daemon::Daemon;
use crate::image::{Entry, write_entries};

const HOSTILE: &str = "berth.test/hostile:1";

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = run(checks, &daemon).await;
    daemon.finish(done).await
}

struct Attack<'a> {
    checks: &'a mut Checks,
    daemon: &'a Daemon,
    client: Client,
    pod: String,
    config: PodSandboxConfig,
}

async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let config = pod("attack", &daemon.path("logs"));
    let pod = client.run_pod(&config).await?;
    let mut attack = Attack { checks, daemon, client, pod, config };
    attack.links().await?;
    attack.own_program().await?;
    attack.over_proc().await?;
    attack.masks().await?;
    attack.working_directory().await?;
    attack.privileges().await?;
    attack.identity().await?;
    attack.sysctls().await?;
    attack.files().await?;
    attack.client.remove_pod(&attack.pod).await
}

impl Attack<'_> {
    async fn start(&mut self, name: &str, spec: Spec) -> Result<String> {
        self.client.run(&self.pod, &self.config, name, spec).await
    }

    /// Created and started, whichever of the two refuses.
    async fn refusal(&mut self, name: &str, spec: Spec) -> String {
        match self.start(name, spec).await {
            Ok(_) => String::new(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// R3: the image's /dev, /etc and a mount's target lead out of its root; nothing of the host may be touched.
    async fn links(&mut self) -> Result<()> {
        let outside = self.daemon.path("outside");
        std::fs::create_dir_all(&outside)?;
        let out = outside.to_string_lossy().into_owned();
        let up = format!("../../../../../../../../../..{out}");
        let entries = [
            Entry::Link("dev", &out),
            Entry::Link("etc/hosts", &up),
            Entry::Link("target", &up),
            Entry::Link("work", &out),
        ];
        let archive = self.daemon.path("hostile.tar");
        write_entries(&archive, HOSTILE, &entries)?;
        self.daemon.import_file(&archive)?;
        let source = self.daemon.path("volume");
        std::fs::create_dir_all(&source)?;
        let mut spec = Spec { image: Some(HOSTILE.into()), ..args(&["sleep", "1000"]) };
        spec.mounts = vec![crate::mounts::mount(&source, "/target/made/by/the/mount")];
        let refused = self.refusal("links", spec).await;
        let left: Vec<_> = std::fs::read_dir(&outside)?.collect();
        self.checks.that(
            "R3 CVE-2021-30465: links of the image lead nowhere on the host",
            left.is_empty(),
            format!("{left:?} {refused}"),
        );
        Ok(())
    }

    /// R1, R5, R10, R14: what a process inside can reach of the runtime.
    async fn own_program(&mut self) -> Result<()> {
        let main = self.start("plain", args(&["sleep", "1000"])).await?;
        let program = self.client.out(&main, &["link", "/proc/1/exe"]).await?;
        self.checks.that(
            "R1 CVE-2019-5736: its program is the image's own",
            program.trim() == "/guest",
            &program,
        );
        let exec = self.client.out(&main, &["link", "/proc/self/exe"]).await?;
        self.checks.that("  also an exec's", exec.trim() == "/guest", &exec);
        let pids = self.client.out(&main, &["pids"]).await?;
        self.checks.that("  no process of the runtime is seen", !pids.contains("shim"), &pids);

        for (whose, path) in [("the container", "/proc/1/fd"), ("an exec", "/proc/self/fd")] {
            let fds = self.client.out(&main, &["ls", path]).await?;
            // The list itself is read through one more.
            let beyond: Vec<_> = fds.lines().filter(|fd| fd.parse::<u32>().is_ok_and(|fd| fd > 3)).collect();
            self.checks.that(
                &format!("R5 CVE-2024-21626: no descriptor leaks into {whose}"),
                beyond.is_empty(),
                fds,
            );
        }
        let sockets = self.client.out(&main, &["cat", "/proc/net/unix"]).await?;
        self.checks.that(
            "R10 CVE-2020-15257: no socket of the runtime in its network",
            !sockets.contains('@') && !sockets.contains("berth"),
            &sockets,
        );
        let state = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(self.daemon.path("state/pods"))?.permissions(),
        );
        self.checks.that("  nor on disk for others", state & 0o077 == 0, format!("{state:o}"));
        let groups = self.client.out(&main, &["cat", "/proc/self/cgroup"]).await?;
        let rooted = groups.lines().all(|line| line.ends_with(":/") || line.contains(":/exec-"));
        self.checks.that("R7: it sees its cgroups as roots", rooted, &groups);
        let request = ContainerStatusRequest { container_id: main.clone(), verbose: true };
        let info = self.client.runtime.container_status(request).await?.into_inner().info;
        let info: serde_json::Value = serde_json::from_str(info.get("info").context("no verbose info")?)?;
        let outside = std::fs::read_to_string(format!("/proc/{}/cgroup", info["pid"]))?;
        let inside = outside.lines().filter(|line| line.contains(&main)).count();
        self.checks.that(
            "R14 CVE-2025-47291: it is in its cgroups",
            inside > 0
                && outside
                    .lines()
                    .filter(|l| l.contains("memory") || l.contains("pids"))
                    .all(|l| l.contains(&main)),
            &outside,
        );
        let ra = self.client.exec(&main, &["cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra"]).await?;
        let ra = String::from_utf8_lossy(&ra.stdout).trim().to_owned();
        self.checks.that(
            "R16 CVE-2020-10749: no router advertisements are taken",
            ra == "0" || ra.is_empty(),
            ra,
        );
        Ok(())
    }

    /// R2: nothing may stand where the runtime's own writes go.
    async fn over_proc(&mut self) -> Result<()> {
        let source = self.daemon.path("volume");
        for target in ["/proc", "/proc/self", "/proc/sys/kernel", "/x/../proc", "//proc/self/attr"] {
            let mut spec = args(&["true"]);
            spec.mounts = vec![crate::mounts::mount(&source, target)];
            let said = self.refusal("over-proc", spec).await;
            self.checks.that(
                &format!("R2 CVE-2019-16884: no mount at {target}"),
                said.contains("container_path"),
                said,
            );
        }
        Ok(())
    }

    /// R4: what is masked stays so, and what is read-only.
    async fn masks(&mut self) -> Result<()> {
        let mut spec = args(&["sleep", "1000"]);
        spec.security.masked_paths =
            ["/proc/interrupts", "/proc/no-such", "/sys/firmware", "/greeting"].map(str::to_owned).to_vec();
        spec.security.readonly_paths = vec!["/proc/sys".into()];
        let main = self.start("masks", spec).await?;
        let masked = self.client.out(&main, &["stat", "/greeting"]).await?;
        // Character device 1:3.
        self.checks.that(
            "R4 CVE-2025-31133: a mask is the null device itself",
            masked.trim().ends_with(" 259"),
            &masked,
        );
        let hidden = self.client.out(&main, &["cat", "/proc/interrupts"]).await?;
        self.checks.that("  masked files are empty", hidden.is_empty(), &hidden);
        let firmware = self.client.out(&main, &["ls", "/sys/firmware"]).await?;
        self.checks.that("  masked directories too", firmware.is_empty(), &firmware);
        let written = self.client.exec(&main, &["write", "/proc/sys/kernel/domainname", "x"]).await?;
        self.checks.that("  read-only paths refuse", written.exit_code != 0, written.exit_code);
        Ok(())
    }

    /// R5: the working directory is inside, whatever its name leads to.
    async fn working_directory(&mut self) -> Result<()> {
        let mut leaked = Vec::new();
        for fd in 3..40 {
            let name = format!("cwd-{fd}");
            let spec = Spec { working_dir: format!("/proc/self/fd/{fd}"), ..args(&["cwd"]) };
            if let Ok(id) = self.start(&name, spec).await {
                self.client.ended(&id).await?;
                leaked.push(fd);
            }
        }
        self.checks.that(
            "R5 CVE-2024-21626: /proc/self/fd/N is no working directory",
            leaked.is_empty(),
            format!("{leaked:?}"),
        );
        Ok(())
    }

    async fn privileges(&mut self) -> Result<()> {
        let main = self.start("privileges", args(&["sleep", "1000"])).await?;
        let status = self.client.out(&main, &["cat", "/proc/1/status"]).await?;
        let field = |name: &str| {
            status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        self.checks.that(
            "R7 CVE-2022-29162: no inheritable capability",
            field("CapInh:") == "0000000000000000",
            &status,
        );
        self.checks.that("  and no ambient one", field("CapAmb:") == "0000000000000000", &status);
        for path in ["/sys/fs/cgroup/new", "/sys/kernel/new"] {
            let done = self.client.exec(&main, &["mkdir", path]).await?;
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            self.checks.that(
                &format!("R7 CVE-2023-25809: {path} cannot be made"),
                said.contains("os error 30"),
                said,
            );
        }
        Ok(())
    }

    async fn identity(&mut self) -> Result<()> {
        type Change = fn(&mut LinuxContainerSecurityContext);
        let attacks: [(&str, &str, Change); 5] = [
            ("a user of 2^32 is not root", "run_as_user", |s| {
                s.run_as_user = Some(Int64Value { value: 1 << 32 })
            }),
            ("a negative user", "run_as_user", |s| s.run_as_user = Some(Int64Value { value: -1 })),
            ("digits are no name", "run_as_username", |s| s.run_as_username = "0000".into()),
            ("a group without a user", "run_as_group", |s| s.run_as_group = Some(Int64Value { value: 5 })),
            ("a group of 2^32", "supplemental_groups", |s| s.supplemental_groups = vec![1 << 32]),
        ];
        for (n, (what, field, change)) in attacks.into_iter().enumerate() {
            let mut spec = args(&["true"]);
            change(&mut spec.security);
            let said = self.refusal(&format!("identity-{n}"), spec).await;
            self.checks.that(&format!("R8 CVE-2024-40635: {what}"), said.contains(field), said);
        }
        Ok(())
    }

    async fn sysctls(&mut self) -> Result<()> {
        for (what, name, value, host_network) in [
            (
                "CVE-2022-0811: more than one value",
                "kernel.shm_rmid_forced",
                "1+kernel.core_pattern=|/x",
                false,
            ),
            ("CVE-2022-0811: a line more", "net.ipv4.ip_forward", "1\nkernel.core_pattern=x", false),
            ("one of the host's", "kernel.core_pattern", "|/x", false),
            ("a path", "net/../kernel/core_pattern", "|/x", false),
            ("CVE-2022-0532: with the host's network", "net.ipv4.ip_forward", "1", true),
        ] {
            let mut config = pod("sysctl", &self.daemon.path("logs"));
            let mut linux = LinuxPodSandboxConfig::default();
            linux.sysctls.insert(name.into(), value.into());
            if host_network {
                let options = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
                linux.security_context = Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                });
            }
            config.linux = Some(linux);
            let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
            let said = match self.client.run_pod(&config).await {
                Ok(id) => {
                    self.client.remove_pod(&id).await?;
                    String::new()
                }
                Err(error) => format!("{error:#}"),
            };
            let untouched = std::fs::read_to_string("/proc/sys/kernel/core_pattern")? == pattern;
            self.checks.that(&format!("R11 {what}"), !said.is_empty() && untouched, said);
        }
        Ok(())
    }

    /// R9: a passwd that is no file, and log paths that leave their directory.
    async fn files(&mut self) -> Result<()> {
        let archive = self.daemon.path("devices.tar");
        write_entries(
            &archive,
            "berth.test/fifo:1",
            &[Entry::Fifo("etc/passwd"), Entry::Link("etc/group", "/dev/zero")],
        )?;
        self.daemon.import_file(&archive)?;
        let mut spec = Spec { image: Some("berth.test/fifo:1".into()), ..args(&["true"]) };
        spec.security.run_as_user = Some(Int64Value { value: 33 });
        let id = tokio::time::timeout(std::time::Duration::from_secs(30), self.start("fifo", spec)).await;
        self.checks.that(
            "R9 CVE-2025-4437: a fifo for a passwd hangs nobody",
            matches!(id, Ok(Ok(_))),
            format!("{id:?}"),
        );
        let outside = self.daemon.path("log-outside");
        std::fs::write(&outside, "kept")?;
        let logs = self.daemon.path("logs/attack");
        std::os::unix::fs::symlink(&outside, logs.join("linked.log"))?;
        let said = self.refusal("linked", args(&["echo", "gone"])).await;
        let kept = std::fs::read_to_string(&outside)?;
        self.checks.that(
            "R3 CVE-2025-0750: a log is not written through a link",
            kept == "kept" && !said.is_empty(),
            kept + &said,
        );
        check_modes(self.checks, self.daemon, Path::new("root"))
    }
}

/// R10: state directories of other users' reach (CVE-2021-41103).
fn check_modes(checks: &mut Checks, daemon: &Daemon, top: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(daemon.path(&top.to_string_lossy()))?.permissions().mode() & 0o777;
    checks.that(
        "R10 CVE-2021-41103: nobody else enters the data directory",
        mode == 0o700,
        format!("{mode:o}"),
    );
    Ok(())
}
