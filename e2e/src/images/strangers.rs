//! What belongs to a host stays with it: credentials, headers, and what its settings say of TLS.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use berth_cri_api::v1::AuthConfig;
use serde_json::json;

use super::files::guarded;
use super::image::{NAME, Served};
use super::pull;
use super::push::typed;
use super::real::{Authority, basic, comes, hosts, password, refused};
use super::server::{How, Reply, Server};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::registry::{PASSWORD, Registry, USER};

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon, client: &Client, data: &Path) -> Result<()> {
    redirected(checks, daemon, client).await?;
    challenged(checks, daemon, client).await?;
    settings(checks, daemon, client, data).await?;
    addressed(checks, client).await?;
    renewed(checks, client).await?;
    services(checks, client).await
}

/// To a host that has a layer, and sees nothing of the first's.
async fn redirected(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
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
    Ok(())
}

/// A host that the registry redirects to asks for credentials: with its own token service, or for a password.
async fn challenged(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    let thief = Server::start(Arc::new(|_, _| Reply::new(200, r#"{"token":"t"}"#))).await?;
    let bearer = format!("Bearer realm=\"http://{}/token\",service=\"s\"", thief.host());
    for (what, challenge, part) in [
        ("a redirect's host that asks for a token", bearer.clone(), "/manifests/"),
        ("  the same of a blob", bearer, "/blobs/"),
        ("  for a password", "Basic realm=\"x\"".to_owned(), "/manifests/"),
    ] {
        let served = Served::new(what)?;
        let far =
            Server::start(Arc::new(move |_, _| Reply::new(401, "").with("WWW-Authenticate", &challenge)))
                .await?;
        let to = far.host().to_owned();
        let near = Server::start(Arc::new(move |request, _| match request.path.contains(part) {
            true => Reply::new(307, "").with("Location", &format!("http://{to}{}", request.path)),
            false => served.answer(request),
        }))
        .await?;
        let auths = json!({ "auths": { near.host(): { "username": USER, "password": PASSWORD } } });
        std::fs::write(daemon.path("auth.json"), auths.to_string())?;
        let name = format!("{}/{NAME}:1", near.host());
        let words = [near.host(), "redirects for", far.host(), "asks for credentials"];
        refused(checks, what, pull(client, &name, None).await, &words);
        refused(checks, "  with the request's", pull(client, &name, password()).await, &words);
        let said = typed(daemon, &["image", "explain", &name])?;
        checks.that("  explained", said.out.contains("asks for credentials"), said.out);
        let bare = far.seen().iter().all(|request| request.header("authorization").is_empty());
        checks.that("  it is asked without any", bare && !far.seen().is_empty(), "it is not");
    }
    checks.that(
        "  and its token service nothing at all",
        thief.seen().is_empty(),
        format!("{:?}", thief.seen()),
    );
    Ok(std::fs::remove_file(daemon.path("auth.json"))?)
}

/// That a host is not verified is said of that host; an authority of its own signs for its token service too.
async fn settings(checks: &mut Checks, daemon: &Daemon, client: &Client, data: &Path) -> Result<()> {
    let at = daemon.path("strangers");
    std::fs::create_dir_all(&at)?;
    let authority = Authority::new()?;
    std::fs::write(at.join("ca.pem"), &authority.pem)?;
    authority.write(&at, "server", &["127.0.0.1", "localhost"])?;
    let path = |name: &str| at.join(name).display().to_string();
    let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.pem"), path("server.key"));
    let secure = Registry::special(data, &tls, "").await?;
    let port = secure.host().rsplit_once(':').map(|(_, port)| port.to_owned()).unwrap_or_default();
    for setting in ["skip_verify = true".to_owned(), format!("ca = \"{}\"", path("ca.pem"))] {
        for name in ["127.0.0.1", "localhost"] {
            let fails = name == "localhost" && setting.starts_with("skip_verify");
            let place = format!("https://{name}:{port}");
            for (what, reply) in [
                (
                    "token service",
                    Reply::new(401, "").with("WWW-Authenticate", &format!("Bearer realm=\"{place}/token\"")),
                ),
                ("redirect", Reply::new(307, "").with("Location", &format!("{place}/v2/x"))),
            ] {
                let near = Server::start(Arc::new(move |_, _| reply.clone())).await?;
                hosts(daemon, "settings.test", &format!("server = \"http://{}\"\n{setting}\n", near.host()))?;
                let outcome = pull(client, &format!("settings.test/{NAME}:1"), password()).await;
                let said = outcome.err().map_or_else(String::new, |status| status.message().to_owned());
                let key = setting.split(' ').next().unwrap_or_default();
                let holds = match fails {
                    true => said.contains("RegistryUnavailable: ") && said.contains("ertificate"),
                    // It was spoken with, and has no such thing.
                    false => {
                        !said.is_empty() && !said.contains("ertificate") && !said.contains("Unavailable")
                    }
                };
                let text = if fails { "does not hold" } else { "holds" };
                checks.that(&format!("{key} of a host: {text} for {name} ({what})"), holds, said);
            }
        }
    }
    Ok(())
}

/// For another host than the image's.
async fn addressed(checks: &mut Checks, client: &Client) -> Result<()> {
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
    comes(checks, client, "credentials for this one", &name, Some(here)).await
}

/// A token that ends in the middle of a pull.
async fn renewed(checks: &mut Checks, client: &Client) -> Result<()> {
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
    Ok(())
}

/// The service itself goes wrong.
async fn services(checks: &mut Checks, client: &Client) -> Result<()> {
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
