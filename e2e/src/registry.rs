//! Debian's docker-registry on a loopback port of its own, filled by skopeo; gone with the lane.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::checks::until;
use crate::pty::end;

/// `lane` with the word of [`PASSWORD`], as htpasswd(1) -B writes it.
pub(crate) const HTPASSWD: &str = "lane:$2b$05$pOHTB3KEspfhVA8/HBgZ5ea9cmbOexOcQJnTIdtQkJFweelvqUgEq\n";
pub(crate) const USER: &str = "lane";
pub(crate) const PASSWORD: &str = "lane-secret";

pub(crate) struct Registry {
    home: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
    protected: bool,
}

impl Registry {
    /// Answers when this returns. A protected one wants [`USER`] and [`PASSWORD`].
    pub(crate) async fn start(protected: bool) -> Result<Self> {
        Self::with(protected, None, "", "").await
    }

    /// An open one that keeps what is pushed to it in `data`.
    pub(crate) async fn over(data: &Path) -> Result<Self> {
        Self::with(false, Some(data), "", "").await
    }

    /// Over the same, with more lines below `http:` of its configuration and a part of its own for `auth:`.
    pub(crate) async fn special(data: &Path, http: &str, auth: &str) -> Result<Self> {
        Self::with(false, Some(data), http, auth).await
    }

    async fn with(protected: bool, data: Option<&Path>, http: &str, auth: &str) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("berth-registry-").tempdir()?;
        let data = data.map_or_else(|| home.path().join("data"), Path::to_owned);
        // Between this and the registry's own bind somebody else may take it; then the registry ends, and we say so.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\n  level: error\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n  secret: lane\n{http}{auth}",
            data.display()
        );
        if protected {
            std::fs::write(home.path().join("htpasswd"), HTPASSWD)?;
            config += &format!(
                "auth:\n  htpasswd:\n    realm: lane\n    path: {}/htpasswd\n",
                home.path().display()
            );
        }
        std::fs::write(home.path().join("config.yml"), config)?;
        let mut registry = Self { home, port, child: None, protected };
        registry.up().await?;
        Ok(registry)
    }

    pub(crate) async fn up(&mut self) -> Result<()> {
        let log = std::fs::File::create(self.home.path().join("log"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(self.home.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("docker-registry (package docker-registry)")?;
        self.child = Some(child);
        let port = self.port;
        until("the registry to listen", || async move {
            Ok(std::net::TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(1))
                .ok())
        })
        .await?;
        Ok(())
    }

    /// What it was asked and answered since it is up: `METHOD PATH STATUS`, each when it was done.
    pub(crate) fn requests(&self) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.home.path().join("log"))?;
        let request = |line: &str| {
            let (_, rest) = line.split_once('"')?;
            let (request, rest) = rest.split_once(" HTTP/")?;
            Some(format!("{request} {}", rest.split(' ').nth(1)?))
        };
        Ok(log.lines().filter_map(request).collect())
    }

    pub(crate) fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
    }

    /// Where it keeps what was pushed, unless that was chosen by the caller.
    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.home.path().join("data")
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes an OCI archive, or a directory in OCI layout, as `NAME:TAG`.
    pub(crate) fn push(&self, source: &Path, name: &str) -> Result<()> {
        self.push_as(source, name, &[])
    }

    /// With more words for `skopeo copy`.
    pub(crate) fn push_as(&self, source: &Path, name: &str, words: &[&str]) -> Result<()> {
        let kind = if source.is_dir() { "oci" } else { "oci-archive" };
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        command.args(words);
        if self.protected {
            command.args(["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        }
        command.arg(format!("{kind}:{}", source.display())).arg(format!("docker://{}/{name}", self.host()));
        let done = command.output().context("skopeo (package skopeo)")?;
        if !done.status.success() {
            bail!("skopeo copy {name}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.down();
    }
}
