//! A configuration made ready: in one version that all its plugins speak, each plugin with who does it.

use std::path::{Path, PathBuf};

use crate::chain::Chain;
use crate::record::UsedPlugin;
use crate::{ConfError, Does, Known, NetworkConf, Version, directory};

/// A network that pods can be connected to right now, as far as can be seen without connecting one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prepared {
    pub(crate) path: PathBuf,
    pub(crate) network: String,
    pub(crate) version: Version,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
    pub(crate) plugins: Vec<UsedPlugin>,
    /// Of each plugin, where it needs no program.
    pub(crate) known: Vec<Option<Known>>,
}

impl Prepared {
    /// Whether a plugin is a program, so that the namespace needs a path.
    pub(crate) fn has_programs(&self) -> bool {
        self.plugins.iter().any(|plugin| !plugin.in_process)
    }

    /// Whether plugins can be asked if they are ready.
    pub(crate) fn has_status(&self) -> bool {
        self.version.has_gc() || self.plugins.iter().any(|plugin| plugin.in_process)
    }
}

/// What a directory has. `None`: no configuration at all.
pub(crate) fn load(directory: &Path, chain: &Chain) -> Result<Option<Prepared>, ConfError> {
    match directory::load(directory)? {
        Some((path, conf)) => prepare(&path, conf, chain).map(Some),
        None => Ok(None),
    }
}

fn prepare(path: &Path, conf: NetworkConf, chain: &Chain) -> Result<Prepared, ConfError> {
    let refuse = |problem: String| ConfError::new(path, problem);
    let mut versions = conf.versions.clone();
    if conf.plugins.len() > 1 {
        versions.retain(|version| version.has_chains());
    }
    let (mut plugins, mut known) = (Vec::new(), Vec::new());
    for plugin in conf.plugins {
        let does = plugin.known.as_ref().map_or(Does::Nothing, |known| chain.in_process.does(known));
        let in_process = !chain.programs_alone
            && match does {
                Does::Everything => true,
                Does::Part => chain.programs.find(&plugin.kind).is_err(),
                Does::Nothing => false,
            };
        if !in_process {
            let find = |kind: &str| chain.programs.find(kind).map(drop);
            find(&plugin.kind)
                .and_then(|()| plugin.ipam().map_or(Ok(()), find))
                .map_err(|error| refuse(error.to_string()))?;
            match chain.speaks(&plugin.kind) {
                Ok(Some(spoken)) => {
                    let before = versions.clone();
                    versions.retain(|version| spoken.contains(version));
                    if versions.is_empty() {
                        let told = |all: &[Version]| {
                            all.iter().map(|version| version.as_str()).collect::<Vec<_>>().join(", ")
                        };
                        return Err(refuse(format!(
                            "plugin {} speaks CNI {}, the configuration is for {}",
                            plugin.kind,
                            told(&spoken),
                            told(&before)
                        )));
                    }
                }
                // Before CNI 0.2 there was nothing to ask with: the configuration's word counts.
                Ok(None) => tracing::debug!(plugin = plugin.kind, "it does not say which versions it speaks"),
                Err(error) => return Err(refuse(format!("plugin {}: {error}", plugin.kind))),
            }
        }
        plugins.push(UsedPlugin { conf: plugin.conf, in_process });
        known.push(plugin.known.filter(|_| in_process));
    }
    // The newest that all speak (CNI 1.1, section 1, "version considerations").
    let version = versions.last().copied().ok_or_else(|| refuse("no version of it has chains".into()))?;
    Ok(Prepared {
        path: path.to_owned(),
        network: conf.name,
        version,
        disable_check: conf.disable_check,
        disable_gc: conf.disable_gc,
        plugins,
        known,
    })
}
