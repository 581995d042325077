//! Layers made by chance, from a seed: what Berth pulls is what GNU tar and `skopeo copy` with `umoci unpack` make of the same
//! bytes: names, types, modes, owners, times, attributes, links, contents. Then several layers that hide parts of each other:
//! what a container sees of them is what umoci leaves of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::case::{self, Documents, Layer, MANIFEST};
use super::push::Push;
use super::tarball::{Entry, GID, MODE, MTIME, Tar, UID, entry};
use super::{Lane, REPOSITORY, tree};
use crate::disk::Mounted;

const LAYERS: u64 = 12;
const ENTRIES: u64 = 120;
/// Images of several layers.
const STACKS: u64 = 6;
const ABOVE: u64 = 4;
const DIRECTORIES: u64 = 16;

/// xorshift64 (Marsaglia 2003).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }

    fn name(&mut self, number: u64) -> String {
        let odd = *self.of(&["", " ", "\u{e9}", "-", "\\", "*"]);
        let long = if self.below(12) == 0 { "long-".repeat(30) } else { String::new() };
        format!("{long}n{number}{odd}")
    }
}

/// Says its time and perhaps an attribute and a long name in a PAX header, or the name as GNU does, then writes it.
fn dressed(tar: Tar, chance: &mut Chance, made: Entry, name: &str, can_have: bool) -> Tar {
    let owner = [0, 1, 1000, 65534, 2_000_000];
    let made = made.number(UID, *chance.of(&owner)).number(GID, *chance.of(&owner));
    let mtime = format!("{}.{:09}", chance.below(2_000_000_000), chance.below(1_000_000_000));
    let mut records = vec![("mtime", mtime.into_bytes())];
    if can_have && chance.below(4) == 0 {
        records.push(("SCHILY.xattr.user.note", format!("v\n{}", chance.below(1000)).into_bytes()));
    }
    let is_gnu = chance.below(2) == 0;
    if name.len() > 100 && !is_gnu {
        records.push(("path", name.as_bytes().to_vec()));
    }
    let records: Vec<(&str, &[u8])> = records.iter().map(|(key, value)| (*key, value.as_slice())).collect();
    let tar = tar.pax(&records);
    let tar = if name.len() > 100 && is_gnu { tar.long(b'L', name) } else { tar };
    tar.entry(made)
}

fn layer(seed: u64) -> Vec<u8> {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut tar, mut directories, mut files) = (Tar::new(), vec![String::new()], Vec::<String>::new());
    for number in 0..ENTRIES {
        let parent = chance.of(&directories).clone();
        let mut name = format!("{parent}{}", chance.name(number));
        let mode = *chance.of(&[0o644, 0o755, 0o600, 0o4755, 0o2750, 0o1777, 0]);
        tar = match chance.below(12) {
            0 | 1 => {
                name.push('/');
                let made = entry(b'5', &name).number(MODE, mode);
                tar = dressed(tar, &mut chance, made, &name, true);
                directories.push(name);
                tar
            }
            2 => {
                let target = format!("../{}", chance.name(number));
                dressed(tar, &mut chance, entry(b'2', &name).link(&target).number(MODE, 0o777), &name, false)
            }
            3 => dressed(tar, &mut chance, entry(b'6', &name).number(MODE, mode), &name, false),
            4 => {
                let made = entry(b'3', &name).number(MODE, mode).device(1, 1 + chance.below(8));
                dressed(tar, &mut chance, made, &name, false)
            }
            5 | 6 if !files.is_empty() => {
                let target = chance.of(&files).clone();
                if name.len() > 100 { tar } else { tar.hard(&name, &target) }
            }
            // A file again, in place of the one before.
            7 if !files.is_empty() => {
                let again = chance.of(&files).clone();
                let made = entry(b'0', &again).number(MODE, mode).data(format!("again {number}"));
                dressed(tar, &mut chance, made, &again, true)
            }
            _ => {
                let content = vec![b'a' + (number % 26) as u8; chance.below(3000) as usize];
                let made = entry(b'0', &name).number(MODE, mode).data(content);
                if name.len() <= 100 {
                    files.push(name.clone());
                }
                dressed(tar, &mut chance, made, &name, true)
            }
        };
    }
    tar.end()
}

/// A base, and layers that hide, replace and bring back parts of it. A directory that a layer touches is named by it, as
/// builders do.
fn stack(seed: u64) -> Vec<Vec<u8>> {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let timed = |kind, name: String, time| entry(kind, name).number(MTIME, time);
    let file = |name: String, data: String, time| entry(b'0', name).data(data).number(MTIME, time);
    let mut base = Tar::new();
    for n in 0..DIRECTORIES {
        base = base.entry(timed(b'5', format!("d{n}/"), 1000 + n));
        for part in ["f0", "f1", "f2"] {
            base = base.entry(file(format!("d{n}/{part}"), format!("{part} of {n}"), 2000 + n));
        }
        base = base.entry(timed(b'5', format!("d{n}/s/"), 3000 + n));
        base = base.entry(file(format!("d{n}/s/f"), format!("below {n}"), 4000 + n));
    }
    let mut layers = vec![base.end()];
    // Nobody hides what is not there; overlayfs shows such a name in a directory that nothing is below.
    let mut is_there = [true; DIRECTORIES as usize];
    for above in 1..=ABOVE {
        let mut tar = Tar::new();
        for n in 0..DIRECTORIES {
            let (what, time) = (chance.below(8), 10_000 * above + n);
            if what == 0 {
                continue;
            }
            let was_there = is_there[n as usize];
            is_there[n as usize] = what != 1 || !was_there;
            if what == 1 && was_there {
                tar = tar.file(format!(".wh.d{n}"), "");
                continue;
            }
            tar = tar.entry(timed(b'5', format!("d{n}/"), time));
            tar = match what {
                _ if !was_there => tar.entry(file(format!("d{n}/f0"), format!("made in {above}"), time)),
                2 => tar.file(format!("d{n}/.wh.f0"), ""),
                3 => tar.file(format!("d{n}/.wh.s"), ""),
                4 => tar.file(format!("d{n}/.wh..wh..opq"), "").entry(file(
                    format!("d{n}/new"),
                    format!("new in {above}"),
                    time,
                )),
                // What was a directory is a file, and the other way round.
                5 => tar.entry(file(format!("d{n}/s"), format!("no directory in {above}"), time)),
                6 => tar.entry(timed(b'5', format!("d{n}/f1/"), time)).entry(file(
                    format!("d{n}/f1/f"),
                    format!("in a directory in {above}"),
                    time,
                )),
                // Hidden and there again, in one layer.
                _ => tar.file(format!("d{n}/.wh.f2"), "").entry(file(
                    format!("d{n}/f2"),
                    format!("again in {above}"),
                    time,
                )),
            };
        }
        layers.push(tar.end());
    }
    layers
}

