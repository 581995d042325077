//! The OCI runtime spec, section by section: each rule for Linux containers that CRI can bring about, and what shows inside a
//! container that it holds. Where a rule is another lane's, the table says whose:
//!
//! | section | rule | lane |
//! |---|---|---|
//! | config-linux, Namespaces | joined by path; the host's where none is asked for | modes |
//! | config-linux, User namespace mappings | ids of the container and of the host | userns |
//! | config-linux, Control Groups | limits, devices, attached before the program runs | stats, escapes |
//! | config, Mounts | options, propagation, what is mounted below | mounts |
//! | runtime, Lifecycle | a failed create or start leaves nothing | restart |
//!
//! Hooks, console size, I/O priority, scheduler, time namespaces and Intel RDT are no part of CRI.

use std::os::fd::AsFd as _;

use anyhow::Result;
use berth_cri_api::v1::security_profile::ProfileType;
use berth_cri_api::v1::*;
use berth_sys::mount as sys;

use super::{Lab, Log, Unmounted, owned, security};
use crate::checks::Checks;

/// Section and rule of the spec; a tool of the guest, run in the container; what its output must be.
struct Must {
    section: &'static str,
    rule: &'static str,
    tool: &'static [&'static str],
    holds: fn(&str) -> bool,
}

const fn must(
    section: &'static str,
    rule: &'static str,
    tool: &'static [&'static str],
    holds: fn(&str) -> bool,
) -> Must {
    Must { section, rule, tool, holds }
}

/// A line of /proc/PID/status, proc_pid_status(5).
fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Filesystem type and mount options at a path, of proc_pid_mountinfo(5).
fn mounted(text: &str, at: &str) -> (String, String) {
    let line = text.lines().rfind(|line| line.split(' ').nth(4) == Some(at)).unwrap_or_default();
    let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next());
    (kind.unwrap_or_default().to_owned(), line.split(' ').nth(5).unwrap_or_default().to_owned())
}

fn is(text: &str, at: &str, kind: &str, options: &[&str]) -> bool {
    let (found, has) = mounted(text, at);
    found == kind && options.iter().all(|wanted| has.split(',').any(|option| option == *wanted))
}

/// The whole set of containers by default with NET_ADMIN, without KILL.
const CAPS: &str = "00000000a80435db";
const STATUS: &[&str] = &["cat", "/proc/1/status"];
const MOUNTS: &[&str] = &["cat", "/proc/1/mountinfo"];

