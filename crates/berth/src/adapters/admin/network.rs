//! The network's verbs. What is looked at is the kernel's; the records of domain and plugins say what should be there.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use berth_cni::Cni;
use berth_network::{
    Finding, Network, Plugins, Recorded, ResolverView, Step, Subject, check_pod, inspect_pod,
};
use berth_pods::{Connection, Pods};
use tokio::sync::Semaphore;

use super::super::Others;
use super::super::network::{self, Record};
use crate::admin::protocol::chain;
use crate::admin::{ConnectedPod, Failure, NetworkCheck, NetworkReport, PodNetwork, PodPlugins};
use crate::config::IpVersion;

/// Checks at the same time; each holds a thread for up to half a minute, and may run plugins.
const CHECKS: usize = 4;
/// Of one plugin's CHECK.
const CHECK_PATIENCE: Duration = Duration::from_secs(2);

/// Says and does what `berth network` asks for.
#[derive(Clone)]
pub(crate) struct NetworkVerbs {
    pods: Pods,
    network: Arc<Network>,
    others: Others,
    plugins: Arc<Plugins>,
    cni: Arc<Cni>,
    primary: Option<IpVersion>,
    checking: Arc<Semaphore>,
}

/// A pod's connection with what the records say of it.
struct Known {
    recorded: Recorded,
    /// `None`: Berth's own network.
    cni: Option<Box<berth_cni::Record>>,
}

impl NetworkVerbs {
    pub(crate) fn new(
        pods: Pods,
        (network, others): (Arc<Network>, Others),
        (plugins, cni): (Arc<Plugins>, Arc<Cni>),
        primary: Option<IpVersion>,
    ) -> Self {
        let checking = Arc::new(Semaphore::new(CHECKS));
        Self { pods, network, others, plugins, cni, primary, checking }
    }

    fn known(&self, connection: &Connection) -> Result<Option<Known>, Failure> {
        let Some(attachment) = &connection.attachment else { return Ok(None) };
        Ok(Some(match network::parse(attachment)? {
            Record::Embedded(attachment) => Known { recorded: self.network.recorded(&attachment), cni: None },
            Record::Cni(record) => Known { recorded: self.plugins.recorded(&record), cni: Some(record) },
        }))
    }

    fn line(&self, connection: &Connection) -> ConnectedPod {
        let network = match self.known(connection) {
            _ if connection.host_network => "the host's".to_owned(),
            Ok(Some(Known { cni: Some(record), .. })) => format!("CNI network {}", record.network),
            Ok(Some(Known { cni: None, .. })) => "Berth's own".to_owned(),
            Ok(None) => "none".to_owned(),
            Err(error) => error.to_string(),
        };
        let attachment = connection.attachment.as_ref();
        ConnectedPod {
            id: connection.id.to_string(),
            name: connection.name.clone(),
            network,
            ips: attachment.map(|attachment| attachment.ips.clone()).unwrap_or_default(),
        }
    }

    pub(super) async fn inspect(&self) -> Result<NetworkReport, Failure> {
        let (verbs, connections) = (self.clone(), self.pods.connections());
        tokio::task::spawn_blocking(move || {
            let report = verbs.cni.report();
            let pods = connections.iter().filter(|one| one.ready || one.attachment.is_some());
            Ok(NetworkReport {
                problem: report.problem,
                notes: report.notes,
                primary: verbs.primary.map(|version| match version {
                    IpVersion::V4 => "ipv4".to_owned(),
                    IpVersion::V6 => "ipv6".to_owned(),
                }),
                own: verbs.network.inspect()?,
                cni: report.verbose,
                plugin_ports: verbs.plugins.port_holders(),
                pods: pods.map(|connection| verbs.line(connection)).collect(),
                stopped_by_others: verbs.others.look(),
            })
        })
        .await?
    }

    pub(super) async fn inspect_pod(&self, wanted: &str) -> Result<PodNetwork, Failure> {
        let connection = self.pods.connection(wanted)?;
        let dns = ResolverView::read(&self.pods.resolv_conf(&connection.id).await);
        let verbs = self.clone();
        tokio::task::spawn_blocking(move || {
            let known = verbs.known(&connection)?;
            let netns = connection.netns.as_ref().filter(|_| !connection.host_network);
            let view = match (&known, netns) {
                (Some(known), Some((netns, _))) => Some(inspect_pod(&known.recorded, netns.as_fd())?),
                _ => None,
            };
            Ok(PodNetwork {
                pod: verbs.line(&connection),
                ready: connection.ready,
                netns: netns.map(|(netns, path)| (path.clone(), inode(netns))),
                cni: known.and_then(|known| known.cni).map(|record| plugins(&record)),
                dns,
                view,
            })
        })
        .await?
    }

