//! One instance's networks by configuration: what pods are connected with, and what is still owed to plugins.

mod check;
mod garbage;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_ids::{Classify, ErrorClass};
use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use self::garbage::Networks;
use crate::netns::{self, Paths};
use crate::prepared::Prepared;
use crate::record::{self, Ending, PodName, Record, Records, Survives, UsedPlugin};
use crate::turns::{Closed, Turns};
use crate::{Chain, ChainError, Cidr, CniResult, InProcess, Programs, RuntimeConfig};

/// The pod's interface.
const INTERFACE: &str = "eth0";
/// Below the data directory.
const POD_CIDR: &str = "cni/pod-cidr.json";
/// How long a garbage collection that is cut short may take to end: a program is killed, what is done in-process ends by itself.
const CUT_WAIT: Duration = Duration::from_secs(5);
/// The first and the longest pause between attempts at an end.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// What an instance is told.
#[derive(Debug, Clone)]
pub struct CniSettings {
    pub instance: String,
    /// `None`: there are no configurations.
    pub conf_dir: Option<PathBuf>,
    /// Runtime handlers that have a directory of their own.
    pub handler_dirs: BTreeMap<String, PathBuf>,
    pub bin_dirs: Vec<PathBuf>,
    pub netns_dir: PathBuf,
    /// What a reboot may take.
    pub state: PathBuf,
    /// What stays.
    pub root: PathBuf,
    /// Of one plugin.
    pub timeout: Duration,
    /// How long an end that fails is tried again.
    pub retry_for: Duration,
    /// Standard plugins need no program. Pods that were connected without one end so in either case.
    pub in_process: bool,
}

/// A pod that asks to be connected.
#[derive(Debug)]
pub struct CniPod<'a> {
    pub container: &'a str,
    pub name: PodName,
    /// Empty: the default one.
    pub handler: &'a str,
    pub runtime: RuntimeConfig,
    pub netns: BorrowedFd<'a>,
    /// A path of the namespace that is good as long as the pod lives.
    pub path: String,
}

/// What it got.
#[derive(Debug)]
pub struct Connected {
    /// In the result's order.
    pub ips: Vec<IpAddr>,
    /// To be kept, and given back at the end.
    pub record: Record,
}

#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("the network is not ready: {0}")]
    NotReady(String),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("keep a record of the connection")]
    Record(#[source] std::io::Error),
    #[error("bind the network namespace to a path")]
    Netns(#[source] std::io::Error),
    #[error("the network is being reset, or its garbage collected: that did not end within {CUT_WAIT:?}")]
    Collecting,
    #[error("pods use the network: {}", pods.join(", "))]
    Used { pods: Vec<String> },
}

impl Classify for CniError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NotReady(_) | Self::Collecting => ErrorClass::Unavailable,
            Self::Used { .. } => ErrorClass::FailedPrecondition,
            Self::Chain(error) => error.class(),
            Self::Record(_) | Self::Netns(_) => ErrorClass::Internal,
        }
    }
}

/// How it stands with a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Why pods cannot be connected.
    pub problem: Option<String>,
    /// Odd, but in nobody's way.
    pub notes: Vec<String>,
    /// For people.
    pub verbose: Value,
}

/// What a directory was found to have.
#[derive(Debug, Clone, Default)]
pub(crate) enum Found {
    #[default]
    Nothing,
    Good(Arc<Prepared>, Word),
    Broken(String),
}

/// What plugins say about themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    Unasked,
    Ready,
    NotReady(String),
}

