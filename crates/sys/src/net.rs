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

/// What an interface is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    pub index: u32,
    /// IFF_UP and others (netdevice(7)).
    pub flags: u32,
    /// Its hardware address, of interfaces that have one as Ethernet does.
    pub mac: [u8; 6],
}

impl Glance {
    /// Whether it has this flag.
    pub fn is(&self, flag: libc::c_int) -> bool {
        self.flags & flag.cast_unsigned() != 0
    }
}

/// A request that names an interface; `None`: none can have this name.
fn request_of(name: &str) -> Option<libc::ifreq> {
    // SAFETY: of integers, arrays of them and a pointer that may be null, for which zeros are good.
    let mut asked: libc::ifreq = unsafe { std::mem::zeroed() };
    // With its NUL.
    if name.is_empty() || name.len() >= asked.ifr_name.len() || name.contains('\0') {
        return None;
    }
    for (to, from) in asked.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Some(asked)
}

/// Whether an interface has a carrier, in the network namespace of the socket. The kernel first does what is still to be done
/// because it got or lost it (ethtool(8), link detected; since Linux 6.8 with "linkwatch_sync_dev").
pub fn has_carrier(socket: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    /// `ethtool_value` of linux/ethtool.h.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const ETHTOOL_GLINK: u32 = 0xa;
    let mut asked = request_of(name).ok_or(io::ErrorKind::NotFound)?;
    let mut value = Value { command: ETHTOOL_GLINK, data: 0 };
    asked.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the kernel reads the name and the pointer, and through it reads and writes the local value, which outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut asked) };
    nix::errno::Errno::result(done)?;
    Ok(value.data != 0)
}

/// The interface of this name in the network namespace of the socket; `None`: there is none.
///
/// The kernel answers without the lock that every change of an interface holds, and netlink's questions too: who has just
/// set one up would wait for all that follows of it. For one that is not there it looks for a module of that name first, so
/// this is to be asked of interfaces that should be there (Linux: dev_ioctl).
pub fn glance(socket: BorrowedFd<'_>, name: &str) -> io::Result<Option<Glance>> {
    let Some(mut asked) = request_of(name) else { return Ok(None) };
    let mut ask = |request: libc::c_ulong| {
        // SAFETY: the kernel reads the name and writes an answer that fits into the same local structure.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut asked) };
        nix::errno::Errno::result(done).map(|_| asked.ifr_ifru)
    };
    let mut all = || {
        // SAFETY: each request fills the field that is read of it.
        let index = unsafe { ask(libc::SIOCGIFINDEX)?.ifru_ifindex };
        // SAFETY: as above.
        let flags = unsafe { ask(libc::SIOCGIFFLAGS)?.ifru_flags };
        // SAFETY: as above.
        let address = unsafe { ask(libc::SIOCGIFHWADDR)?.ifru_hwaddr.sa_data };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address) {
            *to = from.cast_unsigned();
        }
        Ok(Glance { index: index.cast_unsigned(), flags: u32::from(flags.cast_unsigned()), mac })
    };
    match all() {
        Err(nix::errno::Errno::ENODEV) => Ok(None),
        done => Ok(Some(done?)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use nix::sys::socket::SockProtocol;

    use super::*;

    #[test]
    fn a_glance_is_of_the_socket_s_namespace() {
        let netlink = || {
            let protocol = SockProtocol::NetlinkRoute;
            Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?)
        };
        let netns = crate::netns::new_netns().unwrap();
        let there = crate::netns::run_in(netns.as_fd(), netlink).unwrap();
        let here = netlink().unwrap();
        let lo = |socket: &OwnedFd| glance(socket.as_fd(), "lo").unwrap().unwrap();
        assert_eq!((lo(&there).index, lo(&there).mac), (1, [0; 6]));
        assert_eq!((lo(&there).is(libc::IFF_UP), lo(&here).is(libc::IFF_UP)), (false, true));
        assert!(has_carrier(here.as_fd(), "lo").unwrap());
        for nobody in ["", "nobody", "a name that is too long", "lo\0"] {
            assert_eq!(glance(here.as_fd(), nobody).unwrap(), None, "{nobody}");
            has_carrier(here.as_fd(), nobody).unwrap_err();
        }
    }
}
