use std::path::PathBuf;

use super::Origin;

/// Why the configuration is refused (exit code 64).
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin}: {problem}")]
    Syntax { origin: Origin, problem: String },
    #[error("{origin}: unknown key {key:?}{}", hint(nearest.as_deref()))]
    UnknownKey { key: String, origin: Origin, nearest: Option<String> },
    #[error("{origin}: {key}: {problem}")]
    Value { key: &'static str, origin: Origin, problem: String },
    /// The program asks for a setting its own table lacks.
    #[error("there is no setting {key:?}")]
    NoSuchSetting { key: &'static str },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|key| format!(", did you mean {key:?}?")).unwrap_or_default()
}

/// The known word that looks most like `word`, if any looks like it at all.
pub(super) fn nearest(word: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |key: &String| {
        // A key in the wrong section counts as well as a misspelt one.
        let moved = if last(key) == last(word) { 0.9 } else { 0.0 };
        strsim::jaro_winkler(word, key).max(moved)
    };
    known
        .map(|key| (likeness(&key), key))
        .filter(|(l, _)| *l > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}
