//! One daemon per state directory, per data directory and per name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::DaemonError;

/// How long a holder that is already dying (kill -9 returns before the process is gone) is waited for.
const DYING_WAIT: Duration = Duration::from_secs(5);

/// Held for as long as it lives; the kernel lets go of it with the process, however that ends.
#[derive(Debug)]
pub(super) struct Locks {
    _files: Vec<File>,
    _name: UnixListener,
}

/// Takes all three. `name` is held as an abstract socket, which is seen in exactly the network namespace in which
/// the bridge and the packet filter table of that name would meet.
pub(super) fn take(name: &str, directories: &[&Path]) -> Result<Locks, DaemonError> {
    let files = directories.iter().map(|directory| lock_directory(directory)).collect::<Result<_, _>>()?;
    Ok(Locks { _files: files, _name: hold_name(name)? })
}

/// flock(2) on `<directory>/lock`, which holds the pid.
fn lock_directory(directory: &Path) -> Result<File, DaemonError> {
    let path = directory.join("lock");
    let fail = |source| DaemonError::Lock { path: path.clone(), source };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = file.map_err(fail)?;
    let give_up = Instant::now() + DYING_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) => return Err(fail(source)),
            Err(TryLockError::WouldBlock) => {
                let pid = holder(&mut file);
                if pid.is_none_or(|pid| !is_dying(pid)) || Instant::now() > give_up {
                    return Err(DaemonError::Taken { held: directory.display().to_string(), pid });
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    // Only the pid: whoever is refused reads it.
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(std::process::id().to_string().as_bytes())
    };
    write(&mut file).map_err(fail)?;
    Ok(file)
}

fn holder(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Killed, but not gone yet: a zombie or dead by its state in proc_pid_stat(5), or with SIGKILL pending.
fn is_dying(pid: i32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let ended = field("State:").is_some_and(|state| state.starts_with(['Z', 'X']));
    let killed = ["SigPnd:", "ShdPnd:"].iter().filter_map(|name| u64::from_str_radix(field(name)?, 16).ok());
    ended || killed.fold(0, |all, pending| all | pending) & (1 << 8) != 0
}

fn hold_name(name: &str) -> Result<UnixListener, DaemonError> {
    let fail = |source| DaemonError::Lock { path: format!("@berth/{name}").into(), source };
    let address = SocketAddr::from_abstract_name(format!("berth/{name}")).map_err(fail)?;
    let give_up = Instant::now() + DYING_WAIT;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => return Ok(listener),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                let pid = listener_of(&address);
                if pid.is_some_and(|pid| !is_dying(pid)) || Instant::now() > give_up {
                    return Err(DaemonError::Taken { held: format!("the name {name:?}"), pid });
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(source) => return Err(fail(source)),
        }
    }
}

fn listener_of(address: &SocketAddr) -> Option<i32> {
    use std::os::fd::AsFd as _;
    let socket = UnixStream::connect_addr(address).ok()?;
    berth_sys::fd::peer_credentials(socket.as_fd()).ok().map(|peer| peer.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique(what: &str) -> String {
        format!("{what}-{}", std::process::id())
    }

    #[test]
    fn the_second_is_refused_with_the_pid_of_the_first() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = take(&unique("one"), &[one.path()]).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        for (name, directory) in [(unique("two"), one.path()), (unique("one"), other.path())] {
            match take(&name, &[directory]) {
                Err(DaemonError::Taken { pid: Some(pid), .. }) => assert_eq!(pid, me),
                taken => panic!("{name}: {taken:?}"),
            }
        }
        assert!(take(&unique("two"), &[other.path()]).is_ok(), "another name and directory");
        drop(first);
        assert!(take(&unique("one"), &[one.path()]).is_ok(), "free again");
    }

    #[test]
    fn this_process_is_not_dying_and_none_is_gone() {
        assert!(!is_dying(i32::try_from(std::process::id()).unwrap()));
        assert!(is_dying(i32::MAX));
    }
}