/// Of a container of root's with a read-only root.
const ROOT: &[Must] = &[
    must("config, Root", "readonly: the root filesystem is read-only", &["write", "/x", "y"], |t| {
        t.contains("os error 30")
    }),
    must("config, Mounts", "entries are mounted in their order: the first", &["cat", "/m/file"], |t| {
        t == "first"
    }),
    must("config, Mounts", "  and the second in it", &["cat", "/m/sub/file"], |t| t == "second"),
    must("config, Mounts", "ro is read-only", &["write", "/m/new", "y"], |t| t.contains("os error 30")),
    must(
        "config, Process",
        "cwd is where the process is, made if it is not there",
        &["link", "/proc/1/cwd"],
        |t| t == "/not/there/yet\n",
    ),
    must("config, Process", "env is its environment", &["cat", "/proc/1/environ"], |t| {
        t.split('\0').any(|entry| entry == "KEY=a value=with signs")
    }),
    must("config, Process", "args are its arguments", &["cat", "/proc/1/cmdline"], |t| {
        t == "/guest\0sleep\x001000\0"
    }),
    must("config, Process", "terminal: without it there is none", &["link", "/proc/1/fd/0"], |t| {
        t == "/dev/null\n"
    }),
    must("config, Process", "additional descriptors are closed", &["ls", "/proc/1/fd"], |t| t == "0\n1\n2\n"),
    must("config, POSIX process", "rlimits: soft and hard", &["cat", "/proc/1/limits"], |t| {
        let line = t.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
        let limits: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        limits.first() == Some(&1024) && limits.get(1).is_some_and(|hard| (1024..=524_288).contains(hard))
    }),
    must("config, Linux Process", "capabilities.effective", STATUS, |t| field(t, "CapEff:") == CAPS),
    must("config, Linux Process", "capabilities.permitted", STATUS, |t| field(t, "CapPrm:") == CAPS),
    must("config, Linux Process", "capabilities.bounding", STATUS, |t| field(t, "CapBnd:") == CAPS),
    must("config, Linux Process", "capabilities.inheritable", STATUS, |t| {
        field(t, "CapInh:") == "0000000000000000"
    }),
    must("config, Linux Process", "capabilities.ambient", STATUS, |t| {
        field(t, "CapAmb:") == "0000000000000000"
    }),
    must("config, Linux Process", "noNewPrivileges: not unless asked", STATUS, |t| {
        field(t, "NoNewPrivs:") == "0"
    }),
    must("config, Linux Process", "oomScoreAdj", &["cat", "/proc/1/oom_score_adj"], |t| t == "500\n"),
    must("config, User", "uid", STATUS, |t| field(t, "Uid:") == "0 0 0 0"),
    must("config, User", "gid", STATUS, |t| field(t, "Gid:") == "0 0 0 0"),
    must("config, User", "additionalGids", STATUS, |t| field(t, "Groups:") == "0 1000 70000"),
    must("config, User", "umask", STATUS, |t| field(t, "Umask:") == "0022"),
    must("config, Hostname", "as processes see it", &["cat", "/proc/sys/kernel/hostname"], |t| {
        t == "process\n"
    }),
    must("config-linux, Default Filesystems", "/proc", MOUNTS, |t| {
        is(t, "/proc", "proc", &["rw", "nosuid", "nodev", "noexec"])
    }),
    must("config-linux, Default Filesystems", "/sys", MOUNTS, |t| {
        is(t, "/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"])
    }),
    must("config-linux, Default Filesystems", "/dev/pts", MOUNTS, |t| {
        is(t, "/dev/pts", "devpts", &["rw", "nosuid", "noexec"])
    }),
    must("config-linux, Default Filesystems", "/dev/shm", MOUNTS, |t| {
        is(t, "/dev/shm", "tmpfs", &["rw", "nosuid", "nodev", "noexec"])
    }),
    must("Kubernetes", "/dev, /dev/mqueue and /sys/fs/cgroup besides", MOUNTS, |t| {
        is(t, "/dev", "tmpfs", &["rw", "nosuid"])
            && is(t, "/dev/mqueue", "mqueue", &["rw", "nosuid", "nodev", "noexec"])
            && mounted(t, "/sys/fs/cgroup").1.split(',').any(|option| option == "ro")
    }),
    must("config-linux, Default Devices", "/dev/null", &["stat", "/dev/null"], |t| t == "0 0 20666 0 259\n"),
    must("config-linux, Default Devices", "/dev/zero", &["stat", "/dev/zero"], |t| t == "0 0 20666 0 261\n"),
    must("config-linux, Default Devices", "/dev/full", &["stat", "/dev/full"], |t| t == "0 0 20666 0 263\n"),
    must("config-linux, Default Devices", "/dev/random", &["stat", "/dev/random"], |t| {
        t == "0 0 20666 0 264\n"
    }),
    must("config-linux, Default Devices", "/dev/urandom", &["stat", "/dev/urandom"], |t| {
        t == "0 0 20666 0 265\n"
    }),
    must("config-linux, Default Devices", "/dev/tty", &["stat", "/dev/tty"], |t| t == "0 0 20666 0 1280\n"),
    must(
        "config-linux, Default Devices",
        "/dev/ptmx is that of the container",
        &["link", "/dev/ptmx"],
        |t| t == "pts/ptmx\n",
    ),
    must("config-linux, Default Devices", "  which everybody may open", &["stat", "/dev/pts/ptmx"], |t| {
        t == "0 0 20666 0 1282\n"
    }),
    must("runtime-linux, Dev symbolic links", "/dev/fd", &["link", "/dev/fd"], |t| t == "/proc/self/fd\n"),
    must("runtime-linux, Dev symbolic links", "/dev/stdin", &["link", "/dev/stdin"], |t| {
        t == "/proc/self/fd/0\n"
    }),
    must("runtime-linux, Dev symbolic links", "/dev/stdout", &["link", "/dev/stdout"], |t| {
        t == "/proc/self/fd/1\n"
    }),
    must("runtime-linux, Dev symbolic links", "/dev/stderr", &["link", "/dev/stderr"], |t| {
        t == "/proc/self/fd/2\n"
    }),
    must(
        "config-linux, Masked Paths",
        "a masked file cannot be read",
        &["cat", "/proc/interrupts"],
        str::is_empty,
    ),
    must("config-linux, Masked Paths", "a masked directory is empty", &["ls", "/sys/kernel"], str::is_empty),
    must("config-linux, Masked Paths", "one that is not there is no error", &["ls", "/proc/no-such"], |t| {
        t.contains("os error 2")
    }),
    must(
        "config-linux, Readonly Paths",
        "refuse writes",
        &["write", "/proc/sys/net/ipv4/ip_forward", "0"],
        |t| t.contains("os error 30"),
    ),
    must(
        "config-linux, Sysctl",
        "has its value",
        &["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"],
        |t| t == "7\n",
    ),
    must("config-linux, Seccomp", "a filter is installed", STATUS, |t| field(t, "Seccomp:") == "2"),
    must("config-linux, Seccomp", "  and refuses with its errno", &["unshare"], |t| {
        t.contains("os error 1)")
    }),
    must(
        "config-linux, Control Groups",
        "the process is in them, and sees them as roots",
        &["cat", "/proc/1/cgroup"],
        |t| !t.is_empty() && t.lines().all(|line| line.ends_with(":/")),
    ),
];