fn ran(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn same(who: &str, theirs: &[String], ours: &[String]) -> Result<()> {
    let more: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).take(3).collect();
    let less: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).take(3).collect();
    ensure!(more.is_empty() && less.is_empty(), "{who} made {less:?}, Berth {more:?}");
    Ok(())
}

impl Lane<'_> {
    pub(super) async fn agreement(&mut self) -> Result<()> {
        println!("  agreement");
        for seed in 1..=LAYERS {
            let result = self.agree(seed).await;
            let what = format!("a layer by chance, seed {seed}: as GNU tar, skopeo and umoci have it");
            self.checks.note(&what, result.map_err(|error| format!("{error:#}")));
        }
        for seed in 1..=STACKS {
            let result = self.agree_across(seed).await;
            let what = format!("layers that hide each other's, seed {seed}: as umoci leaves them");
            self.checks.note(&what, result.map_err(|error| format!("{error:#}")));
        }
        Ok(())
    }

    async fn agree(&mut self, seed: u64) -> Result<()> {
        let layer = Layer::plain(layer(seed));
        let home = tempfile::Builder::new().prefix("berth-agree-").tempdir()?;
        let archive = home.path().join("layer.tar");
        std::fs::write(&archive, &layer.blob)?;
        let by_tar = home.path().join("tar");
        std::fs::create_dir(&by_tar)?;
        let extract =
            ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--delay-directory-restore", "-xpf"];
        ran(Command::new("tar").arg("-C").arg(&by_tar).args(extract).arg(&archive))?;

        let hex = layer.diff_id.clone();
        let (name, by_umoci) = self.pushed(&[layer], home.path())?;
        self.client.pull(&name).await?;
        let ours = tree::list_with_times(&self.unpacked(&hex));
        self.client.remove_image(&name).await?;
        let ours = ours?;
        ensure!(ours.len() > 50, "only {} entries", ours.len());
        same("GNU tar", &tree::list_with_times(Path::new(&by_tar))?, &ours)?;
        same("umoci", &tree::list_with_times(&by_umoci)?, &ours)?;
        self.untouched().await
    }

    /// Layers over each other, as the overlay of a container shows them.
    async fn agree_across(&mut self, seed: u64) -> Result<()> {
        let home = tempfile::Builder::new().prefix("berth-agree-").tempdir()?;
        let layers: Vec<Layer> = stack(seed).into_iter().map(Layer::plain).collect();
        let ids: Vec<String> = layers.iter().rev().map(|layer| layer.diff_id.clone()).collect();
        let (name, by_umoci) = self.pushed(&layers, home.path())?;
        self.client.pull(&name).await?;
        let lowers: Vec<PathBuf> = ids.iter().map(|id| self.unpacked(id)).collect();
        let ours = Mounted::overlay(&lowers, &home.path().join("overlay"))
            .and_then(|mounted| tree::list_with_times(mounted.path()));
        self.client.remove_image(&name).await?;
        let ours = ours?;
        ensure!(ours.len() > 20, "only {} entries", ours.len());
        same("umoci", &tree::list_with_times(&by_umoci)?, &ours)?;
        self.untouched().await
    }

    fn unpacked(&self, diff_id: &str) -> PathBuf {
        let hex = diff_id.split(':').next_back().unwrap_or_default();
        self.daemon.path("root/images/layers").join(hex).join("fs")
    }

    /// An image of these layers in the registry, and what umoci makes of it.
    fn pushed(&self, layers: &[Layer], home: &Path) -> Result<(String, PathBuf)> {
        let host = self.registry.host();
        let push = Push { host: &host, repository: REPOSITORY };
        let documents = Documents::new(layers);
        let (config, manifest) = documents.written();
        for (digest, blob) in &documents.blobs {
            push.blob(digest, blob)?;
        }
        push.blob(&case::digest(&config), &config)?;
        push.manifest("agree", MANIFEST, &manifest)?;
        let name = format!("{host}/{REPOSITORY}:agree");
        let (layout, bundle) = (home.join("layout"), home.join("bundle"));
        ran(Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"])
            .arg(format!("docker://{name}"))
            .arg(format!("oci:{}:one", layout.display())))?;
        ran(Command::new("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:one", layout.display()))
            .arg(&bundle))?;
        Ok((name, bundle.join("rootfs")))
    }
}
