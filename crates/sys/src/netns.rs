//! Work in another network namespace: on a thread that ends with it, or, where microseconds count, on the calling one, which
//! comes back or takes the process along.

use std::io::{self, Write as _};
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

/// The network namespace of the calling thread.
pub fn here() -> io::Result<OwnedFd> {
    std::fs::File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
}

/// As [`run_in`], without the fifth of a millisecond that a thread takes to come and go: the calling thread goes there and
/// back to `home`, where it is ([`here`]), also when `work` panics. The process is aborted where the kernel does not let it
/// back: whatever the thread did next would be done in a pod.
pub fn visit<T>(
    home: BorrowedFd<'_>,
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    struct Back<'a>(BorrowedFd<'a>);
    impl Drop for Back<'_> {
        fn drop(&mut self) {
            if let Err(error) = process::enter(self.0, libc::CLONE_NEWNET) {
                let _ = writeln!(io::stderr(), "no way back from a pod's network namespace: {error}");
                std::process::abort();
            }
        }
    }
    let back = Back(home);
    process::enter(netns, libc::CLONE_NEWNET)?;
    let done = work();
    drop(back);
    done
}

/// A new network namespace with nobody in it; gone with its last descriptor.
pub fn new_netns() -> io::Result<OwnedFd> {
    joined(
        std::thread::spawn(|| {
            process::unshare(libc::CLONE_NEWNET)?;
            here()
        })
        .join(),
    )
}

fn joined<T>(ended: std::thread::Result<io::Result<T>>) -> io::Result<T> {
    ended.unwrap_or_else(|_| Err(io::Error::other("the thread in the other namespace panicked")))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_visitor_comes_back() {
        let place = || std::fs::metadata("/proc/thread-self/ns/net").map(|found| found.ino());
        let (own, home, other) = (here().unwrap(), place().unwrap(), new_netns().unwrap());
        let there = std::fs::File::from(other.try_clone().unwrap()).metadata().unwrap().ino();
        assert_ne!(home, there);
        assert_eq!(run_in(other.as_fd(), place).unwrap(), there);
        assert_eq!(visit(own.as_fd(), other.as_fd(), place).unwrap(), there);
        assert_eq!(place().unwrap(), home);
        visit(own.as_fd(), other.as_fd(), || io::Result::<()>::Err(io::ErrorKind::Other.into())).unwrap_err();
        assert_eq!(place().unwrap(), home);
        let panics = || visit(own.as_fd(), other.as_fd(), || -> io::Result<()> { panic!("in between") });
        catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
        assert_eq!(place().unwrap(), home);
    }
}