/// An end that is owed.
#[derive(Debug, Clone)]
pub(crate) struct Owed {
    pub(crate) due: Instant,
    pub(crate) problem: String,
    pub(crate) since: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Debts {
    pub(crate) owed: HashMap<String, Owed>,
    /// Whose is being paid right now.
    pub(crate) paying: Option<String>,
}

/// Stands in where there is no configuration: whether it could connect a pod.
pub type Embedded = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

pub struct Cni {
    pub(crate) settings: CniSettings,
    pub(crate) chain: Chain,
    records: Records,
    netns: Paths,
    /// What pods that are connected were given, by their containers.
    connected: Mutex<HashMap<String, Arc<CniResult>>>,
    embedded: Embedded,
    /// By runtime handler; the empty one is everybody's who has none.
    pub(crate) found: Mutex<BTreeMap<String, Found>>,
    /// Held while directories are looked at, so that what was read first is not kept over what was read last.
    refreshing: Mutex<()>,
    seen: Mutex<Networks>,
    /// As on disk.
    pod_cidr: Mutex<Vec<Cidr>>,
    /// The embedded network's word.
    pub(crate) stand_in: Mutex<Word>,
    pub(crate) debts: Mutex<Debts>,
    pub(crate) debts_changed: Condvar,
    /// Wakes who asks the plugins.
    pub(crate) asking: (Mutex<bool>, Condvar),
    turns: Turns,
}

impl std::fmt::Debug for Cni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cni").field("settings", &self.settings).finish_non_exhaustive()
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// An error with its causes.
pub(crate) fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

impl Cni {
    /// Reads the directories. Nothing is run before [`Cni::restore`].
    pub fn new(settings: CniSettings, in_process: Arc<dyn InProcess>, embedded: Embedded) -> Self {
        let programs =
            Programs::new(settings.bin_dirs.clone(), settings.state.join("cni-calls"), settings.timeout);
        let records =
            Records::new(settings.root.join("cni/attachments"), settings.state.join("cni-attachments"));
        let seen = settings.root.join("cni/networks.json");
        let pod_cidr = Mutex::new(record::read(&settings.root.join(POD_CIDR)).unwrap_or_default());
        let netns = Paths { directory: settings.netns_dir.clone(), instance: settings.instance.clone() };
        let chain = Chain { programs: Arc::new(programs), in_process, programs_alone: !settings.in_process };
        Self {
            settings,
            chain,
            records,
            netns,
            connected: Mutex::default(),
            embedded,
            found: Mutex::default(),
            refreshing: Mutex::default(),
            seen: Mutex::new(Networks::new(record::read(&seen).unwrap_or_default())),
            pod_cidr,
            stand_in: Mutex::new(Word::Unasked),
            debts: Mutex::default(),
            debts_changed: Condvar::new(),
            asking: Default::default(),
            turns: Turns::default(),
        }
    }

    /// Connects a pod. On failure everything is given back, or owed and tried again.
    pub fn attach(&self, pod: CniPod<'_>) -> Result<Connected, CniError> {
        let network = self.usable(pod.handler)?;
        let _coming =
            self.turns.come(&network.network, pod.container, CUT_WAIT).ok_or(CniError::Collecting)?;
        let mut record = Record {
            container: pod.container.to_owned(),
            interface: INTERFACE.to_owned(),
            pod: pod.name,
            network: network.network.clone(),
            version: network.version,
            disable_check: network.disable_check,
            plugins: network.plugins.clone(),
            runtime: pod.runtime,
            netns: None,
            sandbox: pod.path,
            result: None,
            ending: None,
        };
        if network.has_programs() {
            let path = self.netns.bind(pod.container, pod.netns).map_err(CniError::Netns)?;
            record.sandbox = path.to_string_lossy().into_owned();
            record.netns = Some(path);
        }
        self.remember(&network);
        let survives = if network.disable_gc { Survives::PowerCut } else { record.survives() };
        let keep = |record: &Record| self.records.put(record, survives).map_err(CniError::Record);
        // Before anything is done: a daemon after this one undoes what it finds.
        let made = keep(&record).and_then(|()| {
            let result = self.chain.add(&mut record, &network.known, pod.netns, keep)?;
            // What is done in-process ends as well without: what came of it is the caller's to keep.
            if network.has_programs() {
                keep(&record)?;
            }
            Ok(result)
        });
        match made {
            Ok(result) => {
                let ips = result.addresses(INTERFACE);
                self.connected.lock().insert(record.container.clone(), Arc::new(result));
                Ok(Connected { ips, record })
            }
            Err(error) => {
                self.end(record, Some(pod.netns));
                Err(error)
            }
        }
    }

    /// What each pod that is connected was given.
    pub fn connected(&self) -> Vec<Arc<CniResult>> {
        self.connected.lock().values().cloned().collect()
    }

    /// The plugins of every configuration that is in use.
    pub fn configured(&self) -> Vec<Vec<UsedPlugin>> {
        let plugins = |found: &Found| match found {
            Found::Good(network, _) => Some(network.plugins.clone()),
            _ => None,
        };
        self.found.lock().values().filter_map(plugins).collect()
    }

