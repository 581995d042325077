//! Credentials of this machine: docker's config.json, helpers, hosts.toml; and those of the request that are no password.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_cri_api::v1::AuthConfig;
use serde_json::json;

use super::image::{NAME, Served};
use super::pull;
use super::real::{basic, comes, hosts, refused};
use super::server::{Answer, Reply, Server};
use super::tokens::IDENTITY;
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::registry::{PASSWORD, USER};

/// A token that a registry takes as it is.
const TOKEN: &str = "lane-registry-token";

/// Good for whoever has the password.
pub(super) fn guarded(served: Served) -> Answer {
    Arc::new(move |request, _| match request.header("authorization") == basic() {
        true => served.answer(request),
        false => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"lane\""),
    })
}

/// What `docker-credential-lane` does.
fn helper(daemon: &Daemon, script: &str) -> Result<()> {
    let program = daemon.path("bin/docker-credential-lane");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
    Ok(std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?)
}

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
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
        helper(daemon, &script)?;
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
    stores(checks, daemon, client).await?;
    kinds(checks, daemon, client).await?;
    let server = Server::start(guarded(Served::new("header")?)).await?;
    std::fs::remove_file(&auth)?;
    let text = format!("server = \"http://{}\"\n[header]\nauthorization = \"{}\"\n", server.host(), basic());
    hosts(daemon, "header.test", &text)?;
    comes(checks, client, "hosts.toml: a header of the host", &format!("header.test/{NAME}:1"), None).await
}

/// One helper for all hosts.
async fn stores(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    let write = |value: serde_json::Value| std::fs::write(daemon.path("auth.json"), value.to_string());
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
    helper(
        daemon,
        &format!(
            "read server; echo \"$server\" > \"$0.asked\"; echo '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'"
        ),
    )?;
    // As docker writes it: the entry is empty, for the store has the secret.
    write(json!({ "auths": { server.host(): {} }, "credsStore": "lane" }))?;
    comes(checks, client, "helper: the one for all hosts", &name, None).await?;
    let asked = std::fs::read_to_string(daemon.path("bin/docker-credential-lane.asked"))?;
    checks.that("  it was asked for the host, too", asked.trim() == server.host(), asked);
    Ok(())
}

/// Every kind of credentials from everywhere that it may come from, where it is accepted.
async fn kinds(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    let service = Server::start(Arc::new(|request, _| {
        let known = request.method == "POST" && request.body.contains(&format!("refresh_token={IDENTITY}"));
        match known {
            true => Reply::new(200, json!({ "access_token": TOKEN, "expires_in": 300 }).to_string()),
            false => Reply::new(401, ""),
        }
    }))
    .await?;
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", service.host());
    let closed = |served: Served| -> Answer {
        let challenge = challenge.clone();
        Arc::new(move |request, _| match request.header("authorization") == format!("Bearer {TOKEN}") {
            true => served.answer(request),
            false => Reply::new(401, "").with("WWW-Authenticate", &challenge),
        })
    };
    let auth = daemon.path("auth.json");
    helper(daemon, &format!("echo '{{\"Username\":\"<token>\",\"Secret\":\"{IDENTITY}\"}}'"))?;
    let token = AuthConfig { registry_token: TOKEN.into(), ..Default::default() };
    let identity = AuthConfig { identity_token: IDENTITY.into(), ..Default::default() };
    // Whether the token service has a part in it.
    for (what, entry, helped, given, asked) in [
        ("the request's registry token", None, false, Some(token), false),
        ("the request's identity token", None, false, Some(identity), true),
        ("config.json: a registry token", Some(json!({ "registrytoken": TOKEN })), false, None, false),
        ("config.json: an identity token", Some(json!({ "identitytoken": IDENTITY })), false, None, true),
        ("helper: an identity token", None, true, None, true),
    ] {
        let server = Server::start(closed(Served::new(what)?)).await?;
        let helpers = if helped { json!({ server.host(): "lane" }) } else { json!({}) };
        let file = json!({ "auths": { server.host(): entry.unwrap_or(json!({})) }, "credHelpers": helpers });
        std::fs::write(&auth, file.to_string())?;
        let before = service.seen().len();
        comes(checks, client, what, &format!("{}/{NAME}:1", server.host()), given).await?;
        let holds = (service.seen().len() > before) == asked;
        checks.that("  the token service was asked where it has a part in it", holds, service.seen().len());
    }
    let server = Server::start(closed(Served::new("another token")?)).await?;
    std::fs::write(&auth, json!({ "auths": { server.host(): { "registrytoken": "none" } } }).to_string())?;
    refused(
        checks,
        "config.json: a registry token that is none",
        pull(client, &format!("{}/{NAME}:1", server.host()), None).await,
        &["not accepted", "auth.json"],
    );
    Ok(())
}
