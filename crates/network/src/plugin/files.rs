//! What pods of plugins have in the table, as files below the state directory: one for each pod, and one for the bridges.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use berth_sys::file;
use serde::{Deserialize, Serialize};

use super::rules::PodRules;
use crate::NetworkError;

/// A directory of them.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
}

impl Files {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(super) fn bridges(&self) -> PathBuf {
        self.directory.join("bridges")
    }

    pub(super) fn pod(&self, container: &str) -> PathBuf {
        self.directory.join(format!("{container}.json"))
    }

    /// At start.
    pub(super) fn pods(&self) -> HashMap<String, PodRules> {
        file::settle(&self.directory);
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok);
        let pod = |path: PathBuf| {
            let name = path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
            Some((name, self.read(&path)?))
        };
        entries.filter_map(|entry| pod(entry.path())).collect()
    }

    /// A file that cannot be read is as good as none: a pod that runs is then without ports until it is made anew.
    pub(super) fn read<T: for<'de> Deserialize<'de>>(&self, path: &Path) -> Option<T> {
        let bytes = std::fs::read(path).ok()?;
        let read = serde_json::from_slice(&bytes);
        read.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "it is passed over")).ok()
    }

    pub(super) fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), NetworkError> {
        let write = || file::put(path, &serde_json::to_vec(value)?);
        write().map_err(|source| NetworkError::Save { path: path.to_owned(), source })
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), NetworkError> {
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(NetworkError::Save { path: path.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn clear(&self) -> Result<(), NetworkError> {
        match std::fs::remove_dir_all(&self.directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(NetworkError::Save { path: self.directory.clone(), source })
            }
            _ => Ok(()),
        }
    }
}
