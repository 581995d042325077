//! Files that are whole or not there.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// As much as one write(2) writes or does not write, whoever is killed in it: a page (Linux: generic_perform_write).
const AT_ONCE: usize = 4096;

fn made(path: &Path, how: impl Fn(&Path) -> io::Result<File>) -> io::Result<File> {
    match (how(path), path.parent()) {
        (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(directory)?;
            how(path)
        }
        (made, _) => made,
    }
}

fn filled(mut file: File, bytes: &[u8], path: &Path) -> io::Result<()> {
    file.write_all(bytes).inspect_err(|_| drop(std::fs::remove_file(path)))
}

/// Writes a file whole or not at all, also where the process is killed in the middle, and makes its directory where there is
/// none; not so that it outlives a power cut. What such an end may leave is an empty file, which is as good as none, or one of
/// this name and `.new`. Two threads do not write the same file at once.
pub fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() <= AT_ONCE {
        match made(path, |path| File::create_new(path)) {
            // Without another name first: half the time.
            Ok(file) => return filled(file, bytes, path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let beside = beside(path);
    filled(made(&beside, |path| File::create(path))?, bytes, &beside)?;
    std::fs::rename(&beside, path).inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

/// Removes what [`put`] may have left of a directory's files when the process was killed. Nobody writes there meanwhile.
pub fn settle(directory: &Path) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    for entry in entries {
        let is_left = || {
            let found = entry.metadata().ok()?;
            let cut = found.len() == 0 || entry.path().extension().is_some_and(|e| e == "new");
            Some(found.is_file() && cut)
        };
        if is_left().unwrap_or(false) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ones_and_those_that_were_there() {
        let home = std::env::temp_dir().join(format!("berth-file-{}", std::process::id()));
        let path = home.join("one/a.json");
        let long = vec![b'x'; AT_ONCE + 1];
        for bytes in [&b"first"[..], b"second", b"", &long, b"last"] {
            put(&path, bytes).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        put(&home.join("two/b.json"), &long).unwrap();
        for left in ["a.json.new", "c.json"] {
            std::fs::write(home.join("one").join(left), "").unwrap();
        }
        settle(&home.join("one"));
        settle(&home.join("nobody"));
        let names = std::fs::read_dir(home.join("one")).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["a.json"]);
        assert!(put(&home.join("one/a.json/b"), b"").is_err());
        std::fs::remove_dir_all(home).unwrap();
    }
}