    /// Whether there is a record of a pod.
    pub fn knows(&self, container: &str) -> bool {
        self.records.has(container)
    }

    /// Disconnects a pod, from what was recorded: here, or by the caller. It always succeeds: what a plugin does not give
    /// back is owed, and tried again until it is too old.
    pub fn detach(&self, container: &str, netns: Option<BorrowedFd<'_>>, given: Option<Record>) {
        if self.is_owed(container) {
            // Whoever asks for the end once more does not wait for the same plugin once more.
            return;
        }
        {
            let mut debts = self.debts.lock();
            let end = Instant::now() + self.settings.timeout * 2;
            while debts.paying.as_deref() == Some(container) {
                if self.debts_changed.wait_until(&mut debts, end).timed_out() {
                    tracing::warn!(container, "the end of its network is tried already");
                    return;
                }
            }
            debts.owed.remove(container);
        }
        if let Some(record) = self.recorded(container, given) {
            self.end(record, netns);
        }
    }

    /// What is known of a pod: here, and by the caller, who may know more of what came of it.
    fn recorded(&self, container: &str, given: Option<Record>) -> Option<Record> {
        let Some(mut kept) = self.records.get(container) else { return given };
        kept.result = kept.result.or_else(|| given?.result);
        Some(kept)
    }

    /// One attempt at an end, and what follows of it.
    pub(crate) fn end(&self, record: Record, netns: Option<BorrowedFd<'_>>) {
        self.connected.lock().remove(&record.container);
        let bound = self.bound(&record, netns);
        let netns = netns.or(bound.as_ref().map(|fd| fd.as_fd()));
        let since = record.ending.as_ref().map_or_else(now, |ending| ending.since);
        let late = now().saturating_sub(since) >= self.settings.retry_for.as_secs();
        let ended = self.chain.del(&record, netns, record.ending.is_some() && late);
        drop(bound);
        // A namespace that stays bound stays: its pod has ended.
        if let Some(path) = &record.netns
            && let Err(error) = netns::release(path)
        {
            tracing::warn!(path = %path.display(), %error, "a namespace stays bound until the next start");
        }
        let container = record.container.clone();
        match ended {
            Ok(()) => self.forget(&container),
            Err(error) if record.ending.is_some() && late => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(container, error, "its network is given up; what a plugin kept of it stays");
                self.forget(&container);
            }
            Err(error) => self.owe(record, whole(&error)),
        }
    }

    /// An end that did not succeed is tried again.
    fn owe(&self, mut record: Record, problem: String) {
        let container = record.container.clone();
        let (since, before) = record.ending.as_ref().map_or((now(), 0), |e| (e.since, e.attempts));
        let pause = (RETRY_FIRST * 2u32.saturating_pow(before.min(10))).min(RETRY_LONGEST);
        let attempts = before + 1;
        tracing::warn!(container, problem, attempts, ?pause, "its network is not given back yet");
        record.ending = Some(Ending { since, attempts, problem: problem.clone() });
        if let Err(error) = self.records.put(&record, record.survives()) {
            tracing::warn!(container, %error, "what is owed is not on disk");
        }
        let owed = Owed { due: Instant::now() + pause, problem, since };
        self.debts.lock().owed.insert(container, owed);
        self.debts_changed.notify_all();
    }

    /// The end of a pod whose plugins cannot be asked now, as after one that failed: it does not keep the pod.
    pub fn postpone(&self, container: &str, given: Option<Record>, problem: String) {
        if let Some(record) = self.recorded(container, given) {
            self.connected.lock().remove(container);
            self.owe(record, problem);
        }
    }

    fn forget(&self, container: &str) {
        self.debts.lock().owed.remove(container);
        if let Err(error) = self.records.remove(container) {
            tracing::warn!(container, %error, "the record of a network that is given back stays until the next start");
        }
    }

