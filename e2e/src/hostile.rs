//! Images that nobody honest makes, each written here byte by byte: what is refused names the entry and why; what is not is on
//! disk as it must be; in either case nothing outside the layer is touched, nothing is left, and the daemon goes on in little
//! memory. Layers are taken in twice, from an archive and from a registry. A row that has the number of an advisory is of the
//! class that it tells of: of runc, containerd, CRI-O, Podman, Docker, BuildKit, umoci, or of the readers of tar that they use.

mod agreement;
mod attributes;
mod bombs;
mod case;
mod chance;
mod content;
mod documents;
mod headers;
mod links;
mod names;
mod push;
mod settings;
mod tarball;
pub(crate) mod tree;

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::audit::{Footprint, given_back};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::registry::Registry;
use case::{Case, Documents, MANIFEST, Want};
use push::Push;
use tree::Outside;

const NAME: &str = "berth.test/hostile:1";
/// Bytes of memory that the daemon may ever take, whatever the image.
const MEMORY: u64 = 64 << 20;
/// Tarballs that there are at the least.
const ROWS: usize = 60;
const REPOSITORY: &str = "lane/hostile";

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::empty().await?;
    let done = run(checks, &daemon).await;
    daemon.finish(done).await
}

async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let registry = Registry::start(false).await?;
    let client = Client::connect(&daemon.socket()).await?;
    let outside = Outside::new(daemon.path("outside"))?;
    let before = Footprint::take(daemon)?;
    let mut lane = Lane { checks, daemon, registry, client, outside, before };
    let out = daemon.path("outside").to_string_lossy().into_owned();
    let tables = [
        ("links", links::cases(&out)),
        ("names", names::cases()),
        ("headers", headers::cases()),
        ("attributes", attributes::cases()),
        ("bombs", bombs::cases()?),
    ];
    let rows: usize = tables.iter().map(|(_, cases)| cases.len()).sum();
    anyhow::ensure!(rows >= ROWS, "the tables have {rows} tarballs, not {ROWS}");
    for (kind, cases) in tables {
        lane.layers(kind, cases).await?;
    }
    lane.documents().await?;
    lane.agreement().await?;
    lane.settings(&out).await
}

struct Lane<'a> {
    checks: &'a mut Checks,
    daemon: &'a Daemon,
    registry: Registry,
    client: Client,
    outside: Outside,
    before: Footprint,
}

impl Lane<'_> {
    async fn layers(&mut self, kind: &str, cases: Vec<Case>) -> Result<()> {
        println!("  {kind}");
        self.watch_memory()?;
        for case in cases {
            let result = self.layer(&case).await;
            self.checks.note(&case.what, result.map_err(|error| format!("{error:#}")));
        }
        self.memory(kind)
    }

    async fn layer(&mut self, case: &Case) -> Result<()> {
        let documents = Documents::new(&case.layers);
        let said = self.import(&documents.archive(NAME));
        self.judge(case, said, NAME).await.context("import")?;
        if case.once {
            return Ok(());
        }

        let host = self.registry.host();
        let push = Push { host: &host, repository: REPOSITORY };
        let (config, manifest) = documents.written();
        for (digest, blob) in &documents.blobs {
            push.blob(digest, blob)?;
        }
        push.blob(&case::digest(&config), &config)?;
        push.manifest("1", MANIFEST, &manifest)?;
        let name = format!("{host}/{REPOSITORY}:1");
        let said = self.client.pull(&name).await.map(drop);
        self.judge(case, said, &name).await.context("pull")
    }

    fn import(&self, archive: &[u8]) -> Result<()> {
        let file = self.daemon.path("hostile.tar");
        std::fs::write(&file, archive)?;
        let done = self.daemon.import_file(&file);
        std::fs::remove_file(&file)?;
        done
    }

    async fn judge(&mut self, case: &Case, said: Result<()>, name: &str) -> Result<()> {
        match (&case.want, said) {
            (Want::Refused(words), Err(error)) => has(&format!("{error:#}"), words)?,
            (Want::Refused(_), Ok(())) => {
                let listed = self.listed(case);
                self.client.remove_image(name).await?;
                anyhow::bail!("it was taken: {listed:?}");
            }
            (Want::Trees(_), Err(error)) => return Err(error),
            (Want::Trees(wanted), Ok(())) => {
                let listed = self.listed(case);
                self.client.remove_image(name).await?;
                let listed = listed?;
                anyhow::ensure!(listed == *wanted, "it became {listed:?} instead of {wanted:?}");
            }
        }
        self.untouched().await
    }

    fn listed(&self, case: &Case) -> Result<Vec<Vec<String>>> {
        let place = |diff_id: &str| -> PathBuf {
            let hex = diff_id.split(':').next_back().unwrap_or_default();
            self.daemon.path("root/images/layers").join(hex).join("fs")
        };
        case.layers.iter().map(|layer| tree::list(&place(&layer.diff_id))).collect()
    }

    async fn untouched(&mut self) -> Result<()> {
        let changed = self.outside.changed()?;
        anyhow::ensure!(changed.is_empty(), "outside: {changed:?}");
        let images = self.client.images().await.context("the daemon does not answer")?;
        anyhow::ensure!(images == 0, "{images} images are there");
        given_back(self.daemon, &self.before).await.map_err(anyhow::Error::msg)
    }

    async fn documents(&mut self) -> Result<()> {
        println!("  documents");
        self.watch_memory()?;
        for case in documents::cases() {
            let said = self.import(&case.archive);
            let result = match said {
                Err(error) => has(&format!("{error:#}"), &case.words),
                Ok(()) => {
                    self.client.remove_image(documents::NAME).await?;
                    Err(anyhow::anyhow!("it was taken"))
                }
            };
            let result = match result {
                Ok(()) => self.untouched().await,
                failed => failed,
            };
            self.checks.note(case.what, result.map_err(|error| format!("{error:#}")));
        }
        self.memory("documents")
    }

    fn process(&self, name: &str) -> Result<PathBuf> {
        let pid = self.daemon.pid().context("no daemon runs")?;
        Ok(format!("/proc/{pid}/{name}").into())
    }

    /// The kernel forgets the peak (proc(5), clear_refs).
    fn watch_memory(&self) -> Result<()> {
        Ok(std::fs::write(self.process("clear_refs")?, "5")?)
    }

    fn memory(&mut self, kind: &str) -> Result<()> {
        let status = std::fs::read_to_string(self.process("status")?)?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak = 1024 * peak.context("no VmHWM")?.parse::<u64>()?;
        self.checks.that(
            &format!("{kind}: the daemon took {} MiB at most", peak >> 20),
            peak <= MEMORY,
            format!("{peak} bytes"),
        );
        Ok(())
    }
}

fn has(said: &str, words: &[String]) -> Result<()> {
    // A gRPC message is shown in quotes, with its own escaped.
    let said = said.replace("\\\"", "\"").replace("\\\\", "\\");
    let missing: Vec<_> = words.iter().filter(|word| !said.contains(word.as_str())).collect();
    anyhow::ensure!(missing.is_empty(), "the error lacks {missing:?}: {said}");
    Ok(())
}
