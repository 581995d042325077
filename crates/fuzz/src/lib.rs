//! What strangers send, as functions from bytes: each reads its input as the runtime would and panics where a promise is
//! broken. `cargo xtask fuzz` drives them with libFuzzer, `cargo test` with what is in `corpus`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a target tells what it found")]

mod cni;
mod images;
mod pieces;
mod registry;
mod streaming;

use std::sync::OnceLock;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// By the name of their directory in `corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("base64-channels", streaming::channels),
    ("cni-result", cni::result),
    ("conflist", cni::conflist),
    ("docker-config", registry::docker_config),
    ("hosts-toml", registry::hosts),
    ("http-head", streaming::http_head),
    ("image-archive", images::archive),
    ("image-config", images::config),
    ("image-layer", images::layer),
    ("image-manifest", registry::manifest),
    ("image-reference", registry::reference),
    ("layer-compression", images::compressed),
    ("layer-tar", images::tar),
    ("spdy-frames", streaming::spdy_frames),
    ("spdy-headers", streaming::spdy_headers),
    ("stream-sessions", streaming::sessions),
    ("terminal-sizes", streaming::sizes),
    ("websocket-frames", streaming::websocket_frames),
    ("www-authenticate", registry::challenge),
];

/// The target that `BERTH_FUZZ` names.
pub fn chosen() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("BERTH_FUZZ").unwrap_or_default();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("BERTH_FUZZ={name} is no target")).1
    })
}

#[cfg(test)]
mod tests;
