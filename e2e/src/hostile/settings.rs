//! What an image's config asks for when a container is made of it: volumes, directories and users that lead to the host.

use anyhow::Result;
use serde_json::{Value, json};

use super::Lane;
use crate::client::{Spec, args, pod};
use crate::image::{Layer, program, write_layers};

const IMAGE: &str = "berth.test/settings:1";

enum Want {
    /// The container is not made or not started, with these words.
    Refused(&'static [&'static str]),
    /// It runs; what the guest says to these words has the first and not the second.
    Says(&'static [&'static str], &'static str, &'static str),
}

/// Adds what the image has beside the guest program.
type More = Box<dyn Fn(&mut Layer) -> Result<()>>;

struct Row {
    what: &'static str,
    config: Value,
    more: More,
    want: Want,
}

fn row(what: &'static str, config: Value, want: Want) -> Row {
    Row { what, config, more: Box::new(|_| Ok(())), want }
}

impl Row {
    fn with(mut self, more: impl Fn(&mut Layer) -> Result<()> + 'static) -> Self {
        self.more = Box::new(more);
        self
    }
}

fn rows(out: &str) -> Vec<Row> {
    let (volume, linked, passwd) = (out.to_owned(), out.to_owned(), format!("{out}/secret"));
    let up = format!("/../../../../../../../..{out}");
    let runs = Want::Says(&["ls", "/"], "guest", "secret");
    vec![
        row("CVE-2022-23648: a volume upwards", json!({ "Volumes": { up.as_str(): {} } }), runs),
        row(
            "CVE-2022-23648: a volume with the host's directory for a name",
            json!({ "Volumes": { volume.as_str(): {} } }),
            Want::Says(&["ls", "/tmp"], "", "secret"),
        ),
        row(
            "CVE-2022-23648: a volume at a link out",
            json!({ "Volumes": { "/v": {} } }),
            Want::Says(&["ls", "/v"], "", "secret"),
        )
        .with(move |layer| layer.symlink("v", linked.as_ref())),
        row(
            "CVE-2019-16884: a volume at /proc",
            json!({ "Volumes": { "/proc": {}, "/proc/self/attr": {}, "//proc/../proc": {} } }),
            Want::Says(&["cat", "/proc/1/comm"], "guest", "secret"),
        ),
        row(
            "CVE-2024-21626: a descriptor as working directory",
            json!({ "WorkingDir": "/proc/self/fd/7" }),
            Want::Refused(&["/proc/self/fd/7"]),
        ),
        row(
            "a working directory upwards",
            json!({ "WorkingDir": "../../../../../.." }),
            Want::Says(&["ls", "."], "guest", "secret"),
        ),
        row(
            "CVE-2024-40635: a user of 2^32",
            json!({ "User": "4294967296" }),
            Want::Refused(&["4294967296"]),
        ),
        row("a negative user", json!({ "User": "-1" }), Want::Refused(&["-1"])),
        row(
            "CVE-2016-3697: digits are a number and no name",
            json!({ "User": "1000" }),
            Want::Says(&["cat", "/proc/self/status"], "Uid:\t1000\t1000", "Uid:\t0"),
        )
        .with(|layer| layer.file("etc/passwd", b"1000:x:0:0::/:/guest\n", 0o644)),
        row("a user with a line of its own", json!({ "User": "web\nroot" }), Want::Refused(&["web"])),
        row(
            "CVE-2024-9676: a passwd that is a link out",
            json!({ "User": "outside" }),
            Want::Refused(&["outside"]),
        )
        .with(move |layer| layer.symlink("etc/passwd", passwd.as_ref())),
        row(
            "CVE-2026-47262: a passwd of four mebibytes",
            json!({ "User": "last" }),
            Want::Refused(&["last"]),
        )
        .with(|layer| layer.file("etc/passwd", &b"x:x:1:1::/:/x\n".repeat(300_000), 0o644)),
        row(
            "a variable with a NUL",
            json!({ "Env": ["A=b\0c", "=x", "B"] }),
            Want::Says(&["ls", "/"], "guest", "secret"),
        ),
    ]
}

impl Lane<'_> {
    /// Each as a container of a pod of its own.
    pub(super) async fn settings(&mut self, out: &str) -> Result<()> {
        println!("  settings");
        for row in rows(out) {
            let result = self.setting(&row).await;
            self.checks.note(row.what, result.map_err(|error| format!("{error:#}")));
        }
        Ok(())
    }

    async fn setting(&mut self, row: &Row) -> Result<()> {
        let mut above = Layer::default();
        (row.more)(&mut above)?;
        let archive = self.daemon.path("settings.tar");
        write_layers(&archive, IMAGE, vec![program()?, above], &row.config)?;
        self.daemon.import_file(&archive)?;
        let mut config = pod("settings", &self.daemon.path("logs"));
        config.linux = Some(berth_cri_api::v1::LinuxPodSandboxConfig::default());
        let pod = self.client.run_pod(&config).await?;
        let judged = self.judge_setting(row, &pod, &config).await;
        self.client.remove_pod(&pod).await?;
        self.client.remove_image(IMAGE).await?;
        std::fs::remove_file(&archive)?;
        judged?;
        let changed = self.outside.changed()?;
        anyhow::ensure!(changed.is_empty(), "outside: {changed:?}");
        Ok(())
    }

    async fn judge_setting(
        &mut self,
        row: &Row,
        pod: &str,
        config: &berth_cri_api::v1::PodSandboxConfig,
    ) -> Result<()> {
        let spec = Spec { image: Some(IMAGE.into()), ..args(&["/guest", "sleep", "1000"]) };
        let made = self.client.run(pod, config, "one", spec).await;
        match (&row.want, made) {
            (Want::Refused(words), Err(error)) => {
                let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
                super::has(&format!("{error:#}"), &words)
            }
            (Want::Refused(_), Ok(_)) => anyhow::bail!("it runs"),
            (Want::Says(..), Err(error)) => Err(error),
            (Want::Says(words, has, lacks), Ok(id)) => {
                let done = self.client.exec(&id, words).await?;
                let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
                anyhow::ensure!(said.contains(has) && !said.contains(lacks), "{words:?}: {said}");
                Ok(())
            }
        }
    }
}
