//! Layers made by chance, from a seed: what Berth pulls is what GNU tar and `skopeo copy` with `umoci unpack` make of the same
//! bytes: names, types, modes, owners, times, attributes, links, contents. Then several layers that hide parts of each other:
//! what a container sees of them is what umoci leaves of them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use berth_cri_api::v1::{ImageSpec, Mount, PodSandboxConfig};

use super::case::{self, Documents, Layer, MANIFEST};
use super::chance::{self, Chance};
use super::push::Push;
use super::tarball::Tar;
use super::{Lane, REPOSITORY, tree};
use crate::client::{Spec, args, of_host};
use crate::disk::Mounted;
use crate::mounts::mount;

const LAYERS: u64 = 12;
/// Images of several layers.
const STACKS: u64 = 6;

/// A kind of entry that one of the references cannot take or takes otherwise: the other one judges, and what the first says or makes
/// in its stead has to be seen.
struct Odd {
    what: &'static str,
    adds: fn(Tar, &mut Chance) -> Tar,
    unable: Who,
    says: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Tar,
    Umoci,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Tar => "GNU tar",
            Self::Umoci => "umoci",
        }
    }
}

/// Of a file in a full directory's place the image specification says that the later entry holds, as for a directory in a file's
/// place, which both do.
const ODD: [Odd; 5] = [
    Odd {
        what: "GNU's old sparse files",
        adds: chance::old_sparse,
        unable: Who::Umoci,
        says: "unknown typeflag '\\x53'",
    },
    Odd {
        what: "a file in place of a full directory",
        adds: chance::over_a_full_one,
        unable: Who::Tar,
        says: "full: Cannot open: File exists",
    },
    Odd {
        what: "a hard link to itself",
        adds: chance::link_to_itself,
        unable: Who::Umoci,
        says: "link: no such file or directory",
    },
    Odd {
        what: "a directory that a file brings along into one that has a time",
        adds: chance::brought_along,
        unable: Who::Umoci,
        says: r#"umoci made ["d within @"#,
    },
    Odd {
        what: "a time after 2262, which are more nanoseconds than 63 bits hold",
        adds: chance::very_late,
        unable: Who::Umoci,
        says: r#"umoci made ["f late  @-2147483648.000000000"]"#,
    },
];

/// Whether a line of the list is of it.
type Is = fn(&str) -> bool;

/// What the layers by chance have among them.
const HAS: [(&str, Is); 14] = [
    ("a block device", |line| line.starts_with("b ")),
    ("a character device", |line| line.starts_with("c ")),
    ("a fifo", |line| line.starts_with("p ")),
    ("a capability", |line| line.contains("security.capability=\\x01\\x00\\x00\\x02")),
    ("a capability of a user namespace", |line| line.contains("security.capability=\\x01\\x00\\x00\\x03")),
    ("a directory's attribute", |line| line.starts_with("d ") && line.contains(" user.note=")),
    ("a time before 1970", |line| line.contains(" @-")),
    ("a time after 2038", |line| time(line) > 1 << 31),
    ("an owner beyond 2^31", |line| owner(line) > 1 << 31),
    ("a name that is no UTF-8", |line| line.contains("\\xff")),
    ("a link target that is long", |line| line.starts_with("l ") && line.contains(" bytes ")),
    ("a content of a mebibyte", |line| line.starts_with("f ") && length(line) > 1 << 20),
    ("a sparse file", |line| line.starts_with("f sparse-")),
    ("a hard link", |line| line.contains(" file ")),
];

fn word<'a>(line: &'a str, before: &str) -> Option<&'a str> {
    line.split_once(before)?.1.split([' ', '.', ':']).next()
}

