//! A plugin that writes down what it is told, under several names, and behaves as a file beside it says.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use serde_json::{Value, json};

use crate::checks::until;
use crate::client::Client;
use crate::daemon::Daemon;

/// The fields of a line, `-` for a variable that is not there.
const SCRIPT: &str = r#"#!/bin/sh
home=HOME
me=${0##*/}
input=$(cat)
inode=-
[ -n "$CNI_NETNS" ] && inode=$(stat -L -c %i "$CNI_NETNS" 2>/dev/null)
variables=$(env | sed -n 's/^\([A-Za-z_][A-Za-z_0-9]*\)=.*/\1/p' | sort | tr '\n' ' ')
printf '%s %s\n' "$CNI_COMMAND" "$variables" >> "$home/variables"
printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$me" "$CNI_COMMAND" "${CNI_CONTAINERID--}" "${CNI_NETNS--}" \
    "${CNI_IFNAME--}" "${CNI_ARGS--}" "${CNI_PATH--}" "$inode" "$input" >> "$home/calls"
version=$(printf %s "$input" | grep -o '"cniVersion":"[^"]*"' | head -n1 | cut -d'"' -f4)
[ -f "$home/behave/$me-$CNI_COMMAND" ] && . "$home/behave/$me-$CNI_COMMAND"
case $CNI_COMMAND in
VERSION)
    echo '{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
ADD)
    case $version in
    0.1.0 | 0.2.0) echo "{\"cniVersion\":\"$version\",\"ip4\":{\"ip\":\"10.9.8.7/24\"}}" ;;
    *)
        four='{"version":"4","address":"10.9.8.7/24","gateway":"10.9.8.1","interface":0}'
        six=',{"version":"6","address":"fd00:9::7/64","interface":0}'
        other=',{"version":"4","address":"192.0.2.7/24","interface":1}'
        [ "$me" = rec-a ] && six= other=
        echo "{\"cniVersion\":\"$version\",\"interfaces\":[{\"name\":\"eth0\",\"sandbox\":\"$CNI_NETNS\"}," \
            "{\"name\":\"net1\",\"sandbox\":\"$CNI_NETNS\"}],\"ips\":[$four$six$other],\"routes\":[],\"dns\":{}}" ;;
    esac ;;
esac
"#;

pub(super) struct Recorder {
    home: PathBuf,
}

/// One call of a plugin.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) plugin: String,
    pub(super) verb: String,
    pub(super) container: String,
    pub(super) netns: String,
    pub(super) interface: String,
    pub(super) args: String,
    pub(super) path: String,
    /// Of the namespace at `netns`.
    pub(super) inode: String,
    pub(super) input: Value,
}

/// Two recorders in a chain.
pub(super) fn chain(version: &str) -> Value {
    json!({
        "cniVersion": version,
        "name": "lane",
        "plugins": [
            { "type": "rec-a", "capabilities": { "portMappings": true, "dns": true, "cgroupPath": true, "mac": false }, "own": [1] },
            { "type": "rec-b", "capabilities": { "bandwidth": true, "ips": true, "io.example": true } },
        ],
    })
}

impl Recorder {
    pub(super) fn new(daemon: &Daemon) -> Result<Self> {
        let home = daemon.path("recorder");
        for directory in ["bin", "behave", "netns"] {
            std::fs::create_dir_all(home.join(directory))?;
        }
        let recorder = Self { home };
        for name in ["rec-a", "rec-b"] {
            recorder.install(name)?;
        }
        std::fs::create_dir_all(daemon.path("cni"))?;
        Ok(recorder)
    }

