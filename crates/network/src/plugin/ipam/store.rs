//! host-local's directory of one network, in the program's own format: a file for each address with the container's id and the
//! interface's name, the last address of each set of ranges, and a file to lock.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Between the two lines of a file.
const BETWEEN: &str = "\r\n";
const LAST: &str = "last_reserved_ip.";
/// No such file is longer; a container's id has 64 bytes, an interface's name 15.
const MOST: u64 = 4096;
/// Between two tries to lock; calls of our own are done within the first.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// Locked as long as it is there: against other calls, and against the program.
pub(super) struct Store {
    directory: PathBuf,
    _lock: Flock<File>,
}

/// Whose an address is. The oldest programs wrote no interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) container: String,
    pub(super) interface: Option<String>,
}

impl Owner {
    fn read(text: &str) -> Self {
        let text = text.trim();
        match text.split_once(BETWEEN).or_else(|| text.split_once('\n')) {
            Some((id, name)) => {
                Self { container: id.trim().to_owned(), interface: Some(name.trim().to_owned()) }
            }
            None => Self { container: text.to_owned(), interface: None },
        }
    }

    pub(super) fn is(&self, container: &str, interface: &str) -> bool {
        self.container == container && self.interface.as_deref().is_none_or(|name| name == interface)
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

/// The file in a directory.
pub(super) fn lock_file(directory: &Path) -> PathBuf {
    directory.join("lock")
}

/// Waits for a lock by trying: of one that somebody holds for ever the kernel never gives up to wait.
fn lock(mut file: File, patience: Duration) -> io::Result<Flock<File>> {
    let (end, mut pause) = (Instant::now() + patience, FIRST_PAUSE);
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < end => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl Store {
    /// Made where it is not. `WouldBlock`: the lock was somebody else's all the time.
    pub(super) fn open(directory: PathBuf, patience: Duration) -> io::Result<Self> {
        let open = || {
            let mut options = OpenOptions::new();
            options
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .mode(0o600)
                .open(lock_file(&directory))
        };
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&directory)?;
                open()
            }
            done => done,
        }?;
        Ok(Self { directory, _lock: lock(file, patience)? })
    }

    fn path(&self, ip: IpAddr) -> PathBuf {
        self.directory.join(ip.to_string())
    }

    pub(super) fn owner(&self, ip: IpAddr) -> io::Result<Option<Owner>> {
        match read(&self.path(ip)) {
            Ok(text) => Ok(Some(Owner::read(&text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// False: it is another's.
    pub(super) fn take(&self, ip: IpAddr, container: &str, interface: &str) -> io::Result<bool> {
        let path = self.path(ip);
        match OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path) {
            Ok(mut file) => {
                let written = file.write_all(format!("{container}{BETWEEN}{interface}").as_bytes());
                // A half-written file would be nobody's for ever.
                written.inspect_err(|_| drop(std::fs::remove_file(&path)))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn give_back(&self, ip: IpAddr) -> io::Result<()> {
        match std::fs::remove_file(self.path(ip)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Where the search of the set of ranges goes on.
    pub(super) fn last(&self, set: usize) -> Option<IpAddr> {
        read(&self.directory.join(format!("{LAST}{set}"))).ok()?.trim().parse().ok()
    }

    pub(super) fn set_last(&self, set: usize, ip: IpAddr) -> io::Result<()> {
        let path = self.directory.join(format!("{LAST}{set}"));
        // Written over, not made empty first: ext4 then has it on disk before it is closed (ext4(5), auto_da_alloc).
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let text = ip.to_string();
        file.write_all(text.as_bytes())?;
        match file.metadata()?.len() > text.len() as u64 {
            true => file.set_len(text.len() as u64),
            false => Ok(()),
        }
    }

    /// Every address that is taken.
    pub(super) fn taken(&self) -> io::Result<HashSet<IpAddr>> {
        let mut found = HashSet::new();
        for entry in std::fs::read_dir(&self.directory)? {
            // The other files have no addresses for names.
            found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<IpAddr>().ok()));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        let owner = |container: &str, interface: Option<&str>| Owner {
            container: container.into(),
            interface: interface.map(str::to_owned),
        };
        for (text, expected) in [
            ("abc\r\neth0", owner("abc", Some("eth0"))),
            ("abc\neth0\n", owner("abc", Some("eth0"))),
            ("abc", owner("abc", None)),
            ("", owner("", None)),
        ] {
            assert_eq!(Owner::read(text), expected, "{text:?}");
        }
        assert!(owner("abc", None).is("abc", "eth0") && !owner("abc", Some("eth0")).is("abc", "eth1"));
    }

    #[test]
    fn a_lock_that_is_not_given_back_is_not_waited_for_for_ever() {
        let home = tempfile::tempdir().unwrap();
        let open = |patience| Store::open(home.path().to_owned(), patience);
        let held = open(Duration::ZERO).unwrap();
        let since = Instant::now();
        let refused = open(Duration::from_millis(100)).err().map(|error| error.kind());
        assert_eq!(refused, Some(io::ErrorKind::WouldBlock));
        assert!((100..5000).contains(&since.elapsed().as_millis()), "{:?}", since.elapsed());
        // One that is given back in time is waited for.
        let waits = std::thread::scope(|scope| {
            let waits = scope.spawn(|| open(Duration::from_secs(60)).is_ok());
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waits.is_finished());
            drop(held);
            waits.join().unwrap()
        });
        assert!(waits);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_somebodys(text: String) {
            let owner = Owner::read(&text);
            proptest::prop_assert!(owner.container.len() <= text.len());
        }
    }
}