fn time(line: &str) -> i64 {
    word(line, " @").and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn owner(line: &str) -> i64 {
    word(line, " owner ").and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn length(line: &str) -> u64 {
    let before = line.split_once(" bytes ").and_then(|(before, _)| before.rsplit(' ').next());
    before.and_then(|word| word.parse().ok()).unwrap_or(0)
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

/// With `-P` no link is made at the very end by the number of an inode, which another file may have by then.
fn by_tar(archive: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir(into)?;
    let how = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--delay-directory-restore"];
    let mut tar = Command::new("tar");
    tar.env("LC_ALL", "C").arg("-C").arg(into).args(how).args(["--warning=no-timestamp", "-P", "-xpf"]);
    ran(tar.arg(archive))
}

/// Below `bundle/rootfs` of `home`.
fn by_umoci(name: &str, home: &Path) -> Result<()> {
    let (layout, bundle) = (home.join("layout"), home.join("bundle"));
    ran(Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"])
        .arg(format!("docker://{name}"))
        .arg(format!("oci:{}:one", layout.display())))?;
    ran(Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:one", layout.display()))
        .arg(&bundle))
}

/// What a reference does not do, as it has to be said, by itself or by what it made.
fn unable(who: Who, done: Result<()>, says: &str) -> Result<()> {
    let Err(error) = done else { anyhow::bail!("{} does it now", who.name()) };
    let said = format!("{error:#}");
    ensure!(said.contains(says), "{} says something else: {said}", who.name());
    Ok(())
}

/// Holes are not written: less than half of what a sparse file seems to be is on disk.
fn holes(top: &Path) -> Result<()> {
    for entry in std::fs::read_dir(top)? {
        let entry = entry?;
        let found = entry.metadata()?;
        let is_sparse = entry.file_name().as_encoded_bytes().starts_with(b"sparse-");
        let (written, size) = (512 * found.blocks(), found.len());
        ensure!(
            !is_sparse || written < size / 2,
            "{} takes {written} of {size} bytes",
            entry.path().display()
        );
    }
    Ok(())
}

impl Lane<'_> {
    pub(super) async fn agreement(&mut self) -> Result<()> {
        println!("  agreement");
        let mut seen = BTreeSet::new();
        for seed in 1..=LAYERS {
            let result = self.agree(seed, None, &mut seen).await;
            let what = format!("a layer by chance, seed {seed}: as GNU tar, skopeo and umoci have it");
            self.checks.note(&what, result.map_err(|error| format!("{error:#}")));
        }
        let missing: Vec<_> = HAS.iter().map(|(what, _)| *what).filter(|what| !seen.contains(what)).collect();
        self.checks.that(
            &format!("  {} kinds of things were among them", HAS.len()),
            missing.is_empty(),
            missing.join(", "),
        );
        for (seed, odd) in (LAYERS + 1..).zip(&ODD) {
            let result = self.agree(seed, Some(odd), &mut seen).await;
            let able = if odd.unable == Who::Tar { Who::Umoci } else { Who::Tar };
            let what = format!(
                "  and {}, seed {seed}: as {} has it; {} cannot: {}",
                odd.what,
                able.name(),
                odd.unable.name(),
                odd.says
            );
            self.checks.note(&what, result.map_err(|error| format!("{error:#}")));
        }
        for seed in 1..=STACKS {
            let result = self.agree_across(seed).await;
            let what = format!("layers that hide each other's, seed {seed}: as umoci leaves them");
            self.checks.note(&what, result.map_err(|error| format!("{error:#}")));
        }
        for seed in STACKS + 1..=2 * STACKS {
            let result = self.agree_implied(seed).await;
            let what = format!("  and do not name every directory, seed {seed}: a container sees umoci's");
            self.checks.note(&what, result.map_err(|error| format!("{error:#}")));
        }
        Ok(())
    }

    async fn agree(&mut self, seed: u64, odd: Option<&Odd>, seen: &mut BTreeSet<&'static str>) -> Result<()> {
        let tar = chance::layer(seed);
        let tar = odd.map_or(tar.clone(), |odd| (odd.adds)(tar, &mut Chance::new(seed)));
        let layer = Layer::plain(tar.end());
        let home = tempfile::Builder::new().prefix("berth-agree-").tempdir()?;
        let archive = home.path().join("layer.tar");
        std::fs::write(&archive, &layer.blob)?;
        let hex = layer.diff_id.clone();
        let name = self.pushed(&[layer])?;
        self.client.pull(&name).await?;
        let top = self.unpacked(&hex);
        let ours = holes(&top).and_then(|()| tree::list_with_times(&top));
        self.client.remove_image(&name).await?;
        let ours = ours?;
        ensure!(ours.len() > 80, "only {} entries", ours.len());
        for who in [Who::Tar, Who::Umoci] {
            let (made, tree) = match who {
                Who::Tar => (by_tar(&archive, &home.path().join("tar")), home.path().join("tar")),
                Who::Umoci => (by_umoci(&name, home.path()), home.path().join("bundle/rootfs")),
            };
            let done = made.and_then(|()| same(who.name(), &tree::list_with_times(&tree)?, &ours));
            match odd.filter(|odd| odd.unable == who) {
                Some(odd) => unable(who, done, odd.says)?,
                None => done?,
            }
        }
        let has = |(_, is): &&(&str, Is)| ours.iter().any(|line| is(line));
        seen.extend(HAS.iter().filter(has).map(|(what, _)| *what));
        self.untouched().await
    }

    /// Layers over each other, as the overlay of a container shows them.
    async fn agree_across(&mut self, seed: u64) -> Result<()> {
        let home = tempfile::Builder::new().prefix("berth-agree-").tempdir()?;
        let layers: Vec<Layer> = chance::stack(seed, false).into_iter().map(Layer::plain).collect();
        let ids: Vec<String> = layers.iter().rev().map(|layer| layer.diff_id.clone()).collect();
        let name = self.pushed(&layers)?;
        by_umoci(&name, home.path())?;
        self.client.pull(&name).await?;
        let lowers: Vec<PathBuf> = ids.iter().map(|id| self.unpacked(id)).collect();
        let ours = Mounted::overlay(&lowers, &home.path().join("overlay"))
            .and_then(|mounted| tree::list_with_times(mounted.path()));
        self.client.remove_image(&name).await?;
        let ours = ours?;
        ensure!(ours.len() > 20, "only {} entries", ours.len());
        same("umoci", &tree::list_with_times(&home.path().join("bundle/rootfs"))?, &ours)?;
        self.untouched().await
    }

    /// Layers that have something in directories that only layers below name: what a container has as its root and what it has
    /// as an image volume. When umoci made a directory that nobody names any more is nobody's to say: times are not compared.
    async fn agree_implied(&mut self, seed: u64) -> Result<()> {
        let home = tempfile::Builder::new().prefix("berth-agree-").tempdir()?;
        let layers: Vec<Layer> = chance::stack(seed, true).into_iter().map(Layer::plain).collect();
        let name = self.pushed(&layers)?;
        by_umoci(&name, home.path())?;
        self.client.pull(&name).await?;
        let config = of_host("agree", &self.daemon.path("logs"));
        let pod = self.client.run_pod(&config).await?;
        let ours = self.in_container(&pod, &config, &name).await;
        self.client.remove_pod(&pod).await?;
        self.client.remove_image(&name).await?;
        let theirs = tree::list(&home.path().join("bundle/rootfs"))?;
        for (way, ours) in ours? {
            ensure!(ours.len() > 20, "only {} entries {way}", ours.len());
            same("umoci", &theirs, &ours).context(way)?;
        }
        self.untouched().await
    }

    /// What is in the image, as a container of it sees it.
    async fn in_container(
        &mut self,
        pod: &str,
        config: &PodSandboxConfig,
        name: &str,
    ) -> Result<[(&'static str, Vec<String>); 2]> {
        let guest = std::env::var("BERTH_E2E_GUEST").context("BERTH_E2E_GUEST names the guest program")?;
        let guest = Path::new(&guest).canonicalize()?;
        let image = ImageSpec { image: name.to_owned(), ..Default::default() };
        let volume = Mount { image: Some(image), readonly: true, ..mount(Path::new(""), "/view") };
        let spec = Spec {
            image: Some(name.to_owned()),
            mounts: vec![mount(&guest, "/guest"), volume],
            ..args(&["/guest", "sleep", "1000"])
        };
        let id = self.client.run(pod, config, "agree", spec).await?;
        let pid = self.client.info(&id).await?["pid"].as_i64().context("no pid")?;
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let volume = tree::list(&root.join("view"))?;
        // Beside what a runtime puts there.
        let is_own = |name: &OsStr| {
            let rest = name.as_encoded_bytes().strip_prefix(b"d");
            rest.is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
        };
        Ok([("as a volume", volume), ("as its root", tree::list_some(&root, is_own)?)])
    }

    fn unpacked(&self, diff_id: &str) -> PathBuf {
        let hex = diff_id.split(':').next_back().unwrap_or_default();
        self.daemon.path("root/images/layers").join(hex).join("fs")
    }

    /// An image of these layers in the registry.
    fn pushed(&self, layers: &[Layer]) -> Result<String> {
        let host = self.registry.host();
        let push = Push { host: &host, repository: REPOSITORY };
        let documents = Documents::new(layers);
        let (config, manifest) = documents.written();
        for (digest, blob) in &documents.blobs {
            push.blob(digest, blob)?;
        }
        push.blob(&case::digest(&config), &config)?;
        push.manifest("agree", MANIFEST, &manifest)?;
        Ok(format!("{host}/{REPOSITORY}:agree"))
    }
}
