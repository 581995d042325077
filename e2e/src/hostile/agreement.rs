//! Layers made by chance, from a seed: what Berth pulls is what GNU tar and `skopeo copy` with `umoci unpack` make of the same
//! bytes: names, types, modes, owners, times, attributes, links, contents.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::case::{self, Documents, Layer, MANIFEST};
use super::push::Push;
use super::tarball::{Entry, GID, MODE, Tar, UID, entry};
use super::{Lane, REPOSITORY, tree};

const LAYERS: u64 = 12;
const ENTRIES: u64 = 120;

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

        let host = self.registry.host();
        let push = Push { host: &host, repository: REPOSITORY };
        let hex = layer.diff_id.clone();
        let documents = Documents::new(&[layer]);
        let (config, manifest) = documents.written();
        for (digest, blob) in &documents.blobs {
            push.blob(digest, blob)?;
        }
        push.blob(&case::digest(&config), &config)?;
        push.manifest("agree", MANIFEST, &manifest)?;
        let name = format!("{host}/{REPOSITORY}:agree");
        let (layout, bundle) = (home.path().join("layout"), home.path().join("bundle"));
        ran(Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"])
            .arg(format!("docker://{name}"))
            .arg(format!("oci:{}:one", layout.display())))?;
        ran(Command::new("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:one", layout.display()))
            .arg(&bundle))?;

        self.client.pull(&name).await?;
        let hex = hex.split(':').next_back().unwrap_or_default();
        let ours = tree::list_with_times(&self.daemon.path("root/images/layers").join(hex).join("fs"));
        self.client.remove_image(&name).await?;
        let ours = ours?;
        ensure!(ours.len() > 50, "only {} entries", ours.len());
        same("GNU tar", &tree::list_with_times(Path::new(&by_tar))?, &ours)?;
        same("umoci", &tree::list_with_times(&bundle.join("rootfs"))?, &ours)?;
        self.untouched().await
    }
}