    /// The namespace by its path, which is made good again where the namespace is there and the path is not.
    fn bound(&self, record: &Record, netns: Option<BorrowedFd<'_>>) -> Option<OwnedFd> {
        let path = record.netns.as_ref()?;
        match (netns::open(path), netns) {
            (Some(open), _) => Some(open),
            (None, Some(netns)) => match self.netns.bind(&record.container, netns) {
                Ok(path) => netns::open(&path),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the namespace is not bound again");
                    None
                }
            },
            (None, None) => None,
        }
    }

    /// At start: these pods live, by what was given of them. Programs of an earlier daemon are ended, the ends that it owed or
    /// cut off are owed now.
    pub fn restore(&self, live: HashMap<String, Record>) {
        match self.chain.programs.settle() {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "plugins that an earlier daemon had started were ended"),
            Err(error) => tracing::warn!(%error, "plugins of an earlier daemon may still run"),
        }
        self.records.settle();
        let records = self.records.all();
        // What plugins are still to take from a pod, they find by its namespace.
        let owed = records.iter().filter(|record| record.netns.is_some());
        self.netns.sweep(&live.keys().chain(owed.map(|record| &record.container)).cloned().collect());
        for record in records {
            if let Some(given) = live.get(&record.container).filter(|_| record.ending.is_none()) {
                let result = record.result.or_else(|| given.result.clone());
                if let Some(result) = result.and_then(|result| CniResult::read(result, record.version).ok()) {
                    self.connected.lock().insert(record.container, Arc::new(result));
                }
                continue;
            }
            let (problem, since) = match record.ending {
                Some(ending) => (ending.problem, ending.since),
                None => ("the daemon ended in the middle of it".into(), now()),
            };
            self.debts.lock().owed.insert(record.container, Owed { due: Instant::now(), problem, since });
        }
        self.refresh();
    }

    /// Pays what is due; gives when the next is.
    pub(crate) fn pay(&self) -> Option<Instant> {
        loop {
            let due = {
                let mut debts = self.debts.lock();
                let first = debts.owed.iter().min_by_key(|(_, owed)| owed.due)?;
                if first.1.due > Instant::now() {
                    return Some(first.1.due);
                }
                let id = first.0.clone();
                debts.paying = Some(id.clone());
                debts.owed.remove(&id);
                id
            };
            if let Some(record) = self.records.get(&due) {
                self.end(record, None);
            }
            self.debts.lock().paying = None;
            self.debts_changed.notify_all();
        }
    }

    fn cidr_path(&self) -> PathBuf {
        self.settings.root.join(POD_CIDR)
    }

    /// What the kubelet says pods' addresses are to be of: told to plugins that declare `ipRanges`, also after a restart.
    pub fn set_pod_cidr(&self, subnets: &[Cidr]) -> std::io::Result<()> {
        let mut known = self.pod_cidr.lock();
        subnets.clone_into(&mut known);
        record::write(&self.cidr_path(), &subnets, Survives::PowerCut)
    }

    pub fn pod_cidr(&self) -> Vec<Cidr> {
        self.pod_cidr.lock().clone()
    }

    /// Keeps pods from coming, where none is connected or being connected.
    pub fn close(&self) -> Result<Closed<'_>, CniError> {
        let closed = self.turns.close();
        let owed = self.debts.lock().owed.clone();
        let records = self.records.all();
        let used = records.iter().filter(|r| r.ending.is_none() && !owed.contains_key(&r.container));
        let pods: Vec<String> =
            used.map(|record| format!("{}/{}", record.pod.namespace, record.pod.name)).collect();
        match (closed, pods.is_empty()) {
            (Some(closed), true) => Ok(closed),
            (None, true) => Err(CniError::Used { pods: vec!["one that is being connected".into()] }),
            (_, false) => Err(CniError::Used { pods }),
        }
    }

    /// When no pod is connected any more: tries once more to pay what is owed, then forgets it.
    pub fn clear(&self) {
        for record in self.records.all() {
            if let Err(error) = self.chain.del(&record, None, true) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(container = record.container, error, "what a plugin kept of it stays");
            }
            self.forget(&record.container);
        }
        self.netns.sweep(&HashSet::new());
        self.collect();
        if let Err(error) = self.forget_networks() {
            tracing::warn!(%error, "networks that were in use stay remembered");
        }
    }

    /// The same, and what the kubelet said is forgotten too.
    pub fn reset(&self) {
        self.clear();
        self.pod_cidr.lock().clear();
        let _ = std::fs::remove_file(self.cidr_path());
    }
}