/// Of a container of a user's, with a writable root.
const USER: &[Must] = &[
    must("config, User", "uid", STATUS, |t| field(t, "Uid:") == "33 33 33 33"),
    must("config, User", "gid", STATUS, |t| field(t, "Gid:") == "77 77 77 77"),
    must("config, Root", "not readonly: it is writable", &["cat", "/proc/1/mountinfo"], |t| {
        mounted(t, "/").1.split(',').any(|option| option == "rw")
    }),
    must("config, Linux Process", "noNewPrivileges", STATUS, |t| field(t, "NoNewPrivs:") == "1"),
    must("config, Linux Process", "capabilities.ambient: they survive execve", STATUS, |t| {
        field(t, "CapAmb:") == "0000000000000400"
    }),
    must("config, Linux Process", "  as inheritable", STATUS, |t| field(t, "CapInh:") == "0000000000000400"),
    must("config, Linux Process", "  and are effective, alone", STATUS, |t| {
        field(t, "CapEff:") == "0000000000000400" && field(t, "CapPrm:") == "0000000000000400"
    }),
    must(
        "config, Linux Process",
        "oomScoreAdj: unset is the default of a process",
        &["cat", "/proc/1/oom_score_adj"],
        |t| t == "0\n",
    ),
    must("config-linux, Seccomp", "without a profile there is no filter", STATUS, |t| {
        field(t, "Seccomp:") == "0"
    }),
    must(
        "config-linux, Masked Paths",
        "none asked for (procMount Unmasked): nothing is hidden",
        &["cat", "/proc/interrupts"],
        |t| t.contains("CPU0"),
    ),
    must("config-linux, Masked Paths", "  nor read-only", MOUNTS, |t| {
        t.lines().filter(|line| line.split(' ').nth(4).is_some_and(|at| at.starts_with("/proc"))).count() == 1
    }),
];

async fn table(checks: &mut Checks, lab: &mut Lab, id: &str, rules: &[Must]) -> Result<()> {
    for rule in rules {
        let text = lab.tool(id, rule.tool).await?;
        checks.that(&format!("{}: {}", rule.section, rule.rule), (rule.holds)(&text), text);
    }
    Ok(())
}

