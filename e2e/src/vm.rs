//! A lane inside a virtual machine: Debian's cloud kernel, older than most, on a host with nothing but control groups v2. The
//! machine's root is a tmpfs with the programs and the libraries they need.

mod initramfs;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use self::initramfs::Archive;
use crate::checks::Checks;
use crate::pty::Running;

/// Kernel modules that pods need, beside those these depend on.
const MODULES: &[&str] = &[
    "overlay",
    "veth",
    "bridge",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_fib_inet",
    "virtio_pci",
    "virtio_blk",
];

/// What lanes with a terminal need of the host's programs.
const TERMINAL: &[&str] = &["setsid", "stty"];

/// Bytes of the machine's disk, which is a sparse file.
const DISK: u64 = 4 << 30;

/// How long the machine may take, emulated processor by emulated processor.
const PATIENCE: Duration = Duration::from_secs(1200);

/// A new root, since the first one of a machine cannot be left by pivot_root(2).
const FIRST: &str = "#!/bin/busybox sh
/bin/busybox mount -t tmpfs -o mode=755 tmpfs /new
/bin/busybox cp -a /bin /lib /lib64 /etc /modules /new
/bin/busybox mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run /new/var/lib
exec /bin/busybox switch_root /new /bin/second
";

fn second(lanes: &[&str], modules: &[String]) -> String {
    let load: String = modules.iter().map(|name| format!("busybox insmod /modules/{name}.ko\n")).collect();
    let run: String = lanes
        .iter()
        .map(|lane| format!("echo 'lane begins: {lane}'\nberth-e2e {lane} 2>&1\necho \"lane ended: $?\"\n"))
        .collect();
    format!(
        "#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
busybox mkdir -p /dev/pts
busybox mount -t devpts devpts /dev/pts
busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
{load}busybox mount -t ext4 /dev/vda /tmp
busybox ip link set lo up
export BERTH_E2E_BERTH=/bin/berth BERTH_E2E_GUEST=/bin/berth-guest
{run}busybox poweroff -f
"
    )
}

/// Runs lanes inside; their lines become ours.
pub(crate) async fn run(checks: &mut Checks, lanes: &[&str]) -> Result<()> {
    let parts =
        std::env::var_os("BERTH_E2E_VM").context("BERTH_E2E_VM names the unpacked kernel and busybox")?;
    let parts = Path::new(&parts);
    let home = tempfile::Builder::new().prefix("berth-vm-").tempdir()?;
    let image = home.path().join("initramfs");
    std::fs::write(&image, root(parts, lanes)?)?;
    // Where the lanes work: a tmpfs of this kernel's age cannot be shown with other ids.
    let disk = home.path().join("disk");
    std::fs::File::create(&disk)?.set_len(DISK)?;
    let made =
        Command::new("mkfs.ext4").arg("-q").arg(&disk).status().context("mkfs.ext4 (package e2fsprogs)")?;
    anyhow::ensure!(made.success(), "mkfs.ext4 failed");
    let kernel = find(parts, &|name| name.starts_with("vmlinuz-"))?;
    let (lines, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let machine = start(&kernel, &image, &disk, lines)?;
    println!("  {}, control groups v2", kernel.file_name().unwrap_or_default().to_string_lossy());
    let mut ended = Vec::new();
    let all = async {
        while let Some(line) = heard.recv().await {
            if let Some(code) = line.strip_prefix("lane ended: ") {
                ended.push(code.to_owned());
            } else if let Some((passed, what)) = verdict(&line) {
                checks.note(&what, if passed { Ok(()) } else { Err("as the lines around this one say") });
            } else if !line.trim().is_empty() {
                println!("      {line}");
            }
        }
    };
    let late = tokio::time::timeout(PATIENCE, all).await.is_err();
    drop(machine);
    let well = !late && ended.len() == lanes.len() && ended.iter().all(|code| code == "0");
    checks.that("the machine and every lane in it came to their end", well, format!("{ended:?}"));
    Ok(())
}

/// A line of a lane's table, without its time.
fn verdict(line: &str) -> Option<(bool, String)> {
    let line = line.trim_start();
    let (passed, what) = match line.split_once(' ')? {
        ("✔", what) => (true, what),
        ("✘", what) => (false, what),
        _ => return None,
    };
    let what = what.trim_end().trim_end_matches("ms").trim_end();
    Some((passed, what.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end().to_owned()))
}

fn start(
    kernel: &Path,
    image: &Path,
    disk: &Path,
    lines: tokio::sync::mpsc::UnboundedSender<String>,
) -> Result<Running> {
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-m", "2048", "-smp", "2", "-cpu", "max", "-nographic", "-no-reboot", "-net", "none"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .arg("-drive")
        .arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()))
        .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-x86_64 (package qemu-system-x86)")?;
    let output = child.stdout.take().context("no output of the machine")?;
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    Ok(Running(child))
}

