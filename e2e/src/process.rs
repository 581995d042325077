//! What a process in a container is: the OCI runtime spec's rules for Linux, CRI's over them, execs and logs.

mod exec;
mod identity;
mod logs;
mod oci;
mod security;
mod words;

use std::path::Path;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use berth_sys::mount as sys;

use crate::checks::{Checks, until};
use crate::client::{Client, pod};
use crate::daemon::{Daemon, IMAGE};
use crate::image::{self, Layer};

/// An image with an entrypoint, a user by name, a working directory, a stop signal and a volume.
const RICH: &str = "berth.test/rich:1";
/// The guest program and nothing else.
const BARE: &str = "berth.test/bare:1";

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = run(checks, &mut daemon).await;
    daemon.finish(done).await
}

async fn run(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    images(daemon)?;
    let mut lab = Lab::new(daemon, "process").await?;
    oci::run(checks, &mut lab).await?;
    words::run(checks, &mut lab).await?;
    identity::run(checks, &mut lab).await?;
    security::run(checks, &mut lab).await?;
    exec::run(checks, &mut lab).await?;
    logs::run(checks, &mut lab).await?;
    lab.end().await?;
    security::without_host_devices(checks, daemon).await
}

fn images(daemon: &Daemon) -> Result<()> {
    let mut layer = image::program()?;
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/guest\nweb:x:33:33:web:/srv:/guest\n", 0o644)?;
    layer.file("etc/group", b"root:x:0:\nweb:x:33:\nextra:x:50:web\nmore:x:60:web,other\n", 0o644)?;
    let mut volume = Layer::default();
    volume.owner = (33, 50);
    volume.directory("data", 0o2750)?;
    volume.file("data/kept", b"of the image", 0o640)?;
    volume.directory("data/below", 0o700)?;
    volume.symlink("data/link", Path::new("kept"))?;
    let config = serde_json::json!({
        "Entrypoint": ["/guest", "words"], "Cmd": ["of", "the image"], "User": "web:extra", "WorkingDir": "/srv/dir",
        "Env": ["PATH=/", "FROM=image", "BOTH=image"], "StopSignal": "SIGUSR1", "Volumes": { "/data": {} },
    });
    let archive = daemon.path("rich.tar");
    image::write_layers(&archive, RICH, vec![layer, volume], &config)?;
    daemon.import_file(&archive)?;
    let archive = daemon.path("bare.tar");
    image::write_layers(&archive, BARE, vec![image::program()?], &serde_json::json!({ "Env": ["PATH=/"] }))?;
    daemon.import_file(&archive)
}

/// A pod to try things in.
struct Lab {
    client: Client,
    pod: String,
    config: PodSandboxConfig,
    logs: std::path::PathBuf,
    home: std::path::PathBuf,
    count: u32,
}

type Change<'a> = &'a dyn Fn(&mut ContainerConfig);

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

impl Lab {
    async fn new(daemon: &Daemon, name: &str) -> Result<Self> {
        let mut config = pod(name, &daemon.path("logs"));
        let linux = config.linux.get_or_insert_default();
        linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "7".into());
        linux.security_context.get_or_insert_default().privileged = true;
        let mut client = Client::connect(&daemon.socket()).await?;
        let pod = client.run_pod(&config).await?;
        let logs = config.log_directory.clone().into();
        Ok(Self { client, pod, config, logs, home: daemon.path(""), count: 0 })
    }

    async fn end(&mut self) -> Result<()> {
        self.client.remove_pod(&self.pod).await
    }

    /// A container of the test image that sleeps, but for the changes.
    fn plain(&mut self, change: Change<'_>) -> ContainerConfig {
        self.count += 1;
        let mut config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: format!("c{}", self.count), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.into(), ..Default::default() }),
            command: owned(&["/guest"]),
            args: owned(&["sleep", "1000"]),
            log_path: format!("c{}.log", self.count),
            ..Default::default()
        };
        let options = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
        security(&mut config).namespace_options = Some(options);
        change(&mut config);
        config
    }

    async fn create(&mut self, change: Change<'_>) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: self.pod.clone(),
            config: Some(self.plain(change)),
            sandbox_config: Some(self.config.clone()),
        };
        Ok(self.client.runtime.create_container(request).await?.into_inner().container_id)
    }

    async fn start(&mut self, change: Change<'_>) -> Result<String> {
        let id = self.create(change).await?;
        self.client.start(&id).await?;
        Ok(id)
    }

    /// Created and started, whichever of the two refuses.
    async fn refusal(&mut self, change: Change<'_>) -> String {
        match self.start(change).await {
            Ok(_) => String::new(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// What a container that ends by itself has written, without time, stream and tag.
    async fn said(&mut self, change: Change<'_>) -> Result<String> {
        let id = self.start(change).await?;
        let status = self.client.ended(&id).await?;
        Ok(Log::read(Path::new(&status.log_path))?.text())
    }

    /// Output of a tool, both streams, whatever its exit code.
    async fn tool(&mut self, id: &str, words: &[&str]) -> Result<String> {
        let done = self.client.exec(id, words).await?;
        Ok(String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    }

    async fn kill(&mut self, id: &str) -> Result<()> {
        self.client.stop(id, std::time::Duration::ZERO).await
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

/// A log as CRI has it: time, stream, tag, text.
struct Log(Vec<[String; 4]>);

impl Log {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let line = |line: &str| {
            let mut parts = line.splitn(4, ' ').map(str::to_owned);
            std::array::from_fn(|_| parts.next().unwrap_or_default())
        };
        Ok(Self(text.lines().map(line).collect()))
    }

    fn text(&self) -> String {
        self.0.iter().map(|[.., text]| format!("{text}\n")).collect()
    }

    /// Waits for a line that contains this.
    async fn wait(path: &Path, part: &str) -> Result<()> {
        until(part, || async {
            Ok(std::fs::read_to_string(path).is_ok_and(|text| text.contains(part)).then_some(()))
        })
        .await
    }
}
