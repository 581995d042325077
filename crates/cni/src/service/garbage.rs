//! Networks that were ever used, and what plugins keep of pods that are no more.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CUT_WAIT, Cni, Found, INTERFACE};
use crate::prepared::Prepared;
use crate::record::{self, Survives, UsedPlugin};
use crate::{InUse, Version};

/// A network as it was last used, for its garbage once its configuration is another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    version: Version,
    #[serde(default)]
    disable_gc: bool,
    plugins: Vec<UsedPlugin>,
}

/// All of them, and how often that changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Networks {
    changes: u64,
    by_name: BTreeMap<String, Seen>,
}

impl Networks {
    /// As on disk.
    pub(super) fn new(by_name: BTreeMap<String, Seen>) -> Self {
        Self { changes: 0, by_name }
    }

    /// Whether it was another before.
    fn set(&mut self, name: &str, seen: Option<Seen>) -> bool {
        let changed = self.by_name.get(name) != seen.as_ref();
        if changed {
            self.changes += 1;
            match seen {
                Some(seen) => drop(self.by_name.insert(name.to_owned(), seen)),
                None => drop(self.by_name.remove(name)),
            }
        }
        changed
    }
}

impl Cni {
    pub(super) fn seen_path(&self) -> PathBuf {
        self.settings.root.join("cni/networks.json")
    }

    pub(super) fn remember(&self, network: &Prepared) {
        let is_as_seen = |seen: &Seen| {
            (seen.version, seen.disable_gc) == (network.version, network.disable_gc)
                && seen.plugins == network.plugins
        };
        if self.seen.lock().by_name.get(&network.network).is_some_and(is_as_seen) {
            return;
        }
        let seen = Seen {
            version: network.version,
            disable_gc: network.disable_gc,
            plugins: network.plugins.clone(),
        };
        let changed = self.seen.lock().set(&network.network, Some(seen));
        if changed && let Err(error) = self.write_networks() {
            tracing::warn!(%error, "a network that is in use is not remembered");
        }
    }

    /// Several may write at once: who was not the last to change it writes once more.
    fn write_networks(&self) -> std::io::Result<()> {
        loop {
            let Networks { changes, by_name } = self.seen.lock().clone();
            record::write(&self.seen_path(), &by_name, Survives::PowerCut)?;
            if self.seen.lock().changes == changes {
                return Ok(());
            }
        }
    }

    /// Tells the plugins of every network that was ever used which pods there are. One that is not configured any more and
    /// has no pods is forgotten then. False: a pod came in between, and something is still to be told.
    pub fn collect(&self) -> bool {
        let all = self.seen.lock().by_name.clone();
        all.iter().fold(true, |whole, (name, seen)| self.collect_one(name, seen) && whole)
    }

    fn is_configured_network(&self, name: &str) -> bool {
        let found = self.found.lock();
        found.values().any(|found| matches!(found, Found::Good(network, _) if network.network == name))
    }

    /// False: it was cut short.
    fn collect_one(&self, name: &str, seen: &Seen) -> bool {
        let turn = match self.turns.collect(name, CUT_WAIT) {
            Ok(Some(turn)) => turn,
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(network = name, %error, "its garbage is not collected");
                return true;
            }
        };
        // After it is known who comes: whoever is not among them by now has a record.
        let records = self.records.all();
        let in_use = |container: &str, interface: &str| InUse {
            container: container.to_owned(),
            interface: interface.to_owned(),
        };
        let mine = records.iter().filter(|record| record.network == name);
        let mine = mine.map(|record| in_use(&record.container, &record.interface));
        let coming = turn.coming.iter().map(|container| in_use(container, INTERFACE));
        let in_use: HashSet<InUse> = mine.chain(coming).collect();
        let in_use: Vec<InUse> = in_use.into_iter().collect();
        let told = match seen.disable_gc {
            true => Ok(()),
            false => self.chain.gc(name, seen.version, &seen.plugins, &in_use, &turn.cut),
        };
        match told {
            // A pod that comes now is let in once this has ended, and remembers the network anew.
            Ok(()) if in_use.is_empty() && !self.is_configured_network(name) => {
                self.seen.lock().set(name, None);
                if let Err(error) = self.write_networks() {
                    tracing::warn!(%error, "a network that nobody uses stays remembered");
                }
                true
            }
            Ok(()) => true,
            Err(error) if error.is_cut() => false,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(network = name, error, "what is not in use may stay with a plugin");
                true
            }
        }
    }

    /// As if no network had ever been used.
    pub(super) fn forget_networks(&self) -> std::io::Result<()> {
        *self.seen.lock() = Networks::default();
        match std::fs::remove_file(self.seen_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
