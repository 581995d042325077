//! Work in another network namespace, on a thread that ends with it: a pooled thread never changes its namespace.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::process;

/// Runs `work` in the network namespace `netns` (setns(2)).
pub fn run_in<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let inside = || {
        process::enter(netns, libc::CLONE_NEWNET)?;
        work()
    };
    joined(std::thread::scope(|scope| scope.spawn(inside).join()))
}

/// A new network namespace with nobody in it; gone with its last descriptor.
pub fn new_netns() -> io::Result<OwnedFd> {
    joined(
        std::thread::spawn(|| {
            process::unshare(libc::CLONE_NEWNET)?;
            std::fs::File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
        })
        .join(),
    )
}

fn joined<T>(ended: std::thread::Result<io::Result<T>>) -> io::Result<T> {
    ended.unwrap_or_else(|_| Err(io::Error::other("the thread in the other namespace panicked")))
}
