//! A kubelet without an API server over the runtime behind a socket: static pods come from a directory.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::place::unmount_below;
use crate::checks::within;
use crate::daemon::IMAGE;

/// Its name, which the kubelet appends to the name of each static pod.
pub(crate) const NAME: &str = "node";

pub(crate) struct Kubelet {
    child: Option<Child>,
    /// Of its configuration, over what the lane has by itself.
    pub(crate) settings: Value,
    /// The system bus, whose logind tells of shutdowns.
    pub(crate) bus: Option<PathBuf>,
    /// Of the API, of reading, and of health.
    ports: [u16; 3],
    address: Option<&'static str>,
    home: PathBuf,
    socket: PathBuf,
    cgroup_root: String,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        let _ = self.kill();
        self.unmount();
    }
}

impl Kubelet {
    /// Not started. Everything of it lies in `home`. Without an address it takes the default route's.
    pub(crate) fn new(
        home: &Path,
        socket: PathBuf,
        cgroup_root: String,
        ports: [u16; 3],
        address: Option<&'static str>,
    ) -> Result<Self> {
        for directory in ["kubelet", "manifests", "logs", "plugins", "host"] {
            std::fs::create_dir_all(home.join(directory))?;
        }
        let (child, settings, bus, home) = (None, json!({}), None, home.to_owned());
        Ok(Self { child, settings, bus, ports, address, home, socket, cgroup_root })
    }

    /// Of the process that runs.
    pub(crate) fn process(&self) -> Result<i32> {
        let child = self.child.as_ref().context("no kubelet runs")?;
        Ok(child.id().cast_signed())
    }

    /// Where the API server would ask it, over TLS.
    pub(crate) fn port(&self) -> u16 {
        self.ports[0]
    }

    /// Volumes that are mounted still.
    pub(crate) fn unmount(&self) {
        for directory in ["kubelet", "host"] {
            unmount_below(&self.home.join(directory));
        }
    }

    fn config(&self) -> Value {
        let [port, read_only, health] = self.ports;
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", self.socket.display()),
            "staticPodPath": self.home.join("manifests"),
            "podLogsDir": self.home.join("logs"),
            "volumePluginDir": self.home.join("plugins"),
            "address": "127.0.0.1", "port": port, "readOnlyPort": read_only,
            "healthzBindAddress": "127.0.0.1", "healthzPort": health,
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "cgroupDriver": "cgroupfs", "cgroupRoot": self.cgroup_root,
            "enforceNodeAllocatable": [], "failCgroupV1": false, "failSwapOn": false,
            "makeIPTablesUtilChains": false, "protectKernelDefaults": true, "oomScoreAdj": 0,
            "resolvConf": self.home.join("resolv.conf"),
            "fileCheckFrequency": "1s", "syncFrequency": "5s",
            // The machine's disk is no concern of the lane.
            "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
            "containerLogMaxSize": "16Ki", "containerLogMaxFiles": 3, "containerLogMonitorInterval": "3s",
            "crashLoopBackOff": { "maxContainerRestartPeriod": "3s" },
            // Labels and the pods' network are in the statistics by this gate alone where the runtime is not one of
            // the two that cAdvisor knows.
            "featureGates": { "PodAndContainerStatsFromCRI": true },
            "logging": { "verbosity": 2 },
        });
        merge(&mut config, &self.settings);
        config
    }

    /// Answers when this returns.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let program = std::env::var_os("BERTH_E2E_KUBELET").context("BERTH_E2E_KUBELET names the kubelet")?;
        std::fs::write(self.home.join("resolv.conf"), "nameserver 192.0.2.53\nsearch node.test\n")?;
        let config = self.home.join("kubelet.json");
        std::fs::write(&config, serde_json::to_vec_pretty(&self.config())?)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let child = Command::new(program)
            .arg("--config")
            .arg(&config)
            .arg("--root-dir")
            .arg(self.home.join("kubelet"))
            .arg("--cert-dir")
            .arg(self.home.join("kubelet/pki"))
            .args(["--hostname-override", NAME])
            .args(self.address.map(|address| format!("--node-ip={address}")))
            .envs(
                self.bus
                    .iter()
                    .map(|bus| ("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", bus.display()))),
            )
            // Where the credentials of registries lie beside the root directory.
            .env("HOME", self.home.join("kubelet"))
            .current_dir(self.home.join("kubelet"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("the kubelet")?;
        self.child = Some(child);
        within(60, "the kubelet to answer", || async { Ok(self.get("/pods").await.ok()) }).await?;
        Ok(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.home.join("kubelet.log")
    }

    /// The body of an answer on the read-only port.
    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        let (port, path) = (self.ports[1], path.to_owned());
        tokio::task::spawn_blocking(move || request(port, &path)).await?
    }

    pub(crate) async fn get_json(&self, path: &str) -> Result<Value> {
        let text = self.get(path).await?;
        serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))
    }

    /// The body of an answer on the port that the API server asks, over TLS.
    pub(crate) fn api(&self, path: &str) -> Result<String> {
        let url = format!("https://127.0.0.1:{}{path}", self.ports[0]);
        let done = Command::new("curl")
            .args(["--silent", "--show-error", "--insecure", "--max-time", "30", &url])
            .output()
            .context("curl (package curl)")?;
        if !done.status.success() {
            bail!("{path}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Puts a manifest into the directory, whole: one that is written in place is read half-written.
    pub(crate) fn put(&self, name: &str, spec: &Value) -> Result<()> {
        self.put_pod(&json!({ "metadata": { "name": name }, "spec": spec }))
    }

    pub(crate) fn put_pod(&self, pod: &Value) -> Result<()> {
        let mut pod = pod.clone();
        merge(
            &mut pod,
            &json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": "default" } }),
        );
        let name = pod["metadata"]["name"].as_str().context("a pod has a name")?.to_owned();
        let spec = &mut pod["spec"];
        if spec.get("terminationGracePeriodSeconds").is_none() {
            spec["terminationGracePeriodSeconds"] = 1.into();
        }
        for list in ["initContainers", "containers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                let defaults = json!({ "image": IMAGE, "imagePullPolicy": "Never" });
                for (key, value) in defaults.as_object().into_iter().flatten() {
                    if container.get(key).is_none() {
                        container[key] = value.clone();
                    }
                }
            }
        }
        let beside = self.home.join(format!("{name}.json"));
        std::fs::write(&beside, serde_json::to_vec_pretty(&pod)?)?;
        std::fs::rename(&beside, self.manifest(&name))?;
        Ok(())
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.home.join("manifests").join(format!("{name}.json"))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let manifest = self.manifest(name);
        std::fs::remove_file(&manifest).with_context(|| manifest.display().to_string())
    }

    pub(crate) fn remove_all(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.home.join("manifests"))? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// The pod as the kubelet tells it, or null.
    pub(crate) async fn pod(&self, name: &str) -> Result<Value> {
        let pods = self.get_json("/pods").await?;
        let full = format!("{name}-{NAME}");
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        Ok(pods.into_iter().find(|pod| pod["metadata"]["name"] == full.as_str()).unwrap_or_default())
    }
}

/// Lays `over` over `base`, object by object.
fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Between this and the kubelet's own bind nobody else is in this network namespace to take it.
pub(crate) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn request(port: u16, path: &str) -> Result<String> {
    let address = ([127, 0, 0, 1], port).into();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {NAME}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("{path}: {status} {body}");
    }
    Ok(body.to_owned())
}
