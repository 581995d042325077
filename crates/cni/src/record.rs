//! What is kept of a pod's connection: everything that its end needs, also when plugin, configuration or namespace is gone.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{RuntimeConfig, Version};

/// Bytes of a record: a configuration and a result.
const RECORD_MAX: u64 = 4 << 20;

/// A plugin as it was used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsedPlugin {
    /// Its configuration, without name and version.
    pub conf: Map<String, Value>,
    /// Whether it was done in-process: it is undone by whom it was done.
    #[serde(default)]
    pub in_process: bool,
}

/// Who a pod is, as CNI_ARGS tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// A pod's connection to one network. Fields are only added, each with a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub container: String,
    pub interface: String,
    pub pod: PodName,
    pub network: String,
    pub version: Version,
    #[serde(default)]
    pub disable_check: bool,
    pub plugins: Vec<UsedPlugin>,
    #[serde(default)]
    pub runtime: RuntimeConfig,
    /// Where its namespace was bound for programs.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// What results name as its namespace.
    #[serde(default)]
    pub sandbox: String,
    /// What the last plugin said that was done, in the form of `version`: of the whole chain once all are.
    #[serde(default)]
    pub result: Option<Value>,
    /// It ended, and a plugin has not given everything back yet.
    #[serde(default)]
    pub ending: Option<Ending>,
}

/// An end that did not succeed so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Seconds since 1970.
    pub since: u64,
    pub attempts: u32,
    pub problem: String,
}

impl Record {
    /// CNI_ARGS. Whoever cannot read a key is told to skip it. A value ends at `;`: names of pods have none, and what had
    /// one would not be looked up by anybody.
    pub(crate) fn args(&self) -> String {
        let plain = |text: &str| text.replace([';', '='], "_");
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            plain(&self.pod.namespace),
            plain(&self.pod.name),
            self.container,
            plain(&self.pod.uid)
        )
    }

    /// What a program keeps of the pod nobody else finds; what is kept in-process, its own garbage collection does.
    pub(crate) fn survives(&self) -> Survives {
        match self.plugins.iter().all(|plugin| plugin.in_process) {
            true => Survives::Daemon,
            false => Survives::PowerCut,
        }
    }

    /// Names of the plugins, in their order.
    pub fn kinds(&self) -> BTreeSet<&str> {
        self.plugins.iter().filter_map(|plugin| plugin.conf.get("type")?.as_str()).collect()
    }
}

/// The records, one file for each pod. Those of [`Survives::PowerCut`] are on disk and outlive a reboot: so do the addresses that
/// plugins keep. The others are where a reboot may take them, which is in memory and quicker, and count where there are both.
#[derive(Debug)]
pub struct Records {
    disk: PathBuf,
    memory: PathBuf,
}

fn file(directory: &Path, container: &str) -> PathBuf {
    directory.join(format!("{container}.json"))
}

/// One that is not there is fine.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Records {
    pub fn new(disk: PathBuf, memory: PathBuf) -> Self {
        Self { disk, memory }
    }

    fn paths(&self, container: &str) -> [PathBuf; 2] {
        [&self.memory, &self.disk].map(|directory| file(directory, container))
    }

    pub(crate) fn put(&self, record: &Record, survives: Survives) -> io::Result<()> {
        let [memory, disk] = self.paths(&record.container);
        match survives {
            Survives::Daemon => write(&memory, record, survives),
            Survives::PowerCut => write(&disk, record, survives).and_then(|()| remove(&memory)),
        }
    }

    /// `None`: there is none, or it is damaged, as after a power cut.
    pub(crate) fn get(&self, container: &str) -> Option<Record> {
        self.paths(container).iter().find_map(|path| read(path))
    }

    pub(crate) fn has(&self, container: &str) -> bool {
        self.paths(container).iter().any(|path| path.metadata().is_ok_and(|found| found.len() > 0))
    }

    pub(crate) fn remove(&self, container: &str) -> io::Result<()> {
        self.paths(container).iter().try_for_each(|path| remove(path))
    }

    /// At start: nothing is left of a write that was cut off.
    pub(crate) fn settle(&self) {
        berth_sys::file::settle(&self.memory);
    }

    /// All that can be read.
    pub(crate) fn all(&self) -> Vec<Record> {
        let mut all = HashMap::new();
        for directory in [&self.disk, &self.memory] {
            let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
            let paths = entries.map(|entry| entry.path());
            let records = paths.filter(|path| path.extension().is_some_and(|e| e == "json"));
            let records = records.filter_map(|path| read::<Record>(&path));
            all.extend(records.map(|record| (record.container.clone(), record)));
        }
        all.into_values().collect()
    }
}

