//! The runtime put together: mechanisms opened from the configuration, adapters over them, the domain over those.

use std::sync::Arc;
use std::time::Duration;

use berth_cni::{Cni, CniSettings};
use berth_images::{ClientConfig, Images, ImagesConfig};
use berth_network::{Network, NetworkConfig, Plugins};
use berth_pods::ports::Ports;
use berth_pods::{DEFAULT_HANDLER, Pods, Settings};
use berth_shim_client::Shims;
use berth_store::Store;
use berth_streaming::{Server, TlsVersion};

use crate::adapters::{
    Admin, CriBackend, ImagePort, LauncherPort, MeterPort, NetworkPort, NetworkVerbs, Others, StorePort,
    StreamBackend,
};
use crate::admin::Failure;
use crate::config::Config;
use crate::daemon::{Wired, boot_id, find_shim};

/// Opens everything, adopts the pods that run, clears what was half made.
pub(crate) async fn build(config: &Config) -> Result<Wired, Failure> {
    let opened = config.clone();
    let parts = tokio::task::spawn_blocking(move || open(&opened)).await??;
    let primary = config.network.primary;
    let network =
        Arc::new(NetworkPort::new(parts.network.clone(), parts.plugins.clone(), parts.cni.clone(), primary));
    let ports = Ports {
        launcher: Arc::new(LauncherPort::new(parts.shims.clone(), parts.images.clone(), config.run_logs())),
        network: network.clone(),
        images: Arc::new(ImagePort::new(parts.images.clone())),
        store: Arc::new(StorePort::new(parts.store, parts.boot_id)),
        meter: Arc::new(MeterPort::new(parts.shims.cgroups(), parts.images.clone())),
    };
    let settings = Settings {
        cgroup_parent: config.cgroup.root.clone(),
        kill_wait: config.pods.kill_wait,
        privileged_host_devices: !config.pods.privileged_without_host_devices,
    };
    // Before the pods: a port that is taken should not cost a recovery.
    let streaming = Server::bind(streaming(&config.streaming)).await?;
    let pods = Pods::new(ports, settings);
    let found = pods.recover().await?;
    network.collect_garbage(pods.clone())?;
    // After the leases are back, so that nothing that is in use is taken for garbage.
    let (images, directory) = (parts.images.clone(), config.preload.clone());
    // Beside everything else: an archive of gigabytes must not keep the pods from being answered for.
    tokio::task::spawn_blocking(move || preload(&images, &directory));
    tokio::spawn(tidy(parts.images.clone()));
    let subnets: Vec<String> = parts.network.subnets().iter().map(ToString::to_string).collect();
    tracing::info!(?found, subnets = subnets.join(","), bridge = parts.network.bridge(), "ready");
    let user_namespaces = parts.shims.facts().user_namespaces;
    let others = Others::new(parts.network.clone(), parts.cni.clone());
    let looking = others.clone();
    // Once at the start, for the log; later when somebody asks for the status.
    tokio::task::spawn_blocking(move || looking.look());
    let network_verbs = NetworkVerbs::new(
        pods.clone(),
        (parts.network.clone(), others.clone()),
        (parts.plugins.clone(), parts.cni.clone()),
        primary,
    );
    let admin = Admin {
        network_verbs,
        pods: pods.clone(),
        images: parts.images.clone(),
        network: parts.network.clone(),
        others: others.clone(),
        plugins: parts.plugins,
        cni: parts.cni,
        shims: parts.shims,
    };
    let shown = serde_json::json!({
        // kubeadm looks for this key; Berth has no sandbox image.
        "sandboxImage": "",
        "name": config.name,
        "state": config.state,
        "root": config.root,
        "cgroupRoot": config.cgroup.root,
        "bridge": parts.network.bridge(),
        "subnets": subnets,
        "streaming": streaming.urls().base(),
    });
    let streams = Arc::new(StreamBackend { pods: pods.clone() });
    let backend = CriBackend {
        pods,
        images: parts.images,
        network,
        others,
        urls: streaming.urls(),
        config: shown.to_string(),
        user_namespaces,
    };
    Ok(Wired { backend: Arc::new(backend), admin: Arc::new(admin), streaming, streams })
}