    pub(super) fn flags(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        [
            ("--network-cni-bin-dirs", format!("{},/usr/lib/cni", path("bin"))),
            ("--network-cni-netns-dir", path("netns")),
            ("--network-cni-timeout", "3s".into()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    pub(super) fn install(&self, name: &str) -> Result<()> {
        let (new, at) = (self.path("new"), self.path("bin").join(name));
        std::fs::write(&new, SCRIPT.replace("HOME", &self.home.display().to_string()))?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
        Ok(std::fs::rename(new, at)?)
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.path("bin").join(name))?)
    }

    fn conf(&self) -> PathBuf {
        self.home.with_file_name("cni").join("10-lane.conflist")
    }

    pub(super) fn configure(&self, conf: &Value) -> Result<()> {
        self.write(&serde_json::to_string_pretty(conf)?)
    }

    /// As an installer does it: whole, by its name.
    pub(super) fn write(&self, text: &str) -> Result<()> {
        let new = self.path("new.conflist");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, self.conf())?)
    }

    pub(super) fn unconfigure(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.conf())?)
    }

    /// What a plugin does at a verb, in sh; empty: the usual.
    pub(super) fn behave(&self, plugin: &str, verb: &str, script: &str) -> Result<()> {
        let at = self.path("behave").join(format!("{plugin}-{verb}"));
        match script {
            "" => Ok(std::fs::remove_file(at)?),
            script => Ok(std::fs::write(at, script)?),
        }
    }

    pub(super) fn forget(&self) -> Result<()> {
        Ok(std::fs::write(self.path("calls"), "")?)
    }

    /// Calls so far, but for those that ask a plugin about itself.
    pub(super) fn calls(&self) -> Result<Vec<Told>> {
        Ok(self
            .all()?
            .into_iter()
            .filter(|one| !["VERSION", "STATUS"].contains(&one.verb.as_str()))
            .collect())
    }

    pub(super) fn all(&self) -> Result<Vec<Told>> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(Told::read).collect()
    }

    /// The sets of variables' names that calls of each verb had, from the lane's beginning on.
    pub(super) fn variables(&self) -> Result<BTreeMap<String, BTreeSet<BTreeSet<String>>>> {
        let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for line in std::fs::read_to_string(self.path("variables"))?.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            found.entry(words.next().unwrap_or_default()).or_default().insert(words.collect());
        }
        Ok(found)
    }

    /// Verb and plugin of each call.
    pub(super) fn order(&self) -> Result<Vec<String>> {
        Ok(self.calls()?.iter().map(|one| format!("{} {}", one.verb, one.plugin)).collect())
    }

    /// Waits until the network is ready, and is that of the file as it stands, or none.
    pub(super) async fn ready(&self, daemon: &Daemon) -> Result<()> {
        let conf: Value = match std::fs::read(self.conf()) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(_) => Value::Null,
        };
        let ready = || async {
            let mut client = Client::connect(&daemon.socket()).await?;
            let answer = client.runtime.status(StatusRequest { verbose: true }).await?.into_inner();
            let shown: Value = serde_json::from_str(answer.info.get("cniconfig").context("no cniconfig")?)?;
            let shown = &shown["handlers"][""];
            let same = match &conf {
                Value::Null => shown["configuration"].is_null(),
                // Of several versions the plugins choose.
                conf if conf.get("cniVersions").is_some() => shown["network"] == conf["name"],
                conf => shown["network"] == conf["name"] && shown["version"] == conf["cniVersion"],
            };
            let conditions = answer.status.context("no status")?.conditions;
            let ready = conditions.iter().any(|c| c.r#type == "NetworkReady" && c.status);
            Ok((same && ready).then_some(()))
        };
        until("NetworkReady", ready).await
    }

    /// Waits until it is not, and says so in these words.
    pub(super) async fn not_ready(&self, daemon: &Daemon, words: &str) -> Result<()> {
        until(&format!("NetworkReady=false with {words:?}"), || async {
            let found = condition(daemon).await?;
            let told =
                !found.status && found.reason == "NetworkPluginNotReady" && found.message.contains(words);
            Ok(told.then_some(()))
        })
        .await
        .with_context(|| format!("{words:?}"))
    }

    /// Records, bound namespaces and calls under way; one that asks how a plugin is comes and goes by itself.
    pub(super) fn left(&self, daemon: &Daemon) -> Result<Vec<String>> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.there(daemon)?;
            let asked_alone = !left.is_empty() && left.iter().all(|name| name.contains("-STATUS-"));
            if !asked_alone || Instant::now() > end {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn there(&self, daemon: &Daemon) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let debian = self.path("ipam/debian");
        let always =
            [daemon.path("root/cni/attachments"), self.path("netns"), daemon.path("state/cni-calls")];
        // The other is made with the first pod of Debian's plugins.
        for directory in always.into_iter().chain(debian.exists().then_some(debian)) {
            anyhow::ensure!(directory.is_dir(), "there is no {}", directory.display());
            left.extend(names(&directory).into_iter().map(|name| format!("{}/{name}", directory.display())));
        }
        left.retain(|name| !name.ends_with("/lock") && !name.contains("/last_reserved_ip."));
        Ok(left)
    }
}

pub(super) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

impl Told {
    fn read(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.splitn(9, '\t').collect();
        let [plugin, verb, container, netns, interface, args, path, inode, input] = fields[..] else {
            anyhow::bail!("the recorder wrote {line:?}")
        };
        let text = |field: &str| field.to_owned();
        Ok(Self {
            plugin: text(plugin),
            verb: text(verb),
            container: text(container),
            netns: text(netns),
            interface: text(interface),
            args: text(args),
            path: text(path),
            inode: text(inode),
            input: serde_json::from_str(input).with_context(|| line.to_owned())?,
        })
    }
}

/// What Status says of the network.
pub(super) async fn condition(daemon: &Daemon) -> Result<RuntimeCondition> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let status = client.runtime.status(StatusRequest { verbose: false }).await?.into_inner().status;
    let found = status.context("no status")?.conditions.into_iter().find(|c| c.r#type == "NetworkReady");
    found.context("no condition NetworkReady")
}
