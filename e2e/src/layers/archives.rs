//! Import, export and the directory of archives.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{Said, said, whole, write_big};
use crate::checks::{Checks, until};
use crate::client::Client;
use crate::daemon::{Daemon, IMAGE};
use crate::image;

const OTHER: &str = "lane.test/other:2";

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let other = daemon.path("other.tar");
    write_big(&other, OTHER, 3 << 20, 50)?;
    daemon.import_file(&other)?;
    let before = ids(daemon).await?;
    let exported = daemon.path("exported.tar");
    let export = |words: &[&str]| -> Result<Said> {
        let words: Vec<&str> = ["image", "export"].iter().chain(words).copied().collect();
        said(&mut daemon.typed(&words)?)
    };
    let file = exported.to_string_lossy().into_owned();
    let done = export(&[IMAGE, OTHER, "-o", &file])?;
    checks.that("two images are exported to one archive", done.ok && exported.exists(), &done.err);
    let layout = ["oci-archive", "docker-archive"];
    for (kind, name) in layout.iter().zip([format!(":{}", "2"), format!(":{OTHER}")]) {
        let source = format!("{kind}:{file}{name}");
        let read = said(Command::new("skopeo").args(["inspect", "--config", "--raw", &source]))?;
        checks.that(
            &format!("  skopeo reads it as {kind}"),
            read.ok && read.out.contains("diff_ids"),
            &read.err,
        );
        let to = daemon.path(&format!("copied-{kind}"));
        let copied = said(
            Command::new("skopeo")
                .args(["copy", "--quiet", "--insecure-policy", &source])
                .arg(format!("dir:{}", to.display())),
        )?;
        checks.that("  and every digest in it holds", copied.ok, &copied.err);
    }
    let none = export(&["lane.test/none:1", "-o", &daemon.path("none.tar").to_string_lossy()])?;
    let left = daemon.path("none.tar").exists() || daemon.path("none.tar.part").exists();
    checks.that("an image that is not there: refused, no file", !none.ok && !left, none.err);

    remove(daemon, &[IMAGE, OTHER]).await?;
    checks.that("removed, nothing is left of the layers", super::layers(daemon)?.is_empty(), "layers");
    daemon.import_file(&exported)?;
    checks.that("read back: the same ids", ids(daemon).await? == before, format!("{before:?}"));
    checks.note("  and whole", whole(daemon));

    let mut command = daemon.typed(&["image", "export", OTHER, "-o", "-"])?;
    let mut from = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let pipe = from.stdout.take().context("a pipe")?;
    remove(daemon, &[]).await?;
    let into = said(daemon.typed(&["image", "import", "-"])?.stdin(pipe))?;
    checks.that("export | import", from.wait()?.success() && into.ok && into.out.contains(OTHER), &into.err);

    forms(checks, daemon, &exported, &before).await?;
    written(checks, daemon, &before).await?;
    preload(checks, daemon, &exported, &before).await
}

/// Every form that an archive comes in.
async fn forms(checks: &mut Checks, daemon: &Daemon, plain: &Path, before: &[String]) -> Result<()> {
    let directory = daemon.path("layout");
    std::fs::create_dir(&directory)?;
    let unpacked = Command::new("tar").arg("-xf").arg(plain).arg("-C").arg(&directory).status()?;
    ensure!(unpacked.success(), "tar does not read the archive");
    let squeezed = daemon.path("squeezed.tar.gz");
    let out = std::fs::File::create(&squeezed)?;
    ensure!(Command::new("gzip").arg("-c").arg(plain).stdout(out).status()?.success(), "gzip");
    let zstd = daemon.path("squeezed.tar.zst");
    std::fs::write(&zstd, zstd::encode_all(std::fs::File::open(plain)?, 3)?)?;
    for (what, words, stdin) in [
        ("a directory in OCI layout", directory.to_string_lossy().into_owned(), None),
        ("a compressed archive", squeezed.to_string_lossy().into_owned(), None),
        ("a compressed archive by standard input", "-".to_owned(), Some(&squeezed)),
        ("an archive compressed by zstd", zstd.to_string_lossy().into_owned(), None),
        ("the same by standard input", "-".to_owned(), Some(&zstd)),
    ] {
        remove(daemon, &[IMAGE, OTHER]).await?;
        let mut command = daemon.typed(&["image", "import", &words])?;
        if let Some(path) = stdin {
            command.stdin(std::fs::File::open(path)?);
        }
        let done = said(&mut command)?;
        let good = done.ok && before.iter().all(|id| done.out.contains(id));
        checks.that(&format!("import of {what}"), good, format!("{} {}", done.out, done.err));
    }
    let third = daemon.path("third.tar");
    image::write(&third, "lane.test/third:3", "third")?;
    remove(daemon, &[IMAGE, OTHER]).await?;
    let both = [plain.to_string_lossy().into_owned(), third.to_string_lossy().into_owned()];
    let done = said(&mut daemon.typed(&["image", "import", &both[0], &both[1]])?)?;
    checks.that("import of several at once", done.ok && done.out.lines().count() == 3, &done.out);
    for (what, words) in [("xz", &b"\xfd7zXZ\0rest"[..]), ("no archive", b"hello"), ("an empty file", b"")] {
        let path = daemon.path("bad.tar");
        std::fs::write(&path, words)?;
        let refused = said(daemon.typed(&["image", "import"])?.arg(&path))?;
        checks.that(
            &format!("refused: {what}"),
            !refused.ok && refused.err.contains("the archive"),
            &refused.err,
        );
    }
    remove(daemon, &["lane.test/third:3"]).await
}

