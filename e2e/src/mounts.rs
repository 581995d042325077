//! What a container's mounts are, seen from inside it.

use std::path::Path;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use berth_sys::mount as sys;

use crate::checks::Checks;
use crate::client::{Client, Spec, args, pod};
use crate::daemon::{Daemon, IMAGE};

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = run(checks, &daemon).await;
    daemon.finish(done).await
}

pub(crate) fn mount(host: &Path, target: &str) -> Mount {
    Mount {
        host_path: host.to_string_lossy().into_owned(),
        container_path: target.into(),
        ..Default::default()
    }
}

fn image(reference: &str, target: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: target.into(),
        image: Some(ImageSpec { image: reference.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        readonly: true,
        ..Default::default()
    }
}

fn with(mounts: Vec<Mount>) -> Spec {
    Spec { mounts, ..args(&["sleep", "1000"]) }
}

async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let config = pod("mounts", &daemon.path("logs"));
    let pod = client.run_pod(&config).await?;
    let mut lane = Lane { checks, daemon, client, pod, config };
    lane.binds().await?;
    lane.images().await?;
    lane.refusals().await?;
    lane.client.remove_pod(&lane.pod).await
}

struct Lane<'a> {
    checks: &'a mut Checks,
    daemon: &'a Daemon,
    client: Client,
    pod: String,
    config: PodSandboxConfig,
}