    pub(super) async fn check(&self, wanted: &str) -> Result<NetworkCheck, Failure> {
        let turn = self.checking.clone().try_acquire_owned();
        let turn =
            turn.map_err(|_| format!("{CHECKS} checks go on already; try again when one has ended"))?;
        let connection = self.pods.connection(wanted)?;
        let dns = ResolverView::read(&self.pods.resolv_conf(&connection.id).await);
        let (verbs, connections) = (self.clone(), self.pods.connections());
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let steps = verbs.steps(&connection, &connections, &dns)?;
            Ok(NetworkCheck { pod: verbs.line(&connection), steps })
        })
        .await?
    }

    /// Blocking.
    fn steps(
        &self,
        connection: &Connection,
        all: &[Connection],
        dns: &ResolverView,
    ) -> Result<Vec<Step>, Failure> {
        let first = "network namespace";
        if connection.host_network {
            return Ok(vec![Step::skipped(first, "the pod has the host's network")]);
        }
        let known = self.known(connection)?;
        let (Some(known), Some((netns, path))) = (known, connection.netns.as_ref()) else {
            return Ok(vec![Step::failed(first, "the pod has ended, and its network with it", "")]);
        };
        let others = all.iter().filter(|other| other.id != connection.id).filter_map(|other| {
            let bridge = self.known(other).ok()??.recorded.bridge?;
            let ips = other.attachment.as_ref()?.ips.clone();
            (known.recorded.bridge.as_ref() == Some(&bridge)).then(|| (other.name.clone(), ips))
        });
        let mut steps = check_pod(&Subject {
            recorded: &known.recorded,
            netns: netns.as_fd(),
            path,
            nameservers: dns.addresses(),
            others: others.collect(),
        });
        match self.others.look_now(known.cni.as_deref())? {
            Some(findings) => steps.extend(by_others(&findings)),
            None => {
                let why =
                    "they are read for pods that a bridge or a pair of interfaces of the host leads to alone";
                steps.push(Step::skipped(OTHERS, why))
            }
        }
        steps.extend(known.cni.as_ref().map(|record| self.by_plugins(record, netns)));
        Ok(steps)
    }

    fn by_plugins(&self, record: &berth_cni::Record, netns: &OwnedFd) -> Step {
        let name = "CNI CHECK";
        match self.cni.check(record, netns.as_fd(), CHECK_PATIENCE) {
            Ok(None) => Step::ok(name, plugins(record).plugins.join(", ")),
            Ok(Some(why)) => Step::skipped(name, why),
            Err(error) => Step::failed(
                name,
                chain(&error),
                "what a plugin lost it gives to the pod's next one: remove the pod",
            ),
        }
    }

    pub(super) async fn reset(&self) -> Result<(), Failure> {
        let used = |one: &Connection| one.attachment.is_some() && !one.host_network;
        let users: BTreeSet<String> =
            self.pods.connections().into_iter().filter(used).map(|one| one.name).collect();
        if !users.is_empty() {
            let users: Vec<String> = users.into_iter().collect();
            return Err(format!("pods use the network, remove them first: {}", users.join(", ")).into());
        }
        let verbs = self.clone();
        tokio::task::spawn_blocking(move || {
            // Whoever comes meanwhile waits, and has it made anew.
            let _closed = verbs.cni.close()?;
            verbs.network.reset_unused()?;
            verbs.cni.clear();
            verbs.plugins.reset()?;
            tracing::info!("the network is reset; the next pod makes it anew");
            Ok(())
        })
        .await?
    }
}

const OTHERS: &str = "others' rules";

/// What may be stopped, depending on what is not known beforehand, is told and is no failure.
fn by_others(findings: &[Finding]) -> Vec<Step> {
    let step = |finding: &Finding| match finding.sure {
        true => Step::failed(OTHERS, finding.what(), finding.allow.clone()),
        false => Step::ok(OTHERS, finding.what()),
    };
    match findings.is_empty() {
        true => vec![Step::ok(OTHERS, "they stop nothing of its traffic")],
        false => findings.iter().map(step).collect(),
    }
}

fn inode(netns: &OwnedFd) -> u64 {
    std::fs::metadata(format!("/proc/self/fd/{}", netns.as_raw_fd())).map_or(0, |found| found.ino())
}

fn plugins(record: &berth_cni::Record) -> PodPlugins {
    let plugins = record.plugins.iter().map(|used| {
        let kind = used.conf.get("type").and_then(serde_json::Value::as_str).unwrap_or_default();
        format!("{kind} ({})", if used.in_process { "in-process" } else { "program" })
    });
    PodPlugins {
        network: record.network.clone(),
        version: record.version.as_str().to_owned(),
        plugins: plugins.collect(),
    }
}

#[cfg(test)]
mod tests {
    use berth_network::{Outcome, Traffic};

    use super::*;

    #[test]
    fn what_is_sure_to_be_stopped_is_a_failure() {
        let finding = |sure| Finding {
            traffic: Traffic::PodToOutside,
            bridge: "berth0".into(),
            way: "bridge berth0".into(),
            ip_version: 4,
            sure,
            by: "policy drop".into(),
            allow: "nft x".into(),
        };
        let outcomes = |findings: &[Finding]| -> Vec<(Outcome, Option<String>)> {
            by_others(findings).into_iter().map(|step| (step.outcome, step.helps)).collect()
        };
        assert_eq!(outcomes(&[]), [(Outcome::Ok, None)]);
        assert_eq!(
            outcomes(&[finding(true), finding(false)]),
            [(Outcome::Failed, Some("nft x".into())), (Outcome::Ok, None)]
        );
    }
}