fn streaming(config: &crate::config::Streaming) -> berth_streaming::Settings {
    let tls = config.tls.clone().map(|tls| berth_streaming::Tls {
        certificate: tls.certificate,
        key: tls.key,
        client_ca: tls.client_ca,
        min_version: if tls.only_1_3 { TlsVersion::V1_3 } else { TlsVersion::V1_2 },
    });
    berth_streaming::Settings { address: config.address, port: config.port, tls, idle: config.idle }
}

struct Parts {
    store: Store,
    images: Images,
    network: Arc<Network>,
    plugins: Arc<Plugins>,
    cni: Arc<Cni>,
    shims: Shims,
    boot_id: String,
}

fn open(config: &Config) -> Result<Parts, Failure> {
    let store = Store::open(&config.root.join("berth.db"))?;
    let registry = ClientConfig {
        certs_d: config.registry.certs_d.clone(),
        auth_files: config.registry.auth_files.clone(),
        stall: config.registry.stall_timeout,
    };
    let pinned = config.images.pinned.clone();
    let images = ImagesConfig { root: config.root.join("images"), registry, pinned };
    std::fs::create_dir_all(&images.root)?;
    let images = Images::open(images, store.clone())?;
    let shim = find_shim(config.shim.as_deref())?;
    let layers = config.root.join("images");
    let shims = Shims::open(config.state.clone(), &shim, config.cgroup.root.clone(), &layers)?;
    let given = config.network.subnets.iter().filter_map(|subnet| subnet.to_string().parse().ok());
    let network = Network::open(NetworkConfig {
        instance: config.name.clone(),
        bridge: Some(config.network.bridge.clone()).filter(|name| !name.is_empty()),
        subnets: given.collect(),
        mtu: Some(config.network.mtu).filter(|mtu| *mtu > 0),
        isolate_host: config.network.isolate_host,
        state: config.state.clone(),
    })?;
    let network = Arc::new(network);
    let plugins = Arc::new(Plugins::open(&config.name, &config.state)?);
    let cni = Arc::new(cni(config, network.clone(), plugins.clone()));
    Ok(Parts { store, images, network, plugins, cni, shims, boot_id: boot_id()? })
}

fn cni(config: &Config, network: Arc<Network>, plugins: Arc<Plugins>) -> Cni {
    let given = &config.network.cni;
    let mut handler_dirs = given.handler_dirs.clone();
    // The default handler has two names and one configuration: what Status tells of is what its pods are connected by.
    let default = handler_dirs.remove(DEFAULT_HANDLER);
    let settings = CniSettings {
        instance: config.name.clone(),
        conf_dir: default.or_else(|| given.conf_dir.clone()),
        handler_dirs,
        bin_dirs: given.bin_dirs.clone(),
        netns_dir: given.netns_dir.clone(),
        state: config.state.clone(),
        root: config.root.clone(),
        timeout: given.timeout,
        retry_for: given.retry,
        in_process: given.in_process,
    };
    let embedded = move || network.probe().map_err(|error| chain(&error));
    Cni::new(settings, plugins, Box::new(embedded))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Takes in what lies ready for every node. What cannot be read is told and costs nothing else.
fn preload(images: &Images, directory: &std::path::Path) {
    let done = images.preload(directory).unwrap_or_else(|error| {
        let cause = &error as &dyn std::error::Error;
        tracing::error!(directory = %directory.display(), error = cause, "nothing is preloaded");
        Vec::new()
    });
    for one in done {
        let archive = one.archive.display();
        match one.images {
            Ok(images) => tracing::info!(%archive, images = images.join(" "), "preloaded"),
            Err(error) => {
                tracing::error!(%archive, error = &error as &dyn std::error::Error, "not preloaded");
            }
        }
    }
}

/// Never ends. What is kept of pulls that were cut is looked through so often.
async fn tidy(images: Images) {
    loop {
        tokio::time::sleep(Duration::from_hours(1)).await;
        let images = images.clone();
        let done = tokio::task::spawn_blocking(move || images.tidy()).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what is left of failed pulls is kept for longer"
            );
        }
    }
}