impl Lane<'_> {
    async fn binds(&mut self) -> Result<()> {
        let Self { checks, daemon, client, pod: id, config } = self;
        let source = daemon.path("source");
        std::fs::create_dir_all(source.join("below"))?;
        std::fs::write(source.join("file"), "of the host")?;
        // Through a link of the host's, which is followed; and a mount below the source.
        let link = daemon.path("link");
        std::os::unix::fs::symlink(&source, &link)?;
        let tmpfs = sys::Context::open(c"tmpfs")?.mount(sys::Attributes::default())?;
        let place = std::fs::File::open(source.join("below"))?;
        sys::attach(std::os::fd::AsFd::as_fd(&tmpfs), std::os::fd::AsFd::as_fd(&place))?;
        let _below = Unmounted(source.join("below"));
        let missing = daemon.path("missing/here");
        let spec = with(vec![
            // Deliberately the deeper one first.
            Mount { readonly: false, ..mount(&source, "/ro/below/rw") },
            Mount { readonly: true, ..mount(&source, "/ro") },
            Mount { readonly: true, recursive_read_only: true, ..mount(&source, "/rro") },
            mount(&link, "/linked"),
            mount(&source.join("file"), "/etc/one-file"),
            mount(&missing, "/made"),
            Mount {
                mount_options: ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec(),
                ..mount(&source, "/limited")
            },
        ]);
        std::fs::create_dir_all(source.join("below/rw"))?;
        let main = client.run(id, config, "binds", spec).await?;
        for (what, path, works) in [
            ("read-only: refused", "/ro/new", false),
            ("  what is mounted below it is not", "/ro/below/new", true),
            ("  a writable mount in it is writable, asked for in any order", "/ro/below/rw/new", true),
            ("recursively read-only: refused", "/rro/new", false),
            ("  also below", "/rro/below/new", false),
            ("a link of the host's is followed", "/linked/new", true),
            ("a missing host path is made", "/made/new", true),
        ] {
            let done = client.exec(&main, &["write", path, "text"]).await?;
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            let right = if works { done.exit_code == 0 } else { said.contains("os error 30") };
            checks.that(what, right, format!("{path}: {said}"));
        }
        let file = client.out(&main, &["cat", "/etc/one-file"]).await?;
        checks.that("a single file", file == "of the host", &file);
        let mounts = client.out(&main, &["cat", "/proc/self/mounts"]).await?;
        let options = |target: &str| {
            let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(target));
            line.and_then(|line| line.split(' ').nth(3)).unwrap_or_default().to_owned()
        };
        for target in ["/limited", "/limited/below"] {
            let found = options(target);
            let all = ["noexec", "nosuid", "nodev"].iter().all(|o| found.split(',').any(|f| f == *o));
            checks.that(&format!("mount_options hold at {target}"), all, &found);
        }
        let status = client.status(&main).await?;
        checks.that(
            "the status gives the mounts as asked",
            status.mounts.len() == 7,
            format!("{:?}", status.mounts),
        );
        client.stop(&main, std::time::Duration::ZERO).await
    }

    async fn images(&mut self) -> Result<()> {
        let Self { checks, daemon, client, pod: id, config } = self;
        const OTHER: &str = "berth.test/volume:1";
        daemon.import(OTHER, "from the volume").await?;
        let spec = with(vec![
            image(OTHER, "/image", ""),
            image(OTHER, "/etc-of-it", "etc"),
            image(OTHER, "/one", "greeting"),
        ]);
        let main = client.run(id, config, "images", spec.clone()).await?;
        for (what, path, part) in [
            ("an image as a volume", "/image/greeting", "from the volume"),
            ("  a directory of it", "/etc-of-it/passwd", "root:x:0:0"),
            ("  a file of it", "/one", "from the volume"),
        ] {
            let text = client.out(&main, &["cat", path]).await?;
            checks.that(what, text.contains(part), &text);
        }
        let own = client.out(&main, &["cat", "/greeting"]).await?;
        checks.that("  beside the container's own", own == "hello", &own);
        let done = client.exec(&main, &["write", "/image/new", "x"]).await?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        checks.that("  read-only", said.contains("os error 30"), said);
        client.out(&main, &["write", "/new", "x"]).await?;
        // Only the lease keeps its layers now.
        client.remove_image(OTHER).await?;
        let text = client.out(&main, &["cat", "/image/greeting"]).await?;
        checks.that("  also after the image was removed", text == "from the volume", &text);
        for (what, mount) in [
            ("an image that is not here", image("berth.test/nowhere:1", "/image", "")),
            ("a path the image does not have", image(IMAGE, "/image", "no/such")),
        ] {
            let said = client.create(id, config, "bad", with(vec![mount])).await.err();
            let said = said.map(|e| format!("{e:#}")).unwrap_or_default();
            checks.that(
                &format!("refused as CRI says: {what}"),
                said.contains("ImageVolumeMountFailed"),
                said,
            );
        }
        client.stop(&main, std::time::Duration::ZERO).await
    }

    async fn refusals(&mut self) -> Result<()> {
        let Self { checks, daemon, client, pod: id, config } = self;
        let source = daemon.path("source");
        let plain = || mount(&source, "/target");
        for (what, mount, field) in [
            (
                "recursive without readonly",
                Mount { recursive_read_only: true, ..plain() },
                "recursive_read_only",
            ),
            (
                "recursive and propagating",
                Mount { recursive_read_only: true, readonly: true, propagation: 1, ..plain() },
                "recursive_read_only",
            ),
            (
                "a writable image",
                Mount { readonly: false, ..image(IMAGE, "/target", "") },
                "mounts[0].readonly",
            ),
            (
                "an unknown option",
                Mount { mount_options: vec!["dev".into()], ..plain() },
                "mounts[0].mount_options",
            ),
            ("a relative target", mount(&source, "target"), "mounts[0].container_path"),
            ("the root as target", mount(&source, "/"), "mounts[0].container_path"),
        ] {
            let said = client.create(id, config, "bad", with(vec![mount])).await.err();
            let said = said.map(|e| format!("{e:#}")).unwrap_or_default();
            checks.that(&format!("refused, with its field: {what}"), said.contains(field), said);
        }
        // On a mount without peers nothing can propagate.
        let lonely = daemon.path("lonely");
        std::fs::create_dir_all(&lonely)?;
        let tmpfs = sys::Context::open(c"tmpfs")?.mount(sys::Attributes::default())?;
        let place = std::fs::File::open(&lonely)?;
        sys::attach(std::os::fd::AsFd::as_fd(&tmpfs), std::os::fd::AsFd::as_fd(&place)).context("mount")?;
        let _lonely = Unmounted(lonely.clone());
        sys::set_propagation(std::os::fd::AsFd::as_fd(&tmpfs), sys::Propagation::Private, false)?;
        for (name, propagation) in [
            ("to", MountPropagation::PropagationHostToContainer),
            ("both", MountPropagation::PropagationBidirectional),
        ] {
            let spec = with(vec![Mount { propagation: propagation.into(), ..mount(&lonely, "/target") }]);
            let container = client.create(id, config, name, spec).await?;
            let said = client.start(&container).await.err().map(|e| format!("{e:#}")).unwrap_or_default();
            checks.that(
                &format!("refused on a private mount: {propagation:?}"),
                said.contains("propagation"),
                said,
            );
        }
        Ok(())
    }
}

/// Takes the lane's own mount away, also when it fails.
struct Unmounted(std::path::PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        let path = std::ffi::CString::new(self.0.as_os_str().as_encoded_bytes()).unwrap_or_default();
        let _ = sys::detach(&path);
    }
}
