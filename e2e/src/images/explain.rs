//! `berth image explain`: what it says of places that work and of each way in which they do not.

use anyhow::Result;
use serde_json::{Value, json};

use super::image::{INDEX, NAME, Served};
use super::push::typed;
use super::real::{Authority, basic, hosts};
use super::server::{Reply, Server};
use crate::checks::Checks;
use crate::daemon::Daemon;
use crate::registry::{PASSWORD, Registry, USER};

/// The answer, and whether its exit code says the same.
fn explained(daemon: &Daemon, words: &[&str]) -> Result<Value> {
    let said = typed(daemon, &[&["image", "explain", "--json"], words].concat())?;
    let found: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| json!({ "error": said.err }));
    let code = if found["works"] == true { Some(0) } else { Some(1) };
    anyhow::ensure!(said.code == code, "exit code {:?} for {found:#}", said.code);
    anyhow::ensure!(!said.out.contains(PASSWORD), "it shows the password: {found:#}");
    Ok(found)
}

/// The last step of a place: its name, and whether it worked.
fn last(found: &Value, place: usize) -> (String, bool) {
    let steps = found["places"][place]["steps"].as_array().cloned().unwrap_or_default();
    let step = steps.last().cloned().unwrap_or_default();
    (step["name"].as_str().unwrap_or_default().to_owned(), step["ok"] == true)
}

fn says(found: &Value, place: usize) -> String {
    let steps = found["places"][place]["steps"].as_array().cloned().unwrap_or_default();
    steps.last().map_or_else(String::new, |step| step["says"].to_string())
}

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    works(checks, daemon).await?;
    fails(checks, daemon).await?;
    secure(checks, daemon).await
}

async fn works(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let served = Served::new("explained")?;
    let good = Server::start(served.clone().answers()).await?;
    let guarded = Server::start(std::sync::Arc::new(move |request, _| {
        match request.header("authorization") == basic() {
            true => served.answer(request),
            false => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"lane\""),
        }
    }))
    .await?;
    let missing = Server::start(std::sync::Arc::new(|_, _| Reply::new(404, ""))).await?;
    let found = explained(daemon, &[&format!("{}/{NAME}:1", good.host())])?;
    let holds = found["works"] == true && last(&found, 0) == ("manifest".into(), true);
    checks.that("explain: a registry that asks for nothing", holds, &found);
    let auths = json!({ "auths": { guarded.host(): { "username": USER, "password": PASSWORD } } });
    std::fs::write(daemon.path("auth.json"), auths.to_string())?;
    let list = format!(
        "server = \"http://{}\"\nfoo = 1\n[host.\"http://{}\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        guarded.host(),
        missing.host(),
        good.host()
    );
    hosts(daemon, "explained.test", &list)?;
    let name = format!("explained.test/{NAME}:1");
    let found = explained(daemon, &[&name])?;
    let place = |at: usize, key: &str| found["places"][at][key].clone();
    let holds = found["works"] == true && found["unknown"] == json!(["foo"]);
    checks.that("  a file with two mirrors and the registry", holds, &found);
    let holds = place(0, "mirror") == true && last(&found, 0) == ("manifest".into(), false);
    checks.that("  the first mirror has it not", holds && says(&found, 0).contains("does not exist"), &found);
    let holds = place(1, "steps") == json!([]) && place(1, "capabilities") == json!(["pull"]);
    checks.that("  the second may not look up tags, and is not asked", holds, &found);
    let source = format!("user and password from {}", daemon.path("auth.json").display());
    let told = place(2, "credentials").as_str().is_some_and(|text| text.starts_with(&source));
    let holds = told && place(2, "mirror") == false && last(&found, 2) == ("manifest".into(), true);
    checks.that("  the registry has it, with credentials by their file", holds, &found);
    let text = typed(daemon, &["image", "explain", &name])?;
    let lines = ["1. mirror http://", "3. registry http://", "   FAIL  manifest", "a pull would get sha256:"];
    let holds = text.ok && lines.iter().all(|line| text.out.contains(line)) && !text.out.contains(PASSWORD);
    checks.that("  for a person, too", holds, &text.out);
    let creds = format!("{USER}:wrong-one");
    let found = explained(daemon, &["--creds", &creds, &name])?;
    let holds =
        found["works"] == false && found["places"][2]["credentials"] == "user and password from the request";
    let holds =
        holds && last(&found, 2) == ("auth".into(), false) && !found.to_string().contains("wrong-one");
    checks.that("  wrong credentials of the request", holds, &found);
    std::fs::remove_file(daemon.path("auth.json"))?;
    Ok(())
}

