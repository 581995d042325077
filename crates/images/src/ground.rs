//! What containers stand on, on disk: `leases/<holder>` names the layers of its images, a line each. Where an image's record
//! is damaged, these are all that keeps its layers below the containers that run on them.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;

use berth_ids::Digest;
use parking_lot::Mutex;

use crate::{Image, ImageError};

/// Of one file.
const MAX: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Ground {
    root: PathBuf,
    /// Read at the start: holders, layers, and whether a lease of an image stands for a layer since.
    read: Mutex<HashMap<String, HashMap<Digest, bool>>>,
}

impl Ground {
    pub(crate) fn open(root: PathBuf) -> Result<Self, ImageError> {
        std::fs::create_dir_all(&root).map_err(ImageError::file("make", &root))?;
        let mut read = HashMap::new();
        for entry in std::fs::read_dir(&root).map_err(ImageError::file("read", &root))? {
            let entry = entry.map_err(ImageError::file("read", &root))?;
            let Ok(holder) = entry.file_name().into_string() else { continue };
            let mut text = String::new();
            let opened = std::fs::File::open(entry.path());
            match opened.and_then(|file| file.take(MAX).read_to_string(&mut text)) {
                Ok(_) => {
                    let layers = text.lines().filter_map(|line| Some((line.parse().ok()?, false)));
                    read.insert(holder, layers.collect());
                }
                // The images' records still say it.
                Err(error) => {
                    tracing::error!(
                        holder,
                        error = &error as &dyn std::error::Error,
                        "a lease cannot be read"
                    );
                }
            }
        }
        Ok(Self { root, read: Mutex::new(read) })
    }

    /// Before a container is made of the image. One that was read back is there already.
    pub(crate) fn add(&self, holder: &str, image: &Image) -> Result<(), ImageError> {
        if let Some(layers) = self.read.lock().get_mut(holder) {
            let mut written = true;
            for layer in &image.layers {
                match layers.get_mut(layer) {
                    Some(covered) => *covered = true,
                    None => written = false,
                }
            }
            if written {
                return Ok(());
            }
        }
        let path = self.root.join(holder);
        let lines: String = image.layers.iter().map(|layer| format!("{layer}\n")).collect();
        let file = std::fs::File::options().append(true).create(true).open(&path);
        file.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(ImageError::file("write", path))
    }

    /// Whether layers were held by this alone.
    pub(crate) fn remove(&self, holder: &str) -> Result<bool, ImageError> {
        let read = self.read.lock().remove(holder);
        let path = self.root.join(holder);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::file("remove", path)(error))
            }
            _ => Ok(read.is_some_and(|layers| layers.values().any(|covered| !covered))),
        }
    }

    /// Those of an earlier daemon's containers.
    pub(crate) fn holders(&self) -> Vec<String> {
        self.read.lock().keys().cloned().collect()
    }

    /// Once every container has its leases again: what those stand for need not be kept here.
    pub(crate) fn settle(&self) {
        self.read.lock().retain(|_, layers| layers.values().any(|covered| !covered));
    }

    /// Layers that no lease stands for.
    pub(crate) fn layers(&self) -> HashSet<Digest> {
        let read = self.read.lock();
        let uncovered = read.values().flatten().filter(|(_, covered)| !**covered);
        uncovered.map(|(layer, _)| layer.clone()).collect()
    }
}