/// What a write outlives; a flush takes longer than all that is done in-process for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survives {
    /// The daemon's end.
    Daemon,
    /// It is on disk when the write returns.
    PowerCut,
}

/// Whole or not at all, also when the daemon is killed in the middle.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T, survives: Survives) -> io::Result<()> {
    if survives == Survives::Daemon {
        return berth_sys::file::put(path, &serde_json::to_vec(value)?);
    }
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let new = path.with_extension(format!("new{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let fill = || {
        let mut file = match File::create(&new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(directory)?;
                File::create(&new)?
            }
            made => made?,
        };
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    fill().inspect_err(|_| drop(std::fs::remove_file(&new)))?;
    // The name is the directory's (fsync(2)).
    File::open(directory)?.sync_all()
}

pub(crate) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(RECORD_MAX).read_to_end(&mut text).ok()?;
    match serde_json::from_slice(&text) {
        // The daemon was killed before it had written anything.
        _ if text.is_empty() => None,
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a damaged record is passed over");
            None
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(container: &str) -> Record {
        Record {
            container: container.into(),
            interface: "eth0".into(),
            pod: PodName { namespace: "n".into(), name: "p;x=1".into(), uid: "u".into() },
            network: "net".into(),
            version: Version::V1_0_0,
            disable_check: false,
            plugins: Vec::new(),
            runtime: RuntimeConfig::default(),
            netns: None,
            sandbox: "/proc/1/ns/net".into(),
            result: None,
            ending: None,
        }
    }

    #[test]
    fn records_are_kept_and_damaged_ones_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let places = ["disk", "memory"].map(|name| home.path().join(name));
        let [disk, memory] = places.clone();
        let records = Records::new(disk.clone(), memory.clone());
        assert!(records.all().is_empty());
        let one = record("one");
        records.put(&one, Survives::PowerCut).unwrap();
        records.put(&record("two"), Survives::Daemon).unwrap();
        assert_eq!(records.get("one"), Some(one.clone()));
        std::fs::write(memory.join("two.json"), "{").unwrap();
        assert_eq!((records.all().len(), records.get("two")), (1, None));
        // What is known last counts, wherever it is.
        let later = Record { network: "later".into(), ..one.clone() };
        records.put(&later, Survives::Daemon).unwrap();
        assert_eq!((records.all().len(), records.get("one")), (1, Some(later)));
        records.put(&one, Survives::PowerCut).unwrap();
        assert_eq!((records.all().len(), records.get("one")), (1, Some(one.clone())));
        records.put(&one, Survives::Daemon).unwrap();
        std::fs::write(memory.join("three.json"), "").unwrap();
        assert!(records.has("one") && !records.has("three") && records.get("three").is_none());
        records.settle();
        assert!(!memory.join("three.json").exists());
        records.remove("one").unwrap();
        records.remove("one").unwrap();
        assert!(records.all().is_empty() && !records.has("one"));
    }

    #[test]
    fn the_arguments_are_what_network_add_ons_look_pods_up_by() {
        assert_eq!(
            record("id").args(),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=n;K8S_POD_NAME=p_x_1;K8S_POD_INFRA_CONTAINER_ID=id;K8S_POD_UID=u"
        );
    }
}
