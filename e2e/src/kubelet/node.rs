//! A kubelet without an API server over a daemon of the lane's own: static pods come from a directory.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_cri_api::v1::*;
use serde_json::{Value, json};

use super::place::{ADDRESS, Cgroups, unmount_below};
use crate::client::Client;
use crate::daemon::{Daemon, IMAGE, tail};

/// Its name, which the kubelet appends to the name of each static pod.
const NAME: &str = "node";

pub(crate) struct Node {
    kubelet: Option<Child>,
    /// Of the kubelet's configuration, over what the lane has by itself.
    pub(crate) settings: Value,
    ports: [u16; 3],
    address: Option<&'static str>,
    given_up: RefCell<BTreeSet<String>>,
    pub(crate) daemon: Daemon,
    pub(crate) client: Client,
    pub(crate) cgroups: Cgroups,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill();
        unmount_below(&self.daemon.path("kubelet"));
        unmount_below(&self.daemon.path("host"));
    }
}

impl Node {
    /// On the lane's own host ([`super::place`]).
    pub(crate) async fn new() -> Result<Self> {
        let cgroups = Cgroups::new(format!("berth-node-{}", std::process::id()))?;
        let ports = [free_port()?, free_port()?, free_port()?];
        Self::over(Daemon::new().await?, cgroups, ports, Some(ADDRESS)).await
    }

    /// `ports` are those of the API, of reading, and of health. Without an address the kubelet takes the default route's.
    pub(crate) async fn over(
        daemon: Daemon,
        cgroups: Cgroups,
        ports: [u16; 3],
        address: Option<&'static str>,
    ) -> Result<Self> {
        let client = Client::connect(&daemon.socket()).await?;
        let (settings, given_up) = (json!({}), RefCell::default());
        let mut node = Self { kubelet: None, settings, ports, address, given_up, daemon, client, cgroups };
        for directory in ["kubelet", "manifests", "logs", "plugins", "host"] {
            std::fs::create_dir_all(node.daemon.path(directory))?;
        }
        node.start().await?;
        Ok(node)
    }

