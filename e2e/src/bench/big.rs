//! The image whose pull is measured: eight layers of 60 larger and 3000 small files each, about 360 MB compressed. Made
//! from a fixed seed, so that every run pulls the same bytes; kept between runs in a registry's own format.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::image::{
    ARCHITECTURE, CONFIG, LAYER, LAYOUT, MANIFEST, config_of, described, digest, manifest_of,
};
use crate::registry::Registry;

const LAYERS: u64 = 8;
const LARGE: u64 = 60;
const SMALL: u64 = 3000;
/// Part of the directory's name: what is there was made by this version of the text below.
const VERSION: u32 = 1;
/// The names it is pushed under. Pulls of several names at once share nothing but what the runtime finds out.
pub(crate) const NAMES: usize = 10;

/// What is kept.
pub(crate) struct Big {
    home: PathBuf,
}

impl Big {
    /// Made where it is not there yet: about half a minute.
    pub(crate) async fn made(home: &Path) -> Result<Self> {
        let big = Self { home: home.join(format!("pull-{VERSION}")) };
        if !big.home.join("unpacked").exists() {
            println!("making the image that is pulled (once, in {})", big.home.display());
            let _ = std::fs::remove_dir_all(&big.home);
            let layout = big.home.join("layout");
            let at = layout.clone();
            let unpacked = tokio::task::spawn_blocking(move || write(&at)).await??;
            let registry = Registry::over(&big.data()).await?;
            for n in 0..NAMES {
                registry.push(&layout, &Self::name(n))?;
            }
            drop(registry);
            std::fs::remove_dir_all(&layout)?;
            std::fs::write(big.home.join("unpacked"), unpacked.to_string())?;
        }
        Ok(big)
    }

    pub(crate) fn name(n: usize) -> String {
        format!("lane/big:{n}")
    }

    /// A registry's directory with the image.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.join("registry")
    }

    /// Bytes of its files and directories, each in blocks of 4 KiB.
    pub(crate) fn unpacked(&self) -> Result<u64> {
        Ok(std::fs::read_to_string(self.home.join("unpacked"))?.parse()?)
    }

    /// The compressed layers as the registry keeps them.
    pub(crate) fn blobs(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for group in std::fs::read_dir(self.data().join("docker/registry/v2/blobs/sha256"))? {
            for blob in std::fs::read_dir(group?.path())? {
                let data = blob?.path().join("data");
                // Manifests and the configuration are small.
                if data.metadata()?.len() > 1 << 20 {
                    found.push(data);
                }
            }
        }
        anyhow::ensure!(found.len() as u64 == LAYERS, "{} layers are in the registry", found.len());
        Ok(found)
    }
}

/// splitmix64: numbers that look random and are the same everywhere.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// Half noise and half words, as programs are: gzip makes two thirds of it.
    fn content(&mut self, length: usize) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "berth", "layer", "kernel", "mount", "return", "struct", "socket", "0x7f", "    ", "\n", "value",
            "if (", ") {", "error", "static", "page",
        ];
        let mut data = Vec::with_capacity(length + 512);
        while data.len() < length {
            for _ in 0..30 {
                data.extend_from_slice(&self.next().to_le_bytes());
            }
            for _ in 0..45 {
                data.extend_from_slice(WORDS[(self.next() % 16) as usize].as_bytes());
            }
        }
        data.truncate(length);
        data
    }
}

