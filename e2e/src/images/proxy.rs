//! Registries through the environment's proxies.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::image::{NAME, Served};
use super::pull;
use super::push::typed;
use super::real::{Authority, comes, hosts, refused};
use super::server::{How, Reply, Server};
use crate::checks::Checks;
use crate::daemon::Daemon;
use crate::registry::{Registry, USER};

/// The environment's proxy, with the daemon started anew in it.
pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon, data: &Path) -> Result<()> {
    plain(checks, daemon).await?;
    secure(checks, daemon, data).await
}

async fn plain(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let served = Served::new("proxied")?;
    let proxy = Server::start(Arc::new(move |request, _| {
        let mut inner = request.clone();
        // As proxies are asked: the whole address.
        if let Some(path) = request.path.strip_prefix("http://far.invalid:5000") {
            inner.path = path.to_owned();
            return served.answer(&inner);
        }
        Reply::new(502, "")
    }))
    .await?;
    hosts(daemon, "proxied.test", "server = \"http://far.invalid:5000\"\n")?;
    hosts(daemon, "direct.test", "server = \"http://near.invalid:5000\"\n")?;
    daemon.kill()?;
    daemon.environment.push(("HTTP_PROXY".into(), format!("http://{}", proxy.host())));
    daemon.environment.push(("NO_PROXY".into(), "near.invalid".into()));
    let client = daemon.start().await?;
    comes(checks, &client, "through HTTP_PROXY", &format!("proxied.test/{NAME}:1"), None).await?;
    checks.that("  the proxy was asked", !proxy.seen().is_empty(), "it was not");
    let before = proxy.seen().len();
    refused(
        checks,
        "not where NO_PROXY says so",
        pull(&client, &format!("direct.test/{NAME}:1"), None).await,
        &["RegistryUnavailable: ", "near.invalid:5000"],
    );
    let loopback = Server::start(Served::new("not proxied")?.answers()).await?;
    comes(checks, &client, "and not to this machine", &format!("{}/{NAME}:1", loopback.host()), None).await?;
    checks.that("  the proxy was not asked", proxy.seen().len() == before, "it was");
    Ok(())
}

/// A registry with TLS through a proxy that wants a password: its connection is the proxy's tunnel.
async fn secure(checks: &mut Checks, daemon: &mut Daemon, data: &Path) -> Result<()> {
    const WORD: &str = "proxy-secret";
    let at = daemon.path("proxied");
    std::fs::create_dir_all(&at)?;
    let authority = Authority::new()?;
    std::fs::write(at.join("ca.pem"), &authority.pem)?;
    authority.write(&at, "server", &["far.invalid"])?;
    let path = |name: &str| at.join(name).display().to_string();
    let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.pem"), path("server.key"));
    let registry = Registry::special(data, &tls, "").await?;
    let to = registry.host();
    let known = format!("Basic {}", STANDARD.encode(format!("{USER}:{WORD}")));
    let proxy = Server::start(Arc::new(move |request, _| {
        match (request.method.as_str(), request.header("proxy-authorization") == known) {
            ("CONNECT", true) => Reply::new(200, "").how(How::Tunnel(to.clone())),
            _ => Reply::new(407, "").with("Proxy-Authenticate", "Basic realm=\"lane\""),
        }
    }))
    .await?;
    let text = format!("server = \"https://far.invalid:5000\"\nca = \"{}\"\n", path("ca.pem"));
    hosts(daemon, "tunnelled.test", &text)?;
    daemon.kill()?;
    let set = |daemon: &mut Daemon, text: String| {
        daemon.environment.retain(|(name, _)| name != "HTTPS_PROXY");
        daemon.environment.push(("HTTPS_PROXY".into(), text));
    };
    set(daemon, format!("http://{USER}:{WORD}@{}", proxy.host()));
    let client = daemon.start().await?;
    let name = "tunnelled.test/lane/guest:1";
    comes(checks, &client, "TLS through HTTPS_PROXY, with the proxy's password", name, None).await?;
    let lines =
        |proxy: &Server| proxy.seen().iter().map(|r| format!("{} {}", r.method, r.path)).collect::<Vec<_>>();
    let holds =
        !proxy.seen().is_empty() && lines(&proxy).iter().all(|line| line == "CONNECT far.invalid:5000");
    checks.that("  the proxy was asked for nothing but the connection", holds, lines(&proxy).join("; "));
    let said = typed(daemon, &["image", "explain", name])?;
    let told = said.out.contains(&format!("http://{}", proxy.host())) && !said.out.contains(WORD);
    checks.that("  explained without the password", told, said.out);
    // What a registry of this machine redirects to may be far away.
    let near = Server::start(Arc::new(|request, _| {
        Reply::new(307, "").with("Location", &format!("https://far.invalid:5001{}", request.path))
    }))
    .await?;
    let outcome = pull(&client, &format!("{}/{NAME}:1", near.host()), None).await;
    let asked = lines(&proxy).iter().any(|line| line == "CONNECT far.invalid:5001");
    checks.that(
        "  where this machine's registry redirects to, too",
        asked && outcome.is_err(),
        lines(&proxy).join("; "),
    );
    daemon.kill()?;
    set(daemon, format!("http://{USER}:wrong@{}", proxy.host()));
    let client = daemon.start().await?;
    let outcome = pull(&client, name, None).await;
    refused(checks, "  with a wrong password", outcome, &["RegistryUnavailable: ", "far.invalid:5000"]);
    Ok(())
}