async fn fails(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    hosts(daemon, "nowhere.test", "server = \"http://nowhere.invalid:5000\"\n")?;
    hosts(daemon, "closed.test", "server = \"http://127.0.0.1:1\"\n")?;
    let mut alien = Served::new("alien")?;
    let entry = json!({ "mediaType": super::image::MANIFEST, "digest": alien.tag, "size": 1,
        "platform": { "os": "plan9", "architecture": "z80" } });
    alien.point(INDEX, json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }));
    let alien = Server::start(alien.answers()).await?;
    let guarded = Server::start(std::sync::Arc::new(|_, _| {
        Reply::new(401, "")
            .with("WWW-Authenticate", "Bearer realm=\"http://127.0.0.1:1/token\",service=\"s\"")
    }))
    .await?;
    for (what, name, step, words) in [
        ("a name that nobody knows", format!("nowhere.test/{NAME}:1"), "dns", "nowhere.invalid"),
        ("a port where nobody listens", format!("closed.test/{NAME}:1"), "connect", "refused"),
        ("a token service that is not there", format!("{}/{NAME}:1", guarded.host()), "auth", "127.0.0.1:1"),
    ] {
        let found = explained(daemon, &[&name])?;
        let holds = last(&found, 0) == (step.into(), false) && says(&found, 0).contains(words);
        checks.that(&format!("explain: {what}"), holds && found["works"] == false, &found);
    }
    let found = explained(daemon, &[&format!("{}/{NAME}:1", alien.host())])?;
    let holds =
        found["works"] == false && found["says"].as_str().is_some_and(|text| text.contains("plan9/z80"));
    checks.that("explain: an image for other machines", holds, &found);
    let bad = typed(daemon, &["image", "explain", "UPPER/x"])?;
    checks.that("explain: no name at all", bad.code == Some(1) && bad.err.contains("UPPER"), &bad.err);
    Ok(())
}

async fn secure(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let at = daemon.path("explain-tls");
    std::fs::create_dir_all(&at)?;
    let authority = Authority::new()?;
    std::fs::write(at.join("ca.pem"), &authority.pem)?;
    authority.write(&at, "server", &["127.0.0.1"])?;
    let path = |name: &str| at.join(name).display().to_string();
    let http = format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.pem"), path("server.key"));
    let registry = Registry::special(&daemon.path("push-archives"), &http, "").await?;
    let server = format!("server = \"https://{}\"\n", registry.host());
    hosts(daemon, "sealed.test", &server)?;
    let found = explained(daemon, &["sealed.test/oci:1"])?;
    let holds = last(&found, 0) == ("tls".into(), false) && says(&found, 0).contains("ertificate");
    checks.that("explain: an authority that nobody knows", holds, &found);
    hosts(daemon, "sealed.test", &format!("{server}ca = \"{}\"\n", path("ca.pem")))?;
    let found = explained(daemon, &["sealed.test/oci:1"])?;
    let tls = found["places"][0]["tls"].as_str().unwrap_or_default().to_owned();
    let holds = found["works"] == true && tls.contains(&path("ca.pem"));
    checks.that("  and one's own, by its file", holds, &found);
    Ok(())
}
