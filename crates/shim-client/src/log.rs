//! A container's log file, where the kubelet looks for it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Component;

use berth_plan::LogFile;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use crate::ShimError;
use crate::sources::make_directory;

/// Opened for appending; made with its directories where missing, mode 0640. Whoever can write to the pod's log directory
/// could point a name in it anywhere: below it no link is followed (CVE-2025-0750), and what is no file is refused.
pub(crate) fn open(log: &LogFile) -> Result<OwnedFd, ShimError> {
    let path = log.directory.join(&log.name);
    let fail = || ShimError::file("open the log", &path);
    make_directory(&log.directory).map_err(fail())?;
    let mut parts = Vec::new();
    for part in log.name.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::CurDir => {}
            _ => return Err(fail()(io::ErrorKind::InvalidInput.into())),
        }
    }
    let name = parts.pop().ok_or_else(|| fail()(io::ErrorKind::InvalidInput.into()))?;
    let mut directory: OwnedFd = File::open(&log.directory).map_err(fail())?.into();
    let plain = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    for part in parts {
        let enter = || openat(&directory, part, plain | OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty());
        let entered = match enter() {
            Err(nix::Error::ENOENT) => {
                make(&directory, part).map_err(fail())?;
                enter()
            }
            entered => entered,
        };
        directory = entered.map_err(io::Error::from).map_err(fail())?;
    }
    // Without waiting, should it be a fifo that nobody reads.
    let flags = plain | OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK;
    let made =
        openat(&directory, name, flags | OFlag::O_CREAT | OFlag::O_EXCL, Mode::from_bits_truncate(0o640));
    let file = match made {
        Ok(made) => {
            let made = File::from(made);
            // The daemon's umask is for its own files.
            made.set_permissions(std::fs::Permissions::from_mode(0o640)).map_err(fail())?;
            made
        }
        Err(nix::Error::EEXIST) => {
            let opened = openat(&directory, name, flags, Mode::empty());
            File::from(opened.map_err(io::Error::from).map_err(fail())?)
        }
        Err(error) => return Err(fail()(error.into())),
    };
    match file.metadata().map_err(fail())?.is_file() {
        true => Ok(file.into()),
        false => {
            let (field, problem) = ("config.log_path", "is no regular file");
            Err(ShimError::Source { field, path, problem })
        }
    }
}

fn make(parent: &OwnedFd, name: &std::ffi::OsStr) -> io::Result<()> {
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        // The daemon's umask is for its own files. A link put in its place meanwhile is not followed.
        Ok(()) => {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let made = File::from(openat(parent, name, flags, Mode::empty())?);
            made.set_permissions(std::fs::Permissions::from_mode(0o755))
        }
        // Somebody else was faster.
        Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn of(directory: &Path, name: &str) -> LogFile {
        LogFile { directory: directory.to_owned(), name: name.into() }
    }

    #[test]
    fn made_and_appended_to() {
        let home = tempfile::tempdir().unwrap();
        let log = of(&home.path().join("pod/logs"), "app/./0.log");
        for text in ["one ", "two"] {
            File::from(open(&log).unwrap()).write_all(text.as_bytes()).unwrap();
        }
        let path = log.directory.join("app/0.log");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one two");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&log.directory.join("app"))), (0o640, 0o755));
    }

    #[test]
    fn no_link_is_followed_below_the_directory() {
        let home = tempfile::tempdir().unwrap();
        let (outside, logs) = (home.path().join("outside"), home.path().join("logs"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(&logs).unwrap();
        symlink(&outside, logs.join("app")).unwrap();
        symlink(outside.join("file"), logs.join("0.log")).unwrap();
        nix::unistd::mkfifo(&logs.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        std::fs::create_dir(logs.join("directory")).unwrap();
        for name in ["app/0.log", "app/new/0.log", "0.log", "fifo", "directory", "../x", "/x", ".", ""] {
            open(&of(&logs, name)).expect_err(name);
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        // The way to the directory is the kubelet's.
        let linked = home.path().join("linked");
        symlink(&logs, &linked).unwrap();
        open(&of(&linked, "1.log")).unwrap();
        assert!(logs.join("1.log").is_file());
    }

    #[test]
    fn a_fifo_that_is_read_is_no_log_either() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let _reader = nix::fcntl::open(&path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).unwrap();
        let error = open(&of(home.path(), "fifo")).unwrap_err().to_string();
        assert!(error.starts_with("config.log_path"), "{error}");
    }
}