/// Counts and hashes what is written through it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    fn done(self) -> (W, String, u64) {
        let hex: String = self.hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        (self.inner, hex, self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(data)?;
        self.hash.update(&data[..length]);
        self.size += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Made {
    diff_id: String,
    blob: String,
    size: u64,
    unpacked: u64,
}

/// The image in OCI layout; the bytes it unpacks to.
fn write(at: &Path) -> Result<u64> {
    let blobs = at.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let made: Vec<Made> = std::thread::scope(|scope| {
        let half = |parity: u64| {
            let blobs = &blobs;
            let mine = (0..LAYERS).filter(move |n| n % 2 == parity);
            scope.spawn(move || mine.map(|n| layer(blobs, n)).collect::<Result<Vec<_>>>())
        };
        let halves = [half(0), half(1)];
        let done =
            halves.into_iter().map(|half| half.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        done.collect::<Result<Vec<_>>>().map(|halves| halves.into_iter().flatten().collect())
    })?;
    let put = |kind: &str, document: &serde_json::Value| -> Result<serde_json::Value> {
        let bytes = document.to_string().into_bytes();
        std::fs::write(blobs.join(digest(&bytes).trim_start_matches("sha256:")), &bytes)?;
        Ok(described(kind, &bytes))
    };
    let diff_ids: Vec<_> = made.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
    let diff_ids: Vec<_> = diff_ids.iter().map(String::as_str).collect();
    let config = put(CONFIG, &config_of(ARCHITECTURE, &json!({ "Cmd": ["/none"] }), &diff_ids))?;
    let kind = format!("{LAYER}+gzip");
    let layer = |layer: &Made| json!({ "mediaType": kind, "digest": format!("sha256:{}", layer.blob), "size": layer.size });
    let layers: Vec<_> = made.iter().map(layer).collect();
    let manifest = put(MANIFEST, &manifest_of(&config, &layers))?;
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(at.join("index.json"), index.to_string())?;
    std::fs::write(at.join("oci-layout"), LAYOUT)?;
    Ok(made.iter().map(|layer| layer.unpacked).sum())
}

fn layer(blobs: &Path, number: u64) -> Result<Made> {
    let mut numbers = Numbers(number);
    let beside = blobs.join(format!("part-{number}"));
    let file = Hashing::new(BufWriter::new(File::create(&beside)?));
    let gzip = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    // The tar writer writes 512 bytes at a time.
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 18, Hashing::new(gzip)));
    let mut unpacked = 0;
    let mut add = |name: String, data: &[u8]| -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(if data.is_empty() { 0o755 } else { 0o644 });
        header.set_entry_type(if data.is_empty() {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        unpacked += (data.len() as u64).next_multiple_of(4096).max(4096);
        Ok(tar.append_data(&mut header, name, data)?)
    };
    add(format!("opt/app{number}/"), b"")?;
    for directory in 0..60 {
        add(format!("opt/app{number}/d{directory}/"), b"")?;
        for file in 0..SMALL / 60 {
            let length = numbers.between(200, 8000) as usize;
            add(format!("opt/app{number}/d{directory}/file{file}.txt"), &numbers.content(length))?;
        }
        for file in 0..LARGE / 60 {
            let length = numbers.between(400_000, 1_700_000) as usize;
            add(format!("opt/app{number}/d{directory}/lib{file}.so"), &numbers.content(length))?;
        }
    }
    let tar = tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    let (gzip, diff_id, _) = tar.done();
    let (mut file, blob, size) = gzip.finish()?.done();
    file.flush()?;
    std::fs::rename(&beside, blobs.join(&blob))?;
    Ok(Made { diff_id, blob, size, unpacked })
}

/// What nobody can do faster with two threads and these libraries: read, both digests, inflate, write one file for each
/// layer, sync once.
pub(crate) fn floor(blobs: &[PathBuf], into: &Path) -> Result<()> {
    std::fs::create_dir_all(into)?;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || -> Result<()> {
        loop {
            let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(blob) = blobs.get(n) else { return Ok(()) };
            straight(blob, &into.join(n.to_string())).with_context(|| blob.display().to_string())?;
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
    })?;
    Ok(nix::unistd::syncfs(File::open(into)?)?)
}

fn straight(blob: &Path, to: &Path) -> Result<()> {
    struct Blob(File, Sha256);
    impl Read for Blob {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.read(buffer)?;
            self.1.update(&buffer[..length]);
            Ok(length)
        }
    }
    let mut source = io::BufReader::with_capacity(1 << 18, Blob(File::open(blob)?, Sha256::new()));
    let mut inflater = flate2::bufread::GzDecoder::new(&mut source);
    let (mut out, mut hash) = (File::create(to)?, Sha256::new());
    let mut buffer = vec![0; 1 << 18];
    loop {
        let length = inflater.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hash.update(&buffer[..length]);
        out.write_all(&buffer[..length])?;
    }
    let found: String = source.into_inner().1.finalize().iter().map(|b| format!("{b:02x}")).collect();
    anyhow::ensure!(blob.parent().is_some_and(|dir| dir.ends_with(&found)), "the registry's blob is damaged");
    hash.finalize();
    Ok(())
}
