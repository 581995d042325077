//! The directory that node administrators and network add-ons put configurations into.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::{ConfError, NetworkConf};

/// Bytes of one file.
const FILE_MAX: u64 = 1 << 20;
/// Entries of a directory that are looked at.
const ENTRIES_MAX: usize = 4096;

/// The first configuration of a directory by name, with the file it is from; `None` when there is none at all.
pub fn load(directory: &Path) -> Result<Option<(PathBuf, NetworkConf)>, ConfError> {
    let Some(path) = files(directory, &["conf", "conflist", "json"])?.into_iter().next() else {
        return Ok(None);
    };
    let mut conf = NetworkConf::read(&path, &read(&path)?)?;
    if conf.load_from_directory {
        for path in files(&directory.join(&conf.name), &["conf"])? {
            conf.plugins.push(NetworkConf::read_plugin(&path, &read(&path)?)?);
        }
    }
    conf.check(&path)?;
    Ok(Some((path, conf)))
}

/// Those with one of the endings, by name. Hidden ones are editors' and installers' half-written files.
fn files(directory: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, ConfError> {
    let fail = |error: io::Error| ConfError::new(directory, format!("cannot be read: {error}"));
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut found = Vec::new();
    for entry in entries.take(ENTRIES_MAX) {
        let path = entry.map_err(fail)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let ending = path.extension().and_then(|ending| ending.to_str());
        if !hidden && ending.is_some_and(|ending| endings.contains(&ending)) && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, ConfError> {
    let fail = |error: io::Error| ConfError::new(path, format!("cannot be read: {error}"));
    // Not to wait for a writer, should it be a pipe.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(ConfError::new(path, "is no regular file"));
    }
    let mut text = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut text).map_err(fail)?;
    match text.len() as u64 > FILE_MAX {
        true => Err(ConfError::new(path, format!("is longer than {FILE_MAX} bytes"))),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_by_name_counts_and_plugins_may_be_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        assert_eq!(load(&at("nowhere")), Ok(None));
        std::fs::write(at(".10-hidden.conf"), "{").unwrap();
        std::fs::write(at("00-README.txt"), "no configuration").unwrap();
        assert_eq!(load(home.path()), Ok(None));
        std::fs::write(at("20-b.conflist"), r#"{"name":"b","cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#)
            .unwrap();
        std::fs::create_dir(at("b")).unwrap();
        std::fs::write(at("b/2.conf"), r#"{"type":"z"}"#).unwrap();
        std::fs::write(at("b/1.conf"), r#"{"type":"y"}"#).unwrap();
        let kinds = |conf: &NetworkConf| conf.plugins.iter().map(|p| p.kind.clone()).collect::<String>();
        let (path, conf) = load(home.path()).unwrap().unwrap();
        assert_eq!((path, kinds(&conf).as_str()), (at("20-b.conflist"), "xyz"));
        std::fs::write(
            at("10-a.conflist"),
            r#"{"name":"b","cniVersion":"1.0.0","loadOnlyInlinedPlugins":true,"plugins":[{"type":"x"}]}"#,
        )
        .unwrap();
        assert_eq!(kinds(&load(home.path()).unwrap().unwrap().1), "x");
        std::fs::write(at("05-broken.conf"), "{\n\n").unwrap();
        let said = load(home.path()).unwrap_err().to_string();
        assert!(said.contains("05-broken.conf:3: EOF"), "{said}");
        nix::unistd::mkfifo(&at("04-pipe.conf"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(load(home.path()).unwrap_err().to_string().contains("no regular file"));
        std::fs::write(at("03-long.conf"), vec![b' '; 1 << 21]).unwrap();
        assert!(load(home.path()).unwrap_err().to_string().contains("longer than"));
    }
}