/// The first file below whose name fits.
fn find(below: &Path, fits: &dyn Fn(&str) -> bool) -> Result<PathBuf> {
    let mut waiting = vec![below.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => waiting.push(entry.path()),
                kind if kind.is_file() && fits(&entry.file_name().to_string_lossy()) => {
                    return Ok(entry.path());
                }
                _ => {}
            }
        }
    }
    bail!("nothing below {} fits", below.display())
}

fn root(parts: &Path, lanes: &[&str]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "lib", "lib64", "etc", "modules", "new"] {
        archive.directory(directory);
    }
    let mut modules = Vec::new();
    for name in MODULES {
        load(parts, name, &mut modules, &mut archive)?;
    }
    archive.file("init", FIRST.as_bytes());
    archive.file("bin/second", second(lanes, &modules).as_bytes());
    archive.file("bin/busybox", &std::fs::read(find(parts, &|name| name == "busybox")?)?);
    let named =
        |name: &str| std::env::var_os(name).map(PathBuf::from).with_context(|| format!("{name} is not set"));
    let (berth, guest) = (named("BERTH_E2E_BERTH")?, named("BERTH_E2E_GUEST")?);
    archive.file("bin/berth-shim", &std::fs::read(berth.with_file_name("berth-shim"))?);
    archive.file("bin/berth-guest", &std::fs::read(guest)?);
    let own = std::env::current_exe()?;
    archive.file("bin/berth-e2e", &std::fs::read(&own)?);
    archive.file("bin/berth", &std::fs::read(&berth)?);
    let mut libraries = std::collections::BTreeSet::new();
    for program in [&own, &berth] {
        libraries.extend(needed(program)?);
    }
    for name in TERMINAL {
        let program = Path::new("/usr/bin").join(name);
        archive.file(&format!("bin/{name}"), &std::fs::read(&program).with_context(|| format!("{name}(1)"))?);
        libraries.extend(needed(&program)?);
    }
    for library in libraries {
        // Found by their names alone: everything is in /lib, the loader where the programs look for it.
        let name = library.file_name().context("a library without a name")?.to_string_lossy().into_owned();
        let directory = if name.starts_with("ld-") { "lib64" } else { "lib" };
        archive.file(&format!("{directory}/{name}"), &std::fs::read(&library)?);
    }
    Ok(archive.end())
}

/// A module with those it depends on before it (the `depends=` of its .modinfo section).
fn load(parts: &Path, name: &str, loaded: &mut Vec<String>, archive: &mut Archive) -> Result<()> {
    if loaded.iter().any(|known| known == name) {
        return Ok(());
    }
    // A file's name has either kind of dash, whatever the module's.
    let wanted = format!("{name}.ko");
    let path = find(parts, &|file| file.replace('-', "_") == wanted)?;
    let bytes = std::fs::read(&path)?;
    let depends = bytes.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let depends =
        String::from_utf8_lossy(depends.with_context(|| format!("{wanted} has no .modinfo"))?).into_owned();
    for other in depends.split(',').filter(|other| !other.is_empty()) {
        load(parts, &other.replace('-', "_"), loaded, archive)?;
    }
    archive.file(&format!("modules/{wanted}"), &bytes);
    loaded.push(name.to_owned());
    Ok(())
}

/// The shared libraries of a program, as ldd(1) finds them.
fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    let said = Command::new("ldd").arg(program).output().context("ldd (package libc-bin)")?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn lines_of_a_table() {
        assert_eq!(
            verdict("  ✔   they share localhost                2.4 ms"),
            Some((true, "  they share localhost".into()))
        );
        assert_eq!(verdict("  ✘ 2 pods   10.0 ms"), Some((false, "2 pods".into())));
        assert_eq!(verdict("demo: 18 passed, 0 failed"), None);
    }
}