/// Every form that an export has, and each read back.
async fn written(checks: &mut Checks, daemon: &Daemon, before: &[String]) -> Result<()> {
    const GZIP: &[u8] = b"\x1f\x8b";
    const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
    const PLAIN: &[u8] = b"oci-layout";
    let path = |name: &str| daemon.path(name).to_string_lossy().into_owned();
    let directory = path("as-layout");
    for (what, to, words, magic) in [
        ("a directory in OCI layout", format!("{directory}/"), &[][..], None),
        ("an archive of the suffix .gz", path("by-suffix.tar.gz"), &[], Some(GZIP)),
        ("an archive of the suffix .tgz", path("by-suffix.tgz"), &[], Some(GZIP)),
        ("an archive of the suffix .zst", path("by-suffix.tar.zst"), &[], Some(ZSTD)),
        ("--compress gzip", path("gzip.tar"), &["--compress", "gzip"], Some(GZIP)),
        ("--compress zstd", path("zstd.tar"), &["--compress", "zstd"], Some(ZSTD)),
        (
            "--compress none in spite of the suffix",
            path("plain.tar.gz"),
            &["--compress", "none"],
            Some(PLAIN),
        ),
    ] {
        let done = said(daemon.typed(&["image", "export", IMAGE, OTHER, "-o", &to])?.args(words))?;
        checks.that(&format!("export as {what}"), done.ok, &done.err);
        if let Some(magic) = magic {
            let bytes = std::fs::read(&to)?;
            checks.that("  it is", bytes.starts_with(magic), bytes.len());
            if magic == GZIP {
                let tested = said(Command::new("gzip").arg("-t").stdin(std::fs::File::open(&to)?))?;
                checks.that("  gzip -t", tested.ok, &tested.err);
            }
        } else {
            let copied = said(
                Command::new("skopeo")
                    .args(["copy", "--quiet", "--insecure-policy"])
                    .arg(format!("oci:{directory}:2"))
                    .arg(format!("dir:{}", path("copied-layout"))),
            )?;
            checks.that("  skopeo reads it, every digest holds", copied.ok, &copied.err);
            let again = said(&mut daemon.typed(&["image", "export", IMAGE, "-o", &to])?)?;
            checks.that("  not over what is there", !again.ok && again.err.contains("not empty"), &again.err);
        }
        remove(daemon, &[IMAGE, OTHER]).await?;
        daemon.import_file(Path::new(&to))?;
        checks.that("  read back: the same ids", ids(daemon).await? == before, format!("{before:?}"));
    }
    let refused =
        said(&mut daemon.typed(&["image", "export", IMAGE, "-o", "/tmp/", "--compress", "gzip"])?)?;
    checks.that("a directory is not compressed", refused.code == Some(64), &refused.err);
    Ok(())
}

async fn preload(checks: &mut Checks, daemon: &mut Daemon, plain: &Path, before: &[String]) -> Result<()> {
    remove(daemon, &[IMAGE, OTHER]).await?;
    let directory = daemon.path("root/preload");
    std::fs::create_dir(&directory)?;
    std::fs::copy(plain, directory.join("all.tar"))?;
    std::fs::write(directory.join("broken.tar.zst"), "no archive")?;
    daemon.kill()?;
    let mut client = daemon.start().await?;
    until("the archives of the directory to be taken in", || {
        let mut client = client.clone();
        async move { Ok((client.images().await? == 2).then_some(())) }
    })
    .await?;
    checks.that("preloaded at start", ids(daemon).await? == before, format!("{before:?}"));
    let log = std::fs::read_to_string(daemon.path("log"))?;
    checks.that(
        "  a broken archive is told and costs nothing",
        log.contains("broken.tar.zst"),
        "nothing in the log",
    );
    client.remove_image(OTHER).await?;
    daemon.kill()?;
    let log = daemon.path("log");
    let told = std::fs::read_to_string(&log)?.matches("not preloaded").count();
    let mut client = daemon.start().await?;
    until("the directory to be looked at again", || {
        let log = log.clone();
        async move { Ok((std::fs::read_to_string(log)?.matches("not preloaded").count() > told).then_some(())) }
    })
    .await?;
    checks.that(
        "  an image that was removed is there again",
        ids(daemon).await? == before,
        client.images().await?,
    );
    let taken = std::fs::read_to_string(&log)?.matches(" preloaded").count();
    let told = std::fs::read_to_string(&log)?.matches("not preloaded").count();
    daemon.kill()?;
    client = daemon.start().await?;
    until("the directory to be looked at once more", || {
        let log = log.clone();
        async move { Ok((std::fs::read_to_string(log)?.matches("not preloaded").count() > told).then_some(())) }
    })
    .await?;
    // "not preloaded" has it, too.
    let now = std::fs::read_to_string(&log)?.matches(" preloaded").count();
    checks.that("  an archive of which nothing is missing is not taken in again", now == taken + 1, now);
    client.remove_image(OTHER).await?;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

async fn remove(daemon: &Daemon, names: &[&str]) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    for name in names {
        client.remove_image(name).await?;
    }
    Ok(())
}

/// Of both images, where they are there.
async fn ids(daemon: &Daemon) -> Result<Vec<String>> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let mut found = Vec::new();
    for name in [IMAGE, OTHER] {
        found.extend(client.image_id(name).await?);
    }
    Ok(found)
}
