//! The host, as far as it does not change from pod to pod.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use berth_netlink::Routes;
use berth_sys::netns;
use parking_lot::Mutex;

/// Of the thread that opened it; all who use it are there.
#[derive(Debug)]
pub(crate) struct Here {
    netns: OwnedFd,
    /// Not opened and closed for each pod.
    spare: Mutex<Option<Routes>>,
}

impl Here {
    /// With the socket, so that what a daemon holds open is the same with pods and without.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { netns: netns::here()?, spare: Mutex::new(Some(Routes::open()?)) })
    }

    /// See [`netns::visit`].
    pub(crate) fn visit<T>(
        &self,
        netns: BorrowedFd<'_>,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        netns::visit(self.netns.as_fd(), netns, work)
    }

    /// Of the caller alone.
    pub(crate) fn routes(&self) -> io::Result<Routes> {
        let spare = self.spare.lock().take();
        spare.map_or_else(Routes::open, Ok)
    }

    /// For whoever comes next.
    pub(crate) fn give_back(&self, routes: Routes) {
        *self.spare.lock() = Some(routes);
    }
}
