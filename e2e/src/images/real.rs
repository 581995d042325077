//! Debian's registry behind TLS, passwords and tokens; and the ways that credentials come and do not go.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_cri_api::v1::AuthConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tonic::Status;

use super::image::{NAME, Served};
use super::server::{Answer, How, Reply, Server};
use super::tokens::{IDENTITY, Tokens, trust};
use super::{pull, spec};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::image;
use crate::registry::{PASSWORD, Registry, USER};

fn password() -> Option<AuthConfig> {
    Some(AuthConfig { username: USER.into(), password: PASSWORD.into(), ..Default::default() })
}

/// The image came; it is removed again.
async fn comes(
    checks: &mut Checks,
    client: &Client,
    what: &str,
    name: &str,
    auth: Option<AuthConfig>,
) -> Result<()> {
    let outcome = pull(client, name, auth).await;
    checks.note(what, outcome.map(drop).map_err(|status| status.message().to_owned()));
    client.clone().remove_image(name).await
}

fn refused(checks: &mut Checks, what: &str, outcome: Result<String, Status>, parts: &[&str]) {
    let found = match &outcome {
        Ok(id) => format!("it came as {id}"),
        Err(status) => format!("{:?} {}", status.code(), status.message()),
    };
    let holds = outcome.is_err_and(|status| {
        status.code() == tonic::Code::Unknown && parts.iter().all(|part| status.message().contains(part))
    });
    checks.that(what, holds && !found.contains(PASSWORD), found);
}

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

