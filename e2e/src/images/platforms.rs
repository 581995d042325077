//! What a reference has for another platform, for a person who asks for it: names stay with this machine's.

use anyhow::Result;
use serde_json::{Value, json};

use super::image::{INDEX, MANIFEST, NAME, Served};
use super::pull;
use super::server::Server;
use crate::audit::{Footprint, given_back};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::layers::{Said, said};

/// No machine that the lanes run on.
const OTHER: &str = "s390x";

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let before = Footprint::take(daemon)?;
    let mut served = Served::new("platforms")?;
    let own = served.config["architecture"].clone();
    let (own_manifest, own_id) = (served.tag.clone(), served.config_digest());
    served.config["architecture"] = json!(OTHER);
    served.settle();
    let (other_manifest, other_id) = (served.tag.clone(), served.config_digest());
    let entry = |digest: &str, architecture: &Value| {
        json!({ "mediaType": MANIFEST, "digest": digest, "size": served.manifests[digest].1.len(),
            "platform": { "os": "linux", "architecture": architecture } })
    };
    let entries = [entry(&own_manifest, &own), entry(&other_manifest, &json!(OTHER))];
    served.point(INDEX, json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }));
    let index = served.tag.clone();
    let server = Server::start(served.answers()).await?;
    let place = format!("{}/{NAME}", server.host());
    let name = format!("{place}:1");
    let typed = |words: &[&str]| -> Result<Said> { said(&mut daemon.typed(words)?) };
    let inspect = |what: &str| -> Result<Value> {
        let found = typed(&["image", "inspect", "--json", what])?;
        Ok(serde_json::from_str::<Value>(&found.out).unwrap_or_default()[0].take())
    };

    let other = format!("linux/{OTHER}");
    let done = typed(&["image", "pull", "--platform", &other, &name])?;
    checks.that("image pull --platform: another platform's image", done.out == other_id, &done.err);
    checks.that(
        "  with its progress",
        done.err.contains(": done") && done.err.contains("pulled "),
        &done.err,
    );
    let found = inspect(&other_id)?;
    let pinned = json!([format!("{place}@{other_manifest}")]);
    let holds = found["architecture"] == OTHER && found["names"] == json!([]) && found["digests"] == pinned;
    checks.that("  inspect shows it, known by its own digest alone", holds, &found);
    let nameless = client.image_id(&name).await?.is_none();
    checks.that("  the name stands for nothing yet", nameless, &name);
    let id = pull(&client, &name, None).await?;
    let done = typed(&["image", "pull", "--json", "--platform", &other, &name])?;
    let line: Value = serde_json::from_str(&done.out).unwrap_or_default();
    checks.that("  pulled again, with --json", line["id"] == *other_id, &done.out);
    let holds = id == own_id && inspect(&name)?["architecture"] == own;
    checks.that("  the name stands for this machine's, whoever pulled last", holds, inspect(&name)?);
    let by_index = inspect(&format!("{place}@{index}"))?;
    checks.that("  and so does the index's digest", by_index["architecture"] == own, &by_index);
    let by_digest = inspect(&format!("{place}@{other_manifest}"))?;
    checks.that("  the other is found by its own", by_digest["id"] == *other_id, &by_digest);
    let spelt = format!("Linux/{}", if own == "amd64" { "x86_64" } else { "aarch64" });
    let done = typed(&["pull", "--platform", &spelt, &name])?;
    let holds = done.out == own_id && inspect(&own_id)?["names"] == json!([name]);
    checks.that("  this machine's own by its platform is as without", holds, &done.err);

    let single = format!("{place}@{own_manifest}");
    let has = format!("it has linux/{}", own.as_str().unwrap_or_default());
    for (what, platform, image, words) in [
        ("one that it has not", "linux/mips64le", &name, vec!["has no image for linux/mips64le", &has]),
        ("one that an image without an index is not for", &other, &single, vec!["no image for", &has]),
        ("one that is none", "linux", &name, vec!["platform \"linux\"", "OS/ARCHITECTURE"]),
    ] {
        let done = typed(&["image", "pull", "--platform", platform, image])?;
        let holds = done.code == Some(1) && words.iter().all(|word| done.err.contains(word));
        checks.that(&format!("  {what}: refused with what there is"), holds, &done.err);
    }
    for image in [&other_id, &own_id] {
        client.remove_image(image).await?;
    }
    checks.note("  removed, nothing is left", given_back(daemon, &before).await);
    Ok(())
}
