//! Debian's registry behind TLS, passwords and tokens; and the ways that credentials come and do not go.

use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_cri_api::v1::AuthConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tonic::Status;

use super::tokens::{IDENTITY, Tokens, trust};
use super::{files, mirrors, proxy, pull, strangers};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::image;
use crate::registry::{PASSWORD, Registry, USER};

pub(super) fn password() -> Option<AuthConfig> {
    Some(AuthConfig { username: USER.into(), password: PASSWORD.into(), ..Default::default() })
}

/// The image came; it is removed again.
pub(super) async fn comes(
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

pub(super) fn refused(checks: &mut Checks, what: &str, outcome: Result<String, Status>, parts: &[&str]) {
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
    files::run(checks, daemon, &client).await?;
    strangers::run(checks, daemon, &client, &data).await?;
    mirrors::run(checks, daemon, &client).await?;
    proxy::run(checks, daemon, &data).await
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
