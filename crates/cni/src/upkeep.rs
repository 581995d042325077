//! What goes on beside the pods: directories are watched, plugins asked, debts paid. One thread each, so that a plugin that
//! hangs keeps nobody else waiting.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::Cni;

/// Directories are looked at this often also when nothing is told: there may be no inotify, or no directory yet.
const LOOK: Duration = Duration::from_secs(5);
/// Plugins are asked this often.
const ASK: Duration = Duration::from_secs(10);

impl Cni {
    /// Starts the upkeep; it ends with the last reference.
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        let spawn = |name: &str, work: fn(&Weak<Self>)| {
            let weak = Arc::downgrade(self);
            std::thread::Builder::new().name(name.into()).spawn(move || work(&weak)).map(drop)
        };
        // Before the first request: a configuration that says nothing of itself is ready at once.
        if !self.is_configured("") {
            self.ask();
        }
        spawn("cni-watch", watch)?;
        spawn("cni-ask", ask)?;
        spawn("cni-end", pay)
    }
}

fn watch(weak: &Weak<Cni>) {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
    if let Err(error) = &inotify {
        tracing::warn!(%error, every = ?LOOK, "directories of CNI configurations are polled");
    }
    loop {
        if let Ok(inotify) = &inotify {
            let Some(cni) = weak.upgrade() else { return };
            // A watch that is there already stays as it is; a directory made anew needs a new one.
            let settings = &cni.settings;
            let confs = settings.conf_dir.iter().chain(settings.handler_dirs.values());
            for directory in confs.chain(&settings.bin_dirs) {
                let what = AddWatchFlags::IN_CLOSE_WRITE
                    | AddWatchFlags::IN_CREATE
                    | AddWatchFlags::IN_MOVE
                    | AddWatchFlags::IN_DELETE
                    | AddWatchFlags::IN_ATTRIB
                    | AddWatchFlags::IN_ONLYDIR;
                let _ = inotify.add_watch(directory, what);
            }
            drop(cni);
            let mut polled = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut polled, u16::try_from(LOOK.as_millis()).unwrap_or(u16::MAX));
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        } else {
            std::thread::sleep(LOOK);
        }
        let Some(cni) = weak.upgrade() else { return };
        cni.refresh();
    }
}

fn ask(weak: &Weak<Cni>) {
    while let Some(cni) = weak.upgrade() {
        cni.ask();
        let mut soon = cni.asking.0.lock();
        if !*soon {
            cni.asking.1.wait_for(&mut soon, ASK);
        }
        *soon = false;
    }
}

fn pay(weak: &Weak<Cni>) {
    while let Some(cni) = weak.upgrade() {
        let next = cni.pay().unwrap_or_else(|| Instant::now() + ASK).min(Instant::now() + ASK);
        let mut debts = cni.debts.lock();
        if debts.owed.values().all(|owed| owed.due > Instant::now()) {
            cni.debts_changed.wait_until(&mut debts, next);
        }
    }
}
