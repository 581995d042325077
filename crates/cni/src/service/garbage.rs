//! Networks that were ever used, and what plugins keep of pods that are no more.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Cni, Found};
use crate::prepared::Prepared;
use crate::record::{self, UsedPlugin};
use crate::{InUse, Version};

/// A network as it was last used, for its garbage once its configuration is another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    version: Version,
    #[serde(default)]
    disable_gc: bool,
    plugins: Vec<UsedPlugin>,
}

impl Cni {
    pub(super) fn seen_path(&self) -> PathBuf {
        self.settings.root.join("cni/networks.json")
    }

    pub(super) fn remember(&self, network: &Prepared) {
        let seen = Seen {
            version: network.version,
            disable_gc: network.disable_gc,
            plugins: network.plugins.clone(),
        };
        let all = {
            let mut all = self.seen.lock();
            match all.get(&network.network) == Some(&seen) {
                true => return,
                false => drop(all.insert(network.network.clone(), seen)),
            }
            all.clone()
        };
        if let Err(error) = record::write(&self.seen_path(), &all) {
            tracing::warn!(%error, "a network that is in use is not remembered");
        }
    }

    /// Tells the plugins of every network that was ever used which pods there are. One that is not configured any more and
    /// has no pods is forgotten then.
    pub(crate) fn collect(&self) {
        let _alone = self.gate.write();
        let mut all = self.seen.lock().clone();
        if all.is_empty() {
            return;
        }
        let configured: HashSet<String> = (self.found.lock().values())
            .filter_map(|found| {
                if let Found::Good(network, _) = found { Some(network.network.clone()) } else { None }
            })
            .collect();
        let records = self.records.all();
        all.retain(|name, seen| {
            let mine = records.iter().filter(|record| record.network == *name);
            let in_use: Vec<InUse> = mine
                .map(|record| InUse {
                    container: record.container.clone(),
                    interface: record.interface.clone(),
                })
                .collect();
            let told = match seen.disable_gc {
                true => Ok(()),
                false => self.chain.gc(name, seen.version, &seen.plugins, &in_use),
            };
            if let Err(error) = &told {
                let error = error as &dyn std::error::Error;
                tracing::warn!(network = name, error, "what is not in use may stay with a plugin");
            }
            told.is_err() || configured.contains(name) || !in_use.is_empty()
        });
        self.seen.lock().clone_from(&all);
        if let Err(error) = record::write(&self.seen_path(), &all) {
            tracing::warn!(%error, "the networks that were in use are not remembered");
        }
    }
}
