//! The kinds of network a node can have, and what is particular to each.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::limits::{LEAVES, LIMITS, Leaves};
use super::machine::tool;
use crate::checks::Checks;
use crate::conflist::in_use;
use crate::daemon::Daemon;

/// The network's name in its configuration.
pub(super) const NETWORK: &str = "lane";
pub(super) const BRIDGE: &str = "lane0";
/// Beginnings of the addresses that the configurations give pods: this one, that of the other bridge, and those that are
/// compared.
pub(super) const OF_PODS: [&str; 8] =
    ["10.77.0.", "fd00:77::", "10.78.0.", "fd00:78::", "10.79.0.", "fd00:79::", "10.80.0.", "fd00:80::"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Without any configuration.
    Embedded,
    /// By the usual chain of plugins, none of them a program.
    InProcess,
    /// By the same chain of Debian's programs (containernetworking-plugins).
    Programs,
}

/// Where the configurations' pods have their addresses of.
pub(super) fn addresses(home: &Path) -> Value {
    json!({
        "type": "host-local", "dataDir": home.join("ipam"),
        "ranges": [[{ "subnet": "10.77.0.0/24" }], [{ "subnet": "fd00:77::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
    })
}

/// Debian's 1.1.1 speaks up to CNI 1.0.
fn conflist(home: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "hairpinMode": true, "mtu": 1450,
                "ipam": addresses(home),
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            { "type": "firewall", "ingressPolicy": "same-bridge" },
            {
                "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.arp_notify": "1", "net.core.somaxconn": "500" },
                "dataDir": home.join("tuning"),
            },
        ],
    })
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Embedded, Self::InProcess, Self::Programs];

    /// By the word that people type.
    pub(super) fn named(word: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.word() == word);
        found.with_context(|| format!("{word:?} is none of {:?}", Self::ALL.map(Self::word)))
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::InProcess => "in-process",
            Self::Programs => "programs",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Embedded => "the embedded network",
            Self::InProcess => "a configuration, in-process",
            Self::Programs => "the same configuration, by Debian's programs",
        }
    }

    /// A daemon with this network.
    pub(super) async fn daemon(self) -> Result<Daemon> {
        self.daemon_without("").await
    }

    /// The same, but for one plugin of the chain.
    pub(super) async fn daemon_without(self, plugin: &str) -> Result<Daemon> {
        if self == Self::Embedded {
            return Daemon::new().await;
        }
        let daemon = Daemon::prepared(|home| {
            std::fs::create_dir(home.join("cni"))?;
            let mut conf = conflist(home);
            let plugins = conf["plugins"].as_array_mut().context("no plugins")?;
            plugins.retain(|one| one["type"] != plugin);
            std::fs::write(home.join("cni/10-lane.conflist"), conf.to_string())?;
            Ok(self.flags(home))
        })
        .await?;
        self.ready(&daemon).await?;
        Ok(daemon)
    }

    /// Waits until the configuration is in use, done by whom it is to be.
    pub(super) async fn ready(self, daemon: &Daemon) -> Result<()> {
        in_use(daemon, |shown| {
            let plugins = shown["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
            // Who does firewall depends on others' rules, those that its program leaves among them.
            let mut rest = plugins.iter().filter(|one| one["conf"]["type"] != "firewall");
            let all = rest.all(|one| one["in_process"] == (self == Self::InProcess));
            shown["network"] == NETWORK && shown["problem"].is_null() && all
        })
        .await
    }

    pub(super) fn flags(self, home: &Path) -> Vec<String> {
        let netns = home.join("netns").display().to_string();
        let flags = [
            ("--network-cni-netns-dir", netns.as_str()),
            ("--network-cni-in-process", if self == Self::Programs { "false" } else { "true" }),
        ];
        flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]).collect()
    }

    /// Milliseconds after a request at which the daemon dies, so that each step is cut once.
    pub(super) fn moments(self) -> [u64; 6] {
        match self {
            Self::Embedded | Self::InProcess => [0, 1, 2, 4, 7, 11],
            Self::Programs => [0, 10, 25, 50, 100, 150],
        }
    }

    /// Notes what was found. Of what the kind cannot do by its design the opposite is expected, so that the reason stays true.
    pub(super) fn note<E: Display>(self, checks: &mut Checks, what: &str, result: Result<(), E>) {
        let limit = LIMITS.iter().find(|limit| limit.kind == self && limit.what == what.trim_start());
        match (limit, result) {
            (None, result) => checks.note(what, result),
            (Some(limit), Err(_)) => checks.note(&format!("{what}: no; {}", limit.why), Ok::<_, E>(())),
            (Some(_), Ok(())) => checks.note(what, Err("it can after all, and is named among the limits")),
        }
    }

    pub(super) fn that(self, checks: &mut Checks, what: &str, holds: bool, found: impl Display) {
        self.note(checks, what, if holds { Ok(()) } else { Err(format!("found: {found}")) });
    }
}

/// Takes away what a reset leaves by the programs' design; one that is not there any more is an error.
pub(super) fn clear(checks: &mut Checks, wanted: impl Fn(&Leaves) -> bool) {
    for leaves in LEAVES.iter().filter(|leaves| wanted(leaves)) {
        let what = format!("  left by design: {} {}", leaves.plugin, leaves.what);
        checks.note(&what, tool(leaves.away).map(drop));
    }
}

/// Where host-local keeps the configuration's addresses.
pub(super) fn ipam(daemon: &Daemon) -> PathBuf {
    daemon.path("ipam").join(NETWORK)
}

/// Networks of Berth's own with addresses in use, and how many, as people are told.
pub(super) fn own_in_use(daemon: &Daemon) -> Result<Vec<String>> {
    let (_, text) = daemon.says(&["network", "inspect", "--json"])?;
    let report: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let mut found = Vec::new();
    for one in report["own"]["subnets"].as_array().with_context(|| text.clone())? {
        match one["used"].as_u64().with_context(|| text.clone())? {
            0 => {}
            used => found.push(format!("{used} of {}", one["subnet"])),
        }
    }
    Ok(found)
}

/// Addresses that are taken in any network of a configuration, as files of host-local.
pub(super) fn taken(daemon: &Daemon) -> Vec<String> {
    let entries = |directory| std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let files = entries(daemon.path("ipam")).flat_map(|network| entries(network.path()));
    let names = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| OF_PODS.iter().any(|of| name.starts_with(of))).collect();
    names.sort();
    names
}
