//! The images that critest names, from Debian's packages and the guest program.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::image::{Blob, Layer, Layout};
use crate::registry::Registry;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nusers:x:100:\nnobody:x:65534:\n";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// In the foreground, with one worker; `PORT` is replaced.
const NGINX: &str = "user root;
daemon off;
worker_processes 1;
error_log stderr;
pid /var/run/nginx.pid;
events {}
http {
  access_log /dev/stdout;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  server { listen PORT; location / { root /www; default_type text/html; } }
}
";
const INDEX: &[u8] = b"<html><title>Welcome to nginx!</title><h1>Welcome to nginx!</h1></html>\n";

/// Each by its names below the registry.
pub(crate) struct Images(Vec<(Vec<String>, Layout)>);

impl Images {
    pub(crate) fn of(debian: &Path) -> Result<Self> {
        let guest = std::env::var("BERTH_E2E_GUEST").context("BERTH_E2E_GUEST names the guest program")?;
        let guest = std::fs::read(&guest).with_context(|| guest.clone())?;
        let base = base(debian, &guest)?;
        let nginx = nginx(debian)?;
        let shell = json!({ "Cmd": ["sh"], "Env": [PATH] });
        let user = |user: &str| json!({ "Cmd": ["sh"], "Env": [PATH], "User": user });
        let mut all = Vec::new();
        let mut add = |names: &[&str], layers: &[&Blob], config: Value| {
            let names = names.iter().map(|&name| name.to_owned()).collect();
            all.push((names, Layout::new(layers, &config)));
        };

        let mut pause = Layer::default();
        pause.file("pause", &guest, 0o755)?;
        let pause = pause.blob()?;
        for tag in ["3.9", "3.10", "3.10.1", "3.10.2"] {
            add(&[&format!("pause:{tag}")], &[&pause], json!({ "Entrypoint": ["/pause"] }));
        }
        add(&["e2e-test-images/busybox:1.29-2", "library/busybox:latest"], &[&base], shell.clone());

        let serve = json!({ "Cmd": ["nginx", "-e", "stderr", "-c", "/etc/nginx.conf"], "Env": [PATH] });
        for (name, port) in [
            ("e2e-test-images/nginx:1.14-2", "80"),
            (&*format!("{STAGING}/hostnet-nginx-{ARCH}:latest"), "12003"),
        ] {
            let mut pages = Layer::default();
            pages.file("www/index.html", INDEX, 0o644)?;
            pages.file("etc/nginx.conf", NGINX.replace("PORT", port).as_bytes(), 0o644)?;
            add(&[name], &[&base, &nginx, &pages.blob()?], serve.clone());
        }
        let mut pages = Layer::default();
        pages.file("www/index.html", INDEX, 0o644)?;
        // The log has to have the server's name.
        let httpd = "echo httpd starts; exec httpd -f -p 80 -h /www";
        add(
            &["e2e-test-images/httpd:2.4.39-4"],
            &[&base, &pages.blob()?],
            json!({ "Cmd": ["sh", "-c", httpd], "Env": [PATH] }),
        );
        let mut nnp = Layer::default();
        nnp.file("nnp", &guest, 0o4755)?;
        add(
            &["e2e-test-images/nonewprivs:1.3"],
            &[&base, &nnp.blob()?],
            json!({ "Entrypoint": ["/nnp"], "User": "1000", "Env": [PATH] }),
        );

        let tests: [&[&str]; 7] = [
            &["test-image-latest:latest"],
            &["test-image-tag:test"],
            &["test-image-tag:all"],
            &["test-image-digest:latest"],
            &["test-image-1:latest"],
            &["test-image-2:latest"],
            &["test-image-3:latest"],
        ];
        for names in
            tests.into_iter().chain([&["test-image-tags:1", "test-image-tags:2", "test-image-tags:3"][..]])
        {
            let mut own = Layer::default();
            own.file("name", names[0].as_bytes(), 0o644)?;
            let names: Vec<String> = names.iter().map(|name| format!("{STAGING}/{name}")).collect();
            add(&names.iter().map(String::as_str).collect::<Vec<_>>(), &[&base, &own.blob()?], shell.clone());
        }
        for (name, who) in [
            ("uid", "1002"),
            ("username", "www-data"),
            ("uid-group", "1003:100"),
            ("username-group", "www-data:100"),
        ] {
            add(&[&format!("{STAGING}/test-image-user-{name}:latest")], &[&base], user(who));
        }
        let mut accounts = Layer::default();
        let passwd = format!("{PASSWD}default-user:x:1000:1000::/tmp:/bin/sh\n");
        let group = format!("{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n");
        accounts.file("etc/passwd", passwd.as_bytes(), 0o644)?;
        accounts.file("etc/group", group.as_bytes(), 0o644)?;
        add(
            &[&format!("{STAGING}/test-image-predefined-group:latest")],
            &[&base, &accounts.blob()?],
            user("1000"),
        );
        Ok(Self(all))
    }

    /// Of the image whose name has `part`.
    pub(crate) fn digest(&self, part: &str) -> Result<String> {
        let found = self.0.iter().find(|(names, _)| names.iter().any(|name| name.contains(part)));
        Ok(found.with_context(|| format!("no image {part}"))?.1.digest().to_owned())
    }

