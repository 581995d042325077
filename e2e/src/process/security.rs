//! What a container is kept from and what it is given: capabilities, profiles and labels, clamped values, the image's volumes.

use anyhow::Result;
use berth_cri_api::v1::security_profile::ProfileType;
use berth_cri_api::v1::*;

use super::{Lab, RICH, owned, security};
use crate::checks::Checks;
use crate::daemon::Daemon;

pub(super) async fn run(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    capabilities(checks, lab).await?;
    profiles(checks, lab).await?;
    clamped(checks, lab).await?;
    volumes(checks, lab).await
}

async fn capabilities(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    let bound = std::fs::read_to_string("/proc/self/status")?;
    let bound =
        bound.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default().trim().to_owned();
    let all = u64::from_str_radix(&bound, 16)?;
    for (what, add, drop, expected) in [
        ("the default", &[][..], &[][..], 0xa804_25fb),
        ("drop ALL", &[], &["ALL"], 0),
        ("drop ALL, add one, with its prefix", &["CAP_NET_RAW"], &["ALL"], 1 << 13),
        ("add ALL", &["ALL"], &[], all),
        ("add ALL, drop one", &["all"], &["sys_admin"], all & !(1 << 21)),
    ] {
        let said = lab
            .said(&|c| {
                c.args = owned(&["cat", "/proc/self/status"]);
                security(c).capabilities = Some(Capability {
                    add_capabilities: owned(add),
                    drop_capabilities: owned(drop),
                    ..Default::default()
                });
            })
            .await?;
        let wanted = format!("{expected:016x}");
        let right = ["CapPrm:", "CapEff:", "CapBnd:"].iter().all(|set| {
            said.lines().any(|line| line.strip_prefix(set).is_some_and(|found| found.trim() == wanted))
        });
        checks.that(&format!("capabilities: {what}"), right, said);
    }
    Ok(())
}

async fn profiles(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    for kind in [ProfileType::RuntimeDefault, ProfileType::Localhost] {
        let profile = SecurityProfile { profile_type: kind.into(), localhost_ref: "some-profile".into() };
        let said = lab.refusal(&|c| security(c).apparmor = Some(profile.clone())).await;
        checks.that(
            &format!("AppArmor {}: refused, not ignored", kind.as_str_name()),
            said.contains("apparmor"),
            said,
        );
    }
    let unconfined = SecurityProfile { profile_type: ProfileType::Unconfined.into(), ..Default::default() };
    let id = lab.start(&|c| security(c).apparmor = Some(unconfined.clone())).await?;
    checks.that("AppArmor Unconfined: what it is anyway", true, "");
    lab.kill(&id).await?;
    let label = SeLinuxOption { r#type: "spc_t".into(), ..Default::default() };
    let made = lab.start(&|c| security(c).selinux_options = Some(label.clone())).await;
    match std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        true => {
            let said = made.err().map(|e| format!("{e:#}")).unwrap_or_default();
            checks.that("SELinux options: refused, not ignored", said.contains("selinux_options"), said);
        }
        false => {
            let id = made?;
            let warnings = lab.client.info(&id).await?["warnings"].to_string();
            checks.that(
                "SELinux options on a host without: the status says so",
                warnings.contains("selinux_options"),
                warnings,
            );
            lab.kill(&id).await?;
        }
    }
    Ok(())
}

/// What the kernel does not let us give is clamped, with a word.
async fn clamped(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    let low = std::fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse::<i64>()? - 1;
    let asked = low.clamp(-998, 1000);
    let id = lab
        .start(&|c| {
            c.linux.get_or_insert_default().resources =
                Some(LinuxContainerResources { oom_score_adj: asked, ..Default::default() });
        })
        .await?;
    let is = lab.tool(&id, &["cat", "/proc/1/oom_score_adj"]).await?;
    let warnings = lab.client.info(&id).await?["warnings"].to_string();
    let given = is.trim() == asked.to_string();
    let said = warnings.contains("oom_score_adj");
    checks.that(
        "oom_score_adj below ours: given, or clamped and said",
        given != said,
        format!("{is} {warnings}"),
    );
    let kept = lab.client.status(&id).await?.resources.and_then(|r| r.linux).map(|l| l.oom_score_adj);
    checks.that("  the status has what was asked for", kept == Some(asked), format!("{kept:?}"));
    lab.kill(&id).await
}

/// The image's VOLUMEs: its content with owners and modes, and nothing written there reaches the image.
async fn volumes(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    let rich = |c: &mut ContainerConfig| {
        c.image = Some(ImageSpec { image: RICH.into(), ..Default::default() });
        security(c).run_as_user = Some(Int64Value { value: 33 });
        security(c).run_as_group = Some(Int64Value { value: 50 });
        security(c).readonly_rootfs = true;
    };
    let first = lab.start(&rich).await?;
    for (what, path, expected) in [
        ("a volume of the image has its owner and mode", "/data", "33 50 42750 "),
        ("  and its files theirs", "/data/kept", "33 50 100640 12 "),
        ("  and its directories", "/data/below", "33 50 40700 "),
    ] {
        let stat = lab.tool(&first, &["stat", path]).await?;
        checks.that(what, stat.starts_with(expected), stat);
    }
    let link = lab.tool(&first, &["link", "/data/link"]).await?;
    checks.that("  and its links", link == "kept\n", link);
    let written = lab.tool(&first, &["write", "/data/kept", "changed"]).await?;
    checks.that("  it is writable, also with a read-only root", written.is_empty(), written);
    let second = lab.start(&rich).await?;
    let text = lab.tool(&second, &["cat", "/data/kept"]).await?;
    checks.that("  another container has the image's again", text == "of the image", text);
    let over = lab.home.join("over");
    std::fs::create_dir_all(&over)?;
    std::fs::write(over.join("kept"), "of the host")?;
    let third = lab
        .start(&|c| {
            rich(c);
            c.mounts = vec![crate::mounts::mount(&over, "/data")];
        })
        .await?;
    let text = lab.tool(&third, &["cat", "/data/kept"]).await?;
    checks.that("  a mount of the request's takes its place", text == "of the host", text);
    for id in [first, second, third] {
        lab.kill(&id).await?;
    }
    Ok(())
}

/// `pods.privileged_without_host_devices`, with a daemon that has it.
pub(super) async fn without_host_devices(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    for with in [true, false] {
        daemon.flags = match with {
            true => Vec::new(),
            false => owned(&["--pods-privileged-without-host-devices", "true"]),
        };
        daemon.kill()?;
        daemon.start().await?;
        let mut lab = Lab::new(daemon, if with { "devices" } else { "no-devices" }).await?;
        let id = lab.start(&|c| security(c).privileged = true).await?;
        let names = lab.tool(&id, &["ls", "/dev"]).await?;
        let has = names.lines().any(|name| name == "kmsg");
        lab.tool(&id, &["node", "/kmsg", "1", "11"]).await?;
        let opened = lab.tool(&id, &["reopen", "/kmsg"]).await?;
        let status = lab.tool(&id, &["cat", "/proc/self/status"]).await?;
        let privileged = status.contains("Seccomp:\t0") && status.contains("NoNewPrivs:\t0");
        let (what, right) = match with {
            true => ("privileged: the host's devices, and any other", has && opened.is_empty()),
            false => (
                "privileged_without_host_devices: neither, and privileged all the same",
                !has && opened.contains("os error 1)") && privileged,
            ),
        };
        checks.that(what, right, names + &opened);
        lab.end().await?;
    }
    Ok(())
}