    fn config(&self) -> Value {
        let [port, read_only, health] = self.ports;
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", self.daemon.socket().display()),
            "staticPodPath": self.daemon.path("manifests"),
            "podLogsDir": self.daemon.path("logs"),
            "volumePluginDir": self.daemon.path("plugins"),
            "address": "127.0.0.1", "port": port, "readOnlyPort": read_only,
            "healthzBindAddress": "127.0.0.1", "healthzPort": health,
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "cgroupDriver": "cgroupfs", "cgroupRoot": self.cgroups.root(),
            "enforceNodeAllocatable": [], "failCgroupV1": false, "failSwapOn": false,
            "makeIPTablesUtilChains": false, "protectKernelDefaults": true, "oomScoreAdj": 0,
            "resolvConf": self.daemon.path("resolv.conf"),
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
        std::fs::write(self.daemon.path("resolv.conf"), "nameserver 192.0.2.53\nsearch node.test\n")?;
        let config = self.daemon.path("kubelet.json");
        std::fs::write(&config, serde_json::to_vec_pretty(&self.config())?)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let child = Command::new(program)
            .arg("--config")
            .arg(&config)
            .arg("--root-dir")
            .arg(self.daemon.path("kubelet"))
            .arg("--cert-dir")
            .arg(self.daemon.path("kubelet/pki"))
            .args(["--hostname-override", NAME])
            .args(self.address.map(|address| format!("--node-ip={address}")))
            // Where the credentials of registries lie beside the root directory.
            .env("HOME", self.daemon.path("kubelet"))
            .current_dir(self.daemon.path("kubelet"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("the kubelet")?;
        self.kubelet = Some(child);
        self.wait(60, "the kubelet to answer", || async { Ok(self.get("/pods").await.ok()) }).await?;
        Ok(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.kubelet.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.daemon.path("kubelet.log")
    }

    pub(crate) fn tails(&self) -> String {
        format!("{}\n--\n{}", tail(&self.log()), self.daemon.log_tail())
    }

    /// kill -9 of the daemon, and a new one.
    pub(crate) async fn restart_daemon(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.client = self.daemon.start().await?;
        Ok(())
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
        let beside = self.daemon.path(&format!("{name}.json"));
        std::fs::write(&beside, serde_json::to_vec_pretty(&pod)?)?;
        std::fs::rename(&beside, self.manifest(&name))?;
        Ok(())
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.daemon.path("manifests").join(format!("{name}.json"))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let manifest = self.manifest(name);
        std::fs::remove_file(&manifest).with_context(|| manifest.display().to_string())
    }

    pub(crate) fn remove_all(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.daemon.path("manifests"))? {
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

    /// Waits until the pod is as wanted. A pod that once did not become so is not waited for again.
    pub(crate) async fn until(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(pod) = self.pod(name).await {
                if is(&pod) {
                    return Ok(pod);
                }
                last = pod;
            }
            if self.given_up.borrow().contains(name) {
                bail!("{name} is not {what}, and was not waited for again");
            }
            if Instant::now() > end {
                self.given_up.borrow_mut().insert(name.to_owned());
                bail!("waited 60 s for {name} to be {what}: {}", states(&last));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until every container of the pod is ready.
    pub(crate) async fn ready(&self, name: &str) -> Result<Value> {
        self.until(name, "ready", |pod| condition(pod, "Ready")).await
    }

    /// Waits until nothing of the pod runs: the kubelet forgets a static pod with its manifest, and stops it then.
    pub(crate) async fn gone(&self, name: &str) -> Result<()> {
        self.until(name, "gone", Value::is_null).await?;
        let full = format!("{name}-{NAME}");
        self.wait(60, &format!("{name} to be stopped"), || async {
            let list = ListPodSandboxRequest::default();
            let pods = self.client.clone().runtime.list_pod_sandbox(list).await?.into_inner().items;
            let ready = |pod: &PodSandbox| {
                pod.state == i32::from(PodSandboxState::SandboxReady)
                    && pod.metadata.as_ref().is_some_and(|m| m.name == full)
            };
            Ok((!pods.iter().any(ready)).then_some(()))
        })
        .await
    }

    /// Waits for what `look` finds.
    pub(crate) async fn wait<T, F: Future<Output = Result<Option<T>>>>(
        &self,
        seconds: u64,
        what: &str,
        look: impl Fn() -> F,
    ) -> Result<T> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if Instant::now() > end {
                bail!("waited {seconds} s for {what}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The standard output of a tool in a container of a pod, asked of Berth and not of the kubelet.
    pub(crate) async fn out(&self, pod: &Value, container: &str, words: &[&str]) -> Result<String> {
        let id = id_of(pod, container)?;
        let out = self.client.clone().out(&id, words).await;
        out.with_context(|| format!("{container}: {}", words.join(" ")))
    }

    /// Its exit code.
    pub(crate) async fn code(&self, pod: &Value, container: &str, words: &[&str]) -> Result<i32> {
        let id = id_of(pod, container)?;
        Ok(self.client.clone().exec(&id, words).await?.exit_code)
    }

    /// Its first process, as the host numbers it.
    pub(crate) async fn pid(&self, pod: &Value, container: &str) -> Result<i64> {
        let id = id_of(pod, container)?;
        super::pid_of(&mut self.client.clone(), &id).await
    }

    /// What the container wrote, from the file that the kubelet names.
    pub(crate) fn logged(&self, pod: &Value, container: &str, attempt: u64) -> Result<String> {
        let file = self.log_directory(pod).join(container).join(format!("{attempt}.log"));
        std::fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    pub(crate) fn log_directory(&self, pod: &Value) -> PathBuf {
        let of = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
        self.daemon.path("logs").join(format!("{}_{}_{}", of("namespace"), of("name"), of("uid")))
    }

    pub(crate) async fn reset(mut self) -> Result<()> {
        self.kill()?;
        unmount_below(&self.daemon.path("kubelet"));
        unmount_below(&self.daemon.path("host"));
        self.daemon.reset().await
    }
}

/// What a status says of its containers, for a failure's message.
fn states(pod: &Value) -> String {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][*list].as_array()).flatten();
    let told =
        all.map(|c| format!("{}: {} after {}", c["name"], c["state"], c["lastState"])).collect::<Vec<_>>();
    format!("{} {} {}", pod["status"]["phase"], pod["status"]["message"], told.join(", "))
}

pub(crate) fn condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

/// A container's status, of whichever kind it is.
pub(crate) fn status_of(pod: &Value, name: &str) -> Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().filter_map(|list| pod["status"][*list].as_array()).flatten();
    all.find(|status| status["name"] == name).cloned().unwrap_or_default()
}

/// A container's id, as Berth knows it.
pub(crate) fn id_of(pod: &Value, name: &str) -> Result<String> {
    let status = status_of(pod, name);
    let id = status["containerID"].as_str().and_then(|id| id.strip_prefix("berth://"));
    Ok(id.with_context(|| format!("{name} has no id: {status}"))?.to_owned())
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
fn free_port() -> Result<u16> {
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

/// A text file of the host, trimmed.
pub(crate) fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    Ok(std::fs::read_to_string(path).with_context(|| path.display().to_string())?.trim().to_owned())
}
