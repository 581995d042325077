//! What the directories have at this moment, and what plugins say of themselves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Cni, CniError, Found, Report, Word, whole};
use crate::prepared::{self, Prepared};

impl Cni {
    fn directories(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        let default = self.settings.conf_dir.as_ref().map(|directory| ("", directory));
        default.into_iter().chain(self.settings.handler_dirs.iter().map(|(name, path)| (name.as_str(), path)))
    }

    /// Looks at the directories again.
    pub(crate) fn refresh(&self) {
        let _one = self.refreshing.lock();
        for (handler, directory) in self.directories() {
            let loaded = prepared::load(directory, &self.chain);
            let mut all = self.found.lock();
            let before = all.entry(handler.to_owned()).or_default();
            let now = match (loaded, &*before) {
                (Ok(None), Found::Nothing) => continue,
                (Ok(Some(new)), Found::Good(old, _)) if **old == new => continue,
                (Err(error), Found::Broken(old)) if *old == error.to_string() => continue,
                (Ok(None), _) => Found::Nothing,
                (Ok(Some(new)), _) => {
                    let word = if new.has_status() { Word::Unasked } else { Word::Ready };
                    Found::Good(Arc::new(new), word)
                }
                (Err(error), _) => Found::Broken(error.to_string()),
            };
            match &now {
                Found::Nothing => tracing::info!(handler, "no CNI configuration: the network of Berth's own"),
                Found::Good(new, _) => tracing::info!(
                    handler,
                    file = %new.path.display(),
                    network = new.network,
                    version = new.version.as_str(),
                    "a CNI configuration is in use"
                ),
                Found::Broken(problem) => tracing::warn!(handler, problem, "a CNI configuration is not used"),
            }
            *before = now;
            drop(all);
            self.ask_soon();
        }
    }

    fn ask_soon(&self) {
        *self.asking.0.lock() = true;
        self.asking.1.notify_all();
    }

    /// Asks the plugins, and Berth's own network, whether they can connect pods.
    pub(crate) fn ask(&self) {
        let all: Vec<_> =
            self.found.lock().iter().map(|(name, found)| (name.clone(), found.clone())).collect();
        for (handler, found) in all {
            let Found::Good(network, _) = found else { continue };
            if !network.has_status() {
                continue;
            }
            let asked = self.chain.status(&network.network, network.version, &network.plugins);
            let word = asked.map_or_else(|error| Word::NotReady(whole(&error)), |()| Word::Ready);
            if let Some(Found::Good(still, old)) = self.found.lock().get_mut(&handler)
                && Arc::ptr_eq(still, &network)
                && *old != word
            {
                tracing::info!(handler, network = network.network, ?word, "the plugins say");
                *old = word;
            }
        }
        // Asking makes it: not where plugins connect the pods.
        let needed = self.settings.conf_dir.is_none() || matches!(self.network(""), Found::Nothing);
        let word = match needed {
            true => (self.embedded)().map_or_else(Word::NotReady, |()| Word::Ready),
            false => Word::Unasked,
        };
        *self.stand_in.lock() = word;
    }

    pub(super) fn network(&self, handler: &str) -> Found {
        let all = self.found.lock();
        all.get(handler).or_else(|| all.get("")).cloned().unwrap_or_default()
    }

    /// Whether pods of this handler are connected by a configuration, also by a broken one.
    pub fn is_configured(&self, handler: &str) -> bool {
        !matches!(self.network(handler), Found::Nothing)
    }

    /// How it stands with the default handler's network.
    pub fn report(&self) -> Report {
        let word = |word: Word| match word {
            Word::Ready => None,
            Word::Unasked => Some("the plugins have not said yet whether they are ready".to_owned()),
            Word::NotReady(problem) => Some(problem),
        };
        let shown = |found: &Found| match found {
            Found::Nothing => json!({ "configuration": null }),
            Found::Broken(problem) => json!({ "problem": problem }),
            Found::Good(network, said) => json!({
                "configuration": network.path,
                "network": network.network,
                "version": network.version,
                "plugins": network.plugins,
                "problem": word(said.clone()),
            }),
        };
        let handlers: BTreeMap<String, Value> =
            self.found.lock().iter().map(|(name, found)| (name.clone(), shown(found))).collect();
        let problem = match self.network("") {
            Found::Nothing => word(self.stand_in.lock().clone()),
            Found::Broken(problem) => Some(problem),
            Found::Good(_, said) => word(said),
        };
        let debts = self.debts.lock().owed.clone();
        let owed: BTreeMap<_, _> = debts
            .iter()
            .map(|(id, owed)| (id, json!({ "since": owed.since, "problem": owed.problem })))
            .collect();
        let mut notes = Vec::new();
        if let Some((id, one)) = debts.iter().next() {
            let others =
                if debts.len() == 1 { String::new() } else { format!(", and of {} more", debts.len() - 1) };
            notes.push(format!(
                "the network of ended pod {id}{others} is still to be given back: {}",
                one.problem
            ));
        }
        Report { problem, notes, verbose: json!({ "handlers": handlers, "owed": owed }) }
    }

    /// Whether an end was tried, and is tried again in its time.
    pub(super) fn is_owed(&self, container: &str) -> bool {
        let debts = self.debts.lock();
        let owed = debts.owed.contains_key(container) || debts.paying.as_deref() == Some(container);
        drop(debts);
        owed && self.records.get(container).is_some_and(|record| record.ending.is_some())
    }

    /// One that was broken may be whole by now: a program that was missing is there.
    pub(super) fn usable(&self, handler: &str) -> Result<Arc<Prepared>, CniError> {
        if !matches!(self.network(handler), Found::Good(..)) {
            self.refresh();
        }
        match self.network(handler) {
            Found::Good(network, _) => Ok(network),
            Found::Broken(problem) => Err(CniError::NotReady(problem)),
            Found::Nothing => Err(CniError::NotReady("its CNI configuration was removed".into())),
        }
    }
}