    /// Into the registry, unless an earlier run did.
    pub(crate) fn push(&self, registry: &Registry, home: &Path) -> Result<()> {
        let wanted: String = self
            .0
            .iter()
            .flat_map(|(names, layout)| names.iter().map(move |name| format!("{name} {}\n", layout.digest())))
            .collect();
        let pushed = home.join("pushed");
        if std::fs::read_to_string(&pushed).is_ok_and(|earlier| earlier == wanted) {
            return Ok(());
        }
        println!("  pushing critest's images");
        for (names, layout) in &self.0 {
            let directory = tempfile::Builder::new().prefix("berth-image-").tempdir()?;
            layout.write(directory.path())?;
            for name in names {
                registry.push_as(directory.path(), name, &["--preserve-digests"])?;
            }
        }
        Ok(std::fs::write(pushed, wanted)?)
    }
}

const STAGING: &str = "k8s-staging-cri-tools";
/// As Go calls it.
const ARCH: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// A shell that runs files rather than applets of its own, static applets, and what they lack from the guest.
fn base(debian: &Path, guest: &[u8]) -> Result<Blob> {
    let mut layer = Layer::default();
    for (name, mode) in
        [("tmp", 0o1777), ("root", 0o700), ("var", 0o755), ("var/run", 0o755), ("bin", 0o755), ("etc", 0o755)]
    {
        layer.directory(name, mode)?;
    }
    layer.file("etc/passwd", PASSWD.as_bytes(), 0o644)?;
    layer.file("etc/group", GROUP.as_bytes(), 0o644)?;
    let busybox = debian.join("bin/busybox");
    layer.file("bin/busybox", &std::fs::read(&busybox)?, 0o755)?;
    let said = std::process::Command::new(&busybox).arg("--list").output()?;
    for applet in
        String::from_utf8_lossy(&said.stdout).lines().filter(|name| !["busybox", "sh"].contains(name))
    {
        layer.link(&format!("bin/{applet}"), "bin/busybox")?;
    }
    layer.link("usr/bin/env", "bin/busybox")?;
    layer.file("bin/sh", &shell(debian)?, 0o755)?;
    layer.file("bin/guest", guest, 0o755)?;
    for tool in ["pgrep", "ipcs"] {
        layer.link(&format!("bin/{tool}"), "bin/guest")?;
    }
    libraries(&mut layer, debian, |name| name.starts_with("libc.so") || name.starts_with("ld-linux"))?;
    layer.blob()
}

/// dash, without the line's number in what it complains: critest expects an ash's words.
fn shell(debian: &Path) -> Result<Vec<u8>> {
    const FORMAT: &[u8] = b"\0%s: %d: \0";
    let mut dash = std::fs::read(debian.join("bin/dash"))?;
    let at = dash.windows(FORMAT.len()).position(|window| window == FORMAT);
    dash[at.context("dash formats its messages in another way")? + b"\0%s: ".len()] = 0;
    Ok(dash)
}

fn nginx(debian: &Path) -> Result<Blob> {
    let mut layer = Layer::default();
    layer.file("usr/sbin/nginx", &std::fs::read(debian.join("usr/sbin/nginx"))?, 0o755)?;
    libraries(&mut layer, debian, |name| {
        ["libcrypt", "libpcre2", "libssl", "libz", "libdl", "libpthread"]
            .iter()
            .any(|known| name.starts_with(known))
    })?;
    layer.blob()
}

/// Debian's shared libraries of these names, as they lie.
fn libraries(layer: &mut Layer, debian: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    for directory in
        ["lib64".to_owned(), "lib".to_owned(), format!("lib/{multiarch}"), format!("usr/lib/{multiarch}")]
    {
        let Ok(entries) = std::fs::read_dir(debian.join(&directory)) else { continue };
        let mut entries: Vec<_> = entries.collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !wanted(&name) || entry.file_type()?.is_dir() {
                continue;
            }
            let at = format!("{directory}/{name}");
            match std::fs::read_link(entry.path()) {
                Ok(target) => layer.symlink(&at, &target)?,
                Err(_) => layer.file(&at, &std::fs::read(entry.path())?, 0o755)?,
            }
        }
    }
    Ok(())
}

/// critest with our image's digest in place of that of the one it knows, which nobody can make again.
pub(crate) fn with_digest(critest: &Path, home: &Path, digest: &str) -> Result<std::path::PathBuf> {
    const NAME: &[u8] = b"test-image-digest@sha256:";
    let mut program = std::fs::read(critest).with_context(|| critest.display().to_string())?;
    let hex = digest.strip_prefix("sha256:").context("a sha256 digest")?.as_bytes();
    let mut from = 0;
    let mut replaced = 0;
    while let Some(found) = program[from..].windows(NAME.len()).position(|window| window == NAME) {
        from += found + NAME.len();
        // The name for Windows ends with the same words.
        if !program[..from - NAME.len()].ends_with(b"win-") {
            program[from..from + hex.len()].copy_from_slice(hex);
            replaced += 1;
        }
    }
    anyhow::ensure!(replaced > 0, "critest does not name test-image-digest");
    let at = home.join("critest");
    std::fs::write(&at, program)?;
    std::fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(at)
}