pub(super) async fn run(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    for (directory, text) in [("first", "first"), ("second", "second")] {
        let directory = lab.home.join(directory);
        std::fs::create_dir_all(directory.join("sub"))?;
        std::fs::write(directory.join("file"), text)?;
    }
    let mount = |lab: &Lab, from: &str, to: &str| crate::mounts::mount(&lab.home.join(from), to);
    let mounts = vec![Mount { readonly: true, ..mount(lab, "first", "/m") }, mount(lab, "second", "/m/sub")];
    let root = lab
        .create(&|c| {
            c.working_dir = "/not/there/yet".into();
            c.envs = vec![KeyValue { key: "KEY".into(), value: b"a value=with signs".to_vec() }];
            c.mounts = mounts.clone();
            let s = security(c);
            s.readonly_rootfs = true;
            s.supplemental_groups = vec![70000, 1000];
            s.seccomp = Some(SecurityProfile::default());
            s.masked_paths = owned(&["/proc/interrupts", "/sys/kernel", "/proc/no-such"]);
            s.readonly_paths = owned(&["/proc/sys", "/proc/no-such"]);
            s.capabilities = Some(Capability {
                add_capabilities: owned(&["NET_ADMIN"]),
                drop_capabilities: owned(&["KILL"]),
                ..Default::default()
            });
            c.linux.get_or_insert_default().resources =
                Some(LinuxContainerResources { oom_score_adj: 500, ..Default::default() });
        })
        .await?;
    let created = lab.client.status(&root).await?;
    let state = created.state == i32::from(ContainerState::ContainerCreated);
    checks.that(
        "runtime, State: created, and nothing runs",
        state && created.started_at == 0,
        format!("{created:?}"),
    );
    let early = lab.client.exec(&root, &["true"]).await.err().map(|e| format!("{e:#}")).unwrap_or_default();
    checks.that("  an exec in it is refused", early.contains("not running"), early);
    lab.client.start(&root).await?;
    let again = lab.client.start(&root).await.err().map(|e| format!("{e:#}")).unwrap_or_default();
    checks.that("runtime, Start: only what is created", again.contains("is running, not created"), again);
    table(checks, lab, &root, ROOT).await?;
    for kind in ["mnt", "pid", "cgroup", "ipc", "uts", "net", "user"] {
        let path = format!("/proc/1/ns/{kind}");
        let inside = lab.tool(&root, &["link", &path]).await?;
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        let same = inside.trim() == host.to_string_lossy();
        // A user namespace was not asked for: then it is inherited.
        let what = if kind == "user" { "not listed, the runtime's" } else { "one of its own" };
        checks.that(&format!("config-linux, Namespaces: {kind}: {what}"), same == (kind == "user"), inside);
    }
    lab.kill(&root).await?;
    let ended = lab.client.status(&root).await?;
    let state = ended.state == i32::from(ContainerState::ContainerExited) && ended.exit_code == 137;
    checks.that("runtime, Kill: stopped", state, format!("{ended:?}"));
    let again = lab.client.start(&root).await.err().map(|e| format!("{e:#}")).unwrap_or_default();
    checks.that("  and not started again", again.contains("is exited, not created"), again);
    lab.client.runtime.remove_container(RemoveContainerRequest { container_id: root }).await?;
    let kept = std::fs::read_to_string(lab.home.join("second/file"))?;
    checks.that("runtime, Delete: what it did not make stays", kept == "second", kept);

    let user = lab
        .start(&|c| {
            let s = security(c);
            s.run_as_user = Some(Int64Value { value: 33 });
            s.run_as_group = Some(Int64Value { value: 77 });
            s.no_new_privs = true;
            s.seccomp =
                Some(SecurityProfile { profile_type: ProfileType::Unconfined.into(), ..Default::default() });
            s.capabilities = Some(Capability {
                add_ambient_capabilities: owned(&["NET_BIND_SERVICE"]),
                ..Default::default()
            });
        })
        .await?;
    table(checks, lab, &user, USER).await?;
    lab.kill(&user).await?;
    devices(checks, lab).await?;
    propagation(checks, lab).await?;
    terminal(checks, lab).await
}

/// The rules of the device controller hold beyond the nodes that were made.
async fn devices(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    let id = lab
        .start(&|c| {
            c.devices = vec![Device {
                host_path: "/dev/zero".into(),
                container_path: "/dev/own/zero".into(),
                permissions: "r".into(),
            }];
        })
        .await?;
    // Linux, Documentation/admin-guide/devices.txt: 1:11 is /dev/kmsg.
    let made = lab.tool(&id, &["node", "/kmsg", "1", "11"]).await?;
    let opened = lab.tool(&id, &["reopen", "/kmsg"]).await?;
    checks.that(
        "config-linux, Allowed Device list: another device can be made, not opened",
        made.is_empty() && opened.contains("os error 1)"),
        made + &opened,
    );
    let stat = lab.tool(&id, &["stat", "/dev/own/zero"]).await?;
    checks.that("config-linux, Devices: one that was asked for, at its path", stat.ends_with(" 261\n"), stat);
    lab.kill(&id).await
}

