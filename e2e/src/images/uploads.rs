//! A registry in memory that takes what is pushed to it, as badly as it is told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::server::{Answer, How, Reply, Request};
use crate::image::digest;

/// What it does wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// Bodies larger than this are refused with 413.
    pub(super) largest: Option<usize>,
    /// The second chunk is taken by half, and its connection ends without an answer.
    pub(super) cut: bool,
    /// So many requests are answered with 503 before the first other answer.
    pub(super) busy: usize,
    /// The upload goes on at another host.
    pub(super) elsewhere: bool,
    /// It says to have taken another manifest.
    pub(super) confused: bool,
}

#[derive(Default)]
pub(super) struct Uploads {
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    manifests: Mutex<HashMap<String, Vec<u8>>>,
    /// The one upload that goes on.
    open: Mutex<Vec<u8>>,
    chunks: AtomicUsize,
    asked: AtomicUsize,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Uploads {
    pub(super) fn manifest(&self, name: &str) -> Option<Vec<u8>> {
        lock(&self.manifests).get(name).cloned()
    }

    /// Whether everything that the manifest names is here.
    pub(super) fn is_whole(&self, name: &str) -> bool {
        let manifest = self.manifest(name).unwrap_or_default();
        let Ok(manifest) = serde_json::from_slice::<serde_json::Value>(&manifest) else { return false };
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        let blobs = lock(&self.blobs);
        let is_there = |of: &serde_json::Value| blobs.contains_key(of["digest"].as_str().unwrap_or_default());
        is_there(&manifest["config"]) && !layers.is_empty() && layers.iter().all(is_there)
    }

    pub(super) fn answers(self: &Arc<Self>, faults: Faults) -> Answer {
        let own = self.clone();
        Arc::new(move |request, _| own.answer(request, faults))
    }

    fn answer(&self, request: &Request, faults: Faults) -> Reply {
        if self.asked.fetch_add(1, Ordering::Relaxed) < faults.busy {
            return Reply::new(503, "");
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let last = path.rsplit('/').next().unwrap_or_default();
        let at = if faults.elsewhere { "http://127.0.0.1:1/v2/x/blobs/uploads/one" } else { "one" };
        let going = |status| Reply::new(status, "").with("Location", at);
        if faults.largest.is_some_and(|largest| request.content.len() > largest) {
            return Reply::new(413, "");
        }
        match (request.method.as_str(), path.contains("/manifests/")) {
            ("PUT", true) => {
                let own = digest(&request.content);
                lock(&self.manifests).insert(last.to_owned(), request.content.clone());
                let said = if faults.confused { digest(b"another") } else { own };
                Reply::new(201, "").with("Docker-Content-Digest", &said)
            }
            ("HEAD", false) => Reply::new(if lock(&self.blobs).contains_key(last) { 200 } else { 404 }, ""),
            ("POST", false) => {
                lock(&self.open).clear();
                self.chunks.store(0, Ordering::Relaxed);
                let at = if faults.elsewhere { at.to_owned() } else { format!("{path}one") };
                Reply::new(202, "").with("Location", &at)
            }
            ("PATCH", false) => self.chunk(request, faults, going(202)),
            ("GET", false) => {
                let last = lock(&self.open).len().saturating_sub(1);
                going(204).with("Range", &format!("0-{last}"))
            }
            ("PUT", false) => {
                let mut bytes = std::mem::take(&mut *lock(&self.open));
                bytes.extend_from_slice(&request.content);
                let wanted = query.rsplit("digest=").next().unwrap_or_default().replace("%3A", ":");
                match digest(&bytes) == wanted {
                    true => {
                        lock(&self.blobs).insert(wanted, bytes);
                        Reply::new(201, "")
                    }
                    false => Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#),
                }
            }
            _ => Reply::new(404, ""),
        }
    }

    /// In order, or not at all.
    fn chunk(&self, request: &Request, faults: Faults, good: Reply) -> Reply {
        let mut open = lock(&self.open);
        let range = format!("{}-{}", open.len(), open.len() + request.content.len() - 1);
        if request.header("content-range") != range {
            return Reply::new(416, "");
        }
        if self.chunks.fetch_add(1, Ordering::Relaxed) == 1 && faults.cut {
            open.extend_from_slice(&request.content[..request.content.len() / 2]);
            return Reply::new(0, "").how(How::Nothing);
        }
        open.extend_from_slice(&request.content);
        good
    }
}
