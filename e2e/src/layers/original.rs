//! An image whose layer replaces its own files: what is unpacked is not enough to make its stream again, so it is fetched again
//! from where it came.

use anyhow::Result;

use super::{said, whole};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::image::{self, Layer};
use crate::registry::Registry;

const NAME: &str = "lane/twice:1";

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let mut registry = Registry::start(false).await?;
    let archive = daemon.path("twice.tar");
    let mut twice = Layer::default();
    twice.file("twice", b"at first", 0o644)?;
    twice.file("beside", b"beside", 0o644)?;
    twice.file("twice", b"and then", 0o644)?;
    let mut plain = Layer::default();
    plain.file("plain", b"plain", 0o644)?;
    image::write_layers(&archive, NAME, vec![twice, plain], &serde_json::json!({ "Cmd": ["/none"] }))?;
    registry.push_as(&archive, NAME, &["--dest-compress-format", "gzip"])?;
    let name = format!("{}/{NAME}", registry.host());
    let mut client = Client::connect(&daemon.socket()).await?;
    let id = client.pull(&name).await?;

    let out = daemon.path("twice-out.tar").to_string_lossy().into_owned();
    let export = ["image", "export", name.as_str(), "-o", out.as_str()];
    let done = said(&mut daemon.typed(&export)?)?;
    checks.that("an image whose layer replaces its own files is exported", done.ok, &done.err);
    let other = Registry::start(false).await?;
    let to = format!("{}/{NAME}", other.host());
    let pushed = said(&mut daemon.typed(&["image", "push", &name, &to])?)?;
    checks.that("  and pushed to a registry that does not have it", pushed.ok, &pushed.err);
    registry.down();
    let refused = said(&mut daemon.typed(&export)?)?;
    let told =
        refused.err.contains("where its image came from does not give it") && refused.err.contains("refused");
    checks.that("  where that is not to be had: what and why", !refused.ok && told, &refused.err);
    client.remove_image(&name).await?;
    client.remove_image(&to).await?;
    daemon.import_file(std::path::Path::new(&out))?;
    checks.that(
        "  what was exported is the same image",
        client.image_id(&name).await? == Some(id.clone()),
        &id,
    );
    checks.note("  and whole", whole(daemon));
    client.remove_image(&name).await?;
    let pulled = client.pull(&to).await?;
    checks.that("  so is what was pushed", pulled == id, &pulled);
    client.remove_image(&to).await
}