/// The root propagates as its mounts need it, and what is mounted on the host later arrives, or does not.
async fn propagation(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    let host = lab.home.join("spreads");
    let below = host.join("below");
    std::fs::create_dir_all(&host)?;
    let small = || sys::Context::open(c"tmpfs")?.mount(sys::Attributes::default());
    let tmpfs = small()?;
    sys::attach(tmpfs.as_fd(), std::fs::File::open(&host)?.as_fd())?;
    let _host = Unmounted(host.clone());
    sys::set_propagation(tmpfs.as_fd(), sys::Propagation::Shared, false)?;
    std::fs::create_dir(&below)?;
    let mut started = Vec::new();
    for (propagation, root, arrives) in [
        (MountPropagation::PropagationPrivate, "", false),
        // A slave of nobody: a new root has no peers.
        (MountPropagation::PropagationHostToContainer, "", true),
        (MountPropagation::PropagationBidirectional, "shared:", true),
    ] {
        let privileged = propagation == MountPropagation::PropagationBidirectional;
        let mount = Mount { propagation: propagation.into(), ..crate::mounts::mount(&host, "/spreads") };
        let id = lab
            .start(&|c| {
                c.mounts = vec![mount.clone()];
                security(c).privileged = privileged;
            })
            .await?;
        let text = lab.tool(&id, MOUNTS).await?;
        let line =
            text.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap_or_default().to_owned();
        let peers = line.split(" - ").next().unwrap_or_default().split(' ').nth(6).unwrap_or_default();
        let right = if root.is_empty() { peers.is_empty() } else { peers.starts_with(root) };
        checks.that(
            &format!("config-linux, Rootfs Mount Propagation: with {}", propagation.as_str_name()),
            right,
            line,
        );
        started.push((id, propagation, arrives));
    }
    let later = small()?;
    sys::attach(later.as_fd(), std::fs::File::open(&below)?.as_fd())?;
    let _below = Unmounted(below.clone());
    std::fs::write(below.join("late"), "mounted later")?;
    for (id, propagation, arrives) in started {
        let text = lab.tool(&id, &["cat", "/spreads/below/late"]).await?;
        let what = if arrives { "a later mount arrives" } else { "a later mount does not arrive" };
        let right = (text == "mounted later") == arrives;
        checks.that(&format!("config, Mounts: {}: {what}", propagation.as_str_name()), right, text);
        lab.kill(&id).await?;
    }
    Ok(())
}

async fn terminal(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    let id = lab
        .start(&|c| {
            c.tty = true;
            c.args = owned(&["terminal"]);
        })
        .await?;
    let status = lab.client.ended(&id).await?;
    let log = Log::read(std::path::Path::new(&status.log_path))?;
    for (what, line) in [
        ("terminal: all three streams", "terminals [true, true, true]"),
        ("  of which the process leads the session", "session true"),
        ("  as its controlling terminal", "controlling true"),
    ] {
        checks.that(&format!("config, Process: {what}"), log.text().contains(line), log.text());
    }
    let streams = log.0.iter().all(|[_, stream, ..]| stream == "stdout");
    checks.that("  one stream in the log", streams, log.text());
    let id = lab.start(&|c| c.tty = true).await?;
    let console = lab.tool(&id, &["stat", "/dev/console"]).await?;
    // Unix98 terminals have majors from 136 on.
    let number = console.trim().rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
    let is_pty = (136..144).contains(&(number >> 8 & 0xfff));
    checks.that("config-linux, Default Devices: /dev/console, with a terminal", is_pty, console);
    let env = lab.tool(&id, &["cat", "/proc/1/environ"]).await?;
    checks.that("  and TERM", env.split('\0').any(|entry| entry == "TERM=xterm"), env);
    lab.kill(&id).await
}
