//! Settings of interfaces below `/proc/sys/net`.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use berth_sys::mount::{Attributes, Context};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use parking_lot::Mutex;

/// Writes before the filesystem is mounted anew.
const TIMES: usize = 128;

/// Writes settings in the network namespace of the calling thread.
///
/// The kernel keeps what it found on the way there for each namespace, all by the same name (`conf`), and looks through those
/// of all namespaces that went this way: half a millisecond with a thousand pods. A mount of our own, that nobody else goes
/// through and that is now and then a new one, has a few; it costs 60 µs to make and to drop.
#[derive(Debug)]
pub(crate) struct Settings {
    mounted: Mutex<Mounted>,
}

#[derive(Debug)]
struct Mounted {
    /// Detached, so that it goes with the daemon. `None`: refused.
    proc: Option<Arc<OwnedFd>>,
    times: usize,
}

impl Mounted {
    fn new() -> Self {
        let new = Context::open(c"proc").and_then(|context| context.mount(Attributes::KERNEL));
        let new = new.inspect_err(|error| tracing::debug!(%error, "no procfs of our own: /proc it is"));
        Self { proc: new.ok().map(Arc::new), times: 0 }
    }
}

impl Settings {
    /// Mounted from the beginning: what a daemon holds open is the same with pods and without.
    pub(crate) fn open() -> Self {
        Self { mounted: Mutex::new(Mounted::new()) }
    }

    /// `version`: `ipv4` or `ipv6`.
    pub(crate) fn write(&self, version: &str, interface: &str, key: &str, value: &str) -> io::Result<()> {
        let path = format!("sys/net/{version}/conf/{interface}/{key}");
        let mut file = match self.proc() {
            Some(proc) => {
                let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                File::from(openat(proc.as_fd(), path.as_str(), flags, Mode::empty())?)
            }
            None => File::options().write(true).open(format!("/proc/{path}"))?,
        };
        file.write_all(value.as_bytes())
    }

    fn proc(&self) -> Option<Arc<OwnedFd>> {
        let mut mounted = self.mounted.lock();
        if mounted.times >= TIMES {
            *mounted = Mounted::new();
        }
        mounted.times += 1;
        mounted.proc.clone()
    }
}

#[cfg(test)]
mod tests {
    use berth_netlink::Routes;
    use berth_sys::netns::{new_netns, run_in};

    use super::*;

    #[test]
    fn each_namespace_has_its_own_also_after_many() {
        let settings = Settings::open();
        let read = || std::fs::read_to_string("/proc/sys/net/ipv4/conf/lo/arp_notify");
        let before = read().unwrap();
        let [one, other] = [(); 2].map(|()| new_netns().unwrap());
        for time in 0..2 * TIMES + 2 {
            let (netns, value) = if time % 2 == 0 { (&one, "1") } else { (&other, "0") };
            run_in(netns.as_fd(), || {
                Routes::open()?.set_up(1)?;
                settings.write("ipv4", "lo", "arp_notify", value)
            })
            .unwrap();
            assert_eq!(run_in(one.as_fd(), read).unwrap(), "1\n");
        }
        assert_eq!((run_in(other.as_fd(), read).unwrap(), read().unwrap()), ("0\n".into(), before));
        let none = run_in(one.as_fd(), || settings.write("ipv4", "eth7", "arp_notify", "1")).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
