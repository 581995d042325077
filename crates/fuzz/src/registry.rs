//! What registries answer, and the files that say where and as whom they are asked.

use berth_registry::fuzz;
use berth_registry::{Credentials, Reference};

/// The distribution specification's most, and more than the overlay takes.
const MANIFEST_MAX: usize = 4 << 20;

/// A manifest or an index; the first line is the Content-Type.
pub(crate) fn manifest(input: &[u8]) {
    let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let (kind, document) = input.split_at(end);
    let document = document.get(1..).unwrap_or_default();
    assert!(document.len() <= MANIFEST_MAX);
    match fuzz::manifest(document, &String::from_utf8_lossy(kind)) {
        Some(Ok(layers)) => assert!(layers <= 500),
        Some(Err(manifests)) => assert!(manifests.len() <= 1000),
        None => {}
    }
}

/// Places are few, each an address of HTTP, exactly one of them the host's own.
pub(crate) fn hosts(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some((places, own)) = fuzz::hosts(text) else { return };
    assert!(places.len() <= 33 && own == 1, "{places:?}");
    for place in places {
        assert!(place.starts_with("https://") || place.starts_with("http://"), "{place:?}");
        assert!(!place.ends_with('/'), "{place:?}");
    }
}

/// A header's challenges are the same when they are written out and read again, and a token's is answered before a
/// password's; of many, the first eight count.
pub(crate) fn challenge(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let found = fuzz::challenges(&text);
    if let Some(again) = found.again {
        assert_eq!(again, found.all, "{text:?}");
    }
    let mut open = found.all.iter().take(8);
    let wanted = open.clone().find(|one| one.starts_with("Bearer ")).or_else(|| open.next());
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        assert_eq!(found.answered.as_ref(), wanted, "{text:?}");
    } else if let Some(answered) = &found.answered {
        assert_eq!(Some(answered), wanted, "{text:?}");
    }
}

/// A reference in full is itself, and stands for the same thing.
pub(crate) fn reference(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(reference) = text.parse::<Reference>() else { return };
    let full = reference.to_string();
    assert_eq!(full.parse::<Reference>().as_ref(), Ok(&reference), "{full:?}");
    // A tag may have any dots; host and repository become names of directories and parts of a path.
    assert!(!reference.place().contains("..") && !full.contains(char::is_whitespace), "{full:?}");
    let parts = [reference.tagged(), reference.digest().map(|digest| reference.pinned(digest))];
    for part in parts.into_iter().flatten() {
        let again: Reference = part.parse().unwrap();
        assert_eq!((again.host(), again.repository()), (reference.host(), reference.repository()));
    }
    assert!(reference.tag().is_some() || reference.digest().is_some());
}

/// docker's config.json: an error shows nothing of what is in it.
pub(crate) fn docker_config(input: &[u8]) {
    const SECRET: &str = "c2VjcmV0OnNlY3JldA";
    let text = String::from_utf8_lossy(input);
    if let Err(problem) = fuzz::docker_config(&text) {
        assert!(!problem.contains(SECRET), "{problem}");
    }
    if let Some(Credentials::Basic { username, .. }) = Credentials::from_basic(&text) {
        assert!(!username.contains(':'));
    }
}
