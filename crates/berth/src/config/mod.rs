//! What an instance is told: one struct per section, lowered once from the settings of [`table`].
//!
//! Sources in order, the later one wins: defaults, `/etc/berth/config.toml`, `/etc/berth/conf.d/*.toml` by name, the
//! environment, flags. `--config FILE` (or `BERTH_CONFIG`) takes the place of all files. Nothing outside this module
//! and the command line reads the environment.

mod error;
mod file;
mod parse;
mod render;
mod settings;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use berth_images::Pin;

pub(crate) use error::ConfigError;
pub(crate) use parse::Subnet;
pub(crate) use render::{default_text, dump};
pub(crate) use settings::{Origin, Settings, Sources};
pub(crate) use table::SETTINGS;

/// Everything one instance needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// The instance's name: bridge, packet filter table and control groups carry it.
    pub(crate) name: String,
    /// What may be lost with a reboot: sockets, pod directories, lock.
    pub(crate) state: PathBuf,
    /// What stays: database, layers, writable container layers.
    pub(crate) root: PathBuf,
    /// Archives in it are imported at start.
    pub(crate) preload: PathBuf,
    /// Where CRI is answered.
    pub(crate) socket: PathBuf,
    /// The shim program, if it is not to be looked for beside this one.
    pub(crate) shim: Option<PathBuf>,
    pub(crate) log: Log,
    pub(crate) network: Network,
    pub(crate) registry: Registry,
    pub(crate) images: Images,
    pub(crate) cgroup: Cgroup,
    pub(crate) pods: Pods,
    pub(crate) streaming: Streaming,
    pub(crate) client: Client,
    pub(crate) shutdown: Shutdown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    /// A level, or directives such as `info,berth_pods=debug`.
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    /// Name of the bridge, at most 15 bytes (netdevice(7)).
    pub(crate) bridge: String,
    /// At most one of each IP version; the first address of each is the bridge's own. Empty: free ones are chosen.
    pub(crate) subnets: Vec<Subnet>,
    /// Bytes; 0 for that of the uplink.
    pub(crate) mtu: u32,
    /// Pods reach no service of the host's own.
    pub(crate) isolate_host: bool,
    /// The IP version of a pod's primary address; `None`: as its network gives them.
    pub(crate) primary: Option<IpVersion>,
    pub(crate) cni: Cni,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IpVersion {
    V4,
    V6,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cni {
    /// `None`: CNI is off.
    pub(crate) conf_dir: Option<PathBuf>,
    /// By runtime handler.
    pub(crate) handler_dirs: BTreeMap<String, PathBuf>,
    pub(crate) bin_dirs: Vec<PathBuf>,
    pub(crate) netns_dir: PathBuf,
    pub(crate) in_process: bool,
    /// Of one plugin.
    pub(crate) timeout: Duration,
    pub(crate) retry: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registry {
    /// Searched in order for `<host>/hosts.toml`.
    pub(crate) certs_d: Vec<PathBuf>,
    /// In the form of docker's config.json.
    pub(crate) auth_files: Vec<PathBuf>,
    /// A transfer without a byte for this long is dead.
    pub(crate) stall_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Images {
    /// What the kubelet does not collect.
    pub(crate) pinned: Vec<Pin>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    /// Parent of the pods that come without one, below the root of each hierarchy.
    pub(crate) root: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pods {
    /// How long an end is waited for after SIGKILL.
    pub(crate) kill_wait: Duration,
    /// Privileged containers do not get the host's device nodes.
    pub(crate) privileged_without_host_devices: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Streaming {
    pub(crate) address: IpAddr,
    /// 0 for any free one.
    pub(crate) port: u16,
    /// Certificate and key: both or neither.
    pub(crate) tls: Option<Tls>,
    /// How long a stream may go without a byte.
    pub(crate) idle: Duration,
}

/// What people's verbs show and trust where the streaming server speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) ca: Option<PathBuf>,
    /// Certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
    /// TLS 1.2 is refused.
    pub(crate) only_1_3: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shutdown {
    /// How long requests in flight may take after SIGTERM.
    pub(crate) drain: Duration,
}

impl Config {
    /// Lowers the settings; the first value that does not hold is named with where it came from.
    pub(crate) fn lower(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self {
            name: settings.read("name", parse::name)?,
            state: settings.read("state", parse::absolute)?,
            root: settings.read("root", parse::absolute)?,
            preload: settings.read("preload", parse::absolute)?,
            socket: settings.read("socket", parse::socket)?,
            shim: settings.read("shim", parse::optional_file)?,
            log: Log {
                level: settings.read("log.level", parse::level)?,
                format: settings.read("log.format", parse::log_format)?,
            },
            network: Network {
                bridge: settings.read("network.bridge", parse::interface)?,
                subnets: settings.read("network.subnets", parse::subnets)?,
                mtu: settings.read("network.mtu", parse::mtu)?,
                isolate_host: settings.read("network.isolate_host", parse::switch)?,
                primary: settings.read("network.ip_preference", parse::ip_preference)?,
                cni: Cni {
                    conf_dir: settings.read("network.cni_conf_dir", parse::optional_file)?,
                    handler_dirs: settings.read("network.cni_handler_dirs", parse::by_handler)?,
                    bin_dirs: settings.read("network.cni_bin_dirs", parse::directories)?,
                    netns_dir: settings.read("network.cni_netns_dir", parse::absolute)?,
                    in_process: settings.read("network.cni_in_process", parse::switch)?,
                    timeout: settings.read("network.cni_timeout", parse::duration)?,
                    retry: settings.read("network.cni_retry", parse::duration)?,
                },
            },
            registry: Registry {
                certs_d: settings.read("registry.certs_d", parse::directories)?,
                auth_files: settings.read("registry.auth_files", parse::directories)?,
                stall_timeout: settings.read("registry.stall_timeout", parse::stall)?,
            },
            images: Images { pinned: settings.read("images.pinned", parse::pins)? },
            cgroup: Cgroup { root: settings.read("cgroup.root", parse::cgroup)? },
            pods: Pods {
                kill_wait: settings.read("pods.kill_wait", parse::duration)?,
                privileged_without_host_devices: settings
                    .read("pods.privileged_without_host_devices", parse::switch)?,
            },
            streaming: Streaming {
                address: settings.read("streaming.address", parse::address)?,
                port: settings.read("streaming.port", parse::port)?,
                tls: Self::tls(settings)?,
                idle: settings.read("streaming.idle_timeout", parse::idle)?,
            },
            client: Self::client(settings)?,
            shutdown: Shutdown { drain: settings.read("shutdown.drain", parse::duration)? },
        })
    }

    /// Below it `berth run` keeps the logs of its containers.
    pub(crate) fn run_logs(&self) -> PathBuf {
        self.root.join("run-logs")
    }

    fn client(settings: &Settings) -> Result<Client, ConfigError> {
        let ca = settings.read("client.tls_ca", parse::optional_file)?;
        let certificate = settings.read("client.tls_cert", parse::optional_file)?;
        let key = settings.read("client.tls_key", parse::optional_file)?;
        let lacks = |key: &'static str, other: &str| {
            let origin = settings.get(key).map_or(Origin::Default, |(_, origin)| origin.clone());
            Err(ConfigError::Value { key, origin, problem: format!("is needed with {other}") })
        };
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Client { ca, identity: Some((certificate, key)) }),
            (None, None) => Ok(Client { ca, identity: None }),
            (Some(_), None) => lacks("client.tls_key", "client.tls_cert"),
            (None, Some(_)) => lacks("client.tls_cert", "client.tls_key"),
        }
    }

    fn tls(settings: &Settings) -> Result<Option<Tls>, ConfigError> {
        let certificate = settings.read("streaming.tls_cert", parse::optional_file)?;
        let key = settings.read("streaming.tls_key", parse::optional_file)?;
        let client_ca = settings.read("streaming.tls_client_ca", parse::optional_file)?;
        let only_1_3 = settings.read("streaming.tls_min_version", parse::tls_1_3)?;
        let refuse = |key, problem: &str| {
            let origin = settings.get(key).map_or(Origin::Default, |(_, origin)| origin.clone());
            Err(ConfigError::Value { key, origin, problem: problem.to_owned() })
        };
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Tls { certificate, key, client_ca, only_1_3 })),
            (Some(_), None) => refuse("streaming.tls_key", "is needed with streaming.tls_cert"),
            (None, Some(_)) => refuse("streaming.tls_cert", "is needed with streaming.tls_key"),
            (None, None) if client_ca.is_some() => refuse(
                "streaming.tls_client_ca",
                "is of no use without streaming.tls_cert and streaming.tls_key",
            ),
            (None, None) => Ok(None),
        }
    }

    /// Where `berth status`, `berth reset` and `berth image` reach the daemon.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.state.join("admin.sock")
    }
}
