//! Sockets, made where the caller is: a socket stays in the network namespace it was made in, whoever gets it.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Dumps over this netlink socket are of what was asked for alone: without it the kernel takes no notice of, say, an
/// interface's number, and tells of all there are (netlink(7), NETLINK_GET_STRICT_CHK).
pub fn strict_dumps(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the size are those of a local integer, and the kernel only reads it.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_GET_STRICT_CHK,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(done).map(drop).map_err(Into::into)
}

/// A TCP socket, not connected. Close-on-exec, non-blocking.
pub fn tcp_socket(ipv6: bool) -> io::Result<OwnedFd> {
    let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?)
}