impl Authority {
    pub(super) fn new() -> Result<Self> {
        let mut params = CertificateParams::new(vec![])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Certificate and key below `at`.
    pub(super) fn write(&self, at: &Path, name: &str, of: &[&str]) -> Result<()> {
        let params = CertificateParams::new(of.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        std::fs::write(at.join(format!("{name}.pem")), certificate.pem())?;
        std::fs::write(at.join(format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    }
}

pub(super) fn hosts(daemon: &Daemon, host: &str, text: &str) -> Result<()> {
    let directory = daemon.path("certs.d").join(host);
    std::fs::create_dir_all(&directory)?;
    Ok(std::fs::write(directory.join("hosts.toml"), text)?)
}

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let client = Client::connect(&daemon.socket()).await?;
    let data = daemon.path("registry");
    let open = Registry::over(&data).await?;
    let archive = daemon.path("pushed.tar");
    image::write(&archive, "lane/guest:1", "pulled")?;
    open.push(&archive, "lane/guest:1")?;
    htpasswd(checks, daemon, &client, &archive).await?;
    tls(checks, daemon, &client, &data).await?;
    tokens(checks, daemon, &client, &data).await?;
    files(checks, daemon, &client).await?;
    stays(checks, daemon, &client).await?;
    mirrors(checks, daemon, &client).await?;
    proxy(checks, daemon).await
}

/// Debian's registry with a file of users and bcrypt hashes, as most small ones are kept.
async fn htpasswd(checks: &mut Checks, daemon: &Daemon, client: &Client, archive: &Path) -> Result<()> {
    let closed = Registry::start(true).await?;
    closed.push(archive, "lane/closed:1")?;
    let name = format!("{}/lane/closed:1", closed.host());
    refused(checks, "htpasswd: nobody in particular", pull(client, &name, None).await, &["none were given"]);
    let wrong = AuthConfig { username: USER.into(), password: "wrong".into(), ..Default::default() };
    refused(
        checks,
        "htpasswd: a wrong password",
        pull(client, &name, Some(wrong)).await,
        &["are not accepted", "from the request"],
    );
    comes(checks, client, "htpasswd: with the password", &name, password()).await?;
    let coded = AuthConfig { auth: STANDARD.encode(format!("{USER}:{PASSWORD}")), ..Default::default() };
    comes(checks, client, "htpasswd: with both in one field", &name, Some(coded)).await?;
    let auth = daemon.path("auth.json");
    let entry = json!({ "auths": { closed.host(): { "username": USER, "password": PASSWORD } } });
    std::fs::write(&auth, entry.to_string())?;
    comes(checks, client, "htpasswd: from config.json", &name, None).await?;
    Ok(std::fs::remove_file(&auth)?)
}

async fn tls(checks: &mut Checks, daemon: &Daemon, client: &Client, data: &Path) -> Result<()> {
    let at = daemon.path("tls");
    std::fs::create_dir_all(&at)?;
    let (authority, other) = (Authority::new()?, Authority::new()?);
    std::fs::write(at.join("ca.pem"), &authority.pem)?;
    std::fs::write(at.join("other.pem"), &other.pem)?;
    authority.write(&at, "server", &["127.0.0.1", "localhost"])?;
    authority.write(&at, "client", &["client"])?;
    other.write(&at, "stranger", &["client"])?;
    let path = |name: &str| at.join(name).display().to_string();
    let http = format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.pem"), path("server.key"));
    let plain = Registry::special(data, &http, "").await?;
    let strict =
        Registry::special(data, &format!("{http}    clientcas:\n      - {}\n", path("ca.pem")), "").await?;
    let server = |of: &Registry| format!("server = \"https://{}\"\n", of.host());
    let name = "tls.test/lane/guest:1";
    hosts(daemon, "tls.test", &server(&plain))?;
    refused(
        checks,
        "TLS: an authority that nobody knows",
        pull(client, name, None).await,
        &["RegistryUnavailable: ", "ertificate"],
    );
    hosts(daemon, "tls.test", &format!("{}ca = \"{}\"\n", server(&plain), path("other.pem")))?;
    refused(
        checks,
        "TLS: the wrong authority",
        pull(client, name, None).await,
        &["RegistryUnavailable: ", "ertificate"],
    );
    hosts(daemon, "tls.test", &format!("{}ca = \"{}\"\n", server(&plain), path("ca.pem")))?;
    comes(checks, client, "TLS: an authority of one's own", name, None).await?;
    hosts(daemon, "tls.test", &format!("{}skip_verify = true\n", server(&plain)))?;
    comes(checks, client, "TLS: unverified, where that is said", name, None).await?;
    hosts(daemon, "tls.test", &format!("{}ca = \"none.pem\"\n", server(&plain)))?;
    refused(
        checks,
        "TLS: a file that is not there, by its path",
        pull(client, name, None).await,
        &["tls.test/none.pem"],
    );
    let with_ca = format!("{}ca = \"{}\"\n", server(&strict), path("ca.pem"));
    hosts(daemon, "tls.test", &with_ca)?;
    refused(
        checks,
        "TLS: without the client certificate it wants",
        pull(client, name, None).await,
        &["RegistryUnavailable: "],
    );
    let pair = |name: &str| {
        format!(
            "{with_ca}client = [[\"{}\", \"{}\"]]\n",
            path(&format!("{name}.pem")),
            path(&format!("{name}.key"))
        )
    };
    hosts(daemon, "tls.test", &pair("stranger"))?;
    refused(checks, "TLS: with a stranger's", pull(client, name, None).await, &["RegistryUnavailable: "]);
    hosts(daemon, "tls.test", &pair("client"))?;
    comes(checks, client, "TLS: with the right one", name, None).await?;
    // Docker's layout: no hosts.toml, files by their endings.
    let directory = daemon.path("certs.d").join(strict.host());
    std::fs::create_dir_all(&directory)?;
    for (from, to) in [("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")] {
        std::fs::copy(at.join(from), directory.join(to))?;
    }
    let name = format!("{}/lane/guest:1", strict.host());
    refused(checks, "plain HTTP to a port of TLS", pull(client, &name, None).await, &["answered 400"]);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

async fn tokens(checks: &mut Checks, daemon: &Daemon, client: &Client, data: &Path) -> Result<()> {
    let service = Tokens::start(300).await?;
    let bundle = daemon.path("tls/tokens.pem");
    std::fs::write(&bundle, &service.certificate)?;
    let registry = Registry::special(data, "", &trust(&service.realm(), &bundle)).await?;
    let name = format!("{}/lane/guest:1", registry.host());
    refused(
        checks,
        "tokens: nobody in particular",
        pull(client, &name, None).await,
        &["refuses", "without credentials", "who are you"],
    );
    comes(checks, client, "tokens: by password", &name, password()).await?;
    let asked = service.server.seen().len();
    comes(checks, client, "tokens: and again", &name, password()).await?;
    checks.that(
        "  with the token that is known",
        service.server.seen().len() == asked,
        service.server.seen().len(),
    );
    let wrong = AuthConfig { username: USER.into(), password: "wrong".into(), ..Default::default() };
    refused(
        checks,
        "tokens: a wrong password, after a right one",
        pull(client, &name, Some(wrong)).await,
        &["does not accept the credentials"],
    );
    let identity = AuthConfig { identity_token: IDENTITY.into(), ..Default::default() };
    comes(checks, client, "tokens: by identity token", &name, Some(identity)).await?;
    let last = service.server.seen().pop().unwrap_or_default();
    checks.that(
        "  by OAuth 2",
        last.method == "POST" && last.body.contains("grant_type=refresh_token"),
        last.body,
    );
    let wrong = AuthConfig { identity_token: "other".into(), ..Default::default() };
    refused(
        checks,
        "tokens: another identity token",
        pull(client, &name, Some(wrong)).await,
        &["does not accept the credentials"],
    );
    let wrong = AuthConfig { registry_token: "none".into(), ..Default::default() };
    refused(
        checks,
        "tokens: a registry token that is none",
        pull(client, &name, Some(wrong)).await,
        &["the registry token is not accepted"],
    );
    Ok(())
}

pub(super) fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

/// Good for whoever has the password.
fn guarded(served: Served) -> Answer {
    Arc::new(move |request, _| match request.header("authorization") == basic() {
        true => served.answer(request),
        false => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"lane\""),
    })
}

/// Credentials of this machine: docker's config.json, helpers, hosts.toml.
async fn files(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    let server = Server::start(guarded(Served::new("files")?)).await?;
    let (host, name) = (server.host(), format!("{}/{NAME}:1", server.host()));
    let auth = daemon.path("auth.json");
    let write = |value: serde_json::Value| std::fs::write(&auth, value.to_string());
    write(json!({ "auths": { host: { "auth": STANDARD.encode(format!("{USER}:{PASSWORD}")) } } }))?;
    comes(checks, client, "config.json: an entry of the host", &name, None).await?;
    // Every answer from here on is a new name's, so that no header is known.
    let other = Server::start(guarded(Served::new("others")?)).await?;
    let other_name = format!("{}/{NAME}:1", other.host());
    refused(
        checks,
        "config.json: none of another port",
        pull(client, &other_name, None).await,
        &["none were given"],
    );
    checks.that(
        "  and nothing was sent there",
        other.seen().iter().all(|r| r.header("authorization").is_empty()),
        "a header",
    );
    write(json!({ "auths": { other.host(): { "username": USER, "password": "wrong" } } }))?;
    refused(
        checks,
        "config.json: a wrong password",
        pull(client, &other_name, None).await,
        &["the credentials are not accepted"],
    );
    std::fs::write(&auth, "{ nonsense")?;
    refused(
        checks,
        "config.json: a broken file, by its path",
        pull(client, &other_name, None).await,
        &["auth.json", "line 1"],
    );
    for (what, script, ends) in [
        (
            "helper: its answer",
            format!(
                "read server; echo \"$server\" > \"$0.asked\"; echo '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'"
            ),
            None,
        ),
        (
            "helper: it has none",
            "echo 'credentials not found in native keychain'; exit 1".into(),
            Some("none were given"),
        ),
        ("helper: it fails", format!("echo '{PASSWORD}'; exit 3"), Some("it failed")),
        ("helper: no JSON", format!("echo '{PASSWORD}'"), Some("not of the known form")),
        ("helper: an endless answer", "yes".into(), Some("longer than 65536 bytes")),
        (
            "helper: its secret is wrong",
            "echo '{\"Username\":\"a\",\"Secret\":\"b\"}'".into(),
            Some("the credentials are not accepted"),
        ),
    ] {
        let server = Server::start(guarded(Served::new(what)?)).await?;
        let name = format!("{}/{NAME}:1", server.host());
        let program = daemon.path("bin/docker-credential-lane");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        write(json!({ "credHelpers": { server.host(): "lane" } }))?;
        match ends {
            None => {
                comes(checks, client, what, &name, None).await?;
                let asked = std::fs::read_to_string(daemon.path("bin/docker-credential-lane.asked"))?;
                checks.that("  it was asked for the host", asked.trim() == server.host(), asked);
            }
            Some(words) => refused(checks, what, pull(client, &name, None).await, &[words]),
        }
    }
    let server = Server::start(guarded(Served::new("store")?)).await?;
    let name = format!("{}/{NAME}:1", server.host());
    write(json!({ "credsStore": "../lane" }))?;
    refused(
        checks,
        "helper: a name that is a path",
        pull(client, &name, None).await,
        &["its name is none of"],
    );
    write(json!({ "credsStore": "is-not-there" }))?;
    refused(
        checks,
        "helper: a program that is not there",
        pull(client, &name, None).await,
        &["docker-credential-is-not-there", "No such file"],
    );
    std::fs::remove_file(&auth)?;
    let text = format!("server = \"http://{}\"\n[header]\nauthorization = \"{}\"\n", server.host(), basic());
    hosts(daemon, "header.test", &text)?;
    comes(checks, client, "hosts.toml: a header of the host", &format!("header.test/{NAME}:1"), None).await
}

/// What belongs to a host stays with it.
async fn stays(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    let served = Served::new("stays")?;
    let far = Server::start(served.clone().answers()).await?;
    let (to, layer) = (far.host().to_owned(), served.layer.clone());
    let inner = guarded(served);
    let near = Server::start(Arc::new(move |request, count| {
        let good = inner(request, count);
        match request.path.contains(&layer) && good.status == 200 {
            true => Reply::new(307, "").with("Location", &format!("http://{to}{}", request.path)),
            false => good,
        }
    }))
    .await?;
    let text = format!("server = \"http://{}\"\n[header]\nx-lane = \"secret\"\n", near.host());
    hosts(daemon, "stays.test", &text)?;
    comes(
        checks,
        client,
        "a blob from another host, where the registry redirects to",
        &format!("stays.test/{NAME}:1"),
        password(),
    )
    .await?;
    let (here, there) = (near.seen(), far.seen());
    checks.that(
        "  the host has seen password and header",
        here.iter().any(|r| r.header("authorization") == basic())
            && here.iter().all(|r| r.header("x-lane") == "secret"),
        "it has not",
    );
    checks.that("  the other was asked", !there.is_empty(), "it was not");
    checks.that(
        "  and has seen neither",
        there.iter().all(|r| r.header("authorization").is_empty() && r.header("x-lane").is_empty()),
        "it has",
    );
    // For another host than the image's.
    let server = Server::start(guarded(Served::new("server address")?)).await?;
    let name = format!("{}/{NAME}:1", server.host());
    let elsewhere =
        AuthConfig { server_address: "https://elsewhere.test".into(), ..password().unwrap_or_default() };
    refused(
        checks,
        "credentials for another server address",
        pull(client, &name, Some(elsewhere)).await,
        &["none were given"],
    );
    checks.that(
        "  they were not sent",
        server.seen().iter().all(|r| r.header("authorization").is_empty()),
        "they were",
    );
    let here = AuthConfig {
        server_address: format!("http://{}/v1/", server.host()),
        ..password().unwrap_or_default()
    };
    comes(checks, client, "credentials for this one", &name, Some(here)).await?;
    // A token that ends in the middle of a pull.
    let served = Served::new("token ends")?;
    let layer = served.layer.clone();
    let counted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let tokens = counted.clone();
    let service = Server::start(Arc::new(move |_, _| {
        let number = tokens.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        Reply::new(200, json!({ "token": format!("t{number}"), "expires_in": 300 }).to_string())
    }))
    .await?;
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", service.host());
    let server = Server::start(Arc::new(move |request, _| {
        // The layer wants the second token: the first has ended meanwhile.
        let wanted = if request.path.contains(&layer) { "Bearer t2" } else { "Bearer t1" };
        match request.header("authorization") == wanted {
            true => served.answer(request),
            false => {
                Reply::new(401, "").with("WWW-Authenticate", &format!("{challenge},error=\"invalid_token\""))
            }
        }
    }))
    .await?;
    comes(checks, client, "401 in the middle: another token", &format!("{}/{NAME}:1", server.host()), None)
        .await?;
    checks.that("  two in all", counted.load(std::sync::atomic::Ordering::SeqCst) == 2, "another number");
    // The service itself goes wrong.
    for (what, reply, words) in [
        ("a token service that gives none", Reply::new(200, "{}"), "gave no token"),
        ("a token service that gives a page", Reply::new(200, "<html>"), "gave no token"),
        (
            "a token service that redirects",
            Reply::new(302, "").with("Location", "http://127.0.0.1:1/"),
            "redirects",
        ),
        ("a token service with endless tokens", Reply::new(200, "").how(How::Endless), "larger than 1 MiB"),
        ("a token that is no header", Reply::new(200, r#"{"token":"a\nb"}"#), "no header text"),
        ("a token service that fails", Reply::new(503, ""), "answered 503"),
        ("a token that is not accepted either", Reply::new(200, r#"{"token":"t"}"#), "none were given"),
    ] {
        let service = Server::start(Arc::new(move |_, _| reply.clone())).await?;
        let challenge = format!("Bearer realm=\"http://{}/token\"", service.host());
        let server =
            Server::start(Arc::new(move |_, _| Reply::new(401, "").with("WWW-Authenticate", &challenge)))
                .await?;
        refused(checks, what, pull(client, &format!("{}/{NAME}:1", server.host()), None).await, &[words]);
    }
    Ok(())
}

async fn mirrors(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    let served = Served::new("mirrors")?;
    let digest = served.tag.clone();
    let good = Server::start(served.clone().answers()).await?;
    let missing = Server::start(Arc::new(|_, _| Reply::new(404, ""))).await?;
    let false_one = Server::start(Arc::new(|_, _| Reply::new(200, "{}"))).await?;
    let busy = Server::start(Arc::new(|_, _| Reply::new(429, "").with("Retry-After", "3600"))).await?;
    let list =
        [&missing, &busy, &good].map(|server| format!("[host.\"http://{}\"]\n", server.host())).concat();
    hosts(daemon, "mirrored.test", &format!("server = \"http://127.0.0.1:1\"\n{list}"))?;
    let name = format!("mirrored.test/{NAME}:1");
    comes(
        checks,
        client,
        "the third mirror has it; the first has not, the second is busy",
        &name,
        password(),
    )
    .await?;
    let seen = good.seen();
    checks.that(
        "  each is told whose image is meant",
        seen.iter().all(|r| r.path.contains("ns=mirrored.test")),
        "it is not",
    );
    checks.that(
        "  and none sees the host's password",
        seen.iter().all(|r| r.header("authorization").is_empty()),
        "it does",
    );
    let list = [&false_one, &good].map(|server| format!("[host.\"http://{}\"]\n", server.host())).concat();
    hosts(daemon, "mirrored.test", &list)?;
    comes(
        checks,
        client,
        "by digest, where the first mirror has something else",
        &format!("mirrored.test/{NAME}@{digest}"),
        None,
    )
    .await?;
    let list = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        good.host(),
        false_one.host()
    );
    hosts(daemon, "mirrored.test", &list)?;
    let before = false_one.seen().len();
    comes(checks, client, "a mirror that may not look up tags", &name, None).await?;
    let asked: Vec<_> =
        false_one.seen().into_iter().skip(before).filter(|r| r.path.contains("/manifests/1")).collect();
    checks.that("  is not asked for one", asked.is_empty(), format!("{asked:?}"));
    // What the host itself says is the answer.
    let host =
        Server::start(Arc::new(|_, _| Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#)))
            .await?;
    let list = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", host.host(), missing.host());
    hosts(daemon, "mirrored.test", &list)?;
    refused(
        checks,
        "the host's own words are the answer",
        pull(client, &name, None).await,
        &[host.host(), "denied no"],
    );
    let request = berth_cri_api::v1::ImageStatusRequest { image: spec(&name), verbose: false };
    let left = client.images.clone().image_status(request).await?.into_inner().image;
    checks.that("  and nothing is there", left.is_none(), "it is");
    Ok(())
}

/// The environment's proxy, with the daemon started anew in it.
async fn proxy(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
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
