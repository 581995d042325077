//! An image by whatever somebody calls it.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_ids::{Digest, ImageId};
use berth_registry::Reference;

use crate::Image;

/// Fewer digits than this are a name.
const SHORTEST: usize = 4;

pub(crate) fn find(known: &BTreeMap<ImageId, Arc<Image>>, text: &str) -> Option<Arc<Image>> {
    if let Ok(digest) = text.parse::<Digest>() {
        return known.get(&ImageId(digest)).cloned();
    }
    // A name wins over an id that begins like it.
    if let Some(named) = text.parse::<Reference>().ok().and_then(|reference| by_name(known, &reference)) {
        return Some(named);
    }
    by_prefix(known, text.strip_prefix("sha256:").unwrap_or(text))
}

fn by_name(known: &BTreeMap<ImageId, Arc<Image>>, reference: &Reference) -> Option<Arc<Image>> {
    // With both given, the digest decides (as for a pull).
    let named = |image: &&Arc<Image>| match reference.digest() {
        Some(digest) => image.repo_digests.contains(&reference.pinned(digest)),
        None => reference.tagged().is_some_and(|tag| image.repo_tags.contains(&tag)),
    };
    known.values().find(named).cloned()
}

fn by_prefix(known: &BTreeMap<ImageId, Arc<Image>>, hex: &str) -> Option<Arc<Image>> {
    if !(SHORTEST..=64).contains(&hex.len()) || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut matching = known.values().filter(|image| image.id.0.hex().starts_with(hex));
    match (matching.next(), matching.next()) {
        (Some(only), None) => Some(only.clone()),
        _ => None,
    }
}
