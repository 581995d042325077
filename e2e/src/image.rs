//! The test image: an OCI archive of the guest program, in two layers so that a second image can share one.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn tar_of(files: &[(&str, &[u8], u32)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, name, *data)?;
    }
    Ok(tar.into_inner()?)
}

/// Writes an archive with one image: the guest program below, `greeting` above.
pub(crate) fn write(at: &Path, name: &str, greeting: &str) -> Result<()> {
    write_bytes(at, name, greeting.as_bytes())
}

pub(crate) fn write_bytes(at: &Path, name: &str, greeting: &[u8]) -> Result<()> {
    let guest = std::env::var("BERTH_E2E_GUEST").context("BERTH_E2E_GUEST names the guest program")?;
    let program = std::fs::read(&guest).with_context(|| guest.clone())?;
    let passwd = b"root:x:0:0:root:/root:/guest\nweb:x:33:33:web:/srv:/guest\n";
    let group = b"root:x:0:\nweb:x:33:\nextra:x:50:web\n";
    let base =
        tar_of(&[("guest", &program, 0o755), ("etc/passwd", passwd, 0o644), ("etc/group", group, 0o644)])?;
    let top = tar_of(&[("greeting", greeting, 0o644)])?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": ["/guest"], "Cmd": ["sleep", "1000000"], "Env": ["PATH=/"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&base), digest(&top)] },
        "history": [],
    })
    .to_string();
    let layer = |bytes: &[u8]| {
        json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(bytes), "size": bytes.len() })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(config.as_bytes()), "size": config.len() },
        "layers": [layer(&base), layer(&top)],
    })
    .to_string();
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(manifest.as_bytes()), "size": manifest.len(),
            "annotations": { "io.containerd.image.name": name } }],
    })
    .to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &digest(bytes)["sha256:".len()..]);
    let archive = tar_of(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644),
        ("index.json", index.as_bytes(), 0o644),
        (&blob(config.as_bytes()), config.as_bytes(), 0o644),
        (&blob(manifest.as_bytes()), manifest.as_bytes(), 0o644),
        (&blob(&base), &base, 0o644),
        (&blob(&top), &top, 0o644),
    ])?;
    std::fs::write(at, archive).with_context(|| at.display().to_string())
}
